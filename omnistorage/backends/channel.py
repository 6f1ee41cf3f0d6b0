"""Byte streams between the threads of one process, bounded in bytes.

A path names a channel. The first ``open_writer`` makes it, later ones join it; when the last of its writers has closed,
it has ended, and readers that have had everything see the end. A writer that aborts breaks it: every reader gets
``CorruptData``, never a clean end, and every other writer ``WriterClosed``.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal, NoReturn

from omnistorage.concurrency.cancellation import Waiter, wait
from omnistorage.core import Features, ListOptions, ObjectInfo, ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendClosed,
    BackendUnavailable,
    ConfigError,
    CorruptData,
    NotFound,
    WriterClosed,
)
from omnistorage.paths import is_under, sort_key

from .base import BackendBase
from .streams import ReaderBase, WriterBase, check_conditions

_FEATURES = Features(
    read=True,
    write=True,
    delete=True,
    list=True,
    sorted_list=True,
    stat=True,
    lazy_read=True,
    create_only=True,
    modified_precision=timedelta(microseconds=1),
)
_numbers = itertools.count(1)


class ChannelBackend(BackendBase):
    """Streams from writers to readers in other threads, live: readers see bytes before ``close``.

    ``mode="queue"``: readers of a path compete, each ``write`` goes whole to one of them. ``mode="broadcast"``: each
    reader sees every byte written since it was opened, and up to ``replay`` bytes from before, each once. A ``write``
    blocks while ``buffer`` bytes wait for the slowest reader; without a reader it blocks too, unless ``replay`` is set:
    then history beyond ``replay`` bytes is let go, and ``reader.skipped`` says how many bytes a reader came too late
    for. A write larger than the buffer goes in pieces.

    Blocking ends with ``BackendUnavailable`` after ``timeout`` seconds without progress (None: never), and at once when
    the handle is closed or aborted from another thread, at a deadline or when a ``CancelScope`` is cancelled.
    ``open_reader`` of a path that nobody writes to waits ``wait`` seconds for a writer, then raises ``NotFound``.

    ``exists``, ``stat`` and ``list`` speak of channels that have a writer, or an end that nobody came to yet: a queue
    goes when a reader has seen its end, a broadcast with ``replay`` stays until deleted. ``size`` is what waits now.
    ``overwrite=False`` joins nobody: it raises ``AlreadyExists`` if there is a channel. Writing to one that has ended
    makes a new one in its place; who still reads the old one reads it to its end. ``delete`` breaks the
    channel for all its readers and writers.
    """

    name = "channel"
    features = _FEATURES

    def __init__(
        self,
        *,
        mode: Literal["queue", "broadcast"] = "queue",
        buffer: int = 8 << 20,
        replay: int = 0,
        timeout: float | None = None,
        wait: float = 0.0,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        if mode not in ("queue", "broadcast"):
            raise ConfigError(f"mode={mode!r}: use queue or broadcast")
        if type(buffer) is not int or buffer < 1:
            raise ConfigError(f"buffer is a number of bytes from 1 up, not {buffer!r}")
        if type(replay) is not int or replay < 0 or (replay and mode == "queue"):
            raise ConfigError(f"replay={replay!r}: a number of bytes, for mode='broadcast'")
        for option, value in (("timeout", timeout), ("wait", wait)):
            if value is not None and not value >= 0:
                raise ConfigError(f"{option} is a number of seconds from 0 up, not {value!r}")
        self.mode, self.buffer, self.replay, self.timeout, self.wait = mode, buffer, replay, timeout, wait
        self.url = f"channel://{next(_numbers)}/"
        self._now = now or (lambda: datetime.now(UTC))
        self._lock = threading.RLock()
        self._channels: dict[str, _Channel] = {}
        self._opened: set[Waiter] = set()  # who waits for a channel to be made

    def __reduce__(self) -> NoReturn:
        raise ConfigError("a channel backend cannot be pickled: its streams live in this process only")

    def _close(self) -> None:
        with self._lock:
            channels = list(self._channels.values())
            self._channels.clear()
        for channel in channels:
            channel.break_("the backend was closed")
        for waiter in list(self._opened):
            waiter.set()

    def _find(self, path: str) -> _Channel | None:
        with self._lock:
            channel = self._channels.get(path)
            if channel is not None and channel.is_gone:
                del self._channels[path]
                return None
            return channel

    def _open_reader(self, path: str, options: ReadOptions) -> _ChannelReader:
        if options.offset or options.length is not None:
            self._refuse("range_read", "open_reader", path)
        if options.version is not None:
            self._refuse("version", "open_reader", path)
        channel = self._find(path) or self._await_channel(path)
        check_conditions(channel.info(), options, self.name)
        return _ChannelReader(channel)

    def _await_channel(self, path: str) -> _Channel:
        waiter, ends = Waiter(), time.monotonic() + self.wait
        self._opened.add(waiter)
        try:
            while True:
                waiter.clear()
                channel = self._find(path)
                if channel is not None:
                    return channel
                if self._closed:
                    raise BackendClosed("the backend is closed", path=path, op="open_reader", backend=self.name)
                left = ends - time.monotonic()
                if left <= 0:
                    raise NotFound("no such channel", path=path, op="open_reader", backend=self.name)
                wait(waiter, left, op="open_reader", path=path)
        finally:
            self._opened.discard(waiter)

    def _open_writer(self, path: str, options: WriteOptions) -> _ChannelWriter:
        with self._lock:
            channel = self._find(path)
            if channel is not None and not options.overwrite:
                raise AlreadyExists("there is such a channel", path=path, op="open_writer", backend=self.name)
            if channel is None or not channel.enter():
                channel = _Channel(self, path, options.content_type)
                channel.enter()
            try:
                writer = _ChannelWriter(channel, options)
            except BaseException:
                channel.leave_unwritten()
                raise
            self._channels[path] = channel
        for waiter in list(self._opened):
            waiter.set()
        return writer

    def _exists(self, path: str) -> bool:
        return self._find(path) is not None

    def _stat(self, path: str) -> ObjectInfo:
        channel = self._find(path)
        if channel is None:
            raise NotFound("no such channel", path=path, op="stat", backend=self.name)
        return channel.info()

    def _delete(self, path: str, if_match: str | None) -> bool:
        if if_match is not None:
            self._refuse("if_match", "delete", path)
        with self._lock:
            channel = self._find(path)
            self._channels.pop(path, None)
        if channel is None:
            return False
        channel.break_("the channel was deleted")
        return True

    def _list(self, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
        after = None if options.start_after is None else sort_key(options.start_after)
        for path in sorted(self._channels, key=sort_key):
            if is_under(path, prefix) and (after is None or sort_key(path) > after):
                channel = self._find(path)
                if channel is not None:
                    yield channel.info()

    def _list_dir(self, path: str) -> Iterator[ObjectInfo]:
        head = f"{path}/" if path else ""
        children: dict[str, ObjectInfo] = {}
        for info in self._list(path, ListOptions()):
            child, slash, _ = info.path[len(head) :].partition("/")
            children.setdefault(child + slash, ObjectInfo(head + child, kind="dir") if slash else info)
        if path and not children:
            raise NotFound("no such folder", path=path, op="list_dir", backend=self.name)
        for key in sorted(children, key=sort_key):
            yield children[key]

    def peek(self, path: str) -> bytes | None:
        """What waits or is kept, without taking it. For tests."""
        channel = self._find(path)
        return None if channel is None else b"".join(channel.blocks)

    def put_raw(self, path: str, data: bytes) -> None:
        """A channel that has ended, with ``data`` in it, behind the back of the methods above. For tests."""
        channel = self._channels[path] = _Channel(self, path, None)
        channel.blocks.append(data)
        channel.held = channel.total = len(data)
        channel.ended = True


class _Channel:
    """The blocks between writers and readers. ``first`` is the number of the oldest block held."""

    def __init__(self, backend: ChannelBackend, path: str, content_type: str | None) -> None:
        self.backend = backend
        self.path = path
        self.lock = threading.RLock()
        self.blocks: deque[bytes] = deque()
        self.first = 0
        self.held = 0  # bytes in blocks
        self.total = 0  # bytes ever written
        self.writers = 0
        self.readers: weakref.WeakSet[_ChannelReader] = weakref.WeakSet()  # one that is dropped holds nobody up
        self.ended = False
        self.seen = False  # whether a reader came to the end
        self.broken: str | None = None
        self.waiters: set[Waiter] = set()
        self._content_type = content_type
        self._modified_at = backend._now()

    @property
    def broadcast(self) -> bool:
        return self.backend.mode == "broadcast"

    @property
    def is_gone(self) -> bool:
        """Whether there is no writer, and a reader has seen the end of it."""
        return self.broken is not None or (self.seen and not self.blocks and not self.backend.replay)

    def info(self) -> ObjectInfo:
        return ObjectInfo(self.path, self.held, self._modified_at, content_type=self._content_type, metadata={})

    def changed(self) -> None:
        for waiter in list(self.waiters):
            waiter.set()

    def break_(self, why: str) -> None:
        # Takes no lock: a writer that is collected comes by here, whatever this thread holds.
        if self.broken is None and (self.blocks or not self.ended):
            self.broken = why
        self.changed()

    def block_until(self, ready: Callable[[], bool], op: str) -> None:
        """Wait until ``ready()``; called without the lock."""
        waiter = Waiter()
        self.waiters.add(waiter)
        try:
            while True:
                waiter.clear()
                if ready():
                    return
                if not wait(waiter, self.backend.timeout, op=op, path=self.path):
                    raise BackendUnavailable(
                        f"nobody {'read' if op == 'write' else 'wrote'} for {self.backend.timeout:g} seconds",
                        path=self.path,
                        op=op,
                        backend=self.backend.name,
                    )
        finally:
            self.waiters.discard(waiter)

    # -- the writers' end ----------------------------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Whether ``size`` more bytes may be put; makes room where nobody needs what is held."""
        self._let_go()
        if not self.broadcast or self.readers:
            return not (held := self._waiting()) or held + size <= self.backend.buffer
        return bool(self.backend.replay) or not self.held or self.held + size <= self.backend.buffer

    def _waiting(self) -> int:
        """The bytes that the slowest reader has before it."""
        if not self.broadcast:
            return self.held
        return self.total - min(reader.position for reader in self.readers)

    def put(self, data: bytes) -> None:
        self.blocks.append(data)
        self.held += len(data)
        self.total += len(data)
        self._modified_at = self.backend._now()
        self._let_go()
        self.changed()

    def _let_go(self) -> None:
        """Drop what every reader has had and no later one will be shown."""
        if not self.broadcast or (not self.readers and not self.backend.replay):
            return
        needed = min((reader.next for reader in self.readers), default=self.first + len(self.blocks))
        while self.blocks and self.first < needed and self.held > self.backend.replay:
            self.held -= len(self.blocks.popleft())
            self.first += 1

    def enter(self) -> bool:
        """Count one more writer, unless it is too late for that."""
        with self.lock:
            if self.ended or self.broken is not None:
                return False
            self.writers += 1
            return True

    def leave_unwritten(self) -> None:
        with self.lock:
            self.writers -= 1

    def end(self) -> None:
        with self.lock:
            self.writers -= 1
            if not self.writers and self.broken is None:
                self.ended = True
        self.changed()

    # -- the readers' end ----------------------------------------------------------------------------------------------

    def join(self, reader: _ChannelReader) -> None:
        with self.lock:
            reader.next, shown = self.first, self.held
            if self.readers:  # what is held beyond ``replay`` is for them
                for block in self.blocks:
                    if not self.broadcast or shown <= self.backend.replay:
                        break
                    reader.next, shown = reader.next + 1, shown - len(block)
            reader.position = reader.skipped = self.total - shown
            self.readers.add(reader)
        self.changed()

    def take(self, number: int) -> bytes | None:
        """Block ``number``, or in a queue the oldest one; None if there is none yet. Under the lock."""
        if not self.broadcast:
            if not self.blocks:
                return None
            block = self.blocks.popleft()
            self.held -= len(block)
            return block
        at = number - self.first
        return self.blocks[at] if at < len(self.blocks) else None

    def leave(self, reader: _ChannelReader, rest: bytes) -> None:
        with self.lock:
            self.readers.discard(reader)
            if rest and not self.broadcast:
                self.blocks.appendleft(rest)
                self.held += len(rest)
            self._let_go()
        self.changed()


class _ChannelReader(ReaderBase):
    next: int  # the number of the block it is shown next
    position: int  # how many bytes of the stream it has had or came too late for
    skipped: int

    def __init__(self, channel: _Channel) -> None:
        super().__init__(channel.info())
        self._channel = channel
        self._rest = b""
        channel.join(self)

    def _read(self, size: int) -> bytes:
        if not self._rest and not self._next_block():
            return b""
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def _next_block(self) -> bool:
        channel, found = self._channel, [False]

        def ready() -> bool:
            with channel.lock:
                if self._closed:
                    return True
                if channel.broken is not None:
                    raise CorruptData(f"the stream broke off: {channel.broken}", path=channel.path, op="read")
                block = channel.take(self.next)
                if block is None:
                    channel.seen = channel.ended
                    return channel.ended
                self._rest, found[0] = block, True
                self.next += 1
                self.position += len(block)
                channel._let_go()
            channel.changed()
            return True

        channel.block_until(ready, "read")
        return found[0]

    def _release(self) -> None:
        self._channel.leave(self, self._rest)

    def _interrupt(self) -> None:
        self._channel.changed()


class _ChannelWriter(WriterBase):
    def __init__(self, channel: _Channel, options: WriteOptions) -> None:
        super().__init__(channel.path, options, channel.backend.name)
        self._channel = channel

    def _write(self, data: bytes | memoryview) -> None:
        view, limit = memoryview(data), self._channel.backend.buffer
        for at in range(0, len(view), limit):
            self._put(bytes(view[at : at + limit]))

    def _put(self, block: bytes) -> None:
        channel = self._channel

        def ready() -> bool:
            with channel.lock:
                if self._abort_asked:
                    raise WriterClosed("the writer was aborted", path=channel.path, op="write")
                if channel.broken is not None:
                    raise WriterClosed(f"the channel is broken: {channel.broken}", path=channel.path, op="write")
                if not channel.has_room(len(block)):
                    return False
                channel.put(block)
                return True

        channel.block_until(ready, "write")

    def _publish(self) -> ObjectInfo:
        if self._channel.broken is not None:
            raise WriterClosed(f"the channel is broken: {self._channel.broken}", path=self._path, op="close")
        self._channel.end()
        return self._channel.info()

    def _discard(self) -> None:
        self._channel.break_("a writer gave up")

    def _drop(self) -> None:
        self._channel.break_("a writer was dropped")

    def _interrupt(self) -> None:
        self._channel.changed()
