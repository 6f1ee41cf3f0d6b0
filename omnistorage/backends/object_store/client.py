"""What an object store's client does for ``ObjectBackend``: one request each, no retries, no paths of ours.

S3, GCS and Azure have such a client over their SDK. Keys are whole (the root's prefix included), native errors come out
as they are, and ``translate`` says what they mean: ``ObjectBackend`` sends every call through its ``RequestPolicy``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from omnistorage.core import ObjectInfo
from omnistorage.errors import StorageError


@dataclass(frozen=True, slots=True)
class Put:
    """What goes with a body: metadata, and the condition of its publication (at most one of the two). ``write_id`` is
    kept with the object, hidden, and tells whose it is after an answer was lost."""

    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    create: bool = False
    if_match: str | None = None
    write_id: str | None = None

    @property
    def conditional(self) -> bool:
        return self.create or self.if_match is not None


@dataclass(frozen=True, slots=True)
class Get:
    """Which bytes of which state of an object: from ``start`` up to ``end`` (not included; None: all)."""

    start: int = 0
    end: int | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    version: str | None = None

    @property
    def range(self) -> str | None:
        """The value of an HTTP ``Range`` header (RFC 9110, section 14.2)."""
        if self.end is not None:
            return f"bytes={self.start}-{self.end - 1}"
        return f"bytes={self.start}-" if self.start else None


class Body(Protocol):
    """A response on its way. ``info`` speaks of the whole object, ``length`` of the bytes that this response brings;
    ``digest`` (algorithm and hexadecimal value) is one of the whole object to hold what was read against."""

    info: ObjectInfo
    length: int | None
    digest: tuple[str, str] | None

    def read(self, size: int, /) -> bytes: ...  # at most ``size``; b"" at the end; raises if the end came too soon
    def close(self) -> None: ...
    def interrupt(self) -> None: ...  # makes a ``read`` that is blocked in another thread return soon


class Page(NamedTuple):
    """A page of a listing: objects, and with a delimiter the folders' keys (with their slash); ``token`` of the next
    page, None at the end."""

    objects: Sequence[ObjectInfo]
    folders: Sequence[str]
    token: Any


class Upload(NamedTuple):
    """A multipart upload. ``tags`` of its parts are what ``put_part`` returned, by number from 1."""

    key: str
    id: str
    put: Put


class ObjectClient(Protocol):
    """One request each. ``ObjectInfo.path`` is the key without its first ``skip`` characters."""

    skip: int

    def translate(self, error: BaseException) -> StorageError | None: ...
    def cutter(self) -> Callable[[], None]: ...  # what breaks off, from any thread, this thread's next request
    def close(self) -> None: ...

    def get(self, key: str, get: Get) -> Body: ...
    def head(self, key: str, version: str | None = None) -> ObjectInfo: ...
    def written_by(self, key: str) -> tuple[str | None, ObjectInfo]: ...  # its write id, and what ``head`` says
    def put(self, key: str, data: bytes, put: Put) -> ObjectInfo: ...
    def delete(self, key: str, if_match: str | None) -> bool | None: ...
    def delete_many(self, keys: Sequence[str]) -> list[StorageError | None]: ...
    def page(self, prefix: str, *, folders: bool, after: str | None, token: Any, limit: int | None) -> Page: ...

    def start_upload(self, key: str, put: Put) -> Upload: ...
    def put_part(self, upload: Upload, number: int, data: bytes) -> str: ...
    def copy_part(
        self, upload: Upload, number: int, source: tuple[str, str], start: int, end: int, if_match: str | None
    ) -> str: ...
    def finish_upload(self, upload: Upload, tags: Mapping[int, str]) -> ObjectInfo: ...
    def abort_upload(self, upload: Upload) -> None: ...
    def etag_of(self, tags: Mapping[int, str]) -> str | None: ...  # what the upload's object will have, if it is known
