"""``MultiBackend``: records into three throttled targets at once, and with one of them ten times slower."""

import re
import subprocess
import sys
import time
from pathlib import Path

from common import MIB, Bench, log_events, over, rounds

from omnistorage import Lines, MemoryBackend, MultiBackend, RecordWriter, Target
from omnistorage.concurrency.rate_limit import TokenBucket
from omnistorage.testing.faults import Faulty

RATE = 100 * MIB
"""Bytes a second that each target takes."""


class Throttled(Faulty):
    """A target that takes so many bytes a second, and keeps a count of them."""

    def __init__(self, rate):
        super().__init__(MemoryBackend())
        self.bucket, self.bytes = TokenBucket(rate, burst=MIB), 0

    def _writer(self, writer, path):
        return Taking(self, writer)


class Taking:
    """Counts, waits, and drops what it is given; the object that appears is an empty one."""

    def __init__(self, place, inner):
        self.place, self.inner = place, inner
        self.flush, self.prepare, self.abort = inner.flush, inner.prepare, inner.abort

    @property
    def result(self):
        return self.inner.result

    def write(self, data):
        self.place.bucket.take(len(data))
        self.place.bytes += len(data)
        return len(data)

    def close(self):
        return self.inner.close()._replace(size=None)


def write(targets, blocks, **options):
    """Seconds to send ``blocks`` of encoded records through a mirror of ``targets``."""
    multi = MultiBackend([Target(f"t{number}", place) for number, place in enumerate(targets)], **options)
    start = time.perf_counter()
    with RecordWriter(multi.open_writer("x.lp"), Lines(), None) as out:
        for block in blocks:
            out.write_many(block)
    return time.perf_counter() - start


def records(size):
    """Batches of records, some ``size`` bytes in all, as lists of lines."""
    import orjson

    lines = [orjson.dumps(event) for event in log_events(20_000)]
    batches = [lines[at : at + 250] for at in range(0, len(lines), 250)]
    total, out = 0, []
    while total < size:
        for batch in batches:
            out.append(batch)
            total += sum(map(len, batch)) + len(batch)
            if total >= size:
                break
    return out, total


def speed(bench: Bench):
    size = (64 if bench.quick else 1024) * MIB
    blocks, total = records(size)

    def run(rates, **options):
        places = [Throttled(rate) for rate in rates]
        return write(places, blocks, **options), places

    def after(name, value):
        _, places = value
        assert all(place.bytes == total for place in places[: 2 if name == "laggard" else 3]), name

    journal = {"mode": "quorum", "journal": MemoryBackend(), "laggard_timeout": 0.5}
    found = rounds(
        {
            "one": lambda: run([RATE]),
            "three": lambda: run([RATE] * 3),
            "two": lambda: run([RATE] * 2),
            "laggard": lambda: run([RATE, RATE, RATE / 10], **journal),
        },
        bench.rounds,
        after,
    )
    what = f"{total / MIB:.0f} MiB of records"
    bench.add(
        "multi_three", f"{what} to 3 targets of 100 MiB/s each, all needed", peer="one such target", bar=1.3,
        better="lower", samples=over(found["three"], found["one"]), engine="throttled",
    )  # fmt: skip
    bench.add(
        "multi_laggard", f"{what} to 2 such targets and one of 10 MiB/s, quorum of 2, laggard_timeout 0.5 s",
        peer="the two alone", bar=1.2, better="lower", samples=over(found["laggard"], found["two"]), engine="throttled",
    )  # fmt: skip


def memory(bench: Bench):
    size = (64 if bench.quick else 1024) * MIB

    def child(targets):
        done = subprocess.run(
            [sys.executable, __file__, str(targets), str(size)],
            check=True, capture_output=True, text=True, cwd=Path(__file__).parent,
        )  # fmt: skip
        return float(done.stdout)

    bench.add(
        "multi_memory", "the same to 3 targets, peak memory beyond one without a fan-out", peer="3 x 16 MiB + 32 MiB",
        bar=80, better="lower", unit="MiB", samples=[child(3) - child(0)], engine="throttled",
    )  # fmt: skip


GROUPS = {"multi": speed, "multi_memory": memory}


def run_child(targets, size):
    """Prints the MiB of peak memory beyond the records, which are made beforehand."""
    blocks, _ = records(int(size))
    before = peak()
    if targets == "0":
        sink = Throttled(RATE)
        with RecordWriter(sink.open_writer("x"), Lines(), None) as out:
            for block in blocks:
                out.write_many(block)
    else:
        # Of three speeds, so that there is something to wait for and to hold.
        write([Throttled(RATE / (1 + number)) for number in range(int(targets))], blocks)
    print(f"{(peak() - before) / 1024:.1f}")


def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


if __name__ == "__main__":
    run_child(*sys.argv[1:])
