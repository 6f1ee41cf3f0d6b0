"""The small files beside the segments: what ``lock`` notes of the end of the log, and what was acknowledged."""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

SLOTS = ("acked.0", "acked.1")
_SLOT = re.compile(rb"(\d{20}) ([0-9a-f]{8})\n")
_NOTE = re.compile(rb"(\d{20}(?: \d{20}){4}) ([0-9a-f]{8})\n")
NOTE_SIZE = 128
"""Above the size of a note, in bytes."""


class Note(NamedTuple):
    """What is known of the end of a log, whatever happens to its segments.

    ``newest`` is the first number of the newest segment. Entries below ``synced`` survive a power cut. No number from
    ``beyond`` on was given: a clean close notes ``beyond == synced``. The numbers from ``jump`` to below ``landed``
    were left out when the log continued behind an end that could not be read; some of them may have been given.
    """

    newest: int
    synced: int
    beyond: int
    jump: int = 0
    landed: int = 0

    @classmethod
    def read(cls, text: bytes) -> Note | None:
        """The note in ``text``; None where nothing sound is noted."""
        numbers = _checked(_NOTE, text)
        return None if numbers is None else cls(*map(int, numbers.split()))

    def text(self) -> bytes:
        return _with_sum(b"%020d %020d %020d %020d %020d" % self)

    @property
    def is_clean(self) -> bool:
        """Whether the log was closed with all of its entries synced, and was not opened since."""
        return self.synced == self.beyond

    def end_before(self, first: int) -> tuple[int, bool]:
        """Above the last number that was certainly given before the segment ``first``, and whether that is exact."""
        return (self.jump, False) if self.jump < first == self.landed else (first, True)


def slot_text(number: int) -> bytes:
    return _with_sum(b"%020d" % number)


def slot_number(text: bytes) -> int | None:
    """The number in a slot, one above what was acknowledged, or None where it is not sound."""
    digits = _checked(_SLOT, text)
    return None if digits is None else int(digits)


def _with_sum(text: bytes) -> bytes:
    return text + b" %08x\n" % zlib.crc32(text)


def _checked(pattern: re.Pattern[bytes], text: bytes) -> bytes | None:
    match = pattern.match(text)
    return None if match is None or int(match[2], 16) != zlib.crc32(match[1]) else match[1]
