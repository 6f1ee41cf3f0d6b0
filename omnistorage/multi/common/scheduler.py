"""Who does the work of a fan-out, and by which clock. A simulation brings its own."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from threading import Thread

from omnistorage.concurrency.cancellation import CLOCK, Clock, Waiter, wait
from omnistorage.concurrency.pools import IO, forks
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.errors import BackendUnavailable

MOST_STUCK = 4


class Turn:
    """One thread's turn. ``over`` once the thread holds on to nothing any more."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False


class Crew:
    """Threads of the shared pool, or new ones where none is free: a target that does not answer holds up no other."""

    clock: Clock = CLOCK

    def policy(self) -> RequestPolicy:
        """How reading on from where it broke off is tried again."""
        return RequestPolicy(clock=self.clock)

    def start(self, step: Callable[[], bool], wake: Waiter) -> Turn:
        """Call ``step`` on another thread, in a copy of this context, until it says that there is nothing to do; then
        set ``wake``."""
        turn, steps = Turn(), [step]

        def run() -> None:
            while steps[0]():
                pass
            steps.clear()
            turn.over = True
            wake.set()

        if IO.spawn(run):
            return turn
        context = copy_context()
        try:
            Thread(target=lambda: context.run(run), name="omnistorage-fanout", daemon=True).start()
        except RuntimeError:  # the system gives no more threads: who asks does it
            run()
        return turn

    def wait(
        self,
        wake: Waiter,
        ready: Callable[[], bool],
        seconds: float | None = None,
        op: str | None = None,
        path: str | None = None,
    ) -> bool:
        """Until ``ready()``, which is asked again whenever ``wake`` is set, or ``seconds`` have passed: which of them.
        Raises ``Cancelled`` and ``DeadlineExceeded``."""
        ends = None if seconds is None else self.clock.now() + seconds
        while not ready():
            wake.clear()
            if ready():
                break
            left = None if ends is None else ends - self.clock.now()
            if left is not None and left <= 0:
                return False
            wait(wake, left, self.clock, op, path)
        return True


class Stuck:
    """Calls that nobody waits for any longer, and that may still happen. Until they have ended, their target gets no
    other change of the same path: it could be undone by them."""

    def __init__(self) -> None:
        self._calls: dict[str, list[tuple[str | None, Turn]]] = {}
        self._forks = forks[0]

    def add(self, target: str, path: str | None, turn: Turn) -> None:
        """``path`` is None for one that changes nothing any more."""
        if not turn.over:
            self._calls.setdefault(target, []).append((path, turn))

    def check(self, target: str, path: str) -> None:
        """Raise ``BackendUnavailable`` while there is one of ``path``, or so many of the target that one more would
        only wait, too."""
        if self._forks != forks[0]:
            self._calls, self._forks = {}, forks[0]
        calls = self._calls.get(target)
        if not calls:
            return
        calls[:] = [call for call in calls if not call[1].over]
        if any(one == path for one, _ in calls):
            raise BackendUnavailable("an earlier change of it was given up and has not ended", path=path)
        if len(calls) >= MOST_STUCK:
            raise BackendUnavailable(f"{len(calls)} earlier changes were given up and have not ended", path=path)


CREW = Crew()
