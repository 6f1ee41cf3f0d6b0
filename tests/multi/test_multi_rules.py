"""Fan-outs: who wins a creation, options of single targets, refusals, reading past targets that are down."""

import itertools
import pickle
import threading
from contextlib import nullcontext

import pytest

from omnistorage import (
    AlreadyExists,
    BackendClosed,
    BackendUnavailable,
    Cancelled,
    CapabilityNotSupported,
    ConfigError,
    CopyOptions,
    ListOptions,
    LocalBackend,
    MemoryBackend,
    MultiBackend,
    MultiError,
    MultiWriter,
    NotFound,
    PreconditionFailed,
    ReadOnly,
    Target,
    WriteOptions,
    open_backend,
)
from omnistorage.concurrency.cancellation import CancelScope, deadline
from omnistorage.multi import Outcome
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.testing.faults import Faulty

from ..waiting import LIMIT
from .mirrors import entries, mirror, peeks, states, switches
from .places import Held, Switch


def test_creating_has_one_winner_who_has_it_everywhere():
    for seed in range(30):
        places = switches(3)
        multis = [mirror(places), mirror(places[::1])]
        barrier = threading.Barrier(2)
        won = []

        def create(number, multis=multis, barrier=barrier, won=won):
            barrier.wait(LIMIT)
            try:
                write_bytes(multis[number], "x", b"%d" % number, WriteOptions(overwrite=False))
                won.append(number)
            except AlreadyExists:
                pass

        threads = [threading.Thread(target=create, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert len(won) == 1, seed
        assert peeks(places, "x") == [b"%d" % won[0]] * 3, seed


def test_where_the_first_target_is_down_the_next_decides_if_more_than_half_are_needed():
    places = switches(3)
    places[0].down = True
    write_bytes(mirror(places, "quorum"), "x", b"1", WriteOptions(overwrite=False))
    assert peeks(places, "x") == [None, b"1", b"1"]
    with pytest.raises(BackendUnavailable):
        write_bytes(mirror(places, "best_effort"), "y", b"1", WriteOptions(overwrite=False))
    assert peeks(places, "y") == [None] * 3


def test_creating_meets_what_any_target_has():
    places = switches(3)
    places[2].inner.put_raw("x", b"there")
    with pytest.raises(AlreadyExists):
        write_bytes(mirror(places, "quorum"), "x", b"1", WriteOptions(overwrite=False))
    assert peeks(places, "x") == [None, None, b"there"]


def test_a_condition_is_held_where_the_etag_is_from_and_nothing_happens_elsewhere_if_it_fails():
    places = switches(3, x=b"old")
    multi = mirror(places, "quorum")
    etag = multi.stat("x").etag
    assert etag.startswith("t0:")
    write_bytes(multi, "x", b"new", WriteOptions(if_match=etag))
    assert peeks(places, "x") == [b"new"] * 3
    for call in (
        lambda: write_bytes(multi, "x", b"newer", WriteOptions(if_match=etag)),
        lambda: multi.delete("x", if_match=etag),
        lambda: multi.copy("x", "y", CopyOptions(source_if_match=etag)),
        lambda: multi.delete("x", if_match="none"),
    ):
        with pytest.raises(PreconditionFailed):
            call()
    assert peeks(places, "x") == [b"new"] * 3
    assert peeks(places, "y") == [None] * 3
    assert multi.delete("x", if_match=multi.stat("x").etag) is True
    assert peeks(places, "x") == [None] * 3


def test_options_of_a_target_are_added_to_those_of_the_write():
    seen = {}

    class Told(Faulty):
        def open_writer(self, path, options):
            seen[self] = options
            return self.inner.open_writer(path, WriteOptions(user_metadata=options.user_metadata))

    one, two = Told(MemoryBackend()), Told(MemoryBackend())
    one.name = "s3"
    targets = [
        Target("a", one, user_metadata={"site": "a"}, extra={"s3.storage_class": "GLACIER"}),
        Target("b", two, user_metadata={"site": "b"}),
    ]
    multi = MultiBackend(targets)
    options = WriteOptions(user_metadata={"by": "me"}, extra={"s3.acl": "private", "memory.none": 1})
    write_bytes(multi, "x", b"1", options)
    assert seen[one].extra == {"s3.acl": "private", "s3.storage_class": "GLACIER"}
    assert seen[two].extra == {"memory.none": 1}
    assert [dict(place.backend.stat("x").metadata) for place in multi.places] == [
        {"by": "me", "site": "a"}, {"by": "me", "site": "b"},
    ]  # fmt: skip


def test_an_object_that_is_brought_later_has_the_options_of_its_target():
    places = switches(2)
    targets = [Target("a", places[0]), Target("b", places[1], user_metadata={"site": "b"})]
    multi = MultiBackend(targets, "best_effort", journal=MemoryBackend())
    places[1].down = True
    write_bytes(multi, "x", b"1", WriteOptions(user_metadata={"by": "me"}))
    places[1].down = False
    multi.repair()
    assert dict(places[1].inner.stat("x").metadata) == {"by": "me", "site": "b"}


def test_each_target_its_own_path_and_options(tmp_path):
    a, b = MemoryBackend(), MemoryBackend()
    with MultiWriter(
        [(a, "one", WriteOptions(user_metadata={"a": "1"})), (b, "two"), (str(tmp_path) + "/", "three")]
    ) as out:
        out.write(b"123")
    assert (a.peek("one"), b.peek("two"), (tmp_path / "three").read_bytes()) == (b"123",) * 3
    assert dict(a.stat("one").metadata) == {"a": "1"}
    assert [outcome.path for outcome in out.outcomes.values()] == ["one", "two", "three"]
    writer = MultiBackend([a, b]).open_writer("x")
    assert isinstance(writer, MultiWriter)
    writer.abort()


def test_a_writer_of_its_own_may_need_a_quorum():
    places = switches(3)
    places[0].down = True
    with MultiWriter([(place, "x") for place in places], "quorum") as out:
        out.write(b"1")
    assert sorted(outcome.state for outcome in out.outcomes.values()) == ["committed", "committed", "failed"]
    with pytest.raises(BackendUnavailable):
        MultiWriter([(place, "x") for place in places])


@pytest.mark.parametrize(
    "targets", [[], ["x"], [("a",)], [(MemoryBackend(), 1)], [(MemoryBackend(), "x", WriteOptions(), 4)]]
)
def test_what_is_no_list_of_targets_is_refused(targets):
    with pytest.raises(ConfigError):
        MultiWriter(targets)


def test_wrong_arguments_are_refused():
    one, two = MemoryBackend(), MemoryBackend()
    for make in (
        lambda: MultiBackend([]),
        lambda: MultiBackend([one, one]),
        lambda: MultiBackend([Target("a", one), Target("a", two)]),
        lambda: MultiBackend([one, two], "most"),
        lambda: MultiBackend([one, two], quorum=1),
        lambda: MultiBackend([one, two], "quorum", 3, journal=MemoryBackend()),
        lambda: MultiBackend([one, two], "quorum", 0, journal=MemoryBackend()),
        lambda: MultiBackend([one, two], read="last"),
        lambda: MultiBackend([one], read="race"),
        lambda: MultiBackend([one, two], read_quorum=1),
        lambda: MultiBackend([one, two], read="quorum", read_quorum=3),
        lambda: MultiBackend([one, two], laggard_timeout=0),
        lambda: MultiBackend([one, two], buffer=0),
        lambda: MultiBackend([one, two], on_difference=1),
        lambda: MultiBackend([one, two], journal=MemoryBackend(), journal_bytes=0),
        lambda: MultiBackend([one, 3]),
        lambda: MultiBackend([{"store": one, "match": "x"}]),
        lambda: MultiBackend([{"name": "a"}]),
        lambda: Target("a", one, match="x"),
        lambda: MultiBackend([one, ReadOnly(two)]),
        lambda: Target("a", one, user_metadata={"A": "1"}),
    ):
        with pytest.raises(ConfigError):
            make()


def test_config_as_data(tmp_path):
    for name in ("a", "b", "j"):
        (tmp_path / name).mkdir()
    options = {
        "targets": [{"name": "near", "store": f"file://{tmp_path}/a"}, f"file://{tmp_path}/b"],
        "mode": "quorum", "quorum": 1, "journal": f"file://{tmp_path}/j",
    }  # fmt: skip
    multi = open_backend("multi", options)
    write_bytes(multi, "x", b"1")
    assert [place.name for place in multi.places] == ["near", "local"]
    assert (tmp_path / "a/x").read_bytes() == (tmp_path / "b/x").read_bytes() == b"1"
    again = pickle.loads(pickle.dumps(multi))
    assert read_bytes(again, "x") == b"1"
    assert (again.needed, again.journal is not None) == (1, True)


def test_reading_goes_past_targets_that_are_down_and_says_missing_only_when_enough_were_asked():
    places = switches(3, x=b"1")
    multi = mirror(places, "quorum")
    places[0].down = True
    assert read_bytes(multi, "x") == b"1"
    assert multi.exists("x")
    assert not multi.exists("y")  # two of three say so: no two can hold it
    assert [info.path for info in multi.list()] == ["x"]
    assert [info.path for info in multi.list_dir()] == ["x"]
    places[1].down = True
    assert read_bytes(multi, "x") == b"1"
    for ask in (lambda: multi.exists("y"), lambda: list(multi.list()), lambda: list(multi.list_dir())):
        with pytest.raises(BackendUnavailable):
            ask()
    everywhere = mirror(places)
    assert not everywhere.exists("y")  # what is written is in all of them
    best = mirror(places[1:], "best_effort")
    with pytest.raises(BackendUnavailable):
        best.exists("y")


def test_a_listing_without_the_only_target_that_has_something_raises():
    places = switches(2)
    multi = mirror(places, "quorum")
    places[1].fails = {"close"}
    with pytest.raises(MultiError):
        write_bytes(multi, "d/x", b"1")
    assert entries(multi) == [("d/x", ("t1",), False)]
    assert [info.path for info in multi.list()] == ["d/x"]
    places[0].down = True
    for ask in (lambda: list(multi.list()), lambda: list(multi.list("d")), lambda: list(multi.list_dir("d"))):
        with pytest.raises(BackendUnavailable):
            ask()
    assert list(multi.list("e")) == []
    told = []
    assert list(multi.list("", ListOptions(on_error=told.append))) == []
    assert len(told) == 1


def test_health_is_that_of_as_many_as_are_needed():
    places = switches(3)
    multi = mirror(places, "quorum")
    places[0].down = True
    multi.check_health()
    places[1].down = True
    with pytest.raises(BackendUnavailable):
        multi.check_health()


def test_a_dropped_writer_publishes_nowhere_and_warns():
    places = [MemoryBackend(), MemoryBackend()]
    writer = mirror(places).open_writer("x")
    writer.write(b"half")
    with pytest.warns(ResourceWarning):
        del writer
    assert [place.peek("x") for place in places] == [None] * 2


def test_cancellation_aborts_all():
    slow = Held(MemoryBackend())
    slow._before = lambda op, number: Held._before(slow, op, number) if op == "prepare" else None
    places = [Switch(), slow]
    multi = mirror(places)
    scope = CancelScope()
    threading.Thread(target=lambda: (slow.asked.wait(LIMIT), scope.cancel())).start()
    with scope, pytest.raises(Cancelled), multi.open_writer("x") as writer:
        writer.write(b"1")
    assert peeks(places, "x") == [None, None]
    assert places[0].aborted
    with deadline(0.05), pytest.raises(Cancelled):
        write_bytes(multi, "x", b"1")
    assert peeks(places, "x") == [None, None]


def test_a_change_that_too_few_did_is_told_and_journaled():
    places = switches(3, x=b"1")
    places[0].fails = places[1].fails = {"delete"}
    multi = mirror(places, "quorum")
    with pytest.raises(MultiError) as caught:
        multi.delete("x")
    assert states(caught.value.outcomes) == {"t0": "unknown", "t1": "unknown", "t2": "committed"}
    places[0].fails = places[1].fails = set()
    assert entries(multi) == [("x", ("t0", "t1"), False)]
    multi.repair()
    assert peeks(places, "x") == [None] * 3


def test_a_change_that_all_refuse_is_refused_as_one():
    places = switches(3)
    multi = mirror(places, "quorum")
    with pytest.raises(NotFound):
        multi.copy("none", "x")
    with pytest.raises(CapabilityNotSupported):
        mirror([MemoryBackend(dirs=False)] * 1).mkdir("x")
    assert entries(multi) == []


def test_outcomes_print_and_compare():
    assert Outcome("a", "failed") == Outcome("a", "failed", None, None)
    assert "unknown" in repr(Outcome("a", "unknown"))


def test_order_of_targets_does_not_matter_to_what_is_written():
    for order in itertools.permutations(range(3)):
        places = switches(3)
        write_bytes(mirror([places[n] for n in order]), "x", b"1")
        assert peeks(places, "x") == [b"1"] * 3


@pytest.mark.parametrize("fails", [False, True])
def test_shutdown_is_ordered_targets_first_the_journal_last_and_open_writers_publish_nothing(tmp_path, fails):
    closed = []

    class Told(Switch):
        def close(self):
            closed.append(self)
            super().close()
            if fails:
                raise BackendUnavailable("it does not end well")

    places = [Told(LocalBackend(tmp_path / name)) for name in ("a", "b")]
    multi = mirror(places, "quorum", journal=tmp_path / "journal")
    write_bytes(multi, "kept", b"1")
    writer = multi.open_writer("x")
    writer.write(b"half")
    journal = multi.journal.backend
    end = journal.close
    journal.close = lambda: (closed.append(journal), end())
    with pytest.raises(BackendUnavailable) if fails else nullcontext():
        multi.close()
    assert closed == [*places, journal], "each is tried"
    with pytest.raises(BackendClosed):
        writer.close()
    writer.abort()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["kept", "kept"]
    with pytest.raises(BackendClosed):
        multi.exists("x")
