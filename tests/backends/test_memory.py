"""The memory backend, as a file system and as a flat key space."""

from omnistorage.backends.memory import MemoryBackend
from omnistorage.testing import BackendTests, BasicBackend


class TestMemory(BackendTests):
    def make(self):
        return MemoryBackend()


class TestFlatMemory(BackendTests):
    def make(self):
        return MemoryBackend(dirs=False)


class TestBasicBackend(BackendTests):
    def make(self):
        return BasicBackend()
