"""Looks at a log without opening it: nothing is changed, and whoever has it open is not disturbed."""

from __future__ import annotations

import os
from fcntl import LOCK_NB, LOCK_SH
from os import PathLike, fspath
from typing import NamedTuple

from .._os import OS, READ_FILE, READ_FOLDER, REAL
from ..errors import NotFound, StorageError
from ._entries import BLOCK, Damage, is_torn, length_at, parse, pread
from ._log import KINDS, NAME, SLOTS, SegmentLog, noted_in, slot_number


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
    path, at = fspath(folder), -1
    try:
        at = _os.open(path, READ_FOLDER)
        noted = _noted(_os, at)  # before the names, or there may be newer ones
        with _os.scandir(at) as found:
            names = {entry.name for entry in found}
        if names and "lock" not in names:
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


def _noted(os_: OS, at: int) -> int | None:
    try:
        fd = os_.open("lock", READ_FILE | os.O_NOFOLLOW, dir_fd=at)
    except FileNotFoundError:
        return None
    try:
        noted = noted_in(os_.pread(fd, 64, 0))
    finally:
        os_.close(fd)
    return None if noted is None else noted[0]


class _Look:
    def __init__(self, os_: OS, path: str, at: int, names: set[str]) -> None:
        self._os, self._path, self._at, self._names = os_, path, at, names
        self._damage: list[Damage] = []
        self._entries = self._size = self._torn = self._end = 0
        self._oldest: bytes | None = None

    def seen(self, noted: int | None) -> Examined:
        firsts = sorted(int(match[1]) for name in self._names if (match := NAME.fullmatch(name)))
        needed = self._needed()
        start = firsts[0] if firsts and needed is None else needed or 0
        if firsts and firsts[0] > start:
            self._damage.append(Damage(start, firsts[0] - 1, self._path, None, "the oldest segments are missing"))
        for first, following in zip(firsts, [*firsts[1:], None], strict=False):
            if following is None or following > start:
                self._end = self._segment(first, following, start)
        if noted is not None and noted > max(firsts, default=-1):
            lost = max(self._end, start)
            self._damage.append(Damage(lost, None, self._path, None, "the newest segments are missing"))
        return Examined(start, self._entries, self._size, self._oldest, self._torn, self._damage, self._is_open())

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

    def _segment(self, first: int, following: int | None, start: int) -> int:
        """The number behind its last entry."""
        name = SegmentLog.name(first)
        try:
            fd = self._open(name)
        except FileNotFoundError:  # it was delivered and dropped just now
            return following or first
        try:
            number, end = self._walk(fd, f"{self._path}/{name}", first, following, start)
        finally:
            self._os.close(fd)
        if following is not None and number < following:
            why = f"the segment ends with entry {number - 1}, the next begins with {following}"
            self._damage.append(Damage(max(number, start), following - 1, f"{self._path}/{name}", end, why))
        return number

    def _walk(self, fd: int, path: str, first: int, following: int | None, start: int) -> tuple[int, int]:
        number, at, size = first, 0, self._os.fstat(fd).st_size
        while at < size:
            entries: list[bytes] = []
            block = pread(self._os, fd, min(BLOCK, size - at), at)
            length = length_at(block)
            if length is not None and len(block) < length <= size - at:
                block = pread(self._os, fd, length, at)
            used = parse(block, entries)
            waiting = entries[max(0, start - number) :]
            if waiting and self._oldest is None:
                self._oldest = waiting[0]
            self._entries += len(waiting)
            self._size += sum(map(len, waiting))
            number, at = number + len(entries), at + used
            if used:
                continue
            if following is None and is_torn(self._os, fd, at, size):
                self._torn += size - at
                break
            alone = length is not None and length <= size - at
            last = number if alone else None if following is None else following - 1
            why = "an entry is damaged" if alone else "the length of an entry is damaged"
            self._damage.append(Damage(number, last, path, at, why))
            if not alone or length is None:
                return following or number, at
            number, at = number + 1, at + length
        return number, at
