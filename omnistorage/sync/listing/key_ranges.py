"""A flat listing, read as several ranges of keys side by side.

A range is what lies behind one key up to another; each begins where the one before it ends. So where they are cut
decides how fast the listing is, and nothing else. Each reads on until it sees a key behind its end, and the next one
has to begin with that very key: if it does not, as somebody made or deleted something just there, or the store seeks
otherwise than it says, the range goes on in its place, as one stream.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor
from itertools import islice
from threading import Condition
from typing import NamedTuple

from omnistorage.concurrency.cancellation import wait_until
from omnistorage.core import ExtendedBackend, ListOptions, ObjectInfo
from omnistorage.errors import InvalidPath, StorageError

from .lookup_pool import Lookers
from .range_boundaries import Cuts, encoded, guesses, nowhere

BEGIN = 32  # pages are read as one stream first: a listing of up to 32,000 entries costs no request more
PAGE = 1_000  # entries, as many as the stores give with one answer
AHEAD = 4  # pages of each range may wait to be taken
_KEPT = 16  # pages: their names tell where to cut
_SAMPLE = 10  # of so many names one is kept

OnError = Callable[[StorageError], None]


def in_ranges(
    backend: ExtendedBackend,
    prefix: str,
    *,
    readers: int,
    pool: Callable[[int], Executor],
    on_error: OnError | None = None,
) -> Iterator[ObjectInfo]:
    """What ``backend.list(prefix)`` yields, in that order, with what it raises in its place.

    From ``BEGIN`` pages on up to ``readers`` ranges are read side by side, in an executor that ``pool`` makes, each at
    most ``AHEAD`` pages ahead. ``on_error`` is called on the thread that iterates.
    """
    ranges = _Ranges(backend, prefix, on_error, readers, pool)
    try:
        yield from ranges.infos()
    finally:
        ranges.close()


class _Page(NamedTuple):
    told: list[StorageError]
    infos: list[ObjectInfo]


class _Range:
    """A listing up to and with ``high`` (None: to its end), as far as it was read."""

    def __init__(self, backend: ExtendedBackend, prefix: str, low: str | None, high: str | None, tells: bool) -> None:
        self.told: list[StorageError] = []
        self.stream = _listed(backend, prefix, ListOptions(low, self.told.append if tells else None))
        self.high = high
        self.pages: deque[_Page] = deque()
        self.taken, self.patience = 0, 1  # pages: those that were taken, and after how many it is cut
        self.first: str | None = None  # key that the store showed, be it behind ``high``
        self.seen = ""  # the last key up to ``high``
        self.rest: list[ObjectInfo] = []  # what was read behind ``high``
        self.error: BaseException | None = None
        self.over = False  # the store shows no more
        self.ended = False  # there is no more up to ``high``
        self.working = False  # somebody reads it

    def fetch(self) -> tuple[list[ObjectInfo], BaseException | None]:
        infos: list[ObjectInfo] = []
        try:
            for info in islice(self.stream, PAGE):
                infos.append(info)
        except BaseException as error:  # raised where the entries are read
            return infos, error
        return infos, None

    def keep(self, infos: list[ObjectInfo], error: BaseException | None) -> None:
        if self.first is None and infos:
            self.first = infos[0].path
        kept = infos if self.high is None else _up_to(infos, self.high)
        self.rest, self.error, self.over = infos[len(kept) :], error, error is not None or len(infos) < PAGE
        self.ended = self.over or bool(self.rest)
        if kept:
            self.seen = kept[-1].path
        told = [error for error in self.told if not self._is_behind(error)]
        self.told[:] = [error for error in self.told if self._is_behind(error)]
        if kept or told:
            self.pages.append(_Page(told, kept))

    def _is_behind(self, error: StorageError) -> bool:
        """Whether it is about a name that the next range comes to."""
        named = isinstance(error, InvalidPath) and error.path is not None and self.high is not None
        return named and encoded(error.path or "") > encoded(self.high or "")

    def go_on(self, patience: int) -> None:
        """Be the whole rest of the listing."""
        self.pages.append(_Page(self.told[:], self.rest))
        self.told[:], self.rest, self.high = [], [], None
        self.ended, self.patience = self.over, self.taken + patience


class _Ranges:
    """``_open`` follow each other up to the end of the listing, or up to the next cut."""

    def __init__(
        self,
        backend: ExtendedBackend,
        prefix: str,
        on_error: OnError | None,
        readers: int,
        pool: Callable[[int], Executor],
    ) -> None:
        self._backend, self._prefix, self._on_error = backend, prefix, on_error
        self._readers, self._make_pool = readers, pool
        self._pool: Lookers | None = None
        self._changed = Condition()
        self._closed = False
        self._cuts: Cuts = nowhere
        self._reached = ""  # up to this key the ranges before the first have seen
        self._misfits = 0  # the more, the longer it is one stream again
        self._recent: deque[str] = deque(maxlen=_KEPT * PAGE // _SAMPLE)  # names, with nothing between them
        self._open = deque([_Range(backend, prefix, None, None, on_error is not None)])
        self._open[0].patience = BEGIN

    def infos(self) -> Iterator[ObjectInfo]:
        head = self._open[0]
        yield from self._one_stream(head)
        while self._pool is not None:
            page = self._take(head)
            if page is not None:
                self._tell(page.told)
                yield from page.infos
                self._recent.extend(_sample(page))
                head.taken += 1
                # What was read behind it would be read again: that has to be worth it.
                if head.taken > (head.patience if len(self._open) == 1 else max(head.patience, BEGIN)):
                    self._cut(head)
            elif head.error is not None and not head.rest:
                raise head.error
            elif head.high is None:
                return
            elif self._follows(head, self._open[1]):
                head = self._next()
            else:
                self._forget()
                self._misfits += 1
                head.go_on(BEGIN << min(self._misfits, 5))

    def _one_stream(self, head: _Range) -> Iterator[ObjectInfo]:
        """Each entry as soon as the store shows it, until there are so many that ``head`` was cut."""
        told = head.told
        for count, info in enumerate(head.stream, 1):
            if told:
                self._tell(told)
            yield info
            if count % _SAMPLE == 0:
                self._recent.append(info.path)
            if count % PAGE == 0:
                head.seen = info.path
                head.taken += 1
                if head.taken > head.patience:
                    self._cut(head)
                if self._pool is not None:
                    return
        self._tell(told)

    def _tell(self, told: list[StorageError]) -> None:
        while told and self._on_error is not None:
            self._on_error(told.pop(0))

    def close(self) -> None:
        self._closed = True
        if self._pool is not None:
            self._pool.close()
        for one in self._open:
            one.stream.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _take(self, one: _Range) -> _Page | None:
        with self._changed:
            self._wait(one)
            page = one.pages.popleft() if one.pages else None
            self._work_on(one)
        return page

    def _wait(self, one: _Range) -> None:
        """Until a page of it was read, or it has ended."""
        while not one.pages and not one.ended:
            self._work_on(one)
            if one.working:
                wait_until(self._changed, lambda: one.pages or one.ended or not one.working)

    def _work_on(self, one: _Range) -> None:
        if self._pool is not None and not (one.working or one.ended or len(one.pages) >= AHEAD):
            one.working = True
            self._pool.submit(self._read, one)

    def _read(self, one: _Range) -> None:
        while one.working:
            infos, error = one.fetch()
            with self._changed:
                try:
                    one.keep(infos, error)
                except Exception as error:  # a path that is none: nobody may wait for this page
                    one.error, one.over, one.ended = error, True, True
                one.working = not (one.ended or len(one.pages) >= AHEAD or self._closed or one not in self._open)
                self._changed.notify_all()

    # -- one range behind the other ------------------------------------------------------------------------------------

    def _follows(self, head: _Range, other: _Range) -> bool:
        with self._changed:
            self._wait(other)
            # A boundary that the store does not take is no error of the listing.
            failed = other.first is None and other.error is not None and not isinstance(other.error, InvalidPath)
            return failed or other.first == (head.rest[0].path if head.rest else None)

    def _next(self) -> _Range:
        done = self._open.popleft()
        done.stream.close()
        if done.rest:
            self._reached = done.rest[0].path
        else:
            self._cuts = nowhere
        self._open_more()
        return self._open[0]

    def _open_more(self) -> None:
        with self._changed:
            while len(self._open) < self._readers and (low := self._open[-1].high) is not None:
                high = self._cuts(max(low, self._reached, key=encoded))
                self._open.append(_Range(self._backend, self._prefix, low, high, self._on_error is not None))
            for one in self._open:
                self._work_on(one)

    def _forget(self) -> None:
        """What is open behind the first."""
        with self._changed:
            while len(self._open) > 1:
                self._open.pop()

    def _cut(self, head: _Range) -> None:
        """Let ``head`` end at the next boundary, and what is behind that be read side by side."""
        if head.ended or self._readers < 2:
            return
        with self._changed:
            window = [*self._recent, *(name for page in head.pages for name in _sample(page))]
        for cuts in guesses(self._backend, window, PAGE // _SAMPLE, AHEAD, head.taken > AHEAD):
            with self._changed:
                high = None if head.ended else cuts(head.seen)
                if high is not None:
                    self._pool = self._pool or Lookers(self._make_pool(self._readers))
                    self._forget()
                    self._cuts, self._reached, head.high = cuts, "", high
                    head.taken, head.patience = 0, BEGIN
                    self._open_more()
                    return
        head.patience = 2 * head.taken


def _listed(backend: ExtendedBackend, prefix: str, options: ListOptions) -> Generator[ObjectInfo, None, None]:
    yield from backend.list(prefix, options)


def _sample(page: _Page) -> Iterator[str]:
    return (info.path for info in page.infos[::_SAMPLE])


def _up_to(infos: list[ObjectInfo], high: str) -> list[ObjectInfo]:
    """What of a page lies up to ``high``; all of it if it is in no order, which is for its reader to refuse."""
    top = encoded(high)
    if not infos or encoded(infos[-1].path) <= top:
        return infos
    keys = [encoded(info.path) for info in infos]
    return infos if keys != sorted(keys) else infos[: bisect_right(keys, top)]
