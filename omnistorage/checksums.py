"""Running digests by name: those of ``hashlib``, and the two checksums that stores keep."""

from __future__ import annotations

from typing import Any

from .core import Data
from .errors import ConfigError


class _Crc32c:
    """google-crc32c with hashlib's two methods that matter here."""

    def __init__(self) -> None:
        import google_crc32c

        self._crc: Any = google_crc32c.Checksum()  # type: ignore[no-untyped-call]

    def update(self, data: Data) -> None:
        self._crc.update(bytes(data))

    def hexdigest(self) -> str:
        return str(self._crc.hexdigest().decode())


class _Crc32:
    """zlib's CRC-32 with the same two methods."""

    def __init__(self) -> None:
        from zlib import crc32

        self._step, self._value = crc32, 0

    def update(self, data: Data) -> None:
        self._value = self._step(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def new_hash(algorithm: str) -> Any:
    """A running digest with ``update`` and ``hexdigest``. Raises ``ConfigError`` for an algorithm nobody knows."""
    if algorithm == "crc32":
        return _Crc32()
    if algorithm == "crc32c":
        return _Crc32c()
    import hashlib

    if algorithm.lower().startswith("shake"):
        raise ConfigError(f"{algorithm!r} is no digest of one length: use md5, sha1, sha256, sha512, crc32 or crc32c")
    try:
        return hashlib.new(algorithm, usedforsecurity=False)
    except (ValueError, TypeError):
        raise ConfigError(f"unknown digest {algorithm!r}: use md5, sha1, sha256, sha512, crc32 or crc32c") from None
