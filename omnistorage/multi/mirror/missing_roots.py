"""Targets on the local disk whose root folder has gone.

A disk that is not mounted looks like an empty one: nothing is there to delete, and a write makes the folder anew below
the mount point. So every call on such a target looks at its root folder first, with one ``stat``:

1. The folder was there when the mirror was opened, or has been seen since: it must be the same, by device and inode.
2. It has never been seen, and no target holds an object: the mirror is new, and the first write makes the folder.
3. It has never been seen, and another target holds something: the target is down until somebody makes the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR
from typing import TypeVar

from omnistorage.core import ExtendedBackend, ObjectInfo, Writer
from omnistorage.core.lifecycle import Publishes
from omnistorage.errors import BackendUnavailable, NotFound, StorageError
from omnistorage.multi.common.tier import Place
from omnistorage.wrappers.base import Wrapper

from .journal import Journal, Missed
from .target import folder_of

R = TypeVar("R")
Identity = tuple[int, int]
READS = frozenset({"open_reader", "exists", "stat", "list", "list_dir", "glob", "versions", "check_health"})


class RootUnavailable(BackendUnavailable):
    """The root folder of a target is not the one it was. Nothing was asked of the target."""


def watch_roots(places: Sequence[Place], journal: Callable[[], Journal | None]) -> Contents:
    """Make the local ones of ``places`` look at their roots before each call."""
    contents = Contents([(place.name, place.backend) for place in places], journal)
    for place in places:
        folder = folder_of(place.backend)
        if folder is not None:
            place.backend = watched = WatchedRoot(place.backend, place.name, folder, contents)
            contents.watched.append(watched)
    return contents


def identity_of(folder: Path) -> Identity | None:
    """The device and inode of a folder, None where nothing is. Raises ``NotADirectoryError`` for a file, and for a
    folder below one."""
    try:
        info = folder.stat()
    except FileNotFoundError:
        return None
    if not S_ISDIR(info.st_mode):
        raise NotADirectoryError
    return info.st_dev, info.st_ino


class Contents:
    """Whether any target of a mirror holds an object."""

    def __init__(self, backends: Sequence[tuple[str, ExtendedBackend]], journal: Callable[[], Journal | None]) -> None:
        self._backends, self._journal = backends, journal
        self.watched: list[WatchedRoot] = []
        self._new: bool | None = None

    def decide(self) -> None:
        """Called before each change, which may delete the last object: whether the mirror is new is decided before."""
        if self._new is None and any(root.is_unseen() for root in self.watched):
            with suppress(StorageError):  # the target that is missing says it
                self._new = self._is_empty()

    def is_new(self, op: str) -> bool:
        """Whether there was nothing yet at the first change. Raises ``StorageError`` where that cannot be told."""
        if self._new is None:
            new = self._is_empty()
            if self._new is None and (op not in READS or not new):  # the first change of all decides it
                self._new = new
            return new if self._new is None else self._new
        return self._new

    def _is_empty(self) -> bool:
        journal, error = self._journal(), None
        if journal is not None and any(_tells_of_objects(entry, journal) for entry in journal.load()):
            return False
        for name, backend in self._backends:
            try:
                if next(iter(backend.list("")), None) is not None:
                    return False
            except NotFound:
                pass  # no root, no objects
            except StorageError as found:
                error = error or (name, found)
        if error is not None:
            name, cause = error
            raise BackendUnavailable(f"target {name!r} cannot say whether it holds any ({cause})") from cause
        return True


def _tells_of_objects(entry: Missed, journal: Journal) -> bool:
    """Whether there was an object when ``entry`` was made. A deletion of another process may be of the last one."""
    return not entry.intent or (entry.sha256 == "" and entry.id not in journal.live)


class WatchedRoot(Wrapper):
    """A target whose root is ``folder`` on the local disk."""

    def __init__(self, inner: ExtendedBackend, name: str, folder: str, contents: Contents) -> None:
        super().__init__(inner)
        self._name, self._folder, self._contents = name, Path(folder), contents
        self._known: Identity | None = None
        try:
            self._known = identity_of(self._folder)
        except OSError:
            pass  # the first call looks again

    def is_unseen(self) -> bool:
        """Whether the root was never there."""
        if self._known is None:
            try:
                self._known = identity_of(self._folder)
            except OSError:
                return True
        return self._known is None

    def _forward(self, op: str, path: str, run: Callable[[str], R]) -> R:
        self.check(op, path)
        return run(path)

    def _writer(self, writer: Writer, path: str) -> Writer:
        return WatchedWriter(writer, lambda: self.check("close", path))

    def check(self, op: str, path: str) -> None:
        """Raise ``RootUnavailable`` unless the root folder is what it was."""
        now, missing = None, "is gone: mount its disk, or bring the folder back"
        try:
            now = identity_of(self._folder)
        except NotADirectoryError:
            missing = "is not a folder any more: move away what is in its place, and bring the folder back"
        except OSError as error:
            raise self._gone(op, path, f"cannot be looked at ({error.strerror}): mount its disk again") from error
        if self._known is None:
            if now is None:
                self._check_new(op, path)
            self._known = now
        elif now is None:
            raise self._gone(op, path, missing)
        elif now != self._known:
            why = "is another folder than before: mount its disk again; if it was replaced on purpose, restart"
            raise self._gone(op, path, why)

    def _check_new(self, op: str, path: str) -> None:
        """Raise unless the mirror is new, so that the first write may make a folder that was never seen."""
        why = "other targets hold objects"
        try:
            if self._contents.is_new(op):
                return
        except BackendUnavailable as error:
            why = str(error.args[0])
        raise self._gone(op, path, f"does not exist, and {why}: mount its disk, or make the folder if it is new")

    def _gone(self, op: str, path: str, why: str) -> RootUnavailable:
        message = f"the root folder {self._folder} of target {self._name!r} {why}; then repair()"
        return RootUnavailable(message, path=path, backend=self.name, op=op)


class WatchedWriter(Publishes):
    """Looks at the root once more before it publishes."""

    def __init__(self, inner: Writer, check: Callable[[], None]) -> None:
        self.inner, self._check = inner, check
        self.write, self.flush, self.prepare, self.abort = inner.write, inner.flush, inner.prepare, inner.abort  # type: ignore[method-assign]
        self.instant = bool(getattr(inner, "instant", False))

    @property
    def result(self) -> ObjectInfo | None:
        return self.inner.result

    def close(self) -> ObjectInfo:
        self._check()
        return self.inner.close()
