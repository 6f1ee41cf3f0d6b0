"""Corners of the rolling writer that a reading found: handlers, exits, polling, headers, stuck sinks."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from omnistorage import AlreadyExists, LocalBackend, MemoryBackend, StorageError, open_records, ops
from omnistorage.core import WRITE, WriteOptions
from omnistorage.delivery import DatasetReader, DatasetWriter, RollingRecordWriter, Spool, Timer, read_manifest
from omnistorage.wrappers.base import Wrapper

from ..waiting import LIMIT


def rows(store, path):
    with open_records(store, path, "r") as reader:
        return list(reader)


def within_a_minute(call):
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), "it hangs"


def test_a_handler_may_ask_what_is_durable():
    seen = []

    def work():
        with RollingRecordWriter(MemoryBackend(), "{seq}.log", roll_records=1, on_commit=note) as writer:
            holder.append(writer)
            for n in range(50):
                writer.write(b"%d" % n)
            writer.roll()

    def note(entry):
        seen.append((holder[0].durable, holder[0].progress.objects))

    holder = []
    within_a_minute(work)
    assert len(seen) == 50
    assert all(durable < 50 for durable, _ in seen)


AT_EXIT = """
import atexit, sys
from omnistorage.delivery import RollingRecordWriter
writer = RollingRecordWriter(sys.argv[1], "{seq}.ndjson")
atexit.register(writer.close)
writer.write({"n": 1})
"""


def test_a_writer_closed_at_exit_publishes_its_records(tmp_path):
    done = subprocess.run([sys.executable, "-c", AT_EXIT, str(tmp_path)], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(LocalBackend(tmp_path), "0.ndjson") == [{"n": 1}]


def test_who_polls_the_counters_holds_no_roll_up(timer):
    store, stop = MemoryBackend(), threading.Event()
    writer = RollingRecordWriter(store, "{seq}.log", roll_age=1, timer=timer)

    def poll():
        while not stop.is_set():
            writer.progress  # noqa: B018

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        for n in range(50):
            writer.write(b"x")
            timer.advance(1)
            assert writer.progress.open == 0, n
    finally:
        stop.set()
        poller.join(LIMIT)
    writer.close()


def test_a_replay_of_partitions_with_columns_of_their_own_leaves_out_each_ones_records():
    store = MemoryBackend()
    records = [{"k": "x", "a": "1"}, {"k": "y", "b": "2"}] * 3
    for _ in range(2):
        with RollingRecordWriter(store, "{k}/{start}.csv", names="deterministic") as writer:
            assert writer.write_many(records) == 6
        assert (writer.bad.count, writer.progress.durable) == (0, 5)
    assert [info.path for info in store.list()] == ["x/0.csv", "y/1.csv"]
    assert rows(store, "y/1.csv") == [{"k": "y", "b": "2"}] * 3


def test_durable_moves_on_although_partitions_push_each_other_out():
    with RollingRecordWriter(MemoryBackend(), "{k}/{start}.ndjson", names="deterministic", max_open=2) as writer:
        for n in range(300):
            writer.write({"k": n % 3})
        assert writer.flush() >= 290


@pytest.mark.parametrize(("last", "names"), [("{seq}", "unique"), ("{start}", "deterministic")])
def test_a_record_whose_whole_name_is_too_long_is_a_bad_record(last, names, tmp_path):
    store = LocalBackend(tmp_path)
    fields = "abcdef"
    with RollingRecordWriter(
        store, "/".join(f"{{{f}}}" for f in fields) + f"/{last}.ndjson", on_error="collect", names=names
    ) as writer:
        writer.write(dict.fromkeys(fields, "x" * 200))
        assert writer.write(dict.fromkeys(fields, "x")) == 1
    assert [error.number for error in writer.bad.errors] == [1]
    assert [info.path for info in store.list()] == [f"x/x/x/x/x/x/{int(last != '{seq}')}.ndjson"]


def test_an_abort_frees_a_write_that_is_stuck():
    inside, freed, raised = threading.Event(), threading.Event(), []

    class Stuck(Wrapper):
        def open_writer(self, path, options=WRITE):
            writer = self.inner.open_writer(path, options)
            abort = writer.abort

            def hang(data):
                inside.set()
                freed.wait(LIMIT)
                raise StorageError("given up")

            writer.write, writer.abort = hang, lambda: (abort(), freed.set())
            return writer

    writer = RollingRecordWriter(Stuck(MemoryBackend()), "{seq}.ndjson")

    def work():
        try:
            for n in range(10_000_000):
                writer.write({"n": n})
        except StorageError as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert inside.wait(LIMIT)
    within_a_minute(writer.abort)
    thread.join(LIMIT)
    assert len(raised) == 1


def test_a_timed_call_that_fails_ends_nobody_elses(caplog):
    timer, done = Timer(), threading.Event()

    def fail():
        raise KeyError("mine")

    timer.at(timer.now(), fail)
    timer.at(timer.now() + 0.01, done.set)
    assert done.wait(LIMIT)
    assert "KeyError" in caplog.text


def test_a_durable_delivery_has_a_durable_manifest(tmp_path):
    store = LocalBackend(tmp_path)
    with RollingRecordWriter(store, "{id}.log", manifest="m", options=WriteOptions(durable=True)) as writer:
        writer.write(b"x")
    assert len(list(read_manifest(store, "m"))) == 1


class TellsLate(Wrapper):
    """Says only at the end that a name is taken, as S3 does."""

    def open_writer(self, path, options=WRITE):
        writer = self.inner.open_writer(path, replace(options, overwrite=True))
        close = writer.close

        def publish():
            if self.inner.exists(path):
                writer.abort()
                raise AlreadyExists("taken", path=path)
            return close()

        writer.close = publish
        return writer


@pytest.mark.parametrize("spooled", [False, True])
def test_a_store_that_tells_late_that_a_name_is_taken_gets_the_next_one(spooled, tmp_path):
    store = MemoryBackend()
    for run in range(3):
        spool = Spool(tmp_path) if spooled else None
        with RollingRecordWriter(TellsLate(store), "{k}/{seq}.ndjson", roll_records=2, spool=spool) as writer:
            writer.write_many({"k": "a", "run": run, "n": n} for n in range(5))
    found = [(row["run"], row["n"]) for info in store.list() for row in rows(store, info.path)]
    assert found == [(run, n) for run in range(3) for n in range(5)]


def test_with_deterministic_names_records_under_old_numbers_pass_for_old_ones(caplog):
    """What the docstring warns of, and its two ways out: numbers that go on, and a source."""
    store = MemoryBackend()

    def run(day, template="{start:03d}.ndjson", **settings):
        with RollingRecordWriter(store, template, names="deterministic", roll_records=2, **settings) as writer:
            writer.write_many({"day": day, "n": n} for n in range(4))
        return writer.progress.records, writer.progress.skipped, len(caplog.records)

    assert run(1) == (4, 0, 0)
    assert run(1) == (0, 4, 0)
    assert run(2) == (0, 4, 1)
    assert run(2, start_sequence=4) == (4, 0, 1)
    assert run(2, "{source}-{start:03d}.ndjson", source="second") == (4, 0, 1)
    assert run(3, "{source}-{start:03d}.ndjson", source="third") == (4, 0, 1)
    found = [row["day"] for info in store.list() for row in rows(store, info.path)]
    assert sorted(found) == [1] * 4 + [2] * 8 + [3] * 4


@pytest.mark.parametrize("spooled", [False, True])
@pytest.mark.parametrize(
    ("suffix", "records"),
    [
        ("ndjson", [{"t": datetime(2026, 1, 2, tzinfo=UTC), "x": 0.1}, {"t": None, "x": 1e300}]),
        ("csv", [{"a": 1, "b": "x,y"}, {"a": None, "b": "é"}]),
        ("lines.gz", ["a", "é"]),
        ("bin", [b"\0", b""]),
    ],
)
def test_records_that_come_again_are_known_as_the_same_in_every_format(suffix, records, spooled, tmp_path, caplog):
    store = MemoryBackend()
    settings = {"format": {"lines.gz": "lines", "bin": "length_prefixed"}.get(suffix)}
    for life in range(2):
        spool = Spool(tmp_path / str(life)) if spooled else None
        with RollingRecordWriter(store, "{start}." + suffix, names="deterministic", spool=spool, **settings) as writer:
            writer.write_many(records)
        done = writer.progress
        assert (done.records, done.skipped) == ((2, 0) if life == 0 else (0, 2))
    assert not caplog.records


def test_an_object_without_records_is_not_taken_for_what_comes_again():
    store = MemoryBackend()
    ops.write_bytes(store, "0.ndjson", b"")
    with pytest.raises(AlreadyExists), RollingRecordWriter(store, "{start}.ndjson", names="deterministic") as writer:
        writer.write({"n": 0})


def test_writers_and_readers_say_where_they_are(tmp_path):
    at = f"{tmp_path.as_uri()}/set"
    with RollingRecordWriter(f"{tmp_path}/set", "{id}.ndjson") as writer:
        assert repr(writer) == f"RollingRecordWriter('{at}/', '{{id}}.ndjson')"
    with DatasetWriter(LocalBackend(tmp_path), "set") as writer:
        assert repr(writer) == f"DatasetWriter('{at}')"
        job = writer.begin()
        job.commit(job.write_part(0, [{"n": 1}]))
    with DatasetReader(LocalBackend(tmp_path), "set") as reader:
        assert repr(reader) == f"DatasetReader('{at}')"
