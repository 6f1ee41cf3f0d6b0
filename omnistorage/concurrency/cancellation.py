"""Deadlines and cancellation: context variables that every call looks at.

``with deadline(5):`` and ``with CancelScope() as scope:`` hold for the block and for the work that it starts on other
threads. A call looks at them before each request and in each wait (``check``, ``wait``). ``in_flight`` ends what hangs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context

from omnistorage.errors import Cancelled, DeadlineExceeded


class Clock:
    """The real clock. Tests pass one of their own with the same two methods."""

    def now(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return time.monotonic()

    def wait(self, seconds: float, wake: Waiter) -> None:
        """Return after ``seconds``, or sooner once ``wake`` is set."""
        wake.wait(seconds)


CLOCK = Clock()


class CancelScope:
    """``scope.cancel()`` from any thread ends the calls of a block, and of the work it starts, with ``Cancelled``.

    The next request is not sent, waits end at once, and a request that is under way is cut off within a second. What
    was sent may have been done. Scopes nest: cancelling the outer one cancels the inner ones. Several threads may enter
    one scope, and a block may enter it again.

    Example:
        >>> with CancelScope() as scope:
        ...     scope.cancel()
        ...     check()
        Traceback (most recent call last):
        omnistorage.errors.Cancelled: cancelled
    """

    def __init__(self) -> None:
        self._is_cancelled = False
        self._around: tuple[CancelScope, ...] = ()
        self._wakes: list[Waiter] = []

    @property
    def cancelled(self) -> bool:
        """Whether this scope or one around it was cancelled."""
        return self._is_cancelled or any_cancelled(self._around)

    def cancel(self) -> None:
        """End the calls of the block, from any thread or a signal handler. Idempotent."""
        self._is_cancelled = True  # no lock: a signal handler may come in between
        for wake in list(self._wakes):
            wake.set()

    def __enter__(self) -> CancelScope:
        self._around = _SCOPES.get()
        _SCOPES.set((*self._around, self))
        return self

    def __exit__(self, *exc: object) -> None:
        scopes = list(_SCOPES.get())
        if self in scopes:  # and not always at the end: a generator may leave its block within one of its caller
            del scopes[-1 - scopes[::-1].index(self)]
        _SCOPES.set(tuple(scopes))


def any_cancelled(scopes: tuple[CancelScope, ...]) -> bool:
    """Whether one of ``scopes`` itself was cancelled."""
    return any(scope._is_cancelled for scope in scopes)


_SCOPES: ContextVar[tuple[CancelScope, ...]] = ContextVar("omnistorage_cancel_scopes", default=())
"""The scopes in force, from the outermost to the innermost."""
_DEADLINE: ContextVar[tuple[float, Clock] | None] = ContextVar("omnistorage_deadline", default=None)


@contextmanager
def deadline(seconds: float, clock: Clock = CLOCK) -> Iterator[None]:
    """Calls in the block, and in work it starts, end with ``DeadlineExceeded`` once ``seconds`` have passed.

    A request that would start later is not sent, and one that is under way is cut off, at most a second late. What was
    sent may have been done. A system call that the kernel does not let go, an ``fsync`` or one on a dead mount, is
    waited for; what would have come after it, such as making an object visible, is not done.

    Args:
        seconds: From now. An outer, earlier deadline stays in force.
        clock: What tells the time; tests pass one of their own.

    Example:
        >>> with deadline(0):
        ...     check()
        Traceback (most recent call last):
        omnistorage.errors.DeadlineExceeded: the deadline has passed
    """
    ends = clock.now() + seconds
    outer = _DEADLINE.get()
    if outer is not None and outer[0] - outer[1].now() < seconds:
        yield
        return
    token = _DEADLINE.set((ends, clock))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def remaining() -> float | None:
    """Seconds until the deadline in force, never negative; None without one."""
    found = _DEADLINE.get()
    return None if found is None else max(0.0, found[0] - found[1].now())


def is_limited() -> bool:
    """Whether a scope or a deadline is in force."""
    return bool(_SCOPES.get()) or _DEADLINE.get() is not None


def is_over() -> bool:
    """Whether it is time to stop."""
    return any_cancelled(_SCOPES.get()) or remaining() == 0.0


def check(op: str | None = None, path: str | None = None) -> None:
    """Raise ``Cancelled`` or ``DeadlineExceeded`` if it is time to stop."""
    scopes = _SCOPES.get()
    if scopes and any_cancelled(scopes):
        raise Cancelled("cancelled", op=op, path=path)
    if _DEADLINE.get() is not None and remaining() == 0.0:
        raise DeadlineExceeded("the deadline has passed", op=op, path=path)


# --- waiting ----------------------------------------------------------------------------------------------------------

_LONGEST_WAIT = 0.5


def wait_for(changed: threading.Condition, holds: Callable[[], object], seconds: float | None = None) -> bool:
    """Wait until ``holds()`` is true, as ``changed.wait_for`` does, and go on hearing signals.

    Python runs the handler of a signal on the main thread, when that next wakes. A signal that comes just before it
    waits for a lock does not wake it, so the main thread wakes every half second here.

    Args:
        changed: Is held by the caller, and notified whenever ``holds()`` may have become true.
        holds: What to wait for.
        seconds: At most so long; None waits without a limit.

    Returns:
        Whether it holds.
    """
    if holds():
        return True
    if threading.current_thread() is not threading.main_thread():
        return bool(changed.wait_for(holds, seconds))
    end = None if seconds is None else time.monotonic() + seconds
    while not holds():
        left = _LONGEST_WAIT if end is None else min(_LONGEST_WAIT, end - time.monotonic())
        if left <= 0:
            return False
        changed.wait(left)
    return True


class Waiter:
    """What a thread waits on until another, a finaliser or a signal handler calls ``set``. Unlike a
    ``threading.Event`` it can be set by the very thread that is inside one of its methods."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        with self._changed:
            self._set = True
            self._changed.notify_all()

    def clear(self) -> None:
        self._set = False

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is set, at most ``seconds``; whether it is."""
        with self._changed:
            return wait_for(self._changed, self.is_set, seconds)


def wait(
    wake: Waiter, seconds: float | None = None, clock: Clock = CLOCK, op: str | None = None, path: str | None = None
) -> bool:
    """Wait until ``wake`` is set, at most ``seconds``; whether it was. Cancellation and the deadline end it sooner."""
    scopes = _SCOPES.get()
    for scope in scopes:
        scope._wakes.append(wake)
    try:
        check(op, path)
        limits = [limit for limit in (seconds, remaining()) if limit is not None]
        clock.wait(min(limits, default=threading.TIMEOUT_MAX), wake)
    finally:
        for scope in scopes:
            scope._wakes.remove(wake)
    check(op, path)
    return wake.is_set()


SLICE = 0.1
"""Seconds after which a thread that waits for another one looks whether to go on."""


def wait_until(changed: threading.Condition, holds: Callable[[], object]) -> None:
    """Wait until ``holds()`` is true, of which ``changed`` is notified. The caller holds ``changed``. Cancellation and
    the deadline end it sooner."""
    while not wait_for(changed, holds, SLICE if is_limited() else None):
        check()


def unlimited() -> Context:
    """A copy of this context in which neither a scope nor a deadline is in force, for work that outlives the call."""
    context = copy_context()
    context.run(_SCOPES.set, ())
    context.run(_DEADLINE.set, None)
    return context


def pause(seconds: float, clock: Clock = CLOCK, op: str | None = None, path: str | None = None) -> None:
    """Wait, cancellably. Raises at once, without waiting, if the deadline would pass meanwhile."""
    left = remaining()
    if left is not None and left < seconds:
        raise DeadlineExceeded(f"waiting {seconds:.3g} s would pass the deadline", op=op, path=path)
    check(op, path)
    if seconds > 0:
        wait(Waiter(), seconds, clock, op, path)
