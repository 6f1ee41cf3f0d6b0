"""Reads the entries of a log in order, a block at a time, while others append to it."""

from __future__ import annotations

import os
from typing import Protocol

from omnistorage.errors import StorageError
from omnistorage.posix import OS, READ_FILE

from .entry_format import HEAD, Damage, advance
from .notes import Note


class Segments(Protocol):
    """What a cursor reads of the log that it belongs to."""

    folder: str
    folder_fd: int
    os: OS
    firsts: list[int]
    sizes: dict[int, int]
    next: int
    note: Note

    def name(self, first: int) -> str: ...
    def check(self, op: str) -> None: ...
    def damaged(self, damage: Damage) -> None: ...
    def let_go(self, fd: int) -> None: ...
    def ours(self, error: OSError, op: str) -> StorageError: ...


class Cursor:
    """``take`` returns the entries from ``number`` on, and moves behind them. One thread at a time may use a log and
    its cursors; between two calls anything may be appended or dropped."""

    def __init__(self, log: Segments, number: int) -> None:
        self.number = number
        self._log = log
        self._fd = -1
        self._first = -1  # of the segment that is open
        self._at = 0
        self._wanted = number  # what lies before it was not asked for

    def take(self) -> tuple[int, list[bytes]]:
        """The number of the next entry and some entries from it on, 256 KiB or a single one; no entries if there are
        none now. Entries that were dropped are skipped: the number tells. What is damaged goes to the log's
        ``on_damage``; if that returns, the number tells as well."""
        self._log.check("read")
        try:
            return self._take()
        except StorageError:
            raise
        except OSError as error:
            raise self._log.ours(error, "read") from error

    def _take(self) -> tuple[int, list[bytes]]:
        while self._locate():
            start = self.number
            if self._at >= self._end():
                self._next_segment()
                continue
            entries, damage = self._advance()
            if damage is None:
                return start, entries
            self._damaged(damage)
        return self.number, []

    def _advance(self) -> tuple[list[bytes], Damage | None]:
        """A block of entries, or the damage that was passed."""
        log = self._log
        path, end = f"{log.folder}/{log.name(self._first)}", self._following()[0]
        entries, self._at, self.number, damage = advance(
            log.os, self._fd, path, self._at, self._end(), self.number, end
        )
        return entries, damage

    def _damaged(self, damage: Damage) -> None:
        wanted = damage.since(self._wanted)
        if wanted is not None:
            self._log.damaged(wanted)

    def _end(self) -> int:
        """Where the entries of the open segment end now."""
        return self._log.sizes[self._first]

    def _following(self) -> tuple[int, int, bool]:
        """Above the last number given before the next segment, the first number of that, and whether the former is
        exact."""
        firsts = self._log.firsts
        at = firsts.index(self._first) + 1
        if at == len(firsts):
            return self._log.next, self._log.next, True
        end, exact = self._log.note.end_before(firsts[at])
        return end, firsts[at], exact

    def _next_segment(self) -> None:
        end, following, exact = self._following()
        if self.number < following:
            path = f"{self._log.folder}/{self._log.name(self._first)}"
            why = f"the segment ends with entry {self.number - 1}, the next begins with {following}"
            self._damaged(Damage(self.number, max(self.number, end) - 1, path, self._at, why, exact))
        self.number = following
        self._let_go()

    def _locate(self) -> bool:
        """Have the segment open that holds the next entry. False if there is no such entry yet."""
        log = self._log
        self.let_go_of_dropped()
        if self._first >= 0:
            return self.number < log.next
        self.number = max(self.number, log.firsts[0])
        if self.number >= log.next:
            return False
        first = max(one for one in log.firsts if one <= self.number)
        self._fd = log.os.open(log.name(first), READ_FILE | os.O_NOFOLLOW, dir_fd=log.folder_fd)
        self._first, self._at = first, 0
        self._skip_to(self.number)
        return self.number < log.next

    def _skip_to(self, wanted: int) -> None:
        """Pass the entries of the open segment that come before ``wanted``."""
        self.number, self._wanted = self._first, wanted
        while self.number < wanted and self._at < self._end():
            number, at = self.number, self._at
            entries, damage = self._advance()
            if self.number <= wanted:
                continue
            self.number, self._at = number, at
            if damage is not None:
                return  # ``take`` reports it
            self.number, self._at = wanted, at + sum(HEAD.size + len(data) for data in entries[: wanted - number])

    def _let_go(self) -> None:
        self._log.let_go(self._fd)
        self._fd = self._first = -1

    def let_go_of_dropped(self) -> None:
        if self._first < self._log.firsts[0]:
            self._let_go()

    def close(self) -> None:
        self._let_go()
