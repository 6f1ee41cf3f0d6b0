"""How a Store copies and moves: files, folders, to and from local files and other stores. Imports floors 0 and 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import PathLike, fspath
from typing import Any

from .. import ops
from ..core import Backend, BulkDelete, CopyOptions, ObjectInfo, Purge, power
from ..errors import DirectoryNotEmpty, InvalidPath, NotFound
from ..paths import is_under, join
from ..registry import locate
from ._listing import FolderInfo, Listing
from .paths import StorePath, file_key, folder_key

Progress = Callable[[int], None] | None


class Moving(Listing):
    __slots__ = ()

    def copy(self, src: StorePath, dst: StorePath, *, overwrite: bool = False) -> ObjectInfo:
        """Copy one file, by the store itself where it can, else streamed and held against what the source states; onto
        itself nothing happens. ``AlreadyExists`` if there is something, unless ``overwrite``."""
        return self._carry(ops.copy, src, dst, overwrite, "copy")

    def move(self, src: StorePath, dst: StorePath, *, overwrite: bool = False) -> ObjectInfo:
        """Move one file, as ``copy`` copies; the source goes only when the whole copy stands."""
        return self._carry(ops.move, src, dst, overwrite, "move")

    def _carry(self, how: Any, src: StorePath, dst: StorePath, overwrite: bool, op: str) -> ObjectInfo:
        from_, to = file_key(src, op), file_key(dst, op)
        with self._of_file(from_, op), self._replacing():
            info: ObjectInfo = how(self._at, from_, self._at, to, CopyOptions(overwrite=overwrite))
        return info

    def copy_folder(self, src: StorePath, dst: StorePath, *, overwrite: bool = False) -> FolderInfo:
        """Copy all files of a folder into another, one by one; what was copied when it failed stays."""
        return self._carry_folder(ops.copy, src, dst, overwrite, "copy_folder")

    def move_folder(self, src: StorePath, dst: StorePath, *, overwrite: bool = False) -> FolderInfo:
        """Move all files of a folder into another, one by one, and remove it. What was moved when it failed stays
        there; running it again moves the rest."""
        found = self._carry_folder(ops.move, src, dst, overwrite, "move_folder")
        from_ = folder_key(src, "move_folder")
        if from_ != folder_key(dst, "move_folder") and self._at.features.dirs:
            self._remove_empty(from_)
        return found

    def _carry_folder(self, how: Any, src: StorePath, dst: StorePath, overwrite: bool, op: str) -> FolderInfo:
        from_, to = folder_key(src, op), folder_key(dst, op)
        if is_under(to, from_) and from_ != to:
            raise InvalidPath(f"{to!r} lies in {from_!r}", path=to, backend=self._at.name, op=op)
        if from_ == to:
            return self.get_folder_info(from_)
        count = size = 0
        options = CopyOptions(overwrite=overwrite)
        # Moving takes names out of the listing that is being read, which not every store bears: they are kept first.
        listed: Any = self._at.list(from_)
        for info in list(listed) if how is ops.move else listed:
            if info.kind != "file":
                continue
            target = join(to, info.path[len(from_) + 1 if from_ else 0 :])
            with self._replacing():
                done = how(self._at, info.path, self._at, target, options)
            count += 1
            size += (info.size if done.size is None else done.size) or 0
        if not count and not self._is_folder(from_):
            raise NotFound("no such folder", path=from_, backend=self._at.name, op=op)
        return FolderInfo(to, count, size)

    def delete_folder(self, path: StorePath, recursive: bool = False, missing_ok: bool = False) -> None:
        """Delete a folder: an empty one, or with ``recursive`` all that is in it. ``DirectoryNotEmpty`` and
        ``NotFound`` otherwise; the root is refused."""
        folder = folder_key(path, "delete_folder")
        if not folder:
            raise InvalidPath("the root of a store is not deleted", path=str(path), op="delete_folder")
        if not self._is_folder(folder):
            if missing_ok:
                return
            raise NotFound("no such folder", path=folder, backend=self._at.name, op="delete_folder")
        if recursive:
            self._purge(folder)
        elif next(self._children(folder), None) is not None:
            raise DirectoryNotEmpty("the folder is not empty", path=folder, backend=self._at.name, op="delete_folder")
        elif self._at.features.dirs:
            self._at.rmdir(folder)
        else:
            self._purge(folder)  # a marker that an object store keeps

    def _purge(self, folder: str) -> None:
        purges = power(self._at, Purge)
        if purges is not None:
            purges.purge(folder)
            return
        bulk = power(self._at, BulkDelete)
        names: Iterator[str] = (info.path for info in self._at.list(folder))
        for _, error in self._one_by_one(list(names)) if bulk is None else bulk.delete_many(names):
            if error is not None:
                raise error
        if self._at.features.dirs:
            self._remove_empty(folder)

    def _remove_empty(self, folder: str) -> None:
        """The folders that are left of ``folder``, from the deepest up."""
        folders = [info.path for info in ops.walk(self._at, folder, folders=True) if info.is_dir]
        for each in [*reversed(folders), folder]:
            try:
                self._at.rmdir(each)
            except NotFound:
                pass

    # -- to and from elsewhere -----------------------------------------------------------------------------------------

    def upload(
        self, local: str | PathLike[str], path: StorePath, *, overwrite: bool = False, progress: Progress = None
    ) -> ObjectInfo:
        """Write a local file as one object: whole or not at all, verified, content type and time kept where the store
        can. ``progress`` gets the bytes of each step."""
        backend, name = locate(_local(local))
        with backend:  # type: ignore[attr-defined]
            return _transfer(backend, name, self._at, file_key(path, "upload"), overwrite, progress, self)

    def download(
        self, path: StorePath, local: str | PathLike[str], *, overwrite: bool = False, progress: Progress = None
    ) -> ObjectInfo:
        """The same the other way."""
        key = file_key(path, "download")
        backend, name = locate(_local(local))
        with backend, self._of_file(key, "download"):  # type: ignore[attr-defined]
            return _transfer(self._at, key, backend, name, overwrite, progress, self)

    def transfer(
        self, path: StorePath, other: Any, target: StorePath, *, overwrite: bool = False, progress: Progress = None
    ) -> ObjectInfo:
        """Copy a file to another store (or backend): verified end to end, taken up again where reading breaks off."""
        key, to = file_key(path, "transfer"), file_key(target, "transfer")
        with self._of_file(key, "transfer"):
            return _transfer(self._at, key, ops.extended(other), to, overwrite, progress, self)


def _local(path: str | PathLike[str]) -> PathLike[str]:
    """A plain path as one, even if it looks like a URL."""
    from pathlib import Path

    return Path(fspath(path))


def _transfer(
    source: Backend, src: str, target: Backend, dst: str, overwrite: bool, progress: Progress, store: Moving
) -> ObjectInfo:
    with store._replacing():
        return ops.transfer(source, src, target, dst, CopyOptions(overwrite=overwrite), progress=progress)
