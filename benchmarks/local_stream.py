"""One GiB into and out of a local file, against shutil.copyfileobj with the same block."""

import hashlib
import os
import shutil

from common import MIB, Bench, SameWork, over, rounds

from omnistorage import LocalBackend


class Source:
    """A file-like object of ``blocks`` different MiB, made once: reading it costs next to nothing."""

    def __init__(self, blocks):
        self.blocks = iter(blocks)

    def read(self, size):
        return next(self.blocks, b"")


class Sink:
    """Takes everything and counts it."""

    def __init__(self):
        self.count = 0

    def write(self, data):
        self.count += len(data)


def stream(bench: Bench):
    """Writing and reading 1 GiB in blocks of 1 MiB."""
    parts = [hashlib.shake_256(bytes([n])).digest(MIB) for n in range(16)]
    blocks = parts * (4 if bench.quick else 64)
    path = bench.folder / "big.bin"
    with LocalBackend(bench.folder) as backend:

        def their_write():
            with open(path, "wb") as file:
                shutil.copyfileobj(Source(blocks), file, MIB)

        def our_write():
            with backend.open_writer("big.bin") as writer:
                shutil.copyfileobj(Source(blocks), writer, MIB)

        def their_read():
            sink = Sink()
            with open(path, "rb") as file:
                shutil.copyfileobj(file, sink, MIB)
            return sink.count

        def our_read():
            sink = Sink()
            with backend.open_reader("big.bin") as reader:
                shutil.copyfileobj(reader, sink, MIB)
            return sink.count

        same = SameWork()

        def check_and_clear(name, value):
            with open(path, "rb") as file:
                same.check(hashlib.file_digest(file, "sha256").hexdigest())
            path.unlink()

        def warm_up():  # nobody pays for what others left to the disk, nor for a host that lends memory page by page
            os.sync()
            their_write()
            path.unlink()

        contenders = {"peer": their_write, "ours": our_write}
        times = rounds(contenders, bench.rounds * 2 - 1, check_and_clear, before=warm_up)
        report(bench, "write", times)
        our_write()
        counts = SameWork()
        times = rounds({"peer": their_read, "ours": our_read}, bench.rounds * 2 - 1, lambda name, n: counts.check(n))
        report(bench, "read", times)
        path.unlink()


def report(bench, verb, times):
    bench.add(
        f"local_stream_{verb}", f"local {verb} of 1 GiB in blocks of 1 MiB", peer="shutil.copyfileobj on open()",
        bar=1.1, better="lower", samples=over(times["ours"], times["peer"]), engine="LocalBackend",
    )  # fmt: skip


GROUPS = {"stream": stream}
