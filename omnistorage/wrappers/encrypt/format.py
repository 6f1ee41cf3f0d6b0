"""The format of encrypted objects, byte by byte: sizes, header, nonces, chunks. Pure: no I/O and no randomness of its
own.

``docs/encryption.md`` is the specification, with test vectors. In the line of the STREAM construction (Hoang,
Reyhanitabar, Rogaway, Vizar: Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance, 2015) and of Tink's
AES-GCM-HKDF streaming.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from omnistorage.errors import ConfigError, CorruptData, MissingExtra

MAGIC = b"OMNIENC\x01"  # the last byte is the version
KEY = 32
KEY_ID = 32
SALT = 32
PREFIX = 7
HEADER = 80  # magic 8, key id 32, salt 32, nonce prefix 7, binary logarithm of the chunk size 1
TAG = 16
CHUNK = 1 << 16
SEALED = CHUNK + TAG
MAX_CHUNKS = 1 << 32
MAX_SIZE = MAX_CHUNKS * CHUNK
"""The largest object, 256 TiB: the counter in the nonce has 32 bits."""

_ID = re.compile(r"[!-~]{1,32}", re.ASCII)


def chunks_of(size: int) -> int:
    """How many chunks ``size`` bytes of content make: an empty object has one, an empty one."""
    return max(1, -(-size // CHUNK))


def sealed_size(size: int) -> int:
    """The bytes that ``size`` bytes of content take encrypted."""
    return HEADER + size + TAG * chunks_of(size)


def content_size(sealed: int | None) -> int | None:
    """The bytes of content in an encrypted object of ``sealed`` bytes. None where it has no such size."""
    if sealed is None or sealed < HEADER + TAG:
        return None
    count = -(-(sealed - HEADER) // SEALED)
    size = sealed - HEADER - TAG * count
    return size if sealed_size(size) == sealed else None


def check_size(size: int | None, path: str) -> None:
    """Raise ``ConfigError`` for an object larger than the format can hold."""
    if size is not None and size > MAX_SIZE:
        raise ConfigError(f"an encrypted object holds at most {MAX_SIZE} bytes, not {size}", path=path)


def check_key_id(key_id: object) -> str:
    """Return ``key_id`` if it fits its slot in the header; raise ``ConfigError`` otherwise."""
    if not isinstance(key_id, str) or not _ID.fullmatch(key_id):
        raise ConfigError(f"a key id is 1 to {KEY_ID} printable ASCII characters without spaces, not {key_id!r}")
    return key_id


class Header(NamedTuple):
    """The fixed-length head of an encrypted object. ``raw`` is the whole of it."""

    raw: bytes
    key_id: str
    salt: bytes
    prefix: bytes


def make_header(key_id: str, salt: bytes, prefix: bytes) -> Header:
    """A header of the current version."""
    raw = MAGIC + key_id.encode().ljust(KEY_ID, b"\0") + salt + prefix + bytes([CHUNK.bit_length() - 1])
    if len(salt) != SALT or len(raw) != HEADER:
        raise ConfigError(f"the source of randomness must give as many bytes as are asked for ({SALT} and {PREFIX})")
    return Header(raw, key_id, salt, prefix)


def parse_header(raw: bytes, path: str) -> Header:
    """The header in ``raw``, the first ``HEADER`` bytes of an object. ``CorruptData`` if it is none."""
    if not MAGIC[:7].startswith(raw[:7]):
        raise CorruptData("this is not an encrypted object: it does not begin with OMNIENC", path=path, offset=0)
    if len(raw) < HEADER:
        raise CorruptData("an encrypted object is cut off in its header", path=path, offset=len(raw))
    if raw[7] != MAGIC[7]:
        raise CorruptData(f"encrypted in version {raw[7]} of the format; this reads version 1", path=path, offset=7)
    try:
        key_id = check_key_id(raw[8 : 8 + KEY_ID].rstrip(b"\0").decode("ascii"))
    except (ConfigError, UnicodeDecodeError):
        raise CorruptData("the header of an encrypted object is damaged: no key id", path=path, offset=8) from None
    if raw[79] != CHUNK.bit_length() - 1:
        raise CorruptData("the header of an encrypted object is damaged: another chunk size", path=path, offset=79)
    return Header(raw, key_id, raw[40:72], raw[72:79])


class Chunks:
    """The cipher of one object: seals and opens its chunks by number. Raises ``MissingExtra`` without the library."""

    def __init__(self, master: bytes, header: Header) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            from cryptography.hazmat.primitives.hashes import SHA256
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        except ImportError as error:
            raise missing() from error
        self.header = header
        self._invalid = InvalidTag
        key = HKDF(SHA256(), KEY, header.salt, header.raw).derive(master)
        aes = AESGCM(key)
        self._decrypt: Callable[[bytes, Any, None], bytes] = aes.decrypt
        self._seal_into: Callable[[bytes, Any, None, memoryview], Any] = getattr(
            aes,
            "encrypt_into",
            None,  # not in older versions of the library
        ) or _copying(aes.encrypt)

    def nonce(self, index: int, last: bool) -> bytes:
        return self.header.prefix + index.to_bytes(4, "big") + (b"\1" if last else b"\0")

    def seal(self, index: int, content: Any, last: bool, into: memoryview) -> None:
        """Encrypt chunk number ``index`` into a buffer of its size."""
        self._seal_into(self.nonce(index, last), content, None, into)

    def open(self, index: int, sealed: Any, last: bool, path: str) -> bytes:
        """The content of chunk number ``index``; ``CorruptData`` unless it is what was sealed there."""
        try:
            return self._decrypt(self.nonce(index, last), sealed, None)
        except self._invalid as error:
            why = "what was encrypted here was changed, cut or moved"
            if index == 0:
                why = f"the key {self.header.key_id!r} is not the one it was encrypted with, or " + why
            raise CorruptData(
                f"chunk {index} does not decrypt: {why}", path=path, offset=HEADER + index * SEALED, op="read"
            ) from error


def _copying(encrypt: Callable[[bytes, Any, None], bytes]) -> Callable[[bytes, Any, None, memoryview], None]:
    def encrypt_into(nonce: bytes, content: Any, data: None, into: memoryview) -> None:
        into[:] = encrypt(nonce, content, data)

    return encrypt_into


def missing() -> MissingExtra:
    """What is raised where the library is not installed."""
    return MissingExtra('the cryptography library is not installed: pip install "omnistorage[crypt]"', extra="crypt")
