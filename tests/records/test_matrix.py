"""Goal 8: however a write ends, on every backend, codec and format, nothing is visible that was not published."""

import gc
import os
import signal
import subprocess
import sys
import warnings

import pytest

from omnistorage import BackendUnavailable, LocalBackend, MemoryBackend, open_records
from omnistorage.core import StaleUploads, power
from omnistorage.testing import BasicBackend, Flaky
from omnistorage.wrappers._base import Wrapper

SUFFIX = {"none": "", "gzip": ".gz", "zstd": ".zst"}
FORMAT = {"ndjson": ".ndjson", "lines": ".log"}
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
    rows = (
        [record] * count
        if path.endswith((".log", ".log.gz", ".log.zst"))
        else [{"n": 1, "text": record.decode()}] * count
    )
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


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("codec", SUFFIX)
@pytest.mark.parametrize("form", FORMAT)
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("count", [1, 30_000])
def test_goal_8_no_end_of_any_stack_leaves_anything_visible(tmp_path, backend, codec, form, how, count):
    store = BACKENDS[backend](tmp_path)
    kept, new = f"kept{FORMAT[form]}{SUFFIX[codec]}", f"new/x{FORMAT[form]}{SUFFIX[codec]}"
    with open_records(store, kept, "w") as writer:
        writer.write(b'"old"')
    before = [(info.path, info.size) for info in store.list()]
    for path in (kept, new):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            end(store, path, how, count)
            for _ in range(3):
                gc.collect()
    assert [(info.path, info.size) for info in store.list()] == before
    stale = power(store, StaleUploads)
    if stale is not None:
        from datetime import timedelta

        assert list(stale.stale_uploads(older_than=timedelta(0))) == []


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


@pytest.mark.parametrize("codec", SUFFIX)
@pytest.mark.parametrize("count", [1, 30_000])
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
    from datetime import timedelta

    assert store.remove_stale_uploads(older_than=timedelta(0)) == 1
    assert os.listdir(tmp_path) == []
