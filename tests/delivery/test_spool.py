"""A writer with a spool, sentence by sentence: what is acknowledged, delivered, refused, left and told."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from omnistorage import (
    ConfigError,
    CorruptData,
    InvalidPath,
    LocalBackend,
    MemoryBackend,
    RecordError,
    StorageError,
    open_records,
)
from omnistorage.delivery import RollingRecordWriter, Spool, read_manifest
from omnistorage.delivery.spool.entries import REFUSED, STAMP
from omnistorage.formats import record_format
from omnistorage.segments import SegmentLog, examine

from ..waiting import until
from .conftest import Down, contents, numbers
from .spooling import spooled

# -- records come through ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["record", "interval", "roll"])
@pytest.mark.parametrize("many", [False, True])
def test_records_go_through_the_spool_into_the_same_objects_as_without_one(tmp_path, fsync, many):
    records = [{"n": n, "k": n % 2, "text": "äöü\u2028" * (n % 5)} for n in range(500)]
    bare, store = MemoryBackend(), MemoryBackend()
    for target, spool in ((bare, None), (store, Spool(tmp_path / "s", fsync=fsync))):
        with RollingRecordWriter(target, "{k}/{seq}.ndjson.gz", roll_records=60, spool=spool) as writer:
            if many:
                assert writer.write_many(records) == 500
            else:
                assert [writer.write(record) for record in records] == list(range(500))
    assert contents(store) == contents(bare)
    assert sorted(os.listdir(tmp_path / "s")) == ["00000000000000000500.seg", "acked.0", "acked.1", "lock"]
    progress = writer.progress
    assert (progress.taken, progress.records, progress.objects, progress.durable) == (500, 500, 10, 499)
    assert (progress.spooled, progress.spooled_bytes, progress.retried, progress.last_error) == (0, 0, 0, None)


@pytest.mark.parametrize(
    ("template", "records"),
    [
        ("{seq}.log", [b"one", "two", bytearray(b""), b"\xff\xfe"]),
        ("{seq}.lp", [b"", b"\n", b"\0" * 5000]),
        ("{seq}.lpv", [b"", b"x" * 300]),
        ("{seq}.csv", [{"a": "1", "b": None}, {"a": 'with "quotes"\n', "b": 2.5}, {"b": True, "a": 3}]),
        ("{seq}.tsv.zst", [{"a": "1"}, {"a": "2"}]),
        ("{seq}.ndjson", [b'{"a":12345678901234567890123}', [1, 2], None, "text"]),
    ],
)
def test_pain_4_pain_5_every_format_comes_out_as_without_a_spool(tmp_path, template, records):
    bare, store = MemoryBackend(), MemoryBackend()
    with RollingRecordWriter(bare, template) as writer:
        writer.write_many(records)
    with spooled(store, tmp_path, template) as writer:
        writer.write_many(records)
    (path,) = [info.path for info in store.list()]
    assert store.peek(path) == bare.peek(path)
    assert store.stat(path).content_type == bare.stat(path).content_type is not None


def test_every_object_of_rows_has_its_header(tmp_path):
    store = MemoryBackend()
    with spooled(store, tmp_path, "{seq}.csv", roll_records=1) as writer:
        writer.write_many([{"a": "1"}, {"a": "2"}])
    assert [store.peek(info.path) for info in store.list()] == [b"a\n1\n", b"a\n2\n"]


def test_rows_without_names_go_through(tmp_path):
    store, rows = MemoryBackend(), record_format("csv", rows="list", header="none")
    with spooled(store, tmp_path, "{seq}.csv", format=rows) as writer:
        writer.write_many([["a", 1], ("b", None)])
    assert store.peek("0.csv") == b"a,1\nb,\n"


def test_fields_and_times_of_the_record_make_its_name(tmp_path):
    store = MemoryBackend()
    with spooled(
        store, tmp_path, "{user.name}/{time:%Y-%m-%d}/{seq}.ndjson", time_field="at", missing="nobody"
    ) as writer:
        writer.write({"user": {"name": "ann"}, "at": "2020-01-01T10:00:00Z"})
        writer.write({"at": 1577923200})
        writer.write(b'{"user":{"name":"ann"},"at":"2020-01-01T11:00:00Z"}')
    assert {path: len(rows) for path, rows in contents(store).items()} == {
        "ann/2020-01-01/0.ndjson": 2,
        "nobody/2020-01-02/0.ndjson": 1,
    }


def test_the_time_of_arrival_is_that_of_write_also_after_a_restart(tmp_path):
    store = Down(MemoryBackend(), down=True)
    clock = [datetime(2001, 2, 3, 4, 5, tzinfo=UTC)]
    writer = spooled(store, tmp_path, "{time:%Y-%m-%d}/{seq}.log", now=lambda: clock[0])
    writer.write(b"then")
    clock[0] = datetime(2001, 2, 4, tzinfo=UTC)
    writer.write(b"later")
    writer.abort()
    store.down = False
    with spooled(store, tmp_path, "{time:%Y-%m-%d}/{seq}.log") as writer:
        pass
    assert contents(store) == {"2001-02-03/0.log": [b"then"], "2001-02-04/0.log": [b"later"]}


def test_objects_are_published_while_records_still_come(tmp_path):
    store, told = MemoryBackend(), []
    with spooled(store, tmp_path, roll_records=10, on_commit=told.append, manifest="m") as writer:
        for n in range(25):
            writer.write({"n": n})
        until(lambda: writer.progress.spooled == 5)
        assert len(told) == 2
        assert writer.roll() == 24
        assert (writer.progress.objects, writer.progress.spooled) == (3, 0)
    assert list(read_manifest(store, "m")) == told
    assert sorted((entry.first, entry.last) for entry in told) == [(0, 9), (10, 19), (20, 24)]  # two go side by side


def test_an_object_is_rolled_by_age_without_a_new_record(tmp_path, timer):
    store = MemoryBackend()
    writer = spooled(store, tmp_path, roll_age=60, timer=timer, spool={"fsync_interval": 1.0})
    writer.write({"n": 1})
    timer.advance(1)  # into the spool, and on
    until(lambda: writer.progress.open == 1)
    timer.advance(60)
    until(lambda: writer.progress.objects == 1)
    writer.close()


def test_many_threads_write_every_record_once(tmp_path):
    store, got = MemoryBackend(), []
    with spooled(store, tmp_path, "{k}/{seq}.ndjson", roll_records=50) as writer:

        def work(thread):
            got.extend([writer.write({"k": n % 3, "thread": thread, "n": n}) for n in range(500)])

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(got) == list(range(4000))
    found = [(row["thread"], row["n"]) for rows in contents(store).values() for row in rows]
    assert len(found) == len(set(found)) == 4000


def test_pain_6_a_stream_becomes_full_objects_and_exactly_one_tail(tmp_path):
    store = MemoryBackend()
    with spooled(store, tmp_path, roll_records=100) as writer:
        writer.write_many({"n": n} for n in range(1050))
    assert [len(rows) for rows in contents(store).values()] == [100] * 10 + [50]


@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_rolls_by_size_are_as_exact_as_without_a_spool(tmp_path, suffix):
    store, told = MemoryBackend(), []
    limits = {"roll_bytes": None, "roll_raw_bytes": 1000} if suffix else {"roll_bytes": 1000}
    with spooled(store, tmp_path, "{seq:04d}.ndjson" + suffix, on_commit=told.append, **limits) as writer:
        writer.write_many({"n": n, "pad": "x" * (n % 40)} for n in range(2000))
    assert len(told) > 50
    assert all(1000 <= entry.raw_bytes < 1060 for entry in sorted(told)[:-1])


@pytest.mark.parametrize(("first", "then"), [("{seq}.ndjson", "{seq}.lp"), ("{seq}.csv", "{seq}.ndjson")])
def test_records_of_another_format_are_not_taken_for_ours(tmp_path, first, then):
    writer = spooled(Down(MemoryBackend(), down=True), tmp_path, first)
    writer.write({"n": 1})
    writer.abort()
    store, name = MemoryBackend(), {"{seq}.csv": "csv"}.get(first, "ndjson")
    with pytest.raises(ConfigError, match=f"another format, {name}"):
        spooled(store, tmp_path, then)
    with spooled(store, tmp_path, first):
        pass
    assert len(contents(store)) == 1


def test_a_writer_that_is_refused_leaves_nothing_open(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(LocalBackend, "close", lambda store: closed.append(store))
    spooled(Down(MemoryBackend(), down=True), tmp_path / "s", "{seq}.ndjson").abort()
    with SegmentLog(tmp_path / "s") as spool:
        spool.append(STAMP.pack(b"n", 0.0) + b'{"n":1}\n')
    closed.clear()
    with pytest.raises(ConfigError, match="another format"):
        spooled(str(tmp_path / "out"), tmp_path / "s", "{seq}.log")
    assert len(closed) == 1


def test_records_of_another_format_are_found_behind_refused_ones_too(tmp_path):
    with SegmentLog(tmp_path) as spool:
        spool.append_many([STAMP.pack(REFUSED, 0.0)] * 13_000)  # more than is read at once
        spool.append(STAMP.pack(b"n", 0.0) + b'{"n":1}\n')
    writer = spooled(MemoryBackend(), tmp_path, "{seq}.lp")
    with pytest.raises(ConfigError, match="another format, ndjson"):
        writer.roll()
    writer.abort()


# -- acknowledged ------------------------------------------------------------------------------------------------------


def test_flush_makes_everything_durable_without_the_store(tmp_path):
    store = Down(MemoryBackend(), down=True)
    writer = spooled(store, tmp_path, spool={"fsync_interval": 3600.0})
    assert (writer.durable, writer.write_many({"n": n} for n in range(10)), writer.durable) == (-1, 10, -1)
    assert (writer.flush(), writer.durable, writer.progress.durable) == (9, 9, 9)
    writer.abort()
    assert examine(tmp_path).entries == 10


def test_a_record_is_safe_once_written_where_that_is_asked_for(tmp_path):
    writer = spooled(Down(MemoryBackend(), down=True), tmp_path, spool={"fsync": "record"})
    for n in range(3):
        assert writer.write({"n": n}) == n == writer.durable
        assert examine(tmp_path).entries == n + 1
    writer.write_many({"n": n} for n in range(300))
    assert writer.durable == 302
    writer.abort()


def test_an_interval_syncs_by_itself(tmp_path, timer):
    writer = spooled(MemoryBackend(), tmp_path, timer=timer, spool={"fsync_interval": 5.0})
    writer.write({"n": 1})
    timer.advance(4)
    assert writer.durable == -1
    timer.advance(1)
    until(lambda: writer.durable == 0)
    writer.abort()


def test_roll_syncs_only_before_something_is_published(tmp_path, timer):
    store, told, settings = MemoryBackend(), [], {"fsync": "roll", "fsync_interval": 5.0}
    writer = spooled(
        store, tmp_path, timer=timer, roll_records=2, on_commit=lambda _: told.append(writer.durable), spool=settings
    )
    writer.write({"n": 0})
    timer.advance(5)
    until(lambda: writer.progress.open == 1)
    assert (writer.durable, examine(tmp_path).entries) == (-1, 1), "delivered on, but not synced"
    writer.write({"n": 1})
    timer.advance(5)
    until(lambda: writer.progress.objects == 1)
    writer.close()
    assert told == [1], "synced when it was published"


def test_numbers_have_no_gaps_and_go_on_after_a_restart(tmp_path):
    store = MemoryBackend()
    with spooled(store, tmp_path, start_sequence=100) as writer:
        assert writer.write({"n": 1}) == 100
        assert writer.write({"n": 2}, sequence=101) == 101
        with pytest.raises(ConfigError, match="102 comes next"):
            writer.write({"n": 3}, sequence=200)
    with spooled(store, tmp_path, start_sequence=7) as writer:
        assert writer.write({"n": 3}) == 102, "the spool's number counts"
    assert numbers(store) == [1, 2, 3]


# -- bad records -------------------------------------------------------------------------------------------------------


def test_a_record_that_cannot_be_encoded_is_refused_at_once_and_uses_up_its_number(tmp_path):
    store = MemoryBackend()
    with spooled(store, tmp_path) as writer:
        writer.write({"n": 0})
        with pytest.raises(RecordError) as caught:
            writer.write({"n": object()})
        assert caught.value.number == 2
        assert writer.write({"n": 2}) == 2
    assert (numbers(store), writer.progress.bad, writer.progress.durable) == ([0, 2], 1, 2)


def test_what_is_told_of_an_object_are_the_numbers_that_write_returned(tmp_path):
    store, told = MemoryBackend(), []
    with spooled(
        store,
        tmp_path,
        "{start:04d}.ndjson",
        names="deterministic",
        roll_records=5,
        on_error="skip",
        on_commit=told.append,
    ) as writer:
        for n in range(40):
            assert writer.write({"n": object() if n % 7 == 3 else n}) == n
    for entry in told:
        (first, *_, last) = contents(store)[entry.path]
        assert (entry.path, entry.first, entry.last) == (f"{first['n']:04d}.ndjson", first["n"], last["n"])
    assert sum(entry.records for entry in told) == 34


def test_what_only_the_template_finds_goes_where_on_error_says(tmp_path):
    store = MemoryBackend()
    with spooled(store, tmp_path, "{k}/{seq}.ndjson", on_error="collect") as writer:
        writer.write_many([{"k": "a", "n": 0}, {"n": 1}, {"k": {}, "n": 2}, {"k": "a", "n": 3}, {"n": object()}])
    assert numbers(store) == [0, 3]
    assert sorted(error.number for error in writer.bad.errors) == [2, 3, 5]
    assert (writer.progress.bad, writer.progress.durable, writer.progress.spooled) == (3, 4, 0)


def test_a_dead_letter_writer_gets_bad_records_and_they_are_counted(tmp_path):
    store, letters = MemoryBackend(), MemoryBackend()
    with open_records(letters, "dead.ndjson", "w") as dead:
        with spooled(store, tmp_path, "{k}/{seq}.ndjson", on_error=dead) as writer:
            writer.write_many([{"k": "a", "n": 0}, {"n": 1}])
            writer.write(b"no json")
        assert writer.progress.dead_lettered == 2
    assert sorted(row["number"] for row in contents(letters)["dead.ndjson"]) == [2, 3]


def test_a_bad_record_met_again_after_an_outage_is_handed_on_once(tmp_path):
    store, letters = Down(MemoryBackend()), []
    with spooled(store, tmp_path, "{k}/{seq}.ndjson", on_error=letters.append) as writer:
        writer.write_many([{"k": "a", "n": 0}, {"n": 1}, {"k": "a", "n": 2}])
        writer.flush()
        until(lambda: letters)
        store.down = True
        with pytest.raises(StorageError):
            writer.roll()
        store.down = False
    assert (numbers(store), len(letters), writer.progress.bad) == ([0, 2], 1, 1)


def test_a_bad_record_of_the_background_is_raised_once_and_the_others_are_delivered(tmp_path):
    store = MemoryBackend()
    writer = spooled(store, tmp_path, "{k}/{seq}.ndjson")
    writer.write_many([{"k": "a", "n": 0}, {"n": 1}, {"k": "a", "n": 2}])
    with pytest.raises(RecordError, match="needs the field 'k'"):
        writer.close()
    assert numbers(store) == [0, 2]
    assert writer.close().spooled == 0


@pytest.mark.parametrize("at", ["write", "background"])
def test_too_many_bad_records_end_it(tmp_path, at):
    store = MemoryBackend()
    writer = spooled(store, tmp_path, "{k}/{seq}.ndjson", on_error="skip", max_bad=1)
    bad = {"n": object()} if at == "write" else {"n": 1}
    with pytest.raises(CorruptData, match="max_bad=1"):
        for _ in range(3):
            writer.write(bad)
        writer.close()
    writer.abort()


def test_the_share_of_bad_records_is_judged_at_the_end(tmp_path):
    writer = spooled(MemoryBackend(), tmp_path, "{k}/{seq}.ndjson", on_error="skip", max_bad_ratio=0.4)
    writer.write_many([{"k": 1}, {}])
    with pytest.raises(CorruptData, match="max_bad_ratio"):
        writer.close()


@pytest.mark.parametrize("row", [{"a": b"x"}, {"a": [1]}, {1: "a"}, {"a": datetime(2020, 1, 1)}, 5, [{}], {"a": {}}])
def test_rows_hold_nothing_but_plain_values(tmp_path, row):
    writer = spooled(MemoryBackend(), tmp_path, "{seq}.csv")
    with writer, pytest.raises(RecordError, match="a row that goes through a spool"):
        writer.write(row)


def test_a_record_larger_than_the_spool_can_move_is_a_bad_one(tmp_path):
    store = MemoryBackend()
    with spooled(store, tmp_path, spool={"max_bytes": 10_000}, on_error="collect") as writer:
        writer.write({"n": 1, "pad": "x" * 2600})
        writer.write_many([{"n": 2, "pad": "x" * 2600}, {"n": 3, "pad": "x" * 2300}])
    assert (numbers(store), writer.bad.count) == ([3], 2)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fsync": "never"}, "record or interval or roll"),
        ({"when_full": "wait"}, "block or raise or drop_oldest"),
        ({"on_damage": "ignore"}, "raise or skip"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_bytes": 1e9}, "max_bytes"),
        ({"max_bytes": 1 << 20, "segment_bytes": 1 << 20}, "quarter"),
        ({"segment_bytes": 0}, "segment_bytes"),
        ({"fsync_interval": 0}, "fsync_interval"),
        ({"close_timeout": -1}, "close_timeout"),
    ],
)
def test_what_cannot_be_is_refused_at_once(tmp_path, options, says):
    with pytest.raises(ConfigError, match=says):
        Spool(tmp_path, **options)
    assert os.listdir(tmp_path) == []


def test_a_spool_is_a_value():
    assert Spool("a", fsync_interval=1) == Spool("a")
    assert "_os" not in repr(Spool("a"))


def test_deterministic_names_allow_no_gaps(tmp_path):
    with pytest.raises(ConfigError, match="drop_oldest"):
        spooled(MemoryBackend(), tmp_path, "{start}.ndjson", names="deterministic", spool={"when_full": "drop_oldest"})


@pytest.mark.parametrize(
    ("template", "changed"),
    [
        ("b/{source}-{start:03d}.ndjson", {}),
        ("{source}-{start:03d}.ndjson.gz", {}),
        ("{source}-{start:03d}.ndjson", {"source": "other"}),
        ("{source}-{start:03d}.ndjson", {"zone": ZoneInfo("Asia/Tokyo")}),
        ("{source}-{seq:03d}.ndjson", {"names": "unique"}),
    ],
)
def test_what_waits_under_deterministic_names_is_given_no_other_ones(template, changed, tmp_path):
    store, settings = Down(MemoryBackend()), {"names": "deterministic", "source": "s"}
    first = spooled(store, tmp_path, "{source}-{start:03d}.ndjson", **settings)
    first.write({"n": 0})
    store.down = True
    first.abort()
    with pytest.raises(ConfigError):
        spooled(store, tmp_path, template, **settings | changed)
    store.down = False
    with spooled(store, tmp_path, "{source}-{start:03d}.ndjson", **settings) as writer:
        writer.roll()
    with spooled(store, tmp_path, template, **settings | changed) as writer:  # nothing waits
        writer.write({"n": 1})
    assert sorted(numbers(store)) == [0, 1]


def test_a_target_given_by_its_url_is_closed_at_the_end(tmp_path):
    with spooled((tmp_path / "store").as_uri(), tmp_path / "spool") as writer:
        writer.write({"n": 1})
    assert numbers(LocalBackend(tmp_path / "store")) == [1]


def test_records_that_have_no_say_in_the_names_are_never_left_out_for_them(tmp_path):
    (tmp_path / "out").write_bytes(b"a file stands where the folder should be")
    writer = RollingRecordWriter(f"{tmp_path}/out/", "{id}.ndjson", spool=Spool(tmp_path / "spool"), on_error="skip")
    writer.write({"n": 1})
    with suppress(InvalidPath):  # it may be known by then
        writer.flush()
    writer.abort()
    with pytest.raises(InvalidPath), RollingRecordWriter(f"{tmp_path}/out/", "{id}.ndjson", on_error="skip") as plain:
        plain.write({"n": 1})
    (tmp_path / "out").unlink()
    with RollingRecordWriter(f"{tmp_path}/out/", "{id}.ndjson", spool=Spool(tmp_path / "spool")) as again:
        pass
    assert again.progress.records == 1
