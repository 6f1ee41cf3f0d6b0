"""Objects that are made when they are read: by a function, by asking a REST endpoint, by DuckDB over files
(``pip install duckdb pyarrow``)."""

import json
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import duckdb
import pyarrow as pa
from pyarrow import parquet

from omnistorage import ComputeBackend, NotFound, Store
from omnistorage.backends.computed import Computed


class Weather(BaseHTTPRequestHandler):
    """A service that knows two cities."""

    def do_GET(self):
        known = {"/v1/oslo": -3, "/v1/rome": 14}
        self.send_response(200 if self.path in known else 404)
        self.end_headers()
        if self.path in known:
            self.wfile.write(json.dumps({"degrees": known[self.path]}).encode())

    def log_message(self, *_):
        pass


def squares(n: int) -> Iterator[bytes]:
    for number in range(n):  # made while it is read, never held as a whole
        yield b"%d\n" % number**2


def weather(site: str, city: str):
    try:
        return urllib.request.urlopen(f"{site}/v1/{city}")  # a binary stream, closed by the reader
    except urllib.error.HTTPError as error:
        raise NotFound("no such city") from error


def per_level(files: str, level: str) -> pa.Table:
    query = "SELECT day, count(*)::INTEGER AS n FROM read_ndjson(?) WHERE level = ? GROUP BY day ORDER BY day"
    with duckdb.connect() as connection:
        return connection.sql(query, params=[files, level]).to_arrow_table()


def main(folder: Path, site: str) -> None:
    for day in (1, 2):
        lines = [json.dumps({"day": day, "level": "error" if n % 10 == 0 else "info"}) for n in range(50 * day)]
        (folder / f"{day}.ndjson").write_text("\n".join(lines))
    functions = {
        "squares/{n:int}.txt": squares,
        "weather/{city}.json": Computed(lambda city: weather(site, city), values=["oslo", "rome"]),
        "logs/{level}.parquet": lambda level: per_level(str(folder / "*.ndjson"), level),
    }
    store = Store(ComputeBackend(functions), owns=True)
    with store:
        print("listed:", [info.path for info in store.list_files(recursive=True)])
        print("squares:", store.read_text("squares/5.txt").split())
        print("Oslo:", json.loads(store.read_bytes("weather/oslo.json")), store.exists("weather/paris.json"))
        table = parquet.read_table(pa.BufferReader(store.read_bytes("logs/error.parquet")))
        print("errors per day:", table.to_pylist())
        assert sum(table.column("n").to_pylist()) == 15


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary, ThreadingHTTPServer(("127.0.0.1", 0), Weather) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        main(Path(temporary), f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
