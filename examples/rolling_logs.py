"""A stream of log records becomes objects of a useful size, by service and hour, listed in a manifest."""

import hashlib
import tempfile
import time
from datetime import UTC, datetime, timedelta

from omnistorage import LocalBackend, MemoryBackend, RollingRecordWriter, open_records, ops
from omnistorage.delivery import read_manifest

START = datetime(2025, 3, 1, 9, 30, tzinfo=UTC)


def events(count):
    """Three services, one request a second."""
    for n in range(count):
        at = START + timedelta(seconds=n)
        yield {"at": at.isoformat(), "service": ("web", "web", "auth")[n % 3], "n": n}


def main(folder: str) -> None:
    backend = LocalBackend(folder)

    # Service and hour of a record choose its folder, {seq} counts the objects in there. 1,000 records fill an object.
    with RollingRecordWriter(
        backend,
        "{service}/{time:%Y-%m-%d/%H}/{seq:04d}.ndjson.zst",
        time_field="at",
        roll_records=1000,
        manifest="manifest.ndjson",
    ) as writer:
        writer.write_many(events(6000))
        print(f"so far: {writer.progress.open} objects are open, none of their names is visible")
    done = writer.progress
    print(f"rolled: {done.records} records, {done.objects} objects, {done.raw_bytes} -> {done.bytes} bytes")
    print("web:", [found.path for found in backend.list("web")])

    # A quiet stream is not kept waiting for its object to fill up: age publishes as well, without another record.
    with RollingRecordWriter(backend, "rare/{id}.ndjson.zst", roll_age=0.05, manifest="manifest.ndjson") as rare:
        number = rare.write({"service": "cron", "n": 6000})
        while rare.durable < number:  # what may be acknowledged to whoever sent the records
            time.sleep(0.01)
        print(f"by age: {rare.progress.objects} object is published while the writer is still open")

    # An exception discards what is not published yet, and only that. No object is ever there by half.
    other = MemoryBackend()
    try:
        with RollingRecordWriter(other, "{seq}.ndjson") as failing:
            failing.write_many({"n": n} for n in range(10))
            failing.roll()
            failing.write_many({"n": n} for n in range(10, 15))
            raise RuntimeError("the source broke")
    except RuntimeError as error:
        print(f"failed: {error}; there is {[found.path for found in other.list()]}")

    # The manifest says what was published, and what each object's bytes are.
    seen = []
    entries = list(read_manifest(backend, "manifest.ndjson"))
    for entry in entries:
        assert hashlib.sha256(ops.read_bytes(backend, entry.path)).hexdigest() == entry.sha256
        with open_records(backend, entry.path, "r") as reader:
            seen += [record["n"] for record in reader]
    print(f"read back: {len(seen)} records from {len(entries)} objects; {entries[0].path} has {entries[0].records}")
    assert sorted(seen) == list(range(6001))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
