"""The only module that touches files through ``os.*``.

Everything local goes through one ``OS`` object, so that tests can fail the n-th call, record the order of calls, or
lose what was never synced (``omnistorage.testing.os_faults``). Its attributes are the plain built-ins: the layer costs
one attribute look-up. Two things are added that ``os`` lacks: opening beneath a folder, from which no ``..``, no
absolute path and no symlink leads out, and reading the umask without a moment in which other Python threads see it
changed.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from fcntl import flock
from itertools import chain, islice

from .errors import ConfigError

O_PATH: int = getattr(os, "O_PATH", os.O_RDONLY)  # a handle for *at calls only: needs no read permission
READ_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: opening a FIFO must not wait for its writer
HANDLE: int = os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK)  # to fstat whatever it is
FOLDER_HANDLE = O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
READ_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
APPEND_FILE = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC

_OPENAT2 = 437  # the same number on every architecture
_BENEATH = 0x08 | 0x02  # RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
_NO_SYMLINKS = 0x04
_TRIES = 256  # EAGAIN: a rename raced with the resolution of a ".." in a symlink
_MAX_LINKS = 40  # the kernel's own limit

_Opener = Callable[[int, str, int, int, bool], int]


class OS:
    """The calls of the local backend. ``walk=True`` never uses ``openat2``, as on systems that lack it."""

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    read = staticmethod(os.read)
    pread = staticmethod(os.pread)
    write = staticmethod(os.write)
    fsync = staticmethod(os.fsync)
    ftruncate = staticmethod(os.ftruncate)
    fstat = staticmethod(os.fstat)
    fchmod = staticmethod(os.fchmod)
    utime = staticmethod(os.utime)
    stat = staticmethod(os.stat)
    readlink = staticmethod(os.readlink)
    symlink = staticmethod(os.symlink)
    rename = staticmethod(os.rename)
    link = staticmethod(os.link)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)
    rmdir = staticmethod(os.rmdir)
    flock = staticmethod(flock)
    if hasattr(os, "copy_file_range"):
        copy_file_range = staticmethod(os.copy_file_range)

    @staticmethod
    def scandir(fd: int) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        return os.scandir(fd)

    def __init__(self, *, walk: bool = False) -> None:
        self._opener: _Opener | None = self._walk if walk else None

    def open_beneath(self, root: int, path: str, flags: int, mode: int = 0, links: bool = True) -> int:
        """Open the relative ``path`` from the folder ``root`` and return a descriptor that is closed on exec.

        Symlinks are followed as long as they stay beneath ``root``; what would leave it (``..``, an absolute path, such
        a symlink) fails with EXDEV, too many links with ELOOP. ``links=False`` fails with ELOOP on any symlink. This
        holds while others move folders and swap symlinks.
        """
        opener = self._opener
        if opener is None:
            opener = self._opener = _openat2() or self._walk
        return opener(root, path, flags | os.O_CLOEXEC, mode, links)

    def _walk(self, root: int, path: str, flags: int, mode: int, links: bool) -> int:
        """Resolve one component at a time, each with O_NOFOLLOW, going up only to descriptors we came from."""
        folders = [root]
        todo = path.split("/")[::-1]
        if path.startswith("/"):
            raise _error(errno.EXDEV, path)
        keeps_last = bool(flags & os.O_NOFOLLOW) or flags & (os.O_CREAT | os.O_EXCL) == os.O_CREAT | os.O_EXCL
        hops = 0
        try:
            while True:
                name = todo.pop()
                if name == "..":
                    if len(folders) == 1:
                        raise _error(errno.EXDEV, path)
                    self.close(folders.pop())
                if name in ("", ".", ".."):
                    if todo:
                        continue
                    return self.open(".", flags & ~os.O_NOFOLLOW, mode, dir_fd=folders[-1])
                target = None if keeps_last and not todo else self._target(name, folders[-1])
                if target is not None:
                    hops += 1
                    if hops > _MAX_LINKS or not links:
                        raise _error(errno.ELOOP, path)
                    if target.startswith("/"):
                        raise _error(errno.EXDEV, path)
                    todo.extend(target.split("/")[::-1])
                elif todo:
                    folders.append(self.open(name, FOLDER_HANDLE | os.O_NOFOLLOW, dir_fd=folders[-1]))
                else:
                    return self.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=folders[-1])
        finally:
            for fd in folders[:0:-1]:
                self.close(fd)

    def _target(self, name: str, folder: int) -> str | None:
        try:
            return self.readlink(name, dir_fd=folder)
        except OSError:
            return None  # no symlink, or no such name: opening it says which


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)


def _openat2() -> _Opener | None:
    """``openat2`` with RESOLVE_BENEATH, or None where the kernel lacks it or a sandbox forbids it."""
    if sys.platform != "linux":  # another system's call 437 is something else
        return None
    try:
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).syscall
    except (ImportError, OSError, AttributeError, TypeError):  # no libc to ask
        return None
    call.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
    call.restype = ctypes.c_long
    get_errno, retry = ctypes.get_errno, (errno.EINTR, errno.EAGAIN)
    how_type = ctypes.c_uint64 * 3  # struct open_how: flags, mode, resolve
    hows: dict[tuple[int, int, bool], tuple[int, object]] = {}  # its address, and what keeps it alive

    def open_beneath(root: int, path: str, flags: int, mode: int, links: bool) -> int:
        how = hows.get((flags, mode, links))
        if how is None:
            value = how_type(flags, mode, _BENEATH if links else _BENEATH | _NO_SYMLINKS)
            how = hows[flags, mode, links] = (ctypes.addressof(value), value)
        raw = os.fsencode(path)
        if b"\0" in raw:
            raise ValueError("embedded null byte")
        for _ in range(_TRIES):
            fd = call(_OPENAT2, root, raw, how[0], 24)
            if fd >= 0:
                return int(fd)
            code = get_errno()
            if code not in retry:
                break
        raise _error(code, path)

    return open_beneath if _works(open_beneath) else None


def _works(opener: _Opener) -> bool:
    folder = os.open("/", FOLDER_HANDLE)
    try:
        os.close(opener(folder, ".", FOLDER_HANDLE, 0, True))
    except OSError:  # ENOSYS from an old kernel, EPERM from a seccomp filter, nonsense from another system
        return False
    finally:
        os.close(folder)
    return True


def expanded(given: str | os.PathLike[str]) -> str:
    """Return the path ``given``; of a text, ``~`` or ``~name`` at its beginning is the folder of that user.

    A path object is taken as it is, as everywhere in Python: listings make them of the names that they find.

    Raises:
        ConfigError: There is no such user; ``./~name`` is a folder of that name.
    """
    path = os.fspath(given)
    if not isinstance(given, str) or not path.startswith("~"):
        return path
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise ConfigError(f"{path!r} begins with the folder of a user that is not there; write ./{path} for that name")
    return found


def current_umask() -> int:
    """The umask of this process. It can only be read by setting it: both steps run inside one call into C, under the
    GIL, so that no other Python thread creates a file in between."""
    seen: list[int] = []
    # map asks for os.umask(0o077), whose answer is appended to ``seen``; chain then finds that answer there and map
    # gives it back to os.umask; islice stops before the next round.
    seen.extend(islice(map(os.umask, chain((0o077,), seen)), 2))
    return seen[0]


def open_private(path: str | os.PathLike[str], flags: int) -> int:
    """A descriptor of the file ``path``, which only its owner can read if it is made here."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def why_exposed(found: os.stat_result) -> str | None:
    """Why a folder with the status ``found`` is no place for state: another user could change it. None if it is one.

    State tells a later run what to copy or delete, so whoever can write to it can have that done.
    """
    if found.st_mode & 0o022:
        return "other users can write to this folder of state: run 'chmod go-w' on it, or choose another one"
    if found.st_uid not in (0, os.geteuid()):
        return "this folder of state belongs to another user: choose another one"
    return None


REAL = OS()
