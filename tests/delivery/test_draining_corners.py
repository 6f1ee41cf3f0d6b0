"""``drain`` and ``draining`` where several writers, threads, processes and signals meet, and no thread can be had."""

from __future__ import annotations

import multiprocessing
import signal
import threading

import pytest

from omnistorage import LocalBackend, MemoryBackend, RollingRecordWriter, WriterClosed
from omnistorage.core import WRITE
from omnistorage.delivery import Spool, draining
from omnistorage.errors import DeadlineExceeded
from omnistorage.wrappers.base import Wrapper

from ..waiting import LIMIT
from .conftest import contents

USR = signal.SIGUSR1


def numbers(store):
    return sorted(row["n"] for rows in contents(store).values() for row in rows)


def told(*writers, **settings):
    return draining(*writers, signals=(USR,), **settings)


def test_what_threads_put_into_a_spool_while_it_is_drained_or_closed_is_delivered(tmp_path):
    for end in ("drain", "close") * 2:
        store, taken, folder = MemoryBackend(), [], tmp_path / f"{end}{len(list(tmp_path.iterdir()))}"
        writer = RollingRecordWriter(store, "{id}.ndjson", spool=Spool(folder, fsync="interval"))
        begun = threading.Event()

        def work(writer=writer, taken=taken, begun=begun):
            with pytest.raises(WriterClosed):
                while True:
                    writer.write({"n": len(taken)})
                    taken.append(len(taken))
                    if len(taken) == 500:
                        begun.set()

        thread = threading.Thread(target=work)
        thread.start()
        assert begun.wait(LIMIT)
        progress = writer.drain(30) if end == "drain" else writer.close()
        thread.join()
        assert progress.spooled == 0
        assert numbers(store) == taken


class TellsInWrite(MemoryBackend):
    """Its first write brings the signal."""

    first = True

    def open_writer(self, path, options=WRITE):
        writer = super().open_writer(path, options)
        write = writer.write

        def wrote(data):
            if self.first and threading.current_thread() is threading.main_thread():
                self.first = False
                signal.raise_signal(USR)
            return write(data)

        writer.write = wrote
        return writer


def test_an_inner_block_does_not_raise_inside_a_call_of_an_outer_writer():
    one, two = TellsInWrite(), MemoryBackend()
    outer, inner = RollingRecordWriter(one, "{id}.ndjson"), RollingRecordWriter(two, "{id}.ndjson")
    with pytest.raises(SystemExit) as caught, outer, told(outer), inner, told(inner):
        for n in range(100):
            outer.write({"n": n})
        inner.write({"n": 7})
        outer.flush()
        inner.write({"n": 8})
    assert (caught.value.code, caught.value.__cause__) == (128 + USR, None)
    assert (numbers(one), numbers(two)) == (list(range(100)), [7])


class ToldLock:
    """Says when somebody wants it."""

    def __init__(self, inner):
        self.inner, self.wanted = inner, threading.Event()

    def acquire(self, *args, **settings):
        self.wanted.set()
        return self.inner.acquire(*args, **settings)

    def release(self):
        self.inner.release()

    def __enter__(self):
        self.acquire()

    def __exit__(self, *exc):
        self.release()


@pytest.mark.parametrize("other", ["close", "abort"])
def test_who_waits_for_a_call_to_end_does_not_cut_a_drain_short(other):
    inside, go, store = threading.Event(), threading.Event(), MemoryBackend()

    def when(record):
        if record["n"] == 9:
            inside.set()
            go.wait(LIMIT)
        return 5.0

    writer = RollingRecordWriter(store, "{time:%Y}/{id}.ndjson", time_field=when)
    for n in range(9):
        writer.write({"n": n})
    threads = [threading.Thread(target=writer.write, args=({"n": 9},))]
    threads[0].start()
    assert inside.wait(LIMIT)
    lock = writer._front._lock = ToldLock(writer._front._lock)
    got = []
    if other == "close":
        threads.append(threading.Thread(target=lambda: got.append(writer.close().records)))
        threads[1].start()
        assert lock.wanted.wait(LIMIT)
    threads.append(threading.Thread(target=lambda: got.append(writer.drain(25).records)))
    threads[-1].start()
    while writer._front._ended is None:
        pass
    go.set()
    for thread in threads:
        thread.join(LIMIT)
    assert set(got) == {10}
    assert numbers(store) == list(range(10))


class Hangs(Wrapper):
    def __init__(self, inner):
        super().__init__(inner)
        self.go = threading.Event()

    def open_writer(self, path, options=WRITE):
        writer = self.inner.open_writer(path, options)
        close = writer.close

        def late():
            self.go.wait(LIMIT)
            return close()

        writer.close = late
        return writer


def test_a_store_that_hangs_holds_up_the_drain_of_no_other():
    hanging, good = Hangs(MemoryBackend()), MemoryBackend()
    one = RollingRecordWriter(hanging, "{id}.ndjson", roll_records=1)
    two = RollingRecordWriter(good, "{id}.ndjson")
    for n in range(6):
        one.write({"n": n})
        two.write({"n": n})
    assert two.drain(10).records == 6
    with pytest.raises(DeadlineExceeded, match="6 records"):
        one.drain(0.05)
    with RollingRecordWriter(good, "{id}.ndjson") as three:
        three.write({"n": 6})
    assert numbers(good) == list(range(7))
    hanging.go.set()


def no_threads(monkeypatch, *names):
    start = threading.Thread.start

    def refuse(self):
        if not names or self.name in names:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_drain_needs_no_thread(monkeypatch):
    store = MemoryBackend()
    writer = RollingRecordWriter(store, "{id}.ndjson", roll_age=1000)
    with monkeypatch.context() as patch:
        no_threads(patch)
        writer.write({"n": 1})
        assert writer.drain(20).records == 1
    assert writer.close().records == 1
    writer.abort()
    assert numbers(store) == [1]


def test_a_timer_that_got_no_thread_asks_again(monkeypatch, timer):
    from omnistorage.delivery import Timer

    ran, real = threading.Event(), Timer()
    with monkeypatch.context() as patch:
        no_threads(patch)
        real.at(real.now(), ran.set)
    real.at(real.now(), lambda: None)
    assert ran.wait(LIMIT)


def test_a_block_ends_where_its_threads_cannot_be_had(monkeypatch):
    store = MemoryBackend()
    no_threads(monkeypatch, "omnistorage-drain")
    with pytest.raises(SystemExit), RollingRecordWriter(store, "{id}.ndjson") as writer, told(writer, within=5):
        writer.write({"n": 1})
        signal.raise_signal(USR)
    assert numbers(store) == [1]


def test_what_write_many_was_given_before_the_signal_is_taken_however_long_it_unwinds():
    store, unwound = MemoryBackend(), threading.Event()

    def rows():
        try:
            for n in range(200):
                yield {"n": n}
            signal.raise_signal(USR)
            yield {"n": 200}
        finally:
            unwound.wait(0.1)

    with pytest.raises(SystemExit), RollingRecordWriter(store, "{id}.ndjson") as writer, told(writer):
        writer.write_many(rows())
    assert numbers(store) == list(range(200))


def test_a_signal_while_the_block_is_entered_leaves_nothing_behind(monkeypatch):
    store, real, first = MemoryBackend(), signal.signal, [True]

    def early(number, handler):
        before = real(number, handler)
        if first:
            first.clear()
            signal.raise_signal(number)
        return before

    before = signal.getsignal(USR)
    with pytest.raises(SystemExit), RollingRecordWriter(store, "{id}.ndjson") as writer:
        writer.write({"n": 1})
        monkeypatch.setattr(signal, "signal", early)
        with told(writer):
            pass
    assert signal.getsignal(USR) == before
    assert "guarded" not in vars(writer)["write"].__qualname__
    assert numbers(store) == [1]


def _left_open(folder, kept):
    hanging = Hangs(LocalBackend(folder))
    writer = RollingRecordWriter(hanging, "{id}.ndjson", roll_records=1)
    writer.write({"n": 1})
    threading.Timer(0.2, hanging.go.set).start()
    kept.append(writer)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_worker_process_waits_for_what_it_has_rolled(tmp_path):
    child = multiprocessing.get_context("fork").Process(target=_left_open, args=(tmp_path, []))
    child.start()
    child.join(LIMIT)
    assert child.exitcode == 0
    assert len(list(tmp_path.glob("*.ndjson"))) == 1
