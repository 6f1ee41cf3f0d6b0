"""A child of the query tests: reads KEY of the query in FILE from URL, and prints the MiB of peak memory beyond its
imports, and a digest of what came."""

import hashlib
import re
import sys
from pathlib import Path


def peak():
    """The most memory this process has had, in KiB."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


if __name__ == "__main__":
    import pyarrow.parquet  # noqa: F401

    from omnistorage.backends.sql_query import SQLQueryBackend

    url, file, key, serializer = sys.argv[1:]
    with SQLQueryBackend(url, file, serializer=serializer) as backend:
        backend.check_health()
        before = peak()
        digest, size = hashlib.sha256(), 0
        with backend.open_reader(key) as reader:
            while part := reader.read(1 << 20):
                digest.update(part)
                size += len(part)
        print(f"{(peak() - before) / 1024:.1f} {size} {digest.hexdigest()}")
