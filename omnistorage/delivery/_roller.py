"""``Roller``: the engine of a ``RollingRecordWriter``, which takes records and publishes objects. See ``rolling`` for
the promises; a writer with a spool makes one engine after another, as the store comes and goes.
"""

from __future__ import annotations

import warnings
import weakref

from ..errors import WriterClosed
from ..strands import forks
from ._intake import Hooks, Intake
from ._object import Progress, letters

__all__ = ["Hooks", "Roller"]


class Roller(Intake):
    """An engine: see ``Intake`` for what it is made with, and ``RollingRecordWriter`` for what its methods promise."""

    @property
    def untold(self) -> bool:
        """Whether an object was published of which nobody could be told."""
        return self._commits.untold

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

    def end_of_exception(self) -> None:
        if self.on_exception == "commit_whole_records" and self._state == "open" and self._error is None:
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
