"""How long the sync engine reads a flat listing whose store takes 20 ms for each page of 1,000 entries."""

import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor

from common import Bench, over, rounds

from omnistorage.backends.base import BackendBase
from omnistorage.core import Features, ObjectInfo
from omnistorage.sync import Filter
from omnistorage.sync.endpoint import Side

PAGE, SECONDS = 1_000, 0.02


class Slow(BackendBase):
    """Lists objects that nobody holds, page by page."""

    features = Features(read=True, list=True, sorted_list=True, list_seek=True)

    def __init__(self, keys):
        self.keys = sorted(keys)

    def _list(self, prefix, options):
        at = 0 if options.start_after is None else bisect_right(self.keys, options.start_after)
        while at < len(self.keys):
            time.sleep(SECONDS)
            yield from (ObjectInfo(key, 1) for key in self.keys[at : at + PAGE])
            at += PAGE

    def _list_dir(self, path):
        time.sleep(SECONDS)
        head = path + "/" if path else ""
        inside = (key[len(head) :].partition("/") for key in self.keys if key.startswith(head))
        yield from (
            ObjectInfo(head + name, kind="dir") for name in sorted({name for name, slash, _ in inside if slash})
        )


SHAPES = {
    "numbers": lambda number: f"object-{number:09}",
    "hashes": lambda number: f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}",
    "folders": lambda number: f"{number // 1_500:05}x/{number % 1_500:04}",
}


def listing(bench: Bench):
    """A long flat listing as ranges of keys side by side, against one stream."""
    count = 60_000 if bench.quick else 200_000
    for name, key in SHAPES.items():
        side = Side(Slow(key(number) for number in range(count)), "source")

        def read(readers, side=side):
            return sum(1 for _ in side.entries(Filter(), readers=readers, pool=ThreadPoolExecutor))

        def same(name, value):
            assert value == count, name

        times = rounds({"ranges": lambda: read(8), "stream": lambda: read(1)}, bench.rounds, same)
        bench.add(f"sync_listing_{name}", f"{count:,} entries, 20 ms a page; the names are {name}", peer="one stream",
                  bar=1.2 if bench.quick else 2, better="higher", samples=over(times["stream"], times["ranges"]),
                  engine="made up on the way, 8 readers")  # fmt: skip


GROUPS = {"sync_listing": listing}
