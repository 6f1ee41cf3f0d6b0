"""Mirrors of stores that can be pulled out, and what they hold."""

from omnistorage import MemoryBackend, MultiBackend, Target

from .places import Switch, filled


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
