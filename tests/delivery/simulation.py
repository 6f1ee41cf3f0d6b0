"""A spool and its store in a small world that one seed decides: lives of a writer, faults, outages, kills, and in which
order what runs beside the caller gets its turns.

One thread, a virtual clock, a store in memory, and a folder on the disk whose every call may fail, write less than it
was given, or be the last one of its process. ``World(seed, names).live()`` runs it and raises ``AssertionError`` with
the seed in it if a promise is broken; ``log`` holds every call of the caller, the disk and the store, which two runs of
one seed have in common byte for byte.
"""

import errno
import hashlib
import heapq
import itertools
import os
import random
import tempfile
import warnings
from collections import Counter
from datetime import UTC, datetime, timedelta

from omnistorage import BackendUnavailable, MemoryBackend, StorageError, ops
from omnistorage.concurrency.retry import Backoff
from omnistorage.core import READ, WRITE
from omnistorage.core.lifecycle import Publishes
from omnistorage.delivery import RollingRecordWriter, Spool
from omnistorage.delivery.executor import Crew
from omnistorage.errors import AlreadyExists, NotFound
from omnistorage.testing.os_faults import FaultyOS
from omnistorage.wrappers.base import Wrapper

from .conftest import contents
from .power import Platter

START = datetime(2026, 1, 1, tzinfo=UTC)
FAULTS = (
    "open", "exists", "read", "close", "answer", "outage", "short",  # of the store
    "disk full", "short write", "no thread", "no tick",
    "killed at the disk", "killed at the store", "power cut", "left alone", "aborted", "counted",
)  # fmt: skip


READS = ("stat", "fstat", "pread", "flock", "mkdir", "fchmod")


class Killed(BaseException):
    """The process is gone."""


class Turn:
    """What delivers, step by step; ``join`` and ``is_alive`` are those of a thread."""

    def __init__(self, process, steps):
        self.process, self.steps, self.wake = process, steps(), None
        self.busy = self.over = False

    @property
    def ready(self):
        return not (self.busy or self.over) and (self.wake is None or self.wake.is_set())

    def go(self):
        self.busy = True
        try:
            self.wake = next(self.steps, None)
            self.over = self.wake is None
        finally:
            self.busy = False

    def join(self, patience=None):
        while not self.over and not self.process.dead:
            self.process.step()

    def is_alive(self):
        return not self.over


class Process(Crew):
    """One process: its threads, which take turns on this one, its timer, its disk, its way to the store, its end."""

    def __init__(self, world, calm):
        self.world, self.rng, self.calm = world, world.rng, calm
        self.dead = False
        self.turns, self.works, self.tasks, self.timers, self.order = [], [], [], [], itertools.count()
        self.commits = set()
        self.disk, self.place = Disk(self), Place(self)
        self.share = 0 if calm else self.rng.choice((0.02, 0.1, 0.25))
        self.full = 0 if calm else self.rng.choice((0, 0.05, 0.2))
        self.kills = 0 if calm else self.rng.choice((0, 0.004, 0.02, 0.05))
        self.down_until = self.rng.choice((-1.0, 1e6)) if world.full == "drop_oldest" and not calm else -1.0

    # -- crew ----------------------------------------------------------------------------------------------------------

    def deliver(self, steps):
        self.turns.append(Turn(self, steps))
        return self.turns[-1]

    def publish(self, work):
        if self.fails("no thread", self.share / 2):
            raise RuntimeError("can't start new thread")
        self.works.append(work)
        self.commits.add(work.__self__)

    def spawn(self, task):
        if self.fails("no tick", self.share):
            return False
        self.tasks.append(task)
        return True

    def until(self, changed, holds):
        while not holds() and not self.dead:
            assert self.works, f"seed {self.world.seed}: nobody will ever publish what is waited for"
            self.work()

    def wait(self, wake, op, path=None):
        while not wake.is_set():
            self.step()

    def beside(self, call, patience):
        call()

    def work(self):
        self.works.pop(self.rng.randrange(len(self.works)))()

    def step(self, *, idle=False):
        """One turn of somebody, or a moment later. ``idle``: there may be nothing to do."""
        ready = [turn.go for turn in self.turns if turn.ready] + [self.work] * len(self.works)
        if self.tasks:
            ready.append(lambda: self.tasks.pop(0)())
        soon = bool(self.timers) and self.timers[0][0] < self.world.time + 1000
        if ready and not (soon and self.rng.random() < 0.05):
            self.rng.choice(ready)()
        elif self.timers:
            due, _, call = heapq.heappop(self.timers)
            self.world.time = max(self.world.time, due)
            call()
        else:
            assert ready or idle, f"seed {self.world.seed}: nobody will ever wake this"
        if self.dead:
            raise Killed

    # -- timer ---------------------------------------------------------------------------------------------------------

    def now(self):
        return self.world.time

    def at(self, due, call):
        heapq.heappush(self.timers, (due, next(self.order), call))

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def fails(self, kind, share):
        if self.calm or self.dead or self.rng.random() >= share:
            return False
        self.world.fired[kind] += 1
        return True

    def may_die(self, where, times=1):
        """At any call; whatever comes behind it does nothing more."""
        if self.dead or self.fails(where, times * self.kills):
            self.die()
            raise Killed

    def die(self):
        self.dead = True
        for fd in self.disk.fds:
            os.close(fd)
        self.disk.fds.clear()

    def bury(self, writer):
        """Nothing of it does anything any more; let go of what it held without a word."""
        self.calm, front = True, writer._front
        front._state = "aborted"
        engine = front._drain.engine
        if engine is not None:
            engine._state = "aborted"
            engine._objects.abort()
            self.commits.add(engine._commits)
        for commits in self.commits:
            commits.leave(StorageError("killed"))  # or the end of the program would wait for it
            commits.give_up()
        front._drain.stop()
        for turn in self.turns:
            if not turn.busy:
                turn.steps.close()


class Disk(FaultyOS):
    """Tells the platter of all changes, and syncs nothing but that."""

    def __init__(self, process):
        super().__init__()
        self.process, self.fds, self.platter = process, {}, process.world.platter

    def _call(self, name, real, args, kwargs):
        process = self.process
        if process.dead:
            if name == "close":
                return None  # it was, when the process died
            raise Killed
        process.world.log.append(name)
        if name == "write":
            args = (args[0], self._cut(args[1]))
        process.may_die("killed at the disk")
        result = None if name == "fsync" else real(*args, **kwargs)
        if name == "scandir":
            return result  # or nobody would close it
        before = len(self.platter.names)
        self._note(name, args, result)
        process.may_die("killed at the disk", 10 if len(self.platter.names) > before else 1)
        return result

    def _note(self, name, args, result):
        match name:
            case "open":
                path, flags, *_ = args
                self.fds[result] = self.platter.created(path) if flags & os.O_CREAT else self.platter.names.get(path)
            case "close":
                del self.fds[args[0]]
            case "write":
                self.fds[args[0]].changes.append((os.lseek(args[0], 0, os.SEEK_CUR) - result, bytes(args[1][:result])))
            case "ftruncate":
                self.fds[args[0]].changes.append((args[1], None))
            case "unlink":
                self.platter.removed(args[0])
            case "fsync":
                self.platter.synced(self.fds[args[0]])
            case _:
                assert name in READS, name

    def _cut(self, data):
        """How much of it is written: a kill or a full disk may come in the middle."""
        process = self.process
        if process.fails("disk full", process.full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if len(data) > 1 and process.fails("short write", process.share / 2):
            return data[: process.rng.randrange(1, len(data))]
        return data


class Place(Wrapper):
    """The way to the store."""

    def __init__(self, process):
        super().__init__(process.world.store)
        self.process = process

    def before(self, op, path):
        process = self.process
        process.world.log.append(f"{op} {path}")
        while process.works and process.rng.random() < 0.4:  # others publish meanwhile
            process.work()
        process.may_die("killed at the store", 4)
        if process.down_until > process.now():
            raise BackendUnavailable("it is down", path=path)
        if process.fails("outage", process.share / 8):
            process.down_until = process.now() + process.rng.choice((1, 60, 3600))
        if process.fails(op, process.share * 3 if op in ("read", "close") else process.share):
            raise BackendUnavailable(f"injected: {op}", path=path)

    def exists(self, path):
        self.before("exists", path)
        return self.inner.exists(path)

    def open_reader(self, path, options=READ):
        self.before("read", path)
        return self.inner.open_reader(path, options)

    def open_writer(self, path, options=WRITE):
        self.before("open", path)
        if not options.overwrite and self.inner.exists(path):
            raise AlreadyExists("an object has this name", path=path)
        return Out(self, path, options)


class Out(Publishes):
    """Nothing is at the store before it is closed."""

    instant, result = True, None

    def __init__(self, place, path, options):
        self.place, self.path, self.options, self.data = place, path, options, bytearray()

    def write(self, data):
        self.data += data
        return len(data)

    def flush(self):
        pass

    def prepare(self):
        pass

    def abort(self):
        pass

    def close(self):
        place, process = self.place, self.place.process
        place.before("close", self.path)
        if process.fails("short", process.share * 0.7):
            del self.data[-1:]
        self.result = ops.write_bytes(process.world.store, self.path, bytes(self.data), self.options)
        process.world.log.append(f"holds {self.path} {bytes(self.data)!r}")
        process.may_die("killed at the store", 4)
        if len(self.data) == self.result.size and process.fails("answer", process.share * 0.8):
            raise BackendUnavailable("injected: the answer is lost", path=self.path)
        return self.result


def record(number):
    return {"k": "ab"[number * number % 3 % 2], "n": number, "pad": "x" * (number * 31 % 50)}


class World:
    def __init__(self, seed, names):
        self.seed, self.names, self.rng = f"{seed} {names}", names, random.Random(seed)
        self.time, self.log, self.fired = 0.0, [], Counter()
        self.platter = Platter()
        self.full = "drop_oldest" if names == "unique" and self.rng.random() < 0.5 else "raise"
        self.gone, self.dropped = set(), 0  # numbers that were dropped; how many the last process counted, if it lived
        self.store = MemoryBackend(now=self.date)
        self.taken = []  # records
        self.trying = []  # and those that may have been taken when the process died
        self.acknowledged = self.told = -1  # what was, and what the caller knows of
        self.wrong = []  # objects that were told to be published, and were not there as they were told

    def date(self):
        return START + timedelta(seconds=self.time)

    def live(self):
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
            for _ in range(self.rng.randrange(2, 7 if self.full == "raise" else 4)):
                self.process(folder, calm=False)
            self.process(folder, calm=True)
        self.check()
        return self

    def process(self, folder, *, calm):
        process, writer = Process(self, calm), None
        try:
            writer = self.opened(process, folder)
            self.kept(writer.durable + 1)
            self.missed(writer._front._folder.acked)
            for _ in range(0 if calm else self.rng.randrange(120 if self.full == "drop_oldest" else 15)):
                self.did(process, writer)
            self.acknowledged = max(self.acknowledged, writer.durable)
            self.end(process, writer)
        except Killed:
            pass
        except StorageError as error:  # it could not be opened, or closed
            self.log.append(type(error).__name__)
            if calm:
                raise AssertionError(f"seed {self.seed}: nothing fails any more, and yet: {error}") from error
            if writer is not None:
                process.calm = True
                writer.abort()
        if writer is not None:
            self.dropped = None if process.dead else writer.progress.dropped
        if process.dead and writer is not None:
            self.acknowledged = max(self.acknowledged, self.told)
            process.bury(writer)
        if process.dead and self.rng.random() < 0.5:
            self.fired["power cut"] += 1
            self.platter.cut(folder, self.rng)

    def opened(self, process, folder):
        rng = self.rng
        small = (rng.random() < 0.3 or self.full == "drop_oldest") and not process.calm
        spool = Spool(
            folder,
            max_bytes=4096 if small else 1 << 20,
            segment_bytes=rng.choice((200, 1000)),
            fsync=rng.choice(("record", "interval", "roll")),
            when_full=self.full if small else "block",
            close_timeout=1e9 if process.calm else rng.choice((0.5, 100.0)),
            backoff=Backoff(draw=rng.random),
            _os=process.disk,
        )
        shape = {"template": "{k}/{start:05d}.ndjson", "names": "deterministic"}
        if self.names == "unique":
            shape = {"template": "{k}/{seq:05d}.ndjson", "roll_age": rng.choice((None, 5.0))}
            shape["roll_idle"] = rng.choice((None, 3.0))
        return RollingRecordWriter(
            process.place,
            spool=spool,
            roll_records=rng.randrange(1, 9),
            max_open=rng.choice((1, 3)),
            timer=process,
            now=self.date,
            on_commit=self.published,
            _crew=process,
            **shape,
        )

    def published(self, entry):
        try:
            holds = hashlib.sha256(ops.read_bytes(self.store, entry.path)).hexdigest()
        except NotFound:
            holds = None
        if holds != entry.sha256:
            self.wrong.append(entry)

    def kept(self, count):
        """A process finds ``count`` records: all that were acknowledged, and none that nobody wrote."""
        assert self.acknowledged < count <= len(self.taken) + len(self.trying), f"seed {self.seed}"
        self.taken = (self.taken + self.trying)[:count]
        self.trying = []

    def missed(self, acked):
        """What the store lacks of that which the spool no longer holds was dropped, and counted by who lived on."""
        if self.full != "drop_oldest":
            return
        gone = set(range(acked + 1)) - {row["n"] for rows in contents(self.store).values() for row in rows} - self.gone
        assert len(gone) <= (len(gone) if self.dropped is None else self.dropped), f"seed {self.seed}: {gone}"
        self.fired["counted"] += self.dropped is not None and len(gone) > 0
        self.gone |= gone

    def did(self, process, writer):
        rng = self.rng
        self.told = writer.durable
        op = rng.randrange(12)
        self.log.append(f"op {op} {self.told} {writer.progress.spooled}")
        try:
            match op:
                case 0:
                    self.told = max(self.told, writer.flush())
                case 1:
                    self.wrote(writer, [record(len(self.taken) + n) for n in range(rng.randrange(1, 9))])
                case 2 if rng.random() < 0.3:
                    writer.roll()
                case 3 | 4 | 5 | 6:
                    for _ in range(rng.randrange(1, 9)):
                        process.step(idle=True)
                case _:
                    self.trying = [record(len(self.taken))]
                    assert writer.write(self.trying[0]) == len(self.taken), f"seed {self.seed}"
                    self.taken += self.trying
                    self.trying = []
        except StorageError as error:
            self.log.append(type(error).__name__)
            self.trying = []

    def wrote(self, writer, batch):
        before, self.trying = writer.progress.taken, batch
        try:
            writer.write_many(batch)
        except Killed:
            raise
        except StorageError:
            self.taken += batch[: writer.progress.taken - before]
            raise
        self.taken += batch
        self.trying = []

    def end(self, process, writer):
        how = "close" if process.calm else self.rng.choice(("close", "close", "abort", "drop"))
        self.log.append(how)
        if how == "close":
            final = writer.close()
            assert not process.calm or final.spooled == 0, f"seed {self.seed}: {final}"
        elif how == "abort":
            self.fired["aborted"] += 1
            writer.abort()
        else:
            self.fired["left alone"] += 1
            drain = process.turns[-1]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                writer._front.__del__()
            drain.join()

    def check(self):
        """Everything that was taken is there, as it was, and nothing else; once and in order where that is promised."""
        assert self.wrong == [], f"seed {self.seed}"
        found = contents(self.store)
        rows = {key: [row for path in sorted(found) if path[0] == key for row in found[path]] for key in "ab"}
        self.missed(len(self.taken) - 1)
        everything = {row["n"] for one in rows.values() for row in one}
        assert everything == set(range(len(self.taken))) - self.gone, f"seed {self.seed}"
        for key in "ab":
            assert all(row == self.taken[row["n"]] for row in rows[key]), f"seed {self.seed}"
            if self.names == "deterministic":
                assert rows[key] == [row for row in self.taken if row["k"] == key], f"seed {self.seed}"
