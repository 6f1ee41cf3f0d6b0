"""Records end to end: writer, reader, bad-record policies, suffixes, magic, limits."""

import gzip
import os
import subprocess

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import omnistorage
from omnistorage import (
    AlreadyExists,
    ConfigError,
    CorruptData,
    Gzip,
    LocalBackend,
    MemoryBackend,
    Ndjson,
    NotFound,
    RecordError,
    RecordWriter,
    WriteOptions,
    WriterClosed,
    Zstd,
    open_records,
)
from omnistorage.backends.channel import ChannelBackend
from omnistorage.testing import BasicBackend, Flaky

SUFFIXES = [".ndjson", ".ndjson.gz", ".ndjson.zst", ".jsonl.zst"]
EVENTS = [{"n": n, "text": f"évent {n}", "nested": {"list": [n, n + 1], "ok": True}} for n in range(1000)]


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def lines(*records):
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


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


# --- writing ----------------------------------------------------------------------------------------------------------


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


# --- suffixes and magic -----------------------------------------------------------------------------------------------


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


def test_on_reading_magic_bytes_beat_the_suffix():
    store = MemoryBackend()
    data = lines(*EVENTS)
    store.put_raw("plain-name.ndjson", gzip.compress(data))
    store.put_raw("wrong-name.ndjson.gz", b"".join([*(e := Zstd().encoder()).feed(data), *e.finish()]))
    for path in ("plain-name.ndjson", "wrong-name.ndjson.gz"):
        with open_records(store, path) as reader:
            assert list(reader) == EVENTS


def test_codec_an_empty_object_where_a_codec_header_must_be_is_an_error():
    store = MemoryBackend()
    store.put_raw("x.ndjson.zst", b"")
    with open_records(store, "x.ndjson.zst") as reader, pytest.raises(CorruptData):
        list(reader)
    store.put_raw("x.ndjson", b"")
    with open_records(store, "x.ndjson") as reader:
        assert list(reader) == []


# --- bad records when reading -----------------------------------------------------------------------------------------

DIRTY = b'{"n":1}\n{"n":2\n{"n":3}\n[1\n2]\n3,4\n{"n":4}\n'


def test_go_r3_raise_names_number_offset_and_bytes_and_reading_can_go_on():
    store = MemoryBackend()
    store.put_raw("x.ndjson", DIRTY)
    got, errors = [], []
    with open_records(store, "x.ndjson") as reader:
        while True:
            try:
                got.append(reader.read())
            except RecordError as error:
                errors.append((error.number, error.offset, error.raw, error.path))
            except EOFError:
                break
    assert got == [{"n": 1}, {"n": 3}, {"n": 4}]
    assert errors == [
        (2, 8, b'{"n":2', "x.ndjson"),
        (4, 23, b"[1", "x.ndjson"),
        (5, 26, b"2]", "x.ndjson"),
        (6, 29, b"3,4", "x.ndjson"),
    ]


def test_read_many_keeps_the_good_records_before_a_bad_one():
    store = MemoryBackend()
    store.put_raw("x.ndjson", DIRTY)
    with open_records(store, "x.ndjson") as reader:
        with pytest.raises(RecordError):
            reader.read_many(5)
        assert reader.read() == {"n": 1}


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 600))
def test_goal_21_bad_lines_lose_no_good_one(data, count):
    bad = data.draw(st.sets(st.integers(0, count - 1), max_size=count // 2))
    rows = [b"{broken" if n in bad else b"[%d]" % n for n in range(count)]
    offsets = [sum(len(row) + 1 for row in rows[:n]) for n in sorted(bad)]
    store = MemoryBackend()
    store.put_raw("x.ndjson", b"\n".join(rows) + b"\n")
    with open_records(store, "x.ndjson", on_error="collect") as reader:
        assert list(reader) == [[n] for n in range(count) if n not in bad]
        assert [error.offset for error in reader.bad.errors] == offsets
        assert [error.number for error in reader.bad.errors] == [n + 1 for n in sorted(bad)]


def test_skip_counts_and_a_callable_sees_each():
    store, seen = MemoryBackend(), []
    store.put_raw("x.ndjson", DIRTY)
    with open_records(store, "x.ndjson", on_error="skip") as reader:
        assert len(list(reader)) == 3
        assert reader.bad.count == 4
    with open_records(store, "x.ndjson", on_error=seen.append) as reader:
        assert len(list(reader)) == 3
    assert [error.number for error in seen] == [2, 4, 5, 6]


def test_dead_letters_keep_the_raw_bytes():
    store = MemoryBackend()
    store.put_raw("x.ndjson", DIRTY + b"\xff\xfe\n")
    with open_records(store, "dead.ndjson", "w") as dead, open_records(store, "x.ndjson", on_error=dead) as reader:
        assert len(list(reader)) == 3
    with open_records(store, "dead.ndjson") as reader:
        letters = list(reader)
    assert [letter.get("raw") for letter in letters] == ['{"n":2', "[1", "2]", "3,4", None]
    assert letters[-1]["raw_base64"] == "//4="
    with open_records(store, "dead.log", "w") as dead, open_records(store, "x.ndjson", on_error=dead) as reader:
        list(reader)
    assert store.peek("dead.log") == b'{"n":2\n[1\n2]\n3,4\n\xff\xfe\n'


def test_too_many_bad_records_stop_the_reading():
    store = MemoryBackend()
    store.put_raw("x.ndjson", DIRTY)
    for limits in ({"max_bad": 3}, {"max_bad_ratio": 0.5}):
        with open_records(store, "x.ndjson", on_error="skip", **limits) as reader, pytest.raises(CorruptData):
            list(reader)
    for limits in ({"max_bad": 4}, {"max_bad_ratio": 0.6}):
        with open_records(store, "x.ndjson", on_error="skip", **limits) as reader:
            assert len(list(reader)) == 3


def test_a_handler_that_raises_stops_the_reading():
    def handler(error):
        raise ZeroDivisionError

    store = MemoryBackend()
    store.put_raw("x.ndjson", DIRTY)
    with open_records(store, "x.ndjson", on_error=handler) as reader, pytest.raises(ZeroDivisionError):
        list(reader)


def test_go_r3_a_torn_last_line_is_corrupt_and_the_records_before_it_are_not_lost():
    store = MemoryBackend()
    store.put_raw("x.ndjson", b'{"n":1}\n{"n":2}\n{"n":')
    got = []
    with open_records(store, "x.ndjson") as reader, pytest.raises(CorruptData) as caught:
        for record in reader:
            got.append(record)
    assert got == [{"n": 1}, {"n": 2}]
    assert caught.value.path == "x.ndjson"


@pytest.mark.parametrize("suffix", [".ndjson", ".ndjson.gz"])
def test_codec_damage_is_raised_each_time_it_is_asked_and_behind_the_bad_records_before_it(suffix):
    store = MemoryBackend()
    with open_records(store, "x.log" + suffix.removeprefix(".ndjson"), "w") as writer:
        writer.write_many([b'{"n":1}', b"{bad", b'{"n":2}'])
    raw = store.peek("x.log" + suffix.removeprefix(".ndjson"))
    store.put_raw("x" + suffix, raw[:-4] + (b'{"to' if suffix == ".ndjson" else b""))
    with open_records(store, "x" + suffix) as reader:
        assert reader.read() == {"n": 1}
        with pytest.raises(RecordError):
            reader.read()
        for _ in range(3):
            with pytest.raises(CorruptData):
                list(reader)


# --- limits, URLs, the world outside ----------------------------------------------------------------------------------


def test_untrusted_input_is_bounded_in_ratio():
    store = MemoryBackend()
    with open_records(store, "x.log.zst", "w") as writer:
        writer.write_many([b"the same line again"] * 4_000_000)
    with open_records(store, "x.log.zst") as reader:
        assert sum(map(len, reader.iter_batches())) == 4_000_000
    with open_records(store, "x.log.zst", untrusted=True) as reader, pytest.raises(CorruptData, match="max_ratio"):
        for _ in reader.iter_batches():
            pass
    with open_records(store, "x.log.zst", max_output=1000) as reader, pytest.raises(CorruptData, match="max_output"):
        list(reader)


def test_a_missing_object_is_not_found():
    with pytest.raises(NotFound):
        open_records(MemoryBackend(), "x.ndjson")


def test_one_url_or_path_is_enough(tmp_path):
    for target in (str(tmp_path / "new folder/a.ndjson.zst"), (tmp_path / "b é.ndjson").as_uri(), tmp_path / "c.jsonl"):
        with open_records(target, "w") as writer:
            writer.write_many(EVENTS)
        with open_records(target, "r") as reader:
            assert list(reader) == EVENTS
        with open_records(target) as reader:
            assert reader.read() == EVENTS[0]


@pytest.mark.parametrize("suffix", [".ndjson.gz", ".ndjson.zst"])
def test_our_files_are_read_by_the_programs_and_libraries_people_use(tmp_path, suffix):
    path = tmp_path / f"events{suffix}"
    with open_records(path, "w") as writer:
        writer.write_many(EVENTS)
    program = {"gz": "gzip", "zst": "zstd"}[suffix.rpartition(".")[2]]
    plain = subprocess.run([program, "-dc", str(path)], capture_output=True, check=True).stdout
    assert [orjson.loads(line) for line in plain.splitlines()] == EVENTS
    duckdb = pytest.importorskip("duckdb", exc_type=ImportError)
    count, total = duckdb.sql(f"select count(*), sum(n) from read_ndjson('{path}')").fetchall()[0]
    assert (count, total) == (1000, sum(range(1000)))
    polars = pytest.importorskip("polars", exc_type=ImportError)
    frame = polars.read_ndjson(path)
    assert frame["text"].to_list() == [event["text"] for event in EVENTS]


@pytest.mark.parametrize("suffix", [".ndjson.gz", ".ndjson.zst"])
def test_theirs_are_read_by_us(tmp_path, suffix):
    plain = tmp_path / "theirs.ndjson"
    plain.write_bytes(lines(*EVENTS))
    program = {"gz": "gzip", "zst": "zstd"}[suffix.rpartition(".")[2]]
    subprocess.run(
        [program, "-q", str(plain)] if program == "gzip" else [program, "-q", "--rm", str(plain)], check=True
    )
    with open_records(tmp_path / f"theirs{suffix}") as reader:
        assert list(reader) == EVENTS
    polars = pytest.importorskip("polars", exc_type=ImportError)
    polars.DataFrame({"n": [1, 2, 3]}).write_ndjson(tmp_path / "polars.ndjson")
    with open_records(tmp_path / "polars.ndjson") as reader:
        assert list(reader) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_record_writer_takes_any_writer():
    store = MemoryBackend()
    with RecordWriter(store.open_writer("x"), Ndjson(), Gzip()) as writer:
        writer.write({"a": 1})
    assert gzip.decompress(store.peek("x")) == b'{"a":1}\n'


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_cannot_write_records():
    store = MemoryBackend()
    writer = open_records(store, "x.ndjson", "w")
    writer.write({"parent": 1})
    child = os.fork()
    if child == 0:
        verdict = 0
        try:
            for call in (
                lambda: writer.write({"child": 1}),
                lambda: writer.write_many([{}]),
                writer.flush,
                writer.close,
            ):
                try:
                    call()
                    verdict = 1
                except WriterClosed:
                    pass
        finally:
            os._exit(verdict)
    assert os.waitpid(child, 0)[1] == 0
    writer.close()
    assert store.peek("x.ndjson") == b'{"parent":1}\n'


def test_a_live_source_is_not_waited_for_longer_than_it_takes_to_tell_its_codec():
    """A short first line is decoded before the second one comes."""
    channel = ChannelBackend(timeout=0.01)
    with channel.open_writer("x.log") as writer:
        writer.write(b"hi\n")
        with open_records(channel, "x.log", "r") as reader:
            assert reader.read() == b"hi"
    channel = ChannelBackend(timeout=0.01)
    with channel.open_writer("x.log") as writer:
        for part in (b"\x1f", b"\x8b rest of what is no gzip\n"):
            writer.write(part)
        with pytest.raises(CorruptData), open_records(channel, "x.log", "r") as reader:
            reader.read()
