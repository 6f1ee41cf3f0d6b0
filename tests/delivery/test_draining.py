"""A writer that has to end by a deadline, and a program that is told to end by a signal."""

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
import time
from contextlib import ExitStack, suppress
from datetime import timedelta

import pytest

from omnistorage import (
    AsyncRollingRecordWriter,
    ConfigError,
    DeadlineExceeded,
    LocalBackend,
    MemoryBackend,
    StorageError,
    WriterClosed,
)
from omnistorage.core import WRITE
from omnistorage.delivery import OmniHandler, RollingRecordWriter, Spool, draining
from omnistorage.policies import CancelScope, deadline
from omnistorage.segments import examine
from omnistorage.wrappers._base import Wrapper

from .conftest import Down, ManualTimer, contents, numbers, until
from .test_spool import spooled

ROOT = pathlib.Path(__file__).parents[2]
FAR = 3600.0


class Hangs(Wrapper):
    """A store that hangs where it is told to, until it is let go; ``heeds``: an abort frees what hangs."""

    def __init__(self, inner, where="close", *, paths="", heeds=False):
        super().__init__(inner)
        self.where, self.paths, self.heeds = where, paths, heeds
        self.inside, self.freed = threading.Event(), threading.Event()

    def open_writer(self, path, options=WRITE):
        writer = self.inner.open_writer(path, options)
        if self.paths in path:
            real, abort = getattr(writer, self.where), writer.abort

            def hang(*data):
                self.inside.set()
                self.freed.wait(60)
                if self.heeds:
                    raise StorageError("given up")
                return real(*data)

            setattr(writer, self.where, hang)
            if self.heeds:
                writer.abort = lambda: (abort(), self.freed.set())
        return writer


@pytest.fixture
def hangs():
    made = []

    def make(*args, **settings):
        made.append(Hangs(MemoryBackend(), *args, **settings))
        return made[-1]

    yield make
    for store in made:
        store.freed.set()
    until(lambda: not [one for one in threading.enumerate() if one.name == "omnistorage-drain"])


class Beside:
    """``call()`` on another thread; ``result()`` is what it returned or raised."""

    def __init__(self, call):
        self.returned, self.raised = None, None
        self.thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self.thread.start()

    def _run(self, call):
        try:
            self.returned = call()
        except BaseException as error:
            self.raised = error

    def result(self):
        self.thread.join(30)  # what hangs here hangs for longer
        assert not self.thread.is_alive(), "it hangs"
        if self.raised is not None:
            raise self.raised
        return self.returned


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
    assert store.inside.wait(60)
    drained = Beside(lambda: writer.drain(FAR))
    until(lambda: writer._front._state == "drained", 10)
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
        assert store.inside.wait(60)
        store.freed.set()
        raise KeyError
    assert drained.result().records == 1
    assert numbers(store.inner) == [1]


def test_a_close_meanwhile_waits_for_the_drain(timer, hangs):
    store = hangs()
    writer = RollingRecordWriter(store, "{seq}.ndjson", timer=timer)
    writer.write({"n": 1})
    ends = [Beside(lambda: writer.drain(FAR))]
    assert store.inside.wait(60)
    ends += [Beside(writer.close), Beside(lambda: writer.drain(FAR))]
    store.freed.set()
    assert [end.result().records for end in ends] == [1, 1, 1]


# -- too late ----------------------------------------------------------------------------------------------------------


def late(writer, timer, ready=lambda: True):
    """The error of a drain whose time is over once ``ready()``."""
    drained = Beside(lambda: writer.drain(25))
    until(lambda: 25.0 in [entry[0] for entry in timer.waiting], 10)
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
    error = late(writer, timer, lambda: store.inside.is_set() and writer.progress.records == 7)
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
    assert store.inside.wait(60)
    assert "1 records were not published in time: from number 0 on" in str(late(writer, timer))
    with pytest.raises(DeadlineExceeded):
        writer.write({"n": 1})
    assert (writer.durable, writer.progress.taken) == (-1, 1)
    store.freed.set()
    if heeds:
        with pytest.raises(StorageError):
            stuck.result()
    stuck.thread.join(60)
    until(lambda: not writer._front._objects.open)
    assert list(store.inner.list()) == [], "what came too late is not published behind everybody's back"


def test_what_hangs_is_aborted_at_the_deadline(timer, hangs):
    store = hangs("write", heeds=True)
    writer = RollingRecordWriter(store, "{seq}.ndjson", timer=timer)
    writer.write({"n": 0})
    stuck = Beside(writer.flush)
    assert store.inside.wait(60)
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
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
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
    assert store.inside.wait(60)
    Beside(writer.abort).result()
    with pytest.raises(DeadlineExceeded, match="1 records"):
        drained.result()


def test_the_second_drain_may_be_the_shorter_one(timer, hangs):
    store = hangs()
    writer = RollingRecordWriter(store, "{seq}.ndjson", timer=timer)
    writer.write({"n": 1})
    first = Beside(lambda: writer.drain(FAR))
    assert store.inside.wait(60)
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
            until(
                lambda writer=writer, other=other: (writer._front._plan.timer.advance(1), not other.thread.is_alive())[
                    1
                ]
            )
        other.result()
        assert drained.result().spooled == (end == "abort")


def test_with_a_spool_a_store_that_hangs_is_left_soon_after_the_deadline(tmp_path, timer, hangs):
    store = hangs("write")
    writer = spooled(store, tmp_path, timer=timer, roll_records=1)
    writer.write({"n": 1})
    writer.flush()
    assert store.inside.wait(60)
    drained = Beside(lambda: writer.drain(25))
    until(lambda: 25.0 in [entry[0] for entry in timer.waiting])
    timer.advance(25)
    assert drained.result().spooled == 1
    store.freed.set()
    until(lambda: not examine(tmp_path).open)


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
    frees = Beside(lambda: (store.inside.wait(10), left.wait(0.3), store.freed.set()))
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


def test_all_writers_have_the_one_deadline(hangs, caplog):
    sound, stores = MemoryBackend(), [hangs(), hangs()]
    writers = [RollingRecordWriter(store, "{seq}.ndjson") for store in (*stores, sound)]
    before = time.monotonic()
    with caplog.at_level(logging.ERROR), pytest.raises(SystemExit) as caught, drains(*writers, within=0.3):
        for writer in writers:
            writer.write({"n": 0})
        told()
    assert time.monotonic() - before < 20
    assert numbers(sound) == [0]
    assert isinstance(caught.value.__cause__, DeadlineExceeded)
    assert caplog.text.count("1 records were not published in time") == 2


def test_a_second_signal_gives_up_at_once(hangs):
    store = hangs()
    writer = RollingRecordWriter(store, "{seq}.ndjson")
    again = threading.Thread(target=lambda: (store.inside.wait(60), os.kill(os.getpid(), signal.SIGUSR1)))
    again.start()
    before = time.monotonic()
    with pytest.raises(SystemExit), drains(writer, within=FAR):
        writer.write({"n": 0})
        told()
    again.join()
    assert time.monotonic() - before < 30
    assert list(store.inner.list()) == []


def test_blocks_are_nested():
    stores = [MemoryBackend(), MemoryBackend()]
    outer, inner = (RollingRecordWriter(store, "{seq}.ndjson") for store in stores)
    with pytest.raises(SystemExit), outer, drains(outer), inner, drains(inner):
        outer.write({"n": 0})
        inner.write({"n": 1})
        told()
    assert [numbers(store) for store in stores] == [[0], [1]]


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
        store, "{time:%Y}/{seq}.ndjson", time_field=lambda record: (inside.set(), freed.wait(30), 0)[2]
    )
    with pytest.raises(SystemExit), writer, drains(writer):
        other = Beside(lambda: writer.write({"n": 0}))
        assert inside.wait(30)
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
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
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
    final = handler.drain(60)
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
            select.select([], [], [], random.Random(seed).random() / 10)
        began = time.monotonic()
        for _ in range(signals):
            child.send_signal(signal.SIGTERM)
            select.select([], [], [], 0.1 * (signals - 1))
        try:
            _, complaint = child.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
    assert child.returncode == 143, f"seed {seed}, {kind}: {child.returncode} {complaint}"
    return time.monotonic() - began, int((folder / "taken").read_text()), complaint


@pytest.mark.parametrize("seed", range(20))
def test_a_program_that_is_told_to_end_at_any_moment_publishes_each_record_once_in_order(tmp_path, seed):
    kind = ["one_by_one", "many", "generated", "sleep", "queue", "socket"][seed % 6]
    _, taken, complaint = stopped(tmp_path, kind, 60, seed)
    assert complaint == "", f"seed {seed}"
    assert numbers(LocalBackend(tmp_path / "store")) == list(range(taken)), f"seed {seed}"
    assert taken > 0 or kind in ("one_by_one", "many", "generated")


@pytest.mark.parametrize("kind", ["hangs", "stuck"])
@pytest.mark.parametrize("signals", [1, 2])
def test_a_program_whose_store_hangs_ends_by_the_deadline_or_the_second_signal(tmp_path, kind, signals):
    took, taken, complaint = stopped(tmp_path, kind, 0.5 if signals == 1 else 600, 1, signals=signals)
    assert took < 20, "0.5 s and what it takes to end"
    assert "were not published in time" in complaint
    found = numbers(LocalBackend(tmp_path / "store"))
    assert found == list(range(len(found)))
    assert len(found) < taken
    assert f"{taken - len(found)} records" in complaint
    assert f"from number {len(found)} on" in complaint
    assert not [path for path in (tmp_path / "store").iterdir() if path.suffix != ".ndjson"], "and nothing by half"


@pytest.mark.parametrize("seed", range(3))
def test_with_a_spool_all_of_it_is_in_the_spool(tmp_path, seed):
    took, taken, complaint = stopped(tmp_path, "spool", 0.5, seed)
    assert took < 20
    with RollingRecordWriter(
        LocalBackend(tmp_path / "store"), "{start:09d}.ndjson", names="deterministic", spool=Spool(tmp_path / "spool")
    ):
        pass
    assert numbers(LocalBackend(tmp_path / "store")) == list(range(taken)), f"seed {seed}: {complaint}"
