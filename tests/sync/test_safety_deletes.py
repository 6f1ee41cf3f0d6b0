"""What the sync engine never does, rules 1 to 4 of its contract: deletions."""

import pytest

from omnistorage import LocalBackend, NotFound, PermissionDenied, StorageError, WriteOptions
from omnistorage.ops import write_bytes
from omnistorage.sync import Filter, SyncOptions
from omnistorage.wrappers import Prefix

from ..backends import test_s3
from .safety_world import ALL
from .stores import (
    Acting,
    HalfListed,
    Locked,
    blind,
    bucket,
    day,
    errors,
    failing,
    fill,
    go,
    held,
    listing,
    meanwhile,
    memory,
    put,
)

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


def test_an_archived_source_shields_its_destination_and_says_what_to_do():
    with test_s3.fresh("moto") as src:
        write_bytes(src, "cold", b"frozen", WriteOptions(extra={"s3.storage_class": "GLACIER"}))
        write_bytes(src, "warm", b"1")
        dst = memory()
        for path in ("cold", "gone"):
            put(dst, path, b"of an earlier run")
        report = go(src, dst, delete=True, max_delete=5, raise_errors=False)
    assert [type(failure.error) for failure in report.failures] == [PermissionDenied]
    assert "archived, restore it first" in errors(report)["cold"]
    assert held(dst) == {"cold": b"of an earlier run", "gone": b"of an earlier run", "warm": b"1"}


@pytest.mark.parametrize("make", [memory, bucket])
def test_a_name_that_the_destination_cannot_hold_keeps_nothing_else_from_being_deleted(make):
    src, dst = fill(make(), "a", "b"), fill(make(), "a", "gone")
    src.put_raw("tab\there", b"1")
    report = go(src, dst, delete=True, raise_errors=False)
    assert (report.failed, report.refused, report.deleted, report.ok) == (1, 1, 1, False)
    assert set(held(dst)) == {"a", "b"}
    assert [failure.path for failure in report.failures] == ["tab\there"]
    dst = fill(make(), "a", "gone")
    report = go(src, failing(dst, "open_writer"), delete=True, raise_errors=False)
    assert (report.failed, report.refused, report.deleted) == (2, 1, 0), "another error does"
