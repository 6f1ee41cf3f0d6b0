"""``RollingRecordWriter``: a stream of records becomes objects of a useful size, one after another, by partition.

What it promises stands here; ``rolling.roller`` does it, behind a ``spool.writer`` front if there is a spool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, tzinfo
from os import PathLike
from typing import Any

from omnistorage.core import WRITE, Backend, WriteOptions
from omnistorage.core.lifecycle import Publishes
from omnistorage.core.stages import Codec, Format
from omnistorage.errors import ConfigError
from omnistorage.records import BadRecords
from omnistorage.records.bad_records import OnError
from omnistorage.records.writer import OnException

from .executor import CREW, Crew
from .rolling.open_object import Committed, Progress
from .rolling.roller import Roller
from .rolling.settings import Plan
from .spool import Spool
from .spool.writer import Spooled
from .timer import TIMER, Timer
from .validation import NameMode, Seconds, seconds, utc_now


class RollingRecordWriter(Publishes):
    """Writes records into objects named by ``template`` and starts a new object when one is full.

    ``target`` is a backend, anything with ``as_backend()``, or a URL. ``template`` names the objects:
    ``{time:%Y/%m/%d}`` (the record's time, strftime) and ``{field}`` or ``{a.b}`` (the record's own) put records into
    partitions; ``{seq}`` (counts the objects of a partition, ``{seq:06d}``), ``{id}`` (unique and in order of time),
    ``{start}`` (sequence number of the first record) and ``{source}`` name the objects of one. Format and codec follow
    the suffix; a template without one gets that of ``format`` and ``compression``. Field values are percent-encoded
    where they would be more than a name.

    *Rolls.* An object is published once it has ``roll_bytes`` (as stored, within a block of the codec),
    ``roll_raw_bytes`` or ``roll_records``, is ``roll_age`` old or was left alone for ``roll_idle`` (seconds or
    timedelta), whichever is first; time needs no new record. At most ``max_open`` objects are open: the least recently
    used one is published to make room. Objects are published in the background, several at a time.

    *Times.* ``time_field`` (a name, dotted if nested, or a callable) finds a record's time: a datetime, ISO 8601 text,
    or a number of seconds (milli-, micro- or nanoseconds if larger than 1e11); without it the time of arrival counts.
    ``zone`` is the zone of ``{time}`` and of times that name none. A record more than ``late_after`` older than the
    newest one is late: ``late="partition"`` treats it like any other, ``"prefix"`` puts its objects below
    ``late_prefix``, a RecordWriter or callable gets it instead.

    *Names.* ``names="unique"``: an object never replaces another; what was published but not yet acknowledged when a
    process died is written again by whoever replays it (at least once). With ``{seq}`` alone one writer at a time may
    use a partition: a name that another took meanwhile is an error; ``{id}`` has no such limit.
    ``names="deterministic"``: a name is made of ``{source}``, the partition and ``{start}``, all partitions are rolled
    together, and objects are created, never replaced. A replay of the same records (``start_sequence``) from
    any ``durable + 1`` that was ever returned, or from the first, finds what an earlier run published and leaves those
    records out (effectively once), counted in ``progress.skipped``. Names are all it goes by: other records under the
    numbers of earlier ones, as from a second run that counts from 0 again, are taken for those and left out. A warning
    is logged where the first record of such an object differs. Give each run its ``source``, or a ``start_sequence``
    behind the last one.

    *Failures.* Nothing stands under its final name before it is published whole. Where the store says afterwards that
    it holds another size or digest, that is ``CorruptData``: nothing of it is durable, and the object is removed. An
    exception in the ``with`` block, ``abort`` or garbage collection discards what is open, and publishes what was
    rolled before (``on_exception="commit_whole_records"`` publishes both on an exception); a kill discards both. A
    record that cannot be encoded or named goes where ``on_error`` says; one that cannot be stored poisons the writer.
    A request that fails is tried again for ``retry_for`` (seconds or timedelta; a minute, so that a server may restart;
    None: as the target's ``RequestPolicy`` says). With a spool, which waits for as long as it takes, and for a mirror,
    which goes on without a target, the policy alone counts.
    ``write`` may be called by many threads; a forked child must make its own writer.

    ``manifest`` is a path in the target: one NDJSON line for each published object (see ``rolling.manifest``).
    ``on_commit`` gets the same as a ``Committed``, from another thread, one at a time; of the writer it may ask
    ``durable`` and ``progress``, no more. An object that a kill left between its publication and its line gets the line
    from a replay with deterministic names; without one it has none. ``timer`` and ``now`` are the clocks of rolls and
    of arrival.

    *Spool.* With ``spool=Spool(folder)`` records go to a local log first, and from there to the store, whenever it can
    be had; ``Spool`` says what that promises. Then ``durable`` counts what is safe in the spool, ``write`` and
    ``flush`` do not wait for the store, and ``abort``, an exception or garbage collection leave in the spool what was
    not published: it was accepted, and the next writer with this spool delivers it, under its own template.
    """

    def __init__(
        self,
        target: Backend | str | PathLike[str] | Any,
        template: str,
        *,
        format: str | Format[Any] | None = None,
        compression: str | Codec | None = None,
        roll_bytes: int | None = 128 << 20,
        roll_raw_bytes: int | None = None,
        roll_records: int | None = None,
        roll_age: Seconds | None = None,
        roll_idle: Seconds | None = None,
        time_field: str | Callable[[Any], Any] | None = None,
        zone: tzinfo = UTC,
        missing: str | None = None,
        late_after: Seconds | None = None,
        late: Any = "partition",
        late_prefix: str = "late",
        max_open: int = 128,
        names: NameMode = "unique",
        source: str = "",
        start_sequence: int = 0,
        manifest: str | None = None,
        on_commit: Callable[[Committed], None] | None = None,
        on_error: OnError = "raise",
        max_bad: int | None = None,
        max_bad_ratio: float | None = None,
        on_exception: OnException = "abort",
        options: WriteOptions = WRITE,
        now: Callable[[], datetime] = utc_now,
        timer: Timer = TIMER,
        spool: Spool | None = None,
        retry_for: Seconds | None = 60.0,
        _crew: Crew = CREW,
    ) -> None:
        plan = Plan(
            target,
            template,
            format=format,
            compression=compression,
            roll_bytes=roll_bytes,
            roll_raw_bytes=roll_raw_bytes,
            roll_records=roll_records,
            roll_age=roll_age,
            roll_idle=roll_idle,
            time_field=time_field,
            zone=zone,
            missing=missing,
            late_after=late_after,
            late=late,
            late_prefix=late_prefix,
            max_open=max_open,
            names=names,
            source=source,
            start_sequence=start_sequence,
            manifest=manifest,
            on_commit=on_commit,
            on_error=on_error,
            max_bad=max_bad,
            max_bad_ratio=max_bad_ratio,
            on_exception=on_exception,
            options=options,
            now=now,
            timer=timer,
            retry_for=None if spool is not None else retry_for,
            crew=_crew,
        )
        self.format, self.codec, self._shown = plan.form, plan.codec, plan.shown
        self.bad: BadRecords = plan.bad
        self.on_exception = plan.on_exception
        try:
            self._front: Roller | Spooled = Roller(plan, start_sequence) if spool is None else Spooled(plan, spool)
        except BaseException:
            if plan.owned is not None:
                plan.owned.close()
            raise
        if type(self).write is RollingRecordWriter.write:
            vars(self)["write"] = self._front.write  # one call less for each record

    def __repr__(self) -> str:
        return f"RollingRecordWriter({self._shown})"

    def write(self, record: Any, /, *, sequence: int | None = None) -> int:
        """Take one record and return its sequence number: the one given, which is larger than all before, or the next.
        A bad record uses up its number too. With a spool numbers have no gaps."""
        return self._front.write(record, sequence=sequence)

    def write_many(self, records: Iterable[Any], /) -> int:
        """Take all ``records``; returns how many were good. Those before a record that raises are kept; of those behind
        it up to 255 may have been read already, and are not."""
        return self._front.write_many(records)

    @property
    def durable(self) -> int:
        """Every record up to this sequence number is published or dealt with, or safe in the spool; one below the first
        one if none is."""
        return self._front.durable

    @property
    def progress(self) -> Progress:
        """The counters, now."""
        return self._front.progress

    def flush(self) -> int:
        """Push every record into the store as far as it goes without publishing, wait for what is being published, and
        return ``durable``. ``roll`` makes everything durable. With a spool: every record is synced there, which makes
        all of them durable; then raises what the store refuses for good, if it does."""
        return self._front.flush()

    def roll(self) -> int:
        """Publish everything taken so far, now, and return ``durable``. With a spool: waits until the store has it all,
        and raises what keeps it from that."""
        return self._front.roll()

    def close(self) -> Progress:
        """Publish everything and return the final counters. Again: the same. If something cannot be published the rest
        is still discarded or published whole, and the error is raised. A ``deadline`` or ``CancelScope`` ends it as
        ``drain`` ends. With a spool: what the store does not take within ``Spool.close_timeout`` stays there (see
        ``Spool``)."""
        return self._front.close()

    def drain(self, within: Seconds) -> Progress:
        """Take no more records, publish those that were taken within so many seconds, and return the final counters.
        From any thread; the call under way in another one still ends, later ones are ``WriterClosed``. After ``close``:
        the same counters.

        Raises ``DeadlineExceeded`` in time, half a second later at most, even if the store hangs: it says how many
        records from which number on are not published. They are discarded; an object that is just being published may
        still appear, whole, and ``durable`` and ``progress`` then say so. An ``abort`` meanwhile ends it at once in the
        same way, an exception in the ``with`` block lets it end. With a spool nothing is raised for that: what the
        store has not taken stays there (see ``Spool``)."""
        limit = seconds("within", within)
        if limit is None:
            raise ConfigError("within is a number of seconds above zero or a timedelta")
        return self._front.drain(limit)

    def abort(self) -> None:
        """Discard what is open. What was rolled before is whole: it is still published, and waited for. Idempotent,
        from any thread; while another thread is inside, and so perhaps stuck, what was rolled is discarded too. With a
        spool nothing is waited for, and what is not published stays in the spool."""
        self._front.abort()

    def _on_exception(self) -> None:
        self._front.end_of_exception()
