"""What servers write about many objects at once: index pages, sitemaps, WebDAV's multistatus. Pure.

All of it comes from outside. It is parsed as it comes and never held as a whole; sizes, depths and the number of
entries are bounded. A document type (and with it every entity) is refused, and a link counts only if it lies below the
root.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from html.parser import HTMLParser
from itertools import islice
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urljoin, urlsplit
from xml.parsers import expat

from omnistorage.core import ObjectInfo
from omnistorage.errors import InvalidPath, PermissionDenied
from omnistorage.paths import sort_key

from .manifests import UTF8, bad, bounded, etag_token, json_rows, moment_of
from .responses import is_size, number, time_of
from .settings import NAME
from .urls import Root

T = TypeVar("T")
MAX_PAGE = 4 << 20
"""The longest index page of one folder, in bytes."""
MAX_MULTISTATUS = 64 << 20
"""The longest answer to PROPFIND, in bytes: an entry takes up to a thousand of them."""
MAX_ENTRIES = 50_000
"""So many entries a page or multistatus has at most: they are held and sorted."""
MAX_IDLE = 4096
"""So many tags or elements in a row may name nothing new."""
LINK_COST = 8
"""A link that names nothing new counts as so many tags: it takes as long."""
MAX_ROW = 500
"""So much of the text after a link is looked at."""
MAX_TAG = 1 << 14
MAX_TEXT = 1 << 16
MAX_DEPTH = 64
MAX_TOKEN = 1 << 13
"""The longest tag or comment in XML, in bytes, and how much the parser gets at once. It begins a tag that is not whole
again with each piece; and it puts the URI of a namespace before each name in it, before anybody is asked."""
MAX_URI = 256
"""The longest URI of a namespace in XML."""
MAX_NAMES = 4096
"""So many different names of elements, attributes and namespaces a document has at most: the parser keeps them all."""
MAX_NAMED = 1 << 20
"""So many characters all of these names have at most."""
MAX_URL = 2048
"""The longest URL in a sitemap (sitemaps.org, protocol 0.9)."""
_SIZE = re.compile(r"\s*(?:[0-9]{2}-[A-Z][a-z]{2}-[0-9]{4}|[0-9]{4}-[0-9]{2}-[0-9]{2}) [0-9:]{5,8}\s+([0-9]{1,18})\s*")
"""What stands behind a link: a time, and a size in bytes, and nothing more."""
_TITLE = re.compile(r"\s*(?:Index of|Directory listing)\b", re.IGNORECASE)
_SORTED = re.compile(r"\?C=[NMSD];O=[AD]")
_ENDS = frozenset(("a", "tr", "hr", "pre", "table", "address", "li", "ul"))


# -- index pages -------------------------------------------------------------------------------------------------------


class _Links(HTMLParser):
    """The entries of a folder's page: each link to one, and the text after it in the same row."""

    def __init__(self, root: Root, folder: str, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.entries: dict[str, ObjectInfo] = {}
        self.is_index = False
        """Whether a heading says that it is an index, or a link leads to the folder above or to another order."""
        self.refused: InvalidPath | None = None
        self._root, self._url = root, url
        self._head = folder + "/" if folder else ""
        self._idle = 0
        self._name = self._text = ""
        """The file whose size may come now, and the text since its link."""
        self._after = self._heads = False

    def _count(self) -> None:
        self._idle += 1
        if self._idle > MAX_IDLE:
            raise bad("the folder's page is no index: it goes on and names nothing new")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._count()
        self._heads = tag in ("title", "h1")
        if tag in _ENDS:
            self._after = False
        href = dict(attrs).get("href") if tag == "a" else None
        if href:
            self._end_row()
            self._idle += LINK_COST
            self.is_index = self.is_index or _SORTED.fullmatch(href) is not None or _is_above(href, self._url)
            self._take(href)

    def handle_endtag(self, tag: str) -> None:
        self._count()
        self._heads = False
        if tag in _ENDS:
            self._after = tag == "a"
        elif tag == "td":
            self._text += " "

    def handle_data(self, data: str) -> None:
        self._count()
        if self._heads and _TITLE.match(data):
            self.is_index = True
        if self._after and len(self._text) < MAX_ROW:
            self._text += data[:MAX_ROW]

    def handle_comment(self, data: str) -> None:
        self._count()

    def _take(self, href: str) -> None:
        """Note the entry that a link names. Others are the parent, a way to sort, somewhere else."""
        try:
            below = self._root.below(href, self._url)
        except InvalidPath as error:
            self.refused = error
            return
        if below is None or below[1] or not below[0].startswith(self._head):
            return
        name = below[0][len(self._head) :]
        is_folder = name.endswith("/")
        name = name[:-1] if is_folder else name
        if not is_name(name):
            return
        path = self._head + name
        if path not in self.entries:
            self._idle = 0
            check_entries(len(self.entries))
        if is_folder:
            self.entries[path] = ObjectInfo(path, kind="dir")
        else:
            self._name = path

    def _end_row(self) -> None:
        """The text since the last link is complete: it may be the size of a file."""
        if self._name:
            size = _SIZE.fullmatch(self._text[:MAX_ROW])
            self.entries[self._name] = ObjectInfo(self._name, None if size is None else int(size[1]))
            self._name = ""
        self._text = ""

    def close(self) -> None:
        super().close()
        self._end_row()


def check_entries(count: int) -> None:
    """Raise ``CorruptData`` if a page that has named ``count`` entries may not name another."""
    if count >= MAX_ENTRIES:
        raise bad(f"the server lists more than {MAX_ENTRIES} entries in one folder")


def index_page(pieces: Iterable[bytes], content_type: str, root: Root, folder: str, url: str) -> list[ObjectInfo]:
    """The entries of ``folder`` on its index page: nginx's in HTML or JSON, Apache's, Python's. A page in HTML tells
    the minute of a change and not the second, so it tells no time here; and a size only where it is given in bytes. It
    counts as an index by its heading, or by a link to the folder above or to itself in another order: a login page is
    none."""
    if content_type.startswith("application/json"):
        return _json_index(pieces, folder)
    if not content_type.startswith(("text/html", "application/xhtml")):
        raise bad(f"the folder's page is no index but {content_type[:60]!r}")
    links, decoder = _Links(root, folder, url), UTF8("surrogateescape")
    for piece in pieces:
        text = decoder.decode(piece)
        for at in range(0, len(text), 4096):  # the parser goes through what is unfinished again and again
            links.feed(text[at : at + 4096])
            if len(links.rawdata) > MAX_TAG:
                raise bad("the folder's page has a tag that never ends")
    links.feed(decoder.decode(b"", True))
    links.close()
    if not links.is_index:
        raise bad("the folder's page is no index: it has neither the heading of one nor a link to the folder above")
    if links.refused is not None:
        raise links.refused
    return list(links.entries.values())


def _is_above(href: str, url: str) -> bool:
    """Whether a link on the page of the folder ``url`` leads to the folder above it."""
    try:
        return unquote(urlsplit(urljoin(url, href)).path) == unquote(urlsplit(urljoin(url, "../")).path)
    except ValueError:
        return False


def _json_index(pieces: Iterable[bytes], folder: str) -> list[ObjectInfo]:
    """nginx with ``autoindex_format json``."""
    head = folder + "/" if folder else ""
    found: list[ObjectInfo] = []
    for count, row in enumerate(json_rows(pieces, MAX_PAGE)):
        check_entries(count)
        name = row.get("name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not is_name(name):
            raise bad("the folder's index holds an entry without a name")
        kind = row.get("type")
        if kind == "directory":
            found.append(ObjectInfo(head + name, kind="dir"))
        elif kind == "file":
            size = row.get("size")
            found.append(ObjectInfo(head + name, size if is_size(size) else None, moment_of(row.get("mtime"))))
    return found


def is_name(name: str) -> bool:
    """Whether ``name`` is one segment, and none that leads elsewhere."""
    try:
        sort_key(name)
    except UnicodeEncodeError:
        return False
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


# -- XML ---------------------------------------------------------------------------------------------------------------


class Xml:
    """Feeds a document to ``text(path, value)``, called at each element's end with the names that lead to it."""

    def __init__(self, text: Callable[[tuple[str, ...], str], None]) -> None:
        self._text = text
        self._names: list[str] = []
        self._value: list[str] = []
        self._held = self._fed = 0
        self._known: dict[str, Any] = {}  # also None, as the prefix of names without one
        self._counted = self._named = 0
        self.idle = 0
        """Elements since the last entry, whose reader sets this to zero."""
        parser = self._parser = expat.ParserCreate(namespace_separator=" ", intern=self._known)
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = self._refuse
        parser.StartNamespaceDeclHandler = self._namespace
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data

    def feed(self, data: bytes, *, last: bool = False) -> None:
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            raise bad(f"the listing is no XML: {error}") from error
        self._fed += len(data)
        if self._fed - self._parser.CurrentByteIndex > MAX_TOKEN:
            raise bad("the listing's XML has a tag or comment that never ends")

    def _namespace(self, prefix: str | None, uri: str | None) -> None:
        if max(len(prefix or ""), len(uri or "")) > MAX_URI:
            raise bad("the listing's XML has a namespace with a long name")
        self._count_names()

    def _count_names(self) -> None:
        new = len(self._known) - self._counted
        if new:
            self._counted += new
            self._named += sum(len(name or "") for name in islice(reversed(self._known), new))
        if self._counted > MAX_NAMES or self._named > MAX_NAMED:
            raise bad("the listing's XML has ever new names of elements")

    def _refuse(self, *_: Any) -> None:
        raise bad("the listing has a document type, which may hold entities: refused")

    def _start(self, name: str, _: Any) -> None:
        if len(self._names) >= MAX_DEPTH:
            raise bad("the listing's XML is too deep")
        self._count_names()
        self.idle += 1
        if self.idle > MAX_IDLE:
            raise bad("the listing's XML goes on and has no entry")
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
            raise bad("the listing's XML has a text that never ends")
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
            if len(value) > MAX_URL:
                raise bad(f"the sitemap has a <{last}> of more than {MAX_URL} characters")
            held[last] = value
        elif last in ("url", "sitemap") and len(names) == 2:
            if not held.get("loc"):
                raise bad("the sitemap has an entry without an address")
            moment = held.get("lastmod", "")
            found.append(Place(held["loc"], moment_of(moment) if "T" in moment else None, last == "sitemap"))
            held.clear()
            xml.idle = 0
        elif len(names) == 1 and last not in ("urlset", "sitemapindex"):
            raise bad(f"this is no sitemap but <{last[:40]}>")

    xml = Xml(text)
    return _fed(xml, bounded(pieces, limit), found)


def _fed(xml: Xml, pieces: Iterable[bytes], found: list[T]) -> Iterator[T]:
    """What ``xml`` puts into ``found``, as it comes."""
    for piece in pieces:
        for at in range(0, len(piece), MAX_TOKEN):
            xml.feed(piece[at : at + MAX_TOKEN])
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


def multistatus(pieces: Iterable[bytes]) -> Iterator[Member]:
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
                    raise bad("the server lists something without a name")
                found.append(Member(one["href"], one.get("status", 0), dict(kept), "collection" in kept))
                kept.clear()
                one.clear()
                xml.idle = 0
            case [other] if other != "multistatus":
                raise bad(f"the server answers with <{other[:40]}> and no multistatus")

    xml = Xml(text)
    return _fed(xml, pieces, found)


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
