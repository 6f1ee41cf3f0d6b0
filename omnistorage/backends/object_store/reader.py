"""Readers of object stores, over an ``ObjectClient``.

One connection to an object store brings a fraction of what the network carries, and a reader that waits for the network
does nothing else. So a long body is read as several ranges side by side, handed out in order. A *lane* is a range of
``part_size`` bytes that a thread of the I/O pool reads; at most ``concurrency`` of them are there beside the one that
is handed out, so that a stream takes ``part_size * (concurrency + 1)`` bytes. A lane waits for nobody but the store, so
another task of its pool may wait for it; without a free thread, and after an error, who wants the bytes reads them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from os import getpid
from typing import Protocol, TypeVar

from omnistorage.backends.streams import READ_BLOCK, ReaderBase
from omnistorage.checksums import new_hash
from omnistorage.concurrency.cancellation import SLICE, check
from omnistorage.concurrency.in_flight import watched
from omnistorage.concurrency.pools import IO
from omnistorage.core import ObjectInfo, ReadOptions
from omnistorage.errors import BackendUnavailable, Cancelled, CorruptData, NotFound, PreconditionFailed, ReaderClosed

from .client import Body, Get, ObjectClient

T = TypeVar("T")
WASTE = 256 * 1024
"""What is rather read and thrown away than left in a connection, which is closed then."""


class Source(Protocol):
    """What a reader asks of its backend."""

    name: str
    part_size: int
    concurrency: int

    @property
    def client(self) -> ObjectClient: ...
    def run(
        self,
        op: str,
        path: str,
        call: Callable[[], T],
        *,
        idempotent: bool = True,
        cut: Callable[[], object] | None = None,
    ) -> T: ...
    def throttle(self, size: int) -> None: ...


class RangeReader(ReaderBase):
    """Reads ``[at, ends)`` of one state of an object. When the connection breaks, the rest is asked for again, of the
    same state; without a ``body`` the first request is sent by the first read."""

    def __init__(
        self,
        store: Source,
        info: ObjectInfo,
        key: str,
        version: str | None,
        at: int,
        ends: int | None,
        body: Body | None = None,
    ) -> None:
        super().__init__(info)
        self._store = store
        self._key = key
        self._version = version
        self._body = body
        self._pid = getpid()
        self._owed = 0  # bytes that were read and not yet charged to the bandwidth
        self.at = at  # in the object
        self.ends = ends

    def _read(self, size: int) -> bytes:
        if self.ends is not None:
            size = min(size, self.ends - self.at)
            if size <= 0:
                return b""
        # Charged before the next read: what is charged may raise, and then nothing is in hand that would be lost.
        self._store.throttle(self._owed)
        self._owed = 0
        request = self._store.client.cutter()

        def cut() -> None:
            body = self._body
            request() if body is None else body.interrupt()

        try:
            data = self._store.run("read", self._info.path, lambda: self._attempt(size), cut=cut)
        except Cancelled:
            self._release()  # what it has given is lost, and what it would give next comes behind that
            raise
        self._owed = len(data)
        self.at += len(data)
        return data

    def _attempt(self, size: int) -> bytes:
        self.check_process()
        self._check_open()
        body = self._reopened() if self._body is None else self._body
        try:
            self._check_open()
            data = body.read(size)
            if not data and self.ends is not None:
                raise ConnectionError(f"the body ended {self.ends - self.at} bytes too early")
            return data
        except BaseException:
            self._body = None
            body.close()
            raise

    def check_process(self) -> None:
        """Raise in a forked child, whose parent's the connection is."""
        if self._pid != getpid():
            raise ReaderClosed("this reader belongs to the process that opened it", path=self._info.path, op="read")

    def _check_open(self) -> None:
        """``close`` from another thread ends the attempts, too."""
        if self._closed:
            raise ReaderClosed("the reader is closed", path=self._info.path, op="read")

    def _reopened(self) -> Body:
        if self._info.etag is None:
            raise CorruptData("the connection broke, and without an etag the rest could be another version's")
        try:
            body = self._store.client.get(
                self._key,
                Get(self.at, self.ends, if_match=self._info.etag, version=self._version),
            )
        except Exception as error:
            ours = self._store.client.translate(error)
            if isinstance(ours, PreconditionFailed | NotFound):
                raise self._replaced() from error
            raise
        if body.info.etag != self._info.etag:  # a server that looks at no condition
            body.close()
            raise self._replaced()
        self._body = body
        return body

    def _replaced(self) -> CorruptData:
        return CorruptData(
            "the object changed while it was read: what was read is of a version that is gone", offset=self.at
        )

    def _interrupt(self) -> None:
        body = self._body
        if body is not None and self._pid == getpid():
            body.interrupt()

    def drain(self) -> None:
        """Read what is left if it is little: the connection can serve the next request then."""
        body = self._body
        if body is None or self.ends is None or self.ends - self.at > WASTE or self._pid != getpid():
            return
        try:
            left = WASTE
            with watched(body.interrupt):
                while left > 0 and (data := body.read(left)):
                    left -= len(data)
        except Exception:  # noqa: S110  the bytes are wanted by nobody
            pass

    def _release(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()


class ObjectReader(ReaderBase):
    """Reads what ``options`` ask for, up to ``last`` in the object, of which ``body`` is the beginning (None: it is all
    of it); held against the object's digest when it is the whole. After ``part_size`` bytes of something much longer
    the rest comes in ranges side by side."""

    def __init__(self, store: Source, key: str, options: ReadOptions, body: Body, last: int | None = None) -> None:
        at, info, digest = options.offset, body.info, body.digest
        super().__init__(info)
        self._store = store
        self._key = key
        self._version = options.version
        self._at = at
        ends = None if body.length is None else at + body.length
        self._first = RangeReader(store, info, key, options.version, at, ends, body)
        self._last = ends if last is None else last
        self._lanes: Lanes | None = None
        # A weak etag is no condition, and without one the ranges could be of several versions.
        splits = ends is not None and info.etag is not None and not info.etag.startswith("W/")
        self._splits_at = at + store.part_size if splits else None
        whole = at == 0 and self._last == info.size
        self._digest = new_hash(digest[0]) if whole and digest is not None else None
        self._wanted = digest[1] if digest is not None else ""
        self._damage: CorruptData | None = None

    def _read(self, size: int) -> bytes:
        if self._damage is not None:
            raise self._damage
        self._first.check_process()
        if self._splits_at is not None and (self._at >= self._splits_at or self._at == self._first.ends):
            self._split()
        data = self._first.read(size) if self._lanes is None else self._lanes.read(size)
        self._at += len(data)
        if not data and self._last is not None and self._at < self._last:
            raise BackendUnavailable(
                f"the body ended {self._last - self._at} bytes too early: read the object again",
                path=self._info.path, backend=self._store.name, op="read",
            )  # fmt: skip
        if self._digest is not None:
            self._digest.update(data)
            if self._at == self._last and self._digest.hexdigest() != self._wanted:
                self._damage = CorruptData(
                    "what arrived is not what is stored: its checksum is another",
                    path=self._info.path, backend=self._store.name, op="read",
                )  # fmt: skip
                raise self._damage
        return data

    def _split(self) -> None:
        """The ranges behind the first body come in already while it goes on; one that has everything goes on for one
        part, if more than two are left then."""
        self._splits_at = None
        store, info, key, version = self._store, self._info, self._key, self._version
        first, last = self._first, self._last
        assert first.ends is not None
        assert last is not None
        if first.ends == last:
            ends = self._at + store.part_size
            if last - ends < 2 * store.part_size or store.concurrency == 1:
                return
            first.ends = ends

        def open_range(start: int, end: int) -> RangeReader:
            return RangeReader(store, info, key, version, start, end)

        self._lanes = Lanes(first, open_range, last, store.part_size, store.concurrency)

    def _interrupt(self) -> None:
        if self._lanes is not None:
            self._lanes.stop()
        else:
            self._first.close()

    def _release(self) -> None:
        if self._lanes is not None:
            self._lanes.stop()
            return
        if self._closed:  # by its user: a finaliser reads nothing
            self._first.drain()
        self._first.close()


class NothingReader(ReaderBase):
    """A range that holds nothing."""

    def _read(self, size: int) -> bytes:
        return b""


class Lanes:
    """What ``first`` still brings, and behind it the bytes up to ``last``; ``open_range(start, end)`` makes a reader of
    some of them and asks for nothing yet. It knows nothing of the public reader, which can be collected meanwhile."""

    def __init__(
        self, first: RangeReader, open_range: Callable[[int, int], RangeReader], last: int, part: int, most: int
    ) -> None:
        assert first.ends is not None
        self._open = open_range
        self._at = first.ends
        self._last = last
        self._part = part
        self._most = most
        self._lanes = deque([_Lane(first)])
        self._rest = memoryview(b"")
        self._pid = getpid()
        self._stopped = False
        self._fill()

    def _fill(self) -> None:
        """Have as many lanes on their way, beside the one that is handed out."""
        while len(self._lanes) <= self._most and self._at < self._last and not self._stopped:
            end = min(self._at + self._part, self._last)
            lane = _Lane(self._open(self._at, end))
            self._lanes.append(lane)
            lane.start()
            self._at = end
            if self._stopped:  # meanwhile, when it was not in the list
                lane.stop()

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, as they come; ``b""`` only at the end."""
        while not len(self._rest):
            if not self._lanes:
                return b""
            block = self._lanes[0].next(size)
            if not block:
                self._lanes.popleft().stop()
                self._fill()
            elif len(block) <= size:
                return block
            self._rest = memoryview(block)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)

    def stop(self) -> None:
        """Ask for no more, free whoever waits, and let go of what is here. In a forked child nothing is ours to end."""
        self._stopped = True
        if self._pid == getpid():
            for lane in tuple(self._lanes):
                lane.stop()


class _Lane:
    """A range on its way."""

    def __init__(self, reader: RangeReader) -> None:
        self._reader = reader
        self._changed = threading.Condition()
        self._blocks: deque[bytes] = deque()
        self._ahead = False  # whether a thread of the pool reads it
        self._stopped = False

    def start(self) -> None:
        """Read ahead, if a thread is free: in a context of its own, as the deadline of whoever reads now need not be
        that of whoever reads then."""
        self._ahead = True
        if not Context().run(IO.spawn, self._run):
            self._ahead = False

    def _run(self) -> None:
        try:
            while data := self._reader.read(READ_BLOCK):
                with self._changed:
                    self._blocks.append(data)
                    self._changed.notify()
        except BaseException:  # noqa: S110  whoever reads goes on from here, and finds out for himself
            pass
        with self._changed:
            self._ahead = False
            self._changed.notify()

    def next(self, size: int) -> bytes:
        with self._changed:
            while not self._blocks and self._ahead and not self._stopped:
                check("read", self._reader.info.path)
                self._changed.wait(SLICE)
            if self._stopped:
                raise ReaderClosed("the reader is closed", path=self._reader.info.path, op="read")
            if self._blocks:
                return self._blocks.popleft()
        return self._reader.read(min(size, READ_BLOCK))

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._blocks.clear()
            self._changed.notify()
        self._reader.close()
