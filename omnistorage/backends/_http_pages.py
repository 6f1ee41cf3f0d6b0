"""What servers write about many objects at once: index pages, sitemaps, manifests, WebDAV's multistatus. Pure; imports
floor 0 and its neighbours.

All of it comes from outside: sizes and depths are bounded, a document type (and with it every entity) is refused, and a
link counts only if it lies below the root.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit
from xml.parsers import expat

from ..core import ObjectInfo
from ..errors import CorruptData, PermissionDenied
from ..paths import sort_key
from ._http_answers import etag_of, number, time_of
from ._http_settings import NAME
from ._http_urls import Root

MAX_PAGE = 64 << 20
"""The longest page of one folder, or list in JSON, in bytes; it is held while it is read."""
MAX_LINE = 1 << 20
MAX_TAG = 1 << 14
MAX_TEXT = 1 << 16
MAX_DEPTH = 64
_SIZE = re.compile(r"\s*(?:[0-9]{2}-[A-Z][a-z]{2}-[0-9]{4}|[0-9]{4}-[0-9]{2}-[0-9]{2}) [0-9:]{5,8}\s+([0-9]{1,18})\s*")
"""What stands behind a link: a time, and a size in bytes, and nothing more."""
_TITLE = re.compile(r"\s*(?:Index of|Directory listing)\b", re.IGNORECASE)
_SORTED = re.compile(r"\?C=[NMSD];O=[AD]")
_MARK = "\ufeff".encode()
_ENDS = frozenset(("a", "tr", "hr", "pre", "table", "address", "li", "ul"))


def _bad(text: str) -> CorruptData:
    return CorruptData(text, backend=NAME)


# -- index pages -------------------------------------------------------------------------------------------------------


class _Links(HTMLParser):
    """Each link of a page, and the text behind it in the same row; and whether a heading says that it is an index."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, list[str]]] = []
        self.is_titled = False
        self._behind = self._heads = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._heads = tag in ("title", "h1")
        if tag in _ENDS:
            self._behind = False
        href = dict(attrs).get("href") if tag == "a" else None
        if href:
            self.found.append((href, []))

    def handle_endtag(self, tag: str) -> None:
        self._heads = False
        if tag in _ENDS:
            self._behind = tag == "a" and bool(self.found)
        elif tag == "td" and self._behind:
            self.found[-1][1].append(" ")

    def handle_data(self, data: str) -> None:
        if self._heads and _TITLE.match(data):
            self.is_titled = True
        if self._behind:
            self.found[-1][1].append(data)


def index_page(page: bytes, content_type: str, root: Root, folder: str, url: str) -> list[ObjectInfo]:
    """The entries of ``folder`` on its index page: nginx's in HTML or JSON, Apache's, Python's. A page in HTML tells
    the minute of a change and not the second, so it tells no time here; and a size only where it is given in bytes. It
    counts as an index by its heading, or by a link to the folder above or to itself in another order: a login page is
    none."""
    if content_type.startswith("application/json"):
        return _json_index(page, folder)
    if not content_type.startswith(("text/html", "application/xhtml")):
        raise _bad(f"the folder's page is no index but {content_type[:60]!r}")
    links, text_of = _Links(), page.decode("utf-8", "surrogateescape")
    for at in range(0, len(text_of), 4096):  # the parser goes through what is unfinished again and again
        links.feed(text_of[at : at + 4096])
        if len(links.rawdata) > MAX_TAG:
            raise _bad("the folder's page has a tag that never ends")
    links.close()
    if not links.is_titled and not any(_SORTED.fullmatch(href) or _is_above(href, url) for href, _ in links.found):
        raise _bad("the folder's page is no index: it has neither the heading of one nor a link to the folder above")
    head = folder + "/" if folder else ""
    found: dict[str, ObjectInfo] = {}
    for href, text in links.found:
        below = root.below(href, url)
        if below is None or below[1] or not below[0].startswith(head):
            continue  # the parent, a way to sort, somewhere else
        name = below[0][len(head) :]
        is_folder = name.endswith("/")
        name = name[:-1] if is_folder else name
        if not _is_name(name):
            continue
        size = None if is_folder else _SIZE.fullmatch("".join(text)[:500])
        found[head + name] = ObjectInfo(
            head + name, None if size is None else int(size[1]), kind="dir" if is_folder else "file"
        )
    return list(found.values())


def _is_above(href: str, url: str) -> bool:
    """Whether a link on the page of the folder ``url`` leads to the folder above it."""
    try:
        return unquote(urlsplit(urljoin(url, href)).path) == unquote(urlsplit(urljoin(url, "../")).path)
    except ValueError:
        return False


def _json_index(page: bytes, folder: str) -> list[ObjectInfo]:
    """nginx with ``autoindex_format json``."""
    head = folder + "/" if folder else ""
    rows = _json(page)
    if not isinstance(rows, list):
        raise _bad("the folder's page is no index: JSON, and no list")
    found = []
    for row in rows:
        name = row.get("name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not _is_name(name):
            raise _bad("the folder's index holds an entry without a name")
        kind = row.get("type")
        if kind == "directory":
            found.append(ObjectInfo(head + name, kind="dir"))
        elif kind == "file":
            size = row.get("size")
            known = type(size) is int and size >= 0
            found.append(ObjectInfo(head + name, size if known else None, _moment(row.get("mtime"))))
    return found


def _is_name(name: str) -> bool:
    """Whether ``name`` is one segment, and none that leads elsewhere."""
    try:
        sort_key(name)
    except UnicodeEncodeError:
        return False
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _json(text: bytes | bytearray) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(f"the listing is no JSON: {type(error).__name__}") from error


# -- manifests ---------------------------------------------------------------------------------------------------------


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
        yield from (_object(row) for row in _json(_held(pieces, min(limit, MAX_PAGE))))
        return
    read: Callable[[bytes], ObjectInfo] = _json_line if kind == b"{" else _text_line
    for line in _lines(pieces, limit):
        if line.strip():
            yield read(line)


def _held(pieces: Iterable[bytes], limit: int) -> bytearray:
    whole = bytearray()
    for piece in pieces:
        whole += piece
        if len(whole) > limit:
            raise _bad(f"the listing is one JSON list of more than {limit} bytes: an object in each line has no end")
    return whole


def _lines(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    rest, total = b"", 0
    for piece in pieces:
        total += len(piece)
        if total > limit:
            raise _bad(f"the listing has more than {limit} bytes")
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.rstrip(b"\r") for line in whole)
        if len(rest) > MAX_LINE:
            raise _bad("the listing has a line that never ends")
    if rest:
        yield rest


def _json_line(line: bytes) -> ObjectInfo:
    return _object(_json(line))


def _text_line(line: bytes) -> ObjectInfo:
    path, *more = line.decode("utf-8", "surrogateescape").split("\t")
    size, etag, modified = [*more, "", "", ""][:3]
    if size and number(size) is None:
        raise _bad("the size in a manifest's line is no number")
    return ObjectInfo(path, number(size), _moment(modified or None), "file", etag_token(etag or None))


def _object(row: Any) -> ObjectInfo:
    if isinstance(row, str):
        return ObjectInfo(row)
    if not isinstance(row, dict):
        raise _bad("an entry of the manifest is neither a path nor an object with one")

    def said(*names: str) -> Any:
        return next((row[name] for name in names if row.get(name) is not None), None)

    path, size = said("path", "name", "key"), said("size", "bytes")
    if not isinstance(path, str) or (size is not None and (type(size) is not int or size < 0)):
        raise _bad("an entry of the manifest has no path, or a size that is none")
    told = row.get("hashes")
    listed: dict[str, Any] = told if isinstance(told, dict) else {}
    hashes = {
        name: value.lower()
        for name in ("md5", "sha1", "sha256", "sha512", "crc32c")
        if isinstance(value := row.get(name) or listed.get(name), str)
    }
    return ObjectInfo(
        path, size, _moment(said("modified", "modified_at", "last_modified")), "file", etag_token(said("etag")), None,
        said("content_type"), hashes or None,
    )  # fmt: skip


def etag_token(value: Any) -> str | None:
    """An etag as others write it, with or without quotes."""
    if not isinstance(value, str) or not value:
        return None
    return etag_of(value) or value.strip('"')


def _moment(value: Any) -> datetime | None:
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


# -- XML ---------------------------------------------------------------------------------------------------------------


class Xml:
    """Feeds a document to ``text(path, value)``, called at each element's end with the names that lead to it."""

    def __init__(self, text: Callable[[tuple[str, ...], str], None]) -> None:
        self._text = text
        self._names: list[str] = []
        self._value: list[str] = []
        self._held = 0
        parser = self._parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data

    def feed(self, data: bytes, *, last: bool = False) -> None:
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            raise _bad(f"the listing is no XML: {error}") from error

    def _refuse(self, *_: Any) -> None:
        raise _bad("the listing has a document type, which may hold entities: refused")

    def _start(self, name: str, _: Any) -> None:
        if len(self._names) >= MAX_DEPTH:
            raise _bad("the listing's XML is too deep")
        self._names.append(name)
        self._value.clear()
        self._held = 0

    def _end(self, _: str) -> None:
        self._text(tuple(self._names), "".join(self._value).strip())
        self._names.pop()
        self._value.clear()
        self._held = 0

    def _data(self, text: str) -> None:
        self._held += len(text)
        if self._held > MAX_TEXT:
            raise _bad("the listing's XML has a text that never ends")
        self._value.append(text)


class Place(NamedTuple):
    """An entry of a sitemap: a page, or another sitemap."""

    url: str
    modified_at: datetime | None
    is_sitemap: bool


def sitemap(pieces: Iterable[bytes], limit: int) -> Iterator[Place]:
    """The entries of a sitemap or a sitemap index (sitemaps.org, protocol 0.9). A day is no time of a change."""
    found: list[Place] = []
    held: dict[str, str] = {}

    def text(names: tuple[str, ...], value: str) -> None:
        last = names[-1].rpartition(" ")[2]
        if last in ("loc", "lastmod") and len(names) == 3:
            held[last] = value
        elif last in ("url", "sitemap") and len(names) == 2:
            if not held.get("loc"):
                raise _bad("the sitemap has an entry without an address")
            moment = held.get("lastmod", "")
            found.append(Place(held["loc"], _moment(moment) if "T" in moment else None, last == "sitemap"))
            held.clear()
        elif len(names) == 1 and last not in ("urlset", "sitemapindex"):
            raise _bad(f"this is no sitemap but <{last[:40]}>")

    xml, total = Xml(text), 0
    for piece in pieces:
        total += len(piece)
        if total > limit:
            raise _bad(f"the sitemap has more than {limit} bytes")
        xml.feed(piece)
        yield from found
        found.clear()
    xml.feed(b"", last=True)
    yield from found


PROPFIND = (
    b'<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop><D:resourcetype/><D:getcontentlength/>'
    b"<D:getlastmodified/><D:getetag/><D:getcontenttype/></D:prop></D:propfind>"
)


class Member(NamedTuple):
    """What a multistatus says of one resource: its link, its own status (0: none), and its properties that were
    found."""

    href: str
    status: int
    props: Mapping[str, str]
    is_folder: bool


def multistatus(page: bytes) -> list[Member]:
    """RFC 4918, section 13. A property under a status that is not 2xx is none."""
    found: list[Member] = []
    props: dict[str, str] = {}
    kept: dict[str, str] = {}
    one: dict[str, Any] = {}

    def text(names: tuple[str, ...], value: str) -> None:
        match [name.removeprefix("DAV: ") for name in names]:
            case ["multistatus", "response", "href"]:
                one["href"] = value
            case ["multistatus", "response", "status"]:
                one["status"] = _status(value)
            case ["multistatus", "response", "propstat", "prop", "resourcetype", "collection"]:
                props["collection"] = "yes"
            case ["multistatus", "response", "propstat", "prop", name]:
                props[name] = value
            case ["multistatus", "response", "propstat", "status"]:
                one["found"] = 200 <= _status(value) < 300
            case ["multistatus", "response", "propstat"]:
                if one.pop("found", True):
                    kept.update(props)
                props.clear()
            case ["multistatus", "response"]:
                if "href" not in one:
                    raise _bad("the server lists something without a name")
                found.append(Member(one["href"], one.get("status", 0), dict(kept), "collection" in kept))
                kept.clear()
                one.clear()
            case [other] if other != "multistatus":
                raise _bad(f"the server answers with <{other[:40]}> and no multistatus")

    xml = Xml(text)
    xml.feed(page, last=True)
    return found


def _status(line: str) -> int:
    """The code in ``HTTP/1.1 200 OK``."""
    words = line.split()
    return number(words[1]) or 0 if len(words) > 1 else 0


def member_info(member: Member, path: str) -> ObjectInfo:
    """What a multistatus says of ``path``."""
    if member.is_folder:
        return ObjectInfo(path, kind="dir")
    if member.href.endswith("/") and "resourcetype" not in member.props:
        raise PermissionDenied("the server does not say what this is, by its name a folder", path=path, backend=NAME)
    return ObjectInfo(
        path,
        number(member.props.get("getcontentlength")),
        time_of(member.props.get("getlastmodified")),
        "file",
        etag_token(member.props.get("getetag")),
        None,
        member.props.get("getcontenttype") or None,
    )
