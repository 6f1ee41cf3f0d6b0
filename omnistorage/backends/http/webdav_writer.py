"""The writer of WebDAV."""

from __future__ import annotations

from collections.abc import Callable
from tempfile import SpooledTemporaryFile
from threading import get_ident
from typing import Any, Protocol

from omnistorage.backends.base import translating
from omnistorage.backends.streams import WriterBase
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import CopyOptions, ObjectInfo, WriteOptions
from omnistorage.errors import BackendUnavailable, WriterClosed
from omnistorage.media_types import content_type

from .client import translate
from .settings import NAME, sendable

SPOOL = 8 << 20
"""So many bytes of a body are kept in memory, the rest in a file."""


class Source:
    """What urllib3 reads a body from; ``stopped`` says that the writer was aborted meanwhile."""

    def __init__(self, file: Any, size: int, throttle: Callable[[int], None], stopped: Callable[[], bool]) -> None:
        self.size = size
        self._file, self._throttle, self._stopped = file, throttle, stopped

    def begin(self) -> Any:
        self.check()
        self._file.seek(0)
        return self if self.size else b""

    def check(self) -> None:
        if self._stopped():
            raise WriterClosed("the writer was aborted", op="close", backend=NAME)

    def read(self, size: int = -1) -> bytes:
        self.check()
        data = bytes(self._file.read(size))
        self._throttle(len(data))
        return data


class UploadTarget(Protocol):
    """What a writer needs of its backend."""

    @property
    def policy(self) -> RequestPolicy: ...
    def new_temporary(self, path: str) -> str: ...
    def upload(self, path: str, temporary: str, source: Source, kind: str) -> None: ...
    def publish_temporary(self, temporary: ObjectInfo, path: str, options: CopyOptions) -> None: ...
    def remove_temporary(self, path: str) -> None: ...
    def remove_later(self, temporary: str) -> None: ...
    def cut(self, thread: int) -> None: ...


class DAVWriter(WriterBase):
    """Keeps the body here until ``prepare``, which sends it to a temporary."""

    _temporary: str | None = None
    _thread = 0

    def __init__(self, store: UploadTarget, path: str, options: WriteOptions) -> None:
        self._store = store
        self._kind = sendable(options.content_type or content_type(path.rpartition("/")[2]), "content_type")
        self._file = SpooledTemporaryFile(SPOOL)  # noqa: SIM115  (closed at the writer's end, whichever it is)
        super().__init__(path, options, NAME)

    def _write(self, data: bytes | memoryview) -> None:
        with translating("write", self._path, translate):  # the disk may be full
            self._file.write(data)

    def _prepare(self) -> None:
        self._temporary = self._store.new_temporary(self._path)
        source = Source(self._file, self._written, self._store.policy.throttle, lambda: self._abort_asked)
        self._thread = get_ident()
        try:
            self._store.upload(self._path, self._temporary, source, self._kind)
        except BackendUnavailable:
            source.check()  # perhaps it was ``abort`` that broke the connection
            raise
        finally:
            self._thread = 0
        self._file.close()

    def _publish(self) -> ObjectInfo:
        assert self._temporary is not None
        options = CopyOptions(overwrite=self._options.overwrite, if_match=self._options.if_match)
        sent = ObjectInfo(self._temporary, self._written)
        self._store.publish_temporary(sent, self._path, options)
        return ObjectInfo(self._path, self._written)

    def _interrupt(self) -> None:
        if self._thread:
            self._store.cut(self._thread)

    def _discard(self) -> None:
        self._file.close()
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            self._store.remove_temporary(temporary)

    def _drop(self) -> None:
        self._file.close()
        if self._temporary is not None:
            self._store.remove_later(self._temporary)
