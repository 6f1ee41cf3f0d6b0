"""One thread that wakes whoever asked, for all writers of the process. Clocks are arguments."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable

from omnistorage.concurrency.cancellation import CLOCK, Clock, Waiter
from omnistorage.concurrency.pools import forks


class Timer:
    """``at(due, call)`` runs ``call()`` once ``now()`` has reached ``due``, on a thread that exists only while somebody
    waits. Calls must be quick and must not block: they hold up everybody else's."""

    def __init__(self, clock: Clock = CLOCK) -> None:
        self._clock = clock
        self._order = itertools.count()
        self._reset()

    def _reset(self) -> None:
        self._forks = forks[0]
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._wake = Waiter()
        self._running = False

    def now(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return self._clock.now()

    def at(self, due: float, call: Callable[[], None]) -> None:
        if self._forks != forks[0]:
            self._reset()
        with self._lock:
            heapq.heappush(self._waiting, (due, next(self._order), call))
            start, self._running = not self._running, True
        if start:
            try:
                threading.Thread(target=self._run, name="omnistorage-timer", daemon=True).start()
            except RuntimeError:  # no thread can be had now: whoever comes next tries again
                with self._lock:
                    self._running = False
        else:
            self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.clear()
            with self._lock:
                if not self._waiting:
                    self._running = False
                    return
                due, _, call = self._waiting[0]
                left = due - self._clock.now()
                if left <= 0:
                    heapq.heappop(self._waiting)
            if left > 0:
                self._clock.wait(left, self._wake)
            else:
                try:
                    call()
                except Exception:  # one caller's trouble is not the others'
                    logging.getLogger(__name__).exception("a timed call failed")
            del call  # or a waiting thread would keep what it called alive


TIMER = Timer()
