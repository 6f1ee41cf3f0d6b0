"""A timer that stands still until a test moves it, a store that comes and goes, and what is in a store."""

from __future__ import annotations

import heapq
import itertools
import threading
import time

import pytest

from omnistorage import BackendUnavailable, open_records
from omnistorage.core import WRITE
from omnistorage.wrappers._base import Wrapper


class ManualTimer:
    """``delivery.Timer`` without a thread: ``advance`` runs what has become due, in order, at its time."""

    def __init__(self):
        self.time = 0.0
        self.waiting = []
        self.order = itertools.count()

    def now(self):
        return self.time

    def at(self, due, call):
        heapq.heappush(self.waiting, (due, next(self.order), call))

    def advance(self, seconds):
        end = self.time + seconds
        while self.waiting and self.waiting[0][0] <= end:
            due, _, call = heapq.heappop(self.waiting)
            self.time = max(self.time, due)
            call()
        self.time = end


@pytest.fixture
def timer():
    return ManualTimer()


class Down(Wrapper):
    """A store that can be away: nothing can be opened or published then. ``error`` makes what it says."""

    def __init__(self, inner, *, down=False):
        super().__init__(inner)
        self.down = down
        self.asked = 0
        self.error = lambda path: BackendUnavailable("the store is away", path=path)

    def _check(self, path):
        self.asked += 1
        if self.down:
            raise self.error(path)

    def exists(self, path):
        self._check(path)
        return self.inner.exists(path)

    def open_writer(self, path, options=WRITE):
        self._check(path)
        writer = self.inner.open_writer(path, options)
        close = writer.close

        def check_and_close():
            try:
                self._check(path)
            except BaseException:
                writer.abort()
                raise
            return close()

        writer.close = check_and_close
        return writer


def until(holds, seconds=60):
    """Wait for what another thread does, without a clock of the test's own."""
    gate, end = threading.Event(), time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come to pass"
        gate.wait(0.001)


def contents(store):
    """The records of each object, by path."""
    found = {}
    for info in store.list():
        with open_records(store, info.path, "r") as reader:
            found[info.path] = list(reader)
    return found


def numbers(store):
    """The ``n`` of all records, in the order of their objects."""
    return [row["n"] for rows in contents(store).values() for row in rows]
