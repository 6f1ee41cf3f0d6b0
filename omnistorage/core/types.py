"""The facts of an object, and what calls return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

Kind = Literal["file", "dir", "link", "other"]
Data = bytes | bytearray | memoryview


class ObjectInfo(NamedTuple):
    """What a store says about one object, the same in listings, ``stat`` and write results. None: it does not say.

    ``modified_at`` is the store's own time, aware and in UTC; a kept source time is ``metadata["mtime"]``. ``etag`` is
    an opaque condition token of this backend, never compared with another store's. ``hashes`` maps an algorithm
    (``"md5"``, ``"sha256"``, ``"crc32c"``) to lower-case hexadecimal, and holds only what is known to be a digest.
    """

    path: str
    size: int | None = None
    modified_at: datetime | None = None
    kind: Kind = "file"
    etag: str | None = None
    version: str | None = None
    content_type: str | None = None
    hashes: Mapping[str, str] | None = None
    metadata: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_dir(self) -> bool:
        return self.kind == "dir"

    def hash(self, algorithm: str) -> str | None:
        """The object's digest by ``algorithm``, or None where the store does not know it."""
        return None if self.hashes is None else self.hashes.get(algorithm)


FileInfo = ObjectInfo


@dataclass(frozen=True)
class ResolutionPlan:
    """What a key stands for. ``fingerprint`` is a SHA-256 over canonical JSON of whatever determines the bytes."""

    kind: str
    backend: str
    key: str
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None


SUSPENDED = ".resume"


class Checkpoint(NamedTuple):
    """What was written so far: the store holds the first ``held`` bytes, which ``token`` (for JSON) finds, None if it
    holds none; ``tail`` is the rest, for the caller to keep."""

    token: Mapping[str, Any] | None
    held: int
    tail: bytes
