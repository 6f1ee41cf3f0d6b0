"""``Settle``: what a kill left at some targets only becomes as safe as a finished write, or counts as nothing."""

import hashlib
import itertools
from dataclasses import replace

import pytest

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    CorruptData,
    DeadlineExceeded,
    MemoryBackend,
    MultiError,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
    WriteOptions,
)
from omnistorage.concurrency.cancellation import deadline
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.testing.faults import Faulty

from ..waiting import LIMIT
from .mirrors import entries, mirror, patient, peeks, put, switches
from .places import Switch
from .test_multi_two import Deaf

NEW = WriteOptions(overwrite=False)

MODES = ("all", "quorum", "best_effort")


def noted(multi):
    """The entries that say that a target missed something."""
    return [(path, targets) for path, targets, intent in entries(multi) if not intent]


# -- the rule ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [2, 3])
def test_what_some_targets_hold_is_given_to_the_others(count, mode, journal):
    if mode != "all" and not journal:
        return  # there is no such mirror
    for held in itertools.product((None, b"bytes"), repeat=count):
        places = switches(count)
        put(places, *held)
        multi = mirror(places, mode, journal=MemoryBackend() if journal else None)
        assert multi.settle("x") is any(held), held
        assert peeks(places, "x") == [b"bytes" if any(held) else None] * count
        assert not journal or entries(multi) == []


def test_nothing_is_written_where_all_hold_it():
    places = switches(3, x=b"bytes")
    assert mirror(places).settle("x")
    assert not any("open_writer" in place.log for place in places)


@pytest.mark.parametrize(
    ("held", "alike"),
    [
        ((b"one", b"other"), None),
        ((b"one", b"other", None), None),
        ((None, b"one", b"other"), None),
        ((b"one", b"other", b"third"), None),
        ((b"one", b"one", b"other"), b"one"),
        ((b"other", b"one", b"one"), b"one"),
        ((b"one", b"one", b"other", b"other"), None),
        ((b"one", b"one", b"other", None), None),
        ((b"one", b"one", b"one", b"other"), b"one"),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_of_different_bytes_more_than_half_of_all_targets_decide_or_nobody(mode, held, alike):
    places = switches(len(held))
    put(places, *held)
    multi = mirror(places, mode)
    if alike is not None:
        assert multi.settle("x")
        assert peeks(places, "x") == [alike] * len(held)
        return
    with pytest.raises(CorruptData, match=r"different bytes.*t0 .*t1 ") as caught:
        multi.settle("x")
    assert (caught.value.path, caught.value.op, caught.value.transient) == ("x", "settle", False)
    assert peeks(places, "x") == list(held)


@pytest.mark.parametrize("down", range(3))
@pytest.mark.parametrize("held", range(3))
def test_a_target_that_is_down_keeps_all_from_it_and_a_quorum_not(down, held):
    for mode in ("all", "quorum"):
        places = switches(3)
        places[held].inner.put_raw("x", b"bytes")
        places[down].down = True
        multi = mirror(places, mode)
        if held == down:
            assert multi.settle("x") is False  # a finished write would be at one of the others
            assert peeks(places, "x").count(b"bytes") == 1
        elif mode == "all":
            with pytest.raises(BackendUnavailable) as caught:
                multi.settle("x")
            assert f"in target 't{down}'" in caught.value.__notes__
        else:
            assert multi.settle("x") is True
            assert peeks(places, "x").count(b"bytes") == 2
            assert noted(multi) == [("x", (f"t{down}",))]
            places[down].down = False
            assert multi.repair(grace=0).paths == ("x",)
            assert peeks(places, "x") == [b"bytes"] * 3
            assert entries(multi) == []


@pytest.mark.parametrize(("mode", "spared"), [("all", 2), ("quorum", 1), ("best_effort", 0)])
def test_nothing_is_said_to_be_missing_that_a_finished_write_may_have_left_where_nobody_can_look(mode, spared):
    places = switches(3)
    multi = mirror(places, mode)
    for down in range(4):
        if down <= spared:
            assert multi.settle("x") is False, down
        else:
            with pytest.raises(BackendUnavailable):
                multi.settle("x")
        for place in places[: down + 1]:
            place.down = True


def test_where_too_few_can_take_it_the_error_names_each_target():
    places = switches(3)
    put(places, b"bytes", None, None)

    class Refuses(Faulty):
        def _before(self, op, number):
            if op == "open_writer":
                raise PermissionDenied("no")

    multi = mirror([places[0], Refuses(places[1].inner), places[2]])
    places[2].down = True
    with pytest.raises(MultiError, match="settle was done at t0: 3 were needed") as caught:
        multi.settle("x")
    assert [(one.target, one.state) for one in caught.value.outcomes] == [
        ("t0", "committed"),
        ("t1", "failed"),
        ("t2", "unknown"),
    ]


def test_what_does_not_take_it_is_in_the_journal_once():
    places = switches(3)
    put(places, b"bytes", None, None)
    multi = mirror(places, "quorum")
    places[2].fails = {"open_writer"}
    for _ in range(3):
        assert multi.settle("x")
    assert noted(multi) == [("x", ("t2",))]
    assert read_bytes(multi, "x") == b"bytes"


def test_a_journal_without_room_for_who_missed_it_is_an_error():
    places = switches(3)
    put(places, b"bytes", b"bytes", None)
    places[2].down = True
    multi = mirror(places, "quorum", journal_bytes=1)
    with pytest.raises(StorageError, match="journal_bytes"):
        multi.settle("x")


# -- what the journal says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", range(4))
@pytest.mark.parametrize("mode", MODES)
def test_a_publication_that_a_kill_cut_short_is_completed_by_its_digest(mode, published):
    places = switches(3, x=b"old")
    multi = mirror(places, mode, journal=MemoryBackend())
    sha = hashlib.sha256(b"new").hexdigest()
    multi.journal.add(multi.entry("x", multi.places, sha256=sha, intent=True))
    put(places, *[b"new" if at < published else None for at in range(3)])
    assert multi.settle("x")
    assert peeks(places, "x") == [b"new" if published else b"old"] * 3
    assert not multi.repair(grace=0).waiting
    assert peeks(places, "x") == [b"new" if published else b"old"] * 3


def test_a_target_that_is_down_may_be_the_one_that_did_it():
    places = switches(3, x=b"old")
    multi = mirror(places, "quorum")
    sha = hashlib.sha256(b"new").hexdigest()
    multi.journal.add(multi.entry("x", multi.places, sha256=sha, intent=True))
    places[2].inner.put_raw("x", b"new")
    places[2].down = True
    with pytest.raises(BackendUnavailable):
        multi.settle("x")
    assert peeks(places, "x") == [b"old", b"old", b"new"]


def test_of_a_new_object_it_does_not_matter_whether_one_that_is_down_did_it():
    places = switches(3)
    multi = mirror(places, "quorum")
    sha = hashlib.sha256(b"cut").hexdigest()
    multi.journal.add(multi.entry("x", multi.places, sha256=sha, intent=True))
    places[0].inner.put_raw("x", b"cut")
    places[0].down = True
    assert multi.settle("x") is False
    write_bytes(multi, "x", b"again", NEW)
    places[0].down = False
    assert not multi.repair(grace=0).waiting
    assert peeks(places, "x") == [b"again"] * 3


def test_who_missed_a_change_has_no_say():
    places = switches(3)
    multi = mirror(places, "best_effort")
    write_bytes(multi, "x", b"old")
    places[1].down = places[2].down = True
    write_bytes(multi, "x", b"new")
    places[1].down = places[2].down = False
    assert multi.settle("x")
    assert peeks(places, "x") == [b"new"] * 3
    places[1].down = places[2].down = True
    write_bytes(multi, "x", b"newer")
    places[0].down, places[1].down, places[2].down = True, False, False
    with pytest.raises(BackendUnavailable):
        multi.settle("x")  # the others hold the same, and it is not what counts
    assert read_bytes(places[1].inner, "x") == b"new"


def test_what_was_deleted_does_not_count_where_some_still_have_it():
    places = switches(3, x=b"old")
    multi = mirror(places, "quorum")
    places[2].down = True
    multi.delete("x")
    places[2].down = False
    assert multi.settle("x") is False
    assert peeks(places, "x") == [None, None, b"old"]


def test_what_another_process_has_noted_is_known_at_once():
    journal, places = MemoryBackend(), switches(2, x=b"old")
    one, other = (mirror(places, "best_effort", journal=journal) for _ in range(2))
    assert other.settle("x")
    places[0].down = True
    write_bytes(one, "x", b"new")
    places[0].down = False
    assert other.settle("x")
    assert peeks(places, "x") == [b"new"] * 2


@pytest.mark.parametrize("down", [1, 2])
def test_who_lacks_it_is_noted_where_that_is_known_of_here_alone(down):
    """An entry says of all whom it does not name that they have it: another process would delete it everywhere."""
    journal, places = MemoryBackend(), switches(3)
    multi = mirror(places, "best_effort", journal=journal)
    put(places, None, b"bytes", b"bytes")
    multi.journal.remember(multi.entry("x", multi.places[:1]))
    for place in places[:down]:
        place.down = True
    assert multi.settle("x")
    for place in places[:down]:
        place.down = False
    fresh = mirror(places, "best_effort", journal=journal)
    assert noted(fresh) == [("x", ("t0", "t1")[:down])]
    assert fresh.repair(grace=0).paths == ("x",)
    assert peeks(places, "x") == [b"bytes"] * 3


def test_who_lacks_it_is_noted_also_where_it_changed_meanwhile():
    class Lacks(Faulty):
        at = 0

        def _before(self, op, number):
            if op == "open_writer":
                self.at += 1
                if self.at == 1:
                    places[2].inner.put_raw("x", b"newer")
                else:
                    journal.down = True

    journal = Switch()
    places = [Switch(), Lacks(MemoryBackend()), Switch()]
    multi = mirror(places, "best_effort", journal=journal)
    put(places, None, None, b"bytes")
    multi.journal.remember(multi.entry("x", multi.places[:2]))
    places[0].down = True
    with pytest.raises(StorageError, match="pulled out"):
        multi.settle("x")  # it cannot note that one is missing
    places[0].down = journal.down = False
    fresh = mirror([Switch(place.inner) for place in places], "best_effort", journal=journal)
    assert noted(fresh) == [("x", ("t0", "t1"))]
    assert fresh.repair(grace=0).paths == ("x",)
    assert peeks(places, "x") == [b"newer"] * 3


class Meanwhile(Faulty):
    """Another process writes while a copy to here is about to begin."""

    write = None

    def _before(self, op, number):
        if op == "open_writer" and self.write is not None:
            write, self.write = self.write, None
            write()


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("conditions", [True, False])
def test_a_change_in_the_middle_of_it_leaves_no_target_behind(conditions, ends):
    journal, stores = MemoryBackend(), [MemoryBackend(), MemoryBackend()]
    for store in stores:
        store.features = replace(store.features, if_match=conditions, create_only=conditions)
    stores[0].put_raw("x", b"old")
    other = mirror([Switch(store) for store in stores], journal=journal)
    places = [Switch(stores[0]), Meanwhile(stores[1])]
    multi = mirror(places, journal=journal)

    def write():
        if ends:
            write_bytes(other, "x", b"new")
            return
        sha = hashlib.sha256(b"new").hexdigest()
        other.journal.add(other.entry("x", other.places, sha256=sha, intent=True))
        for store in stores:
            store.put_raw("x", b"new")

    places[1].write = write
    assert multi.settle("x")
    assert peeks(places, "x") == [b"new"] * 2
    assert not multi.repair(grace=0).waiting
    assert peeks(places, "x") == [b"new"] * 2


def test_what_changes_in_the_middle_of_it_where_nobody_keeps_a_journal_is_told():
    places = [switches(1)[0], Meanwhile(MemoryBackend())]
    put(places, b"old", None)
    places[1].write = lambda: places[0].inner.put_raw("x", b"new")
    with pytest.raises(CorruptData):
        mirror(places).settle("x")


def test_what_keeps_changing_is_an_error():
    class Restless(Switch):
        def _before(self, op, number):
            if op == "open_writer":
                raise AlreadyExists("somebody was here", path="x")

    places = [Switch(), Restless()]
    put(places, b"bytes", None)
    with pytest.raises(PreconditionFailed, match="keeps changing"):
        mirror(places).settle("x")


def test_what_is_gone_before_it_could_be_copied_is_gone():
    class Fleeting(Switch):
        """Can be read once."""

        def _call(self, op, run):
            answer = super()._call(op, run)
            if (op, answer) == ("read", b""):
                self.inner.delete("x")
            return answer

    places = [Fleeting(), Switch()]
    put(places, b"bytes", None)
    assert mirror(places).settle("x") is False
    assert peeks(places, "x") == [None, None]


@pytest.mark.parametrize("fails", [set(), {"delete"}])
def test_a_journal_that_is_full_or_forgets_nothing_keeps_nobody_from_it(fails):
    places, journal = switches(3), Switch()
    put(places, None, b"bytes", b"bytes")
    multi = mirror(places, "quorum", journal=journal, journal_bytes=1)
    journal.fails = fails
    assert multi.settle("x")
    assert peeks(places, "x") == [b"bytes"] * 3
    assert len(entries(multi)) == len(fails)


@pytest.mark.parametrize("op", ["open_writer", "close"])
def test_one_that_is_cut_short_has_said_before_who_lacks_it(op):
    places = switches(3)
    put(places, None, None, b"bytes")
    multi = mirror(places, "quorum", journal=MemoryBackend())

    def cut(called, number):
        if called == op:
            raise KeyboardInterrupt

    places[1]._before = cut
    with pytest.raises(KeyboardInterrupt):
        multi.settle("x")
    places[1]._before = lambda called, number: None
    assert peeks(places, "x") == [b"bytes", None, b"bytes"]
    assert noted(multi) == [("x", ("t0", "t1"))]
    assert multi.repair(grace=0).paths == ("x",)
    assert (peeks(places, "x"), entries(multi)) == ([b"bytes"] * 3, [])


# -- calls that hang ---------------------------------------------------------------------------------------------------


def test_a_target_with_a_change_under_way_is_not_counted():
    deaf = Deaf("delete")
    places = [deaf, *switches(2)]
    multi = mirror(places, "quorum", laggard_timeout=0.05, _crew=patient(deaf.entered.is_set))
    write_bytes(multi, "x", b"bytes")
    multi.delete("x")
    assert deaf.entered.wait(LIMIT)
    put(places, b"bytes", b"bytes", None)
    places[2].down = True
    try:
        with pytest.raises(BackendUnavailable):
            multi.settle("x")  # the deletion of one may end in a moment, and then one holds it
    finally:
        deaf.go.set()


def test_a_target_that_does_not_answer_is_given_up_where_it_is_not_needed():
    deaf = Deaf("stat")
    places = [deaf, *switches(2)]
    put(places, None, b"bytes", None)
    multi = mirror(places, "quorum", laggard_timeout=0.05, _crew=patient(deaf.entered.is_set))
    try:
        assert multi.settle("x")
        assert [place.inner.peek("x") for place in places] == [None, b"bytes", b"bytes"]
        assert noted(multi) == [("x", ("t0",))]
        assert not deaf.go.is_set()
        assert any(not turn.over for _, turn in multi.stuck._calls["t0"])
    finally:
        deaf.go.set()


def test_a_deadline_ends_it():
    deaf = Deaf("stat")
    multi = mirror([deaf, *switches(1)])
    try:
        with deadline(0.1), pytest.raises(DeadlineExceeded):
            multi.settle("x")
    finally:
        deaf.go.set()
