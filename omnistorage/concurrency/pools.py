"""Work off the caller's thread: two small shared pools, and strands that run on them.

A stream that overlaps compression, transport and the caller's own work is a *strand*: steps in order, never two at
once, on a thread of a shared pool while there is something to do, which it then gives back. Rules:

1. No thread starts at import, and none is kept per stream: ten thousand open streams cost no thread.
2. When no thread is free the caller runs the step itself, so nothing can wait for ever for a thread.
3. A step on the CPU pool may wait for the I/O pool, never the other way round, and none for its own pool, but for a
   task that runs already and itself waits for no other.
4. A strand holds no reference to the public handle that feeds it, so the handle can be collected while a step runs.
5. After a fork the child starts with empty pools.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Generic, TypeVar

from omnistorage.errors import Cancelled

from .cancellation import check, unlimited, wait_for, wait_until

T = TypeVar("T")


class Pool:
    """At most ``size`` daemon threads, started when needed. ``spawn`` never queues: it runs the task at once or says
    that no thread is free."""

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self.name = name
        self.reset()

    def reset(self) -> None:
        """Forget all threads: for the child of a fork, which has none."""
        self._ready = threading.Condition()
        self._tasks: deque[Callable[[], None]] = deque()
        self._idle = 0
        self.threads = 0

    def spawn(self, task: Callable[[], None]) -> bool:
        """Run ``task`` on a pool thread, in a copy of the caller's context. False: none is free, nothing was done."""
        context = copy_context()
        with self._ready:
            if not self._idle and self.threads >= self.size:
                return False
            mine = lambda: context.run(task)  # noqa: E731
            self._tasks.append(mine)
            if self._idle:
                self._idle -= 1
                self._ready.notify()
                return True
            self.threads += 1
        try:
            threading.Thread(target=self._work, name=f"omnistorage-{self.name}", daemon=True).start()
        except RuntimeError:  # the system or a dying interpreter gives no more threads
            with self._ready:
                self.threads -= 1
                if mine in self._tasks:
                    self._tasks.remove(mine)
                    return False
                self._idle -= 1  # a thread that became idle meanwhile has taken it
        return True

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._tasks:
                    self._ready.wait()
                task = self._tasks.popleft()
            task()
            del task  # or an idle thread would keep the last strand alive
            with self._ready:
                self._idle += 1


_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CPU = Pool(max(2, _CORES), "cpu")
IO = Pool(32, "io")

forks = [0]
"""How many forks lie between the first process and this one: a cheap way to see that a handle is someone else's."""


def _after_fork() -> None:
    forks[0] += 1
    CPU.reset()
    IO.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Strand(Generic[T]):
    """``step(item)`` for every item put, in order. At most ``depth`` items wait; ``put`` blocks beyond that.

    The first error of a step ends the strand: items behind it are dropped, and ``put`` and ``join`` raise it. After
    ``cancel`` they raise ``Cancelled``: nobody may take a strand that dropped items for one that did them. Each step
    runs in the context of its ``put``.
    """

    def __init__(self, pool: Pool, step: Callable[[T], object], depth: int) -> None:
        self._pool = pool
        self._step = step
        self._depth = depth
        self._changed = threading.Condition()
        self._items: deque[tuple[Context, T]] = deque()
        self._running = False
        self._cancelled = False
        self._error: BaseException | None = None

    def put(self, item: T) -> None:
        with self._changed:
            wait_until(self._changed, self._takes_more)
            self._check()
            self._items.append((copy_context(), item))
            if self._running:
                return
            self._running = True
        if not self._pool.spawn(self._drain):
            self._drain()
            if self._error is not None and not isinstance(self._error, Exception):
                raise self._error  # an interrupt hit the caller's own thread

    def _takes_more(self) -> bool:
        return not self._running or len(self._items) < self._depth or self._error is not None or self._cancelled

    def join(self) -> None:
        """Wait until all items are done; raise the error of the one that failed."""
        with self._changed:
            wait_until(self._changed, lambda: not self._running)
            self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._cancelled:
            raise Cancelled("the work was given up")

    def cancel(self) -> None:
        """Drop what waits. A step under way ends by itself; nobody is waited for."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()

    def _drain(self) -> None:
        while True:
            with self._changed:
                if not self._items:
                    self._running = False
                    self._changed.notify_all()
                    return
                context, item = self._items.popleft()
                self._changed.notify_all()
            try:
                context.run(self._step, item)
            except BaseException as error:  # handed to whoever puts or joins next
                with self._changed:
                    self._error = error
                    self._items.clear()
            del context, item


class Ahead(Generic[T]):
    """Pulls ``produce()`` ahead of its consumer, at most ``depth`` items; ``produce`` returns None at the end.

    An error of ``produce`` is raised by ``next`` after the items that came before it. After ``cancel``, ``next`` raises
    ``Cancelled``: what was given up does not end cleanly. A deadline ends ``next`` and not ``produce``, which works for
    later calls, too.
    """

    def __init__(self, pool: Pool, produce: Callable[[], T | None], depth: int) -> None:
        self._pool = pool
        self._produce = produce
        self._depth = depth
        self._changed = threading.Condition()
        self._items: deque[T] = deque()
        self._running = False
        self._done = False
        self._cancelled = False
        self._error: BaseException | None = None

    def next(self) -> T | None:
        """The next item, or None at the end."""
        check()  # also where no item is waited for
        while True:
            with self._changed:
                wait_until(self._changed, lambda: self._items or not self._running)
                if self._cancelled:
                    raise Cancelled("the work was given up")
                item = self._items.popleft() if self._items else None
                start = not self._running and not self._done and len(self._items) < self._depth
                if start:
                    self._running = True
            if start and not unlimited().run(self._pool.spawn, self._fill):
                self._fill(most=1 if item is None else 0)
            if item is not None:
                return item
            if not start:
                if self._error is not None:
                    raise self._error
                return None

    def cancel(self) -> None:
        """Make no more. A step under way ends by itself."""
        with self._changed:
            self._done = self._cancelled = True
            self._items.clear()
            self._changed.notify_all()

    def _fill(self, most: int | None = None) -> None:
        made = 0
        while True:
            with self._changed:
                if self._done or len(self._items) >= self._depth or (most is not None and made >= most):
                    self._running = False
                    self._changed.notify_all()
                    return
            try:
                item = self._produce()
            except BaseException as error:
                item, self._error = None, error
            made += 1
            with self._changed:
                if item is None:
                    self._done = True
                elif not self._done:
                    self._items.append(item)
                self._changed.notify_all()


def side_by_side(work: Callable[[int], None], numbers: range, most: int) -> None:
    """Do ``work`` for all ``numbers``, up to ``most`` at once on the I/O pool and this thread; raise the first error
    when all have ended."""
    waiting, errors, changed = deque(numbers), list[BaseException](), threading.Condition()
    running = 0

    def drain() -> None:
        nonlocal running
        while not errors:
            try:
                number = waiting.popleft()
            except IndexError:
                break
            try:
                work(number)
            except BaseException as error:
                errors.append(error)
        with changed:
            running -= 1
            changed.notify_all()

    for _ in range(min(most, len(numbers))):
        with changed:
            running += 1
        if not IO.spawn(drain):
            drain()
    with changed:
        wait_for(changed, lambda: not running)
    if errors:
        raise errors[0]
