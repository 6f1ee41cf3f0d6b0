"""A pair of stores that bisync keeps in step."""

import json

import pytest

from omnistorage.concurrency.retry import Backoff
from omnistorage.errors import StorageError
from omnistorage.sync import bisync

from ..budget import pick
from .simulation import Inline, VirtualClock
from .stores import blind, bucket, held, memory, put

STORES = {"checks conditions": memory, "checks none": blind, "flat": lambda: memory(dirs=False), "bucket": bucket}
SEEDS = pick(default=50, ci=450, soak=30_000)


class Two:
    """Two stores and the state of their last run."""

    def __init__(self, a=None, b=None):
        self.a, self.b = a or memory(), b or memory()
        self.state = memory()
        self.clock = VirtualClock()

    def go(self, **more):
        settings = {
            "state": self.state,
            "max_delete": 100,
            "executor": Inline(),
            "clock": self.clock,
            "now": self.clock.date,
            "backoff": Backoff(draw=lambda: 0.5),
        }
        a, b = more.pop("a", self.a), more.pop("b", self.b)
        return bisync(a, b, **{**settings, **more})

    def both(self):
        """What both hold, which must be the same."""
        found = held(self.a)
        assert held(self.b) == found
        return {path: data.decode() for path, data in found.items()}

    def saved(self):
        """The saved listings, by side and path."""
        said = json.loads(held(self.state)["state.json"])
        return {
            side: {json.loads(line)[0]: json.loads(line) for line in held(self.state)[one["name"]].splitlines()}
            for side, one in said["listings"].items()
        }

    def does_nothing(self, **more):
        """A run changes nothing on either side, nor of the state."""
        before = [[(info.path, info.etag) for info in store.list()] for store in (self.a, self.b, self.state)]
        report = self.go(**more)
        assert report.ok
        assert report.changes == 0
        assert [[(info.path, info.etag) for info in store.list()] for store in (self.a, self.b, self.state)] == before
        return report


def conflict(two, *, a=2, b=3, left="left side", right="right"):
    put(two.a, "x", left, at=a)
    put(two.b, "x", right, at=b)


def refuses(two, match, kind=StorageError, **more):
    """The run raises before anything is changed."""
    before = [[(info.path, info.etag) for info in store.list()] for store in (two.a, two.b)]
    saved = held(two.state)
    with pytest.raises(kind, match=match):
        two.go(**more)
    assert [[(info.path, info.etag) for info in store.list()] for store in (two.a, two.b)] == before
    assert held(two.state) == saved
