"""The engine in a small world that one seed decides: trees, options, faults and what others do meanwhile.

One thread, a virtual clock, stores in memory. Every content is unique, so that wherever bytes turn up it is known which
version of which object they are. ``World(seed).live()`` runs it and raises ``AssertionError`` with the seed in it if a
promise is broken; ``log`` holds every call on both sides, which two runs of one seed have in common byte for byte.
"""

import random
from collections import Counter
from concurrent.futures import Executor, Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from omnistorage import MemoryBackend, ops
from omnistorage.concurrency.cancellation import Clock
from omnistorage.concurrency.retry import Backoff
from omnistorage.core import WriteOptions
from omnistorage.errors import BackendUnavailable, NotFound, OutcomeUnknown, PermissionDenied, StorageError
from omnistorage.sync import SyncOptions, run
from omnistorage.sync.filters import Filter
from omnistorage.sync.planning.actions import CHANGES
from omnistorage.sync.planning.plan import Plan
from omnistorage.testing import Faulty

START = datetime(2026, 1, 1, tzinfo=UTC)
FAULTS = ("unavailable", "denied", "lost answer", "unknown", "listing", "folder", "mutate src", "mutate dst")


class Inline(Executor):
    """Runs what is submitted at once, on the caller's thread."""

    def __init__(self, workers=1):
        pass

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class VirtualClock(Clock):
    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    def wait(self, seconds, wake):
        self.time += seconds

    def date(self):
        self.time += 1.5
        return START + timedelta(seconds=self.time)


class Store(MemoryBackend):
    """Tells the world what is shown, put and removed; in no order if it promises none."""

    world = role = None

    def _list(self, prefix, options):
        found = list(super()._list(prefix, options))
        if not self.features.sorted_list:
            self.world.rng.shuffle(found)
        return self.world.shown(self.role, found)

    def _list_dir(self, path):
        return self.world.shown(self.role, super()._list_dir(path))

    def _store(self, path, found):
        self.world.puts(self.role, path, found)
        super()._store(path, found)

    def _remove(self, path):
        self.world.removes(self.role, path, self._objects[path])
        super()._remove(path)


class Place(Faulty):
    """One side, with faults and with somebody else at work in it."""

    def __init__(self, world, inner, role):
        super().__init__(inner)
        self.world, self.role = world, role

    def _before(self, op, number):
        self.world.before(self, op)

    def _forward(self, op, path, run):
        self.world.at = path
        return super()._forward(op, path, run)

    def _call(self, op, run):
        self.world.log.append(f"{self.role} {op}")
        self.world.op = op
        answer = super()._call(op, run)
        return self.world.after(self, op, answer)


class World:
    def __init__(self, seed, chance=None):
        self.seed = seed
        self.rng = random.Random(seed)
        self.clock = VirtualClock()
        self.fired = Counter()
        self.log = []
        self.others = True  # it is not the engine that changes things now
        self.faults = False
        self.listing_failed = False
        self.failed = False  # the engine has reported an error
        self.op = self.at = ""  # what is asked of a store now, and of which object
        self.listed = {"src": {}, "dst": {}}  # path -> the etag that the last listing showed
        self.made = {"src": {}, "dst": {}}  # path -> the etag of what the engine put there
        self.held = {"src": {}, "dst": {}}  # path -> every content it ever had
        self.version = 0
        self.chance = self.rng.choice((0.0, 0.01, 0.03, 0.1)) if chance is None else chance
        self.stores = {"src": self.store("src"), "dst": self.store("dst")}
        self.conditional = all(store.features.if_match for store in self.stores.values())
        self.options = self.choose()
        self.fill()
        self.src, self.dst = (Place(self, self.stores[role], role) for role in ("src", "dst"))

    # -- the world -----------------------------------------------------------------------------------------------------

    def store(self, role):
        rng = self.rng
        made = Store(dirs=rng.random() < 0.5, now=self.clock.date)
        made.world, made.role = self, role
        features = made.features
        if rng.random() < 0.4:
            features = replace(features, if_match=False, create_only=False)
        if rng.random() < 0.3:
            features = replace(features, set_modified=False, user_metadata=rng.random() < 0.7)
        if rng.random() < 0.1:
            features = replace(features, copy=False, move=False, atomic_move=False)
        if rng.random() < 0.2:
            features = replace(features, sorted_list=False, list_seek=False)
        made.features = features
        return made

    def choose(self):
        rng, on = self.rng, self.rng.random
        extra = {}
        if on() < 0.25:
            extra = {"move": True}
        elif on() < 0.75:
            extra = {"delete": True, "max_delete": rng.choice(("100%", "100%", "100%", "50%", 3))}
            if self.stores["dst"].features.move and on() < 0.5:
                extra["track_renames"] = rng.choice(("modtime", "hash", "modtime,leaf"))
        if on() < 0.2:
            extra["suffix"] = ".old"
        elif on() < 0.4 and "delete" in extra:
            extra["on_type_clash"] = "replace"
        if on() < 0.3:
            extra["empty_dirs"] = True
        if on() < 0.2:
            extra["filter"] = Filter.parse(rng.choice((["- *.tmp"], ["- /skip/**"], ["+ *.a", "+ *.b", "- *"])))
        if on() < 0.2:
            extra["order_by"] = rng.choice(("size", "size,desc", "name", "modtime", "mixed"))
        if on() < 0.2:
            extra["check_first"] = True
        if on() < 0.15:
            extra["checksum"] = "strict"
        return SyncOptions(backlog=rng.choice((1, 3, 10_000)), retries=rng.choice((0, 2)), **extra)

    def path(self):
        rng = self.rng
        names = [rng.choice(("a", "b", "c-", "skip", "d.d")) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
        leaf = rng.choice(("a", "b", "c", "x", "y", "z", "a-b", "a b", "ä"))
        return "/".join([*names, leaf + rng.choice(("", "", ".a", ".b", ".tmp", "0"))])

    def put(self, role, path, data=None, when=None):
        """Somebody writes an object; None where its name is a folder's, or lies below an object's."""
        store, features = self.stores[role], self.stores[role].features
        self.version += 1
        if data is None:
            data = f"{role} {path} v{self.version:05d} ".encode() + b"." * self.rng.choice((0, 3, 3, 200))
        if when is None:
            when = self.clock.date()
            if self.rng.random() < 0.1:
                when -= timedelta(days=self.rng.randrange(100))
        before, self.others = self.others, True
        store.features = replace(features, set_modified=True)
        try:
            ops.write_bytes(store, path, data, WriteOptions(modified_at=when))
        except StorageError:
            return None
        finally:
            store.features, self.others = features, before
        return data

    def fill(self):
        for _ in range(70):
            path, which = self.path(), self.rng.random()
            if which < 0.35:
                self.put("src", path)
            elif which < 0.6:
                self.put("dst", path)
            elif which < 0.72:  # renamed since the last time
                when = self.clock.date()
                if (data := self.put("src", path, when=when)) is not None:
                    self.put("dst", self.path() + "1", data, when)
            elif (data := self.put("src", path)) is not None:
                self.put("dst", path, data if self.rng.random() < 0.6 else None)

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def strikes(self, *kinds):
        """The fault that happens now, if one of ``kinds`` does."""
        if not self.faults or self.rng.random() >= self.chance:
            return None
        kind = self.rng.choice(kinds)
        self.fired[kind] += 1
        return kind

    def before(self, place, op):
        if op in ("list", "list_dir"):
            kind = self.strikes("listing", "folder") if self.rng.random() < 0.8 else None
            if kind:
                self.listing_failed = True
                folder = self.rng.choice(("a", "b", "a/b")) if kind == "folder" else None
                raise PermissionDenied("this cannot be listed (injected)", path=folder)
            return
        kinds = ("unavailable", "denied", "mutate src", "mutate dst")
        if op in ("close", "delete", "copy", "move") and not self.conditional:
            kinds = kinds[:2]  # between the look and the act nothing can be promised where stores know no conditions
        kind = self.strikes(*kinds)
        if kind and kind.startswith("mutate"):
            self.mutate(kind[-3:])
        elif kind:
            raise {"unavailable": BackendUnavailable, "denied": PermissionDenied}[kind]("injected")

    def after(self, place, op, answer):
        if op in ("stat", "read") and self.strikes("lost answer"):
            raise BackendUnavailable("the answer was lost (injected)")
        if op in ("close", "delete", "copy", "move") and self.strikes("unknown"):
            raise OutcomeUnknown("the answer was lost (injected)")
        return answer

    def mutate(self, role):
        """Somebody else changes something."""
        store = self.stores[role]
        existing = sorted(store._objects)
        path = self.rng.choice(existing) if existing and self.rng.random() < 0.7 else self.path()
        if self.rng.random() < 0.5 and self.at and not self.is_ours(self.at):
            path = self.at  # the very object that is worked on
        if self.rng.random() < 0.25 and path in store._objects:
            before, self.others = self.others, True
            store._remove(path)
            self.others = before
        else:
            self.put(role, path)

    # -- what must hold at every moment --------------------------------------------------------------------------------

    def shown(self, role, infos):
        for info in infos:
            if not info.is_dir:
                self.listed[role][info.path] = info.etag
            yield info

    def is_ours(self, path):
        return bool(self.options.suffix) and path.endswith(self.options.suffix)

    def puts(self, role, path, found):
        self.held[role].setdefault(path, set()).add(found.data)
        if self.others:
            return
        assert role == "dst", f"the engine writes {path!r} to the source"
        there = self.stores[role]._objects.get(path)
        if there is not None and not self.is_ours(path):
            known = (self.listed[role].get(path), self.made[role].get(path))
            assert there.info.etag in known, f"{path!r} is overwritten, though somebody changed it since it was listed"
        if not self.is_ours(path):
            versions = self.held["src"].get(path, set())
            if self.options.renames:
                versions = versions.union(*self.held["dst"].values())
            assert found.data in versions, f"{path!r} becomes {found.data!r}, which the source never had"
        self.made[role][path] = found.info.etag

    def removes(self, role, path, found):
        if self.others:
            return
        features = self.stores[role].features
        known = (self.listed[role].get(path), self.made[role].get(path))
        if features.if_match:
            assert found.info.etag in known, f"{path!r} is removed, though somebody changed it since it was listed"
        if role == "src":
            assert self.options.move, f"the engine removes {path!r} from the source"
            assert found.data in self.held["dst"].get(path, set()), f"{path!r} is removed, and never was copied"
        elif found.info.etag != self.made[role].get(path):
            assert not self.listing_failed, f"{path!r} is deleted after a listing error"
            assert not self.failed or self.op == "move", f"{path!r} is deleted after an error"
            assert self.options.delete, f"{path!r} is deleted"

    # -- a life --------------------------------------------------------------------------------------------------------

    def live(self):
        try:
            self.others, self.faults = False, True
            self.go()
            self.faults = self.listing_failed = False
            self.converges()
        except AssertionError as error:
            raise AssertionError(f"seed {self.seed} ({self.options.described()}): {error}") from error
        return self

    def plan(self):
        self.listed = {"src": {}, "dst": {}}
        self.failed = False
        return Plan(self.src, self.dst, self.options, pool=Inline)

    def go(self):
        try:
            return run(
                self.plan(), Inline(), raise_errors=False, clock=self.clock, backoff=Backoff(draw=lambda: 0.5),
                listeners=[self.told],
            )  # fmt: skip
        except StorageError as error:
            return error  # nothing was begun

    def told(self, event):
        if event.kind == "error" and event.action.kind not in ("delete", "rmdir"):
            self.failed = True

    def contents(self, role):
        return {path: found.data for path, found in self.stores[role]._objects.items()}

    def converges(self):
        """Without faults a run does what its plan said, and the next one has nothing to do."""
        for _ in range(3):
            before, source = self.contents("dst"), self.contents("src")
            try:
                actions = list(self.plan())
            except NotFound:
                assert not source
                return
            errors = [action for action in actions if action.kind == "error"]
            report = self.go()
            assert not isinstance(report, StorageError), f"raised {report!r}"
            assert report.failed == len(errors), f"{report}: {report.failures}"
            assert self.without_backups(self.contents("dst")) == self.predicted(before, source, actions)
            if not any(action.kind in CHANGES for action in actions):
                break
        else:
            raise AssertionError(f"still not done: {[tuple(action)[:3] for action in actions][:5]}")
        self.is_what_was_asked(errors)

    def without_backups(self, contents):
        return {path: data for path, data in contents.items() if not self.is_ours(path)}

    def predicted(self, before, source, actions):
        found = dict(before)
        for action in actions:
            if action.kind in ("copy", "update"):
                found[action.path] = source[action.path]
            elif action.kind == "rename":
                found[action.path] = found.pop(action.other)
            elif action.kind == "remove" and source[action.path] != found[action.path]:
                found[action.path] = source[action.path]
            elif action.kind == "delete":
                del found[action.path]
        return self.without_backups(found)

    def is_what_was_asked(self, errors):
        """The model: what the source holds is at the destination, and with ``delete`` nothing else."""
        source, target = self.contents("src"), self.contents("dst")
        refused = {action.path for action in errors}
        holds_times = self.stores["dst"].features.set_modified
        includes = self.options.filter.includes_path
        for path, data in source.items():
            if includes(path) and path not in refused:
                assert not self.options.move, f"{path!r} was not moved"
                there = target.get(path)
                as_good = (
                    there is not None and len(there) == len(data) and not holds_times and not self.options.checksum
                )
                assert there == data or as_good, f"{path!r} is {there!r} instead of {data!r}"
        if self.options.delete and not errors:
            extra = {path for path in target if includes(path) and path not in source and not self.is_ours(path)}
            assert not extra, f"not deleted: {sorted(extra)}"
