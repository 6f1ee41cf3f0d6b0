"""``Prefix``: one folder of a backend as a backend of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Self, TypeVar

from omnistorage.core import (
    COPY,
    LIST,
    WRITE,
    Backend,
    BulkDelete,
    Confine,
    CopyOptions,
    Data,
    Glob,
    ListOptions,
    ObjectInfo,
    Reader,
    ResolutionPlan,
    Resolve,
    WriteOptions,
    Writer,
    power,
)
from omnistorage.errors import ConfigError, NotFound, StorageError
from omnistorage.globs import escape
from omnistorage.paths import check_key, check_new, check_prefix, is_under

from .base import Wrapper
from .streams import WrappedReader, WrappedWriter

R = TypeVar("R")
T = TypeVar("T")
_new = tuple.__new__

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")
_OF_FOLDERS = frozenset({"list", "list_dir", "stale_uploads", "remove_stale_uploads", "glob", "delete_many"})
_OF_NOTHING = frozenset({"check_health", "checkpoint", "token_of"})


class Prefix(Wrapper):
    """What lies under the folder ``prefix`` of ``inner``, which need not exist.

    No path leads out of the folder, and on local disks and SFTP no symbolic link does: what one outside of it would
    answer is ``InvalidPath``. Every path that comes back, in infos, listings, errors and streams, is relative to it.
    """

    def __init__(self, inner: Backend, prefix: str) -> None:
        try:
            self.prefix = check_new(prefix.rstrip("/"))
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"a prefix is the path of a folder, not {prefix!r}") from error
        links = power(inner, Confine)
        super().__init__(inner if links is None else links.confined(self.prefix))

    def __repr__(self) -> str:
        return f"Prefix({self.inner!r}, {self.prefix!r})"

    @property
    def url(self) -> str | None:
        url = super().url
        if url is None:
            return None
        raw = self.prefix.encode("utf-8", "surrogateescape") + b"/"
        return url + "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in raw)

    # -- paths in and out ----------------------------------------------------------------------------------------------

    def _in(self, path: str, op: str) -> str:
        if op in _OF_NOTHING:
            return path
        if op in _OF_FOLDERS:
            path = check_prefix(path, op=op)
            return f"{self.prefix}/{path}" if path else self.prefix
        return f"{self.prefix}/{check_key(path, op=op)}"

    def _out(self, path: str) -> str:
        return path[len(self.prefix) + 1 :] if is_under(path, self.prefix) else "" if path == self.prefix else path

    def _info(self, info: ObjectInfo) -> ObjectInfo:
        # A listing makes millions of these, and _replace takes twice as long.
        return _new(ObjectInfo, (self._out(info[0]), *info[1:]))

    def _error(self, error: StorageError) -> StorageError:
        # A poisoned writer raises the same error again and again: it is rebased once.
        seen: set[int] = error.__dict__.setdefault("_rebased", set())
        if isinstance(error.path, str) and id(self) not in seen:
            seen.add(id(self))
            error.path = self._out(error.path)
        return error

    def _forward(self, op: str, path: str, run: Callable[[str], R]) -> R:
        try:
            answer: Any = run(self._in(path, op))
        except StorageError as error:
            raise self._error(error) from error.__cause__
        return self._info(answer) if isinstance(answer, ObjectInfo) else answer  # type: ignore[return-value]

    def _items(self, op: str, path: str, run: Callable[[str], Iterator[T]]) -> Iterator[T]:
        return self._rebased(op, path, self._forward(op, path, run))

    def _rebased(self, op: str, path: str, items: Iterator[Any]) -> Iterator[Any]:
        try:
            for info in items:
                yield self._info(info)
        except NotFound as error:
            # The folder that is our root need not exist, as little as that of the inner backend.
            if path or op != "list_dir":
                raise self._error(error) from error.__cause__
        except StorageError as error:
            raise self._error(error) from error.__cause__

    def open_writer(self, path: str, options: WriteOptions = WRITE) -> Writer:
        if not self.is_extended:  # others refuse for themselves what they do not have, and nothing is cleared here
            return super().open_writer(path, options)
        try:
            return _Writer(self.inner.open_writer(self._in(path, "open_writer"), options), self)
        except StorageError as error:
            raise self._error(error) from error.__cause__

    def _reader(self, reader: Reader, path: str) -> Reader:
        return _Reader(reader, self)

    def _writer(self, writer: Writer, path: str) -> Writer:
        return _Writer(writer, self)

    # -- calls with more than one path ---------------------------------------------------------------------------------

    def list(self, prefix: str = "", options: ListOptions = LIST) -> Iterator[ObjectInfo]:
        if options is not LIST:
            told = options.on_error
            options = replace(
                options,
                start_after=None if options.start_after is None else f"{self.prefix}/{options.start_after}",
                on_error=None if told is None else lambda error: told(self._error(error)),
            )
        return super().list(prefix, options)

    def _both(self, dst: str, options: CopyOptions, op: str) -> tuple[str, CopyOptions, Callable[[str], str]]:
        """The target, the options and how to find the source, as the inner backend knows them."""
        source: Backend | None = options.source
        head = ""
        while isinstance(source, Prefix):
            head = f"{source.prefix}/{head}"
            source = source.inner
        if source is None:
            return self._in(dst, op), options, lambda path: path
        return self._in(dst, op), replace(options, source=source), lambda path: head + self._out(path)

    def copy(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        to, options, find = self._both(dst, options, "copy")
        inner = self._whole("copy", "copy", src)
        self._need_all(options, "copy", src)
        return self._forward("copy", src, lambda p: inner.copy(find(p), to, options))

    def move(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        to, options, find = self._both(dst, options, "move")
        inner = self._whole("move", "move", src)
        self._need_all(options, "move", src)
        return self._forward("move", src, lambda p: inner.move(find(p), to, options))

    def delete_many(self, paths: Iterable[str]) -> Iterator[tuple[str, StorageError | None]]:
        inner = self._power(BulkDelete, "delete_many", "")
        try:
            for path, error in inner.delete_many(self._in(path, "delete") for path in paths):
                yield self._out(path), None if error is None else self._error(error)
        except StorageError as error:
            raise self._error(error) from error.__cause__

    def glob(self, pattern: str) -> Iterator[ObjectInfo]:
        inner = self._power(Glob, "glob", pattern)
        return self._rebased("glob", pattern, inner.glob(f"{escape(self.prefix)}/{pattern.removeprefix('/')}"))

    def resolve(self, key: str) -> ResolutionPlan:
        plan = self._forward("resolve", key, self._power(Resolve, "resolve", key).resolve)
        return replace(plan, key=self._out(plan.key))

    def confined(self, folder: str) -> Self:
        return super().confined(f"{self.prefix}/{folder}")

    def read_link(self, path: str) -> tuple[str, ObjectInfo]:
        target, info = super().read_link(path)
        return target, self._info(info)


class _Reader(WrappedReader):
    def __init__(self, inner: Reader, prefix: Prefix) -> None:
        super().__init__(inner)
        self._prefix = prefix
        self._info = prefix._info(inner.info)

    @property
    def info(self) -> ObjectInfo:
        return self._info

    def _call(self, op: str, run: Callable[[], R]) -> R:
        try:
            return run()
        except StorageError as error:
            raise self._prefix._error(error) from error.__cause__


class _Writer(WrappedWriter):
    _closed: ObjectInfo | None = None  # what close returned, rebased once

    def __init__(self, inner: Writer, prefix: Prefix) -> None:
        super().__init__(inner)
        self._prefix = prefix

    @property
    def result(self) -> ObjectInfo | None:
        result = self.inner.result
        return self._closed or (None if result is None else self._prefix._info(result))

    # A small object is one write and one close: these two spare the way through _call.
    def write(self, data: Data, /) -> int:
        try:
            return self.inner.write(data)
        except StorageError as error:
            raise self._prefix._error(error) from error.__cause__

    def close(self) -> ObjectInfo:
        if self._closed is None:
            try:
                self._closed = self._prefix._info(self.inner.close())
            except StorageError as error:
                raise self._prefix._error(error) from error.__cause__
        return self._closed

    def _call(self, op: str, run: Callable[[], R]) -> R:
        try:
            return run()
        except StorageError as error:
            raise self._prefix._error(error) from error.__cause__
