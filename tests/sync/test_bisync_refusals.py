"""When bisync refuses: dangers, locks, failures, critical ends."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from omnistorage import (
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    MemoryBackend,
    PermissionDenied,
    StorageError,
)
from omnistorage.errors import SyncError
from omnistorage.sync import Filter, bisync
from omnistorage.wrappers import Prefix, ReadOnly

from .stores import Acting, failing, fill, held, meanwhile, memory, put
from .two_sides import Two, conflict, refuses

# --- refusals --------------------------------------------------------------------------------------------------------


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
    for data in (b"", b"[]", b'{"expires": 5}', b" " * (1 << 20) + b"{}"):
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
