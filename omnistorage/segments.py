"""``SegmentLog``: an append-only log of byte entries in a local folder. Floor 2; touches files through ``_os``.

A segment is a file named by the number of its first entry (``00000000000000000042.seg``). An entry is its length, the
CRC-32 (ITU-T V.42) of those four bytes, the CRC-32 of its content, each 4 bytes big-endian, and its content. All but
the last segment are sealed: they never change and are only ever deleted whole. The last one is the tail, to which
entries are added; what a kill or a power cut left of an entry behind its end is cut off when the log is opened again.
"""

from __future__ import annotations

import errno
import os
import re
import zlib
from collections.abc import Iterator
from fcntl import LOCK_EX, LOCK_NB
from itertools import pairwise
from os import PathLike, fspath
from struct import Struct
from typing import Any, Literal

from ._context import Closes
from ._os import OS, READ_FILE, READ_FOLDER, REAL
from .errors import ConfigError, CorruptData, NotFound, PermissionDenied, StorageError, WriterClosed

MAX_ENTRY = 1 << 30
_HEAD = Struct(">III")
_NAME = re.compile(r"(\d{20})\.seg")
_NEW = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TAIL = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 1 << 20
_KINDS: dict[int | None, type[StorageError]] = {
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.EROFS: PermissionDenied,
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
}


class SegmentLog(Closes):
    """Entries, numbered from 0, in ``folder`` (made with mode 0700; files get 0600).

    ``fsync="record"``: an entry survives a power cut once ``append`` has returned; ``"seal"``: once its segment is
    sealed or ``sync`` has returned. A segment is sealed when it would grow beyond ``segment_bytes``. One log at a time
    may be open on a folder, which a lock ensures: ``PermissionDenied``. For one thread at a time.

    An append that fails leaves the log as it was. After a failed sync nobody can say what is on the disk: every later
    call raises that error, and the log has to be opened again. Damage that a torn write cannot explain is
    ``CorruptData`` with the offset.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        segment_bytes: int = 64 << 20,
        fsync: Literal["record", "seal"] = "record",
        _os: OS = REAL,
    ) -> None:
        if fsync not in ("record", "seal"):
            raise ConfigError(f"fsync={fsync!r}: use record or seal")
        if type(segment_bytes) is not int or segment_bytes < 1:
            raise ConfigError(f"segment_bytes is a number of bytes from 1 up, not {segment_bytes!r}")
        self.folder = fspath(folder)
        self._os = _os
        self._segment_bytes = segment_bytes
        self._each = fsync == "record"
        self._error: BaseException | None = None
        self._fds: list[int] = []
        self._tail = -1
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, StorageError):
                raise self._ours(error, "open") from error
            raise

    def _open(self) -> None:
        os_ = self._os
        try:
            os_.mkdir(self.folder, 0o700)
        except FileExistsError:
            pass
        self._folder = os_.open(self.folder, READ_FOLDER)
        self._fds.append(self._folder)
        lock = os_.open("lock", _LOCK, 0o600, dir_fd=self._folder)
        self._fds.append(lock)
        try:
            os_.flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise PermissionDenied("another process has this log open", path=self.folder, op="open") from None
        with os_.scandir(self._folder) as entries:
            found = [_NAME.fullmatch(entry.name) for entry in entries]
        self._firsts = sorted(int(match[1]) for match in found if match)
        self.next, self._end = 0, 0
        if self._firsts:
            self._recover()
        else:
            self._begin()

    def _recover(self) -> None:
        """Find the end of the tail, and cut off what a torn write left behind it."""
        self._tail = self._os.open(_name(self._firsts[-1]), _TAIL, dir_fd=self._folder)
        size = self._os.fstat(self._tail).st_size
        self.next, self._end = self._firsts[-1], 0
        for entry, end in _entries(self._os, self._tail, size, self.folder, torn="last" if self._each else "any"):
            del entry
            self.next, self._end = self.next + 1, end
        if self._end < size:
            self._os.ftruncate(self._tail, self._end)
        self._os.fsync(self._tail)  # what was read is there to stay

    def _begin(self) -> None:
        tail = self._os.open(_name(self.next), _NEW, 0o600, dir_fd=self._folder)
        self._tail, self._end = tail, 0
        self._firsts.append(self.next)
        self._sync(self._folder)

    @property
    def first(self) -> int:
        """The number of the oldest entry kept."""
        return self._firsts[0]

    def append(self, data: bytes) -> int:
        """Add an entry and return its number."""
        self._check("append")
        if len(data) > MAX_ENTRY:
            raise ConfigError(f"an entry has at most {MAX_ENTRY} bytes, not {len(data)}")
        size = _HEAD.size + len(data)
        if self._end and self._end + size > self._segment_bytes:
            self.seal()
        block = memoryview(_HEAD.pack(len(data), _crc_of(len(data)), zlib.crc32(data)) + data)
        try:
            while block:
                block = block[self._os.write(self._tail, block) :]
        except OSError as error:
            self._take_back()
            raise self._ours(error, "append") from error
        self._end += size
        number, self.next = self.next, self.next + 1
        if self._each:
            self._sync(self._tail)
        return number

    def _take_back(self) -> None:
        try:
            self._os.ftruncate(self._tail, self._end)
        except OSError as error:
            self._error = self._ours(error, "append")

    def sync(self) -> None:
        """Every entry appended so far survives a power cut."""
        self._check("sync")
        self._sync(self._tail)

    def _sync(self, fd: int) -> None:
        try:
            self._os.fsync(fd)
        except OSError as error:
            self._error = self._ours(error, "sync")
            raise self._error from error

    def seal(self) -> None:
        """End the tail, unless it is empty, and begin another one."""
        self._check("seal")
        if not self._end:
            return
        self._sync(self._tail)
        old = self._tail
        try:
            self._begin()
        except OSError as error:
            raise self._ours(error, "seal") from error
        self._let_go(old)

    def read(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """The entries from number ``start`` on that are there now, with their numbers. Raises ``CorruptData``."""
        self._check("read")
        end, tail = self._end, self._firsts[-1]
        for first, following in pairwise([*self._firsts, self.next]):
            if following <= start or first == following:
                continue
            number, fd = first, -1
            try:
                fd = self._os.open(_name(first), READ_FILE | os.O_NOFOLLOW, dir_fd=self._folder)
                size = end if first == tail else self._os.fstat(fd).st_size
                for entry, _ in _entries(self._os, fd, size, f"{self.folder}/{_name(first)}", torn="none"):
                    if number >= start:
                        yield number, entry
                    number += 1
            except StorageError:
                raise
            except OSError as error:
                raise self._ours(error, "read") from error
            finally:
                self._let_go(fd)
            if number != following:
                raise CorruptData(
                    f"the segment ends with entry {number - 1}, the next begins with {following}",
                    path=f"{self.folder}/{_name(first)}",
                    op="read",
                )

    def drop_before(self, number: int) -> None:
        """Delete the sealed segments that hold only entries below ``number``."""
        self._check("drop_before")
        try:
            while len(self._firsts) > 1 and self._firsts[1] <= number:
                self._os.unlink(_name(self._firsts[0]), dir_fd=self._folder)
                del self._firsts[0]
        except OSError as error:
            raise self._ours(error, "drop_before") from error
        self._sync(self._folder)

    def close(self) -> None:
        """Let go of the folder. Idempotent. Entries that were not synced are where the system left them."""
        if self._tail >= 0:
            self._fds.append(self._tail)
            self._tail = -1
        while self._fds:
            self._let_go(self._fds.pop())
        self._error = self._error or WriterClosed("the log is closed", path=self.folder)

    def _let_go(self, fd: int) -> None:
        try:
            if fd >= 0:
                self._os.close(fd)
        except OSError:
            pass  # what was promised was synced before

    def _check(self, op: str) -> None:
        if self._error is not None:
            raise self._error

    def _ours(self, error: OSError, op: str) -> StorageError:
        kind = _KINDS.get(error.errno, StorageError)
        return kind(error.strerror or str(error), path=self.folder, op=op)


def _name(first: int) -> str:
    return f"{first:020d}.seg"


def _crc_of(length: int) -> int:
    return zlib.crc32(length.to_bytes(4, "big"))


def _entries(os_: OS, fd: int, size: int, path: str, *, torn: str) -> Iterator[tuple[bytes, int]]:
    """The entries of a segment of ``size`` bytes, each with the offset behind it. ``torn`` says which of them may be
    there in part, and then end it: the ``"last"`` one where each was synced, ``"any"`` where not, ``"none"`` in a
    sealed segment. Raises ``CorruptData`` for any other that is not whole."""
    at = 0
    while at < size:
        head = _pread(os_, fd, min(_HEAD.size, size - at), at)
        if len(head) == _HEAD.size and any(head):
            length, head_crc, crc = _HEAD.unpack(head)
            end = at + _HEAD.size + length
            if head_crc != _crc_of(length):
                raise CorruptData("the length of an entry is damaged", path=path, op="read", offset=at)
            if end <= size:
                data = _pread(os_, fd, length, at + _HEAD.size)
                if zlib.crc32(data) == crc:
                    yield data, end
                    at = end
                    continue
        else:
            end = size  # nothing of the entry came to the disk but, perhaps, its place
        if torn == "any" or (torn == "last" and end >= size):
            return
        raise CorruptData("an entry is damaged", path=path, op="read", offset=at)


def _pread(os_: OS, fd: int, size: int, at: int) -> Any:
    parts: list[bytes] = []
    while size:
        part = os_.pread(fd, min(size, _BLOCK), at)
        if not part:
            break
        parts.append(part)
        size, at = size - len(part), at + len(part)
    return b"".join(parts)
