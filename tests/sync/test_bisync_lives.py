"""bisync killed, simulated, and between real places."""

import os
from collections import Counter
from pathlib import Path

from omnistorage import LocalBackend, PreconditionFailed, ops
from omnistorage.sync import bisync

from ..backends import test_s3
from ..budget import pick
from . import replicas
from .replicas import Replicas
from .stores import Acting, fill, held, meanwhile, memory, put
from .two_sides import SEEDS, Two, conflict

EACH = pick(default=10, ci=100, soak=100)  # what happens in all seeds together, at least

# --- kills and simulations -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


class Mortal(Acting):
    """Answers no more once its world has ended."""

    def __init__(self, inner, world):
        super().__init__(inner, world.step)


class World:
    def __init__(self, at):
        self.at, self.calls = at, 0

    def step(self, op, number):
        self.calls += 1
        if self.calls >= self.at:
            raise Killed


def scene():
    """Something of everything is to be done."""
    two = Two(memory(dirs=False), memory())
    fill(two.a, "always", "x", "y", "z", "d/1", "d/2")
    two.go()
    conflict(two)
    put(two.a, "new a", "new")
    put(two.b, "new b", "new")
    two.a.delete("y")
    two.b.delete("z")
    put(two.b, "d/1", "changed", at=2)
    return two


def test_a_run_that_is_killed_at_any_call_is_gone_on_with_by_the_next_one():
    """In the default run at every third call."""
    at = 0
    while True:
        at += pick(default=3, ci=1, soak=1)
        two, world = scene(), World(at)
        wanted = set(held(two.a).values()) | set(held(two.b).values()) - {b"data of y", b"data of z", b"data of d/1"}
        wanted -= {b"data of y", b"data of z", b"data of d/1"}
        places = {name: Mortal(getattr(two, name), world) for name in ("a", "b", "state")}
        try:
            two.go(**places)
            break
        except Killed:
            pass
        two.clock.time += 3600
        assert two.go().ok, at
        found = two.both()
        assert wanted == {data.encode() for data in found.values()}, at
        assert not {"y", "z"} & set(found), at
        two.does_nothing()
        put(two.a, "later", "later")
        assert two.go().ok, at
        assert len([path for path in held(two.state) if path.endswith(".ndjson")]) == 2, "listings are left behind"
    assert at > 100


def test_no_edit_is_lost_whatever_goes_wrong():
    fired, did = Counter(), Counter()
    for seed in range(SEEDS):
        world = Replicas(seed).live()
        fired += world.fired
        did += world.did
    assert {kind for kind in replicas.FAULTS if fired[kind] < EACH // 2} == set(), fired
    assert did["conflicts"] >= EACH
    assert did["deletions"] >= EACH
    assert did["failures"] >= EACH
    assert did["good runs"] >= SEEDS


# --- real places -----------------------------------------------------------------------------------------------------


def lives(a, b, state):
    """One pair through its life; the sides are backends."""

    def run(**more):
        return bisync(a, b, state=state, max_delete=100, **more)

    def same():
        assert held(a) == held(b)
        return {path: data.decode() for path, data in held(a).items()}

    for path in ("x", "d/y", "d/ä b"):
        ops.write_bytes(a, path, f"data of {path}".encode())
    ops.write_bytes(b, "z", b"data of z")
    assert run().changes == 4
    assert run().changes == 0
    ops.write_bytes(a, "x", b"changed")
    b.delete("z")
    report = run()
    assert (report.to_path2, report.deleted_path1, report.changes) == (1, 1, 2)
    assert run().changes == 0
    ops.write_bytes(a, "d/y", b"left side")
    ops.write_bytes(b, "d/y", b"right")
    assert run(conflict="path2").conflicted == 1
    assert same() == {"x": "changed", "d/y": "right", "d/ä b": "data of d/ä b"}
    ops.write_bytes(a, "x", b"one")
    ops.write_bytes(b, "x", b"other")
    run()
    assert {"one", "other"} <= set(same().values())
    report = run()
    assert (report.changes, report.conflicted, report.unchanged) == (0, 0, 4)


def test_two_local_folders(tmp_path):
    lives(LocalBackend(tmp_path / "a"), LocalBackend(tmp_path / "b"), tmp_path / "state")


def test_a_local_folder_and_a_bucket(tmp_path):
    bucket, state = test_s3.fresh("seaweedfs"), test_s3.fresh("seaweedfs")
    lives(LocalBackend(tmp_path / "a"), bucket, state)


def test_a_bucket_and_a_bucket(tmp_path):
    lives(test_s3.fresh("seaweedfs"), test_s3.fresh("seaweedfs"), tmp_path / "state")


def test_a_local_folder_and_a_store_that_says_no_more_than_a_basic_one(tmp_path):
    from omnistorage.testing import BasicBackend

    lives(LocalBackend(tmp_path / "a"), BasicBackend(), tmp_path / "state")


def test_a_file_that_is_written_to_in_place_is_a_change(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "x").write_text("one")
    places = {"a": tmp_path / "a", "b": tmp_path / "b", "state": tmp_path / "state"}
    bisync(**places)
    os.utime(tmp_path / "b" / "x", ns=(1, 1))
    Path(tmp_path / "b" / "x").write_text("two")
    bisync(**places)
    assert (tmp_path / "a" / "x").read_text() == "two"


def test_large_objects_are_copied_by_the_store_itself_and_known_again():
    two = Two()
    put(two.a, "large", b"x" * (1 << 21), at=1)
    put(two.b, "other", b"y" * (1 << 21), at=1)
    two.go()
    assert two.does_nothing().unchanged == 2


def test_a_lost_condition_is_an_error_of_its_own(two):
    put(two.a, "x", "changed", at=2)
    report = two.go(a=meanwhile(two.a, "open_reader", lambda: put(two.a, "x", "and again", at=3)), raise_errors=False)
    assert isinstance(report.failures[0].error, PreconditionFailed)
    assert two.go().changes == 1
    assert two.both()["x"] == "and again"
