"""Which types the columns of results get, what is refused by its name, and the native serializers, which must give the
same table as the default."""

import datetime
import decimal
import sys

import pyarrow as pa
import pytest
import sqlalchemy as sa

from omnistorage.backends.computed.serializers import ArrowSerializer
from omnistorage.backends.sql_query import SQLQueryBackend
from omnistorage.backends.sql_query.backend import Query
from omnistorage.errors import CapabilityNotSupported, ConfigError, MissingExtra, RecordError, StorageError

from .sql_places import new_name
from .sql_query_places import Bodies, QueryPlace, table_of

DECIMAL, DATE = decimal.Decimal, datetime.date


@pytest.fixture
def postgres(tmp_path):
    made = QueryPlace("postgres", tmp_path)
    yield made
    made.dispose()


@pytest.fixture
def mariadb(tmp_path):
    made = QueryPlace("mariadb", tmp_path)
    yield made
    made.dispose()


def columns_of(place, query, **options):
    """Types and values of the one row of a query, and that the empty result has the same types."""
    empty = f"SELECT * FROM ({query}) AS q WHERE 1 = 0"
    with place.backend(
        {"x.arrow": Query(place.fill(query)), "e.arrow": Query(place.fill(empty))}, **options
    ) as backend:
        table = table_of(backend, "x.arrow")
        if place.name != "sqlite" or not options:
            assert table_of(backend, "e.arrow").schema == table.schema
        assert table.num_rows == 1
        return {field.name: (str(field.type), table.column(field.name)[0].as_py()) for field in table.schema}


def test_types_of_postgresql(postgres):
    found = columns_of(
        postgres,
        """SELECT true AS bool, 1::smallint AS i2, 2 AS i4, 3::bigint AS i8, 1.5::real AS f4, 2.5::float8 AS f8,
        12.5::numeric(6, 2) AS dec, 'x'::varchar(3) AS vc, 'y'::char(2) AS ch, 'z'::text AS t, '\\x00ff'::bytea AS b,
        date '2024-05-01' AS d, time '10:20:30.5' AS ti, timestamp '2024-05-01 10:20:30' AS ts,
        timestamptz '2024-05-01 10:20:30+02' AS tz, interval '1 month 2 days' AS iv,
        '{"a": 1.10,  "b": null}'::json AS j,
        '{"n": 12345678901234567890.10}'::jsonb AS jb, 'ABCDEF00-0000-0000-0000-000000000000'::uuid AS u,
        '10.0.0.0/8'::cidr AS net, ARRAY[1, NULL, 3] AS ints, ARRAY['a', 'b'] AS texts, 5::oid AS o""",
    )
    assert found == {
        "bool": ("bool", True), "i2": ("int16", 1), "i4": ("int32", 2), "i8": ("int64", 3), "f4": ("float", 1.5),
        "f8": ("double", 2.5), "dec": ("decimal128(6, 2)", DECIMAL("12.50")), "vc": ("string", "x"),
        "ch": ("string", "y "), "t": ("string", "z"), "b": ("binary", b"\0\xff"),
        "d": ("date32[day]", DATE(2024, 5, 1)), "ti": ("time64[us]", datetime.time(10, 20, 30, 500000)),
        "ts": ("timestamp[us]", datetime.datetime(2024, 5, 1, 10, 20, 30)),
        "tz": ("timestamp[us, tz=UTC]", datetime.datetime(2024, 5, 1, 8, 20, 30, tzinfo=datetime.UTC)),
        "iv": ("string", "1 mon 2 days"), "j": ("string", '{"a": 1.10,  "b": null}'),
        "jb": ("string", '{"n": 12345678901234567890.10}'), "u": ("string", "abcdef00-0000-0000-0000-000000000000"),
        "net": ("string", "10.0.0.0/8"), "ints": ("list<item: int32>", [1, None, 3]),
        "texts": ("list<item: string>", ["a", "b"]), "o": ("uint32", 5),
    }  # fmt: skip


def test_types_of_mariadb(mariadb):
    table = new_name()
    mariadb.run(
        f"""CREATE TABLE {table} (t TINYINT, s SMALLINT UNSIGNED, i INT, big BIGINT UNSIGNED, f FLOAT, d DOUBLE,
        de DECIMAL(6, 2), du DECIMAL(5, 0) UNSIGNED, vc VARCHAR(9), tx TEXT, bl BLOB, vb VARBINARY(9), day DATE,
        ti TIME(6), dt DATETIME(6), ts TIMESTAMP NULL, j JSON, y YEAR, bi BIT(4), e ENUM('a', 'b'), u UUID)"""
    )
    mariadb.run(
        f"""INSERT INTO {table} VALUES (-1, 65535, -2, 18446744073709551615, 1.5, 2.5, -1234.50, 99999, 'é', 'x',
        x'00ff', x'01', '2024-05-01', '-10:00:00.5', '2024-05-01 10:20:30.25', '2024-05-01 10:20:30', '{{"a": 1.10}}',
        2024, b'1010', 'b', 'abcdef00-0000-0000-0000-000000000000')"""
    )
    moment = datetime.datetime(2024, 5, 1, 10, 20, 30)
    assert columns_of(mariadb, f"SELECT *, count(*) OVER () AS n, sum(i) OVER () AS total FROM {table}") == {
        "t": ("int8", -1), "s": ("uint16", 65535), "i": ("int32", -2), "big": ("uint64", 2**64 - 1),
        "f": ("float", 1.5), "d": ("double", 2.5), "de": ("decimal128(6, 2)", DECIMAL("-1234.50")),
        "du": ("decimal128(5, 0)", DECIMAL(99999)),
        "vc": ("string", "é"), "tx": ("string", "x"), "bl": ("binary", b"\0\xff"), "vb": ("binary", b"\x01"),
        "day": ("date32[day]", DATE(2024, 5, 1)),
        "ti": ("duration[us]", -datetime.timedelta(hours=10, microseconds=500000)),
        "dt": ("timestamp[us]", moment.replace(microsecond=250000)), "ts": ("timestamp[us]", moment),
        "j": ("string", '{"a": 1.10}'), "y": ("int16", 2024), "bi": ("binary", b"\n"), "e": ("string", "b"),
        "u": ("string", "abcdef00-0000-0000-0000-000000000000"), "n": ("int64", 1),
        "total": ("decimal128(32, 0)", DECIMAL(-2)),
    }  # fmt: skip
    mariadb.run(f"DROP TABLE {table}")


def test_types_of_sqlite(lite):
    lite.run(
        """CREATE TABLE kinds (i BIGINT, b BOOLEAN, r REAL, d DECIMAL(9, 3), t VARCHAR(9), bl BLOB, day DATE,
        dt DATETIME, ti TIME, j JSON, n NUMERIC(5, 1))"""
    )
    lite.run(
        """INSERT INTO kinds VALUES (9223372036854775807, 1, 2, 0.125, 'é', x'00ff', '2024-05-01',
        '2024-05-01 10:20:30.25', '10:20:30', '{"a": 1.10}', 7)"""
    )
    assert columns_of(lite, "SELECT *, CAST(count(*) AS INTEGER) AS c, CAST(sum(d) AS REAL) AS s FROM kinds") == {
        "i": ("int64", 2**63 - 1), "b": ("bool", True), "r": ("double", 2.0),
        "d": ("decimal128(9, 3)", DECIMAL("0.125")),
        "t": ("string", "é"), "bl": ("binary", b"\0\xff"), "day": ("date32[day]", DATE(2024, 5, 1)),
        "dt": ("timestamp[us]", datetime.datetime(2024, 5, 1, 10, 20, 30, 250000)),
        "ti": ("time64[us]", datetime.time(10, 20, 30)), "j": ("string", '{"a": 1.10}'),
        "n": ("decimal128(5, 1)", DECIMAL("7.0")), "c": ("int64", 1), "s": ("double", 0.125),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("sqlite", "SELECT id, count(*) AS odd FROM SALES"),
        ("sqlite", "SELECT id, id + 1 AS odd FROM SALES"),
        ("postgres", "SELECT id, sum(amount) OVER () AS odd FROM SALES"),
        ("postgres", "SELECT id, point(1, 2) AS odd FROM SALES"),
        ("postgres", "SELECT id, '12:00+02'::timetz AS odd FROM SALES"),
        ("mariadb", "SELECT id, POINT(1, 2) AS odd FROM SALES"),
    ],
)
def test_a_column_without_a_type_is_refused_by_its_name_with_the_way_out(tmp_path, name, query):
    place = QueryPlace(name, tmp_path)
    with place.backend({"x.csv": query}) as backend:
        with pytest.raises(ConfigError, match="column 'odd'") as caught:
            backend.open_reader("x.csv")
        assert "types={'odd': ARROW_TYPE}" in str(caught.value)
        assert caught.value.path == "x.csv"
    place.dispose()


def test_types_and_type_map_are_the_way_out(postgres):
    mood = new_name()
    postgres.run(f"CREATE TYPE {mood} AS ENUM ('good', 'bad')")
    query = f"SELECT 1.5::numeric AS n, 2.25::numeric AS m, 'bad'::{mood} AS mood, interval '36 hours' AS iv"
    query += ", point(1, 2) AS p"
    found = columns_of(
        postgres, query,
        type_map={
            mood: "string", "numeric": "decimal128(20, 4)", "INTERVAL": (pa.int32(), lambda text: len(text)),
            "point": lambda column: ("string", str) if column.name == "p" else None,
        },
    )  # fmt: skip
    assert found == {
        "n": ("decimal128(20, 4)", DECIMAL("1.5")), "m": ("decimal128(20, 4)", DECIMAL("2.25")),
        "mood": ("string", "bad"), "iv": ("int32", 8), "p": ("string", "(1,2)"),
    }  # fmt: skip
    queries = {
        "x.arrow": Query(query, types={"m": "double", "n": "decimal256(50, 2)", "mood": "string", "p": "string"})
    }
    with SQLQueryBackend(postgres.url, queries) as backend, pytest.raises(RecordError, match="column 'm'"):
        table_of(backend, "x.arrow")
    for types, wrong in (({"nothing": "int8"}, "nothing"), ({"n": "int9"}, "int9"), ({"n": 7}, "column 'n'")):
        with (
            SQLQueryBackend(postgres.url, {"x.arrow": Query("SELECT 1 AS n", types=types)}) as backend,
            pytest.raises(ConfigError, match=wrong),
        ):
            backend.open_reader("x.arrow")
    postgres.run(f"DROP TYPE {mood}")


def test_json_and_enumerations_of_a_select_are_text(place):
    import enum

    class Mood(enum.Enum):
        good = 1

    select = sa.select(
        sa.literal_column("'{\"a\": [1, 2]}'", sa.JSON).label("j"),
        sa.literal_column("'good'", sa.Enum(Mood)).label("m"),
        sa.literal_column("'abcdef00000000000000000000000000'", sa.String).label("u"),
    )
    with place.backend({"x.ndjson": select}) as backend:
        text = table_of(backend, "x.ndjson")
    assert text.replace(" ", "") == '{"j":"{\\"a\\":[1,2]}","m":"good","u":"abcdef00000000000000000000000000"}\n'


def test_a_format_that_cannot_hold_a_column_says_which(place):
    query = {"sqlite": "CAST(x'ff' AS BLOB)", "postgres": "'\\xff'::bytea", "mariadb": "CAST(x'ff' AS BINARY(1))"}[
        place.name
    ]
    options = {"types": {"b": "binary"}} if place.name == "sqlite" else {}
    queries = {f"x.{suffix}": Query(f"SELECT {query} AS b", **options) for suffix in ("csv", "ndjson", "parquet")}
    with place.backend(queries) as backend:
        with pytest.raises(CapabilityNotSupported, match="column 'b': csv cannot hold binary"):
            backend.open_reader("x.csv")
        assert table_of(backend, "x.ndjson") == '{"b":"/w=="}\n'
        assert table_of(backend, "x.parquet").to_pylist() == [{"b": b"\xff"}]


def test_row_groups_are_as_long_as_asked_whatever_comes_at_once(place):
    from pyarrow import parquet

    with place.backend({"many.parquet": place.many(20_000)}, batch_rows=3000) as backend:
        with backend.open_reader("many.parquet") as reader:
            found = parquet.ParquetFile(pa.BufferReader(reader.read()))
        groups = [found.metadata.row_group(n).num_rows for n in range(found.num_row_groups)]
    assert groups == [3000] * 6 + [2000]
    for wrong in (0, "many", True):
        with pytest.raises(ConfigError, match="batch_rows"):
            ArrowSerializer(batch_rows=wrong)


# --- serializers ------------------------------------------------------------------------------------------------------

QUERIES = {
    "all.parquet": "SELECT id, year, region, amount, ratio, day FROM SALES ORDER BY id",
    "none.parquet": "SELECT id, year, region, amount, ratio, day FROM SALES WHERE id < 0",
    "some/{year:int}/{region}.parquet": "SELECT id, amount FROM SALES WHERE year = :year AND region = :region"
    " ORDER BY id",
    "day/{day:date}.parquet": "SELECT id FROM SALES WHERE day = :day",
    "colons.parquet": "SELECT id, CAST(':x 100%' AS CHAR(7)) AS t FROM SALES WHERE region <> ':y' ORDER BY id",
}
KEYS = (
    "all.parquet",
    "none.parquet",
    "some/2021/us.parquet",
    "some/9/x.parquet",
    "day/2024-05-03.parquet",
    "colons.parquet",
)


@pytest.mark.parametrize(
    ("name", "serializer"),
    [
        ("sqlite", "adbc"),
        ("postgres", "adbc"),
        ("sqlite", "connectorx"),
        ("postgres", "connectorx"),
        ("mariadb", "connectorx"),
    ],
)
def test_a_native_serializer_gives_the_same_table_as_the_default(tmp_path, name, serializer):
    place = QueryPlace(name, tmp_path)
    native = place.backend(QUERIES, serializer=serializer, frozen=True)
    with place.backend(QUERIES, frozen=True) as default, native:
        compared = 0
        for key in KEYS:
            if serializer == "connectorx" and "/" in key:
                with pytest.raises(CapabilityNotSupported, match="parameters"):
                    native.open_reader(key)
                continue
            assert table_of(native, key).equals(table_of(default, key)), key
            compared += 1
        assert compared == (3 if serializer == "connectorx" else 6)
        for backend in (default, native):
            assert not backend.features.range_read
        assert native.resolve("all.parquet").fingerprint != default.resolve("all.parquet").fingerprint
        early = native.open_reader("all.parquet")
        early.close()
    place.dispose()


@pytest.mark.parametrize("serializer", ["adbc", "connectorx"])
def test_a_native_serializer_refuses_what_the_default_refuses(lite, serializer):
    lite.run("CREATE TABLE sums (a DECIMAL(5, 1), b INTEGER, c DATE)")
    lite.run("INSERT INTO sums VALUES (1.5, 1, '2024-05-01'), (1.25, 2, '2024-05-02')")
    queries = {
        "rounded.csv": ("SELECT a FROM sums", "column 'a'"),
        "expression.csv": ("SELECT b + 1 AS n FROM sums", "column 'n'"),
        "twice.csv": ("SELECT a, a FROM sums", "a"),
        "missing.csv": ("SELECT a FROM no_such_table", "no_such_table"),
        "wrong.csv": ("SELECT FROM", "syntax error"),
    }
    with lite.backend({key: query for key, (query, _) in queries.items()}, serializer=serializer) as backend:
        for key, (_, wrong) in queries.items():
            with pytest.raises(StorageError, match=wrong) as caught:
                table_of(backend, key)
            assert caught.value.path == key
    memory = SQLQueryBackend("sqlite://", {"x.csv": "SELECT CAST(1 AS INTEGER) AS a"}, serializer=serializer)
    with memory, pytest.raises(ConfigError, match="no plain file"):
        memory.open_reader("x.csv")


@pytest.mark.parametrize(("serializer", "module"), [("adbc", "adbc_driver_manager"), ("connectorx", "connectorx")])
def test_a_client_that_is_not_installed_is_named(lite, monkeypatch, serializer, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=f"{module} is not installed"):
        lite.backend({"x.csv": "SELECT 1"}, serializer=serializer)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with lite.backend({"x.csv": "SELECT id FROM SALES"}) as backend, pytest.raises(MissingExtra, match="pyarrow"):
        backend.open_reader("x.csv")


def test_what_adbc_cannot_see_in_the_first_rows_is_refused_never_lost(lite):
    lite.run("CREATE TABLE late (n INTEGER PRIMARY KEY, t TEXT)")
    lite.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)"
        " INSERT INTO late SELECT i, NULL FROM n"
    )
    lite.run("UPDATE late SET t = 'x' WHERE n > 8990")
    queries = {"t.csv": "SELECT t FROM late", "n.csv": "SELECT n FROM late"}
    with lite.backend(queries) as default, lite.backend(queries, serializer="adbc") as native:
        assert table_of(default, "t.csv").count("x") == 10
        with pytest.raises(StorageError, match="Type mismatch") as caught:
            table_of(native, "t.csv")
        assert caught.value.path == "t.csv"
        assert table_of(native, "n.csv") == table_of(default, "n.csv")


def test_mariadb_has_no_adbc_driver(mariadb):
    with mariadb.backend(QUERIES, serializer="adbc") as backend, pytest.raises(CapabilityNotSupported, match="ADBC"):
        backend.open_reader("all.parquet")


def test_a_serializer_of_ones_own_gets_result_and_format(lite):
    import io

    class Counting(Bodies):
        name, formats = "counting", ("count",)

        def serialize(self, result, format):
            rows = sum(batch.num_rows for batch in result.batches())
            return io.BytesIO(f"{format}: {rows} rows of {result.schema.names}, {dict(result.parameters)}".encode())

    class Failing(Bodies):
        def serialize(self, result, format):
            stream = io.BytesIO()
            stream.read = lambda size: 1 / 0
            return stream

    with lite.backend({"{n:int}.count": "SELECT id FROM SALES WHERE id < :n"}, serializer=Counting()) as backend:
        assert table_of(backend, "7.count") == "count: 7 rows of ['id'], {'n': 7}"
    with lite.backend({"x": "SELECT id FROM SALES"}, serializer=Failing()) as backend:
        with pytest.raises(StorageError, match="ZeroDivisionError") as caught:
            table_of(backend, "x")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    for wrong in ("arow", object()):
        with pytest.raises(ConfigError, match="serializer"):
            lite.backend({"x.csv": "SELECT 1"}, serializer=wrong)
