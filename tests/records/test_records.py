"""RecordWriter and RecordReader: what is written, refused, published, named."""

import errno
import gzip

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import omnistorage
from omnistorage import (
    AlreadyExists,
    ConfigError,
    CorruptData,
    LocalBackend,
    MemoryBackend,
    Ndjson,
    RecordError,
    WriteOptions,
    WriterClosed,
    Zstd,
    open_records,
)
from omnistorage.testing import BasicBackend, Flaky

from .streams import EVENTS, lines

SUFFIXES = [".ndjson", ".ndjson.gz", ".ndjson.zst", ".jsonl.zst"]

# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("backend", [MemoryBackend, BasicBackend])
def test_what_is_written_is_read_back(suffix, backend):
    store = backend()
    with open_records(store, "logs/a" + suffix, "w") as writer:
        for event in EVENTS[:300]:
            writer.write(event)
        assert writer.write_many(EVENTS[300:]) == 700
        assert writer.records == 1000
    assert writer.result.path == "logs/a" + suffix
    with open_records(store, "logs/a" + suffix, "r") as reader:
        assert list(reader) == EVENTS
        assert reader.records == 1000


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**53), 2**53)
            | st.text(st.characters(exclude_categories=["Cs"])),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
            ),
            max_leaves=6,
        ),
        max_size=30,
    ),
    takes=st.lists(st.sampled_from(["one", "many", "iterate", "batch"]), max_size=12),
    suffix=st.sampled_from(SUFFIXES),
)
def test_every_way_of_reading_gives_each_record_once_in_order(records, takes, suffix):
    store = MemoryBackend()
    with open_records(store, "x" + suffix, "w") as writer:
        writer.write_many(records)
    got = []
    with open_records(store, "x" + suffix, "r") as reader:
        for take in takes:
            if take == "one":
                try:
                    got.append(reader.read())
                except EOFError:
                    break
            elif take == "many":
                got += reader.read_many(3)
            elif take == "iterate":
                for record in reader:
                    got.append(record)
                    break
            else:
                for batch in reader.iter_batches(2):
                    got += batch
                    break
        for batch in reader.iter_batches():
            got += batch
        with pytest.raises(EOFError):
            reader.read()
    assert got == records


def test_iter_batches_has_the_size_asked_for():
    store = MemoryBackend()
    with open_records(store, "x.ndjson", "w") as writer:
        writer.write_many(EVENTS)
    with open_records(store, "x.ndjson") as reader:
        assert [len(batch) for batch in reader.iter_batches(300)] == [300, 300, 300, 100]
    with open_records(store, "x.ndjson") as reader:
        assert all(1 <= len(batch) <= 256 for batch in reader.iter_batches())
    with open_records(store, "x.ndjson") as reader, pytest.raises(ConfigError):
        next(reader.iter_batches(0))


def test_go_r1_what_the_reader_would_refuse_the_writer_refuses():
    store = MemoryBackend()
    small = Ndjson(max_record=100)
    with open_records(store, "x.ndjson", "w", format=small) as writer:
        with pytest.raises(RecordError):
            writer.write({"long": "x" * 200})
        with pytest.raises(RecordError):
            writer.write(b'{"two":\n"lines"}')
        writer.write({"fine": 1})
    with open_records(store, "x.ndjson", format=small) as reader:
        assert list(reader) == [{"fine": 1}]


def test_an_unencodable_record_leaves_the_writer_usable_and_loses_no_neighbour():
    store = MemoryBackend()
    with open_records(store, "x.ndjson.zst", "w") as writer:
        with pytest.raises(RecordError) as caught:
            writer.write_many([*EVENTS[:10], {"bad": object()}, *EVENTS[10:20]])
        assert caught.value.number == 11
        assert writer.records == 10
        writer.write_many(EVENTS[10:])
    with open_records(store, "x.ndjson.zst") as reader:
        assert list(reader) == EVENTS


@pytest.mark.parametrize("many", [False, True])
def test_bad_records_are_handled_by_policy_when_writing(many):
    store, seen = MemoryBackend(), []
    mixed = [{"n": 1}, {1j}, {"n": 2}, object(), {"n": 3}]
    for policy in ("skip", "collect", seen.append):
        with open_records(store, "x.ndjson", "w", on_error=policy) as writer:
            if many:
                writer.write_many(mixed)
            else:
                for record in mixed:
                    writer.write(record)
            assert (writer.records, writer.bad.count) == (3, 2)
        if policy == "collect":
            assert [error.number for error in writer.bad.errors] == [2, 4]
        assert store.peek("x.ndjson") == lines({"n": 1}, {"n": 2}, {"n": 3})
    assert [error.number for error in seen] == [2, 4]


def test_go_r2_flushed_records_can_be_read_from_the_file_at_once(tmp_path):
    with open_records(LocalBackend(tmp_path), "x.ndjson.zst", "w") as writer:
        writer.write_many(EVENTS[:100])
        writer.flush()
        (temporary,) = tmp_path.iterdir()
        decoder = Zstd().decoder()
        assert b"".join(decoder.feed(temporary.read_bytes())) == lines(*EVENTS[:100])


def test_close_again_returns_the_same_and_writes_are_refused_after():
    store = MemoryBackend()
    writer = open_records(store, "x.ndjson", "w")
    writer.write({"a": 1})
    info = writer.close()
    assert writer.close() == info == writer.result
    for call in (
        lambda: writer.write({}),
        lambda: writer.write_many([{}]),
        writer.flush,
    ):
        with pytest.raises(WriterClosed):
            call()


def test_prepare_shows_nothing_and_takes_no_more():
    store = MemoryBackend()
    writer = open_records(store, "x.ndjson.gz", "w")
    writer.write_many(EVENTS)
    writer.prepare()
    assert not store.exists("x.ndjson.gz")
    with pytest.raises(WriterClosed):
        writer.write({})
    writer.close()
    with open_records(store, "x.ndjson.gz") as reader:
        assert list(reader) == EVENTS


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("count", [1, 60_000])
def test_pain_1_an_exception_while_writing_records_leaves_nothing(suffix, count):
    store = MemoryBackend()
    store.put_raw("x" + suffix, b"old")
    with pytest.raises(KeyError), open_records(store, "x" + suffix, "w") as writer:
        writer.write_many({"n": n, "pad": "x" * 50} for n in range(count))
        raise KeyError
    assert store.peek("x" + suffix) == b"old"
    writer.abort()
    with pytest.raises(WriterClosed):
        writer.write({})


def test_pain_1_an_exception_of_the_callers_own_iterator_leaves_nothing():
    def records():
        yield from EVENTS
        raise ZeroDivisionError

    store = MemoryBackend()
    with pytest.raises(ZeroDivisionError), open_records(store, "x.ndjson.zst", "w") as writer:
        writer.write_many(records())
    assert list(store.list()) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_fault_at_every_call_leaves_the_old_or_the_new_object(suffix):
    old = lines({"old": True})
    at = 0
    while True:
        at += 1
        inner = MemoryBackend()
        inner.put_raw("x" + suffix, old)
        flaky = Flaky(inner, at=at)
        try:
            with open_records(flaky, "x" + suffix, "w") as writer:
                writer.write_many(EVENTS)
                writer.flush()
                writer.write_many(EVENTS)
        except omnistorage.StorageError:
            assert inner.peek("x" + suffix) == old
        else:
            assert flaky.fired == 0
            break
    assert at > 4
    with open_records(inner, "x" + suffix) as reader:
        assert list(reader) == EVENTS * 2


def test_overwrite_false_and_mode_x():
    store = MemoryBackend()
    with open_records(store, "x.ndjson", "x") as writer:
        writer.write({"n": 1})
    with pytest.raises(AlreadyExists):
        open_records(store, "x.ndjson", "x")
    with pytest.raises(AlreadyExists):
        open_records(store, "x.ndjson", "w", options=WriteOptions(overwrite=False))


def test_pain_4_exactly_the_given_path_is_written():
    store = MemoryBackend()
    for path in ("a.ndjson.gz", "b.ndjson", "c.bin"):
        given_ = {"format": "ndjson", "compression": "gzip"} if path == "c.bin" else {}
        with open_records(store, path, "w", **given_) as writer:
            writer.write({"n": 1})
    assert sorted(info.path for info in store.list()) == ["a.ndjson.gz", "b.ndjson", "c.bin"]
    assert gzip.decompress(store.peek("c.bin")) == lines({"n": 1})


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("a.ndjson.gz", {"compression": "zstd"}),
        ("a.ndjson.gz", {"compression": "none"}),
        ("a.ndjson", {"compression": "gzip"}),
        ("a.ndjson", {"format": "lines"}),
        ("a.log.zst", {"format": "ndjson"}),
        ("a.bin", {}),
        ("a", {}),
        ("a.ndjson", {"compression": "brotli"}),
        ("a.bin", {"format": "nd-json"}),
        ("a.ndjson", {"no_such": 1}),
        ("a.ndjson", {"on_error": "explode"}),
        ("a.ndjson", {"on_error": 5}),
        ("a.ndjson", {"max_bad": -1}),
        ("a.ndjson", {"max_bad_ratio": 7}),
    ],
)
def test_pain_4_a_suffix_that_contradicts_is_refused_before_anything_is_touched(path, settings):
    store = MemoryBackend()
    with pytest.raises(ConfigError):
        open_records(store, path, "w", **settings)
    assert list(store.list()) == []


def test_a_wrong_mode_is_refused():
    for mode in ("a", "rb", ""):
        with pytest.raises(ConfigError):
            open_records(MemoryBackend(), "x.ndjson", mode)


def test_go_f13_the_wrong_kind_of_options_is_refused_not_ignored():
    with pytest.raises(ConfigError):
        open_records(MemoryBackend(), "x.ndjson", "w", options=omnistorage.ReadOptions())
    with pytest.raises(ConfigError):
        open_records(MemoryBackend(), "x.ndjson", "r", options=WriteOptions())


# -- what errors name --------------------------------------------------------------------------------------------------


def test_errors_name_the_full_path_of_the_file(tmp_path):
    path = str(tmp_path / "deep/x.ndjson")
    with pytest.raises(FileNotFoundError) as missing:
        open_records(path)
    assert (missing.value.filename, missing.value.errno) == (path, errno.ENOENT)
    with open_records(path, "w") as writer, pytest.raises(RecordError) as unfit:
        writer.write({1, 2})
    assert (unfit.value.path, unfit.value.filename) == ("x.ndjson", path)
    (tmp_path / "deep/x.ndjson").write_bytes(b"{}\n[")
    for more in ({}, {"on_error": "collect", "max_bad": 0}, {"on_error": "collect", "max_bad_ratio": 0.1}):
        with open_records(path, **more) as reader, pytest.raises((RecordError, CorruptData)) as bad:
            list(reader)
        assert bad.value.filename == path


def test_errors_of_a_compressed_stream_name_the_full_path(tmp_path):
    path = tmp_path / "x.ndjson.gz"
    path.write_bytes(gzip.compress(b"{}\n")[:-1])
    with open_records(path) as reader, pytest.raises(CorruptData) as cut:
        list(reader)
    assert cut.value.filename == str(path)
    with omnistorage.open(path, "rt") as file, pytest.raises(CorruptData) as cut:
        file.read()
    assert cut.value.filename == str(path)


def test_numbers_and_arrays_of_numpy_are_those_of_json():
    record = {"n": numpy.int64(3), "f": numpy.float32(0.5), "a": numpy.array([[1.5, 2], [3, 4]])}
    assert Ndjson().encoder().encode(record) == b'{"n":3,"f":0.5,"a":[[1.5,2.0],[3.0,4.0]]}\n'
