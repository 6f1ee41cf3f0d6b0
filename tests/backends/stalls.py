"""Closing a reader that waits for a store which sends no more."""

import threading
from pathlib import Path

from ..waiting import LIMIT, until


def close_when_blocked(proxy, reader):
    """Close ``reader`` from another thread, once ``proxy`` has stalled and the calling thread waits in a read."""
    state = Path(f"/proc/self/task/{threading.get_native_id()}/stat")
    pause, asleep = threading.Event(), 0

    def is_blocked():
        """Whether the reading thread has slept through ten looks in turn. A thread that lacks a processor is "R"."""
        nonlocal asleep
        asleep = asleep + 1 if state.read_text().rpartition(")")[2].split()[0] == "S" else 0
        pause.wait(0.003)
        return asleep >= 10

    def close():
        assert proxy.stalled.wait(LIMIT)
        until(is_blocked)
        reader.close()

    threading.Thread(target=close, daemon=True).start()
