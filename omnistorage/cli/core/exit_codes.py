"""From an error to an exit code and to one line of text.

The codes are a contract with scripts: they say whether to look for the folder, look for the key, try again, or stop.
"""

from __future__ import annotations

from omnistorage.core.secret import mask_url
from omnistorage.errors import (
    AlreadyExists,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    DirectoryNotEmpty,
    InvalidPath,
    MissingExtra,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RecordError,
    StorageError,
)

OK, OTHER, USAGE, NO_FOLDER, NO_KEY, RETRY, NO_RETRY, FATAL = range(8)

# A write never misses its key: what is missing there is the bucket or the folder around it.
_FOLDER_OPS = frozenset(
    {"list", "list_dir", "mkdir", "rmdir", "purge", "open_writer", "open_appender", "write", "prepare", "close"}
)
_NO_RETRY = (
    AlreadyExists,
    CapabilityNotSupported,
    CorruptData,
    DirectoryNotEmpty,
    InvalidPath,
    PreconditionFailed,
    RecordError,
)


def exit_code(error: BaseException) -> int:
    """The exit code for ``error``; a group has that of its members if they agree."""
    if isinstance(error, BaseExceptionGroup):
        return combined({exit_code(one) for one in error.exceptions})
    if isinstance(error, NotFound):
        return NO_FOLDER if error.op in _FOLDER_OPS else NO_KEY
    if isinstance(error, PermissionDenied | ConfigError | MissingExtra):
        return FATAL
    if isinstance(error, StorageError) and error.transient:
        return RETRY
    return NO_RETRY if isinstance(error, _NO_RETRY) else OTHER


def combined(codes: set[int]) -> int:
    """The exit code of a run in which several things failed: theirs if they agree, else 1."""
    if not codes:
        return OK
    return next(iter(codes)) if len(codes) == 1 else OTHER


def escape(text: str) -> str:
    """``text`` fit for a terminal and for one line: what does not print (control characters, surrogates) is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# What errors advise to those who call from Python, and what that is on the command line.
_ADVICE = {
    "; missing= names a stand-in": "; --missing VALUE names a stand-in",
    ": give time_field": ": give --time-field",
    "; missing='null' writes null": "; csv:missing=null writes it empty",
    "; extra='drop' drops it": "; csv:extra=drop drops it",
    "; nested='json' writes it as JSON text": "; --to-format csv:nested=json writes it as JSON text",
    "; allow_partial_tail=True drops it": "; if it is whole, end it with a newline",
    "; Spool(on_damage='skip') goes on without": "; 'omnistorage spool drain DIR --on-damage skip' goes on without",
    "; use open_backend(name, options)": "; name it in the configuration file and write NAME:PATH",
}


def explain(error: StorageError) -> str:
    """One line: the path, what is wrong with it, what to do. Secrets in URLs are hidden."""
    what = str(error.args[0]) if error.args else type(error).__name__
    for python, shell in _ADVICE.items():
        what = what.replace(python, shell)
    if isinstance(error, RecordError):
        what = str(RecordError(what, number=error.number, offset=error.offset, raw=error.raw))
    elif isinstance(error, CorruptData) and error.offset is not None:
        what = f"{what} (at byte {error.offset})"
    where = getattr(error, "shown", None) or error.filename
    said = "://" in where and what.endswith(where) if where else True
    parts = [] if said else [str(where)]
    hint = _hint(error)
    return escape(mask_url(": ".join([*parts, what]) + (f"; {hint}" if hint else "")))


def _hint(error: StorageError) -> str:
    if isinstance(error, NotFound) and "folder, not an object" in str(error.args[0]):
        return "cp and rm take folders with -R, ls lists them"
    if isinstance(error, AlreadyExists) and not getattr(error, "advised", False):
        return "leave out --no-clobber to replace it"
    if isinstance(error, InvalidPath) and "a folder has this name" in str(error.args[0]):
        return "end it with / to put things into that folder"
    if isinstance(error, PermissionDenied) and "end that one first" not in str(error.args[0]):
        return "check credentials, owner and modes"
    if isinstance(error, RecordError):
        return "--on-error skip goes on without it"
    if isinstance(error, NotFound) and "*" in (error.filename or ""):
        return "read alone takes patterns; copy and sync take --include"
    if isinstance(error, NotFound) and exit_code(error) == NO_KEY:
        return "ls shows what is there"
    return "trying again may help" if error.transient else ""
