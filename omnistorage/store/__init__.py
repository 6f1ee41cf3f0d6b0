"""The Store: relative paths to bytes, one API over every backend."""

from __future__ import annotations

from omnistorage.multi import Difference, Tier

from .batch import BatchResult, batch_copy, batch_delete, batch_exists, batch_read, batch_stat
from .capability import Capability
from .composite import CompositeStore
from .listing import FolderEntry, FolderInfo
from .partition import ParsedPartition, parse_partition, partition_path
from .paths import RemotePath, StorePath
from .proxy import ProxyStore
from .registry import Registry, open, open_store
from .store import Store

__all__ = [
    "BatchResult",
    "Capability",
    "CompositeStore",
    "Difference",
    "FolderEntry",
    "FolderInfo",
    "ParsedPartition",
    "ProxyStore",
    "Registry",
    "RemotePath",
    "Store",
    "StorePath",
    "Tier",
    "batch_copy",
    "batch_delete",
    "batch_exists",
    "batch_read",
    "batch_stat",
    "open",
    "open_store",
    "parse_partition",
    "partition_path",
]
