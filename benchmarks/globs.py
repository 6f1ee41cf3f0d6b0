"""What matching a pattern costs: what people write against a plain regular expression, and what strangers may write."""

import re
import time

from common import Bench, SameWork, over, rounds

from omnistorage.glob_matching import FOLDERS, plain_expression
from omnistorage.globs import _Parser, compile_glob

HONEST = (
    "*.csv", "*.{csv,json,parquet}", "/logs/2026-??/*.gz", "logs/**", "/logs/{2025-01,2026-02}/**", "*part-[0-9]*.json",
    "{events,metrics}-*.{csv,json}", "**/part-*.json",
)  # fmt: skip
HOSTILE = (
    ("{,}" * 60 + "b", "a"),
    ("{a*,*a}" * 12 + "b", "a" * 40),
    ("*{a,b}*{a,b}*{a,b}*{a,b}*{a,b}*c", "ab" * 60),
    ("{a,{a,{a,}}}" * 15 + "b", "a" * 30),
    ("**/" * 12 + "x", "a/" * 40),
    ("*x**y" * 6 + "z", "xy" * 100),
    ("*{x,y}" * 8 + "z", "xy" * 60),
)


def honest(bench: Bench):
    """Eight patterns on keys of log files, against the regular expression that each of them is at first sight."""
    count, names, kinds = 2_000 if bench.quick else 50_000, ("events", "metrics", "x"), ("csv", "json", "gz")
    keys = [f"logs/202{n % 7}-{n % 12 + 1:02}/{names[n % 3]}-{n}/part-{n:05}.{kinds[n // 7 % 3]}" for n in range(count)]
    same = SameWork()
    peers, ours = [], [compile_glob(pattern).fullmatch for pattern in HONEST]
    for pattern in HONEST:
        items = _Parser(pattern, False).items()
        items = items if pattern.startswith("/") else [FOLDERS, *items]
        peers.append(re.compile(plain_expression(items), re.DOTALL).fullmatch)

    def counted(matches):
        return lambda: [sum(1 for key in keys if match(key)) for match in matches]

    times = rounds({"ours": counted(ours), "re": counted(peers)}, bench.rounds, lambda _, found: same.check(found))
    bench.add(
        "globs_honest", "globs that people write", peer="re", bar=1.1, better="lower",
        samples=over(times["ours"], times["re"]), engine="re",
    )  # fmt: skip


def hostile(bench: Bench):
    """The slowest of seven patterns that backtrack for ever, compiled and matched."""
    samples = []
    for _ in range(bench.rounds):
        slowest = 0.0
        for pattern, key in HOSTILE:
            for anchored in (False, True):
                compile_glob.cache_clear()
                start = time.perf_counter()
                assert not compile_glob(pattern, anchored=anchored).fullmatch(key)
                slowest = max(slowest, time.perf_counter() - start)
        samples.append(slowest * 1000)
    bench.add(
        "globs_hostile", "the slowest hostile glob", peer="50 ms", bar=50, better="lower", unit="ms", samples=samples,
        engine="",
    )  # fmt: skip


GROUPS = {"globs_honest": honest, "globs_hostile": hostile}
