"""Cuts a byte stream into blocks of whole lines, for the formats that have one record per line.

Working on blocks instead of lines keeps the per-line cost in C: the formats split a block with ``bytes.split``.
"""

from __future__ import annotations

from collections.abc import Iterator

from omnistorage.core.stages import BATCH_BYTES, OnBad
from omnistorage.errors import RecordError

RAW_LIMIT = 64 * 1024 + 3
"""How much of an overlong line is kept to be shown: what ``RecordError.raw`` holds, and a BOM before it."""

UNTRUSTED_RECORD = 1 << 20
"""The longest record, in bytes, of input that anybody may have made."""


def report(error: RecordError, on_bad: OnBad | None) -> None:
    """Hand a bad record to who asked for it, or raise it."""
    if on_bad is None:
        raise error
    on_bad(error)


class LineSplitter:
    """Yields ``(offset, block, cut)``: ``block`` starts at ``offset`` of the stream and holds one or more lines with
    ``\\n`` between them but not behind the last. Where ``cut`` is true it is the beginning of one line longer than
    ``longest`` bytes, whose rest was thrown away; where it is false a line may still be longer, by a block at most.

    Holds ``longest`` bytes and one block at most. Time is linear however small the chunks are.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.offset = 0  # where the unfinished line starts
        self.held = bytearray()  # what there is of it
        self.dropped = 0  # how much of it was thrown away

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes, bool]]:
        """The blocks that ``data`` completes."""
        at, size = 0, len(data)
        while at < size:
            # A line that is being thrown away ends at the very next newline.
            end = data.find(b"\n", at) if self.dropped else data.rfind(b"\n", at, at + BATCH_BYTES)
            if end < 0 and not self.dropped:
                end = data.find(b"\n", at + BATCH_BYTES)
            if end < 0:
                self._hold(data, at, size)
                return
            yield self._take(data, at, end)
            at = end + 1

    def tail(self) -> tuple[int, bytes, bool]:
        """What stands behind the last newline, in the same form; its block is empty if there is nothing."""
        return self.offset, bytes(self.held), bool(self.dropped)

    def _hold(self, data: bytes, at: int, end: int) -> None:
        line = len(self.held) + self.dropped + end - at
        if line <= self.longest:
            self.held += memoryview(data)[at:end]
            return
        room = max(RAW_LIMIT - len(self.held), 0)
        self.held += memoryview(data)[at : min(at + room, end)]
        del self.held[RAW_LIMIT:]
        self.dropped = line - len(self.held)

    def _take(self, data: bytes, at: int, end: int) -> tuple[int, bytes, bool]:
        offset = self.offset
        if self.dropped or end - at > max(self.longest, BATCH_BYTES):
            self._hold(data, at, end)
        elif self.held:
            self.offset += len(self.held) + end - at + 1
            block = b"".join((self.held, memoryview(data)[at:end]))
            self.held = bytearray()
            return offset, block, False
        else:
            self.offset += end - at + 1
            return offset, data[at:end], False
        self.offset += len(self.held) + self.dropped + 1
        block, self.held, self.dropped = bytes(self.held), bytearray(), 0
        return offset, block, True
