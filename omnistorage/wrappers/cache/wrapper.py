"""``Cache``: what is read often is kept nearer by.

What is known of objects is in ``known``, what is kept of them in ``entries``, which thread fetches in
``single_flight``; here is what an opening does with them, and what a change undoes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

from omnistorage.concurrency.cancellation import CLOCK, Clock
from omnistorage.core import (
    COPY,
    READ,
    Backend,
    BulkDelete,
    CopyOptions,
    ObjectInfo,
    Reader,
    ReadOptions,
    Writer,
    as_extended,
    features_of,
)
from omnistorage.errors import ConfigError, CorruptData, NotFound, PreconditionFailed, StorageError
from omnistorage.paths import check_prefix
from omnistorage.wrappers.base import Wrapper
from omnistorage.wrappers.streams import WrappedWriter

from .entries import CacheStats, Shelf
from .known import Knowledge, Known
from .readers import BytesReader, EntryReader, TeeReader
from .single_flight import Flights

R = TypeVar("R")

_TRIES = 4
_BLOCK = 1 << 20
_CHANGES = frozenset(
    ("mkdir", "rmdir", "set_metadata", "make_link", "open_writer", "open_appender", "resume_writer", "settle")
)
_REMOVES = frozenset(("delete", "move", "purge"))
_LIVE = ("_known", "_shelf", "_flights", "_shut")


class _Grew(Exception):
    """What was small a moment ago is not."""


class Cache(Wrapper):
    """The inner backend, with what is read from it kept in ``into``, any backend, and served from there.

    Each opening asks ``inner.stat`` whether the object is still the one that is kept, by its etag, or where it has none
    by the fingerprint of its resolution plan; what has neither is never kept. Within ``ttl`` seconds of the last such
    question it is not asked again: a reader then gets what was current at most ``ttl`` seconds before it was opened.
    Changes made through this wrapper are seen at once, failed ones too; listings, ``stat`` and ``exists`` are never
    cached. An entry's name says which backend (by ``url``), which path and which etag, so many caches, prefixes and
    processes can share one ``into``, as long as one ``url`` means one place to all of them. Where ``url`` is None or
    of this process only, entries serve this ``Cache`` alone.

    An object of at most 8 MiB is fetched whole when it is opened, by one thread for all that ask; a larger one, or one
    of unknown size, becomes an entry when a reader reads it to the end, and only then. Ranges come from an entry that
    is there, and otherwise from the origin. Reads with conditions or of a version go to the origin.

    Small entries and ranges are read when they are opened, so a reader of one needs neither ``into`` nor the origin any
    more; a larger entry, or one of unknown size, that breaks while it is read is continued at the origin, unless the
    object has changed: that is ``CorruptData``. Either way, and during a fetch, a reader takes up to 8 MiB of memory.

    ``max_bytes`` and ``max_entries`` bound what is kept; the least recently used goes first. Several processes that
    share ``into`` may pass them by what they added since their last look, 64 entries or a quarter. Whatever ``into``
    does (full, gone, broken), reads go on from the origin, and ``stats.errors`` counts. What ``into`` gives is trusted
    but for its size: ``Encrypt(into, ...)`` makes damage there a miss, and ``LocalBackend(root, private=True)`` lets
    no other user read or write it. Closing closes ``inner``; ``into`` is borrowed: who made it closes it. It must not
    show what is not closed yet (``ConfigError``). ``clock`` measures ``ttl``.
    """

    clears = frozenset({"lazy_read"})
    small = 8 << 20
    """Up to this size an object is fetched whole, once for all who ask at the same time."""

    def __init__(
        self,
        inner: Backend,
        into: Backend,
        *,
        ttl: float = 0.0,
        max_bytes: int | None = None,
        max_entries: int | None = None,
        clock: Clock = CLOCK,
    ) -> None:
        for name, value in (("ttl", ttl), ("max_bytes", max_bytes), ("max_entries", max_entries)):
            if value is not None and not (isinstance(value, int | float) and value >= 0):
                raise ConfigError(f"{name} is 0 or more, not {value!r}")
        super().__init__(inner)
        url = getattr(into, "url", None)
        if into is inner or (url is not None and url == self.url):
            raise ConfigError("a cache of a backend in itself saves nothing: give another backend or a Prefix as into")
        if as_extended(into) is not None and not features_of(into).atomic_write:
            raise ConfigError(f"{into!r} shows objects before they are whole: entries in it could be halves")
        self.into = into
        self.ttl = ttl
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self._clock = clock
        self._chain: tuple[str, ...] = ()  # the folders that it is confined to
        self._start()

    def _start(self) -> None:
        self._known = Knowledge(self.inner)
        self._shelf = Shelf(self.into, self.max_bytes, self.max_entries)
        self._flights: Flights[tuple[ObjectInfo, bytes] | Reader] = Flights()
        self._shut = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _LIVE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def confined(self, folder: str) -> Self:
        found = super().confined(folder)
        found._chain = (*self._chain, folder)
        return found

    def __repr__(self) -> str:
        return f"Cache({self.inner!r}, {self.into!r})"

    # -- what users ask ------------------------------------------------------------------------------------------------

    @property
    def stats(self) -> CacheStats:
        return self._shelf.stats

    def invalidate(self, path: str = "") -> None:
        """Forget the object ``path`` and all that lies under it as a folder; ``""`` is everything. What is asked next
        is asked of the origin, but for entries in such a folder whose only token is a fingerprint and that this
        ``Cache`` has not met: those stay."""
        self._expire(check_prefix(path, op="invalidate"), folder=True, remove=True)
        name = self._known.name_by_fingerprint(path)
        if name is not None:
            self._shelf.remove(name)

    def refresh(self, path: str) -> ObjectInfo:
        """Fetch the object ``path`` from the origin, whatever is kept; the info of what is kept now."""
        self._expire(path, remove=True)
        known = self._validated(path)
        if known is not None:
            self._shelf.remove(known.name)
        with self.open_reader(path) as reader:
            while reader.read(_BLOCK):
                pass
            return reader.info

    def close(self) -> None:
        self._shut = True
        self._shelf.reap()
        super().close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def open_reader(self, path: str, options: ReadOptions = READ) -> Reader:
        self._shelf.reap()
        conditional = (options.if_match, options.if_none_match, options.version) != (None, None, None)
        if self._shut or conditional or not (self.features.stat and self.features.read):
            return super().open_reader(path, options)
        ranged = options.offset > 0 or options.length is not None
        if ranged:
            self._need("range_read", "open_reader", path)
        for _ in range(_TRIES):
            known = self._validated(path)
            if known is None:
                break
            found = self._from_entry(path, known, options)
            if found is None and not ranged:
                found = self._missed(path, known)
            if found is not None:
                return found
            if ranged:
                self._shelf.count("misses")
                break
        return super().open_reader(path, options)

    def _validated(self, path: str) -> Known | None:
        """The object as it is, or was within ``ttl``. None where it is unknown, or nothing tells its states apart."""
        before, at = self._known.recall(path, self._chain), self._clock.now()
        if before is not None and at - before.at < self.ttl and self._known.is_current(path, before):
            return before
        generation = self._known.generation(path)
        try:
            info = self._whole("stat", "stat", path).stat(path)
            now = self._known.recognise(path, info, at, generation, before)
        except StorageError as error:
            if isinstance(error, NotFound):
                self._expire(path, remove=True)
            return None  # the origin says what is wrong in its own words
        if before is not None and (now is None or now.name != before.name):
            self._shelf.remove(before.name)
        if now is not None:
            self._known.remember(path, self._chain, now)
        return now

    def _from_entry(self, path: str, known: Known, options: ReadOptions) -> Reader | None:
        """A reader of the entry, if there is one."""
        size, start = known.info.size, options.offset
        ends = None if options.length is None else start + options.length
        if size is not None:
            ends = size if ends is None else min(size, ends)
            start = min(start, ends)
        opened = self._shelf.open(known.name, start, options.length, size)
        if opened is None:
            return None
        entry, skip = opened
        if size is not None and ends is not None and ends - start + skip <= self.small:
            return self._read_whole(known, entry, skip, ends - start)
        self._shelf.count("hits")
        found = EntryReader(
            known.info,
            entry,
            start - skip,
            ends,
            lambda at: self._reopened(path, known, at, ends),
            lambda count: self._shelf.count("bytes", count),
            lambda error: self._shelf.broken(known.name, error),
        )
        while skip and (data := found.read(min(skip, _BLOCK))):
            skip -= len(data)
        return found

    def _read_whole(self, known: Known, entry: Reader, skip: int, size: int) -> Reader | None:
        """A small entry, or a small part of one, at once: whatever happens to it later, the reader has it."""
        try:
            with entry:
                parts, left = list[bytes](), skip + size
                while left and (data := entry.read(left)):
                    parts.append(data)
                    left -= len(data)
                if left or (entry.info.size is None and known.info.size == skip + size and entry.read(1)):
                    raise CorruptData("the entry has another size than the object")
        except Exception as error:
            self._shelf.broken(known.name, error)
            return None
        self._shelf.count("hits")
        self._shelf.count("bytes", size)
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        return BytesReader(known.info, content[skip:] if skip else content)

    def _reopened(self, path: str, known: Known, at: int, ends: int | None) -> Reader:
        """The origin from byte ``at`` on, if it still has what was begun."""
        condition = known.token if known.by_etag and self.features.if_match else None
        length = None if ends is None or ends == known.info.size else ends - at
        ranged = self.features.range_read and (at > 0 or length is not None)
        changed = CorruptData("the object changed while it was read", path=path, op="read", offset=at)
        try:
            reader = self.inner.open_reader(path, ReadOptions(at, length, condition) if ranged else READ)
        except (NotFound, PreconditionFailed) as error:
            raise changed from error
        if known.by_etag and reader.info.etag != known.token:
            reader.close()
            raise changed
        left = 0 if ranged else at
        while left and (data := reader.read(min(left, _BLOCK))):
            left -= len(data)
        return reader

    def _missed(self, path: str, known: Known) -> Reader | None:
        """Fetch what has no entry; None if it has become something else meanwhile."""
        size = known.info.size
        if size is None or size > self.small or not self._shelf.holds(size):
            return self._teed(path, known)
        try:
            answer, mine = self._flights.run(
                known.name, lambda: self._fetched(path, known), lambda: self._from_entry(path, known, READ), path
            )
        except _Grew:
            return None
        if not isinstance(answer, tuple):
            return answer
        info, data = answer
        if not mine and known.by_etag and info.etag != known.token:
            return None
        self._shelf.count("misses" if mine else "hits")
        return BytesReader(info if mine else known.info, data)

    def _fetched(self, path: str, known: Known) -> tuple[ObjectInfo, bytes]:
        with self.inner.open_reader(path) as reader:
            info, parts, left = reader.info, list[bytes](), self.small
            while data := reader.read(min(_BLOCK, left + 1)):
                parts.append(data)
                left -= len(data)
                if left < 0:
                    raise _Grew
        content = b"".join(parts)
        if self._is_it(known, info) and info.size in (None, len(content)):
            filling = self._shelf.fill(known.name, len(content), lambda: self._is_valid(path, known))
            filling.write(content)
            filling.finish()
        return info, content

    def _teed(self, path: str, known: Known) -> Reader:
        self._shelf.count("misses")
        origin = super().open_reader(path)
        size = origin.info.size
        mine = self._is_it(known, origin.info) and not self._shelf.is_filling(known.name)
        if not mine or not self._shelf.holds(size or 0):
            return origin
        filling = self._shelf.fill(known.name, size, lambda: self._is_valid(path, known))
        return TeeReader(origin, filling, self._shelf.orphans)

    def _is_it(self, known: Known, info: ObjectInfo) -> bool:
        """Whether what was opened is what was asked about."""
        return info.etag == (known.token if known.by_etag else None)

    def _is_valid(self, path: str, known: Known) -> bool:
        """Whether an entry may stay. A fingerprint does not tell that the object was invalidated while it was read."""
        return known.by_etag or self._known.is_current(path, known)

    # -- changes -------------------------------------------------------------------------------------------------------

    def _expire(self, path: str, *, folder: bool = False, remove: bool = False) -> None:
        """Believe nothing that was known before now; ``remove`` what is kept, too."""
        for known in self._known.expire(path, folder=folder, forget=remove):
            if remove or not known.by_etag:
                self._shelf.remove(known.name)

    def _forward(self, op: str, path: str, run: Callable[[str], R]) -> R:
        if op not in _CHANGES and op not in _REMOVES:
            return run(path)
        try:
            return run(path)
        finally:
            self._expire(path, folder=op in ("purge", "rmdir"), remove=op in _REMOVES)

    def _writer(self, writer: Writer, path: str) -> Writer:
        return _Writer(writer, self, path)

    def copy(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        try:
            return super().copy(src, dst, options)
        finally:
            self._expire(dst)

    def move(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        try:
            return super().move(src, dst, options)
        finally:
            self._expire(dst)

    def delete_many(self, paths: Iterable[str]) -> Iterator[tuple[str, StorageError | None]]:
        return self._deleted(self._power(BulkDelete, "delete_many", ""), paths)

    def _deleted(self, inner: BulkDelete, paths: Iterable[str]) -> Iterator[tuple[str, StorageError | None]]:
        sent = set[str]()  # and not answered: as many as the store takes at once

        def noted() -> Iterator[str]:
            for path in paths:
                sent.add(path)
                yield path

        try:
            for path, error in inner.delete_many(noted()):
                self._expire(path, remove=True)
                sent.discard(path)
                yield path, error
        finally:
            for path in sent:
                self._expire(path, remove=True)


class _Writer(WrappedWriter):
    """Whatever becomes of it, what was known of the object is in doubt."""

    def __init__(self, inner: Writer, cache: Cache, path: str) -> None:
        super().__init__(inner)
        self._cache = cache
        self._path = path
        self._live = not cache.features.atomic_write

    def _call(self, op: str, run: Callable[[], R]) -> R:
        try:
            answer = run()
        except BaseException:
            self._cache._expire(self._path)
            raise
        if self._live or op in ("close", "abort"):
            self._cache._expire(self._path)
        return answer
