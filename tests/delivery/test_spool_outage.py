"""The store is away, full of refusals, or slow: records wait in order, in bounded room, and nothing goes silently."""

from __future__ import annotations

import gc
import pathlib
import subprocess
import sys
import threading
import warnings
from contextlib import suppress

import pytest

from omnistorage import BackendUnavailable, MemoryBackend, PermissionDenied, StorageError, WriterClosed
from omnistorage.concurrency.cancellation import CancelScope, deadline
from omnistorage.delivery import read_manifest
from omnistorage.errors import DeadlineExceeded
from omnistorage.segments import examine
from omnistorage.testing.os_faults import FaultyOS

from ..budget import pick
from ..waiting import LIMIT, until
from .conftest import Down, ManualTimer, contents, numbers, paths
from .spooling import spooled

ROOT = pathlib.Path(__file__).parents[2]
RECORDS = pick(default=50_000, ci=1_000_000, soak=1_000_000)
FULL_AT = {"max_bytes": 20_000}


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
def test_goal_12_ten_minutes_without_a_store_take_bounded_memory_and_drain_in_order(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "tests.delivery.outage", str(tmp_path), str(RECORDS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    took, spooled_then, retried, delivered = done.stdout.split()
    assert float(took) <= 40, "MiB over the baseline; the goal is 64"
    assert (int(spooled_then), int(delivered)) == (RECORDS, RECORDS)
    assert 10 <= int(retried) <= 600, "again and again, with pauses"


# -- the store is away -------------------------------------------------------------------------------------------------


def rolls(writer):
    """Whether all is published; an attempt that began when the store was away may be told still."""
    try:
        return writer.roll() == writer.progress.taken - 1
    except BackendUnavailable:
        return False


@pytest.mark.parametrize("names", ["unique", "deterministic"])
def test_goal_12_a_store_that_comes_and_goes_gets_every_record_in_order(tmp_path, names):
    store, told = Down(MemoryBackend()), []
    template = "{start:04d}.ndjson" if names == "deterministic" else "{seq:04d}.ndjson"
    with spooled(store, tmp_path, template, names=names, roll_records=10, on_commit=told.append) as writer:
        for n in range(600):
            store.down = n % 100 >= 50
            writer.write({"n": n})
            if n % 50 == 49:
                writer.flush()
                if store.down:
                    until(lambda: writer.progress.last_error is not None)
                else:
                    until(lambda n=n: writer.progress.spooled < 20 + n % 10)
        store.down = False
        until(lambda: rolls(writer))
        assert writer.progress.last_error is None
        assert writer.progress.retried >= 5
    found = numbers(store)
    if names == "unique":  # what was published and not acknowledged yet when the store went away comes again
        assert sorted(set(found)) == list(range(600))
    else:
        assert found == list(range(600))
    assert sum(entry.records for entry in told) == len(found)


def test_writes_and_flushes_do_not_wait_for_the_store_and_roll_raises_what_is_wrong(tmp_path):
    store = Down(MemoryBackend(), down=True)
    writer = spooled(store, tmp_path, spool={"close_timeout": 0.05})
    for n in range(100):
        writer.write({"n": n})
    assert writer.flush() == 99
    with pytest.raises(BackendUnavailable, match="away"):
        writer.roll()
    progress = writer.progress
    assert (progress.spooled, progress.records) == (100, 0)
    assert progress.spooled_bytes > 100 * 20
    assert "away" in progress.last_error
    writer.close()


def test_a_refusal_that_lasts_is_told_by_flush_and_close_and_is_tried_again_all_the_same(tmp_path):
    store = Down(MemoryBackend(), down=True)
    store.error = lambda path: PermissionDenied("no such key", path=path)
    writer = spooled(store, tmp_path, spool={"close_timeout": 0.05})
    writer.write({"n": 1})
    writer.flush()
    until(lambda: writer.progress.retried > 2)
    with pytest.raises(PermissionDenied, match="no such key"):
        writer.flush()
    assert writer.durable == 0, "it is safe in the spool"
    writer.write({"n": 2})
    with pytest.raises(PermissionDenied):
        writer.close()
    assert examine(tmp_path).entries == 2
    store.down = False
    with spooled(store, tmp_path):
        pass
    assert numbers(store) == [1, 2]


def test_the_pauses_grow_and_follow_the_clock_that_is_given(tmp_path, timer):
    store = Down(MemoryBackend(), down=True)
    from omnistorage.concurrency.retry import Backoff

    backoff = Backoff(base=10.0, cap=1000.0, draw=lambda: 1.0)
    writer = spooled(store, tmp_path, timer=timer, spool={"backoff": backoff, "fsync": "record", "fsync_interval": 1.0})
    writer.write({"n": 1})
    timer.advance(1)
    for tries, wait in enumerate([10, 20, 40, 80], 1):
        until(lambda tries=tries: writer._front._drain.failures == tries)
        due = timer.time + wait
        until(lambda due=due: due in [entry[0] for entry in timer.waiting])
        timer.advance(wait)
        until(lambda tries=tries: writer.progress.retried == tries)
    store.down = False
    until(lambda: (timer.advance(200), writer.progress.open)[1] == 1)
    writer.abort()


def test_what_a_handler_raises_ends_the_delivery_and_everybody_is_told(tmp_path):
    def handler(entry):
        raise KeyError("mine")

    store = MemoryBackend()
    writer = spooled(store, tmp_path, on_commit=handler)
    writer.write({"n": 1})
    with pytest.raises(KeyError):
        writer.roll()
    for call in (lambda: writer.write({"n": 2}), writer.flush, writer.roll, writer.close):
        with pytest.raises(KeyError):
            call()
    assert numbers(store) == [1], "published once, not again and again"
    assert writer.progress.last_error == "KeyError: 'mine'"


def test_what_ended_by_itself_lets_go_of_the_folder_when_it_is_dropped(tmp_path):
    def handler(entry):
        raise KeyError("mine")

    writer = spooled(MemoryBackend(), tmp_path, on_commit=handler)
    writer.write({"n": 1})
    with pytest.raises(KeyError):
        writer.roll()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del writer
        gc.collect()
    until(lambda: not examine(tmp_path).open)


def test_a_manifest_that_is_refused_ends_it_too_but_one_that_is_away_for_a_while_does_not(tmp_path):
    class NoManifest(Down):
        def exists(self, path):
            return self.inner.exists(path)

        def open_writer(self, path, options=None):
            if path == "m" and self.down:
                raise self.error(path)
            return self.inner.open_writer(path, options)

        def open_appender(self, path, options=None):
            if self.down:
                raise self.error(path)
            return self.inner.open_appender(path, options)

    for error, goes_on in ((PermissionDenied, False), (BackendUnavailable, True)):
        store = NoManifest(MemoryBackend(), down=True)
        store.error = lambda path, error=error: error("not now", path=path)
        writer = spooled(store, tmp_path / error.__name__, manifest="m")
        writer.write({"n": 1})
        writer.flush()
        with pytest.raises(error):
            writer.roll()
        store.down = False
        if goes_on:
            until(lambda writer=writer: rolls(writer))
            writer.close()
            *untold, told = [path for path in paths(store) if path != "m"]
            assert untold, "each try made an object"
            assert [entry.path for entry in read_manifest(store, "m")] == [told]
        else:
            with pytest.raises(error):
                writer.close()
            assert list(contents(store)) == ["0000.ndjson"]


# -- full --------------------------------------------------------------------------------------------------------------


def fill(writer, most=10_000):
    """Write until it raises; how many were taken."""
    for n in range(most):
        writer.write({"n": n})
    raise AssertionError("it never was full")


def test_goal_12_a_full_spool_raises_and_says_how_full_and_what_to_do(tmp_path):
    store = Down(MemoryBackend(), down=True)
    writer = spooled(store, tmp_path, spool={**FULL_AT, "when_full": "raise"})
    with pytest.raises(StorageError, match=r"the spool is full: \d+ of 20000 bytes.*write again later") as caught:
        fill(writer)
    assert caught.value.transient
    taken = writer.progress.taken
    assert 15_000 <= writer.progress.spooled_bytes <= 20_000
    with pytest.raises(StorageError):
        writer.write({"n": taken})
    assert writer.progress.taken == taken, "what raised was not taken"
    store.down = False
    until(lambda: writer.progress.spooled_bytes < 10_000)
    assert writer.write({"n": taken}) == taken
    writer.close()
    assert numbers(store) == list(range(taken + 1))


@pytest.mark.parametrize("many", [False, True])
def test_goal_12_a_full_spool_blocks_until_there_is_room(tmp_path, many):
    store = Down(MemoryBackend(), down=True)
    writer = spooled(store, tmp_path, spool=FULL_AT)
    records = [{"n": n} for n in range(3000)]

    def work():
        if many:
            writer.write_many(records)
        else:
            for record in records:
                writer.write(record)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: writer._front._folder._rooms)
    assert writer.progress.taken < 1000
    assert writer.progress.spooled_bytes <= 20_000
    store.down = False
    thread.join(LIMIT)
    writer.close()
    assert numbers(store) == list(range(3000))


@pytest.mark.parametrize("end", ["deadline", "scope", "close", "abort"])
def test_who_waits_for_room_can_be_freed(tmp_path, end):
    store = Down(MemoryBackend(), down=True)
    writer, raised = spooled(store, tmp_path, spool={**FULL_AT, "close_timeout": 0.01}), []
    scope = CancelScope()

    def work():
        try:
            with deadline(0.1 if end == "deadline" else 600), scope:
                fill(writer)
        except StorageError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: writer._front._folder._rooms or raised)
    if end != "deadline":
        {"scope": scope.cancel, "close": writer.close, "abort": writer.abort}[end]()
    thread.join(LIMIT)
    (error,) = raised
    assert isinstance(error, DeadlineExceeded) == (end == "deadline")
    assert isinstance(error, WriterClosed) == (end in ("close", "abort"))
    writer.abort()
    seen = examine(tmp_path)
    assert (seen.entries, seen.damage) == (writer.progress.taken, [])


def test_goal_12_the_oldest_are_dropped_only_if_asked_for_counted_and_never_after_they_were_published(tmp_path):
    store = Down(MemoryBackend(), down=True)
    writer = spooled(store, tmp_path, spool={**FULL_AT, "when_full": "drop_oldest"})
    for n in range(3000):
        assert writer.write({"n": n}) == n
    assert writer.progress.spooled_bytes <= 20_000
    store.down = False  # a try that is under way may fail still: close waits for the next one
    final = writer.close()
    got = numbers(store)
    assert got == list(range(3000 - len(got), 3000)), "the newest, in order"
    assert (final.dropped, final.durable, final.spooled) == (3000 - len(got), 2999, 0)
    assert final.dropped > 2000


def test_goal_12_what_is_dropped_while_a_try_ends_is_counted_too(tmp_path, monkeypatch):
    store = Down(MemoryBackend(), down=True)
    writer = spooled(store, tmp_path, spool={**FULL_AT, "when_full": "drop_oldest"})
    drain, meanwhile = writer._front._drain, []
    real = drain._count_dropped

    def count(first, end):
        real(first, end)
        if not meanwhile:
            meanwhile.append(writer.write_many({"n": n} for n in range(1, 3000)))

    monkeypatch.setattr(drain, "_count_dropped", count)
    writer.write({"n": 0})
    with suppress(StorageError):
        writer.roll()
    until(lambda: meanwhile == [2999])
    store.down = False
    final, got = writer.close(), numbers(store)
    assert got == list(range(3000 - len(got), 3000))
    assert (final.taken, final.dropped, final.durable) == (3000, 3000 - len(got), 2999)


def test_dropping_goes_on_where_the_disk_did_not_let_a_segment_go(tmp_path):
    disk = FaultyOS(at=1, only=("unlink",))
    store = Down(MemoryBackend(), down=True)
    writer = spooled(store, tmp_path, spool={**FULL_AT, "when_full": "drop_oldest", "_os": disk})
    refused = 0
    for n in range(3000):
        try:
            writer.write({"n": n})
        except StorageError:
            refused += 1
    assert refused == disk.failed.count("unlink") == 1
    writer.abort()
    assert 2000 < writer.progress.dropped < 3000


def test_what_is_dropped_between_two_tries_is_counted_by_who_ends_before_the_next(tmp_path, timer):
    store = Down(MemoryBackend(), down=True)
    writer = spooled(store, tmp_path, timer=timer, spool={**FULL_AT, "when_full": "drop_oldest"})
    writer.write({"n": 0})
    writer._front._folder.sync_all()
    until(lambda: writer.progress.last_error is not None and writer._front._drain.engine is None)
    for n in range(1, 3000):  # the clock stands still: nobody tries again
        writer.write({"n": n})
    writer.abort()
    left = examine(tmp_path)
    assert writer.progress.dropped == left.first > 2000


def test_what_is_dropped_on_its_way_counts_only_if_it_does_not_arrive(tmp_path):
    store, inside, go_on = MemoryBackend(), threading.Event(), threading.Event()
    fails = [True]

    class Slow(Down):
        def _check(self, path):
            if inside.is_set() or self.asked:
                return
            self.asked = 1
            inside.set()
            go_on.wait(LIMIT)
            if fails[0]:
                raise BackendUnavailable("late refusal", path=path)

    for arrives in (True, False):
        inside.clear()
        go_on.clear()
        fails[0] = not arrives
        store = MemoryBackend()
        folder = tmp_path / str(arrives)
        writer = spooled(Slow(store), folder, spool={**FULL_AT, "when_full": "drop_oldest"}, roll_records=1000)
        for n in range(3000):
            writer.write({"n": n})
        assert inside.wait(LIMIT)
        go_on.set()
        final = writer.close()
        got = numbers(store)
        assert got == sorted(set(got))
        assert final.dropped == 3000 - len(got) > 1000, arrives


def test_objects_that_wait_to_be_full_are_published_early_where_the_spool_would_fill_up(tmp_path):
    store = MemoryBackend()
    writer = spooled(store, tmp_path, spool={"max_bytes": 100_000, "when_full": "block"}, roll_bytes=1 << 30)
    with deadline(60):
        writer.write_many({"n": n, "pad": "x" * 100} for n in range(5000))
    writer.close()
    assert numbers(store) == list(range(5000))
    assert len(contents(store)) > 3


def test_pain_7_the_room_is_bounded_whatever_comes(tmp_path):
    writer = spooled(Down(MemoryBackend(), down=True), tmp_path, spool={"max_bytes": 1 << 20, "when_full": "raise"})
    with pytest.raises(StorageError, match="full"):
        writer.write_many({"n": n, "pad": "x" * 1000} for n in range(10_000))
    writer.abort()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= (1 << 20) + 100


def test_a_timer_that_stands_still_keeps_nothing_from_the_store_that_is_asked_for(tmp_path):
    store = MemoryBackend()
    writer = spooled(store, tmp_path, timer=ManualTimer(), spool={"fsync_interval": 3600.0})
    writer.write({"n": 1})
    assert writer.roll() == 0
    writer.close()
    assert numbers(store) == [1]
