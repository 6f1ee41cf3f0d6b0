"""Two replicas that people edit between and during runs of ``bisync``, decided by one seed.

One thread, a virtual clock, stores in memory. Every content is unique, so that it is known of each which edit it came
from. ``Replicas(seed).live()`` raises ``AssertionError`` with the seed if an edit is lost, if the sides do not
converge, or if a run with nothing to do does something.
"""

import random
from collections import Counter
from dataclasses import replace
from datetime import timedelta

from omnistorage import MemoryBackend, ops
from omnistorage.concurrency.retry import Backoff
from omnistorage.core import WriteOptions
from omnistorage.errors import BackendUnavailable, OutcomeUnknown, PermissionDenied, StorageError
from omnistorage.sync import bisync
from omnistorage.testing import Faulty

from .simulation import Inline, VirtualClock

FAULTS = ("unavailable", "denied", "unknown", "listing", "edit")
SIDES = ("a", "b")


class Store(MemoryBackend):
    """Tells the world what is put and removed; in no order if it promises none."""

    world = role = None

    def _list(self, prefix, options):
        found = list(super()._list(prefix, options))
        if not self.features.sorted_list:
            self.world.rng.shuffle(found)
        return iter(found)

    def _store(self, path, found):
        self.world.changed(self.role, path)
        super()._store(path, found)

    def _remove(self, path):
        self.world.changed(self.role, path)
        super()._remove(path)


class Place(Faulty):
    """One side, with faults and with somebody else at work in it."""

    def __init__(self, world, inner):
        super().__init__(inner)
        self.world = world

    def _before(self, op, number):
        self.world.before(op)

    def _call(self, op, run):
        answer = super()._call(op, run)
        if op in ("close", "delete", "copy") and self.world.strikes("unknown"):
            raise OutcomeUnknown("the answer was lost (injected)")
        return answer


class Replicas:
    def __init__(self, seed):
        self.seed, self.rng, self.clock = seed, random.Random(seed), VirtualClock()
        self.fired, self.did = Counter(), Counter()
        self.faults = False
        self.ours = False  # it is bisync that changes things now
        self.changes = []  # what bisync changed in the last run
        self.version = 0
        self.alive = {}  # content -> where it was written; those that nobody has overwritten or deleted
        self.chance = self.rng.choice((0.0, 0.01, 0.05))
        self.stores = {side: self.store(side) for side in SIDES}
        self.state = Store(now=self.clock.date)
        self.state.world, self.state.role = self, "state"
        if self.rng.random() < 0.3:
            self.state.features = replace(self.state.features, if_match=False)
        for side in SIDES:
            self.write(side, "always", b"always there")
        for _ in range(30):
            self.edit()
        # Stores that nothing goes wrong with may copy among themselves.
        bare = self.chance == 0.0
        self.places = {side: store if bare else Place(self, store) for side, store in self.stores.items()}
        self.places["state"] = self.state if bare else Place(self, self.state)

    def store(self, role):
        rng = self.rng
        made = Store(dirs=rng.random() < 0.5, now=self.clock.date)
        made.world, made.role = self, role
        features = made.features
        if rng.random() < 0.3:
            features = replace(features, if_match=False, create_only=False)
        if rng.random() < 0.4:
            features = replace(features, set_modified=False, user_metadata=rng.random() < 0.7)
        if rng.random() < 0.1:
            features = replace(features, copy=False, move=False, atomic_move=False)
        if rng.random() < 0.2:
            features = replace(features, sorted_list=False, list_seek=False)
        made.features = features
        return made

    # -- people --------------------------------------------------------------------------------------------------------

    def path(self):
        folders = [self.rng.choice(("d", "e-", "f.g")) for _ in range(self.rng.choice((0, 0, 1, 2)))]
        return "/".join([*folders, self.rng.choice(("a", "b", "c.txt", "x.tar.gz", "ä", "a b")) + "0"])

    def write(self, side, path, data):
        """Somebody writes an object; the time that it bears is anything."""
        store, features = self.stores[side], self.stores[side].features
        when = self.clock.date() - timedelta(days=self.rng.choice((0, 0, 0, 1, 50)))
        before, self.ours = self.ours, False
        store.features = replace(features, set_modified=True)
        try:
            old = store._objects.get(path)
            ops.write_bytes(store, path, data, WriteOptions(modified_at=when))
            if old is not None:
                self.alive.pop(old.data, None)
            self.alive[data] = f"{side} {path}"
        finally:
            store.features, self.ours = features, before

    def edit(self, sides=SIDES):
        rng = self.rng
        side = rng.choice(sides)
        store = self.stores[side]
        existing = sorted(set(store._objects) - {"always"})
        path = rng.choice(existing) if existing and rng.random() < 0.6 else self.path()
        if path in store._objects and rng.random() < 0.3:
            before, self.ours = self.ours, False
            self.alive.pop(store._objects[path].data, None)
            store._remove(path)
            self.ours = before
            return
        self.version += 1
        self.write(side, path, f"v{self.version:06d}".encode() + b"." * rng.choice((0, 0, 0, 50)))

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def strikes(self, *kinds):
        if not self.faults or self.rng.random() >= self.chance:
            return None
        kind = self.rng.choice(kinds)
        self.fired[kind] += 1
        return kind

    def before(self, op):
        if op in ("list", "list_dir"):
            if self.rng.random() < 0.2 and self.strikes("listing"):
                raise PermissionDenied("this cannot be listed (injected)")
            return
        kind = self.strikes("unavailable", "denied", "edit", "edit")
        if kind == "unavailable":
            raise BackendUnavailable("injected")
        if kind == "denied":
            raise PermissionDenied("injected")
        # Where a store checks no conditions, there is a moment in which an edit cannot be seen.
        sides = [side for side in SIDES if self.stores[side].features.if_match]
        if kind == "edit" and sides:
            self.edit(sides)

    def changed(self, role, path):
        if self.ours and not (role == "state" and path == "lock"):
            self.changes.append((role, path))

    # -- a life --------------------------------------------------------------------------------------------------------

    def go(self, **more):
        """One run; None if it refused, which it may do after a critical end."""
        self.changes = []
        self.ours = True
        try:
            report = bisync(
                self.places["a"],
                self.places["b"],
                state=self.places["state"],
                max_delete=100,
                executor=Inline(),
                raise_errors=False,
                clock=self.clock,
                now=self.clock.date,
                backoff=Backoff(draw=lambda: 0.5),
                **more,
            )
        except StorageError as error:
            if "critical" in str(error):
                self.did["critical"] += 1
                return self.go(resync=True, **more)
            if not self.faults:
                raise AssertionError(f"raised {error!r}") from error
            self.did["refused"] += 1
            return None
        finally:
            self.ours = False
        self.did["conflicts"] += report.conflicted
        self.did["deletions"] += report.deleted_path1 + report.deleted_path2
        self.did["failures"] += report.failed
        self.did["good runs"] += report.ok
        return report

    def contents(self, side):
        return {path: found.data for path, found in self.stores[side]._objects.items()}

    def live(self):
        try:
            self.faults = True
            for _ in range(4):
                self.go()
                for _ in range(self.rng.choice((0, 1, 10, 20))):
                    self.edit()
                self.clock.time += self.rng.choice((0, 0, 3600))  # a lock that was left behind expires
            self.faults = False
            self.clock.time += 3600
            self.settles()
        except AssertionError as error:
            raise AssertionError(f"seed {self.seed}: {error}") from error
        return self

    def settles(self):
        report = self.go()
        assert report.ok, f"{report}: {report.failures}"
        report = self.go()
        assert report.ok
        assert not report.changes, f"a second run does something: {report}, {self.changes}"
        assert not self.changes, f"a second run writes {self.changes}"
        assert self.contents("a") == self.contents("b")
        held = set(self.contents("a").values())
        lost = {data: where for data, where in self.alive.items() if data not in held}
        assert not lost, f"lost: {lost}"
