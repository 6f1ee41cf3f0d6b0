"""A mirror in a small world that one seed decides: targets, modes, faults, outages, slow calls, kills, restarts with
other targets, repairs, and a second process that does something whole in the middle of a call of the first.

One thread, a virtual clock, stores in memory. Work that a fan-out gives away is done step by step, whenever somebody
waits, in an order that the seed decides. Contents say how long they are. ``World(seed).live()`` runs it and raises
``AssertionError`` with the seed in it if a promise is broken; ``log`` holds every call on every store, which two runs
of one seed have in common byte for byte.
"""

import gc
import random
from collections import Counter, defaultdict
from contextlib import nullcontext
from contextvars import Context, copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

from omnistorage import MemoryBackend, MultiBackend, Target
from omnistorage.backends.memory import _MemoryWriter
from omnistorage.concurrency.cancellation import Clock, check, deadline
from omnistorage.concurrency.retry import Backoff, RequestPolicy
from omnistorage.errors import BackendUnavailable, Cancelled, OutcomeUnknown, PermissionDenied
from omnistorage.multi.common.scheduler import Crew, Turn
from omnistorage.testing import BasicBackend
from omnistorage.testing.faults import Faulty

from .changes_of_scene import SCENES, Scenes
from .misfortunes import Misfortunes
from .model import Frame
from .steps import CHANGES, OPS, WEIGHTS

START = datetime(2026, 1, 1, tzinfo=UTC)
FAULTS = (
    "unavailable", "denied", "lost answer", "unknown", "late", "outage", "killed", "journal", "journal outage",
    "deadline",
)  # fmt: skip
ANSWERS = ("close", "delete", "copy", "move", "set_metadata", "mkdir", "rmdir")  # of which the answer may be lost


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


class Late(MemoryBackend):
    """Looks at conditions when an object is published, as object stores do."""

    def _open_writer(self, path, options):
        return _MemoryWriter(self, path, options)


class World(Misfortunes, Scenes, Clock):
    """It is the clock of its mirror, too."""

    def __init__(self, seed, chance=None):
        self.seed, self.rng = seed, random.Random(seed)
        rng = self.rng
        self.time = 1000.0
        self.numbers = count(1)
        self.steps = []  # [not before, step, turn, wake, whether it runs]
        self.log, self.fired, self.did = [], Counter(), Counter()
        self.writers = []
        self.op, self.made = "", 0
        self.calm = False  # nothing fails
        self.dead = False
        self.chance = rng.choice((0.0, 0.02, 0.05, 0.15)) if chance is None else chance
        self.slow = rng.random() < 0.5
        self.kills = rng.random() < 0.5
        self.mode = rng.choice(("all", "quorum", "quorum", "best_effort"))
        self.dirs = rng.choice(((True,), (True,), (False,), (True, False)))
        self.carries = rng.choice(((True,), (True,), (True, True, False)))  # copies and moves by themselves
        # Two processes on one journal: what one of them gave up the other cannot know of, so nothing is late there.
        self.processes = 1 if self.slow else rng.choice((1, 2, 2))
        self.skew = rng.choice((0.0, 0.0, 0.5, 5.0))  # clocks agree to within the time between two changes of a path
        # At once there is no time between them.
        self.nests = rng.choice((0.02, 0.1)) if self.processes > 1 and not self.skew else 0.0
        self.basic = self.nests == 0 and rng.random() < 0.1
        self.broken, self.damaged, self.away = [], set(), None
        self.stores = [self.store(f"t{n}") for n in range(rng.randint(2, 5))]
        self.journal = Place(self, "journal", MemoryBackend(dirs=rng.random() < 0.5, now=self.date))
        self.read = rng.choice(("first", "first", "first", "quorum"))  # a race has threads of its own
        self.late = rng.choice((None, 5.0, 30.0)) if self.mode != "all" else None
        few = self.mode == "quorum" and rng.random() < 0.3
        self.quorum = rng.randint(1, len(self.stores)) if few else None
        self.etags = defaultdict(list)
        self.start_model()
        with self.on_disks():
            self.open()

    def store(self, label):
        rng = self.rng
        if self.basic and rng.random() < 0.5:
            return Place(self, label, BasicBackend())
        made = rng.choice((MemoryBackend, MemoryBackend, Late))(dirs=rng.choice(self.dirs), now=self.date)
        if rng.random() < 0.2:
            made.features = replace(made.features, sorted_list=False, list_seek=False)
        if rng.random() < 0.1:
            made.features = replace(made.features, if_match=False)
        if not rng.choice(self.carries):
            made.features = replace(made.features, copy=False, move=False, atomic_move=False)
        return Place(self, label, made)

    def open(self):
        """All processes are started (again)."""
        self.dead = False
        self.steps = []  # a new process
        while self.writers:
            self.writers.pop().abort()  # nothing of it ever was visible, and nobody is left to be warned
        for store in self.stores:
            store.down_until = -1.0
        self.start_on_disks()
        for frame in self.frames:
            self.end(frame)
        self.frames, self.born = [], {}
        self.mirrors = [self.process() for _ in range(self.processes)]
        self.mirror = self.mirrors[0]

    def process(self):
        quorum = self.quorum and min(self.quorum, len(self.stores))
        mirror = MultiBackend(
            [Target(store.target, store) for store in self.stores],
            self.mode, quorum, read=self.read, journal=self.journal, laggard_timeout=self.late, buffer=64,
            _crew=Hands(self),
        )  # fmt: skip
        self.time += self.skew * 2
        skew = self.rng.choice((-self.skew, self.skew))
        mirror.journal._now, mirror.journal._draw = lambda: self.time + skew, lambda: f"{self.rng.getrandbits(48):012x}"
        self.born[mirror] = self.time
        return mirror

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
        context = copy_context()
        self.steps.append([self.time + delay, lambda: context.run(step), turn, wake, False])
        return turn

    def wait(self, seconds, wake):
        ready = [one for one in self.steps if one[0] <= self.time and not one[4]]
        if not ready:
            due = min((one[0] for one in self.steps if not one[4]), default=None)
            assert due is not None or seconds < 1e6, f"seed {self.seed}: nobody will ever wake this"
            self.time = min(self.time + seconds, due) if due is not None else self.time + seconds
            if due is None or due > self.time:
                return
            ready = [one for one in self.steps if one[0] <= self.time and not one[4]]
        self.advance(self.rng.choice(ready))
        if self.dead:
            raise Killed

    def advance(self, one):
        one[4] = True
        if not one[1]():
            self.steps.remove(one)
            one[2].over = True
            one[3].set()
        one[4] = False

    def run_out(self):
        """Whatever is under way comes to its end."""
        while self.steps:
            self.time += 1000
            self.advance(self.steps[0])

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def before(self, store, op):
        if self.dead:
            raise Killed
        if self.calm:
            return
        if store.down_until > self.time:
            self.fired["journal outage" if store is self.journal else "outage"] += 1
            raise BackendUnavailable("it is down")
        roll = self.rng.random()
        if store is self.journal:
            if roll < self.chance / 5:
                self.fired["journal"] += 1
                if roll < self.chance / 25:
                    store.down_until = self.time + self.rng.choice((20, 300))
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
        if store is not self.journal and op in ANSWERS and roll < self.chance:
            kind = self.rng.choice(("lost answer", "unknown"))
            self.fired[kind] += 1
            raise (BackendUnavailable if kind == "lost answer" else OutcomeUnknown)("the answer was lost")
        if self.kills and roll > 1 - self.chance / 5 and self.op in CHANGES:
            self.fired["killed"] += 1
            self.dead = True
            raise Killed

    def meanwhile(self):
        """Now and then another process does something whole in the middle of a call of this one."""
        if len(self.frames) != 1 or self.frames[0].inner or self.calm or self.dead or self.rng.random() > self.nests:
            return
        ours = self.mirror
        self.mirror = next(mirror for mirror in self.mirrors if mirror is not ours)
        self.did["nested"] += 1
        try:
            Context().run(self.run, self.rng.choices(OPS, WEIGHTS)[0])
        finally:
            self.mirror = ours

    # -- life ----------------------------------------------------------------------------------------------------------

    def live(self):
        gc.disable()  # what it finds would be aborted at any moment, and each abort is a roll of the dice
        try:
            with self.on_disks():
                self.pass_time()
        finally:
            gc.enable()
        return self

    def pass_time(self):
        for _ in range(self.rng.randint(5, 36)):
            self.time += self.rng.choice((0, 1, 60))
            op = self.rng.choice(SCENES) if self.rng.random() < 0.12 else self.rng.choices(OPS, WEIGHTS)[0]
            mirror, self.mirror = self.mirror, self.rng.choice(self.mirrors)
            self.time += self.skew * 2 * (mirror is not self.mirror)
            self.did["skewed"] += self.skew > 0
            self.did["basic"] += self.basic
            self.did["late"] += any(isinstance(store.inner, Late) for store in self.stores)
            limit = nullcontext()
            if self.slow and self.rng.random() < 0.3:
                limit = deadline(self.rng.choice((0.5, 5.0)), self)
            try:
                if op in SCENES:
                    self.did[op] += 1
                    getattr(self, op)()
                else:
                    with limit:
                        self.run(op)
            except Cancelled:
                self.fired["deadline"] += 1
            except Killed:
                self.open()
            self.nothing_is_torn()
        self.come_to_rest()

    def run(self, op):
        """One operation of the process ``mirror``."""
        faults = self.fired["journal"] + self.fired["journal outage"]
        frame, before = Frame(op, self.mirror, faults=faults), self.op
        if self.frames:
            self.frames[0].inner.append(frame)
        self.frames.append(frame)
        self.op = op
        self.did[op] += 1
        try:
            getattr(self, "do_" + op)()
        finally:
            self.op = before
            if frame in self.frames:
                self.end(frame)
                self.frames.remove(frame)
        return frame

    def come_to_rest(self):
        """When all is well again, one repair makes all targets alike, at what each path may hold."""
        self.hush()
        self.names_who_missed()
        self.open()
        self.lose_marks()
        done = self.mirror.repair(grace=0)
        waiting = self.tell_damaged(done.waiting)
        for entry, error in waiting:
            # Only what nobody can decide may wait: no target is known to be right, and they are of three minds.
            assert "agree" in str(error), f"seed {self.seed}: {entry} waits: {error!r}"
        undecided = {entry.path for entry, _ in waiting}
        self.is_at_rest(undecided)
        assert not self.entries() or undecided, f"seed {self.seed}: entries are left"
        while self.writers:
            self.writers.pop().abort()
        self.did["rest"] += 1
        self.did["undecided"] += len(undecided)


class Place(Faulty):
    """One store, with what goes wrong in this world."""

    def __init__(self, world, label, inner):
        super().__init__(inner)
        self.world, self.label, self.down_until = world, label, -1.0
        self.target = label  # its name in the mirror
        self.root = self.number = next(world.numbers)

    @property
    def url(self):
        return f"file:///disks/{self.label}/" if self.url_of_target else None

    @property
    def url_of_target(self):
        """Whether the mirror sees the URL: it does not where the store has the basic methods alone."""
        return self.label != "journal" and not isinstance(self.inner, BasicBackend)

    @property
    def is_mounted(self):
        return self.root == self.number

    def _call(self, op, run):
        if op != "abort" and self.world.rng.random() < 0.5:
            check(op)  # as a store does before a request; what is under way ends by itself
        self.world.log.append(f"{self.label} {op}")
        self.world.before(self, op)
        self.world.reached(self, op)
        if self.world.nests:
            self.world.meanwhile()
        answer = run()
        if op == "open_writer":
            self.world.writers.append(answer)
        self.world.after(self, op)
        return answer

    def holds(self, path):
        """The bytes of an object, None for nothing; whether a folder is there."""
        if path.endswith("/"):
            return path[:-1] in getattr(self.inner, "_folders", ())
        return self.inner.peek(path)

    def mark(self, path):
        """The user metadata of an object; None for none."""
        if isinstance(self.inner, BasicBackend):
            return None if self.inner.peek(path) is None else ""
        found = self.inner._objects.get(path)
        return None if found is None else found.info.metadata.get("mark", "")


__all__ = ["FAULTS", "OPS", "SCENES", "World"]
