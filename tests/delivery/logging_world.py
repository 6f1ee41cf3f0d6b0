"""Handlers of logging under test, and what they shipped."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

from omnistorage import open_records
from omnistorage.wrappers.base import Wrapper

from ..waiting import LIMIT
from .dataset_world import LEASHED

gates: list = []


def rows(store):
    found = []
    for info in store.list():
        with open_records(store, info.path, "r") as reader:
            found += reader
    return found


class Gate(Wrapper):
    """A store whose writes wait until it is opened."""

    def __init__(self, inner):
        super().__init__(inner)
        gates.append(self)
        self.open = threading.Event()
        self.reached = threading.Event()

    def open_writer(self, path, *more):
        self.reached.set()
        assert self.open.wait(LIMIT)
        return super().open_writer(path, *more)


_PROGRAM = """
import logging, sys
from omnistorage import LocalBackend
from omnistorage.delivery import OmniHandler
handler = OmniHandler(LocalBackend(sys.argv[1]), "{time:%Y}/{seq}.ndjson.zst", roll_records=400)
logging.getLogger().setLevel(logging.INFO)
logging.getLogger().addHandler(handler)
for n in range(1000):
    logging.info("%d", n)
if len(sys.argv) > 2:
    raise SystemExit(3)
"""


@contextmanager
def endless(folder):
    """A program that logs for ever, killed in the end."""
    program = LEASHED + _PROGRAM.replace("range(1000)", "__import__('itertools').count()")
    child = subprocess.Popen(
        [sys.executable, "-c", program, folder / "out"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdin.close()
