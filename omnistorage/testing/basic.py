"""A backend with the six basic methods and nothing else: what a small third-party backend looks like.

It shares no code with ``BackendBase`` on purpose, so that whatever is built on basic backends is tested against one.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from typing import Any, Self

from omnistorage.core import LIST, READ, WRITE, Data, ListOptions, ObjectInfo, ReadOptions, WriteOptions
from omnistorage.errors import (
    BackendClosed,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    NotFound,
    ReaderClosed,
    WriterClosed,
)
from omnistorage.paths import check_key, check_new, check_prefix, is_under, sort_key


class BasicBackend:
    """Objects in a dict, listed in insertion order, without ranges, conditions, times or etags."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self._closed = False

    def __reduce__(self) -> Any:
        raise ConfigError("this backend cannot be pickled: its objects live in this process only")

    def peek(self, path: str) -> bytes | None:
        return self.rows.get(path)

    def put_raw(self, path: str, data: bytes) -> None:
        self.rows[path] = data

    def _open(self) -> None:
        if self._closed:
            raise BackendClosed("the backend is closed")

    def open_reader(self, path: str, options: ReadOptions = READ) -> _Reader:
        self._open()
        check_key(path)
        if options != READ:
            raise CapabilityNotSupported(capability="read options", path=path)
        if path not in self.rows:
            raise NotFound("no such object", path=path)
        return _Reader(path, self.rows[path])

    def open_writer(self, path: str, options: WriteOptions = WRITE) -> _Writer:
        self._open()
        check_new(path)
        for name in ("if_match", "durable", "modified_at", "user_metadata", "extra"):
            if getattr(options, name):
                raise CapabilityNotSupported(capability=name, path=path)
        if not options.overwrite:
            raise CapabilityNotSupported(capability="create_only", path=path)
        return _Writer(self, path, options)

    def exists(self, path: str) -> bool:
        self._open()
        return check_key(path) in self.rows

    def delete(self, path: str, *, if_match: str | None = None) -> bool:
        self._open()
        if if_match is not None:
            raise CapabilityNotSupported(capability="if_match", path=path)
        return self.rows.pop(check_key(path), None) is not None

    def list(self, prefix: str = "", options: ListOptions = LIST) -> Iterator[ObjectInfo]:
        self._open()
        prefix = check_prefix(prefix)
        after = None if options.start_after is None else sort_key(options.start_after)
        for path, data in list(self.rows.items()):
            if is_under(path, prefix) and (after is None or sort_key(path) > after) and path in self.rows:
                yield ObjectInfo(path, len(data))

    def close(self) -> None:
        self._closed = True


class _Reader:
    def __init__(self, path: str, data: bytes) -> None:
        self.info = ObjectInfo(path, len(data))
        self._file = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        if self._file.closed:
            raise ReaderClosed("the reader is closed", path=self.info.path)
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Writer:
    def __init__(self, backend: BasicBackend, path: str, options: WriteOptions) -> None:
        self._backend, self._path, self._options = backend, path, options
        self._parts: list[bytes] = []
        self._state = "open"
        self._pid = os.getpid()
        self.result: ObjectInfo | None = None
        for name in options.expect or ():
            if name not in hashlib.algorithms_available:
                self._state = "aborted"
                raise ConfigError(f"unknown digest {name!r}")

    def _check(self, *states: str) -> None:
        if self._state not in states or self._pid != os.getpid():
            raise WriterClosed(f"the writer is {self._state}", path=self._path)

    def write(self, data: Data, /) -> int:
        try:
            copied = bytes(memoryview(data))
            self._check("open")
        except (TypeError, WriterClosed):  # a failed write ends the writer
            self._state = "aborted" if self._state in ("open", "prepared") else self._state
            raise
        self._parts.append(copied)
        return len(copied)

    def flush(self) -> None:
        self._check("open")

    def prepare(self) -> None:
        self._check("open", "prepared")
        data = b"".join(self._parts)
        wrong_size = self._options.size is not None and len(data) != self._options.size
        wrong = [n for n, d in (self._options.expect or {}).items() if hashlib.new(n, data).hexdigest() != d]
        if wrong_size or wrong:
            self._state = "aborted"
            raise CorruptData("the content is not what was announced", path=self._path)
        self._state = "prepared"

    def close(self) -> ObjectInfo:
        if self.result is not None:
            return self.result
        self.prepare()
        data = self._backend.rows[self._path] = b"".join(self._parts)
        self._state = "closed"
        self.result = ObjectInfo(self._path, len(data))
        return self.result

    def abort(self) -> None:
        if self._state in ("open", "prepared"):
            self._state = "aborted"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        if exc[0] is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        if self._state in ("open", "prepared") and self._pid == os.getpid():
            warnings.warn(f"a writer of {self._path!r} was dropped: aborted", ResourceWarning, stacklevel=2)
