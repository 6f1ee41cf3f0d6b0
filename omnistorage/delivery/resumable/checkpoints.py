"""What ``ResumableWriter`` keeps at the store: the parts of an upload, and a tail for each checkpoint.

Below ``<path>.resume/<id>/`` stand the tails, ``tail-<bytes in all>-<digest>``, and where the store has no uploads that
outlive a process the parts as well (``part_objects``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from omnistorage import ops
from omnistorage.core import SUSPENDED, Backend, ResumableWrite, Settle, WriteOptions, Writer, power
from omnistorage.delivery.verified_sink import store_bytes
from omnistorage.errors import AlreadyExists, CorruptData, NotFound, StorageError
from omnistorage.paths import check_new

from .part_objects import SideUploads, beside, remove

MARK = "omnistorage_resume"  # in the metadata of what is published: the id of its writer
_GOOD = 2  # so many checkpoints count: while a new one is made, the one before is what the caller has
_KEPT = re.compile(
    rf"(.+{re.escape(SUSPENDED)}/[0-9a-f]{{32}})(?:/part-\d{{6,}}-[0-9a-f]{{8}}|/(tail)-\d{{16,}}-[0-9a-f]{{16}})?"
)


class Suspended:
    """The bytes of one object on their way, and the checkpoints of it. Whatever becomes of a sink, the last checkpoint
    stays until ``end``."""

    def __init__(self, backend: Backend, path: str, mark: str, options: WriteOptions, part_size: int) -> None:
        features = ops.extended(backend).features
        self._marks = features.user_metadata and features.stat
        if self._marks:
            options = replace(options, user_metadata={**(options.user_metadata or {}), MARK: mark})
        self._backend, self._path, self._mark, self._options = backend, path, mark, options
        self._folder = f"{path}{SUSPENDED}/{mark}"
        check_new(self._tail(0, "0" * 16))  # the longest name there will be
        self._side = SideUploads(backend, self._folder, part_size, options)
        self._native = power(backend, ResumableWrite)
        self._uploads: ResumableWrite = self._native or self._side
        self._tails: list[str] = []

    @property
    def has_checkpoint(self) -> bool:
        return bool(self._tails)

    def open(self) -> Writer:
        """A sink that begins."""
        return (self._side if self._native is None else self._backend).open_writer(self._path, self._options)

    def checkpoint(self, sink: Writer) -> dict[str, Any]:
        """Keep all that ``sink`` was given. Returns what ``go_on`` needs, for JSON."""
        upload, held, tail = self._uploads.checkpoint(sink)
        digest, total = hashlib.sha256(tail).hexdigest(), held + len(tail)
        name = self._tail(total, digest)
        if name not in self._tails:
            store_bytes(self._backend, name, tail, beside(self._options), digest)
            self._tails.append(name)
        while len(self._tails) > _GOOD:
            old = self._tails.pop(0)
            with suppress(StorageError):  # ``end`` removes it
                self._backend.delete(old)
        return {"bytes": total, "upload": upload, "tail": {"bytes": len(tail), "sha256": digest}}

    def go_on(self, kept: Mapping[str, Any]) -> Writer:
        """A sink that has all that the checkpoint had, and nothing else."""
        tail, upload = kept["tail"], kept["upload"]
        name = self._tail(kept["bytes"], tail["sha256"])
        self._tails.append(name)
        self._must_not_be_published()
        try:
            data = ops.read_at_most(self._backend, name, tail["bytes"])
        except NotFound:
            remove(self._backend, (), self._folder)  # which a kill may have left empty
            raise
        if len(data) != tail["bytes"] or hashlib.sha256(data).hexdigest() != tail["sha256"]:
            raise CorruptData("the tail is not the one that the token names", path=name, op="resume")
        sink, held = (self.open(), 0) if upload is None else self._taken_up(upload)
        try:
            if held + len(data) != kept["bytes"]:
                raise CorruptData(f"{held + len(data)} bytes are left of {kept['bytes']}", path=self._path, op="resume")
            if data:
                sink.write(data)
        except BaseException:
            sink.abort()
            raise
        return sink

    def _taken_up(self, upload: Mapping[str, Any]) -> tuple[Writer, int]:
        try:
            return self._uploads.resume_writer(self._path, upload)
        except NotFound:
            if self._native is not None:
                self.end()  # it never comes back, and its tail would keep other uploads from being stale
            raise

    def discard(self, kept: Mapping[str, Any]) -> None:
        """End a writer that nobody goes on with. Again: nothing."""
        if kept["upload"] is not None:
            self._uploads.discard_write(self._path, kept["upload"])
        self._tails.append(self._tail(kept["bytes"], kept["tail"]["sha256"]))
        self.end()

    def end(self) -> None:
        """Remove the checkpoints, and parts that are objects. What cannot be removed is no harm."""
        names = [*self._tails, *self._side.names]
        if not names:
            return
        with suppress(StorageError):
            if ops.extended(self._backend).features.list:
                names = [info.path for info in self._backend.list(self._folder)]
        remove(self._backend, names, self._folder)

    def _tail(self, total: int, digest: str) -> str:
        return f"{self._folder}/tail-{total:016d}-{digest[:16]}"

    def _must_not_be_published(self) -> None:
        if self._marks and self._is_ours() and self._is_settled() and self._is_ours():
            self.end()
            raise AlreadyExists("what this token is of was published", path=self._path, op="resume")

    def _is_ours(self) -> bool:
        try:
            info = ops.extended(self._backend).stat(self._path)
        except NotFound:
            return False
        return (info.metadata or {}).get(MARK) == self._mark

    def _is_settled(self) -> bool:
        """Whether it, or what it was to replace, is at as many of several stores as a write needs."""
        able = power(self._backend, Settle)
        try:
            return able is None or able.settle(self._path)
        except CorruptData:  # nobody knows which of the two is right: it is published once more
            return False


def _but_gone(error: StorageError) -> None:
    if not isinstance(error, NotFound):  # a writer that ends meanwhile takes its folder with it
        raise error


def clean(backend: Backend, prefix: str, older_than: timedelta, checkpoints: bool, now: datetime) -> int:
    """Remove what is kept for writers and not newer than ``older_than``; checkpoints only with ``checkpoints``.
    Returns of how many."""
    found: dict[str, list[str]] = {}
    kept = set()
    for info in ops.walk(backend, prefix, folders=ops.extended(backend).features.dirs, on_error=_but_gone):
        match = _KEPT.fullmatch(info.path)
        if match is None or info.is_dir != (info.path == match[1]):
            continue
        names = found.setdefault(match[1], [])
        if not info.is_dir:
            names.append(info.path)
        elif info.modified_at is None:
            continue  # what is in it says how old it is
        if (match[2] and not checkpoints) or info.modified_at is None or info.modified_at > now - older_than:
            kept.add(match[1])
    stale = [folder for folder in found if folder not in kept]
    stale = [folder for folder in stale if found[folder] or next(iter(backend.list(folder)), None) is None]
    for folder in stale:
        remove(backend, found[folder], folder)
    return len(stale)
