"""The SQL blob backend keeps every promise of the kit on each database, and random calls agree with a dict."""

import pytest

from omnistorage.testing import BackendTests, backend_machine

from ..budget import pick
from .sql_places import Place, peek, plant

STEPS = pick(default=20, ci=500, soak=50_000)
LENGTH = min(STEPS, 50)


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


@pytest.mark.ci_only
class TestSQLiteMemory(SQLTests):
    place = Place("memory")


@pytest.mark.ci_only
class TestPostgres(SQLTests):
    place = Place("postgres")


@pytest.mark.ci_only
class TestMariaDB(SQLTests):
    place = Place("mariadb")


def machine(place, steps):
    return backend_machine(place.make, peek, place.dispose, steps=steps, length=LENGTH)


TestGoal32SQLiteFile = machine(Place("file"), 4 * STEPS)
TestGoal32SQLiteMemory = machine(Place("memory"), 4 * STEPS)
TestGoal32Postgres = machine(Place("postgres"), STEPS)
TestGoal32MariaDB = machine(Place("mariadb"), STEPS)
