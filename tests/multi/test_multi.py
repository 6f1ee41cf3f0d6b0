"""What a fan-out promises, sentence by sentence (the numbers are those of the contract)."""

import hashlib
import pickle
import threading
from datetime import timedelta

import pytest

from omnistorage import BackendUnavailable, CorruptData, MemoryBackend, MultiError, OutcomeUnknown, PermissionDenied
from omnistorage.multi.mirror import target_queue
from omnistorage.ops import write_bytes
from omnistorage.testing.faults import Faulty

from ..waiting import LIMIT
from .mirrors import entries, mirror, patient, peeks, states, switches
from .places import Held, Switch, filled

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
        assert {"in target 't0'", "in target 't1'"}.intersection(caught.value.__notes__)
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
    assert f"t{which}: {caught.value.exceptions[0]}" in str(caught.value)
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


def test_an_error_is_known_as_soon_as_its_target_is_known_to_have_failed(monkeypatch):
    raised, told = threading.Event(), target_queue.told

    def late(error, place):
        raised.wait(0.05)  # who does not wait for it is through by then
        return told(error, place)

    monkeypatch.setattr(target_queue, "told", late)
    with pytest.raises(MultiError) as caught:
        write_bytes(mirror([Lost(MemoryBackend()), *switches(2)]), "x", b"new")
    raised.set()
    assert caught.value.subgroup(OutcomeUnknown) is not None
    assert isinstance(caught.value.outcomes[0].error, OutcomeUnknown)


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


# -- 7: as slow as the slowest that is needed --------------------------------------------------------------------------


def test_go_p8_targets_work_at_the_same_time_not_one_after_the_other():
    """None of them ends a call before all have begun theirs: one after the other would never end."""

    class Together(Faulty):
        def _before(self, op, number):
            if op in ("open_writer", "write", "prepare", "close", "delete", "copy", "move", "mkdir"):
                barrier.wait(LIMIT)

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
    multi = mirror(places, "quorum", laggard_timeout=0.05, buffer=1 << 20, _crew=patient(slow.asked.is_set))
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
    assert slow.cancelled.wait(LIMIT)
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
    assert slow.asked.wait(LIMIT)
    assert not done.wait(0.05)
    slow.go()
    thread.join(LIMIT)
    assert done.is_set()
    assert peeks(places, "x") == [b"1", b"1"]


def test_a_laggard_in_other_changes_is_given_up_too():
    slow = Held(filled(x=b"1"))
    multi = mirror(
        [*switches(2, x=b"1"), slow],
        "quorum",
        laggard_timeout=timedelta(milliseconds=20),
        _crew=patient(slow.asked.is_set),
    )
    assert multi.delete("x") is True
    assert slow.cancelled.wait(LIMIT)
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
    assert slow.asked.wait(LIMIT)
    assert not over.wait(0.05)
    assert sum(taken) <= (1 << 20) + (256 << 10)
    slow.go()
    thread.join(LIMIT)
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
                assert changed.wait(LIMIT)

    changed = threading.Event()
    places = [Gate(), Gate()]
    data = bytearray(b"1" * (1 << 20))
    with mirror(places).open_writer("x") as writer:
        assert writer.write(memoryview(data)) == 1 << 20
        data[:] = b"2" * (1 << 20)
        changed.set()
    assert peeks(places, "x") == [b"1" * (1 << 20)] * 2
