"""Goals 9 and 10: a writer killed from outside at random moments loses nothing that it acknowledged, and delivers
nothing twice that it need not.

The oracle knows, for each number, which run wrote it last before it was safe; what is delivered must be exactly that.
"""

import json
import os
import pathlib
import random
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pytest

from omnistorage import LocalBackend, open_records
from omnistorage.segments import examine

from ..budget import pick
from ..servers import server
from .oracle import record, target

KILLS = pick(default=20, ci=200, soak=2000)
RECORDS = pick(default=8_000, ci=200_000, soak=1_000_000)
ZYGOTE = pathlib.Path(__file__).parent / "oracle.py"
CASES = [("deterministic", "interval"), ("deterministic", "record"), ("unique", "interval"), ("unique", "roll")]


class Oracle:
    """Starts writers, kills them, and remembers what they said."""

    def __init__(self, store, folder, **settings):
        self.store, self.settings = store, settings
        self.spool, self.pipe = str(folder / "spool"), str(folder / "pipe")
        os.mkfifo(self.pipe)
        self.opened, self.acked, self.unsure = [], -1, []

    def __enter__(self):
        self.zygote = subprocess.Popen(
            [sys.executable, ZYGOTE, "file" if isinstance(self.store, str) else "s3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        return self

    def __exit__(self, *exc):
        self.zygote.stdin.close()
        self.zygote.wait()
        self.zygote.stdout.close()

    def run(self, run, delay, **more):
        """One writer, which is killed ``delay`` seconds after it has opened the spool; None: it ends by itself."""
        whole = {"store": self.store, "spool": self.spool, "pipe": self.pipe, "run": run, **self.settings, **more}
        self.zygote.stdin.write(json.dumps(whole) + "\n")
        child = int(self.zygote.stdout.readline())
        with open(self.pipe, "rb", buffering=0) as said:
            heard = self._hear(said, child, delay)
        assert self.zygote.stdout.readline() == "gone\n"
        words = [line.split() for line in heard.split(b"\n")[:-1]]
        for word, number in words:
            if word == b"open":
                assert int(number) > self.acked, f"run {run} lost what was acknowledged: {self.acked}"
                self.opened.append(int(number))
            elif word == b"ack":
                self.acked = max(self.acked, int(number))
        return words[-1] if words else None

    def _hear(self, said, child, delay):
        heard = b""
        while delay is None or b"open" not in heard:
            block = said.read(1 << 16)
            if not block:
                return heard
            heard += block
        select.select([], [], [], delay)
        os.kill(child, signal.SIGKILL)
        while block := said.read(1 << 16):
            heard += block
        return heard

    def look(self):
        """What the killed one had not acknowledged to its spool yet may come again."""
        seen = examine(self.spool)
        assert (seen.damage, seen.open) == ([], False)
        self.unsure.append((seen.first, seen.first + seen.entries))

    def expected(self, total):
        """Who wrote each number."""
        ends = [*self.opened[1:], total]
        return {n: run for run, (a, b) in enumerate(zip(self.opened, ends, strict=True)) for n in range(a, b)}


def delivered(store):
    """The records of each object, by path."""
    found = {}
    for info in store.list():
        with open_records(store, info.path, "r") as reader:
            found[info.path] = list(reader)
    return found


def check(oracle, found, total, names):
    wrote = oracle.expected(total)
    copies = Counter(row["n"] for rows in found.values() for row in rows)
    assert sorted(copies) == list(range(total)), "every record, and none that nobody wrote"
    for rows in found.values():
        assert [row["n"] for row in rows] == sorted(row["n"] for row in rows), "in order within an object"
        for row in rows:
            assert row == record(row["n"], wrote[row["n"]]), "as it was acknowledged"
    if names == "deterministic":
        assert copies.total() == total, "and nothing twice"
        for key in range(3):
            got = [row["n"] for path in sorted(found) if path.startswith(f"{key}/") for row in found[path]]
            assert got == sorted(got), "in order within a partition"
    else:
        for number, count in copies.items():
            assert count <= 1 + sum(a <= number < b for a, b in oracle.unsure), number


def kill_loop(where, folder, names, fsync, kills, total, seed, patience=0.06):
    rng = random.Random(seed)
    settings = {"names": names, "fsync": fsync, "roll": max(20, total // 1000)}
    with Oracle(where, folder, **settings) as oracle:
        for run in range(kills):
            limit = total * (run + 1) // (kills + 1)
            oracle.run(run, rng.random() ** 2 * patience, limit=limit, last=False, seed=rng.random())
            oracle.look()
        assert oracle.run(kills, None, limit=total, last=True, seed=rng.random()) == [b"done", b"0"], f"seed {seed}"
    return oracle


@pytest.mark.parametrize(("names", "fsync"), CASES)
def test_goal_9_goal_10_kill_9_loses_nothing_acknowledged_and_doubles_only_what_it_must(tmp_path, names, fsync):
    kills, total = max(KILLS // len(CASES), 5), RECORDS // len(CASES)
    store = tmp_path / "store"
    store.mkdir()
    oracle = kill_loop(str(store), tmp_path, names, fsync, kills, total, seed=7)
    check(oracle, delivered(LocalBackend(store)), total, names)
    met = sum(end > first for first, end in oracle.unsure)
    assert met >= kills // 5, f"a spool that was not empty met the kill {met} times of {kills}"
    shutil.rmtree(store)


@pytest.mark.ci_only
@pytest.mark.parametrize("names", ["deterministic", "unique"])
def test_goal_9_goal_10_nor_does_it_into_an_s3_server(tmp_path, names):
    info = server("seaweedfs")
    where = {
        "bucket": info["bucket"],
        "endpoint_url": info["endpoint"],
        "access_key": info["access_key"],
        "secret_key": info["secret_key"],
        "vendor": "seaweedfs",
        "prefix": f"killed-{names}-{os.getpid()}",
    }
    kills, total = max(KILLS // 20, 10), RECORDS // 20
    oracle = kill_loop(where, tmp_path, names, "interval", kills, total, seed=11, patience=1.0)
    store = target(where)
    check(oracle, delivered(store), total, names)
    for path in [info.path for info in store.list()]:
        store.delete(path)
