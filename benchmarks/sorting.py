"""The external sort behind ``ops.sorted_list``: memory and open files for a listing that comes in no order."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from common import Bench


def sort(bench: Bench):
    """10 M listing records in no order (the temporary folder must hold 1 GiB for a while)."""
    count = 200_000 if bench.quick else 10_000_000
    command = [sys.executable, __file__, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent)
    peak, files = map(float, done.stdout.split())
    what = f"external sort of {count:,} listing records"
    bench.add(
        "sort_memory",
        f"peak memory: {what}",
        peer="in all",
        bar=300,
        better="lower",
        unit="MiB",
        samples=[peak],
        engine="standard library",
    )
    bench.add(
        "sort_files",
        f"open files: {what}",
        peer="in all",
        bar=128,
        better="lower",
        unit="",
        samples=[files],
        engine="standard library",
    )


GROUPS = {"sorting": sort}


class Unordered:
    """A store whose listing is made as it goes: keys with the bits of a counter mixed, so that no two are alike."""

    def __init__(self, count):
        self.count = count

    def list(self, prefix, options):
        from omnistorage.core import ObjectInfo

        mask = (1 << 40) - 1
        for n in range(self.count):
            mixed = n * 0x9E3779B97F4A7C15 & mask  # an odd factor: one to one
            yield ObjectInfo(f"logs/{mixed >> 32:02x}/events-{mixed:010x}.ndjson.zst", n)


def child(count):
    """Prints the MiB of peak memory of the process, and the most files it had open."""
    from omnistorage.core import LIST
    from omnistorage.core.external_sort import sorted_entries

    most, ended = 0, threading.Event()

    def watch():
        nonlocal most
        while not ended.wait(0.05):
            most = max(most, len(os.listdir("/proc/self/fd")))

    threading.Thread(target=watch, daemon=True).start()
    seen, before, total = 0, "", 0
    for at, info in enumerate(sorted_entries(Unordered(count), "", LIST)):
        assert before < info.path, (before, info.path)
        if at % 10_000 == 0:
            most = max(most, len(os.listdir("/proc/self/fd")))
        seen, before, total = seen + 1, info.path, total + info.size
    ended.set()
    assert (seen, total) == (count, count * (count - 1) // 2)
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
    print(f"{peak / 1024:.1f} {most}")


if __name__ == "__main__":
    child(int(sys.argv[1]))
