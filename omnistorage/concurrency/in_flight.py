"""Calls under way: how one that hangs is ended when its time is over.

What a call waits for is cut off by another thread (``watched``), or left alone on another thread (``abandonable``)
where nothing can cut it off. Both cost next to nothing where neither a scope nor a deadline is in force.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Generic, TypeVar

from omnistorage.errors import Cancelled

from .cancellation import _DEADLINE, _SCOPES, SLICE, Waiter, any_cancelled, check, deadline, is_limited, is_over

T = TypeVar("T")


class watched:
    """``with watched(cut):`` ends a call that hangs: once its scope is cancelled or its deadline has passed, another
    thread calls ``cut``, and again every tenth of a second until the block ends. The block then raises ``Cancelled``
    or ``DeadlineExceeded``, also if it came to an end by itself: a body that was cut off may look like a shorter one.

    Costs next to nothing where there is neither a scope nor a deadline.

    Args:
        cut: Makes what the block waits for fail soon, such as shutting its socket down. It must not wait itself, and
            is not called once the block has ended.
        op: The operation, for the error.
        path: The object's path, for the error.
    """

    __slots__ = ("_cut", "_deadline", "_op", "_path", "_scopes", "_watcher", "was_cut")

    def __init__(self, cut: Callable[[], object], op: str | None = None, path: str | None = None) -> None:
        self._cut, self._op, self._path = cut, op, path
        self._scopes, self._deadline = _SCOPES.get(), _DEADLINE.get()
        self._watcher: _Watcher | None = None
        self.was_cut = False

    def __enter__(self) -> watched:
        if self._scopes or self._deadline is not None:
            self._watcher = _watcher[0]
            self._watcher.add(self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._watcher is None:
            return
        self._watcher.remove(self)
        if self.was_cut and (error is None or isinstance(error, Exception)):
            check(self._op, self._path)

    def is_over(self) -> bool:
        """Whether it is time for the call to end."""
        if any_cancelled(self._scopes):
            return True
        return self._deadline is not None and self._deadline[1].now() >= self._deadline[0]

    def cut(self) -> None:
        self.was_cut = True
        try:
            self._cut()
        except Exception:  # noqa: S110  (it ended by itself, and is tried again if it did not)
            pass


class _Watcher:
    """The thread that looks at the calls under way; started when there is one."""

    def __init__(self) -> None:
        self._calls: set[watched] = set()
        self._lock = threading.RLock()  # a signal handler may make calls, too
        self._there_are_some = Waiter()
        self._thread: threading.Thread | None = None

    def add(self, call: watched) -> None:
        with self._lock:
            self._calls.add(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="omnistorage-deadlines", daemon=True)
                self._thread.start()
        if not self._there_are_some.is_set():
            self._there_are_some.set()

    def remove(self, call: watched) -> None:
        with self._lock:
            self._calls.discard(call)

    def _work(self) -> None:
        while True:
            self._there_are_some.wait()
            time.sleep(SLICE)
            with self._lock:
                if not self._calls:
                    self._there_are_some.clear()
                over = [call for call in self._calls if call.is_over()]
            for call in over:
                with self._lock:
                    if call in self._calls:
                        call.cut()


GRACE = 0.4
"""Seconds that are left for taking back what was begun, once it is time to stop."""


def taking_back(call: Callable[[], T]) -> T:
    """What ``call`` returns, which takes back what a call has begun. It is done also after a cancellation or a
    deadline, and once more where one of them comes meanwhile, but then for ``GRACE`` seconds at most."""

    def hurried() -> T:
        with deadline(GRACE):
            return call()

    if not is_over():
        try:
            return call()
        except Cancelled:
            if not is_over():
                raise
    return Context().run(hurried)


class _Threads:
    """Threads for calls that may be left alone: as many as there are such calls. Some stay for the next."""

    def __init__(self) -> None:
        self._jobs = SimpleQueue[tuple[Context, Callable[[], None]]]()
        self._lock = threading.RLock()  # a signal handler may make calls, too
        self._idle = 0

    def run(self, task: Callable[[], None]) -> None:
        job = copy_context(), task
        with self._lock:
            is_free = self._idle > 0
            self._idle -= is_free
        if is_free:
            self._jobs.put(job)
        else:
            threading.Thread(target=self._work, args=(job,), name="omnistorage-aside", daemon=True).start()

    def _work(self, job: tuple[Context, Callable[[], None]]) -> None:
        while True:
            job[0].run(job[1])
            del job  # or an idle thread would keep it alive
            with self._lock:
                if self._idle >= _MOST_IDLE:
                    return
                self._idle += 1
            job = self._jobs.get()


_MOST_IDLE = 64
_watcher = [_Watcher()]
_threads = [_Threads()]


def _after_fork() -> None:
    _watcher[0], _threads[0] = _Watcher(), _Threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def abandonable(call: Callable[[], T], discard: Callable[[T], object] | None = None) -> T:
    """What ``call`` returns, for a call that nothing can cut off: resolving a name, or a library without a way to stop.

    Under a scope or a deadline it runs on another thread, where it is left alone when it is time to stop. Without them
    it runs on this one.

    Args:
        call: Runs in a copy of the caller's context.
        discard: Gets rid of what a call brought that nobody waited for any more.

    Raises:
        Cancelled: Its scope was cancelled meanwhile; what ``call`` does may still be done.
        DeadlineExceeded: The same for its deadline.
    """
    if not is_limited():
        return call()
    aside = _Aside(call, discard)
    run_aside(aside.run)
    return aside.result()


def run_aside(task: Callable[[], None]) -> None:
    """Run ``task`` at once on another thread, in a copy of the caller's context. It raises nothing."""
    _threads[0].run(task)


class _Aside(Generic[T]):
    """A call on another thread."""

    def __init__(self, call: Callable[[], T], discard: Callable[[T], object] | None) -> None:
        self._call, self._discard = call, discard
        self._lock = threading.Lock()
        self._under_way = threading.Lock()  # held until the call has ended
        self._under_way.acquire()
        self._abandoned = False
        self._value: T
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # raised by whoever waits
            self._error = error
        with self._lock:
            self._under_way.release()
            late = self._abandoned
        if late:
            self._throw_away()

    def result(self) -> T:
        try:
            while not self._under_way.acquire(timeout=SLICE):
                check()
        except BaseException:
            with self._lock:
                self._abandoned = True
                late = not self._under_way.locked()
            if late:  # it ended just now, and found nobody gone
                self._throw_away()
            raise
        if self._error is not None:
            raise self._error
        return self._value

    def _throw_away(self) -> None:
        if self._discard is None or self._error is not None:
            return
        try:
            self._discard(self._value)
        except Exception:  # noqa: S110  (nobody is left to tell)
            pass
