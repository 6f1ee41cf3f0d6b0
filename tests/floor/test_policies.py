"""Retries, rates, deadlines, cancellation and quorums, on a clock that only moves when told to."""

import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage.concurrency.cancellation import CancelScope, check, deadline, pause, remaining
from omnistorage.concurrency.quorum import Quorum
from omnistorage.concurrency.rate_limit import TokenBucket
from omnistorage.concurrency.retry import Backoff, RequestPolicy, RetryBudget, retrying
from omnistorage.errors import (
    BackendUnavailable,
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    NotFound,
    OutcomeUnknown,
    StorageError,
)

from ..waiting import LIMIT


class FakeClock:
    def __init__(self):
        self.time = 1000.0
        self.waits = []

    def now(self):
        return self.time

    def wait(self, seconds, wake):
        self.waits.append(seconds)
        self.time += seconds


class Failing:
    """Raises each error in turn, then answers."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def policy(**settings):
    clock = settings.pop("clock", FakeClock())
    return RequestPolicy(clock=clock, backoff=Backoff(draw=lambda: 1.0), **settings), clock


def test_a_transient_error_is_tried_again_with_growing_waits():
    run, clock = policy(retries=5)
    call = Failing(*[BackendUnavailable("down")] * 4)
    assert run.run("stat", call) == "answer"
    assert clock.waits == [0.2, 0.4, 0.8, 1.6]


def test_the_last_error_is_raised_when_the_retries_are_used_up():
    run, _ = policy(retries=2)
    call = Failing(*[BackendUnavailable(f"down {n}") for n in range(9)])
    with pytest.raises(BackendUnavailable, match="down 2"):
        run.run("stat", call)
    assert call.calls == 3


def test_a_permanent_error_is_never_tried_again():
    run, clock = policy()
    call = Failing(NotFound("gone"))
    with pytest.raises(NotFound):
        run.run("stat", call)
    assert (call.calls, clock.waits) == (1, [])


def test_the_stores_own_waiting_time_is_kept():
    run, clock = policy()
    run.run("stat", Failing(BackendUnavailable("slow down", retry_after=30.0)))
    assert clock.waits == [30.0]


def test_a_lost_answer_of_a_request_that_is_not_idempotent_is_an_unknown_outcome():
    run, _ = policy()
    call = Failing(BackendUnavailable("connection reset"))
    with pytest.raises(OutcomeUnknown) as caught:
        run.run("append", call, idempotent=False, path="x")
    assert call.calls == 1
    assert caught.value.path == "x"
    assert isinstance(caught.value.__cause__, BackendUnavailable)


def test_a_request_that_the_store_turned_away_may_be_sent_again():
    run, _ = policy()
    call = Failing(BackendUnavailable("slow down", retry_after=1.0))
    assert run.run("append", call, idempotent=False) == "answer"


def test_an_unknown_outcome_is_never_replayed():
    run, _ = policy()
    call = Failing(OutcomeUnknown("who knows", transient=True))
    with pytest.raises(OutcomeUnknown):
        run.run("put", call)
    assert call.calls == 1


def test_goal_25_amplification_under_total_outage_is_bounded():
    clock = FakeClock()
    sent = 0

    def call():
        nonlocal sent
        sent += 1
        raise BackendUnavailable("down")

    run = RequestPolicy(clock=clock, budget=RetryBudget(ratio=0.1, reserve=10))
    requests = 10_000
    for _ in range(requests):
        with pytest.raises(BackendUnavailable):
            run.run("get", call)
    assert sent <= 1.1 * requests + 10


def test_jitter_is_full():
    draws = [Backoff(base=1.0, cap=8.0).delay(4) for _ in range(2000)]
    assert min(draws) < 0.5
    assert max(draws) > 7.5
    assert max(draws) <= 8.0
    assert Backoff(base=1.0, cap=8.0, draw=lambda: 1.0).delay(500) == 8.0


@given(
    rate=st.floats(0.001, 1e9),
    sizes=st.lists(st.integers(1, 10_000_000), min_size=1, max_size=40),
)
def test_go_p1_p2_any_rate_and_any_size_come_out_exact(rate, sizes):
    clock = FakeClock()
    bucket = TokenBucket(rate, clock=clock)
    for size in sizes:
        bucket.take(size)
    elapsed = clock.time - 1000.0
    exact = (sum(sizes) - bucket.burst) / rate
    assert elapsed == pytest.approx(max(exact, 0.0), rel=1e-6, abs=1e-6)


def test_a_pause_long_enough_fills_the_bucket_and_no_more():
    clock = FakeClock()
    bucket = TokenBucket(100, burst=50, clock=clock)
    bucket.take(50)
    clock.time += 3600
    assert bucket.reserve(50) == 0
    assert bucket.reserve(1) == pytest.approx(0.01)


def test_a_cancelled_taker_gives_its_tokens_back():
    bucket = TokenBucket(1, burst=0, clock=FakeClock())
    with CancelScope() as scope:
        scope.cancel()
        with pytest.raises(Cancelled):
            bucket.take(1000)
    assert bucket.reserve(1) <= 1


def test_a_rate_above_zero_is_asked_for():
    for rate in (0, -1, float("nan")):
        with pytest.raises(ConfigError):
            TokenBucket(rate)


def test_requests_and_bytes_have_their_own_gates():
    clock = FakeClock()
    run = RequestPolicy(
        clock=clock, requests=TokenBucket(10, burst=1, clock=clock), bandwidth=TokenBucket(100, burst=0, clock=clock)
    )
    for _ in range(11):
        run.run("get", lambda: None)
    assert clock.time - 1000.0 == pytest.approx(1.0)
    run.throttle(50)
    assert clock.time - 1000.0 == pytest.approx(1.5)


def test_a_deadline_stops_the_next_request_and_a_wait_that_would_pass_it():
    clock = FakeClock()
    run, _ = policy(clock=clock)
    with deadline(10, clock):
        assert remaining() == 10
        with pytest.raises(DeadlineExceeded, match="would pass"):
            run.run("get", Failing(BackendUnavailable("down", retry_after=11)))
        clock.time += 10
        with pytest.raises(DeadlineExceeded):
            run.run("get", Failing())
        with pytest.raises(TimeoutError):
            check()
    assert remaining() is None
    assert run.run("get", Failing()) == "answer"


def test_the_earlier_of_two_deadlines_holds():
    clock = FakeClock()
    with deadline(5, clock), deadline(100, clock):
        assert remaining() == 5
    with deadline(100, clock), deadline(5, clock):
        assert remaining() == 5


def test_cancel_ends_a_wait_in_another_thread():
    started, outcome = threading.Event(), []

    class Watch:
        def now(self):
            return 0.0

        def wait(self, seconds, wake):
            started.set()
            assert wake.wait(LIMIT), "nobody woke us"

    with CancelScope() as outer:

        def run():
            with outer_context(outer), CancelScope():
                try:
                    pause(3600, Watch())
                except Cancelled:
                    outcome.append("cancelled")

        thread = threading.Thread(target=run)
        thread.start()
        assert started.wait(LIMIT)
        outer.cancel()
        thread.join(LIMIT)
    assert outcome == ["cancelled"]


def outer_context(scope):
    """The scope as the surroundings of another thread's work: what copying the context does."""
    from contextlib import contextmanager

    from omnistorage.concurrency.cancellation import _SCOPES

    @contextmanager
    def inside():
        token = _SCOPES.set((scope,))
        try:
            yield
        finally:
            _SCOPES.reset(token)

    return inside()


def test_an_inner_scope_does_not_cancel_the_outer_one():
    with CancelScope() as outer:
        with CancelScope() as inner:
            inner.cancel()
            with pytest.raises(Cancelled):
                check()
        check()
        assert not outer.cancelled


@given(
    st.integers(1, 7).flatmap(
        lambda n: st.tuples(
            st.just(n), st.integers(1, n), st.lists(st.tuples(st.integers(0, n - 1), st.booleans()), max_size=20)
        )
    )
)
def test_a_quorum_counts_configured_targets(case):
    of, needed, notes = case
    quorum, failed, good = Quorum(needed, of), set(), set()
    for target, ok in notes:
        quorum.note(target, ok)
        (good if ok else failed).add(target)
    assert quorum.met == (len(good - failed) >= needed)
    assert quorum.lost == (of - len(failed) < needed)
    assert not (quorum.met and quorum.lost)


def test_a_quorum_that_cannot_be_is_refused():
    for needed, of in ((0, 3), (4, 3)):
        with pytest.raises(ConfigError):
            Quorum(needed, of)


def test_policies_pickle():
    for value in (RequestPolicy(requests=TokenBucket(5)), Backoff(), RetryBudget(0.2, 3)):
        assert type(pickle.loads(pickle.dumps(value))) is type(value)


def test_every_error_here_is_ours():
    assert issubclass(Cancelled, StorageError)
    assert issubclass(DeadlineExceeded, TimeoutError)


@pytest.mark.parametrize(("down", "seconds", "done"), [(45, 60, True), (90, 60, False), (1, 0, False)])
def test_what_is_retried_for_a_time_outlasts_the_retries_and_the_budget(down, seconds, done):
    clock = FakeClock()
    began = clock.now()
    policy = RequestPolicy(retries=1, backoff=Backoff(base=1.0, cap=5.0), budget=RetryBudget(0, 0), clock=clock)

    def call():
        if clock.now() < began + down:
            raise BackendUnavailable("down")
        return "up"

    with retrying(seconds):
        if done:
            assert policy.run("write", call) == "up"
            return
        with pytest.raises(BackendUnavailable):
            policy.run("write", call)
    assert seconds <= clock.now() - began < seconds + 5
    with pytest.raises(BackendUnavailable):
        policy.run("write", call)
    assert clock.now() - began < seconds + 10, "outside of the block the policy counts alone"


def test_a_deadline_ends_what_is_retried_for_a_time():
    clock = FakeClock()

    def call():
        raise BackendUnavailable("down")

    with retrying(60), deadline(10, clock), pytest.raises(DeadlineExceeded):
        RequestPolicy(clock=clock).run("write", call)
    assert clock.now() <= 1010
