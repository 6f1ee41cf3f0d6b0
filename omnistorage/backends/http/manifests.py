"""Manifests: the objects of a server in one document, as JSON, NDJSON or text; and JSON as it comes. Pure.

A manifest comes from outside and may be of any length: it is never held, and its lines and entries are bounded.
"""

from __future__ import annotations

import itertools
import json
import re
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from omnistorage.core import ObjectInfo
from omnistorage.errors import CorruptData

from .responses import etag_of, is_size, number, time_of
from .settings import NAME

MAX_LINE = 1 << 17
"""The longest line or entry, in bytes. As objects JSON may take thirty times its text."""
_MARK = "\ufeff".encode()
UTF8 = getincrementaldecoder("utf-8-sig")
_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\r\n]*")


def bad(text: str) -> CorruptData:
    return CorruptData(text, backend=NAME)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad(f"the listing is no JSON: {type(error).__name__}") from error


def json_rows(pieces: Iterable[bytes], limit: int) -> Iterator[Any]:
    """The elements of one list in JSON, each parsed by itself: the list is never held.

    Args:
        pieces: The text in UTF-8, cut anywhere.
        limit: How long it may be, in bytes.

    Raises:
        CorruptData: It is no list, ends too early, or has an element longer than ``MAX_LINE``.
    """
    decoder, text, at, tried, awaited = UTF8(), "", 0, 0, "["
    for piece in itertools.chain(bounded(pieces, limit), (b"",)):
        try:
            text += decoder.decode(piece, not piece)
        except UnicodeDecodeError as error:
            raise bad("the listing is no JSON: it is not UTF-8") from error
        while piece == b"" or len(text) >= 2 * tried:
            at = _BLANK.match(text, at).end()  # type: ignore[union-attr]  # it matches everywhere
            if at == len(text):
                break
            if awaited == "value" or (awaited == "first" and text[at] != "]"):
                end, value = _element(text, at, is_whole=piece == b"")
                if end < 0:
                    tried = len(text) - at  # looked at again when there is twice as much
                    break
                yield value
                at, awaited, tried = end, ",", 0
            else:
                awaited, at = _AFTER.get((awaited, text[at]), ""), at + 1
                if not awaited:
                    raise bad("the listing is no list in JSON")
        text, at = text[at:] if at else text, 0
    if awaited != "end":
        raise bad("the listing is no whole list in JSON")


_AFTER = {
    ("[", "["): "first", ("first", "]"): "end", (",", ","): "value", (",", "]"): "end",
}  # fmt: skip
"""What a list's text goes on with after one of its own characters."""


def _element(text: str, at: int, *, is_whole: bool) -> tuple[int, Any]:
    """Where the element that begins at ``at`` ends, and its value; -1 if it may go on in what is still to come."""
    try:
        value, end = _DECODER.raw_decode(text, at)
        if end < len(text) or is_whole:  # a number could go on
            return end, value
    except (ValueError, RecursionError) as error:
        if is_whole or isinstance(error, RecursionError):
            raise bad(f"the listing is no JSON: {type(error).__name__}") from error
    if len(text) - at > MAX_LINE:
        raise bad(f"the listing has an entry that is no JSON, or has more than {MAX_LINE} bytes")
    return -1, None


def bounded(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """``pieces`` that are not empty. Raises ``CorruptData`` once they have more than ``limit`` bytes."""
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > limit:
            raise bad(f"the listing has more than {limit} bytes")
        if piece:
            yield piece


def manifest(pieces: Iterable[bytes], limit: int) -> Iterator[ObjectInfo]:
    """The objects that a manifest names. By its first byte it is NDJSON (an object in each line), JSON (a list), or
    text with a path in each line, and behind tabs its size, etag and time. Objects have ``path`` (or ``name``,
    ``key``), ``size`` (``bytes``), ``etag``, ``modified`` (``modified_at``, ``last_modified``), and digests by their
    names."""
    pieces, start = iter(pieces), b""
    for piece in pieces:
        start += piece
        if (len(start) >= len(_MARK) and start.removeprefix(_MARK).strip()) or len(start) > MAX_LINE:
            break
    start = start.removeprefix(_MARK)
    kind, pieces = start.lstrip()[:1], itertools.chain((start,), pieces)
    if kind == b"[":
        yield from map(_object, json_rows(pieces, limit))
        return
    read: Callable[[bytes], ObjectInfo] = _json_line if kind == b"{" else _text_line
    for line in _lines(pieces, limit):
        if line.strip():
            yield read(line)


def _lines(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    rest = b""
    for piece in bounded(pieces, limit):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.rstrip(b"\r") for line in whole)
        if len(rest) > MAX_LINE:
            raise bad("the listing has a line that never ends")
    if rest:
        yield rest


def _json_line(line: bytes) -> ObjectInfo:
    return _object(_json(line))


def _text_line(line: bytes) -> ObjectInfo:
    path, *more = line.decode("utf-8", "surrogateescape").split("\t")
    size, etag, modified = [*more, "", "", ""][:3]
    if size and number(size) is None:
        raise bad("the size in a manifest's line is no number")
    return ObjectInfo(path, number(size), moment_of(modified or None), "file", etag_token(etag or None))


def _object(row: Any) -> ObjectInfo:
    if isinstance(row, str):
        return ObjectInfo(row)
    if not isinstance(row, dict):
        raise bad("an entry of the manifest is neither a path nor an object with one")

    def said(*names: str) -> Any:
        return next((row[name] for name in names if row.get(name) is not None), None)

    path, size = said("path", "name", "key"), said("size", "bytes")
    if not isinstance(path, str) or (size is not None and not is_size(size)):
        raise bad("an entry of the manifest has no path, or a size that is none")
    kind = said("content_type")
    kind = kind if isinstance(kind, str) and kind.isprintable() and kind else None
    told = row.get("hashes")
    listed: dict[str, Any] = told if isinstance(told, dict) else {}
    hashes = {
        name: value.lower()
        for name in ("md5", "sha1", "sha256", "sha512", "crc32c")
        if isinstance(value := row.get(name) or listed.get(name), str)
    }
    return ObjectInfo(
        path, size, moment_of(said("modified", "modified_at", "last_modified")), "file", etag_token(said("etag")), None,
        kind, hashes or None,
    )  # fmt: skip


def etag_token(value: Any) -> str | None:
    """An etag as others write it, with or without quotes."""
    if not isinstance(value, str) or not value:
        return None
    return etag_of(value) or value.strip('"')


def moment_of(value: Any) -> datetime | None:
    """ISO 8601 with a zone, an HTTP date, or seconds since 1970."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        moment = datetime.fromisoformat(value)
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        return time_of(value) if isinstance(value, str) else None
