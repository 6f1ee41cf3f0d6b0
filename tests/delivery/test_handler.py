"""``OmniHandler``: the program's own log, shipped without a word lost in silence, a deadlock or a loop."""

from __future__ import annotations

import itertools
import logging
import logging.config
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from omnistorage import (
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    LocalBackend,
    MemoryBackend,
    RecordError,
    RollingRecordWriter,
    StorageError,
    open_records,
)
from omnistorage.delivery import OmniHandler
from omnistorage.wrappers._base import Wrapper

from .dataset_world import LEASHED, until

NUMBERS = itertools.count()
gates: list = []


@pytest.fixture
def logged(monkeypatch):
    """Makes a logger with one handler; closes what is open in the end. Troubles are collected, not printed."""
    made = []

    def make(*arguments, formatter=None, name=None, **settings):
        handler = OmniHandler(*arguments, **settings)
        handler.told = []
        handler.handleError = lambda record: handler.told.append((record, sys.exc_info()[1]))
        if formatter is not None:
            handler.setFormatter(formatter)
        logger = logging.getLogger(name or f"test-of-handlers-{next(NUMBERS)}")
        logger.setLevel(1)
        logger.propagate = False
        logger.addHandler(handler)
        made.append((logger, handler))
        return logger, handler

    yield make
    for gate in gates:  # of a test that has failed
        gate.open.set()
    gates.clear()
    for logger, handler in made:
        logger.removeHandler(handler)
        handler.close()


def rows(store):
    found = []
    for info in store.list():
        with open_records(store, info.path, "r") as reader:
            found += reader
    return found


def started(run):
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@contextmanager
def held():
    """A standard input for a child that is leashed: it closes when we are gone, however that came about."""
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(read)
        os.close(write)


class Gate(Wrapper):
    """A store whose writes wait until it is opened."""

    def __init__(self, inner):
        super().__init__(inner)
        gates.append(self)
        self.open = threading.Event()
        self.reached = threading.Event()

    def open_writer(self, path, *more):
        self.reached.set()
        assert self.open.wait(60)
        return super().open_writer(path, *more)


# -- what a record becomes ---------------------------------------------------------------------------------------------


def test_a_log_record_becomes_a_plain_record(logged):
    store = MemoryBackend()
    log, handler = logged(store, "{time:%Y}/{seq}.ndjson")
    log.warning("user %s did %d", "x", 3, extra={"request": 7, "tags": ("a", "b")})
    handler.close()
    (row,) = rows(store)
    moment = row.pop("time")
    assert abs(moment - datetime.now(UTC).timestamp()) < 60
    assert row == {
        "level": "WARNING", "logger": log.name, "message": "user x did 3", "process": os.getpid(),
        "thread": threading.current_thread().name, "request": 7, "tags": ["a", "b"],
    }  # fmt: skip
    assert [info.path for info in store.list()] == [f"{datetime.fromtimestamp(moment, UTC):%Y}/0.ndjson"]
    assert handler.progress._replace(own=0) == (1, 1, 0, 0, 0, 0, 0, 0, 0)


def test_times_may_be_iso_8601(logged):
    store = MemoryBackend()
    log, handler = logged(store, "{seq}.ndjson", time="iso")
    log.info("x")
    handler.close()
    moment = datetime.fromisoformat(rows(store)[0]["time"])
    assert moment.tzinfo == UTC
    assert abs((moment - datetime.now(UTC)).total_seconds()) < 60


def test_exceptions_and_stacks_are_text(logged):
    store = MemoryBackend()
    log, handler = logged(store, "{seq}.ndjson")
    try:
        raise ValueError("bad \udc80 name")
    except ValueError:
        log.exception("failed", stack_info=True)
    handler.close()
    (row,) = rows(store)
    assert row["message"] == "failed"
    assert row["exception"].startswith("Traceback")
    assert row["exception"].endswith("ValueError: bad \\udc80 name")
    assert "test_handler.py" in row["stack"]


def test_a_formatter_makes_the_message_and_fields_the_whole_record(logged):
    store = MemoryBackend()
    log, handler = logged(store, "{seq}.ndjson", formatter=logging.Formatter("%(levelname)s: %(message)s"))
    try:
        raise ValueError
    except ValueError:
        log.exception("n=%d", 1)
    handler.close()
    (row,) = rows(store)
    assert row["message"].startswith("ERROR: n=1\nTraceback")
    assert "exception" not in row
    store = MemoryBackend()
    log, handler = logged(store, "{who}/{seq}.ndjson", fields=lambda record: {"who": record.name[:4], "at": {1, 2}})
    log.info("x")
    handler.close()
    assert rows(store) == [{"who": "test", "at": "{1, 2}"}]
    store = MemoryBackend()
    log, handler = logged(store, "{seq}.log", fields=lambda record: record.getMessage().encode())
    log.info("a line")
    handler.close()
    assert store.peek("0.log") == b"a line\n"


def test_what_is_logged_is_what_it_was_when_it_was_logged(logged):
    store = MemoryBackend()
    gate = Gate(store)
    log, handler = logged(gate, "{seq}.ndjson")
    log.info("first")
    value, deep = [1], {"a": [1]}
    log.info("list %s", value, extra={"value": value, "deep": deep})
    value.append(2)
    deep["a"].append(2)
    gate.open.set()
    handler.close()
    row = rows(store)[1]
    assert (row["message"], row["value"], row["deep"]) == ("list [1]", [1], {"a": [1]})


def test_values_that_no_format_holds_become_their_repr_and_are_counted(logged):
    class Nasty:
        def __repr__(self):
            raise RuntimeError

    store = MemoryBackend()
    log, handler = logged(store, "{seq}.ndjson")
    endless: list = []
    endless.append(endless)
    log.info("a \udc80", extra={
        "set": {1}, "big": 1 << 70, "nasty": Nasty(), "when": datetime(2026, 1, 2, tzinfo=UTC), "cut": "\udc80",
        "price": Decimal("1.5"), "keys": {1: "x", ("a",): 2}, "level": "mine", "endless": endless, "none": None,
    })  # fmt: skip
    handler.close()
    (row,) = rows(store)
    assert row["message"] == "a \\udc80"
    assert (row["set"], row["big"], row["price"]) == ("{1}", str(1 << 70), "Decimal('1.5')")
    assert row["nasty"] == "<Nasty without a repr: RuntimeError>"
    assert (row["when"], row["cut"], row["none"]) == ("2026-01-02T00:00:00+00:00", "\\udc80", None)
    assert row["keys"] == {"1": "x", "('a',)": 2}
    assert (row["level"], row["level_"]) == ("INFO", "mine")
    assert handler.progress.repaired == 5
    assert handler.error is None


def test_a_record_that_cannot_be_made_is_told_as_logging_does_it(logged):
    store = MemoryBackend()
    log, handler = logged(store, "{seq}.ndjson")
    log.info("one %d", "x")
    log.info("fine")
    handler.close()
    assert [row["message"] for row in rows(store)] == ["fine"]
    ((record, error),) = handler.told
    assert (record.msg, type(error)) == ("one %d", TypeError)
    assert handler.progress.bad == 1


@pytest.mark.parametrize("given", [False, True])
def test_a_record_that_cannot_be_written_is_told_and_the_others_go_on(logged, given):
    store = MemoryBackend()
    template = "{user}/{seq}.ndjson"
    if given:
        log, handler = logged(RollingRecordWriter(store, template))
    else:
        log, handler = logged(store, template)
    for n in range(600):
        log.info("%d", n, extra={} if n % 100 == 50 else {"user": "u"})
    handler.close()
    handler.writer.close()
    assert [row["message"] for row in rows(store)] == [str(n) for n in range(600) if n % 100 != 50]
    assert [record.msg for record, _ in handler.told] == [str(n) for n in range(50, 600, 100)]
    assert handler.progress[:6] == (600, 594, 0, 0, 0, 6)
    assert "lacks" in str(handler.error)


def test_a_writer_that_tells_of_a_bad_record_when_it_is_flushed_goes_on(logged):
    class Late(RollingRecordWriter):
        """As one with a spool: what the template finds out, it finds out behind ``write``."""

        def flush(self):
            if self.progress.taken == 1:
                raise RecordError("the template needs a field")
            return super().flush()

    store = MemoryBackend()
    writer = Late(store, "{seq}.ndjson")
    log, handler = logged(writer)
    log.info("one")
    handler.flush()
    log.info("two")
    handler.close()
    writer.close()
    assert [row["message"] for row in rows(store)] == ["one", "two"]
    assert [type(error) for _, error in handler.told] == [RecordError]
    assert (handler.progress.bad, handler.progress.lost) == (1, 0)


# -- the queue ---------------------------------------------------------------------------------------------------------


def test_a_full_queue_drops_counts_and_tells_in_a_line_of_its_own(logged):
    store = MemoryBackend()
    gate = Gate(store)
    log, handler = logged(gate, "{seq}.ndjson", queue_size=10, when_full="drop")
    log.info("first")
    assert gate.reached.wait(60)
    for n in range(15):
        log.info("%d", n)
    assert (handler.progress.dropped, handler.progress.taken, handler.progress.queued) == (5, 11, 11)
    gate.open.set()
    handler.flush()
    log.info("last")
    handler.close()
    found = rows(store)
    assert [row["message"] for row in found if "dropped" not in row] == ["first", *map(str, range(10)), "last"]
    (line,) = [row for row in found if "dropped" in row]
    assert (line["dropped"], line["level"]) == (5, "WARNING")
    assert line["message"] == "5 log records were dropped: the queue was full"


def test_a_full_queue_blocks_until_there_is_room(logged):
    store = MemoryBackend()
    gate = Gate(store)
    log, handler = logged(gate, "{seq}.ndjson", queue_size=10)
    log.info("first")
    assert gate.reached.wait(60)
    for n in range(10):
        log.info("%d", n)
    blocked = started(lambda: [log.info("%d", n) for n in range(10, 40)])
    until(lambda: handler._waiting)
    assert handler.lock.acquire(blocking=False), "who waits for room holds up nobody but itself"
    handler.lock.release()
    assert (handler.progress.taken, handler.progress.dropped) == (11, 0)
    gate.open.set()
    blocked.join(60)
    handler.close()
    assert [row["message"] for row in rows(store)] == ["first", *map(str, range(40))]


def test_many_threads_log_and_nothing_is_lost(logged):
    store = MemoryBackend()
    log, handler = logged(store, "{seq}.ndjson", queue_size=50)
    threads = [
        threading.Thread(target=lambda name=name: [log.info("%s", (name, n)) for n in range(500)]) for name in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.close()
    found = [row["message"] for row in rows(store)]
    assert sorted(found) == sorted(str((name, n)) for name in range(4) for n in range(500))
    for name in range(4):
        mine = [message for message in found if message.startswith(f"({name}")]
        assert mine == [str((name, n)) for n in range(500)], "those of one thread stay in order"


def test_a_record_that_comes_as_the_handler_goes_to_sleep_wakes_it(logged):
    asked = threading.Event()

    class Asked(threading.Condition):
        """Tells when another thread wants it."""

        def __enter__(self):
            if threading.current_thread().name == "late":
                asked.set()
            return super().__enter__()

    class Seen(deque):
        """Has something put in right behind the look that found it empty."""

        def __bool__(self):
            there = len(self) > 0
            if not there and threading.current_thread().name == "omnistorage-log" and not late.ident:
                late.start()
                until(lambda: asked.is_set() or not late.is_alive())
            return there

    store = MemoryBackend()
    log, handler = logged(store, "{seq}.ndjson")
    late = threading.Thread(target=lambda: log.info("late"), name="late")
    handler._queue, handler._changed = Seen(), Asked()
    log.info("first")
    until(lambda: handler.progress.handed == 2)
    late.join()
    handler.close()
    assert [row["message"] for row in rows(store)] == ["first", "late"]


# -- never about itself ------------------------------------------------------------------------------------------------


class Chatty(Wrapper):
    """A store that logs about every write, as clients do, into the very logger whose records it stores."""

    def __init__(self, inner, logger):
        super().__init__(inner)
        self.logger = logger

    def _forward(self, op, path, run):
        logging.getLogger(self.logger).warning("%s %s", op, path)
        return super()._forward(op, path, run)


def test_what_its_own_threads_log_is_not_shipped_into_itself(logged):
    store = MemoryBackend()
    log, handler = logged(Chatty(store, "chatty"), "{seq}.ndjson.zst", name="chatty", queue_size=1, roll_records=5)
    thread = started(lambda: [log.info("%d", n) for n in range(50)])
    thread.join(10)
    assert not thread.is_alive(), "the handler waits for itself"
    handler.close()
    assert [row["message"] for row in rows(store)] == [str(n) for n in range(50)]
    assert handler.progress.own >= 10


def test_records_of_omnistorages_own_loggers_are_not_shipped(logged):
    store = MemoryBackend()
    log, handler = logged(store, "{seq}.ndjson", name="omnistorage.something")
    log.warning("about itself")
    other = logging.getLogger("omnistorages")
    other.addHandler(handler)
    other.warning("about others")
    other.removeHandler(handler)
    handler.close()
    assert [row["message"] for row in rows(store)] == ["about others"]
    assert handler.progress.own == 1


# -- failures ----------------------------------------------------------------------------------------------------------


class Broken(Wrapper):
    """A store that takes no object."""

    def open_writer(self, path, *more):
        raise BackendUnavailable("the store is away", path=path)


def test_a_store_that_fails_is_told_once_and_what_is_lost_is_counted(logged):
    log, handler = logged(Broken(MemoryBackend()), "{seq}.ndjson")
    for n in range(10):
        log.info("%d", n)
    handler.flush()
    for n in range(10):
        log.info("%d", n)
    handler.close()
    assert isinstance(handler.error, BackendUnavailable)
    assert [type(error) for _, error in handler.told] == [BackendUnavailable]
    assert handler.progress.lost == 20
    assert handler.progress.queued == 0


def test_who_waits_for_room_is_let_go_when_the_store_fails(logged):
    gate = Gate(Broken(MemoryBackend()))
    log, handler = logged(gate, "{seq}.ndjson", queue_size=1)
    thread = started(lambda: [log.info("%d", n) for n in range(5)])
    until(lambda: handler._waiting)
    gate.open.set()
    thread.join(10)
    assert not thread.is_alive()
    handler.close()
    assert handler.progress.lost == 5


def test_without_raise_exceptions_nothing_is_printed(logged, monkeypatch, capsys):
    for printed in (True, False):
        monkeypatch.setattr(logging, "raiseExceptions", printed)
        log, handler = logged(Broken(MemoryBackend()), "{seq}.ndjson")
        del handler.handleError
        log.info("x")
        handler.close()
        assert ("the store is away" in capsys.readouterr().err) is printed


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
    handler._thread.join(60)
    assert [row["message"] for row in rows(store)] == ["x"]


def test_a_handler_that_never_logged_closes(logged):
    _, handler = logged(MemoryBackend(), "{seq}.ndjson")
    handler.flush()
    handler.close()
    assert handler._thread is None
    assert handler.error is None


_PROGRAM = """
import logging, sys
from omnistorage import LocalBackend
from omnistorage.delivery import OmniHandler
handler = OmniHandler(LocalBackend(sys.argv[1]), "{time:%Y}/{seq}.ndjson.zst", roll_records=400)
logging.getLogger().setLevel(logging.INFO)
logging.getLogger().addHandler(handler)
for n in range(1000):
    logging.info("%d", n)
if len(sys.argv) > 2:
    raise SystemExit(3)
"""


@pytest.mark.parametrize("ends", [[], ["early"]])
def test_a_program_that_ends_has_its_log_published(tmp_path, ends):
    with held() as stdin:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", LEASHED + _PROGRAM, tmp_path / "out", *ends],
            stdin=stdin, capture_output=True, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (3 if ends else 0, b"")
    assert [row["message"] for row in rows(LocalBackend(tmp_path / "out"))] == [str(n) for n in range(1000)]


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
        for n in range(100):
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


def test_a_forked_child_neither_writes_nor_waits(tmp_path):
    with held() as stdin:
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", LEASHED + _FORKING, tmp_path / "out"],
            stdin=stdin, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = [row["message"] for row in rows(LocalBackend(tmp_path / "out"))]
    assert found[-1] == "parent"
    assert set(found) == {"chatter", "parent"}


@contextmanager
def endless(folder):
    """A program that logs for ever, killed in the end."""
    program = LEASHED + _PROGRAM.replace("range(1000)", "__import__('itertools').count()")
    child = subprocess.Popen(
        [sys.executable, "-c", program, folder / "out"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdin.close()


def test_a_program_of_these_tests_ends_when_they_are_gone(tmp_path):
    with endless(tmp_path) as child:
        child.stdin.close()
        assert child.wait(60) == -signal.SIGKILL


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
