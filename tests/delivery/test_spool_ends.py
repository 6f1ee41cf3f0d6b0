"""How a writer with a spool ends, and what it leaves to the next."""

from __future__ import annotations

import gc
import logging
import os
import pathlib
import stat
import subprocess
import sys
import threading
import warnings

import pytest

from omnistorage import ConfigError, MemoryBackend, PermissionDenied, StorageError, WriterClosed
from omnistorage.concurrency.cancellation import CancelScope, deadline
from omnistorage.segments import examine

from ..waiting import LIMIT, until
from .conftest import Down, contents, numbers
from .spooling import spooled


@pytest.mark.parametrize("end", ["abort", "exception"])
def test_what_the_spool_accepted_stays_there_and_is_delivered_by_the_next_one(tmp_path, end):
    store = MemoryBackend()
    writer = spooled(store, tmp_path, roll_records=10)
    if end == "abort":
        writer.write_many({"n": n} for n in range(5))
        writer.abort()
        writer.abort()
        with pytest.raises(WriterClosed):
            writer.write({"n": 9})
    else:
        with pytest.raises(KeyError), writer:
            writer.write_many({"n": n} for n in range(5))
            raise KeyError
    assert numbers(store) == [], "what is open is discarded"
    assert (writer.progress.spooled, examine(tmp_path).entries) == (5, 5)
    with spooled(store, tmp_path, roll_records=10) as writer:
        writer.write({"n": 5})
    assert contents(store) == {"0000.ndjson": [{"n": n} for n in range(6)]}


def test_pain_3_an_exception_can_publish_instead(tmp_path):
    store = MemoryBackend()
    with pytest.raises(KeyError), spooled(store, tmp_path, on_exception="commit_whole_records") as writer:
        writer.write({"n": 1})
        raise KeyError
    assert numbers(store) == [1]


def test_pain_2_a_dropped_writer_warns_publishes_nothing_and_keeps_the_spool(tmp_path):
    store = MemoryBackend()
    writer = spooled(store, tmp_path, spool={"fsync_interval": 3600.0})
    writer.write_many({"n": n} for n in range(5))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        del writer
        gc.collect()
    assert any("stays in the spool" in str(one.message) for one in seen)
    until(lambda: not examine(tmp_path).open)
    assert (numbers(store), examine(tmp_path).entries) == ([], 5), "what was gathered in memory is there too"
    with spooled(store, tmp_path):
        pass
    assert numbers(store) == list(range(5))


@pytest.mark.parametrize("opened", ["RollingRecordWriter('o', '{id}.ndjson', spool=Spool('s'))", "open('o/x', 'wb')"])
def test_what_a_program_forgets_at_its_end_is_told(tmp_path, opened):
    program = f"from omnistorage import *\nw = {opened}\nw.write({{'n': 1}} if hasattr(w, 'write_many') else b'x')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=LIMIT
    )
    assert "dropped without close" in done.stderr
    assert not any(path.is_file() for path in tmp_path.glob("o/*"))


def test_pain_2_a_dropped_writer_is_collected_also_after_an_error(tmp_path):
    store = Down(MemoryBackend(), down=True)
    writer = spooled(store, tmp_path)
    writer.write({"n": 1})
    with pytest.raises(StorageError):
        writer.roll()
    with pytest.raises(ConfigError):
        writer.write({"n": 2}, sequence=7)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        del writer
        gc.collect()
    assert any("stays in the spool" in str(one.message) for one in seen)
    until(lambda: not examine(tmp_path).open)


def test_a_close_without_a_store_leaves_the_rest_in_the_spool_and_says_so(tmp_path, caplog):
    store = Down(MemoryBackend(), down=True)
    writer = spooled(store, tmp_path, spool={"close_timeout": 0.05})
    writer.write_many({"n": n} for n in range(5))
    until(lambda: writer.progress.last_error)
    with caplog.at_level(logging.WARNING):
        final = writer.close()
    assert (final.spooled, final.durable, final.records) == (5, 4, 0)
    assert "the store is away" in final.last_error
    assert "5 records" in caplog.text
    assert writer.close() == final == writer.progress
    store.down = False
    with spooled(store, tmp_path):
        pass
    assert numbers(store) == list(range(5))


@pytest.mark.parametrize("end", ["deadline", "cancelled"])
def test_a_close_obeys_deadlines_and_cancellation(tmp_path, end):
    writer = spooled(Down(MemoryBackend(), down=True), tmp_path, spool={"close_timeout": 3600.0})
    writer.write({"n": 1})
    if end == "deadline":
        with deadline(0.05):
            assert writer.close().spooled == 1
    else:
        with CancelScope() as scope:
            threading.Timer(0.05, scope.cancel).start()
            assert writer.close().spooled == 1


def test_a_close_that_waits_is_cut_short_by_an_abort(tmp_path):
    writer = spooled(Down(MemoryBackend(), down=True), tmp_path, spool={"close_timeout": 3600.0})
    writer.write({"n": 1})
    closing = threading.Thread(target=writer.close)
    closing.start()
    until(lambda: writer.progress.last_error is not None)
    writer.abort()
    closing.join(LIMIT)
    assert not closing.is_alive()
    assert examine(tmp_path).entries == 1


def test_a_store_that_hangs_holds_nobody_up_for_ever(tmp_path):
    inside, go_on = threading.Event(), threading.Event()

    class Hangs(Down):
        def _check(self, path):
            inside.set()
            go_on.wait(LIMIT)

    writer = spooled(Hangs(MemoryBackend()), tmp_path, spool={"close_timeout": 0.05, "_patience": 0.05})
    writer.write({"n": 1})
    writer.flush()
    assert inside.wait(LIMIT)
    try:
        assert writer.close().spooled == 1
    finally:
        go_on.set()
    until(lambda: not examine(tmp_path).open)


def test_a_second_writer_on_the_folder_is_refused(tmp_path):
    store = MemoryBackend()
    with spooled(store, tmp_path) as writer:
        with pytest.raises(PermissionDenied, match=str(tmp_path)):
            spooled(store, tmp_path)
        code = (
            "import sys; from omnistorage.delivery import *; from omnistorage import *\n"
            "try:\n RollingRecordWriter(MemoryBackend(), '{seq}.log', spool=Spool(sys.argv[1]))\n"
            "except PermissionDenied: print('refused')"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("refused\n", "")
        writer.write({"n": 1})
    assert numbers(store) == [1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_pain_9_a_forked_child_cannot_use_the_writer_and_does_not_keep_the_lock(tmp_path):
    store = MemoryBackend()
    writer = spooled(store, tmp_path)
    writer.write({"n": 1})
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            for call in (lambda: writer.write({"n": 2}), writer.close, writer.flush, writer.abort, writer.roll):
                with pytest.raises(WriterClosed):
                    call()
            os.read(read, 1)
            os._exit(0)
        except BaseException:
            os._exit(1)
    try:
        writer.close()
        with spooled(store, tmp_path) as writer:  # while the child, and its copy of the lock, still lives
            writer.write({"n": 3})
    finally:
        os.write(write, b"x")
        status = os.waitpid(child, 0)[1]
        os.close(read)
        os.close(write)
    assert status == 0
    assert numbers(store) == [1, 3]


@pytest.mark.parametrize("template", [None, "{source}-{start}.ndjson"])
def test_goal_45_the_folder_is_0700_and_its_files_0600_under_any_umask(tmp_path, template):
    settings = {} if template is None else {"template": template, "names": "deterministic", "source": "s"}
    before = os.umask(0)
    try:
        with spooled(MemoryBackend(), tmp_path / "s", **settings) as writer:
            writer.write({"n": 1})
            writer.flush()
    finally:
        os.umask(before)
    folder = pathlib.Path(tmp_path / "s")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
