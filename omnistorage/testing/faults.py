"""Wrappers that make a backend fail, wait, stutter or fill up: test equipment that ships with the package.

They wrap streams too: every call on the backend and on its readers and writers passes through ``Faulty._call``, which
counts it, so that a test can put a fault at each of them in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

from omnistorage.core import Backend, Data, ObjectInfo, Reader, Writer
from omnistorage.errors import BackendUnavailable, ConfigError, StorageError
from omnistorage.wrappers.base import Wrapper

R = TypeVar("R")
T = TypeVar("T")


class Faulty(Wrapper):
    """The base: forwards every call through ``_call(op, run)``. ``calls`` is the number so far, ``log`` their names."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.calls = 0
        self.log: list[str] = []
        self._count_lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise ConfigError("a fault wrapper cannot be pickled: what it counts lives in this process only")

    def _before(self, op: str, number: int) -> None:
        """Called before call ``number`` (from 1)."""

    def _call(self, op: str, run: Callable[[], R]) -> R:
        with self._count_lock:
            self.calls += 1
            number = self.calls
            self.log.append(op)
        self._before(op, number)
        return run()

    def _forward(self, op: str, path: str, run: Callable[[str], R]) -> R:
        return self._call(op, lambda: run(path))

    def _items(self, op: str, path: str, run: Callable[[str], Iterator[T]]) -> Iterator[T]:
        end: Any = object()
        items = run(path)
        return iter(lambda: self._call(op, lambda: next(items, end)), end)

    def _reader(self, reader: Reader, path: str) -> Reader:
        return FaultyReader(self, reader)

    def _writer(self, writer: Writer, path: str) -> Writer:
        return FaultyWriter(self, writer)


class FaultyReader:
    """A reader whose calls go through the wrapper that opened it."""

    def __init__(self, backend: Faulty, inner: Reader) -> None:
        self.backend = backend
        self.inner = inner

    @property
    def info(self) -> ObjectInfo:
        return self.inner.info

    def read(self, size: int = -1, /) -> bytes:
        return self.backend._call("read", lambda: self.inner.read(size))

    def close(self) -> None:
        self.inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class FaultyWriter:
    """A writer whose calls go through the wrapper that opened it. An injected error poisons it as a real one would."""

    def __init__(self, backend: Faulty, inner: Writer) -> None:
        self.backend = backend
        self.inner = inner
        self._error: BaseException | None = None

    @property
    def result(self) -> ObjectInfo | None:
        return self.inner.result

    def _call(self, op: str, run: Callable[[], R]) -> R:
        if self._error is not None:
            raise self._error
        try:
            return self.backend._call(op, run)
        except BaseException as error:
            if self.inner.result is None:
                self._error = error
            raise

    def write(self, data: Data, /) -> int:
        return self._call("write", lambda: self.inner.write(data))

    def flush(self) -> None:
        self._call("flush", self.inner.flush)

    def prepare(self) -> None:
        self._call("prepare", self.inner.prepare)

    def close(self) -> ObjectInfo:
        if self.inner.result is not None:
            return self.inner.close()
        try:
            return self._call("close", self.inner.close)
        except BaseException:
            self.inner.abort()
            raise

    def abort(self) -> None:
        self.inner.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not exc or exc[0] is None:
            self.close()
        else:
            self.inner.__exit__(*exc)


class Flaky(Faulty):
    """Fails call number ``at`` (from 1), and with ``sticky`` every one after it, before the inner backend sees it."""

    def __init__(
        self,
        inner: Backend,
        *,
        at: int,
        sticky: bool = False,
        error: Callable[[], BaseException] = lambda: BackendUnavailable("injected"),
    ) -> None:
        super().__init__(inner)
        self.at = at
        self.sticky = sticky
        self.error = error
        self.fired = 0

    def _before(self, op: str, number: int) -> None:
        if number == self.at or (self.sticky and number > self.at):
            self.fired += 1
            raise self.error()


class Slow(Faulty):
    """Waits before every call: ``wait`` is called with the call's name, so that a test decides what waiting is."""

    def __init__(self, inner: Backend, *, wait: Callable[[str], Any]) -> None:
        super().__init__(inner)
        self.wait = wait

    def _before(self, op: str, number: int) -> None:
        self.wait(op)


class Chunky(Faulty):
    """Reads are short, at most ``size`` bytes; writes reach the inner writer ``size`` bytes at a time."""

    def __init__(self, inner: Backend, *, size: int = 1) -> None:
        super().__init__(inner)
        self.size = size

    def _reader(self, reader: Reader, path: str) -> Reader:
        return _ChunkyReader(self, reader)

    def _writer(self, writer: Writer, path: str) -> Writer:
        return _ChunkyWriter(self, writer)


class _ChunkyReader(FaultyReader):
    backend: Chunky

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(self.backend.size), b""))
        return super().read(min(size, self.backend.size))


class _ChunkyWriter(FaultyWriter):
    backend: Chunky

    def write(self, data: Data, /) -> int:
        if not isinstance(data, Data):
            return super().write(data)  # which refuses it
        view = memoryview(data).cast("B")
        for at in range(0, len(view), self.backend.size):
            super().write(view[at : at + self.backend.size])
        return len(view)


class Full(Faulty):
    """A store with room for ``capacity`` bytes of writes in all; the write that would pass it fails."""

    def __init__(self, inner: Backend, *, capacity: int) -> None:
        super().__init__(inner)
        self.left = capacity

    def _writer(self, writer: Writer, path: str) -> Writer:
        return _FullWriter(self, writer)


class _FullWriter(FaultyWriter):
    backend: Full

    def write(self, data: Data, /) -> int:
        size = memoryview(data).nbytes if isinstance(data, Data) else 0
        with self.backend._count_lock:
            self.backend.left -= size
            full = self.backend.left < 0
        if full:
            self._error = self._error or StorageError("no space left in the store (injected)", op="write")
        return super().write(data)
