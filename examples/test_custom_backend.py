from custom_backend import TableBackend

from omnistorage.testing import BackendTests


class TestTable(BackendTests):
    def make(self): return TableBackend(":memory:")
