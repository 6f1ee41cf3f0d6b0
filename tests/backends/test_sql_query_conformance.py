"""The query backend and every promise of the kit: any key, any bytes, through one query with a listing of its own."""

from omnistorage.testing import BackendTests

from .sql_query_places import BodyPlace


class TestSQLQuery(BackendTests):
    read_only = True

    def make(self):
        return BodyPlace(frozen=True).backend

    def peek(self, backend, path):
        return backend.place.get(path)

    def plant(self, backend, path, data):
        backend.place.put(path, data)
        (backend._schema_version,) = backend.place.run("SELECT max(id) FROM objects")[0]  # frozen but for this
        for info in backend.list():
            backend.open_reader(info.path).read()  # from then on its size is known

    def dispose(self, backend):
        backend.place.close()
