"""Failures, manifests and kills of ``RollingRecordWriter``, sentence by sentence of the delivery contract."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from datetime import UTC, datetime, timedelta

import pytest

from omnistorage import (
    BackendUnavailable,
    CapabilityNotSupported,
    CorruptData,
    LocalBackend,
    MemoryBackend,
    RecordError,
    StorageError,
    WriterClosed,
)
from omnistorage.core import WriteOptions
from omnistorage.delivery import Committed, RollingRecordWriter, read_manifest
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.testing import BasicBackend
from omnistorage.wrappers.base import Wrapper

from ..budget import pick
from ..waiting import LIMIT, until
from .conftest import contents, paths, rows

# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["abort", "exception", "dropped"])
@pytest.mark.parametrize("count", [3, 30_000])
def test_goal_8_what_is_not_rolled_leaves_nothing_visible(tmp_path, end, count, caplog):
    store = LocalBackend(tmp_path)
    writer = RollingRecordWriter(store, "{k}/{seq}.ndjson.zst")
    records = [{"k": "ab"[n % 2], "pad": "x" * 80, "n": n} for n in range(count)]
    if end == "exception":
        with pytest.raises(KeyError), writer:
            writer.write_many(records)
            raise KeyError
    else:
        writer.write_many(records)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            if end == "abort":
                writer.abort()
                writer.abort()
                with pytest.raises(WriterClosed):
                    writer.write({"k": "a"})
            else:
                del writer
                until(lambda: gc.collect() >= 0 and not {"a", "b"} & set(os.listdir(tmp_path)))  # a thread clears up
                assert any("dropped without close" in str(w.message) for w in seen)
    assert [record.args for record in caplog.records] == ([(count,)] if end == "dropped" else [])
    assert paths(store) == []
    assert list(store.stale_uploads(older_than=timedelta(0))) == []


@pytest.mark.parametrize("end", ["abort", "exception"])
def test_what_was_rolled_before_is_published_whatever_comes_then(end):
    store, slow = MemoryBackend(), threading.Event()

    class Slow(Wrapper):
        def open_writer(self, path, options=WriteOptions()):  # noqa: B008
            writer = self.inner.open_writer(path, options)
            close = writer.close
            writer.close = lambda: slow.wait(0.01) or close()
            return writer

    writer = RollingRecordWriter(Slow(store), "{seq}.log", roll_records=10)
    if end == "exception":
        with pytest.raises(KeyError), writer:
            writer.write_many(b"%d" % n for n in range(25))
            raise KeyError
    else:
        writer.write_many(b"%d" % n for n in range(25))
        writer.abort()
    assert sorted(contents(store)) == ["0.log", "1.log"]
    assert writer.progress.durable == 19


def test_an_abort_while_another_thread_is_stuck_discards_what_waits():
    store, stuck, inside = MemoryBackend(), threading.Event(), threading.Event()

    class Stuck(Wrapper):
        def open_writer(self, path, options=WriteOptions()):  # noqa: B008
            writer = self.inner.open_writer(path, options)
            close, abort = writer.close, writer.abort

            def hang():
                inside.set()
                stuck.wait(LIMIT)
                return close()

            writer.close, writer.abort = hang, lambda: (abort(), stuck.set())
            return writer

    writer, raised = RollingRecordWriter(Stuck(store), "{seq}.log"), []

    def close():
        try:
            writer.write(b"x")
            writer.close()
        except StorageError as error:
            raised.append(error)

    thread = threading.Thread(target=close)
    thread.start()
    assert inside.wait(LIMIT)
    writer.abort()
    thread.join(LIMIT)
    assert len(raised) == 1
    assert paths(store) == []


def test_pain_3_an_exception_can_publish_the_whole_records_instead():
    store = MemoryBackend()
    with pytest.raises(KeyError), RollingRecordWriter(store, "{seq}.ndjson", on_exception="commit_whole_records") as w:
        w.write_many({"n": n} for n in range(5))
        raise KeyError
    assert rows(store, "0.ndjson") == [{"n": n} for n in range(5)]


class FailsAtClose(Wrapper):
    """Cannot publish the objects whose names hold ``word``."""

    def __init__(self, inner, word):
        super().__init__(inner)
        self.word = word

    def open_writer(self, path, options=WriteOptions()):  # noqa: B008
        writer = self.inner.open_writer(path, options)
        if self.word in path:

            def close():
                writer.abort()
                raise BackendUnavailable("injected", path=path)

            writer.close = close
        return writer


def test_an_object_that_cannot_be_published_poisons_the_writer_and_is_never_acknowledged():
    inner, done = MemoryBackend(), []
    writer = RollingRecordWriter(FailsAtClose(inner, "bad"), "{k}/{seq}.ndjson", roll_records=2, on_commit=done.append)
    writer.write_many([{"k": "good"}, {"k": "good"}])
    writer._front._commits.wait()
    assert writer.durable == 1
    with pytest.raises(BackendUnavailable):
        for _ in range(10_000):
            writer.write({"k": "bad"})
    for call in (lambda: writer.write({"k": "good"}), writer.flush, writer.roll, writer.close):
        with pytest.raises(BackendUnavailable):
            call()
    assert writer.durable == 1
    assert paths(inner) == ["good/0.ndjson"]
    assert [entry.path for entry in done] == ["good/0.ndjson"]


def test_a_handler_that_fails_stops_the_delivery():
    def handler(entry):
        raise KeyError("no")

    writer = RollingRecordWriter(MemoryBackend(), "{seq}.log", roll_records=1, on_commit=handler)
    writer.write(b"x")
    with pytest.raises(KeyError):
        writer.close()
    assert writer.durable == -1, "what could not be told is not acknowledged"


def test_a_sink_that_fails_poisons_and_leaves_nothing():
    inner = MemoryBackend()

    class Fails(Wrapper):
        def open_writer(self, path, options=WriteOptions()):  # noqa: B008
            writer = self.inner.open_writer(path, options)
            writer._write = lambda data: (_ for _ in ()).throw(BackendUnavailable("injected"))
            return writer

    with pytest.raises(BackendUnavailable), RollingRecordWriter(Fails(inner), "{k}/{seq}.ndjson.zst") as writer:
        for n in range(200_000):
            writer.write({"k": "a", "n": n})
    assert paths(inner) == []
    with pytest.raises(BackendUnavailable):
        writer.write({"k": "a"})


def test_a_target_that_cannot_be_opened_takes_no_record_and_can_be_tried_again():
    inner = MemoryBackend()
    broken = [True]

    class Sometimes(Wrapper):
        def open_writer(self, path, options=WriteOptions()):  # noqa: B008
            if broken[0]:
                raise BackendUnavailable("injected")
            return self.inner.open_writer(path, options)

    with RollingRecordWriter(Sometimes(inner), "{seq}.ndjson") as writer:
        with pytest.raises(BackendUnavailable):
            writer.write({"n": 1})
        broken[0] = False
        assert writer.write({"n": 1}) == 0
    assert rows(inner, "0.ndjson") == [{"n": 1}]


def test_bad_records_are_counted_collected_and_leave_the_good_ones():
    store = MemoryBackend()
    bad = [{"n": object()}, {"k": "a", "n": object()}, b"not json"]
    with RollingRecordWriter(store, "{k}/{seq}.ndjson", on_error="collect", roll_records=2) as writer:
        for n in range(6):
            assert writer.write({"k": "a", "n": n}) == 2 * n
            assert writer.write(bad[n % 3]) == 2 * n + 1
        assert writer.write_many([{"k": "a"}, bad[1], {"k": "a"}]) == 2
    assert writer.bad.count == 7
    assert [error.number for error in writer.bad.errors] == [2, 4, 6, 8, 10, 12, 14]
    assert [row.get("n") for path in sorted(paths(store)) for row in rows(store, path)] == [
        0,
        1,
        2,
        3,
        4,
        5,
        None,
        None,
    ]
    assert writer.progress.durable == 14


def test_bad_records_raise_by_default_and_have_a_limit():
    writer = RollingRecordWriter(MemoryBackend(), "{seq}.ndjson")
    writer.write({"n": 1})
    with pytest.raises(RecordError) as caught:
        writer.write({"n": object()})
    assert caught.value.number == 2, "counted from 1, as everywhere"
    assert writer.write({"n": 2}) == 2, "the writer goes on"
    with pytest.raises(RecordError):
        writer.write_many([{"n": 3}, {"n": object()}, {"n": 4}])
    writer.close()
    writer = RollingRecordWriter(MemoryBackend(), "{seq}.ndjson", on_error="skip", max_bad=1)
    writer.write(b"no")
    with pytest.raises(CorruptData, match="max_bad=1"):
        writer.write(b"no")
    writer.abort()


def test_what_the_callers_iterator_gave_before_it_raised_is_kept():
    store = MemoryBackend()

    def source():
        yield from ({"n": n} for n in range(10))
        raise KeyError

    with RollingRecordWriter(store, "{seq}.ndjson") as writer:
        with pytest.raises(KeyError):
            writer.write_many(source())
        assert writer.write({"n": 10}) == 10
    assert rows(store, "0.ndjson") == [{"n": n} for n in range(11)]


def test_an_object_whose_only_records_were_bad_is_not_published():
    store = MemoryBackend()
    with RollingRecordWriter(store, "{seq}.ndjson", on_error="skip") as writer:
        writer.write(b"no")
    assert paths(store) == []


def test_many_threads_write_every_record_once():
    store, numbers = MemoryBackend(), []
    with RollingRecordWriter(store, "{k}/{seq}.ndjson", roll_records=50) as writer:

        def work(thread):
            numbers.extend([writer.write({"k": n % 3, "thread": thread, "n": n}) for n in range(500)])

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(numbers) == list(range(4000))
    got = [(row["thread"], row["n"]) for part in contents(store).values() for row in part]
    assert len(got) == len(set(got)) == 4000
    assert writer.progress.durable == 3999


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_cannot_use_the_writer(tmp_path):
    writer = RollingRecordWriter(LocalBackend(tmp_path), "{seq}.ndjson")
    writer.write({"n": 1})
    child = os.fork()
    if not child:
        try:
            for call in (lambda: writer.write({"n": 2}), writer.close, writer.flush, writer.abort):
                with pytest.raises(WriterClosed):
                    call()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    writer.close()
    assert rows(LocalBackend(tmp_path), "0.ndjson") == [{"n": 1}]


def test_a_target_whose_readers_see_half_an_object_is_refused():
    class Live(Wrapper):
        clears = frozenset({"atomic_write"})

    with pytest.raises(CapabilityNotSupported, match="half an object"):
        RollingRecordWriter(Live(MemoryBackend()), "{seq}.ndjson")
    with pytest.raises(CapabilityNotSupported, match="never replace"):
        RollingRecordWriter(BasicBackend(), "{start}.ndjson", names="deterministic")


def test_a_target_can_be_a_url_or_a_path(tmp_path):
    for target in (tmp_path / "a", str(tmp_path / "b"), (tmp_path / "c").as_uri()):
        with RollingRecordWriter(target, "x/{seq}.ndjson") as writer:
            writer.write({"n": 1})
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.ndjson")) == [
        "a/x/0.ndjson",
        "b/x/0.ndjson",
        "c/x/0.ndjson",
    ]


def test_close_again_gives_the_same_counters():
    writer = RollingRecordWriter(MemoryBackend(), "{seq}.ndjson")
    writer.write({"n": 1})
    assert writer.close() == writer.close()
    assert writer.close().objects == 1
    with pytest.raises(WriterClosed):
        writer.write({"n": 2})


# -- manifest and kills ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [LocalBackend, lambda tmp: MemoryBackend(), lambda tmp: BasicBackend()])
def test_the_manifest_names_every_object_and_goes_on_in_the_next_run(make, tmp_path):
    import hashlib

    store, told = make(tmp_path), []
    for run in range(3):
        with RollingRecordWriter(
            store, "{k}/{id}.ndjson.gz", roll_records=4, manifest="_manifest.ndjson", on_commit=told.append
        ) as writer:
            writer.write_many({"k": n % 2, "run": run} for n in range(20))
    entries = list(read_manifest(store, "_manifest.ndjson"))
    assert entries == told
    assert all(isinstance(entry, Committed) for entry in entries)
    assert len(entries) == 18
    assert sorted(entry.path for entry in entries) == sorted(p for p in paths(store) if p != "_manifest.ndjson")
    for entry in entries:
        with store.open_reader(entry.path) as reader:
            blob = reader.read(-1)
        assert (len(blob), hashlib.sha256(blob).hexdigest()) == (entry.bytes, entry.sha256)
        assert entry.records == len(rows(store, entry.path))
        assert entry.raw_bytes == entry.records * len(b'{"k":0,"run":0}\n')


@pytest.mark.parametrize("make", [LocalBackend, lambda tmp: BasicBackend()])
def test_a_torn_last_line_of_a_manifest_is_no_entry_and_is_mended(make, tmp_path):
    store = make(tmp_path)
    with RollingRecordWriter(store, "{id}.log", manifest="m") as writer:
        writer.write(b"x")
    with store.open_reader("m") as reader:
        whole = reader.read(-1)
    with store.open_writer("m") as torn:
        torn.write(whole + whole[:20])
    assert len(list(read_manifest(store, "m"))) == 1
    with RollingRecordWriter(store, "{id}.log", manifest="m") as writer:
        writer.write(b"y")
    assert len(list(read_manifest(store, "m"))) == 2


@pytest.mark.parametrize("line", [b"{}", b"[1]", b"x", b'{"path":1}', b"null"])
def test_what_is_no_manifest_is_corrupt(line):
    store = MemoryBackend()
    store.put_raw("m", line + b"\n")
    with pytest.raises(CorruptData, match="line 1"):
        list(read_manifest(store, "m"))


KILLED = """
import sys
from omnistorage.delivery import RollingRecordWriter
writer = RollingRecordWriter(
    sys.argv[1], "{k}/{source}-{start:09d}.ndjson.zst", names="deterministic", source="s", roll_records=50,
    start_sequence=int(sys.argv[2]), manifest="_m.ndjson",
)
for n in range(int(sys.argv[2]), int(sys.argv[3])):
    writer.write({"k": n * n % 3, "n": n})
    if n % int(sys.argv[4]) == 0:
        print(writer.durable, flush=True)
print(writer.close().durable, flush=True)
"""


def test_goal_10_kill_9_and_replay_from_what_was_acknowledged_delivers_each_record_once(tmp_path):
    """Each run is killed after a while and the next starts behind what the one before had acknowledged."""
    acknowledged, kills, most, each = -1, 0, pick(default=6, ci=12, soak=12), pick(default=25, ci=100, soak=100)
    total = 200 * each
    while acknowledged < total - 1:
        command = [sys.executable, "-c", KILLED, tmp_path, *map(str, (acknowledged + 1, total, each))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for count, line in enumerate(child.stdout):
                acknowledged = max(acknowledged, int(line))
                if count == 20 + kills * 7 and kills < most:
                    kills += 1
                    os.kill(child.pid, signal.SIGKILL)
                    break
    assert kills >= 5
    store = LocalBackend(tmp_path)
    assert store.remove_stale_uploads(older_than=timedelta(0)) >= 0
    objects = [path for path in paths(store) if path.endswith(".zst")]
    got = {k: [row["n"] for path in objects if path.startswith(f"{k}/") for row in rows(store, path)] for k in range(3)}
    assert sorted(n for found in got.values() for n in found) == list(range(total))
    for found in got.values():
        assert found == sorted(found), "in order within a partition"
    assert sorted(entry.path for entry in read_manifest(store, "_m.ndjson")) == sorted(objects)


@pytest.mark.parametrize("make", [LocalBackend, lambda tmp: MemoryBackend()])
def test_a_replay_notes_what_a_kill_kept_out_of_the_manifest(make, tmp_path):
    store = make(tmp_path)

    def run(manifest):
        told = []
        with RollingRecordWriter(
            store,
            "{k}/{start}.ndjson.gz",
            names="deterministic",
            roll_records=4,
            manifest=manifest,
            on_error="skip",
            on_commit=told.append,
        ) as writer:
            writer.write_many({"k": n % 2, "n": {n} if n == 2 else n} for n in range(23))  # a set is a bad record
        return told

    told = run("m")
    assert len(told) > 4
    whole = read_bytes(store, "m").splitlines(keepends=True)
    write_bytes(store, "m", b"".join(line for n, line in enumerate(whole) if n not in (0, 3)))
    assert sorted(run("m")) == sorted([told[0], told[3]])
    assert sorted(read_manifest(store, "m")) == sorted(told)
    assert run("m") == [], "and no more often than once"
    assert sorted(run("m2")) == sorted(told), "a new manifest gets them all"


def test_goal_10_no_object_is_published_before_those_of_the_roll_before_it():
    """Else a replay that misses the earlier one would write its records and go on into the later one's."""
    inner, go_on, done = MemoryBackend(), threading.Event(), []

    class Waits(Wrapper):
        def open_writer(self, path, options=WriteOptions()):  # noqa: B008
            writer = self.inner.open_writer(path, options)
            close = writer.close
            if path.startswith("0/"):
                writer.close = lambda: go_on.wait(LIMIT) and close()
            return writer

    with RollingRecordWriter(
        Waits(inner), "{k}/{start}.ndjson", names="deterministic", roll_records=1, on_commit=done.append
    ) as writer:
        for n in range(5):
            writer.write({"k": n})
        assert (done, writer.durable) == ([], -1)
        go_on.set()
    assert [entry.path for entry in done] == [f"{n}/{n}.ndjson" for n in range(5)]


def test_the_clock_of_arrival_names_the_partition_without_a_time_field():
    store = MemoryBackend()
    with RollingRecordWriter(
        store, "{time:%Y-%m-%d}/{seq}.log", now=lambda: datetime(2001, 2, 3, tzinfo=UTC)
    ) as writer:
        writer.write(b"x")
    assert paths(store) == ["2001-02-03/0.log"]
