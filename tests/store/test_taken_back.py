"""What is taken back although the call was cancelled meanwhile: bad copies, locks; and how a fan-out tells of it."""

import threading
from datetime import timedelta

import pytest

from omnistorage import Cancelled, MemoryBackend, MultiWriter, OutcomeUnknown, RollingRecordWriter
from omnistorage.concurrency.cancellation import CancelScope, Waiter, wait
from omnistorage.delivery.dataset.layout import LOCK, Place
from omnistorage.delivery.verified_sink import take_back as take_back_object
from omnistorage.ops import write_bytes
from omnistorage.ops.copying import take_back
from omnistorage.sync.endpoint import Side
from omnistorage.sync.two_way.state import Lock
from omnistorage.testing.faults import Faulty

from ..waiting import LIMIT


@pytest.fixture
def over():
    with CancelScope() as scope:
        yield scope


@pytest.mark.parametrize("remove", [take_back, take_back_object])
def test_a_bad_copy_is_removed_after_a_cancellation(over, remove):
    store = MemoryBackend()
    info = write_bytes(store, "x", b"bad")
    over.cancel()
    assert remove(store, "x", info)
    assert not store._objects


def test_the_lock_of_a_bisync_is_released_after_a_cancellation(over):
    store = MemoryBackend()
    lock = Lock(Side(store, "state"), timedelta(minutes=5))
    lock.acquire()
    over.cancel()
    lock.release()
    assert not store._objects


@pytest.mark.parametrize("fails", [False, True])
def test_the_lock_of_a_data_set_is_released_after_a_cancellation(over, fails):
    store = MemoryBackend()
    place = Place(store, "set")
    try:
        with place._locked(None):
            assert f"set/{LOCK}" in store._objects
            over.cancel()
            if fails:
                raise Cancelled("in between")
    except Cancelled:
        assert fails
    assert not store._objects


class Slow(Faulty):
    """Publishes, and then does not answer before ``scope`` is cancelled, which it does itself."""

    scope = None

    def _writer(self, writer, path):
        writer = super()._writer(writer, path)
        close = writer.close

        def slow():
            info = close()
            self.scope.cancel()
            wait(Waiter())
            return info

        writer.close = slow
        return writer


def test_a_fan_out_that_is_ended_while_it_publishes_is_unknown(over):
    one, other = MemoryBackend(), Slow(MemoryBackend())
    other.scope = over
    writer = MultiWriter([(one, "x"), (other, "x")])
    writer.write(b"body")
    with pytest.raises(OutcomeUnknown):
        writer.close()
    assert {name: outcome.state for name, outcome in writer.outcomes.items()}.popitem()[1] == "unknown"


def test_a_rolling_writer_does_not_wait_for_a_store_that_hangs(over):
    go = threading.Event()

    class Hanging(Faulty):
        def _before(self, op, number):
            if op == "close":
                over.cancel()
                go.wait(LIMIT)

    writer = RollingRecordWriter(Hanging(MemoryBackend()), "{seq}.jsonl")
    writer.write({"a": 1})
    with pytest.raises(Cancelled):
        writer.close()
    go.set()


def test_a_write_of_a_fan_out_is_not_ended_by_the_scope_of_an_earlier_one(over):
    begun, go = threading.Event(), threading.Event()

    class Slow(Faulty):
        def _before(self, op, number):
            if op == "write" and begun.is_set():
                first.cancel()
            elif op == "write":
                begun.set()
                go.wait(LIMIT)

    writer = MultiWriter([(Slow(MemoryBackend()), "x")])  # alone: the first write of another may be under way yet
    with CancelScope() as first:
        writer.write(bytes(1 << 20))
        assert begun.wait(LIMIT)
    writer.write(bytes(1 << 20))
    go.set()
    assert writer.close().size == 2 << 20
