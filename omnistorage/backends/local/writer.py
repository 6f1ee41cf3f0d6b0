"""How the local backend writes: temporaries, their publication, appending, and collecting what dead writers left.

A write goes to a hidden temporary in the folder of its destination, 0600 from the first instant and locked with flock
for as long as its writer lives. Publication is one ``rename`` (or ``link``, when nothing may be replaced), so that a
kill at any moment leaves the old content or the new, and at most an unlocked temporary, which anybody may collect: the
lock dies with the process. The collector unlinks while it holds the lock, and a writer that finds its fresh temporary
locked or unlinked takes another name.
"""

from __future__ import annotations

import errno
import time
from datetime import datetime
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN
from os import O_CREAT, O_EXCL, stat_result
from stat import S_ISDIR, S_ISREG

from omnistorage.backends.base import is_folder_error
from omnistorage.backends.streams import READ_BLOCK, WriterBase
from omnistorage.concurrency.cancellation import check
from omnistorage.core import ObjectInfo, WriteOptions
from omnistorage.core.timestamps import nanoseconds_of
from omnistorage.errors import AlreadyExists, BackendUnavailable, InvalidPath, OutcomeUnknown, StorageError
from omnistorage.posix import APPEND_FILE, FOLDER_HANDLE, NEW_FILE, OS, READ_FOLDER, current_umask

from .reader import NAME, Folder, close_quietly, info_of, names_in, new_temporary, translate
from .root import TRIES, Root
from .stale_uploads import NO_LOCKS

_COARSEST = 2 * 10**9  # the coarsest time stamps a file system in use keeps, in ns: two seconds
_NAMES_TO_TRY = 16


def set_modified(os_: OS, fd: int, modified_at: datetime) -> None:
    """Set a file's time; OSError if the file system cannot hold it, which the kernel does not say by itself."""
    wanted = nanoseconds(modified_at)
    os_.utime(fd, ns=(os_.fstat(fd).st_atime_ns, wanted))
    _check_time(os_.fstat(fd), wanted)


def _check_time(found: stat_result, wanted: int | None) -> None:
    if wanted is not None and abs(found.st_mtime_ns - wanted) > _COARSEST:
        raise OSError(errno.EOVERFLOW, "the file system cannot hold this time")


def nanoseconds(moment: datetime) -> int:
    """Since 1970, as the system counts."""
    return nanoseconds_of(moment)


def open_temporary(os_: OS, folder: Folder) -> tuple[int, str]:
    """A new locked temporary in ``folder``: its descriptor and its name. Raises OSError."""
    for _ in range(_NAMES_TO_TRY):
        name = new_temporary()
        try:
            fd = os_.open(name, NEW_FILE, 0o600, dir_fd=folder.fd)
        except FileExistsError:
            continue
        try:
            if _lock(os_, fd) and os_.fstat(fd).st_nlink:
                return fd, name
        except BaseException:
            _forget(os_, folder, fd, name)
            raise
        _forget(os_, folder, fd, name)  # a collector was faster
    raise BlockingIOError(errno.EAGAIN, "no temporary could be kept")


def _lock(os_: OS, fd: int) -> bool:
    try:
        os_.flock(fd, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _unlock(os_: OS, fd: int) -> None:
    """Closing alone would leave the lock with a child that was forked meanwhile and has the descriptor, too."""
    try:
        os_.flock(fd, LOCK_UN)
    except OSError:
        pass


def _forget(os_: OS, folder: Folder, fd: int, name: str) -> None:
    """Unlink and close, as far as that goes; what is left is an unlocked temporary."""
    try:
        os_.unlink(name, dir_fd=folder.fd)
    except OSError:
        pass
    close_quietly(os_, fd)


def write_all(os_: OS, fd: int, data: bytes | memoryview) -> None:
    """Write every byte, however few the system takes at a time."""
    done = os_.write(fd, data)
    if done == len(data):
        return
    with memoryview(data) as view:
        while done < len(view):
            step = os_.write(fd, view[done:])
            if step <= 0:
                raise OSError(errno.EIO, "the system took none of the data")
            done += step


def copy_all(os_: OS, source: int, target: int) -> None:
    """Copy from where ``source`` stands to its end, inside the kernel where that works."""
    in_kernel = getattr(os_, "copy_file_range", None)
    try:
        while in_kernel is not None and in_kernel(source, target, READ_BLOCK):
            check("copy")
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    while block := os_.read(source, READ_BLOCK):  # whatever is left: nothing, as a rule
        check("copy")
        write_all(os_, target, block)


def look(os_: OS, folder: Folder, leaf: str) -> stat_result | None:
    """What stands at the destination itself (no symlink is followed), or None."""
    try:
        return os_.stat(leaf, dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_same_file(one: stat_result | None, other: stat_result) -> bool:
    return one is not None and (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def is_one_entry(os_: OS, from_: Folder, leaf: str, to: Folder, name: str) -> bool:
    """Whether two names of one file are one directory entry, reached through a symlink, another root or another case:
    removing one then removes the file. Raises OSError."""
    if not is_same_file(os_.fstat(from_.fd), os_.fstat(to.fd)):
        return False
    if leaf == name:
        return True
    with Folder(os_, os_.open(".", READ_FOLDER, dir_fd=to.fd)) as folder:
        return not {leaf, name} <= set(names_in(os_, folder.fd))


class LocalWriter(WriterBase):
    """A writer into the locked ``temporary`` (descriptor and name); it owns both, and ``folder``. ``found`` is the file
    that it will replace: its mode is kept, without set-id bits; a new file gets what the umask leaves.
    A ``private`` one gets 0600."""

    instant = True

    def __init__(
        self,
        os_: OS,
        folder: Folder,
        leaf: str,
        found: stat_result | None,
        temporary: tuple[int, str],
        path: str,
        options: WriteOptions,
        op: str,
        private: bool,
    ) -> None:
        super().__init__(path, options, NAME)
        self._os = os_
        self._folder = folder
        folder.hold()
        self._leaf = leaf
        self._fd, self._temporary = temporary
        self._op = op
        self.found = found
        if private:
            self._mode = 0o600
        elif found is not None and S_ISREG(found.st_mode):
            self._mode = found.st_mode & 0o777
        else:
            self._mode = 0o666 & ~current_umask()

    def _write(self, data: bytes | memoryview) -> None:
        try:
            write_all(self._os, self._fd, data)
        except OSError as error:
            raise translate(error, "write", self._path) from error

    def fill_from(self, source: int) -> None:
        """Copy the rest of the open file ``source`` into this writer."""
        try:
            copy_all(self._os, source, self._fd)
        except StorageError:
            raise
        except OSError as error:
            raise translate(error, self._op, self._path) from error

    def _prepare(self) -> None:
        os_, fd, options = self._os, self._fd, self._options
        try:
            if self._mode != 0o600:
                os_.fchmod(fd, self._mode)
            wanted = None if options.modified_at is None else nanoseconds(options.modified_at)
            if wanted is not None:
                os_.utime(fd, ns=(time.time_ns(), wanted))
            if options.durable:
                os_.fsync(fd)  # once: after a failure the kernel may have dropped the pages and would then say yes
            found = os_.fstat(fd)
            _check_time(found, wanted)
            self._info = info_of(self._path, found)
        except OSError as error:
            raise translate(error, self._op, self._path) from error

    def _publish(self) -> ObjectInfo:
        os_, at = self._os, self._folder.fd
        try:
            if self._options.overwrite:
                os_.rename(self._temporary, self._leaf, src_dir_fd=at, dst_dir_fd=at)
            else:
                os_.link(self._temporary, self._leaf, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
        except OSError as error:
            raise translate(error, self._op, self._path) from error
        # The object is there. What goes wrong from here on cannot be taken back, only told.
        try:
            self._settle()
        except OSError as error:
            raise OutcomeUnknown(
                f"the object was published, but may not survive a power cut: {error.strerror}",
                path=self._path,
                op=self._op,
                backend=NAME,
            ) from error
        return self._info

    def _settle(self) -> None:
        os_, at = self._os, self._folder
        try:
            if not self._options.overwrite:
                try:
                    os_.unlink(self._temporary, dir_fd=at.fd)
                except OSError:
                    pass  # a second, hidden name of the object stays behind as a stale temporary
            if self._options.durable:
                os_.fsync(at.fd)
        finally:
            at.close()
            at.let_go()
            fd, self._fd = self._fd, -1
            _unlock(os_, fd)
            os_.close(fd)

    def _discard(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _forget(self._os, self._folder, fd, self._temporary)
            self._folder.undo()
            self._folder.let_go()

    def _drop(self) -> None:
        self._discard()  # local calls only


class LocalAppender(WriterBase):
    """A writer at the end of a file that it holds locked. What is written is visible at once; ``abort`` truncates the
    file back to what it was, and removes it if it was new. A kill leaves what was written so far."""

    def __init__(
        self, os_: OS, folder: Folder, leaf: str, fd: int, old_size: int | None, path: str, options: WriteOptions
    ) -> None:
        super().__init__(path, options, NAME)
        self._os = os_
        self._folder = folder
        folder.hold()
        self._leaf = leaf
        self._fd = fd
        self._old_size = old_size  # None: the file is new

    def _write(self, data: bytes | memoryview) -> None:
        try:
            write_all(self._os, self._fd, data)
        except OSError as error:
            raise translate(error, "write", self._path) from error

    def _prepare(self) -> None:
        try:
            if self._options.modified_at is not None:
                set_modified(self._os, self._fd, self._options.modified_at)
            if self._options.durable:
                self._os.fsync(self._fd)
                self._os.fsync(self._folder.fd)
        except OSError as error:
            raise translate(error, "close", self._path) from error

    def _publish(self) -> ObjectInfo:
        try:
            found = self._os.fstat(self._fd)
            if not found.st_nlink:
                raise StorageError(
                    "the file was deleted or replaced while it was appended to",
                    path=self._path,
                    op="close",
                    backend=NAME,
                )
        except OSError as error:
            raise translate(error, "close", self._path) from error
        self._release()
        return info_of(self._path, found)

    def _discard(self) -> None:
        if self._fd < 0:
            return
        try:
            self._os.ftruncate(self._fd, self._old_size or 0)
            if self._old_size is None:
                self._os.unlink(self._leaf, dir_fd=self._folder.fd)
        except OSError as error:
            raise translate(error, "abort", self._path) from error
        finally:
            self._release()
            self._folder.undo()

    def _release(self) -> None:
        fd, self._fd = self._fd, -1
        self._folder.close()
        self._folder.let_go()
        _unlock(self._os, fd)
        close_quietly(self._os, fd)

    def _drop(self) -> None:
        try:
            self._discard()
        except StorageError:
            pass


def check_target(os_: OS, folder: Folder, leaf: str, path: str, *, overwrite: bool, op: str) -> stat_result | None:
    """What stands at the destination; refused at once is what publication would refuse later."""
    found = look(os_, folder, leaf)
    if found is not None:
        if S_ISDIR(found.st_mode):
            raise is_folder_error(path, op, NAME)
        if not overwrite:
            raise AlreadyExists("an object has this name", path=path, op=op, backend=NAME)
    return found


def new_writer(root: Root, path: str, options: WriteOptions, op: str) -> LocalWriter:
    """Open a writer, making folders as needed. Raises OSError besides our errors."""
    os_ = root.os
    above, _, leaf = path.rpartition("/")
    for left in reversed(range(TRIES)):
        folder = root.make_folder(above, READ_FOLDER if options.durable else FOLDER_HANDLE)
        try:
            found = check_target(os_, folder, leaf, path, overwrite=options.overwrite, op=op)
            if options.durable:
                root.sync_above(folder, above)
            return LocalWriter(os_, folder, leaf, found, open_temporary(os_, folder), path, options, op, root.private)
        except FileNotFoundError:  # the folder was removed since it was opened
            folder.close()
            if not left:
                raise
        except BaseException:
            folder.undo()
            raise
    raise AssertionError("the last try returns or raises")


def new_appender(root: Root, path: str, options: WriteOptions) -> LocalAppender:
    """Open an appender, making folders and the file as needed. Raises OSError besides our errors."""
    os_ = root.os
    above, _, leaf = path.rpartition("/")
    for left in reversed(range(TRIES)):
        folder = root.make_folder(above, READ_FOLDER if options.durable else FOLDER_HANDLE)
        fd = -1
        try:
            check_target(os_, folder, leaf, path, overwrite=options.overwrite, op="open_appender")
            fd, new = _open_for_append(root, path)
            found = _lock_for_append(os_, fd, path)
            if found.st_nlink:
                if options.durable:
                    root.sync_above(folder, above)
                return LocalAppender(os_, folder, leaf, fd, None if new else found.st_size, path, options)
            raise FileNotFoundError(errno.ENOENT, "the file was replaced before it was locked")
        except BaseException as error:
            close_quietly(os_, fd)
            folder.undo()
            raced = isinstance(error, (FileNotFoundError, FileExistsError)) and not isinstance(error, StorageError)
            if not raced or not left:  # else the file was made or removed by somebody else at this moment: once more
                raise
    raise AssertionError("the last try returns or raises")


def _open_for_append(root: Root, path: str) -> tuple[int, bool]:
    folder = root.open()
    try:
        return root.open_beneath(folder, path, APPEND_FILE), False
    except FileNotFoundError:
        return root.open_beneath(folder, path, APPEND_FILE | O_CREAT | O_EXCL, root.file_mode), True


def _lock_for_append(os_: OS, fd: int, path: str) -> stat_result:
    found = os_.fstat(fd)
    if not S_ISREG(found.st_mode):
        raise InvalidPath("not a regular file", path=path, op="open_appender", backend=NAME)
    if not _lock(os_, fd):
        raise BackendUnavailable("another writer has this file open", path=path, op="open_appender", backend=NAME)
    return os_.fstat(fd)
