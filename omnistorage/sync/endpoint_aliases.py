"""One place under two names: bind mounts, second mounts of a volume, two host names of one bucket.

A move that takes the copy for another object deletes the only one there is. So it is looked for three times:

1. Before anything is read: ``ops.volumes`` gives local folders the name that they have on their volume.
2. Before each removal: ``is_one_object`` compares what both sides show.
3. After the first removal of a run: ``FirstRemoval`` looks for the copy again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from omnistorage.core import ObjectInfo, WriteOptions
from omnistorage.core.option_checks import fitting_metadata
from omnistorage.errors import PreconditionFailed, StorageError
from omnistorage.ops.same_bucket import differ_by_host_alone

from .endpoint import Side

_HELD = 8 << 20
"""The most bytes that the first removal of a run holds until the copy was seen again."""


def is_one_object(src: Side, source: ObjectInfo, dst: Side, target: ObjectInfo) -> bool:
    """Whether two names lead to one object. Two hard links of a file are two names that can go one by one."""
    if src.local is not None and dst.local is not None:
        return _is_one_file(src.local / src.relative(source.path), dst.local / dst.relative(target.path))
    uploads = not (src.features.set_modified or dst.features.set_modified)  # else equal times mean nothing
    same = source.path == target.path and source.modified_at == target.modified_at and source.etag == target.etag
    return uploads and same and source.etag is not None and differ_by_host_alone(src.url, dst.url)


def _is_one_file(one: Path, other: Path) -> bool:
    try:
        first, second = one.lstat(), other.lstat()
        if not os.path.samestat(first, second):
            return False
        return first.st_nlink == 1 or (one.name == other.name and os.path.samefile(one.parent, other.parent))
    except OSError:
        return False  # the removal will say what is wrong


class FirstRemoval:
    """Removes source objects of a move. After the first one, the destination has to hold the copy still."""

    def __init__(self, src: Side, dst: Side) -> None:
        self.src, self.dst = src, dst
        self._lock = Lock()
        self._apart = False
        self._failed = ""

    @property
    def failed(self) -> str:
        """Why nothing more may be removed; empty while it may."""
        return self._failed

    def remove(self, source: ObjectInfo, target: ObjectInfo, delete: Callable[[], None], *, found: bool) -> None:
        """Remove a source whose copy is known to be right.

        Args:
            source: The object to be removed.
            target: Its copy.
            delete: Removes ``source`` if it still is what was seen.
            found: The copy was there before this run. It may be the source itself, so the bytes are held.

        Raises:
            StorageError: The two are one object, or the copy went with its source. Nothing more is removed then.
        """
        if self._apart:
            self._one(source, target, delete)
            return
        with self._lock:  # the others wait: one object is risked, not one for each thread
            if self._failed:
                raise PreconditionFailed(self._failed, path=source.path, op="move")
            if self._apart:
                self._one(source, target, delete)
                return
            doubtful = found or differ_by_host_alone(self.src.url, self.dst.url)
            held = self._read(source) if doubtful else None
            self._one(source, target, delete)
            if self.dst.look(target.path) is None and self.src.look(source.path) is None:
                self._failed = f"{self.src.shown} and {self.dst.shown} are one place: nothing more is removed"
                raise StorageError(self._written_back(source, held), path=source.path, op="move")
            self._apart = True

    def _one(self, source: ObjectInfo, target: ObjectInfo, delete: Callable[[], None]) -> None:
        if is_one_object(self.src, source, self.dst, target):
            raise PreconditionFailed(
                f"it is the same object at {self.src.shown} and at {self.dst.shown}, so it is not removed. "
                "Move to another place",
                path=source.path,
                op="move",
            )
        delete()

    def _read(self, source: ObjectInfo) -> tuple[bytes, WriteOptions] | None:
        """The object and how to write it again, if it is small enough to be held."""
        if source.size is None or source.size > _HELD or not self.src.features.write:
            return None
        with self.src.backend.open_reader(source.path) as reader:
            data = bytearray()
            while block := reader.read(_HELD):
                data += block
            info, features = reader.info, self.src.features
        return bytes(data), WriteOptions(
            content_type=info.content_type,
            modified_at=info.modified_at if features.set_modified else None,
            user_metadata=fitting_metadata(info.metadata or {}) or None if features.user_metadata else None,
        )

    def _written_back(self, source: ObjectInfo, held: tuple[bytes, WriteOptions] | None) -> str:
        """What happened, in words. Writes the object again if it is held."""
        what = f"the copy at {self.dst.shown} went with its source at {self.src.shown}: the two are one place"
        if held is None:
            return f"{what}. The object is lost: restore it from a backup, and move to another place"
        try:
            with self.src.backend.open_writer(source.path, held[1]) as writer:
                writer.write(held[0])
        except StorageError as error:
            return f"{what}. It could not be written back ({error}): restore it from a backup"
        return f"{what}. It was written back. Move to another place"
