"""Databases for the tests of the query backend, and a serializer that gives back bytes as they are."""

import io
import os
import sqlite3
import tempfile

import sqlalchemy
from pyarrow import ipc, parquet
from sqlalchemy.pool import NullPool

from omnistorage.backends.sql.database import parsed
from omnistorage.backends.sql_query import SQLQueryBackend
from omnistorage.backends.sql_query.backend import Query

from ..servers import server
from .sql_places import databases, new_name

BODY = "SELECT data FROM objects WHERE key = :key ORDER BY id DESC LIMIT 1"
ALL = "SELECT id, year, region, amount, ratio, day, at FROM SALES ORDER BY id"
BY_REGION = "SELECT id, amount FROM SALES WHERE year = :year AND region = :region ORDER BY id"
KEY = "reports/{year:int}/{region}.parquet"


class Bodies:
    """A serializer for any key: the one value of the result, as it is."""

    name, formats = "bodies", None

    def serialize(self, result, format):
        (body,) = [body for batch in result.batches() for body in batch.column(0).to_pylist()]
        return io.BytesIO(body)


class BodyPlace:
    """A table of bodies, and a backend that serves each under its key by one query with a listing of its own."""

    def __init__(self, **options):
        handle, self.file = tempfile.mkstemp(suffix=".db", prefix="omnistorage-query-", dir=databases())
        os.close(handle)
        self.run("CREATE TABLE objects (id INTEGER PRIMARY KEY, key TEXT, data BLOB)")
        queries = {"{key:path}": Query(BODY, values="SELECT key FROM objects")}
        self.backend = SQLQueryBackend(f"sqlite:///{self.file}", queries, serializer=Bodies(), **options)
        self.backend.place = self

    def run(self, statement, *values):
        connection = sqlite3.connect(self.file)
        try:
            with connection:
                return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def get(self, key):
        rows = self.run(BODY.replace(":key", "?"), key)
        return rows[0][0] if rows else None

    def put(self, key, data):
        self.run("INSERT INTO objects (key, data) VALUES (?, ?)", key, data)

    def close(self):
        self.backend.close()
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(self.file + suffix):
                os.unlink(self.file + suffix)


class QueryPlace:
    """One kind of database with a table of sales of its own, and ways to look at it from behind."""

    ROWS = 30

    def __init__(self, name, folder):
        self.name, self.table = name, new_name()
        if name == "sqlite":
            self.file = folder / f"{self.table}.db"
            self.url = f"sqlite:///{self.file}"
        else:
            self.url = server(name)["url"]
        text = {"sqlite": "TEXT", "postgres": "TEXT", "mariadb": "VARCHAR(40)"}[name]
        stamp = "TIMESTAMP" if name == "postgres" else "DATETIME"
        self.run(
            f"CREATE TABLE {self.table} (id INTEGER PRIMARY KEY, year INTEGER, region {text}, amount DECIMAL(10, 2),"
            f" ratio DOUBLE PRECISION, day DATE, at {stamp})"
        )
        rows = [
            (n, 2020 + n % 3, ("eu", "us")[n % 2], f"{n}.25", n / 8, f"2024-05-{n % 28 + 1:02}", "2024-05-01 10:20:30")
            for n in range(self.ROWS)
        ]
        values = ", ".join(str(row) for row in rows)
        self.run(f"INSERT INTO {self.table} VALUES {values}")

    def engine(self, **options):
        """A plain engine, as a user would make it."""
        return sqlalchemy.create_engine(parsed(self.url), **options)

    def run(self, statement):
        engine = self.engine(poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            result = connection.exec_driver_sql(statement.replace("%", "%%") if self.name != "sqlite" else statement)
            return result.fetchall() if result.returns_rows else []

    def backend(self, queries, **options):
        filled = {key: self.fill(query) for key, query in queries.items()}
        return SQLQueryBackend(options.pop("url", self.url), filled, **options)

    def fill(self, query):
        if isinstance(query, str):
            return query.replace("SALES", self.table)
        return query

    def many(self, rows):
        """A query of that many rows with an integer and a text."""
        return {
            "sqlite": f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
            " SELECT CAST(i AS INTEGER) AS i, CAST('row number ' || i AS TEXT) AS t FROM n",
            "postgres": f"SELECT i, 'row number ' || i AS t FROM generate_series(1, {rows}) AS g(i)",
            "mariadb": f"SELECT seq AS i, concat('row number ', seq) AS t FROM seq_1_to_{rows}",
        }[self.name]

    def sessions(self):
        """How many sessions others have on the server, and how many of those are in a transaction."""
        if self.name == "postgres":
            where = f"application_name = '{self.table}'"
            ((all_, busy),) = self.run(
                "SELECT count(*), count(*) FILTER (WHERE state LIKE 'idle in transaction%') FROM pg_stat_activity"
                f" WHERE {where}"
            )
            return all_, busy
        return None

    def dispose(self):
        self.run(f"DROP TABLE IF EXISTS {self.table}")


def table_of(backend, key):
    """What a key reads as, as an Arrow table of its format; for CSV and NDJSON the text."""
    with backend.open_reader(key) as reader:
        data = reader.read()
    if key.endswith(".parquet"):
        return parquet.read_table(io.BytesIO(data))
    if key.endswith(".arrow"):
        return ipc.open_file(data).read_all()
    return data.decode()
