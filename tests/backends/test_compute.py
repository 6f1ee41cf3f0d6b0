"""The compute backend: functions as objects, keys and their parameters, and every promise of the kit."""

import dataclasses
import datetime
import functools
import gc
import io
import pickle
import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from omnistorage import MemoryBackend, Registry, RegistryConfig, Store, ops
from omnistorage.backends.computed import ComputeBackend, Computed
from omnistorage.backends.computed import backend as computed
from omnistorage.backends.computed.key_patterns import Pattern
from omnistorage.core import ListOptions
from omnistorage.errors import (
    BackendClosed,
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    InvalidPath,
    NotFound,
    ReaderClosed,
    StorageError,
)
from omnistorage.paths import MAX_PATH_BYTES, check_new
from omnistorage.store import Capability
from omnistorage.testing import BackendTests


class TestCompute(BackendTests):
    """Any key, any bytes: the function looks them up in a dict."""

    read_only = True

    def make(self):
        held = {}
        one = Computed(lambda key: held[key], values=lambda: list(held))
        backend = ComputeBackend({"{key:path}": one}, version=0, frozen=True)
        backend.held = held
        return backend

    def peek(self, backend, path):
        return backend.held.get(path)

    def plant(self, backend, path, data):
        backend.held[path] = data
        version = backend._version = (backend._version or 0) + 1  # frozen, but for what this announces
        assert version
        for info in backend.list():
            backend.open_reader(info.path).read()  # from then on its size is known


# --- what functions return --------------------------------------------------------------------------------------------


def report(year, region="eu"):
    return f"{region} {year}"


TABLE = pa.table({"n": [1, 2, 3], "t": ["a", None, "c"]})


def polar():
    import polars

    return polars.DataFrame({"n": [1, 2], "t": ["a", "b"]})


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (b"bytes", b"bytes"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view"), b"view"),
        ("tëxt", "tëxt".encode()),
        (io.BytesIO(b"stream"), b"stream"),
        (io.BufferedReader(io.BytesIO(b"x" * 3_000_000)), b"x" * 3_000_000),
        ([b"a", b"", bytearray(b"b"), memoryview(b"c")], b"abc"),
        ((b"%d" % n for n in range(5)), b"01234"),
        ((), b""),
        (b"", b""),
    ],
    ids=["bytes", "bytearray", "memoryview", "str", "stream", "long", "list", "generator", "none", "empty"],
)
def test_bytes_text_streams_and_iterables_are_objects(made, expected):
    backend = ComputeBackend({"x": lambda: made})
    with backend.open_reader("x") as reader:
        parts = list(iter(lambda: reader.read(7), b""))
    assert b"".join(parts) == expected
    assert max(map(len, parts), default=0) <= 7


@pytest.mark.parametrize(
    "made",
    [lambda: TABLE, lambda: TABLE.to_reader(), lambda: TABLE.to_batches()[0], polar],
    ids=["table", "reader", "batch", "polars"],
)
def test_tables_are_written_as_the_suffix_says(made):
    backend = ComputeBackend({f"x.{suffix}": made for suffix in ("parquet", "csv", "arrow", "ndjson")})
    data = {suffix: ops.read_bytes(backend, f"x.{suffix}") for suffix in ("parquet", "csv", "arrow", "ndjson")}
    table = parquet.read_table(pa.BufferReader(data["parquet"]))
    assert table.column_names == ["n", "t"]
    assert table.column("n").to_pylist()[:2] == [1, 2]
    assert pa.ipc.open_file(data["arrow"]).read_all().to_pylist() == table.to_pylist()
    assert data["csv"].decode().splitlines()[:2] == ['"n","t"', '1,"a"']
    assert data["ndjson"].decode().splitlines()[0] == '{"n":1,"t":"a"}'
    assert backend.stat("x.csv").content_type == "text/csv; charset=utf-8"


def test_a_table_needs_a_suffix_and_columns_of_different_names():
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    backend = ComputeBackend({"x.txt": lambda: TABLE, "y.csv": lambda: twice})
    with pytest.raises(CapabilityNotSupported, match=r"\.parquet, \.csv, \.arrow, \.ndjson"):
        backend.open_reader("x.txt")
    with pytest.raises(StorageError, match="two columns are called 'a'"):
        backend.open_reader("y.csv")


@pytest.mark.parametrize("made", [None, 7, {"a": 1}, object()], ids=["None", "int", "dict", "object"])
def test_what_is_no_object_is_refused_by_key_and_type(made):
    with pytest.raises(StorageError, match=type(made).__name__) as caught:
        ComputeBackend({"x/y": lambda: made}).open_reader("x/y")
    assert (caught.value.path, caught.value.op, caught.value.backend) == ("x/y", "open_reader", "compute")


def test_a_part_that_is_not_bytes_is_refused_while_reading():
    reader = ComputeBackend({"x": lambda: ["text"]}).open_reader("x")
    with pytest.raises(StorageError, match="is str, not bytes") as caught:
        reader.read()
    assert caught.value.path == "x"


def failing(kind, when):
    if when == "call":
        raise kind("oh")
    if when == "part":

        def parts():
            yield b"x"
            raise kind("oh")

        return parts()
    return pa.RecordBatchReader.from_batches(TABLE.schema, batches(kind))


def batches(kind):
    yield TABLE.to_batches()[0]
    raise kind("oh")


@pytest.mark.parametrize("when", ["call", "part", "batch"])
def test_an_error_of_the_function_becomes_ours_and_names_the_key(when):
    backend = ComputeBackend({"dir/{n:int}.csv": lambda n: failing(ZeroDivisionError, when)})
    with pytest.raises(StorageError, match=r"the function of 'dir/\{n:int\}.csv' failed: .*oh") as caught:
        backend.open_reader("dir/7.csv").read()
    assert caught.value.path == "dir/7.csv"
    assert type(caught.value) is StorageError
    causes, error = [], caught.value
    while error is not None:
        causes.append(type(error))
        error = error.__cause__
    assert ZeroDivisionError in causes or when == "batch"


def test_an_error_of_ours_passes():
    backend = ComputeBackend({"a": lambda: failing(NotFound, "call"), "b": lambda: failing(BackendUnavailable, "call")})
    with pytest.raises(NotFound) as caught:
        backend.open_reader("a")
    assert caught.value.path == "a"
    with pytest.raises(BackendUnavailable) as unavailable:
        backend.open_reader("b")
    assert unavailable.value.transient


def test_streams_are_read_as_they_are_needed_and_closed_after():
    made, closed = [], []

    def parts():
        try:
            for n in range(1000):
                made.append(n)
                yield b"x" * 100
        finally:
            closed.append("parts")

    class Stream(io.BytesIO):
        def close(self):
            closed.append("stream")
            super().close()

    backend = ComputeBackend({"parts": parts, "stream": lambda: Stream(b"123")})
    with backend.open_reader("parts") as reader:
        assert reader.read(10) == b"x" * 10
        assert len(made) == 1
        assert closed == []
    assert closed == ["parts"]
    with pytest.raises(ReaderClosed):
        reader.read(1)
    with backend.open_reader("stream") as reader:
        assert reader.read() == b"123"
    assert "stream" in closed
    del closed[:]
    dropped = backend.open_reader("parts")
    dropped.read(1)
    del dropped
    gc.collect()
    assert closed == ["parts"]


def test_each_reader_calls_the_function_anew_with_its_parameters():
    calls = []

    def function(**given):
        calls.append(given)
        return b""

    backend = ComputeBackend({"{d:date}/{n:02d}-{rest:path}.x": function, "plain": function})
    for key in ("2024-05-01/07-a/b.c.x", "plain", "plain"):
        backend.open_reader(key).read()
    assert calls == [{"d": datetime.date(2024, 5, 1), "n": 7, "rest": "a/b.c"}, {}, {}]
    backend.stat("plain")
    backend.exists("plain")
    list(backend.list())
    backend.resolve("plain")
    assert len(calls) == 3, "only reading calls it"


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "key", "params"),
    [
        ("reports/{year:int}/{region}.parquet", "reports/2024/eu.parquet", {"year": 2024, "region": "eu"}),
        ("reports/{year:int}/{region}.parquet", "reports/2024/v1.2.parquet", {"year": 2024, "region": "v1.2"}),
        ("reports/{year:int}/{region}.parquet", "reports/02024/eu.parquet", None),
        ("reports/{year:int}/{region}.parquet", "reports/2024/eu.parquet\n", None),
        ("reports/{year:int}/{region}.parquet", "reports/2024/a/b.parquet", None),
        ("reports/{year:int}/{region}.parquet", "reports/2024/.parquet", None),
        ("reports/{year:int}/{region}.parquet", "reports/\u0662/eu.parquet", None),
        ("{n:int}", "-5", {"n": -5}),
        ("{n:int}", "-0", None),
        ("{n:int}", str(2**63), None),
        ("{n:int}", str(2**63 - 1), {"n": 2**63 - 1}),
        ("{a}-{b}", "x-y-z", {"a": "x", "b": "y-z"}),
        ("{a}-{b:int}", "x-y-5", None),
        ("{m:02d}", "7", None),
        ("{m:02d}", "07", {"m": 7}),
        ("{m:02d}", "123", {"m": 123}),
        ("{m:02d}", "0123", None),
        ("{d:date}.csv", "2024-02-29.csv", {"d": datetime.date(2024, 2, 29)}),
        ("{d:date}.csv", "2023-02-29.csv", None),
        ("{u:uuid}", "abcdef00-0000-0000-0000-000000000000", {"u": "abcdef00-0000-0000-0000-000000000000"}),
        ("{u:uuid}", "ABCDEF00-0000-0000-0000-000000000000", None),
        ("{p:path}.csv", "a/b/c.csv", {"p": "a/b/c"}),
        ("{{x}}/{n}", "{x}/1", {"n": "1"}),
        ("a.b/{n}", "axb/1", None),
        ("{n}", "x" * (MAX_PATH_BYTES + 1), None),
        ("{n}", "\ud800", None),
    ],
)
def test_what_a_pattern_means(pattern, key, params):
    made = Pattern(pattern)
    assert made.match(key) == params
    if params is not None:
        assert made.path_of(params) == key


@given(
    st.integers(-(2**63), 2**63 - 1), st.text(min_size=1, max_size=20), st.dates(), st.text(min_size=1, max_size=20),
    st.integers(0, 10**6),
)  # fmt: skip
def test_a_key_made_of_parameters_means_those_parameters(number, name, day, rest, padded):
    pattern = Pattern("a/{number:int}/{padded:03d}-{day:date}-{name}/{rest:path}.csv")
    params = {"number": number, "name": name, "day": day, "rest": rest, "padded": padded}
    try:
        path = pattern.path_of(params)
    except StorageError:
        with pytest.raises((InvalidPath, AssertionError)):
            check_new(f"a/{name}/{rest}.csv")
            assert "/" not in name
        return
    assert pattern.match(path) == params
    assert check_new(path) == path


def test_no_key_takes_long_to_match():
    patterns = [Pattern("-".join(f"{{a{n}}}" for n in range(4)) + ".csv"), Pattern("{p:path}/{a}-{b}_{c}-{d}.csv")]
    patterns.append(Pattern("/".join(f"{{a{n}}}{{{{x}}}}" for n in range(12)) + ".csv"))
    for pattern in patterns:
        for part in ("-", "a-", "/", "a/-", "{x}/", "x", "a-_", "/a-"):
            for length in (50, 100, 200, 400, 1024):  # a bad expression is found before it takes for ever
                begin = time.process_time()
                pattern.match((part * length)[: length - 5] + ".csv!")
                assert time.process_time() - begin < 0.2, (pattern, part, length)


def test_the_plain_key_wins_then_the_first_pattern():
    backend = ComputeBackend({"{n}": lambda n: b"pattern", "{n:int}": lambda n: b"int", "plain": lambda: b"plain"})
    assert ops.read_bytes(backend, "plain") == b"plain"
    assert ops.read_bytes(backend, "7") == b"pattern"
    with pytest.raises(NotFound) as caught:
        backend.open_reader("a/b")
    assert caught.value.path == "a/b"
    assert not backend.exists("a/b")


def test_a_mistake_is_found_when_the_backend_is_made():
    for functions, wrong in (
        ({"x": b"bytes"}, "no function but bytes"),
        ([], "a table of keys"),
        ({7: print}, "a key is a str"),
        ({"": print}, "empty"),
        ({"../x": print}, r"'\.\.'"),
        ({"{a}/{a}": print}, "stands twice"),
        ({"{1a}": print}, "no name"),
        ({"{a:path}/{b:path}": print}, "only one"),
        ({"a}": print}, "a lone"),
        ({"x": Computed(print, modified_at="yesterday")}, "ISO 8601"),
        ({"x": Computed(print, modified_at=datetime.datetime(2024, 5, 1))}, "zone"),
        ({"x": Computed(print, modified_at=7)}, "a datetime"),
    ):
        with pytest.raises(ConfigError, match=wrong):
            ComputeBackend(functions)


# --- listings ---------------------------------------------------------------------------------------------------------


def test_values_may_be_a_list_a_table_or_a_function():
    for values in ([1, 10, 2], {"n": [1, 10, 2]}, lambda: iter([{"n": 1}, {"n": 10}, {"n": 2}, {"n": 2}])):
        backend = ComputeBackend({"d/{n:int}.txt": Computed(lambda n: str(n), values=values), "a": bytes})
        assert [info.path for info in backend.list()] == ["a", "d/1.txt", "d/10.txt", "d/2.txt"]
        assert [info.path for info in backend.list("", ListOptions(start_after="d/1.txt"))] == ["d/10.txt", "d/2.txt"]
        assert [info.path for info in backend.glob("**/?.txt")] == ["d/1.txt", "d/2.txt"]
        assert backend.exists("d/10.txt")
        assert not backend.exists("d/3.txt")
    for values, wrong in (
        ("123", "are a list"),
        ({"m": [1]}, "a list for each of n"),
        ({"n": "12"}, "a list for each"),
        (7, "not int"),
    ):
        with pytest.raises(ConfigError, match=wrong):
            list(ComputeBackend({"{n:int}": Computed(str, values=values)}).list())
    with pytest.raises(ConfigError, match="tables with a, b"):
        list(ComputeBackend({"{a}/{b}": Computed(str, values=["x"])}).list())
    for bad in ("x", None, True, "1"):
        with pytest.raises(StorageError, match="'n' of"):
            list(ComputeBackend({"{n:int}": Computed(str, values=[bad])}).list())


def test_a_key_that_an_earlier_pattern_means_is_listed_once():
    backend = ComputeBackend(
        {
            "x/{a}": Computed(lambda a: b"", values=["1", "2"]),
            "x/{n:int}": Computed(lambda n: b"", values=[2, 3]),
            "x/1": lambda: b"",
        }
    )
    assert [info.path for info in backend.list()] == ["x/1", "x/2"]


def test_values_are_asked_only_where_they_could_lie():
    asked = []

    def values(name):
        asked.append(name)
        return ["1"]

    backend = ComputeBackend(
        {
            f"{name}/{{a}}.csv": Computed(str, values=functools.partial(values, name))
            for name in ("one", "onemore", "two")
        }
    )
    assert [info.path for info in backend.list("one")] == ["one/1.csv"]
    assert asked == ["one"]
    list(backend.glob("two/*.csv"))
    assert asked == ["one", "two"]


def test_more_keys_than_fit_are_refused_and_not_held(monkeypatch):
    monkeypatch.setattr(computed, "MAX_KEYS", 100)
    backend = ComputeBackend({"{n:int}": Computed(str, values=lambda: range(10**9))})
    with pytest.raises(StorageError, match="more than 100 keys"):
        list(backend.list())


# --- configuration ----------------------------------------------------------------------------------------------------


def test_the_plan_names_the_function_and_its_fingerprint_what_determines_the_bytes():
    backend = ComputeBackend({"{year:int}/{region}.txt": report}, version=1, frozen=True)
    plan = backend.resolve("2024/eu.txt")
    assert (plan.kind, plan.key) == ("compute", "2024/eu.txt")
    assert plan.details["function"].endswith("test_compute:report")
    assert plan.details["parameters"] == {"year": 2024, "region": "eu"}
    others = [backend.resolve("2025/eu.txt"), backend.with_options(version=2).resolve("2024/eu.txt")]
    assert len({plan.fingerprint, *(other.fingerprint for other in others)}) == 3
    again = ComputeBackend({"{year:int}/{region}.txt": report}, version=1, frozen=True)
    assert again.resolve("2024/eu.txt") == plan
    assert backend.stat("2024/eu.txt").etag == plan.fingerprint
    thawed = backend.with_options(frozen=False)
    assert thawed.stat("2024/eu.txt").etag is None
    assert thawed.resolve("2024/eu.txt") == dataclasses.replace(plan, fingerprint=None)
    with pytest.raises(NotFound):
        backend.resolve("nothing")


def test_it_pickles_if_its_functions_do():
    upper = Computed(functools.partial(str.upper, "x"), values=["1", "2"])
    backend = ComputeBackend({"x.txt": functools.partial(str.upper, "x"), "{value}.txt": upper}, version=7)
    twin = pickle.loads(pickle.dumps(backend))
    assert list(twin.list()) == list(backend.list())
    assert twin.resolve("x.txt") == backend.resolve("x.txt")
    assert ops.read_bytes(twin, "x.txt") == b"X"
    with pytest.raises(ConfigError, match="not lambdas"):
        pickle.dumps(ComputeBackend({"x": lambda: b""}))


def test_its_capabilities_are_exactly_these_and_it_closes():
    backend = ComputeBackend({"a.txt": lambda: b"0123456789"}, modified_at="2024-05-01T00:00:00Z")
    store = Store(backend)
    assert store.capabilities == {
        Capability.READ, Capability.LIST, Capability.METADATA, Capability.GLOB, Capability.SEEKABLE_READ,
    }  # fmt: skip
    with store.read_seekable("a.txt") as stream:
        stream.seek(5)
        assert stream.read() == b"56789"
    to = MemoryBackend()
    ops.transfer(backend, "a.txt", to, "b")
    assert to.peek("b") == b"0123456789"
    backend.check_health()
    backend.close()
    for call in (lambda: backend.open_reader("a.txt"), backend.check_health, lambda: list(backend.list())):
        with pytest.raises(BackendClosed):
            call()


def test_a_registry_opens_it():
    config = {"backends": {"c": {"type": "compute", "options": {"functions": {"x/a": lambda: b"1"}}}}}
    with Registry(RegistryConfig.from_dict(config | {"stores": {"s": {"backend": "c", "root_path": "x"}}})) as registry:
        assert registry.get_store("s").read_bytes("a") == b"1"
