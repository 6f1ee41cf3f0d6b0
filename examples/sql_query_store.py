"""Reports as files that nobody has written: keys whose bytes are the results of SQL queries."""

import sqlite3
import tempfile
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from omnistorage import NotFound, SQLQueryBackend, Store

QUERIES = """
-- name: reports/{year:int}/{region}.parquet
-- values: SELECT DISTINCT year, region FROM sales
SELECT product, CAST(sum(amount) AS REAL) AS total FROM sales
WHERE year = :year AND region = :region GROUP BY product ORDER BY product;

-- name: sales.ndjson
SELECT id, year, region, product, amount FROM sales ORDER BY id;
"""


def make_sales(file: Path) -> None:
    rows = [(2024 + n % 2, ("eu", "us")[n % 3 == 0], f"product {n % 4}", n + 0.5) for n in range(1000)]
    with sqlite3.connect(file) as connection:
        connection.execute(
            "CREATE TABLE sales (id INTEGER PRIMARY KEY, year INTEGER, region TEXT, product TEXT, amount DECIMAL(9, 1))"
        )
        connection.executemany("INSERT INTO sales (year, region, product, amount) VALUES (?, ?, ?, ?)", rows)
    connection.close()


def main(folder: Path) -> None:
    make_sales(folder / "sales.db")
    (folder / "queries").mkdir()
    (folder / "queries" / "reports.sql").write_text(QUERIES)
    with SQLQueryBackend(f"sqlite:///{folder / 'sales.db'}", folder / "queries") as backend:
        store = Store(backend)
        print("listed:", [info.path for info in store.list_files("reports", recursive=True)])

        # The name says year and region, the suffix the format; parameters are bound, never put into the SQL.
        table = parquet.read_table(pa.BufferReader(store.read_bytes("reports/2024/eu.parquet")))
        print("2024 in the EU:", table.num_rows, "products,", table.column("total").type)
        assert table.column_names == ["product", "total"]

        # Nothing is held as a whole: rows become bytes as they are read.
        with store.open_records("sales.ndjson") as records:
            print("records:", sum(1 for _ in records))

        # What a key would ask, without asking.
        plan = store.resolve("reports/2025/us.parquet")
        print("plan:", plan.kind, plan.details["parameters"], plan.fingerprint)
        for hostile in ("reports/2024/eu' OR 1=1 --.parquet", "reports/2024'; DROP TABLE sales/eu.parquet"):
            try:
                store.read_bytes(hostile)
            except NotFound as error:
                print("refused:", error.path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
