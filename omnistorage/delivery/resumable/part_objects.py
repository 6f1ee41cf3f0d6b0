"""``ResumableWrite`` for stores that have none: an upload whose parts are objects of their own.

They lie below the path that is written, numbered from 1, all of one size, and become the object when it is published:
every byte is written twice and read once. Each life of the writer has names of its own, so that one that was thought to
be dead spoils no part.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from omnistorage import ops
from omnistorage.core import Backend, Checkpoint, Data, ObjectInfo, WriteOptions, Writer, features_of
from omnistorage.core.lifecycle import Publishes
from omnistorage.delivery.verified_sink import store_bytes
from omnistorage.errors import ConfigError, CorruptData, NotFound, StorageError, WriterClosed


class SideUploads:
    """The writer of one object, which keeps its parts in ``folder``."""

    def __init__(self, backend: Backend, folder: str, part_size: int, options: WriteOptions) -> None:
        self._backend, self._folder, self._part_size, self._options = backend, folder, part_size, options
        self._writer: SideWriter | None = None

    @property
    def names(self) -> list[str]:
        """The parts there are."""
        return [] if self._writer is None else self._writer.names

    def open_writer(self, path: str, options: WriteOptions) -> Writer:
        self._writer = SideWriter(self._backend, self._folder, path, options, self._part_size)
        return self._writer

    def token_of(self, writer: Writer) -> Mapping[str, Any] | None:
        return self.checkpoint(writer).token

    def checkpoint(self, writer: Writer) -> Checkpoint:
        assert isinstance(writer, SideWriter)
        return writer.checkpoint()

    def discard_write(self, path: str, token: Mapping[str, Any]) -> None:
        """The parts go with the folder."""

    def resume_writer(self, path: str, token: Mapping[str, Any]) -> tuple[Writer, int]:
        try:
            size, count, chain = token["part_size"], token["parts"], bytes.fromhex(token["chain"])
            lives = [(str(life), int(first)) for life, first in token["lives"]]
            if type(size) is not int or type(count) is not int or size < 1 or count < 1 or lives[0][1] != 1:
                raise ValueError("it counts what cannot be")
            if not all(re.fullmatch("[0-9a-f]{8}", life) for life, _ in lives):
                raise ValueError("its names are none")
        except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ConfigError(f"this is no token of an upload: {error}", path=path, op="resume_writer") from error
        self._writer = writer = SideWriter(self._backend, self._folder, path, self._options, size)
        writer.take_up(count, chain, lives)
        return writer, size * count


class SideWriter(Publishes):
    """Gathers parts and stores each under its number; ``close`` makes the object of them."""

    instant = False
    result: ObjectInfo | None = None

    def __init__(self, backend: Backend, folder: str, path: str, options: WriteOptions, part_size: int) -> None:
        self._backend, self._folder, self._path, self._options = backend, folder, path, options
        self._part_size = part_size
        self._part_options = beside(options)
        self._count = 0
        self._lives = [(uuid.uuid4().hex[:8], 1)]  # and the first part that each has written
        self._chain = b""  # each link is made of a part's bytes and of the link before
        self._held = bytearray()
        self._inner: Writer | None = None
        self._ended = False

    @property
    def names(self) -> list[str]:
        return [self._part(number) for number in range(1, self._count + 1)]

    def take_up(self, count: int, chain: bytes, lives: list[tuple[str, int]]) -> None:
        """Go on behind ``count`` parts that ``lives`` have written and whose last link is ``chain``; that is looked at
        when they are read. Raises ``NotFound`` if one is missing."""
        lists = features_of(self._backend).list
        sizes = {info.path: info.size for info in self._backend.list(self._folder)} if lists else {}
        if lists and count > len(sizes):  # before so many names are made
            raise NotFound("parts of what was written so far are gone", path=self._folder, op="resume_writer")
        self._count, self._chain = count, chain
        self._lives = [*(life for life in lives if life[1] <= count), (self._lives[0][0], count + 1)]
        for part in self.names if lists else ():
            if sizes.get(part, -1) not in (None, self._part_size):
                raise NotFound("a part of what was written so far is gone", path=part, op="resume_writer")

    def write(self, data: Data, /) -> int:
        self._check("write")
        view = memoryview(data).cast("B")
        size = len(view)
        while len(view):
            if len(self._held) == self._part_size:
                self._store_part()
            taken = view[: self._part_size - len(self._held)]
            self._held += taken
            view = view[len(taken) :]
        return size

    def _store_part(self) -> None:
        part, name = bytes(self._held), self._part(self._count + 1)
        store_bytes(self._backend, name, part, self._part_options)
        if self._ended:  # by another thread, which may not have seen it
            remove(self._backend, [name])
            self._check("write")
        self._count += 1
        self._chain = _linked(self._chain, part)
        self._held.clear()

    def flush(self) -> None:
        self._check("flush")

    def checkpoint(self) -> Checkpoint:
        self._check("checkpoint")
        if not self._count:
            return Checkpoint(None, 0, bytes(self._held))
        lives = [life for life in self._lives if life[1] <= self._count]
        token = {"part_size": self._part_size, "parts": self._count, "chain": self._chain.hex(), "lives": lives}
        return Checkpoint(token, self._count * self._part_size, bytes(self._held))

    def prepare(self) -> None:
        """Every byte at its place, under no name yet. What is raised is for ``abort`` to clear away."""
        if self._inner is not None:
            return
        self._check("prepare")
        inner = self._inner = self._backend.open_writer(self._path, self._options)
        chain = b""
        for part in self.names:
            data = ops.read_at_most(self._backend, part, self._part_size)
            chain = _linked(chain, data)
            inner.write(data)
        if chain != self._chain:
            raise CorruptData("the parts are not those that were written", path=self._folder, op="close")
        inner.write(self._held)
        inner.prepare()

    def close(self) -> ObjectInfo:
        if self.result is None:
            self.prepare()
            assert self._inner is not None
            self.result = self._inner.close()
            self._ended = True
        return self.result

    def abort(self) -> None:
        if not self._ended:
            self._ended = True
            if self._inner is not None:
                self._inner.abort()

    def _part(self, number: int) -> str:
        life = next(life for life, first in reversed(self._lives) if first <= number)
        return f"{self._folder}/part-{number:06d}-{life}"

    def _check(self, op: str) -> None:
        if self._ended or self._inner is not None:
            raise WriterClosed("the writer is closed", path=self._path, op=op)


def beside(options: WriteOptions) -> WriteOptions:
    """How what stands beside an object of these options is written: encrypted like it, but never archived."""
    extra = {k: v for k, v in (options.extra or {}).items() if not k.endswith(("storage_class", "access_tier"))}
    return WriteOptions(durable=options.durable, extra=extra or None)


def remove(backend: Backend, names: Iterable[str], *folders: str) -> None:
    """Delete what is kept for a writer, and ``folders``, those it was in and those above, as far as they are empty."""
    below = set(folders)
    for name in names:
        with suppress(StorageError):
            backend.delete(name)
        below.add(name.rpartition("/")[0])
    store = ops.extended(backend)
    if store.features.dirs:
        for folder in sorted(below | {folder.rpartition("/")[0] for folder in below}, key=len, reverse=True):
            with suppress(StorageError):  # there is something in it
                store.rmdir(folder)


def _linked(chain: bytes, part: bytes) -> bytes:
    return hashlib.sha256(chain + part).digest()
