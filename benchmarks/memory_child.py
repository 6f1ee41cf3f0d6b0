"""The child of the memory benchmark: ``write|read PATH BYTES``; prints the MiB of peak memory beyond its imports.

About ``BYTES`` bytes of NDJSON, made one record at a time, go through ``open_records``; reading parses every record and
checks its number. Linux only: it asks ``/proc/self/status`` for VmHWM.
"""

import re
import sys
from pathlib import Path

import orjson
import zstandard  # noqa: F401  (counted among the imports)

from omnistorage import open_records

FRAMES = [f'  File "/srv/app/handlers/module_{n:02}.py", line {n * 37}, in handle_{n:02}' for n in range(32)]


def record(number):
    """One of the events of a failing service: 130 to 2,500 bytes, each with its number."""
    return {"n": number, "level": "error", "message": f"request {number} failed", "stack": FRAMES[: number % 32]}


def count_for(size):
    average = sum(len(orjson.dumps(record(10_000_000 + n))) + 1 for n in range(32)) / 32
    return int(size / average)


def peak():
    """The most memory this process has had, in KiB."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def write(path, count):
    with open_records(path, "w") as writer:
        writer.write_many(map(record, range(count)))


def read(path, count):
    with open_records(path, "r") as reader:
        for number, found in enumerate(reader):
            if found["n"] != number:
                raise SystemExit(f"record {number} is {found}")
        if reader.records != count:
            raise SystemExit(f"{reader.records} records came back of {count}")


if __name__ == "__main__":
    verb, path, size = sys.argv[1:]
    import omnistorage.backends.local
    import omnistorage.compression.zstd
    import omnistorage.formats.ndjson  # noqa: F401

    count = count_for(int(size))
    before = peak()
    {"write": write, "read": read}[verb](path, count)
    print(f"{(peak() - before) / 1024:.1f}")
