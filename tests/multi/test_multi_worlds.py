"""What the simulation found: metadata, targets that come, and two processes at once."""

import pytest

from omnistorage import AlreadyExists, BackendUnavailable, MemoryBackend, MultiError, StorageError, WriteOptions
from omnistorage.core import CopyOptions
from omnistorage.ops import read_bytes, write_bytes

from .mirrors import entries, mirror, peeks, put, switches
from .places import Switch
from .test_multi_last_word import NEW, Late, Meanwhile, deaf_to_ends, named, once, write


def marks(places, path="x"):
    return [place.inner.stat(path).metadata for place in places]


def marked(mark):
    return WriteOptions(user_metadata={"mark": mark})


def rows(count, **objects):
    """Targets that have metadata, but no way to change them alone."""
    places = switches(count, **objects)
    for place in places:
        place.adapts = frozenset()
    return places


# -- metadata ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [switches, rows])
def test_a_target_that_missed_the_same_bytes_gets_their_metadata(make):
    places = make(3)
    multi = mirror(places, "quorum")
    write_bytes(multi, "x", b"same", marked("old"))
    places[1].down = True
    write_bytes(multi, "x", b"same", marked("new"))
    places[1].down = False
    assert multi.repair(grace=0).changed == 1
    assert marks(places) == [{"mark": "new"}] * 3


def test_repair_writes_nothing_where_bytes_and_metadata_are_right():
    places = switches(3)
    multi = mirror(places, "quorum")
    write_bytes(multi, "x", b"same", marked("same"))
    places[1].down = True
    write_bytes(multi, "x", b"same", marked("same"))
    places[1].down = False
    assert multi.repair(grace=0).changed == 0


def test_metadata_that_only_a_target_took_that_is_behind_are_not_lost():
    places = switches(2)
    multi = mirror(places, "best_effort")
    write_bytes(multi, "x", b"old", marked("old"))
    write(multi, b"new", without=places[:1])
    places[1].fails = {"set_metadata"}
    multi.set_metadata("x", user_metadata={"mark": "latest"})
    places[1].fails = set()
    multi.repair(grace=0)
    assert (once(places, "x"), marks(places)) == (b"new", [{"mark": "latest"}] * 2)


@pytest.mark.parametrize("read", ["first", "quorum"])
def test_who_missed_metadata_is_asked_last_and_still_asked(read):
    places = switches(3)
    multi = mirror(places, "quorum", read=read)
    write_bytes(multi, "x", b"bytes", marked("old"))
    places[0].fails = {"set_metadata"}
    multi.set_metadata("x", user_metadata={"mark": "new"})
    places[0].fails = set()
    assert multi.stat("x").metadata == {"mark": "new"}
    multi.copy("x", "y")
    assert marks(places, "y") == [{"mark": "new"}] * 3
    places[1].down = True
    assert read_bytes(multi, "x") == b"bytes"
    places[2].down = read == "first"
    assert read_bytes(multi, "x") == b"bytes"


def test_a_target_that_missed_metadata_alone_still_proves_what_it_wrote():
    class Last(Switch):
        """Its answer to ``close`` is lost, and the journal is away from then on: as if the process had died there."""

        dies = False

        def _call(self, op, run):
            answer = super()._call(op, run)
            if self.dies and op == "close":
                journal.down = True
                raise BackendUnavailable("lost")
            return answer

    places, journal = [Last(), *switches(2)], Switch()
    multi = mirror(places, "quorum", journal=journal)
    write_bytes(multi, "x", b"old")
    places[0].fails = {"set_metadata"}
    multi.set_metadata("x", user_metadata={"mark": "new"})
    places[0].fails, places[0].dies = set(), True
    places[1].down = places[2].down = True
    etag = multi.stat("x").etag
    places[1].down = places[2].down = False
    with pytest.raises(BackendUnavailable):
        write_bytes(multi, "x", b"begun", WriteOptions(if_match=etag))
    places[0].dies = journal.down = False
    assert peeks(places, "x") == [b"begun", b"old", b"old"]
    mirror(places, "quorum", journal=journal).repair(grace=0)
    assert once(places, "x") == b"begun"


# -- targets that were added -------------------------------------------------------------------------------------------


def test_a_folder_is_settled_though_a_target_was_added_that_has_none():
    (a, b), journal = switches(2), MemoryBackend()
    multi = named(journal, a=a, b=b)
    b.down = True
    multi.mkdir("f")
    b.down = False
    flat = Switch(MemoryBackend(dirs=False))
    assert named(journal, a=a, b=b, flat=flat).repair(grace=0).paths == ("f",)
    assert [info.path for info in b.inner.list_dir()] == ["f"]


@pytest.mark.parametrize("make", [MemoryBackend, Late])
def test_an_empty_target_that_was_added_creates_nothing_over_what_the_others_have(make):
    a, b, added, journal = Switch(make()), Switch(make()), Switch(make()), MemoryBackend()
    write_bytes(named(journal, a=a, b=b), "x", b"there")
    multi = named(journal, added=added, a=a, b=b)
    with pytest.raises((AlreadyExists, MultiError)):
        write_bytes(multi, "x", b"new", NEW)
    multi.repair(grace=0)
    assert peeks([a, b], "x") == [b"there"] * 2


@pytest.mark.parametrize("op", ["copy", "move"])
def test_an_empty_target_that_was_added_copies_nothing_over_what_the_others_have(op):
    (a, b), added, journal = switches(2), Switch(), MemoryBackend()
    write_bytes(named(journal, a=a, b=b), "x", b"there")
    multi = named(journal, added=added, a=a, b=b)
    write_bytes(multi, "s", b"source")
    with pytest.raises(MultiError):
        getattr(multi, op)("s", "x", CopyOptions(overwrite=False))
    multi.repair(grace=0)
    assert peeks([a, b], "x") == [b"there"] * 2


def test_a_creation_that_one_target_refuses_when_it_is_published_is_taken_back():
    places = [Switch(Late()) for _ in range(3)]
    put(places, None, None, b"by hand")
    multi = mirror(places, "quorum")
    with pytest.raises(MultiError, match="t2 refused it"):
        write_bytes(multi, "x", b"new", NEW)
    multi.repair(grace=0)
    assert once(places, "x") == b"by hand"


def test_of_two_etags_from_two_targets_not_both_win_where_one_target_is_enough():
    stores, journal = [MemoryBackend(), MemoryBackend()], MemoryBackend()
    theirs = [Switch(store) for store in stores]
    other = mirror(theirs, "best_effort", journal=journal)
    write_bytes(other, "x", b"old")
    theirs[0].down = True
    etag = other.stat("x").etag
    theirs[0].down = False
    assert etag.startswith("t1:")
    places = [Switch(stores[0]), Meanwhile(stores[1])]
    multi = mirror(places, "best_effort", journal=journal)
    won = []

    def replace(by, data, etag):
        try:
            write_bytes(by, "x", data, WriteOptions(if_match=etag))
            won.append(data)
        except StorageError:
            pass

    places[1].op, places[1].do = "close", lambda: replace(other, b"second", etag)
    replace(multi, b"first", multi.stat("x").etag)
    assert won == [b"second"]
    multi.repair(grace=0)
    assert once(places, "x") == b"second"


# -- repair beside changes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [1, 2])
@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("missed", [0, 1, 2])
@pytest.mark.parametrize("at", range(1, 12))
def test_what_is_done_while_repair_looks_is_not_replaced_by_what_it_had_found(missed, where, at, behind):
    class Looked(Meanwhile):
        def _before(self, op, number):
            super()._before("look" if op in ("stat", "open_reader", "open_writer", "close") else op, number)

    stores, journal = [MemoryBackend() for _ in range(3)], MemoryBackend()
    theirs = [Switch(store) for store in stores]
    other = mirror(theirs, "best_effort", journal=journal)
    write_bytes(other, "x", b"first")
    write(other, b"second", without=theirs[1 : 1 + behind])
    places = [Looked(store) for store in stores]
    multi = mirror(places, "best_effort", journal=journal)
    places[where].op, places[where].at = "look", at
    places[where].do = lambda: write(other, b"done", without=theirs[missed : missed + 1])
    multi.repair(grace=0)
    happened = places[where].do is None
    fresh = mirror(theirs, "best_effort", journal=journal)
    assert read_bytes(fresh, "x") == (b"done" if happened else b"second"), at
    fresh.repair(grace=0)
    assert once(theirs, "x") == (b"done" if happened else b"second"), at
    assert entries(fresh) == []


@pytest.mark.parametrize("at", range(1, 8))
def test_what_is_done_while_verify_rebuilds_is_not_replaced(at):
    stores, journal = [MemoryBackend() for _ in range(3)], MemoryBackend()
    for store, data in zip(stores, (b"odd", b"most", b"most"), strict=True):
        store.put_raw("x", data)
    theirs = [Switch(store) for store in stores]
    other = mirror(theirs, "quorum", journal=journal)
    places = [Meanwhile(stores[0]), *map(Switch, stores[1:])]
    multi = mirror(places, "quorum", journal=journal)
    places[0].op, places[0].at = "stat", at
    places[0].do = lambda: write(other, b"done", without=theirs[1:2])
    multi.verify(rebuild=True)
    happened = places[0].do is None
    mirror(theirs, "quorum", journal=journal).repair(grace=0)
    assert once(theirs, "x") == (b"done" if happened else b"most"), at


def test_a_repair_that_breaks_off_takes_the_latest_metadata_from_nobody():
    places = switches(3)
    multi = mirror(places, "quorum")
    write_bytes(multi, "x", b"old", marked("old"))
    places[2].down = True
    write_bytes(multi, "x", b"new", marked("old"))
    places[0].down = True
    places[2].down = False
    multi.places[1].backend.set_metadata("x", user_metadata={"mark": "latest"})
    places[0].down = False
    multi.journal.add(multi.entry("x", [multi.places[0], multi.places[2]], kind="meta"))
    places[0].fails = {"set_metadata"}
    multi.repair(grace=0)
    assert marks(places)[1] == {"mark": "latest"}
    places[0].fails = set()
    multi.repair(grace=0)
    assert (once(places, "x"), marks(places)) == (b"new", [{"mark": "latest"}] * 3)


def test_metadata_that_only_targets_have_that_are_behind_outlive_a_repair_that_breaks_off():
    places = switches(3)
    multi = mirror(places, "best_effort")
    write_bytes(multi, "x", b"old", marked("old"))
    write(multi, b"new", without=places[:2])
    places[2].fails = {"set_metadata"}
    multi.set_metadata("x", user_metadata={"mark": "latest"})
    places[1].fails = {"open_writer"}
    multi.repair(grace=0)
    places[1].fails = places[2].fails = set()
    assert marks(places)[0] == {"mark": "latest"}
    multi.repair(grace=0)
    assert (once(places, "x"), marks(places)) == (b"new", [{"mark": "latest"}] * 3)


# -- what is remembered, and what settle could not finish --------------------------------------------------------------


def test_what_only_this_process_remembers_is_forgotten_when_another_has_settled_it():
    places, journal = switches(2), MemoryBackend()
    multi = mirror(places, "best_effort", journal=journal)
    write_bytes(multi, "x", b"old")
    deaf_to_ends(multi)
    write(multi, b"new", without=places[:1])
    assert [place.name for place in multi.candidates("x")] == ["t1"]
    mirror(places, "best_effort", journal=journal).repair(grace=0)
    multi.journal.load()
    assert multi.verify().alike
    assert [place.name for place in multi.candidates("x")] == ["t0", "t1"]


def test_a_settle_that_too_few_could_take_notes_who_lacks_what_it_brought():
    places, journal = switches(3), MemoryBackend()
    put(places, b"added", None, None)  # what the first had when it was added
    multi = mirror(places, journal=journal)
    places[2].fails = {"open_writer"}
    with pytest.raises(StorageError):
        multi.settle("x")
    places[2].fails = set()
    assert peeks(places, "x") == [b"added", b"added", None]
    multi.repair(grace=0)
    assert once(places, "x") == b"added"
