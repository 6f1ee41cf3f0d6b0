"""One side of a sync: a backend, the folder in it, and its listing in merge order.

A folder compares as its name plus ``/``: a depth-first walk of a file system then has the order of a flat key listing,
and both merge without sorting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from omnistorage import ops
from omnistorage.config import BackendConfig, locate, open_backend
from omnistorage.core import Backend, ExtendedBackend, Features, ObjectInfo, learned
from omnistorage.errors import BucketNotFound, ConfigError, ListingDisorder, NotFound, StorageError
from omnistorage.paths import is_under, is_walkable, join
from omnistorage.wrappers import Prefix

from .entries import Entry, Fold
from .filters import Filter
from .listing.key_ranges import in_ranges
from .listing.metadata_lookup import with_metadata
from .listing.range_boundaries import encoded

Place = str | PathLike[str] | Mapping[str, Any] | BackendConfig | Backend | Any
OnError = Callable[[StorageError], None]
_MOST_LINKS = 8


class Side:
    """A backend and a folder in it. ``role`` is ``"source"`` or ``"destination"``; what ``open`` opened, ``close``
    closes. A ``private`` one on the local disk is for its owner alone."""

    def __init__(
        self, place: Place, role: str, defaults: Mapping[str, Any] | None = None, *, private: bool = False
    ) -> None:
        if private:
            defaults = {**(defaults or {}), "private": True}
        self.role = role
        self._mine: list[Backend] = []
        self.prefix = ""
        if isinstance(place, str | PathLike):
            backend, self.prefix = locate(place, is_object=False, defaults=defaults)
            self._mine.append(backend)
        elif isinstance(place, Mapping | BackendConfig):
            backend, self.prefix = opened(place, defaults)
            self._mine.append(backend)
        else:
            backend = ops.extended(_a_backend(place, role))
        inner = bare(backend)
        while isinstance(inner, Prefix):
            self.prefix = join(inner.prefix, self.prefix)
            inner = bare(inner.inner)
        self.backend: ExtendedBackend = ops.extended(inner)
        self.features = self.backend.features
        self._cut = len(self.prefix) + 1 if self.prefix else 0
        self._followed: set[str] = set()  # links that were taken for the folders they lead to

    def learn_features(self) -> Features:
        """The features, after the backend has learned its own. See ``core.learned``."""
        self.features = learned(self.backend)
        return self.features

    def close(self) -> None:
        while self._mine:
            self._mine.pop().close()

    # -- names ---------------------------------------------------------------------------------------------------------

    def key(self, path: str) -> str:
        """The backend's key of a relative path."""
        return f"{self.prefix}/{path}" if self._cut else path

    def relative(self, key: str) -> str:
        """The relative path of a backend's key; ``""`` for the folder itself and for what lies outside."""
        return key[self._cut :] if is_under(key, self.prefix) else ""

    @property
    def url(self) -> str | None:
        """Where it is, with a ``/`` at the end; None where the backend does not say."""
        if not self._cut or self.backend.url is None:
            return self.backend.url
        return Prefix(self.backend, self.prefix).url

    @property
    def shown(self) -> str:
        """What to call it in front of people."""
        return self.url or join(f"<{self.backend.name}>", self.prefix) + "/"

    def where(self, path: str = "") -> str | None:
        """``url``, or that of an object, with symbolic links of the local file system followed, to tell whether two
        places overlap."""
        url = self.url
        if url is None or not url.startswith("file:"):
            return None if url is None else url + path
        found = os.path.realpath(os.path.join(unquote(urlsplit(url).path, errors="surrogateescape"), path))
        return found if path else found.rstrip("/") + "/"

    @property
    def local(self) -> Path | None:
        """The folder as one of the local file system; None where it is none."""
        url = self.url
        if url is None or not url.startswith("file:"):
            return None
        return Path(unquote(urlsplit(url).path, errors="surrogateescape"))

    @property
    def keeps_mtime(self) -> bool:
        """Whether the store's own times are those of uploads, and metadata can keep the times of sources."""
        return self.features.user_metadata and not self.features.set_modified

    def file_in_the_way(self) -> str | None:
        """The file that has the folder's name (of a local one also: that of a folder above it), where a name cannot be
        both. None as well where nobody can tell."""
        path = self.local
        if path is None:
            with suppress(StorageError):
                there = bool(self.prefix) and self.features.dirs and self.backend.exists(self.prefix)
                return self.shown.rstrip("/") if there else None
            return None
        while not os.path.exists(path) and path != path.parent:
            path = path.parent
        return None if os.path.isdir(path) else str(path)

    def look(self, key: str) -> ObjectInfo | None:
        """What the store says of the object under a backend's key now; None if there is none."""
        try:
            if self.features.stat:
                return self.backend.stat(key)
            with self.backend.open_reader(key) as reader:
                return reader.info
        except NotFound:
            return None

    # -- listing -------------------------------------------------------------------------------------------------------

    def entries(
        self,
        filter: Filter,
        *,
        fold: Fold | None = None,
        folders: bool = False,
        follow: bool = False,
        resort: bool = False,
        on_error: OnError | None = None,
        on_double: Callable[[Entry, Entry], None] | None = None,
        on_marked: Callable[[str], None] | None = None,
        readers: int = 8,
        pool: Callable[[int], Executor] = ThreadPoolExecutor,
    ) -> Generator[Entry, None, None]:
        """What lies in the folder, in merge order; with ``folders`` also the folders, where the store has any.

        Where the store promises key order and seeks, a flat listing goes on behind 32,000 entries in ranges of keys, at
        most ``readers`` side by side in an executor that ``pool`` makes (see ``listing.key_ranges``). Where ``filter``
        has rules for metadata and the listing shows none, each object that the other rules let pass is asked for its
        own, in as many calls (see ``listing.metadata_lookup``).

        Raises ``ListingDisorder`` if a store that promises key order breaks it, ``ConfigError`` for a time without a
        zone. Two names that ``fold`` makes one go to ``on_double``, before the first entry is yielded; both are
        yielded. A folder that is dropped with all that is under it for a marker in it goes to ``on_marked`` as its
        relative path, before any entry behind it is yielded.
        """
        marked = on_marked or _unheard
        folds = fold is not None and (fold.case or fold.form)
        side_by_side = None if resort or folds else partial(in_ranges, readers=readers, pool=pool)
        infos, in_order = self._infos(filter, folders and self.features.dirs, follow, on_error, marked, side_by_side)
        if fold is not None and folds:
            found = self._folded(infos, fold, on_double)
        else:
            found = self._ordered(infos if in_order and not resort else ops.sort_entries(infos, key=_merge_key))
        return with_metadata(self.look, found, filter, readers, pool) if filter.metadata_rules else found

    def _infos(
        self,
        filter: Filter,
        folders: bool,
        follow: bool,
        on_error: OnError | None,
        on_marked: Callable[[str], None],
        side_by_side: Callable[..., Iterator[ObjectInfo]] | None,
    ) -> tuple[Iterator[ObjectInfo], bool]:
        """The listing and whether it promises merge order."""
        markers = filter.marker_names
        by_folder = ops.lists_folders(self.backend)
        if (markers or follow) and by_folder:
            return self._walk(filter, folders, follow, on_error, on_marked), True
        descend = None
        if filter.prunes:
            descend = lambda folder: filter.descends(folder[self._cut :])  # noqa: E731
        walk = partial(ops.walk, self.backend, self.prefix, descend=descend, folders=folders, on_error=on_error)
        if side_by_side is not None and descend is None and not folders and self._has_ranges:
            walk = partial(side_by_side, self.backend, self.prefix, on_error=on_error)
        infos = self._unmarked(walk, markers, on_marked) if markers else walk()
        walked = by_folder and (folders or descend is not None)
        return infos, walked or self.features.sorted_list

    @property
    def _has_ranges(self) -> bool:
        """Whether the listing is one of keys, and seeking in it costs nothing. Folders would be walked through again
        for each range, and the pages of a web server hold whole folders."""
        features = self.features
        of_keys = features.sorted_list and features.list_seek and not features.dirs and ops.lists_folders(self.backend)
        return of_keys and not (self.url or "").startswith(("http:", "https:"))

    def _walk(
        self,
        filter: Filter,
        folders: bool,
        follow: bool,
        on_error: OnError | None,
        on_marked: Callable[[str], None],
    ) -> Iterator[ObjectInfo]:
        """Folder by folder: one that holds a marker is passed over whole, and links are looked behind."""
        stack = [iter(self._children(filter, self.prefix, follow, on_error, on_marked) or ())]
        while stack:
            info = next(stack[-1], None)
            if info is None:
                stack.pop()
                continue
            if not info.is_dir:
                yield info
                continue
            descends = is_walkable(info.path, on_error) and filter.descends(info.path[self._cut :])
            inside = self._children(filter, info.path, follow, on_error, on_marked) if descends else []
            if inside is None:
                continue
            if folders:
                yield info
            stack.append(iter(inside))

    def _children(
        self,
        filter: Filter,
        folder: str,
        follow: bool,
        on_error: OnError | None,
        on_marked: Callable[[str], None],
    ) -> list[ObjectInfo] | None:
        """What lies right in ``folder``; None if a marker is among it."""
        try:
            found = list(ops.children(self.backend, folder))
        except NotFound as error:
            empty = folder and folder == self.prefix and not isinstance(error, BucketNotFound)
            found = [] if empty else self._told(error, on_error)
        except StorageError as error:
            found = self._told(error, on_error)
        if filter.has_marker(found):
            on_marked(folder[self._cut :])
            return None
        return sorted((self._behind(info) for info in found), key=_merge_key) if follow else found

    def _unmarked(
        self,
        walk: Callable[[], Iterator[ObjectInfo]],
        markers: tuple[str, ...],
        on_marked: Callable[[str], None],
    ) -> Iterator[ObjectInfo]:
        """A flat listing without the folders that hold a marker. It is read twice rather than held in memory."""
        marked = {folder for info in walk() for folder in self._marked_by(info, markers)}
        for folder in marked:
            on_marked(folder[self._cut :])
        for info in walk():
            if self.prefix not in marked and not any(folder in marked for folder in _above(info.path)):
                yield info

    def _marked_by(self, info: ObjectInfo, markers: tuple[str, ...]) -> Iterator[str]:
        """The folders that an entry marks: by its own name, or by that of a folder it lies in."""
        head, _, name = info.path.rpartition("/")
        name += "/" if info.is_dir else ""
        while True:
            if name in markers:
                yield head
            if head == self.prefix:
                return
            head, _, name = head.rpartition("/")
            name += "/"

    def _told(self, error: StorageError, on_error: OnError | None) -> list[ObjectInfo]:
        if on_error is None:
            raise error
        on_error(error)
        return []

    def _behind(self, info: ObjectInfo) -> ObjectInfo:
        """What a link leads to, under the link's own name; the link itself where it leads nowhere, out of the root, or
        in a circle."""
        if info.kind != "link" or self._leads_back(info.path):
            return info
        try:
            return self.backend.stat(info.path)._replace(path=info.path)
        except StorageError:
            pass
        try:
            next(iter(self.backend.list_dir(info.path)), None)
        except StorageError:
            return info
        self._followed.add(info.path)
        return ObjectInfo(info.path, kind="dir")

    def _leads_back(self, link: str) -> bool:
        """Whether a link leads to a folder that it lies in; where links cannot be seen through, whether it lies behind
        too many others."""
        above = list(_above(link))
        if sum(folder in self._followed for folder in above) >= _MOST_LINKS:
            return True
        if not (self.url or "").startswith("file:"):
            return False
        place = self.where(self.relative(link))
        return any(place == (self.where(self.relative(folder)) or "").rstrip("/") for folder in (*above, self.prefix))

    def _ordered(self, infos: Iterator[ObjectInfo]) -> Generator[Entry, None, None]:
        cut, last = self._cut, b""
        make = tuple.__new__
        for info in infos:
            path = info[0]
            if cut:
                path = path[cut:]
            try:
                key = path.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                key = encoded(path)
            if info[3] == "dir":
                key += b"/"
            if info[2] is not None and info[2].tzinfo is None:
                self._refuse_time(info)
            if key <= last:
                if key == last:  # one name is one object, however often it is listed
                    continue
                raise ListingDisorder(
                    f"the listing of the {self.role} shows {path!r} behind {last.decode('utf-8', 'replace')!r} "
                    "though it promises key order; nothing was deleted. Set sort_listings to have it sorted first",
                    path=path,
                    backend=self.backend.name,
                    op="list",
                )
            last = key
            yield make(Entry, (key, path, info))

    def _folded(
        self, infos: Iterator[ObjectInfo], fold: Fold, on_double: Callable[[Entry, Entry], None] | None
    ) -> Generator[Entry, None, None]:
        def key_of(info: ObjectInfo) -> bytes:
            return _merge_key(info._replace(path=fold(info.path[self._cut :])))

        ordered = ops.sort_entries(infos, key=key_of)
        if on_double is not None:
            ordered = self._doubles(ordered, key_of, on_double)
        last: ObjectInfo | None = None
        for info in ordered:
            if last is not None and (info.path, info.kind) == (last.path, last.kind):
                continue  # one name is one object, however often it is listed
            last = info
            if info.modified_at is not None and info.modified_at.tzinfo is None:
                self._refuse_time(info)
            yield Entry(key_of(info), info.path[self._cut :], info)

    def _refuse_time(self, info: ObjectInfo) -> NoReturn:
        raise ConfigError(
            f"the listing of the {self.role} gives a time without a zone, which cannot be compared: its backend "
            f"{self.backend.name!r} has to say which zone it means",
            path=info.path,
            backend=self.backend.name,
            op="list",
        )

    def _doubles(
        self,
        ordered: Iterator[ObjectInfo],
        key_of: Callable[[ObjectInfo], bytes],
        on_double: Callable[[Entry, Entry], None],
    ) -> Iterator[ObjectInfo]:
        """Read all of it once for names that are one, then again."""

        def looked_at() -> Iterator[ObjectInfo]:
            last: Entry | None = None
            for info in ordered:
                entry = Entry(key_of(info), info.path[self._cut :], info)
                if last is not None and last.key == entry.key and last.path != entry.path and not info.is_dir:
                    on_double(last, entry)
                last = entry
                yield info

        # Sorting what is sorted puts it aside, in bounded memory, until it was read to its end.
        return ops.sort_entries(looked_at(), key=key_of)


def opened(
    place: Mapping[str, Any] | BackendConfig, defaults: Mapping[str, Any] | None = None
) -> tuple[ExtendedBackend, str]:
    """The backend of a configuration and the folder in it: a table has, beside what ``BackendConfig`` takes, perhaps a
    ``prefix``, and ``${VAR}`` in it is replaced."""
    if isinstance(place, BackendConfig):
        return open_backend(place, defaults=defaults), ""
    prefix = place.get("prefix", "")
    table = {key: value for key, value in place.items() if key != "prefix"}
    return open_backend(BackendConfig.from_dict(table, where="place", env=True), defaults=defaults), prefix.strip("/")


def _merge_key(info: ObjectInfo) -> bytes:
    key = encoded(info.path)
    return key + b"/" if info.kind == "dir" else key


def _unheard(folder: str) -> None:
    pass


def bare(backend: Backend) -> Backend:
    return backend.inner if isinstance(backend, ops.BasicView) else backend


def _a_backend(place: Any, role: str) -> Backend:
    """``place`` where it is a backend or has one. Raises ``ConfigError``."""
    found = place.as_backend() if hasattr(place, "as_backend") else place
    if not all(callable(getattr(found, name, None)) for name in ("open_reader", "list")):
        raise ConfigError(
            f"the {role} is no place, but of type {type(place).__name__}: give a URL, a path, a backend, a Store or a "
            "configuration"
        )
    return found  # type: ignore[no-any-return]


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path
