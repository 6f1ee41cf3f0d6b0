"""Several tiers asked at once: who is believed, what is promoted, and how they differ."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from omnistorage import (
    BackendUnavailable,
    Cancelled,
    CapabilityNotSupported,
    CorruptData,
    MemoryBackend,
    NotFound,
    PreconditionFailed,
    ReadOptions,
    Tier,
    TieredBackend,
    WriteOptions,
)
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.testing import BasicBackend
from omnistorage.testing.faults import Faulty

from ..waiting import LIMIT
from .places import Held, Switch, filled
from .tiered import has, put, shadowed, three

# -- several answers at once -------------------------------------------------------------------------------------------


def test_race_takes_the_first_good_answer_and_cancels_the_others():
    slow = Held(filled(x=b"slow"))
    tiers = TieredBackend([Tier("slow", slow), Tier("fast", filled(x=b"fast"))], read="race")
    assert read_bytes(tiers, "x") == b"fast"
    assert tiers.exists("x")
    assert tiers.stat("x").size == 4
    assert slow.cancelled.wait(LIMIT)


def test_race_lets_a_miss_and_a_failure_wait_for_a_good_answer():
    down = Switch(fails={"open_reader", "stat", "exists"})
    late = Held(filled(x=b"late"))
    tiers = TieredBackend([Tier("down", down), Tier("empty", MemoryBackend()), Tier("late", late)], read="race")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(read_bytes, tiers, "x")
        assert late.asked.wait(LIMIT)
        late.go()
        assert answer.result(LIMIT) == b"late"
        with pytest.raises(BackendUnavailable):
            read_bytes(tiers, "missing")


def test_race_closes_what_came_too_late():
    closed = threading.Event()

    class Late(Held):
        turn = threading.Event()

        def _before(self, op, number):
            self.asked.set()
            while not self.released:  # deaf to cancellation
                self.turn.wait(0.01)

        def _reader(self, reader, path):
            class Closing(type(super()._reader(reader, path))):
                def close(self):
                    closed.set()
                    super().close()

            return Closing(self, reader)

    slow = filled(x=b"late")
    slow._enter = lambda *given: None
    late = Late(slow)
    tiers = TieredBackend([Tier("late", late), Tier("fast", filled(x=b"fast"))], read="race")
    assert read_bytes(tiers, "x") == b"fast"
    late.go()
    assert closed.wait(LIMIT)


def test_a_race_ends_when_its_caller_is_cancelled():
    from omnistorage.concurrency.cancellation import CancelScope

    held = [Held(filled(x=b"")) for _ in range(2)]
    tiers = TieredBackend([Tier(f"t{n}", one) for n, one in enumerate(held)], read="race")
    scope = CancelScope()

    def run():
        with scope, pytest.raises(Cancelled):
            read_bytes(tiers, "x")

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run)
        assert all(one.asked.wait(LIMIT) for one in held)
        scope.cancel()
        done.result(LIMIT)
    assert all(one.cancelled.wait(LIMIT) for one in held)


def test_shadow_serves_the_first_and_compares_the_second():
    down = Switch(filled(e=b"e"), {"open_reader"})
    secondary = filled(same=b"same", size=b"longer", content=b"c0ntent", part=b"0123456789")
    tiers, told = shadowed(
        filled(same=b"same", size=b"size", content=b"content", gone=b"", part=b"0123x56789"), secondary
    )
    for path in ("same", "size", "content", "gone"):
        assert read_bytes(tiers, path) == read_bytes(tiers.tier("old").backend, path)
        tiers.drain()  # only so many are compared at once
    assert read_bytes(tiers, "part", ReadOptions(offset=5)) == b"56789"
    assert read_bytes(tiers, "part", ReadOptions(offset=3, length=4)) == b"3x56"
    tiers.drain()
    assert sorted((d.path, d.what) for d in told) == [
        ("content", "content"), ("gone", "missing"), ("part", "content"), ("size", "size"),
    ]  # fmt: skip
    assert {(d.primary, d.secondary) for d in told} == {("old", "new")}
    assert tiers.shadow_stats == (6, 4, 0, 0)
    tiers, told = shadowed(filled(e=b"e"), down)
    assert read_bytes(tiers, "e") == b"e"
    tiers.drain()
    assert [(d.what, type(d.error)) for d in told] == [("error", BackendUnavailable)]
    assert tiers.shadow_stats == (0, 0, 1, 0)


def test_shadow_compares_no_read_that_was_left_early_and_never_too_many_at_once():
    held = Held(filled(x=b"xy"))
    tiers, told = shadowed(filled(x=b"xy"), held)
    with tiers.open_reader("x") as reader:
        reader.read(1)
    assert tiers.shadow_stats.skipped == 1
    for _ in range(6):
        assert read_bytes(tiers, "x") == b"xy"
    assert tiers.shadow_stats.skipped == 3
    held.go()
    tiers.drain()
    assert (tiers.shadow_stats, told) == ((4, 0, 0, 3), [])


def test_closing_ends_the_comparisons():
    held = Held(filled(x=b"xy"))
    tiers, _ = shadowed(filled(x=b"xy"), held)
    read_bytes(tiers, "x")
    assert held.asked.wait(LIMIT)
    tiers.close()
    assert held.cancelled.is_set()


def test_quorum_serves_only_what_enough_tiers_agree_on():
    tiers = three(read="quorum")
    for name, data in (("hot", b"wrong"), ("warm", b"right"), ("cold", b"right")):
        put(tiers, name, "x", data)
    assert read_bytes(tiers, "x") == b"right"
    assert tiers.stat("x").etag.startswith("warm:")
    put(tiers, "hot", "y", b"1")
    with pytest.raises(NotFound, match="2 of 3"):
        read_bytes(tiers, "y")
    assert tiers.exists("y") is False
    for name, data in (("hot", b"1"), ("warm", b"2"), ("cold", b"3")):
        put(tiers, name, "z", data)
    with pytest.raises(CorruptData, match=r"no 2 of 3 tiers agree: hot \w+ .*, warm .*, cold") as caught:
        read_bytes(tiers, "z")
    assert caught.value.path == "z"


def test_quorum_counts_the_tiers_that_were_configured():
    places = [Switch(filled(x=b"1")) for _ in range(3)]
    tiers = TieredBackend([Tier(f"t{n}", place) for n, place in enumerate(places)], read="quorum")
    places[0].down = True
    assert read_bytes(tiers, "x") == b"1"
    places[1].down = True
    for call in (lambda: read_bytes(tiers, "x"), lambda: tiers.stat("x"), lambda: tiers.exists("x")):
        with pytest.raises(BackendUnavailable):
            call()


def test_quorum_reads_bytes_where_no_digest_is_stated():
    tiers = TieredBackend([Tier("basic", BasicBackend()), Tier("memory", MemoryBackend())], read="quorum")
    for place in tiers.places:
        write_bytes(place.backend, "x", b"same")
    assert read_bytes(tiers, "x") == b"same"
    write_bytes(tiers.tier("memory").backend, "x", b"sane")
    with pytest.raises(CorruptData):
        read_bytes(tiers, "x")


def test_quorum_never_serves_other_bytes_than_were_agreed_on():
    class Turning(MemoryBackend):
        """Shows one thing to who asks and gives another to who reads."""

        reads = 0

        def stat(self, path):
            return super().stat(path)._replace(hashes=None, etag=None)

        def open_reader(self, path, options=ReadOptions()):  # noqa: B008
            self.reads += 1
            self.put_raw(path, b"good" if self.reads < 2 else b"evil")
            return super().open_reader(path)

    tiers = TieredBackend([Tier("turning", Turning()), Tier("b", filled(x=b"good"))], read="quorum")
    tiers.tier("turning").backend.put_raw("x", b"good")
    with pytest.raises(CorruptData):
        read_bytes(tiers, "x")


@pytest.mark.parametrize("read", ["shadow", "quorum", "first"])
def test_who_reads_as_much_as_there_is_and_no_more_has_read_it_whole(read):
    tiers = TieredBackend(
        [Tier("a", filled()), Tier("b", filled(x=b"12345"))], promote_on_read=read == "first", read=read
    )
    if read != "first":
        put(tiers, "a", "x", b"1234!" if read == "shadow" else b"12345")
    if read == "quorum":
        good, evil = (filled(x=data).open_reader("x") for data in (b"12345", b"evil!"))
        readers = iter([good, evil])
        tiers.places[0].backend.open_reader = lambda path, options: next(readers)
        with tiers.open_reader("x") as reader, pytest.raises(CorruptData):
            assert reader.read(5) != b"evil!"
        return
    with tiers.open_reader("x") as reader:
        assert (reader.read(2), reader.read(3)[:2]) == (b"12", b"34")
    tiers.drain()
    if read == "shadow":
        assert tiers.shadow_stats.differing == 1
        assert read_bytes(tiers, "x", ReadOptions(1, 2)) == b"23"
        with tiers.open_reader("x", ReadOptions(3, 10)) as reader:
            assert reader.read(2) == b"4!"
        tiers.drain()
        assert tiers.shadow_stats[:2] == (3, 2)
    else:
        assert has(tiers, "a", "x") == b"12345"


def test_a_conditional_delete_deletes_nowhere_what_was_changed():
    tiers = three(write_through=True)
    write_bytes(tiers, "x", b"1")
    hot = tiers.tier("hot").backend
    etag = tiers.stat("x").etag
    once = hot.stat

    def stat_then_change(path):
        info = once(path)
        hot.put_raw(path, b"changed")
        return info

    hot.stat = stat_then_change
    with pytest.raises(PreconditionFailed):
        tiers.delete("x", if_match=etag)
    assert [has(tiers, name, "x") for name in ("hot", "warm", "cold")] == [b"changed", b"1", b"1"]


def test_metadata_is_set_wherever_it_was_written():
    when = datetime(2020, 1, 2, tzinfo=UTC)
    tiers = three(write_through=True)
    write_bytes(tiers, "x", b"1")
    tiers.tier("warm").backend.delete("x")
    assert tiers.set_metadata("x", modified_at=when).etag.startswith("hot:")
    assert [tiers.tier(name).backend.stat("x").modified_at for name in ("hot", "cold")] == [when, when]
    put(tiers, "warm", "y", b"")
    tiers = three()
    put(tiers, "cold", "z", b"")
    with pytest.raises(CapabilityNotSupported, match="tier 'cold'"):
        tiers.set_metadata("z", modified_at=when)


# -- promotion ---------------------------------------------------------------------------------------------------------


def test_what_was_read_whole_is_promoted_with_what_belongs_to_it():
    tiers = three(promote_on_read=True)
    options = WriteOptions(user_metadata={"k": "v"}, content_type="text/plain")
    write_bytes(tiers.tier("cold").backend, "x", b"cold", options)
    with tiers.open_reader("x") as reader:
        reader.read(2)
    assert has(tiers, "hot", "x") is None
    assert read_bytes(tiers, "x", ReadOptions(offset=1)) == b"old"
    assert has(tiers, "hot", "x") is None
    assert read_bytes(tiers, "x") == b"cold"
    assert has(tiers, "hot", "x") == b"cold"
    info = tiers.tier("hot").backend.stat("x")
    assert (info.metadata, info.content_type) == ({"k": "v"}, "text/plain")


def test_a_half_is_not_promoted_even_where_the_size_is_not_known():
    class Sizeless(Faulty):
        def _reader(self, reader, path):
            reader = super()._reader(reader, path)
            reader.inner._info = reader.inner.info._replace(size=None)
            return reader

    tiers = TieredBackend(
        [Tier("hot", MemoryBackend()), Tier("cold", Sizeless(filled(x=b"cold" * 100)))], promote_on_read=True
    )
    with tiers.open_reader("x") as reader:
        assert reader.info.size is None
        reader.read(2)
    assert has(tiers, "hot", "x") is None
    assert read_bytes(tiers, "x") == has(tiers, "hot", "x") == b"cold" * 100


def test_promotion_never_replaces_what_was_written_meanwhile():
    tiers = three(promote_on_read=True)
    put(tiers, "cold", "x", b"cold")
    with tiers.open_reader("x") as reader:
        head = reader.read(2)
        put(tiers, "hot", "x", b"newer")
        assert head + reader.read() == b"cold"
    assert has(tiers, "hot", "x") == b"newer"


@pytest.mark.parametrize("op", ["open_writer", "write", "close", "abort"])
def test_a_promotion_that_fails_does_not_fail_the_read(op):
    hot = Switch(fails={op})
    tiers = TieredBackend([Tier("hot", hot), Tier("cold", filled(x=b"cold"))], promote_on_read=True)
    assert read_bytes(tiers, "x") == b"cold"
    assert hot.inner.peek("x") == (b"cold" if op == "abort" else None)
