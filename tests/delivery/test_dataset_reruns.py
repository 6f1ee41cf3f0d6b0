"""Data sets that are replaced and appended to, by one run, by several at once, and behind runs that died."""

from __future__ import annotations

import concurrent.futures as cf
import threading
from datetime import UTC, datetime, timedelta

import pytest

from omnistorage import (
    AlreadyExists,
    CapabilityNotSupported,
    ChannelBackend,
    ConfigError,
    LocalBackend,
    MemoryBackend,
    PreconditionFailed,
    StorageError,
)
from omnistorage.delivery import Dataset, DatasetReader
from omnistorage.testing import BasicBackend

from ..waiting import LIMIT
from .dataset_world import AT_ONCE, expected, is_clean, names, read, share, without, write, writer


def test_a_set_that_is_there_is_an_error_unless_told_otherwise():
    store = MemoryBackend()
    write(store, range(2))
    with pytest.raises(AlreadyExists, match="if_exists"):
        write(store, range(3))
    assert read(store) == expected(range(2))
    write(store, range(5, 7), if_exists="append")
    assert read(store) == expected([0, 1, 5, 6])
    write(store, range(8), if_exists="replace")
    assert read(store) == expected(range(8))
    assert is_clean(store)
    with pytest.raises(ConfigError, match="if_exists"):
        writer(store, if_exists="merge")


def test_old_parts_are_removed_only_behind_the_publication(tmp_path):
    class Watching(MemoryBackend):
        def delete(self, path, **more):
            now = DatasetReader(self, "set")
            known = [f"_manifest-{now.attempt}.json", *(part.path for part in now.parts)]
            assert path.removeprefix("set/") not in known, "what counts is not removed"
            return super().delete(path, **more)

    store = Watching()
    write(store, range(3))
    write(store, range(4), if_exists="replace")
    assert read(store) == expected(range(4))
    assert is_clean(store)


def test_replaced_partitions_leave_no_empty_folders(tmp_path):
    store = LocalBackend(tmp_path)
    write(store, range(2), partition_by="kind")
    assert sorted(path.name for path in (tmp_path / "set").iterdir() if path.is_dir()) == ["kind=a", "kind=b"]
    write(store, range(2), if_exists="replace")
    assert [path for path in (tmp_path / "set").iterdir() if path.is_dir()] == []


def test_what_a_dead_run_left_is_removed_once_it_is_old_and_a_live_run_is_left_alone():
    store = MemoryBackend()
    dead = writer(store).begin()
    dead.write_part(0, share(0))
    left = names(store)
    now = lambda: datetime.now(UTC) + timedelta(hours=23)  # noqa: E731
    write(store, [1], now=now)
    assert set(left) <= set(names(store)), "it may be at work yet"
    now = lambda: datetime.now(UTC) + timedelta(hours=25)  # noqa: E731
    write(store, [2], if_exists="append", now=now)
    assert is_clean(store)
    assert read(store) == expected([1, 2])


def test_an_attempt_that_was_taken_for_dead_cannot_be_published():
    store = MemoryBackend()
    slow = writer(store).begin()
    parts = slow.write_part(0, share(0))
    write(store, [1], clean_after=AT_ONCE)
    with pytest.raises(StorageError, match="taken this attempt for dead"):
        slow.commit(parts)
    assert read(store) == expected([1])
    assert is_clean(store)


def test_who_was_taken_for_dead_is_not_revived():
    store = MemoryBackend()
    slow = writer(store).begin()
    writer(store, clean_after=AT_ONCE).begin()
    slow.stay_alive()
    assert not [name for name in names(store) if slow.attempt in name]


def test_a_run_that_is_published_late_is_not_taken_for_dead_meanwhile():
    store = Meddled()
    store._now = lambda: datetime.now(UTC) - timedelta(days=2)
    job = writer(store).begin()
    parts = job.write_part(0, share(1))
    store._now = lambda: datetime.now(UTC)
    store.at, store.then = ".json", lambda: writer(store).begin().abort()
    job.commit(parts)
    assert read(store) == expected([1])
    assert is_clean(store)


@pytest.mark.parametrize("folder", ["sub", "day=1", "day=1/sub", "sub/day=1", "day=1/kind=a"])
def test_a_data_set_in_a_folder_of_another_is_not_touched(folder):
    store = MemoryBackend()
    inner, live = f"set/{folder}", f"set/{folder}-live"
    write(store, range(2), inner, partition_by=("item", "kind"))
    job = writer(store, live, partition_by="kind").begin()
    parts = job.write_part(0, share(5))
    dead = writer(store, partition_by=("day", "kind")).begin()
    (part,) = dead.write_part(0, [{"day": 9, "kind": "a"}])
    copied = "copies/" + part.path
    store.put_raw(f"set/{copied}", b"mine")
    now = lambda: datetime.now(UTC) + timedelta(days=2)  # noqa: E731
    write(store, range(3), now=now)
    assert [name for name in names(store) if dead.attempt in name] == [copied]
    write(store, [7], if_exists="replace", now=now)
    assert read(store) == expected([7])
    key = lambda row: (row["item"], row["n"])  # noqa: E731
    assert sorted(read(store, inner), key=key) == expected(range(2))
    job.commit(parts)
    assert sorted(read(store, live), key=key) == expected([5])


@pytest.mark.parametrize("above", ["", "set", "set/year=1"])
def test_a_partition_of_another_data_set_is_not_written_as_a_set_of_its_own(above):
    store = MemoryBackend()
    write(store, range(2), above, partition_by=("item", "kind"))
    for folder in ("item=1", "item=1/kind=b"):
        with pytest.raises(ConfigError, match="a partition of another data set") as caught:
            writer(store, f"{above}/{folder}".lstrip("/"), clean_after=AT_ONCE).begin()
        assert caught.value.path.endswith(folder)
    assert len(read(store, above)) == 20
    store.put_raw("_SUCCESS", b"")  # as other tools write it
    write(store, [1], "item=2")
    assert read(store, "item=2") == expected([1])


def test_a_killed_publication_is_cleaned_at_once():
    """Published, but the old parts were not removed any more: the new manifest knows them, whatever their age."""
    store = MemoryBackend()
    write(store, range(3), partition_by="kind")
    write(store, range(3), if_exists="append")
    before = {info.path: store.peek(info.path) for info in store.list()}
    write(store, range(2), if_exists="replace")
    for path, data in before.items():
        if not path.endswith("_SUCCESS"):
            store.put_raw(path, data)
    assert not is_clean(store)
    write(store, [7], if_exists="append")
    assert is_clean(store)
    assert read(store) == expected([0, 1, 7])


@pytest.mark.parametrize("if_exists", ["error", "replace", "append"])
@pytest.mark.parametrize("lacks", [{}, {"if_match": False}], ids=["conditions", "create_only"])
def test_of_two_runs_at_once_exactly_one_wins(if_exists, lacks):
    store = without(**lacks)
    if if_exists != "error":
        write(store, [0])
    jobs = [writer(store, if_exists=if_exists).begin() for _ in range(2)]
    parts = [job.write_part(0, share(number + 1)) for number, job in enumerate(jobs)]
    won = jobs[1].commit(parts[1])
    with pytest.raises((AlreadyExists, PreconditionFailed)):
        jobs[0].commit(parts[0])
    assert isinstance(won, Dataset)
    assert read(store) == expected([0, 2] if if_exists == "append" else [2])
    assert is_clean(store)


@pytest.mark.parametrize("kind", ["local", "memory"])
@pytest.mark.parametrize("if_exists", ["error", "replace"])
def test_of_many_runs_that_publish_at_the_same_time_exactly_one_wins(tmp_path, kind, if_exists):
    store = LocalBackend(tmp_path) if kind == "local" else MemoryBackend()
    if if_exists == "replace":
        write(store, [0])
    jobs = [writer(store, if_exists=if_exists).begin() for _ in range(8)]
    parts = [job.write_part(0, share(number + 1)) for number, job in enumerate(jobs)]
    with cf.ThreadPoolExecutor(8) as executor:
        futures = [executor.submit(job.commit, mine) for job, mine in zip(jobs, parts, strict=True)]
    won = [number for number, future in enumerate(futures) if future.exception() is None]
    assert len(won) == 1
    assert all(
        isinstance(future.exception(), AlreadyExists | PreconditionFailed)
        for number, future in enumerate(futures)
        if number not in won
    )
    assert read(store) == expected([won[0] + 1])
    assert is_clean(store)


def test_a_lock_that_a_kill_left_holds_up_nobody_for_long():
    store = without(if_match=False)
    write(store, [0])
    store._now = lambda: datetime.now(UTC) - timedelta(minutes=2)
    store.put_raw("set/_lock", b"")
    write(store, [1], if_exists="replace")
    assert read(store) == expected([1])
    assert is_clean(store)


def test_a_lock_that_a_kill_left_is_removed_like_anything_else():
    store = without(if_match=False)
    write(store, [0])
    store.put_raw("set/_lock", b"")
    writer(store, if_exists="replace").begin().abort()
    assert "_lock" in names(store)
    writer(store, if_exists="replace", clean_after=AT_ONCE).begin().abort()
    assert is_clean(store)


def test_a_store_without_conditions_is_written_by_one_run_at_a_time():
    store = without(if_match=False, create_only=False)
    write(store, [0])
    with pytest.raises(AlreadyExists):
        write(store, [1])
    job = writer(store, if_exists="replace").begin()
    write(store, [2], if_exists="replace")
    with pytest.raises(PreconditionFailed):
        job.commit(job.write_part(0, share(3)))
    assert read(store) == expected([2])
    basic = BasicBackend()
    write(basic, [4])
    write(basic, [5], if_exists="append")
    assert read(basic) == expected([4, 5])


def test_a_store_that_shows_half_an_object_is_refused():
    with pytest.raises(CapabilityNotSupported, match="half an object"):
        writer(ChannelBackend())


class Meddled(MemoryBackend):
    """Calls ``then`` once when an object whose name ends with ``at`` is about to be written."""

    at: str | None = None

    def open_writer(self, path, *more):
        if self.at is not None and path.endswith(self.at):
            self.at = None
            self.then()
        return super().open_writer(path, *more)


@pytest.mark.parametrize("if_exists", ["error", "replace", "append"])
@pytest.mark.parametrize(("kind", "at"), [("if_match", "_SUCCESS"), ("create_only", "_lock"), ("create_only", ".json")])
def test_who_publishes_in_the_last_moment_is_noticed(if_exists, kind, at):
    if if_exists == "error" and at == "_lock":
        at = "_SUCCESS"
    store = Meddled()
    store.features = without(**({"if_match": False} if kind == "create_only" else {})).features
    if if_exists != "error":
        write(store, [0])
    other, job = (writer(store, if_exists=if_exists).begin() for _ in range(2))
    parts = other.write_part(0, share(1))
    store.at, store.then = at, lambda: other.commit(parts)
    with pytest.raises((AlreadyExists, PreconditionFailed), match=r"meanwhile|expected"):
        job.commit(job.write_part(0, share(2)))
    assert read(store) == expected([0, 1] if if_exists == "append" else [1])
    assert is_clean(store)


def test_who_finds_the_lock_waits_for_it_and_looks_again():
    store = without(if_match=False)
    write(store, [0])
    other, job = (writer(store, if_exists="replace").begin() for _ in range(2))
    parts = job.write_part(0, share(2))
    old = store.peek("set/_SUCCESS")
    tried, seen = threading.Event(), []

    def open_reader(path, *more):  # who waits asks how old the lock is
        if path == "set/_lock":
            seen.append(store.peek("set/_SUCCESS"))
            if len(seen) > 2:
                tried.set()
        return type(store).open_reader(store, path, *more)

    store.put_raw("set/_lock", b"")
    store.open_reader = open_reader
    with cf.ThreadPoolExecutor(1) as executor:
        future = executor.submit(job.commit, parts)
        assert tried.wait(LIMIT)
        assert set(seen) == {old}, "nothing is published by who has no lock"
        store.delete("set/_lock")
        assert future.result(LIMIT).records == 10
    with pytest.raises(PreconditionFailed):
        other.commit([])
