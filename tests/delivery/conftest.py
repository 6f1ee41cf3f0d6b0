"""A timer that stands still until a test moves it."""

from __future__ import annotations

import heapq
import itertools

import pytest


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
