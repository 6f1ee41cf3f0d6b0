"""How objects get from one side to the other: by the store, with what is kept of them, again, at a rate."""

from datetime import datetime, timedelta

import pytest

from omnistorage import BackendUnavailable, ConfigError, MemoryBackend, PreconditionFailed, ops
from omnistorage.concurrency.cancellation import CancelScope
from omnistorage.core import WriteOptions
from omnistorage.core.option_checks import check_metadata, fitting_metadata
from omnistorage.sync import Filter
from omnistorage.sync.rate_limits import Bandwidth

from .simulation import VirtualClock
from .stores import (
    Acting,
    bucket,
    carry_out,
    day,
    failing,
    fill,
    go,
    held,
    meanwhile,
    memory,
    planned,
    put,
    replayed,
)
from .transfer_world import ALL, MIB, Counting

# --- server-side ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 2 * MIB])
def test_go_f14_between_two_handles_of_a_store_the_store_copies(size):
    src, dst = memory(Counting), memory(Counting)  # two Python objects, and the one can reach the other
    put(src, "f", b"x" * size, at=3)
    report = go(src, dst)
    assert held(dst) == {"f": b"x" * size}
    assert dst.stat("f").modified_at == day(3)
    assert report.bytes == size
    assert planned(src, dst) == []


def test_go_f14_what_the_store_copies_is_not_read():
    src, dst = memory(Counting), memory(Counting)
    put(src, "f", b"x" * 2 * MIB)
    go(src, dst)
    assert src.reads == 0
    go(src, memory(Counting), move=True)
    assert src.reads == 1, "a move deletes only what it has read, where no digest is stated"


def test_go_f14_what_cannot_be_copied_by_the_store_is_streamed():
    class Elsewhere(Counting):
        def _copy(self, src, dst, options):
            self._refuse("source", "copy", src)

    src, dst = memory(Elsewhere), memory(Elsewhere)
    put(src, "a", b"x" * 2 * MIB)
    put(src, "b", b"y" * 2 * MIB)
    assert go(src, dst).copied == 2
    assert src.reads == 2
    assert len(held(dst)) == 2


def test_go_f14_handles_that_cannot_be_compared_with_each_other_are_no_error():
    class Odd(Counting):
        __hash__ = None

        def __eq__(self, other):
            raise TypeError("not to be compared")

    src, dst = fill(memory(Odd), "a"), memory(Odd)
    go(src, dst)
    assert held(dst) == {"a": b"data of a"}


def test_by_server_too_a_source_that_changed_since_it_was_listed_is_not_copied():
    for make in (memory, lambda kind: memory(kind, dirs=False, if_match=False, create_only=False)):
        src, dst = make(Counting), make(Counting)
        put(src, "f", b"x" * 2 * MIB)
        plan = replayed(src, dst)
        put(src, "f", b"y" * 3 * MIB, at=3)
        assert carry_out(plan, raise_errors=False).failed == 1
        assert held(dst) == {}


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["streamed", "by the store", "move"])
def test_content_type_metadata_and_time_are_kept(how):
    src, dst = memory(), memory()
    data = b"x" * (2 * MIB if how == "by the store" else 10)
    put(src, "f", data, at=4, content_type="text/x-test", user_metadata={"one": "1", "two": "zwei"})
    go(Acting(src, lambda op, number: None) if how == "streamed" else src, dst, move=how == "move")
    info = dst.stat("f")
    assert (info.content_type, info.modified_at) == ("text/x-test", day(4))
    assert dict(info.metadata) == {"one": "1", "two": "zwei"}


def test_a_store_that_cannot_hold_times_keeps_them_as_metadata():
    src, dst = memory(), bucket(metadata=True, copy=False)
    when = day(4) + timedelta(microseconds=123_456)
    ops.write_bytes(src, "f", b"x", WriteOptions(modified_at=when))
    go(src, dst)
    assert dst.stat("f").metadata["mtime"] == f"{int(day(4).timestamp())}.123456000"


def test_metadata_that_not_every_store_can_hold_is_left_out_and_said():
    src, dst = memory(), memory(copy=False)
    put(src, "f", b"x", user_metadata={"good": "1"})
    found = src._objects["f"]
    src._objects["f"] = found._replace(info=found.info._replace(metadata={"good": "1", "Bad-Key": "2"}))
    report = go(src, dst)
    assert dict(dst.stat("f").metadata) == {"good": "1"}
    assert len(report.warnings) == 1


@pytest.mark.parametrize("odd", [{"mtime": "v\r\nx: y"}, {"mtime": {"a": 1}}, {"k": 5}, {"k": "v" * 2048}, {5: "v"}])
def test_odd_metadata_stops_no_transfer(odd):
    src, dst = memory(), memory()
    put(src, "f", b"x")
    found = src._objects["f"]
    src._objects["f"] = found._replace(info=found.info._replace(metadata={"good": "1", **odd}))
    report = go(src, dst)
    assert dict(dst.stat("f").metadata) == {"good": "1"}
    assert len(report.warnings) == 1


def test_as_much_metadata_is_kept_as_fits_with_the_time():
    whole = {f"k{n:03}": "v" * 12 for n in range(200)}
    kept = fitting_metadata({**whole, "mtime": "1"})
    assert len(kept) == (2048 - 25) // 16 + 1
    check_metadata({**kept, "mtime": "0" * 20})
    full = {"k": "v" * (2048 - 26), "mtime": "0" * 20}
    assert fitting_metadata(full) == full


def test_empty_objects_and_empty_folders_arrive():
    src, dst = memory(), memory()
    put(src, "nothing", b"")
    src.mkdir("empty/inner")
    put(src, "full/x", b"1")
    report = go(src, dst, empty_dirs=True)
    assert held(dst) == {"nothing": b"", "full/x": b"1"}
    assert {info.path for info in ops.walk(dst, folders=True) if info.is_dir} == {"empty", "empty/inner", "full"}
    assert report.made >= 1
    assert planned(src, dst, empty_dirs=True) == []


def test_folders_of_the_destination_that_became_empty_go_and_others_stay():
    src, dst = fill(memory(), "a"), fill(memory(), "a", "gone/d/x", "kept/hide.tmp", "kept/y")
    dst.mkdir("empty")
    go(src, dst, filter=Filter.parse(["- *.tmp"]), **ALL)
    assert {info.path for info in ops.walk(dst, folders=True) if info.is_dir} == {"kept"}


# --- retries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("retries", "failures", "ok"), [(2, 2, True), (2, 3, False), (0, 1, False), (5, 5, True)])
def test_an_entry_is_tried_again_as_often_as_retries_allow_while_errors_are_transient(retries, failures, ok):
    src, dst = fill(memory(), "a"), memory()

    def act(op, number):
        if op == "close" and number <= failures:
            raise BackendUnavailable("for a moment")

    said, clock = [], VirtualClock()
    watched = Acting(dst, act)
    report = go(src, watched, raise_errors=False, retries=retries, clock=clock, listeners=[said.append])
    assert report.ok is ok
    assert (held(dst) == {"a": b"data of a"}) is ok
    assert watched.log.count("close") == min(failures, retries) + 1
    assert [event.kind for event in said].count("retried") == min(failures, retries)
    assert (clock.now() > 0) is (retries > 0), "with a pause before each"


def test_what_is_not_transient_is_not_tried_again():
    src, dst = fill(memory(), "a"), failing(memory(), "close", None)
    assert go(src, dst, raise_errors=False, retries=5).failed == 1
    assert dst.log.count("close") == 1


def test_a_delete_is_tried_again_too():
    src, dst = fill(memory(), "a"), fill(memory(), "a", "x")
    report = go(src, failing(dst, "delete", 1, lambda: BackendUnavailable("for a moment")), **ALL)
    assert set(held(dst)) == {"a"}
    assert report.deleted == 1


# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [10 << 10, 32_767, 32_768, 100_003, 1 << 20, 10 << 20, 100 << 20])
def test_go_p1_go_p2_bwlimit_holds_within_five_percent_over_ten_seconds(rate):
    clock = VirtualClock()
    gate = Bandwidth(rate, clock)
    left = rate * 10
    while left > 0:
        size = min(left, gate.block)
        gate.take(size)
        left -= size
    assert abs(clock.now() - 10) <= 0.5


@pytest.mark.parametrize("rate", [1, 10, 1_000, 32_767])
def test_go_p1_a_transfer_at_a_low_rate_comes_to_its_end(rate):
    src, dst, clock = memory(), memory(copy=False), VirtualClock()
    put(src, "f", b"x" * (rate * 10))
    assert go(src, dst, bwlimit=rate, clock=clock).copied == 1
    assert held(dst) == {"f": b"x" * (rate * 10)}
    assert abs(clock.now() - 10) <= 1


def test_go_p2_small_transfers_are_limited_too():
    src, clock = fill(memory(), **{f"f{n}": b"x" * 50 for n in range(100)}), VirtualClock()
    go(Acting(src, lambda op, number: None), memory(), bwlimit=500, clock=clock)
    assert abs(clock.now() - 10) <= 0.5


def test_go_p1_a_wait_for_bandwidth_is_cancelled_at_once():
    scope = CancelScope()

    class Cancelling(VirtualClock):
        waits = 0

        def wait(self, seconds, wake):
            self.waits += 1
            assert not wake.is_set()
            scope.cancel()
            assert wake.is_set(), "whoever waits is woken"

    src, dst, clock = memory(), memory(copy=False), Cancelling()
    put(src, "f", b"x" * 1_000)
    with scope:
        report = go(src, dst, bwlimit=1, clock=clock, raise_errors=False)
    assert (clock.waits, held(dst), report.failed) == (1, {}, 1)


def test_go_p6_a_large_copy_stops_when_it_is_cancelled():
    scope = CancelScope()
    src, dst = memory(), memory()
    put(src, "f", b"x" * 20 * MIB)
    watched = meanwhile(src, "read", scope.cancel, 2)
    with scope:
        report = go(watched, dst, raise_errors=False, **ALL)
    assert watched.log.count("read") == 2, "not one block more"
    assert held(dst) == {}
    assert not report.ok


def test_a_timetable_says_which_rate_holds():
    moments = [datetime(2026, 6, 15, 9), datetime(2026, 6, 15, 19), datetime(2026, 6, 20, 5)]  # Monday, Saturday
    for moment, seconds in zip(moments, (10, 1, 0), strict=True):
        clock = VirtualClock()
        gate = Bandwidth("08:00,100b 18:00,1000b Sat-00:00,off", clock, lambda moment=moment: moment)
        for _ in range(100):
            gate.take(10)
        assert abs(clock.now() - seconds) <= 0.2
    clock = VirtualClock()
    gate = Bandwidth("Mon-08:00,100b Tue-08:00,off", clock, lambda: datetime(2026, 6, 15, 7))
    gate.take(100_000)
    assert clock.now() == 0, "before the first one of the week holds the last one"


@pytest.mark.parametrize("bad", ["08:00", "25:00,1M", "Someday-08:00,1M", "08:00,fast", 0, -1, "0"])
def test_a_bad_bwlimit_is_refused(bad):
    with pytest.raises(ConfigError, match="bwlimit"):
        go(fill(memory(), "a"), memory(), bwlimit=bad)


def test_tpslimit_bounds_the_operations_of_a_second():
    src, clock = fill(memory(), *(f"f{n}" for n in range(50))), VirtualClock()
    go(src, memory(), tpslimit=5, clock=clock)
    assert abs(clock.now() - 10) <= 0.5


def test_a_source_that_grows_while_it_is_read_is_said_to_have_changed():
    class Growing(MemoryBackend):
        """Its readers give more than the object had when they were opened."""

        def _open_reader(self, path, options):
            reader = super()._open_reader(path, options)
            put(self, path, b"longer than before", at=1)
            reader._data, reader._stop = b"longer than before", 18
            return reader

    src, dst = memory(Growing), memory()
    put(src, "f", b"short")
    report = go(src, dst, raise_errors=False)
    assert [type(failure.error) for failure in report.failures] == [PreconditionFailed]
    assert held(dst) == {}
