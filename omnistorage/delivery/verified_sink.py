"""What a store says that it holds, held against what it was given.

Sizes are those of what the writer took, whatever a wrapper makes of it on its way. What a store does not state is not
asked for: that would cost a request for each object.
"""

from __future__ import annotations

import hashlib

from omnistorage import ops
from omnistorage.concurrency.in_flight import taking_back
from omnistorage.core import Backend, Data, ObjectInfo, WriteOptions, Writer, features_of
from omnistorage.core.lifecycle import Publishes
from omnistorage.errors import CapabilityNotSupported, CorruptData, PreconditionFailed, StorageError


def must_hold(info: ObjectInfo, path: str, size: int, sha256: str | None = None) -> None:
    """Raise ``CorruptData`` where ``info``, which a write has returned, states another size or digest."""
    if info.size not in (None, size):
        raise CorruptData(f"the store says that it holds {info.size} bytes of {size}", path=path, op="close")
    stated = info.hash("sha256")
    if sha256 is not None and stated not in (None, sha256):
        raise CorruptData(f"the store says that its sha256 is {stated}, not {sha256}", path=path, op="close")


def store_bytes(backend: Backend, path: str, data: bytes, options: WriteOptions, sha256: str | None = None) -> None:
    """Write a small object. Raises ``CorruptData`` where the store says that it holds something else; it is there."""
    must_hold(ops.write_bytes(backend, path, data, options), path, len(data), sha256)


def take_back(backend: Backend, path: str, made: ObjectInfo) -> bool:
    """Remove an object that a write has just made; whether it is gone."""
    condition = made.etag if features_of(backend).if_match else None

    def remove() -> bool:
        try:
            backend.delete(path, if_match=condition)
        except CapabilityNotSupported as error:
            if condition is None or error.capability == "delete":
                raise
            backend.delete(path)  # conditions on writes alone, as some S3 servers have them
        except PreconditionFailed:
            return not backend.exists(path)  # somebody was faster
        return True

    try:
        return taking_back(remove)
    except StorageError:
        return False


class Metered(Publishes):
    """A sink that counts and digests what passes, from ``at`` bytes on. Where the store says that it holds something
    else, ``close`` takes the object back and raises ``CorruptData``: left there, a replay under the same name would
    take it for published. ``stays`` is that error where it could not be taken back."""

    def __init__(self, sink: Writer, backend: Backend, path: str, at: int = 0, *, digests: bool = True) -> None:
        self._sink, self._backend, self._path = sink, backend, path
        self.instant = bool(getattr(sink, "instant", False))
        self.bytes = at
        self.stays: CorruptData | None = None
        self._digest = hashlib.sha256() if digests else None

    @property
    def sha256(self) -> str:
        return "" if self._digest is None else self._digest.hexdigest()

    @property
    def result(self) -> ObjectInfo | None:
        return self._sink.result

    def write(self, data: Data, /) -> int:
        size = self._sink.write(data)
        if self._digest is not None:
            self._digest.update(data)
        self.bytes += size
        return size

    def flush(self) -> None:
        self._sink.flush()

    def prepare(self) -> None:
        self._sink.prepare()

    def close(self) -> ObjectInfo:
        info = self._sink.close()
        try:
            must_hold(info, self._path, self.bytes, self.sha256 or None)
        except CorruptData as error:
            gone = take_back(self._backend, self._path, info)
            error.args = (f"{error.args[0]}: it was removed" if gone else f"{error.args[0]}, and could not be removed",)
            self.stays = None if gone else error
            raise
        return info

    def abort(self) -> None:
        self._sink.abort()
