"""How fast: a token bucket."""

from __future__ import annotations

import threading
from typing import Any

from omnistorage.errors import ConfigError

from .cancellation import CLOCK, Clock, pause


class TokenBucket:
    """At most ``rate`` tokens a second, with bursts of ``burst`` (default: a tenth of a second's worth).

    ``reserve(n)`` takes ``n`` tokens, however many, and says how long to wait before using them: a request larger than
    the burst is not refused but paid off, so any rate down to a fraction of a token a second works. Fractions are kept,
    so the rate does not drift. (The generic cell rate algorithm, ITU-T I.371, in its virtual scheduling form.)
    """

    def __init__(self, rate: float, burst: float | None = None, clock: Clock = CLOCK) -> None:
        if not rate > 0:
            raise ConfigError(f"a rate is above zero, not {rate}")
        self.rate = rate
        self.burst = rate / 10 if burst is None else burst
        self.clock = clock
        self._paid_until = float("-inf")
        self._lock = threading.Lock()

    def reserve(self, tokens: float) -> float:
        """Take ``tokens`` and return the seconds to wait before they may be used."""
        now = self.clock.now()
        with self._lock:
            start = max(self._paid_until, now - self.burst / self.rate)
            self._paid_until = start + tokens / self.rate
            return max(0.0, self._paid_until - now)

    def take(self, tokens: float) -> None:
        """Take ``tokens``, waiting cancellably for them. A cancelled taker gives its tokens back."""
        wait = self.reserve(tokens)
        if wait > 0:
            try:
                pause(wait, self.clock)
            except BaseException:
                with self._lock:
                    self._paid_until -= tokens / self.rate
                raise

    def __reduce__(self) -> Any:
        return TokenBucket, (self.rate, self.burst)
