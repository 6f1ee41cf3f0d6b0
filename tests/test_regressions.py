"""Defects of comparable libraries that concern no single module here; and the list of all of them, kept honest.

``regressions.toml`` maps every row and every goal to the tests that prove it, to ``later: <title of the work>`` or to
``n/a: <reason>``.
"""

import functools
import io
import pathlib
import re
import tomllib

import pytest

from omnistorage import ConfigError, LocalBackend, MemoryBackend, WriteOptions, as_file, open_records, ops
from omnistorage.compression.gzip import Gzip
from omnistorage.records import open_decoded
from omnistorage.records.byte_streams import EncodedWriter
from omnistorage.testing import Faulty
from omnistorage.testing.os_faults import FaultyOS

TESTS = pathlib.Path(__file__).parent
ROWS = tomllib.loads((TESTS / "regressions.toml").read_text())
LATER = {
    "The other servers": ["backends/gcs.py", "backends/azure.py", "backends/http.py"],
    "The Store": ["store/composite.py", "wrappers/cache.py", "backends/sql_query.py"],
    "The sync engine": ["sync"],
    "Release": ["aio/store.py"],
}


def test_go_f1_a_local_write_is_atomic_and_durable_on_request(tmp_path):
    store = LocalBackend(tmp_path)
    ops.write_bytes(store, "x", b"old")
    writer = store.open_writer("x", WriteOptions(durable=True))
    writer.write(b"new")
    writer.prepare()
    assert (tmp_path / "x").read_bytes() == b"old"
    writer.close()
    assert (tmp_path / "x").read_bytes() == b"new"


def test_rs_7_1_6_every_way_of_reading_passes_through_every_layer():
    """readinto, iteration, read-all: none goes round the layer that counts, decodes or verifies."""
    store, data = MemoryBackend(), b"".join(b"line %d\n" % n for n in range(20_000))
    with EncodedWriter(store.open_writer("x.gz"), Gzip().encoder()) as writer:
        writer.write(data)
    damaged = bytearray(store.peek("x.gz"))
    damaged[len(damaged) // 2] ^= 1
    store.put_raw("bad.gz", bytes(damaged))

    def readinto(file):
        buffer, out = bytearray(777), b""
        while count := file.readinto(buffer):
            out += buffer[:count]
        return out

    ways = {
        "readinto": readinto,
        "iteration": lambda file: b"".join(io.BufferedReader(file)),
        "read all": lambda file: file.readall(),
        "buffered": lambda file: io.BufferedReader(file).read(),
        "peeked": lambda file: (lambda b: b.peek(10) and b.read())(io.BufferedReader(file)),
    }
    for name, way in ways.items():
        counting = Faulty(store)
        with as_file(open_decoded(counting.open_reader("x.gz"))) as file:
            assert way(file) == data, name
        assert "read" in counting.log
        with as_file(open_decoded(store.open_reader("bad.gz"))) as file, pytest.raises(Exception) as caught:
            way(file)
        assert type(caught.value).__name__ == "CorruptData", name


def test_pain_3_the_records_written_before_an_exception_can_be_kept(tmp_path):
    for count in (3, 50_000):
        for policy, expected in (("abort", None), ("commit_whole_records", count)):
            path = tmp_path / f"{policy}{count}.ndjson.zst"
            with pytest.raises(KeyError), open_records(path, "w", on_exception=policy) as writer:
                writer.write_many({"n": n} for n in range(count))
                raise KeyError
            if expected is None:
                assert not path.exists()
            else:
                with open_records(path) as reader:
                    assert [record["n"] for record in reader] == list(range(expected))
    with pytest.raises(ConfigError):
        open_records(tmp_path / "x.ndjson", "w", on_exception="keep")
    assert not (tmp_path / "x.ndjson").exists()


@pytest.mark.parametrize(("count", "seen_inside"), [(100_000, False), (500_000, True)])
def test_pain_3_a_damaged_stream_is_never_kept(count, seen_inside):
    """One block is lost, and what comes behind it would be taken: neither ``with`` nor ``close`` publishes the rest."""

    class Hole(MemoryBackend):
        def _open_writer(self, path, options):
            writer = super()._open_writer(path, options)
            real, lost = writer.write, []

            def write(data):
                if not lost:
                    lost.append(data)
                    raise OSError("disk full")
                return real(data)

            writer.write = write
            return writer

    store, whole = Hole(), False
    kept = open_records(store, "x.ndjson", "w", on_exception="commit_whole_records")
    with pytest.raises(OSError, match="disk full"), kept as writer:
        writer.write_many({"n": n} for n in range(count))
        whole = True
    assert whole is not seen_inside, "the error came up where this case wants it"
    assert not store.exists("x.ndjson")


@pytest.mark.parametrize(
    ("path", "content_type"),
    [("a.ndjson", "application/x-ndjson"), ("a.ndjson.gz", "application/gzip"), ("a.log.zst", "application/zstd")],
)
def test_pain_5_compression_is_told_by_the_content_type_never_by_an_encoding(path, content_type):
    store = MemoryBackend()
    with open_records(store, path, "w") as writer:
        writer.write(b"1")
    assert store.stat(path).content_type == content_type
    assert store.stat(path).metadata == {}
    with open_records(store, path, "w", options=WriteOptions(content_type="text/x-mine")) as writer:
        writer.write(b"1")
    assert store.stat(path).content_type == "text/x-mine"


def test_pain_7_what_a_stream_holds_is_bounded_by_constants():
    from omnistorage.core.stages import MAX_CHUNK
    from omnistorage.records import byte_streams

    assert byte_streams.BLOCK * (2 * byte_streams.DEPTH + 2) + MAX_CHUNK * 2 * byte_streams.DEPTH <= 16 << 20


def test_pain_8_opening_an_object_never_lists_and_no_listing_is_kept(tmp_path):
    store = MemoryBackend()
    store.put_raw("a/x.ndjson", b"1\n")
    counting = Faulty(store)
    for reader in (counting.open_reader("a/x.ndjson"), open_decoded(counting.open_reader("a/x.ndjson"))):
        with reader:
            assert reader.read() == b"1\n"
    with open_records(counting, "a/x.ndjson", "r") as records:
        assert list(records) == [1]
    assert "open_reader" in counting.log
    assert not {"list", "list_dir", "stat"} & set(counting.log)
    calls = FaultyOS()
    local = LocalBackend(tmp_path, _os=calls)
    ops.write_bytes(local, "a/x", b"1")
    assert ops.read_bytes(local, "a/x") == b"1"
    assert "scandir" not in calls.calls
    for listed, put in ((counting, store.put_raw), (local, lambda path, data: ops.write_bytes(local, path, data))):
        assert len(list(listed.list())) == 1
        put("a/y", b"")
        assert len(list(listed.list())) == 2


# --- the list itself --------------------------------------------------------------------------------------------------


DEFINED = re.compile(r"^ *def (test_\w+)", re.MULTILINE)


@functools.cache
def known_tests():
    found = set()
    for path in TESTS.rglob("test_*.py"):
        relative = path.relative_to(TESTS).as_posix()
        found |= {f"{relative}::{name}" for name in DEFINED.findall(path.read_text())}
    for path in (TESTS.parent / "omnistorage/testing").glob("*.py"):
        found |= {f"kit::{name}" for name in DEFINED.findall(path.read_text())}
    # Where state machines are, which are made by a call.
    found |= {
        f"backends/test_{name}.py"
        for name in (
            "machines",
            "azure",
            "azure_hns",
            "gcs",
            "http_conformance",
            "s3",
            "sftp_conformance",
            "sql_blob_conformance",
        )
    }
    found |= {"delivery/test_rolling_machine.py"}
    return found


def test_every_row_and_goal_has_an_entry():
    wanted = {f"go-{k}{n}" for k, top in (("S", 8), ("W", 13), ("P", 8), ("F", 14), ("R", 4), ("M", 3), ("K", 3))
              for n in range(1, top + 1)}  # fmt: skip
    wanted |= {f"rs-7.1.{n}" for n in range(1, 13)} | {f"rs-7.{n}" for n in range(2, 8)} | {"go-7.6"}
    wanted |= {f"pain-{n}" for n in range(1, 15)} | {"codec-table", "codec-facts", "codec-ndjson-csv"}
    wanted |= {f"goal-{n}" for n in range(1, 51)}
    assert set(ROWS) == wanted


@pytest.mark.parametrize("row", sorted(ROWS))
def test_an_entry_leads_to_tests_that_exist_or_says_why_not(row):
    tests = known_tests()
    for entry in ROWS[row]:
        if entry.startswith("later: "):
            title = entry.removeprefix("later: ")
            assert title in LATER, f"{row}: no work is called {title!r}"
            for room in LATER[title]:
                assert not (TESTS.parent / "omnistorage" / room).exists(), f"{row}: {room} is there now: write its test"
        elif not entry.startswith("n/a: "):
            assert entry in tests, f"{row}: {entry} does not exist"
