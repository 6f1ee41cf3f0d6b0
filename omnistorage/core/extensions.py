"""Optional protocols beyond ``ExtendedBackend``; ask with ``power(backend, Kind)``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, cast, runtime_checkable

from omnistorage.errors import StorageError

from .options import WRITE, WriteOptions
from .protocols import Backend, P, Writer
from .structural import has_shape
from .types import Checkpoint, ObjectInfo, ResolutionPlan


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


@runtime_checkable
class Resolve(Protocol):
    """Say what a key would resolve to, without I/O."""

    def resolve(self, key: str) -> ResolutionPlan: ...


@runtime_checkable
class HealthCheck(Protocol):
    """One cheap, authenticated request that raises when the root cannot be used."""

    def check_health(self) -> None: ...


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


def power(backend: object, kind: Callable[..., P]) -> P | None:
    """The backend as a holder of the power ``kind``, or None. Only the outermost object is asked: a wrapper answers
    through its ``power_of``, and has a power only if its class adapts it and the inner backend has it."""
    ask = getattr(backend, "power_of", None)
    if ask is not None:
        return cast("P | None", ask(kind))
    return backend if has_shape(backend, cast("type[P]", kind)) else None
