"""``ops.transfer`` and ``ops.sorted_list``: verified, resumed, sorted within bounds."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import BackendUnavailable, CorruptData, LocalBackend, MemoryBackend, NotFound, PreconditionFailed, ops
from omnistorage.concurrency.retry import Backoff, RequestPolicy
from omnistorage.core import LIST, ListOptions, ObjectInfo, WriteOptions, features_of
from omnistorage.core.external_sort import sorted_entries
from omnistorage.paths import sort_key
from omnistorage.testing import BasicBackend, Faulty
from omnistorage.testing._kit import payload
from omnistorage.wrappers.base import Wrapper

POLICY = RequestPolicy(retries=3, backoff=Backoff(base=0))


class Breaks(Faulty):
    """Each reader fails at its ``at``-th read, ``times`` times in all."""

    def __init__(self, inner, at, times):
        super().__init__(inner)
        self.at, self.times = at, times

    def _before(self, op, number):
        if op == "open_reader":
            self.reads = 0
        if op == "read":
            self.reads += 1
            if self.reads == self.at and self.times:
                self.times -= 1
                raise BackendUnavailable("dropped")


@pytest.mark.parametrize("times", [0, 1, 3])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_transfer_goes_on_where_reading_broke_off(times, at):
    inner, target, seen = MemoryBackend(), MemoryBackend(), []
    data = payload(12 << 20)
    ops.write_bytes(inner, "x", data, WriteOptions(user_metadata={"k": "v"}, content_type="text/x"))
    source = Breaks(inner, at, times)
    info = ops.transfer(source, "x", target, "y", policy=POLICY, progress=seen.append)
    assert target.peek("y") == data
    assert sum(seen) == info.size == len(data), "no byte is counted twice"
    assert source.log.count("open_reader") == times + 1
    assert (info.content_type, info.metadata) == ("text/x", {"k": "v"})
    assert source.times == 0


def test_a_transfer_that_breaks_off_too_often_publishes_nothing():
    inner, target = MemoryBackend(), MemoryBackend()
    ops.write_bytes(inner, "x", payload(3 << 20))
    with pytest.raises(BackendUnavailable):
        ops.transfer(Breaks(inner, 1, 99), "x", target, "y", policy=POLICY)
    assert target.peek("y") is None


def test_a_transfer_never_splices_two_versions():
    inner, target = MemoryBackend(), MemoryBackend()
    ops.write_bytes(inner, "x", payload(3 << 20))

    class Changes(Breaks):
        def _before(self, op, number):
            try:
                super()._before(op, number)
            except BackendUnavailable:
                ops.write_bytes(inner, "x", payload(3 << 20, "other"))
                raise

    with pytest.raises(PreconditionFailed):
        ops.transfer(Changes(inner, 2, 1), "x", target, "y", policy=POLICY)
    assert target.peek("y") is None


def test_without_a_way_to_tell_versions_apart_nothing_is_resumed():
    inner = BasicBackend()
    inner.put_raw("x", payload(3 << 20))
    source, target = Breaks(inner, 2, 1), MemoryBackend()
    with pytest.raises(BackendUnavailable):
        ops.transfer(source, "x", target, "y", policy=POLICY)
    assert source.log.count("open_reader") == 1
    assert target.peek("y") is None


class Liar(Wrapper):
    """Stores something else than it was given, and says nothing."""

    def open_writer(self, path, options=WriteOptions()):  # noqa: B008
        writer = self.inner.open_writer(path, options)
        plain = writer.write
        writer.write = lambda data: plain(bytes(data[:-1]) + b"?")
        return writer


def test_a_copy_that_is_not_what_was_read_is_found_and_removed():
    source, inner = MemoryBackend(), MemoryBackend()
    ops.write_bytes(source, "x", b"abc")
    with pytest.raises(CorruptData, match="what was read"):
        ops.transfer(source, "x", Liar(inner), "y")
    assert inner.peek("y") is None
    ops.transfer(source, "x", Liar(inner), "y", verify=False)
    assert inner.peek("y") == b"ab?"


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_what_the_source_states_and_does_not_give_is_corrupt(algorithm):
    inner, target = MemoryBackend(), MemoryBackend()
    ops.write_bytes(inner, "x", b"abc")

    class Says(Wrapper):
        def open_reader(self, path, options=None):
            reader = self.inner.open_reader(path)
            reader._info = reader.info._replace(hashes={algorithm: hashlib.new(algorithm, b"other").hexdigest()})
            return reader

    with pytest.raises(CorruptData):
        ops.transfer(Says(inner), "x", target, "y")
    assert target.peek("y") is None


def test_onto_itself_a_transfer_changes_nothing(tmp_path):
    store = LocalBackend(tmp_path)
    ops.write_bytes(store, "x", b"abc")
    before = store.stat("x")
    assert ops.transfer(store, "x", LocalBackend(tmp_path), "x") == before
    with pytest.raises(NotFound):
        ops.transfer(store, "none", MemoryBackend(), "y")


def test_a_move_between_two_roots_of_one_file_system_copies_no_bytes(tmp_path):
    one, two = LocalBackend(tmp_path / "one"), LocalBackend(tmp_path / "two")
    ops.write_bytes(one, "x", b"abc")
    inode = (tmp_path / "one/x").stat().st_ino
    assert ops.move(one, "x", two, "d/y").path == "d/y"
    assert (tmp_path / "two/d/y").stat().st_ino == inode
    assert not one.exists("x")


# -- sorted_list -------------------------------------------------------------------------------------------------------


class Unsorted(Wrapper):
    """Lists in no order, and says so."""

    clears = frozenset({"sorted_list"})

    def list(self, prefix="", options=LIST):
        found = list(self.inner.list(prefix, options))
        random.Random(5).shuffle(found)
        return iter(found)


def test_a_listing_in_no_order_is_put_in_order():
    inner = MemoryBackend(dirs=False)
    for key in ("a", "a!x", "a-b", "a.b", "a/b", "a0", "b/c", "z/é", "z/😀", "Z"):
        ops.write_bytes(inner, key, b"1", WriteOptions(user_metadata={"k": key[0].lower()}))
    store = Unsorted(inner)
    assert not features_of(store).sorted_list
    assert list(ops.sorted_list(store)) == list(inner.list())
    assert [info.path for info in ops.sorted_list(store, "z")] == ["z/é", "z/😀"]
    assert [info.path for info in ops.sorted_list(store, start_after="a/b")] == ["a0", "b/c", "z/é", "z/😀"]
    assert list(ops.sorted_list(inner)) == list(inner.list()), "a sorted one goes through as it is"


INFOS = st.builds(
    ObjectInfo,
    path=st.text(min_size=1, max_size=5) | st.just("\udcff"),
    size=st.none() | st.integers(0, 1 << 50),
    modified_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    kind=st.sampled_from(["file", "link"]),
    etag=st.none() | st.text(max_size=3),
    hashes=st.none() | st.dictionaries(st.sampled_from(["md5", "sha256"]), st.text("0123456789abcdef", max_size=4)),
    metadata=st.none() | st.dictionaries(st.text("ab", min_size=1), st.text("xy")),
)


@given(
    infos=st.lists(INFOS, max_size=60, unique_by=lambda info: info.path),
    run=st.integers(1, 9),
    fan_in=st.integers(2, 4),
)
def test_however_small_the_runs_everything_comes_out_once_whole_and_in_order(infos, run, fan_in):
    infos = [
        info for info in infos if not any("\ud800" <= c <= "\udbff" or "\udc00" <= c < "\udc80" for c in info.path)
    ]

    class Fixed:
        def list(self, prefix, options):
            return iter(infos)

    assert list(sorted_entries(Fixed(), "", LIST, run=run, fan_in=fan_in)) == sorted(
        infos, key=lambda info: sort_key(info.path)
    )


@pytest.mark.ci_only
def test_a_long_listing_takes_bounded_memory_and_leaves_no_file_open():
    import os

    class Long:
        def list(self, prefix, options):
            for n in range(60_000):
                yield ObjectInfo(f"{n * 7919 % 60_000:06}", n, datetime(2026, 1, 1, tzinfo=UTC))

    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    tracemalloc.start()
    try:
        found, most = 0, 0
        for found, info in enumerate(sorted_entries(Long(), "", ListOptions(), run=1000, fan_in=8), 1):
            assert info.path == f"{found - 1:06}"
            if found == 30_000 and before:
                most = len(os.listdir("/proc/self/fd")) - before
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == 60_000
    assert peak < 12 << 20
    assert most <= 3 * 8
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_an_error_of_the_listing_ends_the_sort_and_leaves_no_file_open():
    class Broken:
        def list(self, prefix, options):
            for n in range(100):
                yield ObjectInfo(str(n))
            raise BackendUnavailable("no")

    with pytest.raises(BackendUnavailable):
        list(sorted_entries(Broken(), "", LIST, run=10, fan_in=4))


class AtHost(Wrapper):
    """A store under the URL of another host."""

    url = property(lambda self: self.own)

    def __init__(self, inner, url):
        super().__init__(inner)
        self.own = url


@pytest.mark.parametrize("path", ["k", "a b/k"])
def test_a_move_between_two_names_of_one_bucket_keeps_the_object(path):
    bucket = MemoryBackend()
    bucket.url = "s3+http://127.0.0.1:1/bucket/"
    alias = AtHost(bucket, "s3+http://localhost:1/bucket/")
    ops.write_bytes(bucket, path, b"the only copy")
    assert ops.move(bucket, path, alias, path).path == path
    assert ops.read_bytes(bucket, path) == b"the only copy"
    assert ops.move(alias, path, bucket, "other").path == "other"
    assert [info.path for info in bucket.list()] == ["other"], "another key of the bucket takes the object"


def test_a_move_between_two_buckets_of_one_name_moves():
    one, other = MemoryBackend(), MemoryBackend()
    one.url, other.url = "s3+http://127.0.0.1:1/bucket/", "s3+http://localhost:1/bucket/"
    ops.write_bytes(one, "k", b"1")
    ops.move(one, "k", other, "k")
    assert ([info.path for info in one.list()], [info.path for info in other.list()]) == ([], ["k"])


@pytest.mark.parametrize("size", [0, 1, 9, 10])
def test_what_fits_is_read_whole(size):
    store = MemoryBackend()
    store.put_raw("x", b"1" * size)
    assert ops.read_at_most(store, "x", 10) == b"1" * size


@pytest.mark.parametrize("size", [11, 5 << 20])
def test_of_what_is_too_long_one_byte_more_is_read(size):
    store = MemoryBackend()
    store.put_raw("x", b"1" * size)
    assert len(ops.read_at_most(store, "x", 10)) == 11
