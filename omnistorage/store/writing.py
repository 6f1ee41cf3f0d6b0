"""How a Store writes and deletes single objects."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, BinaryIO

from omnistorage.core import BulkDelete, Data, ObjectInfo, Presign, Versions, WriteOptions, power
from omnistorage.errors import AlreadyExists, CapabilityNotSupported, ConfigError, NotFound, StorageError
from omnistorage.ops import operations

from .capability import Capability
from .files import BinaryWriter
from .paths import StorePath, file_key
from .reading import Reading

Content = Data | BinaryIO | Iterable[bytes]
"""What can be written: bytes, a binary stream, or an iterable of bytes."""


_ANNOUNCED = 1 << 20
"""From so many bytes on, the backend is told how long the object will be."""
_CREATE, _REPLACE = WriteOptions(overwrite=False), WriteOptions()


class Writing(Reading):
    __slots__ = ()

    def write(
        self,
        path: StorePath,
        content: Content,
        *,
        overwrite: bool = False,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        """Write ``content`` (bytes, a binary stream, an iterable of bytes) as one object, streamed; its folders come by
        themselves. ``AlreadyExists`` if there is one, unless ``overwrite``; ``if_match`` replaces only that etag. A
        failure leaves what was there, and nothing of the new."""
        key = file_key(path, "write", new=True)
        options = _options(overwrite, metadata, content_type, if_match)
        if isinstance(content, bytes | bytearray) and len(content) >= _ANNOUNCED:
            options = replace(options, size=len(content))
        pieces = _pieces(content, key)
        try:
            with self._at.open_writer(key, options) as writer:
                for piece in pieces:
                    writer.write(piece)
                return writer.close()
        except (AlreadyExists, CapabilityNotSupported) as error:
            self._hint(error)
            raise

    def write_text(
        self, path: StorePath, text: str, *, encoding: str = "utf-8", errors: str = "strict", **options: Any
    ) -> ObjectInfo:
        """Write text as one object, its line ends as they are; the options of ``write``."""
        if not isinstance(text, str):
            raise ConfigError(f"write_text takes a str, not {type(text).__name__}", path=str(path), op="write_text")
        return self.write(path, text.encode(encoding, errors), **options)

    def write_atomic(self, path: StorePath, content: Content, **options: Any) -> ObjectInfo:
        """``write`` on a store where the whole object appears or nothing does (the capability ATOMIC_WRITE), and a
        refusal on others. With the options of ``write``."""
        self._need(Capability.ATOMIC_WRITE, "write_atomic", str(path), "; write does without")
        return self.write(path, content, **options)

    def open_atomic(
        self,
        path: StorePath,
        *,
        overwrite: bool = False,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_match: str | None = None,
    ) -> BinaryWriter:
        """A binary file whose content appears as a whole when ``with`` is left, or not at all after an exception."""
        key = file_key(path, "open_atomic", new=True)
        self._need(Capability.ATOMIC_WRITE, "open_atomic", key, "; open does without")
        with self._replacing():
            return BinaryWriter(self._at.open_writer(key, _options(overwrite, metadata, content_type, if_match)))

    # -- deleting ------------------------------------------------------------------------------------------------------

    def delete(self, path: StorePath, missing_ok: bool = False, *, if_match: str | None = None) -> None:
        """Delete one file. ``NotFound`` if there is none, unless ``missing_ok``; ``InvalidPath`` for a folder. A store
        that does not say what it deleted is asked first."""
        key = file_key(path, "delete")
        if not missing_ok and if_match is None and not self._at.features.dirs and not self._at.exists(key):
            self._missing(key, "delete")
        try:
            removed = self._at.delete(key) if if_match is None else self._at.delete(key, if_match=if_match)
        except NotFound:
            removed = False
        if removed is False and not missing_ok:
            self._missing(key, "delete")

    def delete_many(self, paths: Iterable[StorePath]) -> list[tuple[str, StorageError | None]]:
        """Delete many files in as few requests as the store allows; each path with None or its error. One that was not
        there is no error. Every path is checked before the first is deleted."""
        if isinstance(paths, str):
            raise ConfigError("delete_many takes several paths, not one: delete takes one", path=paths)
        keys = [file_key(path, "delete_many") for path in paths]
        bulk = power(self._at, BulkDelete)
        return list(self._one_by_one(keys) if bulk is None else bulk.delete_many(keys))

    def _one_by_one(self, keys: Iterable[str]) -> Iterator[tuple[str, StorageError | None]]:
        for key in keys:
            try:
                self._at.delete(key)
            except NotFound:
                yield key, None
            except StorageError as error:
                yield key, error
            else:
                yield key, None

    # -- powers --------------------------------------------------------------------------------------------------------

    def presign(self, path: StorePath, method: str = "GET", expires: timedelta = timedelta(hours=1)) -> str:
        """A URL that lets its holder do ``method`` on the object until it expires. Needs PRESIGN."""
        key = file_key(path, "presign")
        self._need(Capability.PRESIGN, "presign", key)
        able = power(self._at, Presign)
        assert able is not None
        return able.presign(key, method, expires)

    def versions(self, path: StorePath) -> Iterator[ObjectInfo]:
        """All kept versions of an object, newest first. Needs VERSIONS."""
        key = file_key(path, "versions")
        self._need(Capability.VERSIONS, "versions", key)
        able = power(self._at, Versions)
        assert able is not None
        return able.versions(key)


def _options(
    overwrite: bool, metadata: Mapping[str, str] | None, content_type: str | None, if_match: str | None
) -> WriteOptions:
    if not metadata and content_type is None and if_match is None:
        return _REPLACE if overwrite else _CREATE
    # A condition on what stands there replaces it: overwrite=False is the default of those who say nothing.
    return WriteOptions(
        overwrite=overwrite or if_match is not None, if_match=if_match, user_metadata=metadata or None,
        content_type=content_type,
    )  # fmt: skip


def _pieces(content: Content, path: str) -> Iterator[Data]:
    """The content piece by piece. Raises before the first one for what is none."""
    if type(content) is bytes or isinstance(content, bytes | bytearray | memoryview):
        return iter((content,))
    wrong = f"content is bytes, a binary stream or an iterable of bytes, not {type(content).__name__}"
    if isinstance(content, str | io.TextIOBase | Mapping):
        hint = ": write_text takes a str" if isinstance(content, str) else ""  # an empty one would write nothing at all
        raise ConfigError(wrong + hint, path=path, op="write")
    if hasattr(content, "read"):
        return _blocks(content, path)
    try:
        pieces = iter(content)
    except TypeError:
        raise ConfigError(wrong, path=path, op="write") from None
    return _checked(pieces, path)


def _blocks(stream: Any, path: str) -> Iterator[Data]:
    first = _read(stream, path)

    def rest() -> Iterator[Data]:
        block = first
        while block:
            yield block
            block = _read(stream, path)

    return rest()


def _read(stream: Any, path: str) -> Data:
    block: Any = stream.read(operations.BLOCK)
    if not isinstance(block, bytes | bytearray | memoryview):
        raise ConfigError(f"the stream gives {type(block).__name__}, not bytes", path=path, op="write")
    return block


def _checked(pieces: Iterator[Any], path: str) -> Iterator[Data]:
    first = next(pieces, b"")
    _check_piece(first, path)

    def rest() -> Iterator[Data]:
        yield first
        for piece in pieces:
            _check_piece(piece, path)
            yield piece

    return rest()


def _check_piece(piece: Any, path: str) -> None:
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise ConfigError(f"the iterable gives {type(piece).__name__}, not bytes", path=path, op="write")
