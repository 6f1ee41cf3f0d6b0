"""Restarts of all processes, with the targets there were, without one of them, with a new one; and what is seen when
nothing is under way."""

import hashlib
from collections import Counter

from omnistorage.errors import ConfigError, StorageError

from .model import PATHS
from .steps import Steps

SCENES = (
    "restart", "reorder", "absent", "shrink", "grow", "grow", "quiet", "quiet", "rename", "unmount", "unmount",
    "damage",
)  # fmt: skip


class Scenes(Steps):
    def restart(self):
        """The processes end, and new ones begin: they know what the journal says."""
        self.open()

    def reorder(self):
        self.rng.shuffle(self.stores)
        self.open()

    def absent(self):
        """One target is left out, and repair is all that is done: it does what is safe, or says why not."""
        if len(self.stores) < 3:
            return
        self.mount()
        gone = self.stores.pop(self.rng.randrange(len(self.stores)))
        self.open()
        self.lose_marks()
        for path in PATHS:  # the digest in an entry is known to all, the metadata to the one that is left out alone
            if any({store.label for store in self.stores} <= set(row["targets"]) for row in self.entries(path)):
                self.mixed_marks.add(path)
        try:
            self.mirror.repair(grace=0)
            self.did["absent and repaired"] += 1
        except ConfigError:
            self.did["absent and named"] += 1
        except StorageError:
            pass
        self.stores.insert(self.rng.randint(0, len(self.stores)), gone)
        self.open()

    # -- quiet moments -------------------------------------------------------------------------------------------------

    def hush(self):
        """Nothing is under way, and nothing fails."""
        slow, self.slow, self.calm = self.slow, False, True
        self.mount()
        self.run_out()
        return slow

    def wake(self, slow):
        self.slow, self.calm = slow, False

    def quiet(self):
        """``verify`` says exactly what is there, and rebuilds what it may."""
        slow, rebuild = self.hush(), self.rng.random() < 0.7
        self.names_who_missed()
        self.says_what_is_there(rebuild)
        if not self.run("write").done:
            self.fail("nothing fails, and yet it was not written")
        self.wake(slow)

    def says_what_is_there(self, rebuild):
        before = {path: self.held(path) for path in PATHS if set(self.held(path)) != {None}}
        pending = {path for path in before if self.entries(path)}
        differing = {path for path in before.keys() - pending if len(set(before[path])) > 1}
        said = self.mirror.verify(rebuild=rebuild)
        told = {one.path: one for one in (*said.pending, *said.differing)}
        if (said.same, {one.path for one in said.pending}, {one.path for one in said.differing}) != (
            len(before) - len(pending) - len(differing), pending, differing,
        ):  # fmt: skip
            self.fail(f"verify says {said}, and there is {before}")
        for path, one in told.items():
            if list(one.holds.values()) != [data and hashlib.sha256(data).hexdigest() for data in before[path]]:
                self.fail(f"verify says {one}, and there is {before[path]}")
            best, count = Counter(before[path]).most_common(1)[0]
            rebuilt = rebuild and path in differing and best is not None and count * 2 > len(self.stores)
            if self.held(path) != ([best] * len(self.stores) if rebuilt else before[path]):
                self.fail(f"verify made {self.held(path)} of {before[path]}")
            if bool(one.rebuilt) != rebuilt:
                self.fail(f"verify says that {path} was rebuilt at {one.rebuilt}")
            if rebuilt:
                self.did["rebuilt"] += 1
                self.are_alike(path)

    def are_alike(self, path):
        """They are seen to be, and the journal says nothing else."""
        self.lose_marks(path)
        self.may[path] = set(self.held(path))
        self.mixed.discard(path)
        self.foreign.pop(path, None)

    def shrink(self):
        """A target is taken away as it should be: when nothing is left to be repaired."""
        slow = self.hush()
        self.open()
        self.lose_marks()
        waiting = self.tell_damaged(self.mirror.repair(grace=0).waiting)
        self.names_who_missed()
        if not waiting and self.mirror.verify(rebuild=True).alike:
            for path in PATHS:
                self.are_alike(path)
            if len(self.stores) > 2 and self.away is None:
                self.away = self.stores.pop(self.rng.randrange(len(self.stores)))
                self.did["shrunk"] += 1
        self.open()
        self.wake(slow)

    def grow(self):
        """A target is added, with what it held when it was taken away, or with nothing."""
        if self.away is None and len(self.stores) > 4:
            return
        slow = self.hush()
        if self.away is not None:
            added, self.away = self.away, None
        else:
            added = self.store(f"n{self.did['grown']}")
        for path in self.may:
            marks = {store.mark(path) for store in (*self.stores, added)}
            if self.entries(path) or set(self.held(path)) != {added.holds(path)} or len(marks) > 1:
                self.foreign.setdefault(path, set()).add(added.label)
        self.stores.insert(self.rng.randint(0, len(self.stores)), added)
        self.open()
        self.did["grown"] += 1
        self.wake(slow)
        if self.rng.random() < 0.5:
            self.quiet()
