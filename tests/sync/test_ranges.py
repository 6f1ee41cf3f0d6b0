"""A long flat listing is read as ranges of keys side by side: section 3 of the engine's contract."""

import threading
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import ListingDisorder, MemoryBackend, ops
from omnistorage.backends.base import BackendBase
from omnistorage.backends.sql_blob import SQLBlobBackend
from omnistorage.concurrency.cancellation import CancelScope, check, pause
from omnistorage.core import LIST, Features, ObjectInfo
from omnistorage.errors import BackendUnavailable, Cancelled, InvalidPath, StorageError
from omnistorage.paths import sort_key
from omnistorage.sync import Filter, Plan
from omnistorage.sync.endpoint import Side
from omnistorage.sync.entries import Fold
from omnistorage.sync.listing import key_ranges, range_boundaries

from ..backends.gcs_places import fresh as fresh_gcs
from ..backends.test_s3 import fresh as fresh_s3
from .simulation import Inline
from .stores import bucket, memory

PAGE, BEGIN, AHEAD = 4, 3, key_ranges.AHEAD
SMALL = partial(patch.multiple, key_ranges, PAGE=PAGE, BEGIN=BEGIN, _SAMPLE=1)
WAIT = 20  # seconds, after which a thread that others wait for is given up


def _fits_not(one, patience):
    raise AssertionError("a range does not begin where the one before it ended, in a store that nobody changes")


FITS = partial(patch.object, key_ranges._Range, "go_on", _fits_not)


class Keys(BackendBase):
    """Shows keys page by page. ``act(number, page)`` is called with each request and gives what is shown instead."""

    name = "keys"
    features = Features(read=True, list=True, sorted_list=True, list_seek=True)

    def __init__(self, keys, act=lambda number, page: page, size=None):
        self.keys = sorted(keys, key=sort_key)
        self.sorted = [sort_key(key) for key in self.keys]
        self.act = act
        self.lock = threading.Lock()
        self.lists = self.probes = self.seeks = self.shown = 0
        self.streams = []  # how many pages each gave
        self.size = size or PAGE

    def _list(self, prefix, options):
        at = 0 if options.start_after is None else bisect_right(self.sorted, sort_key(options.start_after))
        stream = [0]
        self.seeks += options.start_after is not None
        self.streams.append(stream)
        while True:
            with self.lock:
                self.lists += 1
                number = self.lists
            stream[0] += 1
            for path in self.act(number, self.keys[at : at + self.size]):
                self.shown += 1
                if isinstance(path, StorageError):
                    options.on_error(path)
                else:
                    yield ObjectInfo(path, 1)
            at += self.size
            if at >= len(self.keys):
                return

    def _list_dir(self, path):
        head = path + "/" if path else ""
        inside = [key[len(head) :].partition("/") for key in self.keys if key.startswith(head)]
        self.probes += 1
        yield from (
            ObjectInfo(head + name, kind="dir") for name in sorted({name for name, slash, _ in inside if slash})
        )


def numbered(count, form="f{:05}"):
    return [form.format(number) for number in range(count)]


def read(store, prefix="", readers=4, pool=ThreadPoolExecutor, **more):
    with SMALL():
        return [info.path for info in key_ranges.in_ranges(store, prefix, readers=readers, pool=pool, **more)]


@pytest.fixture
def threads():
    """The threads that have come since, as a function."""
    before = set(threading.enumerate())
    return lambda: set(threading.enumerate()) - before


# --- the same as one stream -------------------------------------------------------------------------------------------

NAMES = st.text("a0!/-.é\U0001f600\ue000", min_size=1, max_size=6)
NUMBERS = st.integers(0, 3_000).map("d/{:04x}".format)
TREES = st.tuples(st.sampled_from(["a", "a!", "a0", "b", "b/é"]), st.integers(0, 999)).map("{0[0]}/{0[1]:03}".format)


@given(st.one_of(*(st.sets(kind, max_size=200) for kind in (NAMES, NUMBERS, TREES))), st.integers(2, 6), st.booleans())
def test_ranges_show_what_one_stream_shows_in_that_order(keys, readers, threads):
    store = Keys(keys)
    with FITS():
        assert read(store, readers=readers, pool=ThreadPoolExecutor if threads else Inline) == store.keys


@given(st.sets(st.text("ab/0!", min_size=1, max_size=4), min_size=13, max_size=120), st.data())
def test_boundaries_of_any_kind_lose_and_double_nothing(keys, data):
    """Boundaries that are keys, that are beside keys, that are anything at all."""
    texts = st.one_of(st.sampled_from(sorted(keys)), st.text("ab/0!\U0010ffff", max_size=5))
    bounds = sorted(data.draw(st.sets(texts, max_size=30)), key=sort_key)

    def behind(key):
        return next((bound for bound in bounds if sort_key(bound) > sort_key(key)), None)

    store = Keys(keys)
    with FITS(), patch.object(key_ranges, "guesses", lambda *about: iter([behind])):
        assert read(store, pool=Inline) == store.keys


@pytest.mark.parametrize("kind", ["memory", "sqlite:///", "sqlite://"])
def test_real_stores_show_the_same_in_ranges(kind, tmp_path):
    url = kind + str(tmp_path / "objects.db") if kind.endswith("///") else kind
    with MemoryBackend(dirs=False) if kind == "memory" else SQLBlobBackend(url) as store:
        for number in range(300):
            ops.write_bytes(store, f"top/a{number // 60}/{'é' if number % 2 else 'z'}{number % 60:03}", b"")
        found = read(store, "top")
        assert (len(found), found) == (300, [info.path for info in store.list("top")])
        assert Side(store, "source")._has_ranges


@pytest.mark.parametrize(
    "make",
    [partial(fresh_s3, "moto", client="sdk"), partial(fresh_s3, "moto", client="auto"), fresh_gcs],
    ids=["s3", "s3 with obstore", "gcs"],
)
def test_servers_show_the_same_in_ranges(make):
    names = [f"a{n // 20}/x{n % 20:03}" for n in range(100)] + numbered(60, "b/é{:03}") + ["a2!", "a20", "c"]
    with make() as store:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda path: ops.write_bytes(store, path, b"x"), names))
        assert Side(store, "source")._has_ranges
        with FITS():
            assert read(store) == sorted(names, key=sort_key)


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, PAGE, PAGE * BEGIN - 1, PAGE * BEGIN])
def test_a_short_listing_is_one_stream_without_a_thread(count):
    def pool(workers):
        raise AssertionError("nobody is needed")

    store = Keys(numbered(count))
    assert read(store, pool=pool) == store.keys
    assert (store.lists, store.seeks, store.probes) == (max(1, -(-count // PAGE)), 0, 0)


def test_a_short_listing_shows_each_entry_before_the_store_shows_the_next():
    store = Keys(numbered(2 * PAGE))
    with SMALL(), closing(key_ranges.in_ranges(store, "", readers=4, pool=ThreadPoolExecutor)) as listing:
        for number, _ in enumerate(listing, 1):
            assert store.shown == number


def test_thirty_two_thousand_objects_cost_as_many_requests_as_pages():
    src, dst = (Keys(numbered(32_000), size=1_000) for _ in range(2))
    with Plan(src, dst, size_only=True) as plan:
        assert list(plan) == []
    assert [(side.lists, side.seeks, side.probes) for side in (src, dst)] == [(32, 0, 0)] * 2


@pytest.mark.parametrize(
    "keys",
    [
        numbered(400),
        [f"{n // 10:02}/{n % 10}" for n in range(400)],
        [f"{name}/{n}" for name in ("x", "yy", "zzz") for n in numbered(130)],
        sorted({f"{n * 2_654_435_761 % 2**32:08x}" for n in range(400)}),
    ],
    ids=["numbers", "folders", "long folders", "hashes"],
)
def test_requests_are_those_of_the_pages_the_probes_and_the_ranges(keys):
    store = Keys(keys)
    assert read(store, pool=Inline) == store.keys
    assert store.seeks > 4
    assert store.lists <= -(-len(keys) // PAGE) + store.probes + store.seeks + 1
    assert store.probes <= 8


def test_keys_that_nobody_has_cost_no_requests():
    """The numbers go to 99,999; two heaps of them exist."""
    keys = [*numbered(100), *(f"f{number:05}" for number in range(30_000, 30_100))]
    store = Keys(keys)
    assert read(store) == keys
    assert store.lists <= len(keys) // PAGE + 40


def test_where_nothing_can_be_cut_it_stays_one_stream():
    keys = sorted({"".join("ghijkm"[n // 6**at % 6] for at in range(5)) for n in range(300)})
    store = Keys(keys)
    assert read(store) == keys
    assert (store.lists, store.seeks) == (-(-len(keys) // PAGE), 0)
    assert store.probes <= 4


# --- side by side, within bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("readers", [2, 4])
def test_as_many_ranges_are_read_at_once_as_there_are_readers(readers):
    barrier = threading.Barrier(readers)
    met = threading.Event()

    def act(number, page):
        if not met.is_set() and number > BEGIN + 1:
            barrier.wait(WAIT)  # raises where fewer come
            met.set()
        return page

    store = Keys(numbered(400), act)
    assert read(store, readers=readers) == store.keys
    assert met.is_set()


def test_no_more_is_held_than_the_ranges_may_hold():
    """However long the ranges are: here each has 50 pages."""
    store = Keys(numbered(2_000))

    def long_ones(*about):
        return iter(() if store.seeks else [lambda key: f"f{int(key[1:]) // 200 * 200 + 200:05}"])

    most = 4 * (AHEAD + 1) * PAGE  # each range holds its pages, and sees one more when it comes to its end
    with SMALL(), patch.object(key_ranges, "guesses", long_ones):
        for taken, _ in enumerate(key_ranges.in_ranges(store, "", readers=4, pool=Inline), 1):
            assert store.shown - taken - store.seeks * PAGE <= most
    assert store.seeks >= 10


@pytest.mark.parametrize(
    ("keys", "most"),
    [
        (numbered(1_200), 5),
        ([f"{day:02}/{hour:02}/{n}" for day in range(20) for hour in range(10) for n in numbered(6)], 16),
        ([f"{name}/{n * 99_991 % 65_536:04x}" for name in ("x", "yy", "zzz") for n in range(400)], 16),
        ([*numbered(80, "a{:02}/x/y"), *numbered(1_000, "b/{:05}"), *numbered(80, "c{:02}/x/y")], 30),
    ],
    ids=["numbers", "dates", "long folders", "one very long folder"],
)
def test_a_range_that_turns_out_long_is_cut_again(keys, most):
    store = Keys(keys)
    assert read(store, pool=Inline) == store.keys
    assert max(pages for (pages,) in store.streams[1:]) <= most
    assert store.lists <= 2 * len(keys) / PAGE


def test_a_plan_over_more_than_begins_one_stream_reads_both_sides_in_ranges(threads):
    names = numbered(40_000, "f/{:06}")
    src, dst = (Keys(names, size=1_000) for _ in range(2))
    with Plan(src, dst, size_only=True, checkers=3) as plan:
        assert list(plan) == []
        assert plan.seen.complete
    assert min(src.seeks, dst.seeks) > 0
    assert not threads()


# --- errors and ends --------------------------------------------------------------------------------------------------


def test_an_error_comes_behind_all_that_is_before_it(threads):
    def act(number, page):
        for path in page:
            if path == "f00100":
                raise BackendUnavailable("no answer", op="list", backend="keys")
            yield path

    found = []
    with SMALL(), pytest.raises(BackendUnavailable, match="no answer"):
        for info in key_ranges.in_ranges(Keys(numbered(400), act), "", readers=4, pool=ThreadPoolExecutor):
            found.append(info.path)
    assert found == numbered(100)
    assert not threads()


def test_a_listing_that_breaks_off_in_a_range_ends_the_plan_and_nothing_is_deleted():
    def act(number, page):
        if number > BEGIN + 8:
            raise BackendUnavailable("no answer", op="list", backend="keys")
        return page

    dst = bucket()
    for path in (*numbered(400), "more"):
        ops.write_bytes(dst, path, b"")
    with SMALL(), Plan(Keys(numbered(400), act), dst, delete=True, max_delete="100%", size_only=True) as plan:
        assert [action.kind for action in plan if action.kind != "update"] == ["error"]
    assert not plan.seen.complete


def test_what_is_only_told_is_told_once_by_the_reading_thread_and_the_listing_goes_on():
    bad = InvalidPath("'..' would leave its folder", path="f00100/../x", op="list")

    def act(number, page):
        return [it for path in page for it in ((path, bad) if path == "f00100" else (path,))]

    told = []
    store = Keys(numbered(400), act)
    found = read(store, on_error=lambda error: told.append((error, threading.current_thread())))
    assert found == store.keys
    assert told == [(bad, threading.current_thread())]


@pytest.mark.parametrize("after", [5, PAGE * BEGIN + PAGE + 1, 100])
def test_who_stops_early_ends_all_threads(after, threads):
    store = Keys(numbered(4_000))
    with SMALL():
        listing = key_ranges.in_ranges(store, "", readers=4, pool=ThreadPoolExecutor)
        assert [next(listing).path for _ in range(after)] == store.keys[:after]
        listing.close()
    assert not threads()
    assert store.lists < 100


def test_who_stops_early_cancels_the_requests_that_wait(threads):
    waiting, ended = threading.Semaphore(0), []

    def act(number, page):
        if page and page[0] >= "f00100":
            waiting.release()
            try:
                pause(WAIT)
            except Cancelled as error:
                ended.append(error)
                raise
        return page

    with SMALL():
        listing = key_ranges.in_ranges(Keys(numbered(400), act), "", readers=4, pool=ThreadPoolExecutor)
        for _ in range(90):
            next(listing)
        assert waiting.acquire(timeout=WAIT)
        listing.close()
    assert ended
    assert not threads()


def test_the_ranges_heed_the_scope_of_their_reader(threads):
    scope = CancelScope()

    def act(number, page):
        if number == BEGIN + 5:
            scope.cancel()
        check("list")
        return page

    with scope, pytest.raises(Cancelled):
        read(Keys(numbered(400), act))
    assert not threads()


def test_a_store_that_shows_what_is_no_path_ends_the_listing_and_nobody_waits(threads):
    store = Keys(numbered(400), lambda number, page: [7 for _ in page] if "f00100" in page else page)
    with SMALL(), pytest.raises(AttributeError):
        list(Side(store, "source").entries(Filter()))
    assert not threads()


# --- stores that do otherwise than they say ---------------------------------------------------------------------------


class Lying(Keys):
    """``lie(low)`` gives where a listing behind ``low`` begins indeed."""

    def __init__(self, keys, lie):
        super().__init__(keys)
        self.lie, self.lied = lie, 0

    def list(self, prefix="", options=LIST):
        if options.start_after is None:
            return super().list(prefix, options)
        self.lied += 1
        return super().list(prefix, replace(options, start_after=self.lie(options.start_after)))


@pytest.mark.parametrize(
    "lie",
    [lambda low: "", lambda low: low + "1", lambda low: "z", lambda low: low[:-1], lambda low: "\ud800"],
    ids=["does not seek", "goes too far", "goes to the end", "goes not far enough", "refuses what it is given"],
)
def test_a_store_that_seeks_otherwise_than_it_says_loses_nothing(lie):
    store = Lying(numbered(400), lie)
    with SMALL(), closing(key_ranges.in_ranges(store, "", readers=4, pool=ThreadPoolExecutor)) as listing:
        assert [info.path for info in islice(listing, 1_000)] == store.keys
    assert store.lied > 0


def test_what_is_made_and_deleted_between_two_ranges_harms_none_of_the_others():
    """The key at which a range begins goes, and another comes before it, after the one before it was read."""
    store = Keys(numbered(400))
    began = []

    def act(number, page):
        if number > BEGIN + 1 and not began and store.seeks:
            began.append(page[0])
            return page[1:]
        return page

    store.act = act
    assert read(store, pool=Inline) == store.keys
    assert began


@pytest.mark.parametrize("where", [101, 103, 107, 110])
def test_disorder_within_a_range_is_noticed(where):
    """Wherever it is: within a range, or in the page with its end."""
    keys = numbered(400)
    shuffled = Keys(keys)
    shuffled.keys[where], shuffled.keys[where + 1] = keys[where + 1], keys[where]
    with SMALL(), pytest.raises(ListingDisorder, match="sort_listings"):
        list(Side(shuffled, "source").entries(Filter()))


def test_a_page_in_no_order_is_not_cut_but_shown_whole():
    """Cut at "b" it would hide that "a" came late, and the store, asked for what is behind "b", shows it no more."""
    page = [ObjectInfo(name, 1) for name in "mnoapqrs"]
    assert key_ranges._up_to(page, "b") == page
    assert key_ranges._up_to(sorted(page), "b") == [ObjectInfo("a", 1)]


# --- where it is not for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "store", [memory(), memory(dirs=False, list_seek=False), memory(dirs=False, sorted_list=False), MemoryBackend()]
)
def test_only_stores_of_keys_that_seek_are_read_in_ranges(store):
    assert not Side(store, "source")._has_ranges
    assert Side(bucket(), "source")._has_ranges


def test_pages_of_a_web_server_are_not_read_again_for_each_range():
    store = Keys(numbered(10))
    store.url = "https://example.com/files/"
    assert not Side(store, "source")._has_ranges


@pytest.mark.parametrize(
    "settings", [{"resort": True}, {"fold": Fold(case=True)}, {"filter": Filter.parse(["- /x/**"])}]
)
def test_what_is_sorted_or_walked_is_read_as_it_was(settings):
    store = bucket()
    for path in numbered(200):
        ops.write_bytes(store, path, b"")
    settings = {"filter": Filter(), **settings}
    with SMALL(), patch.object(key_ranges, "guesses", lambda *about: pytest.fail("there is nothing to cut")):
        found = [entry.path for entry in Side(store, "source").entries(pool=Inline, **settings)]
    assert found == numbered(200)


# --- where to cut -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "behind"),
    [
        (numbered(40, "a{:03}.txt"), ["a069", "a099", "a129"]),
        ([f"{n * 16:06x}" for n in range(0xF00, 0xF00 + 40)], ["00f450", "00f630", "00f810"]),
        (["a", "b", "c"], []),
        (["a1", "a1"], []),
    ],
)
def test_numbers_go_on_as_fast_as_they_went(window, behind):
    cuts, key, found = range_boundaries._by_numbers(window, 10), window[-1], []
    while len(found) < 3 and (key := cuts(key)) is not None:
        found.append(key)
    assert found == behind


def test_numbers_end_with_their_width_and_skip_what_nobody_has():
    cuts = range_boundaries._by_numbers(numbered(40, "a{:03}"), 10)
    assert cuts("a999") is None
    assert cuts("a500x") == "a519"
    assert cuts("b") is None


def test_a_probe_is_not_made_where_it_shows_no_more_than_the_listing():
    store = Keys([])
    list(range_boundaries.guesses(store, [f"a/{n:03}/x" for n in range(100)], 20, 2, True))
    assert store.probes == 1  # of the level above, where nothing else can be cut
    list(range_boundaries.guesses(store, [f"a/{n:03}/x" for n in range(100)], 20, 2, False))
    assert store.probes == 1


def test_a_probe_that_fails_cuts_nothing():
    class Failing(Keys):
        def _list_dir(self, path):
            raise BackendUnavailable("no answer", op="list_dir", backend="keys")

    assert range_boundaries._by_folders(Failing([]), "", 1)("a") is None
