"""What the errors of several targets come to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from omnistorage.errors import (
    AlreadyExists,
    BackendClosed,
    BackendUnavailable,
    Cancelled,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    StorageError,
)
from omnistorage.multi.mirror.missing_roots import RootUnavailable

REFUSALS = (
    AlreadyExists,
    BackendClosed,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    PreconditionFailed,
)


def one_reason(errors: Iterable[BaseException]) -> BaseException | None:
    """The error that says it all, where nothing was changed: all are of one kind, or what was asked for is refused by
    whoever could be reached."""
    found = list(errors)
    said = [error for error in found if not isinstance(error, BackendUnavailable)] or found
    kinds = {BackendUnavailable if isinstance(error, RootUnavailable) else type(error) for error in said}
    if len(kinds) != 1 or (len(said) < len(found) and not isinstance(said[0], REFUSALS)):
        return None
    return said[0]


def unsure_of(error: BaseException, targets: Sequence[str]) -> BaseException:
    """``error``, which says it all but that it may have been done at ``targets``."""
    for name in targets:
        if not may_have_happened(error):
            error.add_note(f"perhaps it was done in {name!r}, which did not answer")
    return error


def may_have_happened(error: BaseException | None) -> bool:
    """Whether a change that ended with ``error`` may have been made all the same."""
    if isinstance(error, RootUnavailable):
        return False
    if not isinstance(error, StorageError) or error.transient:
        return True
    return isinstance(error, OutcomeUnknown | Cancelled | CorruptData)
