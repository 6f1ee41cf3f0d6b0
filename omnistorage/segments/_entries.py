"""How entries lie in a segment: framing, parsing, and telling a torn end from damage."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from .._os import OS

MAX_ENTRY = 1 << 30
HEAD = Struct(">III")
BLOCK = 1 << 18
_SEARCHED = 64 << 20
"""How far behind a place that is not sound an entry is looked for."""


class Damage(NamedTuple):
    """Entries ``first`` to ``last`` are lost: none if ``last`` is below ``first``; None where nobody can say how many.
    ``path`` and ``offset`` say where, ``why`` how it shows."""

    first: int
    last: int | None
    path: str
    offset: int | None
    why: str

    def __str__(self) -> str:
        if self.last is not None and self.last < self.first:
            return self.why
        upto = " and those behind it" if self.last is None else f" to {self.last}" if self.last > self.first else ""
        return f"{self.why}: lost is entry {self.first}{upto}"


@lru_cache(maxsize=1 << 14)
def crc_of(length: int) -> int:
    return zlib.crc32(length.to_bytes(4, "big"))


def framed(entries: Sequence[bytes]) -> list[bytes]:
    """Each entry behind its head."""
    pack, crc32 = HEAD.pack, zlib.crc32
    return [pack(len(data), crc_of(len(data)), crc32(data)) + data for data in entries]


def parse(block: bytes, entries: list[bytes]) -> int:
    """Add the whole and sound entries at the beginning of ``block`` to ``entries``; where the next thing begins."""
    unpack, crc32, step, size, at = HEAD.unpack_from, zlib.crc32, HEAD.size, len(block), 0
    while at + step <= size:
        length, head_crc, crc = unpack(block, at)
        end = at + step + length
        if end > size or head_crc != crc_of(length):
            break
        data = block[at + step : end]
        if crc32(data) != crc:
            break
        entries.append(data)
        at = end
    return at


def length_at(block: bytes) -> int | None:
    """The whole length of the entry that begins with ``block``, or None if its head is not sound."""
    if len(block) < HEAD.size:
        return None
    length, head_crc, _ = HEAD.unpack_from(block)
    return HEAD.size + length if head_crc == crc_of(length) else None


def is_torn(os_: OS, fd: int, at: int, size: int) -> bool:
    """Whether what is not whole and sound at ``at`` is what a kill or a power cut left of an append: the beginning of
    an entry, zeros, or the one and then the other, and no sound entry behind it."""
    head = pread(os_, fd, min(HEAD.size, size - at), at)
    if len(head) < HEAD.size:
        return True
    length = length_at(head)
    if length is None:
        if any(head):
            return head.endswith(b"\0") and not pread(os_, fd, min(size - at, _SEARCHED), at)[HEAD.size :].strip(b"\0")
        return not _sound_behind(os_, fd, at, size)
    if length > size - at:
        return True
    end = at + length
    return pread(os_, fd, 1, end - 1) == b"\0" and not _sound_behind(os_, fd, end - 1, size)


def _sound_behind(os_: OS, fd: int, at: int, size: int) -> bool:
    """Whether a whole and sound entry lies anywhere behind ``at``."""
    rest = pread(os_, fd, min(size - at, _SEARCHED), at)
    if not rest.strip(b"\0"):
        return False
    last = len(rest) - HEAD.size
    place = rest.find(b"\0", 1)  # with which every length below 16 MiB begins
    while 0 < place <= last:
        length, head_crc, crc = HEAD.unpack_from(rest, place)
        end = place + HEAD.size + length
        if (
            end <= len(rest)
            and head_crc == zlib.crc32(rest[place : place + 4])
            and zlib.crc32(rest[place + HEAD.size : end]) == crc
        ):
            return True
        place = rest.find(b"\0", place + 1)
    return False


def pread(os_: OS, fd: int, size: int, at: int) -> bytes:
    """``size`` bytes from ``at``; fewer only where the file ends."""
    data = os_.pread(fd, size, at)
    if len(data) == size or not data:
        return data
    parts = [data]
    size, at = size - len(data), at + len(data)
    while size and (data := os_.pread(fd, size, at)):
        parts.append(data)
        size, at = size - len(data), at + len(data)
    return b"".join(parts)
