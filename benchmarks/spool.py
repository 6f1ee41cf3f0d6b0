"""A writer with a spool: what the spool costs, on the local disk and before S3, and what an outage takes."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson
from common import MIB, REPOSITORY, Bench, SameWork, log_events, over, rounds, version

from omnistorage import LocalBackend, RollingRecordWriter
from omnistorage.delivery import Spool

TEMPLATE = "{time:%Y/%m/%d}/{seq:06d}.ndjson.zst"


def one_by_one(target, records, spool, **settings):
    """Seconds until the last ``write`` has returned, and the final counters."""
    with RollingRecordWriter(target, TEMPLATE, spool=spool, **settings) as writer:
        write = writer.write
        start = time.perf_counter()
        for record in records:
            write(record)
        took = time.perf_counter() - start
    return took, writer.progress


def interval(bench: Bench):
    """1 M log events through ``write``, one by one, with fsync="interval", while they are delivered to local files."""
    records, rates = log_events(bench.events), []
    for _ in range(bench.rounds):
        folder = Path(tempfile.mkdtemp(dir=bench.folder))
        took, progress = one_by_one(LocalBackend(folder), records, Spool(folder.with_suffix(".spool")))
        assert (progress.records, progress.spooled) == (len(records), 0), progress
        rates.append(len(records) / took / 1000)
        shutil.rmtree(folder)
        shutil.rmtree(folder.with_suffix(".spool"))
    bench.add(
        "spool_interval", "spool, fsync=interval: thousand events a second through write, delivered meanwhile",
        peer="200,000 a second", bar=200, better="higher", unit="k/s", samples=rates, engine=version("zstandard"),
    )  # fmt: skip


def record(bench: Bench):
    """Events through ``write`` with fsync="record", against os.write and os.fsync of the same bytes."""
    records = log_events(200 if bench.quick else 3000)
    lines, same = [orjson.dumps(event, None, orjson.OPT_APPEND_NEWLINE) for event in records], SameWork()

    def ours():
        folder = Path(tempfile.mkdtemp(dir=bench.folder))
        writer = RollingRecordWriter(LocalBackend(folder / "out"), TEMPLATE, spool=Spool(folder / "s", fsync="record"))
        start = time.perf_counter()
        for event in records:
            writer.write(event)
        took = time.perf_counter() - start
        progress = writer.close()
        return folder, took, progress.raw_bytes

    def bare():
        folder = Path(tempfile.mkdtemp(dir=bench.folder))
        fd = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        start = time.perf_counter()
        for line in lines:
            os.write(fd, line)
            os.fsync(fd)
        took = time.perf_counter() - start
        os.close(fd)
        return folder, took, sum(map(len, lines))

    times = {"ours": [], "bare": []}

    def after(name, value):
        folder, took, size = value
        times[name].append(took)
        same.check(size)
        shutil.rmtree(folder)

    rounds({"ours": ours, "bare": bare}, bench.rounds, after)
    bench.add(
        "spool_record", "spool, fsync=record: an event written and synced, delivered meanwhile",
        peer="os.write and os.fsync", bar=0.8, better="higher", samples=over(times["bare"], times["ours"]),
        engine=f"{statistics.median(times['bare']) / len(lines) * 1000:.2f} ms for a bare one",
    )  # fmt: skip


def to_s3(bench: Bench):
    """1 M log events into S3, from the first ``write`` to the end of ``close``, with a spool and without."""
    from s3 import Place

    records, same = log_events(bench.events), SameWork()
    with Place() as place:

        def run(spool):
            folder = Path(tempfile.mkdtemp(dir=bench.folder))
            progress = one_by_one(place.ours, records, Spool(folder) if spool else None, roll_bytes=4 * MIB)[1]
            return folder, progress

        def after(name, value):
            folder, progress = value
            same.check((progress.records, progress.raw_bytes))
            shutil.rmtree(folder)

        times = rounds({"spooled": lambda: run(True), "bare": lambda: run(False)}, bench.rounds, after)
    bench.add(
        "spool_s3", "spool before S3: events from the first write to the last object", peer="without a spool", bar=0.6,
        better="higher", samples=over(times["bare"], times["spooled"]), engine=version("boto3"),
    )  # fmt: skip


def down(bench: Bench):
    """Peak memory while the store is away for ten minutes of a fake clock, and while it catches up."""
    count = 20_000 if bench.quick else 1_000_000
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        command = [sys.executable, "-m", "tests.delivery.outage", folder, str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    took, spooled, _, delivered = done.stdout.split()
    assert (int(spooled), int(delivered)) == (count, count)
    bench.add(
        "spool_down", f"peak memory: the store away for ten minutes, {count:,} records, and delivered then",
        peer="64 MiB", bar=64, better="lower", unit="MiB", samples=[float(took)], engine=version("zstandard"),
    )  # fmt: skip


GROUPS = {"spool_interval": interval, "spool_record": record, "spool_s3": to_s3, "spool_down": down}
