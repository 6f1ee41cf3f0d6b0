"""What the sync engine never does, rules 5 to 7: overlaps, copies that are not whole or not of one moment."""

import random
import threading
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest

from omnistorage import ConfigError, CorruptData, LocalBackend, MemoryBackend, PreconditionFailed
from omnistorage.sync import Filter, Plan, copy, copy_file, move, move_file, sync
from omnistorage.wrappers import Prefix

from ..budget import pick
from ..waiting import LIMIT
from .safety_world import ALL
from .stores import (
    carry_out,
    day,
    errors,
    failing,
    fill,
    go,
    held,
    meanwhile,
    memory,
    put,
    replayed,
)

# --- 5. places that overlap -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [sync, copy, move])
def test_go_s3_places_that_overlap_are_refused(verb, tmp_path):
    root = fill(memory(), "a", "in/b")
    pairs = [
        (root, root),
        (root, Prefix(root, "in")),
        (Prefix(root, "in"), root),
        (Prefix(Prefix(root, "in"), "deeper"), Prefix(root, "in")),
        (LocalBackend(tmp_path), LocalBackend(tmp_path / "in")),
        (str(tmp_path), f"{tmp_path}/."),
    ]
    for src, dst in pairs:
        with pytest.raises(ConfigError, match=r"one place|overlap"):
            verb(src, dst)
    assert set(held(root)) == {"a", "in/b"}


def test_a_place_behind_a_symbolic_link_overlaps(tmp_path):
    (tmp_path / "real" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="one place"):
        sync(str(tmp_path / "real"), str(tmp_path / "link"))
    with pytest.raises(ConfigError, match="overlap"):
        sync(str(tmp_path / "real"), str(tmp_path / "link" / "in"))


def test_go_s3_root_and_rooty_do_not_overlap(tmp_path):
    both = fill(memory(), "root/a", "rooty/b")
    go(Prefix(both, "root"), Prefix(both, "rooty"), delete=True, max_delete="100%")
    assert set(held(both)) == {"root/a", "rooty/a"}
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").write_bytes(b"1")
    assert go(str(tmp_path / "root"), str(tmp_path / "rooty")).copied == 1


def test_an_inner_place_that_the_filter_excludes_is_no_overlap():
    root = fill(memory(), "a", "in/b")
    report = go(root, Prefix(root, "in"), filter=Filter.parse(["- /in/**"]), **ALL)
    assert set(held(root)) == {"a", "in/a"}
    assert report.deleted == 1
    with pytest.raises(ConfigError):
        Plan(root, Prefix(root, "in"), filter=Filter.parse(["- /in/**"]), delete_excluded=True, **ALL)


def test_sync_with_deletes_warns_where_nobody_knows_whether_places_overlap():
    class Nowhere(MemoryBackend):
        def __init__(self):
            super().__init__()
            self.url = None

    report = go(fill(Nowhere(), "a"), fill(Nowhere(), "a"), delete=True)
    assert any("overlap" in text for text in report.warnings)
    assert not go(fill(Nowhere(), "a"), fill(Nowhere(), "a")).warnings
    assert not go(fill(memory(), "a"), fill(memory(), "a"), delete=True).warnings


def test_go_s8_a_file_onto_itself_loses_nothing(tmp_path):
    store = fill(memory(), "a", "d/x")
    (tmp_path / "f").write_bytes(b"kept")
    for verb in (copy_file, move_file):
        verb(store, "a", store, "a")
        verb(Prefix(store, "d"), "x", store, "d/x")
        verb(str(tmp_path), "f", LocalBackend(tmp_path), "f")
    assert held(store) == {"a": b"data of a", "d/x": b"data of d/x"}
    assert (tmp_path / "f").read_bytes() == b"kept"


def test_go_s8_a_move_of_a_place_onto_itself_is_refused(store):
    both = fill(store(), "a")
    with pytest.raises(ConfigError, match="are one place"):
        move(both, both)
    assert set(held(both)) == {"a"}


def test_go_s8_a_file_moved_onto_a_link_to_itself_loses_nothing(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    move_file(str(tmp_path / "real"), "f", str(tmp_path / "link"), "f")
    (tmp_path / "real" / "g").symlink_to("f")
    move_file(str(tmp_path / "real"), "f", str(tmp_path / "real"), "g")
    assert (tmp_path / "real" / "f").read_bytes() == b"kept"


# --- 6. writes are whole and verified ---------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["open_reader", "read", "open_writer", "write", "close"])
def test_go_s6_a_failed_transfer_publishes_nothing_and_keeps_the_old(op, store):
    src, dst = memory(), store()
    put(src, "new", b"n" * 3_000_000, at=50)
    put(src, "old", b"o" * 3_000_000, at=50)
    put(dst, "old", b"before")
    sides = [failing(src, op, None), dst] if op in ("open_reader", "read") else [src, failing(dst, op, None)]
    report = go(*sides, raise_errors=False)
    assert held(dst) == {"old": b"before"}
    assert set(errors(report)) == {"new", "old"}


class Rotten(MemoryBackend):
    """Keeps one byte less than it is given."""

    def _put(self, path, data, options, op):
        return super()._put(path, data[:-1], options, op)


class Garbling(MemoryBackend):
    """Keeps other bytes than it is given, and states the digest of what it keeps."""

    def _put(self, path, data, options, op):
        from omnistorage.checksums import new_hash

        data = data[::-1]
        info = super()._put(path, data, replace(options, expect=None), op)
        digest = new_hash("md5")
        digest.update(data)
        info = info._replace(hashes={"md5": digest.hexdigest()})
        self._objects[path] = self._objects[path]._replace(info=info)
        return info


def test_go_s6_a_copy_of_another_size_is_removed_and_an_error(store):
    src, dst = fill(memory(), "a"), memory(Rotten)
    report = go(src, dst, raise_errors=False)
    assert dst._objects == {}
    assert isinstance(report.failures[0].error, CorruptData)


def test_a_copy_with_another_digest_is_removed_and_an_error():
    src, dst = Hashing(), memory(Garbling, hashes=frozenset({"md5"}))
    put(src, "a", b"abc")
    report = go(src, dst, raise_errors=False)
    assert dst._objects == {}
    assert isinstance(report.failures[0].error, CorruptData)


class Hashing(MemoryBackend):
    """States the digests named by ``stated`` of what it holds."""

    stated = ("md5",)

    def __init__(self, **options):
        super().__init__(**options)
        self.features = replace(self.features, hashes=frozenset(self.stated))

    def _put(self, path, data, options, op):
        from omnistorage.checksums import new_hash

        info = super()._put(path, data, options, op)
        found = {}
        for name in self.stated:
            running = new_hash(name)
            running.update(data)
            found[name] = running.hexdigest()
        info = info._replace(hashes=found)
        self._objects[path] = self._objects[path]._replace(info=info)
        return info


def test_bytes_that_are_not_those_of_the_stated_digest_are_never_published():
    src, dst = Hashing(), memory()
    put(src, "a", b"abc")
    src._objects["a"] = src._objects["a"]._replace(data=b"abd")
    report = go(src, dst, raise_errors=False)
    assert dst._objects == {}
    assert isinstance(report.failures[0].error, CorruptData)


def test_a_source_that_ends_early_is_never_published():
    src, dst = fill(memory(), "a"), memory()
    src._objects["a"] = src._objects["a"]._replace(data=b"dat")
    report = go(src, dst, raise_errors=False)
    assert dst._objects == {}
    assert isinstance(report.failures[0].error, CorruptData)


def test_no_temporary_name_is_left(tmp_path):
    src = fill(memory(), "a", "d/b")
    report = go(failing(src, "read", 2), str(tmp_path / "dst"), raise_errors=False)
    assert report.failed == 1
    left = [path.name for path in (tmp_path / "dst").rglob("*") if path.is_file()]
    assert len(left) == 1


# --- 7. a source that changes while it is read ------------------------------------------------------------------------


def test_goal_38_a_source_that_changes_while_it_is_read_is_not_published(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    rng = random.Random(38)
    changes = {
        "grows": lambda path: path.write_bytes(path.read_bytes() + b"x"),
        "shrinks": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "same size": lambda path: path.write_bytes(path.read_bytes()[::-1]),
        "replaced": lambda path: (path.with_name("tmp").write_bytes(b"other"), path.with_name("tmp").replace(path)),
        "gone": lambda path: path.unlink(),
    }
    for turn in range(60):
        dst = memory()
        file = source / "f"
        file.write_bytes(rng.randbytes(2_500_000))
        name = rng.choice(sorted(changes))
        at = rng.randrange(1, 4)
        src = meanwhile(LocalBackend(source), "read", partial(changes[name], file), at)
        report = go(src, dst, raise_errors=False, retries=0)
        assert held(dst) == {}, (turn, name, at)
        assert set(errors(report)) == {"f"}, (turn, name, at)
        for path in source.iterdir():
            path.unlink()


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_goal_38_a_source_replaced_between_plan_and_copy_is_reported(change, store):
    src, dst = fill(store(), "a", "b"), memory()
    plan = replayed(src, dst)
    if change == "replaced":
        src._now = lambda: day(300)
        put(src, "a", b"another one", at=3)
    else:
        src._remove("a")
    report = carry_out(plan, raise_errors=False)
    assert held(dst) == {"b": b"data of b"}
    assert isinstance(report.failures[0].error, PreconditionFailed)


def test_goal_38_a_file_that_is_written_while_it_is_read_is_never_half_seen(tmp_path):
    """Somebody rewrites the blocks of a file in an order of his own, again and again: what is published is what the
    file was at one moment, some blocks of a version and the others of the version before."""
    source, file = tmp_path / "src", tmp_path / "src" / "f"
    source.mkdir()
    count, step = 40, 100_000
    order = random.Random(38).sample(range(count), count)
    file.write_bytes(b"0" * count * step)
    stop = threading.Event()

    def write():
        number = 0
        with open(file, "r+b", buffering=0) as raw:
            while not stop.is_set():
                number = (number + 1) % 10
                for at in order:
                    raw.seek(at * step)
                    raw.write(str(number).encode() * step)

    def is_one_moment(data):
        seen = [int(data[at * step : at * step + 1]) for at in order]
        changes = sum(one != other for one, other in pairwise(seen))
        return changes == 0 or (changes == 1 and (seen[0] - seen[-1]) % 10 == 1)

    writer = threading.Thread(target=write)
    writer.start()
    detected = rounds = 0
    end = time.monotonic() + LIMIT
    try:
        while rounds < pick(default=20, ci=400, soak=1_000) or (detected <= 5 and time.monotonic() < end):
            rounds += 1
            dst = memory()
            report = sync(LocalBackend(source), dst, raise_errors=False, retries=0)  # by the real clock
            detected += report.failed
            assert all(is_one_moment(data) for data in held(dst).values())
    finally:
        stop.set()
        writer.join()
    assert detected > 5
