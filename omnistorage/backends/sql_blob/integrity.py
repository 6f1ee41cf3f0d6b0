"""Holds the bytes that are read of a SQL blob against the size and the digest in its row."""

from __future__ import annotations

import hashlib

from omnistorage.errors import CorruptData

_HINT = "the database was changed behind the backend, or is damaged; write the object again"


def check_size(path: str, size: object, found: int, op: str = "open_reader") -> None:
    """Raise ``CorruptData`` unless ``found`` bytes are what the row says. ``size`` is None where no column holds it."""
    if size is not None and size != found:
        raise CorruptData(f"the row says {size} bytes, and {found} are there: {_HINT}", path=path, op=op)


class DigestCheck:
    """The running SHA-256 of a whole body."""

    def __init__(self, path: str, wanted: str) -> None:
        self._path, self._wanted = path, wanted
        self._running = hashlib.sha256()

    def update(self, data: bytes) -> None:
        self._running.update(data)

    def end(self) -> None:
        """Raise ``CorruptData`` unless what passed has the digest of the row."""
        if self._running.hexdigest() != self._wanted:
            raise CorruptData(f"the SHA-256 in the row is not that of the bytes: {_HINT}", path=self._path, op="read")


def digest_check(path: str, digest: object, whole: bool) -> DigestCheck | None:
    """What a reader of the ``whole`` body holds its bytes against; None where there is nothing to compare with."""
    if not whole or not isinstance(digest, str) or len(digest) != 64:
        return None
    return DigestCheck(path, digest.lower())
