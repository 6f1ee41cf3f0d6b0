"""omnistorage: layered streaming I/O. Backends, compression and record formats compose; see ``docs/design.md``.

Public names are listed in ``_NAMES`` with the module they live in, and load when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "core": (
        "Append", "Backend", "BulkDelete", "CopyOptions", "ExtendedBackend", "Features", "FileInfo",
        "FolderTimes", "Glob", "HealthCheck", "Links", "ListOptions", "ObjectInfo", "Presign", "Purge", "ReadOptions",
        "ReadRanges", "Reader",
        "ResolutionPlan", "Resolve", "ResumableWrite", "SetMetadata", "Settle", "StaleUploads", "Versions",
        "WriteOptions", "Writer", "as_extended", "features_of", "power", "unwrap",
    ),
    "errors": (
        "AlreadyExists", "BackendClosed", "BackendUnavailable", "BucketNotFound", "Cancelled",
        "CapabilityNotSupported", "ConfigError", "CorruptData", "DeadlineExceeded", "DirectoryNotEmpty",
        "InvalidPath", "ListingDisorder", "MissingExtra",
        "MultiError", "NotFound", "OutcomeUnknown", "PermissionDenied", "PreconditionFailed", "ReaderClosed",
        "RecordError", "StorageError", "SyncError", "WriterClosed",
    ),
    "aio": ("AsyncRollingRecordWriter",),
    "concurrency.cancellation": ("CancelScope", "deadline"),
    "backends.azure": ("AzureBackend",),
    "backends.channel": ("ChannelBackend",),
    "backends.computed": ("ComputeBackend",),
    "backends.gcs": ("GCSBackend",),
    "backends.http": ("HTTPBackend",),
    "backends.local": ("LocalBackend",),
    "backends.memory": ("MemoryBackend",),
    "backends.s3": ("S3Backend",),
    "backends.sftp": ("SFTPBackend",),
    "backends.sql_blob": ("SQLBlobBackend",),
    "backends.sql_query": ("SQLQueryBackend",),
    "compression.bz2": ("Bz2",),
    "compression.gzip": ("Gzip",),
    "compression.lz4": ("Lz4",),
    "compression.snappy": ("Snappy",),
    "compression.xz": ("Xz",),
    "compression.zstd": ("Zstd",),
    "formats.csv": ("Csv",),
    "formats.length_prefixed": ("LengthPrefixed",),
    "formats.lines": ("Lines",),
    "formats.ndjson": ("Ndjson",),
    "wrappers": ("Cache", "Encrypt", "Observe", "Prefix", "ReadOnly", "Retry"),
    "config": ("BackendConfig", "RegistryConfig", "StoreProfile", "open_backend", "register_backend"),
    "delivery": ("DatasetReader", "DatasetWriter", "OmniHandler", "ResumableWriter", "RollingRecordWriter", "Spool"),
    "ops.probing": ("probe",),
    "records": ("BadRecords", "RecordReader", "RecordWriter", "as_file", "open_records"),
    "core.secret": ("Secret",),
    "multi": ("MultiBackend", "MultiWriter", "Target", "Tier", "TieredBackend"),
    "store": ("Capability", "CompositeStore", "ProxyStore", "Registry", "RemotePath", "Store", "open", "open_store"),
}  # fmt: skip
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted([*_WHERE, "__version__"])

if TYPE_CHECKING:
    from .aio import AsyncRollingRecordWriter as AsyncRollingRecordWriter
    from .backends.azure import AzureBackend as AzureBackend
    from .backends.channel import ChannelBackend as ChannelBackend
    from .backends.computed import ComputeBackend as ComputeBackend
    from .backends.gcs import GCSBackend as GCSBackend
    from .backends.http import HTTPBackend as HTTPBackend
    from .backends.local import LocalBackend as LocalBackend
    from .backends.memory import MemoryBackend as MemoryBackend
    from .backends.s3 import S3Backend as S3Backend
    from .backends.sftp import SFTPBackend as SFTPBackend
    from .backends.sql_blob import SQLBlobBackend as SQLBlobBackend
    from .backends.sql_query import SQLQueryBackend as SQLQueryBackend
    from .compression.bz2 import Bz2 as Bz2
    from .compression.gzip import Gzip as Gzip
    from .compression.lz4 import Lz4 as Lz4
    from .compression.snappy import Snappy as Snappy
    from .compression.xz import Xz as Xz
    from .compression.zstd import Zstd as Zstd
    from .concurrency.cancellation import CancelScope as CancelScope
    from .concurrency.cancellation import deadline as deadline
    from .config import BackendConfig as BackendConfig
    from .config import RegistryConfig as RegistryConfig
    from .config import StoreProfile as StoreProfile
    from .config import open_backend as open_backend
    from .config import register_backend as register_backend
    from .core import *  # noqa: F403
    from .core.secret import Secret as Secret
    from .delivery import DatasetReader as DatasetReader
    from .delivery import DatasetWriter as DatasetWriter
    from .delivery import OmniHandler as OmniHandler
    from .delivery import ResumableWriter as ResumableWriter
    from .delivery import RollingRecordWriter as RollingRecordWriter
    from .delivery import Spool as Spool
    from .errors import *  # noqa: F403
    from .formats.csv import Csv as Csv
    from .formats.length_prefixed import LengthPrefixed as LengthPrefixed
    from .formats.lines import Lines as Lines
    from .formats.ndjson import Ndjson as Ndjson
    from .multi import MultiBackend as MultiBackend
    from .multi import MultiWriter as MultiWriter
    from .multi import Target as Target
    from .multi import Tier as Tier
    from .multi import TieredBackend as TieredBackend
    from .ops.probing import probe as probe
    from .records import BadRecords as BadRecords
    from .records import RecordReader as RecordReader
    from .records import RecordWriter as RecordWriter
    from .records import as_file as as_file
    from .records import open_records as open_records
    from .store import Capability as Capability
    from .store import CompositeStore as CompositeStore
    from .store import ProxyStore as ProxyStore
    from .store import Registry as Registry
    from .store import RemotePath as RemotePath
    from .store import Store as Store
    from .store import open as open
    from .store import open_store as open_store
    from .wrappers import Cache as Cache
    from .wrappers import Encrypt as Encrypt
    from .wrappers import Observe as Observe
    from .wrappers import Prefix as Prefix
    from .wrappers import ReadOnly as ReadOnly
    from .wrappers import Retry as Retry


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
