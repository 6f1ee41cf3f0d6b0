"""The child of the test of memory: ``CASE COUNT`` reads a plan over generated listings of ``COUNT`` names.

It prints the number of the actions and the MiB of peak memory beyond a plan over almost nothing. Linux only: it asks
for VmHWM.
"""

import re
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from omnistorage import MemoryBackend, ObjectInfo
from omnistorage.sync import Plan

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


class Generated(MemoryBackend):
    """Shows ``count`` objects that nobody holds, each made when it is asked for."""

    def __init__(self, count):
        super().__init__(dirs=False)
        self.features = replace(self.features, set_modified=False)
        self.count = count

    def _list(self, prefix, options):
        for number in range(self.count):
            yield ObjectInfo(f"folder-{number // 1_000:05}/of-a-usual-length-{number:08}.txt", 1_000, WHEN, etag="1")


CASES = {
    "equal": (1, 1, {"delete": True}),
    "all to be copied": (1, 0, {}),
    "all to be deleted": (0, 1, {"delete": True, "max_delete": "100%", "allow_empty_source": True}),
    "sorted first": (1, 1, {"sort_listings": True}),
    "letter case folded": (1, 1, {"ignore_case": True}),
    "no order promised": (1, 1, {"unsorted": True}),
}


def read(case, count):
    one, other, settings = CASES[case]
    src, dst = Generated(one * count), Generated(other * count)
    settings = dict(settings)
    if settings.pop("unsorted", False):
        for side in (src, dst):
            side.features = replace(side.features, sorted_list=False, list_seek=False)
    with Plan(src, dst, **settings) as plan:
        return sum(1 for _ in plan)


def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


if __name__ == "__main__":
    case, count = sys.argv[1:]
    read(case, 10)
    before = peak()
    actions = read(case, int(count))
    print(actions, (peak() - before) / 1024)
