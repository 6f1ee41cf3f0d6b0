"""RecordReader: bad records, damage, other programs' files, live sources."""

import gzip
import os
import shutil
import subprocess
import sys

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistorage import (
    BadRecords,
    CorruptData,
    Gzip,
    MemoryBackend,
    Ndjson,
    NotFound,
    RecordError,
    RecordWriter,
    WriterClosed,
    Zstd,
    open_records,
)
from omnistorage.backends.channel import ChannelBackend

from .streams import EVENTS, lines


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
        assert [error.offset for error in reader.bad] == offsets
        assert len(reader.bad) == len(offsets)
        assert repr(reader.bad) == f"BadRecords(on_error='collect', count={len(offsets)})"
        assert [error.number for error in reader.bad.errors] == [n + 1 for n in sorted(bad)]


def test_collected_errors_keep_a_bounded_number_of_bytes():
    bad = BadRecords("collect")
    for _ in range(1000):
        bad.handle(RecordError(raw=b"x" * 65536))
    assert len(bad) == 1000
    assert sum(len(error.raw) for error in bad) <= 16 << 20


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


_WIDE = """
import pathlib, sys
from omnistorage import StorageError, open_records
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
def read(path):
    with open_records(pathlib.Path(path), untrusted=True) as reader:
        for record in reader:
            pass
read(sys.argv[1])
before = peak()
try:
    read(sys.argv[2])
except StorageError as error:
    print(type(error).__name__, peak() - before)
"""


@pytest.mark.parametrize(
    ("suffix", "small", "parts", "times"),
    [
        (".ndjson", b"{}\n", (b"[", b"{},", b"{}]\n"), 5_200_000),
        (".ndjson", b"{}\n", (b"[", b"{},", b"{}]\n"), 300_000),
        (".ndjson", b"{}\n", (b"[", b"{},", b"{}]"), 300_000),
        (".csv", b"a\n1\n", (b"", b",", b"\n"), 900_000),
        (".csv", b"a\n1\n", (b"", b"a,", b"b\n"), 8_000_000),
        (".csv", b"a\n1\n", (b"a,b\n1,2\n", b",", b"\n"), 900_000),
        (".log", b"a\n", (b"", b"abc", b"\n"), 5_000_000),
    ],
)
def test_untrusted_records_take_no_more_than_32_mib(suffix, small, parts, times, tmp_path):
    """Beyond what reading a small object of the kind takes; in a process of its own."""
    first, repeated, last = parts
    paths = [tmp_path / f"small{suffix}", tmp_path / f"wide{suffix}"]
    for path, data in zip(paths, (small, first + repeated * times + last), strict=True):
        path.write_bytes(data)
    run = subprocess.run([sys.executable, "-c", _WIDE, *paths], capture_output=True, text=True, check=True)
    error, grown = run.stdout.split()
    assert error in ("RecordError", "CorruptData")
    assert int(grown) <= 32 * 1024


def test_a_format_given_as_a_value_keeps_its_bounds():
    store = MemoryBackend()
    store.put_raw("x.ndjson", b"[" + b"1," * 150_000 + b"1]\n")
    with open_records(store, "x.ndjson", untrusted=True) as reader, pytest.raises(RecordError):
        list(reader)
    with open_records(store, "x.ndjson", untrusted=True, format=Ndjson()) as reader:
        assert len(reader.read()) == 150_001


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


def program(suffix):
    """The program of the system for this suffix."""
    name = {"gz": "gzip", "zst": "zstd"}[suffix.rpartition(".")[2]]
    if shutil.which(name) is None:
        pytest.skip(f"no {name} program")
    return name


@pytest.mark.parametrize("suffix", [".ndjson.gz", ".ndjson.zst"])
def test_our_files_are_read_by_the_programs_and_libraries_people_use(tmp_path, suffix):
    path = tmp_path / f"events{suffix}"
    with open_records(path, "w") as writer:
        writer.write_many(EVENTS)
    plain = subprocess.run([program(suffix), "-dc", str(path)], capture_output=True, check=True).stdout
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
    name = program(suffix)
    subprocess.run([name, "-q", str(plain)] if name == "gzip" else [name, "-q", "--rm", str(plain)], check=True)
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


class Counted(MemoryBackend):
    """Notes how many bytes its readers gave."""

    given = 0

    def open_reader(self, path, *options):
        reader = super().open_reader(path, *options)
        read = reader.read

        def counting(size=-1):
            data = read(size)
            self.given += len(data)
            return data

        reader.read = counting
        return reader


@pytest.mark.parametrize(("name", "row"), [("a.ndjson", b"x\n"), ("a.csv", b"1,2,3\n")])
@pytest.mark.parametrize(
    ("on_error", "more", "kind"), [("raise", {}, RecordError), ("skip", {"max_bad": 9}, CorruptData)]
)
def test_bad_records_alone_are_told_before_the_next_are_read(name, row, on_error, more, kind):
    store = Counted()
    store.put_raw(name, b"a,b\n" * name.endswith("csv") + row * (4 << 20))
    with open_records(store, name, on_error=on_error, **more) as reader:
        with pytest.raises(kind):
            reader.read()
        assert store.given < 1 << 20, "each error takes hundreds of times the memory of its record"
        assert len(reader._found) <= 65536 // len(row)


def test_every_bad_record_is_told_where_none_is_good():
    store = MemoryBackend()
    store.put_raw("a.ndjson", b"x\n" * 100_000 + b"1\n" + b"x\n" * 100_000)
    with open_records(store, "a.ndjson", on_error="skip") as reader:
        assert list(reader.iter_batches()) == [[1]]
        assert reader.bad.count == 200_000
