"""Rows into infos, and listings page by page.

Each page is a search in the index of the keys, never a scan of the table. It begins after the last key of the one
before, so what comes or goes meanwhile never shifts it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

from omnistorage.backends.base import is_nameable
from omnistorage.core import ListOptions, ObjectInfo
from omnistorage.errors import CorruptData, NotFound, StorageError
from omnistorage.globs import compile_glob, has_magic
from omnistorage.paths import sort_key

PAGE = 1000
_WILDCARDS = 4  # the most that a database is asked to match: it may take a step back at each
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SURROGATE = re.compile("[\ud800-\udfff]")
_new = tuple.__new__
_read_time = datetime.fromisoformat


# --- rows -------------------------------------------------------------------------------------------------------------


def _infos_of_text(rows: Iterable[Any]) -> list[ObjectInfo]:
    """Of rows of our own table: key, size, modified_at, content_type, digest, etag, extra, blob_id."""
    return [
        _new(
            ObjectInfo,
            (
                key, size, _read_time(at), "file", etag, None, kind, {"sha256": digest} if digest else None,
                _metadata(extra) if extra else {},
            ),
        )
        for key, size, at, kind, digest, etag, extra, _ in rows
    ]  # fmt: skip


def _infos_of_numbers(rows: Iterable[Any]) -> list[ObjectInfo]:
    """The same where times are numbers."""
    return [
        _new(
            ObjectInfo,
            (
                key, size, datetime.fromtimestamp(at / 1e6, UTC), "file", etag, None, kind,
                {"sha256": digest} if digest else None, _metadata(extra) if extra else {},
            ),
        )
        for key, size, at, kind, digest, etag, extra, _ in rows
    ]  # fmt: skip


def _infos_of_bytes(rows: Iterable[Any]) -> list[ObjectInfo]:
    """The same where keys are bytes, too."""
    return _infos_of_numbers((bytes(row[0]).decode("utf-8", "surrogateescape"), *row[1:]) for row in rows)


_ODD = (ValueError, TypeError, AttributeError, OverflowError, RecursionError, OSError)
"""What values raise that another program has put into a row."""


def _sound(infos_of: Callable[[Iterable[Any]], list[ObjectInfo]]) -> Callable[[Iterable[Any]], list[ObjectInfo]]:
    def infos(rows: Iterable[Any]) -> list[ObjectInfo]:
        try:
            return [info if _is_sound(info) else _mended(info) for info in infos_of(rows)]
        except _ODD as error:
            why = f"{type(error).__name__}: {str(error)[:200]}"
            raise CorruptData(f"the row of an object cannot be understood: {why}") from error

    return infos


def _is_sound(info: ObjectInfo) -> bool:
    """Whether the fields are of the kinds that they are said to be: a column may take anything."""
    path, size, at, _, etag, _, kind, hashes = info[:8]
    return (
        type(path) is str
        and (size is None or (type(size) is int and size >= 0))
        and (at is None or at.tzinfo is UTC)
        and (etag is None or type(etag) is str)
        and (kind is None or type(kind) is str)
        and (hashes is None or type(hashes["sha256"]) is str)
    )


def _mended(info: ObjectInfo) -> ObjectInfo:
    """Take the time for what it can only mean. Raises ``ValueError`` where that was not what is odd."""
    found = info._replace(modified_at=as_time(info.modified_at))
    if found.modified_at is None or not _is_sound(found):
        raise ValueError("a column holds a value of another kind")
    return found


INFOS = {
    "sqlite": _sound(_infos_of_text),
    "postgresql": _sound(_infos_of_numbers),
    "mysql": _sound(_infos_of_bytes),
}


def _loose_infos(rows: Iterable[Any]) -> list[ObjectInfo]:
    return [_loose_info(row) for row in rows]


loose_infos = _sound(_loose_infos)
"""Of rows of an existing table, whose columns may hold what they like or be missing."""


def infos_of_page(
    backend: Any, rows: list[Any], op: str, options: ListOptions, wanted: Callable[[str], Any] | None = None
) -> Iterable[ObjectInfo]:
    """What the rows of a page say. One that cannot be understood goes to ``on_error``, or raises, if its key is
    ``wanted``; the others are read all the same."""
    try:
        return cast("list[ObjectInfo]", backend._infos(rows))
    except CorruptData:
        return _one_by_one(backend, rows, op, options, wanted)


def _one_by_one(
    backend: Any, rows: list[Any], op: str, options: ListOptions, wanted: Callable[[str], Any] | None
) -> Iterator[ObjectInfo]:
    for row in rows:
        try:
            yield from backend._infos((row,))
        except CorruptData as error:
            error.path, error.op, error.backend = _shown(row[0]), op, backend.name
            if wanted is not None and not wanted(error.path):
                continue
            error.args = (f"{error.args[0]}, in the row of the key {error.path[:200]!r}",)
            if options.on_error is None:
                raise
            options.on_error(error)


def _shown(key: Any) -> str:
    """The key of a row to name it by, whatever it is."""
    return key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else str(key)


def _loose_info(row: Any) -> ObjectInfo:
    key, size, at, kind, digest, etag, extra = row[:7]
    path = key if isinstance(key, str) else as_bytes(key).decode("utf-8", "surrogateescape")
    known = isinstance(digest, str) and len(digest) == 64
    return ObjectInfo(
        path,
        _as_size(size),
        as_time(at),
        "file",
        None if etag is None else str(etag),
        None,
        None if kind is None else str(kind),
        {"sha256": digest.lower()} if known else None,
        _as_metadata(extra),
    )


def as_time(value: Any) -> datetime | None:
    """A column's time in UTC: a number counts microseconds since 1970, a time without a zone is taken for UTC."""
    if type(value) is datetime and value.tzinfo is UTC:
        return value
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return None if value is None else _EPOCH + timedelta(microseconds=int(value))
    except _ODD:
        return None


def _as_size(value: Any) -> int | None:
    try:
        size = None if value is None else int(value)
    except _ODD:
        return None
    return size if size is not None and 0 <= size < 1 << 63 else None


def _as_metadata(extra: Any) -> dict[str, str] | None:
    try:
        return None if extra is None else _metadata(extra)
    except _ODD:
        return None


def _metadata(extra: Any) -> dict[str, str]:
    """Return the user metadata. Raises ``ValueError`` unless it maps text to text."""
    found = json.loads(extra) if isinstance(extra, str | bytes) else extra
    if not isinstance(found, dict) or not all(isinstance(text, str) for pair in found.items() for text in pair):
        raise ValueError("the metadata does not map text to text")
    return found


def as_bytes(value: Any) -> bytes:
    """A value of the data column; text counts as UTF-8, and a number as its text: ``bytes`` of a number would be as
    many zeros."""
    if value is None:
        return b""
    if isinstance(value, int | float):
        value = str(value)
    return value.encode() if isinstance(value, str) else bytes(value)


# --- listings ---------------------------------------------------------------------------------------------------------


def list_rows(backend: Any, prefix: str, start_after: str | None) -> Iterator[list[Any]]:
    """Pages of the rows under ``prefix`` behind ``start_after``."""
    low, begin = (prefix + "/", ">=") if prefix else ("", ">")
    end = prefix + "0" if prefix else None  # "0" follows "/"
    if not _fits(backend, low):
        return  # no such key can be here
    odd = None
    if start_after is not None and sort_key(start_after) >= sort_key(low):
        low, begin = start_after, ">"
        if not _fits(backend, low):
            odd = sort_key(low)
            low = _SURROGATE.split(low)[0]
    for rows in pages(backend, low, begin, end, None, "list", prefix):
        yield rows if odd is None else [row for row in rows if type(row[0]) is not str or sort_key(row[0]) > odd]


def listed(backend: Any, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
    """The objects under ``prefix``."""
    for rows in list_rows(backend, prefix, options.start_after):
        for info in infos_of_page(backend, rows, "list", options):
            if is_nameable(info.path, "list", options, backend.name):
                yield info


def refusing_last(
    backend: Any, op: str, infos_of: Callable[[ListOptions], Iterator[ObjectInfo]]
) -> Iterator[ObjectInfo]:
    """What ``infos_of`` lists, and the first error of a row after it."""
    refused: list[StorageError] = []
    options = ListOptions(on_error=lambda error: refused.extend(() if refused else (error,)))
    for info in infos_of(options):
        if is_nameable(info.path, op, options, backend.name):
            yield info
    if refused:
        raise refused[0]


def _fits(backend: Any, key: Any) -> bool:
    """Whether the database can hold the key; it does hold one that is no text here."""
    if type(key) is not str:
        return True
    try:
        backend._db.dialect.key(key)
    except UnicodeEncodeError:
        return False
    return True


def pages(
    backend: Any, low: str, begin: str, end: str | None, looks: str | None, op: str, path: str
) -> Iterator[list[Any]]:
    """The rows from ``low`` on, before ``end``, page by page."""
    at: Any = None
    size = min(PAGE, backend._db.dialect.page)
    while True:
        rows = backend._page((begin, low if at is None else at, end, looks, size), op, path)
        if rows:
            yield rows
        if len(rows) < size:
            return
        at, begin = rows[-1][0], ">"


def list_dir_rows(backend: Any, path: str, options: ListOptions) -> Iterator[ObjectInfo]:
    """The children of the folder ``path``: what lies deeper is jumped over, not read."""
    head = path + "/" if path else ""
    end = path + "0" if path else None
    at: Any = head
    begin = ">=" if head else ">"
    size, found, skip = 64, False, None
    while _fits(backend, at):
        rows = backend._page((begin, at, end, None, size), "list_dir", path)
        found, skipped = found or bool(rows), 0
        for child in infos_of_page(backend, rows, "list_dir", options):
            if skip is not None and child.path.startswith(skip):
                skipped += 1
                continue
            skip = None
            name, slash, _ = child.path[len(head) :].partition("/")
            if slash:
                skip = f"{head}{name}/"
                # A folder without a name keeps its slash, or it would be its own parent.
                yield ObjectInfo(skip[:-1] if name else skip, kind="dir")
            elif name:
                yield child
        if len(rows) < size:
            break
        at, begin = rows[-1][0], ">"
        if skip is not None and _shown(at).startswith(skip):
            at, begin = skip[:-1] + "0", ">="
        size = max(16, size // 2) if skipped > size // 2 else min(PAGE, size * 2)
    if path and not found:
        raise NotFound("no such folder", path=path, backend=backend.name, op="list_dir")


# --- globs ------------------------------------------------------------------------------------------------------------


def glob_rows(backend: Any, pattern: str) -> Iterator[ObjectInfo]:
    """Every object whose key matches. The database narrows it down by the text before the first wildcard, an index
    search, and by a coarse form of the rest; the pattern itself has the last word."""
    matching = compile_glob(pattern, anchored=True)
    return refusing_last(backend, "glob", partial(_matches, backend, pattern.removeprefix("/"), matching))


def _matches(backend: Any, pattern: str, matching: Any, options: ListOptions) -> Iterator[ObjectInfo]:
    parts = coarse(pattern)
    head = parts[0] or ""
    if not pattern or not _fits(backend, "".join(part or "" for part in parts)):
        return
    if not has_magic(pattern):
        try:
            yield backend._stat(pattern)
        except NotFound:
            pass
        return
    looks = like(parts, star=backend._db.dialect.family == "sqlite")
    for rows in pages(backend, head, ">=", successor(head), looks, "glob", pattern):
        for found in infos_of_page(backend, rows, "glob", options, matching.fullmatch):
            if matching.fullmatch(found.path):
                yield found


def coarse(pattern: str) -> list[str | None]:
    """Literal texts with None for anything at all: matches whatever ``pattern`` matches, and more."""
    parts: list[str | None] = [""]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char in "*?[{":
            if parts[-1] is not None:
                parts.append(None)
            if char in "[{" or parts.count(None) == _WILDCARDS:
                return parts
            start = at - 1
            while char == "*" and pattern[at : at + 1] == "*":
                at += 1
            # "**/" may stand for no folder at all.
            if at - start == 2 and (start == 0 or pattern[start - 1] == "/") and pattern[at : at + 1] == "/":
                at += 1
            continue
        if char == "\\":
            char, at = pattern[at], at + 1
        if parts[-1] is None:
            parts.append("")
        parts[-1] = f"{parts[-1]}{char}"
    return parts


def like(parts: list[str | None], *, star: bool) -> str:
    """The parts as SQLite's GLOB takes them (``star``), or as LIKE does with ``!`` to escape."""
    if star:
        return "".join("*" if part is None else _escaped(part, "*?[", "[{}]") for part in parts)
    return "".join("%" if part is None else _escaped(part, "!%_", "!{}") for part in parts)


def _escaped(text: str, special: str, form: str) -> str:
    return "".join(form.format(char) if char in special else char for char in text)


def successor(text: str) -> str | None:
    """The first text, in the order of keys, after all that begin with ``text``; None if there is none."""
    while text:
        last = ord(text[-1]) + 1
        if last <= 0x10FFFF:
            return text[:-1] + chr(0xE000 if 0xD800 <= last < 0xE000 else last)
        text = text[:-1]
    return None
