"""The bodies of what obstore reads."""

from __future__ import annotations

import threading
from typing import Any

from omnistorage.concurrency.cancellation import wait_for
from omnistorage.concurrency.in_flight import run_aside
from omnistorage.core import ObjectInfo

CHUNK = 1 << 20


class Whole:
    """A body that is here."""

    digest: tuple[str, str] | None = None

    def __init__(self, info: ObjectInfo, length: int, data: Any) -> None:
        self.info = info
        self.length: int | None = length
        self._data = memoryview(data)

    def read(self, size: int, /) -> bytes:
        piece = bytes(self._data[:size])
        self._data = self._data[size:]
        return piece

    def close(self) -> None:
        self._data = memoryview(b"")

    def interrupt(self) -> None:
        pass


class Streamed:
    """A body on its way. Its next piece is waited for on another thread, as nothing else could end the waiting."""

    digest: tuple[str, str] | None = None

    def __init__(self, info: ObjectInfo, length: int, result: Any) -> None:
        self.info = info
        self.length: int | None = length
        self._stream = iter(result.stream(min_chunk_size=CHUNK))
        self._piece = memoryview(b"")
        self._changed = threading.Condition()
        self._stopped = False

    def read(self, size: int, /) -> bytes:
        if not len(self._piece):
            self._piece = memoryview(self._next())
        piece = bytes(self._piece[:size])
        self._piece = self._piece[size:]
        return piece

    def _next(self) -> Any:
        stream, changed, found = self._stream, self._changed, list[Any]()

        def fetch() -> None:
            try:
                found.append(next(stream, b""))
            except BaseException as error:
                found.append(error)
            with changed:
                changed.notify_all()

        run_aside(fetch)
        with changed:
            wait_for(changed, lambda: found or self._stopped)
        if not found:
            raise ConnectionAbortedError("the reader was closed")
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    def close(self) -> None:
        self.interrupt()
        self._stream = iter(())
        self._piece = memoryview(b"")

    def interrupt(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
