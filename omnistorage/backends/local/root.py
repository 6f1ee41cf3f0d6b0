"""Where a local backend lives: its root, and the folders beneath it, found, made and taken back."""

from __future__ import annotations

import os
from functools import partial

from omnistorage.paths import is_under, parent
from omnistorage.posix import FOLDER_HANDLE, OS, READ_FOLDER, why_exposed

from .reader import ExposedFolderError, Folder, why_not

TRIES = 64  # how often a write makes its folders anew when somebody removes them at the same time


class Root:
    """Where a backend lives, and the folders beneath it. Everything here raises OSError."""

    def __init__(self, os_: OS, path: str, *, private: bool = False) -> None:
        self.os = os_
        self.path = path
        self.private = private
        self.folder_mode, self.file_mode = (0o700, 0o600) if private else (0o777, 0o666)
        self.below = ""
        """The folder that no symbolic link may lead out of; all of the root if empty."""
        self.chain: tuple[str, ...] = ()
        """``below``, behind the folders that it lies in and that no link may lead out of either."""
        self.closed = False
        self._held: Folder | None = None
        self._synced: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {}

    def why_not(self, path: str) -> str | None:
        """Why the key ``path`` is none of this root. None if it is one."""
        return why_not(path)

    def close(self) -> None:
        self._held = None  # whoever is still at work holds it until done

    def forget_synced(self) -> None:
        """A folder goes away: another one may get its name and its inode."""
        self._synced.clear()

    def open(self) -> Folder:
        """The folder that stands at the root's path now. The descriptor is kept, and dropped when another folder takes
        its place: a root that was moved away or made anew is not written to or listed by mistake. Raises OSError."""
        os_, held = self.os, self._held
        found = os_.stat(self.path)
        if held is not None and held.ident == (found.st_dev, found.st_ino):
            return held
        fd = os_.open(self.path, FOLDER_HANDLE)
        held = Folder(os_, fd, shared=True)
        found = os_.fstat(fd)
        if self.private and (reason := why_exposed(found)):
            raise ExposedFolderError(reason)
        held.ident = (found.st_dev, found.st_ino)
        self._held = held
        return held

    def make(self) -> Folder:
        try:
            return self.open()
        except FileNotFoundError:
            pass
        missing = []
        at = self.path
        while at != os.path.dirname(at) and not self._is_there(at):
            missing.append(at)
            at = os.path.dirname(at)
        for folder in reversed(missing):
            try:
                self.os.mkdir(folder, self.folder_mode)
            except FileExistsError:
                pass
            # Rare enough to be made safe always, so that no durable write has to ask how old the root is.
            with Folder(self.os, self.os.open(os.path.dirname(folder), READ_FOLDER)) as above:
                self.os.fsync(above.fd)
        return self.open()

    def _is_there(self, path: str) -> bool:
        try:
            self.os.stat(path)
        except FileNotFoundError:
            return False
        return True

    def folder(self, root: Folder, path: str, flags: int = FOLDER_HANDLE) -> Folder:
        """The folder ``path``, opened beneath the root. Raises OSError."""
        if not path and flags == FOLDER_HANDLE:
            return root
        return Folder(self.os, self.open_beneath(root, path, flags))

    def open_beneath(self, root: Folder, path: str, flags: int, mode: int = 0) -> int:
        """A descriptor of ``path``, which no symbolic link leads out of. Raises OSError."""
        return self.os.open_beneath(root.fd, path or ".", flags, mode)

    def make_folder(self, path: str, flags: int = FOLDER_HANDLE) -> Folder:
        """The same, made with the root and all parents where missing."""
        root = self.make()
        made: list[str] = []
        try:
            for _ in range(TRIES):
                try:
                    folder = self.folder(root, path, flags)
                except FileNotFoundError:
                    root = self._make_below(root, path, made)
                    continue
                if made:
                    folder.unmake = partial(self.unmake, made)
                return folder
            return self.folder(root, path, flags)
        except BaseException:
            self.unmake(made)
            raise

    def _make_below(self, root: Folder, path: str, made: list[str]) -> Folder:
        """Make what is missing of ``path`` and note it in ``made``; returns the root, which may be another one then."""
        segments = path.split("/")
        try:
            for depth, segment in enumerate(segments):
                with self.folder(root, "/".join(segments[:depth])) as above:
                    try:
                        self.os.mkdir(segment, self.folder_mode, dir_fd=above.fd)
                    except FileExistsError:
                        continue
                made.append("/".join(segments[: depth + 1]))
        except FileNotFoundError:
            return self.make()  # removed by somebody else on the way
        return root

    def unmake(self, made: list[str]) -> None:
        """Remove folders that were made, the last one first, as far as they are empty. Never fails."""
        if not made:
            return
        self.forget_synced()
        try:
            root = self.open()
            for path in reversed(made):
                above, _, leaf = path.rpartition("/")
                with self.folder(root, above) as folder:
                    self.os.rmdir(leaf, dir_fd=folder.fd)
        except OSError:
            pass  # somebody put something into it, or was faster

    def sync_above(self, folder: Folder, path: str) -> None:
        """Make the entry of ``folder`` and of every folder above it durable: a file that is durable in a folder that a
        power cut takes away is not. Done once per folder, which is known by its inode; our own ``rmdir`` and ``purge``
        forget it. Raises OSError."""
        if not path:
            return
        root, found = self.open(), self.os.fstat(folder.fd)
        known = (root.ident, (found.st_dev, found.st_ino))
        if self._synced.get(path) == known:
            return
        at = path
        while at:
            at = parent(at)
            with self.folder(root, at, READ_FOLDER) as above:
                self.os.fsync(above.fd)
        if len(self._synced) >= 4096:
            self._synced.clear()
        self._synced[path] = known


class Confined(Root):
    """The root ``whole`` for keys under ``below``, out of which no symbolic link leads. Where ``whole`` is confined
    itself, no link on the way to ``below`` leads out of its folder."""

    def __init__(self, whole: Root, below: str) -> None:
        super().__init__(whole.os, whole.path, private=whole.private)
        self.below = below
        self.chain = (*whole.chain, below)
        self._whole = whole
        self._synced = whole._synced

    @property
    def closed(self) -> bool:
        return self._whole.closed

    @closed.setter
    def closed(self, value: bool) -> None:
        if value:
            self._whole.closed = value

    def why_not(self, path: str) -> str | None:
        if path != self.below and not is_under(path, self.below):
            return f"it does not lie in the folder {self.below!r}"
        return why_not(path)

    def close(self) -> None:
        self._whole.close()

    def open(self) -> Folder:
        return self._whole.open()

    def open_beneath(self, root: Folder, path: str, flags: int, mode: int = 0) -> int:
        if path != self.below and not is_under(path, self.below):  # a folder above, to be made or synced
            return self._whole.open_beneath(root, path, flags, mode)
        with Folder(self.os, self._whole.open_beneath(root, self.below, FOLDER_HANDLE)) as base:
            return self.os.open_beneath(base.fd, path[len(self.below) + 1 :] or ".", flags, mode)
