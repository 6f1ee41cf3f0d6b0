"""One bucket under two host names: a mirror would count one copy as two."""

import pytest

from omnistorage import ConfigError, MemoryBackend, MultiBackend, S3Backend, Target
from omnistorage.multi.common.scheduler import Crew
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.wrappers import Prefix

from ..backends import test_s3
from .mirrors import Once
from .places import Switch
from .test_multi_roots import CHANGES

HERE, THERE = "s3+http://127.0.0.1:1/bucket/", "s3+http://localhost:1/bucket/"


class Named(Switch):
    """A store under another URL."""

    url = property(lambda self: self.own)


def at(url, inner=None):
    switch = Switch(inner)
    switch.inner.url = url
    return switch


def two_names(bucket):
    bucket.url = HERE
    alias = Named(bucket)
    alias.own = THERE
    return bucket, alias


def marks(*places):
    return [info.path for place in places for info in place.inner.list()]


def mirror(*places, **options):
    return MultiBackend([Target(f"t{n}", place) for n, place in enumerate(places)], **options)


@pytest.mark.parametrize("change", sorted(set(CHANGES) - {"purge", "delete_many"}))
def test_two_names_of_one_bucket_take_no_change(change):
    bucket = MemoryBackend(dirs=True)
    for path in ("k", "gone", "moved", "marked"):
        write_bytes(bucket, path, b"old")
    bucket.mkdir("empty")
    multi = mirror(*two_names(bucket))
    with pytest.raises(ConfigError, match="t0"):
        CHANGES[change](multi)
    assert sorted(info.path for info in bucket.list()) == ["gone", "k", "marked", "moved"]
    assert read_bytes(multi, "k") == b"old"


@pytest.mark.parametrize("outer_first", [True, False])
def test_a_folder_of_a_bucket_under_another_name_takes_no_change(outer_first):
    bucket, alias = two_names(MemoryBackend())
    places = [bucket, Prefix(alias, "a b/c")]
    with pytest.raises(ConfigError):
        write_bytes(mirror(*(places if outer_first else places[::-1])), "k", b"1")
    assert list(bucket.list()) == []


def test_a_journal_in_a_target_under_another_name_takes_no_change():
    bucket, alias = two_names(MemoryBackend())
    multi = mirror(bucket, MemoryBackend(), journal=Prefix(alias, "journal"))
    with pytest.raises(ConfigError, match="the journal"):
        write_bytes(multi, "k", b"1")
    assert list(bucket.list()) == []


def test_two_buckets_of_one_name_are_asked_once_and_keep_no_mark():
    places = [at(HERE), at(THERE)]
    multi = mirror(*places)
    write_bytes(multi, "k", b"1")
    before = [place.calls for place in places]
    write_bytes(multi, "k", b"2")
    write_bytes(mirror(at(HERE), MemoryBackend()), "k", b"1")  # names that differ are not asked at all
    each = [place.calls - count for place, count in zip(places, before, strict=True)]
    assert max(each) < min(before)
    assert marks(*places) == ["k", "k"]


def test_a_store_that_is_down_is_asked_again_later_and_holds_up_no_change():
    late = False
    places = [at(HERE), at(THERE), MemoryBackend()]
    crew = Crew()
    crew.clock = Once(lambda: late)
    multi = mirror(*places, mode="quorum", journal=MemoryBackend(), _crew=crew)
    places[1].down = True
    write_bytes(multi, "k", b"1")
    refused = places[1].refused
    write_bytes(multi, "k", b"2")
    assert places[1].refused - refused < refused  # the write alone
    places[1].down, late = False, True
    write_bytes(multi, "k", b"3")
    assert not multi.buckets._due
    assert marks(*places[:2]) == ["k", "k"]


def test_a_bucket_of_a_real_server_under_two_host_names():
    store = test_s3.fresh("seaweedfs")
    endpoint = store._options["endpoint_url"].replace("127.0.0.1", "localhost")
    alias = S3Backend(**{**store._options, "endpoint_url": endpoint})
    with pytest.raises(ConfigError):
        write_bytes(mirror(store, alias), "k", b"1")
    assert list(store.list()) == []
