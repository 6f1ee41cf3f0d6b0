"""Calls that meet: from another thread, from a forked child, from the middle of another way of reading."""

import gc
import os
import threading
import weakref

import pytest

from omnistorage import (
    BackendUnavailable,
    ConfigError,
    CorruptData,
    LocalBackend,
    MemoryBackend,
    ReaderClosed,
    StorageError,
    WriterClosed,
    open_records,
)
from omnistorage.compression.gzip import Gzip
from omnistorage.compression.zstd import Zstd
from omnistorage.records import open_decoded
from omnistorage.records.byte_streams import EncodedWriter
from omnistorage.testing import Flaky, Slow
from omnistorage.testing._kit import payload

from ..waiting import LIMIT, until

CODECS = {"plain": None, "gzip": Gzip(1), "zstd": Zstd()}


class Gate:
    """Stops the n-th call of one kind until it is opened."""

    def __init__(self, op, at=1):
        self.op, self.at, self.count = op, at, 0
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, op):
        if op == self.op:
            self.count += 1
            if self.count == self.at:
                self.entered.set()
                assert self.opened.wait(LIMIT)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("op", ["write", "prepare", "close"])
def test_abort_during_close_never_publishes_a_part(codec, op):
    inner, gate, outcome = MemoryBackend(), Gate(op), []
    writer = EncodedWriter(
        Slow(inner, wait=gate).open_writer("x"), None if CODECS[codec] is None else CODECS[codec].encoder()
    )

    def run():
        try:
            for _ in range(6):
                writer.write(payload(1 << 20))
            if op == "prepare":
                writer.prepare()
            writer.close()
            outcome.append("published")
        except StorageError as error:
            outcome.append(type(error).__name__)

    thread = threading.Thread(target=run)
    thread.start()
    assert gate.entered.wait(LIMIT)
    aborter = threading.Thread(target=writer.abort)
    aborter.start()
    aborter.join(LIMIT)
    gate.opened.set()
    thread.join(LIMIT)
    if outcome == ["published"]:  # close was past the point of no return: then all of it is there
        with open_decoded(inner.open_reader("x"), "none" if codec == "plain" else codec) as reader:
            assert len(reader.read()) == 6 << 20
    else:
        assert list(inner.list()) == []


@pytest.mark.parametrize("way", ["read all", "blocks", "records"])
def test_a_reader_closed_from_another_thread_never_ends_cleanly(way):
    inner = MemoryBackend()
    with open_records(inner, "x.log.gz", "w") as writer:
        writer.write_many(b"line %d of a log that is long enough to be read ahead" % n for n in range(200_000))
    for at in (2, 3):  # the first read, when it opens, looks for magic bytes
        gate, outcome = Gate("read", at), []
        slow = Slow(inner, wait=gate)
        records = open_records(slow, "x.log.gz") if way == "records" else None
        stream = records or open_decoded(slow.open_reader("x.log.gz"))

        def run(stream=stream, outcome=outcome):
            try:
                if way == "read all":
                    outcome.append(len(stream.read()))
                elif way == "blocks":
                    outcome.append(sum(map(len, iter(stream.next_block, b""))))
                else:
                    outcome.append(sum(1 for _ in stream))
            except ReaderClosed:
                outcome.append("closed")

        thread = threading.Thread(target=run)
        thread.start()
        until(lambda thread=thread, gate=gate: gate.entered.is_set() or not thread.is_alive())
        if not gate.entered.is_set():
            continue  # so many reads were not needed
        stream.close()
        gate.opened.set()
        thread.join(LIMIT)
        assert outcome == ["closed"]


def test_records_come_once_and_in_order_however_the_ways_of_reading_are_nested():
    store = MemoryBackend()
    with open_records(store, "x.ndjson", "w") as writer:
        writer.write_many(range(2000))
    nested = {
        "for, read_many": lambda r, out: [out.extend([x, *r.read_many(2)]) for x in r],
        "for, read": lambda r, out: [out.extend([x, r.read()]) for x in r],
        "for, read_many of much": lambda r, out: [out.extend([x, *r.read_many(700)]) for x in r],
        "batches, read": lambda r, out: [out.extend([*b, *r.read_many(1)]) for b in r.iter_batches()],
        "batches of 3, for": lambda r, out: [out.extend([*b, next(iter(r), None)]) for b in r.iter_batches(3)],
    }
    for name, run in nested.items():
        out = []
        with open_records(store, "x.ndjson") as reader:
            run(reader, out)
            assert [x for x in out if x is not None] == list(range(2000)), name
            assert reader.records == 2000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pain_9_a_forked_child_that_reads_on_is_refused_and_does_not_hang():
    store = MemoryBackend()
    with open_records(store, "x.ndjson.gz", "w") as writer:
        writer.write_many({"n": n, "pad": "x" * 40} for n in range(100_000))
    with open_records(store, "x.ndjson.gz") as reader:
        reader.read_many(50_000)
        child = os.fork()
        if child == 0:
            verdict = 1
            try:
                list(reader)
            except ReaderClosed:
                verdict = 0
            finally:
                os._exit(verdict)
        assert os.waitpid(child, 0)[1] == 0
        assert sum(1 for _ in reader) == 50_000


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("size", [10, 4 << 20])
def test_a_dropped_writer_is_gone_at_once_without_the_cycle_collector(tmp_path, size):
    store = LocalBackend(tmp_path)
    gc.disable()
    try:
        writer = EncodedWriter(store.open_writer("x.zst"), Zstd().encoder())
        for _ in range(4):
            writer.write(payload(size // 4))
        sink = weakref.ref(writer._sink)
        writer._pump.settle()
        del writer
        until(lambda: sink() is None)  # a pool thread may hold the last step for a moment
    finally:
        gc.enable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("path", ["x.log", "sub/x.log"])
def test_a_writer_dropped_within_a_cycle_leaves_no_temporary(tmp_path, path):
    for wrap in (lambda w: w, lambda w: EncodedWriter(w, Zstd().encoder())):
        store = LocalBackend(tmp_path)

        class Owner:
            pass

        owner = Owner()
        owner.me, owner.store = owner, store
        owner.writer = wrap(store.open_writer(path))
        owner.writer.write(b"partial")
        del owner, store
        gc.collect()
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_what_an_iterator_gave_before_it_raised_is_kept_when_asked():
    def source():
        yield from ({"n": n} for n in range(300))
        raise ZeroDivisionError

    store = MemoryBackend()
    keeping = open_records(store, "x.ndjson", "w", on_exception="commit_whole_records")
    with pytest.raises(ZeroDivisionError), keeping as writer:
        writer.write_many(source())
    with open_records(store, "x.ndjson") as reader:
        assert sum(1 for _ in reader) == 300


def test_an_iterator_that_raises_costs_no_record_of_a_writer_that_goes_on():
    def source():
        yield from range(300)
        raise ZeroDivisionError

    store = MemoryBackend()
    with open_records(store, "x.ndjson", "w") as writer:
        with pytest.raises(ZeroDivisionError):
            writer.write_many(source())
        assert writer.records == 300
        writer.write(300)
    with open_records(store, "x.ndjson") as reader:
        assert list(reader) == list(range(301))


def test_after_the_sink_failed_each_later_call_raises_that_error():
    writer = open_records(Flaky(MemoryBackend(), at=2, sticky=True), "x.ndjson", "w")
    with pytest.raises(BackendUnavailable):
        for _ in range(100_000):
            writer.write({"pad": "x" * 100})
    for call in (lambda: writer.write({}), lambda: writer.write_many([{}]), writer.flush, writer.close):
        with pytest.raises((BackendUnavailable, WriterClosed)):
            call()
    writer.abort()


def test_too_many_bad_records_are_an_error_each_time_and_lose_no_good_batch():
    store = MemoryBackend()
    rows = [b"{bad" if n % 3 == 0 and n > 3000 else b"[%d]" % n for n in range(6000)]
    store.put_raw("x.ndjson", b"\n".join(rows) + b"\n")
    for limits in ({"max_bad_ratio": 0.1}, {"max_bad": 100}):
        got = []
        with open_records(store, "x.ndjson", on_error="skip", **limits) as reader:
            for _ in range(3):
                with pytest.raises(CorruptData):
                    for record in reader:
                        got.append(record)
            assert got == [[n] for n in range(len(rows)) if rows[n] != b"{bad"][: len(got)]
            assert len(got) == reader.records or "max_bad" in limits


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("r", {"on_exception": "abort"}),
        ("w", {"untrusted": True}),
        ("w", {"max_output": 5}),
        ("x", {"max_ratio": 5}),
        ("w", {"on_exception": "typo"}),
    ],
)
def test_go_f13_settings_of_the_other_direction_are_refused(mode, settings):
    store = MemoryBackend()
    store.put_raw("x.ndjson", b"1\n")
    with pytest.raises(ConfigError):
        open_records(store, "x.ndjson", mode, **settings)


def test_go_f13_a_third_argument_behind_a_url_is_refused(tmp_path):
    with pytest.raises(ConfigError):
        open_records(str(tmp_path / "x.ndjson"), "w", "r")
    with pytest.raises(ConfigError):
        open_records(str(tmp_path / "x.ndjson"), "x.ndjson", "w")
    with pytest.raises(ConfigError, match="second"):
        open_records(str(tmp_path / "x.ndjson"), mode="w")


def test_limits_hold_for_plain_objects_too_and_a_contradicting_suffix_is_refused_on_reading():
    store = MemoryBackend()
    store.put_raw("x.ndjson", b"1\n" * 1000)
    with open_records(store, "x.ndjson", max_output=100) as reader, pytest.raises(CorruptData, match="max_output"):
        list(reader)
    with open_records(store, "x.ndjson", untrusted=True) as reader:
        assert len(list(reader)) == 1000
    store.put_raw("x.ndjson.zst", b"")
    with pytest.raises(ConfigError):
        open_records(store, "x.ndjson.zst", compression="gzip")
