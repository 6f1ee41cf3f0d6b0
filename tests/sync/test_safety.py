"""What the sync engine never does: section 4 of its contract, rule by rule."""

import os
import random
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise

import pytest

from omnistorage import (
    BackendUnavailable,
    ConfigError,
    CorruptData,
    LocalBackend,
    MemoryBackend,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
    ops,
)
from omnistorage.core import ObjectInfo
from omnistorage.sync import Filter, Plan, SyncOptions, copy, copy_file, move, move_file, sync
from omnistorage.wrappers import Prefix

from .stores import (
    Acting,
    Folding,
    HalfListed,
    Locked,
    Shuffled,
    blind,
    bucket,
    carry_out,
    day,
    errors,
    failing,
    fill,
    go,
    held,
    listing,
    meanwhile,
    memory,
    planned,
    put,
    replayed,
)

FULL = bool(os.environ.get("OMNISTORAGE_FULL"))
ALL = {"delete": True, "max_delete": "100%"}
STORES = {"checks conditions": memory, "checks none": blind, "flat": lambda: memory(dirs=False), "bucket": bucket}


@pytest.fixture(params=STORES.values(), ids=STORES)
def store(request):
    return request.param


# --- 1. deletes come last, and only after complete listings -----------------------------------------------------------


def test_deletes_come_last_always(store):
    src, dst = fill(memory(), "b", "d"), fill(store(), "a", "c", "d", "e")
    watched = Acting(dst, lambda op, number: None)
    report = go(src, watched, **ALL)
    changes = [op for op in watched.log if op in ("close", "delete")]
    assert changes == sorted(changes), "writers are closed before anything is deleted"
    assert set(held(dst)) == {"b", "d"}
    assert report.deleted == 3


@pytest.mark.parametrize("dirs", [True, False])
def test_go_s1_a_source_listing_that_fails_half_way_deletes_nothing(dirs, store):
    src = fill(memory(HalfListed, dirs=dirs), "a", "b", "c", "d")
    dst = fill(store(), "a", "b", "c", "d", "extra")
    report = go(src, dst, raise_errors=False, **ALL)
    assert set(held(dst)) == {"a", "b", "c", "d", "extra"}
    assert not report.complete
    assert not report.ok
    assert any("the connection broke" in text for text in errors(report).values())


@pytest.mark.parametrize("dirs", [True, False])
def test_go_s1_a_destination_listing_that_fails_half_way_deletes_nothing(dirs):
    src, dst = fill(memory(), "0", "c", "d"), fill(memory(HalfListed, dirs=dirs), "a", "b", "c", "d")
    report = go(src, dst, raise_errors=False, ignore_errors=True, **ALL)
    assert set(dst._objects) >= {"a", "b", "c", "d"}
    assert not report.ok


def test_go_s1_a_missing_source_is_refused_and_nothing_is_deleted(store, tmp_path):
    dst = fill(store(), "a", "b")
    for src in (Prefix(fill(memory(), "x"), "typo"), LocalBackend(tmp_path / "missing"), str(tmp_path / "missing")):
        with pytest.raises(NotFound):
            go(src, dst, **ALL)
        assert set(held(dst)) == {"a", "b"}


def test_go_s2_what_an_unreadable_folder_of_the_source_hides_is_kept(store):
    src = fill(memory(Locked), "a", "locked/x")
    dst = fill(store(), "a", "locked/x", "locked/y", "locked/z/deep", "extra")
    report = go(src, dst, raise_errors=False, **ALL)
    assert set(held(dst)) == {"a", "locked/x", "locked/y", "locked/z/deep", "extra"}
    assert report.blocked == 4
    assert "this folder is not yours" in errors(report)["locked"]


def test_go_s2_ignore_errors_still_keeps_what_an_unreadable_folder_hides(store):
    src = fill(memory(Locked), "a", "locked/x")
    dst = fill(store(), "a", "locked/x", "locked/z/deep", "extra", "locked-not")
    report = go(src, dst, raise_errors=False, ignore_errors=True, **ALL)
    assert set(held(dst)) == {"a", "locked/x", "locked/z/deep"}
    assert (report.deleted, report.blocked, report.ok) == (2, 2, False)


def test_go_s2_into_a_folder_of_the_destination_that_cannot_be_listed_nothing_is_written():
    src, dst = fill(memory(), "a", "locked/x", at=3), blind(Locked)
    fill(dst, "locked/x", "extra")
    before = dst._objects["locked/x"]
    report = go(src, dst, raise_errors=False, **ALL)
    assert set(dst._objects) == {"a", "locked/x", "extra"}
    assert dst._objects["locked/x"] == before
    assert not report.ok


def test_go_s3_after_a_failed_transfer_nothing_is_deleted(store):
    src, dst = fill(memory(), "a", "b"), fill(store(), "x", "y")
    report = go(failing(src, "read"), dst, raise_errors=False, **ALL)
    assert set(held(dst)) >= {"b", "x", "y"}
    assert (report.failed, report.deleted, report.blocked) == (1, 0, 2)
    assert any("nothing is deleted" in text for text in report.warnings)


def test_ignore_errors_deletes_after_a_failed_transfer():
    src, dst = fill(memory(), "a", "b"), fill(memory(), "x", "y")
    report = go(failing(src, "read"), dst, raise_errors=False, ignore_errors=True, **ALL)
    assert set(held(dst)) == {"b"}
    assert (report.failed, report.deleted) == (1, 2)


@pytest.mark.parametrize("cutoff", ["hard", "soft", "cautious"])
def test_go_s3_a_run_that_a_limit_ends_deletes_nothing(cutoff):
    src, dst = fill(memory(), "a", "b", "c"), fill(memory(), "x")
    report = go(src, dst, raise_errors=False, max_transfer=12, cutoff=cutoff, **ALL)
    assert "x" in held(dst)
    assert report.stopped
    assert not report.ok


def test_go_s3_a_cancelled_run_deletes_nothing():
    src, dst = fill(memory(), "a", "b"), fill(memory(), "x")

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(meanwhile(src, "read", interrupt), dst, **ALL)
    assert "x" in held(dst)


def test_goal_35_no_error_of_any_call_is_followed_by_a_delete():
    """Every call on both sides fails once: what the source does not have stays, unless nothing failed."""
    for role in ("src", "dst"):
        number = 0
        while True:
            number += 1
            src, dst = fill(memory(), "a", "d/b"), fill(memory(), "a", "x", "d/y", at=1)
            sides = {"src": src, "dst": dst}
            seen = []

            def act(op, count, seen=seen, number=number):
                seen.append(op)
                if len(seen) == number:
                    raise PermissionDenied("injected")

            sides[role] = Acting(sides[role], act)
            try:
                report = go(sides["src"], sides["dst"], raise_errors=False, **ALL)
            except StorageError:
                assert {"x", "d/y"} <= set(held(dst))
                continue
            if len(seen) < number:
                assert set(held(dst)) == {"a", "d/b"}
                break
            assert not report.ok or seen[number - 1] in ("list", "list_dir"), (role, number)
            first = seen[number - 1]
            if first != "delete":
                assert report.ok or {"x", "d/y"} <= set(held(dst)), (role, number, first)
        assert number > 5


# --- 2. an empty source -----------------------------------------------------------------------------------------------


def test_goal_35_an_empty_source_is_refused(store):
    src, dst = memory(), fill(store(), "a", "b")
    report = go(src, dst, raise_errors=False, **ALL)
    assert set(held(dst)) == {"a", "b"}
    assert "the source is empty" in errors(report)[""]
    assert "allow_empty_source" in errors(report)[""]


def test_goal_35_an_empty_source_is_refused_whatever_max_delete_and_ignore_errors_say(store):
    dst = fill(store(), "a", "b")
    for more in ({"ignore_errors": True}, {"max_delete": 1_000}, {"delete_excluded": True}):
        report = go(memory(), dst, raise_errors=False, **{**ALL, **more})
        assert set(held(dst)) == {"a", "b"}
        assert not report.ok


def test_goal_35_an_empty_source_is_meant_with_allow_empty_source(store):
    dst = fill(store(), "a", "b")
    assert go(memory(), dst, allow_empty_source=True, **ALL).deleted == 2
    assert held(dst) == {}


def test_goal_35_an_unreadable_source_is_refused(store):
    dst = fill(store(), "a", "b")
    with pytest.raises(PermissionDenied):
        go(failing(failing(fill(memory(), "x"), "list", None), "list_dir", None), dst, **ALL)
    assert set(held(dst)) == {"a", "b"}


def test_a_source_whose_every_object_is_filtered_is_an_empty_one():
    src, dst = fill(memory(), "a.tmp"), fill(memory(), "b", "c")
    report = go(src, dst, raise_errors=False, filter=Filter.parse(["- *.tmp"]), **ALL)
    assert set(held(dst)) == {"b", "c"}
    assert not report.ok


def test_an_empty_source_and_an_empty_destination_are_in_step():
    assert go(memory(), memory(), delete=True).ok


# --- 3. max_delete ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "goes"), [(3, True), (2, False), ("50%", True), ("49.9%", False), (0, False)])
def test_goal_35_max_delete_is_checked_before_the_first_delete(limit, goes, store):
    src, dst = fill(memory(), "a", "b", "c"), fill(store(), "a", "b", "c", "x", "y", "z")
    report = go(src, dst, raise_errors=False, delete=True, max_delete=limit)
    assert set(held(dst)) == ({"a", "b", "c"} if goes else {"a", "b", "c", "x", "y", "z"})
    assert report.ok is goes
    if not goes:
        assert f"3 of 6 objects would be deleted, max_delete allows {limit}" in errors(report)[""]
        assert report.blocked == 3


def test_goal_35_by_default_half_of_the_destination_may_be_deleted():
    assert SyncOptions().max_delete == "50%"
    src = fill(memory(), "a")
    assert go(src, fill(memory(), "a", "x"), delete=True).deleted == 1
    dst = fill(memory(), "a", "x", "y")
    assert not go(src, dst, raise_errors=False, delete=True).ok
    assert len(held(dst)) == 3


@pytest.mark.parametrize(("limit", "goes"), [(20, True), (19, False), (0, False)])
def test_max_delete_size_is_checked_before_the_first_delete(limit, goes):
    src, dst = fill(memory(), "a"), fill(memory(), "a", x=b"1" * 10, y=b"2" * 10)
    report = go(src, dst, raise_errors=False, max_delete_size=limit, **ALL)
    assert (set(held(dst)) == {"a"}) is goes
    assert report.ok is goes
    if not goes:
        assert f"20 bytes would be deleted, max_delete_size allows {limit}" in errors(report)[""]


def test_max_delete_counts_what_gives_way_to_a_folder():
    src, dst = fill(memory(), "a", "x/new", "y/new"), fill(memory(), "a", "x", "y")
    report = go(src, dst, raise_errors=False, on_type_clash="replace", delete=True, max_delete=1)
    assert set(held(dst)) == {"a", "x", "y"}
    assert not report.ok


def test_the_objects_that_a_filter_hides_are_no_part_of_the_percentage():
    src, dst = fill(memory(), "a"), fill(memory(), "a", "x", "y", *(f"h{n}.tmp" for n in range(20)))
    report = go(src, dst, raise_errors=False, delete=True, filter=Filter.parse(["- *.tmp"]))
    assert "2 of 3 objects" in errors(report)[""]


# --- 4. what is skipped shields -----------------------------------------------------------------------------------


def test_a_link_of_the_source_shields_the_name_at_the_destination(store):
    dst = fill(store(), "a", "link", "linked/below", "linked-not", "extra")
    src = listing("link", "linked")
    fill(src, "a")
    report = go(src, dst, **ALL)
    assert set(held(dst)) == {"a", "link", "linked/below"}
    assert report.skipped == 2


def test_a_name_that_is_refused_shields_the_name_at_the_destination():
    src, dst = fill(memory(), "a", "con.txt", "b"), fill(memory(), "a", "con.txt", "extra", "b", at=9)
    report = go(src, fill(memory(), "a", "extra"), raise_errors=False, portable_names=True, ignore_errors=True, **ALL)
    assert "con.txt" in errors(report)
    go(src, dst, raise_errors=False, portable_names=True, ignore_errors=True, **ALL)
    assert set(held(dst)) == {"a", "b", "con.txt"}


def test_go_s5_what_a_filter_hides_at_the_source_is_not_deleted_at_the_destination(store):
    src, dst = (
        fill(memory(), "keep", "hide.tmp", "d/hide.tmp"),
        fill(store(), "keep", "hide.tmp", "d/only.tmp", "extra"),
    )
    go(src, dst, filter=Filter.parse(["- *.tmp"]), **ALL)
    assert set(held(dst)) == {"keep", "hide.tmp", "d/only.tmp"}


@pytest.mark.parametrize(
    "filter",
    [
        {"max_size": "5b"},  # the source outgrew it, the destination's copy did not
        {"max_age": day(5), "now": day(10)},  # the source aged past it
        {"min_age": day(0), "now": day(10)},
    ],
    ids=str,
)
def test_go_s5_a_source_that_leaves_a_filters_bounds_keeps_its_copy(filter):
    src, dst = memory(), memory()
    put(src, "same", b"1", at=7)
    put(dst, "same", b"1", at=7)
    if "min_age" in filter:
        put(src, "moved", b"12345678", at=9)
        put(dst, "moved", b"1", at=-3)
    else:
        put(src, "moved", b"12345678", at=1)
        put(dst, "moved", b"1", at=8)
    if "min_age" in filter:
        put(src, "same", b"1", at=-1)
        put(dst, "same", b"1", at=-1)
    go(src, dst, filter=Filter.parse(**filter), **ALL)
    assert held(dst) == {"same": b"1", "moved": b"1"}


def test_go_s5_a_fresh_copy_is_not_hidden_from_its_source_by_min_age():
    """Filters look at the source; else what was just copied would be copied again and again."""
    clock = [day(100)]
    src, dst = fill(memory(), "a"), bucket(now=lambda: clock[0])
    filter = Filter.parse(min_age=day(50))
    assert go(src, dst, filter=filter).copied == 1
    report = go(src, dst, filter=filter, delete=True)
    assert (report.copied, report.updated, report.deleted, report.equal) == (0, 0, 0, 1)


def test_go_w10_delete_excluded_deletes_what_the_filter_hides(store):
    src = fill(memory(), "keep", "hide.tmp", "hidden/x")
    dst = fill(store(), "keep", "hide.tmp", "d/only.tmp", "extra", "hidden/x", "hidden/y")
    go(src, dst, filter=Filter.parse(["- *.tmp", "- /hidden/"]), delete_excluded=True, **ALL)
    assert set(held(dst)) == {"keep"}


def test_a_folder_with_a_marker_at_either_side_is_not_deleted():
    filter = Filter.parse(exclude_if_present=".keepout")
    src = fill(memory(), "a", "one/.keepout", "one/x")
    dst = fill(memory(), "a", "one/.keepout", "one/y", "two/.keepout", "two/z", "extra")
    go(src, dst, filter=filter, **ALL)
    assert {"two/.keepout", "two/z", "one/y"} <= set(held(dst))
    assert "extra" not in held(dst)


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
        from omnistorage.digests import new_hash

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
        from omnistorage.digests import new_hash

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
    detected = 0
    try:
        for _ in range(1_000 if FULL else 40):
            dst = memory()
            report = sync(LocalBackend(source), dst, raise_errors=False, retries=0)  # by the real clock
            detected += report.failed
            assert all(is_one_moment(data) for data in held(dst).values())
    finally:
        stop.set()
        writer.join()
    assert detected > 5


# --- 8. move ----------------------------------------------------------------------------------------------------------


def test_goal_36_a_move_deletes_a_source_only_when_its_bytes_are_at_the_destination():
    """Random worlds in which others change both sides: no content of the source is ever lost."""
    count = 0
    for seed in range(10_000 if FULL else 300):
        rng = random.Random(seed)
        src, dst = rng.choice((memory, blind))(), rng.choice((memory, blind, bucket))()
        ours = {f"f{n}": f"{seed} {n} ".encode() * rng.randrange(1, 9) for n in range(6)}
        for path, data in ours.items():
            put(src, path, data, at=rng.randrange(9))
            if rng.random() < 0.5:
                put(dst, path, rng.choice((data, b"x" * len(data), b"y")), at=rng.randrange(9))
        left, theirs = dict(ours), set()

        def act(op, number, rng=rng, src=src, dst=dst, left=left, theirs=theirs):
            if rng.random() < 0.05:
                raise BackendUnavailable("injected")
            if rng.random() < 0.1 and (op != "delete" or src.features.if_match):  # else nobody could notice
                path, data = f"f{rng.randrange(6)}", f"changed {rng.random()}".encode()
                if rng.random() < 0.5 and path in src._objects:
                    put(src, path, data, at=rng.randrange(10, 20))
                    left[path] = data
                elif path in dst._objects:
                    put(dst, path, data, at=rng.randrange(10, 20))
                    theirs.add(path)

        try:
            go(Acting(src, act), Acting(dst, act), move=True, raise_errors=False, retries=rng.choice((0, 2)))
        except BackendUnavailable:
            pass  # nothing was begun
        for path, data in left.items():
            moved = path not in src._objects
            count += moved
            assert not moved or path in theirs or dst._objects[path].data == data, (seed, path)
    assert count > 300


def test_go_s4_a_move_keeps_a_source_whose_copy_failed():
    src, dst = fill(memory(), "a", "b"), memory()
    report = go(src, failing(dst, "close"), raise_errors=False, move=True)
    assert set(held(src)) == {"a"}
    assert set(held(dst)) == {"b"}
    assert (report.removed, report.failed) == (1, 1)


def test_go_s4_a_move_keeps_a_source_that_an_update_failed_to_replace():
    src, dst = fill(memory(), a=b"new"), fill(memory(), a=b"older")
    go(src, failing(dst, "write"), raise_errors=False, move=True)
    assert (held(src), held(dst)) == ({"a": b"new"}, {"a": b"older"})


def test_go_s4_a_move_keeps_a_source_that_ignore_existing_skips():
    src, dst = fill(memory(), a=b"mine"), fill(memory(), a=b"other")
    go(src, dst, raise_errors=False, move=True, ignore_existing=True)
    assert held(dst) == {"a": b"other"}
    assert held(src) == {"a": b"mine"}


def test_go_s4_a_move_keeps_a_source_that_update_leaves_behind():
    src, dst = fill(memory(), a=b"mine"), fill(memory(), a=b"newer", at=5)
    go(src, dst, raise_errors=False, move=True, update=True)
    assert (held(src), held(dst)) == ({"a": b"mine"}, {"a": b"newer"})


def test_go_s4_a_move_transfers_what_only_seems_to_be_there():
    src, dst = fill(memory(), a=b"one"), fill(memory(), a=b"two")
    report = go(src, dst, move=True)
    assert (held(src), held(dst)) == ({}, {"a": b"one"})
    assert report.removed == 1


def test_go_s4_a_source_that_changes_after_its_copy_is_kept():
    src, dst = fill(memory(), "a"), memory()
    changed = meanwhile(src, "delete", lambda: put(src, "a", b"newer", at=9))
    report = go(changed, dst, raise_errors=False, move=True)
    assert held(src) == {"a": b"newer"}
    assert not report.ok


def test_go_s4_a_move_onto_a_store_that_keeps_other_bytes_keeps_the_source():
    class Liar(MemoryBackend):
        def _put(self, path, data, options, op):
            return super()._put(path, data[::-1], replace(options, expect=None), op)

    src, dst = fill(memory(), a=b"abc"), memory(Liar)
    report = go(src, dst, raise_errors=False, move=True)
    assert held(src) == {"a": b"abc"}
    assert not report.ok


# --- 9. backups -------------------------------------------------------------------------------------------------------


def test_a_backup_keeps_what_is_replaced_and_what_is_deleted(store):
    src, kept = fill(memory(), "same", "d/new", at=50), memory()
    put(src, "changed", b"now", at=50)
    dst = fill(store(), "same", "d/gone", "stays-not", at=50)
    put(dst, "changed", b"before it was changed")
    report = go(src, dst, backup_dir=kept, **ALL)
    assert held(dst) == held(src)
    assert held(kept) == {
        "changed": b"before it was changed",
        "d/gone": b"data of d/gone",
        "stays-not": b"data of stays-not",
    }
    assert (report.updated, report.deleted) == (1, 2)


def test_a_suffix_keeps_the_old_one_beside_the_new_and_is_not_deleted_itself(store):
    src, dst = memory(), store()
    put(src, "a", b"now", at=50)
    put(dst, "a", b"before that", at=0)
    fill(dst, "gone", at=0)
    for _ in range(3):
        go(src, dst, suffix=".old", **ALL)
        assert held(dst) == {"a": b"now", "a.old": b"before that", "gone.old": b"data of gone"}


def test_an_upload_that_fails_after_the_backup_leaves_the_live_name(store):
    src, dst, kept = memory(), store(), memory()
    put(src, "a", b"now", at=50)
    put(dst, "a", b"before that")
    report = go(src, failing(dst, "close", None), raise_errors=False, backup_dir=kept)
    assert held(dst) == {"a": b"before that"}
    assert held(kept) == {"a": b"before that"}
    assert not report.ok


@pytest.mark.parametrize("op", ["open_writer", "write", "prepare", "close"])
def test_no_failure_of_a_backup_leaves_the_live_name_empty(op, store):
    src, dst = memory(), store()
    put(src, "a", b"now", at=50)
    put(dst, "a", b"before that")
    for place in ("backup", "dst"):
        kept = memory()
        if place == "dst":
            report = go(src, failing(dst, op, None), raise_errors=False, backup_dir=kept)
        elif op == "prepare":
            continue
        else:
            report = go(src, dst, raise_errors=False, backup_dir=failing(kept, op, None))
        assert held(dst) == {"a": b"before that"}
        assert not report.ok


def test_what_cannot_be_backed_up_is_not_deleted():
    src, dst = fill(memory(), "a"), fill(memory(), "a", "gone")
    report = go(src, dst, raise_errors=False, backup_dir=failing(memory(), "close", None), **ALL)
    assert set(held(dst)) == {"a", "gone"}
    assert report.failed == 1


def test_a_backup_inside_the_destination_is_refused_unless_it_is_excluded():
    dst = fill(memory(), "a")
    with pytest.raises(ConfigError, match="exclude 'old'"):
        Plan(fill(memory(), "a"), dst, backup_dir=Prefix(dst, "old"))
    fill(dst, "gone")
    go(fill(memory(), "a"), dst, backup_dir=Prefix(dst, "old"), filter=Filter.parse(["- /old/**"]), **ALL)
    assert set(held(dst)) == {"a", "old/gone"}


# --- 10. both sides still are what the plan saw -----------------------------------------------------------------------


def test_a_destination_changed_between_plan_and_delete_stays(store):
    src, dst = fill(memory(), "a"), fill(store(), "a", "extra", "other")
    plan = replayed(src, dst, **ALL)
    dst._now = lambda: day(300)
    put(dst, "extra", b"somebody needs this", at=8)
    report = carry_out(plan, raise_errors=False)
    assert held(dst) == {"a": b"data of a", "extra": b"somebody needs this"}
    assert isinstance(report.failures[0].error, PreconditionFailed)
    assert report.deleted == 1


def test_a_destination_changed_between_plan_and_copy_stays(store):
    src, dst = memory(), store()
    put(src, "a", b"now", at=50)
    put(dst, "a", b"before")
    plan = replayed(src, dst)
    dst._now = lambda: day(300)
    put(dst, "a", b"changed by others", at=9)
    report = carry_out(plan, raise_errors=False)
    assert held(dst) == {"a": b"changed by others"}
    assert isinstance(report.failures[0].error, PreconditionFailed)


def test_an_object_that_appeared_at_the_destination_since_the_plan_stays():
    src, dst = fill(memory(), "a"), memory()
    plan = replayed(src, dst)
    put(dst, "a", b"somebody was faster")
    report = carry_out(plan, raise_errors=False)
    assert held(dst) == {"a": b"somebody was faster"}
    assert not report.ok


def test_what_somebody_else_deleted_meanwhile_is_no_error(store):
    src, dst = fill(memory(), "a"), fill(store(), "a", "extra")
    plan = replayed(src, dst, **ALL)
    dst._remove("extra")
    assert carry_out(plan).ok


def test_a_destination_changed_while_the_source_is_read_stays(store):
    src, dst = memory(), store()
    put(src, "a", b"n" * 3_000_000, at=50)
    put(dst, "a", b"before")

    def change():
        dst._now = lambda: day(300)
        put(dst, "a", b"changed by others", at=9)

    report = go(meanwhile(src, "read", change, 2), dst, raise_errors=False, retries=0)
    assert held(dst) == {"a": b"changed by others"}
    assert not report.ok


# --- 11. errors are told ----------------------------------------------------------------------------------------------


def test_go_w11_pain_12_errors_are_collected_and_raised_with_the_report():
    from omnistorage.errors import SyncError

    src, dst = fill(memory(), "a", "b", "c"), memory()
    with pytest.raises(SyncError) as caught:
        go(failing(src, "read", 2), dst)
    assert isinstance(caught.value, ExceptionGroup | StorageError)
    assert isinstance(caught.value, ExceptionGroup)
    assert isinstance(caught.value, StorageError)
    assert [type(error) for error in caught.value.exceptions] == [PermissionDenied]
    report = caught.value.report
    assert (report.copied, report.failed, report.ok) == (2, 1, False)


def test_go_w11_every_error_is_in_the_report_and_all_are_counted():
    src, dst = fill(memory(), *(f"f{n:04}" for n in range(1_200))), memory()
    report = go(failing(src, "open_reader", None), dst, raise_errors=False)
    assert report.failed == 1_200
    assert len(report.failures) == 1_000, "with a bound on what is kept"
    assert not report.ok


def test_pain_12_every_planned_action_ends_in_one_event():
    src, dst = fill(memory(), "a", "b", "c/d", "same"), fill(memory(), "same", "x", "y")
    put(src, "b", b"changed", at=3)
    put(dst, "b", b"old")
    said = []
    go(failing(src, "read", 3), dst, raise_errors=False, listeners=[said.append], ignore_errors=True, **ALL)
    planned = [(event.action.kind, event.path) for event in said if event.kind == "planned"]
    ended = [(e.action.kind, e.path) for e in said if e.kind in ("done", "deleted", "skipped", "error")]
    assert sorted(planned) == sorted(ended)
    assert len(planned) == 5
    assert said[-1].kind == "summary"
    assert [event.path for event in said if event.kind == "error" and event.error is not None] != []


def test_pain_12_what_did_not_fit_the_listing_is_not_ok():
    report = go(fill(memory(HalfListed), "a", "b", "c"), memory(), raise_errors=False)
    assert not report.ok
    assert report.failed


# --- clashes, names, order --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dirs", [True, False])
def test_a_file_where_the_destination_has_a_folder_is_an_error_by_default(dirs):
    src, dst = fill(memory(dirs=dirs), "a", "clash"), fill(memory(), "clash/x", "clash/d/y")
    report = go(src, dst, raise_errors=False, **ALL)
    assert set(held(dst)) >= {"clash/x", "clash/d/y", "a"}
    assert "a folder at the destination has this name" in errors(report)["clash"]


@pytest.mark.parametrize("dirs", [True, False])
def test_a_folder_where_the_destination_has_a_file_is_an_error_by_default(dirs):
    src, dst = fill(memory(dirs=dirs), "a", "clash/x"), fill(memory(), "clash")
    report = go(src, dst, raise_errors=False, **ALL)
    assert set(held(dst)) == {"a", "clash"}
    assert "is an object at the destination, not a folder" in errors(report)["clash/x"]


@pytest.mark.parametrize("delete", [True, False])
@pytest.mark.parametrize("dirs", [True, False])
def test_clashes_are_replaced_both_ways_if_that_is_asked_for(dirs, delete):
    src = fill(memory(dirs=dirs), "a", "file", "folder/x", "folder/d/y")
    dst = fill(memory(), "file/x", "file/d/y", "folder", "b")
    settings = {"delete": delete, "max_delete": "100%", "on_type_clash": "replace"}
    report = go(src, dst, **settings)
    assert set(held(dst)) == {"a", "file", "folder/x", "folder/d/y"} | (set() if delete else {"b"})
    assert report.ok
    assert planned(src, dst, **settings) == []


def test_what_a_failed_transfer_leaves_in_the_way_stays():
    src, dst = fill(memory(), "a", "clash"), fill(memory(), "clash/x")
    report = go(failing(src, "read"), dst, raise_errors=False, on_type_clash="replace", **ALL)
    assert set(held(dst)) == {"clash/x"}
    assert set(errors(report)) == {"a", "clash"}


def test_keys_that_only_an_object_store_allows_are_reported_and_misplace_nothing(tmp_path):
    src = memory(dirs=False)
    fill(src, "a", "a/b", "ok", "c/d")
    for name in ("x//y", "./z", "p/../q", "/top", "tail/"):
        info = src._objects["ok"]
        src._objects[name] = info._replace(info=info.info._replace(path=name))
    src._order = None
    dst = tmp_path / "dst"
    report = go(src, str(dst), raise_errors=False, **ALL)
    found = {str(path.relative_to(dst)) for path in dst.rglob("*") if path.is_file()}
    assert found - {"a", "a/b"} == {"ok", "c/d"}
    assert len(found & {"a", "a/b"}) <= 1
    told = set(errors(report))
    assert {"x//y", "./z", "p/../q", "/top", "tail/"} <= told
    assert told & {"a", "a/b"}
    assert {path.name for path in tmp_path.iterdir()} == {"dst"}


def test_a_shuffled_listing_of_a_store_that_promises_no_order_changes_nothing():
    names = [f"{a}{sep}{b}" for a in "abcd" for b in "xyz" for sep in ("/", "-", ".", "")]
    plain = fill(memory(dirs=False), *names)
    src, dst = memory(Shuffled, dirs=False, sorted_list=False), memory(Shuffled, dirs=False, sorted_list=False)
    fill(src, *names)
    fill(dst, *names[::2], "extra")
    report = go(src, dst, **ALL)
    assert held(dst) == held(plain)
    assert (report.copied, report.deleted, report.equal) == (24, 1, 24)


@pytest.mark.parametrize("role", ["src", "dst"])
def test_disorder_of_a_side_that_promised_order_fails_the_plan_and_deletes_nothing(role):
    names = [f"f{n}" for n in range(20)]
    kinds = {"src": MemoryBackend, "dst": MemoryBackend, role: Shuffled}
    src, dst = fill(memory(kinds["src"], dirs=False), *names[:15]), fill(memory(kinds["dst"], dirs=False), *names)
    report = go(src, dst, raise_errors=False, **ALL)
    assert set(dst._objects) == set(names)
    assert not report.ok
    assert any("sort_listings" in text for text in errors(report).values())
    assert go(src, dst, sort_listings=True, **ALL).deleted == 5


def test_names_that_are_one_at_the_destination_are_found_before_the_first_write():
    src, dst = fill(memory(), "a", "File", "FILE", "other"), memory(Folding)
    watched = Acting(dst, lambda op, number: None)
    report = go(src, watched, raise_errors=False, **ALL)
    assert set(errors(report)) == {"File", "FILE"}
    assert set(dst._objects) == {"a", "other"}
    kinds = [action.kind for action in Plan(src, memory(Folding))]
    assert kinds[:2] == ["error", "error"]


def test_goal_39_every_collision_of_two_hundred_names_is_found_before_the_first_write():
    names, groups = two_hundred_names()
    assert len(names) >= 200
    src = memory(dirs=False)
    for name in names:
        info = ObjectInfo(name, 1, day(0), etag=name)
        src._objects[name] = type(fill(memory(), "x")._objects["x"])(b"1", info)
    plan = list(Plan(src, memory(Folding, normalizes="NFC"), portable_names=True))
    writes = [action.path for action in plan if action.kind == "copy"]
    told = {action.path for action in plan if action.kind == "error"}
    assert told == groups
    assert set(writes) == set(names) - groups
    first = next(at for at, action in enumerate(plan) if action.kind == "copy")
    doubled = {action.path for action in plan[:first] if action.kind == "error"}
    assert doubled >= {name for name in groups if "one of a pair" in pairs()[1].get(name, "")}


def pairs():
    """Names that are one on a file system that folds case and normalises, and what is wrong with each."""
    found, wrong = [], {}
    for a, b in [
        *((f"Case{n}.txt", f"cASE{n}.txt") for n in range(20)),
        *((f"caf\u00e9{n}", f"cafe\u0301{n}") for n in range(20)),
        *((f"dir{n}/\u00c5", f"dir{n}/A\u030a") for n in range(10)),
        *((f"x/\u00dcber{n}", f"x/u\u0308BER{n}") for n in range(10)),
        ("stra\u00dfe", "STRASSE"),
        ("\u03a3igma", "\u03c3igma"),
        ("\ufb01le", "FILE"),
        ("K\u00e9y", "\u212a\u00e9Y"),
    ]:
        found += [a, b]
        wrong |= {a: "one of a pair", b: "one of a pair"}
    return found, wrong


def two_hundred_names():
    names, wrong = pairs()
    devices = ("con", "PRN", "aux.txt", "Nul", "COM1", "lpt9.log", "com\u00b9", "conin$", "sub/con", "nul.tar.gz")
    tails = ("dot.", "blank ", "sub /x", "sub2./x", "dots..", "a. ")
    signs = tuple(f"s{sign}x" for sign in '<>:"|?*\\')
    plain = ("console", "contact", "com10", "lpt", "nullable", "a.b", ".hidden", "..x", "space in", "prn2", "auxiliary")
    good = [f"plain/{n:03}" for n in range(60)]
    refused = {*devices, *tails, *signs}
    return [*names, *refused, *plain, *good], {*wrong, *refused}


def test_a_plain_sync_deletes_nothing():
    src, dst = fill(memory(), "a"), fill(memory(), "b")
    for verb in (sync, copy):
        verb(src, dst)
    assert set(held(dst)) == {"a", "b"}
    with pytest.raises(ConfigError):
        copy(src, dst, delete=True)
    with pytest.raises(ConfigError):
        move(src, dst, delete=True)


def test_a_dry_run_writes_nothing_and_says_what_would_be():
    src, dst = fill(memory(), "a", "b"), fill(memory(), "b", "x", at=1)
    before = held(dst)
    report = go(src, dst, dry_run=True, **ALL)
    assert held(dst) == before
    assert (report.copied, report.deleted, report.dry_run) == (1, 1, True)
    assert go(src, dst, **ALL).copied == 1


def test_the_moment_a_filter_counts_ages_from_is_that_of_the_plan():
    src = fill(memory(), "a")
    filter = Filter.parse(max_age=timedelta(days=1), now=datetime(2026, 1, 1, 12, tzinfo=UTC))
    assert planned(src, memory(), filter=filter) == [("copy", "a")]
    assert ops.read_bytes(src, "a")
