"""How a Store opens and reads."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, Literal, TypedDict, Unpack, overload

from omnistorage.checksums import new_hash
from omnistorage.core import Append as AppendPower
from omnistorage.core import Backend, ObjectInfo, Reader, ReadOptions, WriteOptions, power
from omnistorage.core.stages import Codec
from omnistorage.errors import ConfigError, NotFound
from omnistorage.ops import operations
from omnistorage.records import open_decoded, open_records, pick_codec
from omnistorage.records.byte_streams import EncodedWriter

from .base import StoreBase
from .capability import Capability
from .files import BinaryReader, BinaryWriter, SeekableReader, TextWriter, binary_reader, spooled
from .paths import StorePath, file_key, folder_key


class FileSettings(TypedDict, total=False):
    """The keyword arguments of ``Store.open``; all optional."""

    compression: str | Codec | None
    encoding: str | None
    errors: str | None
    newline: str | None
    if_match: str | None
    metadata: dict[str, str] | None
    content_type: str | None
    untrusted: bool
    owner: Backend | None


class Reading(StoreBase):
    __slots__ = ()

    @overload
    def open(self, path: StorePath, mode: Literal["r", "rt"], **settings: Unpack[FileSettings]) -> io.TextIOWrapper: ...
    @overload
    def open(
        self, path: StorePath, mode: Literal["w", "wt", "x", "xt", "a", "at"], **settings: Unpack[FileSettings]
    ) -> TextWriter: ...
    @overload
    def open(self, path: StorePath, mode: Literal["rb"] = "rb", **settings: Unpack[FileSettings]) -> BinaryReader: ...
    @overload
    def open(
        self, path: StorePath, mode: Literal["wb", "xb", "ab"], **settings: Unpack[FileSettings]
    ) -> BinaryWriter: ...
    @overload
    def open(self, path: StorePath, mode: str, **settings: Unpack[FileSettings]) -> Any: ...
    def open(
        self,
        path: StorePath,
        mode: str = "rb",
        *,
        compression: str | Codec | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        if_match: str | None = None,
        metadata: dict[str, str] | None = None,
        content_type: str | None = None,
        untrusted: bool = False,
        owner: Backend | None = None,
    ) -> Any:
        """A file of the ``io`` family, text or binary: ``mode`` is one of ``rb wb xb ab rt wt xt at`` (``r`` alone is
        text, as in Python).

        ``encoding`` is UTF-8 unless given; it, ``errors`` and ``newline`` are for text, as in Python.

        ``compression`` is a codec or its name, ``"infer"`` takes it from the suffix (on reading from the magic bytes,
        which beat it), ``"none"`` takes bytes as they are. None infers for text, whose bytes are nobody's business, and
        takes bytes as they are in a binary mode. A suffix that contradicts the argument is a ``ConfigError``.

        Binary reading seeks where the store has ranges, by asking for them; what is decoded does not seek. A file for
        writing publishes when it is closed; an exception in ``with``, ``abort()`` and being dropped publish nothing.
        ``x`` makes a new object (``AlreadyExists`` otherwise), ``w`` replaces, ``a`` needs the capability APPEND. A
        backend given as ``owner`` is closed with the file. ``untrusted`` bounds what decoding makes of the input, as
        ``open_records`` does.
        """
        said = mode if isinstance(mode, str) else repr(mode)
        kind, text = said[:1], "b" not in said
        key = file_key(path, "open", new=kind in ("w", "x"))
        if kind not in ("r", "w", "x", "a") or said[1:] not in ("", "b", "t"):
            raise ConfigError(f"mode {mode!r}: use one of rb, wb, xb, ab, rt, wt, xt, at", path=key, op="open")
        if not text and (encoding, newline, errors) != (None, None, None):
            raise ConfigError("encoding, newline and errors are for text modes, such as rt", path=key, op="open")
        encoding = encoding or "utf-8"
        if text:
            _check_text(encoding, errors, newline, key)
        if compression is None:
            compression = "infer" if text else "none"
        if kind == "r":
            if metadata is not None or content_type is not None:
                raise ConfigError("metadata and content_type are for writing", path=key, op="open")
            binary = self._open_binary(key, compression, if_match, owner, untrusted)
            return io.TextIOWrapper(binary, encoding, errors, newline) if text else binary
        if untrusted:
            raise ConfigError("untrusted is for reading", path=key, op="open")
        writer = BinaryWriter(self._open_sink(key, kind, compression, if_match, metadata, content_type), owner)
        return TextWriter(writer, encoding, errors, newline, new=kind != "a") if text else writer

    def _open_binary(
        self,
        key: str,
        compression: str | Codec,
        if_match: str | None,
        owner: Backend | None = None,
        untrusted: bool = False,
    ) -> BinaryIO:
        options = ReadOptions(if_match=if_match)
        with self._of_file(key, "open"):
            if compression == "none":
                if self._at.features.range_read:
                    return BinaryReader(SeekableReader(self._at, key, options), owner)
                return binary_reader(self._at.open_reader(key, options), owner)
            source = self._at.open_reader(key, options)
        codec = None if compression == "infer" else compression
        return binary_reader(open_decoded(source, codec, untrusted=untrusted, root=self._at.url), owner)

    def _open_sink(
        self,
        key: str,
        mode: str,
        compression: str | Codec,
        if_match: str | None,
        metadata: dict[str, str] | None,
        content_type: str | None,
    ) -> Any:
        codec = None
        if compression != "none":
            codec = pick_codec(key, None if compression == "infer" else compression)
        options = WriteOptions(
            overwrite=mode != "x", if_match=if_match, user_metadata=metadata, content_type=content_type
        )
        if mode == "a":
            self._need(Capability.APPEND, "open", key)
            appends = power(self._at, AppendPower)
            assert appends is not None
            sink = appends.open_appender(key, options)
        else:
            with self._replacing("open it with mode 'w'"):
                sink = self._at.open_writer(key, options)
        if codec is None:
            return sink
        try:
            return EncodedWriter(sink, codec.encoder())
        except BaseException:
            sink.abort()
            raise

    def open_records(self, path: StorePath, mode: str = "r", /, **settings: Any) -> Any:
        """Records of the object: ``omnistorage.open_records`` on this store, with its settings."""
        opened: Any = open_records
        return opened(self._at, file_key(path, "open_records"), mode, **settings)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _reader(self, path: StorePath, op: str, options: ReadOptions) -> Reader:
        key = file_key(path, op)
        try:
            return self._at.open_reader(key, options)
        except NotFound as error:
            if self._means_folder(error, key):
                raise self._folder_error(key, op) from error
            raise

    def read(
        self, path: StorePath, *, offset: int = 0, length: int | None = None, if_match: str | None = None
    ) -> BinaryIO:
        """A binary stream of the object, or of ``length`` bytes from ``offset``. ``NotFound`` if there is none,
        ``InvalidPath`` if it is a folder, ``PreconditionFailed`` if its etag is not ``if_match``."""
        return binary_reader(self._reader(path, "read", ReadOptions(offset, length, if_match)))

    def read_bytes(
        self, path: StorePath, *, offset: int = 0, length: int | None = None, if_match: str | None = None
    ) -> bytes:
        """The whole object, or a range of it, in memory."""
        with self._reader(path, "read_bytes", ReadOptions(offset, length, if_match)) as reader:
            return reader.read(-1)

    def read_text(self, path: StorePath, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The whole object as text, its line ends as they are."""
        return self.read_bytes(path).decode(encoding, errors)

    def read_seekable(self, path: StorePath) -> BinaryIO:
        """A binary stream that can seek: by ranges where the store has them, else over a copy that is kept in memory up
        to 8 MiB and on disk beyond."""
        key = file_key(path, "read_seekable")
        if self._at.features.range_read:
            return self._open_binary(key, "none", None)
        return spooled(self._reader(key, "read_seekable", ReadOptions()))

    # -- what is there -------------------------------------------------------------------------------------------------

    def exists(self, path: StorePath) -> bool:
        """Whether there is a file or a folder of this name."""
        return self.is_file(path) or self.is_folder(path)

    def is_file(self, path: StorePath) -> bool:
        key = folder_key(path, "is_file")
        return bool(key) and self._at.exists(key)

    def is_folder(self, path: StorePath) -> bool:
        """Whether there is a folder of this name; on an object store it is there while something is under it."""
        return self._is_folder(folder_key(path, "is_folder"))

    def stat(self, path: StorePath) -> ObjectInfo:
        """What the store says about one file, without its bytes."""
        key = file_key(path, "stat")
        try:
            if self._at.features.stat:
                return self._at.stat(key)
            with self._at.open_reader(key) as reader:
                return reader.info
        except NotFound as error:
            if self._means_folder(error, key):
                raise self._folder_error(key, "stat") from error
            raise

    get_file_info = stat
    head = stat

    # -- digests -------------------------------------------------------------------------------------------------------

    def checksum(self, path: StorePath, algorithm: str = "sha256") -> str:
        """The object's digest in hexadecimal: the one that the store states of what it holds, else of its bytes, which
        are read as a stream."""
        wanted = algorithm.lower().replace("-", "")
        info = self.stat(path)
        known = info.hash(wanted)
        if known and wanted not in self._at.features.kept_hashes:
            return known
        digest = new_hash(wanted)
        with self._reader(path, "checksum", ReadOptions(if_match=info.etag)) as reader:
            while block := reader.read(operations.BLOCK):
                digest.update(block)
        return str(digest.hexdigest())

    def verify(self, path: StorePath, expected: str, algorithm: str = "sha256") -> bool:
        """Whether the object's digest is ``expected``: hexadecimal, or ``"md5:..."`` to name another algorithm."""
        head, colon, value = expected.rpartition(":")
        return self.checksum(path, head if colon else algorithm) == value.lower()


def _check_text(encoding: str, errors: str | None, newline: str | None, path: str) -> None:
    """What ``io`` would refuse, before anything is opened."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding, errors, newline).close()
    except (LookupError, ValueError, TypeError) as error:
        raise ConfigError(str(error), path=path, op="open") from error
