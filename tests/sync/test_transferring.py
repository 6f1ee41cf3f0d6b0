"""How the sync engine carries a plan out: section 6 of its contract."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest

from omnistorage import BackendUnavailable, ConfigError, LocalBackend, MemoryBackend, NotFound, OutcomeUnknown, ops
from omnistorage.core import WriteOptions
from omnistorage.policies import CancelScope
from omnistorage.sync import Filter, Plan, SyncOptions, copy_file, move_file, run, sync
from omnistorage.sync.limits import Bandwidth
from omnistorage.wrappers import Prefix

from .simulation import Inline, VirtualClock
from .stores import (
    Acting,
    blind,
    bucket,
    carry_out,
    day,
    errors,
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

ALL = {"delete": True, "max_delete": "100%"}
MIB = 1 << 20


class Counting(MemoryBackend):
    """Counts who reads its objects."""

    reads = 0

    def _open_reader(self, path, options):
        self.reads += 1
        return super()._open_reader(path, options)


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
    assert src.reads == 1, "a move deletes only what it has read"


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


# --- limits -----------------------------------------------------------------------------------------------------------


def hundred_bytes_each(count=10):
    return fill(memory(), **{f"f{n}": b"x" * 100 for n in range(count)})


def test_max_transfer_soft_finishes_what_runs():
    dst = memory()
    report = go(hundred_bytes_each(), dst, max_transfer=250, cutoff="soft", raise_errors=False)
    assert (len(held(dst)), report.bytes) == (3, 300)
    assert "max_transfer" in report.stopped


def test_max_transfer_hard_breaks_off_what_would_pass_it():
    dst = memory()
    report = go(hundred_bytes_each(), Acting(dst, lambda op, number: None), max_transfer=250, raise_errors=False)
    assert (len(held(dst)), report.bytes) == (2, 200)
    assert "max_transfer" in report.stopped


def test_max_transfer_cautious_begins_nothing_that_would_pass_it():
    dst = memory()
    reader = hundred_bytes_each()
    watched = Acting(reader, lambda op, number: None)
    report = go(watched, dst, max_transfer=250, cutoff="cautious", raise_errors=False)
    assert (len(held(dst)), watched.log.count("open_reader")) == (2, 2)
    assert "max_transfer" in report.stopped


@pytest.mark.parametrize("cutoff", ["hard", "soft", "cautious"])
def test_what_fits_max_transfer_is_not_stopped(cutoff):
    dst = memory()
    go(hundred_bytes_each(), dst, max_transfer=1_001, cutoff=cutoff)
    assert len(held(dst)) == 10


@pytest.mark.parametrize("cutoff", ["hard", "soft", "cautious"])
def test_max_transfer_counts_what_the_store_copies_too(cutoff):
    src, dst = memory(), memory()
    for name in "abcd":
        put(src, name, b"x" * 2 * MIB)
    report = go(src, dst, max_transfer=3 * MIB, cutoff=cutoff, raise_errors=False)
    assert report.stopped
    assert len(held(dst)) == {"hard": 1, "soft": 2, "cautious": 1}[cutoff]


@pytest.mark.parametrize("cutoff", ["hard", "soft", "cautious"])
def test_max_duration_ends_a_run(cutoff):
    src, dst, clock = hundred_bytes_each(), memory(), VirtualClock()
    report = go(src, dst, max_duration=5.5, cutoff=cutoff, tpslimit=1, clock=clock, raise_errors=False)
    assert 4 <= len(held(dst)) <= 7
    assert "max_duration" in report.stopped
    assert not report.ok


def test_a_run_goes_on_where_a_limit_ended_the_one_before():
    src, dst = hundred_bytes_each(), memory()
    for _ in range(4):
        report = go(src, dst, max_transfer=300, cutoff="cautious", raise_errors=False)
    assert report.ok
    assert len(held(dst)) == 10


# --- order ------------------------------------------------------------------------------------------------------------


def transferred(src, **settings):
    said = []
    go(src, memory(), listeners=[said.append], **settings)
    return "".join(event.path for event in said if event.kind == "started")


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ("size", "cadb"),
        ("size,asc", "cadb"),
        ("size,desc", "bdac"),
        ("name", "abcd"),
        ("name,descending", "dcba"),
        ("modtime", "badc"),
        ("modtime,desc", "cdab"),
        ("mixed", "cbad"),
        ("", "abcd"),
    ],
)
def test_transfers_have_the_order_that_is_asked_for(order, found):
    src = memory()
    for name, size, at in (("a", 20, 2), ("b", 40, 1), ("c", 10, 4), ("d", 30, 3)):
        put(src, name, b"x" * size, at)
    assert transferred(src, order_by=order) == found


def test_check_first_compares_everything_before_the_first_transfer():
    src, dst = fill(memory(), *"abcdef"), memory()
    for more, first in (({}, "ps"), ({"check_first": True}, "ppppppssssss")):
        said = []
        go(src, memory(), listeners=[said.append], **more)
        kinds = "".join(event.kind[0] for event in said if event.kind in ("planned", "started"))
        assert kinds.startswith(first)
    assert held(dst) == {}


@pytest.mark.parametrize("backlog", [1, 3])
def test_no_more_is_planned_than_the_backlog_holds(backlog):
    src, dst = fill(memory(), *(f"f{n:02}" for n in range(40))), memory()
    gate, ahead = threading.Semaphore(0), []

    def act(op, number):
        if op == "open_writer":
            gate.acquire()

    def listen(event):
        if event.kind == "planned":
            ahead.append(1)
            if len(ahead) > 30:
                gate.release()
        elif event.kind == "done":
            gate.release()

    def free():
        for _ in range(40):
            gate.release()

    timer = threading.Timer(0.3, lambda: (seen.append(len(ahead)), free()))
    seen = []
    timer.start()
    plan = Plan(Acting(src, lambda op, number: None), Acting(dst, act), backlog=backlog, transfers=2)
    run(plan, listeners=[listen])
    timer.join()
    assert seen[0] <= backlog + 2, "planning waits while transfers do"
    assert len(held(dst)) == 40


def test_go_p5_transfers_run_side_by_side():
    src, dst = fill(memory(), *(f"f{n}" for n in range(8))), memory()
    barrier = threading.Barrier(4, timeout=30)

    def act(op, number):
        if op == "open_writer":
            barrier.wait()

    sync(src, Acting(dst, act), transfers=4)
    assert len(held(dst)) == 8


def test_go_p5_deletes_run_side_by_side():
    src, dst = fill(memory(), "a"), fill(memory(), "a", *(f"x{n}" for n in range(8)))
    barrier = threading.Barrier(4, timeout=30)

    def act(op, number):
        if op == "delete":
            barrier.wait()

    assert sync(src, Acting(dst, act), transfers=4, **ALL).deleted == 8


def test_go_p5_checks_read_side_by_side():
    from omnistorage.sync import check

    names = [f"f{n}" for n in range(8)]
    src, dst = fill(memory(), *names), fill(memory(), *names)
    barrier = threading.Barrier(4, timeout=30)

    def act(op, number):
        if op == "open_reader":
            barrier.wait()

    assert check(Acting(src, act), dst, download=True, checkers=4).in_sync


def test_go_p5_transfers_begin_while_the_listing_still_runs():
    src = fill(memory(dirs=False), *(f"f{n}" for n in range(4)))
    begun = threading.Event()

    class Waiting(MemoryBackend):
        def _list(self, prefix, options):
            for info in super()._list(prefix, options):
                if info.path == "f3":
                    assert begun.wait(30), "no transfer before the listing has ended"
                yield info

    src.__class__ = Waiting
    dst = Acting(memory(), lambda op, number: begun.set() if op == "open_writer" else None)
    assert sync(src, dst).copied == 4


# --- events -----------------------------------------------------------------------------------------------------------


def test_go_p7_events_come_one_at_a_time_and_add_up_under_errors():
    src, dst = memory(), memory()
    for number in range(40):
        put(src, f"f{number:02}", b"x" * (number * 1_000))
    inside, second, said = threading.Lock(), threading.Event(), []

    def listen(event):
        if not inside.acquire(blocking=False):
            second.set()
            raise AssertionError("two at a time")
        if len(said) == 20:
            assert not second.wait(0.2), "two at a time"  # while the other threads have events to send
        said.append(event)
        inside.release()

    report = sync(failing(src, "open_reader", 7), dst, listeners=[listen], raise_errors=False, transfers=4)
    done = [event for event in said if event.kind == "done"]
    assert (report.copied, report.failed, len(done)) == (39, 1, 39)
    assert sum(event.size for event in done) == report.bytes == sum(len(data) for data in held(dst).values())
    bytes_of = {}
    for event in said:
        if event.kind == "bytes":
            bytes_of[event.path] = bytes_of.get(event.path, 0) + event.size
    assert all(bytes_of.get(event.path, 0) == event.size for event in done)
    assert said[-1].kind == "summary"
    assert said[-1].size == report.bytes


def test_go_p7_the_bytes_of_a_large_file_are_told_as_they_come():
    src, said = memory(), []
    put(src, "f", b"x" * 5 * MIB)
    go(Acting(src, lambda op, number: None), memory(), listeners=[said.append])
    assert len([event for event in said if event.kind == "bytes"]) >= 5


def test_the_outcome_that_is_predicted_is_what_a_fresh_listing_shows():
    src, dst = fill(memory(), "a", "b", "d/c", at=4), fill(memory(), "b", "x", "d/y")
    predicted = set(held(dst))
    for kind, path in planned(src, dst, **ALL):
        predicted = predicted - {path} if kind == "delete" else predicted | {path}
    go(src, dst, **ALL)
    assert {info.path for info in dst.list()} == predicted


# --- renames ----------------------------------------------------------------------------------------------------------


def test_track_renames_renames_instead_of_copying():
    src, dst = memory(), memory()
    put(src, "new/name", b"the very same", at=3)
    put(src, "other", b"another", at=4)
    put(dst, "old/name", b"the very same", at=3)
    for strategy in ("modtime", "modtime,leaf", "hash", "hash,modtime,leaf"):
        copied = memory()
        for path, found in dst._objects.items():
            put(copied, path, found.data, at=3)
        settings = {"track_renames": strategy, "checksum": "strict" if "hash" in strategy else False}
        assert ("rename", "new/name") in planned(src, copied, **ALL, **settings)
        report = go(src, copied, **ALL, **settings)
        assert held(copied) == held(src)
        assert (report.renamed, report.copied, report.deleted) == (1, 1, 0)


def test_track_renames_takes_only_what_is_the_same():
    src, dst = memory(), memory()
    put(src, "new", b"this one", at=3)
    put(dst, "old", b"that one", at=5)
    assert {kind for kind, _ in planned(src, dst, track_renames="modtime", **ALL)} == {"copy", "delete"}
    put(dst, "old", b"that one", at=3)
    assert {kind for kind, _ in planned(src, dst, track_renames="modtime,leaf", **ALL)} == {"copy", "delete"}
    assert {kind for kind, _ in planned(src, dst, track_renames="hash", checksum="strict", **ALL)} == {
        "copy",
        "delete",
    }


def test_after_a_listing_error_nothing_is_renamed():
    from .stores import Locked

    src, dst = fill(memory(Locked), "a", "locked/x"), memory()
    put(src, "new", b"the same", at=3)
    put(dst, "old", b"the same", at=3)
    report = go(src, dst, raise_errors=False, track_renames="modtime", **ALL)
    assert report.renamed == 0
    assert "old" in held(dst)


# --- no_traverse ------------------------------------------------------------------------------------------------------


def test_no_traverse_asks_for_each_object_and_never_lists_the_destination():
    src, dst = fill(memory(), "a", "b", "d/c", at=1), fill(memory(), "a", *(f"x{n}" for n in range(50)), at=1)
    put(dst, "b", b"other", at=0)
    watched = Acting(dst, lambda op, number: None)
    report = go(src, watched, no_traverse=True)
    assert (report.copied, report.updated, report.equal) == (1, 1, 1)
    assert not {"list", "list_dir"} & set(watched.log)
    assert watched.log.count("stat") <= 5
    assert {path: data for path, data in held(dst).items() if path in held(src)} == held(src)


def test_no_traverse_and_deleting_contradict_each_other():
    with pytest.raises(ConfigError, match="no_traverse"):
        SyncOptions(no_traverse=True, delete=True)


def test_what_cannot_be_asked_for_is_not_overwritten():
    src, dst = fill(memory(), "a"), fill(memory(), a=b"precious")
    report = go(src, failing(dst, "stat", None), no_traverse=True, raise_errors=False)
    assert held(dst) == {"a": b"precious"}
    assert not report.ok


# --- moves ------------------------------------------------------------------------------------------------------------


def test_a_move_takes_from_the_source_what_the_destination_has():
    src, dst = fill(memory(), "new", "same", "d/deep"), fill(memory(), "same", "only")
    put(src, "changed", b"now", at=5)
    put(dst, "changed", b"before")
    report = go(src, dst, move=True)
    assert held(src) == {}
    assert set(held(dst)) == {"new", "same", "d/deep", "changed", "only"}
    assert held(dst)["changed"] == b"now"
    assert report.removed == 4


def test_a_filtered_source_is_not_moved():
    src, dst = fill(memory(), "a", "b.tmp"), memory()
    go(src, dst, move=True, filter=Filter.parse(["- *.tmp"]))
    assert (set(held(src)), set(held(dst))) == ({"b.tmp"}, {"a"})


# --- one file, prefixes -----------------------------------------------------------------------------------------------


def test_go_w9_a_single_file_is_copied_whatever_lies_beside_it():
    for dirs in (True, False):
        src, dst = fill(memory(dirs=dirs), "a.txt", "a.txt.bak", "a.txtra", "a/txt"), memory()
        assert copy_file(src, "a.txt", dst, "b.txt").copied == 1
        assert held(dst) == {"b.txt": b"data of a.txt"}
        move_file(src, "a.txt", dst, "c/d.txt")
        assert held(dst) == {"b.txt": b"data of a.txt", "c/d.txt": b"data of a.txt"}
        assert set(held(src)) == {"a.txt.bak", "a.txtra", "a/txt"}
        with pytest.raises(NotFound):
            copy_file(src, "a.txt", dst, "b.txt")


def test_go_w13_what_cannot_be_asked_for_is_refused_before_the_destination_is_opened():
    src, dst = fill(memory(), a=b"new"), fill(memory(), a=b"old")
    for bad in ({"checksum": "md17"}, {"compare": "md17"}, {"bwlimit": "x"}, {"max_delete": "all"}):
        with pytest.raises(ConfigError):
            copy_file(src, "a", dst, "a", **bad)
    assert held(dst) == {"a": b"old"}


def test_go_w13_a_copied_file_is_verified():
    class Rotten(MemoryBackend):
        def _put(self, path, data, options, op):
            return super()._put(path, data[:-1], options, op)

    dst = memory(Rotten)
    assert copy_file(fill(memory(), "a"), "a", dst, "a", raise_errors=False).failed == 1
    assert dst._objects == {}


def test_go_w8_a_prefix_is_a_folder_and_never_the_beginning_of_a_name():
    for make in (memory, lambda: memory(dirs=False)):
        src, dst = fill(make(), "data/x", "database/y", "data.old/z", "data"[:3]), fill(make(), "to/keep", "tool/keep")
        go(Prefix(src, "data"), Prefix(dst, "to"), **ALL)
        assert set(held(dst)) == {"to/x", "tool/keep"}


def test_go_w8_a_local_path_is_the_same_place_however_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "data" / "d").mkdir(parents=True)
    (tmp_path / "database").mkdir()
    (tmp_path / "data" / "d" / "x").write_bytes(b"1")
    (tmp_path / "database" / "y").write_bytes(b"2")
    monkeypatch.chdir(tmp_path)
    for place in ("./data/", "data", str(tmp_path / "data"), "data/d/..", tmp_path / "data"):
        dst = memory()
        sync(place, dst)
        assert held(dst) == {"d/x": b"1"}, place


def test_go_f11_lists_of_all_kinds_sync_the_same():
    """A folder's name, with and without a slash, trees and flat keys, empty folders: one meaning."""
    names = ["a", "a-b", "d/x", "d/e/y", "d.x", "z"]
    for source in (memory(), memory(dirs=False)):
        fill(source, *(f"root/{name}" for name in names), "rooty", "root-2/x")
        for target in (memory(), memory(dirs=False)):
            go(Prefix(source, "root"), Prefix(target, "there/inner"))
            assert set(held(target)) == {f"there/inner/{name}" for name in names}
            assert planned(Prefix(source, "root"), Prefix(target, "there/inner"), **ALL) == []


# --- everything fails once --------------------------------------------------------------------------------------------


def world(make_src, make_dst):
    src, dst = make_src(), make_dst()
    fill(src, "a", "d/b", "same", at=4)
    put(src, "changed", b"now, and longer", at=5)
    fill(dst, "same", at=4)
    fill(dst, "x", "d/y")
    put(dst, "changed", b"before")
    return src, dst


SETTINGS = {
    "plain": ALL,
    "move": {"move": True},
    "backup": {**ALL, "suffix": ".old"},
    "checksum": {**ALL, "checksum": "strict"},
    "renames": {**ALL, "track_renames": "modtime"},
}
PAIRS = {
    "trees": (memory, memory),
    "blind": (blind, blind),
    "to a bucket": (memory, bucket),
    "from a bucket": (lambda: memory(dirs=False), memory),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_goal_37_interrupted_at_any_call_the_next_run_ends_in_the_same_state(settings, pair):
    more = SETTINGS[settings]
    src, dst = world(*PAIRS[pair])
    go(src, dst, **more)
    wanted, points = held(dst), 0
    for role in (0, 1):
        for lost in (False, True):  # before the store sees the call, or on its answer's way back
            number = 0
            while True:
                number += 1
                sides = list(world(*PAIRS[pair]))
                plain = list(sides)
                sides[role] = Once(sides[role], number, lost)
                try:
                    go(*sides, raise_errors=False, retries=0, **more)
                except (BackendUnavailable, OutcomeUnknown):
                    pass
                if not sides[role].fired:
                    break
                points += 1
                for path, data in held(plain[1]).items():
                    assert data in world_contents(), (number, path)
                report = go(*plain, **more)
                assert report.ok
                found = {path: data for path, data in held(plain[1]).items() if not path.endswith(".old")}
                assert found == {path: data for path, data in wanted.items() if not path.endswith(".old")}, number
                assert planned(*plain, **more) == [] or more.get("move"), number
    assert points > 30


def world_contents():
    return {f"data of {name}".encode() for name in ("a", "d/b", "same", "x", "d/y")} | {b"now, and longer", b"before"}


class Once(Acting):
    """Call ``at`` fails; with ``lost`` after the store has done it."""

    def __init__(self, inner, at, lost):
        super().__init__(inner, lambda op, number: None)
        self.at, self.lost, self.fired = at, lost, False

    def _call(self, op, run):
        if self.calls + 1 != self.at:
            return super()._call(op, run)
        self.calls += 1
        self.fired = True
        if self.lost:
            made = run()
            if op.startswith("open_"):
                getattr(made, "abort", made.close)()
            raise OutcomeUnknown("the answer was lost (injected)")
        raise BackendUnavailable("injected")


def test_an_exception_from_outside_ends_the_run_and_publishes_nothing_half():
    src, dst = memory(), memory()
    put(src, "f", b"x" * 3 * MIB)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(meanwhile(src, "read", interrupt, 2), dst)
    assert held(dst) == {}


def test_a_failing_listener_ends_the_run():
    def listen(event):
        raise RuntimeError("the display broke")

    with pytest.raises(RuntimeError):
        go(fill(memory(), "a"), memory(), listeners=[listen])


def test_any_executor_of_threads_serves():
    src, dst = fill(memory(), *(f"f{n}" for n in range(20))), memory()
    with ThreadPoolExecutor(3) as pool:
        assert sync(src, dst, executor=pool).copied == 20
        pool.submit(int).result()
    assert len(held(dst)) == 20


def test_a_run_asks_before_each_change_if_it_is_told_to():
    src, dst = fill(memory(), "a", "b"), fill(memory(), "x", "y")
    asked = []

    def confirm(action):
        asked.append((action.kind, action.path))
        return action.path in ("a", "x")

    report = run(Plan(src, dst, **ALL), Inline(), confirm=confirm)
    assert asked == [("copy", "a"), ("copy", "b"), ("delete", "x"), ("delete", "y")]
    assert set(held(dst)) == {"a", "y"}
    assert report.skipped == 2


def test_local_folders_keep_times_of_files(tmp_path):
    src, dst = fill(memory(), "a", "d/b", at=3), LocalBackend(tmp_path)
    go(src, dst)
    assert {info.modified_at for info in ops.walk(dst)} == {day(3)}
    assert planned(src, dst) == []
    assert errors(go(src, dst)) == {}
