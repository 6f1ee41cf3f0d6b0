"""``SegmentLog``: an append-only log of byte entries in a local folder.

A segment is a file named by the number of its first entry (``00000000000000000042.seg``). An entry is, in big-endian
order: the length of its content (4 bytes), its number (8 bytes), the CRC-32 (ITU-T V.42) of these 12 bytes (4 bytes),
the CRC-32 of these 12 bytes and the content (4 bytes), and the content. All but the last segment are sealed: they never
change and are only ever deleted whole. The last one is the tail, to which entries are added. Opening the log cuts off
what a kill or a power cut left of an entry behind its end.

The numbers in a log only grow. A reader delivers an entry only where its number comes next, so an entry that is there
twice, a missing entry and segments that changed places are damage, and the difference of the numbers of two sound
entries says how many are lost between them.

``acked.0`` and ``acked.1``, written in turns and in place, hold the number of the first entry that is still needed, 20
digits, and the CRC-32 of those digits in hexadecimal: whatever ends a write, one of them is sound, and a full disk does
not keep the log from noting that entries can go.

``lock`` holds five numbers, 20 digits each, and the CRC-32 of their text (``notes.Note``):

1. the first number of the newest segment, which is never dropped;
2. the number behind the last entry that was synced when this was noted;
3. a number above all that were given. A clean close notes the same number as the second, and opening a higher one;
4. and 5. the numbers from the fourth to below the fifth were left out where the log continued behind an end that could
   not be read. The log cannot know how many of them were given.

So a missing end is noticed. How many entries are lost is exact after a clean close, and a lower bound otherwise.
"""

from .cursor import Cursor
from .entry_format import HEAD, MAX_ENTRY, Damage
from .inspect import Examined, examine
from .log import SegmentLog

ENTRY_HEAD = HEAD.size
"""How many bytes an entry takes beyond its content."""

__all__ = ["ENTRY_HEAD", "MAX_ENTRY", "Cursor", "Damage", "Examined", "SegmentLog", "examine"]
