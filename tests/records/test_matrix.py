"""Goal 8: however a write ends, on every backend, codec and format, nothing is visible that was not published."""

import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import warnings
from datetime import timedelta

import pytest

from omnistorage import BackendUnavailable, LocalBackend, MemoryBackend, open_records
from omnistorage.concurrency.pools import CPU, IO
from omnistorage.core import StaleUploads, power
from omnistorage.testing import BasicBackend, Flaky
from omnistorage.wrappers.base import Wrapper

from ..budget import pick

SUFFIX = {
    "none": "",
    "bz2": ".bz2",
    "gzip": ".gz",
    "lz4": ".lz4",
    "snappy": ".sz",
    "xz": ".xz",
    "zstd": ".zst",
}
FORMAT = {"csv": ".csv", "length_prefixed": ".lp", "lines": ".log", "ndjson": ".ndjson"}
BACKENDS = {
    "memory": lambda tmp: MemoryBackend(),
    "flat": lambda tmp: MemoryBackend(dirs=False),
    "basic": lambda tmp: BasicBackend(),
    "local": LocalBackend,
    "wrapped": lambda tmp: Wrapper(MemoryBackend()),
}
ENDS = ["exception", "abort", "prepared abort", "collected", "sink fails"]


def test_the_matrix_names_every_codec_and_format():
    code = "from omnistorage.compression import codec_names as c; from omnistorage.formats import format_names as f; "
    printed = subprocess.run([sys.executable, "-c", code + "print(*c(), '|', *f())"], capture_output=True, text=True)
    codecs, formats = printed.stdout.split("|")
    assert set(codecs.split()) | {"none"} == set(SUFFIX)
    assert set(formats.split()) == set(FORMAT)


def end(store, path, how, count):
    record = b"a line of the log, some eighty bytes long so that a batch fills up soon enough, yes"
    of_bytes = FORMAT["lines"] in path or FORMAT["length_prefixed"] in path
    rows = [record if of_bytes else {"n": 1, "text": record.decode()}] * count
    if how == "exception":
        with pytest.raises(KeyError), open_records(store, path, "w") as writer:
            writer.write_many(rows)
            raise KeyError
    elif how == "sink fails":
        with pytest.raises(BackendUnavailable), open_records(Flaky(store, at=2, sticky=True), path, "w") as writer:
            writer.write_many(rows)
    else:
        writer = open_records(store, path, "w")
        writer.write_many(rows)
        if how == "prepared abort":
            writer.prepare()
        if how != "collected":
            writer.abort()
        del writer


COUNTS = [1, pick(default=6_000, ci=30_000, soak=30_000)]
"""One record, and more than a batch."""
DIMENSIONS = [list(BACKENDS), list(SUFFIX), list(FORMAT), ENDS, COUNTS]


def pairwise(dimensions):
    """Few cells in which every pair of values of any two dimensions meets."""
    cells = list(itertools.product(*dimensions))
    random.Random(1).shuffle(cells)
    left = {pair for cell in cells for pair in itertools.combinations(enumerate(cell), 2)}
    chosen = []
    while left:
        best = max(cells, key=lambda cell: len(left.intersection(itertools.combinations(enumerate(cell), 2))))
        left.difference_update(itertools.combinations(enumerate(best), 2))
        chosen.append(best)
    return sorted(chosen)


def in_ci():
    """Pairs of values, and every cell that writes one record."""
    return sorted({*pairwise(DIMENSIONS), *itertools.product(*DIMENSIONS[:-1], COUNTS[:1])})


def every():
    return itertools.product(*DIMENSIONS)


CELLS = list(pick(default=lambda: pairwise(DIMENSIONS), ci=in_ci, soak=every)())


def settle():
    """Wait for the step that a pool thread may still be in: it holds the sink of a writer that was dropped."""
    for _ in range(10_000):
        gc.collect()
        if all(pool._idle == pool.threads for pool in (CPU, IO)):
            return


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(("backend", "codec", "form", "how", "count"), CELLS)
def test_goal_8_no_end_of_any_stack_leaves_anything_visible(tmp_path, backend, codec, form, how, count):
    store = BACKENDS[backend](tmp_path)
    kept, new = f"kept{FORMAT[form]}{SUFFIX[codec]}", f"new/x{FORMAT[form]}{SUFFIX[codec]}"
    with open_records(store, kept, "w") as writer:
        writer.write({"old": 1} if form == "csv" else b'"old"')
    before = [(info.path, info.size) for info in store.list()]
    for path in (kept, new):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            end(store, path, how, count)
            settle()
        if how not in ("collected", "sink fails"):
            left = [str(each.message) for each in seen if issubclass(each.category, ResourceWarning)]
            assert left == [], "an abort leaves nothing to the garbage collector"
    assert [(info.path, info.size) for info in store.list()] == before
    stale = power(store, StaleUploads)
    if stale is not None:
        assert list(stale.stale_uploads(older_than=timedelta(0))) == []


KILLED_BY_DEFAULT = [(COUNTS[0], "none"), (COUNTS[1], "gzip"), (COUNTS[1], "zstd")]
KILLED = """
import sys
from omnistorage import open_records
writer = open_records(sys.argv[1], "w")
for n in range(int(sys.argv[2])):
    writer.write({"n": n, "pad": "x" * 100})
writer.flush()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("count", "codec"),
    [
        pytest.param(count, codec, marks=() if (count, codec) in KILLED_BY_DEFAULT else pytest.mark.ci_only)
        for count in COUNTS
        for codec in SUFFIX
    ],
)
def test_goal_8_a_kill_leaves_nothing_visible(tmp_path, codec, count):
    path = tmp_path / f"x.ndjson{SUFFIX[codec]}"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"ready\n"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert list(LocalBackend(tmp_path).list()) == []
    store = LocalBackend(tmp_path)
    assert store.remove_stale_uploads(older_than=timedelta(0)) == 1
    assert os.listdir(tmp_path) == []
