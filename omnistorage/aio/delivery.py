"""``AsyncRollingRecordWriter``: records from tasks of ``asyncio`` into rolled objects.

The writer is the one of ``delivery``, on a thread of its own: stores have blocking clients, and encoding and
compressing would hold up the loop as well. The thread knows the queue and not the handle, which can be collected.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import aclosing, suppress
from contextvars import copy_context
from functools import partial
from os import PathLike
from queue import SimpleQueue
from typing import Any, Self, TypeVar

from omnistorage.concurrency.pools import forks
from omnistorage.core import Backend
from omnistorage.core.stages import BATCH_RECORDS
from omnistorage.delivery import Progress, RollingRecordWriter
from omnistorage.delivery.validation import Seconds, seconds
from omnistorage.errors import ConfigError, DeadlineExceeded, StorageError, WriterClosed

T = TypeVar("T")
_Task = tuple["Future[Any]", Callable[[], Any]]
_NOW = 0.001
log = logging.getLogger(__name__)


class AsyncRollingRecordWriter:
    """A ``RollingRecordWriter`` for ``asyncio``, with the same arguments, promises, errors and ends; ``async with``
    closes, or does what ``on_exception`` says. Made at once, as the other: a spool is opened, a wrong setting raises.

    The calls of all tasks are carried out one after the other, in the order in which they were made, by one thread,
    which starts with the first and ends with ``close``, ``drain`` or ``abort``; the loop never waits. A deadline or
    ``CancelScope`` around a call holds for it. A hop to the thread costs some 0.1 ms: ``write_many`` makes one for 256
    records.

    *Cancelled.* The writer stays usable, whichever task is cancelled. A ``write`` that the thread had not begun is not
    carried out at all, one that it had begun is, and ``progress`` counts it; ``await asyncio.shield(...)`` is for those
    who have to know. ``write_many`` takes all that its iterable gave. ``close``, ``drain`` and ``abort`` go on; called
    again they wait for the same end. What then goes wrong in a call that nobody waits for is logged."""

    def __init__(self, target: Backend | str | PathLike[str] | Any, template: str, **settings: Any) -> None:
        self._writer = RollingRecordWriter(target, template, **settings)
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished: set[Future[Any]] = set()
        self._thread: threading.Thread | None = None
        self._ended = False  # whether the thread gets no more to do
        self._last: Future[Progress] | None = None  # what it does last
        self._forks = forks[0]
        weakref.finalize(self, self._tasks.put, None).atexit = False

    # -- records -------------------------------------------------------------------------------------------------------

    async def write(self, record: Any, /, *, sequence: int | None = None) -> int:
        """Take one record and return its sequence number."""
        return await _result(self._hand("write", partial(self._writer.write, record, sequence=sequence)))

    async def write_many(self, records: Iterable[Any] | AsyncIterable[Any], /) -> int:
        """Take all ``records``; returns how many were good. An iterable that is not asynchronous runs on the loop."""
        good, batch = 0, list[Any]()
        try:
            async with aclosing(_filled(records, batch)) as full:
                async for taken in full:
                    done = self._hand("write", partial(self._writer.write_many, taken))
                    good += await _result(done, withdraws=False)
        except BaseException:
            if batch and not self._ended:  # what was given before this came
                self._hand("write", partial(self._writer.write_many, batch)).add_done_callback(_tell)
            raise
        return good

    @property
    def durable(self) -> int:
        """As of the other writer."""
        return self._writer.durable

    @property
    def progress(self) -> Progress:
        """The counters, now."""
        return self._writer.progress

    async def flush(self) -> int:
        """``RollingRecordWriter.flush``, behind all calls made before."""
        return await _result(self._hand("flush", self._writer.flush))

    async def roll(self) -> int:
        """``RollingRecordWriter.roll``, behind all calls made before."""
        return await _result(self._hand("roll", self._writer.roll))

    # -- the end -------------------------------------------------------------------------------------------------------

    async def close(self) -> Progress:
        """Publish everything, behind all calls made before, and return the final counters. Again: the same."""
        if self._ended and self._last is None:
            return await _beside(self._writer.close)
        return await self._wait(self._end("close", self._writer.close))

    async def drain(self, within: Seconds) -> Progress:
        """``RollingRecordWriter.drain``, behind all calls made before. Those that are not even begun at the deadline
        are not carried out, and raise ``DeadlineExceeded`` too."""
        limit = seconds("within", within)
        if limit is None:
            raise ConfigError("within is a number of seconds above zero or a timedelta")
        if self._ended and self._last is None:
            return await _beside(partial(self._writer.drain, limit))
        until, over = time.monotonic() + limit, threading.Event()
        cut = partial(self._cut, limit, over)
        threading.Thread(target=cut, name="omnistorage-aio-end", daemon=True).start()
        try:
            last = self._end("drain", lambda: self._writer.drain(max(until - time.monotonic(), _NOW)))
        except BaseException:
            over.set()
            raise
        last.add_done_callback(lambda _: over.set())
        return await self._wait(last)

    def _cut(self, limit: float, over: threading.Event) -> None:
        """Once the deadline has come the thread may be stuck in what came before: nobody waits for that any more."""
        if over.wait(limit) or (last := self._last) is None:
            return
        ended: Future[Progress] = Future()
        _run(ended, partial(self._writer.drain, _NOW))
        with self._lock:
            if not last.running() and not last.done():
                _run(last, ended.result)
            for done in list(self._unfinished):
                if done is not last:
                    with suppress(InvalidStateError):
                        done.set_exception(DeadlineExceeded("the store did not answer in time", op="drain"))

    async def abort(self) -> None:
        """Discard what is open, at once; calls that wait are ``WriterClosed``. See ``RollingRecordWriter.abort``."""
        with self._lock:
            if not self._ended:
                self._ended = True
                self._tasks.put(None)
        await _beside(self._discard)

    def _discard(self) -> None:
        self._writer.abort()
        if self._thread is not None:
            self._thread.join(1.0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            await self.close()
            return
        with suppress(StorageError):  # the exception that brought us here is the one to see
            if self._last is not None or self._writer.on_exception != "abort":
                await self._wait(self._end("close", self._commit))
            else:
                await self.abort()

    def _commit(self) -> Progress:
        self._writer._on_exception()
        return self._writer.progress

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _hand(self, op: str, call: Callable[[], T], *, last: bool = False) -> Future[T]:
        if self._forks != forks[0]:
            raise WriterClosed("this writer belongs to the process that opened it: make one here", op=op)
        done: Future[T] = Future()
        with self._lock:
            if self._ended:
                raise WriterClosed("the rolling writer is closed, or being closed", op=op)
            if self._thread is None:
                work = partial(_work, self._tasks, self._lock)
                thread = threading.Thread(target=work, name="omnistorage-aio", daemon=True)
                thread.start()
                self._thread = thread
            self._unfinished.add(done)
            self._tasks.put((done, partial(copy_context().run, call)))
            if last:
                self._last, self._ended = done, True  # type: ignore[assignment]
                self._tasks.put(None)
        done.add_done_callback(self._unfinished.discard)
        return done

    def _end(self, op: str, call: Callable[[], Progress]) -> Future[Progress]:
        return self._hand(op, call, last=True) if self._last is None else self._last

    async def _wait(self, last: Future[Progress]) -> Progress:
        try:
            return await _result(last, withdraws=False)
        finally:
            if last.done() and self._thread is not None:
                self._thread.join(0.01)  # it has nothing left to do, unless it is stuck


def _work(tasks: SimpleQueue[_Task | None], lock: threading.Lock) -> None:
    while (task := tasks.get()) is not None:
        done, call = task
        with lock:
            begun = not done.done() and done.set_running_or_notify_cancel()
        if begun:
            _run(done, call)
        del task, done, call  # or a thread that waits would keep the last record, and the writer


def _run(done: Future[Any], call: Callable[[], Any]) -> None:
    try:
        value = call()
    except BaseException as error:
        with suppress(InvalidStateError):  # nobody waits any more
            done.set_exception(error)
    else:
        with suppress(InvalidStateError):
            done.set_result(value)


async def _result(done: Future[T], *, withdraws: bool = True) -> T:
    """What ``done`` becomes. Where the task is cancelled, what was not begun is not carried out, if it may be."""
    waiting = asyncio.wrap_future(done)
    try:
        return await (waiting if withdraws else asyncio.shield(waiting))
    except asyncio.CancelledError:
        if not done.cancelled():
            done.add_done_callback(_tell)
        raise


async def _beside(call: Callable[[], T]) -> T:
    """``call()`` on a thread of its own."""
    done: Future[T] = Future()
    threading.Thread(target=_run, args=(done, call), name="omnistorage-aio-end", daemon=True).start()
    return await _result(done, withdraws=False)


def _tell(done: Future[Any]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        log.error("in a call that nobody waits for: %s: %s", type(error).__name__, error)


async def _filled(records: Iterable[Any] | AsyncIterable[Any], batch: list[Any]) -> AsyncGenerator[list[Any], None]:
    """The records, 256 at a time; ``batch`` has those that were given and not handed on."""
    if isinstance(records, AsyncIterable):
        async for record in records:
            batch.append(record)
            if len(batch) == BATCH_RECORDS:
                yield _taken(batch)
    else:
        source = iter(records)
        while True:
            batch.extend(itertools.islice(source, BATCH_RECORDS))
            if len(batch) < BATCH_RECORDS:
                break
            yield _taken(batch)
    if batch:
        yield _taken(batch)


def _taken(batch: list[Any]) -> list[Any]:
    taken = batch[:]
    batch.clear()
    return taken
