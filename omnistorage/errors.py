"""The one exception tree.

StorageError                    path, location, backend, op, transient, retry_after, errno, filename
    ├── NotFound                    also FileNotFoundError
    │   └── BucketNotFound
    ├── AlreadyExists               also FileExistsError
    ├── PermissionDenied            also PermissionError
    ├── InvalidPath                 also ValueError
    ├── CapabilityNotSupported      capability
    ├── DirectoryNotEmpty
    ├── PreconditionFailed
    ├── BackendUnavailable          transient unless told otherwise
    ├── OutcomeUnknown              it may or may not have happened
    ├── Cancelled
    │   └── DeadlineExceeded        also TimeoutError
    ├── CorruptData                 offset
    ├── RecordError                 number, offset, raw; also ValueError
    ├── ListingDisorder
    ├── BackendClosed  WriterClosed  ReaderClosed
    ├── ConfigError                 also ValueError
    ├── MissingExtra                also ImportError
    └── MultiError  SyncError       also ExceptionGroup

Every error pickles, so that it crosses process pools intact.
"""

from __future__ import annotations

import errno as codes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from .core.types import ObjectInfo

State = Literal["committed", "failed", "unknown", "aborted"]


class StorageError(Exception):
    """Something a storage operation could not do.

    ``path`` is what the caller passed, ``backend`` the backend's name, ``op`` the method that failed. ``transient``
    says that the same call may succeed later, ``retry_after`` in how many seconds the store asks to be left alone.
    ``location`` is the full path or URL, without secrets, as far as it is known; ``filename`` is ``location``, or else
    ``path``. ``errno`` is the system's number for this kind of failure, or None.
    """

    errno: int | None = None
    location: str | None = None
    path: str | None
    backend: str | None
    op: str | None
    transient: bool
    retry_after: float | None
    wait_for: float | None = None
    """Seconds that the store asks to be left alone after an answer which does not say that nothing was done."""

    def __init__(
        self,
        message: str = "",
        *,
        path: str | None = None,
        backend: str | None = None,
        op: str | None = None,
        transient: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.backend = backend
        self.op = op
        self.transient = transient
        self.retry_after = retry_after

    @property
    def filename(self) -> str | None:
        return self.location or self.path

    def __str__(self) -> str:
        # The path of an error can change on its way up (wrappers rebase it), so the text is made when it is asked for.
        full = self.filename or ""
        path = self.path if not full.endswith(self.path or "") else full
        labels = ("path", path), ("location", self.location if path != full else None)
        named = *labels, ("op", self.op), ("backend", self.backend)
        where = ", ".join(f"{label}={value!r}" for label, value in named if value)
        message = str(self.args[0]) if self.args else ""
        return f"{message} [{where}]" if where else message

    def __reduce__(self) -> tuple[Any, ...]:
        # ImportError keeps a ``path`` of its own outside of __dict__.
        return _rebuild, (type(self), self.args, {**self.__dict__, "path": self.path})


def _rebuild(kind: type[StorageError], args: tuple[Any, ...], state: dict[str, Any]) -> StorageError:
    error = kind.__new__(kind, *args)
    error.args = args
    for name, value in state.items():
        setattr(error, name, value)
    return error


class NotFound(StorageError, FileNotFoundError):
    """No such object, folder or root."""

    errno = codes.ENOENT


class BucketNotFound(NotFound):
    """There is no such bucket or container. A missing folder is a plain ``NotFound``."""


class AlreadyExists(StorageError, FileExistsError):
    """``overwrite=False`` met an existing object."""

    errno = codes.EEXIST


class PermissionDenied(StorageError, PermissionError):
    """The store refused: credentials, modes, or a read-only file system. A ``ReadOnly`` refuses with
    ``CapabilityNotSupported``."""

    errno = codes.EACCES


class InvalidPath(StorageError, ValueError):
    """The path cannot name an object here: it escapes, is empty, is a folder, or the store cannot hold such a name."""


class CapabilityNotSupported(StorageError):
    """The backend cannot do this; ``capability`` names the flag, power or option that is missing."""

    def __init__(self, message: str = "", *, capability: str = "", **where: Any) -> None:
        super().__init__(message or f"{capability} is not supported", **where)
        self.capability = capability


class DirectoryNotEmpty(StorageError):
    """``rmdir`` met a folder with something in it."""

    errno = codes.ENOTEMPTY


class PreconditionFailed(StorageError):
    """``if_match``, ``if_none_match`` or ``source_if_match`` did not hold; nothing changed."""


class BackendUnavailable(StorageError):
    """The store cannot be reached or asks to be left alone; trying again may help."""

    def __init__(self, message: str = "", *, transient: bool = True, **where: Any) -> None:
        super().__init__(message, transient=transient, **where)


class OutcomeUnknown(StorageError):
    """The answer was lost and could not be resolved: the change may have happened or not."""


class Cancelled(StorageError):
    """A ``CancelScope`` around the call was cancelled."""


class DeadlineExceeded(Cancelled, TimeoutError):
    """The ``deadline`` around the call has passed."""

    errno = codes.ETIMEDOUT


class CorruptData(StorageError):
    """The bytes are not what they should be: truncated, damaged, or followed by garbage. ``offset`` is where, in bytes
    of the damaged (encoded) stream, as far as it is known."""

    def __init__(self, message: str = "", *, offset: int | None = None, **where: Any) -> None:
        super().__init__(message, **where)
        self.offset = offset

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.offset is None else f"{text} (at byte {self.offset})"


class RecordError(StorageError, ValueError):
    """One record cannot be decoded or encoded; the others are not touched.

    ``number`` counts records from 1, ``offset`` is the byte of the decoded stream at which the record starts (None when
    writing), ``raw`` its bytes, cut to 64 KiB (the record's ``repr`` when writing).
    """

    def __init__(
        self, message: str = "", *, number: int | None = None, offset: int | None = None, raw: bytes = b"", **where: Any
    ) -> None:
        super().__init__(message, **where)
        self.number = number
        self.offset = offset
        self.raw = raw[:65536]

    def __str__(self) -> str:
        place = [f"record {self.number}"] if self.number is not None else []
        if self.offset is not None:
            place.append(f"byte {self.offset}")
        text = super().__str__()
        if self.raw:
            shown = repr(self.raw[:80])[1:]
            text += f": {shown}{'…' if len(self.raw) > 80 else ''}"
        return f"{', '.join(place)}: {text}" if place else text


class ListingDisorder(StorageError):
    """A listing that promised key order broke it; nothing was deleted. The message names the option to set."""


class BackendClosed(StorageError):
    """The backend was closed."""


class WriterClosed(StorageError):
    """The writer was closed or aborted."""


class ReaderClosed(StorageError):
    """The reader was closed, perhaps by another thread while a read was under way."""


class ConfigError(StorageError, ValueError):
    """A configuration, option or argument is wrong; the message says which and what would be right."""


class MissingExtra(StorageError, ImportError):
    """An optional library is not installed; ``command`` is what to type."""

    def __init__(self, message: str = "", *, extra: str = "", **where: Any) -> None:
        self.extra = extra
        self.command = f'pip install "omnistorage[{extra}]"'
        super().__init__(message or f"this needs the extra {extra!r}: {self.command}", **where)


class _GroupError(ExceptionGroup[Exception], StorageError):
    """Several errors of one call; ``except*`` sees each of them."""

    def __new__(cls, message: str, errors: Sequence[Exception], **_: Any) -> Self:
        return super().__new__(cls, message, errors)

    def __init__(self, message: str, errors: Sequence[Exception], **where: Any) -> None:
        StorageError.__init__(self, message, **where)
        self.args = (message, list(errors))

    def __str__(self) -> str:
        return f"{self.args[0]} ({len(self.exceptions)} in all; first: {self.exceptions[0]})"

    def derive(self, errors: Sequence[Exception]) -> Self:  # type: ignore[override]
        # split() and subgroup() of an ExceptionGroup go through here.
        part = type(self)(self.args[0], errors)
        part.__dict__.update(self.__dict__)
        return part


@dataclass(frozen=True)
class Outcome:
    """How a change ended at one target: ``committed`` (all of it is there), ``failed`` (nothing of it is), ``unknown``
    (the answer was lost, nobody waited for it any longer, or the target was unavailable in the end: an earlier try of
    the same request may have got through), ``aborted`` (given up, as too many others failed). ``sha256`` is the digest
    of what was written, in a write."""

    target: str
    state: State
    info: ObjectInfo | None = None
    error: BaseException | None = None
    path: str = ""
    sha256: str | None = None


class MultiError(_GroupError):
    """A fan-out failed on one or more targets. ``outcomes`` says how it ended at each (``multi.Outcome``)."""

    outcomes: tuple[Outcome, ...] = ()

    def __str__(self) -> str:
        first = self.exceptions[0]
        target = next((f"{one.target}: " for one in self.outcomes if one.error is first), "")
        return f"{self.args[0]} ({len(self.exceptions)} in all; first: {target}{first})"


class SyncError(_GroupError):
    """A sync ended with per-entry errors. ``report`` says how it ended (``sync.Report``)."""

    report: Any = None
