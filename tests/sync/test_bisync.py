"""Two places kept in step: what was changed where, and conflicts."""

import pytest

from omnistorage import MemoryBackend, NotFound
from omnistorage.errors import SyncError
from omnistorage.sync import bisync
from omnistorage.sync.two_way.run import POLICIES

from .stores import Acting, blind, bucket, fill, held, memory, put
from .two_sides import STORES, Two, conflict

# --- what was changed where ------------------------------------------------------------------------------------------


def test_the_first_run_is_a_union_and_never_deletes():
    two = Two()
    fill(two.a, "only/a", "same", at=1)
    fill(two.b, "only/b", "same", at=1)
    report = two.go()
    assert (report.first, report.to_path1, report.to_path2, report.same, report.conflicted) == (True, 1, 1, 1, 0)
    assert set(two.both()) == {"only/a", "only/b", "same"}


def test_the_first_run_may_find_one_side_missing_but_not_both(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("x")
    bisync(tmp_path / "a", tmp_path / "b", state=tmp_path / "state")
    assert (tmp_path / "b" / "x").read_text() == "x"
    with pytest.raises(NotFound):
        bisync(tmp_path / "no", tmp_path / "nothing", state=tmp_path / "other")


def test_what_is_new_on_one_side_is_copied(way):
    two, here, _ = way
    put(here, "new", "new", at=2)
    report = two.go()
    assert report.changes == 1
    assert two.both()["new"] == "new"
    two.does_nothing()


def test_what_was_changed_on_one_side_is_copied(way):
    two, here, _ = way
    put(here, "x", "changed", at=2)
    report = two.go()
    assert report.changes == 1
    assert two.both()["x"] == "changed"
    two.does_nothing()


def test_an_older_time_is_a_change_as_well(way):
    two, here, _ = way
    put(here, "x", "restored from a backup", at=-100)
    two.go()
    assert two.both()["x"] == "restored from a backup"


def test_what_was_deleted_on_one_side_is_deleted(way):
    two, here, _ = way
    here.delete("x")
    report = two.go()
    assert report.deleted_path1 + report.deleted_path2 == report.changes == 1
    assert set(two.both()) == {"always", "y", "d/z"}
    two.does_nothing()


def test_what_was_changed_survives_its_deletion(way):
    two, here, there = way
    here.delete("x")
    put(there, "x", "changed", at=2)
    report = two.go()
    assert (report.changes, report.conflicted) == (1, 0)
    assert two.both()["x"] == "changed"
    two.does_nothing()


def test_what_was_deleted_on_both_sides_is_gone(two):
    two.a.delete("x")
    two.b.delete("x")
    assert two.go().changes == 0
    assert "x" not in two.both()
    assert "x" not in two.saved()["a"]
    two.does_nothing()


def test_what_was_changed_alike_on_both_sides_is_left_alone(two):
    put(two.a, "x", "alike", at=2)
    put(two.b, "x", "alike", at=3)
    report = two.go()
    assert (report.changes, report.same, report.conflicted) == (0, 1, 0)
    two.does_nothing()


def test_equal_sizes_and_times_do_not_hide_that_two_edits_differ(two):
    put(two.a, "x", "left.", at=2)
    put(two.b, "x", "right", at=2)
    assert two.go().conflicted == 1
    assert sorted(two.both().values())[-2:] == ["left.", "right"]


def test_what_was_made_again_after_it_was_deleted_is_new(two):
    two.a.delete("x")
    two.go()
    put(two.b, "x", "again", at=2)
    two.go()
    assert two.both()["x"] == "again"


@pytest.mark.parametrize("a", STORES.values(), ids=STORES)
@pytest.mark.parametrize("b", STORES.values(), ids=STORES)
def test_a_second_run_with_nothing_changed_does_nothing(a, b):
    two = Two(a(), b())
    fill(two.a, "x", "d/y")
    fill(two.b, "z", "x")
    put(two.a, "c", "one", at=1)
    put(two.b, "c", "other", at=2)
    two.go()
    assert two.does_nothing().unchanged == len(two.both()) == 5
    put(two.a, "x", "changed", at=2)
    two.b.delete("z")
    assert two.go().changes == 2
    assert two.does_nothing().unchanged == len(two.both()) == 4


def test_the_saved_listing_is_a_fresh_one(two):
    put(two.a, "new", "new", at=2)
    two.go()
    for side, store in (("a", two.a), ("b", two.b)):
        assert {path: (row[1], row[3]) for path, row in two.saved()[side].items()} == {
            info.path: (info.size, info.etag) for info in store.list()
        }


def test_one_listing_of_each_side_is_all_that_a_run_without_changes_asks(two):
    a, b = Acting(two.a, lambda op, number: None), Acting(two.b, lambda op, number: None)
    two.does_nothing(a=a, b=b)
    assert set(a.log) == set(b.log) == {"list"}


# --- conflicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "named"), [(2, 3, "right"), (3, 2, "left side"), (2, 2, "left side")])
def test_by_default_both_are_kept_and_the_newer_has_the_name(two, a, b, named):
    conflict(two, a=a, b=b)
    report = two.go()
    other = {"right": "left side", "left side": "right"}[named]
    found = two.both()
    assert (found["x"], found["x.conflict-1"]) == (named, other)
    [said] = report.conflicts
    assert said == ("x", "path2" if named == "right" else "path1", "x.conflict-1")
    assert report.ok


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        *(("newer", "right"), ("older", "left side"), ("larger", "left side"), ("smaller", "right")),
        *(("path1", "left side"), ("path2", "right")),
    ],
)
def test_a_policy_that_decides_keeps_one_of_them(two, policy, kept):
    conflict(two)
    report = two.go(conflict=policy)
    assert report.conflicted == 1
    assert two.both() == {"always": "data of always", "y": "data of y", "d/z": "data of d/z", "x": kept}
    two.does_nothing(conflict=policy)


@pytest.mark.parametrize("policy", ["newer", "older"])
def test_go_w2_equal_times_keep_both(two, policy):
    conflict(two, a=2, b=2)
    two.go(conflict=policy)
    assert sorted(two.both().values())[-2:] == ["left side", "right"]
    two.does_nothing(conflict=policy)


@pytest.mark.parametrize("policy", ["larger", "smaller"])
def test_go_w2_equal_sizes_keep_both(two, policy):
    conflict(two, left="lefty")
    two.go(conflict=policy)
    assert sorted(two.both().values())[-2:] == ["lefty", "right"]
    two.does_nothing(conflict=policy)


class Timeless(MemoryBackend):
    """Says of nothing when it was changed."""

    def _list(self, prefix, options):
        return (info._replace(modified_at=None) for info in super()._list(prefix, options))


def test_go_w2_unknown_times_keep_both():
    two = Two(memory(Timeless), memory(Timeless))
    conflict(two)
    two.go(conflict="newer")
    assert two.both() == {"x": "left side", "x.conflict-1": "right"}


def test_an_error_of_a_conflict_saves_nothing_and_the_rest_is_copied(two):
    conflict(two)
    put(two.a, "new", "new")
    before = two.saved()
    with pytest.raises(SyncError, match="1 entries failed") as caught:
        two.go(conflict="error")
    assert [failure.path for failure in caught.value.report.failures] == ["x"]
    assert two.saved() == before
    assert held(two.b)["new"] == b"new"
    assert (held(two.a)["x"], held(two.b)["x"]) == (b"left side", b"right")


def test_go_w2_a_skipped_conflict_is_said_once(two):
    conflict(two)
    report = two.go(conflict="skip")
    assert [one.path for one in report.conflicts] == ["x"]
    assert (held(two.a)["x"], held(two.b)["x"]) == (b"left side", b"right")
    assert two.does_nothing(conflict="skip").conflicted == 0


def test_a_skipped_conflict_of_the_first_run_is_said_once_and_not_read_again():
    two = Two()
    conflict(two)
    assert two.go(conflict="skip").conflicted == 1
    a = Acting(two.a, lambda op, number: None)
    assert two.does_nothing(conflict="skip", a=a).conflicted == 0
    assert set(a.log) == {"list"}


@pytest.mark.parametrize("side", "ab")
def test_a_skipped_conflict_is_one_again_when_a_side_changes_and_never_a_plain_copy(two, side):
    conflict(two)
    two.go(conflict="skip")
    put(getattr(two, side), "x", "changed once more", at=4)
    assert two.go(conflict="skip").conflicted == 1
    assert held(two.a)["x"] != held(two.b)["x"]
    assert two.go(conflict="keep-both").conflicted == 1
    assert len(two.both()) == 5


def test_a_skipped_conflict_ends_when_both_are_made_alike(two):
    conflict(two)
    two.go(conflict="skip")
    put(two.b, "x", "left side", at=9)
    report = two.go(conflict="skip")
    assert (report.conflicted, report.same) == (0, 1)
    two.does_nothing(conflict="skip")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("x", "x.conflict-1"),
        ("d/x.txt", "d/x.conflict-1.txt"),
        ("x.tar.gz", "x.tar.conflict-1.gz"),
        (".rc", ".rc.conflict-1"),
        ("d.d/x", "d.d/x.conflict-1"),
    ],
)
def test_the_loser_keeps_its_suffix(name, kept):
    two = Two()
    put(two.a, name, "one", at=1)
    put(two.b, name, "other", at=2)
    two.go()
    assert two.both() == {name: "other", kept: "one"}


def test_go_s7_a_second_conflict_keeps_what_the_first_one_put_aside(two):
    for turn in range(3):
        conflict(two, left=f"left {turn}", right=f"right {turn}", a=10 * turn + 2, b=10 * turn + 3)
        assert two.go().ok
    found = two.both()
    assert [found[f"x.conflict-{number}"] for number in (1, 2, 3)] == ["left 0", "left 1", "left 2"]
    assert found["x"] == "right 2"


@pytest.mark.parametrize("side", "ab")
@pytest.mark.parametrize("kind", [memory, blind])
def test_go_s7_a_name_that_one_side_has_already_is_not_free(side, kind):
    two = Two(kind(), kind())
    two.go()
    put(getattr(two, side), "x.conflict-1", "somebody's own")
    conflict(two)
    two.go()
    assert two.both() == {"x": "right", "x.conflict-1": "somebody's own", "x.conflict-2": "left side"}


@pytest.mark.parametrize("policy", ["keep-both", "newer", "older", "larger", "smaller", "path1", "path2"])
@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_go_w2_a_conflict_is_settled_once_and_for_all(policy, store):
    two = Two(store(), store())
    fill(two.a, "x", "y")
    two.go()
    conflict(two)
    assert two.go(conflict=policy).conflicted == 1
    for _ in range(3):
        assert two.does_nothing(conflict=policy).conflicted == 0
    two.both()


@pytest.mark.parametrize("policy", POLICIES)
def test_go_w2_what_is_deleted_stays_deleted(policy):
    two = Two(bucket(), bucket())
    fill(two.a, "x", "y", "z")
    two.go(conflict=policy)
    two.b.delete("x")
    two.go(conflict=policy)
    two.does_nothing(conflict=policy)
    assert set(two.both()) == {"y", "z"}
