"""Path rules, pure.

A path is a key: slash-separated, relative to the backend's root, compared by its UTF-8 bytes. Backends never normalise.
Two gates: ``check_key`` for names that exist (reading, deleting, the source of a copy), which refuses only what could
escape or cut a name short, so that everything a listing yields is accepted back; ``check_new`` for names about to come
into being, which also refuses whatever some store, shell or file system would mangle.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .errors import CorruptData, InvalidPath, StorageError

MAX_PATH_BYTES = 1024
"""The longest new key in UTF-8 bytes: the limit of S3, GCS and Azure."""
LONGEST_FOLDER = 8192
"""The longest path of a folder, in characters, that is looked into: twice what systems and stores take."""

_SAFE = re.compile(r"[A-Za-z0-9_\-=+,@%~ ]+(?:[./][A-Za-z0-9_\-=+,@%~ ]+)*", re.ASCII)  # no empty or dot segment fits
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def sort_key(path: str) -> bytes:
    """The bytes by which keys are ordered. A name that is not UTF-8 (surrogate escapes) keeps its raw bytes."""
    return path.encode("utf-8", "surrogateescape")


def check_key(path: str, *, op: str | None = None) -> str:
    """Return ``path`` if it may name an existing object; raise ``InvalidPath`` otherwise.

    Refused: what is not a ``str``, the empty path, NUL, and ``..`` as a segment.
    """
    if not isinstance(path, str):
        raise InvalidPath(f"a path is a str, not {type(path).__name__}", path=repr(path), op=op)
    if not path:
        raise InvalidPath("the empty path is the root, not an object", path=path, op=op)
    if "\0" in path:
        raise InvalidPath("a path cannot hold NUL", path=path, op=op)
    if ".." in path and ".." in path.split("/"):
        raise InvalidPath("'..' would leave its folder", path=path, op=op)
    return path


def check_new(path: str, *, op: str | None = None) -> str:
    """Return ``path`` if it may name a new object or folder; raise ``InvalidPath`` saying what to change otherwise.

    Beyond ``check_key``: no empty segment (so no leading, trailing or double slash), no ``.`` segment, no control
    character, no lone surrogate, at most 1,024 UTF-8 bytes.
    """
    if isinstance(path, str) and len(path) <= MAX_PATH_BYTES and _SAFE.fullmatch(path):
        return path
    check_key(path, op=op)
    segments = path.split("/")
    if "" in segments:
        raise InvalidPath("a new path has no leading, trailing or double slash", path=path, op=op)
    if "." in segments:
        raise InvalidPath("'.' is not a name: leave it out", path=path, op=op)
    if _SURROGATE.search(path):
        raise InvalidPath("a new path must be valid Unicode", path=path, op=op)
    if _CONTROL.search(path):
        raise InvalidPath("a new path cannot hold control characters", path=path, op=op)
    if len(path.encode()) > MAX_PATH_BYTES:
        raise InvalidPath(f"a new path has at most {MAX_PATH_BYTES} bytes", path=path, op=op)
    return path


def check_prefix(prefix: str, *, op: str | None = None) -> str:
    """Return the folder path that ``prefix`` means, without its one optional trailing slash; ``""`` is the root."""
    if prefix == "":
        return prefix
    check_key(prefix, op=op)
    return prefix[:-1] if prefix.endswith("/") and prefix != "/" else prefix


def location_of(url: str | None, path: str) -> str | None:
    """Return the full path or URL of ``path`` below ``url``, the URL of a backend's root; None where that is None.

    Example:
        >>> location_of("s3://bucket/logs/", "a b.txt"), location_of("file:///data/", "a b.txt")
        ('s3://bucket/logs/a%20b.txt', '/data/a b.txt')
    """
    if url is None:
        return None
    from urllib.parse import quote, unquote

    if url.startswith("file://"):
        return unquote(url[7:], errors="surrogateescape") + path
    return url + quote(path, safe="/-._~!$&'()*+,;=:@", errors="backslashreplace")


def set_location(error: StorageError, root: str | None) -> None:
    """Note in ``error`` where its path is below ``root``, unless a backend further down has."""
    if error.location is None:
        error.location = location_of(root, error.path or "")


def is_under(path: str, prefix: str) -> bool:
    """Whether ``path`` lies under the folder ``prefix``, on a ``/`` boundary: ``data`` does not hold ``database/x``."""
    return not prefix or path.startswith(prefix + "/")


def join(*parts: str) -> str:
    """Join the non-empty parts with one slash between them."""
    return "/".join(part for part in parts if part)


def parent(path: str) -> str:
    """The folder of ``path``; ``""`` at the root."""
    return path.rpartition("/")[0]


def is_walkable(folder: str, on_error: Callable[[StorageError], None] | None) -> bool:
    """Whether a listing goes into ``folder``. A longer path was made to be long, and all folders on the way to it take
    memory by the square of its length: it goes to ``on_error``, or raises ``CorruptData`` without one."""
    if len(folder) <= LONGEST_FOLDER:
        return True
    error = CorruptData(f"the path of a folder has {len(folder)} characters", path=f"{folder[:200]}...", op="list")
    if on_error is None:
        raise error
    on_error(error)
    return False


def name(path: str) -> str:
    """The last segment of ``path``."""
    return path.rpartition("/")[2]


def suffixes(path: str) -> list[str]:
    """The suffixes of the name, in lower case: ``logs/a.ndjson.gz`` has ``[".ndjson", ".gz"]``, ``.profile`` none."""
    return ["." + part.lower() for part in name(path).lstrip(".").split(".")[1:]]
