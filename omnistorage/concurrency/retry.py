"""How often and how fast: retries, rates, quorums. Pure: clocks and randomness are arguments.

A networked backend sends every request through one ``RequestPolicy``; nothing else in the package retries.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from omnistorage.errors import Cancelled, OutcomeUnknown, StorageError

from .cancellation import CLOCK, Clock, check, pause
from .in_flight import watched
from .rate_limit import TokenBucket

T = TypeVar("T")
LONGEST_WAIT = 300.0
"""Seconds. A store that asks to be left alone for longer is not waited for: the error says how long."""
_RETRYING: ContextVar[float] = ContextVar("omnistorage_retrying", default=0.0)


@contextmanager
def retrying(seconds: float) -> Iterator[None]:
    """Requests in the block, and in work it starts, are tried again until ``seconds`` after they failed for the first
    time, even if their policy's ``retries`` or its budget are used up. A deadline still ends them."""
    token = _RETRYING.set(seconds)
    try:
        yield
    finally:
        _RETRYING.reset(token)


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter: before retry ``n`` (from 1) a wait drawn evenly from 0 to
    ``min(cap, base * 2**(n-1))`` seconds; never shorter than what the store asked for."""

    base: float = 0.2
    cap: float = 20.0
    draw: Callable[[], float] = random.random

    def delay(self, retry: int, retry_after: float | None = None) -> float:
        """The seconds to wait before retry number ``retry``."""
        ceiling = min(self.cap, self.base * 2.0 ** min(retry - 1, 60))
        return max(ceiling * self.draw(), retry_after or 0.0)


class RetryBudget:
    """Bounds what retries add: each request earns ``ratio`` of a retry, of which at most ``reserve`` are saved. Under a
    total outage the load is at most ``1 + ratio`` times the requests, plus the reserve once."""

    def __init__(self, ratio: float = 0.1, reserve: float = 10.0) -> None:
        self.ratio = ratio
        self.reserve = reserve
        self._saved = reserve
        self._lock = threading.Lock()

    def earn(self) -> None:
        if self._saved < self.reserve:  # it nearly always is full
            with self._lock:
                self._saved = min(self.reserve, self._saved + self.ratio)

    def spend(self) -> bool:
        """Whether a retry may be made now; takes it from the budget."""
        with self._lock:
            if self._saved < 1:
                return False
            self._saved -= 1
            return True

    def __reduce__(self) -> Any:
        return RetryBudget, (self.ratio, self.reserve)


@dataclass
class RequestPolicy:
    """The one place that retries. ``run`` sends a request: rate gate, deadline and cancellation before each attempt,
    then backoff within the budget while the error is ``transient``.

    ``retrying`` makes it go on for a number of seconds, whatever ``retries`` and ``budget`` say: the backoff alone
    bounds the load then.

    A request that is not ``idempotent`` is sent again only if the store said that it did not do it (it named a time to
    come back); when the answer was lost, the error is ``OutcomeUnknown``.
    """

    retries: int = 5
    backoff: Backoff = field(default_factory=Backoff)
    budget: RetryBudget = field(default_factory=RetryBudget)
    requests: TokenBucket | None = None
    bandwidth: TokenBucket | None = None
    clock: Clock = CLOCK

    def run(
        self,
        op: str,
        call: Callable[[], T],
        *,
        path: str | None = None,
        idempotent: bool = True,
        cut: Callable[[], object] | None = None,
    ) -> T:
        """What ``call`` returns, after as many attempts as the policy allows. ``cut`` ends a ``call`` that hangs, from
        another thread (see ``in_flight.watched``)."""
        self.budget.earn()
        attempt, ends = 0, 0.0
        while True:
            check(op, path)
            if self.requests is not None:
                self.requests.take(1)
            try:
                if cut is None:
                    return call()
                with watched(cut, op, path):
                    return call()
            except StorageError as error:
                if isinstance(error, Cancelled) and cut is not None and not idempotent:
                    raise self._unknown(error, op, path) from error
                if not error.transient or isinstance(error, OutcomeUnknown):
                    raise
                asked = error.wait_for if error.retry_after is None else error.retry_after
                if asked is not None and asked > LONGEST_WAIT:
                    error.transient = False
                    error.args = (f"{error.args[0]}; it asks to be left alone for {asked:.0f} s, try again then",)
                    raise
                if not idempotent and error.retry_after is None:
                    raise self._unknown(error, op, path) from error
                check(op, path)
                attempt += 1
                if attempt == 1:
                    ends = self.clock.now() + _RETRYING.get()
                if (attempt > self.retries or not self.budget.spend()) and self.clock.now() >= ends:
                    raise
                pause(self.backoff.delay(attempt, asked), self.clock, op, path)

    @staticmethod
    def _unknown(error: StorageError, op: str, path: str | None) -> OutcomeUnknown:
        why = f"the answer was lost, and sending it again could do it twice: {error.args[0]}"
        return OutcomeUnknown(why, op=op, path=path, backend=error.backend)

    def throttle(self, size: int) -> None:
        """Wait until ``size`` more bytes may be moved."""
        if self.bandwidth is not None:
            self.bandwidth.take(size)
