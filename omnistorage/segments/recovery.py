"""Where a log ends and how it continues: what was found in its newest segment, held against what ``lock`` notes."""

from __future__ import annotations

from typing import NamedTuple

from .entry_format import HEAD, Damage
from .notes import SLOTS, Note


class Tail(NamedTuple):
    """What was found of the newest segment: its first number, the place behind its last entry, its size, and what is
    lost at its end where that cannot be counted. ``first`` is -1 where no segment is left."""

    first: int
    path: str
    end: int
    size: int
    unread: Damage | None = None


class End(NamedTuple):
    """The log continues with ``number``; ``damage`` is what is lost before it."""

    number: int
    damage: Damage | None


def find_end(note: Note | None, tail: Tail, number: int, folder: str) -> End:
    """``number`` is the first one that is neither in the log nor acknowledged."""
    if note is None or note.newest < tail.first:  # it could not be written, and says nothing of this segment
        note = Note(-1, 0, 1)
    missing = note.newest > tail.first
    last = number - 1 if tail.unread is None else tail.unread.last
    if note.is_clean:
        last = max(number, note.synced) - 1
        if last < number and tail.unread is None:
            return End(number, None)
        return End(last + 1, _damage(number, last, tail, missing, folder, True))
    if not missing and tail.unread is None and note.synced <= number:
        return End(number, None)
    last = max(last, note.synced - 1)
    beyond = number + (tail.size - tail.end) // HEAD.size + 1  # above all that can have been there
    return End(max(beyond, note.beyond, last + 1), _damage(number, last, tail, missing, folder, False))


def _damage(number: int, last: int, tail: Tail, missing: bool, folder: str, exact: bool) -> Damage:
    if missing:
        return Damage(number, last, folder, None, "the newest segments are missing", exact)
    why = "the end of the log is missing" if tail.unread is None else tail.unread.why
    return Damage(number, last, tail.path, tail.end, why, exact)


def acked_damage(folder: str, names: set[str], acked: int | None, first: int, note: Note) -> Damage | None:
    """What does not fit between what was acknowledged and the oldest entry, number ``first``."""
    if acked is None:
        if not names.issuperset(SLOTS):  # one alone, never whole, was cut short when nothing had been acknowledged
            return None
        why = "what was acknowledged cannot be read, so that entries will be given again"
        return Damage(first, first - 1, f"{folder}/{SLOTS[0]}", 0, why)
    if first <= acked + 1:
        return None
    end, exact = note.end_before(first)
    return Damage(acked + 1, max(acked + 1, end) - 1, folder, None, "the oldest segments are missing", exact)
