"""Several processes on one journal, calls that were given up and happen all the same, and repair beside all of them."""

import hashlib
import os
import pickle
import threading
from contextvars import Context

import pytest

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    CopyOptions,
    DeadlineExceeded,
    LocalBackend,
    MemoryBackend,
    MultiBackend,
    MultiError,
    OutcomeUnknown,
    PreconditionFailed,
    StorageError,
    Target,
    WriteOptions,
)
from omnistorage.concurrency.cancellation import deadline
from omnistorage.ops import read_bytes, write_bytes

from ..waiting import LIMIT, until
from .mirrors import Once, entries, mirror, patient, peeks, switches
from .places import Switch

NEW = WriteOptions(overwrite=False)


class Deaf(Switch):
    """One call of ``op`` cannot be called back: it ends when it is let (``go``), and does what it was asked to."""

    def __init__(self, op=None):
        super().__init__()
        self.op, self.entered, self.go = op, threading.Event(), threading.Event()

    def _call(self, op, run):
        if op == self.op:
            self.op = None
            self.entered.set()
            assert self.go.wait(LIMIT)
            return Context().run(super()._call, op, run)
        return super()._call(op, run)

    def _writer(self, writer, path):
        writer = super()._writer(writer, path)
        abort = writer.abort
        writer.abort = lambda: None if self.entered.is_set() and not self.go.is_set() else abort()
        return writer


def ended(multi, target):
    """Wait until what was given up at ``target`` has happened."""
    calls = multi.stuck._calls.get(target, [])
    until(lambda: all(turn.over for _, turn in calls))


def two(mode="quorum", count=3):
    """Two processes' mirrors of the same stores, with one journal."""
    journal, mine = MemoryBackend(), switches(count)
    theirs = [Switch(place.inner) for place in mine]
    return mine, mirror(mine, mode, journal=journal), theirs, mirror(theirs, mode, journal=journal)


# -- conditions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["new", "etag"])
@pytest.mark.parametrize("processes", [1, 2])
def test_who_loses_a_race_never_becomes_what_all_are_made_like(condition, processes):
    places, winner, others, loser = two()
    loser = winner if processes == 1 else loser
    options = NEW
    if condition == "etag":
        write_bytes(winner, "x", b"v1")
        options = WriteOptions(if_match=winner.stat("x").etag)
    writer = loser.open_writer("x", options)
    writer.write(b"loser")
    writer.flush()
    places[0].down = True
    write_bytes(winner, "x", b"winner", WriteOptions(overwrite=condition == "etag"))
    places[0].down = False
    with pytest.raises((AlreadyExists, PreconditionFailed)):
        writer.close()
    assert read_bytes(winner, "x") == read_bytes(loser, "x") == b"winner"
    assert not winner.repair(grace=0).waiting
    assert peeks(places, "x") == [b"winner"] * 3
    assert entries(winner) == []
    del others


def test_a_publication_that_meets_another_object_halfway_is_taken_back():
    places = switches(2)
    multi = mirror(places, journal=MemoryBackend())
    writer = multi.open_writer("x", NEW)
    writer.write(b"mine")
    writer.flush()
    write_bytes(places[1].inner, "x", b"theirs")
    with pytest.raises(MultiError):
        writer.close()
    assert entries(multi) == [("x", ("t0",), False)]
    multi.repair()
    assert peeks(places, "x") == [b"theirs"] * 2


@pytest.mark.parametrize("op", ["copy", "move"])
def test_a_copy_that_creates_replaces_nothing_at_any_target(op):
    places = switches(3, s=b"source")
    write_bytes(places[1].inner, "d", b"only here")
    multi = mirror(places)
    with pytest.raises((AlreadyExists, MultiError)):
        getattr(multi, op)("s", "d", CopyOptions(overwrite=False))
    assert places[1].inner.peek("d") == b"only here"


def test_a_copy_that_creates_asks_the_next_where_the_first_is_down():
    places = switches(3, s=b"source")
    multi = mirror(places, "quorum")
    places[0].down = True
    multi.copy("s", "d", CopyOptions(overwrite=False))
    assert peeks(places, "d") == [None, b"source", b"source"]


@pytest.mark.parametrize(
    "change",
    [
        lambda multi, etag: multi.delete("d", if_match=etag),
        lambda multi, etag: write_bytes(multi, "d", b"lost update", WriteOptions(if_match=etag)),
        lambda multi, etag: multi.copy("s", "d", CopyOptions(if_match=etag)),
        lambda multi, etag: multi.copy("d", "e", CopyOptions(source_if_match=etag)),
        lambda multi, etag: multi.copy("s", "d", CopyOptions(overwrite=False)),
    ],
)
def test_a_condition_sees_what_another_process_has_journaled(change):
    places, one, _, other = two()
    write_bytes(other, "s", b"source")
    write_bytes(other, "d", b"v1")
    etag = other.stat("d").etag
    places[0].down = True
    write_bytes(one, "d", b"v2")
    places[0].down = False
    with pytest.raises((AlreadyExists, PreconditionFailed, MultiError)):
        change(other, etag)
    one.repair(grace=0)
    assert peeks(places, "d") == [b"v2"] * 3


def test_what_another_process_has_journaled_is_known_to_readers_within_ten_seconds():
    places, one, _, other = two()
    write_bytes(one, "x", b"1")
    assert read_bytes(other, "x") == b"1"
    places[0].down = True
    write_bytes(one, "x", b"2")
    places[0].down = False
    now = other.journal._now()
    other.journal._now = lambda: now + 10
    assert read_bytes(other, "x") == b"2"


def test_a_condition_on_each_side_of_a_copy_finds_its_own_target():
    places = switches(2, s=b"source", d=b"v1")
    multi = mirror(places, "best_effort")
    places[0].down = True
    multi.delete("d")
    write_bytes(multi, "d", b"v2")
    places[0].down = False
    source, target = multi.stat("s").etag, multi.stat("d").etag
    assert (source[:3], target[:3]) == ("t0:", "t1:")
    multi.copy("s", "d", CopyOptions(source_if_match=source, if_match=target))
    multi.repair(grace=0)
    assert peeks(places, "d") == [b"source"] * 2


def test_stores_without_conditions_create_what_was_deleted_without_them(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    away = Switch(LocalBackend(tmp_path / "a"))
    multi = MultiBackend([Target("a", away), Target("b", tmp_path / "b")], "best_effort", journal=tmp_path / "j")
    write_bytes(multi, "x", b"old")
    away.down = True
    multi.delete("x")
    away.down = False
    write_bytes(multi, "x", b"new", NEW)
    assert [(tmp_path / name / "x").read_bytes() for name in "ab"] == [b"new"] * 2


# -- what was given up and happens all the same ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deadline", "laggard"])
def test_a_deletion_that_was_given_up_undoes_nothing_later(how):
    deaf = Deaf()
    places = [deaf, *switches(2)]
    multi = mirror(
        places, "quorum", laggard_timeout=0.05 if how == "laggard" else None, _crew=patient(deaf.entered.is_set)
    )
    write_bytes(multi, "x", b"old")
    deaf.op = "delete"
    if how == "laggard":
        multi.delete("x")
    else:
        with (
            deadline(0.05, Once(lambda: deaf.entered.is_set() and peeks(places[1:], "x") == [None, None])),
            pytest.raises(DeadlineExceeded),
        ):
            multi.delete("x")
    assert deaf.entered.wait(LIMIT)
    write_bytes(multi, "x", b"acknowledged")
    assert multi.repair(grace=0).waiting  # it would be undone
    deaf.go.set()
    ended(multi, "t0")
    assert read_bytes(multi, "x") == b"acknowledged"
    assert not multi.repair(grace=0).waiting
    assert peeks(places, "x") == [b"acknowledged"] * 3


@pytest.mark.parametrize("how", ["deadline", "laggard"])
def test_a_publication_that_was_given_up_undoes_nothing_later(how):
    deaf = Deaf("close")
    places = [deaf, *switches(2)]
    multi = mirror(
        places, "quorum", laggard_timeout=0.05 if how == "laggard" else None, _crew=patient(deaf.entered.is_set)
    )
    if how == "laggard":
        write_bytes(multi, "x", b"given up")
    else:
        with (
            deadline(0.05, Once(lambda: deaf.entered.is_set() and peeks(places[1:], "x") == [b"given up"] * 2)),
            pytest.raises(OutcomeUnknown, match="the deadline has passed"),
        ):
            write_bytes(multi, "x", b"given up")
    assert deaf.entered.wait(LIMIT)
    write_bytes(multi, "x", b"acknowledged")
    assert multi.repair(grace=0).waiting
    deaf.go.set()
    ended(multi, "t0")
    assert read_bytes(multi, "x") == b"acknowledged"
    assert not multi.repair(grace=0).waiting
    assert peeks(places, "x") == [b"acknowledged"] * 3


def test_a_target_that_hangs_is_not_asked_again_and_again():
    class Hangs(Switch):
        asked = 0

        def _before(self, op, number):
            self.asked += 1
            assert go.wait(LIMIT)

    go = threading.Event()
    hangs = Hangs()
    multi = mirror([hangs, *switches(2)], "quorum", laggard_timeout=0.02, _crew=patient(lambda: hangs.asked))
    for number in range(20):
        write_bytes(multi, f"x{number}", b"1")
    assert hangs.asked <= 4
    go.set()


def test_waiting_for_another_change_of_the_path_ends_with_the_deadline():
    deaf = Deaf("close")
    multi = mirror([deaf, Switch()])
    thread = threading.Thread(target=lambda: write_bytes(multi, "x", b"1"), daemon=True)
    thread.start()
    assert deaf.entered.wait(LIMIT)
    with deadline(0.05, Once(deaf.entered.is_set)), pytest.raises(DeadlineExceeded):
        multi.delete("x")
    deaf.go.set()
    thread.join(LIMIT)


# -- repair beside writers ---------------------------------------------------------------------------------------------


class Pausing(Switch):
    """Waits once before it closes."""

    pause = None

    def _call(self, op, run):
        if op == "close" and self.pause is not None:
            pause, self.pause = self.pause, None
            pause()
        return super()._call(op, run)


class Halfway:
    """Another process, which has published v2 at the first target and at no other until it is let (``end``)."""

    def __init__(self, places, multi):
        theirs = [Switch(places[0].inner), Pausing(places[1].inner), Pausing(places[2].inner)]
        self.mirror = mirror(theirs, "quorum", journal=multi._settings["journal"])
        self.mirror.journal.load()
        started, self.go = threading.Barrier(3), threading.Event()
        for place in theirs[1:]:
            place.pause = lambda: (started.wait(LIMIT), self.go.wait(LIMIT))
        self.thread = threading.Thread(target=lambda: write_bytes(self.mirror, "x", b"v2"), daemon=True)
        self.thread.start()
        started.wait(LIMIT)
        while places[0].inner.peek("x") != b"v2":
            threading.Event().wait(0.01)

    def end(self):
        self.go.set()
        self.thread.join(LIMIT)


@pytest.mark.parametrize("ends", ["before it looks again", "afterwards"])
@pytest.mark.parametrize("begins", ["before", "when it has read the journal"])
def test_a_repair_beside_a_publication_leaves_no_target_behind(begins, ends):
    places = switches(3)
    multi = mirror(places, "quorum")
    places[0].down = True
    write_bytes(multi, "x", b"v1")
    places[0].down = False
    others = [Halfway(places, multi)] if begins == "before" else []
    load, loads = multi.journal.load, []

    def watched(max_age=0.0):
        if max_age:
            return load(max_age)
        loads.append(1)
        if len(loads) == 3 and ends.startswith("before"):
            others[0].end()
        found = load()
        if len(loads) == 2 and not others:
            others.append(Halfway(places, multi))
        return found

    multi.journal.load = watched
    multi.repair()
    multi.journal.load = load
    others[0].end()
    for _ in range(3):
        others[0].mirror.repair(grace=0)
    assert peeks(places, "x") == [b"v2"] * 3
    assert entries(multi) == []


def test_rebuilding_beside_a_publication_leaves_it_alone():
    places = switches(3, x=b"v1")
    multi = mirror(places, "quorum")
    other = Halfway(places, multi)
    assert [one.path for one in multi.verify(rebuild=True).pending] == ["x"]
    other.end()
    assert peeks(places, "x") == [b"v2"] * 3


def test_what_begins_to_be_published_while_it_is_compared_is_not_rebuilt():
    places = switches(3, x=b"v1")
    multi = mirror(places, "quorum")
    load, others = multi.journal.load, []

    def watched(max_age=0.0):
        found = load(max_age)
        if not others:
            others.append(Halfway(places, multi))
        return found

    multi.journal.load = watched
    assert all(one.rebuilt == () for one in multi.verify(rebuild=True).differing)
    others[0].end()
    assert peeks(places, "x") == [b"v2"] * 3


# -- moves -------------------------------------------------------------------------------------------------------------


def test_a_move_that_is_cut_short_onto_what_was_missed_loses_nothing():
    deaf = Deaf()
    places = [*switches(2), deaf]
    multi = mirror(places, "best_effort")
    write_bytes(multi, "s", b"precious")
    write_bytes(multi, "d", b"d0")
    places[0].down = places[1].down = True
    write_bytes(multi, "d", b"d1")
    places[0].down = places[1].down = False
    deaf.op = "close"
    with deadline(0.05, Once(deaf.entered.is_set)), pytest.raises(StorageError):
        multi.move("s", "d")
    deaf.go.set()
    ended(multi, "t2")
    multi.repair(grace=0)
    assert b"precious" in {*peeks(places, "s"), *peeks(places, "d")}


def test_a_move_by_way_of_this_process_keeps_a_source_that_changed():
    places = switches(3)
    multi = mirror(places, "quorum")
    places[2].down = True
    write_bytes(multi, "s", b"s1")
    places[2].down = False
    delete = multi.delete

    def late(path, **options):
        write_bytes(multi, "s", b"newer")
        return delete(path, **options)

    multi.delete = late
    with pytest.raises(PreconditionFailed):
        multi.move("s", "d")
    assert read_bytes(multi, "s") == b"newer"
    assert read_bytes(multi, "d") == b"s1"


# -- the journal -------------------------------------------------------------------------------------------------------


def test_a_clock_that_went_back_makes_nothing_old_win():
    places = switches(3, x=b"old")
    journal = MemoryBackend()
    killed = mirror(places, "quorum", journal=journal)
    killed.journal._now = lambda: 2000.0
    killed.journal.add(killed.entry("x", killed.places, sha256=hashlib.sha256(b"killed").hexdigest(), intent=True))
    places[0].inner.put_raw("x", b"killed")
    later = mirror(places, "quorum", journal=journal)
    later.journal._now = lambda: 1000.0
    places[0].down = True
    write_bytes(later, "x", b"newer")
    places[0].down = False
    mirror(places, "quorum", journal=journal).repair()
    assert peeks(places, "x") == [b"newer"] * 3


def test_an_entry_that_comes_while_the_journal_is_read_is_not_forgotten():
    class Slow(MemoryBackend):
        then = None

        def _list(self, prefix, options):
            found = list(super()._list(prefix, options))
            then, self.then = self.then, None
            if then is not None:
                then()
            return iter(found)

    journal, places = Slow(), switches(3)
    multi = mirror(places, "quorum", journal=journal)

    def miss():
        places[0].down = True
        write_bytes(multi, "x", b"1")
        places[0].down = False

    multi.journal.load()
    journal.then = miss
    multi.journal.load()
    assert [(entry.path, entry.targets) for entry in multi.journal.of("x")] == [("x", ("t0",))]


def test_an_entry_in_the_place_of_another_is_kept_although_the_journal_is_full():
    places = switches(3)
    multi = mirror(places, "quorum", journal_bytes=330)
    places[0].down = True
    write_bytes(multi, "x", b"1")
    assert entries(multi) == [("x", ("t0",), False)]


def test_entries_that_name_all_targets_leave_the_last_word_to_the_last():
    places, one, theirs, other = two("best_effort", 2)
    write_bytes(one, "x", b"0")
    other.journal.load()
    places[1].down = True
    write_bytes(one, "x", b"1")
    places[1].down = False
    theirs[0].down = True
    write_bytes(other, "x", b"2")
    theirs[0].down = False
    fresh = mirror(places, "best_effort", journal=one._settings["journal"])
    assert read_bytes(fresh, "x") == b"2"


def test_metadata_that_was_cleared_is_cleared_everywhere():
    places = switches(3)
    multi = mirror(places, "quorum")
    write_bytes(multi, "x", b"1", WriteOptions(user_metadata={"a": "1"}))
    places[2].down = True
    multi.set_metadata("x", user_metadata={})
    places[2].down = False
    multi.repair()
    assert [dict(place.inner.stat("x").metadata) for place in places] == [{}] * 3


def test_goal_45_the_journals_folder_is_0700_under_any_umask(tmp_path):
    old = os.umask(0)
    try:
        places = switches(2)
        multi = mirror(places, "best_effort", journal=tmp_path / "deep" / "journal")
        write_bytes(multi, "x", b"1")
    finally:
        os.umask(old)
    assert (tmp_path / "deep/journal").stat().st_mode & 0o777 == 0o700


def test_goal_41_a_secret_in_the_journals_url_is_not_pickled(tmp_path):
    multi = MultiBackend([tmp_path / "a", tmp_path / "b"], journal="sftp://u:CANARY@host/p")
    assert "CANARY" not in repr(multi)
    with pytest.raises(StorageError):
        pickle.dumps(multi)


def test_a_journal_at_a_target_itself_is_refused():
    one = MemoryBackend()
    with pytest.raises(StorageError, match="place of its own"):
        MultiBackend([one, MemoryBackend()], journal=one)


def test_a_folder_that_one_target_lacks_is_removed_at_the_others():
    places = switches(2)
    places[0].inner.mkdir("f")
    mirror(places).rmdir("f")
    assert [list(place.inner.list_dir()) for place in places] == [[], []]


def test_a_mirror_that_is_out_of_reach_says_so_of_each():
    places = switches(2)
    for place in places:
        place.down = True
    with pytest.raises(BackendUnavailable) as caught:
        mirror(places).delete("x")
    assert caught.value.__notes__ == ["in target 't0'"]
