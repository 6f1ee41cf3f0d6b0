"""Two places kept in step: section 9 of the sync contract, sentence by sentence."""

import json
import os
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from omnistorage import (
    BackendUnavailable,
    CapabilityNotSupported,
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
from omnistorage.errors import SyncError
from omnistorage.policies import Backoff
from omnistorage.sync import BisyncReport, Filter, bisync
from omnistorage.sync.bisync import POLICIES
from omnistorage.wrappers import Prefix, ReadOnly

from ..backends import test_s3
from . import replicas
from .replicas import Replicas
from .simulation import Inline, VirtualClock
from .stores import Acting, Folding, blind, bucket, failing, fill, held, listing, meanwhile, memory, put

STORES = {"checks conditions": memory, "checks none": blind, "flat": lambda: memory(dirs=False), "bucket": bucket}
SEEDS = 300 * int(os.environ.get("OMNISTORAGE_SCALE", "1"))


class Two:
    """Two stores and the state of their last run."""

    def __init__(self, a=None, b=None):
        self.a, self.b = a or memory(), b or memory()
        self.state = memory()
        self.clock = VirtualClock()

    def go(self, **more):
        settings = {
            "state": self.state,
            "max_delete": 100,
            "executor": Inline(),
            "clock": self.clock,
            "now": self.clock.date,
            "backoff": Backoff(draw=lambda: 0.5),
        }
        a, b = more.pop("a", self.a), more.pop("b", self.b)
        return bisync(a, b, **{**settings, **more})

    def both(self):
        """What both hold, which must be the same."""
        found = held(self.a)
        assert held(self.b) == found
        return {path: data.decode() for path, data in found.items()}

    def saved(self):
        """The saved listings, by side and path."""
        said = json.loads(held(self.state)["state.json"])
        return {
            side: {json.loads(line)[0]: json.loads(line) for line in held(self.state)[one["name"]].splitlines()}
            for side, one in said["listings"].items()
        }

    def does_nothing(self, **more):
        """A run changes nothing on either side, nor of the state."""
        before = [[(info.path, info.etag) for info in store.list()] for store in (self.a, self.b, self.state)]
        report = self.go(**more)
        assert report.ok
        assert report.changes == 0
        assert [[(info.path, info.etag) for info in store.list()] for store in (self.a, self.b, self.state)] == before
        return report


@pytest.fixture
def two():
    """A pair in step: ``x``, ``y`` and ``d/z``, and ``always``."""
    made = Two()
    fill(made.a, "always", "x", "y", "d/z")
    made.go()
    return made


@pytest.fixture(params=[(0, 1), (1, 0)], ids=["from path1", "from path2"])
def way(request, two):
    """The pair, the side that is edited, the other one."""
    stores = two.a, two.b
    return two, stores[request.param[0]], stores[request.param[1]]


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


def conflict(two, *, a=2, b=3, left="left side", right="right"):
    put(two.a, "x", left, at=a)
    put(two.b, "x", right, at=b)


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


# --- refusals --------------------------------------------------------------------------------------------------------


def refuses(two, match, kind=StorageError, **more):
    """The run raises before anything is changed."""
    before = [[(info.path, info.etag) for info in store.list()] for store in (two.a, two.b)]
    saved = held(two.state)
    with pytest.raises(kind, match=match):
        two.go(**more)
    assert [[(info.path, info.etag) for info in store.list()] for store in (two.a, two.b)] == before
    assert held(two.state) == saved


def test_a_side_that_lists_empty_is_refused(way):
    two, here, there = way
    for path in held(here):
        here.delete(path)
    put(there, "new", "new")
    refuses(two, "lists empty, and had 4 objects")
    refuses(two, "lists empty, and had 4 objects", dry_run=True)
    assert two.go(resync=True).changes == 5
    assert len(two.both()) == 5


def test_a_side_that_cannot_be_found_any_more_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "x").write_text("x")
    bisync(tmp_path / "a", tmp_path / "b", state=tmp_path / "state")
    (tmp_path / "b" / "x").unlink()
    (tmp_path / "b").rmdir()
    with pytest.raises(StorageError):
        bisync(tmp_path / "a", tmp_path / "b", state=tmp_path / "state")
    assert (tmp_path / "a" / "x").exists()


def test_more_deletions_than_max_delete_percent_are_refused(way):
    two, here, _ = way
    for path in ("x", "y"):
        here.delete(path)
    refuses(two, "2 of the 4 objects .* are gone, more than max_delete of 49 percent", max_delete=49)
    assert two.go(max_delete=50).changes == 2


def test_half_of_a_side_may_be_deleted_by_default(way):
    two, here, _ = way
    for path in ("x", "y", "d/z"):
        here.delete(path)
    with pytest.raises(StorageError, match="max_delete of 50 percent"):
        bisync(two.a, two.b, state=two.state)


def test_the_filter_must_be_that_of_the_last_run(two):
    refuses(two, "another filter", ConfigError, filter=Filter.parse(["- *.tmp"]))
    two.go(filter=Filter.parse(["- *.tmp"]), resync=True)
    refuses(two, "another filter", ConfigError)


def test_the_state_belongs_to_two_places(two):
    refuses(two, "another path2", ConfigError, b=memory())
    refuses(two, "another path1", ConfigError, a=two.b, b=two.a)


def test_names_must_be_matched_as_in_the_last_run(two):
    refuses(two, "names matched in another way", ConfigError, ignore_case=True)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b'{"version": 1}', b"\xff"])
def test_a_damaged_state_is_refused(two, damage):
    put(two.state, "state.json", damage)
    kind = ConfigError if b"1" in damage else CorruptData
    refuses(two, "resync", kind)
    assert two.go(resync=True).ok
    two.does_nothing()


def test_a_state_of_another_version_is_refused(two):
    put(two.state, "state.json", b'{"version": 99}')
    refuses(two, "version 99", CorruptData)


@pytest.mark.parametrize("which", "ab")
def test_half_a_state_is_refused(two, which):
    name = json.loads(held(two.state)["state.json"])["listings"][which]["name"]
    data = held(two.state)[name]
    put(two.state, name, data[:-20])
    refuses(two, "damaged or half missing", CorruptData)
    two.state.delete(name)
    refuses(two, "damaged or half missing", CorruptData)
    put(two.state, name, data)
    two.does_nothing()


def test_places_that_overlap_are_refused():
    store, state = memory(), memory()
    fill(store, "in/x", "x")
    with pytest.raises(ConfigError, match="are one place"):
        bisync(store, store, state=state)
    with pytest.raises(ConfigError, match="overlap: 'in' of one is the other"):
        bisync(store, Prefix(store, "in"), state=state)
    bisync(store, Prefix(store, "in"), state=state, filter=Filter.parse(["- /in/**"]))
    with pytest.raises(ConfigError, match="choose another state folder"):
        bisync(memory(), store, state=Prefix(store, "state"))


def test_sides_must_be_able_to_do_their_part(two):
    refuses(two, "the second side cannot", CapabilityNotSupported, b=ReadOnly(two.b))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"conflict": "both"}, "conflict='both': use one of keep-both"),
        ({"max_delete": 101}, "max_delete is a percentage"),
        ({"max_delete": "50%"}, "max_delete is a percentage"),
        ({"lock_expires": timedelta(0)}, "lock_expires"),
        ({"delete": True}, "bisync takes no delete"),
        ({"compare": "aws"}, "a rule for one direction"),
        ({"filter": Filter.parse([], exclude_if_present=[".skip"])}, "look deleted"),
        ({"transfers": 0}, "transfers is a number"),
    ],
)
def test_a_wrong_setting_is_refused(two, settings, match):
    refuses(two, match, ConfigError, **settings)


# --- the lock --------------------------------------------------------------------------------------------------------


def locked(two, *, expires, token="somebody"):
    ends = (two.clock.date() + timedelta(seconds=expires)).isoformat()
    put(two.state, "lock", json.dumps({"token": token, "host": "elsewhere", "pid": 7, "expires": ends}))


@pytest.fixture(params=["checks", "no if_match", "neither"])
def kept(request, two):
    """A pair whose state lies in stores that check more and less."""
    features = {"checks": {}, "no if_match": {"if_match": False}}.get(
        request.param, {"if_match": False, "create_only": False}
    )
    state = memory(**features)
    for path, data in held(two.state).items():
        put(state, path, data)
    two.state = state
    return two


def test_a_run_is_refused_while_another_holds_the_lock(kept):
    locked(kept, expires=60)
    refuses(kept, "process 7 on elsewhere.* holds the lock")
    with pytest.raises(StorageError) as caught:
        kept.go()
    assert caught.value.transient


def test_a_lock_that_expired_is_taken_over_and_let_go_at_the_end(kept):
    locked(kept, expires=-1)
    put(kept.a, "new", "new")
    assert kept.go().ok
    assert "lock" not in held(kept.state)


def test_a_lock_is_let_go_after_a_failure(kept):
    with pytest.raises(PermissionDenied):
        kept.go(a=failing(kept.a, "list"))
    assert "lock" not in held(kept.state)


def test_a_lock_that_cannot_be_made_out_expires_too(two):
    two.clock.time = 3600.0 * 24 * 10
    for data in (b"", b"[]", b'{"expires": 5}'):
        put(two.state, "lock", data, at=10)
        refuses(two, "holds the lock")
        put(two.state, "lock", data, at=9)
        assert two.go().ok


def test_two_runs_do_not_both_get_the_lock(kept):
    """While one waits for its first listing, another begins."""
    said = []

    def begin():
        with pytest.raises(StorageError, match="holds the lock"):
            kept.go()
        said.append(True)

    kept.go(a=meanwhile(kept.a, "list", begin))
    assert said == [True]


def test_what_is_written_is_read_back_where_the_store_checks_nothing(two):
    two.state.features = replace(two.state.features, if_match=False, create_only=False)
    with pytest.raises(StorageError, match="holds the lock"):
        two.go(state=meanwhile(two.state, "open_reader", lambda: locked(two, expires=60), at=2))
    assert json.loads(held(two.state)["lock"])["token"] == "somebody"


@pytest.mark.parametrize("there", [True, False], ids=["an expired one", "none"])
def test_of_two_runs_that_begin_at_once_one_gets_the_lock(two, there):
    if there:
        locked(two, expires=-1)
    other = meanwhile(two.state, "open_writer", lambda: locked(two, expires=60))
    with pytest.raises(StorageError, match="holds the lock"):
        two.go(state=other)
    assert json.loads(held(two.state)["lock"])["token"] == "somebody"


def test_a_lock_is_renewed_while_the_run_goes_on(two):
    fill(two.a, *[f"new/{number}" for number in range(50)])
    ends = []

    def passes(op, number):
        if op == "open_writer":
            two.clock.time += 60.0
            ends.append(json.loads(held(two.state)["lock"])["expires"])
            assert ends[-1] > two.clock.date().isoformat(), "the lock has expired during the run"

    assert two.go(b=Acting(two.b, passes)).ok
    assert 50 * 60 / 300 <= len(set(ends)) <= 50 * 60 / 300 + 3, "every third of 15 minutes is often enough"


def test_a_run_whose_lock_was_taken_over_stops_and_saves_nothing(kept):
    fill(kept.a, "new/1", "new/2", "new/3")
    saved = kept.saved()

    def lost():
        kept.clock.time += 1000
        locked(kept, expires=60)

    with pytest.raises(StorageError, match="taken the lock over"):
        kept.go(b=meanwhile(kept.b, "open_writer", lost))
    assert "new/3" not in held(kept.b)
    assert kept.saved() == saved
    assert json.loads(held(kept.state)["lock"])["token"] == "somebody"


def test_the_lock_is_looked_at_before_the_state_is_saved(two):
    put(two.a, "new", "new")
    saved = two.saved()
    with pytest.raises(StorageError, match="taken the lock over"):
        two.go(b=meanwhile(two.b, "open_writer", lambda: locked(two, expires=60)))
    assert two.saved() == saved


def test_a_state_that_cannot_be_reached_for_a_moment_ends_no_run(two):
    fill(two.a, *[f"new/{number}" for number in range(3)])
    state = Acting(two.state, lambda op, number: None)

    def passes():
        two.clock.time += 400
        state.act = lambda op, number: refuse() if op == "open_reader" else None

    def refuse():
        state.act = lambda op, number: None
        raise BackendUnavailable("not now")

    assert two.go(state=state, b=meanwhile(two.b, "open_writer", passes)).ok


# --- order, failures, critical ends ----------------------------------------------------------------------------------


def test_losers_are_put_aside_first_and_deletions_come_last(two):
    conflict(two)
    put(two.a, "new", "new")
    two.b.delete("y")
    done = []
    two.go(listeners=[lambda event: done.append((event.action.kind, event.path)) if event.kind == "started" else None])
    kinds = [kind for kind, _ in done]
    assert done[0] == done[1] == ("copy", "x")
    assert done.index(("copy", "new")) < done.index(("update", "x")) < done.index(("delete", "y"))
    assert kinds[-1] == "delete"


def test_nothing_is_deleted_or_overwritten_in_a_conflict_after_a_failure(two):
    conflict(two)
    put(two.a, "new", "new")
    two.b.delete("y")
    before = two.saved()
    b = Acting(two.b, lambda op, number: None)

    def act(op, number):
        if op == "open_writer" and number == 1:
            raise PermissionDenied("injected")

    b.act = act
    with pytest.raises(SyncError) as caught:
        two.go(b=b)
    report = caught.value.report
    assert (report.failed, report.blocked) == (1, 2)
    assert held(two.a)["y"]
    assert (held(two.a)["x"], held(two.b)["x"]) == (b"left side", b"right")
    assert held(two.b)["new"] == b"new"
    assert two.saved() == before
    assert two.go().ok
    assert sorted(two.both().values())[-2:] == ["left side", "right"] or len(two.both()) > 4
    two.does_nothing()


def test_a_conflict_that_fails_again_and_again_does_not_pile_up_copies(two):
    conflict(two)

    for _ in range(4):
        assert not two.go(a=_Refusing(two.a), raise_errors=False).ok
    assert [path for path in held(two.a) if "conflict" in path] == ["x.conflict-1"]
    assert two.go().ok
    assert [path for path in two.both() if "conflict" in path] == ["x.conflict-1"]


class _Refusing(Acting):
    """``x`` itself cannot be replaced."""

    def __init__(self, inner):
        super().__init__(inner, lambda op, number: None)

    def open_writer(self, path, options):
        if path == "x":
            raise PermissionDenied("injected", path=path)
        return super().open_writer(path, options)


def test_a_failed_run_is_gone_on_with_by_the_next_one(two):
    fill(two.a, "new/1", "new/2", "new/3")
    two.b.delete("y")
    assert two.go(b=failing(two.b, "open_writer", 2), raise_errors=False).failed == 1
    report = two.go()
    assert (report.to_path2, report.same, report.deleted_path1) == (1, 2, 1)
    two.both()
    two.does_nothing()


def test_a_listing_error_at_the_start_changes_nothing(way):
    two, here, _ = way
    here.delete("x")
    for name in "ab":
        refuses(two, "injected", PermissionDenied, **{name: failing(getattr(two, name), "list")})
    assert two.go().changes == 1


def test_a_listing_error_after_changes_is_critical_until_resync(two):
    put(two.a, "new", "new")
    calls = Acting(two.b, lambda op, number: None)
    list(calls.list())
    once = calls.log.count("list")
    report = two.go(b=failing(two.b, "list", once + 2), raise_errors=False)
    assert report.failures[0].action == "list"
    refuses(two, "ended critically .*resync")
    assert two.go(resync=True).ok
    two.does_nothing()


class Lying(MemoryBackend):
    """States a wrong digest of what it wrote."""

    def _put(self, path, data, options, op):
        info = super()._put(path, data, options, op)
        return info._replace(hashes={"md5": "0" * 32})


class Stating(MemoryBackend):
    """States the MD5 of what it holds."""

    def _get(self, path, op):
        import hashlib

        found = super()._get(path, op)
        return found._replace(info=found.info._replace(hashes={"md5": hashlib.md5(found.data).hexdigest()}))


def test_damaged_data_are_critical_until_resync():
    two = Two(memory(Stating), memory(Lying))
    two.go()
    put(two.a, "x", "data")
    report = two.go(raise_errors=False)
    assert isinstance(report.failures[0].error, CorruptData)
    assert held(two.b) == {}
    refuses(two, "ended critically")
    refuses(two, "ended critically", dry_run=True)


def test_a_first_run_can_end_critically_too():
    two = Two(memory(Stating), memory(Lying))
    put(two.a, "x", "data")
    assert not two.go(raise_errors=False).ok
    refuses(two, "ended critically")


# --- others at work --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "edit"),
    [
        *(("while it reads", edit) for edit in ("change", "delete", "create")),
        *(("at the end", edit) for edit in ("change", "delete", "create", "change its own", "delete its own")),
    ],
)
@pytest.mark.parametrize("side", "ab")
def test_an_edit_during_a_run_is_found_by_the_next_one(two, when, edit, side):
    put(two.a, "new a", "written by the run")
    put(two.b, "new b", "written by the run")
    store = getattr(two, side)
    wrote = f"new {'b' if side == 'a' else 'a'}"
    edits = {
        "change": lambda: put(store, "y", "edited", at=5),
        "delete": lambda: store.delete("y"),
        "create": lambda: put(store, "created", "edited", at=5),
        "change its own": lambda: put(store, wrote, "edited", at=5),
        "delete its own": lambda: store.delete(wrote),
    }
    if when == "while it reads":
        more = {"b": meanwhile(two.b, "open_reader", edits[edit])}
    else:
        more = {"state": _Before(two.state, ".ndjson", edits[edit])}
    assert two.go(**more).ok
    assert two.go().changes == 1
    found = two.both()
    expected = {"change": ("y", "edited"), "create": ("created", "edited"), "change its own": (wrote, "edited")}
    if edit in expected:
        assert found[expected[edit][0]] == expected[edit][1]
    else:
        assert {"delete": "y"}.get(edit, wrote) not in found
    two.does_nothing()


class _Before(Acting):
    """``do`` is called once, before the first object with this suffix is written."""

    def __init__(self, inner, suffix, do):
        super().__init__(inner, lambda op, number: None)
        self.suffix, self.do = suffix, [do]

    def open_writer(self, path, *options):
        if path.endswith(self.suffix) and self.do:
            self.do.pop()()
        return super().open_writer(path, *options)


class Terse(MemoryBackend):
    """Says nothing of what it wrote but its size."""

    def _put(self, path, data, options, op):
        return super()._put(path, data, options, op)._replace(etag=None, modified_at=None)


def test_an_edit_of_the_same_size_is_found_where_writing_tells_neither_etag_nor_time():
    two = Two(memory(), memory(Terse))
    put(two.a, "x", "one")
    two.go(state=_Before(two.state, ".ndjson", lambda: put(two.b, "x", "two", at=2)))
    assert two.go().changes == 1
    assert two.both() == {"x": "two"}


def test_what_is_made_on_both_sides_during_a_run_is_a_conflict_for_the_next_one(two):
    put(two.a, "new", "new")

    def create():
        put(two.a, "z", "one", at=1)
        put(two.b, "z", "other", at=2)

    two.go(state=_Before(two.state, ".ndjson", create))
    assert two.go().conflicted == 1
    assert two.both()["z"] == "other"


@pytest.mark.parametrize("kind", [memory, blind])
def test_what_changes_between_its_listing_and_its_turn_is_neither_overwritten_nor_deleted(kind):
    two = Two(kind(), kind())
    fill(two.a, "x", "y", "z", "always")
    two.go()
    put(two.a, "x", "changed", at=2)
    two.a.delete("y")
    put(two.a, "new", "new", at=2)

    def edit():
        put(two.b, "x", "an edit of x", at=3)
        put(two.b, "y", "an edit of y", at=3)
        put(two.b, "new", "made by others", at=3)

    report = two.go(a=meanwhile(two.a, "open_reader", edit), raise_errors=False)
    assert not report.ok
    assert (held(two.b)["x"], held(two.b)["y"]) == (b"an edit of x", b"an edit of y")
    assert two.go().ok
    assert {"changed", "an edit of x", "an edit of y"} <= set(two.both().values())


def test_a_new_name_that_others_were_faster_with_is_theirs_where_nothing_is_checked():
    two = Two(blind(), blind())
    fill(two.a, "a", "x")
    report = two.go(a=meanwhile(two.a, "open_reader", lambda: put(two.b, "x", "theirs")), raise_errors=False)
    assert [failure.path for failure in report.failures] == ["x"]
    assert held(two.b)["x"] == b"theirs"


# --- what takes no part ----------------------------------------------------------------------------------------------


def test_what_the_filter_hides_is_neither_copied_nor_deleted(two):
    filter = Filter.parse(["- *.tmp", "- /cache/**"])
    fill(two.a, "a.tmp", "cache/x")
    fill(two.b, "b.tmp", "cache/y")
    two.go(filter=filter, resync=True)
    two.does_nothing(filter=filter)
    assert {"a.tmp", "cache/x"} <= set(held(two.a))
    assert not {"a.tmp", "cache/x"} & set(held(two.b))


def test_a_loser_whose_new_name_the_filter_hides_is_put_aside_all_the_same(two):
    filter = Filter.parse(["- *.conflict-*"])
    two.go(filter=filter, resync=True)
    conflict(two)
    two.go(filter=filter)
    assert two.both()["x.conflict-1"] == "left side"
    two.does_nothing(filter=filter)


def test_an_object_that_grew_out_of_the_filter_is_not_deleted_and_what_happens_meanwhile_is_not_lost():
    two = Two()
    small = Filter(max_size=100)
    fill(two.a, "x", "always")
    two.go(filter=small)
    put(two.a, "x", "long" * 100, at=2)
    fill(two.a, "another")  # so that a state is saved
    two.go(filter=small)
    assert held(two.b)["x"] == b"data of x"
    put(two.b, "x", "edited", at=3)
    fill(two.a, "and another")
    two.go(filter=small)
    put(two.a, "x", "short again", at=4)
    assert two.go(filter=small).conflicted == 1
    assert {"edited", "short again"} <= set(two.both().values())


def test_a_link_in_the_place_of_a_file_or_folder_shields_what_the_other_side_has():
    two = Two(listing(), memory())
    fill(two.a, "always", "x", "d")
    fill(two.b, "f/y")
    two.a.shown = ()
    two.go(filter=Filter.parse(["- f/**"]))
    two.a.delete("x")
    two.a.shown = (listing("x").shown[0],)
    report = two.go(filter=Filter.parse(["- f/**"]))
    assert report.changes == 0
    assert "no plain object: x" in report.warnings[0]
    assert held(two.b)["x"] == b"data of x"


def test_what_lies_below_a_link_on_the_other_side_stays():
    two = Two(listing(dirs=False), memory())
    fill(two.b, "always", "d/y")
    two.go()
    two.a.delete("d/y")
    two.a.shown = listing("d").shown
    assert two.go().changes == 0
    assert "d/y" in held(two.b)


# --- files and folders -----------------------------------------------------------------------------------------------


def test_a_file_that_became_a_folder_does_so_on_the_other_side(way):
    two, here, _ = way
    here.delete("x")
    fill(here, "x/1", "x/2")
    two.go()
    assert set(two.both()) == {"always", "y", "d/z", "x/1", "x/2"}
    two.does_nothing()


def test_a_folder_that_became_a_file_does_so_on_the_other_side(way):
    two, here, _ = way
    here.delete("d/z")
    here.rmdir("d")
    put(here, "d", "a file")
    two.go()
    assert two.both()["d"] == "a file"
    two.does_nothing()


def test_a_file_beside_a_folder_of_its_name_fails_and_nothing_is_lost(two):
    put(two.a, "n", "a file")
    put(two.b, "n/x", "in a folder")
    report = two.go(raise_errors=False)
    assert {failure.path for failure in report.failures} == {"n", "n/x"}
    assert (held(two.a)["n"], held(two.b)["n/x"]) == (b"a file", b"in a folder")
    two.a.delete("n")
    two.a.delete("x")
    assert two.go().ok
    assert two.both()["n/x"] == "in a folder"


def test_a_folder_that_a_deletion_emptied_goes_too(way):
    two, here, there = way
    put(here, "p/q/r/s", "deep")
    two.go()
    here.delete("p/q/r/s")
    for folder in ("p/q/r", "p/q", "p"):
        here.rmdir(folder)
    assert two.go().folders_removed == 3
    assert [info.path for info in there.list_dir() if info.is_dir] == ["d"]


def test_an_emptied_folder_that_the_other_side_has_stays(way):
    two, here, there = way
    here.delete("d/z")
    assert two.go().folders_removed == 0
    assert [info.path for info in there.list_dir() if info.is_dir] == ["d"]


def test_a_folder_that_holds_something_else_stays(way):
    two, here, there = way
    filter = Filter.parse(["- *.tmp"])
    two.go(filter=filter, resync=True)
    put(there, "d/own.tmp", "hidden")
    here.delete("d/z")
    here.rmdir("d")
    report = two.go(filter=filter)
    assert (report.changes, report.folders_removed) == (1, 0)
    assert "d/own.tmp" in held(there)


def test_names_that_a_side_cannot_tell_apart_meet():
    two = Two(memory(), memory(Folding))
    put(two.a, "Readme", "one", at=1)
    put(two.b, "README", "one", at=1)
    two.go()
    put(two.b, "README", "other", at=2)
    two.go()
    assert held(two.a) == {"Readme": b"other"}
    two.does_nothing()
    put(two.a, "readme", "third", at=3)
    refuses(two, "rename one of each", ConfigError)


# --- dry run, report, events -----------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_done_and_writes_nothing_at_all(two):
    conflict(two)
    put(two.a, "new", "new")
    two.b.delete("y")
    before = [held(store) for store in (two.a, two.b, two.state)]
    state = Acting(two.state, lambda op, number: None)
    would = two.go(dry_run=True, state=state)
    assert [held(store) for store in (two.a, two.b, two.state)] == before
    assert set(state.log) <= {"open_reader", "read"}
    did = two.go()
    for name in ("to_path1", "to_path2", "deleted_path1", "deleted_path2", "conflicts"):
        assert getattr(would, name) == getattr(did, name)
    assert "would be copied to path1" in str(would)


def test_the_report_says_what_happened_on_each_side(two):
    put(two.a, "new", "four", at=2)
    put(two.b, "1", "one", at=2)
    put(two.b, "2", "two", at=2)
    two.b.delete("y")
    report = two.go()
    assert (report.to_path1, report.to_path2, report.deleted_path1, report.deleted_path2) == (2, 1, 1, 0)
    assert (report.bytes, report.unchanged) == (10, 3)
    assert json.loads(json.dumps(report.as_dict()))["ok"] is True
    assert str(report) == "2 copied to path1, 1 copied to path2, 1 deleted from path1"
    assert str(BisyncReport()) == "nothing to do"


def test_every_event_tells_the_side_and_there_is_one_summary(two):
    put(two.a, "new", "new", at=2)
    two.b.delete("y")
    seen = []
    two.go(listeners=[seen.append])
    changes = {(event.kind, event.path, event.action.to) for event in seen if event.kind in ("done", "deleted")}
    assert changes == {("done", "new", "path2"), ("deleted", "y", "path1")}
    assert [event.kind for event in seen].count("summary") == 1
    assert seen[-1].kind == "summary"


@pytest.mark.parametrize(
    ("settings", "at", "same"),
    [
        ({}, 1, 1),
        ({}, 2, 0),
        ({"modify_window": timedelta(days=2)}, 2, 1),
        ({"size_only": True}, 2, 1),
        ({"compare": "mtime"}, 1, 1),
        ({"compare": "checksum"}, 1, 0),
        ({"checksum": True}, 1, 0),
    ],
)
def test_what_counts_as_the_same_on_the_first_run_can_be_chosen(settings, at, same):
    two = Two()
    put(two.a, "x", "left.", at=1)
    put(two.b, "x", "right", at=at)
    report = two.go(**settings)
    assert (report.same, report.conflicted) == (same, 1 - same)


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
    at = 0
    while True:
        at += 1
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
    assert {kind for kind in replicas.FAULTS if fired[kind] < 50} == set(), fired
    assert did["conflicts"] >= 100
    assert did["deletions"] >= 100
    assert did["failures"] >= 100
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
