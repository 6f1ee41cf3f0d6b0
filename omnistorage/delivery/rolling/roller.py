"""``Roller``: the engine of a ``RollingRecordWriter``, which takes records and publishes objects. See ``rolling`` for
the promises; a writer with a spool makes one engine after another, as the store comes and goes.
"""

from __future__ import annotations

import logging
import threading
import warnings
import weakref
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from omnistorage.concurrency import cancellation
from omnistorage.concurrency.pools import forks
from omnistorage.delivery.executor import beside
from omnistorage.errors import Cancelled, CorruptData, DeadlineExceeded, WriterClosed

from .intake import Hooks, Intake
from .open_object import OpenObject, Progress, letters

__all__ = ["PATIENCE", "Hooks", "Roller"]

log = logging.getLogger(__name__)
_beginning = threading.Lock()
PATIENCE = 0.25
"""How many seconds each of the two waits takes at most that clean up behind a deadline."""


class Roller(Intake):
    """An engine: see ``Intake`` for what it is made with, and ``RollingRecordWriter`` for what its methods promise."""

    _ended: Future[Progress] | None = None  # how the drain ends that has begun
    _until = float("inf")  # its deadline

    @property
    def untold(self) -> bool:
        """Whether an object was published of which nobody could be told."""
        return self._commits.untold

    @property
    def spoiled(self) -> CorruptData | None:
        """Why an object stays at the store that is not what was written: whoever met it would take it for that."""
        return self._commits.spoiled

    def check(self) -> None:
        """Raise what kept an object from being published."""
        self._enter("write")
        self._leave()

    def wait(self) -> None:
        """Until nothing is being published any more."""
        self._commits.wait()

    def give_up(self) -> None:
        """Free whoever is stuck inside, from another thread, without waiting for anybody: an ``abort`` follows."""
        self._commits.give_up()
        for opened in list(self._objects.open.values()):
            opened.writer.abort()

    def leave(self) -> None:
        """Nobody waits for what is being published any more."""
        self._commits.leave(DeadlineExceeded("the store did not answer in time", op="close"))

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
            skipped=self._objects.skipped,
            dead_lettered=letters(self.bad),
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
            self._commits.wait(self._most - 1)
        self._commits.wait()
        self._check_commits()

    def close(self) -> Progress:
        """Publish everything and return the final counters. Again: the same. If something cannot be published the rest
        is still discarded or published whole, and the error is raised."""
        if self._forks != forks[0]:
            raise WriterClosed("this writer belongs to the process that opened it: make one here", op="close")
        if self._ended is not None:
            return self._ended.result()
        if cancellation.is_limited() and self._state == "open" and self._error is None:
            return self.drain(float("inf"))  # which a scope or a deadline ends, whatever the store is in the middle of
        with self._lock:
            if self._ended is None and self._state != "closed":
                try:
                    with _beginning:  # a drain may have begun while we waited
                        drained = self._ended is not None
                        if not drained:
                            self._enter("close")
                    if not drained:
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
        if self._ended is not None:
            return self._ended.result()
        self._disown()
        return self.progress

    def abort(self) -> None:
        """Discard what is open. What was rolled before is whole: it is still published, and waited for. Idempotent,
        from any thread; while another thread is inside, and so perhaps stuck, what was rolled is discarded too."""
        if self._forks != forks[0]:
            raise WriterClosed("this writer belongs to the process that opened it", op="abort")
        with _beginning:
            ended = self._ended
            if ended is None:
                if self._state != "open":
                    return
                self._state = "aborted"
        if ended is not None:
            self._until = float("-inf")
            self._wake.set()
            ended.exception()  # until it has ended
            return
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self.give_up()
        try:
            self._drop_open()
            self._commits.wait()
        finally:
            self._disown()

    def _drop_open(self) -> None:
        with self._lock:
            self._commits.lose(self._objects.pending)
            self._objects.abort()

    # What is left is published beside whoever waits, without the lock: a store that hangs holds up neither them nor
    # those who want to write. The future is the judge of who was first, the last object or the deadline.

    def drain(self, within: float) -> Progress:
        """Take no more records, and publish those that were taken, within so many seconds; see ``rolling``."""
        if self._forks != forks[0]:
            raise WriterClosed("this writer belongs to the process that opened it: make one here", op="drain")
        until = self._timer.now() + within
        with _beginning:
            ended, first = self._ended, self._ended is None and self._state == "open"
            if first:
                self._wake, ended = cancellation.Waiter(), Future()
                self._ended, self._state = ended, "drained"
        if ended is None:
            return self.close()
        self._until = min(self._until, until)
        if until < float("inf"):
            self._timer.at(until, self._wake.set)
        if not first:
            self._wake.set()  # whoever waits may have more time than that
            return ended.result()
        return self._await(ended)

    def _await(self, ended: Future[Progress]) -> Progress:
        before = self._objects_left()
        ended.add_done_callback(lambda _: self._wake.set())
        closer = threading.Thread(target=self._finish, args=(ended,), name="omnistorage-drain", daemon=True)
        try:
            try:
                closer.start()
            except RuntimeError:  # a dying interpreter starts no threads
                self._finish(ended)
            while not ended.done() and self._timer.now() < self._until:
                cancellation.wait(self._wake, op="drain")
                self._wake.clear()
        except Cancelled:
            pass
        finally:
            if not ended.done() and self._too_late(ended, before):
                beside(self.give_up, PATIENCE)
                closer.join(PATIENCE)
        return ended.result()

    def _objects_left(self) -> set[OpenObject]:
        return {*list(self._objects.open.values()), *self._commits.objects_left}

    def _too_late(self, ended: Future[Progress], before: set[OpenObject]) -> bool:
        left = [one for one in before | self._objects_left() if one.writer.result is None]
        error = DeadlineExceeded(
            f"{sum(one.records for one in left)} records were not published in time: from number {self.durable + 1} on "
            "nobody may count on them",
            op="drain",
        )
        error.__cause__ = self._error or self._commits.error
        try:
            ended.set_exception(error)
        except InvalidStateError:  # just in time
            return False
        self._over, self._state = error, "aborted"
        self._commits.leave(error)
        return True

    def _finish(self, ended: Future[Progress]) -> None:
        try:
            with self._lock:  # whoever is inside still ends
                if self._error is not None:
                    raise self._error
                while self._objects.open and self._over is None:
                    self._objects.roll(next(iter(self._objects.open)))
            self._commits.wait()
            self._check_commits()
            self.bad.check_ratio(self._taken - self.bad.count, None, final=True)
            self._disown()
            self._state = "closed"
            with suppress(InvalidStateError):  # it was too late
                ended.set_result(self.progress)
        except BaseException as error:
            self._state = "aborted"
            self._discard()
            self._disown()
            with suppress(InvalidStateError):
                ended.set_exception(error)

    def _discard(self) -> None:
        self._commits.give_up()
        self._drop_open()
        self._commits.wait()

    def end_of_exception(self) -> None:
        if self._ended is not None:
            self._ended.exception()  # what somebody drains is not cut short
        elif self.on_exception == "commit_whole_records" and self._state == "open" and self._error is None:
            self.close()
        else:
            self.abort()

    def _disown(self) -> None:
        owned, self._owned = self._owned, None
        if owned is not None:
            owned.close()

    def __del__(self) -> None:
        if self._state == "open" and self._forks == forks[0]:
            self._state = "aborted"
            if lost := sum(opened.records for opened in self._objects.open.values()):
                log.warning("a rolling writer was dropped without close; records lost: %d", lost)
            warnings.warn(
                "a rolling writer was dropped without close: what was not rolled is discarded",
                ResourceWarning,
                stacklevel=2,
            )


def _wake(ref: weakref.ref[Roller]) -> None:
    writer = ref()
    if writer is not None:
        writer._woken = True
        writer._help()
