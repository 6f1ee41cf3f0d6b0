"""Answers that are lost among refusals, changes that come in between, and calls that are given up."""

import threading
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    DeadlineExceeded,
    LocalBackend,
    MemoryBackend,
    MultiBackend,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    Target,
)
from omnistorage.concurrency.cancellation import CancelScope, deadline
from omnistorage.core import CopyOptions, SetMetadata, WriteOptions, power
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.testing.faults import Faulty

from ..waiting import LIMIT, until
from .mirrors import entries, mirror, peeks, states, switches
from .places import Switch, filled
from .test_multi_last_word import NEW, Late, Lost, Meanwhile, killed


def late(*kinds):
    return [kind(Late()) for kind in kinds]


def unsure(caught):
    """The targets of which an error says that it may have been done there."""
    return [note.split("'")[1] for note in caught.value.__notes__ if note.startswith("perhaps")]


# -- an answer that is lost --------------------------------------------------------------------------------------------


def test_a_creation_that_others_refuse_never_replaces_what_they_have():
    places = late(Lost, Switch, Switch)
    multi = mirror(places, "quorum")
    writer = multi.open_writer("x", NEW)
    writer.write(b"mine")
    writer.flush()
    for place in places[1:]:
        place.inner.put_raw("x", b"theirs")
    places[0].lost = "close"
    with pytest.raises(AlreadyExists) as caught:
        writer.close()
    assert unsure(caught) == ["t0"]
    assert states(writer.outcomes)["t0"] == "unknown"
    assert read_bytes(multi, "x") == b"theirs"
    multi.repair(grace=0)
    assert (peeks(places, "x"), entries(multi)) == ([b"theirs"] * 3, [])


@pytest.mark.parametrize("op", ["copy", "move"])
def test_a_copy_that_others_refuse_never_replaces_what_they_have(op):
    places = late(Lost, Switch)
    multi = mirror(places, "all", journal=MemoryBackend())
    write_bytes(multi, "s", b"source")
    places[1].inner.put_raw("x", b"theirs")
    places[0].lost = op
    with pytest.raises(AlreadyExists) as caught:
        getattr(multi, op)("s", "x", CopyOptions(overwrite=False))
    assert unsure(caught) == ["t0"]
    multi.repair(grace=0)
    assert (peeks(places, "x"), entries(multi)) == ([b"theirs"] * 2, [])


def test_metadata_that_were_perhaps_set_are_not_said_to_be_of_nothing():
    places = [Lost(MemoryBackend()), Switch(MemoryBackend())]
    multi = mirror(places)
    places[0].inner.put_raw("x", b"data")
    places[0].lost = "set_metadata"
    with pytest.raises(NotFound) as caught:
        power(multi, SetMetadata).set_metadata("x", user_metadata={"a": "b"})
    assert unsure(caught) == ["t0"]


# -- changes that come in between --------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["copy", "move"])
def test_a_source_that_is_missed_just_before_it_is_copied_is_not_copied_from_who_missed_it(op):
    places = switches(3, s=b"old")
    multi = mirror(places, "quorum")
    hold, done = multi.locks.hold, []

    def between(*paths):
        if not done:  # the copy has looked around, and is about to begin
            done.append(1)
            places[0].down = True
            write_bytes(multi, "s", b"new")
            places[0].down = False
        return hold(*paths)

    multi.locks.hold = between
    getattr(multi, op)("s", "d")
    assert read_bytes(multi, "d") == b"new"
    multi.repair(grace=0)
    assert peeks(places, "d") == [b"new"] * 3


def test_metadata_of_which_each_target_missed_some_are_those_that_were_set_last():
    places = switches(3)
    multi = mirror(places, "quorum")
    write_bytes(multi, "x", b"data")
    for number, place in enumerate((places[1], places[2], places[0])):
        place.fails = {"set_metadata"}
        power(multi, SetMetadata).set_metadata("x", user_metadata={"k": str(number)})
        place.fails = set()
    multi.repair(grace=0)
    assert [place.inner.stat("x").metadata for place in places] == [{"k": "2"}] * 3
    assert entries(multi) == []


@pytest.mark.parametrize("behind", [0, 2])
def test_an_object_and_then_a_folder_of_its_name_are_brought_in_that_order(behind):
    places = switches(3, x=b"data")
    multi = mirror(places, "quorum")
    places[behind].down = True
    multi.delete("x")
    multi.mkdir("x")
    places[behind].down = False
    assert multi.repair(grace=0).waiting == ()
    assert [place.inner.peek("x") for place in places] == [None] * 3
    assert all([info.path for info in place.inner.list_dir()] == ["x"] for place in places)
    places[behind].down = True
    multi.rmdir("x")
    write_bytes(multi, "x", b"again")
    places[behind].down = False
    assert multi.repair(grace=0).waiting == ()
    assert peeks(places, "x") == [b"again"] * 3


def test_a_folder_that_another_process_removes_while_it_is_repaired_is_noted():
    places, journal = [Meanwhile() for _ in range(3)], MemoryBackend()
    ours, other = (mirror(places, "quorum", journal=journal) for _ in range(2))
    places[1].down = True
    other.mkdir("d")
    places[1].down = False
    places[1].op, places[1].do = "mkdir", lambda: other.rmdir("d")
    assert ours.repair(grace=0).paths == ()
    assert [list(place.inner.list_dir()) == [] for place in places] == [True, False, True]
    assert entries(ours) == [("d", ("t1",), False)]
    assert ours.repair(grace=0).paths == ("d",)
    assert all(list(place.inner.list_dir()) == [] for place in places)
    assert entries(ours) == []


def test_what_only_a_target_has_that_missed_its_end_is_not_there():
    places = switches(3, x=b"data")
    multi = mirror(places, "quorum")
    multi.mkdir("d")
    places[1].down = True
    multi.delete("x")
    multi.rmdir("d")
    places[1].down = False
    assert [info.path for info in multi.list_dir()] == []
    assert multi.delete("x") is False
    with pytest.raises(NotFound):
        multi.rmdir("d")
    assert multi.repair(grace=0).waiting == ()
    assert [info.path for info in places[1].inner.list_dir()] == []


def test_a_target_that_was_added_since_something_was_missed_has_no_say_in_that():
    places, journal = switches(3), MemoryBackend()
    kept = [Target("a", places[1]), Target("b", places[2])]
    before = MultiBackend(kept, "best_effort", journal=journal)
    places[2].down = True
    write_bytes(before, "x", b"data")
    places[2].down = False
    multi = MultiBackend([Target("new", places[0]), *kept], "best_effort", journal=journal)
    assert read_bytes(multi, "x") == b"data"
    places[1].down = True
    with pytest.raises(BackendUnavailable):
        write_bytes(multi, "x", b"mine", NEW)
    with pytest.raises(BackendUnavailable):
        read_bytes(multi, "x")
    places[1].down = False
    assert multi.repair(grace=0).waiting == ()
    assert peeks(places, "x") == [b"data"] * 3


class Gate(Switch):
    """Publishes when it is let go."""

    def __init__(self, inner):
        super().__init__(inner)
        self.reached, self.go = threading.Event(), threading.Event()

    def _before(self, op, number):
        super()._before(op, number)
        if op == "close":
            self.reached.set()
            assert self.go.wait(LIMIT)


@pytest.mark.parametrize("op", ["settle", "repair"])
def test_a_write_that_is_half_done_is_not_replaced_by_what_was_found_out_before(op):
    """By another process; its beginning is in the journal, which was looked at before that."""
    stores, journal = [MemoryBackend(), MemoryBackend()], MemoryBackend()
    gate = Gate(stores[1])
    there = mirror([Switch(stores[0]), gate], journal=journal)
    places = [Meanwhile(stores[0]), Switch(stores[1])]
    here = mirror(places, journal=journal)
    for store, data in zip(stores, (b"old", b"killed"), strict=True):
        store.put_raw("x", data)
    killed(here, b"killed")
    writing = threading.Thread(target=write_bytes, args=(there, "x", b"new"))

    def half():
        writing.start()
        gate.reached.wait(LIMIT)
        until(lambda: stores[0].peek("x") == b"new")

    places[0].op, places[0].at, places[0].do = "stat", 2 if op == "settle" else 1, half
    with suppress(PreconditionFailed):  # it keeps changing
        here.settle("x") if op == "settle" else here.repair(grace=0)
    assert stores[0].peek("x") == b"new"
    gate.go.set()
    writing.join()
    assert here.repair(grace=0).waiting == ()
    assert peeks(places, "x") == [b"new"] * 2


def test_what_was_created_while_a_repair_looked_around_is_not_deleted():
    """By another process, which knows nothing of the deletion that a target missed: its entry stays."""
    stores, journal = [filled(x=b"old"), filled(x=b"old")], MemoryBackend()
    there = mirror([Switch(store) for store in stores], "best_effort", journal=journal)
    assert not there.journal.load()
    places = [Switch(stores[0]), Meanwhile(stores[1])]
    here = mirror(places, "best_effort", journal=journal)
    places[1].down = True
    here.delete("x")
    places[1].down, places[1].fails = False, {"delete"}
    places[1].op, places[1].do = "stat", lambda: write_bytes(there, "x", b"new")
    assert here.repair(grace=0).waiting == ()
    assert (peeks(places, "x"), entries(here)) == ([b"new"] * 2, [])


# -- calls that are given up -------------------------------------------------------------------------------------------


def test_a_close_that_waits_for_its_path_for_too_long_publishes_nothing_and_says_so_again():
    places = switches(2)
    multi = mirror(places)
    writer = multi.open_writer("x")
    writer.write(b"data")
    with multi.locks.hold("x"):
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        with deadline(0.01), pytest.raises(DeadlineExceeded):
            writer.close()
    assert set(states(writer.outcomes).values()) == {"aborted"}
    with pytest.raises(DeadlineExceeded):
        writer.close()
    assert peeks(places, "x") == [None, None]


def test_a_repair_that_is_cancelled_says_so_and_goes_on_another_time():
    places = switches(2, x=b"old", y=b"old")
    multi = mirror(places, "best_effort")
    places[0].down = True
    write_bytes(multi, "x", b"new")
    write_bytes(multi, "y", b"new")
    places[0].down = False
    read = places[1].open_reader
    with CancelScope() as scope:
        places[1].open_reader = lambda *some: (scope.cancel(), read(*some))[1]
        with pytest.raises(Exception, match="cancel") as caught:
            multi.repair(grace=0)
    assert type(caught.value).__name__ == "Cancelled"
    del places[1].open_reader
    assert set(multi.repair(grace=0).paths) <= {"x", "y"}
    assert (peeks(places, "x"), peeks(places, "y"), entries(multi)) == ([b"new"] * 2, [b"new"] * 2, [])


# -- metadata of their own ---------------------------------------------------------------------------------------------


def test_a_copy_with_other_metadata_keeps_those_of_each_target():
    places = switches(2, s=b"data")
    multi = MultiBackend([Target("a", places[0], user_metadata={"owner": "a"}), Target("b", places[1])])
    multi.copy("s", "d", CopyOptions(user_metadata={"k": "1"}))
    assert places[0].inner.stat("d").metadata == {"k": "1", "owner": "a"}
    assert places[1].inner.stat("d").metadata == {"k": "1"}


def test_a_copy_by_way_of_this_process_gives_nobody_the_metadata_of_another():
    places = switches(3)
    targets = [Target("a", places[0], user_metadata={"owner": "a"}), Target("b", places[1]), Target("c", places[2])]
    multi = MultiBackend(targets, "quorum", journal=MemoryBackend())
    places[2].down = True
    write_bytes(multi, "s", b"data", WriteOptions(user_metadata={"k": "1"}))
    places[2].down = False
    multi.copy("s", "d")
    assert [place.inner.stat("d").metadata for place in places] == [{"k": "1", "owner": "a"}, {"k": "1"}, {"k": "1"}]


def test_nothing_is_there_where_nothing_was():
    multi = mirror(switches(2))
    with pytest.raises(NotFound):
        power(multi, SetMetadata).set_metadata("x", user_metadata={})
    write_bytes(multi, "x", b"data")
    with pytest.raises(AlreadyExists):
        write_bytes(multi, "x", b"more", NEW)


class Bucketless(Faulty):
    """A store whose bucket does not exist: nothing is there, and nothing can be written."""

    missing = NotFound

    def _before(self, op, number):
        if self.missing is not None and op == "open_writer":
            raise self.missing("no such bucket")


@pytest.mark.parametrize("missing", [NotFound, PermissionDenied])
def test_repair_gives_the_reason_of_a_target_that_fails_for_good(missing):
    places = [Switch(MemoryBackend()), Switch(MemoryBackend()), Bucketless(MemoryBackend())]
    places[2].missing = missing
    multi = mirror(places, "quorum")
    write_bytes(multi, "x", b"1")
    done = multi.repair(grace=0)
    assert [(entry.path, type(error)) for entry, error in done.waiting] == [("x", missing)]
    assert done.waiting[0][1].__notes__ == ["in target 't2'"]
    assert not done.changed or missing is not NotFound
    with pytest.raises(missing):
        mirror(places, "all").settle("x")
    places[2].missing = None
    assert multi.repair(grace=0).paths == ("x",)
    assert peeks(places, "x") == [b"1"] * 3


def test_repair_brings_metadata_to_targets_that_keep_times_alone(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    places = [Switch(LocalBackend(tmp_path / name)) for name in "ab"]
    multi = mirror(places, "best_effort")
    write_bytes(multi, "x", b"1")
    then = datetime(2020, 1, 1, tzinfo=UTC)
    places[1].down = True
    multi.set_metadata("x", modified_at=then)
    places[1].down = False
    assert not multi.repair(grace=0).waiting
    assert places[1].stat("x").modified_at == then
