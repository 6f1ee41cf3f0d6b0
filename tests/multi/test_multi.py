"""What a fan-out promises, sentence by sentence (the numbers are those of the contract)."""

import hashlib
import itertools
import pickle
import threading
from datetime import timedelta

import pytest

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    Cancelled,
    CapabilityNotSupported,
    ConfigError,
    CopyOptions,
    CorruptData,
    ListOptions,
    LocalBackend,
    MemoryBackend,
    MultiBackend,
    MultiError,
    MultiWriter,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    ReadOnly,
    StorageError,
    Target,
    WriteOptions,
    open_backend,
)
from omnistorage.multi import Outcome
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.policies import CancelScope, deadline
from omnistorage.testing.faults import Faulty

from .places import Held, Switch, filled


def switches(count, **objects):
    return [Switch(filled(**objects)) for _ in range(count)]


def mirror(places, mode="all", **options):
    if mode != "all":
        options.setdefault("journal", MemoryBackend())
    return MultiBackend([Target(f"t{n}", place) for n, place in enumerate(places)], mode, **options)


def peeks(places, path):
    return [place.inner.peek(path) for place in places]


def states(outcomes):
    return {
        outcome.target: outcome.state for outcome in (outcomes.values() if isinstance(outcomes, dict) else outcomes)
    }


def entries(multi):
    return [(entry.path, entry.targets, entry.intent) for entry in multi.journal.load()]


# -- 1 to 3: what success means ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "needed"), [("all", 5), ("quorum", 3), ("best_effort", 1)])
def test_go_m3_the_number_needed_is_of_the_configured_targets(mode, needed):
    """Also when some cannot be opened: five of which three are left do not make two a quorum."""
    for down in range(6):
        places = switches(5, x=b"old")
        for place in places[:down]:
            place.down = True
        multi = mirror(places, mode)
        if 5 - down >= needed:
            write_bytes(multi, "x", b"new")
            assert peeks(places, "x") == [b"old"] * down + [b"new"] * (5 - down)
        else:
            with pytest.raises(BackendUnavailable):
                write_bytes(multi, "x", b"new")
            assert peeks(places, "x") == [b"old"] * 5


@pytest.mark.parametrize("op", ["open_writer", "write", "flush", "prepare"])
@pytest.mark.parametrize("failing", [1, 2])
def test_go_m2_nothing_is_published_anywhere_before_enough_hold_every_byte(op, failing):
    places = switches(3, x=b"old")
    for place in places[:failing]:
        place.fails = {op}
    multi = mirror(places, "quorum")

    def write():
        with multi.open_writer("x") as writer:
            writer.write(b"new")
            writer.flush()
        return writer

    if failing == 1:
        assert states(write().outcomes) == {"t0": "failed", "t1": "committed", "t2": "committed"}
        assert peeks(places, "x") == [b"old", b"new", b"new"]
        assert entries(multi) == [("x", ("t0",), False)]
    else:
        with pytest.raises(BackendUnavailable) as caught:
            write()
        assert "in target 't0'" in caught.value.__notes__
        assert peeks(places, "x") == [b"old"] * 3
        assert entries(multi) == []


def test_go_m2_an_exception_in_the_block_publishes_nowhere():
    places = switches(3, x=b"old")
    with pytest.raises(RuntimeError), mirror(places).open_writer("x") as writer:
        writer.write(b"half")
        raise RuntimeError
    assert peeks(places, "x") == [b"old"] * 3
    assert states(writer.outcomes) == dict.fromkeys(("t0", "t1", "t2"), "aborted")
    writer.abort()


def test_different_reasons_are_all_told():
    class Denies(Faulty):
        def _before(self, op, number):
            raise PermissionDenied("not you")

    places = [Denies(MemoryBackend()), *switches(2)]
    places[1].down = True
    with pytest.raises(MultiError) as caught:
        write_bytes(mirror(places, "quorum"), "x", b"1")
    assert {type(error) for error in caught.value.exceptions} == {PermissionDenied, BackendUnavailable}
    assert states(caught.value.outcomes) == {"t0": "failed", "t1": "failed", "t2": "aborted"}
    assert caught.value.path == "x"


# -- 4: who fails is left alone ----------------------------------------------------------------------------------------


class Hole(Switch):
    """Fails one write, and would take the next."""

    def __init__(self, at):
        super().__init__()
        self.at, self.writes = at, 0

    def _before(self, op, number):
        if op == "write":
            self.writes += 1
            if self.writes == self.at:
                raise BackendUnavailable("a hiccup")

    def _writer(self, writer, path):
        """Not poisoned by it."""
        writer = super()._writer(writer, path)
        inner = writer.inner
        writer.write = lambda data: (self._before("write", 0), inner.write(data))[1]
        return writer


@pytest.mark.parametrize("at", [1, 2, 3])
def test_go_m1_a_target_that_failed_gets_nothing_more_and_never_an_object_with_a_hole(at):
    places = [Hole(at), *switches(2)]
    multi = mirror(places, "quorum")
    block = b"b" * (300 << 10)
    with multi.open_writer("x") as writer:
        for _ in range(4):
            writer.write(block)
            writer.flush()
    assert places[0].writes == at
    assert peeks(places, "x") == [None, block * 4, block * 4]
    assert places[0].aborted
    assert states(writer.outcomes)["t0"] == "failed"


def test_go_m1_no_target_need_hold_the_whole_for_each_write_to_have_had_a_quorum():
    """Each fails at another write: every single write had two that took it, and none has it all."""
    places = [Hole(1), Hole(2), Hole(3)]
    multi = mirror(places, "quorum")
    with pytest.raises(BackendUnavailable), multi.open_writer("x") as writer:
        for _ in range(3):
            writer.write(b"b" * (300 << 10))
            writer.flush()
    assert peeks(places, "x") == [None] * 3


# -- 5: partial publication is told ------------------------------------------------------------------------------------


class Lost(Faulty):
    """Publishes, and the answer is lost."""

    def _call(self, op, run):
        answer = super()._call(op, run)
        if op == "close":
            raise OutcomeUnknown("the answer was lost")
        return answer


@pytest.mark.parametrize("which", range(3))
def test_go_m3_a_publication_that_fails_somewhere_is_told_target_by_target(which):
    places = switches(3, x=b"old")
    places[which].fails = {"close"}
    writer = mirror(places).open_writer("x")
    writer.write(b"new")
    with pytest.raises(MultiError) as caught:
        writer.close()
    wanted = {f"t{n}": "unknown" if n == which else "committed" for n in range(3)}
    assert states(caught.value.outcomes) == states(writer.outcomes) == wanted
    for number, outcome in enumerate(caught.value.outcomes):
        assert outcome.path == "x"
        assert outcome.sha256 == hashlib.sha256(b"new").hexdigest()
        assert (outcome.error is None) == (number != which)
        assert places[number].inner.peek("x") == (b"old" if number == which else b"new")
    assert [error.__notes__ for error in caught.value.exceptions] == [[f"in target 't{which}'"]]
    with pytest.raises(MultiError):
        writer.close()
    assert pickle.loads(pickle.dumps(caught.value)).outcomes[which].state == "unknown"


def test_go_m3_every_error_is_found_in_the_group():
    class Full(Faulty):
        def _before(self, op, number):
            if op == "close":
                raise PermissionDenied("no room")

    places = [Lost(MemoryBackend()), Full(MemoryBackend()), Switch()]
    with pytest.raises(MultiError) as caught:
        write_bytes(mirror(places), "x", b"new")
    assert caught.value.subgroup(OutcomeUnknown) is not None
    assert caught.value.subgroup(PermissionDenied) is not None
    assert states(caught.value.outcomes) == {"t0": "unknown", "t1": "failed", "t2": "committed"}
    assert "published in t2, perhaps in t0" in str(caught.value)


def test_a_target_that_says_it_holds_something_else_did_not_commit():
    class Short(Faulty):
        def _call(self, op, run):
            answer = super()._call(op, run)
            return answer._replace(size=1) if op == "close" else answer

    places = [Short(MemoryBackend()), *switches(2)]
    multi = mirror(places, "quorum")
    with multi.open_writer("x") as writer:
        writer.write(b"123")
    assert isinstance(writer.outcomes["t0"].error, CorruptData)
    assert entries(multi) == [("x", ("t0",), False)]


# -- 6: the journal ----------------------------------------------------------------------------------------------------


def test_a_target_that_was_away_is_brought_up_to_date():
    places = switches(3, kept=b"k", gone=b"g", moved=b"m")
    multi = mirror(places, "quorum")
    places[1].down = True
    write_bytes(multi, "new", b"1")
    write_bytes(multi, "new", b"22")
    write_bytes(multi, "kept", b"other")
    multi.delete("gone")
    multi.move("moved", "there")
    multi.copy("kept", "copied")
    multi.mkdir("folder")
    assert multi.repair().waiting  # it still is away
    places[1].down = False
    assert [places[1].inner.peek(path) for path in ("new", "kept", "gone", "moved")] == [None, b"k", b"g", b"m"]
    done = multi.repair()
    assert not done.waiting
    assert set(done.paths) == {"new", "kept", "gone", "moved", "there", "copied", "folder"}
    wanted = {"new": b"22", "kept": b"other", "gone": None, "moved": None, "there": b"m", "copied": b"other"}
    for path, data in wanted.items():
        assert peeks(places, path) == [data] * 3, path
    assert [info.path for info in places[1].inner.list_dir() if info.is_dir] == ["folder"]
    assert entries(multi) == []
    assert multi.repair() == ((), 0, ())
    assert multi.verify().alike


def test_repair_changes_nothing_where_all_are_alike_by_now():
    places = switches(3)
    multi = mirror(places, "quorum")
    places[0].down = True
    write_bytes(multi, "x", b"1")
    places[0].down = False
    write_bytes(places[0].inner, "x", b"1")
    assert multi.repair()[:2] == (("x",), 0)
    assert entries(multi) == []


def test_a_later_change_settles_what_was_missed_before():
    places = switches(3)
    multi = mirror(places, "quorum")
    places[0].down = True
    write_bytes(multi, "x", b"1")
    write_bytes(multi, "x", b"2")
    assert entries(multi) == [("x", ("t0",), False)]
    places[0].down = False
    write_bytes(multi, "x", b"3")
    assert entries(multi) == []
    assert peeks(places, "x") == [b"3"] * 3


def test_a_target_is_not_read_where_it_missed_something():
    places = switches(3, x=b"old", gone=b"g")
    multi = mirror(places, "quorum")
    places[0].down = True
    write_bytes(multi, "x", b"new")
    multi.delete("gone")
    places[0].down = False
    for one in (multi, pickled_like(multi, places)):
        assert read_bytes(one, "x") == b"new"
        assert not one.exists("gone")
        assert [info.path for info in one.list()] == ["x"]
        assert [info.path for info in one.list_dir()] == ["x"]
        assert one.stat("x").etag.startswith("t1:")
        with pytest.raises(NotFound):
            one.stat("gone")


def pickled_like(multi, places):
    """Another process with the same journal."""
    return mirror(places, "quorum", journal=multi._settings["journal"])


def test_a_condition_holds_of_what_is_shown_not_of_what_was_missed():
    places = switches(3, x=b"old")
    multi = mirror(places, "quorum")
    places[0].down = True
    multi.delete("x")
    places[0].down = False
    write_bytes(multi, "x", b"new", WriteOptions(overwrite=False))
    assert peeks(places, "x") == [b"new"] * 3
    assert entries(multi) == []


def test_metadata_that_was_missed_is_brought_too_and_the_bytes_stay_missed_until_then():
    places = switches(3)
    multi = mirror(places, "quorum")
    write_bytes(multi, "x", b"1")
    places[0].down = True
    write_bytes(multi, "x", b"22")
    multi.set_metadata("x", user_metadata={"a": "1"})
    places[0].down = False
    multi.set_metadata("x", user_metadata={"a": "2"})
    assert ("x", ("t0",), False) in entries(multi)
    assert read_bytes(multi, "x") == b"22"
    multi.repair()
    assert [dict(place.inner.stat("x").metadata) for place in places] == [{"a": "2"}] * 3
    assert peeks(places, "x") == [b"22"] * 3


def test_reaching_the_cap_of_the_journal_is_an_error_and_publishes_nothing():
    places = switches(3)
    multi = mirror(places, "quorum", journal_bytes=1000)
    places[0].down = True
    written = []
    with pytest.raises(StorageError, match=r"reached its 1000 bytes: repair\(\)"):
        for number in range(100):
            write_bytes(multi, f"x{number}", b"1")
            written.append(number)
    assert 0 < len(written) < 6
    assert [place.inner.peek(f"x{len(written)}") for place in places] == [None] * 3
    places[0].down = False
    multi.repair()
    write_bytes(multi, "x", b"1")


def test_no_entry_grows_old():
    places = switches(3)
    journal = MemoryBackend()
    multi = mirror(places, "quorum", journal=journal)
    multi.journal._now = lambda: 1.0  # 1970
    places[0].down = True
    write_bytes(multi, "x", b"1")
    places[0].down = False
    assert mirror(places, "quorum", journal=journal).repair().paths == ("x",)
    assert peeks(places, "x") == [b"1"] * 3


def test_modes_in_which_targets_may_miss_something_need_a_journal():
    for mode in ("quorum", "best_effort"):
        with pytest.raises(ConfigError, match="journal"):
            MultiBackend([MemoryBackend(), MemoryBackend()], mode)
    with pytest.raises(ConfigError, match="verify"):
        MultiBackend([MemoryBackend()]).repair()


def test_the_journal_tells_targets_apart_by_name_and_place(tmp_path):
    for name in ("a", "b", "c", "journal"):
        (tmp_path / name).mkdir()

    def made(second, name="two"):
        targets = [Target("one", LocalBackend(tmp_path / "a")), Target(name, LocalBackend(tmp_path / second))]
        return MultiBackend(targets, "best_effort", journal=tmp_path / "journal")

    multi = made("b")
    multi.journal.add(multi.entry("x", [multi.places[1]]))
    with pytest.raises(ConfigError, match="knows the target 'two' as"):
        made("c").repair()
    with pytest.raises(ConfigError, match="speaks of a target 'two'"):
        made("b", "three").repair()
    assert made("b").repair().paths == ("x",)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"version": 2}', b'{"version": 1, "path": 3, "targets": ["a"], "urls": []}']
)
def test_a_damaged_entry_is_told_and_never_skipped(text):
    journal = MemoryBackend()
    journal.put_raw(f"{0:028x}.json", text)
    journal.put_raw("somebody/elses", b"object")
    with pytest.raises(CorruptData, match="verify") as caught:
        mirror(switches(2), journal=journal).repair()
    assert caught.value.path == f"{0:028x}.json"


@pytest.mark.parametrize("published", [0, 1, 2])
def test_a_publication_that_a_kill_cut_short_is_completed_or_forgotten(published):
    places = switches(3, x=b"old")
    multi = mirror(places, journal=MemoryBackend())
    sha = hashlib.sha256(b"new").hexdigest()
    multi.journal.add(multi.entry("x", multi.places, sha256=sha, intent=True))
    for place in places[:published]:
        place.inner.put_raw("x", b"new")
    assert multi.repair().waiting  # another process may be at it
    assert multi.repair(grace=0).paths == ("x",)
    assert peeks(places, "x") == [b"new" if published else b"old"] * 3
    assert entries(multi) == []


def test_what_cannot_be_asked_may_be_what_was_published():
    places = switches(3, x=b"old")
    multi = mirror(places, journal=MemoryBackend())
    sha = hashlib.sha256(b"new").hexdigest()
    multi.journal.add(multi.entry("x", multi.places, sha256=sha, intent=True))
    places[2].inner.put_raw("x", b"new")
    places[2].down = True
    assert multi.repair(grace=timedelta()).waiting
    assert peeks(places, "x") == [b"old", b"old", b"new"]
    places[2].down = False
    assert multi.repair(grace=0).paths == ("x",)
    assert peeks(places, "x") == [b"new"] * 3


def test_a_journal_that_fails_at_the_end_keeps_what_was_begun():
    journal = Switch()
    places = switches(3)
    multi = mirror(places, "quorum", journal=journal)

    class Then(Faulty):
        def _before(self, op, number):
            if op == "close":
                journal.down = True
                raise BackendUnavailable("both are gone")

    multi.places[0].backend = Then(places[0].inner)
    write_bytes(multi, "x", b"1")
    journal.down, multi.places[0].backend = False, places[0]
    assert entries(mirror(places, "quorum", journal=journal)) == [("x", ("t0", "t1", "t2"), True)]
    assert ("x", ("t0",), False) in entries(multi)  # which this process remembers
    assert multi.repair(grace=0).paths == ("x",)
    assert peeks(places, "x") == [b"1"] * 3


def test_without_a_journal_that_takes_the_entry_nothing_is_published():
    journal = Switch()
    places = switches(3, x=b"old")
    multi = mirror(places, "quorum", journal=journal)
    multi.journal.load()
    journal.down = True
    with pytest.raises(BackendUnavailable):
        write_bytes(multi, "x", b"new")
    assert peeks(places, "x") == [b"old"] * 3


def test_verify_compares_and_rebuilds_a_minority_but_takes_nothing_away():
    places = switches(3, same=b"1", flipped=b"right", lacking=b"here")
    multi = mirror(places)
    places[2].inner.put_raw("flipped", b"wrong")
    places[0].inner.delete("lacking")
    places[1].inner.put_raw("stray", b"s")
    for place, data in zip(places, (b"1", b"2", b"3"), strict=True):
        place.inner.put_raw("torn", data)
    found = multi.verify()
    assert (found.same, {one.path for one in found.differing}) == (1, {"flipped", "lacking", "stray", "torn"})
    assert not found.alike
    assert found.differing[0].holds == {
        "t0": hashlib.sha256(b"right").hexdigest(),
        "t1": hashlib.sha256(b"right").hexdigest(),
        "t2": hashlib.sha256(b"wrong").hexdigest(),
    }
    assert peeks(places, "flipped") == [b"right", b"right", b"wrong"]
    rebuilt = {one.path: one.rebuilt for one in multi.verify(rebuild=True).differing}
    assert rebuilt == {"flipped": ("t2",), "lacking": ("t0",), "stray": (), "torn": ()}
    assert peeks(places, "flipped") == [b"right"] * 3
    assert peeks(places, "lacking") == [b"here"] * 3
    assert peeks(places, "stray") == [None, b"s", None]
    assert {one.path for one in multi.verify().differing} == {"stray", "torn"}
    assert multi.verify("same").alike


def test_verify_leaves_to_the_journal_what_the_journal_knows():
    places = switches(3, x=b"old")
    multi = mirror(places, "best_effort")
    places[0].down = places[1].down = True
    write_bytes(multi, "x", b"newer")
    places[0].down = places[1].down = False
    found = multi.verify(rebuild=True)
    assert [one.path for one in found.pending] == ["x"]
    assert not found.alike
    assert peeks(places, "x") == [b"old", b"old", b"newer"]
    multi.repair()
    assert peeks(places, "x") == [b"newer"] * 3


def test_verify_says_which_target_cannot_be_asked():
    places = switches(3, x=b"1")
    places[1].down = True
    with pytest.raises(BackendUnavailable) as caught:
        mirror(places).verify()
    assert "in target 't1'" in caught.value.__notes__


# -- 7: as slow as the slowest that is needed --------------------------------------------------------------------------


def test_go_p8_targets_work_at_the_same_time_not_one_after_the_other():
    """None of them ends a call before all have begun theirs: one after the other would never end."""

    class Together(Faulty):
        def _before(self, op, number):
            if op in ("open_writer", "write", "prepare", "close", "delete", "copy", "move", "mkdir"):
                barrier.wait(5)

    barrier = threading.Barrier(3)
    multi = mirror([Together(MemoryBackend()) for _ in range(3)])
    write_bytes(multi, "x", b"1" * (1 << 20))
    multi.copy("x", "y")
    multi.move("y", "z")
    multi.mkdir("f")
    multi.delete("z")
    assert [info.path for info in multi.list()] == ["x"]


@pytest.mark.parametrize("op", ["open_writer", "write", "prepare", "close"])
def test_a_laggard_is_given_up_and_journaled(op):
    class Stuck(Held):
        def _before(self, called, number):
            if called == op:
                super()._before(called, number)

    slow = Stuck(MemoryBackend())
    places = [*switches(2), slow]
    multi = mirror(places, "quorum", laggard_timeout=0.05, buffer=1 << 20)
    with multi.open_writer("x") as writer:
        for _ in range(8):
            writer.write(b"b" * (512 << 10))
    assert states(writer.outcomes) == {
        "t0": "committed",
        "t1": "committed",
        "t2": "unknown" if op == "close" else "failed",
    }
    assert "given up" in str(writer.outcomes["t2"].error)
    assert entries(multi) == [("x", ("t2",), False)]
    assert slow.cancelled.wait(30)
    slow.go()
    assert slow.inner.peek("x") is None


def test_a_laggard_that_is_needed_is_waited_for():
    slow = Held(MemoryBackend())
    places = [Switch(), slow]
    multi = mirror(places, laggard_timeout=0.01)
    done = threading.Event()

    def write():
        write_bytes(multi, "x", b"1")
        done.set()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    assert slow.asked.wait(30)
    assert not done.wait(0.2)
    slow.go()
    thread.join(30)
    assert done.is_set()
    assert peeks(places, "x") == [b"1", b"1"]


def test_a_laggard_in_other_changes_is_given_up_too():
    slow = Held(filled(x=b"1"))
    multi = mirror([*switches(2, x=b"1"), slow], "quorum", laggard_timeout=timedelta(milliseconds=20))
    assert multi.delete("x") is True
    assert slow.cancelled.wait(30)
    assert entries(multi) == [("x", ("t2",), False)]


def test_a_full_buffer_holds_the_writer_up():
    slow = Held(MemoryBackend())
    slow._before = lambda op, number: Held._before(slow, op, number) if op == "write" else None
    multi = mirror([Switch(), slow], buffer=1 << 20)
    taken = []
    over = threading.Event()

    def write():
        with multi.open_writer("x") as writer:
            for _ in range(16):
                taken.append(writer.write(b"b" * (256 << 10)))
        over.set()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    assert slow.asked.wait(30)
    assert not over.wait(0.2)
    assert sum(taken) <= (1 << 20) + (256 << 10)
    slow.go()
    thread.join(30)
    assert over.is_set()


# -- 8: once ---------------------------------------------------------------------------------------------------------


def test_all_targets_are_given_the_same_bytes_object():
    class Seen(Faulty):
        blocks: list = []

        def _writer(self, writer, path):
            inner = super()._writer(writer, path)
            write = inner.write
            inner.write = lambda data: (self.blocks.append(data), write(data))[1]
            return inner

    multi = mirror([Seen(MemoryBackend()) for _ in range(3)])
    given = bytes(1 << 20)
    with multi.open_writer("x") as writer:
        writer.write(given)
    assert len(Seen.blocks) == 3
    assert all(block is given for block in Seen.blocks)


def test_what_the_caller_changes_afterwards_is_not_what_is_written():
    class Gate(Switch):
        def _before(self, op, number):
            if op == "write":
                assert changed.wait(30)

    changed = threading.Event()
    places = [Gate(), Gate()]
    data = bytearray(b"1" * (1 << 20))
    with mirror(places).open_writer("x") as writer:
        assert writer.write(memoryview(data)) == 1 << 20
        data[:] = b"2" * (1 << 20)
        changed.set()
    assert peeks(places, "x") == [b"1" * (1 << 20)] * 2


# -- also --------------------------------------------------------------------------------------------------------------


def test_creating_has_one_winner_who_has_it_everywhere():
    for seed in range(30):
        places = switches(3)
        multis = [mirror(places), mirror(places[::1])]
        barrier = threading.Barrier(2)
        won = []

        def create(number, multis=multis, barrier=barrier, won=won):
            barrier.wait(5)
            try:
                write_bytes(multis[number], "x", b"%d" % number, WriteOptions(overwrite=False))
                won.append(number)
            except AlreadyExists:
                pass

        threads = [threading.Thread(target=create, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
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
    threading.Thread(target=lambda: (slow.asked.wait(30), scope.cancel())).start()
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
