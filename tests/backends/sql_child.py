"""Children of the SQL tests: ``stream URL TABLE BYTES`` writes and reads one object and prints the MiB of peak memory
beyond its imports, ``die`` writes large bodies until it is killed."""

import hashlib
import re
import sys
from pathlib import Path

MIB = 1 << 20


def peak():
    """The most memory this process has had, in KiB."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def block(number):
    return hashlib.shake_256(b"%d" % number).digest(MIB // 2 + 7)


def stream(backend, size):
    with backend.open_writer("big") as writer:
        for number in range(size // len(block(0))):
            writer.write(block(number))
    digest = hashlib.sha256()
    with backend.open_reader("big") as reader:
        while part := reader.read(MIB):
            digest.update(part)
        if digest.hexdigest() != reader.info.hash("sha256"):
            raise SystemExit("what came back is something else")


def die(backend, size):
    number = 0
    while True:
        with backend.open_writer(f"large/{number}") as writer:
            for part in range(8):
                writer.write(block(part) * 2)
                print(f"{number} {part}", flush=True)
        print(f"done {number}", flush=True)
        number += 1


if __name__ == "__main__":
    from omnistorage.backends.sql_blob import SQLBlobBackend

    verb, url, table, size = sys.argv[1:]
    with SQLBlobBackend(url, table_name=table) as backend:
        backend.check_health()
        before = peak()
        {"stream": stream, "die": die}[verb](backend, int(size))
        print(f"{(peak() - before) / 1024:.1f}")
