"""Looks at a log without opening it: nothing is changed, and whoever has it open is not disturbed."""

from __future__ import annotations

import itertools
import os
from fcntl import LOCK_NB, LOCK_SH
from os import PathLike
from typing import NamedTuple

from omnistorage.errors import NotFound, StorageError
from omnistorage.posix import OS, READ_FILE, READ_FOLDER, REAL, expanded

from .entry_format import Damage, advance, is_torn
from .log import KINDS, NAME, SegmentLog
from .notes import NOTE_SIZE, SLOTS, Note, slot_number
from .recovery import Tail, acked_damage, find_end


class Examined(NamedTuple):
    """``entries`` of ``size`` bytes wait from number ``first`` on, ``oldest`` is the first of them; ``torn`` bytes of
    one that was cut short, or is just being written, stand behind them. ``damage`` is what a reader will meet, ``open``
    whether somebody has the log open."""

    first: int
    entries: int
    size: int
    oldest: bytes | None
    torn: int
    damage: list[Damage]
    open: bool


def examine(folder: str | PathLike[str], *, _os: OS = REAL) -> Examined:
    """What is in the log in ``folder``: nothing if the folder is empty. Raises ``NotFound`` where there is none."""
    path, at = expanded(folder), -1
    try:
        at = _os.open(path, READ_FOLDER)
        noted = _noted(_os, at)  # before the names, or there may be newer ones
        with _os.scandir(at) as found:
            names = {entry.name for entry in found}
        if names and "lock" not in names and not any(map(NAME.fullmatch, names)):
            raise NotFound("there is no log here", path=path, op="examine")
        return _Look(_os, path, at, names).seen(noted)
    except StorageError:
        raise
    except OSError as error:
        kind = KINDS.get(error.errno, StorageError)
        raise kind(error.strerror or str(error), path=path, op="examine") from error
    finally:
        if at >= 0:
            _os.close(at)


def _noted(os_: OS, at: int) -> Note | None:
    try:
        fd = os_.open("lock", READ_FILE | os.O_NOFOLLOW, dir_fd=at)
    except FileNotFoundError:
        return None
    try:
        return Note.read(os_.pread(fd, NOTE_SIZE, 0))
    finally:
        os_.close(fd)


class _Look:
    def __init__(self, os_: OS, path: str, at: int, names: set[str]) -> None:
        self._os, self._path, self._at, self._names = os_, path, at, names
        self._damage: list[Damage] = []
        self._entries = self._size = self._torn = self._start = 0
        self._oldest: bytes | None = None

    def seen(self, noted: Note | None) -> Examined:
        firsts = sorted(int(match[1]) for name in self._names if (match := NAME.fullmatch(name)))
        note, needed = noted or Note(0, 0, 1), self._needed()
        self._start = (firsts[0] if firsts else 0) if needed is None else needed
        acked = None if needed is None else needed - 1
        self._damaged(acked_damage(self._path, self._names, acked, firsts[0] if firsts else self._start, note))
        for first, following in itertools.pairwise(firsts):
            if following > self._start:
                self._segment(first, following, note)
        tail = self._walk(firsts[-1], None) if firsts else (self._start, Tail(-1, self._path, 0, 0))
        if tail is not None:
            end = find_end(noted, tail[1], max(tail[0], self._start), self._path)
            self._damaged(end.damage)
            if end.damage is not None:
                self._torn = 0
        return Examined(self._start, self._entries, self._size, self._oldest, self._torn, self._damage, self._is_open())

    def _damaged(self, damage: Damage | None) -> None:
        if damage is not None and (needed := damage.since(self._start)) is not None:
            self._damage.append(needed)

    def _needed(self) -> int | None:
        found = []
        for slot in self._names & set(SLOTS):
            fd = self._open(slot)
            try:
                found.append(slot_number(self._os.pread(fd, 64, 0)))
            finally:
                self._os.close(fd)
        return max((number for number in found if number is not None), default=None)

    def _is_open(self) -> bool:
        if "lock" not in self._names:
            return False
        fd = self._open("lock")
        try:
            self._os.flock(fd, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            self._os.close(fd)
        return False

    def _open(self, name: str) -> int:
        return self._os.open(name, READ_FILE | os.O_NOFOLLOW, dir_fd=self._at)

    def _segment(self, first: int, following: int, note: Note) -> None:
        """Look at one that is followed by another."""
        last, exact = note.end_before(following)
        found = self._walk(first, last)
        if found is not None and found[0] < following:
            why = f"the segment ends with entry {found[0] - 1}, the next begins with {following}"
            self._damaged(Damage(found[0], max(found[0], last) - 1, found[1].path, found[1].end, why, exact))

    def _walk(self, first: int, last: int | None) -> tuple[int, Tail] | None:
        """The number behind the last entry of a segment, and how it ends; None if it was dropped just now."""
        path = f"{self._path}/{SegmentLog.name(first)}"
        try:
            fd = self._open(SegmentLog.name(first))
        except FileNotFoundError:
            return None
        number, at, size = first, 0, self._os.fstat(fd).st_size
        try:
            while at < size:
                entries, place, behind, damage = advance(self._os, fd, path, at, size, number, last)
                if damage is not None and last is None:
                    if is_torn(self._os, fd, at, size):
                        self._torn = size - at
                        break
                    if not damage.exact:
                        return number, Tail(first, path, at, size, damage)
                self._damaged(damage)
                self._count(entries[max(0, self._start - number) :])
                number, at = behind, place
        finally:
            self._os.close(fd)
        return number, Tail(first, path, at, size)

    def _count(self, waiting: list[bytes]) -> None:
        if waiting and self._oldest is None:
            self._oldest = waiting[0]
        self._entries += len(waiting)
        self._size += sum(map(len, waiting))
