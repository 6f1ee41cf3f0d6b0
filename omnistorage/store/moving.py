"""How a Store copies and moves: files, folders, to and from local files and other stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from omnistorage import ops
from omnistorage.config import locate
from omnistorage.core import Backend, BulkDelete, CopyOptions, ExtendedBackend, ObjectInfo, Purge, power
from omnistorage.errors import AlreadyExists, ConfigError, DirectoryNotEmpty, InvalidPath, NotFound, StorageError
from omnistorage.paths import is_under, join

from .listing import FolderInfo, Listing
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
        from_, to = file_key(src, op), file_key(dst, op, new=True)
        with self._of_file(from_, op), self._replacing():
            info: ObjectInfo = how(self._at, from_, self._at, to, CopyOptions(overwrite=overwrite))
        return info

    def copy_folder(self, src: StorePath, dst: StorePath, *, overwrite: bool = False) -> FolderInfo:
        """Copy all files of a folder into another, one by one; what was copied when it failed stays."""
        return self._carry_folder(ops.copy, src, dst, overwrite, "copy_folder")

    def move_folder(self, src: StorePath, dst: StorePath, *, overwrite: bool = False) -> FolderInfo:
        """Move all files of a folder into another, one by one, and remove it. What was moved when it failed stays
        there; running it again moves the rest. Links and the like are refused before anything moves."""
        found = self._carry_folder(ops.move, src, dst, overwrite, "move_folder")
        from_ = folder_key(src, "move_folder")
        if from_ != folder_key(dst, "move_folder") and self._at.features.dirs:
            self._remove_empty(from_)
        return found

    def _carry_folder(self, how: Any, src: StorePath, dst: StorePath, overwrite: bool, op: str) -> FolderInfo:
        from_, to = folder_key(src, op), folder_key(dst, op, new=True)
        if is_under(to, from_) and from_ != to:
            raise self._located(InvalidPath(f"{to!r} lies in {from_!r}", path=to, backend=self._at.name, op=op))
        if from_ == to:
            return self.get_folder_info(from_)
        if not self._is_folder(from_):
            raise self._located(NotFound("no such folder", path=from_, backend=self._at.name, op=op))
        count = size = 0
        options = CopyOptions(overwrite=overwrite)
        for info, target in self._targets(from_, to, op):
            if info.is_dir:
                self._at.mkdir(target)
                continue
            with self._replacing():
                done = how(self._at, info.path, self._at, target, options)
            count += 1
            size += (info.size if done.size is None else done.size) or 0
        return FolderInfo(to, count, size)

    def _targets(self, from_: str, to: str, op: str) -> list[tuple[ObjectInfo, str]]:
        """What is in ``from_``, and where it goes. Known as a whole before anything is changed: moving takes names out
        of the listing that is read, and one that cannot go shall stop all of them."""
        found: list[tuple[ObjectInfo, str]] = []
        real = self._at.features.dirs
        if real:
            found.append((ObjectInfo(from_, kind="dir"), to))
        for info in ops.walk(self._at, from_, folders=real):
            target = join(to, info.path[len(from_) + 1 if from_ else 0 :])
            if info.kind not in ("file", "dir"):
                raise InvalidPath(f"this is a {info.kind}, no file: remove it first", path=info.path, op=op)
            if is_under(target, from_) or target == from_:
                raise InvalidPath(f"its target {target!r} lies in {from_!r} itself", path=info.path, op=op)
            found.append((info, target))
        return found if to or not real else found[1:]

    def delete_folder(self, path: StorePath, recursive: bool = False, missing_ok: bool = False) -> None:
        """Delete a folder: an empty one, or with ``recursive`` all that is in it. ``DirectoryNotEmpty`` and
        ``NotFound`` otherwise; the root is refused."""
        folder = folder_key(path, "delete_folder")
        if not folder:
            raise InvalidPath("the root of a store is not deleted", path=str(path), op="delete_folder")
        try:
            if not self._is_folder(folder):
                raise self._located(NotFound("no such folder", path=folder, backend=self._at.name, op="delete_folder"))
            if recursive:
                self._purge(folder)
            elif next(self._children(folder), None) is not None:
                raise DirectoryNotEmpty(
                    "the folder is not empty", path=folder, backend=self._at.name, op="delete_folder"
                )
            elif self._at.features.dirs:
                self._at.rmdir(folder)
            else:
                self._at.delete(folder + "/")  # the marker that an object store keeps of it
        except NotFound:
            if not missing_ok:
                raise

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
        key = file_key(path, "upload", new=True)
        with _local(local, "upload", self._at, key, NotFound) as (backend, name), self._replacing():
            return ops.transfer(backend, name, self._at, key, CopyOptions(overwrite=overwrite), progress=progress)

    def download(
        self, path: StorePath, local: str | PathLike[str], *, overwrite: bool = False, progress: Progress = None
    ) -> ObjectInfo:
        """The same the other way. Through a link the file it leads to is written; what is no file is refused."""
        key = file_key(path, "download")
        place = _local(local, "download", self._at, key, AlreadyExists)
        with place as (backend, name), self._of_file(key, "download"), self._replacing():
            return ops.transfer(self._at, key, backend, name, CopyOptions(overwrite=overwrite), progress=progress)

    def transfer(
        self, path: StorePath, other: Any, target: StorePath, *, overwrite: bool = False, progress: Progress = None
    ) -> ObjectInfo:
        """Copy a file to another store (or backend): verified end to end, taken up again where reading breaks off."""
        key, to = file_key(path, "transfer"), file_key(target, "transfer", new=True)
        if not hasattr(other, "as_backend") and not isinstance(other, Backend):
            raise ConfigError(f"a file is transferred to a store or a backend, not to {type(other).__name__}", path=key)
        with self._of_file(key, "transfer"), self._replacing():
            there = ops.extended(other)
            return ops.transfer(self._at, key, there, to, CopyOptions(overwrite=overwrite), progress=progress)


@contextmanager
def _local(
    path: str | PathLike[str], op: str, store: ExtendedBackend, key: str, its: type[StorageError]
) -> Iterator[tuple[Backend, str]]:
    """The backend and the name of a plain local path, even of one that looks like a URL. Its errors name the path:
    where ``store`` is on disk too and ``key`` is the name, they are the errors that can only be ``its``."""
    if not isinstance(path, str | PathLike) or not isinstance(text := fspath(path), str) or not text:
        raise InvalidPath("a local file is named by a str or a path object", path=repr(path), op=op)
    place = Path(text).resolve()
    if place.exists() and not place.is_file():
        kind = "folder" if place.is_dir() else "device, pipe or socket"
        raise InvalidPath(f"this is a {kind}, not a file", path=text, op=op)
    backend, name = locate(place)
    try:
        yield backend, name
    except StorageError as error:
        told = error.backend == "local" and error.path == name
        if told and (name != key or store.name != "local" or isinstance(error, its)):
            error.path = text
        raise
    finally:
        backend.close()
