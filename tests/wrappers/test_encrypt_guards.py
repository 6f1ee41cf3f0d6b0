"""Encrypt: what it asks of the inner backend, and what it leaves behind there, when others write, wait or abort."""

import threading
from datetime import UTC, datetime

import pytest

from omnistorage import Encrypt, MemoryBackend, ops
from omnistorage.core import READ, ReadOptions, WriteOptions
from omnistorage.errors import ReaderClosed, WriterClosed
from omnistorage.testing import Faulty
from omnistorage.testing._kit import payload
from omnistorage.wrappers.base import Wrapper
from omnistorage.wrappers.streams import WrappedReader, WrappedWriter

from ..waiting import LIMIT

KEY = bytes(range(32))
CHUNK = 65536
OLD, NEW = payload(4 * CHUNK, "old"), payload(4 * CHUNK, "new")
LONGER = payload(4 * CHUNK + 1, "longer")


def put(store, content, when=datetime(2020, 1, 1, tzinfo=UTC)):
    return ops.write_bytes(store, "x", content, WriteOptions(modified_at=when))


class Swaps(Wrapper):
    """Behind the first opening another object takes the place. Says what was asked for, and counts open readers."""

    def __init__(self, inner, content=NEW):
        super().__init__(inner)
        self.content, self.asked, self.open, self.opened = content, [], 0, 0

    def open_reader(self, path, options=READ):
        self.asked.append(options)
        reader = super().open_reader(path, options)
        self.opened += 1
        if len(self.asked) == 1:
            put(Encrypt(self.inner, KEY), self.content, datetime(2021, 1, 1, tzinfo=UTC))
        return reader

    def _reader(self, reader, path):
        self.open += 1
        return _Counted(reader, self)


class _Counted(WrappedReader):
    is_open = True

    def __init__(self, inner, counts):
        super().__init__(inner)
        self.counts = counts

    def close(self):
        self.counts.open -= self.is_open
        self.is_open = False
        super().close()


class Tells(Wrapper):
    """A store without conditions, of whose objects only one thing tells the states apart."""

    clears = frozenset({"if_match"})
    hidden = ("etag", "size", "modified_at")

    def __init__(self, inner, tells):
        super().__init__(inner)
        self.tells = tells

    def _reader(self, reader, path):
        info = reader._info
        shown = info._replace(**{name: None for name in self.hidden if name != self.tells})
        reader._info = shown._replace(version=info.etag) if self.tells == "version" else shown
        return reader


@pytest.mark.parametrize("tells", ["etag", "size", "modified_at", "version"])
def test_where_no_condition_holds_a_range_together_whatever_the_store_tells_does(tells):
    inner = MemoryBackend()
    content = LONGER if tells == "size" else NEW
    swaps = Swaps(Tells(inner, tells), content)
    put(Encrypt(inner, KEY), OLD)
    got = ops.read_bytes(Encrypt(swaps, KEY), "x", ReadOptions(2 * CHUNK + 1, 5))
    assert got == content[2 * CHUNK + 1 :][:5]
    assert len(swaps.asked) == 4, "header and chunks, twice"
    assert swaps.open == 0, "the reader of the other object's chunks was closed, too"


def test_the_chunks_of_a_range_are_asked_for_with_the_etag_of_its_header_so_that_no_others_are_sent():
    inner = MemoryBackend()
    swaps = Swaps(inner)
    etag = put(Encrypt(inner, KEY), OLD).etag
    assert ops.read_bytes(Encrypt(swaps, KEY), "x", ReadOptions(2 * CHUNK + 1, 5)) == NEW[2 * CHUNK + 1 :][:5]
    assert [options.if_match for options in swaps.asked] == [None, etag, None, inner.stat("x").etag]
    assert swaps.opened == 3, "what had changed was not even opened"
    assert swaps.open == 0


def test_a_flush_reaches_the_inner_writer_behind_what_was_written_before_it():
    faulty = Faulty(MemoryBackend())
    with Encrypt(faulty, KEY).open_writer("x") as writer:
        writer.write(OLD)
        writer.flush()
        assert faulty.log[-2:] == ["write", "flush"]
    assert ops.read_bytes(Encrypt(faulty.inner, KEY), "x") == OLD


class Waits(Wrapper):
    """Its streams wait in ``waits`` until they are closed or aborted, as a stalled connection does."""

    def __init__(self, inner, waits):
        super().__init__(inner)
        self.waits, self.waiting, self.freed = waits, threading.Event(), threading.Event()

    def wait(self, op, run):
        if op in ("close", "abort") and op != self.waits:
            self.freed.set()
        elif op == self.waits:
            self.waiting.set()
            if not self.freed.wait(LIMIT):
                raise AssertionError(f"nobody freed what waits in {op}")
        return run()

    def _reader(self, reader, path):
        return _WaitingReader(reader, self)

    def _writer(self, writer, path):
        return _WaitingWriter(writer, self)


class _WaitingReader(WrappedReader):
    def __init__(self, inner, backend):
        super().__init__(inner)
        self._call = backend.wait


class _WaitingWriter(WrappedWriter):
    def __init__(self, inner, backend):
        super().__init__(inner)
        self._call = backend.wait


def in_a_thread(run):
    came = []

    def one():
        try:
            came.append(run())
        except BaseException as error:
            came.append(error)

    thread = threading.Thread(target=one)
    thread.start()
    return thread, came


@pytest.mark.parametrize("op", ["write", "flush", "prepare", "close"])
def test_an_abort_from_another_thread_frees_a_writer_whose_inner_stream_waits(op):
    inner = MemoryBackend()
    waits = Waits(inner, op)
    writer = Encrypt(waits, KEY).open_writer("x")
    calls = {"write": lambda: writer.write(OLD), "flush": writer.flush, "prepare": writer.prepare}
    thread, came = in_a_thread(calls.get(op, writer.close))
    assert waits.waiting.wait(LIMIT)
    writer.abort()
    thread.join(LIMIT)
    assert len(came) == 1
    assert not isinstance(came[0], AssertionError), came
    with pytest.raises(WriterClosed):
        writer.write(b"more")
    assert inner.peek("x") is None


def test_a_close_from_another_thread_frees_a_reader_whose_inner_stream_waits():
    inner = MemoryBackend()
    put(Encrypt(inner, KEY), OLD)
    waits = Waits(inner, None)
    reader = Encrypt(waits, KEY).open_reader("x")
    assert reader.read(5) == OLD[:5]
    waits.waits = "read"
    thread, came = in_a_thread(lambda: reader.read(-1))
    assert waits.waiting.wait(LIMIT)
    reader.close()
    thread.join(LIMIT)
    assert [type(error) for error in came] == [ReaderClosed]
