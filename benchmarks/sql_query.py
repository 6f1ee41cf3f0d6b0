"""A query of two million rows to Parquet: by rows, ADBC and ConnectorX, against pyarrow over the same cursor by hand.

All write the same table with the same compression, and what they wrote is compared column by column.
"""

import hashlib
import random
import sqlite3
import subprocess
import sys

import pyarrow as pa
from common import MIB, Bench, SameWork, over, rounds, version
from pyarrow import parquet

from omnistorage.backends.sql_query import SQLQueryBackend

QUERY = "SELECT id, year, region, amount, day, note FROM sales"
SCHEMA = pa.schema(
    [("id", pa.int64()), ("year", pa.int64()), ("region", pa.string()), ("amount", pa.float64()), ("day", pa.date32()),
     ("note", pa.string())]
)  # fmt: skip
ENGINE = f"SQLQueryBackend, SQLite {sqlite3.sqlite_version}, {version('sqlalchemy')}, {version('pyarrow')}"
CHILD = """
import re, sys
import pyarrow.parquet, sqlalchemy
from omnistorage.backends.sql_query import SQLQueryBackend

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

url, query = sys.argv[1:]
with SQLQueryBackend(url, {"sales.parquet": query}) as backend:
    before = peak()
    with backend.open_reader("sales.parquet") as reader:
        while reader.read(1 << 20):
            pass
    print((peak() - before) / 1024)
"""


def make_sales(path, count):
    """A table of sales, always the same."""
    rng = random.Random(7)
    rows = (
        (2000 + n % 25, ("eu", "us", "asia")[n % 3], rng.random() * 1000, f"2024-01-{n % 28 + 1:02}",
         f"note {rng.randrange(10**6)}")
        for n in range(count)
    )  # fmt: skip
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE sales (id INTEGER PRIMARY KEY, year INTEGER, region VARCHAR(10), amount DOUBLE, day DATE,"
            " note TEXT)"
        )
        connection.executemany("INSERT INTO sales (year, region, amount, day, note) VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()


def by_hand(database, target):
    """What one would write with pyarrow: batches of rows, a column at a time."""
    connection = sqlite3.connect(database)
    cursor = connection.execute(QUERY)
    with parquet.ParquetWriter(target, SCHEMA, compression="zstd") as writer:
        while rows := cursor.fetchmany(65_536):
            columns = list(zip(*rows, strict=True))
            arrays = [
                pa.array(column, pa.string()).cast(field.type) if field.name == "day" else pa.array(column, field.type)
                for field, column in zip(SCHEMA, columns, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
    connection.close()
    return target


def by_backend(backend, target):
    with backend.open_reader("sales.parquet") as reader, open(target, "wb") as file:
        while part := reader.read(MIB):
            file.write(part)
    return target


def digest(path):
    """A hash of the table's content, whatever its row groups."""
    table = parquet.read_table(path).combine_chunks()
    sink = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=100_000):
        sink.update(batch.serialize())
    return table.num_rows, sink.hexdigest()


def queries(bench: Bench):
    """Two million rows from SQLite to Parquet, by rows, by ADBC and by ConnectorX."""
    database = bench.folder / "sales.db"
    make_sales(database, 20_000 if bench.quick else 2_000_000)
    url = f"sqlite:///{database}"
    backends = {
        name: SQLQueryBackend(url, {"sales.parquet": QUERY}, serializer=name)
        for name in ("arrow", "adbc", "connectorx")
    }
    same, target = SameWork(), bench.folder / "out.parquet"
    contenders = {"hand": lambda: by_hand(database, target)}
    contenders |= {name: lambda one=one: by_backend(one, target) for name, one in backends.items()}
    for run in contenders.values():
        run()  # everything is loaded, and the file is in memory
    times = rounds(contenders, bench.rounds, lambda name, path: same.check(digest(path)))
    bench.add(
        "sql_query_rows", "SQLite query of 2 M rows to Parquet", peer="pyarrow over the same cursor by hand", bar=0.8,
        better="higher", samples=over(times["hand"], times["arrow"]), engine=ENGINE,
    )  # fmt: skip
    for name, title in (("adbc", "ADBC"), ("connectorx", "ConnectorX")):
        package = {"adbc": "adbc-driver-sqlite"}.get(name, name)
        bench.add(
            f"sql_query_{name}", f"SQLite query of 2 M rows to Parquet by {title}", peer="the path by rows", bar=3.0,
            better="higher", samples=over(times["arrow"], times[name]), engine=version(package),
        )  # fmt: skip
    for backend in backends.values():
        backend.close()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, url, QUERY], check=True, capture_output=True, text=True
    )  # fmt: skip
    bench.add(
        "sql_query_memory", "peak memory: SQLite query of 2 M rows to Parquet", peer="over imports", bar=128,
        better="lower", unit="MiB", samples=[float(done.stdout)], engine=ENGINE,
    )  # fmt: skip


GROUPS = {"sql_queries": queries}
