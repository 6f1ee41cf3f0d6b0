"""``Wrapper`` forwards everything; a wrapper overrides what it changes. Imports floor 0 only.

A wrapper names the flags it clears (``clears``) and the powers it adapts (``adapts``). Everything it does not name is
forwarded truthfully: it is extended exactly if the inner backend is, has a power only if it adapts it and the inner
backend has it, and a method whose flag is off raises ``CapabilityNotSupported``.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeVar

from .._context import Closes
from ..core import (
    COPY,
    LIST,
    POWERS,
    READ,
    WRITE,
    Append,
    Backend,
    BulkDelete,
    CopyOptions,
    ExtendedBackend,
    Features,
    Glob,
    HealthCheck,
    ListOptions,
    ObjectInfo,
    Presign,
    Purge,
    Reader,
    ReadOptions,
    ReadRanges,
    ResolutionPlan,
    Resolve,
    ResumableWrite,
    SetMetadata,
    StaleUploads,
    Versions,
    WriteOptions,
    Writer,
    as_extended,
    features_of,
    power,
)
from ..errors import CapabilityNotSupported, StorageError

P = TypeVar("P")
_POWER_FLAGS = {"purge": Purge, "append": Append, "set_modified": SetMetadata}


class Wrapper(Closes):
    """All of a backend, forwarded to ``inner``. Closing it closes the inner backend."""

    clears: frozenset[str] = frozenset()
    adapts: frozenset[type] = frozenset(POWERS)

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self._extended: ExtendedBackend | None = as_extended(inner)
        self.is_extended = self._extended is not None
        self.name: str = getattr(inner, "name", None) or type(inner).__name__
        features = features_of(inner)
        off = dict.fromkeys(self.clears, False)
        off.update({flag: False for flag, kind in _POWER_FLAGS.items() if self.power_of(kind) is None})
        self.features: Features = replace(features, **off)  # type: ignore[arg-type]

    @property
    def url(self) -> str | None:
        return getattr(self.inner, "url", None)

    def power_of(self, kind: Callable[..., P]) -> P | None:
        """The answer to ``core.power``."""
        return self if self._inner_power(kind) is not None else None  # type: ignore[return-value]

    def _inner_power(self, kind: Callable[..., P]) -> P | None:
        cleared = any(_POWER_FLAGS.get(flag) is kind for flag in self.clears)
        return power(self.inner, kind) if kind in self.adapts and not cleared else None

    # -- the twelve ----------------------------------------------------------------------------------------------------

    def open_reader(self, path: str, options: ReadOptions = READ) -> Reader:
        self._need("read", "open_reader", path)
        if options.offset or options.length is not None:
            self._need("range_read", "open_reader", path)
        return self.inner.open_reader(path, options)

    def open_writer(self, path: str, options: WriteOptions = WRITE) -> Writer:
        self._need("write", "open_writer", path)
        self._need_all(options, "open_writer", path)
        return self.inner.open_writer(path, options)

    def exists(self, path: str) -> bool:
        self._need("read", "exists", path)
        return self.inner.exists(path)

    def delete(self, path: str, *, if_match: str | None = None) -> bool | None:
        self._need("delete", "delete", path)
        if if_match is not None:
            self._need("if_match", "delete", path)
        return self.inner.delete(path) if if_match is None else self.inner.delete(path, if_match=if_match)

    def list(self, prefix: str = "", options: ListOptions = LIST) -> Iterator[ObjectInfo]:
        self._need("list", "list", prefix)
        return self.inner.list(prefix, options)

    def close(self) -> None:
        self.inner.close()

    def stat(self, path: str) -> ObjectInfo:
        return self._whole("stat", "stat", path).stat(path)

    def list_dir(self, path: str = "") -> Iterator[ObjectInfo]:
        return self._whole("list", "list_dir", path).list_dir(path)

    def mkdir(self, path: str) -> None:
        self._whole("dirs", "mkdir", path).mkdir(path)

    def rmdir(self, path: str) -> None:
        self._whole("dirs", "rmdir", path).rmdir(path)

    def copy(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        inner = self._whole("copy", "copy", src)
        self._need_all(options, "copy", src)
        return inner.copy(src, dst, options)

    def move(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        inner = self._whole("move", "move", src)
        self._need_all(options, "move", src)
        return inner.move(src, dst, options)

    # -- powers --------------------------------------------------------------------------------------------------------

    def open_appender(self, path: str, options: WriteOptions = WRITE) -> Writer:
        return self._power(Append, "open_appender", path).open_appender(path, options)

    def set_metadata(
        self, path: str, *, modified_at: datetime | None = None, user_metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        return self._power(SetMetadata, "set_metadata", path).set_metadata(
            path, modified_at=modified_at, user_metadata=user_metadata
        )

    def delete_many(self, paths: Iterable[str]) -> Iterator[tuple[str, StorageError | None]]:
        return self._power(BulkDelete, "delete_many", "").delete_many(paths)

    def purge(self, path: str) -> None:
        self._power(Purge, "purge", path).purge(path)

    def presign(self, path: str, method: str, expires: timedelta) -> str:
        return self._power(Presign, "presign", path).presign(path, method, expires)

    def versions(self, path: str) -> Iterator[ObjectInfo]:
        return self._power(Versions, "versions", path).versions(path)

    def glob(self, pattern: str) -> Iterator[ObjectInfo]:
        return self._power(Glob, "glob", pattern).glob(pattern)

    def resolve(self, key: str) -> ResolutionPlan:
        return self._power(Resolve, "resolve", key).resolve(key)

    def check_health(self) -> None:
        self._power(HealthCheck, "check_health", "").check_health()

    def suspend(self, writer: Writer) -> Mapping[str, Any]:
        return self._power(ResumableWrite, "suspend", "").suspend(writer)

    def resume_writer(self, path: str, token: Mapping[str, Any]) -> Writer:
        return self._power(ResumableWrite, "resume_writer", path).resume_writer(path, token)

    def stale_uploads(self, *, older_than: timedelta = timedelta(hours=1)) -> Iterator[ObjectInfo]:
        return self._power(StaleUploads, "stale_uploads", "").stale_uploads(older_than=older_than)

    def remove_stale_uploads(self, *, older_than: timedelta = timedelta(hours=1)) -> int:
        return self._power(StaleUploads, "remove_stale_uploads", "").remove_stale_uploads(older_than=older_than)

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        return self._power(ReadRanges, "read_ranges", path).read_ranges(path, ranges)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _need(self, flag: str, op: str, path: str) -> None:
        if not getattr(self.features, flag):
            self._refuse(flag, op, path)

    def _need_all(self, options: WriteOptions | CopyOptions, op: str, path: str) -> None:
        """Refuse what a cleared flag denies, whatever the inner backend could do."""
        if not options.overwrite:
            self._need("create_only", op, path)
        if options.if_match is not None or getattr(options, "source_if_match", None) is not None:
            self._need("if_match", op, path)
        if options.user_metadata:
            self._need("user_metadata", op, path)
        if getattr(options, "modified_at", None) is not None:
            self._need("set_modified", op, path)

    def _whole(self, flag: str, op: str, path: str) -> ExtendedBackend:
        self._need(flag, op, path)
        if self._extended is None:
            self._refuse(op, op, path)
        return self._extended

    def _power(self, kind: Callable[..., P], op: str, path: str) -> P:
        found = self._inner_power(kind)
        if found is None:
            flags = [flag for flag, has in _POWER_FLAGS.items() if has is kind]
            self._refuse(flags[0] if flags else getattr(kind, "__name__", op), op, path)
        result: P = found
        return result

    def _refuse(self, capability: str, op: str, path: str) -> NoReturn:
        raise CapabilityNotSupported(
            f"{self!r} does not support {capability}", capability=capability, backend=self.name, op=op, path=path
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"
