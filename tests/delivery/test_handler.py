"""``OmniHandler``: the program's own log, shipped without a word lost in silence, a deadlock or a loop."""

from __future__ import annotations

import logging
import logging.config
import os
import threading
from collections import deque
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from omnistorage import BackendUnavailable, ConfigError, MemoryBackend, NotFound, RecordError, RollingRecordWriter
from omnistorage.concurrency.retry import Backoff
from omnistorage.delivery import OmniHandler
from omnistorage.wrappers.base import Wrapper

from ..waiting import LIMIT, until
from .conftest import Down
from .logging_world import Gate, rows


def started(run):
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


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
    assert gate.reached.wait(LIMIT)
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
    assert gate.reached.wait(LIMIT)
    for n in range(10):
        log.info("%d", n)
    blocked = started(lambda: [log.info("%d", n) for n in range(10, 40)])
    until(lambda: handler._waiting)
    assert handler.lock.acquire(blocking=False), "who waits for room holds up nobody but itself"
    handler.lock.release()
    assert (handler.progress.taken, handler.progress.dropped) == (11, 0)
    gate.open.set()
    blocked.join(LIMIT)
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
    thread.join(LIMIT)
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
    thread.join(LIMIT)
    assert not thread.is_alive()
    handler.close()
    assert handler.progress.lost + handler.progress.dropped == 5


def said(store):
    return [row["message"] for row in rows(store)]


def test_a_handler_goes_on_when_the_store_is_back(logged):
    store = Down(MemoryBackend())
    log, handler = logged(store, "{seq:06d}.ndjson", roll_records=5, backoff=Backoff(base=0))
    for n in range(10):
        log.info("%d", n)
    handler.flush()
    for _ in range(2):
        log.info("lost with its writer")
        until(lambda: not handler.progress.queued)
        store.down = True
        for n in range(20):
            log.info("lost %d", n)
        until(lambda: handler._failing)
        store.down = False
        log.info("back")
        until(lambda: not handler._failing)
    log.info("last")
    handler.close()
    found, progress = said(store.inner), handler.progress
    assert found[:10] == [str(n) for n in range(10)]
    assert found[-1] == "last"
    lines = [message for message in found if "records were lost" in message]
    assert sum(int(line.split()[0]) for line in lines) == progress.lost > 0
    assert len(found) - len(lines) == progress.taken - progress.lost
    assert progress.queued == 0
    assert [type(error) for _, error in handler.told] == [BackendUnavailable, BackendUnavailable], "each outage once"


@pytest.mark.parametrize("when_full", ["block", "drop"])
def test_in_an_outage_a_full_queue_drops_and_the_rest_is_published(logged, when_full):
    store = Down(MemoryBackend(), down=True)
    log, handler = logged(
        store, "{seq:03d}.ndjson", roll_records=1, queue_size=20, when_full=when_full, backoff=Backoff(base=1e6)
    )
    log.info("first")
    until(lambda: handler._failing)
    for n in range(50):
        log.info("%d", n)
    store.down = False
    handler.close()
    progress = handler.progress
    assert (progress.lost, progress.dropped, progress.queued) == (0, 31, 0)
    assert said(store.inner) == ["first", *map(str, range(19)), "31 log records were dropped: the queue was full"]


def test_a_handler_without_a_store_at_its_begin_waits_for_it(logged):
    store = Down(MemoryBackend(), down=True)
    store.error = lambda path: NotFound("no such bucket", path=path)
    log, handler = logged(store, "{id}.ndjson", roll_records=1, backoff=Backoff(base=0))
    log.info("first")
    until(lambda: handler._failing)
    store.down = False
    log.info("second")
    handler.close()
    assert sorted(said(store.inner)) == ["first", "second"]


def test_a_writer_that_was_given_is_not_made_anew(logged):
    store = Down(MemoryBackend(), down=True)
    writer = RollingRecordWriter(store, "{seq}.ndjson", roll_records=1)
    log, handler = logged(writer)
    log.info("1")
    handler.flush()
    store.down = False
    log.info("2")
    handler.close()
    assert handler.progress.lost > 0
    assert said(store.inner) == []
    writer.abort()


def test_without_raise_exceptions_nothing_is_printed(logged, monkeypatch, capsys):
    for printed in (True, False):
        monkeypatch.setattr(logging, "raiseExceptions", printed)
        log, handler = logged(Broken(MemoryBackend()), "{seq}.ndjson")
        del handler.handleError
        log.info("x")
        handler.close()
        said = capsys.readouterr().err
        assert ("the store is away" in said, "progress.lost counts" in said) == (printed, printed)


@pytest.mark.parametrize("name", ["rol_age", "queue_siz", "bad_option", "_crew"])
def test_a_setting_that_there_is_not_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        OmniHandler(MemoryBackend(), "{seq}.ndjson", **{name: 1})
