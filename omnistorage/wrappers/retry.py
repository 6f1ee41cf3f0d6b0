"""``Retry``: tries again what a basic third-party backend failed at for a while."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import READ, Backend, ObjectInfo, Reader, ReadOptions, Writer, as_extended
from omnistorage.errors import ConfigError, CorruptData, StorageError

from .base import Wrapper
from .streams import WrappedReader, WrappedWriter

R = TypeVar("R")
T = TypeVar("T")
_SKIP = 1 << 20


class Retry(Wrapper):
    """A basic backend whose transient errors (``StorageError.transient``) are tried again as ``policy`` says.

    Opening, ``exists``, ``delete`` and the start of a listing are tried again as they are; after a ``delete`` that had
    to be, False becomes None: perhaps the first attempt removed it. A read that fails on the way is continued in a
    second reader, once that has given the same bytes up to there (and the same etag, if it has one). A ``close`` whose
    answer was lost is never sent again: it raises ``OutcomeUnknown``. Writes are not repeated: a failed one poisons its
    writer. For backends of omnistorage's own, which retry by themselves, ``ConfigError``.
    """

    def __init__(self, inner: Backend, policy: RequestPolicy | None = None) -> None:
        if as_extended(inner) is not None:
            raise ConfigError(
                f"{inner!r} is an extended backend, which retries by its own RequestPolicy: retries inside retries "
                "multiply"
            )
        super().__init__(inner)
        self.policy = policy or RequestPolicy()

    def __repr__(self) -> str:
        return f"Retry({self.inner!r})"

    def _forward(self, op: str, path: str, run: Callable[[str], R]) -> R:
        return self.policy.run(op, lambda: run(path), path=path)

    def delete(self, path: str, *, if_match: str | None = None) -> bool | None:
        attempts = 0

        def once(found: str) -> bool | None:
            nonlocal attempts
            attempts += 1
            return self.inner.delete(found) if if_match is None else self.inner.delete(found, if_match=if_match)

        removed = self._forward("delete", path, once)
        return None if removed is False and attempts > 1 else removed

    def _items(self, op: str, path: str, run: Callable[[str], Iterator[T]]) -> Iterator[T]:
        def start() -> tuple[list[T], Iterator[T]]:
            items = run(path)
            first = next(items, None)
            return ([] if first is None else [first]), items

        return _chained(lambda: self.policy.run(op, start, path=path))

    def open_reader(self, path: str, options: ReadOptions = READ) -> Reader:
        return _Reader(super().open_reader(path, options), path, options, self)

    def _writer(self, writer: Writer, path: str) -> Writer:
        return _Writer(writer, path, self.policy)


def _chained(start: Callable[[], tuple[list[T], Iterator[T]]]) -> Iterator[T]:
    first, rest = start()
    yield from first
    yield from rest


class _Reader(WrappedReader):
    def __init__(self, inner: Reader, path: str, options: ReadOptions, backend: Retry) -> None:
        super().__init__(inner)
        self._options = options
        self._path = path
        self._backend = backend
        self._at = 0
        self._digest = hashlib.sha256()
        self._broken = False

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(_SKIP), b""))
        data = self._backend.policy.run("read", lambda: self._read(size), path=self._path)
        self._at += len(data)
        self._digest.update(data)
        return data

    def _read(self, size: int) -> bytes:
        if self._broken:
            self._reopen()
        try:
            return self.inner.read(size)
        except StorageError as error:
            self._broken = error.transient
            raise

    def _reopen(self) -> None:
        reader = self._backend.inner.open_reader(self._path, self._options)
        try:
            same = reader.info.etag == self.inner.info.etag
            digest, left = hashlib.sha256(), self._at
            while same and left and (skipped := reader.read(min(left, _SKIP))):
                digest.update(skipped)
                left -= len(skipped)
            if not same or left or digest.digest() != self._digest.digest():
                raise CorruptData("the object was changed while it was read", path=self._path, op="read")
        except BaseException:
            reader.close()
            raise
        self.inner.close()
        self.inner, self._broken = reader, False


class _Writer(WrappedWriter):
    def __init__(self, inner: Writer, path: str, policy: RequestPolicy) -> None:
        super().__init__(inner)
        self._path = path
        self._policy = policy

    def close(self) -> ObjectInfo:
        return self._policy.run("close", self.inner.close, path=self._path, idempotent=False)
