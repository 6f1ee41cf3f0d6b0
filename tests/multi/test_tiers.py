"""What tiers promise beyond what every backend does: routes, misses, failures, several answers at once."""

import gc
import itertools
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    Cancelled,
    CapabilityNotSupported,
    CompositeStore,
    ConfigError,
    CopyOptions,
    CorruptData,
    DirectoryNotEmpty,
    InvalidPath,
    ListOptions,
    LocalBackend,
    MemoryBackend,
    MultiError,
    NotFound,
    PreconditionFailed,
    Prefix,
    ReadOnly,
    ReadOptions,
    Store,
    Tier,
    TieredBackend,
    WriteOptions,
    open_backend,
)
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.testing import BasicBackend
from omnistorage.testing.faults import Faulty

from .places import Held, Switch, filled


def three(**options):
    return TieredBackend([Tier(name, MemoryBackend()) for name in ("hot", "warm", "cold")], **options)


def put(tiers, name, path, data):
    return write_bytes(tiers.tier(name).backend, path, data)


def has(tiers, name, path):
    return tiers.tier(name).backend.peek(path)


# -- fallthrough -------------------------------------------------------------------------------------------------------


def test_reads_try_the_tiers_in_order_and_the_first_that_has_it_wins():
    tiers = three()
    put(tiers, "cold", "x", b"cold")
    assert read_bytes(tiers, "x") == b"cold"
    put(tiers, "hot", "x", b"hot!!")
    assert read_bytes(tiers, "x") == b"hot!!"
    assert tiers.stat("x").size == 5
    assert [(info.path, info.size) for info in tiers.list()] == [("x", 5)]


def test_writes_deletes_and_moves_go_to_the_write_tier():
    tiers = three(write_tier="warm")
    write_bytes(tiers, "x", b"1")
    assert (has(tiers, "hot", "x"), has(tiers, "warm", "x")) == (None, b"1")
    tiers.move("x", "y")
    assert has(tiers, "warm", "y") == b"1"
    assert tiers.delete("y") is True
    assert tiers.delete("y") is False


def test_what_is_elsewhere_is_not_deleted_or_moved_silently():
    tiers = three()
    put(tiers, "cold", "x", b"cold")
    for call in (lambda: tiers.delete("x"), lambda: tiers.move("x", "y")):
        with pytest.raises(CapabilityNotSupported, match="tier 'cold'") as caught:
            call()
        assert caught.value.path == "x"
    assert has(tiers, "cold", "x") == b"cold"
    assert tiers.copy("x", "y").size == 4
    assert has(tiers, "hot", "y") == b"cold"


def test_a_store_that_does_not_say_what_it_deleted_is_asked_before():
    class Silent(MemoryBackend):
        def delete(self, path, *, if_match=None):
            super().delete(path, if_match=if_match)

    tiers = TieredBackend([Tier("hot", Silent(dirs=False)), Tier("cold", filled(x=b"cold"))])
    with pytest.raises(CapabilityNotSupported, match="tier 'cold'"):
        tiers.delete("x")
    write_bytes(tiers, "y", b"")
    assert (tiers.delete("y"), tiers.delete("y")) == (True, False)


def test_a_new_object_is_new_in_all_tiers():
    tiers = three()
    put(tiers, "cold", "x", b"cold")
    with pytest.raises(AlreadyExists, match="tier 'cold'"):
        write_bytes(tiers, "x", b"", WriteOptions(overwrite=False))
    assert has(tiers, "hot", "x") is None


def test_go_7_2_create_only_has_one_winner_through_tiers_too():
    for through in (False, True):
        tiers = three(write_through=through)
        for number in range(20):
            start = threading.Barrier(4)

            def create(which, number=number, start=start, tiers=tiers):
                start.wait()
                try:
                    write_bytes(tiers, f"x{number}", b"%d" % which, WriteOptions(overwrite=False))
                except AlreadyExists:
                    return None
                return which

            with ThreadPoolExecutor(4) as pool:
                winners = [one for one in pool.map(create, range(4)) if one is not None]
            assert len(winners) == 1
            assert read_bytes(tiers, f"x{number}") == b"%d" % winners[0]


def test_a_condition_holds_on_what_is_shown_whichever_tier_shows_it():
    tiers = three()
    put(tiers, "cold", "x", b"cold")
    shown = tiers.stat("x").etag
    write_bytes(tiers, "x", b"new", WriteOptions(if_match=shown))
    assert (has(tiers, "hot", "x"), has(tiers, "cold", "x")) == (b"new", b"cold")
    with pytest.raises(PreconditionFailed):
        write_bytes(tiers, "x", b"newer", WriteOptions(if_match=shown))
    with pytest.raises(PreconditionFailed):
        tiers.delete("x", if_match=shown)
    with pytest.raises(PreconditionFailed):
        read_bytes(tiers, "x", ReadOptions(if_match=shown))
    tiers.delete("x", if_match=tiers.stat("x").etag)
    assert read_bytes(tiers, "x", ReadOptions(if_match=shown)) == b"cold"


def test_etags_of_two_tiers_never_pass_for_one_another():
    tiers = three()
    put(tiers, "hot", "x", b"hot")
    put(tiers, "cold", "x", b"old")
    hot = tiers.stat("x").etag
    tiers.tier("hot").backend.delete("x")
    assert tiers.stat("x").etag != hot
    assert [info.etag for info in tiers.list()] == [tiers.stat("x").etag]
    with tiers.open_reader("x") as reader:
        assert reader.info.etag == tiers.stat("x").etag


def test_what_a_higher_tier_hides_is_not_written_on_condition():
    tiers = three(write_tier="cold")
    put(tiers, "hot", "x", b"hot")
    with pytest.raises(CapabilityNotSupported, match="hide"):
        write_bytes(tiers, "x", b"", WriteOptions(if_match=tiers.stat("x").etag))


# -- match -------------------------------------------------------------------------------------------------------------


def routed():
    return TieredBackend(
        [
            Tier("logs", MemoryBackend(), match="logs/**"),
            Tier("tables", MemoryBackend(), match=["*.parquet", "**/*.parquet"]),
        ],
        "match",
    )


def test_patterns_route_and_the_first_tier_that_matches_wins():
    tiers = routed()
    write_bytes(tiers, "logs/a.parquet", b"1")
    write_bytes(tiers, "b.parquet", b"2")
    assert has(tiers, "logs", "logs/a.parquet") == b"1"
    assert has(tiers, "tables", "b.parquet") == b"2"
    assert [info.path for info in tiers.list()] == ["b.parquet", "logs/a.parquet"]


def test_a_name_that_matches_nothing_is_not_there_and_cannot_be_written():
    tiers = routed()
    with pytest.raises(NotFound, match="logs/\\*\\*"):
        tiers.open_reader("x")
    with pytest.raises(NotFound):
        tiers.stat("x")
    assert tiers.exists("x") is False
    assert tiers.delete("x") is False
    with pytest.raises(InvalidPath, match=r"logs logs/\*\*, tables \*\.parquet\|\*\*/\*\.parquet") as caught:
        tiers.open_writer("x")
    assert caught.value.path == "x"


def test_a_tier_shows_only_what_belongs_to_it():
    tiers = routed()
    put(tiers, "tables", "logs/stray.parquet", b"")
    put(tiers, "tables", "notes.txt", b"")
    put(tiers, "logs", "elsewhere/x", b"")
    assert list(tiers.list()) == []
    assert list(tiers.list_dir()) == []
    with pytest.raises(NotFound):
        tiers.open_reader("logs/stray.parquet")
    with pytest.raises(NotFound):
        list(tiers.list_dir("elsewhere"))
    write_bytes(tiers, "logs/x", b"")
    assert [info.path for info in tiers.list_dir()] == ["logs"]


def test_across_tiers_what_is_moved_is_verified_before_its_source_goes():
    tiers = routed()
    write_bytes(tiers, "logs/a", b"data")
    assert tiers.move("logs/a", "a.parquet").path == "a.parquet"
    assert (has(tiers, "logs", "logs/a"), has(tiers, "tables", "a.parquet")) == (None, b"data")

    class Rotten(MemoryBackend):
        def open_reader(self, path, options=ReadOptions()):  # noqa: B008
            self.put_raw(path, b"rotten")
            return super().open_reader(path, options)

    tiers = TieredBackend([Tier("logs", MemoryBackend(), match="logs/**"), Tier("rest", Rotten())], "match")
    write_bytes(tiers, "logs/a", b"data")
    with pytest.raises(CorruptData):
        tiers.move("logs/a", "a")
    assert has(tiers, "logs", "logs/a") == b"data"
    assert not tiers.exists("a")


# -- tiers that fail ---------------------------------------------------------------------------------------------------


def test_a_tier_that_is_down_is_skipped_only_if_the_policy_says_so():
    hot, cold = Switch(filled(x=b"hot")), filled(x=b"cold", y=b"y")
    for skips in (False, True):
        tiers = TieredBackend([Tier("hot", hot), Tier("cold", cold)], skip_unavailable=skips)
        hot.down = True
        if skips:
            assert read_bytes(tiers, "x") == b"cold"
            assert tiers.exists("y")
        else:
            for call in (lambda tiers=tiers: read_bytes(tiers, "x"), lambda tiers=tiers: tiers.exists("y")):
                with pytest.raises(BackendUnavailable) as caught:
                    call()
                assert caught.value.__notes__ == ["in tier 'hot'"]
        hot.down = False
        assert read_bytes(tiers, "x") == b"hot"


def test_nothing_is_said_to_be_missing_that_a_tier_that_is_down_may_hold():
    hot = Switch()
    tiers = TieredBackend([Tier("hot", hot), Tier("cold", MemoryBackend())], skip_unavailable=True)
    hot.down = True
    for call in (
        lambda: tiers.open_reader("x"), lambda: tiers.stat("x"), lambda: tiers.exists("x"), lambda: list(tiers.list()),
        lambda: list(tiers.list_dir()), lambda: tiers.delete("x"),
    ):  # fmt: skip
        with pytest.raises(BackendUnavailable):
            call()


def test_a_listing_tells_of_the_tier_it_is_without():
    hot = Switch(filled(a=b"", c=b""))
    tiers = TieredBackend([Tier("hot", hot), Tier("cold", filled(b=b"", c=b"cold"))], skip_unavailable=True)
    told = []
    assert [info.path for info in tiers.list("", ListOptions(on_error=told.append))] == ["a", "b", "c"]
    assert told == []
    hot.down = True
    assert [info.path for info in tiers.list("", ListOptions(on_error=told.append))] == ["b", "c"]
    assert [type(error) for error in told] == [BackendUnavailable]


def test_a_tier_whose_root_is_missing_is_named(tmp_path):
    tiers = TieredBackend([Tier("hot", MemoryBackend()), Tier("cold", LocalBackend(tmp_path / "nowhere"))])
    write_bytes(tiers, "d/x", b"")
    for listing in (tiers.list, tiers.list_dir):
        with pytest.raises(NotFound, match="root of tier 'cold'"):
            list(listing())
    assert read_bytes(tiers, "d/x") == b""


def test_health_is_that_of_all_tiers_or_of_those_that_must_be_there():
    hot, cold = Switch(), Switch()
    tiers = TieredBackend([Tier("hot", hot), Tier("cold", cold)], skip_unavailable=True)
    strict = TieredBackend([Tier("hot", hot), Tier("cold", cold)])
    tiers.check_health()
    cold.down = True
    tiers.check_health()
    with pytest.raises(BackendUnavailable):
        strict.check_health()
    hot.down = True
    with pytest.raises(BackendUnavailable):
        tiers.check_health()


# -- writing through ---------------------------------------------------------------------------------------------------


def test_writing_through_reaches_every_tier_and_says_so_of_each():
    tiers = three(write_through=True)
    with tiers.open_writer("x") as writer:
        writer.write(b"1")
        writer.write(memoryview(b"23"))
    assert [(o.target, o.state, o.info.size) for o in writer.outcomes.values()] == [
        (name, "committed", 3) for name in ("hot", "warm", "cold")
    ]
    assert [has(tiers, name, "x") for name in ("hot", "warm", "cold")] == [b"123"] * 3
    assert tiers.delete("x") is True
    assert [has(tiers, name, "x") for name in ("hot", "warm", "cold")] == [None] * 3


def test_writing_through_some_leaves_the_others_alone():
    tiers = three(write_through=["cold"])
    write_bytes(tiers, "x", b"1")
    assert [has(tiers, name, "x") for name in ("hot", "warm", "cold")] == [b"1", None, b"1"]


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("op", ["open_writer", "write", "flush", "prepare"])
def test_nothing_is_published_when_one_tier_fails_before_all_are_ready(which, op):
    places = [Switch(filled(x=b"old"), {op} if number == which else ()) for number in range(3)]
    tiers = TieredBackend([Tier(f"t{number}", place) for number, place in enumerate(places)], write_through=True)
    with pytest.raises(BackendUnavailable) as caught, tiers.open_writer("x") as writer:
        writer.write(b"new")
        writer.flush()
    assert caught.value.__notes__ == [f"in tier 't{which}'"]
    assert [place.inner.peek("x") for place in places] == [b"old"] * 3


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_publication_that_stops_halfway_is_told_tier_by_tier(which):
    places = [Switch(filled(x=b"old"), {"close"} if number == which else ()) for number in range(3)]
    tiers = TieredBackend([Tier(f"t{number}", place) for number, place in enumerate(places)], write_through=True)
    writer = tiers.open_writer("x")
    writer.write(b"new")
    with pytest.raises(BackendUnavailable if which == 2 else MultiError) as caught:
        writer.close()
    states = {name: outcome.state for name, outcome in writer.outcomes.items()}
    assert states == {f"t{n}": "unknown" if n == which else "committed" if n > which else "aborted" for n in range(3)}
    for number, place in enumerate(places):
        assert place.inner.peek("x") == (b"new" if number > which else b"old")
    if which != 2:
        assert {outcome.target: outcome.state for outcome in caught.value.outcomes} == states
        assert caught.value.path == "x"
    with pytest.raises((BackendUnavailable, MultiError)):
        writer.close()


def test_a_dropped_writer_publishes_nowhere():
    tiers = three(write_through=True)
    writer = tiers.open_writer("x")
    writer.write(b"half")
    with pytest.warns(ResourceWarning):
        del writer
    assert [has(tiers, name, "x") for name in ("hot", "warm", "cold")] == [None] * 3


# -- several answers at once -------------------------------------------------------------------------------------------


def test_race_takes_the_first_good_answer_and_cancels_the_others():
    slow = Held(filled(x=b"slow"))
    tiers = TieredBackend([Tier("slow", slow), Tier("fast", filled(x=b"fast"))], read="race")
    assert read_bytes(tiers, "x") == b"fast"
    assert tiers.exists("x")
    assert tiers.stat("x").size == 4
    assert slow.cancelled.wait(30)


def test_race_lets_a_miss_and_a_failure_wait_for_a_good_answer():
    down = Switch(fails={"open_reader", "stat", "exists"})
    late = Held(filled(x=b"late"))
    tiers = TieredBackend([Tier("down", down), Tier("empty", MemoryBackend()), Tier("late", late)], read="race")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(read_bytes, tiers, "x")
        assert late.asked.wait(30)
        late.go()
        assert answer.result(30) == b"late"
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

    late = Late(filled(x=b"late"))
    tiers = TieredBackend([Tier("late", late), Tier("fast", filled(x=b"fast"))], read="race")
    assert read_bytes(tiers, "x") == b"fast"
    late.go()
    assert closed.wait(30)


def test_a_race_ends_when_its_caller_is_cancelled():
    from omnistorage.policies import CancelScope

    held = [Held(filled(x=b"")) for _ in range(2)]
    tiers = TieredBackend([Tier(f"t{n}", one) for n, one in enumerate(held)], read="race")
    scope = CancelScope()

    def run():
        with scope, pytest.raises(Cancelled):
            read_bytes(tiers, "x")

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run)
        assert all(one.asked.wait(30) for one in held)
        scope.cancel()
        done.result(30)
    assert all(one.cancelled.wait(30) for one in held)


def shadowed(primary, secondary):
    told = []
    tiers = TieredBackend([Tier("old", primary), Tier("new", secondary)], read="shadow", on_difference=told.append)
    return tiers, told


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
    assert held.asked.wait(30)
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


# -- what is said without I/O ------------------------------------------------------------------------------------------


def test_resolve_names_the_candidates_in_order_and_does_no_io():
    hot, cold = Switch(), Switch()
    tiers = TieredBackend([Tier("hot", hot), Tier("cold", cold)])
    plan = tiers.resolve("a/b")
    assert (plan.kind, plan.key, plan.backend) == ("composite", "a/b", "tiered")
    assert [one["tier"] for one in plan.details["tiers"]] == ["hot", "cold"]
    assert (hot.calls, cold.calls) == (0, 0)
    assert [one["tier"] for one in routed().resolve("x.parquet").details["tiers"]] == ["tables"]
    assert routed().resolve("nothing").details["tiers"] == ()


def test_making_tiers_opens_nothing(tmp_path):
    tiers = TieredBackend([Tier("a", f"file://{tmp_path}/a"), {"name": "b", "store": f"{tmp_path}/b"}])
    assert list(tmp_path.iterdir()) == []
    write_bytes(tiers, "x", b"1")
    assert (tmp_path / "a" / "x").read_bytes() == b"1"
    tiers.close()


def test_tiers_pickle_and_open_from_options(tmp_path):
    options = {"tiers": [{"name": "a", "store": str(tmp_path / "a")}, {"name": "b", "store": str(tmp_path / "b")}]}
    tiers = open_backend("tiered", {**options, "write_tier": "b", "skip_unavailable": True})
    write_bytes(tiers, "x", b"1")
    again = pickle.loads(pickle.dumps(tiers))
    assert read_bytes(again, "x") == b"1"
    assert (again.writes[0].name, again._skips) == ("b", True)


def test_goal_41_a_tier_shows_and_pickles_no_secret_of_its_url():
    secret = "s3kr1t"
    tier = Tier("a", f"sftp://me:{secret}@host/x")
    tiers = TieredBackend([tier, {"name": "b", "store": f"sftp://me:{secret}@host/y"}])
    for shown in (tier, tiers, tiers.resolve("x"), tiers.places):
        assert secret not in repr(shown) + str(shown)
    for kept in (tier, tiers):
        with pytest.raises(ConfigError) as caught:
            pickle.dumps(kept)
        assert secret not in str(caught.value)


def test_closing_closes_backends_and_leaves_borrowed_stores_open():
    borrowed, owned, plain = MemoryBackend(), MemoryBackend(), MemoryBackend()
    tiers = TieredBackend([Tier("a", Store(borrowed, owns=False)), Tier("b", Store(owned)), Tier("c", plain)])
    tiers.close()
    assert (borrowed._closed, owned._closed, plain._closed) == (False, True, True)


@pytest.mark.parametrize(
    ("said", "arguments", "options"),
    [
        ("there are no tiers", ([],), {}),
        ("two tiers have the name 'a'", (["a", "a"],), {}),
        ("mode is one of", (["a"], "both"), {}),
        ("read is one of", (["a", "b"],), {"read": "last"}),
        ("no tier 'x'; there are: a, b", (["a", "b"],), {"write_tier": "x"}),
        ("no tier 'x'", (["a", "b"],), {"write_through": ["x"]}),
        ("has one tier", (["a", "b"], "match"), {"read": "race"}),
        ("has one tier", (["a", "b"], "match"), {"write_through": True}),
        ("quorum is for", (["a", "b"],), {"quorum": 1}),
        ("a quorum of 3 among 2", (["a", "b"],), {"read": "quorum", "quorum": 3}),
        ("needs two tiers", (["a"],), {"read": "shadow"}),
        ("promote_on_read needs", (["a", "b"],), {"promote_on_read": True, "write_through": True}),
        ("write_through is True, or the names", (["a", "b"],), {"write_through": 5}),
        ("on_difference takes a Difference", (["a", "b"],), {"read": "shadow", "on_difference": 5}),
    ],
)
def test_tiers_that_do_not_fit_together_are_refused(said, arguments, options):
    names, *rest = arguments
    with pytest.raises(ConfigError, match=said):
        TieredBackend([Tier(name, MemoryBackend()) for name in names], *rest, **options)


@pytest.mark.parametrize(
    ("said", "tier"),
    [
        ("made of letters", {"name": "a:b", "store": "x"}),
        ("made of letters", {"name": "", "store": "x"}),
        ("a backend or a URL, not int", {"name": "a", "store": 3}),
        ("bad pattern", {"name": "a", "store": "./x", "match": "a["}),
        ("no key 'nam'; did you mean 'name'", {"nam": "a"}),
        ("the key 'store' is missing", {"name": "a"}),
        ("'warm' is no URL, and a path has a slash in it: ./warm", {"name": "a", "store": "warm"}),
        ("match is a pattern or a list", {"name": "a", "store": "./x", "match": 5}),
        ("match is a pattern or a list", {"name": "a", "store": "./x", "match": [5]}),
        ("tier 'a': unknown backend 's4'; did you mean 's3'", {"name": "a", "store": "s4://x"}),
        ("not str", "hot"),
    ],
)
def test_what_is_no_tier_is_refused(said, tier):
    with pytest.raises(ConfigError, match=said):
        TieredBackend([tier])


def test_patterns_in_the_wrong_mode_are_refused():
    with pytest.raises(ConfigError, match="mode='match'"):
        TieredBackend([Tier("a", MemoryBackend(), match="x")])


def test_tiers_of_stores_see_their_own_roots():
    backend = MemoryBackend()
    tiers = TieredBackend([Tier("a", Store(backend, "one")), Tier("b", Prefix(backend, "two"))])
    write_bytes(tiers, "x", b"1")
    assert backend.peek("one/x") == b"1"
    put(tiers, "b", "y", b"2")
    assert [info.path for info in tiers.list()] == ["x", "y"]


def test_a_range_of_a_tier_without_ranges_is_read_all_the_same():
    tiers = TieredBackend([Tier("basic", BasicBackend()), Tier("memory", MemoryBackend())])
    write_bytes(tiers, "x", bytes(range(100)))
    for offset, length in itertools.product((0, 1, 50, 99, 100, 200), (None, 0, 1, 60)):
        wanted = bytes(range(100))[offset : None if length is None else offset + length]
        assert read_bytes(tiers, "x", ReadOptions(offset, length)) == wanted
        with tiers.open_reader("x", ReadOptions(offset, length)) as reader:
            assert b"".join(iter(lambda: reader.read(7), b"")) == wanted


def test_tiers_on_disk_keep_their_files_apart(tmp_path):
    tiers = TieredBackend([Tier(name, LocalBackend(tmp_path / name)) for name in ("hot", "cold")], write_through=True)
    write_bytes(tiers, "a/x", b"1")
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()) == [
        "cold/a/x", "hot/a/x",
    ]  # fmt: skip


# -- what a reading by others found ------------------------------------------------------------------------------------


def test_tiers_in_one_place_are_refused(tmp_path):
    backend = MemoryBackend()
    with pytest.raises(ConfigError, match="'hot' and 'cold' are the same place"):
        TieredBackend([Tier("hot", Store(backend)), Tier("cold", Store(backend))])
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    store = CompositeStore([Tier("hot", f"{tmp_path}/real"), Tier("cold", f"{tmp_path}/alias")])
    (tmp_path / "real" / "k").write_bytes(b"only copy")
    with pytest.raises(InvalidPath, match="one place"):
        store.migrate("k", "hot", "cold")
    assert (tmp_path / "real" / "k").read_bytes() == b"only copy"


def test_a_range_in_shadow_is_that_range_whichever_tier_has_none():
    for primary, secondary in ((BasicBackend, MemoryBackend), (MemoryBackend, BasicBackend)):
        tiers, told = shadowed(primary(), secondary())
        for place in tiers.places:
            write_bytes(place.backend, "x", b"0123456789")
        assert read_bytes(tiers, "x", ReadOptions(4, 3)) == b"456"
        tiers.drain()
        assert (told, tiers.shadow_stats) == ([], (1, 0, 0, 0))


def test_what_is_copied_and_compared_by_quorum_is_what_was_agreed_on():
    tiers = TieredBackend([Tier(name, MemoryBackend()) for name in "abc"], read="quorum", write_through=["b", "c"])
    for name, data in (("a", b"EVIL"), ("b", b"good"), ("c", b"good")):
        put(tiers, name, "k", data)
    assert tiers.stat("k").etag.startswith("b:")
    alone = TieredBackend([place.tier for place in tiers.places], read="quorum", write_tier="b")
    alone.copy("k", "z")
    assert has(alone, "b", "z") == b"good"
    etag = tiers.stat("k").etag
    with pytest.raises(PreconditionFailed):
        tiers.open_reader("k", ReadOptions(if_none_match=etag))
    assert read_bytes(tiers, "k", ReadOptions(if_match=etag, offset=1)) == b"ood"
    write_bytes(tiers, "k", b"new!", WriteOptions(if_match=etag))
    assert (has(tiers, "b", "k"), has(tiers, "c", "k")) == (b"new!", b"new!")


@pytest.mark.parametrize("read", ["race", "first"])
def test_what_was_shown_can_be_read_on_and_replaced(read):
    slow = Held(filled(k=b"0123456789"))
    fast = filled(k=b"0123456789")
    if read == "race":
        tiers = TieredBackend([Tier("slow", slow), Tier("fast", fast)], read="race", write_tier="fast")
    else:
        tiers = TieredBackend([Tier("hot", MemoryBackend()), Tier("cold", fast)], promote_on_read=True)
    with Store(tiers).open("k") as file:
        assert file.read() == b"0123456789"
        file.seek(2)
        assert file.read() == b"23456789"
    if read == "race":
        write_bytes(tiers, "k", b"new", WriteOptions(if_match=tiers.stat("k").etag))
        assert fast.peek("k") == b"new"


@pytest.mark.parametrize("change", ["overwritten", "deleted"])
def test_what_changed_while_it_was_read_is_not_promoted(change):
    tiers = three(promote_on_read=True)
    put(tiers, "cold", "x", b"v1")
    with tiers.open_reader("x") as reader:
        head = reader.read(1)
        if change == "deleted":
            tiers.tier("cold").backend.delete("x")
        else:
            put(tiers, "cold", "x", b"v2")
        assert head + reader.read(10) == b"v1"
    assert has(tiers, "hot", "x") is None


def test_what_turns_out_damaged_at_its_end_is_not_promoted():
    class Objecting(Faulty):
        def _reader(self, reader, path):
            class Reader(type(super()._reader(reader, path))):
                def read(self, size=-1, /):
                    data = super().read(size)
                    if not data:
                        raise CorruptData("the digest is another one")
                    return data

            return Reader(self, reader)

    tiers = TieredBackend(
        [Tier("hot", MemoryBackend()), Tier("cold", Objecting(filled(x=b"damaged")))], promote_on_read=True
    )
    with tiers.open_reader("x") as reader:
        assert reader.read(7) == b"damaged"
        with pytest.raises(CorruptData):
            reader.read(1)
    assert has(tiers, "hot", "x") is None


def test_a_promoting_reader_may_be_closed_while_it_reads():
    tiers = three(promote_on_read=True)
    put(tiers, "cold", "x", b"x" * 100)
    reader = tiers.open_reader("x")
    taken = reader._took

    def close_then_take(data):
        reader.close()
        taken(data)

    reader._took = close_then_take
    assert reader.read(10) == b"x" * 10
    assert has(tiers, "hot", "x") is None


def test_a_miss_keeps_nothing_of_its_callers_alive():
    tiers = three()
    put(tiers, "cold", "x", b"1")
    calls = (
        lambda: read_bytes(tiers, "x"), lambda: tiers.exists("missing"), lambda: list(tiers.list_dir("nothing")),
        lambda: tiers.stat("missing"),
    )  # fmt: skip

    class Canary:
        pass

    for call in calls:
        gc.disable()
        try:
            seen = []

            def run(call=call, seen=seen):
                canary = Canary()
                seen.append(weakref.ref(canary))
                try:
                    call()
                except NotFound:
                    pass

            run()
            assert seen[0]() is None
        finally:
            gc.enable()


def test_a_failure_names_its_tier_whatever_was_called():
    hot = Switch(filled(x=b""))
    tiers = TieredBackend([Tier("hot", hot), Tier("cold", MemoryBackend())], write_through=True)
    race = TieredBackend([Tier("hot", hot), Tier("cold", MemoryBackend())], read="race")
    hot.down = True
    for call in (
        lambda: tiers.open_writer("y"), lambda: tiers.delete("x"), lambda: list(tiers.list_dir()),
        lambda: list(tiers.list()), lambda: tiers.mkdir("d"), lambda: read_bytes(race, "x"),
    ):  # fmt: skip
        with pytest.raises(BackendUnavailable) as caught:
            call()
        assert caught.value.__notes__ == ["in tier 'hot'"]


def test_what_cannot_be_deleted_is_not_copied_first():
    tiers = [Tier("logs", ReadOnly(filled(**{"logs/x": b"1"})), match="logs/**"), Tier("rest", MemoryBackend())]
    store = CompositeStore(tiers, "match")
    with pytest.raises(CapabilityNotSupported):
        store.move("logs/x", "y")
    assert not store.exists("y")
    store = CompositeStore([Tier("hot", ReadOnly(filled(x=b"1"))), Tier("cold", MemoryBackend())])
    with pytest.raises(CapabilityNotSupported, match="copy it instead"):
        store.migrate("x", "hot", "cold")
    assert not store.tier("cold").exists("x")
    inner = TieredBackend([Tier("top", MemoryBackend()), Tier("below", filled(x=b"1"))])
    store = CompositeStore([Tier("hot", inner), Tier("cold", MemoryBackend())])
    with pytest.raises(CapabilityNotSupported, match="tier 'below'"):
        store.migrate("x", "hot", "cold")
    assert not store.tier("cold").exists("x")


@pytest.mark.parametrize("kind", ["local", "basic"])
def test_a_source_that_changed_is_kept_where_there_are_no_conditions(kind, tmp_path):
    class Late(MemoryBackend):
        """Changes the source when the copy is there."""

        def stat(self, path):
            info = super().stat(path)
            write_bytes(source, "x", b"newer!")
            return info

        def open_reader(self, path, options=ReadOptions()):  # noqa: B008
            write_bytes(source, "x", b"newer!")
            return super().open_reader(path, options)

    source = LocalBackend(tmp_path) if kind == "local" else BasicBackend()
    write_bytes(source, "x", b"older.")
    store = CompositeStore([Tier("hot", source), Tier("cold", Late())])
    with pytest.raises(PreconditionFailed):
        store.migrate("x", "hot", "cold")
    assert read_bytes(source, "x") == b"newer!"


def test_no_more_threads_are_no_reason_to_fail(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    tiers = TieredBackend([Tier("a", filled(x=b"1")), Tier("b", filled(x=b"1"))], read="race")
    quorum = TieredBackend([place.tier for place in tiers.places], read="quorum")
    shadow = TieredBackend([place.tier for place in tiers.places], read="shadow")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert read_bytes(tiers, "x") == read_bytes(quorum, "x") == read_bytes(shadow, "x") == b"1"
    assert shadow.shadow_stats.skipped == 1
    shadow.drain()


def test_what_on_difference_raises_harms_nobody(caplog):
    tiers = TieredBackend(
        [Tier("a", filled(x=b"1")), Tier("b", MemoryBackend())], read="shadow", on_difference=lambda d: 1 / 0
    )
    assert read_bytes(tiers, "x") == b"1"
    tiers.drain()
    assert "on_difference failed" in caplog.text


def test_written_through_are_folders_and_conditions_too_and_urls_are_refused():
    tiers = three(write_through=["cold"])
    tiers.mkdir("d")
    assert all(tiers.tier(name).backend.list_dir("d") is not None for name in ("hot", "cold"))
    put(tiers, "warm", "x", b"warm")
    put(tiers, "cold", "x", b"cold")
    write_bytes(tiers, "x", b"new", WriteOptions(if_match=tiers.stat("x").etag))
    assert [has(tiers, name, "x") for name in ("hot", "warm", "cold")] == [b"new", b"warm", b"new"]


def test_a_copy_onto_what_a_lower_tier_has_is_no_new_object():
    tiers = three()
    put(tiers, "hot", "a", b"1")
    put(tiers, "cold", "b", b"2")
    for call in (tiers.copy, tiers.move):
        with pytest.raises(AlreadyExists):
            call("a", "b", CopyOptions(overwrite=False))
    assert has(tiers, "hot", "b") is None


def test_nothing_is_appended_to_what_lies_elsewhere():
    tiers = three()
    put(tiers, "cold", "x", b"1")
    with pytest.raises(CapabilityNotSupported, match="tier 'cold'"):
        tiers.open_appender("x")
    with tiers.open_appender("y") as writer:
        writer.write(b"1")
    assert has(tiers, "hot", "y") == b"1"


def test_a_folder_that_holds_something_in_another_tier_is_not_removed():
    tiers = three()
    tiers.mkdir("d")
    put(tiers, "cold", "d/x", b"")
    with pytest.raises(DirectoryNotEmpty):
        tiers.rmdir("d")
    tiers.tier("cold").backend.delete("d/x")
    tiers.tier("cold").backend.mkdir("e")
    with pytest.raises(CapabilityNotSupported, match="tier 'cold'"):
        tiers.rmdir("e")


def test_listing_folders_of_tiers_costs_no_listing_of_each():
    class Counting(MemoryBackend):
        lists = 0

        def list(self, prefix="", options=ListOptions()):  # noqa: B008
            self.lists += 1
            return super().list(prefix, options)

    rest = Counting(dirs=False)
    tiers = TieredBackend([Tier("logs", MemoryBackend(), match="logs/**"), Tier("rest", rest)], "match")
    for number in range(50):
        write_bytes(rest, f"d{number}/x", b"")
    assert len(list(tiers.list_dir())) == 50
    assert rest.lists == 0
