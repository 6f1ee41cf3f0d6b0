"""What the tests of ``Cache`` share: its settings, and what it keeps."""

import threading

from omnistorage import BackendUnavailable, Cache, MemoryBackend, StorageError, ops
from omnistorage.concurrency.cancellation import Clock
from omnistorage.core import ReadOptions
from omnistorage.testing import Faulty

from ..waiting import LIMIT

BIG = 100_000


class Hands(Clock):
    """Moved by hand."""

    time = 1000.0

    def now(self):
        return self.time


class Small(Cache):
    """Takes a thousand bytes for large, so that tests need not."""

    small = 1000


def put(backend, path, data=b"data"):
    return ops.write_bytes(backend, path, data)


def get(backend, path, offset=0, length=None):
    return ops.read_bytes(backend, path, ReadOptions(offset, length))


def entries(into):
    return sorted(info.path for info in into.list())


def setting(ttl=0.0, into=None, kind=Small, **more):
    """An origin that notes its calls, and a cache of it."""
    origin = Faulty(MemoryBackend())
    clock = Hands()
    return origin, kind(origin, MemoryBackend() if into is None else into, ttl=ttl, clock=clock, **more), clock


class Gate(Faulty):
    """Its readers wait to be opened until ``open`` is set; says how many came."""

    def __init__(self, inner):
        super().__init__(inner)
        self.gate = threading.Event()
        self.fails = 0

    def _before(self, op, number):
        if op == "open_reader":
            assert self.gate.wait(LIMIT)
            with self._count_lock:
                self.fails -= 1
                fails = self.fails >= 0
            if fails:
                raise BackendUnavailable("no")


def at_once(run, count=8):
    """Run in ``count`` threads that start together; what came of each."""
    barrier, came = threading.Barrier(count), []

    def one():
        barrier.wait(LIMIT)
        try:
            came.append(run())
        except StorageError as error:
            came.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, came


class Fails(Faulty):
    """Fails the calls that are named, with an error that is not even ours."""

    ops = frozenset()

    def _before(self, op, number):
        if op in self.ops:
            raise OSError("the disk is gone")


def kept(cache, origin, names):
    """Which of the objects come from entries now."""
    found = []
    for name in names:
        origin.log.clear()
        with cache.open_reader(name, ReadOptions(0, 1)):
            if "open_reader" not in origin.log:
                found.append(name)
    return found
