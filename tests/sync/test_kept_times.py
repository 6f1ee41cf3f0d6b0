"""The times of sources survive the way to a bucket, from there to another one, and back."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from omnistorage import LocalBackend, MemoryBackend
from omnistorage.sync import check
from omnistorage.sync.execution.partitions import execute, prepare
from omnistorage.sync.planning.comparison import kept_time

from .simulation import Inline
from .stores import Acting, bucket, day, fill, go, held, memory, planned, put
from .test_comparing import hashing

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COMPARES = ("default", "rclone", "aws", "s5cmd", "size", "mtime", "checksum")


def keeping(**more):
    """An empty bucket that keeps the times of sources as metadata, and is written to by streams."""
    return bucket(metadata=True, copy=False, **more)


def behind():
    """The same with a clock that is behind."""
    return keeping(now=lambda: day(1))


def uploaded(at=5):
    """A folder and the bucket that it was copied to."""
    folder, store = fill(memory(), "a", "d/b", at=at), keeping()
    go(folder, store)
    return folder, store


def test_a_download_gets_the_time_that_the_upload_kept():
    folder, store = uploaded()
    back = memory()
    assert go(store, back).copied == 2
    assert {info.modified_at for info in back.list()} == {day(5)}
    assert planned(folder, back) == planned(back, folder) == []


def test_a_bucket_and_the_folder_it_came_from_are_the_same_in_both_directions():
    folder, store = uploaded()
    assert planned(folder, store) == planned(store, folder) == []
    assert check(folder, store).in_sync
    assert check(store, folder).in_sync


def test_the_times_go_on_to_another_bucket():
    _, store = uploaded()
    other, back = keeping(now=lambda: day(200)), memory()
    go(store, other)
    assert kept_time(other.stat("a")) == day(5)
    go(other, back)
    assert back.stat("a").modified_at == day(5)


@pytest.mark.parametrize("compare", COMPARES)
@pytest.mark.parametrize("dst", [memory, keeping, bucket, behind])
@pytest.mark.parametrize("src", [memory, keeping, bucket])
def test_a_second_run_transfers_nothing_with_any_rule(src, dst, compare):
    origin = fill(memory(), "a", "d/b", at=5)
    one, other = src(), dst()
    go(origin, one)
    assert go(one, other, compare=compare).copied == 2
    assert planned(one, other, compare=compare) == []


def test_a_kept_time_is_asked_for_only_where_the_listing_does_not_tell():
    folder, store = uploaded()
    put(folder, "longer", b"xx", at=5)
    put(store, "longer", b"x")
    put(store, "at/listed/time", b"x")
    folder._objects["at/listed/time"] = store._objects["at/listed/time"]
    watched = Acting(store, lambda op, number: None)
    planned(watched, folder)
    assert watched.log.count("stat") == 2, "of a and d/b"
    watched = Acting(store, lambda op, number: None)
    planned(folder, watched)
    assert watched.log.count("stat") == 0


def test_a_folder_that_changed_since_is_written_again():
    folder, store = uploaded()
    put(folder, "a", b"data of A", at=6)
    assert planned(store, folder) == [("update", "a")]
    go(store, folder)
    assert held(folder)["a"] == b"data of a"
    assert folder.stat("a").modified_at == day(5)
    assert planned(store, folder) == []


def test_a_change_of_time_alone_sets_the_time(tmp_path):
    """Between two folders, and from a bucket that states digests."""
    one, other, backup = (LocalBackend(tmp_path / name) for name in ("one", "other", "backup"))
    put(one, "f", b"same", at=5)
    put(other, "f", b"same", at=3)
    report = go(one, other, backup_dir=backup)
    assert (report.touched, report.updated, report.bytes) == (1, 0, 0)
    assert other.stat("f").modified_at == day(5)
    assert not (tmp_path / "backup").exists(), "nothing was replaced"
    assert planned(one, other) == []

    store = hashing("md5", in_listings=False, make=bucket, metadata=True)
    go(one, store)
    put(other, "f", b"same", at=3)
    assert planned(store, other) == [("touch", "f")]
    go(store, other)
    assert other.stat("f").modified_at == day(5)
    assert planned(store, other) == []


def test_what_keeps_a_time_that_cannot_be_read_counts_as_uploaded_then():
    store = keeping()
    put(store, "f", b"data", user_metadata={"mtime": "yesterday"})
    back = MemoryBackend()
    go(store, back)
    assert back.stat("f").modified_at == day(100)
    assert planned(store, back) == []


EXACT = 1_577_836_800_123_456_789


def exact(folder):
    """The nanoseconds of every file and folder."""
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*")}


def timed(folder):
    """A folder whose times have nanoseconds, one of them before 1970."""
    (folder / "d").mkdir(parents=True)
    for number, name in enumerate(("a", "d/b", "d")):
        if name != "d":
            (folder / name).write_bytes(b"data")
        moment = EXACT + number if name != "a" else -1_111_111_111
        os.utime(folder / name, ns=(moment, moment))
    return folder


@pytest.mark.parametrize("by", ["run", "journal", "bucket"])
def test_nanoseconds_are_kept(tmp_path, by):
    one, other = timed(tmp_path / "one"), tmp_path / "other"
    if by == "journal":
        prepare(one, other, tmp_path / "plan")
        execute(tmp_path / "plan", Inline())
    elif by == "bucket":
        store = keeping()
        go(LocalBackend(one), store)
        assert store.stat("d/b").metadata["mtime"] == "1577836800.123456790"
        go(store, LocalBackend(other))
    else:
        go(LocalBackend(one), LocalBackend(other))
    found, wanted = exact(other), exact(one)
    if by == "bucket":  # which holds no folders
        del found["d"], wanted["d"]
    assert found == wanted


def test_nanoseconds_are_kept_where_the_time_alone_is_set(tmp_path):
    one, other = timed(tmp_path / "one"), tmp_path / "other"
    go(LocalBackend(one), LocalBackend(other))
    os.utime(other / "d" / "b", (1, 1))
    assert go(LocalBackend(one), LocalBackend(other)).touched == 1
    assert exact(other) == exact(one)


def test_no_time_is_rounded_up(tmp_path):
    folder = timed(tmp_path / "one")
    for info in LocalBackend(folder).list():
        shown = (info.modified_at - EPOCH) // timedelta(microseconds=1)
        assert shown == (folder / info.path).stat().st_mtime_ns // 1000


def test_a_store_that_shows_microseconds_gets_no_more(tmp_path):
    store = memory()
    go(LocalBackend(timed(tmp_path / "one")), store)
    assert {type(info.modified_at) for info in store.list()} == {datetime}


@pytest.mark.parametrize("more", [{"suffix": ".bak"}, {"backup_dir": True}], ids=str)
def test_a_backup_keeps_the_nanoseconds(tmp_path, more):
    one, other, kept = timed(tmp_path / "one"), timed(tmp_path / "other"), tmp_path / "kept"
    (one / "d" / "b").write_bytes(b"longer data")
    go(LocalBackend(one), LocalBackend(other), **{**more, "backup_dir": kept} if "backup_dir" in more else more)
    backup = kept / "d" / "b" if kept.exists() else other / "d" / "b.bak"
    assert backup.stat().st_mtime_ns == EXACT + 1


def test_a_move_to_the_same_content_keeps_the_time_of_the_source(tmp_path):
    one, other = timed(tmp_path / "one"), timed(tmp_path / "other")
    os.utime(other / "d" / "b", (1, 1))
    assert go(LocalBackend(one), LocalBackend(other), move=True).removed == 2
    assert (other / "d" / "b").stat().st_mtime_ns == EXACT + 1


def test_kept_times_are_compared_exactly(tmp_path):
    """A bucket shows its own times in seconds; those that it keeps for others are exact."""
    one, store = timed(tmp_path / "one"), keeping(modified_precision=timedelta(seconds=1))
    go(LocalBackend(one), store)
    (one / "d" / "b").write_bytes(b"DATA")
    os.utime(one / "d" / "b", ns=(EXACT + 10_000_000, EXACT + 10_000_000))
    assert planned(store, LocalBackend(one), no_folder_times=True) == [("update", "d/b")]


def test_update_from_a_bucket_keeps_what_is_newer_than_the_kept_time():
    """The upload is later than its source, and than a change of the file that was made in between."""
    first, store, folder = memory(), keeping(), memory()
    put(first, "f", b"old", at=1)
    go(first, store)
    put(folder, "f", b"newer", at=3)
    assert planned(store, folder, update=True) == [("skip", "f")]
    put(folder, "f", b"oldest", at=0)
    assert planned(store, folder, update=True) == [("update", "f")]
