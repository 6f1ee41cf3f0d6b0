"""Objects of 4 KiB in SQLite: writing, reading and listing, against the bare statements of ``sqlite3``.

The peer keeps the same columns in a table of the same shape, with the same settings, and commits each write.
"""

import hashlib
import sqlite3
from datetime import UTC, datetime

from common import Bench, SameWork, over, rounds

from omnistorage.backends.sql_blob import SQLBlobBackend

CONTENT = hashlib.shake_256(b"omnistorage").digest(4096)
ENGINE = f"SQLBlobBackend, SQLite {sqlite3.sqlite_version}"
TABLE = """CREATE TABLE objects (key TEXT NOT NULL PRIMARY KEY CHECK (length(key) > 0), size INTEGER NOT NULL,
    modified_at TEXT NOT NULL, content_type TEXT, digest TEXT, etag TEXT NOT NULL, extra JSON, blob_id TEXT,
    data BLOB)"""
WRITE = """INSERT INTO objects VALUES (?, ?, ?, NULL, ?, ?, NULL, NULL, ?)
    ON CONFLICT (key) DO UPDATE SET size = excluded.size, modified_at = excluded.modified_at,
    digest = excluded.digest, etag = excluded.etag, data = excluded.data"""
READ = "SELECT size, modified_at, content_type, digest, etag, extra, data FROM objects WHERE key = ?"
LIST = """SELECT key, size, modified_at, content_type, digest, etag, extra FROM objects WHERE key > ?
    ORDER BY key LIMIT 1000"""


class Bare:
    """What one would write by hand."""

    def __init__(self, path):
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=NORMAL")
        self.connection.execute(TABLE)
        self.execute = self.connection.execute
        self.number = 0

    def write(self, key):
        self.number += 1
        digest = hashlib.sha256(CONTENT).hexdigest()
        now = datetime.now(UTC).isoformat("T", "microseconds")
        self.execute(WRITE, (key, len(CONTENT), now, digest, f"{self.number:024x}", CONTENT))

    def read(self, key):
        return self.execute(READ, (key,)).fetchone()[-1]

    def list(self):
        last = ""
        while rows := self.execute(LIST, (last,)).fetchall():
            yield from rows
            last = rows[-1][0]


def start(bench):
    bare = Bare(bench.folder / "bare.db")
    return bare, SQLBlobBackend(f"sqlite:///{bench.folder / 'ours.db'}")


def calls(bench: Bench):
    """Writing and reading objects of 4 KiB one by one."""
    bare, backend = start(bench)
    names = [f"logs/2024/{n % 50:02}/object-{n:05}.bin" for n in range(200 if bench.quick else 5000)]

    def write(key):
        with backend.open_writer(key) as writer:
            writer.write(CONTENT)

    def read(key):
        with backend.open_reader(key) as reader:
            return reader.read()

    for what, ours, theirs in (("write", write, bare.write), ("read", read, bare.read)):
        times = rounds(
            {
                "peer": lambda call=theirs: [call(key) for key in names],
                "ours": lambda call=ours: [call(k) for k in names],
            },
            bench.rounds * 2 - 1,
            lambda name, values: None,
        )
        bench.add(
            f"sql_{what}", f"SQLite {what} of 4 KiB", peer="the bare sqlite3 statement", bar=1.5, better="lower",
            samples=over(times["ours"], times["peer"]), engine=ENGINE,
        )  # fmt: skip
    if [read(key) for key in names] != [bare.read(key) for key in names]:
        raise SystemExit("what was written does not read back the same")
    backend.close()
    bare.connection.close()


def listing(bench: Bench):
    """Listing 100,000 keys, page by page."""
    bare, backend = start(bench)
    count = 2_000 if bench.quick else 100_000
    rows = [(f"logs/{n % 1000:03}/object-{n:06}.bin", n % 7, f"2024-05-01T00:00:00.{n:06}+00:00") for n in range(count)]
    backend.check_health()
    ours = sqlite3.connect(bench.folder / "ours.db")
    for connection, table in ((bare.connection, "objects"), (ours, "omnistorage_objects")):
        connection.execute("BEGIN")
        connection.executemany(
            f"INSERT INTO {table} (key, size, modified_at, digest, etag, data) VALUES (?, ?, ?, ?, ?, zeroblob(16))",
            ((*row, hashlib.sha256(row[0].encode()).hexdigest(), f"{row[1]:024x}") for row in rows),
        )
        connection.execute("COMMIT")
    ours.close()
    same = SameWork()
    same.check([row[:2] for row in bare.list()])
    same.check([(info.path, info.size) for info in backend.list()])
    lengths = SameWork()
    times = rounds(
        {"peer": lambda: sum(1 for _ in bare.list()), "ours": lambda: sum(1 for _ in backend.list())},
        bench.rounds * 2 - 1,
        lambda name, length: lengths.check(length),
    )
    bench.add(
        "sql_list", "SQLite list of 100,000 keys", peer="the bare sqlite3 statement, its rows as they come", bar=1.5,
        better="lower", samples=over(times["ours"], times["peer"]), engine=ENGINE,
    )  # fmt: skip
    backend.close()
    bare.connection.close()


GROUPS = {"sql_calls": calls, "sql_listing": listing}
