"""Write records, read them back, and do the same with another codec, another format and another backend."""

import tempfile
from pathlib import Path

from omnistorage import Gzip, MemoryBackend, open_records


def main(folder: Path) -> None:
    events = [{"id": n, "level": "warn" if n % 10 == 0 else "info", "ms": n * 7 % 100} for n in range(1000)]

    # Format and compression come from the suffixes. The file appears, whole, when the block ends.
    with open_records(folder / "events.ndjson.zst", "w") as writer:
        for event in events:
            writer.write(event)
    print(f"wrote {writer.records} records, {writer.result.size} bytes")

    with open_records(folder / "events.ndjson.zst", "r") as reader:
        warnings = [event for event in reader if event["level"] == "warn"]
    print(f"read {reader.records} records, {len(warnings)} warnings, the first is {warnings[0]}")

    # Whoever handles many records takes them in batches.
    with open_records(folder / "events.ndjson.gz", "w", compression=Gzip(level=1)) as writer:
        writer.write_many(events)
    with open_records(folder / "events.ndjson.gz", "r") as reader:
        total = sum(event["ms"] for batch in reader.iter_batches() for event in batch)
    print(f"the gzip file holds {reader.records} records, {total} ms in all")

    # The same calls over any backend: here one in memory, and raw lines instead of JSON.
    backend = MemoryBackend()
    with open_records(backend, "logs/app.log", "w") as writer:
        writer.write_many(["started", "ready"])
    with open_records(backend, "logs/app.log", "r") as reader:
        lines = list(reader)
    print("lines:", lines)
    assert (len(warnings), total, lines) == (100, sum(event["ms"] for event in events), [b"started", b"ready"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
