"""``Encrypt``: what is stored is encrypted on this side.

The format is in ``format``, and as a specification with test vectors in ``docs/encryption.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from os import urandom
from typing import Any, TypeVar

from omnistorage.checksums import new_hash
from omnistorage.core import (
    COPY,
    READ,
    WRITE,
    Backend,
    BulkDelete,
    Confine,
    CopyOptions,
    Features,
    FolderTimes,
    Glob,
    HealthCheck,
    ObjectInfo,
    Purge,
    Reader,
    ReadOptions,
    Resolve,
    SetMetadata,
    Settle,
    StaleUploads,
    Versions,
    WriteOptions,
)
from omnistorage.core.secret import Secret
from omnistorage.errors import BackendUnavailable, CorruptData, PreconditionFailed
from omnistorage.wrappers.base import Wrapper

from .format import (
    CHUNK,
    HEADER,
    PREFIX,
    SALT,
    SEALED,
    Chunks,
    Header,
    check_size,
    chunks_of,
    content_size,
    make_header,
    missing,
    parse_header,
    sealed_size,
)
from .keys import Keyring
from .streams import DecryptingReader, EncryptingWriter, Span, span

R = TypeVar("R")
T = TypeVar("T")
_new = tuple.__new__
_BLOCK = 1 << 20
_TRIES = 5


class Encrypt(Wrapper):
    """The inner backend with every object encrypted: AES-256-GCM in authenticated chunks of 64 KiB.

    ``keys`` is one master key, or a mapping of key ids to keys, of which ``key_id`` names the one to write with. A key
    is 32 random bytes, or a ``Secret`` of them in hexadecimal or base64, read when an object first needs it. A key id
    is 1 to 32 printable ASCII characters, stored in the clear; that of a lone key is ``key_id``, or ``"default"``.

    What was written is read back exactly, or ``CorruptData`` says at which byte of the stored object it is not: cut
    off, changed, reordered or appended to, in any range as well as in the whole. So it does where the key is another
    one, or the object was never encrypted; a key id that is not among ``keys`` is ``ConfigError``. Names, user
    metadata, times and sizes are not hidden, and a whole valid object under another name, or an older version of one,
    is not noticed.

    Sizes are those of the content everywhere (None where an object cannot be an encrypted one), ``hashes`` are None,
    and ``expect`` is held against the content before publication. A range takes one request for its chunks, and if it
    begins behind the first chunk one more for the header. An object holds at most 256 TiB: ``ConfigError`` beyond.
    A reader takes about 1 MiB of memory, a writer about 600 KiB. Copies stay in the store; from another backend
    (``CopyOptions.source``) only if that is an ``Encrypt`` with the same keys. ``url`` is the inner one's, marked with
    the keys, so that nobody takes this for the same place as the inner backend.

    ``randomness(n)`` gives ``n`` unpredictable bytes; anything else than the default is for test vectors.
    """

    adapts = frozenset(
        {
            BulkDelete,
            Confine,
            FolderTimes,
            Glob,
            HealthCheck,
            Purge,
            Resolve,
            SetMetadata,
            Settle,
            StaleUploads,
            Versions,
        }
    )

    def __init__(
        self,
        inner: Backend,
        keys: bytes | Secret | Mapping[str, bytes | Secret],
        *,
        key_id: str | None = None,
        randomness: Callable[[int], bytes] = urandom,
    ) -> None:
        if find_spec("cryptography") is None:
            raise missing()
        self._keys = Keyring(keys, key_id)
        self._randomness = randomness
        super().__init__(inner)

    def _features(self, inner: Features) -> Features:
        return replace(super()._features(inner), hashes=frozenset(), kept_hashes=frozenset())

    @property
    def key_id(self) -> str:
        """The id of the key that new objects are written with."""
        return self._keys.key_id

    @property
    def url(self) -> str | None:
        url = super().url
        return None if url is None else f"encrypt-{self._keys.place()}+{url}"

    def __repr__(self) -> str:
        return f"Encrypt({self.inner!r}, key_id={self.key_id!r})"

    # -- infos ---------------------------------------------------------------------------------------------------------

    def _info(self, info: ObjectInfo) -> ObjectInfo:
        if info.kind != "file":
            return info
        # A listing makes millions of these, and _replace takes twice as long.
        return _new(ObjectInfo, (info[0], content_size(info[1]), *info[2:7], None, info[8]))

    def _forward(self, op: str, path: str, run: Callable[[str], R]) -> R:
        answer: Any = run(path)
        return self._info(answer) if isinstance(answer, ObjectInfo) else answer  # type: ignore[return-value]

    def _items(self, op: str, path: str, run: Callable[[str], Iterator[T]]) -> Iterator[T]:
        items: Any = run(path)
        return items if op in ("delete_many", "stale_uploads") else (self._info(item) for item in items)  # type: ignore[misc]

    # -- reading -------------------------------------------------------------------------------------------------------

    def open_reader(self, path: str, options: ReadOptions = READ) -> Reader:
        self._need("read", "open_reader", path)
        if options.offset or options.length is not None:
            self._need("range_read", "open_reader", path)
        for _ in range(_TRIES):
            near = options.offset < CHUNK or options.length == 0
            reader = self._open(path, options) if near else self._open_behind(path, options)
            if reader is not None:
                return reader
        raise BackendUnavailable("the object is replaced all the time", path=path, backend=self.name, op="open_reader")

    def _open(self, path: str, options: ReadOptions) -> DecryptingReader:
        """In one request from the header on. The byte after the last chunk tells whether another follows."""
        length = None
        if options.length is not None:
            count = chunks_of(options.offset + options.length)
            length = HEADER + count * SEALED + 1 if options.length else HEADER
        inner = self.inner.open_reader(path, replace(options, offset=0, length=length))
        try:
            chunks = self._chunks(_exactly(inner, HEADER), path)
            part = span(options.offset, options.length, content_size(inner.info.size))
            return self._decrypting(path, options, inner, chunks, part)
        except BaseException:
            inner.close()
            raise

    def _open_behind(self, path: str, options: ReadOptions) -> DecryptingReader | None:
        """In two requests, header and chunks; None if the object was replaced between them."""
        with self.inner.open_reader(path, replace(options, offset=0, length=HEADER)) as head:
            info = head.info
            chunks = self._chunks(_exactly(head, HEADER), path)
        part = span(options.offset, options.length, content_size(info.size))
        length = None
        if part.stop is not None and part.stop != part.last:
            length = (part.stop - part.first + 1) * SEALED + (part.last is None)
        condition = info.etag if self.features.if_match else None
        wanted = replace(
            options,
            offset=HEADER + part.first * SEALED,
            length=length,
            if_match=options.if_match or condition,
            if_none_match=None,
        )
        try:
            inner = self.inner.open_reader(path, wanted)
        except PreconditionFailed:
            if options.if_match is not None:
                raise
            return None
        if _state(inner.info) != _state(info):
            inner.close()
            return None
        return self._decrypting(path, options, inner, chunks, part)

    def _decrypting(
        self, path: str, options: ReadOptions, inner: Reader, chunks: Chunks, part: Span
    ) -> DecryptingReader:
        def behind() -> None:
            with self.open_reader(path, replace(options, offset=0, length=None)) as whole:
                if sum(map(len, iter(lambda: whole.read(_BLOCK), b""))) > options.offset:
                    raise CorruptData("the encrypted object changed while it was read", path=path, op="read")

        return DecryptingReader(self._info(inner.info), inner, chunks, part, behind)

    def _chunks(self, raw: bytes, path: str) -> Chunks:
        header = parse_header(raw, path)
        return Chunks(self._keys.master(header.key_id, path), header)

    # -- writing -------------------------------------------------------------------------------------------------------

    def open_writer(self, path: str, options: WriteOptions = WRITE) -> EncryptingWriter:
        self._need("write", "open_writer", path)
        self._need_all(options, "open_writer", path)
        for algorithm in options.expect or ():
            new_hash(algorithm)
        check_size(options.size, path)
        size = None if options.size is None else sealed_size(options.size)
        header: Header = make_header(self.key_id, self._randomness(SALT), self._randomness(PREFIX))
        chunks = Chunks(self._keys.master(self.key_id, path), header)
        inner = self.inner.open_writer(path, replace(options, expect=None, size=size))
        return EncryptingWriter(path, options, self.name, inner, chunks, self._info)

    def copy(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        return super().copy(src, dst, self._reachable(options, "copy", src))

    def move(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        return super().move(src, dst, self._reachable(options, "move", src))

    def _reachable(self, options: CopyOptions, op: str, path: str) -> CopyOptions:
        if options.source is None:
            return options
        if not isinstance(options.source, Encrypt) or not self._keys.same_as(options.source._keys):
            self._refuse("source", op, path)
        return replace(options, source=options.source.inner)

    def reencrypt(self, path: str) -> ObjectInfo:
        """Write the object anew under the current key, unless it is under that already; its info then.

        Content type, user metadata and modification time are kept where the store can keep them. The object is replaced
        only if it is still the one that was read, else ``PreconditionFailed``: by ``if_match`` where the store has it,
        else by a last look before publication, which leaves a moment between the two.
        """
        with self.open_reader(path) as reader:
            assert isinstance(reader, DecryptingReader)
            info, header = reader.info, reader.chunks.header
            if header.key_id == self.key_id:
                return info
            keeps = WriteOptions(
                if_match=info.etag if self.features.if_match else None,
                modified_at=info.modified_at if self.features.set_modified else None,
                user_metadata=info.metadata if self.features.user_metadata else None,
                content_type=info.content_type,
                size=info.size,
            )
            with self.open_writer(path, keeps) as writer:
                while data := reader.read(_BLOCK):
                    writer.write(data)
                if keeps.if_match is None:
                    writer.prepare()
                    self._check_same(path, header)
                return writer.close()

    def _check_same(self, path: str, header: Header) -> None:
        with self.inner.open_reader(path) as now:
            if _exactly(now, HEADER) != header.raw:  # each write has its own salt
                raise PreconditionFailed("the object was replaced while it was read", path=path, op="reencrypt")


def _state(info: ObjectInfo) -> tuple[Any, ...]:
    return info.etag, info.size, info.modified_at, info.version


def _exactly(reader: Reader, size: int) -> bytes:
    """The next ``size`` bytes; fewer where the reader ends before."""
    data = b""
    while len(data) < size and (more := reader.read(size - len(data))):
        data += more
    return data
