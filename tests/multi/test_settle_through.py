"""``Settle`` through other backends, by replays of a rolling writer, and by tiers; stale uploads of several targets."""

import itertools
import threading
from datetime import timedelta

import pytest

from omnistorage import (
    BackendUnavailable,
    Cache,
    CapabilityNotSupported,
    CorruptData,
    Encrypt,
    InvalidPath,
    LocalBackend,
    MemoryBackend,
    MultiBackend,
    Prefix,
    ReadOnly,
    RollingRecordWriter,
    Settle,
    Spool,
    StaleUploads,
    Target,
    Tier,
    TieredBackend,
    open_records,
    power,
)
from omnistorage.ops import read_bytes, write_bytes

from ..delivery.conftest import ManualTimer
from ..waiting import until
from .mirrors import mirror, peeks, put, switches
from .places import Switch

# -- through other backends --------------------------------------------------------------------------------------------


def test_through_wrappers_it_is_the_same_path():
    places = switches(2)
    places[0].inner.put_raw("folder/x", b"bytes")
    multi = mirror(places)
    wrapped = Prefix(Cache(multi, MemoryBackend()), "folder")
    assert power(wrapped, Settle).settle("x") is True
    assert peeks(places, "folder/x") == [b"bytes"] * 2
    assert power(wrapped, Settle).settle("nothing") is False
    places[1].down = True
    with pytest.raises(BackendUnavailable) as caught:
        power(wrapped, Settle).settle("x")
    assert caught.value.path in (None, "x")
    with pytest.raises(InvalidPath):
        power(wrapped, Settle).settle("../x")
    places[1].down = False
    places[0].inner.put_raw("folder/x", b"other")
    with pytest.raises(CorruptData) as caught:
        power(wrapped, Settle).settle("x")
    assert caught.value.path == "x"


def test_a_cache_believes_nothing_that_it_knew_before():
    places = switches(3)
    put(places, b"other", b"one", b"one")
    cache = Cache(mirror(places), MemoryBackend(), ttl=1e6)
    assert read_bytes(cache, "x") == b"other"
    assert power(cache, Settle).settle("x")
    assert read_bytes(cache, "x") == b"one"


def test_what_is_encrypted_is_settled_as_it_is_stored():
    places = switches(2)
    multi = mirror(places)
    encrypted = Encrypt(multi, b"k" * 32)
    write_bytes(encrypted, "x", b"secret")
    places[1].inner.delete("x")
    assert power(encrypted, Settle).settle("x") is True
    assert len(set(peeks(places, "x"))) == 1
    assert read_bytes(encrypted, "x") == b"secret"


def test_who_may_only_read_cannot_settle_and_one_store_need_not():
    assert power(ReadOnly(mirror(switches(2))), Settle) is None
    with pytest.raises(CapabilityNotSupported):
        ReadOnly(mirror(switches(2))).settle("x")
    assert power(Prefix(MemoryBackend(), "p"), Settle) is None


def test_a_mirror_of_mirrors_counts_what_its_targets_have_settled():
    inner, outer = switches(2), switches(1)
    inner[1].inner.put_raw("x", b"bytes")
    multi = MultiBackend([Target("pair", mirror(inner)), Target("one", outer[0])])
    assert multi.settle("x")
    assert peeks([*inner, *outer], "x") == [b"bytes"] * 3
    inner[0].down = True
    with pytest.raises(BackendUnavailable):
        multi.settle("x")  # the pair can be read, and is not whole


@pytest.mark.parametrize("path", ["", "../x"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(InvalidPath):
        mirror(switches(2)).settle(path)


def test_a_folder_is_no_object():
    places = switches(2)
    write_bytes(mirror(places), "folder/x", b"")
    assert mirror(places).settle("folder") is False


# -- replays of a rolling writer ---------------------------------------------------------------------------------------


class Cut(Switch):
    """Dies when an object is to be published: so does the process that asked."""

    dead = False

    def _before(self, op, number):
        if op == "close" and self.dead:
            raise BackendUnavailable("the process is gone")
        super()._before(op, number)


def cut(count, mode, journal, *, kept=1):
    """A writer of records 0 to 9 that published two objects, and the third at ``kept`` targets when it was killed."""
    places = [Cut() for _ in range(count)]
    multi = mirror(places, mode, **({"journal": journal} if journal is not None else {}))
    writer = rolling(multi)
    for n in range(6):
        writer.write({"n": n})
    writer.flush()
    before = [{info.path for info in place.inner.list()} for place in places]
    for n in range(6, 9):
        writer.write({"n": n})
    writer.flush()
    for place, paths in zip(places[kept:], before[kept:], strict=True):  # these were never reached
        for info in list(place.inner.list()):
            if info.path not in paths:
                place.inner.delete(info.path)
    writer.abort()
    return places


def rolling(target, **options):
    return RollingRecordWriter(
        target, "{source}-{start:03d}.ndjson.gz", names="deterministic", source="s", roll_records=3, **options
    )


def stored(place):
    return {info.path: place.inner.peek(info.path) for info in place.inner.list()}


def rows(place):
    found = []
    for info in place.inner.list():
        with open_records(place.inner, info.path) as reader:
            found += [row["n"] for row in reader]
    return found


@pytest.mark.parametrize("kept", [1, 2])
@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize(("count", "mode"), [(2, "all"), (3, "all"), (3, "quorum"), (3, "best_effort")])
def test_a_replay_skips_only_what_as_many_targets_hold_as_are_needed(count, mode, journal, kept):
    if (mode != "all" and not journal) or kept >= count:
        return
    kind = MemoryBackend() if journal else None
    places = cut(count, mode, kind, kept=kept)
    assert rows(places[-1]) == list(range(6))
    multi = mirror(places, mode, **({"journal": kind} if journal else {}))
    durable = []
    with rolling(multi) as writer:
        for n in range(10):
            writer.write({"n": n})
            held = [set(rows(place)) for place in places]
            durable.append(writer.durable)
            for number in range(writer.durable + 1):
                assert sum(number in each for each in held) >= multi.needed, (n, number)
    assert durable[-1] >= 5
    for place in places:
        assert rows(place) == list(range(10))
    assert (
        len({tuple((info.path, place.inner.peek(info.path)) for info in place.inner.list()) for place in places}) == 1
    )


def test_a_replay_acknowledges_nothing_that_too_few_targets_hold():
    places = cut(2, "all", None)
    places[1].down = True
    writer = rolling(mirror(places))
    with pytest.raises(BackendUnavailable):
        for n in range(9):
            writer.write({"n": n})
    assert writer.durable < 6
    writer.abort()
    assert rows(places[0]) == list(range(9))
    assert rows(places[1]) == list(range(6))
    places[1].down = False
    with rolling(mirror(places)) as writer:
        for n in range(9):
            writer.write({"n": n})
    assert writer.durable == 8
    assert rows(places[0]) == rows(places[1]) == list(range(9))


def test_a_spool_waits_until_the_targets_hold_what_is_found(tmp_path):
    asked = threading.Event()

    class Away(Switch):
        def _before(self, op, number):
            if self.down:
                asked.set()
            super()._before(op, number)

    places = [Switch(), Away()]
    with rolling(mirror(places[:1])) as writer:  # what a kill between the two left
        for n in range(3):
            writer.write({"n": n})
    places[1].down = True
    spool, timer = Spool(tmp_path, max_bytes=1 << 20, close_timeout=10**9), ManualTimer()
    with rolling(mirror(places), spool=spool, timer=timer) as writer:
        for n in range(6):
            writer.write({"n": n})
        until(lambda: timer.advance(1) or asked.is_set())
        assert rows(places[1]) == []
        assert writer.progress.spooled == 6
        places[1].down = False
        until(lambda: timer.advance(1) or writer.progress.spooled == 0)
    assert rows(places[0]) == rows(places[1]) == list(range(6))


# -- tiers -------------------------------------------------------------------------------------------------------------


def tiers(places, **options):
    return TieredBackend([Tier(f"t{n}", place) for n, place in enumerate(places)], **options)


@pytest.mark.parametrize("through", [True, ("t0", "t1")])
def test_what_some_tiers_hold_is_given_to_all_that_a_write_goes_to(through):
    for held in itertools.product((None, b"bytes"), repeat=2):
        places = switches(3)
        put(places, *held, None)
        tiered = tiers(places, write_through=through)
        assert power(tiered, Settle).settle("x") is any(held)
        wanted = [b"bytes" if any(held) else None] * 2
        assert peeks(places, "x") == [*wanted, wanted[0] if through is True else None]


def test_what_only_another_tier_holds_stays_there():
    places = switches(3)
    put(places, None, None, b"bytes")
    assert tiers(places, write_through=("t0", "t1")).settle("x") is True
    assert peeks(places, "x") == [None, None, b"bytes"]


def test_tiers_that_differ_or_are_down_are_an_error():
    places = switches(3)
    put(places, b"one", b"other", None)
    with pytest.raises(CorruptData, match=r"different bytes.*t1 .*t0 ") as caught:
        tiers(places, write_through=True).settle("x")
    assert caught.value.path == "x"
    put(places, b"other", None, None)
    places[2].down = True
    with pytest.raises(BackendUnavailable) as caught:
        tiers(places, write_through=True, skip_unavailable=True).settle("x")
    assert "in tier 't2'" in caught.value.__notes__


def test_one_tier_of_many_need_not_settle_unless_it_is_several_stores_itself():
    assert power(tiers(switches(2)), Settle) is None
    assert power(TieredBackend([Tier("a", MemoryBackend(), match="**")], "match"), Settle) is None
    pair = switches(2)
    pair[1].inner.put_raw("x", b"bytes")
    for more in ({}, {"mode": "match"}):
        pair[0].inner.delete("x")
        match = {"match": "*"} if more else {}
        tiered = TieredBackend([Tier("pair", mirror(pair), **match)], **more)
        assert power(tiered, Settle).settle("x") is True
        assert peeks(pair, "x") == [b"bytes"] * 2
        assert tiered.settle("folder/nothing") is False


def test_a_replay_through_tiers_skips_only_what_all_of_them_hold():
    places = switches(2)
    with rolling(places[1]) as writer:  # the last tier is the first to have it
        for n in range(3):
            writer.write({"n": n})
    with rolling(tiers(places, write_through=True)) as writer:
        for n in range(6):
            writer.write({"n": n})
    assert stored(places[0]) == stored(places[1])
    assert rows(places[0]) == list(range(6))


# -- what writers left behind ------------------------------------------------------------------------------------------


class Leftovers(Switch):
    """A store with an upload of a dead writer."""

    def stale_uploads(self, prefix="", *, older_than=timedelta(hours=1)):
        self._call("stale_uploads", lambda: None)
        return iter(self.left)

    def remove_stale_uploads(self, prefix="", *, older_than=timedelta(hours=1)):
        self._call("remove_stale_uploads", lambda: None)
        count, self.left = len(self.left), []
        return count

    def power_of(self, kind):
        return self if kind is StaleUploads else super().power_of(kind)


def leftovers(*left):
    places = []
    for each in left:
        place = Leftovers()
        place.left = [place.inner.put_raw(path, b"") or path for path in each]
        places.append(place)
    return places


def test_stale_uploads_are_those_of_all_targets():
    places = [*leftovers(("a", "b"), ("a",)), *switches(1)]
    multi = mirror(places)
    stale = power(multi, StaleUploads)
    assert list(stale.stale_uploads()) == ["a", "b", "a"]
    assert stale.remove_stale_uploads() == 3
    assert list(stale.stale_uploads()) == []
    assert power(mirror(switches(2)), StaleUploads) is None


def test_stale_uploads_of_a_target_that_is_down_are_an_error_and_the_others_are_removed():
    places = leftovers(("a",), ("a",))
    multi = mirror(places)
    places[0].down = True
    with pytest.raises(BackendUnavailable) as caught:
        list(multi.stale_uploads())
    assert "in target 't0'" in caught.value.__notes__
    with pytest.raises(BackendUnavailable):
        multi.remove_stale_uploads()
    assert (places[0].left, places[1].left) == (["a"], [])


def test_stale_uploads_of_local_targets(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    multi = MultiBackend([LocalBackend(folder) for folder in folders])
    writer = multi.open_writer("x")
    writer.write(b"bytes")
    writer.flush()
    assert list(multi.stale_uploads(older_than=timedelta(0))) == []
    writer.abort()
    assert multi.remove_stale_uploads(older_than=timedelta(0)) == 0
