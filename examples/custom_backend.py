"""A backend of one's own: the rows of a SQLite table. Six methods are a whole one; ``ReaderBase`` and ``WriterBase``
keep the promises of streams. Its tests are ``test_custom_backend.py``. (A toy: it holds a whole object in memory.)"""

import io
import sqlite3
import threading

from omnistorage import open_backend, open_records, register_backend
from omnistorage.backends import ReaderBase, WriterBase
from omnistorage.core import LIST, READ, WRITE, ObjectInfo, WriteOptions
from omnistorage.errors import BackendClosed, CapabilityNotSupported, ConfigError, NotFound
from omnistorage.paths import check_key, check_new, check_prefix, is_under


class TableBackend:
    def __init__(self, file):
        self.db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self.db.execute("CREATE TABLE IF NOT EXISTS objects (path TEXT PRIMARY KEY, data BLOB)")
        self.lock = threading.Lock()  # threads that run one statement on one connection disturb each other

    def __reduce__(self):
        raise ConfigError("this toy cannot be pickled")

    def run(self, sql, *values):
        with self.lock:
            if self.db is None:
                raise BackendClosed("the backend is closed")
            return self.db.execute(sql, values).fetchall()

    def open_reader(self, path, options=READ):
        for (data,) in self.run("SELECT data FROM objects WHERE path = ?", check_key(path)):
            refuse(options, READ, path)
            reader = ReaderBase(ObjectInfo(path, len(data)))
            reader._read = io.BytesIO(data).read
            return reader
        raise NotFound("no such object", path=path)

    def open_writer(self, path, options=WRITE):
        self.run("SELECT 1")
        refuse(options, WriteOptions(size=options.size, expect=options.expect, content_type=options.content_type), path)
        return TableWriter(self, check_new(path), options)

    def exists(self, path):
        return bool(self.run("SELECT 1 FROM objects WHERE path = ?", check_key(path)))

    def delete(self, path, *, if_match=None):
        refuse(if_match, None, check_key(path))
        return bool(self.run("DELETE FROM objects WHERE path = ? RETURNING 1", path))

    def list(self, prefix="", options=LIST):
        under, after = check_prefix(prefix), options.start_after or ""
        rows = self.run("SELECT path, length(data) FROM objects WHERE path > ? ORDER BY path", after)
        return (ObjectInfo(path, size) for path, size in rows if is_under(path, under))

    def close(self):
        self.db = self.db and self.db.close()


def refuse(asked, honoured, path):
    if asked != honoured:
        raise CapabilityNotSupported(capability=repr(asked), path=path)


class TableWriter(WriterBase):
    def __init__(self, backend, path, options):
        super().__init__(path, options, "table")
        self.run, self.data = backend.run, bytearray()
        self._write = self.data.extend

    def _publish(self):
        self.run("INSERT OR REPLACE INTO objects VALUES (?, ?)", self._path, bytes(self.data))
        return ObjectInfo(self._path, len(self.data))


if __name__ == "__main__":
    register_backend("table", TableBackend)
    backend = open_backend("table", {"file": ":memory:"})
    with open_records(backend, "logs/events.ndjson.zst", "w") as records:
        records.write_many({"n": n} for n in range(1000))
    with open_records(backend, "logs/events.ndjson.zst", "r") as records:
        total = sum(record["n"] for record in records)
    print("sum:", total)
    assert total == 499500
    print("listed:", [found.path for found in backend.list("logs")])
    backend.close()
