"""Drains: what is published in time, what is left where time runs out, and what a spool keeps."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from omnistorage import ConfigError, DeadlineExceeded, LocalBackend, MemoryBackend, StorageError, WriterClosed
from omnistorage.concurrency.cancellation import CancelScope, deadline
from omnistorage.delivery import RollingRecordWriter
from omnistorage.segments import examine

from ..waiting import LIMIT, until
from .conftest import Down, ManualTimer, contents, numbers
from .hanging import FAR, Beside
from .spooling import spooled

# -- in time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", [FAR, timedelta(hours=1)])
def test_a_drain_publishes_all_and_takes_no_more(timer, within):
    store = MemoryBackend()
    writer = RollingRecordWriter(store, "{k}/{seq}.ndjson", timer=timer, roll_records=40)
    for n in range(100):
        writer.write({"k": n % 3, "n": n})
    final = writer.drain(within)
    assert (final.records, final.durable, final.open, final.closing) == (100, 99, 0, 0)
    assert sorted(numbers(store)) == list(range(100))
    for call in (lambda: writer.write({"k": 0}), lambda: writer.write_many([1]), writer.flush, writer.roll):
        with pytest.raises(WriterClosed):
            call()
    assert writer.drain(within) == writer.close() == writer.progress == final
    writer.abort()
    assert sorted(numbers(store)) == list(range(100))


def test_a_drain_after_close_is_the_close_and_after_abort_there_is_none(timer):
    store = MemoryBackend()
    writer = RollingRecordWriter(store, "{seq}.ndjson", timer=timer)
    writer.write({"n": 1})
    assert writer.close() == writer.drain(1)
    aborted = RollingRecordWriter(store, "x/{seq}.ndjson", timer=timer)
    aborted.abort()
    with pytest.raises(WriterClosed, match="aborted"):
        aborted.drain(1)


@pytest.mark.parametrize("within", [0, -1, float("inf"), None, True, "soon"])
def test_a_deadline_is_a_number_of_seconds(within):
    with RollingRecordWriter(MemoryBackend(), "{seq}.ndjson") as writer, pytest.raises(ConfigError, match="within"):
        writer.drain(within)


def test_a_drain_lets_the_call_under_way_end_and_refuses_the_next_at_once(timer, hangs):
    store = hangs("write")
    writer = RollingRecordWriter(store, "{seq}.ndjson", timer=timer)
    writer.write({"n": 0})
    inside = Beside(writer.flush)
    assert store.inside.wait(LIMIT)
    drained = Beside(lambda: writer.drain(FAR))
    until(lambda: writer._front._state == "drained")
    waiting = Beside(lambda: writer.write({"n": 1}))
    store.freed.set()
    assert inside.result() == -1
    assert drained.result().records == 1
    with pytest.raises(WriterClosed, match=r"drained|closed"):
        waiting.result()
    assert numbers(store.inner) == [0]


def test_what_the_store_refuses_is_raised_and_the_rest_is_discarded(timer):
    store = Down(MemoryBackend())
    writer = RollingRecordWriter(store, "{seq}.ndjson", timer=timer)
    writer.write({"n": 1})
    store.down = True
    with pytest.raises(StorageError, match="away"):
        writer.drain(FAR)
    with pytest.raises(StorageError, match="away"):
        writer.close()
    assert (list(store.inner.list()), writer.durable) == ([], -1)


def test_an_exception_in_the_block_lets_a_drain_end(timer, hangs):
    store = hangs()
    with pytest.raises(KeyError), RollingRecordWriter(store, "{seq}.ndjson", timer=timer) as writer:
        writer.write({"n": 1})
        drained = Beside(lambda: writer.drain(FAR))
        assert store.inside.wait(LIMIT)
        store.freed.set()
        raise KeyError
    assert drained.result().records == 1
    assert numbers(store.inner) == [1]


def test_a_close_meanwhile_waits_for_the_drain(timer, hangs):
    store = hangs()
    writer = RollingRecordWriter(store, "{seq}.ndjson", timer=timer)
    writer.write({"n": 1})
    ends = [Beside(lambda: writer.drain(FAR))]
    assert store.inside.wait(LIMIT)
    ends += [Beside(writer.close), Beside(lambda: writer.drain(FAR))]
    store.freed.set()
    assert [end.result().records for end in ends] == [1, 1, 1]


# -- too late ----------------------------------------------------------------------------------------------------------


def late(writer, timer, ready=lambda: True):
    """The error of a drain whose time is over once ``ready()``."""
    drained = Beside(lambda: writer.drain(25))
    until(lambda: 25.0 in [entry[0] for entry in timer.waiting])
    until(ready)
    timer.advance(24)
    assert drained.thread.is_alive()
    timer.advance(1)
    with pytest.raises(DeadlineExceeded) as caught:
        drained.result()
    return caught.value


def test_a_store_that_hangs_is_left_at_the_deadline_and_what_is_missing_is_told(timer, hangs):
    store = hangs(paths="b/")
    writer = RollingRecordWriter(store, "{k}/{seq}.ndjson", timer=timer)
    writer.write_many({"k": "aab"[n % 3], "n": n} for n in range(10))
    error = late(writer, timer, lambda: store.inside.is_set() and writer.durable == 1)
    assert "3 records" in str(error)
    assert "from number 2 on" in str(error)
    assert writer.durable == 1
    assert (writer.progress.taken, writer.progress.records) == (10, 7)
    assert list(contents(store.inner)) == ["a/0.ndjson"]
    for call in (lambda: writer.write({"k": "a"}), writer.flush, writer.close, lambda: writer.drain(1)):
        with pytest.raises(DeadlineExceeded):
            call()
    writer.abort()


def test_what_waits_behind_the_one_that_hangs_is_discarded(timer, hangs):
    store = hangs()
    writer = RollingRecordWriter(store, "{seq:02d}.ndjson", timer=timer, roll_records=1)
    writer.write_many({"n": n} for n in range(10))
    assert "10 records" in str(late(writer, timer))
    store.freed.set()
    until(lambda: not writer._front._commits.waiting)
    appeared = numbers(store.inner)
    assert len(appeared) <= 4, "no more than those that were just being published"
    assert writer.progress.records == len(appeared), "and what appears is counted"


@pytest.mark.parametrize("heeds", [True, False])
def test_who_is_stuck_inside_does_not_hold_up_the_drain(timer, hangs, heeds):
    store = hangs("write", heeds=heeds)
    writer = RollingRecordWriter(store, "{seq}.ndjson", timer=timer)
    writer.write({"n": 0})
    stuck = Beside(writer.flush)
    assert store.inside.wait(LIMIT)
    assert "1 records were not published in time: from number 0 on" in str(late(writer, timer))
    with pytest.raises(DeadlineExceeded):
        writer.write({"n": 1})
    assert (writer.durable, writer.progress.taken) == (-1, 1)
    store.freed.set()
    if heeds:
        with pytest.raises(StorageError):
            stuck.result()
    stuck.thread.join(LIMIT)
    until(lambda: not writer._front._objects.open)
    assert list(store.inner.list()) == [], "what came too late is not published behind everybody's back"


def test_what_hangs_is_aborted_at_the_deadline(timer, hangs):
    store = hangs("write", heeds=True)
    writer = RollingRecordWriter(store, "{seq}.ndjson", timer=timer)
    writer.write({"n": 0})
    stuck = Beside(writer.flush)
    assert store.inside.wait(LIMIT)
    late(writer, timer)
    assert store.freed.is_set()
    with pytest.raises(StorageError):
        stuck.result()


def test_what_was_rolled_is_still_published_when_the_program_ends(tmp_path):
    code = (
        "import sys, threading\n"
        "from omnistorage import *\n"
        "class Slow(LocalBackend):\n"
        "    def open_writer(self, path, *options):\n"
        "        writer = super().open_writer(path, *options)\n"
        "        close = writer.close\n"
        "        writer.close = lambda: (threading.main_thread().join(), close())[1]\n"
        "        return writer\n"
        "writer = RollingRecordWriter(Slow(sys.argv[1]), '{seq}.ndjson', roll_records=2)\n"
        "writer.write_many({'n': n} for n in range(5))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["a rolling writer was dropped without close; records lost: 1"]
    assert numbers(LocalBackend(tmp_path)) == [0, 1, 2, 3]


def test_who_waits_for_room_is_let_go_at_the_deadline(timer, hangs):
    store = hangs()
    writer = RollingRecordWriter(store, "{seq}.ndjson", timer=timer, roll_records=1)
    stuck = Beside(lambda: writer.write_many({"n": n} for n in range(100)))
    until(lambda: writer.progress.closing == 16)
    late(writer, timer)
    with pytest.raises(DeadlineExceeded):
        stuck.result()


def test_an_abort_ends_a_drain_at_once(timer, hangs):
    store = hangs()
    writer = RollingRecordWriter(store, "{seq}.ndjson", timer=timer)
    writer.write({"n": 1})
    drained = Beside(lambda: writer.drain(FAR))
    assert store.inside.wait(LIMIT)
    Beside(writer.abort).result()
    with pytest.raises(DeadlineExceeded, match="1 records"):
        drained.result()


def test_the_second_drain_may_be_the_shorter_one(timer, hangs):
    store = hangs()
    writer = RollingRecordWriter(store, "{seq}.ndjson", timer=timer)
    writer.write({"n": 1})
    first = Beside(lambda: writer.drain(FAR))
    assert store.inside.wait(LIMIT)
    late(writer, timer)
    with pytest.raises(DeadlineExceeded):
        first.result()


@pytest.mark.parametrize("end", ["deadline", "cancelled"])
def test_a_drain_obeys_the_deadline_and_the_scope_around_it(timer, hangs, end):
    writer = RollingRecordWriter(hangs(), "{seq}.ndjson", timer=timer)
    writer.write({"n": 1})
    if end == "deadline":
        with deadline(0.05), pytest.raises(DeadlineExceeded, match="1 records"):
            writer.drain(FAR)
    else:
        with CancelScope() as scope, pytest.raises(DeadlineExceeded, match="1 records"):
            threading.Timer(0.05, scope.cancel).start()
            writer.drain(FAR)


# -- with a spool ------------------------------------------------------------------------------------------------------


def test_with_a_spool_what_the_store_has_not_taken_waits_there(tmp_path, timer):
    store = Down(MemoryBackend(), down=True)
    writer = spooled(store, tmp_path, timer=timer, spool={"close_timeout": FAR})
    writer.write_many({"n": n} for n in range(5))
    drained = Beside(lambda: writer.drain(25))
    until(lambda: 25.0 in [entry[0] for entry in timer.waiting])
    timer.advance(25)
    final = drained.result()
    assert (final.spooled, final.durable, final.records) == (5, 4, 0)
    assert writer.drain(25) == writer.close() == final
    with pytest.raises(WriterClosed):
        writer.write({"n": 5})
    store.down = False
    with spooled(store, tmp_path) as writer:
        pass
    assert numbers(store) == list(range(5))


def test_with_a_spool_and_a_store_there_a_drain_publishes_all(tmp_path, timer):
    store = MemoryBackend()
    writer = spooled(store, tmp_path, timer=timer)
    writer.write_many({"n": n} for n in range(5))
    assert (writer.drain(FAR).spooled, numbers(store)) == (0, list(range(5)))


def test_with_a_spool_a_drain_shortens_a_close_that_waits(tmp_path, timer):
    writer = spooled(Down(MemoryBackend(), down=True), tmp_path, timer=timer, spool={"close_timeout": FAR})
    writer.write({"n": 1})
    closing = Beside(writer.close)
    until(lambda: FAR in [entry[0] for entry in timer.waiting])
    drained = Beside(lambda: writer.drain(25))
    until(lambda: 25.0 in [entry[0] for entry in timer.waiting])
    timer.advance(25)
    assert closing.result() == drained.result()


def retry(writer):
    """Whatever waits for a time before the deadline of 25 seconds goes on."""
    timer = writer._front._plan.timer
    due = [entry[0] for entry in timer.waiting if timer.time < entry[0] < 25]
    if due:
        timer.advance(min(due) - timer.time)


def test_with_a_spool_an_exception_lets_a_drain_end_and_an_abort_does_not(tmp_path, timer):
    for name, end in (("a", "abort"), ("b", "_on_exception")):
        store = Down(MemoryBackend(), down=True)
        writer = spooled(store, tmp_path / name, timer=ManualTimer(), spool={"close_timeout": FAR})
        writer.write({"n": 1})
        drained = Beside(lambda writer=writer: writer.drain(25))
        until(lambda writer=writer: writer._front._folder._closed)
        other = Beside(getattr(writer, end))
        if end == "_on_exception":
            store.down = False
            until(lambda writer=writer, other=other: not other.thread.is_alive() or retry(writer))
        other.result()
        assert drained.result().spooled == (end == "abort")


def test_with_a_spool_a_store_that_hangs_is_left_soon_after_the_deadline(tmp_path, timer, hangs):
    store = hangs("write")
    writer = spooled(store, tmp_path, timer=timer, roll_records=1)
    writer.write({"n": 1})
    writer.flush()
    assert store.inside.wait(LIMIT)
    drained = Beside(lambda: writer.drain(25))
    until(lambda: 25.0 in [entry[0] for entry in timer.waiting])
    timer.advance(25)
    assert drained.result().spooled == 1
    store.freed.set()
    until(lambda: not examine(tmp_path).open)
