"""Whether threads help."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_SURE = 3


class Pace:
    """A small file of a local disk is copied in the time of a few switches between threads: four threads that do
    nothing else take more than twice as long as one. So between stores at hand what is small is done where it is
    planned as long as that computes, and goes to threads for good when three calls in a row spent more than half of
    their time waiting, as for a file system behind a network."""

    def __init__(self, *, threads: bool) -> None:
        self.threads = threads or not getattr(sys, "_is_gil_enabled", lambda: True)()
        self._slow = 0

    def run(self, call: Callable[[], T]) -> T:
        """What ``call`` returns."""
        wall, computing = time.perf_counter(), time.thread_time()
        result = call()
        wall, computing = time.perf_counter() - wall, time.thread_time() - computing
        self._slow = self._slow + 1 if computing < wall / 2 else 0
        self.threads = self._slow >= _SURE
        return result
