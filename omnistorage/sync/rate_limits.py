"""How fast, how much and how long. Pure: clocks are arguments."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import datetime

from omnistorage.concurrency.cancellation import CLOCK, Clock
from omnistorage.concurrency.rate_limit import TokenBucket
from omnistorage.errors import ConfigError

from .filters.bounds import parse_size

BLOCK = 1 << 20
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SLOT = re.compile(r"(?:(mon|tue|wed|thu|fri|sat|sun)-)?(\d\d):(\d\d),(\S+)", re.IGNORECASE | re.ASCII)
_MINUTES_A_DAY = 24 * 60


class Bandwidth:
    """At most so many bytes a second, of all transfers together. ``spec`` is a number of bytes, a size as text
    (``"10M"``; without a unit it is KiB, as rclone has it: ``"500"`` is 512,000 bytes a second), or a timetable of
    local times, ``"08:00,512K 18:00,10M Sat-00:00,off"``: each holds from its time on, a time without a day every day.
    Raises ``ConfigError``."""

    def __init__(
        self,
        spec: int | str,
        clock: Clock = CLOCK,
        now: Callable[[], datetime] = datetime.now,  # local time: what a timetable speaks of
        share: float = 1.0,  # of the rate, where several workers divide it
    ) -> None:
        self._clock, self._now, self._share = clock, now, share
        self._lock = threading.Lock()
        self._slots = _timetable(spec) if isinstance(spec, str) and "," in spec else [(0, _rate(spec))]
        self._bucket: TokenBucket | None = None

    def _current(self) -> TokenBucket | None:
        moment = self._now() if len(self._slots) > 1 else None
        minute = 0 if moment is None else (moment.weekday() * 24 + moment.hour) * 60 + moment.minute
        rate = self._slots[-1][1]  # before the week's first slot the last one of the week before holds
        for start, value in self._slots:
            if start <= minute:
                rate = value
        if rate is not None:
            rate = max(1.0, rate * self._share)
        with self._lock:
            if rate is None:
                self._bucket = None
            elif self._bucket is None or self._bucket.rate != rate:
                self._bucket = TokenBucket(rate, clock=self._clock)
            return self._bucket

    @property
    def block(self) -> int:
        """How many bytes to move at once so that the rate is kept within a tenth of a second."""
        bucket = self._current()
        return BLOCK if bucket is None else max(1, min(BLOCK, int(bucket.rate / 10)))

    def take(self, size: int) -> None:
        """Wait, cancellably, until ``size`` more bytes may be moved."""
        bucket = self._current()
        if bucket is not None:
            bucket.take(size)


def _rate(spec: int | str) -> float | None:
    if isinstance(spec, str) and spec.strip().lower() == "off":
        return None
    size = spec if isinstance(spec, int) and not isinstance(spec, bool) else parse_size(str(spec), "bwlimit")
    if size is None or size < 1:
        raise ConfigError(f"bwlimit is at least one byte a second, or 'off': not {spec!r}")
    return size


def _timetable(spec: str) -> list[tuple[int, float | None]]:
    """Minutes of the week, from Monday 0:00, and the rate from then on."""
    slots: dict[int, float | None] = {}
    dated: dict[int, float | None] = {}
    for part in spec.split():
        match = _SLOT.fullmatch(part)
        if match is None or int(match[2]) > 23 or int(match[3]) > 59:
            raise ConfigError(f"bwlimit: {part!r} is no time and rate such as '08:00,512K' or 'Mon-08:00,off'")
        minute = int(match[2]) * 60 + int(match[3])
        if match[1]:
            dated[_DAYS.index(match[1].lower()) * _MINUTES_A_DAY + minute] = _rate(match[4])
        else:
            slots |= {day * _MINUTES_A_DAY + minute: _rate(match[4]) for day in range(7)}
    return sorted((slots | dated).items())


class Amount:
    """A number of bytes that transfers may take, of all of them together; None: any number."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.taken = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take ``size``; whether that was still within the amount."""
        with self._lock:
            self.taken += size
            return self.most is None or self.taken <= self.most

    def give_back(self, size: int) -> None:
        """What was taken was not transferred after all."""
        with self._lock:
            self.taken -= size
