"""A Store over tiers: what users of hot, warm and cold storage do with it."""

import csv
import io
import json
import pickle
import threading

import pytest

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    Capability,
    CompositeStore,
    ConfigError,
    CorruptData,
    InvalidPath,
    LocalBackend,
    MemoryBackend,
    NotFound,
    PreconditionFailed,
    ProxyStore,
    Registry,
    Store,
    Tier,
)
from omnistorage.testing.faults import Faulty


class Down(Faulty):
    """Fails at the calls named in ``fails``, and counts all."""

    def __init__(self, inner=None, fails=()):
        super().__init__(inner or MemoryBackend())
        self.fails = set(fails)

    def _before(self, op, number):
        if op in self.fails or "all" in self.fails:
            raise BackendUnavailable("down")


def seasons(**options):
    return CompositeStore([Tier(name, Store(MemoryBackend())) for name in ("hot", "warm", "cold")], **options)


def names(found):
    return [info.path for info in found]


def test_a_season_goes_from_hot_to_cold_and_is_read_as_before():
    store = seasons()
    for month in range(1, 7):
        with store.open(f"logs/2026/{month:02}.ndjson.gz", "wt") as file:
            file.write(json.dumps({"month": month}) + "\n")
    done = store.migrate_folder("logs/2026", "hot", "cold")
    assert (done.path, done.file_count) == ("logs/2026", 6)
    assert names(store.list_files("logs", recursive=True, tier="hot")) == []
    assert len(names(store.list_files("logs", recursive=True, tier="cold"))) == 6
    with store.open_records("logs/2026/03.ndjson.gz") as records:
        assert list(records) == [{"month": 3}]
    assert store.get_folder_info("logs").file_count == 6


def test_migrating_copies_verifies_and_only_then_deletes():
    class Rotten(MemoryBackend):
        def open_writer(self, path, *options):
            writer = super().open_writer(path, *options)
            write = writer.write
            writer.write = lambda data: write(b"x" * len(data))
            return writer

    class Turning(MemoryBackend):
        """Changes while it is copied."""

        def open_reader(self, path, *options):
            reader = super().open_reader(path, *options)
            self.put_raw(path, b"newer")
            return reader

    hot = MemoryBackend()
    hot.put_raw("x", b"data")
    store = CompositeStore([Tier("hot", hot), Tier("cold", Rotten())])
    with pytest.raises(CorruptData):
        store.migrate("x", "hot", "cold")
    assert (hot.peek("x"), store.tier("cold").exists("x")) == (b"data", False)

    store = CompositeStore([Tier("hot", Turning()), Tier("cold", MemoryBackend())])
    store.write("x", b"older")
    with pytest.raises(PreconditionFailed):
        store.migrate("x", "hot", "cold")
    assert store.tier("hot").read_bytes("x") == b"newer"


def test_a_migration_that_was_cut_short_goes_on():
    hot = Down(fails={"delete"})
    store = CompositeStore([Tier("hot", hot), Tier("cold", MemoryBackend())])
    for number in range(5):
        store.write(f"d/{number}", b"%d" % number)
    with pytest.raises(BackendUnavailable):
        store.migrate_folder("d", "hot", "cold")
    assert store.tier("cold").read_bytes("d/0") == b"0"
    assert store.tier("hot").read_bytes("d/0") == b"0"
    hot.fails.clear()
    assert store.migrate_folder("d", "hot", "cold").file_count == 5
    assert names(store.tier("hot").list_files("d")) == []
    assert [store.read_bytes(f"d/{number}") for number in range(5)] == [b"%d" % number for number in range(5)]


def test_migrating_never_replaces_another_object_unasked():
    store = seasons()
    store.write("x", b"hot")
    store.tier("cold").write("x", b"old")
    with pytest.raises(AlreadyExists, match="tier 'cold'") as caught:
        store.migrate("x", "hot", "cold")
    assert caught.value.path == "x"
    assert store.read_bytes("x") == b"hot"
    assert store.migrate("x", "hot", "cold", overwrite=True).size == 3
    assert (store.tier("hot").exists("x"), store.tier("cold").read_bytes("x")) == (False, b"hot")


def test_migrating_to_a_tier_without_create_only_asks_first():
    from omnistorage.testing import BasicBackend

    store = CompositeStore([Tier("hot", MemoryBackend()), Tier("cold", BasicBackend())])
    store.write("x", b"1")
    store.tier("cold").write("x", b"2", overwrite=True)
    with pytest.raises(AlreadyExists):
        store.migrate("x", "hot", "cold")
    assert store.tier("cold").read_bytes("x") == b"2"


def test_patterns_that_changed_are_followed_by_a_migration():
    old, new = MemoryBackend(), MemoryBackend()
    old.put_raw("logs/a", b"1")
    store = CompositeStore([Tier("logs", new, match="logs/**"), Tier("rest", old)], "match")
    assert not store.exists("logs/a")
    assert store.migrate("logs/a", "rest", "logs").path == "logs/a"
    assert store.read_bytes("logs/a") == b"1"
    with pytest.raises(InvalidPath, match="patterns"):
        store.migrate("logs/a", "logs", "rest")


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (ConfigError, ("x", "hot", "warn")),
        (ConfigError, ("x", "cool", "warm")),
        (InvalidPath, ("x", "hot", "hot")),
        (InvalidPath, ("", "hot", "warm")),
        (NotFound, ("missing", "hot", "warm")),
    ],
)
def test_a_migration_that_cannot_be_says_why(error, arguments):
    store = seasons()
    store.write("x", b"1")
    with pytest.raises(error):
        store.migrate(*arguments)
    with pytest.raises(NotFound):
        store.migrate_folder("missing", "hot", "cold")
    assert store.migrate_folder("", "hot", "cold").file_count == 1


def test_resolve_is_pure_and_a_probe_says_what_it_tried():
    hot, cold = Down(), Down()
    store = CompositeStore([Tier("hot", hot), Tier("cold", cold)]).child("a").child("b")
    plan = store.resolve("x")
    assert (plan.kind, plan.key, [one["tier"] for one in plan.details["tiers"]]) == ("composite", "x", ["hot", "cold"])
    assert (hot.calls, cold.calls) == (0, 0)
    cold.inner.put_raw("a/b/x", b"")
    assert store.resolve("x", probe=True).details["resolved_tier"] == "cold"
    assert store.resolve("x", probe=True).details["tried"] == ("hot", "cold")
    assert store.resolve("y", probe=True).details["resolved_tier"] is None
    assert store.resolve("y", probe=True).details["exists"] is False


def test_a_thousand_children_ask_nothing():
    hot = Down(fails={"all"})
    store = CompositeStore([Tier("hot", hot), Tier("cold", MemoryBackend())])
    children = [store.child(f"d{number}") for number in range(1000)]
    assert hot.calls == 0
    assert children[7] == store.child("d7") != store.child("d8")
    assert len(set(children)) == 1000


def test_a_child_is_composite_and_migrates_within_its_folder():
    store = seasons().child("logs")
    store.write("x", b"1")
    assert store.migrate("x", "hot", "cold").path == "x"
    store.write("d/y", b"1")
    assert store.migrate_folder("d", "hot", "warm").file_count == 1
    assert names(store.list_files(recursive=True)) == ["d/y", "x"]
    assert names(store.list_files(recursive=True, tier="cold")) == ["x"]
    assert store.tiers == ("hot", "warm", "cold")
    with pytest.raises(NotFound) as caught:
        store.read_bytes("missing")
    assert caught.value.path == "missing"


def test_capabilities_are_the_union_for_reading_and_the_write_tiers_for_writing():
    from omnistorage.testing import BasicBackend

    basic, memory = Store(BasicBackend()), Store(MemoryBackend())
    store = CompositeStore([Tier("basic", basic), Tier("memory", memory)])
    assert store.supports(Capability.RANGE_READ)
    assert not store.supports(Capability.CREATE_ONLY)
    other = CompositeStore([Tier("basic", basic), Tier("memory", memory)], write_tier="memory")
    writing = {
        Capability.WRITE,
        Capability.DELETE,
        Capability.ATOMIC_WRITE,
        Capability.CREATE_ONLY,
        Capability.IF_MATCH,
    }
    assert other.capabilities & writing == memory.capabilities & writing
    assert store.capabilities & writing == basic.capabilities & writing


def test_it_is_a_store_that_can_be_wrapped_nested_and_given_where_a_backend_is_wanted():
    from omnistorage import open_records

    inner = seasons()
    outer = CompositeStore([Tier("new", Store(MemoryBackend())), Tier("old", inner)])
    inner.write("x", b"inner")
    proxy = ProxyStore(outer)
    assert proxy.read_bytes("x") == b"inner"
    assert isinstance(proxy.child("d"), ProxyStore)
    with open_records(outer, "r.csv", "w") as records:
        records.write({"a": 1})
    assert list(csv.DictReader(io.StringIO(outer.read_text("r.csv")))) == [{"a": "1"}]
    assert inner.exists("r.csv") is False
    assert outer.resolve("x").details["tiers"][1]["kind"] == "composite"
    plain = Store(outer)
    assert plain.read_bytes("x") == b"inner"


def test_it_pickles_with_its_root(tmp_path):
    tiers = [Tier(name, LocalBackend(tmp_path / name)) for name in ("hot", "cold")]
    store = CompositeStore(tiers, promote_on_read=True).child("d")
    store.tier("cold").write("x", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert type(again) is CompositeStore
    assert again.read_bytes("x") == b"1"
    assert (tmp_path / "hot" / "d" / "x").read_bytes() == b"1"


def test_a_registry_makes_it_of_data(tmp_path):
    config = {
        "backends": {
            "seasons": {
                "type": "tiered",
                "options": {"tiers": [{"name": name, "store": f"{tmp_path}/{name}"} for name in ("hot", "cold")]},
            }
        },
        "stores": {"logs": {"backend": "seasons", "root_path": "logs"}},
    }
    with Registry(config) as registry:
        store = registry.get_store("logs")
        assert isinstance(store, CompositeStore)
        store.write("x", b"1")
        store.migrate("x", "hot", "cold")
        assert (tmp_path / "cold" / "logs" / "x").read_bytes() == b"1"
        assert registry.get_store("logs") is store


def test_writes_of_many_threads_meet_whole():
    store = seasons(write_through=True)
    start = threading.Barrier(4)

    def write(number):
        start.wait()
        for turn in range(25):
            store.write("x", b"%d" % number * 1000, overwrite=True)
            assert len(set(store.read_bytes("x"))) == 1, turn

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(store.read_bytes("x"))) == 1


def test_folders_of_all_tiers_show_as_one():
    store = seasons()
    store.write("d/a", b"")
    store.tier("cold").write("d/b", b"")
    store.tier("warm").write("e/c", b"")
    assert [entry.path for entry in store.list_folders()] == ["d", "e"]
    assert names(store.iter_children("d")) == ["d/a", "d/b"]
    assert store.is_folder("e")
    assert names(store.glob("**/[bc]")) == ["d/b", "e/c"]
    assert names(store.list_files(recursive=True, limit=2)) == ["d/a", "d/b"]
    assert names(store.list_files(recursive=True, start_after="d/a")) == ["d/b", "e/c"]


@pytest.mark.ci_only
def test_the_union_of_long_listings_holds_no_listing_in_memory():
    import tracemalloc

    from omnistorage.core import ObjectInfo

    class Long(MemoryBackend):
        def list(self, prefix="", options=None):
            return (ObjectInfo(f"{number:08}", 1) for number in range(100_000))

    store = CompositeStore([Tier(name, Long()) for name in ("a", "b")])
    tracemalloc.start()
    try:
        assert sum(1 for _ in store.list_files(recursive=True)) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_errors_of_a_migration_name_the_path_that_was_passed():
    store = seasons().child("x")
    for call in (lambda: store.migrate("zz", "hot", "cold"), lambda: store.resolve("../zz")):
        with pytest.raises((NotFound, InvalidPath)) as caught:
            call()
        assert caught.value.path in ("zz", "../zz")
    store.write("d/y", b"1")
    store.tier("cold").write("d/y", b"2")
    with pytest.raises(AlreadyExists) as caught:
        store.migrate_folder("d", "hot", "cold")
    assert caught.value.path == "d/y"


def test_after_a_change_of_patterns_a_folder_is_migrated_as_far_as_it_belongs_there():
    old = MemoryBackend()
    for name in ("1.parquet", "2.txt", "3.parquet"):
        old.put_raw(f"d/{name}", b"1")
    store = CompositeStore([Tier("tables", MemoryBackend(), match="**/*.parquet"), Tier("rest", old)], "match")
    assert store.migrate_folder("d", "rest", "tables").file_count == 2
    assert names(store.list_files("d")) == ["d/1.parquet", "d/2.txt", "d/3.parquet"]


def test_a_probe_goes_past_what_reads_go_past():
    hot, cold = Down(fails={"all"}), MemoryBackend()
    cold.put_raw("x", b"")
    store = CompositeStore([Tier("hot", hot), Tier("cold", cold)], skip_unavailable=True)
    assert store.resolve("x", probe=True).details["resolved_tier"] == "cold"
    with pytest.raises(BackendUnavailable):
        CompositeStore([Tier("hot", hot), Tier("cold", cold)]).resolve("x", probe=True)


def test_tiers_may_be_stores_and_backends_of_the_same_configuration(tmp_path):
    config = {
        "backends": {
            "disk": {"type": "local", "options": {"root": str(tmp_path)}},
            "ram": {"type": "memory"},
            "both": {
                "type": "tiered",
                "options": {"tiers": [{"name": "a", "store": "near"}, {"name": "b", "store": "ram"}]},
            },
            "loop": {"type": "tiered", "options": {"tiers": [{"name": "a", "store": "loop"}]}},
            "typo": {"type": "tiered", "options": {"tiers": [{"name": "a", "store": "naer"}]}},
        },
        "stores": {"near": {"backend": "disk", "root_path": "near"}, "all": {"backend": "both"}} | {
            name: {"backend": name} for name in ("loop", "typo")
        },
    }  # fmt: skip
    with Registry(config) as registry:
        registry.get_store("all").write("x", b"1")
        assert (tmp_path / "near" / "x").read_bytes() == b"1"
        registry.get_store("all").migrate("x", "a", "b")
        assert registry.get_backend("ram").peek("x") == b"1"
        with pytest.raises(ConfigError, match="leads back to itself"):
            registry.get_store("loop")
        with pytest.raises(ConfigError, match="no store or backend 'naer'"):
            registry.get_store("typo")


def test_defaults_reach_the_tiers():
    from omnistorage import open_backend
    from omnistorage.concurrency.retry import RequestPolicy

    policy = RequestPolicy(retries=0)
    options = {"tiers": [{"name": "web", "store": "http://host/x/"}, {"name": "disk", "store": "./nowhere"}]}
    tiers = open_backend("tiered", options, defaults={"policy": policy})
    assert tiers.tier("web").backend.policy is policy
