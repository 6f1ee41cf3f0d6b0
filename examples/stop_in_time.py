"""A program that is told to end publishes what it took: after SIGTERM, from asyncio, and when the store hangs."""

import asyncio
import os
import signal
import tempfile
import threading
import time

from omnistorage import AsyncRollingRecordWriter, DeadlineExceeded, LocalBackend, RollingRecordWriter, open_records
from omnistorage.delivery import draining


class Hangs(LocalBackend):
    """A store from which the last answer never comes."""

    def open_writer(self, path, *options):
        writer = super().open_writer(path, *options)
        writer.close = threading.Event().wait
        return writer


def read(backend: LocalBackend, prefix: str) -> list[int]:
    found = []
    for info in backend.list(prefix):
        with open_records(backend, info.path, "r") as reader:
            found += [record["n"] for record in reader]
    return found


def serve(backend: LocalBackend) -> None:
    """What an orchestrator does: SIGTERM, and SIGKILL some 30 seconds later."""
    with RollingRecordWriter(backend, "served/{seq:04d}.ndjson.zst") as writer, draining(writer, within=25):
        for n in range(1000):
            writer.write({"n": n})
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(3600)  # a read that waits for more is woken


async def collect(backend: LocalBackend) -> None:
    async def source(name: int):
        for n in range(name, 3000, 3):
            yield {"n": n}

    async with AsyncRollingRecordWriter(backend, "collected/{seq:04d}.ndjson.zst", roll_records=500) as writer:
        counts = await asyncio.gather(*(writer.write_many(source(name)) for name in range(3)))
        print(f"three tasks wrote {sum(counts)} records, the last of them is number {await writer.flush()} at most")
        done = await writer.drain(within=25)
    print(f"drained: {done.records} records in {done.objects} objects")


def main(folder: str) -> None:
    backend = LocalBackend(folder)
    try:
        serve(backend)
    except SystemExit as end:  # a real program lets it pass
        print(f"exit code {end.code}, published: {len(read(backend, 'served'))} of 1000")
    assert read(backend, "served") == list(range(1000))

    asyncio.run(collect(backend))
    assert sorted(read(backend, "collected")) == list(range(3000))

    # A store that does not answer is left at the deadline, and the error says from where on a replay has to begin.
    writer = RollingRecordWriter(Hangs(folder), "hung/{seq}.ndjson", roll_records=5)
    writer.write_many({"n": n} for n in range(12))
    try:
        writer.drain(within=0.2)
    except DeadlineExceeded as error:
        print(f"too late: {error}; durable up to {writer.durable}")
    assert read(backend, "hung") == []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
