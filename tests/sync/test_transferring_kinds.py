"""Renames, runs without a listing, moves, single files; and everything failing once."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from omnistorage import BackendUnavailable, ConfigError, LocalBackend, MemoryBackend, NotFound, OutcomeUnknown, ops
from omnistorage.core import WriteOptions
from omnistorage.sync import Filter, Plan, SyncOptions, check, copy_file, move_file, run, sync
from omnistorage.wrappers import Prefix

from .simulation import Inline
from .stores import (
    Acting,
    blind,
    bucket,
    carry_out,
    day,
    errors,
    failing,
    fill,
    go,
    held,
    meanwhile,
    memory,
    planned,
    put,
    replayed,
)
from .test_comparing import Hashing
from .transfer_world import ALL, MIB, Counting

# --- renames ----------------------------------------------------------------------------------------------------------


def test_track_renames_renames_instead_of_copying():
    src, dst = memory(), memory()
    put(src, "new/name", b"the very same", at=3)
    put(src, "other", b"another", at=4)
    put(dst, "old/name", b"the very same", at=3)
    for strategy in ("modtime", "modtime,leaf", "hash", "hash,modtime,leaf"):
        copied = memory()
        for path, found in dst._objects.items():
            put(copied, path, found.data, at=3)
        settings = {"track_renames": strategy, "checksum": "strict" if "hash" in strategy else False}
        assert ("rename", "new/name") in planned(src, copied, **ALL, **settings)
        report = go(src, copied, **ALL, **settings)
        assert held(copied) == held(src)
        assert (report.renamed, report.copied, report.deleted) == (1, 1, 0)


def test_track_renames_takes_only_what_is_the_same():
    src, dst = memory(), memory()
    put(src, "new", b"this one", at=3)
    put(dst, "old", b"that one", at=5)
    assert {kind for kind, _ in planned(src, dst, track_renames="modtime", **ALL)} == {"copy", "delete"}
    put(dst, "old", b"that one", at=3)
    assert {kind for kind, _ in planned(src, dst, track_renames="modtime,leaf", **ALL)} == {"copy", "delete"}
    assert {kind for kind, _ in planned(src, dst, track_renames="hash", checksum="strict", **ALL)} == {
        "copy",
        "delete",
    }


@pytest.mark.parametrize("strategy", ["leaf", "modtime"])
def test_a_time_that_is_only_close_vouches_for_no_rename(tmp_path, strategy):
    """A rename sets the time of the source, so no later run would notice other content."""
    src, dst = LocalBackend(tmp_path / "a"), LocalBackend(tmp_path / "b")
    put(src, "new/f", b"this one", at=1)
    put(dst, "old/f", b"that one", at=1)
    os.utime(tmp_path / "b" / "old" / "f", (day(1).timestamp() + 0.5,) * 2)
    go(src, dst, track_renames=strategy, modify_window=timedelta(seconds=1), **ALL)
    assert held(dst) == {"new/f": b"this one"}


@pytest.mark.parametrize("strategy", ["leaf", "modtime", "modtime,leaf"])
@pytest.mark.parametrize("metadata", [True, False])
def test_a_rename_in_a_bucket_is_verified_or_copied(strategy, metadata):
    """The upload is newer than the source, so no later run would look at it again."""
    src, dst = memory(), bucket(metadata=metadata, copy=False)
    for path in ("xy/d", "same/e", "keep"):
        put(src, path, f"444 of {path[-1]}", at=1)
    go(src, dst, **ALL)
    for path in ("xy/d", "same/e"):
        src.delete(path)
    put(src, "new/d", b"333 of d", at=2)
    put(src, "new/e", b"444 of e", at=1)
    report = go(src, dst, track_renames=strategy, **ALL)
    assert held(dst) == held(src)
    assert report.renamed == (metadata and strategy == "leaf")
    assert check(src, dst, download=True).in_sync


def test_a_rename_by_name_asks_for_a_digest_where_the_rule_of_the_run_does(tmp_path):
    src, dst = LocalBackend(tmp_path / "a"), LocalBackend(tmp_path / "b")
    for name, there in (("d", b"other"), ("e", b"equal")):
        put(src, f"new/{name}", b"equal")
        put(dst, f"old/{name}", there)
    kinds = planned(src, dst, track_renames="leaf", checksum=True, no_folder_times=True, **ALL)
    assert ("copy", "new/d") in kinds
    assert ("rename", "new/e") in kinds


def test_renames_by_hash_read_the_files_of_two_folders_once(tmp_path):
    src, dst = LocalBackend(tmp_path / "a"), LocalBackend(tmp_path / "b")
    for number in range(4):
        put(src, f"new{number}", f"number {number}", at=5)
        put(dst, f"old{number}", f"number {number}")
    reads = Acting(src, lambda op, number: None), Acting(dst, lambda op, number: None)
    with Plan(src, dst, pool=Inline, track_renames="hash", **ALL) as plan:
        for side, backend in zip((plan.src, plan.dst), reads, strict=True):
            side.backend = backend
        assert [action.kind for action in plan if action.kind != "dirtime"] == ["rename"] * 4
    assert [one.log.count("open_reader") for one in reads] == [4, 4]
    report = go(src, dst, track_renames="hash", **ALL)
    assert (report.renamed, report.copied, report.warnings) == (4, 0, [])
    assert held(dst) == held(src)
    assert planned(src, dst, **ALL) == []


def test_renames_by_hash_say_where_there_are_no_digests():
    src, dst = fill(memory(), new=b"the same"), fill(bucket(), old=b"the same")
    report = go(src, dst, track_renames="hash", **ALL)
    assert (report.renamed, report.copied, len(report.warnings)) == (0, 1, 1)


def test_after_a_listing_error_nothing_is_renamed():
    from .stores import Locked

    src, dst = fill(memory(Locked), "a", "locked/x"), memory()
    put(src, "new", b"the same", at=3)
    put(dst, "old", b"the same", at=3)
    report = go(src, dst, raise_errors=False, track_renames="modtime", **ALL)
    assert report.renamed == 0
    assert "old" in held(dst)


# --- no_traverse ------------------------------------------------------------------------------------------------------


def test_no_traverse_asks_for_each_object_and_never_lists_the_destination():
    src, dst = fill(memory(), "a", "b", "d/c", at=1), fill(memory(), "a", *(f"x{n}" for n in range(50)), at=1)
    put(dst, "b", b"other", at=0)
    watched = Acting(dst, lambda op, number: None)
    report = go(src, watched, no_traverse=True)
    assert (report.copied, report.updated, report.equal) == (1, 1, 1)
    assert not {"list", "list_dir"} & set(watched.log)
    assert watched.log.count("stat") <= 5
    assert {path: data for path, data in held(dst).items() if path in held(src)} == held(src)


def test_no_traverse_and_deleting_contradict_each_other():
    with pytest.raises(ConfigError, match="no_traverse"):
        SyncOptions(no_traverse=True, delete=True)


def test_what_cannot_be_asked_for_is_not_overwritten():
    src, dst = fill(memory(), "a"), fill(memory(), a=b"precious")
    report = go(src, failing(dst, "stat", None), no_traverse=True, raise_errors=False)
    assert held(dst) == {"a": b"precious"}
    assert not report.ok


# --- moves ------------------------------------------------------------------------------------------------------------


def test_a_move_takes_from_the_source_what_the_destination_has():
    src, dst = fill(memory(), "new", "same", "d/deep"), fill(memory(), "same", "only")
    put(src, "changed", b"now", at=5)
    put(dst, "changed", b"before")
    report = go(src, dst, move=True)
    assert held(src) == {}
    assert set(held(dst)) == {"new", "same", "d/deep", "changed", "only"}
    assert held(dst)["changed"] == b"now"
    assert report.removed == 4


def test_a_filtered_source_is_not_moved():
    src, dst = fill(memory(), "a", "b.tmp"), memory()
    go(src, dst, move=True, filter=Filter.parse(["- *.tmp"]))
    assert (set(held(src)), set(held(dst))) == ({"b.tmp"}, {"a"})


# --- one file, prefixes -----------------------------------------------------------------------------------------------


def test_go_w9_a_single_file_is_copied_whatever_lies_beside_it():
    for dirs in (True, False):
        src, dst = fill(memory(dirs=dirs), "a.txt", "a.txt.bak", "a.txtra", "a/txt"), memory()
        assert copy_file(src, "a.txt", dst, "b.txt").copied == 1
        assert held(dst) == {"b.txt": b"data of a.txt"}
        move_file(src, "a.txt", dst, "c/d.txt")
        assert held(dst) == {"b.txt": b"data of a.txt", "c/d.txt": b"data of a.txt"}
        assert set(held(src)) == {"a.txt.bak", "a.txtra", "a/txt"}
        with pytest.raises(NotFound):
            copy_file(src, "a.txt", dst, "b.txt")


def test_go_w13_what_cannot_be_asked_for_is_refused_before_the_destination_is_opened():
    src, dst = fill(memory(), a=b"new"), fill(memory(), a=b"old")
    for bad in ({"checksum": "md17"}, {"compare": "md17"}, {"bwlimit": "x"}, {"max_delete": "all"}):
        with pytest.raises(ConfigError):
            copy_file(src, "a", dst, "a", **bad)
    assert held(dst) == {"a": b"old"}


def test_go_w13_a_copied_file_is_verified():
    class Rotten(MemoryBackend):
        def _put(self, path, data, options, op):
            return super()._put(path, data[:-1], options, op)

    dst = memory(Rotten)
    assert copy_file(fill(memory(), "a"), "a", dst, "a", raise_errors=False).failed == 1
    assert dst._objects == {}


def test_go_w8_a_prefix_is_a_folder_and_never_the_beginning_of_a_name():
    for make in (memory, lambda: memory(dirs=False)):
        src, dst = fill(make(), "data/x", "database/y", "data.old/z", "data"[:3]), fill(make(), "to/keep", "tool/keep")
        go(Prefix(src, "data"), Prefix(dst, "to"), **ALL)
        assert set(held(dst)) == {"to/x", "tool/keep"}


def test_go_w8_a_local_path_is_the_same_place_however_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "data" / "d").mkdir(parents=True)
    (tmp_path / "database").mkdir()
    (tmp_path / "data" / "d" / "x").write_bytes(b"1")
    (tmp_path / "database" / "y").write_bytes(b"2")
    monkeypatch.chdir(tmp_path)
    for place in ("./data/", "data", str(tmp_path / "data"), "data/d/..", tmp_path / "data"):
        dst = memory()
        sync(place, dst)
        assert held(dst) == {"d/x": b"1"}, place


def test_go_f11_lists_of_all_kinds_sync_the_same():
    """A folder's name, with and without a slash, trees and flat keys, empty folders: one meaning."""
    names = ["a", "a-b", "d/x", "d/e/y", "d.x", "z"]
    for source in (memory(), memory(dirs=False)):
        fill(source, *(f"root/{name}" for name in names), "rooty", "root-2/x")
        for target in (memory(), memory(dirs=False)):
            go(Prefix(source, "root"), Prefix(target, "there/inner"))
            assert set(held(target)) == {f"there/inner/{name}" for name in names}
            assert planned(Prefix(source, "root"), Prefix(target, "there/inner"), **ALL) == []


# --- everything fails once --------------------------------------------------------------------------------------------


def world(make_src, make_dst):
    src, dst = make_src(), make_dst()
    fill(src, "a", "d/b", "same", at=4)
    put(src, "changed", b"now, and longer", at=5)
    fill(dst, "same", at=4)
    fill(dst, "x", "d/y")
    put(dst, "changed", b"before")
    return src, dst


SETTINGS = {
    "plain": ALL,
    "move": {"move": True},
    "backup": {**ALL, "suffix": ".old"},
    "checksum": {**ALL, "checksum": "strict"},
    "renames": {**ALL, "track_renames": "modtime"},
}
PAIRS = {
    "trees": (memory, memory),
    "blind": (blind, blind),
    "to a bucket": (memory, bucket),
    "from a bucket": (lambda: memory(dirs=False), memory),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_goal_37_interrupted_at_any_call_the_next_run_ends_in_the_same_state(settings, pair):
    more = SETTINGS[settings]
    src, dst = world(*PAIRS[pair])
    go(src, dst, **more)
    wanted, points = held(dst), 0
    for role in (0, 1):
        for lost in (False, True):  # before the store sees the call, or on its answer's way back
            number = 0
            while True:
                number += 1
                sides = list(world(*PAIRS[pair]))
                plain = list(sides)
                sides[role] = Once(sides[role], number, lost)
                try:
                    go(*sides, raise_errors=False, retries=0, **more)
                except (BackendUnavailable, OutcomeUnknown):
                    pass
                if not sides[role].fired:
                    break
                points += 1
                for path, data in held(plain[1]).items():
                    assert data in world_contents(), (number, path)
                report = go(*plain, **more)
                assert report.ok
                found = {path: data for path, data in held(plain[1]).items() if not path.endswith(".old")}
                assert found == {path: data for path, data in wanted.items() if not path.endswith(".old")}, number
                assert planned(*plain, **more) == [] or more.get("move"), number
    assert points > 30


def world_contents():
    return {f"data of {name}".encode() for name in ("a", "d/b", "same", "x", "d/y")} | {b"now, and longer", b"before"}


class Once(Acting):
    """Call ``at`` fails; with ``lost`` after the store has done it."""

    def __init__(self, inner, at, lost):
        super().__init__(inner, lambda op, number: None)
        self.at, self.lost, self.fired = at, lost, False

    def _call(self, op, run):
        if self.calls + 1 != self.at:
            return super()._call(op, run)
        self.calls += 1
        self.fired = True
        if self.lost:
            made = run()
            if op.startswith("open_"):
                getattr(made, "abort", made.close)()
            raise OutcomeUnknown("the answer was lost (injected)")
        raise BackendUnavailable("injected")


def test_an_exception_from_outside_ends_the_run_and_publishes_nothing_half():
    src, dst = memory(), memory()
    put(src, "f", b"x" * 3 * MIB)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(meanwhile(src, "read", interrupt, 2), dst)
    assert held(dst) == {}


def test_a_failing_listener_ends_the_run():
    def listen(event):
        raise RuntimeError("the display broke")

    with pytest.raises(RuntimeError):
        go(fill(memory(), "a"), memory(), listeners=[listen])


def test_any_executor_of_threads_serves():
    src, dst = fill(memory(), *(f"f{n}" for n in range(20))), memory()
    with ThreadPoolExecutor(3) as pool:
        assert sync(src, dst, executor=pool).copied == 20
        pool.submit(int).result()
    assert len(held(dst)) == 20


def test_a_run_asks_before_each_change_if_it_is_told_to():
    src, dst = fill(memory(), "a", "b"), fill(memory(), "x", "y")
    asked = []

    def confirm(action):
        asked.append((action.kind, action.path))
        return action.path in ("a", "x")

    report = run(Plan(src, dst, **ALL), Inline(), confirm=confirm)
    assert asked == [("copy", "a"), ("copy", "b"), ("delete", "x"), ("delete", "y")]
    assert set(held(dst)) == {"a", "y"}
    assert report.skipped == 2


def test_local_folders_keep_times_of_files(tmp_path):
    src, dst = fill(memory(), "a", "d/b", at=3), LocalBackend(tmp_path)
    go(src, dst)
    assert {info.modified_at for info in ops.walk(dst)} == {day(3)}
    assert planned(src, dst) == []
    assert errors(go(src, dst)) == {}


# --- moves within one store -------------------------------------------------------------------------------------------


class Stating(Counting, Hashing):
    """States the digests of what it holds; ``forgets``: not those of copies."""

    forgets, garbles = False, False

    def _copy(self, src, dst, options):
        info = super()._copy(src, dst, options)
        if self.garbles:
            info = self._put(dst, b"?" * info.size, WriteOptions(), "copy")
        if self.forgets:
            info = info._replace(hashes=None)
            self._objects[dst] = self._objects[dst]._replace(info=info)
        return info


def stating(**more):
    kind = type("Stating", (Stating,), more)
    src, dst = (memory(kind, hashes=frozenset({"md5"})) for _ in range(2))
    put(src, "a", b"a" * 2 * MIB)
    put(src, "b", b"b" * 2 * MIB)
    return src, dst


def test_a_move_of_what_states_its_digest_is_made_by_the_store():
    src, dst = stating()
    before, src.reads = held(src), 0
    assert go(src, dst, move=True).copied == 2
    assert (src.reads, dst.reads) == (0, 0)
    assert (held(src), held(dst)) == ({}, before)


def test_a_move_whose_copy_states_no_digest_is_read_back_and_the_next_are_streamed():
    src, dst = stating(forgets=True)
    before, src.reads = held(src), 0
    go(src, dst, move=True)
    assert (src.reads, dst.reads) == (2, 1)
    assert (held(src), held(dst)) == ({}, before)


@pytest.mark.parametrize("forgets", [False, True])
def test_a_move_whose_copy_differs_keeps_its_source(forgets):
    src, dst = stating(forgets=forgets, garbles=True)
    before = held(src)
    report = go(src, dst, move=True, raise_errors=False)
    assert "differs" in errors(report)["a"] or "another digest" in errors(report)["a"]
    assert "a" not in held(dst)
    assert held(src)["a"] == before["a"]


def test_a_move_by_the_store_is_of_what_was_listed():
    src, dst = stating()
    plan = replayed(src, dst, move=True)
    put(src, "a", b"newer" * MIB)
    with plan:
        report = carry_out(plan, raise_errors=False)
    assert set(errors(report)) == {"a"}
    assert (set(held(src)), set(held(dst))) == ({"a"}, {"b"})
