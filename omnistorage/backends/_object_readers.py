"""Readers of object stores, over an ``ObjectClient``. Imports floor 0 and shared bases only.

One connection to an object store brings a fraction of what the network carries, and a reader that waits for the network
does nothing else. So a long body is read as several ranges side by side, handed out in order. A *lane* is a range of
``part_size`` bytes that a thread of the I/O pool reads; at most ``concurrency`` of them are there at once, so that a
stream takes ``part_size * concurrency`` bytes. A lane waits for nobody but the store, so another task of its pool may
wait for it; without a free thread whoever wants the bytes reads them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from os import getpid
from typing import Protocol, TypeVar

from ..core import ObjectInfo, Reader, ReadOptions
from ..digests import new_hash
from ..errors import CorruptData, NotFound, PreconditionFailed, ReaderClosed
from ..strands import IO
from ._object_client import Body, Get, ObjectClient
from ._streams import READ_BLOCK, ReaderBase

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
    def run(self, op: str, path: str, call: Callable[[], T], *, idempotent: bool = True) -> T: ...
    def throttle(self, size: int) -> None: ...


class RangeReader(ReaderBase):
    """Reads ``[at, ends)`` of one state of an object. When the connection breaks, the rest is asked for again, of the
    same state; without a ``body`` the first request is sent by the first read."""

    def __init__(
        self, store: Source, info: ObjectInfo, key: str, version: str | None, at: int, ends: int | None,
        body: Body | None = None,
    ) -> None:  # fmt: skip
        super().__init__(info)
        self._store = store
        self._key = key
        self._version = version
        self._body = body
        self._at = at  # in the object
        self._ends = ends
        self._pid = getpid()

    def _read(self, size: int) -> bytes:
        if self._ends is not None:
            size = min(size, self._ends - self._at)
            if size <= 0:
                return b""
        data = self._store.run("read", self._info.path, lambda: self._attempt(size))
        self._store.throttle(len(data))
        self._at += len(data)
        return data

    def _attempt(self, size: int) -> bytes:
        self._check_process()
        self._check_open()
        body = self._reopened() if self._body is None else self._body
        self._check_open()
        try:
            data = body.read(size)
            if not data and self._ends is not None:
                raise ConnectionError(f"the body ended {self._ends - self._at} bytes too early")
            return data
        except BaseException:
            self._body = None
            body.close()
            raise

    def _check_process(self) -> None:
        if self._pid != getpid():  # the connection is its parent's
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
                Get(self._at, self._ends, if_match=self._info.etag, version=self._version),
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
            "the object changed while it was read: what was read is of a version that is gone", offset=self._at
        )

    def _interrupt(self) -> None:
        body = self._body
        if body is not None:
            body.interrupt()

    def _release(self) -> None:
        body, self._body = self._body, None
        if body is None:
            return
        try:
            near = self._ends is not None and self._ends - self._at <= WASTE
            if self._closed and near and self._pid == getpid():
                left = WASTE
                while left > 0 and (data := body.read(left)):  # the connection can serve the next request
                    left -= len(data)
        except Exception:  # noqa: S110  the bytes are wanted by nobody
            pass
        body.close()


class ObjectReader(RangeReader):
    """Reads what ``options`` ask for, up to ``last`` in the object, of which ``body`` is the beginning (None: it is all
    of it); held against the object's digest when it is the whole. After ``part_size`` bytes of something much longer
    the rest comes in ranges side by side."""

    def __init__(self, store: Source, key: str, options: ReadOptions, body: Body, last: int | None = None) -> None:
        at, info, digest = options.offset, body.info, body.digest
        ends = None if body.length is None else at + body.length
        super().__init__(store, info, key, options.version, at, ends, body)
        self._last = ends if last is None else last
        whole = at == 0 and self._last == info.size
        self._digest = new_hash(digest[0]) if whole and digest is not None else None
        self._wanted = digest[1] if digest is not None else ""
        self._lanes: Lanes | None = None  # of what is behind ``_ends``
        self._splits_at = at + store.part_size if ends is not None and info.etag is not None else None

    _damage: CorruptData | None = None

    def _read(self, size: int) -> bytes:
        if self._damage is not None:
            raise self._damage
        if self._splits_at is not None and (self._at >= self._splits_at or self._at == self._ends):
            self._split()
        if self._lanes is None or (self._ends is not None and self._at < self._ends):
            data = super()._read(size)
        else:
            data = self._behind(self._lanes, size)
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
        ends, last = self._ends, self._last
        assert ends is not None
        assert last is not None
        if ends == last:
            ends = self._at + store.part_size
            if last - ends < 2 * store.part_size or store.concurrency == 1:
                return

        def open_range(start: int, end: int) -> RangeReader:
            return RangeReader(store, info, key, version, start, end)

        self._ends = ends
        self._lanes = Lanes(open_range, ends, last, store.part_size, store.concurrency)

    def _behind(self, lanes: Lanes, size: int) -> bytes:
        """Bytes of the ranges; the first body, which has more than was taken of it, is given up."""
        self._check_process()
        body, self._body = self._body, None
        if body is not None:
            body.close()
        data = lanes.read(size)
        self._at += len(data)
        return data

    def _interrupt(self) -> None:
        if self._lanes is not None:
            self._lanes.stop()
        super()._interrupt()

    def _release(self) -> None:
        if self._lanes is not None:
            self._lanes.stop()
        super()._release()


class NothingReader(ReaderBase):
    """A range that holds nothing."""

    def _read(self, size: int) -> bytes:
        return b""


class Lanes:
    """The bytes from ``at`` to ``ends``; ``open_range(start, end)`` makes a reader of some of them and asks for nothing
    yet. It knows nothing of the public reader, which can be collected meanwhile."""

    def __init__(self, open_range: Callable[[int, int], Reader], at: int, ends: int, part: int, most: int) -> None:
        self._open = open_range
        self._at = at
        self._ends = ends
        self._part = part
        self._most = most
        self._lanes: deque[_Lane] = deque()
        self._rest = memoryview(b"")
        self._stopped = False
        self._fill()

    def _fill(self) -> None:
        while len(self._lanes) < self._most and self._at < self._ends and not self._stopped:
            end = min(self._at + self._part, self._ends)
            self._lanes.append(_Lane(self._open(self._at, end)))
            self._at = end

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, as they come; ``b""`` only at the end."""
        while not len(self._rest):
            if not self._lanes:
                return b""
            block = self._lanes[0].next()
            if not block:
                self._lanes.popleft()
                self._fill()
            elif len(block) <= size:
                return block
            self._rest = memoryview(block)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)

    def stop(self) -> None:
        """Ask for no more, and free whoever waits."""
        self._stopped = True
        for lane in tuple(self._lanes):
            lane.stop()


class _Lane:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._changed = threading.Condition()
        self._blocks: deque[bytes] = deque()
        self._done = False
        self._error: BaseException | None = None
        self._spawned = IO.spawn(self._run)

    def _run(self) -> None:
        try:
            while data := self._reader.read(READ_BLOCK):
                with self._changed:
                    self._blocks.append(data)
                    self._changed.notify()
            self._reader.close()
        except BaseException as error:  # handed to whoever reads
            self._error = error
        with self._changed:
            self._done = True
            self._changed.notify()

    def next(self) -> bytes:
        if not self._spawned:
            return self._reader.read(READ_BLOCK)
        with self._changed:
            while not self._blocks and not self._done:
                self._changed.wait()
            if self._blocks:
                return self._blocks.popleft()
        if self._error is not None:
            raise self._error
        return b""

    def stop(self) -> None:
        self._reader.close()
