"""What a local folder can do beyond objects: times of folders, symbolic links, and what dead writers left."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from stat import S_ISLNK
from typing import NoReturn, Self

from omnistorage.backends.base import BackendBase, is_folder_error, leads_out
from omnistorage.core import ObjectInfo
from omnistorage.core.option_checks import check_time
from omnistorage.core.structural import twin
from omnistorage.errors import AlreadyExists, InvalidPath, NotFound, StorageError
from omnistorage.paths import check_key, check_new, check_prefix
from omnistorage.posix import OS, READ_FOLDER

from .reader import NAME, Folder, info_of, new_temporary, time_in, translate
from .root import Confined, Root
from .stale_uploads import stale_temporaries
from .writer import nanoseconds, set_modified

LONGEST_TARGET = 4095
"""Bytes that the system takes for a link's target (PATH_MAX, without the NUL)."""


class LocalPowers(BackendBase):
    """``FolderTimes``, ``Links``, ``Confine``, ``HealthCheck`` and ``StaleUploads`` for ``LocalBackend``."""

    _os: OS
    _at: Root

    def _key(self, path: str, op: str) -> None:
        reason = self._at.why_not(path)
        if reason is not None:
            raise InvalidPath(reason, path=path, op=op, backend=NAME)

    @property
    def _closed(self) -> bool:
        return self._at.closed

    @_closed.setter
    def _closed(self, value: bool) -> None:
        self._at.closed = value

    def set_folder_time(self, path: str, modified_at: datetime) -> None:
        self._enter("set_modified", "set_folder_time", path)
        self._key(check_key(path, op="set_folder_time"), "set_folder_time")
        check_time(modified_at)
        try:
            with self._at.folder(self._at.open(), path, READ_FOLDER | os.O_NOFOLLOW) as folder:
                set_modified(self._os, folder.fd, modified_at)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotFound(
                    "this is a symbolic link, not a folder", path=path, op="set_folder_time", backend=NAME
                ) from error
            raise translate(error, "set_folder_time", path, reading=True) from error

    def exact_time(self, info: ObjectInfo) -> int | None:
        """The modification time of a file or folder in nanoseconds since 1970, which ``modified_at`` cannot hold.

        Args:
            info: What this backend said of it. The time of a file is that of ``info``; a folder is looked at again.

        Returns:
            The nanoseconds; None if they are not known, or the folder is gone.
        """
        if info.etag is not None:
            return time_in(info.etag)
        try:
            with self._at.folder(self._at.open(), info.path, READ_FOLDER | os.O_NOFOLLOW) as folder:
                return self._os.fstat(folder.fd).st_mtime_ns if info.is_dir else None
        except OSError:
            return None

    def confined(self, folder: str) -> Self:
        """The same backend for keys under ``folder``, out of which no symbolic link leads and none is made."""
        self._key(check_key(folder, op="confined"), "confined")
        found = twin(self)
        found._at = Confined(self._at, folder)
        return found

    def read_link(self, path: str) -> tuple[str, ObjectInfo]:
        self._enter("read", "read_link", path)
        self._key(check_key(path, op="read_link"), "read_link")
        above, _, leaf = path.rpartition("/")
        try:
            with self._at.folder(self._at.open(), above) as folder:
                found = self._os.stat(leaf, dir_fd=folder.fd, follow_symlinks=False)
                if not S_ISLNK(found.st_mode):
                    raise NotFound("this is no symbolic link", path=path, op="read_link", backend=NAME)
                return self._os.readlink(leaf, dir_fd=folder.fd), info_of(path, found)
        except NotFound:
            raise
        except OSError as error:
            raise translate(error, "read_link", path, reading=True) from error

    def make_link(
        self, path: str, target: str, *, overwrite: bool = True, modified_at: datetime | None = None
    ) -> ObjectInfo:
        self._enter("write", "make_link", path)
        self._key(check_new(path, op="make_link"), "make_link")
        check_time(modified_at)
        _check_target(path, target)
        if self._at.below and leads_out(path, target, self._at.below):
            _refuse(path, f"the target {target[:200]!r} lies outside of the folder {self._at.below!r}")
        above, _, leaf = path.rpartition("/")
        try:
            with self._at.make_folder(above) as folder, folder.undone_on_error():
                return self._linked(folder, leaf, path, target, overwrite, modified_at)
        except StorageError:
            raise
        except OSError as error:
            raise translate(error, "make_link", path) from error

    def _linked(
        self, folder: Folder, leaf: str, path: str, target: str, overwrite: bool, modified_at: datetime | None
    ) -> ObjectInfo:
        """Under a hidden name first, so that what appears has its time; renamed, or linked where nothing may go."""
        os_, at, temporary = self._os, folder.fd, new_temporary()
        os_.symlink(target, temporary, dir_fd=at)
        renamed = False
        try:
            if modified_at is not None:
                times = nanoseconds(modified_at)
                os_.utime(temporary, ns=(times, times), dir_fd=at, follow_symlinks=False)
            found = os_.stat(temporary, dir_fd=at, follow_symlinks=False)
            if overwrite:
                os_.rename(temporary, leaf, src_dir_fd=at, dst_dir_fd=at)
                renamed = True
            else:
                os_.link(temporary, leaf, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
        except FileExistsError as error:
            raise AlreadyExists("an object has this name", path=path, op="make_link", backend=NAME) from error
        except IsADirectoryError as error:
            raise is_folder_error(path, "make_link", NAME) from error
        finally:
            if not renamed:
                self._forget(temporary, at)
        return info_of(path, found)

    def _forget(self, temporary: str, at: int) -> None:
        try:
            self._os.unlink(temporary, dir_fd=at)
        except OSError:
            pass  # hidden, and collected with what dead writers left

    # -- health and what dead writers left -----------------------------------------------------------------------------

    def check_health(self) -> None:
        self._enter("read", "check_health", "")
        try:
            self._at.folder(self._at.open(), "", READ_FOLDER).close()
        except OSError as error:
            raise translate(error, "check_health", "") from error

    def stale_uploads(self, prefix: str = "", *, older_than: timedelta = timedelta(hours=1)) -> Iterator[ObjectInfo]:
        """The temporaries of writers that died, by the path of the temporary. A live writer holds a lock, so that its
        temporary is never among them, whatever ``older_than``."""
        self._enter("list", "stale_uploads", prefix)
        return self._stale(check_prefix(prefix, op="stale_uploads"), older_than, remove=False)

    def remove_stale_uploads(self, prefix: str = "", *, older_than: timedelta = timedelta(hours=1)) -> int:
        """Remove what ``stale_uploads`` yields; the number of files removed."""
        self._enter("delete", "remove_stale_uploads", prefix)
        return sum(1 for _ in self._stale(check_prefix(prefix), older_than, remove=True))

    def _stale(self, prefix: str, older_than: timedelta, *, remove: bool) -> Iterator[ObjectInfo]:
        try:
            with self._at.folder(self._at.open(), prefix, READ_FOLDER) as base:
                yield from stale_temporaries(self._os, base, prefix and prefix + "/", older_than, remove=remove)
        except StorageError:
            raise
        except OSError as error:
            if not prefix or not isinstance(error, FileNotFoundError):
                raise translate(error, "stale_uploads", prefix, reading=True) from error


def _check_target(path: str, target: str) -> None:
    try:
        raw = os.fsencode(target)
    except UnicodeEncodeError:
        _refuse(path, "no file system holds this target")
    if not raw or b"\0" in raw:
        _refuse(path, "a link's target is neither empty nor holds NUL")
    if len(raw) > LONGEST_TARGET:
        _refuse(path, f"a link's target has at most {LONGEST_TARGET:,} bytes, this one {len(raw):,}")


def _refuse(path: str, why: str) -> NoReturn:
    raise InvalidPath(why, path=path, op="make_link", backend=NAME)
