"""Cache: each guard against bytes of another state, another length or another reader is seen to do its part."""

import hashlib
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import Cache, CorruptData, MemoryBackend, PreconditionFailed
from omnistorage.core import READ, ReadOptions
from omnistorage.testing import BasicBackend, Faulty
from omnistorage.testing._kit import payload
from omnistorage.wrappers.base import Wrapper
from omnistorage.wrappers.cache.index import RELIST
from omnistorage.wrappers.streams import WrappedReader

from ..waiting import LIMIT
from .caching import BIG, Fails, Small, entries, get, put, setting

DIGITS = b"0123456789"


class Says(Wrapper):
    """Changes what is said of objects: ``stat`` and readers alike."""

    def _said(self, info):
        return info

    def _forward(self, op, path, run):
        answer = run(path)
        return self._said(answer) if op == "stat" else answer

    def _reader(self, reader, path):
        reader._info = self._said(reader._info)
        return reader


class Unsized(Says):
    def _said(self, info):
        return info._replace(size=None)


class Digests(Says):
    """Its etags are digests of the content: an object that gets its old content back gets its old etag back."""

    def _said(self, info):
        return info._replace(etag=hashlib.sha256(self.inner.peek(info.path)).hexdigest())


class NoRanges(Wrapper):
    clears = frozenset({"range_read"})


class Breaks(Faulty):
    """Its readers fail once ``good`` reads went well."""

    good = None

    def _before(self, op, number):
        if op == "read" and self.good is not None and self.log.count("read") > self.good:
            raise OSError("the disk is gone")


# -- ranges of objects whose size nobody states ------------------------------------------------------------------------

INTOS = {"ranges": MemoryBackend, "no ranges": lambda: NoRanges(MemoryBackend()), "basic": BasicBackend}


@pytest.mark.parametrize("into", INTOS)
@pytest.mark.parametrize("block", [1, 4, 100, -1])
def test_a_range_of_an_object_of_unknown_size_is_the_range_whatever_into_can(into, block):
    cache = Cache(Unsized(MemoryBackend()), INTOS[into]())
    put(cache, "x", DIGITS)
    assert get(cache, "x") == DIGITS
    ranges = [(2, 3), (0, 3), (0, 10), (7, 3), (7, 30), (7, 1 << 62), (10, 5), (99, 5), (4, 0), (4, None), (99, None)]
    for offset, length in ranges:
        with cache.open_reader("x", ReadOptions(offset, length)) as reader:
            got = reader.read(-1) if block < 0 else b"".join(iter(lambda: reader.read(block), b""))
            assert got == DIGITS[offset:][:length], (offset, length)
            assert reader.read(5) == b"", (offset, length)
    assert (cache.stats.hits, cache.stats.misses, cache.stats.errors) == (len(ranges), 1, 0)


@pytest.mark.parametrize("into", INTOS)
@pytest.mark.parametrize("good", [0, 1, 2, 3])
@pytest.mark.parametrize("block", [1, -1])
def test_a_range_of_an_object_of_unknown_size_ends_where_it_should_when_its_entry_breaks(into, good, block):
    breaks = Breaks(INTOS[into]())
    cache = Cache(Unsized(MemoryBackend()), breaks)
    put(cache, "x", DIGITS)
    get(cache, "x")
    for offset, length in ((2, 3), (0, 5), (7, 30), (2, None)):
        breaks.log.clear()
        breaks.good = good
        with cache.open_reader("x", ReadOptions(offset, length)) as reader:
            got = reader.read(-1) if block < 0 else b"".join(iter(lambda: reader.read(1), b""))
            assert got == DIGITS[offset:][:length], (offset, length)
    if not good:
        assert cache.stats.errors == 4


@pytest.mark.parametrize("into", ["no ranges", "basic"])
def test_a_large_range_of_an_entry_that_has_more_is_no_damage(into):
    origin, cache, _ = setting(into=INTOS[into]())
    put(origin, "x", payload(5000))
    get(cache, "x")
    origin.log.clear()
    with cache.open_reader("x", ReadOptions(10, 2000)) as reader:
        assert b"".join(iter(lambda: reader.read(700), b"")) == payload(5000)[10:2010]
    assert cache.stats.errors == 0
    assert origin.log == ["stat"]
    assert len(entries(cache.into)) == 1


@given(
    st.sampled_from(sorted(INTOS)),
    st.booleans(),
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(0, 40), st.none() | st.integers(0, 40), st.integers(1, 40)), max_size=8),
)
def test_random_ranges_are_those_of_plain_bytes(into, unsized, size, ranges):
    origin = MemoryBackend()
    cache = Cache(Unsized(origin) if unsized else origin, INTOS[into]())
    cache.small = 5
    put(origin, "x", payload(size))
    get(cache, "x")
    for offset, length, block in [*ranges, (size // 3, size // 3, 7)]:
        with cache.open_reader("x", ReadOptions(offset, length)) as reader:
            got = b"".join(iter(lambda: reader.read(block), b""))  # noqa: B023
        assert got == payload(size)[offset:][:length]
    assert cache.stats.errors == 0


# -- bytes of another state --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 5000])
def test_bytes_of_a_newer_object_are_never_served_under_the_older_etag(size):
    """The object changes between the question and the opening, and later becomes what it was: the old etag is true
    again, and the bytes that were fetched under it are not."""
    behind = MemoryBackend()
    origin = Digests(behind)
    cache = Small(origin, MemoryBackend())
    old, new = payload(size, "old"), payload(size, "new")
    put(behind, "x", old)
    plain = origin.open_reader

    def too_late(path, options=READ):
        put(behind, "x", new)
        return plain(path, options)

    origin.open_reader = too_late
    assert get(cache, "x") == new
    origin.open_reader = plain
    put(behind, "x", old)
    assert get(cache, "x") == old
    assert get(cache, "x", 1, 5) == old[1:6]
    assert cache.stats.errors == 0


@pytest.mark.parametrize("size", [10, 5000])
def test_an_object_that_came_shorter_than_its_reader_said_is_not_kept(size):
    class Short(Wrapper):
        """The connection ends early, and cleanly."""

        short = True

        def _reader(self, reader, path):
            return _Short(reader) if self.short else reader

    class _Short(WrappedReader):
        left = size - 3

        def read(self, count=-1, /):
            data = self.inner.read(min(count, self.left) if count >= 0 else self.left)
            self.left -= len(data)
            return data

    origin = Short(MemoryBackend())
    cache = Small(origin, MemoryBackend())
    put(origin, "x", payload(size))
    with cache.open_reader("x") as reader:
        assert b"".join(iter(lambda: reader.read(100), b"")) == payload(size)[:-3]
    assert entries(cache.into) == []
    origin.short = False
    assert get(cache, "x") == payload(size)
    assert cache.stats.errors == 0, "no bad entry had to be found out"


def test_a_small_entry_that_is_too_long_in_a_store_that_says_no_sizes_is_noticed():
    into = Unsized(MemoryBackend())
    origin, cache, _ = setting(into=into)
    put(origin, "x", payload(10))
    get(cache, "x")
    (name,) = entries(into)
    for wrong in (payload(10) + b"!", payload(9), b""):
        into.inner.put_raw(name, wrong)
        assert get(cache, "x") == payload(10)
        assert into.inner.peek(name) == payload(10), "there is a good one again"
    assert cache.stats.errors == 3


def test_the_rest_of_a_broken_entry_is_asked_for_with_its_etag_so_that_nothing_else_is_sent():
    breaks = Breaks(MemoryBackend())
    origin, cache, _ = setting(into=breaks)
    etag = put(origin, "x", payload(BIG)).etag
    get(cache, "x")
    asked, plain = [], origin.open_reader

    def noted(path, options=READ):
        asked.append(options)
        return plain(path, options)

    origin.open_reader = noted
    breaks.log.clear()
    breaks.good = 1
    with cache.open_reader("x") as reader:
        assert reader.read(10) + reader.read(-1) == payload(BIG)
    assert asked == [ReadOptions(10, None, if_match=etag)]
    breaks.log.clear()
    with cache.open_reader("x") as reader:
        reader.read(10)
        put(origin.inner, "x", payload(BIG, "new"))
        with pytest.raises(CorruptData, match="changed while it was read") as caught:
            reader.read(10)
    assert isinstance(caught.value.__cause__, PreconditionFailed)


def test_who_has_seen_the_newer_state_never_gets_the_older_one_again():
    """Two ask; the one who asked first hears last, and the entry of the older state could not be removed."""
    into = Fails(MemoryBackend())
    origin, cache, clock = setting(ttl=100, into=into)
    put(origin, "x", b"old")
    assert get(cache, "x") == b"old"
    clock.time += 200
    into.ops = frozenset({"delete"})
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
    assert len(entries(into)) == 2
    origin.log.clear()
    assert get(cache, "x") == b"new"
    assert origin.log == [], "and what was known of it is still believed"


# -- others ------------------------------------------------------------------------------------------------------------


def test_what_other_processes_keep_is_counted_after_so_many_entries_of_ones_own():
    into = MemoryBackend()
    origin, limited, _ = setting(into=into, max_entries=5)
    other = Small(origin, into)
    other._known._token = limited._known._token  # another process, to which the origin's url means the same
    for n in range(2 * RELIST):
        put(origin, f"{n}")
    get(limited, "0")
    for n in range(1, RELIST):
        get(other, f"{n}")
    assert len(entries(into)) == RELIST
    for n in range(RELIST, 2 * RELIST):
        get(limited, f"{n}")
    assert len(entries(into)) == 5


class Blocks(Faulty):
    """Its readers wait until they are closed, once ``good`` reads went well."""

    good = 1

    def __init__(self, inner):
        super().__init__(inner)
        self.blocked, self.freed = threading.Event(), threading.Event()

    def _before(self, op, number):
        if op == "read" and self.log.count("read") > self.good:
            self.blocked.set()
            if not self.freed.wait(LIMIT):
                raise AssertionError("nobody closed what the read waits for")

    def _reader(self, reader, path):
        reader = super()._reader(reader, path)
        close = reader.close

        def closed():
            self.freed.set()
            close()

        reader.close = closed
        return reader


@pytest.mark.parametrize("blocks", ["origin", "into"])
def test_closing_a_reader_frees_one_whose_read_waits(blocks):
    place = Blocks(MemoryBackend())
    cache = Small(place, MemoryBackend()) if blocks == "origin" else Small(MemoryBackend(), place)
    put(cache, "x", payload(BIG))
    if blocks == "into":
        place.good = 1 << 30
        get(cache, "x")
        place.log.clear()
        place.good = 1
    reader = cache.open_reader("x")
    assert reader.read(10) == payload(BIG)[:10]
    came = []

    def read():
        try:
            reader.read(10)
        except BaseException as error:
            came.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert place.blocked.wait(LIMIT)
    reader.close()
    thread.join(LIMIT)
    assert [type(error).__name__ for error in came] == ["ReaderClosed"]
