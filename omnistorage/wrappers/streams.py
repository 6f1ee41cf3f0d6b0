"""Readers and writers that forward to another, for wrappers that see every call on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from omnistorage.core import Data, ObjectInfo, Reader, Writer
from omnistorage.core.lifecycle import Closes, Publishes

R = TypeVar("R")


class WrappedReader(Closes):
    """A reader whose calls pass through ``_call``."""

    def __init__(self, inner: Reader) -> None:
        self.inner = inner
        self.instant = bool(getattr(inner, "instant", False))

    def _call(self, op: str, run: Callable[[], R]) -> R:
        return run()

    @property
    def info(self) -> ObjectInfo:
        return self.inner.info

    def read(self, size: int = -1, /) -> bytes:
        return self._call("read", lambda: self.inner.read(size))

    def close(self) -> None:
        self._call("close", self.inner.close)


class WrappedWriter(Publishes):
    """A writer whose calls pass through ``_call``."""

    def __init__(self, inner: Writer) -> None:
        self.inner = inner
        self.instant = bool(getattr(inner, "instant", False))

    def _call(self, op: str, run: Callable[[], R]) -> R:
        return run()

    @property
    def result(self) -> ObjectInfo | None:
        return self.inner.result

    def write(self, data: Data, /) -> int:
        return self._call("write", lambda: self.inner.write(data))

    def flush(self) -> None:
        self._call("flush", self.inner.flush)

    def prepare(self) -> None:
        self._call("prepare", self.inner.prepare)

    def close(self) -> ObjectInfo:
        return self._call("close", self.inner.close)

    def abort(self) -> None:
        self._call("abort", self.inner.abort)
