"""The entries of a cache: opened, written, evicted and removed, whatever ``into`` does. No method but ``open_range``
raises what ``into`` raised.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from omnistorage.core import Backend, Reader, ReadOptions, WriteOptions, Writer, features_of
from omnistorage.errors import CorruptData, NotFound

from .index import Index
from .readers import Filling


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Since the ``Cache`` was made: reads, whole or ranged, that were served from an entry or by another thread's fetch
    (``hits``), reads that could have been and asked the origin (``misses``), ``bytes`` that came from entries,
    ``errors`` of ``into``, none of which a reader noticed, and entries that limits removed (``evictions``)."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0
    errors: int = 0
    evictions: int = 0


class Shelf:
    """Entries in ``into``, and the statistics of the cache."""

    def __init__(self, into: Backend, max_bytes: int | None, max_entries: int | None) -> None:
        self._into = into
        self._max_bytes = max_bytes
        self._index = Index(into, max_bytes, max_entries)
        self._lock = threading.Lock()
        self._filling: set[str] = set()
        self.orphans: deque[Writer] = deque()
        self._counts = dict.fromkeys(("hits", "misses", "bytes", "errors", "evictions"), 0)
        self.holds = self._index.holds

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self._counts[what] += number

    @property
    def stats(self) -> CacheStats:
        with self._lock:
            return CacheStats(**self._counts)

    def open(self, name: str, start: int, length: int | None, size: int | None) -> tuple[Reader, int] | None:
        """The entry of an object of ``size`` bytes, opened at ``start`` for ``length``, and how many bytes stand before
        that where ``into`` reads no ranges. None if there is none, or it cannot be had."""
        try:
            reader, skip = self._open(name, start, length)
        except NotFound:
            return None
        except Exception:
            self.count("errors")
            return None
        if size is not None and reader.info.size not in (None, size):
            reader.close()
            self.broken(name, CorruptData("the entry has another size than the object"))
            return None
        self._index.touch(name)
        return reader, skip

    def _open(self, name: str, start: int, length: int | None) -> tuple[Reader, int]:
        if start == 0 and length is None:
            return self._into.open_reader(name), 0
        if features_of(self._into).range_read:
            return self._into.open_reader(name, ReadOptions(start, length)), 0
        return self._into.open_reader(name), start

    def is_filling(self, name: str) -> bool:
        return name in self._filling

    def fill(self, name: str, size: int | None, is_valid: Callable[[], bool]) -> Filling:
        """An entry to be written. It is removed again if it is no longer ``is_valid`` once it is there."""
        writer: Writer | None = None
        try:
            writer = self._into.open_writer(name, WriteOptions(size=size))
            self._filling.add(name)
        except Exception:
            self.count("errors")

        def done(stored: int) -> None:
            for old in self._index.add(name, stored):
                self.count("evictions")
                self.remove(old)
            if not is_valid():
                self.remove(name)

        return Filling(writer, self._max_bytes, done, lambda: self._filling.discard(name), lambda: self.count("errors"))

    def broken(self, name: str, error: Exception) -> None:
        """An entry could not be read. What is there and wrong goes; ``into`` may just be away for a while."""
        self.count("errors")
        if isinstance(error, CorruptData):
            self.remove(name)

    def remove(self, name: str) -> None:
        self._index.forget(name)
        try:
            self._into.delete(name)
        except Exception:
            self.count("errors")

    def reap(self) -> None:
        """Abort the entries whose readers were dropped."""
        while self.orphans:
            try:
                self.orphans.popleft().abort()
            except IndexError:
                return  # another thread was faster
            except Exception:
                self.count("errors")
