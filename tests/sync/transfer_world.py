"""What the tests of transfers share."""

from omnistorage import MemoryBackend

ALL = {"delete": True, "max_delete": "100%"}


MIB = 1 << 20


class Counting(MemoryBackend):
    """Counts who reads its objects."""

    reads = 0

    def _open_reader(self, path, options):
        self.reads += 1
        return super()._open_reader(path, options)
