"""Small objects that the package wrote itself, read back in whole. Others may have replaced them, so they have a
bound.
"""

from __future__ import annotations

from omnistorage.errors import CorruptData, StorageError

from .protocols import Backend, Reader

WORDS = 1 << 16
"""The most bytes of a lock, of ``_SUCCESS`` and of other notes that say a few words."""
NOTES = 1 << 20
"""The most bytes of a state without entries, and of one line of a manifest."""
LINES = 1 << 28
"""The most bytes of what has a line for each of many objects: a million of them."""


def read_small(backend: Backend, path: str, most: int) -> bytes:
    """Return the whole object. Raises ``CorruptData`` for one of more than ``most`` bytes."""
    with backend.open_reader(path) as reader:
        return rest_of(reader, path, most)


def rest_of(reader: Reader, path: str, most: int) -> bytes:
    """Return what ``reader`` still has. Raises ``CorruptData`` if that is more than ``most`` bytes."""
    data = bytearray()
    while more := reader.read(min(1 << 20, most + 1 - len(data))):
        data += more
        if len(data) > most:
            raise CorruptData(f"this has more than {most} bytes, so it is not what was written here", path=path)
    return bytes(data)


def at_most(data: bytes, path: str, most: int) -> bytes:
    """Return ``data``, which is about to be written. Raises ``StorageError`` if it is too long to be read back."""
    if len(data) > most:
        raise StorageError(f"this would have {len(data)} bytes, and is read back up to {most} bytes", path=path)
    return data
