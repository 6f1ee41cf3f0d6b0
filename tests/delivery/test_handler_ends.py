"""How an ``OmniHandler`` ends: flushes, closes, exits and forks."""

from __future__ import annotations

import logging
import logging.config
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from omnistorage import (
    ConfigError,
    DeadlineExceeded,
    LocalBackend,
    MemoryBackend,
    RollingRecordWriter,
    S3Backend,
    StorageError,
)
from omnistorage.delivery import OmniHandler

from .. import servers
from ..waiting import LIMIT
from .dataset_world import LEASHED
from .logging_world import _PROGRAM, Gate, endless, rows


@contextmanager
def held():
    """A standard input for a child that is leashed: it closes when we are gone, however that came about."""
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(read)
        os.close(write)


# -- flush, close, exit, fork ------------------------------------------------------------------------------------------


def test_flush_waits_until_all_is_with_the_writer_and_flushed_there(logged):
    class Noting(RollingRecordWriter):
        flushed = -1

        def flush(self):
            done = super().flush()
            self.flushed = self.progress.taken
            return done

    writer = Noting(MemoryBackend(), "{seq}.ndjson")
    log, handler = logged(writer)
    for count in (1, 300, 1000):
        for n in range(count):
            log.info("%d", n)
        handler.flush()
        assert writer.flushed == handler.progress.taken
    handler.flush()
    handler.close()
    writer.close()


def test_a_writer_that_was_given_is_flushed_and_left_open(logged):
    store = MemoryBackend()
    writer = RollingRecordWriter(store, "{seq}.ndjson")
    log, handler = logged(writer)
    log.info("x")
    handler.close()
    handler.close()
    log.info("too late")
    assert handler.progress.lost == 1
    assert rows(store) == []
    writer.write({"message": "mine"})
    writer.close()
    assert [row["message"] for row in rows(store)] == ["x", "mine"]


def test_close_and_flush_end_at_their_deadline(logged):
    store = MemoryBackend()
    gate = Gate(store)
    log, handler = logged(gate, "{seq}.ndjson", timeout=0.05)
    log.info("x")
    handler.flush()
    assert isinstance(handler.error, DeadlineExceeded)
    handler.close()
    assert [type(error) for _, error in handler.told] == [DeadlineExceeded] * 2
    assert rows(store) == []
    gate.open.set()
    handler._thread.join(LIMIT)
    assert [row["message"] for row in rows(store)] == ["x"]


def test_a_handler_that_never_logged_closes(logged):
    _, handler = logged(MemoryBackend(), "{seq}.ndjson")
    handler.flush()
    handler.close()
    assert handler._thread is None
    assert handler.error is None


@pytest.mark.parametrize("ends", [[], ["early"]])
def test_a_program_that_ends_has_its_log_published(tmp_path, ends):
    with held() as stdin:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", LEASHED + _PROGRAM, tmp_path / "out", *ends],
            stdin=stdin, capture_output=True, timeout=LIMIT,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (3 if ends else 0, b"")
    assert [row["message"] for row in rows(LocalBackend(tmp_path / "out"))] == [str(n) for n in range(1000)]


_SHORT = """
import logging, sys
from omnistorage.delivery import OmniHandler
handler = OmniHandler(sys.argv[1], "{id}.ndjson")
logging.getLogger().addHandler(handler)
logging.getLogger().warning("disk is nearly full")
"""


def test_a_program_that_ends_at_once_has_its_log_published_in_a_bucket():
    """The SDK is imported while the program ends."""
    info = servers.server("moto")
    url = f"s3://{info['bucket']}/short-{os.getpid()}?endpoint_url={info['endpoint']}"
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _SHORT, url],
        env={**os.environ, **keys},
        capture_output=True,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    with S3Backend(
        info["bucket"], f"short-{os.getpid()}", endpoint_url=info["endpoint"], vendor="moto",
        access_key="a", secret_key="b", region="us-east-1",
    ) as store:  # fmt: skip
        assert [row["message"] for row in rows(store)] == ["disk is nearly full"]


_FORKING = """
import logging, os, signal, sys, threading
from omnistorage import LocalBackend
from omnistorage.delivery import OmniHandler
handler = OmniHandler(LocalBackend(sys.argv[1]), "{seq}.ndjson", queue_size=5)
log = logging.getLogger()
log.setLevel(logging.INFO)
log.addHandler(handler)
stop = threading.Event()
def chatter():
    while not stop.is_set():
        log.info("chatter")
thread = threading.Thread(target=chatter, daemon=True)
thread.start()
for _ in range(20):
    handler._changed.acquire()  # whoever forks while a lock is held has it held for ever in the child
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        log.info("x" * 10**6)
        for n in range(99):
            log.info("child")
        handler.flush()
        assert handler.progress.refused == 100, handler.progress
        handler.close()
        os._exit(0)
    handler._changed.release()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
stop.set()
thread.join()
log.info("parent")
"""


def test_a_forked_child_neither_writes_nor_waits_and_tells_once_in_few_words(tmp_path):
    with held() as stdin:
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", LEASHED + _FORKING, tmp_path / "out"],
            stdin=stdin, capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr.count("--- Logging error ---") == 20  # which logging writes: one for each child
    assert 20 * 200 <= done.stderr.count("x") < 20 * 1000
    found = [row["message"] for row in rows(LocalBackend(tmp_path / "out"))]
    assert found[-1] == "parent"
    assert set(found) == {"chatter", "parent"}


def test_a_program_of_these_tests_ends_when_they_are_gone(tmp_path):
    with endless(tmp_path) as child:
        child.stdin.close()
        assert child.wait(LIMIT) == -signal.SIGKILL


def test_a_killed_program_leaves_only_whole_objects(tmp_path):
    (tmp_path / "out").mkdir()
    store = LocalBackend(tmp_path / "out")
    with endless(tmp_path) as child:
        while sum(1 for _ in store.list()) < 3:
            assert child.poll() is None
    found = [int(row["message"]) for row in rows(store)]
    assert len(found) >= 1200
    for at in range(0, len(found), 400):  # several are published at a time: one may be missing between two others
        assert found[at : at + 400] == list(range(found[at], found[at] + 400))


def test_logging_configures_it_from_a_table(tmp_path):
    table = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "store": {
                "class": "omnistorage.delivery.OmniHandler", "level": "WARNING", "target": f"file://{tmp_path}",
                "template": "{logger}/{seq}.ndjson", "queue_size": 100, "when_full": "drop",
            }
        },
        "loggers": {"from-a-table": {"handlers": ["store"], "propagate": False}},
    }  # fmt: skip
    logging.config.dictConfig(table)
    logger = logging.getLogger("from-a-table")
    (handler,) = logger.handlers
    logger.info("no")
    logger.warning("yes")
    logger.removeHandler(handler)
    handler.close()
    assert [row["message"] for row in rows(LocalBackend(tmp_path))] == ["yes"]


def test_settings_are_checked():
    store = MemoryBackend()
    for settings in ({"queue_size": 0}, {"queue_size": 1.5}, {"when_full": "raise"}, {"time": "utc"}):
        with pytest.raises(ConfigError):
            OmniHandler(store, "{seq}.ndjson", **settings)
    with pytest.raises(ConfigError, match="a target, a template and settings"):
        OmniHandler(store)
    writer = RollingRecordWriter(store, "{seq}.ndjson")
    with pytest.raises(ConfigError, match="a target, a template and settings"):
        OmniHandler(writer, roll_age=1)
    writer.close()
    with pytest.raises(StorageError):
        OmniHandler(store, "constant.ndjson")
