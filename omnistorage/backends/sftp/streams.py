"""The reader and the writer of the SFTP backend, both pipelined.

Memory: a reader asks at most 4 MiB ahead of its caller (it starts with 64 KiB and doubles that as it is read, so that
a look at the head of a file costs little); a writer has at most 4 MiB under way that the server has not confirmed, and
holds one block of at most 256 KiB itself. Both figures are the same for a file of any size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from stat import S_ISREG
from struct import Struct
from typing import TYPE_CHECKING

from omnistorage.backends.base import translating
from omnistorage.backends.streams import ReaderBase, WriterBase
from omnistorage.concurrency.cancellation import check
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import ObjectInfo, ReadOptions, WriteOptions
from omnistorage.errors import ConfigError, CorruptData, OutcomeUnknown, StorageError

from .connection import Link
from .paths import info_of, translate
from .protocol import (
    ATTRS,
    CLOSE,
    DATA,
    EOF,
    FSETSTAT,
    FSTAT,
    READ,
    REMOVE,
    WRITE,
    Attrs,
    Lost,
    Session,
    Slot,
    Status,
    string,
)
from .settings import NAME as BACKEND

if TYPE_CHECKING:
    from .mutations import Changes

AHEAD_MIN = 64 << 10
AHEAD_MAX = 4 << 20
UNDER_WAY = 4 << 20
_AT_SIZE = Struct(">QI")
_FAR = 1 << 62
_LAST_SECOND = (1 << 32) - 1


def seconds_of(when: datetime) -> int:
    """The time as SFTP version 3 can say it: whole seconds from 1970 to 2106. ``ConfigError`` outside of that."""
    found = (when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() // 1
    if not 0 <= found <= _LAST_SECOND:
        raise ConfigError(f"SFTP holds times from 1970 to 2106, not {when.isoformat()}", backend=BACKEND)
    return int(found)


def gate(policy: RequestPolicy, op: str, path: str, size: int = 0) -> None:
    """What the policy asks of one more request of a stream."""
    check(op, path)
    if policy.requests is not None:
        policy.requests.take(1)
    if size:
        policy.throttle(size)


class SFTPReader(ReaderBase):
    """Reads the bytes that the file had when it was opened. When the connection drops it raises
    ``BackendUnavailable``: SFTP knows no token that would prove that a file opened again is still the same one."""

    def __init__(
        self, link: Link, session: Session, handle: bytes, info: ObjectInfo, options: ReadOptions, policy: RequestPolicy
    ) -> None:
        super().__init__(info)
        self._link, self._session, self._handle, self._policy = link, session, handle, policy
        self._token = object()
        link.users.add(self._token)
        self._asked: deque[tuple[Slot, int, int]] = deque()
        self._under_way = 0
        self._part = memoryview(b"")
        self._ahead = AHEAD_MIN
        self._at = min(options.offset, _FAR)
        length = _FAR if options.length is None else options.length
        # A file of no size may be one of those that the server's system makes up when they are read.
        self._sized = bool(info.size)
        self._end = min(info.size or _FAR, self._at + length)

    def _translating(self) -> AbstractContextManager[None]:
        return translating("read", self._info.path, translate)

    def _read(self, size: int) -> bytes:
        if not self._part:
            try:
                with self._translating():
                    self._next_part(size)
            except StorageError:
                if self._closed:
                    return b""  # by another thread: the caller hears of that
                raise
        data = bytes(self._part[:size])
        self._part = self._part[size:]
        return data

    def _read_all(self) -> bytes:
        self._ahead = AHEAD_MAX
        return super()._read_all()

    def _ask(self, wanted: int) -> None:
        block = self._session.read_block
        while self._at < self._end and self._under_way < wanted:
            size = min(block, self._end - self._at)
            gate(self._policy, "read", self._info.path, size)
            self._asked.append((self._send(self._at, size), self._at, size))
            self._at += size
            self._under_way += size
            if not self._sized:
                return

    def _send(self, offset: int, size: int) -> Slot:
        return self._session.send(READ, string(self._handle), _AT_SIZE.pack(offset, size), stop=self._stopped)

    def _stopped(self) -> bool:
        return self._closed

    def _next_part(self, size: int) -> None:
        """Wait for the next bytes, and ask for those behind them."""
        self._ask(min(max(size, 1), AHEAD_MAX) + self._ahead if self._sized else 1)
        if not self._asked:
            return
        slot, offset, wanted = self._asked[0]
        data = self._answer(slot, self._stopped)
        self._asked.popleft()
        if not data:
            self._end_early(offset)
            return
        self._under_way -= len(data) if self._sized else wanted
        if self._sized and len(data) < wanted:  # what is missing comes next
            rest = offset + len(data)
            self._asked.appendleft((self._send(rest, wanted - len(data)), rest, wanted - len(data)))
        elif not self._sized:
            self._at = offset + len(data)
        self._ahead = min(self._ahead * 2, AHEAD_MAX)
        self._part = data

    def _answer(self, slot: Slot, stop: Callable[[], bool] | None = None) -> memoryview:
        """The bytes that were asked for, as many as the server gave; none at the end of the file."""
        try:
            return self._session.answer(slot, DATA, stop=stop).view()
        except Status as error:
            if error.code != EOF:
                raise
            return memoryview(b"")

    def _end_early(self, offset: int) -> None:
        self._end = self._at = offset
        self._under_way = 0
        if self._sized:
            raise self._cut_short(offset, "read")

    def _cut_short(self, offset: int, op: str) -> CorruptData:
        return CorruptData(
            f"the file ended at byte {offset} of {self._info.size}: it was cut short while it was read",
            path=self._info.path, op=op, backend=BACKEND,
        )  # fmt: skip

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Each range, short where the file ends; all are asked for at once, as far as the bound of memory goes."""
        found: list[list[memoryview]] = [[] for _ in ranges]
        todo = deque(self._blocks(ranges))
        asked: deque[tuple[Slot, int, int, int]] = deque()
        under_way = 0
        with translating("read_ranges", self._info.path, translate):
            while todo or asked:
                while todo and under_way < AHEAD_MAX:
                    number, offset, size = todo.popleft()
                    gate(self._policy, "read_ranges", self._info.path, size)
                    asked.append((self._send(offset, size), number, offset, size))
                    under_way += size
                slot, number, offset, size = asked.popleft()
                data = self._answer(slot)
                if not data:
                    raise self._cut_short(offset, "read_ranges")
                under_way -= size
                found[number].append(data)
                if len(data) < size:  # what is missing comes next
                    rest = offset + len(data), size - len(data)
                    asked.appendleft((self._send(*rest), number, *rest))
                    under_way += rest[1]
        return [b"".join(parts) for parts in found]

    def _blocks(self, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        """Every range cut into blocks: its number, and the block's offset and size."""
        block = self._session.read_block
        for number, (offset, length) in enumerate(ranges):
            end = min(self._info.size or 0, offset + length)
            for at in range(offset, end, block):
                yield number, at, min(block, end - at)

    def _release(self) -> None:
        self._session.closing.append(self._handle)  # sent along with the next request; a finaliser may be here
        self._link.users.discard(self._token)


class SFTPWriter(WriterBase):
    """Writes into the open, hidden ``temporary``, of which ``close`` makes the object."""

    def __init__(
        self,
        backend: Changes,
        link: Link,
        session: Session,
        handle: bytes,
        temporary: bytes,
        found: Attrs | None,
        path: str,
        options: WriteOptions,
    ) -> None:
        super().__init__(path, options, BACKEND)
        self._at_backend, self._link, self._session = backend, link, session
        self._handle: bytes | None = handle
        self._temporary = temporary
        self._mode = found.mode & 0o777 if found is not None and found.mode and S_ISREG(found.mode) else None
        self._token = object()
        link.users.add(self._token)
        self._buffer = bytearray()
        self._sent = 0
        self._asked: deque[tuple[Slot, int]] = deque()
        self._under_way = 0
        self._info: ObjectInfo | None = None

    def _stopped(self) -> bool:
        return self._abort_asked

    def _write(self, data: bytes | memoryview) -> None:
        block = self._session.write_block
        if len(data) + len(self._buffer) < block:
            self._buffer += data
            return
        with translating("write", self._path, translate), memoryview(data) as view:
            at = 0
            if self._buffer:
                at = block - len(self._buffer)
                self._buffer += view[:at]
                self._send_buffer()
            while len(view) - at >= block:
                self._send(view[at : at + block])
                at += block
            self._buffer += view[at:]

    def _send_buffer(self) -> None:
        if self._buffer:
            self._send(self._buffer)
            self._buffer = bytearray()

    def _send(self, data: bytearray | memoryview) -> None:
        if self._handle is None:
            raise Lost("the file is closed")
        gate(self._at_backend.policy, "write", self._path, len(data))
        self._settle(UNDER_WAY - len(data))
        head = string(self._handle) + _AT_SIZE.pack(self._sent, len(data))
        slot = self._session.send(WRITE, head, memoryview(data), stop=self._stopped)
        self._asked.append((slot, len(data)))
        self._sent += len(data)
        self._under_way += len(data)

    def _settle(self, room: int) -> None:
        """Wait until at most ``room`` bytes are unconfirmed."""
        while self._asked and self._under_way > room:
            slot, size = self._asked[0]
            self._session.answer(slot, stop=self._stopped)
            self._asked.popleft()
            self._under_way -= size

    def _flush(self) -> None:
        with translating("flush", self._path, translate):
            self._send_buffer()
            self._settle(0)

    def _prepare(self) -> None:
        with translating("close", self._path, translate):
            self._send_buffer()
            session, handle = self._session, string(self._handle or b"")
            when = self._options.modified_at
            mtime = None if when is None else seconds_of(when)
            self._settle(0)  # some servers work on requests side by side: the last look has to see every byte
            change = None
            if self._mode is not None or mtime is not None:
                change = session.send(FSETSTAT, handle, Attrs(mode=self._mode, mtime=mtime).packed())
            look = session.send(FSTAT, handle)
            check = self._at_backend.look_again(session, self._path, "close")
            done = session.send(CLOSE, handle)
            self._handle = None
            if change is not None:
                session.answer(change, stop=self._stopped)
            attrs = session.answer(look, ATTRS, stop=self._stopped).attrs()
            session.answer(done, stop=self._stopped)
            check()
        if attrs.size is not None and attrs.size != self._written:
            raise CorruptData(
                f"{self._written} bytes were written, the server has {attrs.size}", path=self._path, op="close",
                backend=BACKEND,
            )  # fmt: skip
        self._info = info_of(self._path, attrs)

    def _publish(self) -> ObjectInfo:
        if self._info is None:
            raise StorageError("nothing was prepared", path=self._path, op="close", backend=BACKEND)
        try:
            self._at_backend.publish(self._path, self._temporary, self._info, overwrite=self._options.overwrite)
        except OutcomeUnknown:
            self._drop()  # published or not, the temporary's name is of no more use
            raise
        self._release()
        return self._info

    def _discard(self) -> None:
        session = self._session
        self._release()
        try:
            session.call(REMOVE, string(self._temporary))
        except Status:
            pass  # it is gone, or not ours to remove
        except Exception:
            self._at_backend.leftovers.append(self._temporary)

    def _release(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._session.closing.append(handle)
        self._link.users.discard(self._token)
        self._at_backend.live.discard(self._temporary)

    def _drop(self) -> None:
        # No request and no lock: the next call of the backend, or its close, removes the temporary.
        self._at_backend.leftovers.append(self._temporary)
        self._release()
