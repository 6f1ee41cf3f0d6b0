from custom_backend import TableBackend

from omnistorage.testing import BackendTests


class TestTable(BackendTests):
    def make(self):
        return TableBackend(":memory:")

    def peek(self, backend, path):
        return next((row[0] for row in backend.run("SELECT data FROM objects WHERE path = ?", path)), None)

    def plant(self, backend, path, data):
        backend.run("INSERT OR REPLACE INTO objects VALUES (?, ?)", path, data)
