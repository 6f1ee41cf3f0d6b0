"""A mirror in a small world that one seed decides: targets, modes, faults, outages, slow calls, kills and repairs.

One thread, a virtual clock, stores in memory. Work that a fan-out gives away is done step by step, whenever somebody
waits, in an order that the seed decides. Every content is unique and says how long it is. ``World(seed).live()`` runs
it and raises ``AssertionError`` with the seed in it if a promise is broken; ``log`` holds every call on every store,
which two runs of one seed have in common byte for byte.
"""

import gc
import json
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from omnistorage import MemoryBackend, MultiBackend, Target, ops
from omnistorage.core import CopyOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    Cancelled,
    MultiError,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)
from omnistorage.multi._crew import Crew, Turn
from omnistorage.policies import Backoff, Clock, RequestPolicy, check, deadline
from omnistorage.testing.faults import Faulty

START = datetime(2026, 1, 1, tzinfo=UTC)
PATHS = ("a", "b", "c", "d/e")
FAULTS = ("unavailable", "denied", "lost answer", "unknown", "late", "outage", "killed", "journal", "deadline")
ENDS = ("write", "create", "replace", "delete", "copy", "move")  # what a kill ends anywhere
OPS = ("write", "create", "replace", "delete", "copy", "move", "read", "list", "repair", "verify", "settle")


class Killed(BaseException):
    """The process is gone."""


class Hands(Crew):
    """Nobody works but while somebody waits."""

    def __init__(self, world):
        self.world, self.clock = world, world

    def start(self, step, wake):
        return self.world.start(step, wake)

    def policy(self):
        return RequestPolicy(backoff=Backoff(draw=self.world.rng.random), clock=self.clock)


class World(Clock):
    """It is the clock of its mirror, too."""

    def __init__(self, seed, chance=None):
        self.seed, self.rng = seed, random.Random(seed)
        rng = self.rng
        self.time = 0.0
        self.steps = []  # [not before, step, turn, wake]
        self.log, self.fired, self.did = [], Counter(), Counter()
        self.writers = []
        self.calm = False  # nothing fails
        self.dead = False
        self.chance = rng.choice((0.0, 0.02, 0.05, 0.15)) if chance is None else chance
        self.slow = rng.random() < 0.5
        self.kills = rng.random() < 0.5
        self.mode = rng.choice(("all", "quorum", "quorum", "best_effort"))
        self.stores = [Place(self, f"t{n}", self.store()) for n in range(rng.randint(2, 5))]
        self.journal = Place(self, "journal", MemoryBackend(dirs=rng.random() < 0.5, now=self.date))
        self.read = rng.choice(("first", "first", "first", "quorum"))  # a race has threads of its own
        self.late = rng.choice((None, 5.0, 30.0)) if self.mode != "all" else None
        few = self.mode == "quorum" and rng.random() < 0.3
        self.quorum = rng.randint(1, len(self.stores)) if few else None
        # Two processes on one journal: what one of them gave up the other cannot know of, so nothing is late there.
        self.processes = 1 if self.slow else rng.choice((1, 2))
        self.last = {}  # path -> (the process that changed it last, when)
        self.made = 0
        # What a path may hold, None for nothing: after a success that, after a failure what was and what was tried.
        self.may = {path: {None} for path in PATHS}
        self.ever = {path: {None} for path in PATHS}
        self.changes, self.moves = Counter(), []  # how often each path was changed; what was moved, and as of when
        self.open()

    def store(self):
        rng = self.rng
        made = MemoryBackend(dirs=rng.random() < 0.5, now=self.date)
        if rng.random() < 0.2:
            made.features = replace(made.features, sorted_list=False, list_seek=False)
        if rng.random() < 0.1:
            made.features = replace(made.features, if_match=False)
        return made

    def open(self):
        self.dead = False
        self.steps = []  # a new process
        while self.writers:
            self.writers.pop().abort()  # nothing of it ever was visible, and nobody is left to be warned
        for store in self.stores:
            store.down_until = -1.0
        self.mirrors = [self.process() for _ in range(self.processes)]
        self.mirror = self.mirrors[0]

    def process(self):
        mirror = MultiBackend(
            [Target(store.label, store) for store in self.stores],
            self.mode, self.quorum, read=self.read, journal=self.journal, laggard_timeout=self.late, buffer=64,
            _crew=Hands(self),
        )  # fmt: skip
        mirror.journal._now, mirror.journal._draw = lambda: self.time, lambda: f"{self.rng.getrandbits(48):012x}"
        return mirror

    def knows(self, path):
        """Whether this process knows what became of ``path``: it did it, or had ten seconds to learn of it."""
        who, when = self.last.get(path, (self.mirror, 0))
        # After a kill nobody knows what became of what was under way, until it is repaired.
        texts = [self.journal.inner.peek(info.path) for info in self.journal.inner.list()]
        if any(row["intent"] and row["path"] == path for row in map(json.loads, texts)):
            return False
        return who is self.mirror or self.time - when > 10

    # -- clock and crew ------------------------------------------------------------------------------------------------

    def now(self):
        return self.time

    def date(self):
        self.time += 0.001
        return START + timedelta(seconds=self.time)

    def start(self, step, wake):
        turn, delay = Turn(), 0.0
        if self.slow and not self.calm and self.rng.random() < self.chance * 2:
            delay = self.rng.choice((1.0, 10.0, 100.0))
            self.fired["late"] += 1
        self.steps.append([self.time + delay, step, turn, wake])
        return turn

    def wait(self, seconds, wake):
        ready = [one for one in self.steps if one[0] <= self.time]
        if not ready:
            due = min((one[0] for one in self.steps), default=None)
            assert due is not None or seconds < 1e6, f"seed {self.seed}: nobody will ever wake this"
            self.time = min(self.time + seconds, due) if due is not None else self.time + seconds
            if due is None or due > self.time:
                return
            ready = [one for one in self.steps if one[0] <= self.time]
        self.advance(self.rng.choice(ready))
        if self.dead:
            raise Killed

    def advance(self, one):
        if not one[1]():
            self.steps.remove(one)
            one[2].over = True
            one[3].set()

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def before(self, store, op):
        if self.dead:
            raise Killed
        if self.calm:
            return
        if store.down_until > self.time:
            self.fired["outage"] += 1
            raise BackendUnavailable("it is down")
        roll = self.rng.random()
        if store is self.journal:
            if roll < self.chance / 5:
                self.fired["journal"] += 1
                raise BackendUnavailable("the journal is away")
            return
        if roll < self.chance / 4:
            self.fired["unavailable"] += 1
            raise BackendUnavailable("a hiccup")
        if roll < self.chance / 3:
            self.fired["denied"] += 1
            raise PermissionDenied("no")
        if roll < self.chance / 2.5:
            store.down_until = self.time + self.rng.choice((1, 20, 300))
            raise BackendUnavailable("it goes down")

    def after(self, store, op):
        if self.calm or self.dead:
            return
        roll = self.rng.random()
        if store is not self.journal and op in ("close", "delete", "copy", "move") and roll < self.chance:
            kind = self.rng.choice(("lost answer", "unknown"))
            self.fired[kind] += 1
            raise (BackendUnavailable if kind == "lost answer" else OutcomeUnknown)("the answer was lost")
        if self.kills and roll > 1 - self.chance / 5 and self.op in ENDS:
            self.fired["killed"] += 1
            self.dead = True
            raise Killed

    # -- life ----------------------------------------------------------------------------------------------------------

    def content(self):
        self.made += 1
        body = f"{self.made}:" + "x" * self.rng.choice((0, 10, 100, 400))
        return f"{len(body)}|{body}".encode()

    def live(self):
        gc.disable()  # what it finds would be aborted at any moment, and each abort is a roll of the dice
        try:
            self.pass_time()
        finally:
            gc.enable()
        return self

    def pass_time(self):
        self.op = ""
        for _ in range(self.rng.randint(5, 40)):
            self.time += self.rng.choice((0, 1, 60))
            self.op = self.rng.choice(OPS)
            self.did[self.op] += 1
            self.mirror = self.rng.choice(self.mirrors)
            seconds = self.rng.choice((0.5, 5.0)) if self.slow and self.rng.random() < 0.3 else 1e9
            try:
                with deadline(seconds, self):
                    getattr(self, "do_" + self.op)()
            except Cancelled:
                self.fired["deadline"] += 1
            except Killed:
                self.open()
            self.nothing_is_torn()
        self.come_to_rest()

    def do_write(self, options=None, path=None):
        path, data = path or self.rng.choice(PATHS), self.content()
        self.ever[path].add(data)
        before = self.may[path]
        self.changes[path] += 1
        self.may[path] = before | {data}  # until its end is known
        self.last[path] = self.mirror, float("inf")
        try:
            with self.mirror.open_writer(path, options or WriteOptions()) as writer:
                for at in range(0, len(data), 50):
                    writer.write(data[at : at + 50])
                    if self.rng.random() < 0.1:
                        writer.flush()
        except (AlreadyExists, PreconditionFailed):
            return
        except Cancelled:
            raise
        except StorageError as error:
            outcomes = getattr(error, "outcomes", ())
            if any(outcome.state == "committed" for outcome in outcomes):
                self.did["partly"] += 1
            return
        self.done(path, data)

    def do_create(self):
        path = self.rng.choice(PATHS)
        try:
            was = self.mirror.exists(path) and self.knows(path) and None not in self.may[path]
        except StorageError:
            return
        before = self.may[path]
        self.do_write(WriteOptions(overwrite=False), path)
        if self.may[path] != before and len(self.may[path]) == 1 and was:
            raise AssertionError(f"seed {self.seed}: created {path}, which was there")

    def do_replace(self):
        path = self.rng.choice(PATHS)
        try:
            etag = self.mirror.stat(path).etag
        except StorageError:
            return
        self.do_write(WriteOptions(if_match=etag), path)

    def done(self, path, data):
        """It was reported as done: as many as are needed hold the very same."""
        self.may[path] = {data}
        self.last[path] = self.mirror, self.time
        held = [store.inner.peek(path) for store in self.stores]
        assert held.count(data) >= self.mirror.needed, (
            f"seed {self.seed}: {self.op} of {path} was reported, and {held.count(data)} of {len(held)} hold it; "
            f"{self.mirror.needed} were needed"
        )

    def do_delete(self):
        path = self.rng.choice(PATHS)
        self.changes[path] += 1
        self.may[path] = self.may[path] | {None}
        self.last[path] = self.mirror, float("inf")
        try:
            self.mirror.delete(path)
        except Cancelled:
            raise
        except StorageError:
            return
        self.done(path, None)

    def do_copy(self, op="copy"):
        src, dst = self.rng.sample(PATHS, 2)
        sure = self.knows(src)
        self.changes[dst] += 1
        if op == "move":
            self.changes[src] += 1
            if sure and len(self.may[src]) == 1:
                (data,) = self.may[src]
                self.moves.append((data, {path: self.changes[path] for path in (src, dst)}))
        self.may[dst] = self.may[dst] | ((self.may[src] if sure else self.ever[src]) - {None})
        self.ever[dst] |= self.ever[src]
        self.last[dst] = self.mirror, float("inf")
        if op == "move":
            self.may[src] = self.may[src] | {None}
            self.last[src] = self.mirror, float("inf")
        try:
            getattr(self.mirror, op)(src, dst, CopyOptions(overwrite=self.rng.random() < 0.8))
        except StorageError:
            return
        known = self.may[src] - {None}
        if len(known) == 1 and sure:
            self.done(dst, *known)
        if op == "move":
            self.done(src, None)

    def do_move(self):
        self.do_copy("move")

    def do_read(self):
        path = self.rng.choice(PATHS)
        try:
            data = ops.read_bytes(self.mirror, path)
        except NotFound:
            data = None
        except StorageError:
            return
        assert data in self.ever[path], f"seed {self.seed}: {path} never was {data}"
        if len(self.may[path]) == 1 and self.knows(path):
            assert data in self.may[path], f"seed {self.seed}: read {data} from {path}, not {self.may[path]}"

    def do_list(self):
        try:
            found = {info.path for info in self.mirror.list()}
        except StorageError:
            return
        for path in filter(self.knows, PATHS):
            if None not in self.may[path]:
                assert path in found, f"seed {self.seed}: {path} is not listed"
            if self.may[path] == {None}:
                assert path not in found, f"seed {self.seed}: {path} is listed, and is gone"

    def do_repair(self):
        try:
            self.mirror.repair(grace=self.rng.choice((0, 900)))
        except StorageError:
            pass

    def do_verify(self):
        try:
            self.mirror.verify()
        except StorageError:
            pass

    def do_settle(self):
        # Mostly where something went wrong: there it has something to do.
        path = self.rng.choice([path for path in PATHS if len(self.may[path]) > 1] or PATHS)
        sure, before = self.knows(path), [store.inner.peek(path) for store in self.stores]
        try:
            there = self.mirror.settle(path)
        except Cancelled:
            raise
        except StorageError:
            return
        if not there:
            assert not sure or None in self.may[path], f"seed {self.seed}: {path} was reported, and counts as nothing"
            return
        self.did["settled"] += 1
        self.did["brought"] += before != [store.inner.peek(path) for store in self.stores]
        held = Counter(filter(None, (store.inner.peek(path) for store in self.stores)))
        safe = {data for data, count in held.items() if count >= self.mirror.needed}
        assert safe, f"seed {self.seed}: {path} is settled, and too few hold it"
        if sure:
            safe &= self.may[path]
            assert safe, f"seed {self.seed}: {path} is settled as what it must not be"
        if len(safe) == 1:  # else few are needed, and which of them it is the journal knows
            self.done(path, *safe)

    # -- promises ------------------------------------------------------------------------------------------------------

    def nothing_is_torn(self):
        for store in self.stores:
            for path in PATHS:
                data = store.inner.peek(path)
                assert data in self.ever[path], f"seed {self.seed}: {store.label} shows {data} at {path}"

    def come_to_rest(self):
        """When all is well again, one repair makes all targets alike, at what each path may hold."""
        self.calm, self.slow = True, False
        while self.steps:
            self.time += 1000
            self.advance(self.steps[0])
        self.open()
        for store in self.stores:
            store.down_until = -1
        done = self.mirror.repair(grace=0)
        for entry, error in done.waiting:
            # Only what nobody can decide may wait: no target is known to be right, and they are of three minds.
            assert "agree" in str(error), f"seed {self.seed}: {entry} waits: {error!r}"
        undecided = {entry.path for entry, _ in done.waiting}
        for path in PATHS:
            held = {store.inner.peek(path) for store in self.stores}
            if path in undecided:
                continue
            assert len(held) == 1, f"seed {self.seed}: {path} is still {held}"
            assert held <= self.may[path], f"seed {self.seed}: {path} is {held}, not {self.may[path]}"
        assert not list(self.journal.inner.list()) or undecided, f"seed {self.seed}: entries are left"
        for data, then in self.moves:
            if data is not None and not undecided and all(self.changes[path] == then[path] for path in then):
                self.did["moved"] += 1
                held = {store.inner.peek(path) for store in self.stores for path in then}
                assert data in held, f"seed {self.seed}: {data} was moved, and is nowhere: {then}"
        while self.writers:
            self.writers.pop().abort()
        self.did["rest"] += 1
        self.did["undecided"] += len(undecided)


class Place(Faulty):
    """One store, with what goes wrong in this world."""

    def __init__(self, world, label, inner):
        super().__init__(inner)
        self.world, self.label, self.down_until = world, label, -1.0

    def _call(self, op, run):
        if op != "abort" and self.world.rng.random() < 0.5:
            check(op)  # as a store does before a request; what is under way ends by itself
        self.world.log.append(f"{self.label} {op}")
        self.world.before(self, op)
        answer = run()
        if op == "open_writer":
            self.world.writers.append(answer)
        self.world.after(self, op)
        return answer


__all__ = ["FAULTS", "OPS", "Cancelled", "Killed", "MultiError", "World"]
