"""Stores that can be pulled out, held up or filled, for whatever is made of several."""

import threading

from omnistorage import BackendUnavailable, Cancelled, MemoryBackend
from omnistorage.concurrency.cancellation import Waiter, wait
from omnistorage.ops import write_bytes
from omnistorage.testing.faults import Faulty


class Switch(Faulty):
    """A tier that can be pulled out (``down``), or fails at the calls named in ``fails``."""

    def __init__(self, inner=None, fails=()):
        super().__init__(MemoryBackend() if inner is None else inner)
        self.down, self.fails, self.aborted, self.refused = False, set(fails), 0, 0

    def _before(self, op, number):
        if self.down or op in self.fails:
            self.refused += 1
            raise BackendUnavailable("pulled out")

    def _writer(self, writer, path):
        writer = super()._writer(writer, path)
        abort = writer.abort

        def counted():
            self.aborted += 1
            abort()

        writer.abort = counted
        return writer


class Held(Faulty):
    """A tier that answers only when it is told to (``go``), or is cancelled."""

    def __init__(self, inner):
        super().__init__(inner)
        self.asked, self.cancelled = threading.Event(), threading.Event()
        self.waiting, self.released = [], False

    def go(self):
        self.released = True
        for waiter in list(self.waiting):
            waiter.set()

    def _before(self, op, number):
        waiter = Waiter()  # of this call alone: a cancellation sets it
        self.waiting.append(waiter)
        self.asked.set()
        try:
            while not self.released:
                wait(waiter, 30)
                waiter.clear()
        except Cancelled:
            self.cancelled.set()
            raise


def filled(**objects):
    backend = MemoryBackend()
    for path, data in objects.items():
        write_bytes(backend, path, data)
    return backend
