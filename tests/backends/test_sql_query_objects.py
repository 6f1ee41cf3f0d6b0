"""SQL query stores: listings, sizes, plans, configuration, and what they are to others."""

import datetime
import hashlib
import json
import pickle
import re
import subprocess
import sys

import pyarrow as pa
import pytest
import sqlalchemy as sa

from omnistorage import MemoryBackend, Registry, RegistryConfig, Store, ops
from omnistorage.backends.sql_query import SQLQueryBackend
from omnistorage.backends.sql_query.backend import Query
from omnistorage.core import HealthCheck as Health
from omnistorage.core import ReadOptions, power
from omnistorage.core.secret import Secret
from omnistorage.errors import BackendClosed, CapabilityNotSupported, ConfigError, NotFound, StorageError
from omnistorage.store import Capability

from .sql_query_places import ALL, BY_REGION, KEY, table_of


def test_a_listing_shows_plain_keys_and_the_values_of_patterns(place):
    values = f"SELECT DISTINCT year, region FROM {place.table} WHERE region = 'eu'"
    queries = {
        KEY: Query(place.fill(BY_REGION), values=values),
        "all/rows.csv": ALL,
        "some/{n:int}.csv": Query(place.fill("SELECT id FROM SALES WHERE id < :n"), values=[1, 20, 3]),
        "grid/{a:int}/{b}.csv": Query("SELECT :a AS a, :b AS b", values={"a": [2, 1], "b": ["x", "y"]}),
        "open/{n:int}.csv": "SELECT id FROM SALES WHERE id = :n",
    }
    with place.backend(queries) as backend:
        grid = [f"grid/{a}/{b}.csv" for a in (1, 2) for b in "xy"]
        reports = [f"reports/{year}/eu.parquet" for year in (2020, 2021, 2022)]
        some = ["some/1.csv", "some/20.csv", "some/3.csv"]
        assert [info.path for info in backend.list()] == ["all/rows.csv", *grid, *reports, *some]
        assert [info.path for info in backend.list("reports")] == reports
        assert [info.path for info in backend.glob("*/*/eu.*")] == reports
        assert [(i.path, i.is_dir) for i in backend.list_dir()] == [
            ("all", True), ("grid", True), ("reports", True), ("some", True),
        ]  # fmt: skip
        assert backend.exists(reports[0])
        for key in ("reports/2020/us.parquet", "reports/2020/EU.parquet", "reports/1999/eu.parquet", "some/2.csv"):
            assert not backend.exists(key)
            with pytest.raises(NotFound):
                backend.open_reader(key)
        assert backend.exists("open/7.csv"), "without values, every key that fits exists"
        assert not backend.exists("open/x.csv")
        with pytest.raises(NotFound):
            list(backend.list_dir("open"))


def test_a_value_that_makes_no_key_is_reported_never_left_out(lite):
    lite.run(f"INSERT INTO {lite.table} (id, year, region) VALUES (90, 2020, 'a/b'), (91, NULL, 'eu'), (92, 2020, '')")
    values = f"SELECT DISTINCT year, region FROM {lite.table}"
    with lite.backend({KEY: Query(lite.fill(BY_REGION), values=values)}) as backend:
        with pytest.raises(StorageError, match="value"):
            list(backend.list())
        errors = []
        from omnistorage.core import ListOptions

        assert len(list(backend.list("", ListOptions(on_error=errors.append)))) == 6
        assert len(errors) == 3
    with (
        lite.backend({KEY: Query(lite.fill(BY_REGION), values="SELECT 1 AS year")}) as backend,
        pytest.raises(ConfigError, match="return year, not region, year"),
    ):
        list(backend.list())


def test_strict_shows_what_is_configured_and_nothing_else(place):
    view = f"v_{place.table}"
    place.run(f"CREATE VIEW {view} AS SELECT id, region FROM {place.table}")
    schema = {"sqlite": "main", "postgres": "public", "mariadb": "omnistorage"}[place.name]
    try:
        with place.backend({"all.csv": ALL}) as backend:
            assert [info.path for info in backend.list()] == ["all.csv"]
            for key in (f"{view}.csv", f"{schema}/{place.table}.csv"):
                assert not backend.exists(key)
                with pytest.raises(NotFound):
                    backend.open_reader(key)
        with place.backend(
            {"all.csv": ALL, f"{view}.csv": "SELECT id FROM SALES WHERE id < 2"}, strict=False
        ) as backend:
            listed = {info.path for info in backend.list()}
            assert {
                "all.csv",
                f"{view}.parquet",
                f"{schema}/{view}.parquet",
                f"{schema}/{place.table}.parquet",
            } <= listed
            assert not any(path.startswith(("information_schema/", "pg_catalog/", "mysql/")) for path in listed)
            assert table_of(backend, f"{schema}/{place.table}.arrow").num_rows == place.ROWS
            assert table_of(backend, f"{view}.parquet").column_names == ["id", "region"]
            assert table_of(backend, f"{view}.csv").split() == ['"id"', "0", "1"], "what is configured goes first"
            for key in (f"{place.table}.csv", f"{schema}/nothing.csv", f"other/{place.table}.csv", f"{view}.txt",
                        f"{schema}/{place.table.upper()}x.csv", "information_schema/tables.csv",
                        f"a/b/{view}.csv"):  # fmt: skip
                assert not backend.exists(key), key
    finally:
        place.run(f"DROP VIEW {view}")


def test_goal_44_tables_with_hostile_names_are_read_and_nothing_else_happens(place):
    names = ["a b", "semi;colon", "quo'te", "per%cent", "co:lon :x", "uni é", "{x}"]
    names += ['dou"ble'] if place.name != "mariadb" else ["back`tick"]
    quote = place.engine().dialect.identifier_preparer.quote_identifier
    schema = {"sqlite": "main", "postgres": "public", "mariadb": "omnistorage"}[place.name]
    names = [f"{name} {place.table}" for name in names]
    # A doubled percent sign is what the dialect makes of one for a driver that formats.
    made = [quote(name).replace("%%", "%") for name in names]
    try:
        for name in made:
            place.run(f"CREATE TABLE {name} (n INTEGER)")
            place.run(f"INSERT INTO {name} VALUES (7)")
        with place.backend({"all.csv": ALL}, strict=False) as backend:
            listed = {info.path for info in backend.list(schema)}
            for name in names:
                assert f"{schema}/{name}.parquet" in listed
                assert table_of(backend, f"{schema}/{name}.csv").split() == ['"n"', "7"]
    finally:
        for name in made:
            place.run(f"DROP TABLE IF EXISTS {name}")


def test_the_size_is_unknown_until_it_has_been_read(lite):
    with lite.backend({"all.parquet": ALL}) as backend:
        assert backend.stat("all.parquet").size is None
        with backend.open_reader("all.parquet") as reader:
            assert reader.info.size is None
            data = reader.read()
            assert reader.read(1) == b""
            assert reader.info.size == len(data)
        assert backend.stat("all.parquet").size is None, "the next time it may be another"
        assert (reader.info.etag, reader.info.modified_at) == (None, None)
    with lite.backend({"all.parquet": ALL}, frozen=True, modified_at="2024-05-01T00:00:00+02:00") as backend:
        table_of(backend, "all.parquet")
        info = backend.stat("all.parquet")
        assert info == next(backend.list())
        assert (info.size, info.content_type) == (len(data), "application/vnd.apache.parquet")
        assert info.modified_at == datetime.datetime(2024, 4, 30, 22, tzinfo=datetime.UTC)
        assert info.etag == backend.resolve("all.parquet").fingerprint
        with pytest.raises(ConfigError, match="zone"):
            backend.with_options(modified_at="2024-05-01T00:00:00")


def test_the_plan_says_what_would_be_asked_and_does_no_io(tmp_path):
    backend = SQLQueryBackend(
        "postgresql://user:hunter2@nowhere.invalid:1/db?password=hunter3", {KEY: BY_REGION}, schema_version=3,
        frozen=True,
    )  # fmt: skip
    plan = backend.resolve("reports/2021/eu.parquet")
    assert (plan.kind, plan.backend, plan.key) == ("sql_query", "sql_query", "reports/2021/eu.parquet")
    assert plan.details == {
        "source": "postgresql://nowhere.invalid:1/db", "query": BY_REGION,
        "parameters": {"year": 2021, "region": "eu"}, "format": "parquet",
    }  # fmt: skip
    assert "hunter" not in f"{plan}{backend!r}{backend.url}{vars(backend)['_options']}"
    determines = {
        "query": BY_REGION, "parameters": {"year": 2021, "region": "eu"}, "format": "parquet", "schema_version": 3,
        "serializer": "ArrowSerializer(batch_rows=65536, compression=zstd)", "types": {}, "type_map": {},
    }  # fmt: skip
    canonical = json.dumps(determines, sort_keys=True, separators=(",", ":"))
    assert plan.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()
    others = [backend.resolve("reports/2022/eu.parquet"), backend.resolve("reports/2021/us.parquet")]
    others += [
        backend.with_options(**change).resolve("reports/2021/eu.parquet")
        for change in ({"schema_version": 4}, {"batch_rows": 10}, {"type_map": {"x": "int8"}},
                       {"queries": {KEY: BY_REGION + " "}})
    ]  # fmt: skip
    assert len({plan.fingerprint, *(other.fingerprint for other in others[:-1])}) == 6
    assert others[-1].fingerprint == plan.fingerprint, "blanks around a query say nothing"
    assert backend.with_options(frozen=False).resolve("reports/2021/eu.parquet").fingerprint is None
    with pytest.raises(NotFound):
        backend.resolve("reports/x/eu.parquet")


def test_a_fingerprint_is_the_same_in_every_process():
    code = (
        "from omnistorage import SQLQueryBackend as B; b = B('sqlite:///x.db', {'{d:date}/{r}.csv': 'SELECT :d, :r'},"
        " frozen=True);"
        "print(b.resolve('2024-05-01/é.csv').fingerprint)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(printed) == 1
    assert re.fullmatch(r"[0-9a-f]{64}\n", printed.pop())


def test_its_capabilities_are_exactly_these(lite):
    with lite.backend({"all.csv": ALL}) as backend:
        store = Store(backend)
        assert store.capabilities == {
            Capability.READ, Capability.LIST, Capability.METADATA, Capability.GLOB, Capability.SEEKABLE_READ,
        }  # fmt: skip
        whole = store.read_bytes("all.csv")
        with store.read_seekable("all.csv") as stream:
            stream.seek(5)
            assert stream.read(10) == whole[5:15]
            stream.seek(-3, 2)
            assert stream.read() == whole[-3:]
        with pytest.raises(CapabilityNotSupported):
            backend.open_reader("all.csv", ReadOptions(offset=5))
        with pytest.raises(CapabilityNotSupported):
            store.write("x.csv", b"")


def test_an_object_without_a_size_goes_through_every_product(place, tmp_path):
    from omnistorage import Observe, Prefix, ReadOnly

    with place.backend({"deep/all.ndjson": ALL, "deep/all.csv": ALL}) as backend:
        whole = ops.read_bytes(backend, "deep/all.ndjson")
        to = MemoryBackend()
        ops.copy(backend, "deep/all.ndjson", to, "copy")
        ops.transfer(backend, "deep/all.ndjson", to, "transfer")
        assert to.peek("copy") == to.peek("transfer") == whole
        assert [info.path for info in ops.walk(backend)] == ["deep/all.csv", "deep/all.ndjson"]
        assert [info.path for info in ops.sorted_list(backend)] == ["deep/all.csv", "deep/all.ndjson"]
        for wrapped in (ReadOnly(backend), Observe(backend, lambda event: None)):
            assert ops.read_bytes(wrapped, "deep/all.ndjson") == whole
        assert ops.read_bytes(Prefix(backend, "deep"), "all.ndjson") == whole
        assert Prefix(backend, "deep").stat("all.ndjson").size is None
        store = Store(backend, "deep")
        store.download("all.ndjson", tmp_path / "down")
        assert (tmp_path / "down").read_bytes() == whole
        assert store.checksum("all.ndjson") == hashlib.sha256(whole).hexdigest()
        assert store.get_folder_info("").file_count == 2
        with store.open_records("all.ndjson") as records:
            assert sum(record["id"] for record in records) == sum(range(place.ROWS))
        with store.open("all.csv", "rt") as text:
            assert len(text.readlines()) == place.ROWS + 1


SQL = """-- Reports of the sales department.

-- name: reports/{year:int}/{region}.parquet
-- values: SELECT DISTINCT year, region FROM SALES
-- type total: decimal128(18, 2)
-- schema_version: 2
SELECT id, sum(amount) AS total FROM SALES -- of a year
WHERE year = :year AND region = :region GROUP BY id ORDER BY id;

-- name: all.csv
SELECT id FROM SALES ORDER BY id
"""


def write_queries(place, folder):
    sql = place.fill(SQL)
    (folder / "sub").mkdir(parents=True)
    (folder / "a.sql").write_text(sql)
    (folder / "sub" / "b.sql").write_text("-- name: one.ndjson\nSELECT CAST(1 AS INTEGER) AS one\n")
    sql = "SELECT id, sum(amount) AS total FROM SALES WHERE year = :year AND region = :region GROUP BY id ORDER BY id"
    report = {"sql": place.fill(sql), "values": place.fill("SELECT DISTINCT year, region FROM SALES")}
    report |= {"types": {"total": "decimal128(18, 2)"}, "schema_version": 2}
    queries = {KEY: report, "all.csv": place.fill("SELECT id FROM SALES ORDER BY id")}
    queries["one.ndjson"] = "SELECT CAST(1 AS INTEGER) AS one"
    import yaml

    (folder / "q.yaml").write_text(yaml.safe_dump({"queries": queries}))
    toml = [f'[queries."{KEY}"]\nsql = """{report["sql"]}"""\nvalues = "{report["values"]}"\nschema_version = 2']
    toml += ['types = {total = "decimal128(18, 2)"}', '[queries."all.csv"]', f'sql = "{queries["all.csv"]}"']
    toml += ['[queries."one.ndjson"]', f'sql = "{queries["one.ndjson"]}"']
    (folder / "q.toml").write_text("\n".join(toml))
    return queries


def test_queries_come_from_tables_folders_and_files_alike(place, tmp_path):
    queries = write_queries(place, tmp_path / "q")
    tables = []
    for source in (queries, tmp_path / "q", str(tmp_path / "q" / "q.toml"), tmp_path / "q" / "q.yaml"):
        with SQLQueryBackend(place.url, source) as backend:
            assert [info.path for info in backend.list()][-2:] == [
                "reports/2022/eu.parquet", "reports/2022/us.parquet",
            ]  # fmt: skip
            tables.append(table_of(backend, "reports/2021/us.parquet"))
            assert table_of(backend, "one.ndjson") == '{"one":1}\n'
    assert tables[0].num_rows == 5
    assert tables[0].schema.field("total").type == pa.decimal128(18, 2)
    assert all(table.equals(tables[0]) for table in tables)
    with SQLQueryBackend.from_folder(place.url, tmp_path / "q", frozen=True) as backend:
        assert backend.stat("all.csv").etag is not None


def test_a_mistake_in_a_file_of_queries_names_the_file(lite, tmp_path):
    for name, text, wrong in (
        ("a.sql", "SELECT 1", "without a line"),
        ("b.sql", "-- name: x.csv\n", "a query below it"),
        ("c.sql", "-- name:\nSELECT 1", "needs a key"),
        ("d.sql", "-- name: x.csv\nSELECT 1\n-- name: x.csv\nSELECT 2", "stands twice"),
        ("e.toml", "queries = 7", "table"),
        ("f.toml", "queries = {", "f.toml"),
        ("g.yaml", "- 1", "a table of queries"),
        ("h.yaml", "{", "h.yaml"),
        ("i.txt", "", "queries stand in"),
        ("none.sql", None, "no such file"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=wrong) as caught:
            SQLQueryBackend(lite.url, tmp_path / name)
        assert name in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="there is no query"):
        SQLQueryBackend(lite.url, tmp_path / "empty")
    (tmp_path / "empty" / "1.sql").write_text("-- name: x.csv\nSELECT 1")
    (tmp_path / "empty" / "2.sql").write_text("-- name: x.csv\nSELECT 1")
    with pytest.raises(ConfigError, match=r"2\.sql: the key 'x.csv' stands in .*1\.sql"):
        SQLQueryBackend(lite.url, tmp_path / "empty")


def test_a_registry_opens_it_from_a_file(place, tmp_path):
    write_queries(place, tmp_path / "q")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[backends.db]\ntype = "sql_query"\n[backends.db.options]\nurl = "{place.url}"\n'
        f'queries = "{tmp_path / "q"}"\nfrozen = true\nmodified_at = 2024-05-01T00:00:00Z\n'
        '[stores.sales]\nbackend = "db"\nroot_path = "reports"\n'
    )
    with Registry(RegistryConfig.from_toml(config)) as registry:
        store = registry.get_store("sales")
        assert [info.path for info in store.list_files("2021")] == ["2021/eu.parquet", "2021/us.parquet"]
        assert store.read_bytes("2021/us.parquet")[:4] == b"PAR1"
        assert store.stat("2021/us.parquet").modified_at.year == 2024
    with pytest.raises(ConfigError, match="querys"):
        RegistryConfig.from_dict(
            {"backends": {"x": {"type": "sql_query", "options": {"url": "sqlite:///x", "querys": {}}}}}
        )


def test_it_pickles_as_configuration_or_says_why_not(lite):
    backend = lite.backend({KEY: BY_REGION}, frozen=True, type_map={"x": "int8"}, batch_rows=100)
    twin = pickle.loads(pickle.dumps(backend))
    key = "reports/2021/us.parquet"
    assert twin.resolve(key) == backend.resolve(key)
    assert table_of(twin, key).equals(table_of(backend, key))
    for url, wrong in (
        ("postgresql://u:hunter2@h/d", "password"),
        ("sqlite://", ":memory:"),
        (lite.engine(), "borrowed"),
    ):
        with pytest.raises(ConfigError, match=wrong) as caught:
            pickle.dumps(SQLQueryBackend(url, {"x.csv": "SELECT 1"}))
        assert "hunter2" not in str(caught.value)
    backend.close()
    twin.close()


def test_a_secret_url_is_revealed_when_it_is_needed_and_not_before(lite, tmp_path):
    told = tmp_path / "url"
    secret = Secret.command(["sh", "-c", f"echo asked >> {tmp_path}/asked; cat {told}"])
    # What is a comment in one database is none in another.
    queries = {KEY: lite.fill(BY_REGION), "{n:int}.csv": "SELECT CAST(:n AS INTEGER) AS a -- # it's :other"}
    with SQLQueryBackend(secret, queries) as backend:
        assert backend.resolve("reports/2021/us.parquet").details["source"] is None
        assert list(backend.list()) == []
        pickle.loads(pickle.dumps(backend)).close()
        assert not (tmp_path / "asked").exists()
        told.write_text(lite.url)
        assert table_of(backend, "reports/2021/us.parquet").num_rows == 5
        assert table_of(backend, "7.csv").split() == ['"a"', "7"]
        assert (tmp_path / "asked").exists()
    with pytest.raises(ConfigError, match="binds year"):
        SQLQueryBackend(secret, {"x.csv": "SELECT :year"})


@pytest.mark.parametrize("serializer", ["arrow", "adbc", "connectorx"])
def test_a_file_may_be_called_anything(lite, tmp_path, serializer):
    odd = tmp_path / "odd #1 %41 50% é.db"
    lite.file.rename(odd)
    url = sa.URL.create("sqlite", database=str(odd))
    queries = {"x.csv": lite.fill("SELECT id FROM SALES")}
    with SQLQueryBackend(url, queries, serializer=serializer) as backend:
        assert len(table_of(backend, "x.csv").splitlines()) == lite.ROWS + 1


def test_health_is_one_question_and_hears_of_a_database_that_is_gone(place, tmp_path):
    with place.backend({"x.csv": "SELECT * FROM no_such_table"}) as backend:
        power(backend, Health).check_health()
        with pytest.raises(StorageError, match="no_such_table") as caught:
            backend.open_reader("x.csv")
        assert not isinstance(caught.value, NotFound), "the key is there, its table is not"
        assert caught.value.path == "x.csv"
    with pytest.raises(BackendClosed):
        backend.check_health()
    for missing in (tmp_path / "missing" / "x.db", tmp_path / "missing.db"):
        gone = SQLQueryBackend(f"sqlite:///{missing}", {"x.csv": "SELECT 1"})
        with pytest.raises(NotFound):
            gone.check_health()
        assert not missing.exists()
        gone.close()


def test_unwrap_gives_the_engine(place):
    with Store(place.backend({"x.csv": ALL})) as store:
        assert store.unwrap(sa.Engine).dialect.name == place.engine().dialect.name
