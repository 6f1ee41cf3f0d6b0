"""What a scope and a deadline hold for: several threads, blocks in blocks, work in the background, taking back."""

import threading

import pytest

from omnistorage import Cancelled, DeadlineExceeded
from omnistorage.concurrency.cancellation import CancelScope, Clock, check, deadline, remaining
from omnistorage.concurrency.in_flight import GRACE, taking_back
from omnistorage.concurrency.pools import IO, Ahead, Strand

from ..waiting import LIMIT


class Turned(Clock):
    """Stands still until it is turned on."""

    time = 0.0

    def now(self):
        return self.time


def test_a_scope_may_be_entered_again_inside_of_itself():
    with CancelScope() as scope:
        with scope:
            check()
            assert not scope.cancelled
        check()
        scope.cancel()
        with pytest.raises(Cancelled), scope:
            check()
    check()


def test_several_threads_may_enter_one_scope():
    scope, inside, go, ended = CancelScope(), threading.Event(), threading.Event(), []

    def work():
        with scope:
            inside.set()
            go.wait(LIMIT)
            try:
                check()
            except Cancelled as error:
                ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(LIMIT)
    with scope:
        pass
    check()
    scope.cancel()
    go.set()
    thread.join(LIMIT)
    assert len(ended) == 1


def test_a_scope_around_another_one_ends_it_in_its_own_thread_alone():
    with CancelScope() as outer, CancelScope() as inner:
        outer.cancel()
        assert inner.cancelled
        with pytest.raises(Cancelled):
            check()


def test_what_is_taken_back_in_time_ends_with_the_deadline():
    with deadline(30.0, Turned()):
        assert taking_back(remaining) == 30.0


def test_what_is_taken_back_is_tried_again_if_it_is_ended_meanwhile():
    tries = []

    def call():
        tries.append(remaining())
        scope.cancel()
        check()
        return "done"

    with CancelScope() as scope:
        assert taking_back(call) == "done"
    assert tries[0] is None
    assert tries[1] == pytest.approx(GRACE, abs=GRACE)


def test_a_generator_that_leaves_its_scope_late_takes_no_other_one_along():
    def inside():
        with CancelScope():
            yield

    generator = inside()
    next(generator)
    with CancelScope() as scope:
        list(generator)
        scope.cancel()
        with pytest.raises(Cancelled):
            check()
    check()


# -- work in the background --------------------------------------------------------------------------------------------


def test_a_deadline_ends_waiting_for_a_step_that_hangs():
    clock, go = Turned(), threading.Event()
    strand = Strand(IO, lambda item: go.wait(LIMIT), 1)
    strand.put(1)
    with pytest.raises(DeadlineExceeded), deadline(30.0, clock):
        clock.time = 60.0
        strand.join()
    with pytest.raises(Cancelled), CancelScope() as scope:
        scope.cancel()
        strand.put(2)
        strand.put(3)
    go.set()


def test_a_step_is_ended_by_the_scope_of_its_own_put():
    begun, go, done = threading.Event(), threading.Event(), []

    def step(item):
        if item == 1:
            begun.set()
            go.wait(LIMIT)
        else:
            check()
        done.append(item)

    strand = Strand(IO, step, 2)
    with CancelScope() as scope:
        strand.put(1)
    assert begun.wait(LIMIT)
    scope.cancel()
    strand.put(2)
    go.set()
    strand.join()
    assert done == [1, 2]


def test_reading_ahead_is_not_ended_by_the_scope_of_an_earlier_read():
    begun, go, numbers = threading.Event(), threading.Event(), iter(range(3))

    def produce():
        number = next(numbers, None)
        if number == 1:
            begun.set()
            go.wait(LIMIT)
        check()
        return number

    ahead = Ahead(IO, produce, 2)
    with CancelScope() as scope:
        assert ahead.next() == 0
        assert begun.wait(LIMIT)
        scope.cancel()
        with pytest.raises(Cancelled):
            ahead.next()
    go.set()
    assert [ahead.next(), ahead.next(), ahead.next()] == [1, 2, None]


def test_items_that_are_there_are_not_given_after_the_end():
    ahead = Ahead(IO, iter(range(9)).__next__, 2)
    assert ahead.next() == 0
    with CancelScope() as scope, pytest.raises(Cancelled):
        scope.cancel()
        ahead.next()
    assert ahead.next() == 1
