"""Strands: order, bounds, errors, no thread of their own, and no thread where none is free."""

import _thread
import gc
import os
import signal
import threading
import weakref

import pytest

from omnistorage.concurrency.cancellation import wait_for
from omnistorage.concurrency.pools import Ahead, Pool, Strand
from omnistorage.errors import Cancelled

from ..waiting import LIMIT


def test_items_are_done_in_order_and_never_two_at_once():
    done, inside = [], []

    def step(item):
        inside.append(item)
        assert len(inside) == 1
        done.append(item)
        inside.clear()

    strand = Strand(Pool(4, "t"), step, depth=3)
    for n in range(2000):
        strand.put(n)
    strand.join()
    assert done == list(range(2000))


def test_put_blocks_when_enough_waits():
    gate, entered = threading.Event(), threading.Event()

    def step(item):
        entered.set()
        gate.wait(LIMIT)

    strand = Strand(Pool(1, "t"), step, depth=2)
    for n in range(3):
        strand.put(n)
    assert entered.wait(LIMIT)
    blocked = threading.Thread(target=strand.put, args=(3,), daemon=True)
    blocked.start()
    blocked.join(0.05)
    assert blocked.is_alive()
    gate.set()
    blocked.join(LIMIT)
    assert not blocked.is_alive()
    strand.join()


def test_the_caller_runs_the_step_when_no_thread_is_free():
    seen = []
    strand = Strand(Pool(0, "t"), lambda item: seen.append((item, threading.current_thread())), depth=1)
    for n in range(5):
        strand.put(n)
    strand.join()
    assert seen == [(n, threading.current_thread()) for n in range(5)]
    numbers = iter(range(5))
    ahead = Ahead(Pool(0, "t"), lambda: next(numbers, None), depth=2)
    assert [ahead.next() for _ in range(7)] == [0, 1, 2, 3, 4, None, None]


def test_a_thousand_strands_share_a_few_threads():
    pool = Pool(2, "t")
    totals = [0] * 1000

    def add(at):
        totals[at] += 1

    strands = [Strand(pool, lambda item, at=at: add(at), depth=2) for at in range(1000)]
    for _ in range(5):
        for strand in strands:
            strand.put(None)
    for strand in strands:
        strand.join()
    assert totals == [5] * 1000
    assert pool.threads <= 2


def test_an_error_ends_the_strand_and_is_raised_by_put_and_join():
    done = []

    def step(item):
        if item == 3:
            raise KeyError("three")
        done.append(item)

    strand = Strand(Pool(0, "t"), step, depth=2)
    for n in range(4):
        strand.put(n)
    for call in (lambda: strand.put(9), strand.join, strand.join):
        with pytest.raises(KeyError, match="three"):
            call()
    assert done == [0, 1, 2]


def test_cancel_drops_what_waits():
    gate, entered, done = threading.Event(), threading.Event(), []

    def step(item):
        entered.set()
        gate.wait(LIMIT)
        done.append(item)

    strand = Strand(Pool(1, "t"), step, depth=5)
    for n in range(4):
        strand.put(n)
    assert entered.wait(LIMIT)
    strand.cancel()
    gate.set()
    for call in (strand.join, lambda: strand.put(9), strand.join):
        with pytest.raises(Cancelled):
            call()
    assert done == [0]


def test_a_thread_that_cannot_be_started_costs_nobody_elses_task(monkeypatch):
    """The first start fails while another task is queued behind it: each task runs once, by whom it was promised."""
    pool, ran = Pool(2, "t"), []
    real = threading.Thread.start
    starts = []

    def start(thread):
        starts.append(thread)
        if len(starts) == 1:
            monkeypatch.setattr(threading.Thread, "start", real)
            assert pool.spawn(lambda: (ran.append("B"), done.set()))
            raise RuntimeError("can't start new thread")
        real(thread)

    done = threading.Event()
    monkeypatch.setattr(threading.Thread, "start", start)
    taken = pool.spawn(lambda: ran.append("A"))
    assert done.wait(LIMIT)
    if not taken:
        ran.append("A")
    assert sorted(ran) == ["A", "B"]


def test_an_interrupt_in_a_step_that_the_caller_runs_reaches_the_caller():
    def step(item):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Strand(Pool(0, "t"), step, depth=1).put(1)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_ahead_yields_everything_in_order_and_then_none(threads):
    numbers = iter(range(1000))
    ahead = Ahead(Pool(threads, "t"), lambda: next(numbers, None), depth=3)
    assert [ahead.next() for _ in range(1000)] == list(range(1000))
    assert ahead.next() is None
    assert ahead.next() is None


@pytest.mark.parametrize("threads", [0, 2])
def test_ahead_raises_behind_the_items_that_came_before(threads):
    numbers = iter(range(5))

    def produce():
        n = next(numbers)
        if n == 3:
            raise KeyError("three")
        return n

    ahead = Ahead(Pool(threads, "t"), produce, depth=2)
    assert [ahead.next() for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(KeyError, match="three"):
            ahead.next()


def test_ahead_makes_no_more_than_its_depth():
    made = []
    full = threading.Event()

    def produce():
        made.append(len(made))
        if len(made) == 3:
            full.set()
        return len(made)

    ahead = Ahead(Pool(1, "t"), produce, depth=3)
    assert ahead.next() == 1
    assert full.wait(LIMIT)
    ahead.cancel()
    assert len(made) <= 5


def test_no_thread_keeps_a_finished_strand_alive():
    class Owner:
        def step(self, item):
            pass

    owner = Owner()
    strand = Strand(Pool(1, "t"), owner.step, depth=1)
    strand.put(1)
    strand.join()
    gone = weakref.ref(owner)
    del owner, strand
    for _ in range(1000):  # the pool's thread lets go of its task a moment after the strand is idle
        gc.collect()
        if gone() is None:
            break
    assert gone() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_working_pools():
    from omnistorage.concurrency.pools import CPU, forks

    strand = Strand(CPU, lambda item: None, depth=1)
    for n in range(10):
        strand.put(n)
    strand.join()
    before = forks[0]
    child = os.fork()
    if child == 0:
        verdict = 1
        try:
            seen = []
            fresh = Strand(CPU, seen.append, depth=2)
            for n in range(10):
                fresh.put(n)
            fresh.join()
            verdict = 0 if seen == list(range(10)) and forks[0] == before + 1 else 1
        finally:
            os._exit(verdict)
    assert os.waitpid(child, 0)[1] == 0


def test_a_signal_that_comes_just_before_the_main_thread_waits_is_heard():
    """``interrupt_main`` notes a signal and wakes nobody, as one does that comes just before the wait."""
    heard, changed = [], threading.Condition()

    def signal_the_main_thread():
        with changed:  # free once the main thread waits
            _thread.interrupt_main(signal.SIGUSR1)

    other = threading.Thread(target=signal_the_main_thread)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with changed:
            other.start()
            assert wait_for(changed, lambda: heard, LIMIT)
    finally:
        signal.signal(signal.SIGUSR1, before)
    other.join()


def test_a_wait_ends_after_its_seconds():
    changed = threading.Condition()
    with changed:
        assert not wait_for(changed, lambda: False, 0.01)
        assert not wait_for(changed, lambda: False, 0)
