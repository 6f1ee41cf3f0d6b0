"""Cache: what is kept, when it is believed, and that nothing that happens to it reaches a reader."""

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
    NotFound,
    PreconditionFailed,
    StorageError,
    ops,
)
from omnistorage.core import READ, CopyOptions, ReadOptions, ResolutionPlan, Resolve
from omnistorage.policies import Clock
from omnistorage.testing import BasicBackend, Faulty, Full
from omnistorage.testing._kit import payload
from omnistorage.wrappers import CacheStats, Prefix
from omnistorage.wrappers._base import Wrapper
from omnistorage.wrappers._cache_index import RELIST, Index, entry_name

BIG = 100_000


class Hands(Clock):
    """Moved by hand."""

    time = 1000.0

    def now(self):
        return self.time


class Small(Cache):
    """Takes a thousand bytes for large, so that tests need not."""

    small = 1000


def put(backend, path, data=b"data"):
    return ops.write_bytes(backend, path, data)


def get(backend, path, offset=0, length=None):
    return ops.read_bytes(backend, path, ReadOptions(offset, length))


def entries(into):
    return sorted(info.path for info in into.list())


def setting(ttl=0.0, into=None, kind=Small, **more):
    """An origin that notes its calls, and a cache of it."""
    origin = Faulty(MemoryBackend())
    clock = Hands()
    return origin, kind(origin, MemoryBackend() if into is None else into, ttl=ttl, clock=clock, **more), clock


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


# -- changes through the cache -----------------------------------------------------------------------------------------

CHANGES = {
    "write": lambda c: put(c, "d/x", b"new"),
    "write, closed by hand": lambda c: write_by_hand(c, "d/x"),
    "append": lambda c: ops_append(c, "d/x"),
    "delete": lambda c: c.delete("d/x"),
    "copy": lambda c: c.copy("other", "d/x"),
    "move onto": lambda c: c.move("other", "d/x"),
    "move away": lambda c: c.move("d/x", "y"),
    "purge": lambda c: c.purge("d"),
    "set_metadata": lambda c: c.set_metadata("d/x", user_metadata={"k": "v"}),
    "delete_many": lambda c: list(c.delete_many(["a", "d/x"])),
    "delete_many, left early": lambda c: next(c.delete_many(["d/x", "a"])),
}


def write_by_hand(cache, path):
    writer = cache.open_writer(path)
    writer.write(b"new")
    assert get(cache, path) == b"old", "which is remembered now"
    writer.close()


def ops_append(cache, path):
    with cache.open_appender(path) as writer:
        writer.write(b"+")


class Bulk(Faulty):
    """Deletes many at once, before it answers for the first."""

    def power_of(self, kind):
        from omnistorage import BulkDelete

        return self if kind is BulkDelete else super().power_of(kind)

    def delete_many(self, paths):
        paths = list(paths)
        for path in paths:
            self.inner.delete(path)
        return ((path, None) for path in paths[::-1])


def state(backend):
    try:
        with backend.open_reader("d/x") as reader:
            return reader.read(-1), reader.info
    except NotFound:
        return None


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_through_the_cache_is_seen_at_once(change):
    origin = Bulk(MemoryBackend())
    cache = Cache(origin, MemoryBackend(), ttl=100, clock=Hands())
    put(origin, "d/x", b"old")
    put(origin, "other", b"other")
    before = state(cache)
    assert before[0] == b"old"
    CHANGES[change](cache)
    assert state(origin.inner) != before
    assert state(cache) == state(origin.inner)


@pytest.mark.parametrize("change", [name for name in CHANGES if not name.startswith("delete_many")])
def test_rs_7_2_a_change_that_failed_invalidates_too(change):
    """It happened, and the answer was lost."""

    class Lost(Bulk):
        lost = False

        def _call(self, op, run):
            answer = super()._call(op, run)
            if self.lost and op in ("close", "delete", "copy", "move", "purge", "set_metadata"):
                raise BackendUnavailable("the answer was lost")
            return answer

    origin = Lost(MemoryBackend())
    cache = Cache(origin, MemoryBackend(), ttl=100, clock=Hands())
    put(origin, "d/x", b"old")
    put(origin, "other", b"other")
    before = state(cache)
    origin.lost = True
    with pytest.raises(BackendUnavailable):
        CHANGES[change](cache)
    origin.lost = False
    assert state(origin.inner) != before
    assert state(cache) == state(origin.inner)


@pytest.mark.parametrize("ends", ["abort", "fails", "dropped with an exception"])
def test_rs_7_2_a_failed_overwrite_that_truncated_the_target_is_seen(ends):
    """A store without atomic writes: the old content is gone once the writer is open."""

    class Truncates(Faulty):
        def __init__(self, inner):
            super().__init__(inner)
            from dataclasses import replace

            self.features = replace(self.features, atomic_write=False)

        def _writer(self, writer, path):
            put(self.inner, path, b"")
            return super()._writer(writer, path)

        def _before(self, op, number):
            if op == "write":
                put(self.inner, "d/x", b"half")
                if ends == "fails":
                    raise StorageError("disk full")

    origin = Truncates(MemoryBackend())
    cache = Cache(origin, MemoryBackend(), ttl=100, clock=Hands())
    put(origin.inner, "d/x", b"old")
    assert get(cache, "d/x") == b"old"
    writer = cache.open_writer("d/x")
    assert get(cache, "d/x") == b""
    if ends == "abort":
        writer.write(b"x")
        assert get(cache, "d/x") == b"half"
        writer.abort()
    elif ends == "fails":
        with pytest.raises(StorageError, match="disk full"):
            writer.write(b"x")
        assert get(cache, "d/x") == b"half"
        writer.abort()
    else:
        with pytest.raises(KeyError), writer:
            writer.write(b"x")
            raise KeyError
    assert get(cache, "d/x") == b"half"


@pytest.mark.parametrize("how", ["write", "invalidate", "invalidate a folder", "delete", "purge"])
def test_rs_7_2_a_read_that_began_before_an_invalidation_puts_nothing_in_after_it(how):
    origin, cache, clock = setting(ttl=100)
    put(origin, "d/x", b"old")
    get(cache, "d/x")
    clock.time += 200
    plain = origin.stat
    changes = {
        "write": lambda: put(cache, "d/x", b"new"),
        "invalidate": lambda: (put(origin.inner, "d/x", b"new"), cache.invalidate("d/x")),
        "invalidate a folder": lambda: (put(origin.inner, "d/x", b"new"), cache.invalidate("d")),
        "delete": lambda: cache.delete("d/x"),
        "purge": lambda: cache.purge("d"),
    }

    def meanwhile(path):
        info = plain(path)
        origin.stat = plain
        changes[how]()
        return info

    origin.stat = meanwhile
    state(cache)
    assert state(cache) == state(origin.inner)


def test_an_answer_that_was_overtaken_is_not_remembered():
    """Two ask; the one who asked first hears last."""
    origin, cache, clock = setting(ttl=100)
    put(origin, "x", b"old")
    plain = origin.stat

    def overtaken(path):
        info = plain(path)
        origin.stat = plain
        put(origin.inner, "x", b"new")
        clock.time += 1
        assert get(cache, "x") == b"new"
        return info

    origin.stat = overtaken
    get(cache, "x")
    assert get(cache, "x") == b"new"


def test_invalidate_forgets_a_path_or_a_folder_and_removes_what_was_kept():
    origin, cache, _ = setting(ttl=100)
    paths = ["d/x", "d/e/y", "da/z", "d"]
    origin.inner._dirs_on = False
    for path in paths:
        put(origin.inner, path, b"old")
        get(cache, path)
        put(origin.inner, path, b"new")
    assert len(entries(cache.into)) == 4
    cache.invalidate("d")
    assert len(entries(cache.into)) == 1
    assert [get(cache, path) for path in paths] == [b"new"] * 4
    cache.invalidate()
    assert entries(cache.into) == []


def test_refresh_fetches_anew_and_keeps_that():
    for size in (10, 5000):
        origin, cache, _ = setting(ttl=100)
        put(origin, "x", payload(size))
        get(cache, "x")
        assert cache.refresh("x") == origin.inner.stat("x")
        assert cache.stats.misses == 2
        put(origin.inner, "x", payload(size, "new"))
        assert cache.refresh("x") == origin.inner.stat("x")
        origin.log.clear()
        assert get(cache, "x") == payload(size, "new")
        assert origin.log == []
    with pytest.raises(NotFound):
        cache.refresh("nothing")


def test_what_is_superseded_or_deleted_is_removed():
    origin, cache, _ = setting()
    for n in range(5):
        put(origin.inner, "x", b"%d" % n)
        get(cache, "x")
        assert len(entries(cache.into)) == 1
    origin.inner.delete("x")
    with pytest.raises(NotFound):
        get(cache, "x")
    assert entries(cache.into) == []


# -- ranges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [MemoryBackend, BasicBackend])
def test_ranges_come_from_an_entry_that_is_there_and_store_nothing_else(make):
    origin, cache, _ = setting(into=make())
    data = payload(5000)
    put(origin, "x", data)
    assert get(cache, "x", 100, 50) == data[100:150]
    assert entries(cache.into) == []
    assert get(cache, "x") == data
    origin.log.clear()
    ranges = [(0, 1), (100, 50), (4990, 100), (5000, 5), (9999, 3), (17, None), (9999, None), (20, 0), (0, 5000)]
    for offset, length in ranges:
        assert get(cache, "x", offset, length) == data[offset:][:length]
    assert origin.log == ["stat"] * len(ranges)
    assert cache.stats.hits == len(ranges)


# -- one fetch for many ------------------------------------------------------------------------------------------------


class Gate(Faulty):
    """Its readers wait to be opened until ``open`` is set; says how many came."""

    def __init__(self, inner):
        super().__init__(inner)
        self.gate = threading.Event()
        self.fails = 0

    def _before(self, op, number):
        if op == "open_reader":
            assert self.gate.wait(30)
            with self._count_lock:
                self.fails -= 1
                fails = self.fails >= 0
            if fails:
                raise BackendUnavailable("no")


def at_once(run, count=8):
    """Run in ``count`` threads that start together; what came of each."""
    barrier, came = threading.Barrier(count), []

    def one():
        barrier.wait(30)
        try:
            came.append(run())
        except StorageError as error:
            came.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, came


def until(condition):
    """Wait without a fixed time for what another thread is about to do."""
    waited = threading.Event()
    for _ in range(10_000):
        if condition():
            return
        waited.wait(0.001)
    raise AssertionError("it never came")


@pytest.mark.parametrize("into", [MemoryBackend, lambda: Full(MemoryBackend(), capacity=0)], ids=["kept", "full"])
def test_many_threads_that_want_the_same_fetch_it_once(into):
    origin = Gate(MemoryBackend())
    cache = Cache(origin, into())
    put(origin.inner, "x", payload(BIG))
    threads, came = at_once(lambda: get(cache, "x"))
    until(lambda: origin.log.count("open_reader") == 1 and waiting(cache) == 7)
    origin.gate.set()
    for thread in threads:
        thread.join(30)
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
        thread.join(30)
    assert sum(isinstance(one, BackendUnavailable) for one in came) == 2
    assert came.count(payload(BIG)) == 6
    assert origin.log.count("open_reader") == 3
    assert cache._flights._flights == {}


def test_who_waits_for_a_fetch_heeds_its_deadline():
    from omnistorage.errors import DeadlineExceeded
    from omnistorage.policies import deadline

    origin = Gate(MemoryBackend())
    cache = Cache(origin, MemoryBackend())
    put(origin.inner, "x", payload(BIG))
    threads, came = at_once(lambda: get(cache, "x"), 1)
    until(lambda: origin.log.count("open_reader") == 1)
    with deadline(0.01), pytest.raises(DeadlineExceeded):
        get(cache, "x")
    origin.gate.set()
    threads[0].join(30)
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
        thread.join(30)
    assert came == [b"two", b"two"]
    assert origin.log.count("stat") == 3, "the second asked again"


# -- large objects -----------------------------------------------------------------------------------------------------


def test_a_large_object_is_kept_once_it_was_read_to_its_end():
    origin, cache, _ = setting()
    put(origin, "x", payload(BIG))
    with cache.open_reader("x") as reader:
        got = b"".join(iter(lambda: reader.read(999), b""))
        assert got == payload(BIG)
        assert reader.read(5) == b""
    assert len(entries(cache.into)) == 1
    origin.log.clear()
    assert get(cache, "x") == payload(BIG)
    assert origin.log == ["stat"]


def test_reading_as_much_as_there_is_is_reading_to_the_end():
    origin, cache, _ = setting()
    put(origin, "x", payload(BIG))
    with cache.open_reader("x") as reader:
        assert reader.read(BIG) == payload(BIG)
        assert len(entries(cache.into)) == 1


@pytest.mark.parametrize("how", ["closed", "dropped", "failed", "too long", "aborted at the end"])
def test_a_large_object_that_was_not_read_to_its_end_leaves_nothing(how):
    class Breaks(Faulty):
        def _before(self, op, number):
            if op == "read" and self.log.count("read") == (3 if how == "failed" else 0):
                raise BackendUnavailable("dropped")

        def stat(self, path):
            return super().stat(path)

    origin = Breaks(MemoryBackend())
    into = MemoryBackend()
    cache = Small(origin, into)
    put(origin.inner, "x", payload(BIG))
    if how == "too long":
        plain = origin._reader

        def lies(reader, path):
            reader._info = reader._info._replace(size=5000)
            return plain(reader, path)

        origin._reader = lies
        with cache.open_reader("x") as reader:
            assert reader.read(5000) + b"".join(iter(lambda: reader.read(70), b"")) == payload(BIG)
    elif how == "aborted at the end":
        with cache.open_reader("x") as reader:
            reader.read(BIG - 1)
    elif how == "failed":
        with cache.open_reader("x") as reader, pytest.raises(BackendUnavailable):
            while reader.read(1000):
                pass
    else:
        reader = cache.open_reader("x")
        reader.read(1000)
        if how == "closed":
            reader.close()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del reader
            gc.collect()
        with pytest.raises(NotFound):
            cache.open_reader("nothing")  # whoever comes next aborts what was dropped
        assert not cache._shelf.orphans
    assert entries(into) == []
    assert not cache._shelf._filling
    assert cache.stats.errors == 0


def test_an_error_of_the_origin_behind_the_last_byte_is_raised_after_it_and_nothing_is_kept():
    class Late(Faulty):
        def _before(self, op, number):
            if op == "read" and self.log.count("read") == 2:
                raise CorruptData("the digest is wrong", path="x")

    origin = Late(MemoryBackend())
    cache = Small(origin, MemoryBackend())
    put(origin.inner, "x", payload(BIG))
    with cache.open_reader("x") as reader:
        assert reader.read(BIG) == payload(BIG)
        for _ in range(2):
            with pytest.raises(CorruptData, match="digest"):
                reader.read(1)
    assert entries(cache.into) == []


def test_while_one_fills_an_entry_others_read_the_origin():
    origin, cache, _ = setting()
    put(origin, "x", payload(BIG))
    with cache.open_reader("x") as one, cache.open_reader("x") as two:
        one.read(10)
        assert two.read(-1) == payload(BIG)
        assert entries(cache.into) == []
        assert one.read(-1) == payload(BIG)[10:]
    assert len(entries(cache.into)) == 1
    assert cache.stats.misses == 2


def test_an_object_of_unknown_size_is_kept_when_it_was_read():
    class Unsized(Wrapper):
        def _forward(self, op, path, run):
            answer = run(path)
            return answer._replace(size=None) if op == "stat" else answer

        def _reader(self, reader, path):
            reader._info = reader._info._replace(size=None)
            return reader

    cache = Cache(Unsized(MemoryBackend()), MemoryBackend())
    put(cache.inner, "x", payload(5000))
    assert get(cache, "x") == payload(5000)
    for offset, length in ((0, None), (10, 10), (4999, 10), (6000, 1), (6000, None)):
        assert get(cache, "x", offset, length) == payload(5000)[offset:][:length]
    assert cache.stats == CacheStats(hits=5, misses=1, bytes=cache.stats.bytes)


# -- what into does ----------------------------------------------------------------------------------------------------


class Fails(Faulty):
    """Fails the calls that are named, with an error that is not even ours."""

    ops = frozenset()

    def _before(self, op, number):
        if op in self.ops:
            raise OSError("the disk is gone")


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


def kept(cache, origin, names):
    """Which of the objects come from entries now."""
    found = []
    for name in names:
        origin.log.clear()
        with cache.open_reader(name, ReadOptions(0, 1)):
            if "open_reader" not in origin.log:
                found.append(name)
    return found


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
    for n in range(300):
        put(store, f"{n}", payload(100, f"{n}"))
        for cache in (one, two):
            assert get(cache, f"{n}") == payload(100, f"{n}")
    assert two.stats.hits == 300, "what one fetched serves the other"
    assert len(entries(one.into)) <= 20
    for n in range(300, 600):
        put(store, f"{n}", payload(100, f"{n}"))
        assert get((one, two)[n % 2], f"{n}") == payload(100, f"{n}")
        assert len(entries(one.into)) <= 20 + RELIST
    for n in range(600):
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
        thread.join(60)
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
    threads[0].join(30)
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
