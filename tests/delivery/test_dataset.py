"""``DatasetWriter`` and ``DatasetReader``, sentence by sentence of the delivery contract."""

from __future__ import annotations

import concurrent.futures as cf
import hashlib
import multiprocessing
import os
import pickle
import threading
import time
from datetime import timedelta

import pytest

from omnistorage import (
    AlreadyExists,
    ConfigError,
    CorruptData,
    Csv,
    LocalBackend,
    MemoryBackend,
    NotFound,
    RecordError,
    S3Backend,
    Secret,
    StorageError,
    open_records,
)
from omnistorage.delivery import DatasetReader, DatasetWriter
from omnistorage.delivery.dataset.layout import part_name
from tests import servers

from ..waiting import LIMIT, until
from .dataset_world import AT_ONCE, Held, Inline, expected, is_clean, names, read, share, write, writer


def spawned(workers):
    return cf.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


# -- what is written ---------------------------------------------------------------------------------------------------


def test_what_many_workers_write_is_read_back_in_the_order_of_the_inputs():
    store = MemoryBackend()
    with cf.ThreadPoolExecutor(4) as executor:
        done = DatasetWriter(store, "set").run(executor, share, range(20))
    assert (done.records, len(done.parts), done.left) == (200, 20, ())
    assert read(store) == expected(range(20))
    assert is_clean(store)


@pytest.mark.parametrize("pool", [cf.ProcessPoolExecutor, pytest.param(spawned, marks=pytest.mark.ci_only)])
def test_processes_write_it_and_read_its_parts(tmp_path, pool):
    with pool(2) as executor:
        done = DatasetWriter(tmp_path, "set").run(executor, share, range(6))
        reader = DatasetReader(LocalBackend(tmp_path), "set")
        counts = list(executor.map(count_of, [reader] * 6, reader.parts))
    assert counts == [10] * 6
    assert reader.parts[0].path.encode() not in pickle.dumps(reader), "a worker is given the part it reads"
    assert read(LocalBackend(tmp_path)) == expected(range(6))
    assert [part.path for part in done.parts] == [part.path for part in reader.parts]


def count_of(reader, part):
    return sum(1 for _ in reader.read_part(part))


@pytest.mark.ci_only
def test_dask_writes_it_though_a_worker_is_killed(tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1", silence_logs=50
    )
    with cluster, distributed.Client(cluster) as client:
        done = DatasetWriter(LocalBackend(tmp_path), "set").run(
            client.get_executor(), share_or_die, [(number, str(tmp_path)) for number in range(8)], in_flight=4
        )
    assert (tmp_path / "died").exists()
    assert done.records == 80
    assert read(LocalBackend(tmp_path)) == expected(range(8))
    write(LocalBackend(tmp_path), range(2), if_exists="replace", clean_after=AT_ONCE)
    assert is_clean(LocalBackend(tmp_path))


def share_or_die(given):
    """The first to come to input 5 is killed when it has written something."""
    item, folder = given
    yield from share(item, 5)
    if item == 5:
        try:
            os.close(os.open(f"{folder}/died", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), 9)
    yield from list(share(item))[5:]


def test_a_part_knows_its_records_bytes_and_digest():
    store = MemoryBackend()
    (part,) = write(store, [7]).parts
    data = store.peek(f"set/{part.path}")
    assert (part.records, part.bytes, part.raw_bytes) == (10, len(data), len(data))
    assert part.sha256 == hashlib.sha256(data).hexdigest()
    (part,) = write(store, [7], "zstd", compression="zstd").parts
    data = store.peek(f"zstd/{part.path}")
    assert (part.bytes, part.raw_bytes) == (len(data), len(store.peek(f"set/{read_parts(store)[0].path}")))
    assert part.sha256 == hashlib.sha256(data).hexdigest()


def read_parts(store, prefix="set"):
    return DatasetReader(store, prefix).parts


def test_a_large_share_becomes_several_parts_in_order():
    store = MemoryBackend()
    done = write(store, range(3), roll_records=3)
    assert [part.records for part in done.parts] == [3, 3, 3, 1] * 3
    assert read(store) == expected(range(3))
    done = write(store, [0], "bytes", roll_bytes=100)
    assert len(done.parts) > 2
    assert all(part.bytes < 150 for part in done.parts)


def test_an_input_without_records_gives_no_part_and_a_set_may_be_empty():
    store = MemoryBackend()
    done = writer(store).run(Inline(), lambda item: share(item) if item else (), range(3))
    assert len(done.parts) == 2
    assert write(store, [], "empty").parts == ()
    assert read(store, "empty") == []


def test_formats_and_codecs_are_those_of_record_writers():
    store = MemoryBackend()
    done = write(store, range(2), format=Csv(delimiter=";"), compression="gzip")
    assert all(part.path.endswith(".csv.gz") for part in done.parts)
    assert len(read(store, format=Csv(delimiter=";"))) == 20
    with open_records(store, f"set/{done.parts[0].path}", "r", format=Csv(delimiter=";")) as reader:
        assert len(list(reader)) == 10


def test_partitions_are_folders_and_readers_choose_among_them():
    store = MemoryBackend()
    rows = [{"day": day, "who": who, "n": n} for n in range(3) for day in ("1", "2") for who in ("a/b", "ü", "..")]
    done = writer(store, partition_by=("day", "who")).run(Inline(), lambda _: rows, [0, 1])
    assert {part.path.rpartition("/")[0] for part in done.parts} == {
        f"day={day}/who={who}" for day in "12" for who in ("a%2Fb", "ü", "%2E%2E")
    }
    assert {tuple(part.values.items()) for part in done.parts} == {
        (("day", day), ("who", who)) for day in "12" for who in ("a/b", "ü", "..")
    }
    key = lambda row: (row["day"], row["who"], row["n"])  # noqa: E731
    assert sorted(read(store), key=key) == sorted(rows * 2, key=key)
    assert {row["who"] for row in read(store, where={"who": "a/b"})} == {"a/b"}
    assert len(read(store, where={"day": "1", "who": ("ü", "..")})) == 12
    assert len(read(store, where=lambda values: values["day"] > "1")) == 18
    assert DatasetReader(store, "set", where={"day": "12"}).records == 0
    with pytest.raises(ConfigError, match="not partitioned by 'hour'"):
        read(store, where={"hour": "1"})


def test_a_record_without_the_field_it_is_partitioned_by_is_an_error_unless_there_is_a_stand_in():
    store = MemoryBackend()
    with pytest.raises(RecordError, match="zone"):
        write(store, [1], partition_by="zone")
    assert names(store) == []
    done = write(store, [1], partition_by="zone", missing="none")
    assert done.parts[0].values == {"zone": "none"}


def test_a_field_that_cannot_name_a_folder_is_refused():
    for field in ("time", "seq", "a b", "", "{x}"):
        with pytest.raises(ConfigError, match="cannot partition"):
            writer(MemoryBackend(), partition_by=field)


# -- executors ---------------------------------------------------------------------------------------------------------


def test_inputs_are_taken_as_they_are_needed():
    store, seen = MemoryBackend(), []

    def inputs():
        for number in range(40):
            seen.append((number, executor.now))
            yield number

    with Held(2) as executor:
        writer(store).run(executor, share, inputs(), in_flight=3)
    assert executor.calls == 40
    assert executor.most <= 3
    assert all(running <= 3 for _, running in seen)
    assert read(store) == expected(range(40))


def test_the_first_error_ends_the_run_and_names_its_input():
    store, begun = MemoryBackend(), []

    def fails(item):
        begun.append(item)
        yield from share(item)
        if item == 3:
            raise KeyError("broken")

    with cf.ThreadPoolExecutor(1) as executor, pytest.raises(KeyError, match="broken") as caught:
        writer(store).run(executor, fails, range(1000), in_flight=5)
    assert caught.value.__notes__ == ["a data set was being written, input 3: 3"]
    assert len(begun) < 15
    assert names(store) == []


def test_what_waits_when_a_run_fails_is_cancelled():
    store, begun = MemoryBackend(), []

    class Noting(cf.ThreadPoolExecutor):
        futures: list = []

        def submit(self, fn, /, *args, **kwargs):
            self.futures.append(super().submit(fn, *args, **kwargs))
            return self.futures[-1]

    def fails(item):
        begun.append(item)
        yield {}
        if item == 0:
            until(lambda: len(executor.futures) == 6)
            raise KeyError
        until(lambda: all(future.cancelled() for future in executor.futures[2:]))

    with Noting(1) as executor, pytest.raises(KeyError):
        writer(store).run(executor, fails, range(1000), in_flight=6)
    assert len(executor.futures) == 6
    assert begun[1:] in ([], [1])
    assert names(store) == []


def test_a_worker_that_was_said_to_be_cancelled_and_runs_on_leaves_no_parts():
    store, begun, over = MemoryBackend(), threading.Event(), threading.Event()

    class Dask:
        """Its futures are never said to run, so all of them can be cancelled."""

        def submit(self, fn, /, *args):
            future, thread = cf.Future(), threading.Thread(target=call, args=(fn, args))
            threads.append(thread)
            thread.start()
            if args[-1] == 0:
                thread.join(LIMIT)
                future.set_exception(errors.pop())
            return future

    def call(fn, args):
        try:
            fn(*args)
        except Exception as error:
            errors.append(error)

    def shares(item):
        if item == 0:
            assert begun.wait(LIMIT)
            raise KeyError(item)
        begun.set()
        yield from share(item)
        assert over.wait(LIMIT)

    threads, errors = [], []
    with pytest.raises(KeyError):
        writer(store).run(Dask(), shares, [1, 0], in_flight=2)
    over.set()
    for thread in threads:
        thread.join(LIMIT)
    assert isinstance(errors.pop(), StorageError)
    assert names(store) == []


def test_an_error_of_the_inputs_ends_the_run_as_well():
    store = MemoryBackend()

    def inputs():
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        writer(store).run(Inline(), share, inputs())
    assert names(store) == []


def test_nothing_of_a_failed_run_is_visible_and_what_is_somebody_elses_stays():
    store = MemoryBackend()
    for name in ("set/notes.txt", "set/part-1.ndjson", "set/kind=a/part-x-y-z-0.ndjson", "settled/x"):
        store.put_raw(name, b"mine")
    other = writer(store).begin()
    (live,) = other.write_part(0, share(0))

    def fails(item):
        yield from share(item)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        writer(store, partition_by="kind").run(Inline(), fails, [1])
    with pytest.raises(NotFound, match="no whole data set"):
        read(store)
    assert names(store) == sorted(
        ["notes.txt", "part-1.ndjson", "kind=a/part-x-y-z-0.ndjson", live.path, f"_attempt-{other.attempt}"]
    )
    assert other.commit([live]).records == 10
    assert [name for name in names(store) if not name.startswith("_")] == sorted(
        [live.path, "notes.txt", "part-1.ndjson", "kind=a/part-x-y-z-0.ndjson"]
    )


def test_a_backend_of_this_process_alone_says_so(tmp_path):
    with cf.ProcessPoolExecutor(1) as executor, pytest.raises(ConfigError, match="cannot be pickled"):
        writer(MemoryBackend()).run(executor, share, [1])


def test_a_worker_that_is_killed_fails_the_run_and_leaves_nothing(tmp_path):
    store = LocalBackend(tmp_path)
    with (
        cf.ProcessPoolExecutor(2) as executor,
        pytest.raises(cf.process.BrokenProcessPool, match="abruptly") as caught,
    ):
        writer(store).run(executor, share_or_die, [(number, str(tmp_path)) for number in range(8)])
    assert "input" in caught.value.__notes__[0]
    assert names(store) == []
    write(store, range(3), clean_after=AT_ONCE)
    assert is_clean(store)
    assert [path.name for path in (tmp_path / "set").iterdir() if path.name.startswith(".")] == []


def test_what_runs_when_a_run_fails_is_waited_for():
    store, begun, listed = MemoryBackend(), threading.Event(), threading.Event()

    def slow(item):
        if item == 0:
            assert begun.wait(LIMIT)
            raise KeyError
        begun.set()
        yield from share(item)
        listed.wait(0.1)  # until the driver looks for what is to be removed, which it must not do yet

    job_list = store.list

    def listing(*arguments):
        if begun.is_set():
            listed.set()
        return job_list(*arguments)

    store.list = listing
    with cf.ThreadPoolExecutor(2) as executor, pytest.raises(KeyError):
        writer(store).run(executor, slow, [0, 1])
    assert names(store) == []


def mark(store):
    """The etag of what shows that an attempt is at work."""
    (name,) = [name for name in names(store) if name.startswith("_attempt")]
    return store.stat(f"set/{name}").etag


def test_a_run_that_takes_long_shows_that_it_lives():
    store = MemoryBackend()

    def waits(item):
        first = mark(store)
        until(lambda: mark(store) != first)
        yield from share(item)

    with cf.ThreadPoolExecutor(1) as executor:
        writer(store, clean_after=timedelta(seconds=0.1)).run(executor, waits, [1])
    assert read(store) == expected([1])


def test_a_run_that_waits_for_its_inputs_shows_that_it_lives():
    store = MemoryBackend()

    def inputs():
        for number in range(2):
            first = mark(store)
            until(lambda first=first: mark(store) != first)
            yield number

    writer(store, clean_after=timedelta(seconds=0.1)).run(Inline(), share, inputs())
    assert read(store) == expected(range(2))
    assert is_clean(store)


def test_a_run_of_which_something_ends_all_the_time_shows_that_it_lives():
    store, seen = MemoryBackend(), set()

    def inputs():
        seen.add(mark(store))
        end = time.monotonic() + LIMIT
        while len(seen) < 3:
            assert time.monotonic() < end
            yield 0
            seen.add(mark(store))

    writer(store, clean_after=timedelta(seconds=0.1)).run(Inline(), lambda item: (), inputs())
    assert len(seen) == 3
    assert is_clean(store)


def test_what_shows_that_a_run_lives_ends_before_it_is_published():
    begun, gone, ended = threading.Event(), threading.Event(), threading.Event()

    class Slow(MemoryBackend):
        marks = 0

        def open_writer(self, path, *more):
            if "_attempt" in path:
                self.marks += 1
                if self.marks == 2:
                    begun.set()
                    gone.wait(0.1)  # until the mark is removed, which must not happen yet
            return super().open_writer(path, *more)

        def delete(self, path, **more):
            super().delete(path, **more)
            if "_attempt" in path:
                gone.set()
                ended.wait(0.1)  # for a mark that comes behind

    def waits(item):
        assert begun.wait(LIMIT)
        yield from share(item)

    store = Slow()
    writer(store, clean_after=timedelta(seconds=0.1)).run(Inline(), waits, [1])
    assert is_clean(store)


@pytest.mark.ci_only
def test_processes_write_it_into_a_bucket(monkeypatch):
    info = servers.server("seaweedfs")
    monkeypatch.setenv("DATASET_SECRET_KEY", info["secret_key"])
    store = S3Backend(
        info["bucket"], f"dataset-{os.getpid()}", endpoint_url=info["endpoint"], vendor="seaweedfs",
        access_key=info["access_key"], secret_key=Secret.env("DATASET_SECRET_KEY"),
    )  # fmt: skip
    with cf.ProcessPoolExecutor(2) as executor:
        for if_exists, items in (("error", range(4)), ("append", range(4, 6)), ("replace", range(3))):
            done = DatasetWriter(store, "set", partition_by="kind", if_exists=if_exists).run(executor, share, items)
            assert done.left == ()
            assert len(read(store)) == 10 * (6 if if_exists == "append" else len(items))
        with pytest.raises(AlreadyExists):
            DatasetWriter(store, "set").run(executor, share, [1])
    assert is_clean(store)
    jobs = [writer(store, if_exists="replace").begin() for _ in range(4)]
    parts = [job.write_part(0, share(number)) for number, job in enumerate(jobs)]
    with cf.ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(job.commit, mine) for job, mine in zip(jobs, parts, strict=True)]
    won = [number for number, future in enumerate(futures) if future.exception() is None]
    assert len(won) == 1
    assert read(store) == expected(won)
    assert is_clean(store)
    store.close()


# -- in steps ----------------------------------------------------------------------------------------------------------


def test_of_a_task_that_was_written_twice_one_writing_is_taken():
    store = MemoryBackend()
    job = writer(store, roll_records=4).begin()
    first, second = job.write_part(1, share(1)), job.write_part(1, share(1))
    other = job.write_part(0, share(0))
    done = job.commit([*second, *first, *other])
    assert [part.path for part in done.parts] == [part.path for part in [*other, *second]]
    assert read(store) == expected([0, 1])
    assert is_clean(store)


def test_a_writing_that_nobody_answered_for_is_removed():
    store = MemoryBackend()
    job = writer(store).begin()
    parts = job.write_part("a", share(0))
    job.write_part("a", share(0))
    job.write_part("lost", share(9))
    job.commit(parts)
    assert read(store) == expected([0])
    assert is_clean(store)


def test_a_second_commit_says_that_the_first_one_was_done():
    store = MemoryBackend()
    job = DatasetWriter(store, "d").begin()
    parts = job.write_part(0, [{"n": 0}])
    with pytest.raises(ConfigError, match="in one list"):
        DatasetWriter(store, "e").begin().commit([parts])
    job.commit(parts)
    with pytest.raises(AlreadyExists, match="published already"):
        job.commit(parts)
    assert list(DatasetReader(store, "d")) == [{"n": 0}]


def test_what_a_slow_worker_writes_behind_the_commit_it_removes():
    store = MemoryBackend()
    job = writer(store).begin()
    job.commit(job.write_part(0, share(0)))
    with pytest.raises(StorageError):
        job.write_part(0, share(0))
    assert read(store) == expected([0])
    assert is_clean(store)


def test_what_a_slow_worker_writes_behind_the_commit_before_it_is_killed_is_removed_by_the_next_run():
    store = MemoryBackend()
    job = writer(store).begin()
    (part,) = job.write_part(0, share(0))
    job.commit([part])
    first = part_name(part.path)
    store.put_raw("set/" + part.path.replace(first.tried, "0" * len(first.tried)), b"")
    assert not is_clean(store)
    write(store, [1], if_exists="append")
    assert read(store) == expected([0, 1])
    assert is_clean(store)


def test_parts_of_a_writing_that_are_missing_are_an_error_not_a_hole():
    store = MemoryBackend()
    job = writer(store, roll_records=4).begin()
    parts = job.write_part(0, share(0))
    with pytest.raises(ConfigError, match="this one was not"):
        job.commit(parts[1:])
    assert names(store) == []


def test_parts_of_another_attempt_are_refused():
    store = MemoryBackend()
    parts = writer(store).begin().write_part(0, share(0))
    with pytest.raises(ConfigError, match="not written by this attempt"):
        writer(store).begin().commit(parts)


def test_a_part_that_vanished_or_changed_is_not_published():
    for change in (lambda store, path: store.delete(path), lambda store, path: store.put_raw(path, b"short")):
        store = MemoryBackend()
        job = writer(store).begin()
        parts = job.write_part(0, share(0))
        change(store, f"set/{parts[0].path}")
        with pytest.raises(CorruptData, match="not there as it was written"):
            job.commit(parts)
        assert names(store) == []


def test_abort_is_idempotent_and_never_touches_what_is_published():
    store = MemoryBackend()
    job = writer(store).begin()
    job.write_part(0, share(0))
    assert (job.abort(), job.abort(), names(store)) == ((), (), [])
    job = writer(store).begin()
    job.commit(job.write_part(0, share(0)))
    assert job.abort() == ()
    write(store, [1], if_exists="append")
    assert job.abort() == ()
    assert read(store) == expected([0, 1])


def test_a_job_pickles_and_tasks_have_simple_names(tmp_path):
    job = writer(LocalBackend(tmp_path)).begin()
    copy = pickle.loads(pickle.dumps(job))
    parts = copy.write_part("x_1", share(1)) + job.write_part(3, share(3))
    copy.place.close()
    assert [part.path[:14] for part in job.commit(parts).parts] == ["part-00000003-", "part-x_1-" + parts[0].path[9:14]]
    for task in (-1, True, "a/b", "", "a-b", 1.5, "x" * 65):
        with pytest.raises(ConfigError, match="a task is"):
            job.write_part(task, [])
