"""One long object as ranges that come in side by side.

For stores of which one connection brings a fraction of what the network carries, and whose readers do not do the same
by themselves (those of S3, GCS and Azure do; a local disk has nothing to gain).
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from omnistorage.core import ExtendedBackend, ObjectInfo, Reader, ReadOptions
from omnistorage.core.lifecycle import Closes
from omnistorage.errors import CorruptData, PreconditionFailed
from omnistorage.sync.listing.lookup_pool import Lookers

LANE = 8 << 20
"""Bytes of a range. So many are held for each stream, and once more for what is handed out."""


def suits(backend: ExtendedBackend, info: ObjectInfo, cutoff: int, streams: int) -> bool:
    """Whether ``info`` is read this way. What has no strong etag could be of several versions, and that of a file is
    made of its size and time."""
    if info.size is None or info.size < max(cutoff, 2 * LANE) or streams < 2:
        return False  # nearly everything, and the cheapest to ask
    features = backend.features
    by_itself = getattr(backend, "instant", False) or hasattr(backend, "concurrency")
    readable = features.range_read and features.lazy_read and not features.dirs
    return readable and not by_itself and info.etag is not None and not info.etag.startswith("W/")


class LaneReader(Closes):
    """A ``Reader`` of the object ``info``, which must stay the one that it is, over ``streams`` ranges at a time."""

    def __init__(self, backend: ExtendedBackend, info: ObjectInfo, streams: int) -> None:
        self._backend, self._path, self._etag = backend, info.path, info.etag
        self._lookers = Lookers(ThreadPoolExecutor(streams, thread_name_prefix="omnistorage-lane"))
        self._coming: deque[Future[bytes]] = deque()
        self._size, self._asked = info.size or 0, 0
        self._data = memoryview(b"")
        self.info = info
        try:
            # The first range is opened here: what is gone or was replaced is told when the reader is made.
            first = self._opened(0)
            self._coming.append(self._lookers.submit(self._read, first, 0))
            self._asked = LANE
            for _ in range(streams - 1):
                self._ask()
        except BaseException:
            self.close()
            raise

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(LANE), b""))
        if not self._data and self._coming:
            self._data = memoryview(self._coming[0].result())
            self._coming.popleft()
            self._ask()
        data, self._data = bytes(self._data[:size]), self._data[size:]
        return data

    def close(self) -> None:
        self._lookers.close()
        self._coming.clear()
        self._data = memoryview(b"")

    def _opened(self, start: int) -> Reader:
        reader = self._backend.open_reader(self._path, ReadOptions(start, LANE, if_match=self._etag))
        if (reader.info.etag, reader.info.size) != (self._etag, self._size):  # a store that looks at no condition
            reader.close()
            raise PreconditionFailed("the source changed while it was read", path=self._path, op="read")
        if not start:
            self.info = reader.info
        return reader

    def _ask(self) -> None:
        if self._asked < self._size:
            self._coming.append(self._lookers.submit(lambda start=self._asked: self._read(self._opened(start), start)))
            self._asked += LANE

    def _read(self, reader: Reader, start: int) -> bytes:
        with reader:
            parts = list(iter(lambda: reader.read(LANE), b""))
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(data) != min(LANE, self._size - start):
            raise CorruptData(
                f"a range of {LANE} bytes came with {len(data)}", path=self._path, offset=start, op="read"
            )
        return data
