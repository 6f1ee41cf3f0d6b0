"""A backend of one's own in one file: objects as rows of a SQLite table. Its tests are ``test_custom_backend.py``.

``BackendBase`` checks paths, options and features at the door; ``ReaderBase`` and ``WriterBase`` keep the promises of
streams. What is left is what this store really does. It is a toy in one respect: it holds a whole object in memory.
"""

import io
import sqlite3
import tempfile
import threading

from omnistorage import AlreadyExists, Features, NotFound, ObjectInfo, open_backend, open_records, register_backend
from omnistorage.backends._base import BackendBase
from omnistorage.backends._streams import ReaderBase, WriterBase
from omnistorage.paths import is_under


class TableBackend(BackendBase):
    name = "table"
    features = Features(read=True, write=True, delete=True, list=True, stat=True, atomic_write=True, create_only=True)

    def __init__(self, file):
        self.file, self.lock = file, threading.Lock()
        self.db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self.db.execute("CREATE TABLE IF NOT EXISTS objects (path TEXT PRIMARY KEY, data BLOB)")

    def __reduce__(self):  # pickles as its configuration
        return type(self), (self.file,)

    def run(self, sql, *values):
        with self.lock:
            cursor = self.db.execute(sql, values)
            return cursor.fetchall() or cursor.rowcount

    def _open_reader(self, path, options):
        return TableReader(self.stat(path), self.run("SELECT data FROM objects WHERE path = ?", path)[0][0])

    def _open_writer(self, path, options):
        if not options.overwrite and self._exists(path):
            raise AlreadyExists("an object has this name", path=path, op="open_writer", backend=self.name)
        return TableWriter(self, path, options)

    def _exists(self, path):
        return self.run("SELECT count(*) FROM objects WHERE path = ?", path) == [(1,)]

    def _stat(self, path):
        rows = self.run("SELECT length(data) FROM objects WHERE path = ?", path)
        if not isinstance(rows, list):
            raise NotFound("no such object", path=path, backend=self.name)
        return ObjectInfo(path, rows[0][0])

    def _delete(self, path, if_match):
        return self.run("DELETE FROM objects WHERE path = ?", path) == 1

    def _list(self, prefix, options):
        rows = self.run("SELECT path, length(data) FROM objects WHERE path > ?", options.start_after or "")
        return (ObjectInfo(*row) for row in (rows if isinstance(rows, list) else ()) if is_under(row[0], prefix))

    def _close(self):
        self.db.close()


class TableReader(ReaderBase):
    def __init__(self, info, data):
        super().__init__(info)
        self._read, self._release = io.BytesIO(data).read, lambda: None


class TableWriter(WriterBase):
    def __init__(self, backend, path, options):
        super().__init__(path, options, backend.name)
        self.to, self.data = backend, bytearray()

    def _write(self, data):
        self.data += data

    def _publish(self):
        how = "REPLACE" if self._options.overwrite else "ABORT"
        try:
            self.to.run(f"INSERT OR {how} INTO objects VALUES (?, ?)", self._path, bytes(self.data))
        except sqlite3.IntegrityError:
            raise AlreadyExists("another writer was faster", path=self._path, backend=self.to.name) from None
        return ObjectInfo(self._path, len(self.data))


def main():
    register_backend("table", TableBackend)
    with tempfile.TemporaryDirectory() as folder, open_backend("table", {"file": f"{folder}/objects.db"}) as backend:
        with open_records(backend, "logs/events.ndjson.zst", "w") as records:
            records.write_many({"n": n} for n in range(1000))
        with open_records(backend, "logs/events.ndjson.zst", "r") as records:
            print("sum:", sum(record["n"] for record in records))
        print("listed:", [(found.path, found.size) for found in backend.list("logs")])


if __name__ == "__main__":
    main()
