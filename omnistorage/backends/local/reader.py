"""How the local backend names, finds, lists and reads: what its parts share.

Nothing here changes anything.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from typing import Self

from omnistorage.backends.streams import ReaderBase
from omnistorage.concurrency.cancellation import check
from omnistorage.core import Kind, ListOptions, ObjectInfo, ReadOptions
from omnistorage.core.timestamps import rounded_down
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    PermissionDenied,
    StorageError,
)
from omnistorage.paths import sort_key
from omnistorage.posix import OS, READ_FOLDER

NAME = "local"
TEMPORARY_MARK = ".omnistorage-"
_TEMPORARY = re.compile(r"\.omnistorage-[0-9a-f]{16}\.tmp", re.ASCII)

# What a read answers to errors that all mean "no such object".
ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG))
# The same for ``exists``: a name that resolves to nothing we may open.
NOTHING_THERE = ABSENT | {errno.EXDEV, errno.ELOOP}

_ERRORS: dict[int, tuple[type[StorageError], str]] = {
    errno.ENOENT: (NotFound, "no such object or folder"),
    errno.EEXIST: (AlreadyExists, "an object has this name"),
    errno.ENOTEMPTY: (DirectoryNotEmpty, "the folder is not empty"),
    errno.ENOTDIR: (InvalidPath, "a file stands where a folder is needed"),
    errno.EISDIR: (InvalidPath, "a folder has this name"),
    errno.ENAMETOOLONG: (InvalidPath, "the name is too long for the file system"),
    errno.ELOOP: (InvalidPath, "a symlink leads in circles, or stands where none is followed"),
    errno.ENXIO: (InvalidPath, "not a regular file"),
    errno.EXDEV: (InvalidPath, "a symlink leads out of the root"),
    errno.EACCES: (PermissionDenied, "permission denied"),
    errno.EPERM: (PermissionDenied, "operation not permitted"),
    errno.EROFS: (PermissionDenied, "the file system is read-only"),
    errno.ENOSPC: (StorageError, "no space is left on the file system: free some and do it again"),
    errno.EDQUOT: (StorageError, "the disk quota is used up: free some space, or raise it, and do it again"),
    errno.EIO: (StorageError, "the device failed (input/output error)"),
    errno.EMFILE: (BackendUnavailable, "this process has too many open files"),
    errno.ENFILE: (BackendUnavailable, "the system has too many open files"),
    errno.ESTALE: (BackendUnavailable, "stale file handle"),
    errno.EAGAIN: (BackendUnavailable, "the resource is busy"),
    errno.EINTR: (BackendUnavailable, "the call was interrupted"),
}


class ExposedFolderError(OSError):
    """A private root is open to other users."""


def translate(error: OSError, op: str, path: str, *, reading: bool = False) -> StorageError:
    """Our error for the system's. ``reading``: a file where a folder is needed only means that there is no object."""
    code = error.errno or 0
    kind, text = _ERRORS.get(code, (StorageError, error.strerror or str(error)))
    if isinstance(error, ExposedFolderError):
        kind = PermissionDenied
    if reading and code in ABSENT:
        kind, text = NotFound, "no such object or folder"
    ours = kind(text, path=path, op=op, backend=NAME)
    ours.errno = ours.errno or code or None
    return ours


def why_not(path: str) -> str | None:
    """Why the key ``path`` cannot be a file here: it would alias another name, or hide one of ours. None if it can."""
    # The first test costs a fifth of a microsecond and lets almost every key through.
    if (
        path.isascii()
        and not ("//" in path or "./" in path or path[-1] in "/." or path[0] == "/")
        and TEMPORARY_MARK not in path
    ):
        return None
    segments = path.split("/")
    if "" in segments:
        return "leading, trailing and double slashes would alias another name"
    if "." in segments:
        return "a '.' segment would alias another name"
    if TEMPORARY_MARK in path and any(map(_TEMPORARY.fullmatch, segments)):
        return "this is the name of a temporary file"
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return "no file system holds this name: it is neither Unicode nor bytes escaped as surrogates"
    return None


def is_temporary(name: str) -> bool:
    return _TEMPORARY.fullmatch(name) is not None


def new_temporary() -> str:
    return f"{TEMPORARY_MARK}{os.urandom(8).hex()}.tmp"


def etag_of(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def time_in(etag: str) -> int | None:
    """The modification time in an etag, in nanoseconds since 1970."""
    fields = etag.split("-", 1)[-1].rpartition("-")[0]
    try:
        return int(fields, 16)
    except ValueError:
        return None


def info_of(path: str, found: os.stat_result) -> ObjectInfo:
    """What ``list``, ``stat`` and writers say about a file, the same in all three."""
    try:
        modified_at = rounded_down(found.st_mtime_ns)
    except OverflowError:  # a year that datetime does not know
        modified_at = None
    form = S_IFMT(found.st_mode)
    if form == S_IFREG:
        return ObjectInfo(path, found.st_size, modified_at, "file", etag_of(found))
    kind: Kind = "dir" if form == S_IFDIR else "link" if form == S_IFLNK else "other"
    return ObjectInfo(path, None if kind == "dir" else found.st_size, modified_at, kind)


def close_quietly(os_: OS, fd: int) -> None:
    if fd >= 0:
        try:
            os_.close(fd)
        except OSError:
            pass  # the descriptor is gone either way, and nothing in it is still wanted


class Folder:
    """An open folder. ``shared``: the root's, which stays open for others until nobody refers to it any more."""

    __slots__ = ("_dropped", "_holders", "_os", "fd", "ident", "shared", "unmake")

    def __init__(self, os_: OS, fd: int, *, shared: bool = False, ident: tuple[int, int] = (0, 0)) -> None:
        self._os = os_
        self.fd = fd
        self.shared = shared
        self.ident = ident  # device and inode, where somebody compares them
        self.unmake: Callable[[], None] | None = None  # takes back what was made to open it
        self._holders: list[None] = []
        self._dropped = False

    def hold(self) -> None:
        """Keep the descriptor until ``let_go``, even past the end of this object: among objects that are collected
        together a writer's finaliser, which needs the folder, may run after the folder's."""
        self._holders.append(None)

    def let_go(self) -> None:
        if self._holders:
            self._holders.pop()
        if self._dropped and not self._holders:
            self._release()

    def close(self) -> None:
        if not self.shared:
            self._release()

    def undo(self) -> None:
        """Close it, and remove the folders that were made for it as far as they are empty. Never fails."""
        self.close()
        if self.unmake is not None:
            self.unmake()

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.undo()
            raise

    def _release(self) -> None:
        fd, self.fd = self.fd, -1
        close_quietly(self._os, fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._holders:
            self._dropped = True
        else:
            self._release()


def names_in(os_: OS, fd: int) -> list[str]:
    """The names in a folder, unsorted, temporaries included; a folder's name ends with ``/``."""
    with os_.scandir(fd) as entries:
        return [e.name + "/" if e.is_dir(follow_symlinks=False) else e.name for e in entries]


def visible(names: list[str], after: bytes | None = None) -> list[str]:
    """Sort by UTF-8 bytes, drop temporaries, and drop what lies wholly at or before ``after``."""
    text = "\0".join(names)
    if TEMPORARY_MARK in text:
        names = [name for name in names if not is_temporary(name)]
    if after is not None:
        keyed = ((sort_key(name), name) for name in names)
        names = [name for key, name in keyed if key > after or (name[-1] == "/" and after.startswith(key))]
    if text.isascii():
        names.sort()
    else:
        names.sort(key=sort_key)  # only surrogate escapes sort differently as str
    return names


def looked(names: Iterable[str], path: str) -> Iterator[str]:
    """``names`` of a listing, with a look whether it is time to stop before every 256th."""
    rest = iter(names)
    while some := list(islice(rest, 256)):
        check("list", path)
        yield from some


class _Level:
    """A folder on the way down: its key relative to the start (``""`` or ending with ``/``) and what is left of it."""

    __slots__ = ("ident", "names", "rel")

    def __init__(self, rel: str, ident: tuple[int, int], names: Iterator[str]) -> None:
        self.rel = rel
        self.ident = ident
        self.names = names


class TreeListing:
    """One ``list`` call: every file under ``base`` in the order of the keys, each looked at when it is due.

    Only the start and the folder at hand are open, however deep the tree is: a folder is closed when its child is
    entered, and opened again and compared with what it was when there is more to do in it.
    """

    def __init__(self, os_: OS, base: Folder, prefix: str, options: ListOptions) -> None:
        self._os = os_
        self._base = base
        self._head = prefix + "/" if prefix else ""
        self._on_error = options.on_error
        self._after = None if options.start_after is None else sort_key(options.start_after)
        self._levels: list[_Level] = []
        self._here: Folder | None = None  # the folder of the last level, while it is open

    def __iter__(self) -> Iterator[ObjectInfo]:
        stat, levels = self._os.stat, self._levels
        try:
            self._enter("", ".", self._base)
            while levels:
                level, here = levels[-1], self._here
                prefix = self._head + level.rel
                for name in level.names:
                    here = here or self._again(level)
                    if here is None:
                        break
                    if name[-1] == "/":
                        if self._enter(level.rel + name, name[:-1], here):
                            break
                        continue
                    try:
                        found = stat(name, dir_fd=here.fd, follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # deleted since its folder was read
                    except OSError as error:
                        self._report(error, prefix + name)
                        continue
                    yield info_of(prefix + name, found)
                else:
                    self._leave()
                    levels.pop()
        finally:
            self._leave()
            self._base.close()

    def _enter(self, rel: str, name: str, above: Folder) -> bool:
        """Open a folder, read its names and make it the last level; report and return False if that fails."""
        os_ = self._os
        try:
            fd = os_.open(name, READ_FOLDER | os.O_NOFOLLOW, dir_fd=above.fd)
            folder = Folder(os_, fd)
            try:
                found = os_.fstat(fd)
                names = self._wanted(rel, names_in(os_, fd))
            except BaseException:
                folder.close()
                raise
        except OSError as error:
            self._report(error, (self._head + rel)[:-1])
            return False
        self._leave()
        self._here = folder
        self._levels.append(_Level(rel, (found.st_dev, found.st_ino), looked(names, self._head + rel)))
        return True

    def _wanted(self, rel: str, names: list[str]) -> list[str]:
        """The names of a folder that ``start_after`` leaves, in order."""
        folder, after = sort_key(self._head + rel), self._after
        if after is None or after < folder:
            return visible(names)
        return visible(names, after[len(folder) :]) if after.startswith(folder) else []

    def _again(self, level: _Level) -> Folder | None:
        """Open the folder of ``level`` a second time; report and give up on it if it is another one now, or gone."""
        try:
            fd = self._os.open_beneath(self._base.fd, level.rel[:-1] or ".", READ_FOLDER, links=False)
            self._here = Folder(self._os, fd)
            found = self._os.fstat(fd)
            if (found.st_dev, found.st_ino) != level.ident:
                raise FileNotFoundError(errno.ENOENT, "another folder took its place")
        except OSError as error:
            self._leave()
            level.names = iter(())
            self._report(error, (self._head + level.rel)[:-1])
        return self._here

    def _leave(self) -> None:
        if self._here is not None:
            self._here.close()
            self._here = None

    def _report(self, error: OSError, path: str) -> None:
        if self._on_error is None:
            raise translate(error, "list", path, reading=True) from error
        ours = translate(error, "list", path, reading=True)
        ours.__cause__ = error
        self._on_error(ours)


def list_folder(os_: OS, folder: Folder, path: str) -> Iterator[ObjectInfo]:
    """The children of one open folder, which is closed at the end."""
    head = path + "/" if path else ""
    try:
        for name in looked(visible(names_in(os_, folder.fd)), path):
            name = name.rstrip("/")
            try:
                found = os_.stat(name, dir_fd=folder.fd, follow_symlinks=False)
            except FileNotFoundError:
                continue  # deleted since its folder was read
            yield info_of(head + name, found)
    except StorageError:
        raise
    except OSError as error:
        raise translate(error, "list_dir", path, reading=True) from error
    finally:
        folder.close()


def folders_under(os_: OS, base: Folder) -> Iterator[tuple[str, Folder, list[str]]]:
    """``base`` and every folder below it, parents first, never through a symlink: its key relative to ``base`` (``""``
    or ending with ``/``), open until the next step, and its names. One that vanishes meanwhile is left out."""
    todo = [""]
    while todo:
        rel = todo.pop()
        try:
            fd = os_.open_beneath(base.fd, rel[:-1] or ".", READ_FOLDER, links=False)
        except (FileNotFoundError, NotADirectoryError):
            continue
        check("list", rel)
        with Folder(os_, fd) as folder:
            names = names_in(os_, fd)
            yield rel, folder, names
        todo.extend(rel + name for name in names if name[-1] == "/")


_SOME = 16 << 10
_FAR = 1 << 62  # past the end of every file, and still an offset the system takes


class LocalReader(ReaderBase):
    """Reads by position, so that a forked child that shares the descriptor does not move it."""

    instant = True

    def __init__(self, os_: OS, fd: int, info: ObjectInfo, found: os.stat_result, options: ReadOptions) -> None:
        super().__init__(info)
        self._pread = os_.pread
        self._os = os_
        self._fd = fd
        self._at = min(options.offset, _FAR)
        self._left = options.length  # None: to the end
        self._opened = found

    def is_unchanged(self) -> bool:
        """Whether nobody has written to the file, replaced it or renamed it since it was opened, as its times tell.
        False where they do not, as something else about it changed."""
        try:
            now = self._os.fstat(self._fd)
        except OSError:
            return False
        then = self._opened
        return (now.st_mtime_ns, now.st_ctime_ns, now.st_size) == (then.st_mtime_ns, then.st_ctime_ns, then.st_size)

    def _read(self, size: int) -> bytes:
        if self._left is not None:
            size = min(size, self._left)
            if not size:
                return b""
        # Memory for that much is taken before anything is read: no more than there can be, and some for what grew.
        size = min(size, max(_SOME, (self._info.size or 0) - self._at + 1))
        try:
            data = self._pread(self._fd, size, self._at)
        except OSError as error:
            raise translate(error, "read", self._info.path, reading=True) from error
        self._at += len(data)
        if self._left is not None:
            self._left -= len(data)
        return data

    def _read_all(self) -> bytes:
        # One byte more than there should be, so that one call reads the file and sees that it did not grow.
        rest = max(0, (self._info.size or 0) - self._at)
        data = self._read(rest + 1)
        return data if len(data) == rest or not data else data + super()._read_all()

    def read_range(self, offset: int, length: int) -> bytes:
        """One range, wherever the reader stands."""
        self._at, self._left = min(offset, _FAR), length
        return self.read()

    def _release(self) -> None:
        fd, self._fd = self._fd, -1
        close_quietly(self._os, fd)
