"""A backend in memory: the first member of the conformance kit, and a fast, honest double for tests.

``MemoryBackend()`` has real folders, as a file system has; ``MemoryBackend(dirs=False)`` is a flat key space, as an
object store is. It cannot be pickled: another process could not see the same objects.
"""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any, NamedTuple, NoReturn

from omnistorage.concurrency.cancellation import check
from omnistorage.core import WRITE, CopyOptions, Features, ListOptions, ObjectInfo, ReadOptions, WriteOptions
from omnistorage.core.option_checks import check_metadata, check_time
from omnistorage.errors import (
    AlreadyExists,
    BackendClosed,
    ConfigError,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    PreconditionFailed,
)
from omnistorage.paths import check_key, check_new, is_under, parent, sort_key

from .base import BackendBase, is_folder_error
from .streams import ReaderBase, WriterBase, check_conditions

_FEATURES = Features(
    read=True,
    write=True,
    delete=True,
    list=True,
    sorted_list=True,
    list_seek=True,
    stat=True,
    copy=True,
    move=True,
    atomic_move=True,
    dirs=True,
    range_read=True,
    lazy_read=True,
    atomic_write=True,
    create_only=True,
    if_match=True,
    user_metadata=True,
    purge=True,
    set_modified=True,
    append=True,
    modified_precision=timedelta(microseconds=1),
)


_numbers = itertools.count(1)


class _Object(NamedTuple):
    data: bytes
    info: ObjectInfo


class MemoryBackend(BackendBase):
    """Objects in a dict. ``dirs=False`` makes folders mere prefixes; ``now`` is the clock of ``modified_at``."""

    name = "memory"

    def __init__(self, *, dirs: bool = True, now: Callable[[], datetime] | None = None) -> None:
        self.features = _FEATURES if dirs else replace(_FEATURES, dirs=False)
        # It leads nowhere from outside, but tells handles on the same objects from handles on others.
        self.url = f"memory://{next(_numbers)}/"
        self._dirs_on = dirs
        self._now = now or (lambda: datetime.now(UTC))
        self._lock = threading.RLock()
        self._objects: dict[str, _Object] = {}
        self._folders: set[str] = set()  # every folder, parents included; stays empty without dirs
        self._order: list[str] | None = None  # sorted keys, made when a listing needs them, never changed in place
        self._etags = itertools.count(1)

    def __reduce__(self) -> NoReturn:
        raise ConfigError("a memory backend cannot be pickled: its objects live in this process only")

    def _close(self) -> None:
        self._objects.clear()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _get(self, path: str, op: str) -> _Object:
        try:
            return self._objects[path]
        except KeyError:
            raise NotFound("no such object", path=path, backend=self.name, op=op) from None

    def _open_reader(self, path: str, options: ReadOptions) -> _MemoryReader:
        if options.version is not None:
            self._refuse("version", "open_reader", path)
        found = self._get(path, "open_reader")
        check_conditions(found.info, options, self.name)
        return _MemoryReader(found, options)

    def _exists(self, path: str) -> bool:
        return path in self._objects

    def _stat(self, path: str) -> ObjectInfo:
        return self._get(path, "stat").info

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self._enter("range_read", "read_ranges", path)
        check_key(path, op="read_ranges")
        for offset, length in ranges:
            ReadOptions(offset, length)  # refuses what counts from below zero
        data = self._get(path, "read_ranges").data
        return [data[offset : offset + length] for offset, length in ranges]

    # -- listing -------------------------------------------------------------------------------------------------------

    def _sorted(self) -> list[str]:
        with self._lock:
            if self._order is None:
                self._order = sorted(self._objects, key=sort_key)
            return self._order

    def _list(self, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
        order = self._sorted()
        start = bisect_left(order, sort_key(prefix + "/"), key=sort_key) if prefix else 0
        if options.start_after is not None:
            start = max(start, bisect_right(order, sort_key(options.start_after), key=sort_key))
        for at in range(start, len(order)):
            if not at & 255:
                check("list", prefix)
            if not is_under(order[at], prefix):
                return
            found = self._objects.get(order[at])
            if found is not None:  # else it was deleted while the listing ran
                yield found.info

    def _list_dir(self, path: str) -> Iterator[ObjectInfo]:
        head = path + "/" if path else ""
        children: dict[str, ObjectInfo] = {}
        for folder in [f for f in self._folders if parent(f) == path]:
            children[folder + "/"] = ObjectInfo(folder, kind="dir")
        order = self._sorted()
        at = bisect_left(order, sort_key(head), key=sort_key)
        while at < len(order) and order[at].startswith(head):
            child, slash, _ = order[at][len(head) :].partition("/")
            if slash:
                folder = head + child
                children[folder + "/"] = ObjectInfo(folder, kind="dir")
                at = bisect_left(order, sort_key(folder + "0"), key=sort_key)  # "0" follows "/": skips the folder
                continue
            found = self._objects.get(order[at])
            if found is not None:
                children[order[at]] = found.info
            at += 1
        if path and not children and path not in self._folders:
            raise NotFound("no such folder", path=path, backend=self.name, op="list_dir")
        for key in sorted(children, key=sort_key):
            yield children[key]

    # -- writing -------------------------------------------------------------------------------------------------------

    def _open_writer(self, path: str, options: WriteOptions) -> _MemoryWriter:
        with self._lock:
            self._check_target(path, options.overwrite, options.if_match, "open_writer")
        return _MemoryWriter(self, path, options)

    def open_appender(self, path: str, options: WriteOptions = WRITE) -> _MemoryWriter:
        """A writer behind what ``path`` holds now; all of it appears at ``close``."""
        self._enter("append", "open_appender", path)
        check_new(path, op="open_appender")
        self._check_write(path, options, "open_appender")
        return _MemoryWriter(self, path, options, append=True)

    def _check_target(self, path: str, overwrite: bool, if_match: str | None, op: str) -> None:
        """Whether an object may appear at ``path`` now; called under the lock."""
        if self._dirs_on:
            if path in self._folders:
                raise is_folder_error(path, op, self.name)
            above = parent(path)
            while above:
                if above in self._objects:
                    raise InvalidPath(f"{above!r} is an object, not a folder", path=path, op=op, backend=self.name)
                above = parent(above)
        found = self._objects.get(path)
        if found is not None and not overwrite:
            raise AlreadyExists("an object has this name", path=path, op=op, backend=self.name)
        if if_match is not None and (found is None or found.info.etag != if_match):
            raise PreconditionFailed("the object is not the one expected", path=path, op=op, backend=self.name)

    def _put(self, path: str, data: bytes, options: WriteOptions, op: str) -> ObjectInfo:
        with self._lock:
            if self._closed:
                raise BackendClosed("the backend was closed meanwhile", path=path, op=op, backend=self.name)
            self._check_target(path, options.overwrite, options.if_match, op)
            info = ObjectInfo(
                path=path,
                size=len(data),
                modified_at=(options.modified_at or self._now()).astimezone(UTC),
                etag=str(next(self._etags)),
                content_type=options.content_type,
                metadata=dict(options.user_metadata or {}),
            )
            self._store(path, _Object(data, info))
        return info

    def _store(self, path: str, found: _Object) -> None:
        if path not in self._objects:
            self._order = None
        self._objects[path] = found
        if self._dirs_on:
            self._add_folders(parent(path))

    def _add_folders(self, path: str) -> None:
        while path and path not in self._folders:
            self._folders.add(path)
            path = parent(path)

    def _remove(self, path: str) -> None:
        del self._objects[path]
        self._order = None

    def set_metadata(
        self, path: str, *, modified_at: datetime | None = None, user_metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        self._enter("set_modified", "set_metadata", path)
        check_key(path, op="set_metadata")
        check_time(modified_at)
        check_metadata(user_metadata or {})
        with self._lock:
            found = self._get(path, "set_metadata")
            changes: dict[str, Any] = {"etag": str(next(self._etags))}
            if modified_at is not None:
                changes["modified_at"] = modified_at.astimezone(UTC)
            if user_metadata is not None:
                changes["metadata"] = dict(user_metadata)
            info = found.info._replace(**changes)
            self._objects[path] = _Object(found.data, info)
        return info

    # -- deleting, copying, folders ------------------------------------------------------------------------------------

    def _delete(self, path: str, if_match: str | None) -> bool:
        with self._lock:
            found = self._objects.get(path)
            if if_match is not None and (found is None or found.info.etag != if_match):
                raise PreconditionFailed(
                    "the object is not the one expected", path=path, op="delete", backend=self.name
                )
            if found is None:
                return False
            self._remove(path)
            return True

    def _copy(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        return self._take(src, dst, options, "copy")

    def _move(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        source = self._source(options, "move", src)
        first, second = sorted((self, source), key=id)  # one order for all: two moves against each other end
        with first._lock, second._lock:
            info = self._take(src, dst, options, "move")
            source._remove(src)
            return info

    def _source(self, options: CopyOptions, op: str, src: str) -> MemoryBackend:
        source = options.source or self
        if not isinstance(source, MemoryBackend):
            self._refuse("source", op, src)
        source._enter("read", op, src)
        return source

    def _take(self, src: str, dst: str, options: CopyOptions, op: str) -> ObjectInfo:
        source = self._source(options, op, src)
        with self._lock:
            found = source._get(src, op)
            if options.source_if_match is not None and found.info.etag != options.source_if_match:
                raise PreconditionFailed("the source is not the one expected", path=src, op=op, backend=self.name)
            metadata = found.info.metadata if options.user_metadata is None else options.user_metadata
            kept = WriteOptions(
                overwrite=options.overwrite,
                if_match=options.if_match,
                user_metadata=metadata,
                content_type=found.info.content_type,
                modified_at=found.info.modified_at if op == "move" else None,
            )
            return self._put(dst, found.data, kept, op)

    def _mkdir(self, path: str) -> None:
        with self._lock:
            at = path
            while at:
                if at in self._objects:
                    error = AlreadyExists if at == path else InvalidPath
                    raise error(f"{at!r} is an object", path=path, op="mkdir", backend=self.name)
                at = parent(at)
            self._add_folders(path)

    def _rmdir(self, path: str) -> None:
        with self._lock:
            if path not in self._folders:
                raise NotFound("no such folder", path=path, op="rmdir", backend=self.name)
            if any(is_under(other, path) for other in (*self._folders, *self._objects)):
                raise DirectoryNotEmpty("the folder is not empty", path=path, op="rmdir", backend=self.name)
            self._folders.remove(path)

    def purge(self, path: str) -> None:
        self._enter("purge", "purge", path)
        check_key(path, op="purge")
        with self._lock:
            inside = [key for key in self._objects if is_under(key, path)]
            if not inside and path not in self._folders:
                raise NotFound("no such folder", path=path, op="purge", backend=self.name)
            for key in inside:
                self._remove(key)
            self._folders -= {folder for folder in self._folders if folder == path or is_under(folder, path)}

    def check_health(self) -> None:
        self._enter("read", "check_health", "")

    # -- the raw back door of the conformance kit ----------------------------------------------------------------------

    def peek(self, path: str) -> bytes | None:
        """The stored bytes, whatever the methods above say; None if there are none. For tests."""
        found = self._objects.get(path)
        return None if found is None else found.data

    def put_raw(self, path: str, data: bytes) -> None:
        """Plant an object behind the back of the methods above. For tests."""
        info = ObjectInfo(path, len(data), self._now(), etag=str(next(self._etags)), metadata={})
        with self._lock:
            self._store(path, _Object(data, info))


class _MemoryReader(ReaderBase):
    instant = True

    def __init__(self, found: _Object, options: ReadOptions) -> None:
        super().__init__(found.info)
        self._data = found.data
        self._at = min(options.offset, len(found.data))
        length = len(found.data) if options.length is None else options.length
        self._stop = min(len(found.data), self._at + length)

    def _read(self, size: int) -> bytes:
        start, self._at = self._at, min(self._stop, self._at + size)
        return self._data[start : self._at]

    def _read_all(self) -> bytes:
        return self._read(len(self._data) + 1)

    def _release(self) -> None:
        self._data = b""
        self._at = self._stop = 0


class _MemoryWriter(WriterBase):
    instant = True

    def __init__(self, backend: MemoryBackend, path: str, options: WriteOptions, append: bool = False) -> None:
        super().__init__(path, options, backend.name)
        self._to = backend
        self._append = append
        self._parts: list[bytes] = []

    def _write(self, data: bytes | memoryview) -> None:
        self._parts.append(bytes(data))

    def _prepare(self) -> None:
        if len(self._parts) > 1:  # here, so that publication itself takes no time
            whole = BytesIO()
            for part in self._parts:
                check("close", self._path)
                whole.write(part)
            self._parts = [whole.getvalue()]

    def _publish(self) -> ObjectInfo:
        with self._to._lock:
            old = self._to._objects.get(self._path) if self._append else None
            data = b"".join((old.data, *self._parts) if old else self._parts)
            return self._to._put(self._path, data, self._options, "close")

    def _discard(self) -> None:
        self._parts.clear()
