"""What dead writers left in a local folder, and emptying one.

A temporary whose writer lives is locked, and the lock dies with the process: whoever finds one unlocked may take it.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from datetime import timedelta
from fcntl import LOCK_EX, LOCK_NB
from math import inf
from os import O_NOFOLLOW, stat_result
from stat import S_ISLNK, S_ISREG

from omnistorage.core import ObjectInfo
from omnistorage.posix import OS, READ_FILE, READ_FOLDER

from .reader import Folder, close_quietly, folders_under, info_of, is_temporary, looked

NO_LOCKS = (
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.ENOLCK,
)  # a network file system without them: nothing is collected there
_LINKING = 60.0  # seconds after which whoever made a link's temporary is dead


def stale_temporaries(
    os_: OS, base: Folder, prefix: str, older_than: timedelta, *, remove: bool
) -> Iterator[ObjectInfo]:
    """The temporaries under ``base`` (its path is ``prefix``) whose writers are dead, removed if asked for. Raises
    OSError."""
    newest = None if older_than <= timedelta(0) else time.time() - older_than.total_seconds()
    for rel, folder, names in folders_under(os_, base):
        for name in names:
            if is_temporary(name):
                found = _take_stale(os_, folder, name, newest, remove)
                if found is not None:
                    yield info_of(prefix + rel + name, found)


def remove_temporaries(os_: OS, folder: Folder, names: list[str]) -> None:
    """Remove those of the temporaries ``names`` in ``folder`` whose writers are dead."""
    for name in names:
        _take_stale(os_, folder, name, None, remove=True)


def _take_stale(os_: OS, folder: Folder, name: str, newest: float | None, remove: bool) -> stat_result | None:
    try:
        fd = os_.open(name, READ_FILE | O_NOFOLLOW, dir_fd=folder.fd)
    except (FileNotFoundError, PermissionError):
        return None  # published or discarded meanwhile, or somebody else's
    except OSError as error:
        if error.errno == errno.ELOOP:
            return _take_stale_link(os_, folder, name, newest, remove)
        if error.errno == errno.ENXIO:
            return None  # a socket with such a name is not ours
        raise
    try:
        # Whoever holds the lock is alive. Looking at the name after taking it: a writer that was just publishing may
        # have let go of a file that now has its real name.
        os_.flock(fd, LOCK_EX | LOCK_NB)
        found = os_.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        if not S_ISREG(found.st_mode) or (newest is not None and found.st_mtime > newest):
            return None
        if remove:
            os_.unlink(name, dir_fd=folder.fd)
        return found
    except (BlockingIOError, FileNotFoundError):
        return None
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None  # nobody can tell whether its writer lives
        raise
    finally:
        close_quietly(os_, fd)


def _take_stale_link(os_: OS, folder: Folder, name: str, newest: float | None, remove: bool) -> stat_result | None:
    """The same for a link on its way to its name, which takes microseconds and cannot be locked."""
    try:
        found = os_.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        newest = min(inf if newest is None else newest, time.time() - _LINKING)
        if not S_ISLNK(found.st_mode) or found.st_ctime > newest:
            return None
        if remove:
            os_.unlink(name, dir_fd=folder.fd)
        return found
    except FileNotFoundError:
        return None


def empty_folder(os_: OS, base: Folder) -> None:
    """Delete everything in ``base``, never through a symlink. Raises OSError."""
    found = []
    for rel, folder, names in folders_under(os_, base):
        found.append(rel)
        for name in looked(names, rel):
            if name[-1] != "/":
                try:
                    os_.unlink(name, dir_fd=folder.fd)
                except FileNotFoundError:
                    pass
    for rel in found[:0:-1]:  # children before their parents, and without the base itself
        above, _, name = rel[:-1].rpartition("/")
        try:
            fd = os_.open_beneath(base.fd, above or ".", READ_FOLDER, links=False)
            with Folder(os_, fd):
                os_.rmdir(name, dir_fd=fd)
        except FileNotFoundError:
            pass
