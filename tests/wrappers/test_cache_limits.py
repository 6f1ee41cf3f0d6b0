"""Cache: that nothing that happens to it reaches a reader, how much it keeps, and the wrapper itself."""

import gc
import pickle
import threading
import warnings
from dataclasses import FrozenInstanceError, fields

import pytest

from omnistorage import (
    BackendUnavailable,
    Cache,
    ChannelBackend,
    ConfigError,
    CorruptData,
    LocalBackend,
    MemoryBackend,
    StorageError,
)
from omnistorage.core import CopyOptions, ReadOptions
from omnistorage.testing import Faulty, Full
from omnistorage.testing._kit import payload
from omnistorage.wrappers import CacheStats, Prefix
from omnistorage.wrappers.base import Wrapper
from omnistorage.wrappers.cache.index import RELIST, Index

from ..budget import pick
from ..waiting import LIMIT, until
from .caching import BIG, Fails, Gate, Small, at_once, entries, get, kept, put, setting

# -- what into does ----------------------------------------------------------------------------------------------------


CALLS = "open_writer write close open_reader read delete list"


@pytest.mark.parametrize("size", [10, BIG])
@pytest.mark.parametrize("ops_", ["open_writer", "write", "close", "open_reader", "read", "delete", "list", CALLS])
def test_no_failure_of_into_reaches_a_reader(ops_, size):
    into = Fails(MemoryBackend())
    origin, cache, _ = setting(into=into, max_entries=1)
    for warm in (False, True):
        into.ops = frozenset()
        for name in "xy":
            put(origin.inner, name, payload(size, name))
            if warm:
                get(cache, name)
        into.ops = frozenset(ops_.split())
        for _ in range(2):
            for name in "xy":
                with cache.open_reader(name) as reader:
                    assert b"".join(iter(lambda: reader.read(7000), b"")) == payload(size, name)
                assert get(cache, name, 3, 5) == payload(size, name)[3:8]
        put(cache, "x", b"changed")
        assert get(cache, "x") == b"changed"
    assert cache.stats.errors > 0


def test_a_full_disk_keeps_nothing_and_harms_nobody():
    into = Full(MemoryBackend(), capacity=6000)
    origin, cache, _ = setting(into=into)
    for n in range(3):
        put(origin, f"{n}", payload(5000, f"{n}"))
        assert get(cache, f"{n}") == payload(5000, f"{n}")
    assert len(entries(into)) == 1
    assert cache.stats.errors == 2


@pytest.mark.parametrize("size", [900, BIG])
@pytest.mark.parametrize("at", [0, 1, 200])
@pytest.mark.parametrize("block", [50, -1])
def test_an_entry_that_breaks_while_it_is_read_is_continued_at_the_origin(size, at, block):
    class Stops(Faulty):
        fails = False

        def _before(self, op, number):
            if self.fails and op == "read" and self.log.count("read") > self.after:
                raise BackendUnavailable("gone")

    into = Stops(MemoryBackend())
    origin, cache, _ = setting(into=into)
    cache.small = 100
    put(origin, "x", payload(size))
    get(cache, "x")
    into.log.clear()
    into.fails, into.after = True, 1 if at else 0
    with cache.open_reader("x") as reader:
        got = reader.read(at) if at else b""
        got += reader.read(-1) if block < 0 else b"".join(iter(lambda: reader.read(block), b""))
        assert got == payload(size)
        assert reader.read(10) == b""
    into.log.clear()
    with cache.open_reader("x", ReadOptions(100, 300)) as reader:
        assert reader.read(at) + reader.read(-1) == payload(size)[100:400]
    assert cache.stats.errors == 2
    assert len(entries(into)) == 1, "it may be away for a while"


def test_a_reader_of_a_small_entry_needs_neither_into_nor_the_origin():
    into = Fails(MemoryBackend())
    origin, cache, _ = setting(into=into)
    put(origin, "x", payload(900))
    put(origin, "big", payload(BIG))
    for name in ("x", "big"):
        get(cache, name)
    readers = [
        cache.open_reader("x"),
        cache.open_reader("x", ReadOptions(10, 5)),
        cache.open_reader("big", ReadOptions(7, 900)),
    ]
    into.ops = frozenset({"read", "open_reader"})
    put(origin.inner, "x", b"changed")
    put(origin.inner, "big", b"changed")
    assert [reader.read(-1) for reader in readers] == [payload(900), payload(900)[10:15], payload(BIG)[7:907]]
    assert cache.stats == CacheStats(hits=3, misses=2, bytes=900 + 5 + 900)


def test_a_broken_entry_is_never_continued_in_another_state_of_the_object():
    into = Fails(MemoryBackend())
    origin, cache, _ = setting(into=into)
    for conditions in (True, False):
        put(origin, "x", payload(BIG))
        get(cache, "x")
        with cache.open_reader("x") as reader:
            reader.read(10)
            into.ops = frozenset({"read"})
            put(origin.inner, "x", payload(BIG, "new"))
            for _ in range(2):
                with pytest.raises(CorruptData, match="changed while it was read") as caught:
                    reader.read(10)
                assert caught.value.path == "x"
                origin.inner.delete("x")
        into.ops = frozenset()
        if conditions:
            from dataclasses import replace

            origin.features = cache.features = replace(cache.features, if_match=False, range_read=False)


def test_a_cut_off_entry_is_a_miss_and_removed():
    for size in (10, 5000):
        origin, cache, _ = setting()
        put(origin, "x", payload(size))
        get(cache, "x")
        (name,) = entries(cache.into)
        for wrong in (payload(size)[:-1], payload(size) + b"x", b""):
            cache.into.put_raw(name, wrong)
            assert get(cache, "x", 2, 3) == payload(size)[2:5]
            cache.into.put_raw(name, wrong)
            assert get(cache, "x") == payload(size)
            assert cache.into.peek(name) == payload(size), "and there is a good one again"
        assert cache.stats.errors == 6


def test_an_entry_that_was_cut_off_in_a_store_that_says_no_sizes_is_noticed_while_it_is_read():
    class Unsized(Wrapper):
        def _reader(self, reader, path):
            reader._info = reader._info._replace(size=None)
            return reader

    into = Unsized(MemoryBackend())
    origin, cache, _ = setting(into=into)
    put(origin, "x", payload(5000))
    for wrong in (payload(4000), payload(6000), b""):
        for block in (700, -1):
            get(cache, "x")
            (name,) = entries(into)
            into.inner.put_raw(name, wrong)
            with cache.open_reader("x") as reader:
                got = reader.read(-1) if block < 0 else b"".join(iter(lambda: reader.read(700), b""))
            assert got == payload(5000)
            assert entries(into) == []


def test_an_entry_that_is_removed_while_it_is_read_is_read_on(tmp_path):
    origin, cache, _ = setting(into=LocalBackend(tmp_path))
    put(origin, "x", payload(BIG))
    get(cache, "x")
    with cache.open_reader("x") as reader:
        head = reader.read(10)
        for name in entries(cache.into):
            cache.into.delete(name)
        assert head + reader.read(-1) == payload(BIG)


def test_a_reader_of_an_entry_can_be_closed_while_it_is_read():
    from omnistorage.errors import ReaderClosed

    origin, cache, _ = setting()
    for size in (10, 5000):
        put(origin, "x", payload(size))
        for _ in range(2):
            reader = cache.open_reader("x")
            reader.read(3)
            thread = threading.Thread(target=reader.close)
            thread.start()
            thread.join()
            with pytest.raises(ReaderClosed):
                reader.read(3)
    assert cache.stats.errors == 0


# -- limits ------------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first():
    origin, cache, _ = setting(max_entries=3)
    for name in "abc":
        put(origin, name)
        get(cache, name)
    get(cache, "a")
    put(origin, "d")
    get(cache, "d")
    assert len(entries(cache.into)) == 3
    assert kept(cache, origin, "abcd") == ["a", "c", "d"]
    assert cache.stats.evictions == 1


def test_bytes_are_bounded_and_what_does_not_fit_at_all_is_not_kept():
    origin, cache, _ = setting(max_bytes=2500)
    for name, size in (("a", 900), ("b", 900), ("c", 600), ("d", 1000), ("e", 2501), ("f", 2500)):
        put(origin, name, payload(size))
        assert get(cache, name) == payload(size)
        assert sum(info.size for info in cache.into.list()) <= 2500
        if name == "c":
            assert len(entries(cache.into)) == 3
        if name == "e":
            assert kept(cache, origin, "abcde") == ["b", "c", "d"]
    assert kept(cache, origin, "abcdef") == ["f"]
    assert cache.stats.evictions == 4
    origin, cache, _ = setting(max_entries=0)
    put(origin, "a")
    assert get(cache, "a") == get(cache, "a") == b"data"
    assert entries(cache.into) == []


def test_an_object_of_unknown_size_that_grows_too_large_is_given_up_on_the_way():
    class Unsized(Faulty):
        def stat(self, path):
            return super().stat(path)._replace(size=None)

        def _reader(self, reader, path):
            reader._info = reader._info._replace(size=None)
            return super()._reader(reader, path)

    cache = Cache(Unsized(MemoryBackend()), MemoryBackend(), max_bytes=2500)
    put(cache.inner, "x", payload(5000))
    with cache.open_reader("x") as reader:
        assert b"".join(iter(lambda: reader.read(1000), b"")) == payload(5000)
    assert entries(cache.into) == []
    assert cache.stats.errors == 0


def test_what_is_there_already_counts_oldest_first_and_strangers_are_left_alone(tmp_path):
    import os

    into = LocalBackend(tmp_path)
    put(into, "notes.txt", b"x" * 10_000)
    put(into, "ab/cd", b"x" * 10_000)
    origin, before, _ = setting(into=into)
    for n, name in enumerate("abcd"):
        put(origin, name, b"x" * 100)
        get(before, name)
        (new,) = [path for path in entries(into) if len(path) == 67 and os.stat(tmp_path / path).st_mtime > 1e9]
        os.utime(tmp_path / new, (n, n))
    after = Small(origin, into, max_bytes=300)
    after._known._token = before._known._token
    put(origin, "e", b"x" * 100)
    get(after, "e")
    assert kept(after, origin, "abcde") == ["c", "d", "e"]
    assert [path for path in entries(into) if len(path) != 67] == ["ab/cd", "notes.txt"]


def test_two_caches_share_one_folder_and_its_limit(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "into").mkdir()
    store = LocalBackend(tmp_path / "data")
    one, two = (Cache(store, LocalBackend(tmp_path / "into"), max_entries=20) for _ in range(2))
    count = pick(default=60, ci=300, soak=300)
    for n in range(count):
        put(store, f"{n}", payload(100, f"{n}"))
        for cache in (one, two):
            assert get(cache, f"{n}") == payload(100, f"{n}")
    assert two.stats.hits == count, "what one fetched serves the other"
    assert len(entries(one.into)) <= 20
    for n in range(count, 2 * count):
        put(store, f"{n}", payload(100, f"{n}"))
        assert get((one, two)[n % 2], f"{n}") == payload(100, f"{n}")
        assert len(entries(one.into)) <= 20 + RELIST
    for n in range(2 * count):
        assert get(two, f"{n}") == payload(100, f"{n}")


def test_threads_of_two_caches_over_one_folder_read_right(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "into").mkdir()
    store = LocalBackend(tmp_path / "data")
    caches = [Small(store, LocalBackend(tmp_path / "into"), max_entries=3) for _ in range(2)]
    contents = {f"{n}": payload(300 * n, f"{n}") for n in range(8)}
    for name, data in contents.items():
        put(store, name, data)

    def run():
        for n in range(40):
            name = f"{(n * 7 + threading.get_ident()) % 8}"
            if get(caches[n % 2], name) != contents[name]:
                return name
        return None

    threads, came = at_once(run, 6)
    for thread in threads:
        thread.join(LIMIT)
    assert came == [None] * 6


def test_an_index_without_limits_asks_nothing():
    class Silent:
        def list(self):
            raise AssertionError

    index = Index(Silent(), None, None)
    assert index.add("a", 5) == []
    assert index.holds(1 << 60)


# -- the wrapper itself ------------------------------------------------------------------------------------------------


def test_closing_closes_the_origin_and_leaves_into_open():
    origin, cache, _ = setting(ttl=100)
    put(origin, "x")
    get(cache, "x")
    reader = cache.open_reader("x")
    put(origin, "big", payload(BIG))
    dropped = cache.open_reader("big")
    dropped.read(10)
    del dropped
    gc.collect()
    cache.close()
    cache.close()
    assert not cache._shelf.orphans
    assert reader.read() == b"data"
    with pytest.raises(StorageError, match="closed"):
        cache.open_reader("x")
    assert len(entries(cache.into)) == 1


def test_the_statistics_are_a_value():
    cache = Cache(MemoryBackend(), MemoryBackend())
    before = cache.stats
    with pytest.raises(FrozenInstanceError):
        before.hits = 5
    put(cache, "x")
    get(cache, "x")
    assert before == CacheStats(0, 0, 0, 0, 0)
    assert [field.name for field in fields(cache.stats)] == ["hits", "misses", "bytes", "errors", "evictions"]


def test_it_pickles_where_both_do_and_counts_anew(tmp_path):
    (tmp_path / "into").mkdir()
    cache = Cache(LocalBackend(tmp_path), LocalBackend(tmp_path / "into"), ttl=5, max_entries=7, max_bytes=100)
    put(cache, "x")
    get(cache, "x")
    twin = pickle.loads(pickle.dumps(cache))
    assert (twin.ttl, twin.max_entries, twin.max_bytes, twin.stats) == (5, 7, 100, CacheStats())
    assert get(twin, "x") == b"data"
    assert twin.stats.hits == 1
    with pytest.raises(ConfigError):
        pickle.dumps(Cache(LocalBackend(tmp_path), MemoryBackend()))


def test_what_cannot_work_is_refused_at_once(tmp_path):
    store = MemoryBackend()
    for options in ({"ttl": -1}, {"ttl": float("nan")}, {"max_bytes": -1}, {"max_entries": -5}, {"ttl": "5"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Cache(store, MemoryBackend(), **options)
    with pytest.raises(ConfigError, match="in itself"):
        Cache(store, store)
    with pytest.raises(ConfigError, match="in itself"):
        Cache(LocalBackend(tmp_path), LocalBackend(tmp_path))
    with pytest.raises(ConfigError, match="halves"):
        Cache(store, ChannelBackend())
    Cache(store, Prefix(store, "cache"))


def test_a_forked_child_waits_for_no_thread_of_its_parents():
    import os

    origin = Gate(MemoryBackend())
    cache = Cache(origin, MemoryBackend())
    put(origin.inner, "x", b"data")
    threads, came = at_once(lambda: get(cache, "x"), 1)
    until(lambda: len(cache._flights._flights) == 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        verdict = 1
        try:
            origin.gate = threading.Event()
            origin.gate.set()
            verdict = int(get(cache, "x") != b"data")
        finally:
            os._exit(verdict)
    assert os.waitpid(child, 0)[1] == 0
    origin.gate.set()
    threads[0].join(LIMIT)
    assert came == [b"data"]


def test_a_copy_from_elsewhere_invalidates_its_target():
    origin, cache, _ = setting(ttl=100)
    other = MemoryBackend()
    put(other, "x", b"other")
    put(origin, "x", b"old")
    get(cache, "x")
    cache.inner = origin
    origin.inner.copy("x", "x", CopyOptions(source=other))
    assert get(cache, "x") == b"old", "behind its back, within the ttl"
    cache._extended = origin.inner
    cache.copy("x", "x", CopyOptions(source=other))
    assert get(cache, "x") == b"other"
