"""What the query backend does at its edges: attempts that fail after a connection was lent, errors in mid-stream, wide
rows, values of every kind, errors of other people's code, clients that change values."""

import datetime
import io
import os
import pathlib
import sqlite3
import subprocess
import sys

import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

from omnistorage import Cache, MemoryBackend, ops
from omnistorage.backends.computed import backend as computed
from omnistorage.backends.computed import serializers, serializers_native
from omnistorage.backends.sql_query import SQLQueryBackend
from omnistorage.backends.sql_query import backend as sql_query
from omnistorage.backends.sql_query.arrow_types import Field
from omnistorage.backends.sql_query.backend import Query
from omnistorage.concurrency.retry import Backoff, RequestPolicy
from omnistorage.core import ListOptions
from omnistorage.errors import CapabilityNotSupported, ConfigError, RecordError, StorageError

from .sql_query_places import QueryPlace, table_of

CHILD = pathlib.Path(__file__).parent / "query_child.py"
QUICK = RequestPolicy(retries=3, backoff=Backoff(base=0.001))


# --- attempts and ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "own", "kill"),
    [("postgres", "pg_backend_pid()", "SELECT pg_terminate_backend({})"), ("mariadb", "CONNECTION_ID()", "KILL {}")],
)
def test_a_query_whose_idle_connection_was_killed_returns_its_rows_all_the_same(tmp_path, name, own, kill):
    place = QueryPlace(name, tmp_path)
    with place.backend({"id.csv": f"SELECT {own} AS id", "all.csv": "SELECT id FROM SALES"}, policy=QUICK) as backend:
        (first,) = table_of(backend, "id.csv").split()[1:]
        place.run(kill.format(first))
        assert len(table_of(backend, "all.csv").splitlines()) == place.ROWS + 1
        assert table_of(backend, "id.csv").split()[1:] != [first]
    place.dispose()


def test_a_query_that_a_lock_held_up_returns_its_rows_all_the_same(lite):
    engine, tried = lite.engine(), []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def locked(connection, cursor, statement, *_):
        tried.append(statement)
        if len(tried) < 3:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error

    with lite.backend({"all.csv": "SELECT id FROM SALES"}, url=engine, policy=QUICK) as backend:
        assert len(table_of(backend, "all.csv").splitlines()) == lite.ROWS + 1
        assert len(tried) > 3
    engine.dispose()


def test_a_read_after_an_error_raises_it_again_and_no_size_is_remembered(lite):
    lite.run(f"INSERT INTO {lite.table} (id, year) VALUES (100, 'many')")
    with lite.backend({"x.csv": "SELECT year FROM SALES ORDER BY id"}, frozen=True) as backend:
        reader = backend.open_reader("x.csv")
        for _ in range(3):
            with pytest.raises(RecordError, match="column 'year'") as caught:
                while reader.read(1 << 20):
                    pass
            assert (caught.value.op, caught.value.path) == ("read", "x.csv")
        assert (reader.info.size, backend.stat("x.csv").size) == (None, None)
        reader.close()


def test_an_error_of_the_connection_in_mid_stream_is_one_of_a_read_and_throws_it_away(tmp_path):
    place = QueryPlace("postgres", tmp_path)
    engine = place.engine(pool_size=1, max_overflow=0)
    query = f"SELECT 1 / (i - 3) AS i FROM ({place.many(3)}) AS q"
    closed = []
    sa.event.listen(engine, "close", lambda *_: closed.append("closed"))
    with place.backend({"x.csv": query}, url=engine) as backend:
        reader = backend.open_reader("x.csv")
        with pytest.raises(StorageError, match="division by zero") as caught:
            reader.read()
        assert caught.value.op == "read"
        assert (closed, engine.pool.checkedout()) == (["closed"], 0), "it is not given back as it is"
        reader.close()
    engine.dispose()
    place.dispose()


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
@pytest.mark.ci_only
def test_memory_is_bounded_where_rows_are_wide(lite, tmp_path):
    lite.run("CREATE TABLE wide (n INTEGER, b BLOB)")
    with sqlite3.connect(lite.file) as connection:
        connection.executemany("INSERT INTO wide VALUES (?, ?)", [(n, os.urandom(2_000_000)) for n in range(120)])
    connection.close()
    (tmp_path / "q.sql").write_text("-- name: wide.parquet\nSELECT n, b FROM wide\n")
    command = [sys.executable, "-W", "error", CHILD, lite.url, tmp_path / "q.sql", "wide.parquet", "arrow"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    peak, size, _ = done.stdout.split()
    assert int(size) > 240_000_000
    assert float(peak) < 400, "MiB; all rows are 230, and were held three times at once"


def test_a_batch_of_wide_rows_is_closed_at_16_mib():
    one = pa.record_batch([pa.array([b"x" * 6_000_000])], names=["b"])
    assert [batch.num_rows for batch in serializers.regrouped([one] * 7, 1000)] == [3, 3, 1]


# --- what identifies a query ------------------------------------------------------------------------------------------


def test_a_cache_keeps_nothing_of_a_query_whose_rows_may_change(lite, tmp_path):
    for frozen in (False, True):
        with lite.backend({"n.csv": "SELECT id FROM SALES WHERE id >= 29"}, frozen=frozen) as backend:
            cache = Cache(backend, MemoryBackend())
            assert backend.resolve("n.csv").details["query"].startswith("SELECT id")
            before = ops.read_bytes(cache, "n.csv")
            lite.run(f"INSERT INTO {lite.table} (id) VALUES ({40 + frozen})")
            assert (ops.read_bytes(cache, "n.csv") == before) is frozen
            assert (backend.resolve("n.csv").fingerprint is not None) is frozen


def test_the_url_tells_users_options_and_queries_apart_and_no_secret():
    def url(place, query="SELECT 1 AS a", **options):
        return SQLQueryBackend(place, {"x.csv": query}, **options).url

    base = "postgresql://ann@h/d"
    others = [
        url(base), url("postgresql://bob@h/d"), url(f"{base}?options=-csearch_path%3Dother"),
        url(base, "SELECT 2 AS a"), url(base, strict=False),
    ]  # fmt: skip
    assert len(set(others)) == 5
    assert all(one.startswith("postgresql://h/d#queries/") for one in others)
    assert url("postgresql://ann:hunter2@h/d?password=hunter3") == url("postgresql://ann:x@h/d?password=y")
    assert url(base) == url(base), "the same in every process"


def test_selects_that_differ_in_what_only_their_database_has_have_different_fingerprints():
    t = sa.table("t", sa.column("a", sa.Integer), sa.column("b", sa.Integer))
    selects = [sa.select(t).with_for_update(**how) for how in ({}, {"skip_locked": True}, {"nowait": True})]
    found = [
        SQLQueryBackend("postgresql://h/d", {"x.csv": one}, frozen=True).resolve("x.csv").fingerprint for one in selects
    ]
    assert len(set(found)) == 3


def test_a_select_with_types_of_its_database_is_a_query_and_one_of_another_is_a_mistake():
    pg = sa.select(sa.cast(sa.column("a"), postgresql.TSVECTOR).label("a")).select_from(sa.table("t"))
    my = sa.select(sa.cast(sa.column("a"), mysql.YEAR()).label("a")).select_from(sa.table("t"))
    backend = SQLQueryBackend("postgresql://h/d", {"x.csv": pg})
    assert "TSVECTOR" in backend.resolve("x.csv").details["query"]
    for url, select in (("mysql://h/d", pg), ("sqlite:///x.db", pg), ("postgresql://h/d", my)):
        with pytest.raises(ConfigError, match=r"the query of 'x\.csv' is none of"):
            SQLQueryBackend(url, {"x.csv": select})


# --- values -----------------------------------------------------------------------------------------------------------


def by(pattern, values, query="SELECT id FROM SALES"):
    return {pattern: Query(query, values=values)}


def test_a_listing_of_more_rows_than_keys_may_be_is_an_error_never_shorter(lite, monkeypatch):
    monkeypatch.setattr(computed, "MAX_KEYS", 10)
    monkeypatch.setattr(sql_query, "MAX_KEYS", 10)
    values = f"SELECT 2020 AS y FROM {lite.table}"
    with (
        lite.backend(by("{y:int}.csv", values, "SELECT id FROM SALES WHERE year = :y")) as backend,
        pytest.raises(StorageError, match="more than 10 keys"),
    ):
        list(backend.list())


def test_a_key_is_found_among_many_values_that_the_database_takes_for_equal(lite):
    lite.run("CREATE TABLE names (name TEXT COLLATE NOCASE)")
    with sqlite3.connect(lite.file) as connection:
        names = [f"{'eU' if n % 2 else 'Eu'}" for n in range(300)] + ["eu"]
        connection.executemany("INSERT INTO names VALUES (?)", [(name,) for name in names])
    connection.close()
    queries = by("{r}.csv", "SELECT name AS r FROM names", "SELECT id FROM SALES WHERE region = :r")
    with lite.backend(queries) as backend:
        assert [info.path for info in backend.list()] == ["Eu.csv", "eU.csv", "eu.csv"]
        assert [backend.exists(key) for key in ("eu.csv", "eU.csv", "EU.csv")] == [True, True, False]


def test_dates_of_sqlite_are_values_though_they_are_text(lite):
    values = f"SELECT DISTINCT day FROM {lite.table} WHERE id < 3"
    with lite.backend(
        by("{day:date}.csv", values, f"SELECT id FROM {lite.table} WHERE day = :day AND id < 9")
    ) as backend:
        assert [info.path for info in backend.list()] == [f"2024-05-0{n}.csv" for n in (1, 2, 3)]
        assert backend.exists("2024-05-02.csv")
        assert not backend.exists("2024-05-09.csv")
        assert table_of(backend, "2024-05-02.csv").split() == ['"id"', "1"]


def test_what_is_listed_exists_and_a_value_that_no_parameter_equals_is_reported_with_its_place(lite):
    upper = "ABCDEF00-0000-0000-0000-000000000000"
    lite.run("CREATE TABLE ids (u TEXT)")
    lite.run(f"INSERT INTO ids VALUES ('{upper}'), ('{upper.lower()}')")
    stamp = datetime.datetime(2024, 5, 1, 10)
    queries = by("id/{u:uuid}.csv", "SELECT u FROM ids", "SELECT u FROM ids WHERE u = :u")
    queries |= by("day/{d:date}.csv", [stamp, stamp.date()], "SELECT id FROM SALES WHERE day = :d")
    with lite.backend(queries) as backend:
        errors = []
        listed = [info.path for info in backend.list("", ListOptions(on_error=errors.append))]
        assert listed == ["day/2024-05-01.csv", f"id/{upper.lower()}.csv"]
        assert all(backend.exists(path) for path in listed)
        assert len(errors) == 2
        assert all((error.op, error.backend) == ("list", "sql_query") and error.path for error in errors)


def test_a_view_behind_a_pattern_is_not_listed(lite):
    lite.run("CREATE VIEW v AS SELECT 1 AS n")
    queries = by("{r}.parquet", ["eu"], "SELECT id FROM SALES WHERE region = :r")
    with lite.backend(queries, strict=False) as backend:
        listed = [info.path for info in backend.list()]
        assert {"eu.parquet", "main/v.parquet"} <= set(listed)
        assert "v.parquet" not in listed
        assert all(backend.exists(path) for path in listed)


# --- texts and types --------------------------------------------------------------------------------------------------


def test_a_semicolon_at_the_end_of_a_query_says_nothing(lite):
    query = Query("SELECT id, id + 1 AS next FROM SALES WHERE id < 2 ;\n", types={"next": "int64"})
    with lite.backend({"x.csv": Query(lite.fill(query.sql), types=query.types)}) as backend:
        assert table_of(backend, "x.csv").split() == ['"id","next"', "0,1", "1,2"]


def test_a_cast_that_says_no_more_than_a_number_is_refused_with_a_cast_that_helps(lite):
    with lite.backend({"x.csv": "SELECT CAST(1 AS DECIMAL(5,0)) AS n"}) as backend:
        with pytest.raises(ConfigError, match=r"CAST\(\.\.\. AS INTEGER\), REAL or TEXT") as caught:
            backend.open_reader("x.csv")
        assert "types={'n': ARROW_TYPE}" in str(caught.value)


# --- errors of other people's code ------------------------------------------------------------------------------------


def test_no_error_of_other_peoples_code_leaves_as_it_is(lite):
    def fail(*_):
        raise KeyError("oh")

    class Failing:
        name, formats = "failing", None

        def serialize(self, result, format):
            raise ValueError("oh")

    one = {"x.csv": "SELECT id FROM SALES"}
    typed = {"x.csv": Query(lite.fill(one["x.csv"]), types={"id": ("int64", fail)})}
    for queries, options, wrong in (
        (one, {"type_map": {"integer": fail}}, ConfigError),
        (typed, {}, RecordError),
        (one, {"serializer": Failing()}, StorageError),
    ):
        with lite.backend(queries, **options) as backend, pytest.raises(wrong, match=r"oh|column 'id'") as caught:
            backend.open_reader("x.csv").read()
        assert caught.value.path == "x.csv"
        assert isinstance(caught.value.__cause__, (KeyError, ValueError))
    with lite.backend(by("{n:int}.csv", fail, "SELECT id FROM SALES WHERE id = :n")) as backend:
        for call in (lambda: list(backend.list()), lambda: backend.exists("1.csv")):
            with pytest.raises(StorageError, match=r"the values of '\{n:int\}.csv' failed: KeyError"):
                call()


# --- clients ----------------------------------------------------------------------------------------------------------


def field_of(kind, convert=None):
    return Field("c", kind, frozenset() if convert else frozenset((int,)), convert or (lambda values: values))


@pytest.mark.parametrize(
    ("kind", "good"),
    [(pa.bool_(), [0, 1, None]), (pa.timestamp("us"), None), (pa.time64("us"), None), (pa.date32(), None),
     (pa.decimal128(5, 1), [1, None, 9999])],
    ids=str,
)  # fmt: skip
def test_a_number_of_a_client_becomes_nothing_that_the_default_would_refuse(kind, good):
    field = field_of(kind)
    if good is not None:
        made = serializers_native.cast(field, pa.array(good, pa.int64()))
        assert (made.type, made.null_count) == (kind, 1)
    with pytest.raises(StorageError, match="column 'c' comes as int64"):
        serializers_native.cast(field, pa.array([0, 20_000, 1], pa.int64()))


def test_a_column_with_a_function_of_its_own_goes_through_it_in_a_client_too():
    field = field_of(pa.string(), lambda values: pa.array([f"<{v}>" for v in values]))
    assert serializers_native.cast(field, pa.array([1, 2])).to_pylist() == ["<1>", "<2>"]


def test_adbc_and_the_default_agree_on_strange_values(lite):
    lite.run("CREATE TABLE odd (b BOOLEAN, at DATETIME, amount DECIMAL(9, 2))")
    lite.run("INSERT INTO odd VALUES (2, 20, 7), (1, NULL, 8)")
    queries = {f"{name}.csv": f"SELECT {name} FROM odd" for name in ("b", "at", "amount")}
    with lite.backend(queries) as default, lite.backend(queries, serializer="adbc") as native:
        assert table_of(native, "amount.csv") == table_of(default, "amount.csv")
        for key in ("b.csv", "at.csv"):
            for backend in (default, native):
                with pytest.raises(StorageError, match="column"):
                    table_of(backend, key)
    with lite.backend(queries, serializer="connectorx") as native:
        with pytest.raises(CapabilityNotSupported, match="column 'b'"):
            table_of(native, "b.csv")
        assert table_of(native, "amount.csv").split() == ['"amount"', "7.00", "8.00"]


def test_a_panic_of_a_client_is_an_error_of_ours_and_an_interrupt_is_not(lite):
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

    class Result:
        class key:
            path = "x.csv"

    def fail(error):
        raise error

    with pytest.raises(StorageError, match="PanicException: oh"):
        serializers_native._native(Result, lambda: fail(panic("oh")))
    with pytest.raises(KeyboardInterrupt):
        serializers_native._native(Result, lambda: fail(KeyboardInterrupt()))


def test_a_serializers_stream_that_only_reads_is_enough(lite):
    class Plain:
        name, formats = "plain", None

        def serialize(self, result, format):
            result.close()
            return io.BytesIO(b"abc")

    with lite.backend({"x": "SELECT id FROM SALES"}, serializer=Plain()) as backend:
        assert ops.read_bytes(backend, "x") == b"abc"


def test_dates_of_typed_parameters_are_bound_by_their_types(lite):
    table = sa.table(lite.table, sa.column("id", sa.Integer), sa.column("day", sa.Date))
    select = sa.select(table.c.id).where(table.c.day == sa.bindparam("day", type_=sa.Date), table.c.id < 9)
    text = sa.text(f"SELECT id FROM {lite.table} WHERE day = :day AND id < 9")
    text = text.bindparams(sa.bindparam("day", type_=sa.Date)).columns(id=sa.Integer)
    with lite.backend({"select/{day:date}.csv": select, "text/{day:date}.csv": text}) as backend:
        for kind in ("select", "text"):
            assert table_of(backend, f"{kind}/2024-05-02.csv").split() == ['"id"', "1"]
