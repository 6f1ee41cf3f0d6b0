"""What delivers the records of a spool: one thread for each writer, which feeds one engine after another."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from omnistorage.concurrency.cancellation import Waiter
from omnistorage.delivery.rolling.roller import Hooks, Roller
from omnistorage.delivery.rolling.settings import Plan
from omnistorage.errors import ConfigError, RecordError, StorageError
from omnistorage.records import BadRecords

from .entries import STAMP, Entries
from .storage import Folder

KEPT = 100
"""How many errors of bad records wait for somebody to be told of."""
log = logging.getLogger(__name__)


class _Ended(Exception):
    """The delivery cannot go on; the cause says why."""


class Drain:
    """Reads the folder in order and feeds an engine; makes a new one, which starts behind what is acknowledged, when
    the store fails. Knows nothing of the public handle, which can be collected meanwhile.

    ``error`` is why the store was left alone last, None once it takes objects again; ``retried`` counts the engines
    that were given up for that. ``bad_errors`` are bad records that nobody was told of yet. ``watchers`` are set
    whenever something happens. ``counted`` has the objects, records, bytes, raw bytes, late and skipped records of
    former engines, and the present one.
    """

    def __init__(self, plan: Plan, folder: Folder, entries: Entries, bad: BadRecords, bad_lock: Any) -> None:
        self.error: StorageError | None = None
        self.retried = self.failures = self.dropped = 0
        self.bad_errors: list[RecordError] = []
        self.watchers: set[Waiter] = set()
        self.counted: tuple[tuple[int, ...], Roller | None] = (0,) * 6, None
        self._plan, self._folder, self._entries = plan, folder, entries
        self._bad = _Once(bad, bad_lock)
        self._arrival = _Arrival()
        self._from = folder.acked + 1  # what the next engine begins with, unless it is dropped
        self._wake = Waiter()
        self._stopped = self._orphaned = False
        self._asks = itertools.count(1)
        self._asked = self._rolled = 0
        self._tries = 0  # without success
        self._again = 0.0  # when what was delivered is noted once more
        self._since_roll = 0  # bytes
        self._passed: list[tuple[int, int]] = []  # dropped before the engine got them, and counted
        template, late = plan.template, plan.late_after is not None
        self._timed = template.needs_time or late
        self._needs_record = template.needs_fields or late or (self._timed and template.has_record_time)
        folder.wake = self._wake.set

    # -- for others ----------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Publish everything that is in the log now, full or not."""
        self._asked = next(self._asks)
        self._wake.set()

    def stop(self, *, orphaned: bool = False) -> None:
        """Discard what is not published and end. An ``orphaned`` one lets go of the folder as well. Takes no lock, so
        that a finaliser may call it."""
        self._orphaned = orphaned
        self._stopped = True
        self._wake.set()

    @property
    def engine(self) -> Roller | None:
        return self.counted[1]

    @property
    def position(self) -> int:
        """The number of the record that the engine gets next."""
        engine = self.engine
        return self._from if engine is None else engine.next

    # -- the thread ----------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[Waiter]:
        """All that the thread does. Each waiter is waited for until it is set."""
        try:
            while not self._stopped:
                try:
                    yield from self._deliver()
                except StorageError as error:
                    yield from self._failed(error)
        except BaseException as error:
            if not self._stopped:
                self._folder.end((isinstance(error, _Ended) and error.__cause__) or error)
        yield from self._finish()

    def _finish(self) -> Iterator[Waiter]:
        try:
            self._retire()
        except BaseException as error:
            if not self._stopped:
                self._folder.end(error)
        self.tell()
        while not self._stopped:  # what ended by itself still has to see whether somebody closes the folder
            yield self._wake
            self._wake.clear()
        if self._orphaned:
            self._let_go()

    def _deliver(self) -> Iterator[Waiter]:
        """Until something fails or it is over."""
        folder, start = self._folder, max(self._folder.acked + 1, self._from)
        self.dropped += start - self._from  # while there was no engine
        self._from = start
        engine = Roller(
            self._plan,
            start,
            form=self._entries.form,
            bad=self._bad,
            hooks=Hooks(self._arrival, folder.sync, self._wake.set),
        )
        self.counted = self.counted[0], engine
        cursor = folder.cursor(start)
        try:
            while True:
                self._wake.clear()  # what comes from here on is seen by the next round, an end too
                if self._stopped:
                    return
                asked = self._asked  # and so is who asks: only what is in the log now is rolled for them
                if folder.late:
                    folder.tick()
                self._settle(engine)
                try:
                    number, entries = folder.take(cursor)
                except BaseException as error:
                    raise _Ended from error
                if number > engine.next:
                    self._missed(engine, number)
                if entries:
                    self._feed(engine, number, entries)
                elif asked > self._rolled or (self._folder.starved and self._since_roll):
                    self._roll(engine)
                    self._rolled = asked
                    self.tell()
                else:
                    yield self._wake
        finally:
            folder.let_go(cursor)

    def _roll(self, engine: Roller) -> None:
        engine.roll()
        self._settle(engine)
        self._since_roll = 0

    def _settle(self, engine: Roller) -> None:
        """Note what was published, and raise what could not be."""
        durable = engine.durable
        if durable > self._folder.acked:
            try:
                self._folder.acknowledge(durable)
            except StorageError as error:  # the disk is full, perhaps
                if self._folder.broken is not None:
                    raise _Ended from error
                self._again_later(error)
            else:
                self.error, self._tries = None, 0
            self.tell()
        engine.check()

    def _again_later(self, error: StorageError) -> None:
        self.error = copy.copy(error)
        self.failures += 1
        now = self._plan.timer.now()
        if now >= self._again:
            self._again = now + self._folder.pause
            self._plan.timer.at(self._again, self._wake.set)

    def _missed(self, engine: Roller, number: int) -> None:
        """What comes next is ``number``: those before it were dropped, or cannot be read."""
        dropped = min(number, self._folder.acked + 1)
        if dropped > engine.next:
            self._passed.append((engine.next, dropped))
            self.dropped += dropped - engine.next
        engine.pass_over(engine.next, number, lost=True)

    def _feed(self, engine: Roller, number: int, entries: list[bytes]) -> None:
        kinds, kind = bytes(map(itemgetter(0), entries)), self._entries.kind[0]
        if kinds.count(kind) == len(kinds):
            self._feed_good(engine, number, entries)
        else:
            try:
                self._entries.check(kinds, self._folder.path)
            except ConfigError as error:
                raise _Ended from error
            for good, run in groupby(range(len(kinds)), key=lambda at: kinds[at] == kind):
                places = list(run)
                first, end = places[0], places[-1] + 1
                if good:
                    self._feed_good(engine, number + first, entries[first:end])
                else:
                    engine.pass_over(number + first, number + end)
        self._since_roll += sum(map(len, entries))
        # A full spool holds more than that which is not acknowledged, whatever the sizes: so nobody waits for room that
        # objects hold which wait to be full.
        if self._folder.pressed and self._since_roll > self._folder.spool.max_bytes // 4:
            self._roll(engine)

    def _feed_good(self, engine: Roller, number: int, entries: list[bytes]) -> None:
        texts = [entry[STAMP.size :] for entry in entries]
        data = self._entries.data(texts)
        if not self._timed and not self._needs_record:
            self._feed_run(engine, (), number, data)
            return
        times = [STAMP.unpack_from(entry)[1] for entry in entries]
        if not self._needs_record:
            key, lowest = self._plan.template.key, min(times)
            if self._plan.template.same_times(lowest, max(times)):
                self._arrival.seconds = lowest
                self._feed_run(engine, key(None, lowest), number, data)
                return
            for same, run in groupby(range(len(times)), key=lambda at: key(None, times[at])):
                places = list(run)
                first, end = places[0], places[-1] + 1
                self._arrival.seconds = times[first]
                self._feed_run(engine, same, number + first, data[first:end])
            return
        records = self._entries.records(texts) if self._entries.stand_alone else data
        for at, record in enumerate(records):
            self._arrival.seconds = times[at]
            try:
                if isinstance(record, RecordError):
                    engine.reject(record, number + at)
                else:
                    engine.put(record, number + at, data[at])
            except RecordError as error:
                self._note(error)

    def _feed_run(self, engine: Roller, key: tuple[str, ...], number: int, run: list[Any]) -> None:
        at = 0
        while at < len(run):
            try:
                engine.put_run(key, number + at, run[at:] if at else run)
                return
            except RecordError as error:
                self._note(error)
                at = engine.next - number

    def _note(self, error: RecordError) -> None:
        if len(self.bad_errors) < KEPT:
            self.bad_errors.append(error)
        log.warning("spool %s: left out: %s", self._folder.path, str(error))  # who keeps the message keeps no frames
        self.tell()

    # -- when something fails ------------------------------------------------------------------------------------------

    def _failed(self, error: StorageError) -> Iterator[Waiter]:
        engine = self.engine
        untold = engine is not None and engine.untold
        self._retire()
        if self._stopped:
            return
        if self._folder.broken is not None or self._bad.over or (untold and not error.transient):
            raise _Ended from error  # what is published, but cannot be told, would be published again, for ever
        if self.error is None:
            log.warning("spool %s: the store fails, records wait: %s", self._folder.path, str(error))
        self.error = copy.copy(error)
        self.failures += 1
        self._tries += 1
        self.tell()
        due = self._plan.timer.now() + self._folder.spool.backoff.delay(self._tries, error.retry_after)
        self._plan.timer.at(due, self._wake.set)
        while not self._stopped and self._plan.timer.now() < due:
            yield self._wake
            self._wake.clear()
            if self._folder.late:
                self._folder.tick()
        self.retried += 1

    def _retire(self) -> None:
        """Discard the engine, and note what it had published."""
        engine = self.engine
        if engine is None:
            return
        engine.abort()
        engine.wait()
        if engine.spoiled is not None:
            self._folder.end(engine.spoiled)
        progress = engine.progress
        added = (
            progress.objects,
            progress.records,
            progress.bytes,
            progress.raw_bytes,
            progress.late,
            progress.skipped,
        )
        done = tuple(before + more for before, more in zip(self.counted[0], added, strict=True))
        acked = self._folder.acked  # once: more may be dropped meanwhile
        self._count_dropped(progress.durable + 1, acked + 1)
        self._from = max(acked, progress.durable) + 1
        self.counted, self._passed = (done, None), []
        if self._folder.broken is None:
            try:
                self._folder.acknowledge(progress.durable)
            except StorageError as found:  # the next engine begins behind it all the same, and notes it
                self._folder.trouble = copy.copy(found)

    def _count_dropped(self, first: int, end: int) -> None:
        """What was dropped while it was on its way is lost now."""
        counted = sum(max(0, min(end, stop) - max(first, start)) for start, stop in self._passed)
        self.dropped += max(0, end - first - counted)

    def _let_go(self) -> None:
        try:
            self._folder.sync_all()
        except StorageError as error:
            log.warning("spool %s: %s", self._folder.path, str(error))
        self._folder.close()
        if self._plan.owned is not None:
            self._plan.owned.close()

    def tell(self) -> None:
        for watcher in list(self.watchers):
            watcher.set()


class _Arrival:
    """The time at which the record in hand came; what an engine asks for it."""

    seconds = 0.0

    def __call__(self) -> Any:
        return self

    def timestamp(self) -> float:
        return self.seconds


class _Once(BadRecords):
    """Hands each bad record on once, though it is met again when the store was away; limits are held elsewhere."""

    def __init__(self, shared: BadRecords, lock: Any) -> None:
        super().__init__("skip")
        self._shared, self._lock = shared, lock
        self._seen = 0
        self.over = False

    def handle(self, error: RecordError) -> None:
        self.count += 1
        if error.number is None or error.number <= self._seen:
            return
        self._seen = error.number
        try:
            with self._lock:
                self._shared.handle(error)
        except RecordError:
            raise
        except BaseException:
            self.over = True
            raise
