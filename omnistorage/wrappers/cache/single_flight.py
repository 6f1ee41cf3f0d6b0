"""Single flight: many threads that want the same wait for the one that fetches it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from os import getpid
from typing import Generic, TypeVar

from omnistorage.concurrency.cancellation import Waiter, wait

T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.waiters: list[Waiter] = []
        self.landed: list[T] = []


class Flights(Generic[T]):
    """``run(key, fetch, look)`` calls ``fetch`` in one thread at a time for each key. Whoever asks meanwhile gets the
    same answer; if the fetch fails its own caller gets the error, and one of those who wait is the next to try, unless
    ``look`` finds that another was faster."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[tuple[int, str], _Flight[T]] = {}

    def run(self, key: str, fetch: Callable[[], T], look: Callable[[], T | None], path: str) -> tuple[T, bool]:
        """The answer, and whether it was fetched by this call. Waiting heeds deadlines and cancellation."""
        mine = getpid(), key  # a forked child never waits for a thread of its parent's
        waited = False
        while True:
            if waited and (found := look()) is not None:
                return found, False
            with self._lock:
                flight = self._flights.get(mine)
                leads = flight is None
                if flight is None:
                    flight = self._flights[mine] = _Flight()
                else:
                    waiter = Waiter()  # of its own: cancelling one who waits wakes nobody else
                    flight.waiters.append(waiter)
            if leads:
                return self._lead(mine, flight, fetch), True
            waited = wait(waiter, op="open_reader", path=path)
            if flight.landed:
                return flight.landed[0], False

    def _lead(self, key: tuple[int, str], flight: _Flight[T], fetch: Callable[[], T]) -> T:
        try:
            answer = fetch()
            flight.landed.append(answer)
            return answer
        finally:
            with self._lock:
                del self._flights[key]
            for waiter in flight.waiters:
                waiter.set()
