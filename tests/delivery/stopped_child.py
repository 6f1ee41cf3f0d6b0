"""What the tests of ``draining`` start and send a signal: ``python -m tests.delivery.stopped_child FOLDER KIND``.

Says ``ready`` once the block has begun, ``waits`` when the program does, ``hangs`` when the store does, ``drains`` when
the signal was heard. How many records were taken is in a file.
"""

import pathlib
import queue
import signal
import socket
import sys
import threading
import time

from omnistorage import LocalBackend
from omnistorage.core import WRITE
from omnistorage.delivery import RollingRecordWriter, Spool, draining
from omnistorage.delivery.shutdown import _Draining
from omnistorage.wrappers.base import Wrapper


class Hangs(Wrapper):
    """A store that takes ten objects, and from then on hangs in ``where``."""

    def __init__(self, inner, where):
        super().__init__(inner)
        self.where, self.left = where, 10

    def open_writer(self, path, options=WRITE):
        writer = self.inner.open_writer(path, options)
        self.left -= 1
        if self.left < 0:
            setattr(writer, self.where, self.hang)
        return writer

    def hang(self, *data):
        print("hangs", flush=True)
        while True:  # a signal that comes while Python handles another one is heard when the main thread next wakes up
            time.sleep(0.05)


def records(writer, stop=10**9):
    """As many as the writer has not taken yet."""
    for n in range(writer.progress.taken, stop):
        yield {"n": n, "pad": "x" * (n * 7919 % 60)}


def one_by_one(writer):
    for record in records(writer):
        writer.write(record)


def read(wait):
    """A program that is woken in what it waits for."""

    def program(writer):
        writer.write_many(records(writer, 500))
        print("waits", flush=True)
        wait()

    return program


def receive():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


def stuck(writer):
    for record in records(writer):
        writer.write(record)
        writer.flush()


def generated(writer):
    def wait():
        yield from records(writer, 1000)
        threading.Event().wait()

    writer.write_many(wait())


PROGRAMS = {
    "one_by_one": one_by_one,
    "many": lambda writer: writer.write_many(records(writer)),
    "generated": generated,
    "sleep": read(lambda: time.sleep(3600)),
    "queue": read(queue.Queue().get),
    "socket": read(receive),
    "hangs": one_by_one,
    "stuck": stuck,
    "spool": one_by_one,
}
WHERE = {"hangs": "close", "stuck": "flush", "spool": "close"}


def is_handling():
    """Whether the main thread is inside of the handler of a signal."""
    frame = sys._current_frames().get(threading.main_thread().ident)
    while frame is not None and frame.f_code is not _Draining._handle.__code__:
        frame = frame.f_back
    return frame is not None


def main(folder, kind, within):
    # A signal that comes just before Python waits in ``sleep``, ``queue`` or ``recv`` is heard when that next wakes up.
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    store, spool = LocalBackend(f"{folder}/store"), None
    if kind in WHERE:
        store = Hangs(store, WHERE[kind])
    if kind == "spool":
        spool = Spool(f"{folder}/spool", fsync="record" if "record" in sys.argv else "interval")
    writer = RollingRecordWriter(store, "{start:09d}.ndjson", names="deterministic", roll_records=97, spool=spool)
    drain = writer.drain

    def told(seconds):
        while is_handling():  # a second signal that comes now may not be heard
            time.sleep(0.001)
        print("drains", flush=True)
        return drain(seconds)

    writer.drain = told
    try:
        with writer, draining(writer, within=within):
            print("ready", flush=True)
            PROGRAMS[kind](writer)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for thread in threading.enumerate():  # what still cleans up: a busy machine gives it less than its half second
            if thread.name == "omnistorage-drain":
                thread.join(10)  # it may hang for ever in the store; the test waits for this program up to LIMIT
        pathlib.Path(folder, "taken").write_text(str(writer.progress.taken))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
