"""EncodedWriter and DecodedReader keep the promises of a Writer and a Reader, through every codec."""

import gc
import io
import json
import os
import threading
import warnings

import pytest

from omnistorage.backends.memory import MemoryBackend
from omnistorage.compression.gzip import Gzip
from omnistorage.compression.zstd import Zstd
from omnistorage.concurrency.pools import CPU, IO
from omnistorage.core import ReadOptions
from omnistorage.errors import BackendUnavailable, CorruptData, ReaderClosed, StorageError, WriterClosed
from omnistorage.records import as_file, open_decoded
from omnistorage.records.byte_streams import DecodedReader, EncodedWriter
from omnistorage.testing import BasicBackend, Chunky, Flaky, Slow
from omnistorage.testing._kit import payload

from ..waiting import LIMIT

CODECS = {"plain": None, "gzip": Gzip(1), "zstd": Zstd()}
SIZES = [0, 1, 1000, 1 << 20, (1 << 20) + 1, 5 << 20]


def encoder(codec):
    return None if codec is None else codec.encoder()


def write(backend, path, codec, data, step=300_000):
    with EncodedWriter(backend.open_writer(path), encoder(codec)) as writer:
        for at in range(0, len(data), step):
            assert writer.write(data[at : at + step]) == len(data[at : at + step])
    return writer.result


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("slow", [False, True], ids=["instant", "slow"])
def test_any_size_round_trips_with_and_without_overlap(codec, size, slow):
    data = payload(size, codec)
    inner = MemoryBackend()
    backend = Slow(inner, wait=lambda op: None) if slow else inner  # a wrapper's streams are not instant
    info = write(backend, "x", CODECS[codec], data)
    assert info.size == len(inner.peek("x"))
    with open_decoded(backend.open_reader("x"), codec if codec != "plain" else "none") as reader:
        assert reader.info.path == "x"
        assert b"".join(iter(lambda: reader.read(77_777), b"")) == data
        assert reader.read() == b""
    with open_decoded(backend.open_reader("x"), codec if codec != "plain" else "none") as reader:
        assert reader.read() == data
    with open_decoded(backend.open_reader("x"), codec if codec != "plain" else "none") as reader:
        assert b"".join(iter(reader.next_block, b"")) == data


def test_odd_reads_of_a_trickling_source_give_the_same_bytes():
    data = payload(300_000)
    backend = MemoryBackend()
    write(backend, "x.gz", Gzip(), data)
    with open_decoded(Chunky(backend, size=1009).open_reader("x.gz")) as reader:
        got = reader.read(1) + reader.read(0) + reader.read(70_000) + reader.next_block() + reader.read(-1)
    assert got == data


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_go_r2_flush_reaches_the_sink_and_is_readable(codec):
    """Everything up to a flush can be decoded from what the sink has taken by then."""
    for size in (10, 3 << 20):
        data, taken = payload(size), []

        class Sink:
            result = None
            flushed = 0

            def write(self, block, taken=taken):
                taken.append(bytes(block))
                return len(block)

            def flush(self):
                self.flushed += 1

            def abort(self):
                pass

        sink = Sink()
        writer = EncodedWriter(sink, CODECS[codec].encoder())
        writer.write(data)
        writer.flush()
        assert sink.flushed == 1
        decoder = CODECS[codec].decoder()
        assert b"".join(out for block in list(taken) for out in decoder.feed(block)) == data
        writer.abort()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [10, 4 << 20])
def test_pain_1_an_exception_in_any_stack_of_layers_leaves_nothing(codec, size):
    backend = MemoryBackend()
    backend.put_raw("x", b"old")
    for path in ("x", "new"):
        with pytest.raises(KeyError), EncodedWriter(backend.open_writer(path), encoder(CODECS[codec])) as writer:
            writer.write(payload(size))
            raise KeyError
        with pytest.raises(KeyError), as_file(EncodedWriter(backend.open_writer(path), encoder(CODECS[codec]))) as file:
            file.write(payload(size))
            raise KeyError
    assert backend.peek("x") == b"old"
    assert backend.peek("new") is None


def settle():
    """Wait for the step that a pool thread may still be in: it holds the sink of a writer that was dropped."""
    for _ in range(10_000):
        gc.collect()
        if all(pool._idle == pool.threads for pool in (CPU, IO)):
            return


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [10, 4 << 20])
def test_pain_2_garbage_collection_never_publishes(codec, size):
    backend = MemoryBackend()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        writer = EncodedWriter(backend.open_writer("x"), encoder(CODECS[codec]))
        writer.write(payload(size))
        del writer
        settle()
        file = as_file(EncodedWriter(backend.open_writer("y"), encoder(CODECS[codec])))
        file.write(payload(size))
        del file
        settle()
    assert sum(issubclass(w.category, ResourceWarning) for w in seen) >= 2
    assert list(backend.list()) == []


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("op", ["write", "flush", "prepare", "close"])
@pytest.mark.parametrize("size", [10, 6 << 20])
def test_an_error_of_the_sink_poisons_the_writer_and_nothing_appears(codec, op, size):
    inner = MemoryBackend()
    inner.put_raw("x", b"old")

    class FailsOn(Flaky):
        def _before(self, name, number):
            if name == op:
                raise BackendUnavailable("injected")

    writer = EncodedWriter(FailsOn(inner, at=0).open_writer("x"), encoder(CODECS[codec]))
    with pytest.raises(BackendUnavailable):
        for _ in range(8):
            writer.write(payload(size // 8 + 1))
        {"flush": writer.flush, "prepare": writer.prepare}.get(op, writer.close)()
    for call in (lambda: writer.write(b"x"), writer.flush, writer.close):
        with pytest.raises(StorageError):
            call()
    writer.abort()
    assert inner.peek("x") == b"old"


def test_an_error_of_the_codec_poisons_the_writer_and_nothing_appears():
    class Broken:
        def feed(self, block):
            raise RuntimeError("engine failure")

    backend = MemoryBackend()
    writer = EncodedWriter(backend.open_writer("x"), Broken())
    with pytest.raises(RuntimeError):
        for _ in range(5):
            writer.write(payload(1 << 20))
        writer.close()
    with pytest.raises(RuntimeError):
        writer.close()
    assert list(backend.list()) == []


def test_close_again_returns_the_same_and_later_calls_are_refused():
    backend = MemoryBackend()
    writer = EncodedWriter(backend.open_writer("x"), Zstd().encoder())
    writer.write(b"data")
    info = writer.close()
    assert writer.close() is info is writer.result
    for call in (lambda: writer.write(b"x"), writer.flush, writer.prepare):
        with pytest.raises(WriterClosed):
            call()
    writer.abort()
    assert backend.exists("x")


def test_prepare_shows_nothing_and_takes_no_more():
    backend = MemoryBackend()
    writer = EncodedWriter(backend.open_writer("x"), Gzip().encoder())
    writer.write(payload(3 << 20))
    writer.prepare()
    writer.prepare()
    assert not backend.exists("x")
    with pytest.raises(WriterClosed):
        writer.write(b"more")
    writer.close()
    assert backend.exists("x")


def test_abort_from_another_thread_while_work_is_under_way():
    backend = MemoryBackend()
    gate, entered = threading.Event(), threading.Event()

    def wait(op):
        if op == "write":
            entered.set()
            gate.wait(LIMIT)

    writer = EncodedWriter(Slow(backend, wait=wait).open_writer("x"))
    for _ in range(3):
        writer.write(payload(1 << 20))
    assert entered.wait(LIMIT)
    aborter = threading.Thread(target=writer.abort)
    aborter.start()
    gate.set()
    aborter.join(LIMIT)
    with pytest.raises(WriterClosed):
        writer.close()
    assert list(backend.list()) == []


@pytest.mark.parametrize("overlap", [False, True])
def test_codec_truncation_is_an_error_each_time_it_is_asked_never_a_clean_end(overlap):
    backend = MemoryBackend()
    data = payload(4 << 20 if overlap else 1000)
    write(backend, "x.zst", Zstd(), data)
    backend.put_raw("cut.zst", backend.peek("x.zst")[:-5])
    with open_decoded(backend.open_reader("cut.zst")) as reader:
        for _ in range(3):
            with pytest.raises(CorruptData) as caught:
                while reader.next_block():
                    pass
            assert caught.value.path == "cut.zst"


def test_an_error_of_the_transport_while_reading_ahead_is_raised_in_place():
    backend = MemoryBackend()
    data = payload(8 << 20)
    write(backend, "x", None, data)
    flaky = Flaky(backend, at=20)
    with open_decoded(flaky.open_reader("x"), "none") as reader:
        got = 0
        with pytest.raises(BackendUnavailable):
            while block := reader.next_block():
                got += len(block)
        assert 0 < got < len(data)
        with pytest.raises(BackendUnavailable):
            reader.read(1)


def test_a_closed_reader_refuses_even_what_it_holds():
    backend = MemoryBackend()
    write(backend, "x", None, payload(3 << 20))
    reader = open_decoded(backend.open_reader("x"), "none")
    reader.read(10)
    reader.close()
    reader.close()
    for call in (lambda: reader.read(1), reader.next_block, reader.read):
        with pytest.raises(ReaderClosed):
            call()


def test_memory_in_flight_is_bounded():
    """A sink that does not move stops the caller after a few blocks."""
    gate, blocked_at = threading.Event(), []
    backend = Slow(MemoryBackend(), wait=lambda op: gate.wait(LIMIT) if op == "write" else None)
    writer = EncodedWriter(backend.open_writer("x"), Zstd(1).encoder())
    block = os.urandom(1 << 20)
    count = []

    def feed():
        for _ in range(64):
            writer.write(block)
            count.append(1)
        writer.close()

    thread = threading.Thread(target=feed)
    thread.start()
    thread.join(0.3)  # a slow machine can only make it pass
    blocked_at.append(len(count))
    gate.set()
    thread.join(LIMIT)
    assert blocked_at[0] <= 12
    assert len(count) == 64


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pain_9_a_forked_child_cannot_use_the_writer():
    backend = MemoryBackend()
    writer = EncodedWriter(backend.open_writer("x"), Zstd().encoder())
    for _ in range(3):
        writer.write(payload(1 << 20))
    child = os.fork()
    if child == 0:
        verdict = 1
        try:
            for call in (lambda: writer.write(b"x"), writer.flush, writer.close, writer.abort):
                try:
                    call()
                except WriterClosed:
                    continue
                os._exit(2)
            verdict = 0
        finally:
            os._exit(verdict)
    assert os.waitpid(child, 0)[1] == 0
    writer.close()
    with open_decoded(backend.open_reader("x"), "zstd") as reader:
        assert len(reader.read()) == 3 << 20


def test_a_basic_backend_serves_as_well():
    backend = BasicBackend()
    data = payload(3 << 20)
    write(backend, "x.zst", Zstd(), data)
    with open_decoded(backend.open_reader("x.zst")) as reader:
        assert reader.read() == data


def test_as_file_reads_and_writes_like_any_binary_file():
    backend = MemoryBackend()
    with as_file(backend.open_writer("x.json")) as file:
        assert file.writable()
        assert not file.readable()
        file.write(b'{"a": 1}\n')
        file.flush()
    with as_file(backend.open_reader("x.json")) as file:
        assert file.readable()
        assert json.load(io.TextIOWrapper(io.BufferedReader(file))) == {"a": 1}
    with as_file(backend.open_reader("x.json", ReadOptions(offset=2))) as file:
        assert file.read() == b'a": 1}\n'


def test_as_file_wrapped_in_io_layers_publishes_on_a_clean_exit():
    backend = MemoryBackend()
    with io.TextIOWrapper(
        io.BufferedWriter(as_file(EncodedWriter(backend.open_writer("x.gz"), Gzip().encoder())))
    ) as f:
        f.write("héllo\n")
    with open_decoded(backend.open_reader("x.gz")) as reader:
        assert reader.read() == "héllo\n".encode()


def test_a_dropped_decoded_reader_stops_reading_ahead():
    backend = MemoryBackend()
    write(backend, "x", None, payload(6 << 20))
    reader = DecodedReader(backend.open_reader("x"))
    for _ in range(5):
        reader.next_block()
    ahead = reader._ahead
    assert ahead is not None
    del reader
    gc.collect()
    assert ahead._done
