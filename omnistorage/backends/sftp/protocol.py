"""The SSH File Transfer Protocol, version 3, over a paramiko channel.

Why not paramiko's own client: it must not be shared by threads, forgets the server's extensions, buffers a whole file
when it prefetches, and tells most failures apart by text alone. Here any number of threads share one session: a request
gets a slot, whoever waits for one reads the answers for everybody, and the order of answers does not matter.

Format: draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL file for the extensions named ``*@openssh.com``;
``copy-data`` is from draft-ietf-secsh-filexfer-extensions-00.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

from omnistorage.concurrency.cancellation import check, is_over

INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR = range(1, 13)
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = range(13, 21)
STATUS, HANDLE, DATA, NAME, ATTRS = range(101, 106)
EXTENDED, EXTENDED_REPLY = 200, 201

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, _, _, UNSUPPORTED = range(9)

FOR_READING, FOR_WRITING, CREATE, EXCLUSIVE = 0x1, 0x2, 0x8, 0x20

POSIX_RENAME, HARDLINK = "posix-rename@openssh.com", "hardlink@openssh.com"
COPY_DATA, LIMITS, LSETSTAT = "copy-data", "limits@openssh.com", "lsetstat@openssh.com"

SAFE_BLOCK = 32 << 10  # what every server takes in one READ or WRITE
LARGEST_BLOCK = 256 << 10
LARGEST_PACKET = 16 << 20  # an answer that says to be longer is garbage
POLL = 0.1  # seconds after which a waiting thread looks up: deadlines, cancellation, ``close`` from another thread

_U32, _U64, _HEAD, _TWO = Struct(">I"), Struct(">Q"), Struct(">IBI"), Struct(">II")


class Status(Exception):
    """The server said no."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text or f"status {code}")
        self.code = code


class Lost(Exception):
    """The connection is gone, or is as good as gone; what was asked may have been done or not."""


class Stopped(Exception):
    """The waiting stream was closed or aborted by another thread."""


class Attrs(NamedTuple):
    """What the protocol says of a file; None: the server did not say."""

    size: int | None = None
    mode: int | None = None
    atime: int | None = None
    mtime: int | None = None

    def packed(self) -> bytes:
        flags = (self.size is not None) + 4 * (self.mode is not None) + 8 * (self.mtime is not None)
        parts = [_U32.pack(flags)]
        if self.size is not None:
            parts.append(_U64.pack(self.size))
        if self.mode is not None:
            parts.append(_U32.pack(self.mode))
        if self.mtime is not None:
            parts.append(_TWO.pack(self.mtime if self.atime is None else self.atime, self.mtime))
        return b"".join(parts)


class Answer:
    """Reads the fields of one answer in turn."""

    __slots__ = ("_at", "_body")

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    def number(self) -> int:
        return self._take(_U32)

    def long(self) -> int:
        return self._take(_U64)

    def _take(self, form: Struct) -> int:
        try:
            (value,) = form.unpack_from(self._body, self._at)
        except StructError:
            raise Lost("the server sent an answer that is cut short") from None
        self._at += form.size
        return int(value)

    def view(self) -> memoryview:
        size = self.number()
        start, self._at = self._at, self._at + size
        if self._at > len(self._body):
            raise Lost("the server sent an answer that is cut short")
        return self._body[start : self._at]

    def string(self) -> bytes:
        return bytes(self.view())

    def attrs(self) -> Attrs:
        flags = self.number()
        size = self.long() if flags & 1 else None
        if flags & 2:
            self._at += 8
        mode = self.number() if flags & 4 else None
        atime, mtime = (self.number(), self.number()) if flags & 8 else (None, None)
        if flags & 0x80000000:
            for _ in range(2 * self.number()):
                self.view()
        return Attrs(size, mode, atime, mtime)


class Slot:
    """Where the answer to one request will be."""

    __slots__ = ("body", "kind")

    def __init__(self) -> None:
        self.kind = 0
        self.body: memoryview = memoryview(b"")


def string(data: bytes | memoryview) -> bytes:
    return _U32.pack(len(data)) + data


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size)


class Session:
    """One SFTP session on ``channel``. ``timeout``: seconds without a byte from the server while an answer is due,
    after which the session counts as lost. ``on_lost`` is called once, then."""

    def __init__(self, channel: Any, timeout: float, on_lost: Callable[[], None]) -> None:
        self._channel = channel
        self._timeout = timeout
        self._on_lost = on_lost
        self._sending = threading.Lock()
        self._state = threading.Condition(threading.Lock())
        self._slots: dict[int, Slot] = {}
        self._number = 0
        self._buffer = bytearray()
        self._reading = False
        self._waiting = 0
        self._heard = time.monotonic()
        self.lost: Lost | None = None
        self.closing: deque[bytes] = deque()  # handles to close with the next request; appended to by finalisers, too
        self.extensions: dict[str, bytes] = {}
        self.read_block = self.write_block = SAFE_BLOCK
        channel.settimeout(POLL)
        self._begin()

    def _begin(self) -> None:
        greeting = Slot()
        self._slots[-1] = greeting
        self._push(_U32.pack(5) + bytes((INIT,)) + _U32.pack(3))
        self._await(greeting, None)
        answer = Answer(greeting.body)
        if greeting.kind != VERSION or answer.number() < 3:
            raise Lost("the server does not speak SFTP version 3")
        while answer._at < len(answer._body):
            name, value = answer.string(), answer.string()
            self.extensions[name.decode("ascii", "replace")] = value
        if LIMITS in self.extensions:
            limits = self.answer(self.send(EXTENDED, string(LIMITS.encode())), EXTENDED_REPLY)
            packet, reading, writing = limits.long(), limits.long(), limits.long()
            room = (packet or SAFE_BLOCK + 1024) - 1024
            self.read_block = max(SAFE_BLOCK, min(reading or SAFE_BLOCK, room, LARGEST_BLOCK))
            self.write_block = max(SAFE_BLOCK, min(writing or SAFE_BLOCK, room, LARGEST_BLOCK))

    # -- asking --------------------------------------------------------------------------------------------------------

    def send(self, kind: int, *parts: bytes | memoryview, stop: Callable[[], bool] | None = None) -> Slot:
        """Send one request; its answer will be in the slot."""
        slot, sending = Slot(), self._sending
        body = b"".join(parts)
        while not sending.acquire(timeout=POLL):  # another thread may be at it for as long as its server likes
            self._look_up(stop)
        try:
            while self.closing:
                handle = string(self.closing.popleft())
                self._push(_HEAD.pack(len(handle) + 5, CLOSE, self._next(Slot())) + handle)
            number = self._next(slot)
            self._push(_HEAD.pack(len(body) + 5, kind, number) + body, stop)
        finally:
            sending.release()
        return slot

    def _next(self, slot: Slot) -> int:
        self._number = number = (self._number + 1) & 0x7FFFFFFF
        with self._state:
            if not self._slots:
                self._heard = time.monotonic()
            self._slots[number] = slot
        return number

    def _push(self, packet: bytes, stop: Callable[[], bool] | None = None) -> None:
        """Hand ``packet`` to the channel, all of it: half a packet would make the session useless."""
        if self.lost is not None:
            raise self._again()
        view = memoryview(packet)
        moved = time.monotonic()
        while view:
            try:
                count = self._channel.send(view)
                if not count:
                    raise EOFError
                view = view[count:]
                moved = time.monotonic()
            except TimeoutError:
                late = time.monotonic() - moved > self._timeout
                if late or is_over() or (stop is not None and stop()):
                    self.fail("the server takes no more" if late else "a request was broken off")
                    check()
                    raise self._again() from None
            except (OSError, EOFError) as error:
                self.fail("the connection was closed")
                check()
                raise self._again() from error
            except Exception as error:
                self.fail(f"the connection failed ({type(error).__name__})")
                raise self._again() from error

    # -- answers -------------------------------------------------------------------------------------------------------

    def answer(self, slot: Slot, kind: int = STATUS, stop: Callable[[], bool] | None = None) -> Answer:
        """Wait for the answer in ``slot``, which must be of ``kind``. Raises ``Status`` if the server refused."""
        self._await(slot, stop)
        answer = Answer(slot.body)
        if slot.kind == STATUS:
            code = answer.number()
            if code != OK or kind != STATUS:
                text = answer.string().decode("utf-8", "replace") if len(slot.body) > 4 else ""
                raise Status(code, text)
        elif slot.kind != kind:
            self.fail("the server answered something else than was asked")
            raise self._again()
        return answer

    def call(self, kind: int, *parts: bytes, want: int = STATUS) -> Answer:
        return self.answer(self.send(kind, *parts), want)

    def _await(self, slot: Slot, stop: Callable[[], bool] | None) -> None:
        started = time.monotonic()
        while not slot.kind:
            with self._state:
                while self._reading and not slot.kind and self.lost is None:
                    self._waiting += 1
                    self._state.wait(POLL)
                    self._waiting -= 1
                    self._look_up(stop)
                if slot.kind:
                    return
                if self.lost is not None:
                    raise self._again()
                self._reading = True
            try:
                while not slot.kind:
                    self._look_up(stop)
                    self._receive(started)
            finally:
                with self._state:
                    self._reading = False
                    self._state.notify_all()

    @staticmethod
    def _look_up(stop: Callable[[], bool] | None) -> None:
        if stop is not None and stop():
            raise Stopped
        check()

    def _receive(self, started: float) -> None:
        """Read what there is and hand out the answers in it."""
        if self.lost is not None:
            raise self._again()
        try:
            data = self._channel.recv(1 << 20)
        except TimeoutError:
            if time.monotonic() - max(started, self._heard) > self._timeout:
                self.fail(f"no answer for {self._timeout:g} s")
                raise self._again() from None
            return
        except Exception as error:
            self.fail(f"the connection failed ({type(error).__name__})")
            raise self._again() from error
        if not data:
            self.fail("the server closed the connection")
            raise self._again()
        self._heard = time.monotonic()
        self._buffer += data
        at, end = 0, len(self._buffer)
        while end - at >= 4:
            (size,) = _U32.unpack_from(self._buffer, at)
            if size > LARGEST_PACKET or size < 5:
                self.fail("the server sent what is not SFTP (does a start-up file of its shell print something?)")
                raise self._again()
            if end - at - 4 < size:
                break
            with memoryview(self._buffer) as view:
                self._hand_out(bytes(view[at + 4 : at + 4 + size]))
            at += 4 + size
        if at:
            del self._buffer[:at]

    def _hand_out(self, packet: bytes) -> None:
        kind, view = packet[0], memoryview(packet)
        with self._state:
            if kind == VERSION:
                slot, body = self._slots.pop(-1, None), view[1:]
            else:
                slot, body = self._slots.pop(_U32.unpack_from(packet, 1)[0], None), view[5:]
            if slot is not None:  # else nobody waits for it any more
                slot.body, slot.kind = body, kind
            if self._waiting:
                self._state.notify_all()

    # -- the end -------------------------------------------------------------------------------------------------------

    def _again(self) -> Lost:
        return Lost(*(self.lost.args if self.lost is not None else ()))

    def fail(self, why: str) -> None:
        """Give the session up; every waiting thread gets ``Lost``."""
        if self.lost is None:
            self.lost = Lost(why)
            self._slots = {}
            self._on_lost()
        if self._state.acquire(blocking=False):  # else whoever holds it looks at ``lost`` within POLL
            try:
                self._state.notify_all()
            finally:
                self._state.release()
