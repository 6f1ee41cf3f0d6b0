"""Limits of a run, the order of its transfers, its events."""

import threading

import pytest

from omnistorage import MemoryBackend
from omnistorage.sync import Plan, run, sync

from ..waiting import LIMIT
from .simulation import VirtualClock
from .stores import (
    Acting,
    failing,
    fill,
    go,
    held,
    memory,
    planned,
    put,
)
from .transfer_world import ALL, MIB

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
    barrier = threading.Barrier(4, timeout=LIMIT)

    def act(op, number):
        if op == "open_writer":
            barrier.wait()

    sync(src, Acting(dst, act), transfers=4)
    assert len(held(dst)) == 8


def test_go_p5_deletes_run_side_by_side():
    src, dst = fill(memory(), "a"), fill(memory(), "a", *(f"x{n}" for n in range(8)))
    barrier = threading.Barrier(4, timeout=LIMIT)

    def act(op, number):
        if op == "delete":
            barrier.wait()

    assert sync(src, Acting(dst, act), transfers=4, **ALL).deleted == 8


def test_go_p5_checks_read_side_by_side():
    from omnistorage.sync import check

    names = [f"f{n}" for n in range(8)]
    src, dst = fill(memory(), *names), fill(memory(), *names)
    barrier = threading.Barrier(4, timeout=LIMIT)

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
                    assert begun.wait(LIMIT), "no transfer before the listing has ended"
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
            assert not second.wait(0.05), "two at a time"  # while the other threads have events to send
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
