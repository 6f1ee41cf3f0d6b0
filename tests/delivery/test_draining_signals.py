"""Drains by signals, of any writers and of handlers of logging."""

from __future__ import annotations

import itertools
import logging
import os
import pathlib
import random
import select
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress

import pytest

from omnistorage import (
    AsyncRollingRecordWriter,
    ConfigError,
    DeadlineExceeded,
    LocalBackend,
    MemoryBackend,
    WriterClosed,
)
from omnistorage.concurrency.cancellation import Waiter
from omnistorage.delivery import OmniHandler, RollingRecordWriter, Spool, draining
from omnistorage.delivery.rolling import roller

from ..budget import pick
from ..waiting import LIMIT, until
from .conftest import contents, numbers
from .hanging import FAR, Beside

ROOT = pathlib.Path(__file__).parents[2]

# -- a signal ----------------------------------------------------------------------------------------------------------


def told(*also):
    """Send this very thread a signal; the handler runs before the next step."""
    signal.raise_signal(signal.SIGUSR1)
    return also[0] if also else None


def drains(*writers, **settings):
    return draining(*writers, signals=(signal.SIGUSR1,), **settings)


@pytest.fixture(autouse=True)
def _no_traces():
    before = signal.getsignal(signal.SIGUSR1)
    yield
    assert signal.getsignal(signal.SIGUSR1) is before
    assert not [one for one in threading.enumerate() if one.name == "omnistorage-draining"]


def test_without_a_signal_nothing_is_done():
    store = MemoryBackend()
    writer = RollingRecordWriter(store, "{seq}.ndjson")
    kept = dict(vars(writer))
    with drains(writer):
        assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
        writer.write({"n": 0})
    assert vars(writer) == kept, "nothing stays"
    writer.write({"n": 1})
    with pytest.raises(KeyError), drains(writer):
        raise KeyError
    assert list(store.list()) == [], "the writer's own end is its own"
    writer.close()
    assert numbers(store) == [0, 1]


@pytest.mark.parametrize("order", ["outside", "inside"])
def test_a_signal_ends_the_block_and_publishes_what_was_taken(order):
    store = MemoryBackend()
    writer = RollingRecordWriter(store, "{seq}.ndjson", roll_records=2)
    with pytest.raises(SystemExit) as caught, ExitStack() as stack:
        for one in (writer, drains(writer)) if order == "outside" else (drains(writer), writer):
            stack.enter_context(one)
        for n in range(5):
            writer.write({"n": n})
        told()
        writer.write({"n": 5})
    assert caught.value.code == 128 + signal.SIGUSR1
    assert numbers(store) == [0, 1, 2, 3, 4]


def test_a_signal_inside_of_a_call_waits_for_its_end():
    store, after = MemoryBackend(), []
    writer = RollingRecordWriter(store, "{time:%Y}/{seq}.ndjson", time_field=lambda record: told(record["n"]))
    with pytest.raises(SystemExit), writer, drains(writer):
        writer.write({"n": 7})
        after.append(1)
    assert (numbers(store), after) == ([7], [])


def test_an_iterator_of_write_many_is_outside_and_what_it_gave_is_kept():
    store, seen = MemoryBackend(), []

    def rows():
        try:
            for n in range(300):
                yield {"n": n}
            told()
            seen.append("went on")
            yield {"n": 300}
        finally:
            seen.append("closed")

    with pytest.raises(SystemExit), RollingRecordWriter(store, "{seq}.ndjson") as writer, drains(writer):
        writer.write_many(rows())
    assert (numbers(store), seen) == (list(range(300)), ["closed"])


def test_a_block_that_swallows_the_exception_ends_with_it_all_the_same():
    store = MemoryBackend()
    signals = (signal.SIGUSR1, signal.SIGUSR1)
    with (
        pytest.raises(SystemExit),
        RollingRecordWriter(store, "{seq}.ndjson") as writer,
        draining(writer, signals=signals),
    ):
        writer.write({"n": 0})
        with suppress(SystemExit):
            told()
    assert numbers(store) == [0]


def test_an_abort_on_the_way_out_only_waits(hangs):
    store, left = hangs(), threading.Event()
    writer = RollingRecordWriter(store, "{seq}.ndjson")
    frees = Beside(lambda: (store.inside.wait(LIMIT), left.wait(0.05), store.freed.set()))
    with pytest.raises(SystemExit), drains(writer):
        writer.write({"n": 0})
        try:
            told()
        finally:
            writer.abort()
            left.set()
    frees.result()
    assert numbers(store.inner) == [0]


def test_another_exception_on_the_way_out_changes_nothing():
    store = MemoryBackend()
    with pytest.raises(SystemExit) as caught, RollingRecordWriter(store, "{seq}.ndjson") as writer, drains(writer):
        writer.write({"n": 0})
        try:
            told()
        finally:
            raise KeyError("the source was cut off")
    assert isinstance(caught.value.__context__, KeyError)
    assert numbers(store) == [0]


def test_all_writers_have_the_one_deadline(hangs, timer, caplog, monkeypatch):
    monkeypatch.setattr(roller, "PATIENCE", 0.01)  # what hangs here hangs for longer
    sound, stores = MemoryBackend(), [hangs(), hangs()]
    writers = [RollingRecordWriter(store, "{seq}.ndjson", timer=timer) for store in (*stores, sound)]

    def time_passes():
        for store in stores:
            assert store.inside.wait(LIMIT)
        until(lambda: numbers(sound) == [0] and len(timer.waiting) == 3)
        assert all(FAR - 1000 < due <= FAR for due, *_ in timer.waiting)
        timer.advance(FAR)

    beside = Beside(time_passes)
    with caplog.at_level(logging.ERROR), pytest.raises(SystemExit) as caught, drains(*writers, within=FAR):
        for writer in writers:
            writer.write({"n": 0})
        told()
    beside.result()
    assert isinstance(caught.value.__cause__, DeadlineExceeded)
    assert caplog.text.count("1 records were not published in time") == 2


def test_a_second_signal_gives_up_at_once(hangs):
    store = hangs()
    writer = RollingRecordWriter(store, "{seq}.ndjson")
    again = threading.Thread(target=lambda: (store.inside.wait(LIMIT), os.kill(os.getpid(), signal.SIGUSR1)))
    again.start()
    with pytest.raises(SystemExit), drains(writer, within=FAR):
        writer.write({"n": 0})
        told()
    again.join(LIMIT)
    assert list(store.inner.list()) == []


def test_a_second_signal_before_the_drain_has_begun_says_what_is_missing(caplog, hangs):
    store, calls, given_up = hangs(), [], threading.Event()
    writer = RollingRecordWriter(store, "{seq}.ndjson")
    drain, abort = writer.drain, writer.abort

    def late(seconds):
        calls.append(seconds)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert given_up.wait(LIMIT)
        try:
            return drain(seconds)
        finally:
            given_up.set()

    writer.drain, writer.abort = late, lambda: (abort(), given_up.set())
    with caplog.at_level(logging.ERROR), pytest.raises(SystemExit), drains(writer, within=FAR):
        writer.write({"n": 0})
        told()
    assert "1 records were not published in time: from number 0 on" in caplog.text
    assert list(store.inner.list()) == []


def test_blocks_are_nested():
    stores = [MemoryBackend(), MemoryBackend()]
    outer, inner = (RollingRecordWriter(store, "{seq}.ndjson") for store in stores)
    with pytest.raises(SystemExit), outer, drains(outer), inner, drains(inner):
        outer.write({"n": 0})
        inner.write({"n": 1})
        told()
    assert [numbers(store) for store in stores] == [[0], [1]]


def test_an_inner_block_that_is_drained_at_once_does_not_keep_the_signal_from_the_outer_one():
    stores = [MemoryBackend(), MemoryBackend()]
    outer, inner = (RollingRecordWriter(store, "{seq}.ndjson") for store in stores)
    around, block = drains(outer), drains(inner)

    class Late(Waiter):
        def set(self):
            block._thread.join(LIMIT)  # its last step is to remind the main thread by a signal
            super().set()

    around._wake = Late()
    with pytest.raises(SystemExit), outer, around, inner, block:
        outer.write({"n": 0})
        inner.write({"n": 1})
        told()
    assert [numbers(store) for store in stores] == [[0], [1]]


def test_another_signal_of_an_outer_block_lets_the_inner_one_end(hangs):
    stores = [MemoryBackend(), hangs()]
    outer, inner = (RollingRecordWriter(store, "{seq}.ndjson") for store in stores)
    kept, before = dict(vars(inner)), signal.getsignal(signal.SIGUSR2)

    def other():
        assert stores[1].inside.wait(LIMIT)  # the first one drains, and the main thread waits for it
        until(lambda: block._leaving)
        os.kill(os.getpid(), signal.SIGUSR2)
        until(lambda: around._stop is not None)
        stores[1].freed.set()

    around, block = draining(outer, within=FAR, signals=(signal.SIGUSR2,)), drains(inner, within=FAR)
    beside = Beside(other)
    with pytest.raises(SystemExit) as caught, around, block:
        outer.write({"n": 0})
        inner.write({"n": 1})
        told()
    beside.result()
    assert caught.value.code == 128 + signal.SIGUSR2
    assert [numbers(stores[0]), numbers(stores[1].inner)] == [[0], [1]]
    assert signal.getsignal(signal.SIGUSR2) is before
    assert vars(inner).keys() == kept.keys(), "nothing stays"


def test_a_signal_at_the_end_of_an_inner_block_is_not_forgotten():
    stores, after = [MemoryBackend(), MemoryBackend()], []
    outer, inner = (RollingRecordWriter(store, "{seq}.ndjson") for store in stores)
    kept, block = vars(inner).copy().keys(), draining(inner, signals=(signal.SIGUSR2,))
    restore = block._restore
    block._restore = lambda: (told(), restore())
    with pytest.raises(SystemExit), outer, drains(outer), inner:
        outer.write({"n": 0})
        with block:
            inner.write({"n": 1})
        after.append(1)
    assert (numbers(stores[0]), after) == ([0], [])
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    assert vars(inner).keys() == kept, "nothing stays"


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with RollingRecordWriter(MemoryBackend(), "{seq}.ndjson") as writer, drains(writer):
            told()
            writer.write({"n": 0})
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_cannot_be_drained_is_refused():
    with RollingRecordWriter(MemoryBackend(), "{seq}.ndjson") as writer:
        for wrong in (
            draining,
            lambda: draining(writer, within=0),
            lambda: draining(object()),
            lambda: draining(object.__new__(AsyncRollingRecordWriter)),
        ):
            with pytest.raises(ConfigError):
                wrong()
        kept = dict(vars(writer))
        for signals in ((signal.SIGKILL,), (signal.SIGUSR1, 4711)):
            with pytest.raises(ConfigError, match="signal"), draining(writer, signals=signals):
                pass
        with pytest.raises(ConfigError, match="main thread"):
            Beside(draining(writer).__enter__).result()
        assert vars(writer) == kept


def test_other_threads_are_refused_and_not_interrupted():
    store, taken = MemoryBackend(), []
    writer = RollingRecordWriter(store, "{seq}.ndjson", roll_records=10)

    def work():
        try:
            for n in itertools.count():
                taken.append(writer.write({"n": n}))
        except WriterClosed:
            return "refused"

    with pytest.raises(SystemExit), writer, drains(writer):
        other = Beside(work)
        until(lambda: len(taken) > 100)
        told()
    assert other.result() == "refused"
    assert sorted(numbers(store)) == list(range(len(taken)))


def test_a_call_of_another_thread_does_not_hold_the_exception_up():
    store, inside, freed, after = MemoryBackend(), threading.Event(), threading.Event(), []
    writer = RollingRecordWriter(
        store, "{time:%Y}/{seq}.ndjson", time_field=lambda record: (inside.set(), freed.wait(LIMIT), 0)[2]
    )
    with pytest.raises(SystemExit), writer, drains(writer):
        other = Beside(lambda: writer.write({"n": 0}))
        assert inside.wait(LIMIT)
        try:
            told()
            after.append("went on")
        finally:
            freed.set()
    assert (other.result(), numbers(store), after) == (0, [0], [])


def test_a_forked_child_drains_nothing_and_ends_by_the_signal(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from omnistorage.delivery import *\n"
        "with RollingRecordWriter(sys.argv[1], '{seq}.ndjson') as writer, draining(writer):\n"
        "    writer.write({'n': 0})\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout) == (0, "143\n"), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["0.ndjson"]


# -- a handler of logging ----------------------------------------------------------------------------------------------


@pytest.fixture
def logged():
    made, log = [], logging.getLogger("tests.draining")
    log.setLevel(logging.INFO)
    log.propagate = False

    def make(*args, **settings):
        made.append(OmniHandler(*args, **settings))
        made[-1].handleError = lambda record: None
        log.addHandler(made[-1])
        return log, made[-1]

    yield make
    log.propagate = True
    for handler in made:
        log.removeHandler(handler)
        handler.close()


@pytest.mark.parametrize("given", [False, True])
def test_a_handler_drains_what_was_logged_and_the_writer_that_it_was_given(logged, given):
    store = MemoryBackend()
    writer = RollingRecordWriter(store, "{seq}.ndjson") if given else None
    log, handler = logged(writer) if given else logged(store, "{seq}.ndjson")
    for n in range(1000):
        log.info("line %d", n)
    final = handler.drain(LIMIT)
    log.info("too late")
    assert (final.taken, final.handed, handler.progress.lost) == (1000, 1000, 1)
    assert [row["message"] for rows in contents(store).values() for row in rows] == [f"line {n}" for n in range(1000)]
    if given:
        with pytest.raises(WriterClosed):
            writer.write({"n": 0})


def test_a_handler_whose_store_hangs_ends_by_the_deadline_and_holds_up_nobody_after_it(logged, hangs):
    log, handler = logged(hangs("write"), "{seq}.ndjson", roll_records=1, timeout=FAR)
    for n in range(5):
        log.info("line %d", n)
    with pytest.raises(DeadlineExceeded):
        handler.drain(0.2)
    handler.flush()
    handler.close()


def test_a_signal_drains_a_handler_and_may_come_in_the_middle_of_a_log_call(logged):
    store = MemoryBackend()
    log, handler = logged(store, "{seq}.ndjson", fields=lambda record: {"n": told(record.args[0])})
    with pytest.raises(SystemExit), drains(handler):
        log.info("line %d", 7)
        log.info("line %d", 8)
    assert numbers(store) == [7]


# -- real signals, at any moment ---------------------------------------------------------------------------------------


def stopped(folder, kind, within, seed, *, signals=1):
    """Start the program, send it SIGTERM at a random moment; what it took and what its store has."""
    command = [sys.executable, "-W", "error", "-m", "tests.delivery.stopped_child", str(folder), kind, str(within)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        if kind in ("hangs", "stuck"):
            assert child.stdout.readline() == "hangs\n"
        else:
            if kind in ("sleep", "queue", "socket"):
                assert child.stdout.readline() == "waits\n"
            select.select([], [], [], random.Random(seed).random() / 10)
        child.send_signal(signal.SIGTERM)
        for _ in range(signals - 1):  # two that come at once are one
            while child.stdout.readline() not in ("drains\n", ""):
                pass
            child.send_signal(signal.SIGTERM)
        try:
            _, complaint = child.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
    assert child.returncode == 143, f"seed {seed}, {kind}: {child.returncode} {complaint}"
    return int((folder / "taken").read_text()), complaint


@pytest.mark.parametrize("seed", range(pick(default=6, ci=20, soak=200)))
def test_a_program_that_is_told_to_end_at_any_moment_publishes_each_record_once_in_order(tmp_path, seed):
    kind = ["one_by_one", "many", "generated", "sleep", "queue", "socket"][seed % 6]
    taken, complaint = stopped(tmp_path, kind, LIMIT, seed)
    assert complaint == "", f"seed {seed}"
    assert numbers(LocalBackend(tmp_path / "store")) == list(range(taken)), f"seed {seed}"
    assert taken > 0 or kind in ("one_by_one", "many", "generated")


@pytest.mark.parametrize("kind", ["hangs", "stuck"])
@pytest.mark.parametrize("signals", [1, 2])
def test_a_program_whose_store_hangs_ends_by_the_deadline_or_the_second_signal(tmp_path, kind, signals):
    taken, complaint = stopped(tmp_path, kind, 0.3 if signals == 1 else 10 * LIMIT, 1, signals=signals)
    assert "were not published in time" in complaint
    found = numbers(LocalBackend(tmp_path / "store"))
    assert found == list(range(len(found)))
    assert len(found) < taken
    assert f"{taken - len(found)} records" in complaint
    assert f"from number {len(found)} on" in complaint
    assert not [path for path in (tmp_path / "store").iterdir() if path.suffix != ".ndjson"], "and nothing by half"


@pytest.mark.parametrize("seed", range(pick(default=1, ci=3, soak=30)))
def test_with_a_spool_all_of_it_is_in_the_spool(tmp_path, seed):
    taken, complaint = stopped(tmp_path, "spool", 0.2, seed)
    with RollingRecordWriter(
        LocalBackend(tmp_path / "store"), "{start:09d}.ndjson", names="deterministic", spool=Spool(tmp_path / "spool")
    ):
        pass
    assert numbers(LocalBackend(tmp_path / "store")) == list(range(taken)), f"seed {seed}: {complaint}"
