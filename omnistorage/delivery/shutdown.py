"""``draining``: a program that a signal tells to end publishes what its writers took.

The main thread alone runs signal handlers, at any of its steps. So a handler here takes no lock and starts no thread:
it notes, wakes the thread that waits beside, and raises where that does no harm.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from inspect import iscoroutinefunction
from itertools import product
from types import FrameType
from typing import Any, ClassVar

from omnistorage.concurrency.cancellation import CLOCK, Clock, Waiter
from omnistorage.concurrency.pools import forks
from omnistorage.errors import ConfigError

from .validation import Seconds, seconds

log = logging.getLogger(__name__)
_CALLS = ("write", "write_many", "handle", "flush", "roll", "close", "drain", "abort", "_on_exception")
_DISCARDS = ("abort", "_on_exception")
_GRACE = 2.0  # seconds for writers that are not ours, or were aborted
_POLL = 0.1  # seconds: a signal that comes just before the main thread waits is handled when it next wakes up
_NOW = 0.001
_NAME = "omnistorage-drain"
_END = object()


def draining(
    *writers: Any, within: Seconds = 25.0, signals: Iterable[int] = (signal.SIGTERM,), clock: Clock = CLOCK
) -> AbstractContextManager[None]:
    """``with RollingRecordWriter(...) as writer, draining(writer):`` makes the first of ``signals`` end the block as
    ``SystemExit(128 + number)`` does, and every writer is drained (``RollingRecordWriter.drain``) by the one deadline
    that began with it, all side by side. A second signal of the same block gives up at once;
    one that comes while Python hands over the first, and finds the main thread waiting after that, is heard when it
    next wakes up, or with a third. Without a signal nothing is done.

    The exception is raised at once, also out of a read or a ``time.sleep``, but where the main thread is inside a call
    of one of the writers at the end of that; an iterator given to ``write_many`` is outside. A record that
    was read and not yet written is not the writer's to save, and a method that was looked up before the block is not
    protected. Other libraries see the exception wherever they are, as
    they see a ``KeyboardInterrupt``, which may be a hazard: what cannot bear that belongs into another thread.
    An ``abort`` on the way out, by a ``with`` too, only waits for the drain. Other threads get ``WriterClosed`` from
    the writers; the program ends when they do, if they are no daemons.

    What a writer could not publish is logged, and is the cause of the ``SystemExit``. Ignored signals stay ignored, and
    former handlers are back behind the block. Blocks may be nested. A forked child drains nothing. ``ConfigError`` in
    any thread but the main one, and for what cannot be drained, waited for, or handled."""
    limit, numbers = seconds("within", within), tuple(dict.fromkeys(signals))
    if limit is None or not writers or not all(map(_can, writers)):
        raise ConfigError(
            "draining takes writers that can be drained (async ones cannot, here), and a number of seconds"
        )
    return _Draining(writers, limit, numbers, clock)


def _can(writer: Any) -> bool:
    return hasattr(writer, "abort") and hasattr(writer, "drain") and not iscoroutinefunction(writer.drain)


class _Draining(AbstractContextManager[None]):
    _depth = 0  # calls of writers that the main thread is inside of, whichever block they are of
    _noting = 0  # handlers that the main thread is inside of, and that have not told every block yet
    _pulling = False  # whether it is inside of what was given to ``write_many``
    _inner: _Draining | None = None  # the block within this one that a signal found first
    _blocks: ClassVar[list[_Draining]] = []  # those that the main thread is inside of

    def __init__(self, writers: tuple[Any, ...], within: float, signals: tuple[int, ...], clock: Clock) -> None:
        self._writers, self._within, self._signals, self._clock = writers, within, signals, clock
        self._stop: SystemExit | None = None  # there is one from the first signal on
        self._began = 0.0
        self._cut = self._leaving = self._raised = self._reminded = self._stopped_pulling = False
        self._running, self._errors = list(writers), list[BaseException]()
        self._wake, self._over, self._unwound = Waiter(), Waiter(), Waiter()
        self._before: dict[int, Any] = {}
        self._kept: list[tuple[dict[str, Any], str, Any]] = []
        self._forks = forks[0]

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ConfigError("draining handles signals, which only the main thread can", op="draining")
        self._thread = threading.Thread(target=self._coordinate, name="omnistorage-draining", daemon=True)
        self._thread.start()
        try:
            for writer, name in product(self._writers, _CALLS):
                if hasattr(writer, name):
                    self._kept.append((vars(writer), name, vars(writer).get(name, _END)))
                    setattr(writer, name, self._guarded(getattr(writer, name), name))
            for number in self._signals:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    self._before[number] = signal.SIG_DFL if before is None else before
                    self._install(number)
            _Draining._blocks.append(self)
            _check_all()
        except (ValueError, OSError, TypeError) as error:
            self._restore()
            raise ConfigError(f"the signals {self._signals!r} cannot be handled for these writers: {error}") from error
        except BaseException:  # a signal came in the middle of it
            self._wake.set()
            self._wait_until_over()
            self._restore()
            raise

    def _install(self, number: int) -> None:
        try:
            signal.signal(number, self._handle)
        except (ValueError, OSError, TypeError):
            del self._before[number]
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._leaving = True
        if self._stop is None or self._forks != forks[0]:
            self._restore()
        if self._stop is None or self._forks != forks[0]:
            _check_all()
            return
        try:
            self._wait_until_over()
        finally:
            self._restore()
        self._stop.__cause__ = next(iter(self._errors), None)
        if error is not self._stop:
            raise self._stop

    def _wait_until_over(self) -> None:
        while not self._over.wait(_POLL):
            pass

    def _restore(self) -> None:
        if self in _Draining._blocks:
            _Draining._blocks.remove(self)
        if self._stop is not None and self._forks == forks[0]:
            self._wake.set()
            self._thread.join(_GRACE)  # first: it may remind us once more
        for number, before in self._before.items():
            signal.signal(number, before)
        for place, name, kept in reversed(self._kept):
            place.pop(name, None)
            if kept is not _END:
                place[name] = kept
        if self._forks == forks[0]:
            self._wake.set()
            self._thread.join(_GRACE)

    # -- on the main thread --------------------------------------------------------------------------------------------

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._forks != forks[0]:
            raise SystemExit(128 + number)
        reminded, self._reminded = self._reminded, False
        if not reminded:
            _Draining._noting += 1
            try:
                self._note(number)
            finally:
                _Draining._noting -= 1
        if _Draining._noting:  # this handler interrupted another one, which has yet to tell the outer blocks
            return
        if self._leaving or (reminded and self._raised) or _is_at_an_end(frame):
            return
        if not self._depth or self._over.is_set():  # writers that are over can take no harm
            self._raise()

    def _note(self, number: int) -> None:
        if self._stop is None:
            self._stopped_pulling = self._pulling
            self._began, self._stop = self._clock.now(), SystemExit(128 + number)
        else:
            self._cut = True
        self._wake.set()
        outer = getattr(self._before.get(number), "__self__", None)
        if isinstance(outer, _Draining):
            outer._raised, outer._inner = True, self  # this block does, which lies inside of it
            outer._note(number)

    def _raise(self) -> None:
        assert self._stop is not None
        self._raised = True
        raise self._stop

    def _guarded(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        main = threading.get_ident()

        def guarded(*args: Any, **settings: Any) -> Any:
            if threading.get_ident() != main:
                return call(*args, **settings)
            _Draining._depth += 1
            try:
                if self._stop is not None and name in _DISCARDS:
                    return self._wait_until_over()
                return call(*map(self._pulled, args)) if name == "write_many" else call(*args, **settings)
            finally:
                _Draining._depth -= 1
                self._unwound.set()
                self._check()

        return guarded

    def _check(self) -> None:
        if self._inner is not None:
            self._inner._check()
            return
        if self._stop is not None and not (self._depth or self._raised or self._leaving):
            self._raise()

    def _pulled(self, records: Iterable[Any]) -> Iterator[Any]:
        source = iter(records)
        while True:
            try:
                _Draining._depth -= 1
                self._unwound.clear()
                self._pulling = True
                self._check()
                record = next(source, _END)
            finally:
                _Draining._depth += 1
                self._pulling = False
            if record is _END:
                return
            yield record

    # -- beside it -----------------------------------------------------------------------------------------------------

    def _coordinate(self) -> None:
        self._wake.wait()
        try:
            if self._stop is not None:
                self._drain_all()
        finally:
            self._over.set()

    def _drain_all(self) -> None:
        if self._stopped_pulling:  # ``write_many`` still takes what it was given
            self._clock.wait(min(_GRACE, self._within / 2), self._unwound)
        for writer in self._writers:
            try:
                threading.Thread(target=self._drain, args=(writer,), name=_NAME, daemon=True).start()
            except RuntimeError:  # no thread can be had
                self._drain(writer)
        self._await(self._began + self._within + _GRACE, lambda: self._cut)
        # An abort that comes before its drain has begun would discard in silence: a drain says what is missing.
        for give_up in (_drain_now, _abort) if self._cut else (_abort,):
            for writer in list(self._running):
                with suppress(RuntimeError):
                    threading.Thread(target=_quietly, args=(give_up, writer), name=_NAME, daemon=True).start()
            self._await(self._clock.now() + _GRACE, lambda: False)
        self._over.set()
        if not self._raised and not self._leaving and hasattr(signal, "pthread_kill"):
            self._reminded = True  # it is stuck inside a writer, and nothing else frees it
            signal.pthread_kill(threading.main_thread().ident or 0, next(iter(self._before)))

    def _await(self, end: float, ends: Callable[[], bool]) -> None:
        """Until nothing runs any more."""
        while self._running and not ends() and (left := end - self._clock.now()) > 0:
            self._wake.clear()
            if self._running and not ends():
                self._clock.wait(left, self._wake)

    def _drain(self, writer: Any) -> None:
        left = self._within - (self._clock.now() - self._began)
        try:
            writer.drain(max(left, 0.001))
        except BaseException as error:
            self._errors.append(error)
            log.error("told to end, and %s: %s", type(error).__name__, error)
        finally:
            self._running.remove(writer)
            self._wake.set()


def _drain_now(writer: Any) -> None:
    writer.drain(_NOW)


def _abort(writer: Any) -> None:
    writer.abort()


def _quietly(call: Callable[[Any], object], writer: Any) -> None:
    with suppress(BaseException):  # the drain that is under way tells of it
        call(writer)


def _check_all() -> None:
    """Raise for a signal that came at the beginning or end of a block."""
    for block in list(_Draining._blocks):
        if block._forks == forks[0]:
            block._check()


def _is_at_an_end(frame: FrameType | None) -> bool:
    """Whether the main thread is at the beginning or the end of any block, which is not to be left half-done."""
    while frame is not None and frame.f_code not in _ENDS:
        frame = frame.f_back
    return frame is not None


_ENDS = (_Draining.__enter__.__code__, _Draining.__exit__.__code__)
