"""``SegmentLog`` itself: opening, appending, sealing, dropping, and remembering what is no longer needed."""

from __future__ import annotations

import copy
import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN
from itertools import count
from os import PathLike
from typing import Literal
from weakref import WeakSet

from omnistorage.concurrency.pools import forks
from omnistorage.core.lifecycle import Closes
from omnistorage.errors import ConfigError, CorruptData, NotFound, PermissionDenied, StorageError, WriterClosed
from omnistorage.posix import OS, READ_FILE, READ_FOLDER, REAL, expanded, why_exposed

from .cursor import Cursor
from .entry_format import HEAD, MAX_ENTRY, Damage, advance, framed, is_torn
from .notes import NOTE_SIZE, SLOTS, Note, slot_number, slot_text
from .recovery import Tail, acked_damage, find_end

NAME = re.compile(r"(\d{20})\.seg")
_NEW = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TAIL = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
KINDS: dict[int | None, type[StorageError]] = {
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.EROFS: PermissionDenied,
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
}


class SegmentLog(Closes):
    """Entries, numbered from ``start``, in ``folder`` (made with mode 0700; files get 0600).

    ``fsync="record"``: an entry survives a power cut once ``append`` has returned; ``"seal"``: once its segment is
    sealed or ``sync`` has returned. A segment is sealed when it would grow beyond ``segment_bytes``. One log at a time
    may be open on a folder, which a lock ensures: ``PermissionDenied``. For one thread at a time.

    An append that fails leaves the log as it was. After a failed sync nobody can say what is on the disk: every later
    call raises that error, and the log has to be opened again. Damage that a torn write cannot explain is
    ``CorruptData`` with the numbers that are lost and the offset, or is told to ``on_damage``, after which the log goes
    on behind it. With ``"seal"`` and without ``on_damage`` the tail ends before whatever is not sound in it; else only
    before what is the beginning of an entry, or zeros, with no sound entry behind it.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        segment_bytes: int = 64 << 20,
        fsync: Literal["record", "seal"] = "record",
        start: int = 0,
        on_damage: Callable[[Damage], None] | None = None,
        _os: OS = REAL,
    ) -> None:
        if fsync not in ("record", "seal"):
            raise ConfigError(f"fsync={fsync!r}: use record or seal")
        if type(segment_bytes) is not int or segment_bytes < 1:
            raise ConfigError(f"segment_bytes is a number of bytes from 1 up, not {segment_bytes!r}")
        self.folder = expanded(folder)
        self.os = _os
        self.next = start
        self.acked: int | None = None
        self.firsts: list[int] = []
        self.sizes: dict[int, int] = {}
        self.torn = 0  # bytes that were cut off
        self.removed = False
        self._segment_bytes = segment_bytes
        self._each = fsync == "record"
        self._on_damage = on_damage
        self._error: StorageError | None = None  # never itself raised: it would hold on to all it went through
        self._forks = forks[0]
        self._fds: list[int] = []
        self._cursors: WeakSet[Cursor] = WeakSet()
        self._tail = self._lock = -1
        self._slot = 0
        self._synced: int | None = None  # entries below it survive a power cut; None until the log is open
        self.note = Note(0, 0, 1)
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, StorageError):
                raise self.ours(error, "open") from error
            raise

    def _open(self) -> None:
        os_ = self.os
        self._make_folder()
        self.folder_fd = os_.open(self.folder, READ_FOLDER)
        self._fds.append(self.folder_fd)
        if reason := why_exposed(os_.fstat(self.folder_fd)):
            raise PermissionDenied(reason, path=self.folder, op="open")
        self._sync_above(self.folder)
        lock = os_.open("lock", _OWN, 0o600, dir_fd=self.folder_fd)
        self._fds.append(lock)
        try:
            os_.flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise PermissionDenied(
                "a writer has it open, of this process or another one: end that one first", path=self.folder, op="open"
            ) from None
        self._lock = lock
        noted = Note.read(os_.pread(lock, NOTE_SIZE, 0))
        with os_.scandir(self.folder_fd) as entries:
            names = {entry.name for entry in entries}
        self.firsts = sorted(int(match[1]) for name in names if (match := NAME.fullmatch(name)))
        self.sizes = {first: os_.stat(self.name(first), dir_fd=self.folder_fd).st_size for first in self.firsts}
        self._recall(names)
        self._recover(noted, names)
        self._synced = self.next
        self._take_note(self._beyond())

    def _make_folder(self) -> None:
        """Make the folder, and those above it that are missing."""
        path, below = self.folder, list[str]()
        while (is_new := self._is_new(path)) is None:
            below.append(path)
            path = os.path.dirname(os.path.abspath(path))
        while below:
            if is_new:
                self._sync_above(path)
            path, is_new = below.pop(), True
            with suppress(FileExistsError):
                self.os.mkdir(path, 0o700)

    def _is_new(self, path: str) -> bool | None:
        """Whether the folder was made now; None if there is none above it."""
        try:
            self.os.mkdir(path, 0o700)
        except FileExistsError:
            return False
        except FileNotFoundError:
            return None
        return True

    def _sync_above(self, folder: str) -> None:
        """``folder`` itself stays, whoever made it, and perhaps was killed before this."""
        try:
            above = self.os.open(os.path.dirname(os.path.abspath(folder)), READ_FOLDER)
        except PermissionError:
            return  # then it is not ours, and was there before
        try:
            self.os.fsync(above)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system of its own that syncs no folders
                raise
        finally:
            self.let_go(above)

    def _recover(self, noted: Note | None, names: set[str]) -> None:
        """Find the end of the log, and cut off what is not sound behind it. Damage is told before anything changes."""
        self.note = noted or self.note
        tail = self._read_tail() if self.firsts else Tail(-1, self.folder, 0, 0)
        number = self.next if self.acked is None else max(self.next, self.acked + 1)
        end = find_end(noted, tail, number, self.folder)
        if end.damage is not None:
            self.damaged(end.damage)
            if not end.damage.exact:
                self._write_note(self.note._replace(jump=end.damage.last + 1, landed=end.number))
        self._check_acked(names, self.firsts[0] if self.firsts else end.number)
        if self.firsts:
            if tail.end < tail.size:
                self.os.ftruncate(self._tail, tail.end)
            self.torn = tail.size - tail.end if end.damage is None else 0
            self.os.fsync(self._tail)
        self.os.fsync(self.folder_fd)  # what is there, and was perhaps not synced by who was killed, is there to stay
        if not self.firsts or end.number > self.next:
            self._restart(end.number)  # no number is given twice

    def _read_tail(self) -> Tail:
        """Pass the entries of the newest segment."""
        self.next = self.firsts[-1]
        self._tail = self.os.open(self.name(self.next), _TAIL, dir_fd=self.folder_fd)
        path, size, at = f"{self.folder}/{self.name(self.next)}", self.os.fstat(self._tail).st_size, 0
        unread: Damage | None = None
        while at < size:
            _, place, number, damage = advance(self.os, self._tail, path, at, size, self.next, None)
            if damage is not None:
                if not self._strict or is_torn(self.os, self._tail, at, size):
                    break
                if not damage.exact:
                    unread = damage
                    break
                self.damaged(damage)
            at, self.next = place, number
        self.end = at
        return Tail(self.firsts[-1], path, at, size, unread)

    @property
    def _strict(self) -> bool:
        return self._each or self._on_damage is not None

    def _begin(self) -> None:
        tail = self.os.open(self.name(self.next), _NEW, 0o600, dir_fd=self.folder_fd)
        self._tail = tail
        self.firsts.append(self.next)
        self.sizes[self.next] = 0
        self._sync(self.folder_fd)
        if self._synced is not None:
            self._take_note(self._beyond(), sync=False)

    def _beyond(self) -> int:
        """Above every number that the newest segment may hold before the next note."""
        return self.next + self._segment_bytes // HEAD.size + 1

    def _take_note(self, beyond: int, *, sync: bool = True) -> None:
        """Note in ``lock`` what is known of the end of the log."""
        self._write_note(Note(self.firsts[-1], self.next, beyond, self.note.jump, self.note.landed), sync=sync)

    def _write_note(self, note: Note, *, sync: bool = True) -> None:
        """An old note on the disk does no harm."""
        self.note = note
        with suppress(OSError):
            fd = self.os.open("lock", _OWN, 0o600, dir_fd=self.folder_fd)
            try:
                self.os.write(fd, note.text())
                if sync:
                    self.os.fsync(fd)
            finally:
                self.let_go(fd)

    def _restart(self, number: int) -> None:
        """Continue with another number in a segment of its own."""
        old, self.next = self._tail, number
        self._begin()
        self.let_go(old)

    # -- entries -------------------------------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The number of the oldest entry kept."""
        return self.firsts[0]

    @property
    def end(self) -> int:
        """How many bytes of entries are in the tail."""
        return self.sizes[self.firsts[-1]]

    @end.setter
    def end(self, end: int) -> None:
        self.sizes[self.firsts[-1]] = end

    @property
    def size(self) -> int:
        """How many bytes the segments take."""
        return sum(self.sizes.values())

    def append(self, data: bytes) -> int:
        """Add an entry and return its number."""
        return self.append_many((data,))

    def append_many(self, entries: Sequence[bytes]) -> int:
        """Add entries, in one write and with one sync for each segment; the number of the first. If that fails, what
        went into segments before stays: ``next`` says how many."""
        self.check("append")
        if entries and max(map(len, entries)) > MAX_ENTRY:
            raise ConfigError(f"an entry has at most {MAX_ENTRY} bytes, not {max(map(len, entries))}")
        number, frames = self.next, framed(entries, self.next)
        block = b"".join(frames)
        if (self.end or len(frames) > 1) and self.end + len(block) > self._segment_bytes:
            self._append_apart(frames)
        elif frames:
            self._store(block, len(frames))
        if self._each:
            self._sync(self._tail)
        return number

    def _append_apart(self, frames: list[bytes]) -> None:
        """Some here, some into the next segments."""
        group: list[bytes] = []
        held = 0
        for frame in frames:
            if self.end + held and self.end + held + len(frame) > self._segment_bytes:
                self._store(b"".join(group), len(group))
                self.seal()
                group, held = [], 0
            group.append(frame)
            held += len(frame)
        self._store(b"".join(group), len(group))

    def _store(self, block: bytes, many: int) -> None:
        left = memoryview(block)
        try:
            while left:
                left = left[self.os.write(self._tail, left) :]
        except OSError as error:
            self._take_back()
            raise self.ours(error, "append") from error
        self.end += len(block)
        self.next += many

    def _take_back(self) -> None:
        try:
            self.os.ftruncate(self._tail, self.end)
        except OSError as error:
            self._error = self.ours(error, "append")

    def sync(self) -> None:
        """Every entry appended so far survives a power cut."""
        self.check("sync")
        self._sync(self._tail)

    def _sync(self, fd: int) -> None:
        try:
            self.os.fsync(fd)
            self.removed = self.removed or not self.os.fstat(fd).st_nlink
        except OSError as error:
            self._error = self.ours(error, "sync")
            raise copy.copy(self._error) from error
        if self.removed:
            self._error = self.removal()
            raise copy.copy(self._error)
        if fd == self._tail:
            self._synced = self.next

    def is_removed(self) -> bool:
        """Whether the folder or the newest segment was removed, so that what the log held is lost."""
        if not self.removed and self._tail >= 0:
            with suppress(OSError):
                self.removed = not all(self.os.fstat(fd).st_nlink for fd in (self.folder_fd, self._tail))
        return self.removed

    def removal(self) -> StorageError:
        """The error to raise where the log is removed."""
        return NotFound(
            "the folder was removed while the log was open: what it held is lost", path=self.folder, op="sync"
        )

    def seal(self) -> None:
        """End the tail, unless it is empty, and begin another one."""
        self.check("seal")
        if not self.end:
            return
        self._sync(self._tail)
        old = self._tail
        try:
            self._begin()
        except OSError as error:
            raise self.ours(error, "seal") from error
        self.let_go(old)

    def cursor(self, start: int = 0) -> Cursor:
        """What reads the entries from number ``start`` on, also those that are appended later."""
        cursor = Cursor(self, start)
        self._cursors.add(cursor)
        return cursor

    def read(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """The entries from number ``start`` on that are there now, with their numbers. Raises ``CorruptData``."""
        self.check("read")
        end, cursor = self.next, self.cursor(start)
        try:
            while cursor.number < end:
                number, entries = cursor.take()
                if not entries:
                    return
                yield from zip(count(number), entries[: end - number])
        finally:
            cursor.close()

    # -- what is no longer needed --------------------------------------------------------------------------------------

    def drop_before(self, number: int) -> None:
        """Delete the sealed segments that hold only entries below ``number``."""
        self.check("drop_before")
        try:
            while len(self.firsts) > 1 and self.firsts[1] <= number:
                self.os.unlink(self.name(self.firsts[0]), dir_fd=self.folder_fd)
                del self.sizes[self.firsts.pop(0)]
                for cursor in list(self._cursors):  # while it is open anywhere it takes up its room
                    cursor.let_go_of_dropped()
        except OSError as error:
            raise self.ours(error, "drop_before") from error
        self._sync(self.folder_fd)

    def acknowledge(self, number: int) -> None:
        """Entries up to ``number`` are no longer needed: noted in ``acked``, where a power cut does not take it away,
        and then those in sealed segments are dropped."""
        self.check("acknowledge")
        if self.acked is None or number > self.acked:
            self._note_acked(number)
        assert self.acked is not None
        if len(self.firsts) > 1 and self.firsts[1] <= self.acked + 1:  # by now, or where an earlier call was cut short
            self.drop_before(self.acked + 1)

    def _note_acked(self, number: int) -> None:
        try:
            self._fill(SLOTS[self._slot], number + 1)
            if self.acked is None:
                self._fill(SLOTS[1 - self._slot], number + 1)  # so there is room for later ones, on a full disk too
                self.os.fsync(self.folder_fd)
        except OSError as error:  # the other slot still holds the number from before
            raise self.ours(error, "acknowledge") from error
        self.acked, self._slot = number, 1 - self._slot

    def _fill(self, slot: str, number: int) -> None:
        text = slot_text(number)
        fd = self.os.open(slot, _OWN, 0o600, dir_fd=self.folder_fd)
        try:
            left = memoryview(text)
            try:
                while left:
                    left = left[self.os.write(fd, left) :]
            except OSError:
                if slot_number(self.os.pread(fd, 64, 0)) != number:
                    raise
                # Else it was cut short where what was there before ends alike: the number is there.
            self.os.fsync(fd)
        finally:
            self.let_go(fd)

    def _recall(self, names: set[str]) -> None:
        found: dict[str, int] = {}
        for slot in names & set(SLOTS):
            fd = self.os.open(slot, READ_FILE | os.O_NOFOLLOW, dir_fd=self.folder_fd)
            try:
                number = slot_number(self.os.pread(fd, 64, 0))
                self.os.fsync(fd)
            finally:
                self.let_go(fd)
            if number is not None:
                found[slot] = number
        if found:
            newest = max(found, key=lambda slot: found[slot])
            self.acked, self._slot = found[newest] - 1, 1 - SLOTS.index(newest)
            if len(found) < len(SLOTS):  # a kill prevented it, or cut it short: later there may be no room for it
                with suppress(OSError):
                    self._fill(SLOTS[self._slot], found[newest])

    def _check_acked(self, names: set[str], first: int) -> None:
        """Hold what was acknowledged against what is there."""
        damage = acked_damage(self.folder, names, self.acked, first, self.note)
        if damage is not None:
            self.damaged(damage)

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the folder. Idempotent. Entries that were not synced are where the system left them. If all were,
        the number of the last one is noted, so that the next log notices if it is missing."""
        if self._tail >= 0:
            if self._error is None and self._synced == self.next and self._forks == forks[0]:
                self._take_note(self.next)
            self._fds.append(self._tail)
            self._tail = -1
        if self._lock >= 0 and self._forks == forks[0]:
            try:
                self.os.flock(self._lock, LOCK_UN)  # or a forked child, which has a copy, would keep it
            except OSError:
                pass
        self._lock = -1
        while self._fds:
            self.let_go(self._fds.pop())
        self._error = self._error or WriterClosed("the log is closed", path=self.folder)

    def let_go(self, fd: int) -> None:
        try:
            if fd >= 0:
                self.os.close(fd)
        except OSError:
            pass  # what was promised was synced before

    def damaged(self, damage: Damage) -> None:
        """Raise ``CorruptData`` or call ``on_damage``, unless all of it was acknowledged."""
        needed = damage if self.acked is None else damage.since(self.acked + 1)
        if needed is None:
            return
        if self._on_damage is None:
            raise CorruptData(str(needed), path=needed.path, op="read", offset=needed.offset)
        self._on_damage(needed)

    def check(self, op: str) -> None:
        if self._forks != forks[0]:
            raise WriterClosed("this log belongs to the process that opened it", path=self.folder, op=op)
        if self._error is not None:
            raise copy.copy(self._error)

    def ours(self, error: OSError, op: str) -> StorageError:
        kind = KINDS.get(error.errno, StorageError)
        return kind(error.strerror or str(error), path=self.folder, op=op)

    @staticmethod
    def name(first: int) -> str:
        return f"{first:020d}.seg"
