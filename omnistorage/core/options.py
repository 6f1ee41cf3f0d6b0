"""The options of reads, writes, listings and copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import index
from typing import TYPE_CHECKING, Any

from omnistorage.errors import ConfigError, StorageError

from .option_checks import check_etag, check_expect, check_metadata, check_time

if TYPE_CHECKING:
    from .protocols import Backend


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """``offset`` and ``length`` in bytes (a range past the end is short or empty, never an error); conditions on the
    object's etag, checked before the first byte; ``version`` where the backend has the ``Versions`` power."""

    offset: int = 0
    length: int | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        try:
            below = index(self.offset) < 0 or (self.length is not None and index(self.length) < 0)
        except TypeError:
            below = True
        if below:
            raise ConfigError(
                f"offset and length count bytes from 0: got offset={self.offset!r}, length={self.length!r}"
            )
        check_etag(self.if_match)
        check_etag(self.if_none_match)


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Requirements, honoured or refused: ``overwrite``, ``if_match`` (replace only this etag), ``durable`` (survives a
    power cut once ``close`` has returned), ``modified_at``, ``user_metadata``, ``expect`` (algorithm -> hexadecimal
    digest, verified before publication), ``extra`` (``{"s3.storage_class": ...}``). Hints: ``content_type``, and
    ``size`` in bytes, which aborts the write if it turns out wrong."""

    overwrite: bool = True
    if_match: str | None = None
    durable: bool = False
    modified_at: datetime | None = None
    user_metadata: Mapping[str, str] | None = None
    expect: Mapping[str, str] | None = None
    extra: Mapping[str, Any] | None = None
    content_type: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.user_metadata:
            check_metadata(self.user_metadata)
        check_time(self.modified_at)
        if self.expect:
            check_expect(self.expect)
        check_etag(self.if_match)
        if self.if_match is not None and not self.overwrite:
            raise ConfigError("if_match replaces an object, overwrite=False forbids it: choose one")


@dataclass(frozen=True, slots=True)
class ListOptions:
    """``start_after``: only keys greater in UTF-8 bytes. ``on_error``: called with the error of each folder that cannot
    be read or vanished, after which the rest goes on; without it the listing raises."""

    start_after: str | None = None
    on_error: Callable[[StorageError], None] | None = None

    def __post_init__(self) -> None:
        if self.start_after is not None and not isinstance(self.start_after, str):
            raise ConfigError(f"start_after is a path, not {type(self.start_after).__name__}")


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """``if_match`` is a condition on the destination, ``source_if_match`` on the source. ``source``: another backend
    whose root can be reached server-side. ``user_metadata=None`` keeps the source's."""

    overwrite: bool = True
    if_match: str | None = None
    source_if_match: str | None = None
    source: Backend | None = None
    user_metadata: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.user_metadata:
            check_metadata(self.user_metadata)
        check_etag(self.if_match)
        check_etag(self.source_if_match)
        if self.if_match is not None and not self.overwrite:
            raise ConfigError("if_match replaces an object, overwrite=False forbids it: choose one")


READ = ReadOptions()
WRITE = WriteOptions()
LIST = ListOptions()
COPY = CopyOptions()
