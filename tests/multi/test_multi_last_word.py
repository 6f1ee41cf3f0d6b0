"""What repair makes of several entries of one path, of changes that met, and of targets that came and went: what was
reported as done is never taken back."""

import hashlib
import threading
from dataclasses import replace

import pytest

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    DeadlineExceeded,
    MemoryBackend,
    MultiBackend,
    MultiError,
    PreconditionFailed,
    StorageError,
    Target,
    WriteOptions,
)
from omnistorage.backends.memory import _MemoryWriter
from omnistorage.concurrency.cancellation import deadline
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.testing import BasicBackend

from ..waiting import LIMIT
from .mirrors import Once, mirror, peeks, switches
from .places import Switch
from .test_multi_two import Deaf, ended

NEW = WriteOptions(overwrite=False)


class Lost(Switch):
    """Does the call named in ``lost``; its answer is lost."""

    lost = None

    def _call(self, op, run):
        answer = super()._call(op, run)
        if op == self.lost:
            self.lost = None
            raise BackendUnavailable("the answer is lost")
        return answer


class Meanwhile(Switch):
    """``do()`` is called once, on another thread, before the ``at``-th ``op``."""

    op, at, do = None, 1, None

    def _before(self, op, number):
        super()._before(op, number)
        if op == self.op and self.do is not None:
            self.at -= 1
            if not self.at:
                do, self.do = self.do, None
                thread = threading.Thread(target=do)
                thread.start()
                thread.join()


class Late(MemoryBackend):
    """Looks at conditions when an object is published, as object stores do."""

    def _open_writer(self, path, options):
        return _MemoryWriter(self, path, options)


def plain():
    """A store without conditions."""
    backend = MemoryBackend()
    backend.features = replace(backend.features, if_match=False)
    return backend


def write(multi, data, *, without=(), path="x", **options):
    """A write that some of the targets miss."""
    for place in without:
        place.down = True
    write_bytes(multi, path, data, WriteOptions(**options))
    for place in without:
        place.down = False


def killed(multi, data):
    """The intent of a publication whose end nobody told; empty: of a deletion."""
    sha = "" if data is None else hashlib.sha256(data).hexdigest()
    multi.journal.add(multi.entry("x", multi.places, sha256=sha, intent=True))


def deaf_to_ends(multi, path=None):
    """The journal takes what begins, and nothing that ends."""
    add = multi.journal.add

    def refusing(entry, **more):
        if not entry.intent and path in (None, entry.path):
            raise BackendUnavailable("the journal is away")
        return add(entry, **more)

    multi.journal.add = refusing


def once(places, path):
    """The one content of a path at all the places."""
    (data,) = set(peeks(places, path))
    return data


# -- moves -------------------------------------------------------------------------------------------------------------


def test_a_move_of_which_one_answer_was_lost_loses_nothing():
    places = [Switch(), Lost()]
    multi = mirror(places, journal=MemoryBackend())
    write_bytes(multi, "s", b"precious")
    places[0].fails, places[1].lost = {"move"}, "move"
    with pytest.raises(BackendUnavailable):
        multi.move("s", "d")
    places[0].fails = set()
    multi.repair(grace=0)
    # One has done it and one has not: nothing is deleted.
    assert {once(places, "s"), once(places, "d")} == {b"precious"}


def test_what_a_change_began_that_half_of_the_targets_lack_is_not_deleted():
    """Two were added empty; then a move onto it was killed before it did anything."""
    places = [*switches(2), *switches(2, x=b"precious")]
    multi = mirror(places, journal=MemoryBackend())
    multi.journal.add(multi.entry("x", multi.places, intent=True))
    assert multi.repair(grace=0).paths == ("x",)
    assert once(places, "x") == b"precious"


@pytest.mark.parametrize("moved", range(4))
def test_a_move_that_was_killed_anywhere_loses_nothing(moved):
    places, journal = switches(3, s=b"precious", d=b"old"), MemoryBackend()
    multi = mirror(places, "quorum", journal=journal)
    for path in ("d", "s"):
        multi.journal.add(multi.entry(path, multi.places, sha256=None, intent=True))
    for place in places[:moved]:
        place.inner.move("s", "d")
    mirror(places, "quorum", journal=journal).repair(grace=0)
    assert (once(places, "s"), once(places, "d")) == ((None, b"precious") if moved > 1 else (b"precious", b"old"))


def test_a_move_of_which_the_journal_was_told_half_loses_nothing():
    places, journal = switches(2), MemoryBackend()
    multi = mirror(places, journal=journal)
    write_bytes(multi, "s", b"precious")
    deaf_to_ends(multi, "d")
    places[0].fails = {"move"}
    with pytest.raises(MultiError):
        multi.move("s", "d")
    places[0].fails = set()
    mirror(places, journal=journal).repair(grace=0)
    assert b"precious" in (once(places, "s"), once(places, "d"))


@pytest.mark.parametrize("op", ["copy", "move"])
def test_onto_itself_nothing_changes_and_what_was_missed_stays_known(op):
    places = [Switch(), Lost(), Lost()]
    multi = mirror(places, "quorum")
    write_bytes(multi, "x", b"old")
    write(multi, b"new", without=places[:1])
    for place in places[1:]:
        place.lost = op
    assert getattr(multi, op)("x", "x").size == 3
    assert read_bytes(multi, "x") == b"new"
    multi.repair(grace=0)
    assert once(places, "x") == b"new"


def test_a_copy_beside_a_write_of_its_source_is_the_same_everywhere():
    copied, threads = threading.Event(), []

    class First(Switch):
        def _call(self, op, run):
            answer = super()._call(op, run)
            if op == "copy":
                copied.set()
            return answer

    class Second(Switch):
        def _call(self, op, run):
            if op == "copy":
                assert copied.wait(LIMIT)
                threads.append(threading.Thread(target=write_bytes, args=(multi, "s", b"other")))
                threads[0].start()
                threads[0].join(0.1)  # it waits for the copy
            return super()._call(op, run)

    places = [First(), Second()]
    multi = mirror(places, journal=MemoryBackend())
    write_bytes(multi, "s", b"first")
    multi.copy("s", "d")
    threads[0].join(LIMIT)
    assert (once(places, "s"), once(places, "d")) == (b"other", b"first")


@pytest.mark.parametrize("make", [MemoryBackend, plain])
def test_a_copy_that_somebody_replaced_before_it_was_verified_takes_nothing_away(make):
    places = [Meanwhile(make()), Switch(make()), Switch(make())]
    multi = mirror(places, "quorum")
    write(multi, b"source", without=places[2:], path="s")
    places[0].op, places[0].at, places[0].do = "open_reader", 2, lambda: write_bytes(multi, "d", b"theirs")
    with pytest.raises(PreconditionFailed, match="before it could be verified"):
        multi.copy("s", "d")
    assert once(places, "d") == b"theirs"


# -- doubts ------------------------------------------------------------------------------------------------------------


def test_what_is_written_while_repair_is_elsewhere_is_not_replaced_by_what_it_brought():
    places = [Meanwhile(), Switch(), Switch()]
    multi = mirror(places, "quorum")
    write_bytes(multi, "a", b"v0")
    write_bytes(multi, "b", b"b0")
    places[0].fails = places[2].fails = {"close"}
    with pytest.raises(StorageError):
        write_bytes(multi, "a", b"partial")
    places[0].fails = places[2].fails = set()
    write(multi, b"b1", without=places[:1], path="b")
    places[0].op, places[0].at = "open_writer", 2  # of b
    places[0].do = lambda: write(multi, b"done", without=places[1:2], path="a")
    multi.repair(grace=0)
    assert read_bytes(multi, "a") == b"done"
    multi.repair(grace=0)
    assert once(places, "a") == b"done"


def test_a_doubt_does_not_outweigh_a_publication_that_began_before_it():
    places, journal = switches(3), MemoryBackend()
    multi = mirror(places, "quorum", journal=journal)
    killed(multi, b"done")
    multi.journal.add(multi.entry("x", multi.places[:1], doubt=True))
    for place, data in zip(places, (b"done", b"old", b"done"), strict=True):
        place.inner.put_raw("x", data)
    multi.repair(grace=0)
    assert once(places, "x") == b"done"


def test_of_doubts_alone_those_that_are_not_named_are_right():
    places = switches(3)
    multi = mirror(places, "quorum")
    for place, data in zip(places, (b"old", b"old", b"new"), strict=True):
        place.inner.put_raw("x", data)
    multi.journal.add(multi.entry("x", multi.places[:2], doubt=True))
    assert read_bytes(multi, "x") == b"new"
    multi.repair(grace=0)
    assert once(places, "x") == b"new"


def test_where_each_target_is_in_doubt_the_digest_of_what_was_done_decides():
    places = switches(3)
    multi = mirror(places, "quorum")
    write(multi, b"done", without=places[:1])
    multi.journal.add(multi.entry("x", multi.places[1:], doubt=True))
    places[1].inner.put_raw("x", b"else")
    places[2].down = True
    assert multi.repair(grace=0).waiting  # the one that may have it cannot be asked
    places[2].down = False
    multi.repair(grace=0)
    assert once(places, "x") == b"done"


def test_where_each_target_is_in_doubt_the_one_that_was_written_last_has_the_metadata():
    places = switches(3)
    multi = mirror(places, "best_effort")
    write(multi, b"same", user_metadata={"by": "first"})
    write(multi, b"same", without=places[::2], user_metadata={"by": "second"})
    multi.journal.add(multi.entry("x", multi.places[1:2], doubt=True))
    multi.repair(grace=0)
    assert [place.inner.stat("x").metadata for place in places] == [{"by": "second"}] * 3


def test_repair_that_fails_at_one_target_notes_what_it_put_at_another_beside_a_write():
    stores, journal = [plain() for _ in range(3)], MemoryBackend()
    theirs = [Switch(store) for store in stores]
    other = mirror(theirs, "best_effort", journal=journal)
    write_bytes(other, "x", b"old")
    write(other, b"missed", without=theirs[::2])
    places = [Meanwhile(stores[0]), Switch(stores[1]), Switch(stores[2])]
    multi = mirror(places, "best_effort", journal=journal)
    places[0].op, places[0].do = "close", lambda: write_bytes(other, "x", b"done")
    places[2].down = True
    assert multi.repair(grace=0).waiting
    fresh = mirror(theirs, "best_effort", journal=journal)
    assert read_bytes(fresh, "x") == b"done"
    fresh.repair(grace=0)
    assert once(theirs, "x") == b"done"


def test_verify_that_fails_at_one_target_notes_what_it_put_at_another():
    stores, journal = [plain() for _ in range(5)], MemoryBackend()
    for number, store in enumerate(stores):
        store.put_raw("x", b"most" if number < 3 else b"odd")
    theirs = [Switch(store) for store in stores]
    other = mirror(theirs, "quorum", journal=journal)
    places = [*map(Switch, stores[:3]), Meanwhile(stores[3]), Switch(stores[4])]
    multi = mirror(places, "quorum", journal=journal)

    def do():
        write_bytes(other, "x", b"done")
        places[4].down = True

    places[3].op, places[3].do = "close", do
    with pytest.raises(StorageError):
        multi.verify(rebuild=True)
    mirror(theirs, "quorum", journal=journal).repair(grace=0)
    assert once(theirs, "x") == b"done"


def test_what_another_process_wrote_while_repair_copied_is_not_copied_over():
    stores, journal = [MemoryBackend(), MemoryBackend()], MemoryBackend()
    places, theirs = [Meanwhile(stores[0]), Switch(stores[1])], [Switch(store) for store in stores]
    multi, other = (mirror(each, "best_effort", journal=journal) for each in (places, theirs))
    write(multi, b"missed", without=places[:1])
    places[0].op, places[0].do = "open_reader", lambda: write(other, b"done", without=theirs[1:])
    assert multi.repair(grace=0).waiting
    mirror(theirs, "best_effort", journal=journal).repair(grace=0)
    assert once(theirs, "x") == b"done"


def test_rulers_that_differ_are_compared_by_what_they_hold():
    stores, journal = [MemoryBackend() for _ in range(3)], MemoryBackend()
    one, other = (mirror([Switch(store) for store in stores], "quorum", journal=journal) for _ in range(2))
    killed(other, b"K")
    places = [Switch(store) for store in stores]
    write(mirror(places, "quorum", journal=journal), b"Z", without=places[2:])
    stores[0].put_raw("x", b"K")  # the publication that was begun before happens now, and its process dies
    assert one.repair(grace=0).paths == ("x",)
    assert one.verify().alike
    assert stores[2].peek("x") == b"Z"


def test_a_ruler_without_the_object_deletes_it_nowhere_where_another_has_it():
    places = switches(3)
    multi = mirror(places, "quorum")
    write(multi, b"bytes", without=places[2:])
    places[0].inner.delete("x")  # by somebody else
    multi.repair(grace=0)
    assert once(places, "x") == b"bytes"


# -- evidence ----------------------------------------------------------------------------------------------------------


def test_a_target_that_lacks_the_object_does_not_prove_a_deletion_that_nobody_did():
    places = switches(3)
    multi = mirror(places, "quorum")
    write(multi, b"v1", without=places[:1])
    outdated = multi.stat("x").etag
    write(multi, b"v2", without=places[:1])
    places[1].fails = {"delete"}
    with pytest.raises(BackendUnavailable):
        multi.delete("x", if_match=outdated)
    places[1].fails = set()
    multi.repair(grace=0)
    assert once(places, "x") == b"v2"


def test_a_target_that_is_behind_does_not_prove_a_write_that_was_refused():
    places = [Switch(Late()) for _ in range(3)]
    multi = mirror(places, "quorum")
    write_bytes(multi, "x", b"idle")
    write(multi, b"busy 1", without=places[:1])
    outdated = multi.stat("x").etag
    write(multi, b"busy 2", without=places[:1])
    places[1].fails = {"close"}
    with pytest.raises(StorageError):
        write_bytes(multi, "x", b"idle", WriteOptions(if_match=outdated))
    places[1].fails = set()
    multi.repair(grace=0)
    assert once(places, "x") == b"busy 2"


def test_a_refused_creation_does_not_bring_back_what_was_deleted():
    places, journal = [Switch(Late()) for _ in range(3)], MemoryBackend()
    one = mirror(places, "quorum", journal=journal)
    write_bytes(one, "x", b"old")
    deaf_to_ends(one)
    places[1].down = True
    one.delete("x")
    places[1].down = False
    two = mirror(places, "quorum", journal=journal)
    places[2].fails = {"close"}
    with pytest.raises(StorageError):
        write_bytes(two, "x", b"mine", NEW)
    places[2].fails = set()
    mirror(places, "quorum", journal=journal).repair(grace=0)
    assert once(places, "x") is None


def test_of_a_creation_that_met_anothers_and_lost_an_answer_nothing_is_left():
    places = [Switch(), Lost(), Switch()]
    multi = mirror(places, "quorum")
    places[1].lost = "close"
    writer = multi.open_writer("x", NEW)
    writer.write(b"mine")
    writer.flush()
    write_bytes(places[2].inner, "x", b"theirs")
    with pytest.raises(MultiError):
        writer.close()
    multi.repair(grace=0)
    assert once(places, "x") == b"theirs"


def test_repair_waits_for_a_call_of_its_own_process_that_was_given_up():
    deaf = Deaf()
    places = [deaf, *switches(2)]
    multi = mirror(places, "quorum")
    write_bytes(multi, "x", b"bytes")
    deaf.op = "delete"
    places[1].fails = places[2].fails = {"delete"}
    late = Once(lambda: deaf.entered.is_set() and places[1].refused and places[2].refused)
    with pytest.raises(DeadlineExceeded), deadline(0.05, late):
        multi.delete("x")
    places[1].fails = places[2].fails = set()
    assert multi.repair(grace=0).waiting
    deaf.go.set()
    for target in ("t0", "t1", "t2"):
        ended(multi, target)
    assert multi.repair(grace=0).paths == ("x",)
    assert once(places, "x") is None  # it was done at one: it counts everywhere


# -- kinds -------------------------------------------------------------------------------------------------------------


def test_a_folder_does_not_take_the_name_of_an_object_that_one_target_missed():
    places = switches(3)
    multi = mirror(places, "quorum")
    write(multi, b"bytes", without=places[:1])
    with pytest.raises(AlreadyExists):
        multi.mkdir("x")
    assert read_bytes(multi, "x") == b"bytes"
    multi.repair(grace=0)
    assert once(places, "x") == b"bytes"


def test_a_folder_that_is_gone_keeps_no_object_of_its_name_from_repair():
    places = switches(3)
    multi = mirror(places, "quorum")
    multi.mkdir("x")
    places[0].down = True
    multi.rmdir("x")
    places[0].down = False
    write_bytes(multi, "x", b"bytes")
    assert multi.repair(grace=0).paths == ("x",)
    assert once(places, "x") == b"bytes"


def test_each_target_keeps_the_metadata_that_are_its_own():
    stores, journal = switches(2), MemoryBackend()
    targets = [
        Target("a", stores[0], user_metadata={"owner": "a"}),
        Target("b", stores[1], user_metadata={"class": "b"}),
    ]
    multi = MultiBackend(targets, "best_effort", journal=journal)
    write_bytes(multi, "x", b"1", WriteOptions(user_metadata={"k": "1"}))
    stores[1].down = True
    multi.set_metadata("x", user_metadata={"k": "2"})
    assert stores[0].inner.stat("x").metadata == {"k": "2", "owner": "a"}
    stores[1].down = False
    multi.repair(grace=0)
    assert stores[1].inner.stat("x").metadata == {"k": "2", "class": "b"}


# -- targets that come and go ------------------------------------------------------------------------------------------


def named(journal, mode="best_effort", **stores):
    return MultiBackend([Target(name, store) for name, store in stores.items()], mode, journal=journal)


def test_a_target_that_was_added_does_not_prove_a_deletion():
    (a, b), new, journal = switches(2, x=b"old"), Switch(), MemoryBackend()
    killed(named(journal, a=a, b=b), None)
    write_bytes(named(journal, a=a, b=b), "x", b"done")
    named(journal, a=a, b=b, c=new).repair(grace=0)
    assert peeks([a, b], "x") == [b"done"] * 2


def test_a_target_that_was_added_does_not_rule():
    (a, b, c), new, journal = switches(3, x=b"old"), Switch(), MemoryBackend()
    write(named(journal, a=a, b=b, c=c), b"done", without=[a, b])
    named(journal, n=new, a=a, b=b, c=c).repair(grace=0)
    assert once([new, a, b, c], "x") == b"done"


def test_a_target_that_was_added_gets_the_bytes_though_it_keeps_no_metadata():
    (a, b), new, journal = switches(2), BasicBackend(), MemoryBackend()
    multi = named(journal, a=a, b=b)
    write(multi, b"done", without=[b])
    b.down = True
    multi.set_metadata("x", user_metadata={"k": "v"})
    b.down = False
    named(journal, a=a, b=b, n=new).repair(grace=0)
    assert peeks([a, b], "x") == [b"done"] * 2
    assert (b.inner.stat("x").metadata, read_bytes(new, "x")) == ({"k": "v"}, b"done")


def test_where_the_only_one_that_has_it_was_taken_away_nothing_is_taken_from_the_others():
    (a, b), new, journal = switches(2, x=b"old"), Switch(), MemoryBackend()
    write(named(journal, a=a, b=b), b"done", without=[a])
    ((_, why),) = named(journal, a=a, n=new).repair(grace=0).waiting
    assert "only b had" in str(why)
    assert peeks([a, new], "x") == [b"old", None]
    named(journal, a=a, b=b, n=new).repair(grace=0)
    assert once([a, b, new], "x") == b"done"


def test_a_target_that_is_behind_is_not_read_though_others_are_no_targets_any_more():
    (a, gone, b), journal = switches(3, x=b"old"), MemoryBackend()
    write(named(journal, a=a, gone=gone, b=b), b"done", without=[a, gone])
    assert read_bytes(named(journal, a=a, b=b), "x") == b"done"
