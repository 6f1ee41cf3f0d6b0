"""Batches and partition paths."""

import threading
from datetime import date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import AlreadyExists, Cancelled, ConfigError, InvalidPath, MemoryBackend, NotFound, Store
from omnistorage.concurrency.cancellation import CancelScope
from omnistorage.store import batch
from omnistorage.store.batch import batch_copy, batch_delete, batch_exists, batch_read, batch_stat
from omnistorage.store.partition import NULL, ParsedPartition, parse_partition, partition_path

from .places import PLACES


@pytest.fixture(params=["memory", "local", "sqlite", "s3"])
def store(request):
    with Store(PLACES[request.param]()) as store:
        for number in range(20):
            store.write(f"d/{number:02}", str(number).encode(), overwrite=True)
        yield store


NAMES = [f"d/{number:02}" for number in range(20)]


def test_batches_answer_in_order_and_one_failure_stops_nobody(store):
    asked = [*NAMES[:3], "nope", *NAMES[3:]]
    read = dict(batch_read(store, asked))
    assert list(read) == asked
    assert isinstance(read.pop("nope"), NotFound)
    assert read == {name: str(number).encode() for number, name in enumerate(NAMES)}
    told = list(batch_stat(store, asked, workers=3))
    assert [path for path, _ in told] == asked
    assert [answer.size for path, answer in told if path != "nope"] == [len(str(number)) for number in range(20)]
    assert batch_exists(store, ["d", "d/00", "nope"]) == {"d": True, "d/00": True, "nope": False}


def test_batches_copy_and_delete(store):
    pairs = [(name, f"copy/{name}") for name in NAMES]
    done = batch_copy(store, [*pairs, ("nope", "copy/nope")], overwrite=True)
    assert done.succeeded == tuple(NAMES)
    assert list(done.failed) == ["nope"]
    assert (done.total, done.all_succeeded) == (21, False)
    with pytest.raises(NotFound):
        done.raise_first()
    assert len(list(store.list_files("copy", recursive=True))) == 20
    gone = batch_delete(store, [name for _, name in pairs])
    assert gone.all_succeeded
    assert gone.total == 20
    gone.raise_first()
    assert list(store.list_files("copy", recursive=True)) == []
    strict = batch_delete(store, ["d/00", "nope"], missing_ok=False)
    assert strict.succeeded == ("d/00",)
    assert isinstance(strict.failed["nope"], NotFound)
    assert batch_delete(store, ["nope"]).all_succeeded


def test_what_is_there_is_no_target_unless_told():
    with Store(MemoryBackend()) as store:
        store.write("a", b"a")
        store.write("b", b"b")
        assert isinstance(batch_copy(store, [("a", "b")]).failed["a"], AlreadyExists)
        assert store.read_bytes("b") == b"b"
        with pytest.raises(ConfigError, match="same target") as caught:
            batch_copy(store, [("a", "c"), ("b", "c")], overwrite=True)
        assert caught.value.path == "c"
        assert not store.exists("c")


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_workers_are_counted(workers):
    with pytest.raises(ConfigError, match="workers"):
        batch_read(Store(MemoryBackend()), [], workers=workers)


def test_a_batch_is_lazy_and_bounded():
    flying, most, lock = 0, 0, threading.Lock()

    class Watched(MemoryBackend):
        def open_reader(self, path, *options):
            nonlocal flying, most
            with lock:
                flying += 1
                most = max(most, flying)
            try:
                return super().open_reader(path, *options)
            finally:
                with lock:
                    flying -= 1

    asked = []

    def paths():
        for number in range(100):
            asked.append(number)
            yield str(number)

    with Store(Watched()) as store:
        for number in range(100):
            store.write(str(number), b"x")
        found = batch_read(store, paths(), workers=4)
        assert asked == []
        next(found)
        assert len(asked) <= 4
        found.close()
    assert most <= 4


def test_errors_that_are_not_ours_end_a_batch_and_cancellation_reaches_its_threads():
    class Broken(MemoryBackend):
        def open_reader(self, path, *options):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(batch_read(Store(Broken()), ["a", "b"]))
    with Store(MemoryBackend()) as store, CancelScope() as scope:
        scope.cancel()

        def work(path):
            from omnistorage.concurrency.cancellation import check

            check("read", path)

        assert [type(answer) for _, answer in batch._map(["a", "b"], work, 2)] == [Cancelled, Cancelled]
        assert store.exists("") is True


# -- partitions --------------------------------------------------------------------------------------------------------

names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
values = st.text(st.characters(codec="utf-8", exclude_characters="\u2028\u2029"), min_size=1, max_size=20)


@given(partitions=st.dictionaries(names, values.filter(lambda text: text != NULL) | st.none(), max_size=4))
def test_partition_paths_lead_back(partitions):
    path = partition_path("part-0.parquet", **partitions)
    assert parse_partition(path) == ParsedPartition(partitions, "part-0.parquet")
    assert path.count("/") == len(partitions)


def test_partition_paths_as_hive_writes_them():
    made = partition_path(
        "a.csv", year=2026, region=None, ok=True, day=date(2026, 1, 2), at=datetime(2026, 1, 2, 3, 4), x="a/b=c%",
        d=Decimal("1.50"), empty="",
    )  # fmt: skip
    assert made == (
        f"year=2026/region={NULL}/ok=true/day=2026-01-02/at=2026-01-02 03%3A04%3A00/x=a%2Fb%3Dc%25/d=1.50/"
        f"empty={NULL}/a.csv"
    )
    typed = parse_partition(made, {"year": int, "region": int, "d": Decimal})
    assert typed.partitions["year"] == 2026
    assert typed.partitions["region"] is None
    assert typed.partitions["d"] == Decimal("1.50")
    assert typed.filename == "a.csv"
    assert parse_partition("raw/year=2026/=x/plain/f") == ParsedPartition({"year": "2026"}, "f")
    assert parse_partition("f") == ParsedPartition({}, "f")


def test_pyarrow_reads_our_partitions():
    pyarrow, dataset = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.dataset")
    hive = dataset.partitioning(pyarrow.schema([("region", pyarrow.string())]), flavor="hive")
    for value in ("eu", "a b", "x%y=z", "é", "a/b"):
        path = partition_path("f.parquet", region=value)
        assert dataset.get_partition_keys(hive.parse("/" + path)) == {"region": value}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: partition_path("f", a=[1]), "partition 'a' is a plain value, not list"),
        (lambda: partition_path("f", a=NULL), "give None"),
        (lambda: parse_partition("a=x/f", {"a": int}), "partition 'a' holds 'x'"),
        (lambda: parse_partition("a=1/a=2/f"), "stands twice"),
    ],
)
def test_wrong_partitions_are_named(call, told):
    with pytest.raises(ConfigError, match=told):
        call()


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\0"])
def test_a_file_name_is_a_file_name(name):
    with pytest.raises(InvalidPath):
        partition_path(name, a=1)
