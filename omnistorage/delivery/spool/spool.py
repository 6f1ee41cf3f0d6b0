"""``Spool``: where a ``RollingRecordWriter`` keeps records until the store has them. A value; the writer opens it.

What lies in the folder is told in ``segments`` and ``entries``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import PathLike, fspath
from typing import Any, Literal, NamedTuple, get_args

from omnistorage.concurrency.retry import Backoff
from omnistorage.delivery.validation import Seconds, seconds
from omnistorage.errors import ConfigError
from omnistorage.segments import examine

from .entries import STAMP

Fsync = Literal["record", "interval", "roll"]
WhenFull = Literal["block", "raise", "drop_oldest"]
OnDamage = Literal["raise", "skip"]
_SEGMENT = 16 << 20
_KEPT = 8  # segments that a spool is made of, at least, so that one that goes makes room


@dataclass(frozen=True)
class Spool:
    """A folder (made with mode 0700, as missing ones above it, its files 0600) through which records go to the store.

    *What is safe.* A record is acknowledged once ``write`` has returned with ``fsync="record"``, and once its number is
    not above ``durable`` or what ``flush`` returned otherwise. An acknowledged record is never lost: not by a kill, not
    by a power cut, not while the store is away. ``"interval"`` syncs every ``fsync_interval`` seconds, ``"roll"`` only
    before an object is published; both gather records in memory for up to ``fsync_interval`` or 1 MiB. So a kill can
    lose what was written within the last interval, a power cut what was written since the last sync, and neither of it
    was acknowledged. Nothing is published that the spool does not hold synced, so no number is ever given twice.

    *Delivery.* Records are delivered in order by one background thread. They leave the spool, a segment at a time, once
    the objects that hold them are published, the store says nothing else of their sizes and digests than what was
    written, and that was noted with a sync. An object of which it does is removed and written anew; where it cannot be
    removed the delivery ends with ``CorruptData``, as a replay would take it for published. A store that fails is tried
    again for ever, after ``backoff``, from the first record that is not known to be published: with deterministic names
    nothing is published twice, with unique ones at most what was not acknowledged by the store yet. ``progress`` tells
    the last error; ``flush`` and ``close`` raise one that is not transient. What a handler raises, and what goes wrong
    in the spool itself, ends the delivery: every call raises it, and a new writer goes on.

    *Bad records.* One that cannot be encoded is refused by ``write`` as ``on_error`` says, and uses up its number. What
    only the template finds out (a field that is missing) ``on_error`` gets from the background thread; with ``"raise"``
    the record is left out and counted, and ``flush``, ``roll`` and ``close`` raise the error: one each, of the first
    hundred. Rows of csv, and of formats of third parties, hold nothing but text, numbers, booleans and None.

    *Numbers* go on from one writer to the next; ``start_sequence`` counts for a new folder. Whoever deletes a folder
    and uses deterministic names gives another ``source`` or ``start_sequence``, or new records are taken for those that
    were published under the same numbers. While records wait, a writer whose deterministic names have another template,
    ``source`` or ``zone`` than the last one's is refused with ``ConfigError``: it might publish them twice.

    *Full.* The spool takes at most ``max_bytes`` on the disk, with 21 bytes for each record. ``when_full="block"`` lets
    ``write`` wait (a ``deadline`` or ``CancelScope`` ends that), ``"raise"`` raises, ``"drop_oldest"`` drops whole
    segments of the oldest records that are not published and counts them in ``progress.dropped``; not with
    deterministic names. Objects that wait to be full are published early where the spool would fill up with them. Where
    the disk itself is full, what is gathered stays in memory and is tried again; ``write`` waits too with ``"block"``,
    and raises otherwise, as ``flush`` does. What the disk has not taken by the end was never acknowledged, is counted
    in ``progress.lost``, and is logged with the number from which on it is to be written again.

    *The end.* ``close`` waits at most ``close_timeout`` seconds for the store. What is left then stays in the spool:
    ``progress.spooled`` counts it, a warning is logged, and the next writer delivers it.

    *Damage.* What cannot be read is found by its checksums, or by numbers that are missing, and is ``CorruptData`` with
    the numbers that are lost; ``on_damage="skip"`` goes on without them and counts them in ``progress.damaged``. Where
    records are skipped that had been published under deterministic names, others of the same object may be published
    again. The end of the log that a kill cut short was never acknowledged and is no damage.

    A second writer on the same folder, of any process, is ``PermissionDenied``.
    """

    folder: str | PathLike[str]
    max_bytes: int = 1 << 30
    fsync: Fsync = "interval"
    fsync_interval: Seconds = 1.0
    when_full: WhenFull = "block"
    segment_bytes: int | None = None
    on_damage: OnDamage = "raise"
    close_timeout: Seconds = 30.0
    backoff: Backoff = field(default_factory=Backoff)
    _os: Any = field(default=None, repr=False, compare=False)
    _patience: float = field(default=5.0, repr=False, compare=False)  # seconds for a thread inside of the store

    def __post_init__(self) -> None:
        fspath(self.folder)
        for name, kinds in (("fsync", Fsync), ("when_full", WhenFull), ("on_damage", OnDamage)):
            if getattr(self, name) not in get_args(kinds):
                raise ConfigError(f"{name}={getattr(self, name)!r}: use {' or '.join(get_args(kinds))}")
        for name in ("fsync_interval", "close_timeout"):
            object.__setattr__(self, name, seconds(name, getattr(self, name)))
        if type(self.max_bytes) is not int or self.max_bytes < 4096:
            raise ConfigError(f"max_bytes is a number of bytes from 4096 up, not {self.max_bytes!r}")
        if self.segment_bytes is None:
            object.__setattr__(self, "segment_bytes", min(_SEGMENT, self.max_bytes // _KEPT))
        elif type(self.segment_bytes) is not int or not 1 <= self.segment_bytes <= self.max_bytes // 4:
            raise ConfigError(f"segment_bytes is from 1 to a quarter of max_bytes, not {self.segment_bytes!r}")


class SpoolStatus(NamedTuple):
    """``records`` that are not published, from number ``first`` on, take ``bytes``; the first of them came at
    ``oldest``. ``torn`` bytes behind them were cut short by a kill, or are just being written. ``damage`` says what
    cannot be read, ``running`` whether a writer has the spool open."""

    records: int
    bytes: int
    first: int
    oldest: datetime | None
    torn: int
    damage: list[str]
    running: bool


def spool_status(folder: str | PathLike[str]) -> SpoolStatus:
    """What is in a spool, which may be in use. Nothing is changed. Raises ``NotFound`` where there is none."""
    seen = examine(folder)
    oldest = None
    if seen.oldest is not None and len(seen.oldest) >= STAMP.size:
        oldest = datetime.fromtimestamp(STAMP.unpack_from(seen.oldest)[1], UTC)
    return SpoolStatus(
        seen.entries, seen.size, seen.first, oldest, seen.torn, [str(one) for one in seen.damage], seen.open
    )
