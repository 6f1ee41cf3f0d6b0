"""``SegmentLog``: an append-only log of byte entries in a local folder. Floor 2; touches files through ``_os``.

A segment is a file named by the number of its first entry (``00000000000000000042.seg``). An entry is its length, the
CRC-32 (ITU-T V.42) of those four bytes, the CRC-32 of its content, each 4 bytes big-endian, and its content. All but
the last segment are sealed: they never change and are only ever deleted whole. The last one is the tail, to which
entries are added; what a kill or a power cut left of an entry behind its end is cut off when the log is opened again.

``acked.0`` and ``acked.1``, written in turns and in place, hold the number of the first entry that is still needed, 20
digits, and the CRC-32 of those digits in hexadecimal: whatever ends a write, one of them is sound, and a full disk does
not keep anybody from saying that entries can go.

``lock`` holds the first number of the newest segment, which is never dropped, and one that comes after all that it may
hold, 20 digits each, and the CRC-32 of both: so that one that is missing is noticed.
"""

from ._cursor import Cursor
from ._entries import MAX_ENTRY, Damage
from ._examine import Examined, examine
from ._log import SegmentLog

__all__ = ["MAX_ENTRY", "Cursor", "Damage", "Examined", "SegmentLog", "examine"]
