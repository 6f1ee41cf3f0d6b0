"""Cache: what is kept, when it is believed, and that no entry is another object's."""

import pytest

from omnistorage import (
    BackendUnavailable,
    Cache,
    LocalBackend,
    MemoryBackend,
    NotFound,
    PreconditionFailed,
    StorageError,
    ops,
)
from omnistorage.core import READ, ReadOptions, ResolutionPlan, Resolve
from omnistorage.testing import Full
from omnistorage.testing._kit import payload
from omnistorage.wrappers import CacheStats, Prefix
from omnistorage.wrappers.base import Wrapper
from omnistorage.wrappers.cache.index import entry_name

from ..waiting import LIMIT, until
from .caching import BIG, Gate, Hands, Small, at_once, entries, get, put, setting

# -- what is asked, and what is believed -------------------------------------------------------------------------------


def test_an_open_asks_whether_the_object_is_the_one_that_is_kept_and_reads_that():
    origin, cache, _ = setting()
    put(origin, "x", b"one")
    assert get(cache, "x") == b"one"
    origin.log.clear()
    for _ in range(3):
        assert get(cache, "x") == b"one"
    assert origin.log == ["stat"] * 3
    put(origin.inner, "x", b"two")
    assert get(cache, "x") == b"two"
    assert cache.stats == CacheStats(hits=3, misses=2, bytes=9)


def test_within_the_ttl_nothing_is_asked_and_after_it_everything():
    origin, cache, clock = setting(ttl=10)
    put(origin, "x", b"one")
    get(cache, "x")
    origin.log.clear()
    clock.time += 9.9
    put(origin.inner, "x", b"two")
    assert get(cache, "x") == b"one"
    assert get(cache, "x", 1, 1) == b"n"
    assert origin.log == []
    clock.time += 0.1
    assert get(cache, "x") == b"two"
    clock.time += 100
    origin.inner.delete("x")
    with pytest.raises(NotFound) as caught:
        get(cache, "x")
    assert caught.value.path == "x"


def test_the_ttl_counts_from_before_the_question():
    """However long the answer took to come: what it says was true when it was asked, perhaps not later."""
    origin, cache, clock = setting(ttl=10)
    put(origin, "x", b"one")
    plain = origin.stat

    def slow(path):
        info = plain(path)
        clock.time += 8
        return info

    origin.stat = slow
    get(cache, "x")
    put(origin.inner, "x", b"two")
    clock.time += 2.5
    assert get(cache, "x") == b"two"


def test_the_info_of_what_is_kept_is_the_origins():
    origin, cache, _ = setting()
    from omnistorage.core import WriteOptions

    options = WriteOptions(content_type="text/plain", user_metadata={"k": "v"})
    for size in (10, 5000):
        ops.write_bytes(origin, "f/x", payload(size), options)
        for _ in range(2):
            with cache.open_reader("f/x") as reader:
                assert reader.info == origin.inner.stat("f/x")
                assert reader.read(-1) == payload(size)
            with cache.open_reader("f/x", ReadOptions(5, 3)) as reader:
                assert reader.info == origin.inner.stat("f/x")
    assert cache.stats.hits == 6


def test_an_object_that_changes_between_the_question_and_the_fetch_is_not_kept_as_the_old_one():
    for size in (10, 5000):
        origin, cache, _ = setting()
        old, new = payload(size, "old"), payload(size, "new")
        put(origin, "x", old)
        plain = origin.stat

        def then(path, plain=plain, origin=origin, new=new):
            info = plain(path)
            put(origin.inner, "x", new)
            return info

        origin.stat = then
        assert get(cache, "x") == new
        origin.stat = plain
        assert get(cache, "x") == new
        assert get(cache, "x", 1, 5) == new[1:6]


def test_what_was_small_and_has_grown_is_read_all_the_same():
    origin, cache, _ = setting()
    put(origin, "x", b"small")
    plain = origin.stat
    origin.stat = lambda path: plain(path)._replace(size=5)
    put(origin.inner, "x", payload(BIG))
    assert get(cache, "x") == payload(BIG)
    assert entries(cache.into) == []


class NoEtags(Wrapper):
    """A store without etags, whose plans may have fingerprints."""

    fingerprint = None

    def _forward(self, op, path, run):
        answer = run(path)
        return answer._replace(etag=None) if op == "stat" else answer

    def _reader(self, reader, path):
        reader._info = reader._info._replace(etag=None)
        return reader

    def power_of(self, kind):
        return self if kind is Resolve else super().power_of(kind)

    def resolve(self, key):
        return ResolutionPlan("sql_query", "sql", key, {}, self.fingerprint)


def test_an_object_without_etag_or_fingerprint_is_never_kept():
    origin = NoEtags(MemoryBackend())
    cache = Small(origin, MemoryBackend(), ttl=100, clock=Hands())
    for size in (10, 5000):
        put(origin, "x", payload(size, "1"))
        assert get(cache, "x") == payload(size, "1")
        put(origin.inner, "x", payload(size, "2"))  # of the same size, and perhaps at the same time
        assert get(cache, "x") == payload(size, "2")
        assert get(cache, "x", 1, 2) == payload(size, "2")[1:3]
    assert entries(cache.into) == []
    assert cache.stats == CacheStats()


@pytest.mark.parametrize("size", [10, 5000])
def test_an_object_without_etag_is_believed_by_its_fingerprint(size):
    origin = NoEtags(MemoryBackend())
    origin.fingerprint = "a"
    cache = Small(origin, MemoryBackend())
    old, new = payload(size, "1"), payload(size, "2")
    put(origin.inner, "x", old)
    assert get(cache, "x") == get(cache, "x") == old
    assert cache.stats.hits == 1
    put(origin.inner, "x", new)
    assert get(cache, "x") == old, "the fingerprint says that nothing changed"
    origin.fingerprint = "b"
    assert get(cache, "x") == new
    put(origin.inner, "x", old)
    assert get(Small(origin, cache.into), "x") == old, "memory is another place to another cache"
    for again in (cache.invalidate, cache.refresh):
        put(origin.inner, "x", data := payload(size, again.__name__))
        again("x")
        assert get(cache, "x") == data
    put(cache, "x", payload(size, "3"))
    assert get(cache, "x") == payload(size, "3"), "a write through the cache invalidates, whatever the fingerprint says"
    twin = Small(origin, cache.into)
    twin._known._token = cache._known._token  # another process, to which the origin's url means the same
    put(origin.inner, "x", payload(size, "4"))
    twin.invalidate("x")
    assert get(twin, "x") == payload(size, "4"), "an entry that this cache never met"


@pytest.mark.parametrize("size", [10, 5000])
def test_a_fetch_that_was_invalidated_meanwhile_leaves_no_entry_under_a_fingerprint(size):
    origin = NoEtags(MemoryBackend())
    origin.fingerprint = "a"
    cache = Small(origin, MemoryBackend())
    put(origin.inner, "x", payload(size, "old"))
    plain = origin.open_reader

    def then(path, options=READ):
        reader = plain(path, options)
        put(origin.inner, "x", payload(size, "new"))
        cache.invalidate("x")
        return reader

    origin.open_reader = then
    assert get(cache, "x") == payload(size, "old")
    origin.open_reader = plain
    assert get(cache, "x") == payload(size, "new")


def test_conditions_and_versions_are_asked_of_the_origin():
    origin, cache, _ = setting(ttl=100)
    etag = put(origin, "x", b"one").etag
    get(cache, "x")
    origin.log.clear()
    assert ops.read_bytes(cache, "x", ReadOptions(if_match=etag)) == b"one"
    assert origin.log[0] == "open_reader"
    put(origin.inner, "x", b"two")
    with pytest.raises(PreconditionFailed):
        cache.open_reader("x", ReadOptions(if_match=etag))
    assert ops.read_bytes(cache, "x", ReadOptions(if_none_match=etag)) == b"two"
    with pytest.raises(StorageError):
        cache.open_reader("x", ReadOptions(version="v"))


def test_nothing_else_is_cached():
    origin, cache, _ = setting(ttl=100)
    put(origin, "x", b"one")
    get(cache, "x")
    put(origin.inner, "x", b"three")
    put(origin.inner, "y")
    assert cache.stat("x").size == 5
    assert [info.size for info in cache.list()] == [5, 4]
    assert cache.exists("y")
    assert cache.read_ranges("x", [(1, 2)]) == [b"hr"]
    assert cache.features.lazy_read is False


# -- names: no entry is another object's -------------------------------------------------------------------------------


def test_rs_7_1_1_a_cache_never_serves_one_folders_bytes_for_another(tmp_path):
    store, into = MemoryBackend(), LocalBackend(tmp_path)
    put(store, "f.txt", b"root")
    put(store, "a/f.txt", b"in a")
    put(store, "b/f.txt", b"in b")
    whole = Cache(store, into, ttl=100)
    for _ in range(2):
        assert get(whole, "f.txt") == b"root"
        assert get(Prefix(whole, "a"), "f.txt") == b"in a"
        assert get(Prefix(whole, "b"), "f.txt") == b"in b"


def test_two_prefixes_over_one_place_never_mix(tmp_path):
    """The files have the same name, the same size and the same etag."""

    class SameEtags(Wrapper):
        def _forward(self, op, path, run):
            answer = run(path)
            return answer._replace(etag="same") if op == "stat" else answer

        def _reader(self, reader, path):
            reader._info = reader._info._replace(etag="same")
            return reader

    (tmp_path / "into").mkdir()
    (tmp_path / "data").mkdir()
    store, into = SameEtags(LocalBackend(tmp_path / "data")), LocalBackend(tmp_path / "into")
    put(store, "a/f", b"in a")
    put(store, "b/f", b"in b")
    put(store, "f", b"root")
    caches = {
        b"in a": Cache(Prefix(store, "a"), into),
        b"in b": Cache(Prefix(store, "b"), into),
        b"root": Cache(store, into),
    }
    for _ in range(2):
        for content, cache in caches.items():
            assert get(cache, "f") == content
    assert get(caches[b"root"], "a/f") == b"in a"
    assert len(entries(into)) == 4


@pytest.mark.parametrize("url", [None, "memory://1/", "memory://1/some/folder/", "encrypt-0123+memory://1/", "channel://1/",
                                 "sqlite:///:memory:#omnistorage_objects/"])  # fmt: skip
def test_what_is_of_this_process_only_never_meets_entries_of_another(url):
    into = MemoryBackend()
    for content in (b"one", b"two"):
        store = MemoryBackend()
        store.url = url
        put(store, "x", content)
        assert get(Cache(store, into), "x") == content, "both have etag 1"


def test_one_place_by_its_url_is_served_to_all(tmp_path):
    (tmp_path / "into").mkdir()
    put(LocalBackend(tmp_path), "x", b"one")
    caches = [Cache(LocalBackend(tmp_path), LocalBackend(tmp_path / "into")) for _ in range(2)]
    assert get(caches[0], "x") == get(caches[1], "x") == b"one"
    assert [cache.stats.hits for cache in caches] == [0, 1]


def test_no_two_lists_of_parts_have_the_same_name():
    names = {entry_name(*parts) for parts in (("a", "b"), ("ab",), ("a", "b", ""), ("", "ab"), ("b", "a"), ("\udcff",))}
    assert len(names) == 6


# -- one fetch for many ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("into", [MemoryBackend, lambda: Full(MemoryBackend(), capacity=0)], ids=["kept", "full"])
def test_many_threads_that_want_the_same_fetch_it_once(into):
    origin = Gate(MemoryBackend())
    cache = Cache(origin, into())
    put(origin.inner, "x", payload(BIG))
    threads, came = at_once(lambda: get(cache, "x"))
    until(lambda: origin.log.count("open_reader") == 1 and waiting(cache) == 7)
    origin.gate.set()
    for thread in threads:
        thread.join(LIMIT)
    assert came == [payload(BIG)] * 8
    assert origin.log.count("open_reader") == 1
    assert (cache.stats.misses, cache.stats.hits) == (1, 7)


def waiting(cache):
    return sum(len(flight.waiters) for flight in list(cache._flights._flights.values()))


def test_when_a_fetch_fails_the_next_one_tries():
    origin = Gate(MemoryBackend())
    origin.fails = 2
    cache = Cache(origin, MemoryBackend())
    put(origin.inner, "x", payload(BIG))
    threads, came = at_once(lambda: get(cache, "x"))
    until(lambda: waiting(cache) == 7)
    origin.gate.set()
    for thread in threads:
        thread.join(LIMIT)
    assert sum(isinstance(one, BackendUnavailable) for one in came) == 2
    assert came.count(payload(BIG)) == 6
    assert origin.log.count("open_reader") == 3
    assert cache._flights._flights == {}


def test_who_waits_for_a_fetch_heeds_its_deadline():
    from omnistorage.concurrency.cancellation import deadline
    from omnistorage.errors import DeadlineExceeded

    origin = Gate(MemoryBackend())
    cache = Cache(origin, MemoryBackend())
    put(origin.inner, "x", payload(BIG))
    threads, came = at_once(lambda: get(cache, "x"), 1)
    until(lambda: origin.log.count("open_reader") == 1)
    with deadline(0.01), pytest.raises(DeadlineExceeded):
        get(cache, "x")
    origin.gate.set()
    threads[0].join(LIMIT)
    assert came == [payload(BIG)]


def test_who_waited_for_the_fetch_of_another_state_gets_its_own():
    """It asked after the object had changed; the fetch it waited for began before, and got something else again."""
    origin = Gate(MemoryBackend())
    cache = Cache(origin, MemoryBackend())
    put(origin.inner, "x", b"one")
    threads, came = at_once(lambda: get(cache, "x"), 2)
    until(lambda: waiting(cache) == 1)
    put(origin.inner, "x", b"two")
    origin.gate.set()
    for thread in threads:
        thread.join(LIMIT)
    assert came == [b"two", b"two"]
    assert origin.log.count("stat") == 3, "the second asked again"
