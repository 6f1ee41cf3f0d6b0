"""How entries lie in a segment: framing, parsing, and finding the next sound entry behind damage."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from omnistorage.posix import OS

MAX_ENTRY = 1 << 30
HEAD = Struct(">IQII")  # length, number, CRC-32 of these 12 bytes, CRC-32 of these 12 bytes and the content
_KEY, _SUMS = Struct(">IQ"), Struct(">II")
BLOCK = 1 << 18
NO_END = 1 << 64
"""Above every number that an entry can have."""
_SEARCHED = 64 << 20
"""How far behind damage the next sound entry is searched for."""


class Damage(NamedTuple):
    """Entries ``first`` to ``last`` are lost: none if ``last`` is below ``first``.

    ``path`` and ``offset`` say where, ``why`` how it shows. ``exact`` is False where the log cannot know how many
    entries were behind these: then ``first`` to ``last`` is a lower bound.
    """

    first: int
    last: int
    path: str
    offset: int | None
    why: str
    exact: bool = True

    def since(self, number: int) -> Damage | None:
        """The part of it that concerns entries from ``number`` on, None if there is none."""
        if self.first >= number:
            return self
        return (
            None if self.exact and self.last < number else self._replace(first=number, last=max(self.last, number - 1))
        )

    def __str__(self) -> str:
        if self.last < self.first:
            return self.why if self.exact else f"{self.why}: entries from {self.first} on may be lost"
        upto = f" to {self.last}" if self.last > self.first else ""
        return f"{self.why}: lost is entry {self.first}{upto}{'' if self.exact else ' at least'}"


class Head(NamedTuple):
    """The head of an entry: its size with the head, its number, and the two checksums."""

    size: int
    number: int
    seed: int
    crc: int


class Gap(NamedTuple):
    """What was found behind an entry that is not sound or not in its place: reading continues at ``place`` with
    ``number``. ``exact`` is False where all up to ``place`` cannot be read, so that more numbers may be lost."""

    place: int
    number: int
    exact: bool


def framed(entries: Sequence[bytes], number: int) -> list[bytes]:
    """Each entry behind its head; the first one gets ``number``."""
    key, sums, crc32 = _KEY.pack, _SUMS.pack, zlib.crc32
    return [
        (head := key(len(data), each)) + sums(seed := crc32(head), crc32(data, seed)) + data
        for each, data in enumerate(entries, number)
    ]


def parse(block: bytes, number: int, entries: list[bytes]) -> int:
    """Add the whole and sound entries numbered from ``number`` on that ``block`` begins with; where the next begins."""
    unpack, crc32, step, size, at = HEAD.unpack_from, zlib.crc32, HEAD.size, len(block), 0
    while at + step <= size:
        length, found, seed, crc = unpack(block, at)
        end = at + step + length
        if found != number or end > size:
            break
        data = block[at + step : end]
        if crc32(data, seed) != crc:  # also finds a head that is damaged: it seeds the checksum, or moves the content
            break
        if not length and seed != crc32(block[at : at + _KEY.size]):  # zeros have no content that would tell
            break
        entries.append(data)
        number += 1
        at = end
    return at


def head_at(block: bytes, at: int = 0) -> Head | None:
    """The head of the entry that begins at ``at``, or None if it is not whole and sound."""
    if len(block) - at < HEAD.size:
        return None
    length, number, seed, crc = HEAD.unpack_from(block, at)
    return Head(HEAD.size + length, number, seed, crc) if seed == zlib.crc32(block[at : at + _KEY.size]) else None


def _is_sound(block: bytes, at: int, head: Head) -> bool:
    end = at + head.size
    return end <= len(block) and zlib.crc32(block[at + HEAD.size : end], head.seed) == head.crc


def read_run(os_: OS, fd: int, at: int, size: int, number: int) -> tuple[list[bytes], int]:
    """The sound entries numbered from ``number`` on that begin at ``at``, about a block of them or a larger one alone,
    and where they end. ``size`` is where the segment ends."""
    entries: list[bytes] = []
    block = pread(os_, fd, min(BLOCK, size - at), at)
    used = parse(block, number, entries)
    if not used and (head := head_at(block)) is not None and len(block) < head.size <= size - at:
        used = parse(pread(os_, fd, head.size, at), number, entries)
    return entries, at + used


def why_not(os_: OS, fd: int, at: int, size: int, number: int) -> str:
    """Why no sound entry ``number`` begins at ``at``."""
    head = head_at(pread(os_, fd, min(HEAD.size, size - at), at))
    if head is None:
        return "the head of an entry is damaged"
    return "an entry is damaged" if head.number == number else f"entry {head.number} is where {number} belongs"


def advance(
    os_: OS, fd: int, path: str, at: int, size: int, number: int, end: int | None
) -> tuple[list[bytes], int, int, Damage | None]:
    """One step through a segment from ``at``, where entry ``number`` belongs: the entries read, the place and the
    number behind them. Where no sound entry begins there the step passes the damage and returns it.

    ``end`` is above every number that the segment holds, None where that is not known.
    """
    entries, after = read_run(os_, fd, at, size, number)
    if end is not None and number + len(entries) > end:  # of the next segment
        entries = entries[: end - number]
        after = at + sum(HEAD.size + len(data) for data in entries)
    if entries:
        return entries, after, number + len(entries), None
    gap = resume(os_, fd, at, size, number, NO_END if end is None else end)
    if gap.place == size and end is not None:
        gap = Gap(size, max(number, end), True)
    damage = Damage(number, gap.number - 1, path, at, why_not(os_, fd, at, size, number), gap.exact)
    return [], gap.place, gap.number, damage


def resume(os_: OS, fd: int, at: int, size: int, number: int, end: int) -> Gap:
    """Find the first sound entry at or behind ``at`` that is numbered from ``number`` to below ``end``.

    Entries whose heads are sound are passed by their lengths. Behind one whose head is damaged every place is tried.
    """
    known, exact = number, True
    while at < size:
        head = head_at(pread(os_, fd, min(HEAD.size, size - at), at))
        if head is None or head.size > size - at:
            return _search(os_, fd, at, size, number, end) or Gap(size, known, False)
        if number <= head.number < end:
            if _is_sound(pread(os_, fd, head.size, at), 0, head):
                return Gap(at, head.number, True)
            known = max(known, head.number + 1)
        else:  # of another place, which the entries of this one may have had to make room for
            exact = False
        at += head.size
    return Gap(size, known, exact)


def _search(os_: OS, fd: int, at: int, size: int, number: int, end: int) -> Gap | None:
    """The first sound entry that begins behind ``at`` and is numbered from ``number`` to below ``end``."""
    rest = pread(os_, fd, min(size - at, _SEARCHED), at)
    if not rest.strip(b"\0"):
        return None
    place = rest.find(b"\0", 1)  # with which every length below 16 MiB begins
    while 0 < place <= len(rest) - HEAD.size:
        head = head_at(rest, place)
        if head is not None and number <= head.number < end and _is_sound(rest, place, head):
            return Gap(at + place, head.number, True)
        place = rest.find(b"\0", place + 1)
    return None


def is_torn(os_: OS, fd: int, at: int, size: int) -> bool:
    """Whether what is not whole and sound at ``at`` is what a kill or a power cut left of an append: the beginning of
    an entry, zeros, or the one and then the other, and no sound entry behind it."""
    block = pread(os_, fd, min(HEAD.size, size - at), at)
    if len(block) < HEAD.size:
        return True
    head = head_at(block)
    if head is None:
        if any(block):
            return block.endswith(b"\0") and not pread(os_, fd, min(size - at, _SEARCHED), at)[HEAD.size :].strip(b"\0")
        return _search(os_, fd, at, size, 0, NO_END) is None
    if head.size > size - at:
        return True
    entry = pread(os_, fd, head.size, at)
    if _is_sound(entry, 0, head) or not entry.endswith(b"\0"):
        return False
    return _search(os_, fd, at + head.size - 1, size, 0, NO_END) is None


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
