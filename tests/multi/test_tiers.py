"""What tiers promise beyond what every backend does: routes, misses, failures, writing through."""

import itertools
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    ListOptions,
    LocalBackend,
    MemoryBackend,
    MultiBackend,
    MultiError,
    NotFound,
    PreconditionFailed,
    Prefix,
    ReadOptions,
    Store,
    Tier,
    TieredBackend,
    WriteOptions,
    open_backend,
)
from omnistorage.core import WRITE
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.testing import BasicBackend

from .places import Switch, filled
from .tiered import has, put, three

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
        def open_writer(self, path, options=WRITE):
            writer = super().open_writer(path, options)
            write = writer.write
            writer.write = lambda data: write(b"x" * len(data))
            return writer

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
        ("a URL or a path, not int", {"name": "a", "store": 3}),
        ("bad pattern", {"name": "a", "store": "./x", "match": "a["}),
        ("no key 'nam'; did you mean 'name'", {"nam": "a"}),
        ("the key 'store' is missing", {"name": "a"}),
        ("match is a pattern or a list", {"name": "a", "store": "./x", "match": 5}),
        ("match is a pattern or a list", {"name": "a", "store": "./x", "match": [5]}),
        ("tier 'a': unknown backend 's4'; did you mean 's3'", {"name": "a", "store": "s4://x"}),
        ("not str", "hot"),
    ],
)
def test_what_is_no_tier_is_refused(said, tier):
    with pytest.raises(ConfigError, match=said):
        TieredBackend([tier])


def test_a_text_and_a_path_object_are_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiers = TieredBackend([Tier("hot", "hot"), Tier("cold", Path("cold"))])
    multi = MultiBackend(["m1", Path("m2"), "./m3"])
    for backend in (tiers, multi):
        write_bytes(backend, "x", b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hot", "m1", "m2", "m3"]


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
