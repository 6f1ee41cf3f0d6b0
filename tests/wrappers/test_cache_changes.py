"""Cache: what is changed through it, ranges and large objects."""

import gc
import warnings

import pytest

from omnistorage import BackendUnavailable, Cache, CorruptData, MemoryBackend, NotFound, StorageError
from omnistorage.testing import BasicBackend, Faulty
from omnistorage.testing._kit import payload
from omnistorage.wrappers import CacheStats
from omnistorage.wrappers.base import Wrapper

from .caching import BIG, Hands, Small, entries, get, put, setting

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
