"""A store that is away for a while: requests are tried again for ``retry_for``, on a clock of the test."""

import threading

import pytest

from omnistorage import BackendUnavailable, MemoryBackend, MultiBackend, StorageError
from omnistorage.concurrency.cancellation import Clock
from omnistorage.concurrency.retry import Backoff, RequestPolicy
from omnistorage.delivery import ResumableWriter, RollingRecordWriter
from omnistorage.delivery.long_retry import Patient, patient
from omnistorage.testing.faults import Faulty

from ..backends import test_s3
from ..servers import server
from ..servers.proxy import Answer, Proxy
from .conftest import numbers


class Jumping(Clock):
    """Whoever waits makes the time pass."""

    def __init__(self):
        self.time, self._lock = 0.0, threading.Lock()

    def now(self):
        return self.time

    def wait(self, seconds, wake):
        with self._lock:
            self.time += seconds


class Away(Faulty):
    """A store behind a network that is down until a time. Nothing that was asked of it meanwhile was done."""

    def __init__(self, until):
        super().__init__(MemoryBackend())
        self.until, clock = until, Jumping()
        self.policy = RequestPolicy(retries=2, backoff=Backoff(base=1.0, cap=5.0), clock=clock)

    def _call(self, op, run):
        again = super()._call
        return self.policy.run(op, lambda: again(op, run))

    def _before(self, op, number):
        if self.policy.clock.now() < self.until:
            raise BackendUnavailable("connection refused")


def over(down, **options):
    store = Away(down)
    return store, RollingRecordWriter(store, "{seq}.ndjson", **options)


@pytest.mark.parametrize(("down", "options"), [(45, {}), (250, {"retry_for": 300})])
def test_an_outage_that_is_shorter_than_the_retries_loses_nothing(down, options):
    store, writer = over(down, **options)
    with writer:
        writer.write_many({"n": n} for n in range(1000))
    assert numbers(store.inner) == list(range(1000))


@pytest.mark.parametrize(("down", "options"), [(90, {}), (45, {"retry_for": None}), (45, {"retry_for": 20})])
def test_an_outage_that_is_longer_is_an_error(down, options):
    store, writer = over(down, **options)
    with pytest.raises(BackendUnavailable), writer:
        writer.write_many({"n": n} for n in range(1000))
    assert list(store.inner.list()) == []


def test_a_server_that_refuses_for_longer_than_its_policy_retries_gets_the_object():
    with Proxy(server("seaweedfs")["port"]) as proxy:
        policy = RequestPolicy(retries=1, clock=Jumping())
        with test_s3.fresh("seaweedfs", endpoint=proxy.url, policy=policy) as store:
            proxy.next(*[Answer("PUT", 503)] * 8)
            with RollingRecordWriter(store, "{seq}.ndjson") as writer:
                writer.write({"n": 1})
            assert numbers(store) == [1]
            proxy.next(*[Answer("PUT", 503)] * 8)
            with pytest.raises(StorageError), RollingRecordWriter(store, "x{seq}.ndjson", retry_for=None) as writer:
                writer.write({"n": 2})


def test_a_mirror_keeps_its_own_rule():
    away = Away(0)
    mirror = MultiBackend([away, MemoryBackend()])
    assert isinstance(patient(away, 60), Patient)
    assert patient(away, None) is away
    assert patient(mirror, 60) is mirror


@pytest.mark.parametrize("retry_for", [60, None])
def test_a_resumable_writer_waits_for_a_server(retry_for):
    store = Away(0)
    writer = ResumableWriter(store, "x.ndjson", retry_for=retry_for)
    writer.write({"n": 1})
    store.until = store.policy.clock.now() + 45
    if retry_for is None:
        with pytest.raises(BackendUnavailable):
            writer.checkpoint()
        writer.abort()
        return
    token = writer.checkpoint()
    writer.abort()
    store.until = store.policy.clock.now() + 45
    with ResumableWriter.resume(store, token, retry_for=retry_for) as again:
        again.write({"n": 2})
        store.until = store.policy.clock.now() + 45
    assert numbers(store.inner) == [1, 2]
