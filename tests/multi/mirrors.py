"""Mirrors of stores that can be pulled out, and what they hold."""

from omnistorage import MemoryBackend, MultiBackend, Target
from omnistorage.concurrency.cancellation import Clock
from omnistorage.multi.common.scheduler import Crew

from .places import Switch, filled


class Once(Clock):
    """Stands still until ``so()``, which is a day later: a deadline passes then, and not before."""

    def __init__(self, so):
        self.so = so

    def now(self):
        return super().now() + 86400 if self.so() else 0.0


class Idle(Clock):
    """Time passes only once a target ``hangs()`` and nothing else happens: whoever is merely slow is not late."""

    def __init__(self, hangs):
        self.hangs, self.time = hangs, 0.0

    def now(self):
        return self.time

    def wait(self, seconds, wake):
        if not wake.wait(0.3) and self.hangs():
            self.time += seconds


def patient(hangs):
    """The crew of a mirror whose laggards are those that hang, as ``hangs()`` tells."""
    crew = Crew()
    crew.clock = Idle(hangs)
    return crew


def switches(count, **objects):
    return [Switch(filled(**objects)) for _ in range(count)]


def mirror(places, mode="all", **options):
    if mode != "all":
        options.setdefault("journal", MemoryBackend())
    return MultiBackend([Target(f"t{n}", place) for n, place in enumerate(places)], mode, **options)


def peeks(places, path):
    return [place.inner.peek(path) for place in places]


def states(outcomes):
    return {
        outcome.target: outcome.state for outcome in (outcomes.values() if isinstance(outcomes, dict) else outcomes)
    }


def entries(multi):
    return [(entry.path, entry.targets, entry.intent) for entry in multi.journal.load()]


def put(places, *held):
    """What each of the places holds at ``x``: None for nothing."""
    for place, data in zip(places, held, strict=True):
        if data is not None:
            place.inner.put_raw("x", data)
