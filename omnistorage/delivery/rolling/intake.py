"""``Intake``: what an engine does with each record on its way into an object. See ``roller``."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from omnistorage.concurrency.pools import forks
from omnistorage.core.stages import BATCH_BYTES, BATCH_RECORDS, Format
from omnistorage.errors import ConfigError, RecordError, WriterClosed
from omnistorage.records import BadRecords

from .object_names import Names, Partition
from .open_object import OpenObject
from .partitions import Partitions
from .publisher import MAX_CLOSING, THREADS, Commits, Publications
from .settings import Plan

ALL: Partition = (False, ())
"""The one partition of a template that names none."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a spool wants of its engine. ``arrived`` is the time of arrival of the record in hand. ``before(last)`` runs
    before an object whose last record is ``last`` is published, ``after()`` once it is, or could not be."""

    arrived: Callable[[], datetime]
    before: Callable[[int], None] | None = None
    after: Callable[[], None] | None = None


class Intake:
    """Takes records numbered from ``start`` on. ``form`` is the format of what ``put`` is given to write, if not that
    of the plan; ``bad`` what counts bad records."""

    _state = "new"
    _over: BaseException | None = None  # why nobody may wait for the lock any more: who holds it may be stuck

    def __init__(
        self,
        plan: Plan,
        start: int,
        *,
        form: Format[Any] | None = None,
        bad: BadRecords | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self._template, self._rolls = plan.template, plan.rolls
        self._late_after, self._late = plan.late_after, plan.late
        self._max_open = plan.max_open
        self.bad = plan.bad if bad is None else bad
        self.codec, self.on_exception = plan.codec, plan.on_exception
        self._encoded, self._own = form is not None, hooks is None
        self._most = MAX_CLOSING if hooks is None else THREADS  # what waits in a spool needs no memory
        self._owned = plan.owned if hooks is None else None
        hooks = hooks or Hooks(plan.now)
        self._commits = Commits(
            Publications(plan.backend, plan.prefix, plan.manifest, plan.on_commit, durable=plan.options.durable),
            hooks.before,
            hooks.after,
            crew=plan.crew,
        )
        form = form or plan.form
        self._objects = Partitions(
            Names(
                plan.backend,
                plan.template,
                prefix=plan.prefix,
                late_prefix=plan.late_prefix,
                source=plan.source,
                now=plan.now,
            ),
            self._commits,
            plan.rolls,
            form,
            plan.codec,
            plan.options,
            decoded=plan.form,
            max_open=plan.max_open,
            deterministic=plan.deterministic,
            timer=plan.timer,
        )
        self._now, self._timer = hooks.arrived, plan.timer
        self._next = start
        self._taken = self._late_count = 0
        self._newest = float("-inf")
        self._due = float("inf")
        self._woken = False
        self._error: BaseException | None = None
        self._lock = threading.RLock()
        self._forks = forks[0]
        self._state = "open"

    def write(self, record: Any, /, *, sequence: int | None = None) -> int:
        """Take one record and return its sequence number: the one given, which is larger than all before, or the next.
        A bad record uses up its number too."""
        self._enter("write")
        try:
            number = self._next if sequence is None else sequence
            if number < self._next:
                raise ConfigError(f"sequence numbers grow: {number} comes after {self._next - 1}")
            self._put(record, number, record)
            return number
        finally:
            self._leave()

    def put(self, record: Any, number: int, data: Any) -> None:
        """Take ``record`` as ``number``, writing ``data`` for it."""
        self._enter("write")
        try:
            self._put(record, number, data)
        finally:
            self._leave()

    def put_run(self, key: tuple[str, ...], number: int, run: Sequence[Any]) -> None:
        """Take all of ``run``, which are of one partition, as ``number`` and those that follow. After a bad record that
        raises, ``next`` says how far it came."""
        self._enter("write")
        try:
            self._next = number
            self._put_run((False, key), run)
        finally:
            self._leave()

    def pass_over(self, first: int, next: int, *, lost: bool = False) -> None:
        """``first`` and those that follow, before ``next``, are dealt with. If they are ``lost``, they may be in what
        an earlier run published, where nobody can count on any more."""
        self._enter("write")
        try:
            self._next, self._taken = next, self._taken + next - first
            if lost:
                self._objects.forget()
        finally:
            self._leave()

    def reject(self, error: RecordError, number: int) -> None:
        """Deal with a record that could not even be read."""
        self._enter("write")
        try:
            self._reject(error, number)
        finally:
            self._leave()

    @property
    def next(self) -> int:
        """The number that the next record gets."""
        return self._next

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
            if self._max_open == 1 and self._late_after is None:
                self._put_run(ALL, batch)
            else:
                for record in batch:
                    self._put(record, self._next, record)
            return self._taken - self.bad.count - before
        finally:
            self._leave()

    def _put_run(self, partition: Partition, run: Sequence[Any]) -> None:
        at = 0
        while at < len(run):
            size = self._at_once(partition, run, at)
            if size == 1:
                self._put(run[at], self._next, run[at])
                at += 1
            else:
                at += self._put_chunk(partition, run[at : at + size])

    def _at_once(self, partition: Partition, run: Sequence[Any], at: int) -> int:
        """How many records of ``run`` may go in before the limits are looked at again."""
        limits = self._rolls
        opened = self._objects.open.get(partition)
        if opened is None:
            return 1
        fits = BATCH_BYTES * opened.records // max(opened.writer.raw_bytes, 1)
        exact = [limits.raw_bytes, limits.bytes if self.codec is None else None]
        limit = min((one for one in exact if one is not None), default=None)
        if limit is not None and (
            not self._encoded or opened.writer.raw_bytes + sum(map(len, run[at : at + fits])) >= limit
        ):
            return 1
        left = BATCH_RECORDS if limits.records is None else limits.records - opened.records
        return max(min(BATCH_RECORDS, fits, left), 1)

    def _put_chunk(self, partition: Partition, chunk: Sequence[Any]) -> int:
        """Write records of one partition, up to a bad one; returns how many were dealt with."""
        opened = self._objects.open[partition]
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
            self._after(partition, opened)
        if bad is None:
            return good
        self._reject(bad, self._next)
        return good + 1

    def _put(self, record: Any, number: int, data: Any) -> None:
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
                opened = self._next_object(partition, data, number)
                if opened is None:
                    self._skip_over(number)
                    return
            try:
                opened.writer.write(data)
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

    def _next_object(self, partition: Partition, data: Any, number: int) -> OpenObject | None:
        self._commits.wait(self._most - 1)
        self._check_commits()
        opened = self._objects.start(partition, data, number)
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
        error.number = self._taken if self._own else number + 1
        self.bad.handle(error)
        self.bad.check_ratio(self._taken - self.bad.count, error.path)

    # -- in and out ----------------------------------------------------------------------------------------------------

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
        if self._over is not None:
            raise self._over
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

    def _schedule(self, due: float) -> None:
        raise TypeError(f"{type(self).__name__} does not define _schedule")

    def _help(self) -> None:
        raise TypeError(f"{type(self).__name__} does not define _help")
