"""The one limit for everything that a test waits for, and waiting for what cannot wake the test.

Join a thread or await an event where there is one: ``thread.join(LIMIT)``, ``event.wait(LIMIT)``. ``until`` is for what
has neither, such as a file that another process writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LIMIT = 120.0
"""Seconds. Generous, so that only a defect reaches it, however busy the machine is."""


def until(holds: Callable[[], object], limit: float = LIMIT) -> None:
    """Return once ``holds()`` is true. Raises AssertionError after ``limit`` seconds."""
    pause, end = threading.Event(), time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, f"not true after {limit} seconds: {holds}"
        pause.wait(0.002)
