"""One data set from two processes against one: records that take work to make, as NDJSON.zst on the local disk."""

import hashlib
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from common import Bench, SameWork, over, rounds, version

from omnistorage import LocalBackend
from omnistorage.delivery import DatasetReader, DatasetWriter

TASKS = 16


def share(given):
    """The records of one task, each with a chain of digests, as parsing or enriching would cost."""
    task, count = given
    for number in range(count):
        digest = f"{task}/{number}".encode()
        for _ in range(20):
            digest = hashlib.sha256(digest).hexdigest().encode()
        yield {"task": task, "n": number, "digest": digest.decode(), "words": [number % 7, number % 11] * 4}


def write(executor, folder, each):
    return DatasetWriter(LocalBackend(folder), "set").run(executor, share, [(task, each) for task in range(TASKS)])


def speed(bench: Bench):
    """What two processes write in the time in which one does."""
    each, same = bench.events // TASKS // 2, SameWork()

    def run(executor):
        folder = Path(tempfile.mkdtemp(dir=bench.folder))
        return folder, write(executor, folder, each)

    def after(name, value):
        folder, done = value
        digest = hashlib.sha256()
        for record in DatasetReader(LocalBackend(folder), "set"):
            digest.update(record["digest"].encode())
        same.check((done.records, digest.hexdigest()))
        shutil.rmtree(folder)

    with ProcessPoolExecutor(1) as one, ProcessPoolExecutor(2) as two:
        for executor in (one, two):  # processes are started before the clock is
            list(executor.map(str, range(100)))
        times = rounds({"two": lambda: run(two), "one": lambda: run(one)}, bench.rounds, after)
    bench.add(
        "dataset_processes", "DatasetWriter: 500,000 computed records from two processes, NDJSON.zst",
        peer="the same from one process", bar=1.6, better="higher", samples=over(times["one"], times["two"]),
        engine=version("zstandard"),
    )  # fmt: skip


GROUPS = {"dataset": speed}
