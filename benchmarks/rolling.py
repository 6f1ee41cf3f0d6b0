"""1,000 open partitions against one, and what they take: the same log events through ``RollingRecordWriter``."""

import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from common import Bench, SameWork, log_events, over, rounds, version

from omnistorage import LocalBackend, RollingRecordWriter

PARTITIONS = 1000
SETTINGS = {"roll_bytes": None, "max_open": PARTITIONS}


def events(count):
    """Each with its partition, one of a thousand, in no order."""
    return [{**event, "p": f"p{int(event['trace'][:8], 16) % PARTITIONS:03}"} for event in log_events(count)]


def write(folder, template, records):
    """The counters, and the most threads that were seen."""
    most = 0
    with RollingRecordWriter(LocalBackend(folder), template, **SETTINGS) as writer:
        for at in range(0, len(records), 10_000):
            writer.write_many(records[at : at + 10_000])
            most = max(most, threading.active_count())
    return writer.progress, most


def speed(bench: Bench):
    """1 M records into 1,000 open partitions, against the same into one."""
    many, same, threads = events(bench.events), SameWork(), []
    one = [{**event, "p": "p000"} for event in many]

    def run(records):
        folder = Path(tempfile.mkdtemp(dir=bench.folder))
        return folder, *write(folder, "{p}/{seq}.ndjson.gz", records)

    def after(name, value):
        folder, progress, most = value
        same.check((progress.records, progress.raw_bytes))
        if name == "many":
            threads.append(float(most))
            assert progress.objects == PARTITIONS, progress
        shutil.rmtree(folder)

    times = rounds(
        {"many": lambda: run(many), "one": lambda: run(one)},
        bench.rounds,
        after,
    )
    engine = version("zlib-ng")
    bench.add(
        "rolling_partitions", "RollingRecordWriter: 1 M records into 1,000 open partitions, NDJSON.gz",
        peer="the same into one partition", bar=0.7, better="higher", samples=over(times["one"], times["many"]),
        engine=engine,
    )  # fmt: skip
    bench.add(
        "rolling_threads", "RollingRecordWriter: threads with 1,000 open partitions", peer="in all", bar=8,
        better="lower", unit="", samples=threads, engine=engine,
    )  # fmt: skip


def memory(bench: Bench):
    """Peak memory of 1,000 open partitions, less what 1,000 bare encoders take."""
    count = str(bench.events)

    def child(what):
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            command = [sys.executable, __file__, what, folder, count]
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent)
            return float(done.stdout)

    bench.add(
        "rolling_memory", "peak memory: 1,000 open partitions, 1 M records, beyond 1,000 encoders with the same input",
        peer="1,000 x 128 KiB + 64 MiB", bar=PARTITIONS / 8 + 64, better="lower", unit="MiB",
        samples=[child("ours") - child("encoders")], engine=version("zlib-ng"),
    )  # fmt: skip


GROUPS = {"rolling": speed, "rolling_memory": memory}


def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def run_child(what, folder, count):
    """Prints the MiB of peak memory beyond the records, which are made beforehand."""
    import orjson

    from omnistorage import Gzip

    records = events(int(count))
    before = peak()
    if what == "ours":
        write(folder, "{p}/{seq}.ndjson.gz", records)
    else:
        encoders = {f"p{n:03}": Gzip().encoder() for n in range(PARTITIONS)}
        for record in records:
            for _ in encoders[record["p"]].feed(orjson.dumps(record, None, orjson.OPT_APPEND_NEWLINE)):
                pass
    print(f"{(peak() - before) / 1024:.1f}")


if __name__ == "__main__":
    run_child(*sys.argv[1:])
