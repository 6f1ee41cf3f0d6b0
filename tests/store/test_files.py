"""Files of ``Store.open``: Python's own rules, and that nothing appears unless it was meant to."""

import csv
import gc
import gzip
import io
import json
import os
import sys
import tarfile
import tempfile
import warnings
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import omnistorage
from omnistorage import (
    AlreadyExists,
    BackendClosed,
    Capability,
    ConfigError,
    LocalBackend,
    MemoryBackend,
    PreconditionFailed,
    Store,
)
from omnistorage.store.files import NEAR, SPOOL, SeekableReader
from omnistorage.testing import BasicBackend, Flaky

from ..records.test_matrix import settle


@pytest.fixture
def store():
    with Store(MemoryBackend()) as store:
        yield store


@pytest.mark.parametrize("mode", ["", "rw", "r+", "b", "t", "rbt", "w+b", "rr", "z", "rb+", "U", "br", None, 5])
def test_other_modes_are_refused(store, mode):
    with pytest.raises(ConfigError, match="mode"):
        store.open("x", mode)


def test_settings_of_another_mode_are_refused(store):
    store.write("x", b"1")
    for settings_ in (
        {"encoding": "utf-8"},
        {"newline": ""},
        {"errors": "strict"},
        {"metadata": {"a": "b"}},
        {"content_type": "text/plain"},
    ):
        with pytest.raises(ConfigError, match="for"):
            store.open("x", "rb", **settings_)


@pytest.mark.parametrize("mode", ["wb", "xb", "wt", "xt"])
@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("size", [1, 3_000_000])
def test_nothing_appears_after_an_exception_an_abort_or_when_dropped(store, mode, codec, size):
    data = "x" * size if "t" in mode else os.urandom(size)
    with pytest.raises(KeyError), store.open("new", mode, compression=codec) as file:
        file.write(data)
        raise KeyError
    assert not store.exists("new")
    file = store.open("new", mode, compression=codec)
    file.write(data)
    file.abort()
    file.close()
    assert file.closed
    assert not store.exists("new")
    file = store.open("new", mode, compression=codec)
    file.write(data)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del file
        gc.collect()
        settle()
    assert not store.exists("new")
    assert any(issubclass(each.category, ResourceWarning) for each in told)
    with store.open("new", mode, compression=codec) as file:
        file.write(data)
    assert store.exists("new")
    assert file.result.path == "new"


def test_a_layer_that_closes_what_it_was_given_publishes(store):
    """What every file does; whoever wraps one and fails inside calls ``abort`` first."""
    with store.open("a.gz", "wb") as file, gzip.open(file, "wt") as zipped:
        zipped.write("hello")
    assert gzip.decompress(store.read_bytes("a.gz")) == b"hello"
    with pytest.raises(KeyError), store.open("b.gz", "wb") as file, gzip.open(file, "wt") as zipped:
        zipped.write("hello")
        raise KeyError
    assert not store.exists("b.gz")


@pytest.mark.parametrize("at", range(1, 8))
def test_a_failure_of_the_store_at_any_call_publishes_nothing(at):
    inner = MemoryBackend()
    store = Store(Flaky(inner, at=at))
    try:
        with store.open("x", "wt", compression="gzip") as file:
            for _ in range(4):
                file.write("0123456789" * 50_000)
                file.flush()
    except omnistorage.StorageError:
        assert not inner.exists("x")
    else:
        assert gzip.decompress(Store(inner).read_bytes("x")) == b"0123456789" * 200_000


def test_closing_is_no_flush_that_somebody_asked_for(store):
    """A flush ends a stream of bz2, and makes a block of gzip: none is made for nothing."""
    for name in ("gzip", "bz2", "zstd"):
        with store.open("by file", "wb", compression=name) as file:
            file.write(b"data")
        with omnistorage.open_records(store, "by records.txt", "w", compression="none") as writer:
            writer.write(b"x")
        codec = omnistorage.compression.codec(name).encoder()
        bare = b"".join([*codec.feed(b"data"), *codec.finish()])
        assert len(store.read_bytes("by file")) == len(bare)
        with store.open("by text", "wt", compression=name) as file:
            file.write("data")
        assert len(store.read_bytes("by text")) == len(bare)


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_flush_brings_what_was_written_to_the_store(codec):
    from omnistorage import ChannelBackend

    with Store(ChannelBackend()) as store, store.open("x", "wt", compression=codec) as file:
        file.write("é")
        file.flush()
        with store.open("x", "rt", compression=codec) as reader:
            reader.reconfigure(line_buffering=True)
            assert reader.buffer.read1(2) == "é".encode()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mode", ["wb", "wt"])
def test_what_interrupts_a_close_publishes_nothing_half_written(mode):
    """An interrupt comes anywhere; io's own close goes on to the stream below even if its buffer was not emptied."""
    data = "x" * 204_000 if mode == "wt" else b"x" * 204_000
    for line in range(40):
        with Store(MemoryBackend()) as store:
            left = [line]

            def interrupt(frame, event, argument, left=left):
                if (
                    frame.f_code.co_filename.endswith(("store/files.py", "omnistorage/records/byte_streams.py"))
                    and event == "line"
                ):
                    left[0] -= 1
                    if left[0] == 0:
                        raise KeyboardInterrupt
                return interrupt

            file = store.open("x", mode)
            file.write(data)
            file.write(data[:10])  # this much stays in the buffer
            sys.settrace(interrupt)
            try:
                file.close()
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            assert not store.exists("x") or len(store.read_bytes("x")) == len(data) + 10
            del file
            gc.collect()
            assert not store.exists("x") or len(store.read_bytes("x")) == len(data) + 10


def test_settings_that_io_refuses_are_told_before_anything_is_opened(store):
    for settings_ in ({"encoding": "nope"}, {"newline": "q"}, {"errors": 5}):
        for mode in ("wt", "rt"):
            with pytest.raises(ConfigError) as caught:
                store.open("x", mode, **settings_)
            assert caught.value.path == "x"
    assert not store.exists("x")


def test_an_unencodable_text_publishes_nothing(store):
    with pytest.raises(UnicodeEncodeError), store.open("x", "w", encoding="ascii") as file:
        file.write("é")
    assert not store.exists("x")


def test_a_suffix_that_contradicts_the_codec_is_refused(store):
    with pytest.raises(ConfigError, match="suffix"):
        store.open("a.gz", "wt", compression="zstd")
    assert not store.exists("a.gz")
    with store.open("a.gz", "wt") as file:
        file.write("x")
    store.move("a.gz", "a.zst")
    assert store.open("a.zst", "rt").read() == "x"  # magic bytes beat the suffix


def test_x_makes_only_what_is_new(store):
    with store.open("x", "x") as file:
        file.write("1")
    with pytest.raises(AlreadyExists):
        store.open("x", "x").close()
    assert store.read_text("x") == "1"


# -- seeking -----------------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 1024


class Seeks(RuleBasedStateMachine):
    """A file that seeks against one of Python's."""

    @initialize(place=st.sampled_from([MemoryBackend, BasicBackend, lambda: LocalBackend(tempfile.mkdtemp())]))
    def start(self, place):
        self.store = Store(place())
        self.store.write("x", CONTENT, overwrite=True)
        self.file, self.model = self.store.read_seekable("x"), io.BytesIO(CONTENT)

    @rule(size=st.integers(-1, 3 * NEAR) | st.integers(0, 10))
    def read(self, size):
        assert self.file.read(size) == self.model.read(size)

    @rule(size=st.integers(0, 2 * NEAR))
    def readinto(self, size):
        ours, theirs = bytearray(size), bytearray(size)
        assert self.file.readinto(ours) == self.model.readinto(theirs)
        assert ours == theirs

    @rule(offset=st.integers(0, len(CONTENT) + 10))
    def seek(self, offset):
        assert self.file.seek(offset) == self.model.seek(offset)

    @rule(offset=st.integers(-len(CONTENT), 10))
    def seek_from_the_end(self, offset):
        assert self.file.seek(offset, io.SEEK_END) == self.model.seek(offset, io.SEEK_END)

    @rule(offset=st.integers(0, 2 * NEAR))
    def seek_on(self, offset):
        assert self.file.seek(offset, io.SEEK_CUR) == self.model.seek(offset, io.SEEK_CUR)

    @rule()
    def readline(self):
        assert self.file.readline() == self.model.readline()

    @invariant()
    def same_place(self):
        if hasattr(self, "file"):
            assert self.file.tell() == self.model.tell()

    def teardown(self):
        if hasattr(self, "file"):
            self.file.close()
            self.store.close()


TestSeeks = Seeks.TestCase
TestSeeks.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


def test_a_file_that_seeks_asks_for_ranges_and_not_for_every_byte():
    asked = []

    class Counting(MemoryBackend):
        def open_reader(self, path, options=omnistorage.ReadOptions()):  # noqa: B008
            asked.append((options.offset, options.if_match))
            return super().open_reader(path, options)

    with Store(Counting()) as store:
        etag = store.write("x", bytes(20 << 20)).etag
        with store.open("x") as file:
            file.seek(-5, io.SEEK_END)
            assert len(file.read()) == 5
            file.seek(10 << 20)
            file.read(10)
            file.seek(10, io.SEEK_CUR)  # near: it reads on
            file.read(1)
    assert asked == [(0, None), ((20 << 20) - 5, etag), (10 << 20, etag)]


def test_a_seek_never_joins_two_versions(store):
    store.write("x", b"old" * 100_000)
    with store.open("x") as file:
        assert file.read(3) == b"old"
        store.write("x", b"new" * 100_000, overwrite=True)
        file.seek(200_000)
        with pytest.raises(PreconditionFailed):
            file.read(1)


def test_a_seek_without_etags_notices_another_size_or_time():
    class NoEtags(MemoryBackend):
        def open_reader(self, path, options=omnistorage.ReadOptions()):  # noqa: B008
            reader = super().open_reader(path, options)
            reader._info = reader.info._replace(etag=None)
            return reader

    with Store(NoEtags()) as store:
        store.write("x", b"old" * 100_000)
        file = store.open("x")
        store.write("x", b"newer" * 100_000, overwrite=True)
        file.seek(200_000)
        with pytest.raises(PreconditionFailed):
            file.read(1)


def test_what_has_no_ranges_is_spooled_to_disk_beyond_8_mib(monkeypatch):
    import omnistorage.store.files as files

    made = []
    real = tempfile.SpooledTemporaryFile
    monkeypatch.setattr(files.tempfile, "SpooledTemporaryFile", lambda size: made.append(real(size)) or made[-1])
    with Store(BasicBackend()) as store:
        assert not store.supports(Capability.RANGE_READ)
        assert store.supports(Capability.SEEKABLE_READ)
        store.write("small", b"1", overwrite=True)
        store.write("large", bytes(SPOOL + 1), overwrite=True)
        for name in ("small", "large"):
            with store.read_seekable(name) as file:
                assert file.seekable()
                file.seek(0, io.SEEK_END)
        assert [spool._rolled for spool in made] == [False, True]
        assert all(spool.closed for spool in made)
        assert not store.open("small").seekable()


def test_a_closed_file_is_closed(store):
    store.write("x", b"123")
    file = store.open("x")
    file.close()
    file.close()
    for call in (file.read, file.tell, lambda: file.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            call()
    raw = SeekableReader(store.as_backend(), "x", omnistorage.ReadOptions())
    with pytest.raises(ValueError, match="whence"):
        raw.seek(0, 5)
    with pytest.raises(ValueError, match="from 0"):
        raw.seek(-1)
    raw.close()
    with pytest.raises(ValueError, match="closed"):
        raw.read(1)


# -- other people's libraries ------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "local"])
def place(request, tmp_path):
    with Store(MemoryBackend() if request.param == "memory" else LocalBackend(tmp_path / "s")) as store:
        yield store


def test_pain_1_csv_json_zip_and_tar_take_our_files(place):
    with place.open("a.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([["a", "b"], ["1", "x\ny"]])
    with place.open("a.csv.gz", "rt", newline="") as file:
        assert list(csv.reader(file)) == [["a", "b"], ["1", "x\ny"]]
    with place.open("a.json", "w") as file:
        json.dump({"a": 1}, file)
    assert json.load(place.open("a.json")) == {"a": 1}
    with place.open("a.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inside", b"zipped")
    with place.open("a.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("inside") == b"zipped"
    with place.open("a.tar.gz", "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo("inside")
        info.size = 6
        archive.addfile(info, io.BytesIO(b"tarred"))
    with place.open("b.tar", "wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(info, io.BytesIO(b"tarred"))
        assert file.tell() >= 512
    with place.open("b.tar") as file, tarfile.open(fileobj=file) as archive:
        assert archive.getnames() == ["inside"]
    with place.open("a.tar.gz") as file, tarfile.open(fileobj=file) as archive:
        assert archive.extractfile("inside").read() == b"tarred"


def test_pyarrow_takes_our_files(place):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"n": list(range(1000)), "t": ["x"] * 1000})
    with place.open("a.parquet", "wb") as file:
        parquet.write_table(table, file)
    with place.open("a.parquet") as file:
        assert parquet.read_table(file) == table
    with (
        pytest.raises(KeyError),
        place.open("b.parquet", "wb") as file,
        parquet.ParquetWriter(file, table.schema) as writer,
    ):
        writer.write_table(table)
        raise KeyError
    assert not place.exists("b.parquet")


# -- by URL ------------------------------------------------------------------------------------------------------------


def test_open_takes_a_url_or_a_path_and_closes_what_it_came_from(tmp_path):
    with omnistorage.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write("hello")
    assert gzip.decompress((tmp_path / "a.txt.gz").read_bytes()) == b"hello"
    with omnistorage.open((tmp_path / "a.txt.gz").as_uri(), "rt") as file:
        assert file.read() == "hello"
    with pytest.raises(FileNotFoundError):
        omnistorage.open(tmp_path / "nope")


@pytest.mark.parametrize("mode", ["rb", "rt", "wb", "wt"])
def test_a_file_closes_its_owner_however_it_ends(store, mode):
    store.write("x", b"1")
    for end in ("close", "abort", "fail"):
        backend = MemoryBackend()
        Store(backend, owns=False).write("x", b"1")
        file = Store(backend, owns=False).open("x", mode, owner=backend)
        if end == "fail" and "w" in mode:
            file.abort()
        getattr(file, end if end == "abort" and "w" in mode else "close")()
        with pytest.raises(BackendClosed):
            backend.exists("x")


@given(text=st.text(max_size=200), newline=st.sampled_from([None, "", "\n", "\r\n"]))
@settings(max_examples=50, deadline=None)
def test_text_is_what_pythons_open_makes_of_it(text, newline):
    with tempfile.TemporaryDirectory() as folder, Store(MemoryBackend()) as store:
        with open(f"{folder}/x", "w", encoding="utf-16", newline=newline, errors="replace") as theirs:
            theirs.write(text)
        with store.open("x", "w", encoding="utf-16", newline=newline, errors="replace") as ours:
            ours.write(text)
        with open(f"{folder}/x", "rb") as theirs:
            assert store.read_bytes("x") == theirs.read()
        with (
            open(f"{folder}/x", encoding="utf-16", newline=newline) as theirs,
            store.open("x", "r", encoding="utf-16", newline=newline) as ours,
        ):
            assert ours.read() == theirs.read()
