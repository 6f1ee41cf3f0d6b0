"""A timer that stands still until a test moves it, a store that comes and goes, and what is in a store."""

from __future__ import annotations

import heapq
import itertools
import logging
import sys
import threading

import pytest

from omnistorage import BackendUnavailable, MemoryBackend, open_records
from omnistorage.core import WRITE
from omnistorage.delivery import OmniHandler
from omnistorage.wrappers.base import Wrapper

from ..waiting import until
from .hanging import Hangs
from .logging_world import gates


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


def paths(store):
    return [info.path for info in store.list()]


def rows(store, path):
    with open_records(store, path, "r") as reader:
        return list(reader)


def contents(store):
    """The records of each object, by path."""
    return {path: rows(store, path) for path in paths(store)}


def numbers(store):
    """The ``n`` of all records, in the order of their objects."""
    return [row["n"] for rows in contents(store).values() for row in rows]


NAMES = itertools.count()


@pytest.fixture
def logged(monkeypatch):
    """Makes a logger with one handler; closes what is open in the end. Troubles are collected, not printed."""
    made = []

    def make(*arguments, formatter=None, name=None, **settings):
        handler = OmniHandler(*arguments, **settings)
        handler.told = []
        handler.handleError = lambda record: handler.told.append((record, sys.exc_info()[1]))
        if formatter is not None:
            handler.setFormatter(formatter)
        logger = logging.getLogger(name or f"test-of-handlers-{next(NAMES)}")
        logger.setLevel(1)
        logger.propagate = False
        logger.addHandler(handler)
        made.append((logger, handler))
        return logger, handler

    yield make
    for gate in gates:  # of a test that has failed
        gate.open.set()
    gates.clear()
    for logger, handler in made:
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def hangs():
    """Makes stores that hang; lets them go in the end, and waits for the threads of drains."""
    made = []

    def make(*args, **settings):
        made.append(Hangs(MemoryBackend(), *args, **settings))
        return made[-1]

    yield make
    for store in made:
        store.freed.set()
    until(lambda: not [one for one in threading.enumerate() if one.name == "omnistorage-drain"])
