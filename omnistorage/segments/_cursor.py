"""Reads the entries of a log in order, a block at a time, while others append to it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._os import READ_FILE
from ..errors import StorageError
from ._entries import BLOCK, HEAD, Damage, length_at, parse, pread

if TYPE_CHECKING:
    from ._log import SegmentLog


class Cursor:
    """``take`` returns the entries from ``number`` on, and moves behind them. One thread at a time may use a log and
    its cursors; between two calls anything may be appended or dropped."""

    def __init__(self, log: SegmentLog, number: int) -> None:
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
            start, size = self.number, self._end() - self._at
            if size <= 0:
                self._next_segment()
                continue
            entries: list[bytes] = []
            block = pread(self._log.os, self._fd, min(BLOCK, size), self._at)
            used = parse(block, entries) or self._large(block, size, entries)
            if entries:
                self._at += used
                self.number += len(entries)
                return start, entries
            self._damaged(length_at(block), size)
        return self.number, []

    def _end(self) -> int:
        """Where the entries of the open segment end now."""
        return self._log.sizes[self._first]

    def _large(self, block: bytes, size: int, entries: list[bytes]) -> int:
        """An entry that is larger than a block."""
        length = length_at(block)
        if length is None or not len(block) < length <= size:
            return 0
        return parse(pread(self._log.os, self._fd, length, self._at), entries)

    def _damaged(self, length: int | None, size: int) -> None:
        """Report what is not sound and go on behind it: the next entry if the length can be relied on, else the next
        segment."""
        number, following = max(self.number, self._wanted), self._following()
        alone = length is not None and length <= size
        self._log.damaged(
            Damage(
                number,
                number if alone else following - 1,
                f"{self._log.folder}/{self._log.name(self._first)}",
                self._at,
                "an entry is damaged" if alone else "the length of an entry is damaged",
            )
        )
        self.number = self.number + 1 if alone else following
        self._at = self._at + (length or 0) if alone else self._end()

    def _following(self) -> int:
        firsts = self._log.firsts
        at = firsts.index(self._first) + 1
        return firsts[at] if at < len(firsts) else self._log.next

    def _next_segment(self) -> None:
        following = self._following()
        if self.number < following:
            path = f"{self._log.folder}/{self._log.name(self._first)}"
            why = f"the segment ends with entry {self.number - 1}, the next begins with {following}"
            self._log.damaged(Damage(self.number, following - 1, path, None, why))
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
            entries: list[bytes] = []
            size = self._end() - self._at
            block = pread(self._log.os, self._fd, min(BLOCK, size), self._at)
            used = parse(block, entries) or self._large(block, size, entries)
            left = wanted - self.number
            if len(entries) > left:
                used = sum(HEAD.size + len(data) for data in entries[:left])
            if entries:
                self._at += used
                self.number += min(len(entries), left)
                continue
            length = length_at(block)
            if length is None or length > size:
                break  # where the wanted one begins cannot be said: ``take`` reports it
            self.number, self._at = self.number + 1, self._at + length

    def _let_go(self) -> None:
        self._log.let_go(self._fd)
        self._fd = self._first = -1

    def let_go_of_dropped(self) -> None:
        if self._first < self._log.firsts[0]:
            self._let_go()

    def close(self) -> None:
        self._let_go()
