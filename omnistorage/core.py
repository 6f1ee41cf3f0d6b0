"""The protocols of the house: readers, writers, backends, features and powers. Floor 0: imports floor 0.

A backend moves bytes. ``Backend`` is the six methods without which nothing works, ``ExtendedBackend`` six more;
``Features`` says which of a backend's abilities are true under its configuration, without I/O. What few stores can do
is a *power*: a one- or two-method protocol asked for with ``power(backend, Kind)``.

Shape is ``as_extended``, truth is ``features``: a method whose flag is false raises ``CapabilityNotSupported``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from operator import index
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar, cast, runtime_checkable

from ._option_checks import check_etag, check_expect, check_metadata, check_time
from ._shapes import has_shape
from .errors import ConfigError, StorageError

Kind = Literal["file", "dir", "link", "other"]
Data = bytes | bytearray | memoryview


class ObjectInfo(NamedTuple):
    """What a store says about one object, the same in listings, ``stat`` and write results. None: it does not say.

    ``modified_at`` is the store's own time, aware and in UTC; a kept source time is ``metadata["mtime"]``. ``etag`` is
    an opaque condition token of this backend, never compared with another store's. ``hashes`` maps an algorithm
    (``"md5"``, ``"sha256"``, ``"crc32c"``) to lower-case hexadecimal, and holds only what is known to be a digest.
    """

    path: str
    size: int | None = None
    modified_at: datetime | None = None
    kind: Kind = "file"
    etag: str | None = None
    version: str | None = None
    content_type: str | None = None
    hashes: Mapping[str, str] | None = None
    metadata: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_dir(self) -> bool:
        return self.kind == "dir"

    def hash(self, algorithm: str) -> str | None:
        """The object's digest by ``algorithm``, or None where the store does not know it."""
        return None if self.hashes is None else self.hashes.get(algorithm)


FileInfo = ObjectInfo


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """``offset`` and ``length`` in bytes (a range past the end is short or empty, never an error); conditions on the
    object's etag, checked before the first byte; ``version`` where the backend has the ``Versions`` power."""

    offset: int = 0
    length: int | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        try:
            below = index(self.offset) < 0 or (self.length is not None and index(self.length) < 0)
        except TypeError:
            below = True
        if below:
            raise ConfigError(
                f"offset and length count bytes from 0: got offset={self.offset!r}, length={self.length!r}"
            )
        check_etag(self.if_match)
        check_etag(self.if_none_match)


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Requirements, honoured or refused: ``overwrite``, ``if_match`` (replace only this etag), ``durable`` (survives a
    power cut once ``close`` has returned), ``modified_at``, ``user_metadata``, ``expect`` (algorithm -> hexadecimal
    digest, verified before publication), ``extra`` (``{"s3.storage_class": ...}``). Hints: ``content_type``, and
    ``size`` in bytes, which aborts the write if it turns out wrong."""

    overwrite: bool = True
    if_match: str | None = None
    durable: bool = False
    modified_at: datetime | None = None
    user_metadata: Mapping[str, str] | None = None
    expect: Mapping[str, str] | None = None
    extra: Mapping[str, Any] | None = None
    content_type: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.user_metadata:
            check_metadata(self.user_metadata)
        check_time(self.modified_at)
        if self.expect:
            check_expect(self.expect)
        check_etag(self.if_match)
        if self.if_match is not None and not self.overwrite:
            raise ConfigError("if_match replaces an object, overwrite=False forbids it: choose one")


@dataclass(frozen=True, slots=True)
class ListOptions:
    """``start_after``: only keys greater in UTF-8 bytes. ``on_error``: called with the error of each folder that cannot
    be read or vanished, after which the rest goes on; without it the listing raises."""

    start_after: str | None = None
    on_error: Callable[[StorageError], None] | None = None

    def __post_init__(self) -> None:
        if self.start_after is not None and not isinstance(self.start_after, str):
            raise ConfigError(f"start_after is a path, not {type(self.start_after).__name__}")


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """``if_match`` is a condition on the destination, ``source_if_match`` on the source. ``source``: another backend
    whose root can be reached server-side. ``user_metadata=None`` keeps the source's."""

    overwrite: bool = True
    if_match: str | None = None
    source_if_match: str | None = None
    source: Backend | None = None
    user_metadata: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.user_metadata:
            check_metadata(self.user_metadata)
        check_etag(self.if_match)
        check_etag(self.source_if_match)
        if self.if_match is not None and not self.overwrite:
            raise ConfigError("if_match replaces an object, overwrite=False forbids it: choose one")


READ = ReadOptions()
WRITE = WriteOptions()
LIST = ListOptions()
COPY = CopyOptions()


@dataclass(frozen=True)
class Features:
    """What is true of a backend under its configuration, known without I/O and conservative where it cannot be known.

    The first rows are abilities, off by default; then three flags that are true when the power of that name is there;
    then facts: ``hashes`` the digests that listings or ``stat`` may carry, ``kept_hashes`` those of them that were
    noted when the object was written (only a read shows whether its bytes still have them), ``modified_precision`` of
    ``modified_at`` (None: no times), ``case_sensitive`` names, ``normalizes`` the Unicode form the store forces on
    names, if any.
    """

    read: bool = False
    write: bool = False
    delete: bool = False
    list: bool = False
    sorted_list: bool = False  # list yields in the order of the paths' UTF-8 bytes
    list_seek: bool = False  # start_after skips without reading what it skips
    stat: bool = False
    copy: bool = False  # server-side
    move: bool = False  # server-side
    atomic_move: bool = False
    dirs: bool = False  # folders exist by themselves: mkdir, rmdir, empty ones listed
    range_read: bool = False
    lazy_read: bool = False  # open_reader transfers only what is read
    atomic_write: bool = False  # close publishes whole or nothing
    create_only: bool = False  # overwrite=False has exactly one winner
    if_match: bool = False  # conditions on writes; those on deletes and copies hold too, or are refused
    user_metadata: bool = False

    purge: bool = False
    set_modified: bool = False
    append: bool = False

    hashes: frozenset[str] = frozenset()
    kept_hashes: frozenset[str] = frozenset()
    modified_precision: timedelta | None = None
    case_sensitive: bool = True
    normalizes: str | None = None

    @classmethod
    def flags(cls) -> tuple[str, ...]:
        """The names of the boolean abilities, in order."""
        return tuple(f.name for f in fields(cls) if f.type == "bool" and f.name != "case_sensitive")


@runtime_checkable
class Reader(Protocol):
    """A stream of one object's bytes, and a context manager. ``info`` is known when ``open_reader`` returns and never
    costs a request. ``read`` may be short; ``b""`` comes only at the end; ``read(-1)`` reads to the end. ``close`` may
    be called from any thread: a read in flight then raises ``ReaderClosed``."""

    @property
    def info(self) -> ObjectInfo: ...
    def read(self, size: int = -1, /) -> bytes: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class Writer(Protocol):
    """A stream into one object, and a context manager: a clean exit closes, an exception aborts.

    ``write`` takes all of the data. ``flush`` pushes as far as the transport allows and promises no visibility.
    ``prepare`` brings all bytes to the store with nothing visible yet. ``close`` is ``prepare`` and publication: the
    whole object appears, or nothing does; again, it returns the same info. ``abort`` discards, is idempotent, may come
    from any thread, and never masks an active exception. After the first failed ``write`` the writer is poisoned: later
    calls raise that error again, and ``close`` aborts and raises.
    """

    @property
    def result(self) -> ObjectInfo | None: ...  # what close returned, for users of ``with``
    def write(self, data: Data, /) -> int: ...
    def flush(self) -> None: ...
    def prepare(self) -> None: ...
    def close(self) -> ObjectInfo: ...
    def abort(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class Backend(Protocol):
    """The six methods every backend has. Paths are keys (see ``paths``).

    ``exists`` and ``delete`` speak of objects: a folder gives False. ``delete`` returns True if it removed the object,
    False if there was none, None if the store does not say. ``list`` yields every object under the folder ``prefix``,
    lazily, with size, time and etag, and is complete or raises. An object whose name no path can have (``..`` as a
    segment, NUL), which only others can have made, raises ``InvalidPath``; with ``on_error`` it is reported, and the
    rest is listed.
    """

    def open_reader(self, path: str, options: ReadOptions = READ) -> Reader: ...
    def open_writer(self, path: str, options: WriteOptions = WRITE) -> Writer: ...
    def exists(self, path: str) -> bool: ...
    def delete(self, path: str, *, if_match: str | None = None) -> bool | None: ...
    def list(self, prefix: str = "", options: ListOptions = LIST) -> Iterator[ObjectInfo]: ...
    def close(self) -> None: ...


@runtime_checkable
class ExtendedBackend(Backend, Protocol):
    """Six more methods, a name, a place and features.

    ``url`` is canonical, holds no secret and ends with ``/``; None where there is none to give. ``list_dir`` yields the
    immediate children of a folder, folders too, sorted, and raises ``NotFound`` where there is no such folder.
    ``mkdir`` makes parents and is content with an existing folder. ``copy`` and ``move`` onto the same path change
    nothing.
    """

    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str | None: ...
    @property
    def features(self) -> Features: ...
    def stat(self, path: str) -> ObjectInfo: ...
    def list_dir(self, path: str = "") -> Iterator[ObjectInfo]: ...
    def mkdir(self, path: str) -> None: ...
    def rmdir(self, path: str) -> None: ...
    def copy(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo: ...
    def move(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo: ...


# --- powers -----------------------------------------------------------------------------------------------------------


@runtime_checkable
class Append(Protocol):
    """A writer at the end of an object, which is created if absent. What is written may be visible before ``close``;
    ``abort`` takes it back as far as the store can."""

    def open_appender(self, path: str, options: WriteOptions = WRITE) -> Writer: ...


@runtime_checkable
class SetMetadata(Protocol):
    """Change an object's time or user metadata without rewriting it; None leaves it as it is."""

    def set_metadata(
        self, path: str, *, modified_at: datetime | None = None, user_metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo: ...


@runtime_checkable
class FolderTimes(Protocol):
    """Set the time of a folder, which listings show. ``NotFound`` where there is no such folder."""

    def set_folder_time(self, path: str, modified_at: datetime) -> None: ...


@runtime_checkable
class Links(Protocol):
    """Symbolic links themselves, which reads follow and writes replace. ``read_link`` gives what a link says, and what
    a listing shows of it (kind ``"link"``); ``NotFound`` where there is none. ``make_link`` makes one, whatever its
    target is or leads to, with the folders above it; what appears is whole, and ``overwrite=False`` replaces nothing
    (``AlreadyExists``). Names that are no Unicode are escaped as in keys."""

    def read_link(self, path: str) -> tuple[str, ObjectInfo]: ...
    def make_link(
        self, path: str, target: str, *, overwrite: bool = True, modified_at: datetime | None = None
    ) -> ObjectInfo: ...


@runtime_checkable
class BulkDelete(Protocol):
    """Delete many objects in few requests; yields each path with None or its error."""

    def delete_many(self, paths: Iterable[str]) -> Iterator[tuple[str, StorageError | None]]: ...


@runtime_checkable
class Purge(Protocol):
    """Delete a folder and all that is under it. ``NotFound`` if there is none; the root is refused."""

    def purge(self, path: str) -> None: ...


@runtime_checkable
class Presign(Protocol):
    """A URL that lets its holder do ``method`` ("GET", "PUT", ...) on the object for a while."""

    def presign(self, path: str, method: str, expires: timedelta) -> str: ...


@runtime_checkable
class Versions(Protocol):
    """All kept versions of an object, newest first; read one with ``ReadOptions(version=...)``."""

    def versions(self, path: str) -> Iterator[ObjectInfo]: ...


@runtime_checkable
class Glob(Protocol):
    """Matching done by the store; the same result as ``ops.glob``."""

    def glob(self, pattern: str) -> Iterator[ObjectInfo]: ...


@dataclass(frozen=True)
class ResolutionPlan:
    """What a key stands for. ``fingerprint`` is a SHA-256 over canonical JSON of whatever determines the bytes."""

    kind: str
    backend: str
    key: str
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None


@runtime_checkable
class Resolve(Protocol):
    """Say what a key would resolve to, without I/O."""

    def resolve(self, key: str) -> ResolutionPlan: ...


@runtime_checkable
class HealthCheck(Protocol):
    """One cheap, authenticated request that raises when the root cannot be used."""

    def check_health(self) -> None: ...


SUSPENDED = ".resume"


class Checkpoint(NamedTuple):
    """What was written so far: the store holds the first ``held`` bytes, which ``token`` (for JSON) finds, None if it
    holds none; ``tail`` is the rest, for the caller to keep."""

    token: Mapping[str, Any] | None
    held: int
    tail: bytes


@runtime_checkable
class ResumableWrite(Protocol):
    """Take up the write of a process that died. ``token_of`` gives what JSON can hold of a writer's upload, None as
    long as nothing was sent; it is of use until the writer is closed or aborted. ``checkpoint`` waits until what was
    sent has arrived; from then on ``abort``, garbage collection and ``StaleUploads`` leave that at the store, the last
    as long as anything stands below ``path + SUSPENDED``. ``resume_writer`` gives a writer that goes on, with the
    options of the first one, and how many bytes it has: all that have arrived, or those of the checkpoint. Raises
    ``NotFound`` where nothing is left, ``CorruptData`` where somebody else has gone on meanwhile. ``discard_write``
    removes what is left, if anything is."""

    def token_of(self, writer: Writer) -> Mapping[str, Any] | None: ...
    def checkpoint(self, writer: Writer) -> Checkpoint: ...
    def resume_writer(self, path: str, token: Mapping[str, Any]) -> tuple[Writer, int]: ...
    def discard_write(self, path: str, token: Mapping[str, Any]) -> None: ...


@runtime_checkable
class StaleUploads(Protocol):
    """What writers that died left behind under ``prefix``, invisible to ``list``; ``remove_stale_uploads`` returns how
    many it removed. Live writers' uploads are never yielded or touched."""

    def stale_uploads(
        self, prefix: str = "", *, older_than: timedelta = timedelta(hours=1)
    ) -> Iterator[ObjectInfo]: ...
    def remove_stale_uploads(self, prefix: str = "", *, older_than: timedelta = timedelta(hours=1)) -> int: ...


@runtime_checkable
class ReadRanges(Protocol):
    """Several ranges (offset, length) of one version of an object, in the order asked."""

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]: ...


@runtime_checkable
class Settle(Protocol):
    """What stands at ``path``, made as safe as what a write leaves that has returned: True once as many of several
    stores hold the same object as a write needs, which gives it to those that lack it; False where nothing counts.
    Raises what keeps it from that, and ``CorruptData`` where they hold different ones and no rule says which counts."""

    def settle(self, path: str) -> bool: ...


@runtime_checkable
class Confine(Protocol):
    """For backends with symbolic links: the same backend with the same keys, where no link leads out of ``folder``.

    Paths outside of ``folder`` are not for it. It shares all that the backend holds, and is closed with it.
    """

    def confined(self, folder: str) -> Backend: ...


POWERS: tuple[type, ...] = (
    Append, SetMetadata, FolderTimes, Links, BulkDelete, Purge, Presign, Versions, Glob, Resolve, HealthCheck,
    ResumableWrite, StaleUploads, ReadRanges, Settle, Confine,
)  # fmt: skip

P = TypeVar("P")


def power(backend: object, kind: Callable[..., P]) -> P | None:
    """The backend as a holder of the power ``kind``, or None. Only the outermost object is asked: a wrapper answers
    through its ``power_of``, and has a power only if its class adapts it and the inner backend has it."""
    ask = getattr(backend, "power_of", None)
    if ask is not None:
        return cast("P | None", ask(kind))
    return backend if has_shape(backend, cast("type[P]", kind)) else None


def as_extended(backend: Backend) -> ExtendedBackend | None:
    """The backend as an extended one, or None if it is basic, or a wrapper around a basic one."""
    if getattr(backend, "is_extended", True) and has_shape(backend, ExtendedBackend):  # type: ignore[type-abstract]
        return backend
    return None


BASIC = Features(read=True, write=True, delete=True, list=True)


def features_of(backend: Backend) -> Features:
    """The backend's features; a basic backend is taken to read, write, delete and list, and to promise no more."""
    features = getattr(backend, "features", None)
    return features if isinstance(features, Features) else BASIC


LEARNED = frozenset({"create_only", "if_match"})
"""The flags that a backend may have to ask its server for, see ``learned``."""


def learned(backend: Backend) -> Features:
    """The features, after the backend has found out what only its server can tell: by a probe, at the first call.

    Raises:
        StorageError: The server could not be asked.
    """
    learn: Callable[[], Features] | None = getattr(backend, "learn_features", None)
    return features_of(backend) if learn is None else learn()


U = TypeVar("U")


def unwrap(backend: object, kind: type[U]) -> U | None:
    """The first of ``backend``, what it wraps, and the handle that the innermost works with, that is a ``kind``; None
    if there is none. For users who need what only that one can do: nothing in omnistorage calls it. The handle is
    still the backend's: it is closed with it, and what is done with it is neither retried nor translated."""
    at: object | None = backend
    while at is not None and not isinstance(at, kind):
        inner = getattr(at, "inner", None)
        native = getattr(at, "native", None)
        at = inner if inner is not None or native is None else native()
    return at
