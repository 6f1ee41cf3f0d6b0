"""``Wrapper`` forwards everything; a wrapper overrides what it changes.

A wrapper names the flags it clears (``clears``) and the powers it adapts (``adapts``). Everything it does not name is
forwarded truthfully: it is extended exactly if the inner backend is, has a power only if it adapts it and the inner
backend has it, and a method whose flag is off raises ``CapabilityNotSupported``.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NoReturn, Self, TypeVar

from omnistorage.core import (
    COPY,
    LEARNED,
    LIST,
    POWERS,
    READ,
    WRITE,
    Append,
    Backend,
    BulkDelete,
    Checkpoint,
    Confine,
    CopyOptions,
    ExtendedBackend,
    Features,
    FolderTimes,
    Glob,
    HealthCheck,
    Links,
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
    Settle,
    StaleUploads,
    Versions,
    WriteOptions,
    Writer,
    as_extended,
    features_of,
    learned,
    power,
)
from omnistorage.core.lifecycle import Closes
from omnistorage.core.structural import twin
from omnistorage.errors import CapabilityNotSupported, StorageError

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")
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
        self.features: Features = self._features(features_of(inner))

    def _features(self, inner: Features) -> Features:
        """What this wrapper makes of the features of the inner backend."""
        off = dict.fromkeys(self.clears, False)
        off.update({flag: False for flag, kind in _POWER_FLAGS.items() if self.power_of(kind) is None})
        return replace(inner, **off)  # type: ignore[arg-type]

    def learn_features(self) -> Features:
        """The features, after the inner backend has learned its own. See ``core.learned``."""
        self.features = self._features(learned(self.inner))
        return self.features

    @property
    def url(self) -> str | None:
        return getattr(self.inner, "url", None)

    @property
    def durable(self) -> bool:
        """Whether ``WriteOptions(durable=True)`` can be honoured: the inner backend, which writes, says it."""
        return self.features.write and bool(getattr(self.inner, "durable", False))

    @property
    def instant(self) -> bool:
        """Whether a small call costs microseconds, as the inner backend says."""
        return bool(getattr(self.inner, "instant", False))

    @property
    def concurrency(self) -> int:
        """How many ranges of a long object are read at once, where the inner backend does that by itself; else there is
        no such attribute."""
        found: int = self.inner.concurrency  # type: ignore[attr-defined]
        return found

    def power_of(self, kind: Callable[..., P]) -> P | None:
        """The answer to ``core.power``."""
        return self if self._inner_power(kind) is not None else None  # type: ignore[return-value]

    def _inner_power(self, kind: Callable[..., P]) -> P | None:
        cleared = any(_POWER_FLAGS.get(flag) is kind for flag in self.clears)
        return power(self.inner, kind) if kind in self.adapts and not cleared else None

    # -- hooks: what a wrapper changes about every call ----------------------------------------------------------------

    def _forward(self, op: str, path: str, run: Callable[[str], R]) -> R:
        """Make one call on the inner backend: ``run(path)``."""
        return run(path)

    def _items(self, op: str, path: str, run: Callable[[str], Iterator[T]]) -> Iterator[T]:
        """Make a call whose answer is lazy. The call itself is made at once."""
        return self._forward(op, path, run)

    def _reader(self, reader: Reader, path: str) -> Reader:
        """What ``open_reader`` returns."""
        return reader

    def _writer(self, writer: Writer, path: str) -> Writer:
        """What ``open_writer`` and its like return."""
        return writer

    # -- the twelve ----------------------------------------------------------------------------------------------------

    def open_reader(self, path: str, options: ReadOptions = READ) -> Reader:
        self._need("read", "open_reader", path)
        if options.offset or options.length is not None:
            self._need("range_read", "open_reader", path)
        return self._reader(self._forward("open_reader", path, lambda p: self.inner.open_reader(p, options)), path)

    def open_writer(self, path: str, options: WriteOptions = WRITE) -> Writer:
        self._need("write", "open_writer", path)
        self._need_all(options, "open_writer", path)
        return self._writer(self._forward("open_writer", path, lambda p: self.inner.open_writer(p, options)), path)

    def exists(self, path: str) -> bool:
        self._need("read", "exists", path)
        return self._forward("exists", path, self.inner.exists)

    def delete(self, path: str, *, if_match: str | None = None) -> bool | None:
        self._need("delete", "delete", path)
        if if_match is None:
            return self._forward("delete", path, self.inner.delete)
        self._need("if_match", "delete", path)
        return self._forward("delete", path, lambda p: self.inner.delete(p, if_match=if_match))

    def list(self, prefix: str = "", options: ListOptions = LIST) -> Iterator[ObjectInfo]:
        self._need("list", "list", prefix)
        return self._items("list", prefix, lambda p: self.inner.list(p, options))

    def close(self) -> None:
        self.inner.close()

    def stat(self, path: str) -> ObjectInfo:
        return self._forward("stat", path, self._whole("stat", "stat", path).stat)

    def list_dir(self, path: str = "") -> Iterator[ObjectInfo]:
        return self._items("list_dir", path, self._whole("list", "list_dir", path).list_dir)

    def mkdir(self, path: str) -> None:
        self._forward("mkdir", path, self._whole("dirs", "mkdir", path).mkdir)

    def rmdir(self, path: str) -> None:
        self._forward("rmdir", path, self._whole("dirs", "rmdir", path).rmdir)

    def copy(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        inner = self._whole("copy", "copy", src)
        self._need_all(options, "copy", src)
        return self._forward("copy", src, lambda p: inner.copy(p, dst, options))

    def move(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        inner = self._whole("move", "move", src)
        self._need_all(options, "move", src)
        return self._forward("move", src, lambda p: inner.move(p, dst, options))

    # -- powers --------------------------------------------------------------------------------------------------------

    def open_appender(self, path: str, options: WriteOptions = WRITE) -> Writer:
        inner = self._power(Append, "open_appender", path)
        return self._writer(self._forward("open_appender", path, lambda p: inner.open_appender(p, options)), path)

    def set_metadata(
        self, path: str, *, modified_at: datetime | None = None, user_metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        inner = self._power(SetMetadata, "set_metadata", path)
        return self._forward(
            "set_metadata",
            path,
            lambda p: inner.set_metadata(p, modified_at=modified_at, user_metadata=user_metadata),
        )

    def set_folder_time(self, path: str, modified_at: datetime) -> None:
        inner = self._power(FolderTimes, "set_folder_time", path)
        self._forward("set_folder_time", path, lambda p: inner.set_folder_time(p, modified_at))

    def read_link(self, path: str) -> tuple[str, ObjectInfo]:
        return self._forward("read_link", path, self._power(Links, "read_link", path).read_link)

    def make_link(
        self, path: str, target: str, *, overwrite: bool = True, modified_at: datetime | None = None
    ) -> ObjectInfo:
        inner = self._power(Links, "make_link", path)
        return self._forward(
            "make_link", path, lambda p: inner.make_link(p, target, overwrite=overwrite, modified_at=modified_at)
        )

    def delete_many(self, paths: Iterable[str]) -> Iterator[tuple[str, StorageError | None]]:
        inner = self._power(BulkDelete, "delete_many", "")
        return self._items("delete_many", "", lambda _: inner.delete_many(paths))

    def purge(self, path: str) -> None:
        self._forward("purge", path, self._power(Purge, "purge", path).purge)

    def presign(self, path: str, method: str, expires: timedelta) -> str:
        inner = self._power(Presign, "presign", path)
        return self._forward("presign", path, lambda p: inner.presign(p, method, expires))

    def versions(self, path: str) -> Iterator[ObjectInfo]:
        return self._items("versions", path, self._power(Versions, "versions", path).versions)

    def glob(self, pattern: str) -> Iterator[ObjectInfo]:
        return self._items("glob", pattern, self._power(Glob, "glob", pattern).glob)

    def resolve(self, key: str) -> ResolutionPlan:
        return self._forward("resolve", key, self._power(Resolve, "resolve", key).resolve)

    def check_health(self) -> None:
        inner = self._power(HealthCheck, "check_health", "")
        self._forward("check_health", "", lambda _: inner.check_health())

    def token_of(self, writer: Writer) -> Mapping[str, Any] | None:
        inner = self._power(ResumableWrite, "token_of", "")
        return self._forward("token_of", "", lambda _: inner.token_of(getattr(writer, "inner", writer)))

    def checkpoint(self, writer: Writer) -> Checkpoint:
        inner = self._power(ResumableWrite, "checkpoint", "")
        return self._forward("checkpoint", "", lambda _: inner.checkpoint(getattr(writer, "inner", writer)))

    def resume_writer(self, path: str, token: Mapping[str, Any]) -> tuple[Writer, int]:
        inner = self._power(ResumableWrite, "resume_writer", path)
        writer, size = self._forward("resume_writer", path, lambda p: inner.resume_writer(p, token))
        return self._writer(writer, path), size

    def discard_write(self, path: str, token: Mapping[str, Any]) -> None:
        inner = self._power(ResumableWrite, "discard_write", path)
        self._forward("discard_write", path, lambda p: inner.discard_write(p, token))

    def stale_uploads(self, prefix: str = "", *, older_than: timedelta = timedelta(hours=1)) -> Iterator[ObjectInfo]:
        inner = self._power(StaleUploads, "stale_uploads", prefix)
        return self._items("stale_uploads", prefix, lambda p: inner.stale_uploads(p, older_than=older_than))

    def remove_stale_uploads(self, prefix: str = "", *, older_than: timedelta = timedelta(hours=1)) -> int:
        inner = self._power(StaleUploads, "remove_stale_uploads", prefix)
        return self._forward(
            "remove_stale_uploads", prefix, lambda p: inner.remove_stale_uploads(p, older_than=older_than)
        )

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        inner = self._power(ReadRanges, "read_ranges", path)
        return self._forward("read_ranges", path, lambda p: inner.read_ranges(p, ranges))

    def settle(self, path: str) -> bool:
        return self._forward("settle", path, self._power(Settle, "settle", path).settle)

    def confined(self, folder: str) -> Self:
        """The same wrapper around the inner backend confined to ``folder``."""
        found = twin(self)
        found.inner = self._power(Confine, "confined", folder).confined(folder)
        found._extended = as_extended(found.inner)
        return found

    # -- inside --------------------------------------------------------------------------------------------------------

    def _need(self, flag: str, op: str, path: str) -> None:
        if getattr(self.features, flag) or (
            flag in LEARNED and flag not in self.clears and getattr(self.learn_features(), flag)
        ):
            return
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
