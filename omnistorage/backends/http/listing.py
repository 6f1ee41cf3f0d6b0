"""Listing over HTTP: HTTP has no listing, so it is what an index page, a sitemap, a manifest or WebDAV says.

Index pages and WebDAV are walked folder by folder, in the order of the keys; a manifest or a sitemap is read from its
beginning, in its own order. Nothing is kept between two listings.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from omnistorage.core import ListOptions, ObjectInfo, ReadOptions
from omnistorage.core.external_sort import sort_entries
from omnistorage.errors import (
    CapabilityNotSupported,
    CorruptData,
    InvalidPath,
    NotFound,
    PermissionDenied,
    StorageError,
)
from omnistorage.paths import check_key, is_under, sort_key

from .listing_parsers import (
    MAX_DEPTH,
    MAX_MULTISTATUS,
    MAX_PAGE,
    PROPFIND,
    Member,
    check_entries,
    index_page,
    is_name,
    member_info,
    multistatus,
    sitemap,
)
from .manifests import manifest
from .reader import Core
from .settings import NAME
from .urls import is_hidden

T = TypeVar("T")
MAX_MANIFEST = 8 << 30
MAX_SITEMAP = 50 << 20
"""By the protocol a sitemap has at most so many bytes, decompressed."""
MAX_NESTED = 3
MAX_SITEMAPS = 50_000
"""So many sitemaps an index names by the protocol; here all indexes together."""
MAX_REPEATS = 100
"""So often a multistatus may name what it has named before. RFC 4918, section 14.24, allows it not once."""
REMEMBERED = 16 << 20
"""So much memory the names of a document may take that are kept, to leave out what it names twice; in bytes."""
NAME_COST = 128
"""What a name takes besides its characters."""
RUN = 20_000
"""Entries of a folder that are sorted in memory; more are sorted on disk."""
BLOCK = 64 * 1024
DEEPEST = 4 * MAX_DEPTH
"""So many folders lie in each other at most."""


class Listing(Core):
    """``list`` and ``list_dir`` by what the configuration names."""

    listing: str | None = None
    listing_path = ""
    webdav = False

    @property
    def _propfind(self) -> bool:
        """Whether the server is asked by PROPFIND."""
        return self.webdav and self.listing is None

    def _why_not(self, path: str) -> str | None:
        """Why no URL stands for ``path``: a server of folders drops an empty segment and takes another object."""
        if (self.webdav or self.listing == "index") and ("//" in path or path.startswith("/")):
            return "a server of folders drops empty segments, and would take another object: give the name without them"
        return super()._why_not(path)

    # -- folder by folder ----------------------------------------------------------------------------------------------

    def _folder(self, path: str, op: str) -> list[ObjectInfo]:
        """The entries of one folder, unsorted; ``NotFound`` if there is none."""
        return self.run(op, path, lambda: self._members(path) if self._propfind else self._index(path))

    def _index(self, path: str) -> list[ObjectInfo]:
        url = self.root.folder(path)

        def parse(answer: Any, pieces: Iterator[bytes]) -> list[ObjectInfo]:
            return index_page(pieces, answer.headers.get("Content-Type", "").lower(), self.root, path, url)

        return self.client.parsed("GET", url, None, MAX_PAGE, parse)

    def _members(self, path: str) -> list[ObjectInfo]:
        """By PROPFIND of depth 1, never infinity: many servers refuse that, and the answer would have no end."""
        url = self.root.folder(path)
        found = dict[str, ObjectInfo]()

        def take(members: Iterator[Member]) -> bool:
            """Whether ``path`` itself is among them, as a folder."""
            is_folder, repeats = False, -1  # the folder is no repetition when it comes first
            for member in members:
                name = self._member_name(member, path, url)
                repeats += name == path or name in found
                if repeats > MAX_REPEATS:
                    raise CorruptData("the server lists the same name again and again", path=path, backend=NAME)
                if name == path:
                    is_folder = is_folder or member.is_folder
                    continue
                check_entries(len(found))
                found[name] = member_info(member, name)
            return is_folder

        if not self._propfound(url, "1", take):
            raise NotFound("no such folder", path=path, backend=NAME)
        return list(found.values())

    def _member_name(self, member: Member, path: str, url: str) -> str:
        """The path of what a server lists for the folder ``path``: the folder itself, or an entry of it."""
        below = self.root.below(member.href, url)
        if below is None:
            raise CorruptData(
                "the server lists what is not below the root: is the root the server's own name for itself?",
                path=path, backend=NAME,
            )  # fmt: skip
        name, head = below[0], path + "/" if path else ""
        if name.rstrip("/") == path:
            return path
        name = name[:-1] if name.endswith("/") else name
        if not name.startswith(head) or not is_name(name[len(head) :]):
            raise CorruptData("the server lists what is not in the folder, or has no name", path=path, backend=NAME)
        if member.status >= 400:
            raise PermissionDenied(f"the server lists {name!r} with HTTP {member.status}", backend=NAME)
        return name

    def _propfound(self, url: str, depth: str, take: Callable[[Iterator[Member]], T]) -> T:
        """What ``take`` makes of the answer to PROPFIND."""

        def parse(answer: Any, pieces: Iterator[bytes]) -> T:
            if answer.status != 207:
                raise CapabilityNotSupported(
                    "the server does not know PROPFIND: is it WebDAV? listing='index' lists by pages", capability="list"
                )
            return take(multistatus(pieces))

        headers = {"Depth": depth, "Content-Type": "application/xml; charset=utf-8"}
        return self.client.parsed("PROPFIND", url, headers, MAX_MULTISTATUS, parse, PROPFIND)

    def _walked(self, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
        def read(folder: str) -> list[ObjectInfo]:
            try:
                return self._folder(folder[:-1], "list")
            except NotFound:
                if folder != head or not prefix:
                    raise
                self._folder("", "list")  # a folder may be missing, the root may not
                return []

        head = prefix + "/" if prefix else ""
        return walk(read, head, options)

    # -- documents -----------------------------------------------------------------------------------------------------

    def _documented(self, op: str, options: ListOptions) -> Iterator[ObjectInfo]:
        """Every object that the manifest or the sitemap names."""
        place, seen = self.listing_path, Seen()
        url = self.root.document(place)
        is_list = self.listing == "manifest"
        rows = manifest(self._pieces(url, place), MAX_MANIFEST) if is_list else self._mapped(url, options)
        for info in rows:
            if not info.path or info.path.endswith("/") or not seen.is_new(info.path):
                continue
            if self._nameable(info.path, op, options):
                yield info

    def _nameable(self, path: str, op: str, options: ListOptions) -> bool:
        """Whether a listed name can be a path here; one that cannot is reported, or raises."""
        try:
            check_key(path, op=op)
            self._key(path, op)
        except InvalidPath as error:
            _report(error, options)
            return False
        return True

    def _pieces(self, url: str, place: str) -> Iterator[bytes]:
        with self._open_url(url, place, ReadOptions(), document=True) as reader:
            while piece := reader.read(BLOCK):
                yield piece

    def _mapped(self, top: str, options: ListOptions) -> Iterator[ObjectInfo]:
        waiting, seen = [(top, 0)], {top}
        while waiting:
            url, depth = waiting.pop()
            for place in sitemap(_unpacked(self._pieces(url, self.listing_path)), MAX_SITEMAP):
                if place.is_sitemap:
                    if place.url in seen:
                        continue
                    if depth + 1 >= MAX_NESTED or not place.url.startswith(self.root.site + "/"):
                        raise CorruptData("the sitemap leads to sitemaps too deep, or of another server", backend=NAME)
                    if len(seen) > MAX_SITEMAPS:
                        raise CorruptData(f"the sitemap leads to more than {MAX_SITEMAPS} sitemaps", backend=NAME)
                    seen.add(place.url)
                    waiting.append((place.url, depth + 1))
                    continue
                try:
                    name = self._mapped_name(place.url, url)
                except InvalidPath as error:
                    _report(error, options)
                    continue
                if name is not None:
                    yield ObjectInfo(name, None, place.modified_at)

    def _mapped_name(self, link: str, base: str) -> str | None:
        """The path of a sitemap's entry; None for what lies beside the root."""
        below = self.root.below(link, base)
        scheme, _, place = link.partition("://")
        ours, _, host = f"{self.root.site}/".partition("://")
        if below is None and scheme != ours and place.startswith(host):
            raise InvalidPath(f"the sitemap names {link[:200]!r}, and the root has another scheme")
        if below is not None and below[1]:
            raise InvalidPath(f"the sitemap names {link[:200]!r}, and no path here has a query")
        return None if below is None else below[0]

    # -- the two calls -------------------------------------------------------------------------------------------------

    def _list(self, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
        if prefix and self._why_not(prefix) is not None:
            return iter(())
        if self.listing in (None, "index"):
            return self._walked(prefix, options)
        after = None if options.start_after is None else sort_key(options.start_after)
        return (
            info
            for info in self._documented("list", options)
            if is_under(info.path, prefix) and (after is None or sort_key(info.path) > after)
        )

    def _list_dir(self, path: str) -> Iterator[ObjectInfo]:
        if path:
            self._key(path, "list_dir")
        if self.listing in (None, "index"):
            yield from (info for _, info in visible(self._folder(path, "list_dir")))
        else:
            yield from self._collapsed(path)

    def _collapsed(self, path: str) -> Iterator[ObjectInfo]:
        head, before = path + "/" if path else "", None
        for info in sort_entries(self._children(head), _order, run=RUN):
            if (info.path, info.kind) != before and not is_hidden(info.name):
                yield info
            before = info.path, info.kind
        if path and before is None:
            raise NotFound("no such folder", path=path, op="list_dir", backend=NAME)

    def _children(self, head: str) -> Iterator[ObjectInfo]:
        """What a document names in the folder ``head``, each folder perhaps several times."""
        folders = Seen()
        for info in self._documented("list_dir", ListOptions()):
            if info.path.startswith(head):
                name, slash, _ = info.path[len(head) :].partition("/")
                if not slash:
                    yield info
                elif folders.is_new(name):
                    yield ObjectInfo(head + name, kind="dir")

    def check_health(self) -> None:
        self._enter("read", "check_health", "")
        if self._propfind:
            self._folder("", "check_health")
        elif self.listing is None or self.listing == "index":
            super().check_health()
        else:
            url = self.root.document(self.listing_path)
            self.run("check_health", "", lambda: self.client.head(url, self.listing_path))


class Seen:
    """The names that came before, as many as 16 MiB hold."""

    def __init__(self) -> None:
        self._names = set[str]()
        self._room = REMEMBERED

    def is_new(self, name: str) -> bool:
        """Note ``name``; False if it is known to have come before."""
        if name in self._names:
            return False
        if self._room > 0:
            self._room -= NAME_COST + len(name)
            self._names.add(name)
        return True


def _order(info: ObjectInfo) -> bytes:
    """Folders sort with their slash."""
    return sort_key(info.path + "/" * info.is_dir)


def _report(error: StorageError, options: ListOptions) -> None:
    """Of what is listed and cannot be a path."""
    error.backend = NAME
    if options.on_error is None:
        raise error
    options.on_error(error)


def visible(rows: Iterable[ObjectInfo], after: bytes | None = None) -> list[tuple[bytes, ObjectInfo]]:
    """Sorted by the names' UTF-8 bytes, a folder's with its slash; without temporaries, and without what lies wholly at
    or before ``after``."""
    keyed = [(_order(info), info) for info in rows if not is_hidden(info.name)]
    if after is not None:
        keyed = [row for row in keyed if row[0] > after or (row[1].is_dir and after.startswith(row[0]))]
    keyed.sort(key=lambda row: row[0])
    return keyed


def walk(read: Callable[[str], list[ObjectInfo]], head: str, options: ListOptions) -> Iterator[ObjectInfo]:
    """Every file under the folder ``head`` in the order of the keys; ``read`` gives the entries of one folder."""
    after = None if options.start_after is None else sort_key(options.start_after)
    key = sort_key(head)
    if after is not None and not after.startswith(key) and after > key:
        return
    levels = [iter(visible(read(head), after))]
    while levels:
        for _, info in levels[-1]:
            if not info.is_dir:
                yield info
                continue
            if len(levels) >= DEEPEST:
                raise CorruptData("folders inside folders without an end", path=info.path, backend=NAME)
            try:
                levels.append(iter(visible(read(info.path + "/"), after)))
            except StorageError as error:
                if options.on_error is None:
                    raise
                options.on_error(error)
                continue
            break
        else:
            levels.pop()


def _unpacked(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """A sitemap as it is, or out of gzip, told by its first bytes; never more than a block at once."""
    first = next(pieces, b"")
    if first[:2] != b"\x1f\x8b":
        yield first
        yield from pieces
        return
    engine = zlib.decompressobj(31)
    try:
        for piece in itertools.chain((first,), pieces):
            yield from _inflated(engine, piece)
    except zlib.error as error:
        raise CorruptData(f"the sitemap's gzip is damaged: {error}", backend=NAME) from error
    if not engine.eof:
        raise CorruptData("the sitemap's gzip is cut off", backend=NAME)


def _inflated(engine: zlib._Decompress, piece: bytes) -> Iterator[bytes]:
    while True:
        data = engine.decompress(piece, BLOCK)
        piece = engine.unconsumed_tail
        if data:
            yield data
        if not piece and len(data) < BLOCK:
            return
