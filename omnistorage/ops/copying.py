"""One object from one backend to another, verified end to end and resumed where reading broke off."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from omnistorage.concurrency.in_flight import taking_back
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import ExtendedBackend, ObjectInfo, Reader, ReadOptions
from omnistorage.errors import CapabilityNotSupported, CorruptData, NotFound, PreconditionFailed, StorageError

BLOCK = 1 << 20
_ALGORITHMS = ("sha256", "md5")


class ResumingReader:
    """Reads one version of an object to its end. A transient error on the way is tried again, within ``policy``, by
    opening the object behind what was read; an object that is no longer the same is ``PreconditionFailed``."""

    def __init__(self, backend: ExtendedBackend, path: str, options: ReadOptions, policy: RequestPolicy) -> None:
        self._backend = backend
        self._path = path
        self._options = options
        self._policy = policy
        self._at = 0
        self._broken = False
        self._reader: Reader = policy.run("open_reader", lambda: backend.open_reader(path, options), path=path)
        self.info: ObjectInfo = self._reader.info

    def read(self, size: int) -> bytes:
        data = self._policy.run("read", lambda: self._read(size), path=self._path)
        self._at += len(data)
        return data

    def _read(self, size: int) -> bytes:
        if self._broken:
            self._reopen()
        try:
            return self._reader.read(size)
        except StorageError as error:
            self._broken = error.transient and self._can_resume
            if not self._broken:
                error.transient = False  # there is no way to go on, so nobody tries
            raise

    @property
    def _can_resume(self) -> bool:
        same = self.info.etag is not None or (self.info.size is not None and self.info.modified_at is not None)
        return same and self._backend.features.range_read

    def _reopen(self) -> None:
        condition = self.info.etag if self._backend.features.if_match else None
        reader = self._backend.open_reader(
            self._path, replace(self._options, offset=self._at, if_match=condition or self._options.if_match)
        )
        now, before = reader.info, self.info
        if (now.etag, now.size, now.modified_at) != (before.etag, before.size, before.modified_at):
            reader.close()
            raise PreconditionFailed("the source changed while it was read", path=self._path, op="transfer")
        self._reader.close()
        self._reader, self._broken = reader, False

    def close(self) -> None:
        self._reader.close()


class Digests:
    """Running digests of what passes, by the algorithms that either side can be held to."""

    def __init__(self, info: ObjectInfo) -> None:
        names = {"sha256", *(name for name in info.hashes or () if name in _ALGORITHMS)}
        self._running: dict[str, Any] = {name: hashlib.new(name, usedforsecurity=False) for name in names}

    def update(self, data: bytes) -> None:
        for digest in self._running.values():
            digest.update(data)

    def hexdigests(self) -> dict[str, str]:
        return {name: digest.hexdigest() for name, digest in self._running.items()}


def pump(
    source: ResumingReader, write: Callable[[bytes], object], progress: Callable[[int], None] | None
) -> dict[str, str]:
    """Everything from ``source`` into ``write``; the digests of what was read. Raises ``CorruptData`` if that is not
    what the source said it would be."""
    digests, count = Digests(source.info), 0
    while block := source.read(BLOCK):
        write(block)
        digests.update(block)
        count += len(block)
        if progress is not None:
            progress(len(block))
    found = digests.hexdigests()
    if source.info.size not in (None, count):
        raise CorruptData(f"{count} bytes came of {source.info.size}", path=source.info.path, op="transfer")
    for name, digest in (source.info.hashes or {}).items():
        if found.get(name, digest) != digest:
            raise CorruptData(f"its {name} is {found[name]}, the store says {digest}", path=source.info.path)
    return found


def verify(target: ExtendedBackend, path: str, info: ObjectInfo, digests: dict[str, str]) -> None:
    """Hold what the target stored against the digests of what was read: by the digest that it states itself, else by
    reading it back. Raises ``CorruptData``, or ``PreconditionFailed`` where somebody has replaced it meanwhile."""
    stated = {name: digest for name, digest in (info.hashes or {}).items() if name in digests}
    if not stated:
        digest = hashlib.sha256()
        with target.open_reader(path) as reader:
            if _is_another(reader.info, info):
                raise PreconditionFailed("it was replaced before it could be verified", path=path, op="transfer")
            while block := reader.read(BLOCK):
                digest.update(block)
        stated = {"sha256": digest.hexdigest()}
    for name, found in stated.items():
        if found != digests[name]:
            raise CorruptData(
                f"the copy has the {name} {found}, what was read {digests[name]}", path=path, op="transfer"
            )


def take_back(target: ExtendedBackend, path: str, info: ObjectInfo) -> bool:
    """Delete the damaged object that a write has just made, as ``info`` says; whether it is gone. What somebody has put
    in its place meanwhile stays."""
    try:
        taking_back(lambda: _delete_made(target, path, info))
    except (NotFound, PreconditionFailed):
        pass
    except StorageError:
        return False
    return True


def _delete_made(target: ExtendedBackend, path: str, info: ObjectInfo) -> None:
    if target.features.if_match and info.etag is not None:
        try:
            target.delete(path, if_match=info.etag)
            return
        except CapabilityNotSupported as error:
            if error.capability == "delete":
                raise
            # conditions on writes alone: some S3 servers
    if not _is_another(target.stat(path), info):
        target.delete(path)


def _is_another(now: ObjectInfo, then: ObjectInfo) -> bool:
    """Whether they are known not to be one version."""
    if now.etag is not None and then.etag is not None:
        return now.etag != then.etag
    return None not in (now.modified_at, then.modified_at) and now.modified_at != then.modified_at
