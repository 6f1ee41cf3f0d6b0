"""Goals 10 and 33, whatever happens: lives of a spool with a store and a disk that fail now and then, ended in every
way, and in each of them other limits. At the end everything that was taken is there, in order, and nothing that nobody
wrote. First as a simulation, whose every seed replays; then with real threads."""

from __future__ import annotations

import errno
import gc
import logging
import os
import random
import tempfile
import warnings
import weakref
from collections import Counter

import pytest

from omnistorage import BackendUnavailable, MemoryBackend, StorageError
from omnistorage.concurrency.retry import Backoff
from omnistorage.core import WRITE
from omnistorage.delivery import RollingRecordWriter, Spool
from omnistorage.testing.os_faults import FaultyOS
from omnistorage.wrappers.base import Wrapper

from ..budget import pick
from ..waiting import LIMIT
from .conftest import contents
from .simulation import FAULTS, World

SEEDS = range(pick(default=10, ci=100, soak=6000))  # with threads and waits as they are; ``World`` has neither
SHARDS = pick(default=1, ci=5, soak=5)
SIMULATED = pick(default=100, ci=1500, soak=100_000)
EACH = pick(default=3, ci=15, soak=1000)  # how often each kind of fault happens in a shard, at least
REPLAYED = pick(default=10, ci=40, soak=40)
FIRED = Counter()


@pytest.fixture
def quiet():
    """What a failing store makes us log is not what is tested."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("names", ["deterministic", "unique"])
@pytest.mark.parametrize("shard", range(SHARDS))
def test_goal_33_no_seed_loses_changes_or_invents_a_record_of_a_spool(names, shard):
    fired, kinds = Counter(), {*FAULTS} - ({"read"} if names == "unique" else {"counted"})
    for seed in range(shard, SIMULATED, SHARDS):
        fired += World(seed, names).live().fired
    for kind in kinds:
        assert fired[kind] >= EACH, (kind, fired)


@pytest.mark.usefixtures("quiet")
def test_goal_33_a_seed_of_a_spool_replays_byte_for_byte():
    for seed in range(REPLAYED):
        for names in ("deterministic", "unique"):
            first, second = World(seed, names).live().log, World(seed, names).live().log
            assert first == second, (seed, names)
            assert len(first) > 20, (seed, names)


class Moody(Wrapper):
    """Fails to open and to publish now and then; what it published it sometimes says it did not.

    The ``first`` calls fail whatever the seed says, so that each kind of fault happens however slow the machine is.
    """

    def __init__(self, inner, rng, share, names, first=()):
        super().__init__(inner)
        self.rng, self.share, self.names, self.first = random.Random(rng.random()), share, names, {*first}

    def _fails(self, what):
        if what in self.first:
            self.first.remove(what)
        elif self.rng.random() >= self.share:
            return
        FIRED[what] += 1
        raise BackendUnavailable(f"injected: {what}")

    def open_writer(self, path, options=WRITE):
        self._fails("open")
        writer = self.inner.open_writer(path, options)
        close = writer.close

        def publish():
            try:
                self._fails("close")
            except BackendUnavailable:
                writer.abort()
                raise
            info = close()
            if self.names == "deterministic":  # a lost answer; with unique names it is what at least once means
                self._fails("answer")
            return info

        writer.close = publish
        return writer


class Disk(FaultyOS):
    """Has no room now and then; syncs nothing, as no power is cut here."""

    def __init__(self, rng, share):
        super().__init__(error=errno.ENOSPC)
        self.rng, self.share = rng, share
        self.fsync = lambda fd: None

    def _call(self, name, real, args, kwargs):
        if name == "write" and self.rng.random() < self.share:
            FIRED["disk"] += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)


SHAPES = {
    "deterministic": {"template": "{k}/{start:05d}.ndjson", "names": "deterministic"},
    "unique": {"template": "{k}/{seq:05d}.ndjson"},
}


def live(rng, store, folder, names, taken, last):
    """One writer's life. Adds to ``taken`` what it took; returns what was acknowledged."""
    share = 0 if last else rng.choice([0, 0.1, 0.3])
    disk = Disk(rng, 0 if last else rng.choice([0, 0.1, 0.2]))
    max_bytes = rng.choice([4096, 1 << 20])
    spool = Spool(
        folder,
        max_bytes=max_bytes,
        segment_bytes=rng.choice([200, 1000]),
        fsync=rng.choice(["record", "interval", "roll"]),
        fsync_interval=0.001,
        when_full="raise" if max_bytes == 4096 else "block",
        close_timeout=LIMIT if last else rng.choice([0.001, 0.05]),
        backoff=Backoff(base=0.0005, cap=0.002),
        _os=disk,
    )
    try:
        writer = RollingRecordWriter(
            Moody(store, rng, share, names, ("open", "close") if last else ()),
            spool=spool,
            roll_records=rng.randrange(1, 9),
            max_open=rng.choice([1, 3]),
            **SHAPES[names],
        )
    except StorageError:
        return -1
    acknowledged = writer.durable
    for _ in range(rng.randrange(0, 60)):
        try:
            match rng.randrange(12):
                case 0:
                    acknowledged = writer.flush()
                case 1:
                    batch = [record(len(taken) + n) for n in range(rng.randrange(1, 9))]
                    before = writer.progress.taken
                    try:
                        writer.write_many(batch)
                    finally:
                        taken.extend(batch[: writer.progress.taken - before])
                case 2 if rng.random() < 0.3:
                    writer.roll()
                case _:
                    made = record(len(taken))
                    number = writer.write(made)
                    assert number == len(taken)
                    taken.append(made)
        except StorageError:
            pass
    acknowledged = max(acknowledged, writer.durable)
    try:
        match "close" if last else rng.choice(["close", "close", "abort", "drop"]):
            case "close":
                writer.close()
            case "abort":
                writer.abort()
            case _:
                thread, front = writer._front._thread, weakref.ref(writer._front)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    del writer
                assert front() is None, gc.get_referrers(front())
                thread.join(LIMIT)
                assert not thread.is_alive()
    except StorageError:
        pass
    return acknowledged


def record(number):
    return {"k": "ab"[number * number % 3 % 2], "n": number, "pad": "x" * (number * 31 % 50)}


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("names", ["deterministic", "unique"])
def test_goal_10_whatever_fails_and_however_it_ends_a_spool_delivers_what_it_took_in_order(names):
    FIRED.clear()
    for seed in SEEDS:
        rng, store, taken = random.Random(seed), MemoryBackend(), []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(rng.randrange(1, 5)):
                acknowledged = live(rng, store, folder, names, taken, last=False)
                # What was taken and not acknowledged may be gone, with a disk that failed at the end.
                with RollingRecordWriter(store, spool=Spool(folder, close_timeout=0.001), **SHAPES[names]) as probe:
                    kept = probe.durable + 1
                    probe.abort()
                assert acknowledged < kept <= len(taken), f"seed {seed}"
                del taken[kept:]
            live(rng, store, folder, names, taken, last=True)
        found = contents(store)
        got = Counter(row["n"] for rows in found.values() for row in rows)
        assert sorted(got) == list(range(len(taken))), f"seed {seed}"
        for key in "ab":
            rows = [row for path in sorted(found) if path.startswith(key) for row in found[path]]
            assert all(row == taken[row["n"]] for row in rows), f"seed {seed}"
            if names == "deterministic":
                assert [row["n"] for row in rows] == [row["n"] for row in taken if row["k"] == key], f"seed {seed}"
    assert min(FIRED[what] for what in ("open", "close", "disk")) >= len(SEEDS) / 2, FIRED
