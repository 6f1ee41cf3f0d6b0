"""Stores of every kind: a tree arrives, the second run has nothing to do, changes and deletions follow."""

import os
import tempfile
from functools import partial
from itertools import product

import pytest

from omnistorage import BucketNotFound, LocalBackend, MemoryBackend, NotFound, ops
from omnistorage.core import WriteOptions
from omnistorage.multi import MultiBackend, Tier, TieredBackend
from omnistorage.sync import Filter, bisync, check, sync
from omnistorage.wrappers import Prefix

from ..backends import azure_places, gcs_places, sql_places, test_s3, test_sftp_conformance
from ..budget import FORM
from ..servers import server
from ..servers.proxy import Proxy
from .stores import day

PLACES = {
    "memory": MemoryBackend,
    "flat": lambda: MemoryBackend(dirs=False),
    "local": lambda: LocalBackend(tempfile.mkdtemp(prefix="omnistorage-sync-")),
    "sqlite": lambda: sql_places.Place("file").make(),
    "sftp": lambda: test_sftp_conformance.make("asyncssh"),
    "seaweedfs": lambda: test_s3.fresh("seaweedfs"),
    "moto": lambda: test_s3.fresh("moto", conditional_writes=True),
    "gcs": gcs_places.fresh,
    "azure": azure_places.fresh,
    "swift": lambda: test_s3.fresh("swift"),
    "postgres": lambda: sql_places.Place("postgres").make(),
}
OVER_A_WIRE = {"sftp", "seaweedfs", "moto", "gcs", "azure"}
ODD = ["ünï/cödé", "two words/and three", "per%20cent", "plus+plus", "a&b=c", "d/e.f/g-h", "d/e", "quote'd", "日本/語"]
NAMES = [
    *(name for name in ODD if name != "d/e"),
    *(f"folder {n % 7}/deeper/{n:03}.bin" for n in range(40)),
    *(f"root-{n}" for n in range(12)),
]


def content(name):
    return b"" if name.endswith(("7.bin", "-3")) else f"content of {name}".encode() * (len(name) % 5 + 1)


def tree(store):
    for number, name in enumerate(NAMES):
        put(store, name, content(name), number)
    return {name: content(name) for name in NAMES}


def put(store, path, data, at=0):
    when = day(at) if store.features.set_modified else None
    ops.write_bytes(store, path, data, WriteOptions(modified_at=when, content_type="text/plain"))


def held(store):
    return {info.path: ops.read_bytes(store, info.path) for info in store.list() if info.kind == "file"}


def pairs():
    """Return the pairs of this run.

    The soak takes every store with every other, but PostgreSQL and the flat store only with a few. The other forms take
    every place with every other one that costs little, and each wire with its neighbour. The default run asks one
    server of each kind.
    """
    if FORM == "soak":
        yield from product(sorted(PLACES.keys() - {"flat", "postgres"}), repeat=2)
        yield from (("postgres", "local"), ("seaweedfs", "postgres"), ("postgres", "postgres"), ("flat", "flat"))
        yield from (("swift", "flat"), ("flat", "swift"), ("swift", "postgres"), ("postgres", "swift"))
        return
    yield from (("swift", "seaweedfs"), ("azure", "swift"), ("swift", "flat"), ("postgres", "swift"))
    yield ("postgres", "seaweedfs")
    wires, places = sorted(OVER_A_WIRE), PLACES.keys() - {"swift"}
    for one, other in product(sorted(places), repeat=2):
        if not {one, other} & OVER_A_WIRE or "local" in (one, other):
            yield one, other
    yield from zip(wires, wires[1:] + wires[:1], strict=True)
    yield from (("memory", "gcs"), ("sqlite", "seaweedfs"), ("flat", "azure"), ("seaweedfs", "seaweedfs"))
    yield from DEFAULT


DEFAULT = (("azure", "sftp"), ("sftp", "seaweedfs"), ("seaweedfs", "gcs"), ("gcs", "azure"))
"""Of those over a wire; each kind is once the source and once the destination."""


def cases():
    for pair in dict.fromkeys(pairs()):
        default = pair in DEFAULT or not {*pair} & (OVER_A_WIRE | {"postgres", "swift"})
        marks = () if default else pytest.mark.ci_only
        yield pytest.param(*pair, id="-to-".join(pair), marks=marks)


@pytest.mark.parametrize(("one", "other"), [*cases()])
def test_go_w1_a_second_run_transfers_nothing_on_any_pair(one, other):
    assert len(NAMES) == 60
    with PLACES[one]() as src, PLACES[other]() as dst:
        wanted = tree(src)
        report = sync(src, dst)
        assert (report.copied, report.ok) == (60, True)
        assert held(dst) == wanted
        report = sync(src, dst, delete=True)
        assert (report.transferred, report.touched, report.deleted, report.equal) == (0, 0, 0, 60)
        assert check(src, dst).in_sync
        put(src, NAMES[0], b"changed and of another size", 99)
        put(src, "new/one", b"new", 99)
        for name in NAMES[1:6]:
            src.delete(name)
        report = sync(src, dst, delete=True)
        assert (report.copied, report.updated, report.deleted, report.equal) == (1, 1, 5, 54)
        assert held(dst) == held(src)
        assert check(src, dst).in_sync


@pytest.mark.parametrize("role", ["source", "destination"])
def test_go_p3_an_unchanged_bucket_costs_one_listing_and_no_other_request(role):
    """One page of a listing has up to a thousand objects."""
    with (
        Proxy(server("seaweedfs")["port"]) as proxy,
        test_s3.fresh("seaweedfs", endpoint=proxy.url) as store,
        MemoryBackend(dirs=False) as other,
    ):
        sides = (store, other) if role == "source" else (other, store)
        tree(sides[0])
        assert sync(*sides).copied == 60
        proxy.forget()
        report = sync(*sides, delete=True)
        assert (report.equal, report.transferred) == (60, 0)
        assert len(proxy.requests) == 1, proxy.requests
        proxy.forget()
        assert check(*sides).in_sync
        kinds = [request.split()[0] for request in proxy.requests]
        assert kinds.count("GET") == 1
        assert kinds.count("HEAD") <= 60, "a check asks for digests and kept times"


def test_a_bucket_gives_back_times_and_tells_other_content(tmp_path):
    folder, back = LocalBackend(tmp_path / "a"), LocalBackend(tmp_path / "b")
    put(folder, "f", b"SMALLER")
    put(folder, "same", b"same")
    for path, moment in (("f", 1_577_836_800_123_456_789), ("same", 1_300_000_000_000_000_001)):
        os.utime(tmp_path / "a" / path, ns=(moment, moment))
    with test_s3.fresh("seaweedfs") as store:
        assert sync(folder, store).copied == 2
        assert sync(store, back).copied == 2
        assert [(tmp_path / "b" / name).stat().st_mtime_ns for name in ("f", "same")] == [
            1_577_836_800_123_456_789,
            1_300_000_000_000_000_001,
        ]
        for sides in ((folder, store), (store, folder), (store, back), (back, store)):
            assert sync(*sides, delete=True).transferred == 0
            found = check(*sides)
            assert (found.match, found.by_size_and_time, found.in_sync) == (2, 0, True)
        put(store, "f", b"smaller")
        assert check(folder, store).differ == check(store, folder).differ == 1


def test_go_f14_between_two_handles_on_one_bucket_the_store_copies():
    with (
        Proxy(server("seaweedfs")["port"]) as proxy,
        test_s3.fresh("seaweedfs", endpoint=proxy.url) as src,
        test_s3.fresh("seaweedfs", endpoint=proxy.url) as dst,
    ):
        for number in range(5):
            put(src, f"f{number}", b"x" * 1_000)
        proxy.forget()
        assert sync(src, dst).copied == 5
        kinds = [request.split()[0] for request in proxy.requests]
        assert kinds.count("PUT") == 5
        assert kinds.count("GET") <= 3, "listings and nothing else"
        assert held(dst) == held(src)


def elsewhere(store, **options):
    """The same store in a bucket or container that does not exist."""
    return type(store)(**{**store._options, **options})


GONE = {
    "moto": lambda: elsewhere(test_s3.fresh("moto"), bucket="no-such-bucket"),
    "moto, a folder": lambda: Prefix(elsewhere(test_s3.fresh("moto"), bucket="no-such-bucket"), "some/folder"),
    "gcs": lambda: elsewhere(gcs_places.fresh(), bucket="no-such-bucket"),
    "azure": lambda: elsewhere(azure_places.fresh(), container="no-such-container"),
}


SETTINGS = [{}, {"filter": Filter.parse(["- d/"])}, {"filter": Filter.parse(exclude_if_present=".no")}]


@pytest.mark.parametrize(
    ("name", "settings"), [*product(["moto", "moto, a folder"], SETTINGS), ("gcs", {}), ("azure", {})]
)
def test_a_bucket_that_does_not_exist_is_no_empty_place(name, settings):
    src = MemoryBackend()
    put(src, "a", b"x")
    with GONE[name]() as gone:
        for call in (check, partial(sync, dry_run=True), sync):
            with pytest.raises(BucketNotFound) as caught:
                call(src, gone, **settings)
            assert "no-such-" in caught.value.location
        with pytest.raises(NotFound):
            sync(gone, src, allow_empty_source=True, delete=True, **settings)
    assert held(src) == {"a": b"x"}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("folder", ["", "some/folder"])
@pytest.mark.parametrize("combine", [TieredBackend, MultiBackend])
def test_a_destination_with_one_missing_bucket_is_no_empty_place(combine, folder, settings):
    src, hot = MemoryBackend(), MemoryBackend()
    put(src, "a", b"x")
    put(hot, f"{folder}/a".lstrip("/"), b"x")
    places = [hot, GONE["moto"]()]
    with combine([Tier(f"t{n}", one) for n, one in enumerate(places)] if combine is TieredBackend else places) as dst:
        dst = Prefix(dst, folder) if folder else dst
        for call in (check, partial(sync, dry_run=True)):
            with pytest.raises(BucketNotFound):
                call(src, dst, **settings)


def test_a_bisync_does_not_begin_with_a_bucket_that_does_not_exist(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_text("x")
    with GONE["moto"]() as gone, pytest.raises(BucketNotFound):
        bisync(tmp_path / "a", gone, state=tmp_path / "state", dry_run=True)


def test_a_folder_that_does_not_exist_is_an_empty_place():
    with test_s3.fresh("moto") as store:
        src = MemoryBackend()
        put(src, "a", b"x")
        assert check(src, Prefix(store, "none/yet")).missing_on_dst == 1
        assert sync(src, Prefix(store, "none/yet"), dry_run=True).copied == 1
