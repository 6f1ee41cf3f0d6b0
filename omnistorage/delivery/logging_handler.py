"""``OmniHandler``: the program's own log into object storage.

The thread that logs makes a plain dict and puts it into a queue; one thread of the handler takes it from there. Two
things would make a handler wait for itself: its writer, and whatever that uses, may log; and a forked child has the
queue but not the thread. Both are told apart before any lock is taken.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  cannot be imported once the program ends, and SDKs need it
import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from os import PathLike
from typing import Any

from omnistorage.concurrency.cancellation import CLOCK, wait_for
from omnistorage.concurrency.pools import forks
from omnistorage.concurrency.retry import Backoff
from omnistorage.core import Backend
from omnistorage.core.spelling import nearest
from omnistorage.errors import ConfigError, DeadlineExceeded, RecordError, StorageError, WriterClosed

from .log_report import Shipped as Shipped
from .log_report import shortened
from .rolling_writer import RollingRecordWriter
from .validation import Seconds, seconds

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_USUAL = len(_STANDARD) - 2
_BATCH = 256
_DEEPEST = 8
_TEXT = logging.Formatter()
_THREADS = "omnistorage-"
_SAFE = frozenset((bool, float, type(None)))


class OmniHandler(logging.Handler):
    """Ships log records through a ``RollingRecordWriter``, off the caller's thread.

    ``OmniHandler(writer)``, or ``OmniHandler(target, template, **settings)`` with the settings of
    ``RollingRecordWriter``: then the writer is the handler's own, is closed with it, and takes a record's time from its
    ``time`` field. A log record becomes ``{"time", "level", "logger", "message", "process", "thread"}``, with
    ``exception`` and ``stack`` where it has them and what ``extra=`` gave; an extra field of one of those names gets an
    underscore behind it. ``time`` is in seconds since 1970, with ``time="iso"`` ISO 8601 in UTC. With a formatter,
    which ``logging.basicConfig`` sets too, ``message`` is what it makes. ``fields(record)`` makes the whole record
    instead. Messages are formatted and values copied before the log call returns; values that are no JSON are written
    as their ``repr``, and counted.

    At most ``queue_size`` records wait. Beyond that ``when_full="block"`` makes the log call wait for room, ``"drop"``
    drops the record, counts it, and logs one line that says how many were dropped once there is room.

    The log call never raises. When the store fails, the handler says so once by ``handleError``, keeps the error in
    ``error``, and loses the records that its writer had not published; ``spool=`` among the settings keeps these.
    Then it tries one record at a time with a new writer, after pauses that grow (``backoff``), while others wait in
    the queue; what does not fit is dropped, with ``when_full="block"`` too. Once a record is published all go on, and
    one line says how many were lost. A writer that was given, and one with deterministic names and no spool, cannot be
    made anew: from its failure on records are lost.

    ``flush`` waits until all is written and flushed, ``close`` until all is published (or flushed, if the writer was
    given), each ``timeout`` seconds at most, and no longer than until the store fails; ``logging.shutdown`` calls both
    when the program ends. Records of loggers below ``omnistorage`` and of its threads are not shipped, as writing them
    would make more of them. A forked child ships nothing, and says so once by ``handleError``: it makes its own.
    """

    def __init__(
        self,
        target: RollingRecordWriter | Backend | str | PathLike[str] | Any,
        template: str | None = None,
        *,
        level: int | str = logging.NOTSET,
        queue_size: int = 10_000,
        when_full: str = "block",
        time: str = "epoch",
        fields: Callable[[logging.LogRecord], Any] | None = None,
        timeout: float = 10.0,
        backoff: Backoff = Backoff(base=1.0, cap=60.0),  # noqa: B008  # frozen
        **settings: Any,
    ) -> None:
        if type(queue_size) is not int or queue_size < 1:
            raise ConfigError(f"queue_size is a number of records from 1 up, not {queue_size!r}")
        if when_full not in ("block", "drop"):
            raise ConfigError(f"when_full={when_full!r}: use block or drop")
        if time not in ("epoch", "iso"):
            raise ConfigError(f"time={time!r}: use epoch or iso")
        self._owned = template is not None
        self._make: Callable[[], RollingRecordWriter] | None = None
        self._spools = settings.get("spool") is not None
        writer: Any = target
        if template is not None:
            _check_names(settings)
            own_time = {} if fields is not None else {"time_field": "time"}
            make = partial(RollingRecordWriter, target, template, **{**own_time, **settings})
            writer = make()
            if self._spools or settings.get("names") != "deterministic":  # else it would begin at number 0 again
                self._make = make
        elif settings or not (hasattr(target, "write_many") and hasattr(target, "progress")):
            raise ConfigError("OmniHandler takes a RollingRecordWriter, or a target, a template and settings")
        self.writer: RollingRecordWriter = writer
        self.error: BaseException | None = None
        self._size, self._drops, self._iso, self._timeout = queue_size, when_full == "drop", time == "iso", timeout
        self._fields, self._backoff = fields, backoff
        self._failing, self._failures, self._lost_before = False, 0, 0
        self._queue: deque[tuple[Any, str]] = deque()
        self._changed = threading.Condition()
        self._asleep = self._closing = self._over = False
        self._thread: threading.Thread | None = None
        self._taken = self._done = self._unwritten = self._dropped = self._told = self._lost = self._bad = self._own = 0
        self._refused = self._repaired = self._waiting = self._flush_to = self._flushed = 0
        self._forks = self._forks_told = forks[0]
        super().__init__(level)

    @property
    def progress(self) -> Shipped:
        """The counters, now."""
        return Shipped(
            taken=self._taken,
            handed=self._done - self._unwritten,
            queued=0 if self._over else self._taken - self._done,
            dropped=self._dropped,
            lost=self._lost + (self._taken - self._done if self._over else 0),
            bad=self._bad,
            own=self._own,
            refused=self._refused,
            repaired=self._repaired,
        )

    # -- on the thread that logs ---------------------------------------------------------------------------------------

    def handle(self, record: logging.LogRecord) -> bool:
        """What ``logging`` calls. Whether the record was taken."""
        if self._forks != forks[0]:  # whoever held a lock at the fork is not here to give it back
            self._refuse(record)
            return False
        if _is_ours(record):
            self._own += 1
            return False
        found: Any = self.filter(record)
        if not found or (len(self._queue) >= self._size and not self._has_room()):
            return False
        self.acquire()
        try:
            self.emit(record if found is True else found)
        finally:
            self.release()
        return True

    def _refuse(self, record: logging.LogRecord) -> None:
        """Count a record of a forked child. The first one of each child is reported by ``handleError``."""
        self._refused += 1
        if self._forks_told != forks[0]:
            self._forks_told = forks[0]
            why = (
                "the log handler belongs to the process that made it, and this is a forked child: its records are not "
                "written, and progress.refused counts them; make a handler in the child"
            )
            self._tell(WriterClosed(why, op="write"), record.msg, record.name)

    def emit(self, record: logging.LogRecord) -> None:
        """Put the record into the queue."""
        if self._over or self._closing:
            self._lost += 1
            return
        try:
            row = self._row(record) if self._fields is None else self._plain(self._fields(record))
        except Exception:
            self._bad += 1
            self.handleError(record)
            return
        self._queue.append((row, record.name))
        self._taken += 1
        if self._thread is None:
            self._start()
        elif self._asleep:
            with self._changed:
                self._changed.notify_all()

    def _has_room(self) -> bool:
        """In a full queue: wait for room, or count what is dropped."""
        if not self._drops:
            with self._changed:
                self._waiting += 1
                wait_for(self._changed, self._goes_on)
                self._waiting -= 1
        if self._drops or (self._failing and len(self._queue) >= self._size and not self._over):
            self._dropped += 1
            return False
        return True

    def _goes_on(self) -> bool:
        return len(self._queue) < self._size or self._over or self._closing or self._failing

    def _row(self, record: logging.LogRecord) -> dict[str, Any]:
        text = record.getMessage() if self.formatter is None else self.formatter.format(record)
        row = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat() if self._iso else record.created,
            "level": record.levelname,
            "logger": record.name,
            "message": text if text.isascii() else _sound(text),
            "process": record.process,
            "thread": record.threadName,
        }
        if self.formatter is None and (record.exc_info or record.exc_text):
            row["exception"] = _sound(record.exc_text or _TEXT.formatException(record.exc_info or (None, None, None)))
        if self.formatter is None and record.stack_info:
            row["stack"] = _sound(record.stack_info)
        given = record.__dict__
        if len(given) != _USUAL:
            for name, value in given.items():
                if name not in _STANDARD:
                    row[name if name not in row else f"{name}_"] = self._plain(value)
        return row

    def _plain(self, value: Any, depth: int = 0) -> Any:
        """A copy of ``value`` in what every format holds."""
        kind = type(value)
        if kind is str:
            return value if value.isascii() else _sound(value)
        if kind in _SAFE or (kind is int and -(1 << 63) <= value < 1 << 64):
            return value
        if depth < _DEEPEST:
            if kind is dict:
                return {_sound(str(key)): self._plain(one, depth + 1) for key, one in value.items()}
            if kind in (list, tuple):
                return [self._plain(one, depth + 1) for one in value]
            if kind is bytes and not depth and self._fields is not None:
                return value  # a record that is encoded already
            if isinstance(value, Mapping) and not depth and self._fields is not None:
                return self._plain(dict(value))
        if hasattr(value, "isoformat"):
            return str(value.isoformat())
        self._repaired += 1
        try:
            return _sound(repr(value))
        except Exception as error:
            return f"<{kind.__name__} without a repr: {type(error).__name__}>"

    # -- on the handler's own thread -----------------------------------------------------------------------------------

    def _start(self) -> None:
        thread = threading.Thread(target=self._drain, name=f"{_THREADS}log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # a dying interpreter starts no threads: ``close`` does the work
            return
        self._thread = thread

    def _drain(self) -> None:
        try:
            while self._has_work():
                try:
                    self._ship()
                except Exception as error:
                    self._recover(error)
            self._tell_of_losses()
            self._settle(self.writer.close if self._owned else self.writer.flush)
        except BaseException as error:  # nobody above could tell it
            self._fail(error)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _has_work(self) -> bool:
        """Wait for something to do; False once all is done and the handler is being closed."""
        with self._changed:
            self._asleep = True  # before it looks: who puts a record in behind that look must see it, and wake it
            while not self._queue and self._flushed >= self._flush_to:
                if self._closing:
                    return False
                self._changed.wait()
            self._asleep = False
        return True

    def _ship(self) -> None:
        tries = self._failing and not self._closing  # one record shows whether the store is back
        batch = [self._queue.popleft() for _ in range(min(1 if tries else _BATCH, len(self._queue)))]
        if self._waiting:
            with self._changed:
                self._changed.notify_all()
        self._hand(batch)
        if tries and batch:
            (self.writer.flush if self._spools else self.writer.roll)()
            self._failing, self._failures = False, 0
            self._tell_of_losses()
        self._tell_of_drops()
        self._flush_if_asked()

    def _hand(self, batch: list[tuple[Any, str]]) -> None:
        rows = [row for row, _ in batch]
        done = before = start = 0
        try:
            while done < len(rows):
                try:
                    if not self._owned:  # others may write beside: only one by one it is known which record was bad
                        self.writer.write(rows[done])
                        done += 1
                        continue
                    before, start = self.writer.progress.taken, done
                    self.writer.write_many(islice(rows, done, None))
                    done = len(rows)
                except RecordError as error:
                    done += self.writer.progress.taken - before if self._owned else 1
                    self._bad += 1
                    self._unwritten += 1
                    self._tell(error, *batch[done - 1])
        except BaseException:
            if self._make is not None:  # what the failed writer has not taken goes to the next one
                done = start + self.writer.progress.taken - before
                self._queue.extendleft(reversed(batch[done:]))
            raise
        finally:
            self._done += done

    def _recover(self, error: Exception) -> None:
        """Make another writer, after pauses; raises the error if there can be none, or the handler is being closed."""
        if self._make is None or self._closing:
            raise error
        if not self._failing:
            self._tell(error, "log records are lost until the store works again; progress.lost counts them")
        self._give_up_writer()
        while True:
            self.error = error
            self._failures += 1
            with self._changed:
                self._failing = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closing, self._backoff.delay(self._failures))
            try:
                self.writer = self._make()
                return
            except StorageError as again:
                if self._closing:
                    raise
                error = again

    def _give_up_writer(self) -> None:
        """Discard what the writer has not published, and count it."""
        try:
            self.writer.abort()
        except StorageError:  # the first error is told
            pass
        now = self.writer.progress
        self._lost += now.lost if self._spools else now.taken - now.records - now.bad - now.late - now.skipped

    def _tell_of_losses(self) -> None:
        count, self._lost_before = self._lost - self._lost_before, self._lost
        if count:
            self._say("%d log records were lost: the store had failed", lost=count)

    def _tell_of_drops(self) -> None:
        count = self._dropped - self._told
        if count and (len(self._queue) <= self._size // 2 or self._closing):
            self._told += count
            self._say("%d log records were dropped: the queue was full", dropped=count)

    def _say(self, text: str, **count: int) -> None:
        """Write a line of the handler's own."""
        line = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": text, **count}
        record = logging.makeLogRecord(line)
        record.args = tuple(count.values())
        row = self._row(record) if self._fields is None else self._plain(self._fields(record))
        self.writer.write(row)

    def _flush_if_asked(self) -> None:
        if self._flushed < self._flush_to <= self._done:
            to = self._flush_to
            self._settle(self.writer.flush)
            with self._changed:
                self._flushed = to
                self._changed.notify_all()

    def _settle(self, end: Callable[[], object]) -> None:
        try:
            end()
        except RecordError as error:  # how a writer with a spool tells of a record that it could not place
            self._bad += 1
            self._tell(error, "a record that could not be placed is left out")
        except StorageError as error:
            if not self._spools or self._closing:
                raise
            self._tell(error, "the store refuses what the spool holds, which tries again")

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._over = True
            self._queue.clear()
            self._changed.notify_all()
        if self._failing:
            self.error = error  # that the store fails is told
        else:
            self._tell(error, "from here on nothing is written, and progress.lost counts what is lost")
        if self._owned:
            self._give_up_writer()

    def _tell(self, error: BaseException, row: Any = None, name: str = __name__) -> None:
        """As ``logging`` tells of trouble in handlers: on stderr, unless ``logging.raiseExceptions`` is off."""
        self.error = error
        try:
            raise error
        except BaseException:
            text = row.get("message", row) if isinstance(row, dict) else row
            self.handleError(logging.makeLogRecord({"name": name, "msg": shortened(text)}))

    # -- the end -------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until what was logged before is written and flushed, at most ``timeout`` seconds. Never raises: what did
        not go well is in ``error``."""
        if self._forks != forks[0]:
            return
        with self._changed:
            to = self._flush_to = self._taken
            self._changed.notify_all()
            done = self._thread is None or wait_for(
                self._changed, lambda: self._flushed >= to or self._over or self._failing, self._timeout
            )
        if not done:
            self._tell(DeadlineExceeded(f"the log was not flushed within {self._timeout} s", op="flush"))

    def close(self) -> None:
        """Write what waits and publish it, at most ``timeout`` seconds; what is not published then goes on for as long
        as the program runs, and is lost with it. Idempotent, and never raises."""
        if self._forks == forks[0] and not self._closing:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            if self._thread is None:
                self._drain()
            else:
                self._thread.join(self._timeout)
            if not self._over:
                self._tell(DeadlineExceeded(f"the log was not written within {self._timeout} s", op="close"))
        super().close()

    def drain(self, within: Seconds) -> Shipped:
        """Take no more log records, publish what was logged within so many seconds, and return the final counters. A
        writer that was given is drained as well: nobody else writes to it from then on. ``DeadlineExceeded`` says what
        is missing; see ``RollingRecordWriter.drain``."""
        limit = seconds("within", within)
        if limit is None:
            raise ConfigError("within is a number of seconds above zero or a timedelta")
        until = CLOCK.now() + limit
        lock = self.lock
        got = lock is not None and lock.acquire(timeout=limit)  # the log call under way still puts its record down
        self._end()
        if lock is not None and got:
            lock.release()
        if self._thread is not None:
            self._thread.join(max(until - CLOCK.now(), 0.001))
        else:
            self._drain()
        try:
            self.writer.drain(max(until - CLOCK.now(), 0.001))
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
        if self._done < self._taken:
            raise DeadlineExceeded(f"{self._taken - self._done} log records were not written in time", op="drain")
        return self.progress

    def abort(self) -> None:
        """Discard what is not published, and end a ``drain`` at once."""
        self._end()
        self.writer.abort()

    def _end(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether it came from omnistorage or from one of its threads."""
    if record.name.startswith("omnistorage") and record.name[11:12] in ("", "."):
        return True
    return (record.threadName or "").startswith(_THREADS)


def _sound(text: str) -> str:
    """Text that is Unicode: what a name of a file may bring along is written with backslashes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _check_names(settings: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` for a setting that there is not."""
    of_writer, own = (inspect.signature(kind).parameters for kind in (RollingRecordWriter, OmniHandler))
    for name in settings:
        if name not in of_writer or name.startswith("_"):
            known = {word for word in (*of_writer, *own) if not word.startswith("_") and word != "settings"}
            raise ConfigError(f"OmniHandler has no setting {name!r}{nearest(name, known)}")
