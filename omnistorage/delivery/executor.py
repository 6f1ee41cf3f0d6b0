"""Who works beside the caller of a writer, and how anybody waits for them. A simulation brings its own, which does
everything on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Condition, Thread

from omnistorage.concurrency.cancellation import Waiter, wait, wait_until
from omnistorage.concurrency.pools import IO


def beside(call: Callable[[], object], patience: float) -> None:
    """``call()`` on a thread of its own, which nobody waits for longer than ``patience`` seconds."""
    thread = Thread(target=call, name="omnistorage-drain", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # a dying interpreter starts no threads
        call()
    else:
        thread.join(patience)


class Crew:
    """Threads. Those that deliver and publish belong to one writer each: a store that hangs holds up nobody else."""

    def deliver(self, steps: Callable[[], Iterator[Waiter]]) -> Thread:
        """Go through ``steps``, which yield what they wait for. Raises ``RuntimeError`` where no thread can be had."""

        def run() -> None:
            for wake in steps():
                wake.wait()

        thread = Thread(target=run, name="omnistorage-drain", daemon=True)
        thread.start()
        return thread

    def publish(self, work: Callable[[], None]) -> None:
        """``work()``. Raises ``RuntimeError`` where no thread can be had."""
        Thread(target=work, name="omnistorage-commit", daemon=True).start()

    def spawn(self, task: Callable[[], None]) -> bool:
        """``task()``, which is short. False: nobody is free."""
        return IO.spawn(task)

    def until(self, changed: Condition, holds: Callable[[], bool]) -> None:
        """Wait for what those who publish do; cancellation and the deadline in force end that. Called with ``changed``,
        which is free meanwhile."""
        wait_until(changed, holds)

    def wait(self, wake: Waiter, op: str, path: str | None = None) -> None:
        """Wait for whomever; cancellation and the deadline in force end that."""
        wait(wake, op=op, path=path)

    def beside(self, call: Callable[[], object], patience: float) -> None:
        beside(call, patience)


CREW = Crew()
