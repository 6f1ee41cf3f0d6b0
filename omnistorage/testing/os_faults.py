"""Twins of the OS layer for tests: one that fails, one that remembers.

``LocalBackend(root, _os=FaultyOS(at=7, error=errno.EIO))`` fails its 7th system call; a test that counts up until a run
passes untouched has failed every call there is. ``RecordingOS`` runs everything and keeps the journal from which
``omnistorage.testing`` users build the states a power cut could leave.
"""

from __future__ import annotations

import errno as errno_
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from omnistorage.posix import OS

CALLS = [name for name in vars(OS) if not name.startswith("_")]
"""Every call of the layer that can be made to fail."""


class _Wrapped(OS):
    """An ``OS`` whose every call goes through ``_call(name, real, args, kwargs)``."""

    def __init__(self, *, walk: bool = False) -> None:
        super().__init__(walk=walk)
        real = OS(walk=walk)
        for name in CALLS:
            if hasattr(real, name):
                setattr(self, name, self._wrap(name, getattr(real, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, real, args, kwargs)

        return call

    def _call(self, name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return real(*args, **kwargs)


class FaultyOS(_Wrapped):
    """Fails the ``at``-th call (from 1; 0 never) with ``error``, and with ``sticky`` every call after it too.

    ``only`` limits counting and failing to calls of those names. ``short_writes`` makes each ``write`` take at most
    that many bytes; with ``error=None`` only that happens. A failing ``close`` closes all the same, as Linux does.
    ``calls`` lists the names of all calls made, ``failed`` those that were failed. ``heal()`` ends the trouble.
    """

    def __init__(
        self,
        *,
        at: int = 0,
        error: int | None = errno_.EIO,
        sticky: bool = False,
        only: tuple[str, ...] = (),
        short_writes: int | None = None,
        walk: bool = False,
    ) -> None:
        super().__init__(walk=walk)
        self.at = at
        self.error = error
        self.sticky = sticky
        self.only = only
        self.short_writes = short_writes
        self.count = 0
        self.calls: list[str] = []
        self.failed: list[str] = []

    def heal(self) -> None:
        self.at = 0
        self.short_writes = None

    def _call(self, name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.calls.append(name)
        if not self.only or name in self.only:
            self.count += 1
            if self.at and self.error is not None and (self.count == self.at or (self.sticky and self.count > self.at)):
                self.failed.append(name)
                if name == "close":
                    real(*args, **kwargs)
                raise OSError(self.error, os.strerror(self.error))
        if name == "write" and self.short_writes is not None:
            args = (args[0], memoryview(args[1])[: self.short_writes])
        return real(*args, **kwargs)


@dataclass(frozen=True)
class Event:
    """One change on the way to the disk. Folders and files are inode numbers; ``name`` is a name in ``folder``.

    ``kind``: ``create`` (``inode`` appears as ``name``), ``mkdir``, ``write`` (``data`` at ``offset`` of ``inode``),
    ``truncate`` (to ``offset``), ``rename`` (``name`` in ``folder`` becomes ``to`` in ``to_folder``), ``link``
    (``inode`` also becomes ``to``), ``unlink``, ``rmdir``, ``fsync`` (of ``inode``, file or folder), ``mark`` (``name``
    is a note of the test: an acknowledgement).
    """

    kind: str
    inode: int = 0
    folder: int = 0
    name: str = ""
    to_folder: int = 0
    to: str = ""
    offset: int = 0
    data: bytes = b""


class RecordingOS(_Wrapped):
    """Runs every call and keeps, in ``events``, what changed and what was synced. ``skip_fsync`` swallows the syncs of
    ``"file"`` or ``"dir"``: the planted bug with which a power-cut checker shows that it can fail."""

    def __init__(self, *, skip_fsync: tuple[str, ...] = (), walk: bool = False) -> None:
        super().__init__(walk=walk)
        self.events: list[Event] = []
        self.skip_fsync = skip_fsync

    def mark(self, note: str) -> None:
        """Write a note of the test into the journal."""
        self.events.append(Event("mark", name=note))

    def _call(self, name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        record = getattr(self, f"_{name}", None)
        if record is None:
            return real(*args, **kwargs)
        return record(real, args, kwargs)

    @staticmethod
    def _place(path: str, folder: int | None) -> tuple[int, str]:
        """The inode of the folder of ``path``, and the name in it."""
        above, _, name = path.rpartition("/")
        if folder is None:
            return os.stat(above or "/").st_ino, name
        return (os.stat(above, dir_fd=folder) if above else os.fstat(folder)).st_ino, name

    @staticmethod
    def _inode(path: str, folder: int | None) -> int:
        return os.stat(path, dir_fd=folder, follow_symlinks=False).st_ino

    def _open(self, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._opened(real, args, kwargs, args[0], kwargs.get("dir_fd"), args[1])

    def _open_beneath(self, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._opened(real, args, kwargs, args[1], args[0], args[2])

    def _opened(
        self,
        real: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        path: str,
        folder: int | None,
        flags: int,
    ) -> Any:
        fd = real(*args, **kwargs)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            at, name = self._place(path, folder)
            self.events.append(Event("create", os.fstat(fd).st_ino, at, name))
        return fd

    def _mkdir(self, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        real(*args, **kwargs)
        at, name = self._place(args[0], kwargs.get("dir_fd"))
        self.events.append(Event("mkdir", self._inode(args[0], kwargs.get("dir_fd")), at, name))

    def _write(self, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        taken = real(*args, **kwargs)
        end = os.lseek(args[0], 0, os.SEEK_CUR)
        data = bytes(memoryview(args[1])[:taken])
        self.events.append(Event("write", os.fstat(args[0]).st_ino, offset=end - taken, data=data))
        return taken

    def _copy_file_range(self, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        taken = real(*args, **kwargs)
        if taken:
            start = os.lseek(args[0], 0, os.SEEK_CUR) - taken
            data = os.pread(args[0], taken, start)
            offset = os.lseek(args[1], 0, os.SEEK_CUR) - taken
            self.events.append(Event("write", os.fstat(args[1]).st_ino, offset=offset, data=data))
        return taken

    def _ftruncate(self, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        real(*args, **kwargs)
        self.events.append(Event("truncate", os.fstat(args[0]).st_ino, offset=args[1]))

    def _fsync(self, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = os.fstat(args[0])
        kind = "dir" if found.st_mode & 0o170000 == 0o040000 else "file"
        if kind not in self.skip_fsync:
            real(*args, **kwargs)
            self.events.append(Event("fsync", found.st_ino))

    def _rename(self, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._moved("rename", real, args, kwargs)

    def _link(self, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._moved("link", real, args, kwargs)

    def _moved(self, kind: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        at, name = self._place(args[0], kwargs.get("src_dir_fd"))
        to_at, to = self._place(args[1], kwargs.get("dst_dir_fd"))
        inode = self._inode(args[0], kwargs.get("src_dir_fd"))
        real(*args, **kwargs)
        self.events.append(Event(kind, inode, at, name, to_at, to))

    def _unlink(self, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._removed("unlink", real, args, kwargs)

    def _rmdir(self, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._removed("rmdir", real, args, kwargs)

    def _removed(self, kind: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        at, name = self._place(args[0], kwargs.get("dir_fd"))
        real(*args, **kwargs)
        self.events.append(Event(kind, folder=at, name=name))


def counting(run: Callable[[FaultyOS], object], **settings: Any) -> Iterator[FaultyOS]:
    """Call ``run(faulty)`` with its 1st, 2nd, 3rd ... call failing, yielding the twin after each round, until a round
    goes by in which nothing failed. ``run`` raises nothing but what the test expects."""
    at = 0
    while True:
        at += 1
        faulty = FaultyOS(at=at, **settings)
        run(faulty)
        if not faulty.failed:
            return
        yield faulty
