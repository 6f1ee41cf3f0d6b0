"""``RollingRecordWriter``: a stream of records becomes objects of a useful size, one after another, by partition.

Floor 3: imports floors 0 and 2 only.
"""

from __future__ import annotations

import itertools
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from os import PathLike
from typing import Any

from .._context import Publishes
from ..bad_records import BadRecords, OnError
from ..core import WRITE, Backend, WriteOptions
from ..errors import ConfigError, RecordError, WriterClosed
from ..paths import check_new
from ..record_writer import known_exit
from ..stages import BATCH_BYTES, BATCH_RECORDS, Codec, Format
from ..strands import forks
from ._commits import MAX_CLOSING, Commits, Publications
from ._names import Names, Partition
from ._object import Committed, OpenObject, Progress
from ._partitions import Partitions
from ._settings import (
    NameMode,
    Seconds,
    check_names,
    check_zone,
    late_policy,
    layers_of,
    open_target,
    rolls,
    seconds,
    time_getter,
)
from ._timer import TIMER, Timer
from .template import Template

_ALL: Partition = (False, ())
"""The one partition of a template that names none."""


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
    records out (effectively once).

    *Failures.* Nothing stands under its final name before it is published whole. An exception in the ``with`` block,
    ``abort`` or garbage collection discards what is open, and publishes what was rolled before
    (``on_exception="commit_whole_records"`` publishes both on an exception); a kill discards both. A record that cannot
    be encoded or named goes where ``on_error`` says; one that cannot be stored poisons the writer. ``write`` may be
    called by many threads; a forked child must make its own writer.

    ``manifest`` is a path in the target: one NDJSON line for each published object (see ``delivery.manifest``).
    ``on_commit`` gets the same as a ``Committed``, from another thread, one at a time; of the writer it may ask
    ``durable`` and ``progress``, no more. An object that a kill left between its publication and its line gets the line
    from a replay with deterministic names; without one it has none. ``timer`` and ``now`` are the clocks of rolls and
    of arrival.
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
        on_exception: str = "abort",
        options: WriteOptions = WRITE,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        timer: Timer = TIMER,
    ) -> None:
        self.format, self.codec, suffix = layers_of(template, format, compression)
        self._template = Template(
            template, suffix=suffix, time_of=time_getter(time_field), zone=check_zone(zone), missing=missing
        )
        self._rolls = rolls(
            bytes=roll_bytes, raw_bytes=roll_raw_bytes, records=roll_records, age=roll_age, idle=roll_idle
        )
        self._late_after, self._late = seconds("late_after", late_after), late_policy(late)
        check_names(names, self._template, late=late_after is not None)
        if type(max_open) is not int or max_open < 1:
            raise ConfigError(f"max_open is a number of objects from 1 up, not {max_open!r}")
        if type(start_sequence) is not int or start_sequence < 0:
            raise ConfigError(f"start_sequence is a number from 0 up, not {start_sequence!r}")
        self._max_open = 1 if self._template.is_constant and self._late != "prefix" else max_open
        self.bad = BadRecords(on_error, max_bad, max_bad_ratio)
        self.on_exception = known_exit(on_exception)
        for name in (late_prefix, *([source] if source else []), *([] if manifest is None else [manifest])):
            check_new(name)
        self._backend, prefix, self._owned = open_target(target, names)
        self._options = replace(
            options,
            overwrite=not self._backend.features.create_only,
            content_type=options.content_type or getattr(self.codec or self.format, "content_type", None),
        )
        self._commits = Commits(Publications(self._backend, prefix, manifest, on_commit, durable=options.durable))
        self._objects = Partitions(
            Names(self._backend, self._template, prefix=prefix, late_prefix=late_prefix, source=source, now=now),
            self._commits,
            self._rolls,
            self.format,
            self.codec,
            self._options,
            max_open=self._max_open,
            deterministic=names == "deterministic",
            timer=timer,
        )
        self._now, self._timer = now, timer
        self._next = start_sequence
        self._taken = self._late_count = 0
        self._newest = float("-inf")
        self._due = float("inf")
        self._woken = False
        self._error: BaseException | None = None
        self._lock = threading.RLock()
        self._forks = forks[0]
        self._state = "open"

    _state = "new"

    # -- records -------------------------------------------------------------------------------------------------------

    def write(self, record: Any, /, *, sequence: int | None = None) -> int:
        """Take one record and return its sequence number: the one given, which is larger than all before, or the next.
        A bad record uses up its number too."""
        self._enter("write")
        try:
            number = self._next if sequence is None else sequence
            if number < self._next:
                raise ConfigError(f"sequence numbers grow: {number} comes after {self._next - 1}")
            self._put(record, number)
            return number
        finally:
            self._leave()

    def write_many(self, records: Iterable[Any], /) -> int:
        """Take all ``records``; returns how many were good. Those before a record that raises are kept; of those behind
        it up to 255 may have been read already, and are not."""
        source, good = iter(records), 0
        batch: list[Any] = []
        try:
            while True:
                batch.extend(itertools.islice(source, BATCH_RECORDS))
                if not batch:
                    return good
                taken, batch = batch, []
                good += self._put_many(taken)
        except BaseException:
            if batch and self._state == "open":
                self._put_many(batch)  # what the caller's iterator gave before it raised
            raise

    def _put_many(self, batch: list[Any]) -> int:
        self._enter("write")
        before = self._taken - self.bad.count
        try:
            at = 0
            while at < len(batch):
                size = self._at_once()
                if size == 1:
                    self._put(batch[at], self._next)
                    at += 1
                else:
                    at += self._put_chunk(batch[at : at + size])
            return self._taken - self.bad.count - before
        finally:
            self._leave()

    def _at_once(self) -> int:
        """How many records may go in before the limits are looked at again."""
        limits = self._rolls
        opened = self._objects.open.get(_ALL) if self._max_open == 1 and self._late_after is None else None
        if opened is None or limits.raw_bytes is not None or (self.codec is None and limits.bytes is not None):
            return 1
        fits = BATCH_BYTES * opened.records // max(opened.writer.raw_bytes, 1)
        left = BATCH_RECORDS if limits.records is None else limits.records - opened.records
        return max(min(BATCH_RECORDS, fits, left), 1)

    def _put_chunk(self, chunk: list[Any]) -> int:
        """Write records of the one partition, up to a bad one; returns how many were dealt with."""
        opened = self._objects.open[_ALL]
        before, bad = opened.writer.records, None
        try:
            opened.writer.write_many(chunk)
        except RecordError as error:
            bad = error
        except BaseException as error:
            self._fail(error)
            raise
        good = opened.writer.records - before
        if good:
            self._count_in(opened, self._next, self._next + good - 1, good)
            self._after(_ALL, opened)
        if bad is None:
            return good
        self._reject(bad, self._next)
        return good + 1

    def _put(self, record: Any, number: int) -> None:
        template, moment, late = self._template, 0.0, False
        try:
            if template.needs_time or self._late_after is not None:
                moment = template.seconds(record, self._now)
                late = self._late_after is not None and moment < self._newest - self._late_after
            if late and callable(self._late):
                self._late(record)
                self._late_count += 1
                self._skip_over(number)
                return
            partition = (late and self._late == "prefix", template.key(record, moment))
            opened = self._objects.open.get(partition)
            if opened is None:
                opened = self._next_object(partition, record, number)
                if opened is None:
                    self._skip_over(number)
                    return
            try:
                opened.writer.write(record)
            except RecordError:
                raise
            except BaseException as error:
                self._fail(error)
                raise
        except RecordError as error:
            self._reject(error, number)
            return
        self._late_count += late
        if moment > self._newest:
            self._newest = moment
        self._count_in(opened, number, number, 1)
        self._after(partition, opened)

    def _next_object(self, partition: Partition, record: Any, number: int) -> OpenObject | None:
        self._commits.wait(MAX_CLOSING - 1)
        self._check_commits()
        opened = self._objects.start(partition, record, number)
        if opened is not None and self._rolls.timed:
            self._schedule(self._rolls.due(opened.opened, opened.touched))
        return opened

    def _after(self, partition: Partition, opened: OpenObject) -> None:
        try:
            self._objects.after(partition, opened)
        except BaseException as error:
            self._fail(error)
            raise

    def _count_in(self, opened: OpenObject, first: int, last: int, count: int) -> None:
        if not opened.records:
            opened.first = first
        opened.records += count
        opened.last = last
        self._next = last + 1
        self._taken += count

    def _skip_over(self, number: int) -> None:
        self._next = number + 1
        self._taken += 1

    def _reject(self, error: RecordError, number: int) -> None:
        self._skip_over(number)
        error.number = self._taken
        self.bad.handle(error)
        self.bad.check_ratio(self._taken - self.bad.count, error.path)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _schedule(self, due: float) -> None:
        """Have the timer wake us when an object grows too old."""
        if due < self._due:
            self._due = due
            ref = weakref.ref(self)
            self._timer.at(due, lambda: _wake(ref))

    def _roll_due(self) -> None:
        self._due = float("inf")
        self._objects.roll_due()
        self._schedule(self._objects.next_due)

    def _help(self) -> None:
        """Roll what is due, unless somebody is inside, who will do it on the way out."""
        while self._woken and self._lock.acquire(blocking=False):
            try:
                if self._woken:
                    self._woken = False
                    if self._state == "open":
                        self._roll_due()
            finally:
                self._lock.release()

    # -- the end -------------------------------------------------------------------------------------------------------

    @property
    def durable(self) -> int:
        """Every record up to this sequence number is published or dealt with; one below the first one if none is."""
        return min([*self._objects.pending, *self._commits.pending(), self._next]) - 1  # no lock: see ``on_commit``

    @property
    def progress(self) -> Progress:
        """The counters, now."""
        done = self._commits
        return Progress(
            taken=self._taken,
            records=done.records,
            objects=done.objects,
            bytes=done.bytes,
            raw_bytes=done.raw_bytes,
            bad=self.bad.count,
            late=self._late_count,
            open=len(self._objects.open),
            closing=done.waiting,
            durable=self.durable,
        )

    def flush(self) -> int:
        """Push every record into the store as far as it goes without publishing, wait for what is being published, and
        return ``durable``. ``roll`` makes everything durable."""
        self._enter("flush")
        try:
            for opened in self._objects.open.values():
                opened.writer.flush()
            self._commits.wait()
            self._check_commits()
            return self.durable
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._leave()

    def roll(self) -> int:
        """Publish everything taken so far, now, and return ``durable``."""
        self._enter("roll")
        try:
            self._roll_all()
            return self.durable
        finally:
            self._leave()

    def _roll_all(self) -> None:
        while self._objects.open:
            self._objects.roll(next(iter(self._objects.open)))
            self._commits.wait(MAX_CLOSING - 1)
        self._commits.wait()
        self._check_commits()

    def close(self) -> Progress:
        """Publish everything and return the final counters. Again: the same. If something cannot be published the rest
        is still discarded or published whole, and the error is raised."""
        if self._forks != forks[0]:
            raise WriterClosed("this writer belongs to the process that opened it: make one here", op="close")
        with self._lock:
            if self._state != "closed":
                try:
                    self._enter("close")
                    try:
                        self._roll_all()
                        self.bad.check_ratio(self._taken - self.bad.count, None, final=True)
                        self._state = "closed"
                    finally:
                        self._leave()
                except BaseException:
                    self._commits.give_up()
                    self.abort()
                    raise
        self._disown()
        return self.progress

    def abort(self) -> None:
        """Discard what is open. What was rolled before is whole: it is still published, and waited for. Idempotent,
        from any thread; while another thread is inside, and so perhaps stuck, what was rolled is discarded too."""
        if self._forks != forks[0]:
            raise WriterClosed("this writer belongs to the process that opened it", op="abort")
        if self._state != "open":
            return
        self._state = "aborted"
        free = self._lock.acquire(blocking=False)
        if not free:
            self._commits.give_up()
            for opened in list(self._objects.open.values()):
                opened.writer.abort()
            self._lock.acquire()
        try:
            self._commits.lose(self._objects.pending)
            self._objects.abort()
        finally:
            self._lock.release()
        self._commits.wait()
        self._disown()

    def _on_exception(self) -> None:
        if self.on_exception == "commit_whole_records" and self._state == "open" and self._error is None:
            self.close()
        else:
            self.abort()

    def _fail(self, error: BaseException) -> None:
        """From here on every call raises ``error``."""
        self._error = self._error or error

    def _check_commits(self) -> None:
        if self._commits.error is not None:
            self._fail(self._commits.error)
            raise self._commits.error

    def _enter(self, op: str) -> None:
        if self._forks != forks[0]:
            raise WriterClosed("this writer belongs to the process that opened it: make one here", op=op)
        self._lock.acquire()
        try:
            if self._state == "open":
                self._check_commits()
            if self._error is not None:
                raise self._error
            if self._state != "open":
                raise WriterClosed(f"the rolling writer is {self._state}", op=op)
        except BaseException:
            self._lock.release()
            raise

    def _leave(self) -> None:
        self._lock.release()
        if self._woken:
            self._help()

    def _disown(self) -> None:
        owned, self._owned = self._owned, None
        if owned is not None:
            owned.close()

    def __del__(self) -> None:
        if self._state == "open" and self._forks == forks[0]:
            self._state = "aborted"
            warnings.warn(
                "a rolling writer was dropped without close: what was not rolled is discarded",
                ResourceWarning,
                stacklevel=2,
            )


def _wake(ref: weakref.ref[RollingRecordWriter]) -> None:
    writer = ref()
    if writer is not None:
        writer._woken = True
        writer._help()
