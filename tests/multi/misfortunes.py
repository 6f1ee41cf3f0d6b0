"""What befalls a mirror between two calls: disks that are unmounted, targets that get other names, journal entries that
are damaged."""

from contextlib import contextmanager
from unittest.mock import patch

from omnistorage.errors import NotFound

from .model import PATHS

REACHES = ("open_reader", "open_writer", "close", "delete", "copy", "move", "set_metadata", "mkdir", "rmdir")
"""The calls that a target whose root is gone must not get."""


class Misfortunes:
    """A part of a world. Each store has a ``root``, the identity of its folder: another one while an empty folder is in
    its place, None while nothing is there."""

    @contextmanager
    def on_disks(self):
        """The world says what is at a path, in place of the machine."""
        with patch("omnistorage.multi.mirror.missing_roots.identity_of", self.identity):
            yield

    def identity(self, folder):
        (root,) = (store.root for store in self.disks if store.label == folder.name)
        return root and (1, root)

    @property
    def disks(self):
        return [*self.stores, *([] if self.away is None else [self.away])]

    def unmount(self):
        """The disk of one target goes, or all come back."""
        mounted = [store for store in self.stores if store.is_mounted and store.url_of_target]
        if len(mounted) < len(self.stores) or not mounted:
            self.mount()
            return
        store = self.rng.choice(mounted)
        if self.rng.random() < 0.5 and self.is_seen(store):
            store.root = -store.number
            return
        store.root = None
        if self.rng.random() < 0.5:
            self.open()
            self.did["restarted unmounted"] += not store.is_mounted

    def is_seen(self, store):
        """Whether all processes have seen the disk: who has not takes an empty mount point for it."""
        roots = (place.backend for mirror in self.mirrors for place in mirror.places if place.name == store.target)
        return all(root._known == (1, store.number) for root in roots)

    def mount(self):
        for store in self.disks:
            store.root = store.number

    def start_on_disks(self):
        """What a new process finds. An empty mount point it cannot tell from an empty disk, and a mirror takes itself
        for new where nothing is known to be anywhere: the guide says so of both."""
        for store in self.stores:
            if not store.is_mounted:
                store.root = None
        there = any(store.is_mounted and store.holds(path) is not None for store in self.stores for path in PATHS)
        if not there:
            self.mount()

    def reached(self, store, op):
        if store.is_mounted:
            return
        if op in ("list", "list_dir"):
            raise NotFound("no such folder")
        if op in REACHES:
            self.broken.append(f"{op} reached {store.label}, whose disk is not mounted")

    # -- names and entries ---------------------------------------------------------------------------------------------

    def rename(self):
        """The targets get each other's names, or new ones. Etags, which have the names in them, are not kept."""
        if self.basic:
            return  # without a URL a target is known by its name
        names = [store.target for store in self.stores]
        self.rng.shuffle(names)
        for store, name in zip(self.stores, names, strict=True):
            store.target = self.rng.choice((name, f"{name}-{self.did['rename']}"))
        self.etags.clear()
        self.open()

    def damage(self):
        """Entries of the journal are damaged. What they said is lost: their paths may be anything that is there."""
        names = [info.path for info in self.journal.inner.list() if info.path not in self.damaged]
        if not names:
            return
        slow = self.hush()
        for name in self.rng.sample(names, self.rng.randint(1, min(3, len(names)))):
            self.is_lost(next(row for row in self.entries() if row["id"] in name))
            self.journal.inner.put_raw(name, self.harmed(self.journal.inner.peek(name)))
            self.damaged.add(name)
            self.did["damaged"] += 1
        self.open()
        self.wake(slow)

    def harmed(self, text):
        at = self.rng.randrange(len(text))
        flipped = text[:at] + bytes([text[at] ^ 1 << self.rng.randrange(8)]) + text[at + 1 :]
        return self.rng.choice((b"", text[:at], flipped))

    def is_lost(self, row):
        """Nobody knows any more what the entry ``row`` said."""
        path = row["path"] + ("/" if row["kind"] == "dir" else "")
        if path in PATHS:
            self.mixed_marks.add(path)
            self.marks[path] = self.marks[path] | self.ever_marks[path]
        if row["kind"] != "meta":
            self.mixed.add(path)
            self.may[path] = self.may[path] | set(self.held(path))

    def tell_damaged(self, waiting):
        """The rest of what a repair says that waits, once each damaged entry is told and deleted, as the error asks."""
        told = [entry for entry, _ in waiting if not entry.path]
        if {f"{entry.id}.json" for entry in told} != self.damaged:
            self.fail(f"{told} are told as damaged, not {self.damaged}")
        for name in self.damaged:
            self.journal.inner.delete(name)
        self.damaged.clear()
        return [(entry, error) for entry, error in waiting if entry.path]
