"""The SQL blob backend keeps every promise of the kit on each database, and random calls agree with a dict."""

import pytest

from omnistorage.testing import BackendTests, backend_machine

from ..budget import pick
from .sql_places import Place, peek, plant

SCALE = pick(default=1, ci=10, soak=500)


class SQLTests(BackendTests):
    place = Place("memory")

    def make(self):
        return self.place.make()

    def peek(self, backend, path):
        return peek(backend, path)

    def plant(self, backend, path, data):
        plant(backend, path, data)

    def dispose(self, backend):
        self.place.dispose(backend)


class TestSQLiteFile(SQLTests):
    place = Place("file")


class TestSQLiteMemory(SQLTests):
    place = Place("memory")


class TestPostgres(SQLTests):
    place = Place("postgres")


@pytest.mark.ci_only
class TestMariaDB(SQLTests):
    place = Place("mariadb")


def machine(place, steps):
    return backend_machine(place.make, peek, place.dispose, steps=steps)


TestGoal32SQLiteFile = machine(Place("file"), 500 * SCALE)
TestGoal32SQLiteMemory = machine(Place("memory"), 1000 * SCALE)
TestGoal32Postgres = machine(Place("postgres"), 100 * SCALE)
TestGoal32MariaDB = machine(Place("mariadb"), 100 * SCALE)
