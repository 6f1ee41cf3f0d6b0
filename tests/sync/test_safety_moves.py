"""What the sync engine never does, rules 8 to 11: moves, backups, others at work, errors."""

import random
from dataclasses import replace

import pytest

from omnistorage import (
    BackendUnavailable,
    ConfigError,
    MemoryBackend,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)
from omnistorage.sync import Filter, Plan
from omnistorage.wrappers import Prefix

from ..budget import pick
from .safety_world import ALL
from .stores import (
    Acting,
    HalfListed,
    blind,
    bucket,
    carry_out,
    day,
    failing,
    fill,
    go,
    held,
    meanwhile,
    memory,
    put,
    replayed,
)

# --- 8. move ----------------------------------------------------------------------------------------------------------


def test_goal_36_a_move_deletes_a_source_only_when_its_bytes_are_at_the_destination():
    """Random worlds in which others change both sides: no content of the source is ever lost."""
    count = 0
    for seed in range(pick(default=60, ci=1_000, soak=10_000)):
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
    assert count > pick(default=100, ci=1000, soak=15_000)


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
