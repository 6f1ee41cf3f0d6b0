"""Shadow reads: what the first tier gave is compared with the second in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Literal

from omnistorage.checksums import new_hash
from omnistorage.concurrency.cancellation import CLOCK, CancelScope, Clock
from omnistorage.core import Reader, ReadOptions
from omnistorage.errors import StorageError
from omnistorage.ops import operations

from .calls import MISSES
from .outcomes import Difference, ShadowStats
from .streams import SkippingReader, TierReader, WatchedReader
from .tier import Place

AT_ONCE = 4
"""Comparisons under way at the same time; a read that ends while so many are is not compared, and counted."""
PATIENCE = 1.0
"""The seconds for which closing waits for comparisons that were cancelled."""


class Shadow:
    """Compares, counts, tells ``on_difference``. Nothing it does can fail or delay the read."""

    def __init__(
        self,
        places: Sequence[Place],
        on_difference: Callable[[Difference], None] | None,
        *,
        patience: float = PATIENCE,
        clock: Clock = CLOCK,
    ) -> None:
        self._primary, self._secondary = places[0], places[1]
        self._tell = on_difference
        self._patience, self._clock = patience, clock
        self._lock = threading.Lock()
        self._under_way: dict[threading.Thread, CancelScope] = {}
        self.stats = ShadowStats()

    def watch(self, reader: TierReader, path: str, options: ReadOptions) -> WatchedReader:
        """``reader``, which reads as before; when it was read to its end, what came is compared."""
        digest, size = new_hash("sha256"), 0

        def took(data: bytes) -> None:
            nonlocal size
            size += len(data)
            digest.update(data)

        def ended(whole: bool) -> None:
            if whole:
                self._start(path, ReadOptions(options.offset, options.length), size, digest.hexdigest())
            else:
                self._count(skipped=1)

        there = reader.info.size
        expected = None if there is None else max(0, there - options.offset)
        if expected is not None and options.length is not None:
            expected = min(expected, options.length)
        return WatchedReader(reader, took, ended, expected)

    def _start(self, path: str, options: ReadOptions, size: int, digest: str) -> None:
        scope = CancelScope()

        def run() -> None:
            try:
                with scope:
                    self._compare(path, options, size, digest)
            finally:
                with self._lock:
                    self._under_way.pop(thread, None)

        thread = threading.Thread(target=run, name="omnistorage-shadow", daemon=True)
        with self._lock:
            room = len(self._under_way) < AT_ONCE
            if room:
                try:
                    thread.start()  # under the lock: who drains joins only what was started
                    self._under_way[thread] = scope
                except RuntimeError:  # the system gives no more threads
                    room = False
        if not room:
            self._count(skipped=1)

    def _compare(self, path: str, options: ReadOptions, size: int, digest: str) -> None:
        found, got = 0, new_hash("sha256")
        try:
            with self._open(path, options) as reader:
                while block := reader.read(operations.BLOCK):
                    found += len(block)
                    got.update(block)
        except MISSES:
            self._differs(path, "missing")
        except StorageError as error:
            self._differs(path, "error", error)
        else:
            if found != size:
                self._differs(path, "size")
            elif got.hexdigest() != digest:
                self._differs(path, "content")
            else:
                self._count(compared=1)

    def _open(self, path: str, options: ReadOptions) -> Reader:
        backend = self._secondary.backend
        if backend.features.range_read or (not options.offset and options.length is None):
            return backend.open_reader(path, options)
        return SkippingReader(backend.open_reader(path), self._secondary, options.offset, options.length)

    def _differs(
        self, path: str, what: Literal["missing", "size", "content", "error"], error: Exception | None = None
    ) -> None:
        self._count(failed=1) if what == "error" else self._count(compared=1, differing=1)
        tell = self._tell
        if tell is not None:
            try:
                tell(Difference(path, self._primary.name, self._secondary.name, what, error))
            except Exception:
                logging.getLogger(__name__).exception("on_difference failed")

    def _count(self, **more: int) -> None:
        with self._lock:
            self.stats = self.stats._replace(**{name: getattr(self.stats, name) + n for name, n in more.items()})

    def drain(self) -> None:
        for thread in list(self._under_way):
            thread.join()

    def close(self) -> None:
        """End the comparisons. One that does not heed it is left after a moment, and tells nobody any more."""
        with self._lock:
            left = list(self._under_way.items())
        for _, scope in left:
            scope.cancel()
        ends = self._clock.now() + self._patience
        for thread, _ in left:
            thread.join(max(0.0, ends - self._clock.now()))
        self._tell = None
