"""SQL query stores: rows and types, parameters, refusals."""

import datetime
import decimal
import json

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnistorage.backends.sql_query import SQLQueryBackend
from omnistorage.backends.sql_query.backend import Query
from omnistorage.backends.sql_query.query_source import scanned
from omnistorage.errors import ConfigError, RecordError, StorageError

from ..budget import pick
from .sql_query_places import ALL, BY_REGION, KEY, QueryPlace, table_of


def test_every_format_holds_the_same_rows(place):
    keys = {f"all.{suffix}": ALL for suffix in ("parquet", "arrow", "csv", "ndjson")}
    with place.backend(keys) as backend:
        table = table_of(backend, "all.parquet")
        assert table.equals(table_of(backend, "all.arrow"))
        first = {
            "id": 0, "year": 2020, "region": "eu", "amount": decimal.Decimal("0.25"), "ratio": 0.0,
            "day": datetime.date(2024, 5, 1), "at": datetime.datetime(2024, 5, 1, 10, 20, 30),
        }  # fmt: skip
        assert table.num_rows == place.ROWS
        assert table.slice(0, 1).to_pylist() == [first]
        lines = [json.loads(line) for line in table_of(backend, "all.ndjson").splitlines()]
        assert [line["id"] for line in lines] == list(range(place.ROWS))
        assert lines[3] | {} == {
            "id": 3, "year": 2020, "region": "us", "amount": "3.25", "ratio": 0.375, "day": "2024-05-04",
            "at": "2024-05-01T10:20:30",
        }  # fmt: skip
        rows = table_of(backend, "all.csv").splitlines()
        assert rows[0] == '"id","year","region","amount","ratio","day","at"'
        assert rows[4] == '3,2020,"us",3.25,0.375,2024-05-04,2024-05-01 10:20:30.000000'
        assert len(rows) == place.ROWS + 1


def test_rs_7_1_8_an_empty_result_has_the_schema_of_a_full_one(place):
    queries = {"full.parquet": ALL, "empty.parquet": ALL.replace("ORDER", "WHERE id < 0 ORDER")}
    queries |= {key.replace("parquet", "arrow"): query for key, query in queries.items()}
    with place.backend(queries) as backend:
        for suffix in ("parquet", "arrow"):
            full, empty = table_of(backend, f"full.{suffix}"), table_of(backend, f"empty.{suffix}")
            assert (full.num_rows, empty.num_rows) == (place.ROWS, 0)
            assert full.schema == empty.schema
            assert pa.types.is_decimal(empty.schema.field("amount").type)
            assert empty.schema.field("day").type == pa.date32()


def test_rs_7_1_8_two_columns_of_one_name_are_refused(place):
    with place.backend({"x.parquet": "SELECT id AS a, year AS a FROM SALES"}) as backend:
        with pytest.raises(StorageError, match="two columns are called 'a'") as caught:
            backend.open_reader("x.parquet")
        assert caught.value.path == "x.parquet"


def test_rs_7_1_8_a_mixed_column_is_refused_by_its_name_and_row(lite):
    lite.run(f"INSERT INTO {lite.table} (id, year, ratio) VALUES (100, 'many', 1), (101, 1.5, 2)")
    queries = {
        "text.csv": "SELECT year FROM SALES ORDER BY id",
        "float.csv": "SELECT year FROM SALES WHERE id <> 100 ORDER BY id",
    }
    with lite.backend(queries) as backend:
        for key in queries:
            with pytest.raises(RecordError, match="column 'year' is int64") as caught:
                backend.open_reader(key).read()
            assert (caught.value.number, caught.value.path) == (31, key)


@pytest.mark.parametrize(
    ("declared", "value"),
    [("BOOLEAN", "7"), ("DATE", "'yesterday'"), ("DATETIME", "20"), ("DECIMAL(5, 1)", "1.25"), ("BLOB", "'text'"),
     ("DATE", "'2024-05-01 10:00:00'"), ("TIME", "'10:00:00+02:00'"), ("DATETIME", "'2024-05-01 10:00:00Z'"),
     ("INTEGER", "1e300"), ("TEXT", "x'ff'")],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_never_changed_on_the_way(lite, declared, value):
    lite.run(f"CREATE TABLE strange (good INTEGER, bad {declared})")
    lite.run(f"INSERT INTO strange VALUES (1, NULL), (2, {value})")
    with (
        lite.backend({"x.parquet": "SELECT good, bad FROM strange"}) as backend,
        pytest.raises(RecordError, match="column 'bad'") as caught,
    ):
        backend.open_reader("x.parquet").read()
    assert caught.value.number == 2


def test_rs_7_1_8_colons_in_literals_comments_and_casts_are_no_parameters(place):
    cast = (
        "CAST(year AS CHAR(9))" if place.name == "mariadb" else "year::text" if place.name == "postgres" else "region"
    )
    query = f"""SELECT id, CAST(':x "it''s" 10:30 100%' AS CHAR(40)) AS lit, {cast} AS "c" -- :comment
        /* :other ' */ FROM SALES WHERE region = ':nothing' OR id = :n"""
    query = query.replace('"c"', "`c`") if place.name == "mariadb" else query
    with place.backend({"{n:int}.parquet": query}) as backend:
        (row,) = table_of(backend, "4.parquet").to_pylist()
        assert (row["id"], row["lit"].strip()) == (4, ':x "it\'s" 10:30 100%')


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["'", '"', "`", ":", "::", ":x", "x", "\\", "--", "\n", "/*", "*/", "$$", "$t$", "%", "[", "]", "1"]
        )
    )
)  # fmt: skip
def test_a_query_reaches_the_database_as_it_is_written(parts):
    sql = "".join(parts)
    for family in ("sqlite", "postgresql", "mysql"):
        escaped, names = scanned(sql, family)
        dialect = sa.make_url("sqlite://").get_dialect()(paramstyle="named")
        assert str(sa.text(escaped).compile(dialect=dialect)) == sql, (sql, family)
        assert set(names) == set(sa.text(escaped)._bindparams), (sql, family)
        assert set(names) <= {"x", "x1", "xx"} or all(name.startswith("x") for name in names)


def test_parameters_of_the_key_are_bound(place):
    with place.backend({KEY: BY_REGION}) as backend:
        table = table_of(backend, "reports/2021/us.parquet")
        assert table.column("id").to_pylist() == [n for n in range(30) if n % 3 == 1 and n % 2 == 1]
        assert table_of(backend, "reports/1999/us.parquet").num_rows == 0
        assert backend.parse("reports/2021/us.parquet").params == {"year": 2021, "region": "us"}


def test_dates_uuids_and_padded_numbers_are_parameters_too(place):
    queries = {
        "day/{day:date}.csv": "SELECT id FROM SALES WHERE day = :day",
        "month/{month:02d}/{year:int}.csv": "SELECT id FROM SALES WHERE year = :year AND :month = 5 AND id < 3",
    }
    with place.backend(queries) as backend:
        assert table_of(backend, "day/2024-05-04.csv").split() == ['"id"', "3"]
        assert table_of(backend, "month/05/2020.csv").split() == ['"id"', "0"]
        for key in ("day/2024-5-4.csv", "day/2024-02-30.csv", "month/5/2020.csv", "month/05/02020.csv"):
            assert not backend.exists(key)


HOSTILE = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            ["'", '"', ";", "--", "\0", "/*", "*/", "{}", "{region}", ":x", ":region", "%s", "%(x)s", "%", "\\", "`",
             "..", "/", "' OR 1=1 --", "'; DROP TABLE", "ß", "\u202e", "\ud800", "é", "x", "$$", "?", "$1", "\n",
             ".parquet"]
        ), max_size=6,
    ).map("".join),
)  # fmt: skip


@pytest.mark.parametrize("strict", [True, False])
def test_goal_44_a_thousand_hostile_keys_never_become_sql(tmp_path, strict):
    place = QueryPlace("sqlite", tmp_path)
    engine = place.engine()
    backend = place.backend({KEY: BY_REGION, "all.parquet": ALL}, url=engine, strict=strict)
    seen = set()
    sa.event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *_: seen.add(statement))
    table_of(backend, "reports/2021/us.parquet")
    table_of(backend, "all.parquet")
    list(backend.list())
    backend.exists("main/nothing.parquet")
    if not strict:
        table_of(backend, f"main/{place.table}.parquet")
    known, tried = set(seen), [0]
    assert any("?" in statement for statement in known), "parameters are bound"
    count = pick(default=60, ci=500 if strict else 250, soak=5_000)

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(HOSTILE)
    def run(text):
        for key in (f"reports/2021/{text}.parquet", text, f"main/{text}.parquet", f"{text}/x.parquet"):
            tried[0] += 1
            try:
                with backend.open_reader(key) as reader:
                    reader.read()
                backend.exists(key)
                backend.stat(key)
                backend.resolve(key)
            except StorageError:
                pass
        assert seen <= known, f"{text!r}: {seen - known}"

    run()
    assert tried[0] >= 4 * count
    engine.dispose()


def test_what_only_key_or_query_has_is_found_when_the_backend_is_made(lite):
    for key, query, wrong in (
        ("x.csv", "SELECT id FROM SALES WHERE year = :year", "binds year"),
        ("{year:int}.csv", "SELECT id FROM SALES", "gives year"),
        ("{year:int}.csv", "SELECT id FROM SALES WHERE year = ':year'", "gives year"),
        ("{year}.csv", sa.text("SELECT 1 WHERE 1 = :year AND 2 = :other"), "binds other"),
        ("{year}.csv", sa.select(sa.literal(1)), "gives year"),
        ("x.csv", sa.select(sa.bindparam("year", type_=sa.Integer)), "binds year"),
        ("x.xlsx", "SELECT 1", "ends with one of"),
        ("{name}", "SELECT :name", "ends with one of"),
        ("x.csv", 7, "a str, a text"),
        ("x.csv", {"sequel": "SELECT 1"}, "no option 'sequel'"),
        ("x.csv", {}, "no 'sql'"),
        ("x.csv", Query("SELECT 1", values=[1]), "no parameters"),
        ("a//{x}.csv", "SELECT :x", "double slash"),
        ("{x}{y}.csv", "SELECT :x, :y", "between two parameters"),
        ("{x:decimal}.csv", "SELECT :x", "no parameter is of type 'decimal'"),
        ("{x", "SELECT :x", "a lone"),
    ):
        with pytest.raises(ConfigError, match=wrong):
            lite.backend({key: query})
    with pytest.raises(ConfigError, match="mean the same"):
        lite.backend({"{a}.csv": "SELECT :a", "{b}.csv": "SELECT :b"})
    with pytest.raises(ConfigError, match="no query"):
        SQLQueryBackend(lite.url, {})


def test_a_select_and_a_text_are_queries_and_bring_their_types(place):
    table = sa.table(
        place.table, sa.column("id", sa.Integer), sa.column("amount", sa.Float), sa.column("day", sa.Date),
        sa.column("at", sa.DateTime), sa.column("region", sa.String), sa.column("year", sa.SmallInteger),
    )  # fmt: skip
    select = sa.select(table, sa.func.count().over().label("n")).where(table.c.year == sa.bindparam("year", 2020))
    queries = {
        "select/{year:int}.parquet": select,
        "limit.arrow": sa.select(table.c.id).where(table.c.id < 5).order_by(table.c.id),
        "text/{n:int}.csv": sa.text(r"SELECT id FROM SALES WHERE id = :n".replace("SALES", place.table)),
    }
    with place.backend(queries, frozen=True) as backend:
        found = table_of(backend, "select/2021.parquet")
        assert [str(field.type) for field in found.schema] == [
            "int64", "double", "date32[day]", "timestamp[us]", "string", "int16", "int64",
        ]  # fmt: skip
        assert set(found.column("year").to_pylist()) == {2021}
        assert found.column("day").to_pylist()[0] == datetime.date(2024, 5, 2)
        empty = table_of(backend, "select/1.parquet")
        assert (empty.num_rows, empty.schema) == (0, found.schema)
        assert table_of(backend, "limit.arrow").column("id").to_pylist() == [0, 1, 2, 3, 4]
        assert table_of(backend, "text/3.csv").split() == ['"id"', "3"]
        assert backend.resolve("select/2021.parquet").details["parameters"] == {"year": 2021}
        plans = [backend.resolve(key).fingerprint for key in ("select/2021.parquet", "select/2020.parquet")]
        assert plans[0] != plans[1]
