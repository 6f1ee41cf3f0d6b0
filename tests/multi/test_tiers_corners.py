"""Corners of tiers: one place twice, changes under a reader, failures that name their tier."""

import gc
import threading
import weakref
from dataclasses import replace

import pytest

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    BucketNotFound,
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
    MultiBackend,
    NotFound,
    PreconditionFailed,
    ReadOnly,
    ReadOptions,
    Store,
    Tier,
    TieredBackend,
    WriteOptions,
)
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.testing import BasicBackend
from omnistorage.testing.faults import Faulty

from .places import Held, Switch, filled
from .test_multi_buckets import two_names
from .tiered import has, put, shadowed, three


def test_tiers_in_one_place_are_refused(tmp_path):
    backend = MemoryBackend()
    with pytest.raises(ConfigError, match="'hot' and 'cold' are the same place"):
        TieredBackend([Tier("hot", Store(backend)), Tier("cold", Store(backend))])


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_migration_between_two_names_of_a_folder_keeps_the_object(tmp_path, overwrite):
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    store = CompositeStore([Tier("hot", f"{tmp_path}/real"), Tier("cold", f"{tmp_path}/alias")])
    (tmp_path / "real" / "k").write_bytes(b"only copy")
    with pytest.raises(InvalidPath):
        store.migrate("k", "hot", "cold", overwrite=overwrite)
    assert (tmp_path / "real" / "k").read_bytes() == b"only copy"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_migration_between_two_names_of_a_bucket_keeps_the_object(overwrite):
    bucket, alias = two_names(MemoryBackend())
    write_bytes(bucket, "k", b"only copy")
    store = CompositeStore([Tier("hot", bucket), Tier("cold", alias)])
    with pytest.raises(InvalidPath):
        store.migrate("k", "hot", "cold", overwrite=overwrite)
    assert read_bytes(bucket, "k") == b"only copy"
    assert [info.path for info in bucket.list()] == ["k"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("hidden", [lambda b: MultiBackend([b]), lambda b: TieredBackend([Tier("inner", b)])])
@pytest.mark.parametrize("kind", ["memory", "bucket", "folder"])
def test_a_migration_to_a_tier_that_hides_its_source_keeps_the_object(tmp_path, kind, hidden, overwrite):
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    one = other = MemoryBackend()
    if kind == "bucket":
        one, other = two_names(one)
    elif kind == "folder":
        one, other = LocalBackend(tmp_path / "real"), LocalBackend(tmp_path / "alias")
    write_bytes(one, "k", b"only copy")
    for first, second in ((one, hidden(other)), (hidden(other), one), (hidden(one), hidden(other))):
        store = CompositeStore([Tier("hot", first), Tier("cold", second)])
        with pytest.raises(InvalidPath):
            store.migrate("k", "hot", "cold", overwrite=overwrite)
        assert read_bytes(one, "k") == b"only copy"
        assert [info.path for info in one.list()] == ["k"]


def test_a_move_between_tiers_of_which_one_lies_in_the_other_keeps_the_object(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "k").write_bytes(b"only copy")
    hot, cold = Tier("hot", str(tmp_path / "inner"), match=("k",)), Tier("cold", str(tmp_path), match=("inner/*",))
    with pytest.raises(InvalidPath):
        CompositeStore([hot, cold], mode="match").move("inner/k", "k", overwrite=True)
    assert (tmp_path / "inner" / "k").read_bytes() == b"only copy"


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


def test_an_object_with_odd_metadata_is_read_but_not_promoted():
    cold = filled(x=b"v1")
    found = cold._objects["x"]
    cold._objects["x"] = found._replace(info=found.info._replace(metadata={"Not-Ours": "1"}))
    tiers = TieredBackend([Tier("hot", MemoryBackend()), Tier("cold", cold)], promote_on_read=True)
    with tiers.open_reader("x") as reader:
        assert reader.read(10) == b"v1"
    assert has(tiers, "hot", "x") is None


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


class Gone(MemoryBackend):
    """A bucket that does not exist, on a server of which nothing is known."""

    def __init__(self):
        super().__init__()
        self.features = replace(self.features, create_only=False, if_match=False)

    def learn_features(self):
        raise BucketNotFound("no such bucket", backend=self.name, op="probe")


def test_a_conditional_write_asks_only_the_tier_of_its_key():
    tables, logs = MemoryBackend(), Gone()
    store = CompositeStore([Tier("tables", tables, match="**/*.parquet"), Tier("logs", logs)], mode="match")
    assert store.write("a/x.parquet", b"x").path == "a/x.parquet"
    with pytest.raises(AlreadyExists):
        store.write("a/x.parquet", b"y")
    store.copy("a/x.parquet", "b/x.parquet")
    etag = store.stat("b/x.parquet").etag
    assert store.as_backend().delete("b/x.parquet", if_match=etag)
    with pytest.raises(BucketNotFound) as caught:
        store.write("a/x.log", b"x")
    assert (caught.value.path, caught.value.__notes__) == ("a/x.log", ["in tier 'logs'"])


def test_a_bucket_that_does_not_exist_is_named_by_its_tier():
    store = CompositeStore([Tier("front", MemoryBackend()), Tier("back", Gone())], write_tier="back")
    with pytest.raises(BucketNotFound) as caught:
        store.write("x", b"x")
    assert caught.value.__notes__ == ["in tier 'back'"]
