"""What a ``RollingRecordWriter`` with a spool hands its calls to: records go into the folder, a ``Drain`` delivers."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from omnistorage.concurrency import cancellation
from omnistorage.concurrency.pools import forks
from omnistorage.core.stages import BATCH_RECORDS
from omnistorage.delivery.rolling.open_object import Progress, letters
from omnistorage.delivery.rolling.roller import PATIENCE
from omnistorage.delivery.rolling.settings import Plan
from omnistorage.delivery.validation import stamps
from omnistorage.errors import Cancelled, ConfigError, CorruptData, RecordError, StorageError, WriterClosed
from omnistorage.segments import ENTRY_HEAD

from .entries import REFUSED, STAMP, Entries
from .forwarder import Drain
from .naming import must_agree
from .spool import Spool
from .storage import Folder, fresh, is_full

log = logging.getLogger(__name__)
_pack = STAMP.pack  # one look-up less for each record


class Spooled:
    """Takes records; see ``Spool`` for the promises. Any thread may call anything."""

    _state = "new"

    def __init__(self, plan: Plan, spool: Spool) -> None:
        if plan.deterministic and spool.when_full == "drop_oldest":
            raise ConfigError("when_full='drop_oldest' leaves gaps, which a replay under deterministic names must not")
        self.bad, self.on_exception = plan.bad, plan.on_exception
        self._plan, self._spool = plan, spool
        self._entries = Entries(plan.form)
        self._largest = (spool.max_bytes // 4) - STAMP.size - ENTRY_HEAD
        self._bad_lock = threading.RLock()
        self._ending = threading.Lock()
        self._final: Progress | None = None
        self._cut = self._drained = False
        self._until = float("inf")  # no longer does anybody wait for the store at the end
        self._folder = Folder(spool, plan.start, plan.timer, plan.crew)
        self._put, self._encode, self._kind = self._folder.put, self._entries.encode, self._entries.kind
        self._stamp = stamps(plan.now)
        self._began = self._folder.next
        self._drain = Drain(plan, self._folder, self._entries, self.bad, self._bad_lock)
        self._forks = forks[0]
        try:
            self._check_format()
            must_agree(plan, self._folder)
            self._thread = plan.crew.deliver(self._drain.steps)
        except BaseException:
            self._folder.close()
            raise
        self._state = "open"

    def _check_format(self) -> None:
        """Of the first that wait, before anything else is put behind them."""
        cursor = self._folder.cursor(self._folder.acked + 1)
        try:
            with suppress(CorruptData):  # whoever delivers tells
                self._entries.check(bytes(entry[0] for entry in self._folder.take(cursor)[1]), self._folder.path)
        finally:
            cursor.close()

    # -- records -------------------------------------------------------------------------------------------------------

    def write(self, record: Any, /, *, sequence: int | None = None) -> int:
        if self._forks != forks[0] or self._state != "open":
            self._refuse("write")
        try:
            data = self._encode(record)
            if len(data) > self._largest:
                data = self._data(record)
        except RecordError as error:
            return self._reject(error, sequence)
        return self._put(_pack(self._kind, self._stamp()) + data, sequence)

    def _data(self, record: Any) -> bytes:
        data = self._encode(record)
        if len(data) > self._largest:
            raise RecordError(f"the record takes {len(data)} bytes, the spool at most {self._largest} for one")
        return data

    def write_many(self, records: Iterable[Any], /) -> int:
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
        if self._forks != forks[0] or self._state != "open":
            self._refuse("write")
        stamp = _pack(self._kind, self._stamp())
        try:
            entries = [stamp + data for data in map(self._encode, batch)]
        except RecordError:
            entries = []
        if entries and max(map(len, entries)) <= self._largest:
            self._folder.put_many(entries)
            return len(entries)
        good = len(batch)
        for record in batch:
            try:
                entry = stamp + self._data(record)
            except RecordError as error:
                self._reject(error, None)
                good -= 1
            else:
                self._folder.put(entry)
        return good

    def _reject(self, error: RecordError, sequence: int | None) -> int:
        number = self._folder.put(_pack(REFUSED, self._stamp()), sequence)
        error.number = number + 1
        with self._bad_lock:
            self.bad.handle(error)
            self.bad.check_ratio(self._taken - self.bad.count, error.path)
        return number

    @property
    def _taken(self) -> int:
        return self._folder.next + self._folder.lost - self._began

    # -- how it stands -------------------------------------------------------------------------------------------------

    @property
    def durable(self) -> int:
        return max(self._folder.synced - 1, self._folder.acked)

    @property
    def progress(self) -> Progress:
        if self._final is not None:
            return self._final
        folder, drain = self._folder, self._drain
        done, engine = drain.counted
        counts, ahead = list(done), max(0, folder.acked + 1 - drain.position)  # dropped, and not missed yet
        now = None if engine is None else engine.progress
        if now is not None:
            more = (now.objects, now.records, now.bytes, now.raw_bytes, now.late, now.skipped)
            counts = [one + other for one, other in zip(counts, more, strict=True)]
        error = folder.broken or drain.error or folder.trouble
        return Progress(
            taken=self._taken,
            records=counts[1],
            objects=counts[0],
            bytes=counts[2],
            raw_bytes=counts[3],
            bad=self.bad.count,
            late=counts[4],
            open=0 if now is None else now.open,
            closing=0 if now is None else now.closing,
            durable=self.durable,
            skipped=counts[5],
            spooled=max(0, folder.next - folder.acked - 1),
            spooled_bytes=folder.size,
            retried=drain.retried,
            dead_lettered=letters(self.bad),
            dropped=drain.dropped + ahead,
            damaged=folder.damaged,
            lost=folder.lost,
            last_error=None if error is None else f"{type(error).__name__}: {error}",
        )

    def flush(self) -> int:
        self._enter("flush")
        self._folder.sync_all()
        self._raise_told(self._drain.error)
        return self.durable

    def roll(self) -> int:
        self._enter("roll")
        self._folder.sync_all()
        failures, upto = self._drain.failures, self._folder.next - 1
        with self._watching() as changed:
            self._drain.ask()
            while self._folder.acked < upto:
                self._enter("roll")
                if self._drain.failures > failures and self._drain.error is not None:
                    raise fresh(self._drain.error)
                changed()
        self._raise_told(None)
        return self.durable

    def _raise_told(self, error: StorageError | None) -> None:
        """What happened in the background and the caller must know."""
        if error is not None and not error.transient:
            raise fresh(error)
        if self._drain.bad_errors:
            raise self._drain.bad_errors.pop(0)

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> Progress:
        limit: Any = self._spool.close_timeout
        return self._close("close", limit, self._spool._patience)

    def drain(self, within: float) -> Progress:
        self._drained = True
        return self._close("drain", within, min(self._spool._patience, PATIENCE))

    def _close(self, op: str, limit: float, patience: float) -> Progress:
        if self._forks != forks[0]:
            self._refuse(op)
        self._until = min(self._until, self._plan.timer.now() + limit)
        if self._ending.locked():  # somebody else waits, and may have more time
            self._plan.timer.at(self._until, self._drain.tell)
        with self._ending:
            if self._final is not None:
                return self._final
            if self._state != "open":
                self._refuse(op)
            error = self._try_sync()
            if error is None or is_full(error):
                error = self._wait_for_the_store(error)
            self._end("closed", patience)
            self._report(self._folder.removed or error)
            assert self._final is not None
            return self._final

    def _try_sync(self) -> BaseException | None:
        self._folder.stop_taking()  # first: what somebody puts behind the sync would be lost
        try:
            self._folder.sync_all()
            self._folder.check_removed()
        except BaseException as error:
            return error
        return None

    def _wait_for_the_store(self, full: BaseException | None) -> BaseException | None:
        """Until all is published, but no longer than was said. ``full`` is why the disk has not taken the last records:
        what is published makes room for them."""
        timer, again, acked = self._plan.timer, float("-inf"), self._folder.acked
        try:
            with self._watching(self._until) as changed:
                self._drain.ask()
                while self._folder.acked < self._folder.next - 1 and timer.now() < self._until:
                    if self._cut or self._folder.broken is not None:
                        break
                    if full is not None and (timer.now() >= again or self._folder.acked > acked):
                        again, acked = timer.now() + self._folder.pause, self._folder.acked
                        timer.at(again, self._drain.tell)
                        full = self._try_sync()
                        if full is None:
                            self._drain.ask()
                        elif not is_full(full):
                            break
                    changed()
        except Cancelled:
            pass  # what is in the log is safe
        except BaseException as error:
            return error
        return self._folder.broken or full

    def _report(self, error: BaseException | None) -> None:
        """Raise what the caller must know of, and warn of what is left."""
        final = self._final
        assert final is not None
        if final.spooled:
            log.warning(
                "spool %s: %d records (%d bytes) are not published; the next writer delivers them%s",
                self._folder.path, final.spooled, final.spooled_bytes,
                f": {final.last_error}" if final.last_error else "",
            )  # fmt: skip
        if error is not None:
            raise fresh(error)
        self._raise_told(self._drain.error if final.spooled else None)
        self.bad.check_ratio(final.taken - final.bad, None, final=True)

    def abort(self) -> None:
        if self._forks != forks[0]:
            self._refuse("abort")
        self._cut = True
        self._drain.tell()  # whoever is inside of ``close``
        with self._ending:
            if self._state == "open":
                error = self._try_sync()
                self._end("aborted", self._spool._patience)
                if error is not None:
                    log.warning("spool %s: %s", self._folder.path, str(error))

    def end_of_exception(self) -> None:
        if self._drained:
            with self._ending:  # what somebody drains is not cut short
                return
        if self.on_exception == "commit_whole_records" and self._state == "open" and self._folder.broken is None:
            self.close()
        else:
            self.abort()

    def _end(self, state: str, patience: float) -> None:
        self._state = state
        self._drain.stop()
        engine = self._drain.engine
        if engine is not None:
            self._plan.crew.beside(engine.give_up, patience)  # or the thread may wait for ever
        self._thread.join(patience)
        if engine is not None and self._thread.is_alive():
            engine.leave()
        self._folder.close()
        self._final = self.progress
        if self._plan.owned is not None:
            self._plan.owned.close()

    # -- what all do ---------------------------------------------------------------------------------------------------

    def _enter(self, op: str) -> None:
        if self._forks != forks[0] or self._state != "open":
            self._refuse(op)
        self._folder.check()

    def _refuse(self, op: str) -> NoReturn:
        if self._forks != forks[0]:
            raise WriterClosed("this writer belongs to the process that opened it: make one here", op=op)
        raise WriterClosed(f"the spooled writer is {self._state}", op=op)

    @contextmanager
    def _watching(self, until: float | None = None) -> Iterator[Callable[[], None]]:
        """``with ... as changed``: ``changed()`` waits until something may have."""
        waiter = cancellation.Waiter()
        self._drain.watchers.add(waiter)
        if until is not None:
            self._plan.timer.at(until, waiter.set)

        def changed() -> None:
            self._plan.crew.wait(waiter, "close")
            waiter.clear()

        try:
            yield changed
        finally:
            self._drain.watchers.discard(waiter)

    def __del__(self) -> None:
        if self._state == "open" and self._forks == forks[0]:
            self._state = "aborted"
            self._drain.stop(orphaned=True)
            if self._folder.held and sys.is_finalizing():  # else the thread that drains writes them into the spool yet
                log.warning(
                    "a spooled writer was dropped without close; records lost that had not reached the spool %s: %d",
                    self._folder.path, self._folder.held,
                )  # fmt: skip
            warnings.warn(
                "a spooled writer was dropped without close: what is not published stays in the spool",
                ResourceWarning,
                stacklevel=2,
            )
