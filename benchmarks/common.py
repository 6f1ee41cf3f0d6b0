"""What the benchmarks share: fair pairs, equal work, verdicts, and the log events they work on.

A round runs every contender once; the order is reversed from round to round, so that nobody is always first. A ratio
compares two runs of the same round; the median of at least five counts, and the smallest and largest are shown.
"""

import gc
import hashlib
import importlib.metadata
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
MIB = 1 << 20


@dataclass
class Result:
    """One line of the table. ``better`` says on which side of ``bar`` the median has to be."""

    name: str
    what: str
    peer: str
    bar: float
    better: str  # "higher" or "lower"
    unit: str  # "x", "MiB" or "ms"
    median: float
    min: float
    max: float
    samples: int
    verdict: str
    engine: str
    theme: str


@dataclass
class Bench:
    """One run of the benchmarks: where files go, how much is done, and what came out."""

    folder: Path
    quick: bool = False
    theme: str = ""
    results: list[Result] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        return 2 if self.quick else 5

    @property
    def events(self) -> int:
        return 20_000 if self.quick else 1_000_000

    def add(
        self,
        name: str,
        what: str,
        *,
        peer: str,
        bar: float,
        better: str,
        samples: list[float],
        engine: str,
        unit: str = "x",
    ) -> None:
        """Judge the samples and print the line."""
        middle, low, high = statistics.median(samples), min(samples), max(samples)
        good = middle >= bar if better == "higher" else middle <= bar
        verdict = "PASS" if good else "MISS"
        values = [round(value, 2 if unit == "x" else 1) for value in (middle, low, high)]
        self.results.append(
            Result(name, what, peer, bar, better, unit, *values, len(samples), verdict, engine, self.theme)
        )
        print(
            f"{verdict}  {name:22} {values[0]:8} {unit:3} ({values[1]} to {values[2]}, n={len(samples)})"
            f"   bar {'>=' if better == 'higher' else '<='} {bar:g}   {what}; {peer}",
            flush=True,
        )


def rounds(
    contenders: dict[str, Callable[[], Any]],
    count: int,
    after: Callable[[str, Any], None],
    *,
    before: Callable[[], None] = gc.collect,
) -> dict[str, list[float]]:
    """Run all contenders ``count`` times in alternating order; the seconds of each. ``before`` each run, outside of its
    time; ``after(name, value)`` gets what it returned, outside as well: to compare the work, and to clean up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(count):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            before()
            start = time.perf_counter()
            value = contenders[name]()
            seconds[name].append(time.perf_counter() - start)
            after(name, value)
    return seconds


def over(times: list[float], others: list[float]) -> list[float]:
    """The ratios of two columns, round by round."""
    return [a / b for a, b in zip(times, others, strict=True)]


class SameWork:
    """Holds the first fingerprint it is shown and refuses another one."""

    def __init__(self) -> None:
        self.seen: Any = None

    def check(self, fingerprint: Any) -> None:
        if self.seen is None:
            self.seen = fingerprint
        if fingerprint != self.seen:
            raise SystemExit(f"the contenders did not do the same work: {fingerprint} is not {self.seen}")


def file_digest(path: Path, open_file: Callable[..., Any] = open) -> str:
    with open_file(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- what everything is measured on -----------------------------------------------------------------------------------

_SERVICES = ("api", "auth", "billing", "cart", "catalog", "checkout", "feed", "mail", "orders", "search", "web")
_MESSAGES = (
    "request completed in the usual way",
    "cache miss, asking the database for key user:{}",
    "slow query: select * from orders where customer_id = {}",
    "retrying upstream call after a timeout, attempt {}",
    "user {} signed in from a new device",
    "payment {} was accepted",
)


@cache
def log_events(count: int) -> list[dict[str, Any]]:
    """``count`` log events of about 220 bytes as NDJSON, always the same ones."""
    rng = random.Random(7)
    made = []
    for number in range(count):
        second, fraction = number // 12, rng.randrange(1000)
        made.append(
            {
                "ts": f"2024-05-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.{fraction:03}Z",
                "level": rng.choices(("info", "debug", "warn", "error"), (80, 12, 6, 2))[0],
                "service": rng.choice(_SERVICES),
                "host": f"node-{rng.randrange(48):02}.eu-west-1",
                "trace": f"{rng.getrandbits(128):032x}",
                "message": rng.choice(_MESSAGES).format(rng.randrange(100_000)),
                "status": rng.choices((200, 201, 304, 404, 500), (85, 5, 5, 4, 1))[0],
                "ms": round(rng.expovariate(0.05), 2),
            }
        )
    gc.collect()
    gc.freeze()  # a million dicts would be looked at again and again, on both sides
    return made


# --- who ran where ----------------------------------------------------------------------------------------------------


def version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {package}"


def file_system(folder: Path) -> str:
    """The type of the file system that ``folder`` is on, "?" where the system does not say."""
    best, kind = "", "?"
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return kind
    for line in mounts:
        _, point, found = line.split()[:3]
        inside = point == "/" or f"{folder.resolve()}/".startswith(f"{point}/")
        if inside and len(point) > len(best):
            best, kind = point, found
    return kind


def machine(folder: Path) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {platform.machine()}, {file_system(folder)}"


def as_rows(results: list[Result]) -> list[dict[str, Any]]:
    return [asdict(result) for result in results]
