"""What ``ReaderBase`` and ``WriterBase`` promise at the worst moment: a close or abort from another thread that lands
after the last look and before the lock is free."""

import gc

import pytest

from omnistorage import ConfigError, MemoryBackend, ReaderClosed, WriterClosed, open_records
from omnistorage.backends import ReaderBase, WriterBase
from omnistorage.core import ObjectInfo, WriteOptions
from omnistorage.formats.lines import Lines


class LockThatIsInterrupted:
    """A lock whose first release is preceded by a call from elsewhere, which finds it taken."""

    def __init__(self, lock, call):
        self.lock, self.call = lock, call

    def acquire(self, blocking=True):
        return self.lock.acquire(blocking)

    def release(self):
        call, self.call = self.call, None
        if call is not None:
            call()
        self.lock.release()

    def __enter__(self):
        self.acquire()

    def __exit__(self, *exc):
        self.release()


class Writer(WriterBase):
    discarded = 0

    def _write(self, data):
        pass

    def _publish(self):
        return ObjectInfo("x")

    def _discard(self):
        self.discarded += 1


class Reader(ReaderBase):
    released = 0

    def _read(self, size):
        return b"data"

    def _release(self):
        self.released += 1


@pytest.mark.parametrize("method", ["write", "flush", "prepare"])
def test_an_abort_just_before_the_lock_is_free_discards_once(method):
    writer = Writer("x", WriteOptions(), "test")
    writer._lock = LockThatIsInterrupted(writer._lock, writer.abort)
    getattr(writer, method)(*([b"data"] if method == "write" else []))
    assert writer.discarded == 1
    with pytest.raises(WriterClosed, match="aborted"):
        writer.close()


def test_a_close_just_before_the_lock_is_free_releases_once_and_the_read_says_so():
    reader = Reader(ObjectInfo("x"))
    reader._lock = LockThatIsInterrupted(reader._lock, reader.close)
    with pytest.raises(ReaderClosed):
        reader.read(4)
    assert reader.released == 1


class NoStage(Lines):
    """A format that cannot make its stages."""

    def encoder(self):
        raise ConfigError("no stage")

    def decoder(self, on_bad=None):
        raise ConfigError("no stage")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["r", "w"])
def test_what_was_opened_is_closed_when_a_stage_cannot_be_made(mode, monkeypatch):
    store, ended = MemoryBackend(), []
    store.put_raw("x.log", b"old\n")
    opened = "open_reader" if mode == "r" else "open_writer"
    inner = getattr(store, opened)

    def opener(*args):
        stream = inner(*args)
        end = "close" if mode == "r" else "abort"
        original = getattr(stream, end)
        setattr(stream, end, lambda: (ended.append(end), original()))
        return stream

    monkeypatch.setattr(store, opened, opener)
    with pytest.raises(ConfigError, match="no stage"):
        open_records(store, "x.log", mode, format=NoStage())
    gc.collect()
    assert ended == ["close" if mode == "r" else "abort"]
    assert store.peek("x.log") == b"old\n"


def test_a_write_of_what_is_no_bytes_poisons_the_writer():
    with MemoryBackend() as store:
        writer = store.open_writer("x")
        writer.write(b"data")
        with pytest.raises(TypeError):
            writer.write(5)
        with pytest.raises(TypeError):
            writer.close()
        assert not store.exists("x")
