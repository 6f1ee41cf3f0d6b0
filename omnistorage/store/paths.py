"""Paths as a Store takes them: ``RemotePath``, and the gate that turns what a caller passes into a key.

A Store refuses empty segments rather than collapse them, and knows two shapes: a file's path names an object, a
folder's may be the root (``""`` or ``"."``) and may end with one slash.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import PurePath

from omnistorage.errors import InvalidPath
from omnistorage.paths import check_key, check_new, join, suffixes


@dataclass(frozen=True, order=True, slots=True)
class RemotePath:
    """A path inside a store as a value: frozen, ordered, hashable; ``RemotePath("")`` is the root. It is no path of the
    local file system, so ``open()`` and ``os`` do not take it. Raises ``InvalidPath`` for what no store could name."""

    path: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", folder_key(self.path, "RemotePath"))

    @property
    def name(self) -> str:
        """The last segment; ``""`` of the root."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder it lies in; the root's is the root."""
        return RemotePath(self.path.rpartition("/")[0])

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("/")) if self.path else ()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """``(".ndjson", ".gz")`` of ``logs/a.ndjson.gz``, in lower case."""
        return tuple(suffixes(self.path))

    @property
    def suffix(self) -> str:
        """The last of ``suffixes``, or ``""``."""
        return (self.suffixes or ("",))[-1]

    def __truediv__(self, other: str | RemotePath) -> RemotePath:
        return RemotePath(join(self.path, str(other)))

    def __str__(self) -> str:
        return self.path


StorePath = str | PathLike[str] | RemotePath
"""What every method of a Store takes for a path."""


def text_of(path: StorePath, op: str) -> str:
    """The path as text, with ``/`` between its segments; nothing is checked yet."""
    if type(path) is str:
        return path
    if isinstance(path, RemotePath):
        return path.path
    if isinstance(path, PurePath):
        return path.as_posix()
    if isinstance(path, PathLike) and isinstance(text := fspath(path), str):
        return text
    if isinstance(path, str):
        return str(path)
    raise InvalidPath(f"a path is a str or a path object, not {type(path).__name__}", path=repr(path), op=op)


def file_key(path: StorePath, op: str, *, new: bool = False) -> str:
    """The key of an object. Raises ``InvalidPath`` for the root, empty segments, ``.`` and ``..``; of a ``new`` one for
    whatever else some store would mangle, while every name that a listing shows is taken as it is."""
    text = path if type(path) is str else text_of(path, op)
    if text in ("", "."):
        raise InvalidPath("this is the root of the store, not a file", path=text, op=op)
    return check_new(text, op=op) if new else _existing(text, op)


def folder_key(path: StorePath, op: str, *, new: bool = False) -> str:
    """The key of a folder, ``""`` for the root."""
    text = text_of(path, op)
    if text in ("", ".", "./"):
        return ""
    bare = text[:-1] if text.endswith("/") else text
    try:
        return check_new(bare, op=op) if new else _existing(bare, op)
    except InvalidPath as error:
        error.path = text
        raise


def _existing(text: str, op: str) -> str:
    check_key(text, op=op)
    if "//" in text or text[0] == "/" or text[-1] == "/":
        raise InvalidPath("a path has no leading, trailing or double slash", path=text, op=op)
    if "." in text and "." in text.split("/"):
        raise InvalidPath("a path has no segment '.'", path=text, op=op)
    return text
