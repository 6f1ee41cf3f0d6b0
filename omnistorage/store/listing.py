"""How a Store lists."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from omnistorage import ops
from omnistorage.core import ListOptions, ObjectInfo
from omnistorage.errors import ConfigError, NotFound
from omnistorage.globs import compile_glob
from omnistorage.paths import sort_key

from .paths import StorePath, folder_key
from .writing import Writing


class FolderEntry(NamedTuple):
    """A folder in a listing."""

    path: str
    name: str


class FolderInfo(NamedTuple):
    """How much lies under a folder; ``modified_at`` is the newest file's."""

    path: str
    file_count: int
    total_size: int
    modified_at: datetime | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Listing(Writing):
    __slots__ = ()

    def list_files(
        self,
        path: StorePath = "",
        *,
        recursive: bool = False,
        pattern: str | None = None,
        max_depth: int | None = None,
        start_after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[ObjectInfo]:
        """The files in a folder, lazily; nothing where there is no such folder.

        ``recursive`` takes those of its folders too; ``max_depth`` (0: the folder itself) bounds how deep, and then
        decides alone. ``pattern`` is a glob (see ``globs``) that a file's name must match, or its path below the folder
        if it holds a ``/``. ``start_after`` leaves out keys up to it, ``limit`` ends the listing early. Bad arguments
        are ``ConfigError`` at the call, not at the first file.
        """
        folder = folder_key(path, "list_files")
        matching = None if pattern is None else compile_glob(pattern, anchored="/" in pattern)
        _check_count("max_depth", max_depth)
        _check_count("limit", limit)
        options = ListOptions(start_after=start_after)
        deep = recursive if max_depth is None else max_depth > 0
        found = self._files(folder, deep, max_depth, options)
        if matching is not None:
            skip = len(folder) + 1 if folder else 0
            found = (info for info in found if matching.fullmatch(info.path[skip:]))
        return found if limit is None else islice(found, limit)

    def _files(self, folder: str, deep: bool, max_depth: int | None, options: ListOptions) -> Iterator[ObjectInfo]:
        if not deep:
            low = None if options.start_after is None else sort_key(options.start_after)
            for info in self._children(folder):
                if not info.is_dir and (low is None or sort_key(info.path) > low):
                    yield info
            return
        base = folder.count("/") + 1 if folder else 0
        if max_depth is None:
            yield from self._at.list(folder, options)
        elif self._at.features.dirs and options.start_after is None:  # deeper folders are not even looked into
            yield from ops.walk(self._at, folder, descend=lambda found: found.count("/") + 1 - base <= max_depth)
        else:
            for info in self._at.list(folder, options):
                if info.path.count("/") - base <= max_depth:
                    yield info

    def list_folders(
        self, path: StorePath = "", *, pattern: str | None = None, max_depth: int | None = None
    ) -> Iterator[FolderEntry]:
        """The folders in a folder, sorted; with ``max_depth`` (0: right in it) also those in them. ``pattern`` is a
        glob for their names."""
        folder = folder_key(path, "list_folders")
        matching = None if pattern is None else compile_glob(pattern, anchored=True)
        _check_count("max_depth", max_depth)
        return self._folders(folder, matching, max_depth or 0)

    def _folders(self, folder: str, matching: object, deeper: int) -> Iterator[FolderEntry]:
        for info in self._children(folder):
            if info.is_dir:
                if matching is None or matching.fullmatch(info.name):  # type: ignore[attr-defined]
                    yield FolderEntry(info.path, info.name)
                if deeper > 0:
                    yield from self._folders(info.path, matching, deeper - 1)

    def iter_children(self, path: StorePath = "") -> Iterator[ObjectInfo | FolderEntry]:
        """What lies right in a folder: files and folders, sorted where the store sorts them."""
        folder = folder_key(path, "iter_children")
        return (FolderEntry(info.path, info.name) if info.is_dir else info for info in self._children(folder))

    def glob(self, pattern: str) -> Iterator[ObjectInfo]:
        """The files whose paths match ``pattern`` (``** * ? [..] {a,b}``), matched by the store itself where it can."""
        return ops.glob(self._at, pattern)

    def walk(self, path: StorePath = "") -> Iterator[tuple[str, list[FolderEntry], list[ObjectInfo]]]:
        """Each folder with the folders and the files in it, top down, as ``os.walk`` does: what is taken out of the
        list of folders is not walked."""
        folder = folder_key(path, "walk")
        return self._walk(folder)

    def _walk(self, folder: str) -> Iterator[tuple[str, list[FolderEntry], list[ObjectInfo]]]:
        folders: list[FolderEntry] = []
        files: list[ObjectInfo] = []
        for info in self._children(folder):
            if info.is_dir:
                folders.append(FolderEntry(info.path, info.name))
            else:
                files.append(info)
        yield folder, folders, files
        for entry in folders:
            yield from self._walk(entry.path)

    def get_folder_info(self, path: StorePath = "", max_depth: int | None = None) -> FolderInfo:
        """How many files lie under a folder, their bytes, and the newest time; ``NotFound`` if there is no such
        folder. A file whose size the store does not say counts no bytes."""
        folder = folder_key(path, "get_folder_info")
        _check_count("max_depth", max_depth)
        count = size = 0
        newest: datetime | None = None
        for info in self.list_files(folder, recursive=True, max_depth=max_depth):
            if info.kind != "file":
                continue
            count += 1
            size += info.size or 0
            if info.modified_at is not None and (newest is None or info.modified_at > newest):
                newest = info.modified_at
        if not count and not self._is_folder(folder):
            raise self._located(NotFound("no such folder", path=folder, backend=self._at.name, op="get_folder_info"))
        return FolderInfo(folder, count, size, newest)


def _check_count(name: str, value: int | None) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ConfigError(f"{name} counts from 0: not {value!r}")
