"""The times of sources survive the way to a bucket, from there to another one, and back."""

import pytest

from omnistorage import LocalBackend, MemoryBackend
from omnistorage.sync import check
from omnistorage.sync.compare import kept_time

from .stores import Acting, bucket, day, fill, go, held, memory, planned, put
from .test_comparing import hashing

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
