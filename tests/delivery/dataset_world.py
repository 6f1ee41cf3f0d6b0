"""What the tests of data sets share: records, executors, a store that is looked at from outside."""

from __future__ import annotations

import concurrent.futures as cf
import threading
from dataclasses import replace
from datetime import timedelta

from omnistorage import MemoryBackend
from omnistorage.delivery import DatasetReader, DatasetWriter

AT_ONCE = timedelta(0)

LEASHED = """
import os, signal, threading
def leash():
    os.read(0, 1)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    threading.Thread(target=leash, daemon=True).start()
"""
"""What a child does that could run for ever: once its standard input closes it ends, with its group if it has one."""


def share(item, count=10):
    """The records of one input."""
    for number in range(count):
        yield {"item": item, "n": number, "kind": "ab"[number % 2]}


def expected(items):
    return [record for item in items for record in share(item)]


class Inline(cf.Executor):
    """Runs each call at once, on the caller's thread."""

    def submit(self, fn, /, *args, **kwargs):
        future = cf.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Held(cf.ThreadPoolExecutor):
    """Counts how many calls are in flight, the most there ever were."""

    def __init__(self, workers):
        super().__init__(workers)
        self.now = self.most = self.calls = 0
        self._count = threading.Lock()

    def submit(self, fn, /, *args, **kwargs):
        with self._count:
            self.now += 1
            self.calls += 1
            self.most = max(self.most, self.now)
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, future):
        with self._count:
            self.now -= 1


def without(**flags):
    """A memory backend with features off."""
    backend = MemoryBackend()
    backend.features = replace(backend.features, **dict.fromkeys(flags, False))
    return backend


def writer(store, prefix="set", **settings):
    return DatasetWriter(store, prefix, **{"compression": "none", **settings})


def write(store, items, prefix="set", **settings):
    return writer(store, prefix, **settings).run(Inline(), share, items)


def read(store, prefix="set", **settings):
    with DatasetReader(store, prefix, **settings) as reader:
        return list(reader)


def names(store, prefix="set"):
    return sorted(info.path.removeprefix(f"{prefix}/") for info in store.list(prefix))


def is_clean(store, prefix="set"):
    """Whether there is nothing but what the reader knows."""
    reader = DatasetReader(store, prefix)
    known = ["_SUCCESS", f"_manifest-{reader.attempt}.json", *(part.path for part in reader.parts)]
    return names(store, prefix) == sorted(known)
