"""The folders of the SFTP backend, and what dead writers left in them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NoReturn

from omnistorage.core import ObjectInfo
from omnistorage.errors import AlreadyExists, CorruptData, DirectoryNotEmpty, InvalidPath, NotFound
from omnistorage.paths import check_key, check_prefix, parent, sort_key

from .connection import Link
from .mutations import Attempt, Changes
from .paths import (
    MAX_DEPTH,
    in_order,
    is_absent,
    is_folder,
    is_temporary,
    look,
    look_at_handle,
    read_folder,
    real_path,
    set_aside,
)
from .protocol import REALPATH, REMOVE, RMDIR, STAT, Session, Status, string
from .settings import NAME

GRACE = timedelta(hours=1)
OLDEST = datetime.min.replace(tzinfo=UTC)
_LOOK = 1000
"""So many names of a folder tell what keeps it from being removed."""


BATCH = 32
"""So many names are removed between two looks whether their folder is still the same one."""
Doomed = tuple[int, bytes]
"""A request that removes, and what."""


class _Level:
    """A folder that is emptied: its name, where that leads, what is left in it, and what to remove next."""

    def __init__(self, folder: bytes, where: bytes | None, rows: Iterator[ObjectInfo]) -> None:
        self.folder, self.where, self.rows = folder, where, rows
        self.doomed: list[Doomed] = []


class Folders(Changes):
    """Making, removing and emptying folders."""

    def _folder(self, path: str, op: str, *, missing_ok: bool = False) -> Iterator[ObjectInfo]:
        """The entries of one folder by their names, in order, temporaries included. ``NotFound`` if it is none, or
        nothing at all with ``missing_ok`` where at least the root is there."""

        def run(_: Link, session: Session) -> Iterator[ObjectInfo]:
            found = self._place.find(session, path, op) if path else None
            if path and (found is None or not is_folder(found)):
                if missing_ok and look(session, self._place.full(session, ""), STAT) is not None:
                    return iter(())
                raise NotFound("no such folder", path=path, op=op, backend=NAME)
            again = partial(self._place.again, session, path, path, op) if path else None
            return in_order(read_folder(session, self._place.full(session, path), again))

        return self._ask(op, path, run)

    def _mkdir(self, path: str) -> None:
        self._key(path, "mkdir")

        def run(_: Link, session: Session) -> None:
            found = self._place.find(session, path, "mkdir")
            if found is None:
                self._place.make_folders(session, path, path, "mkdir")
            elif not is_folder(found):
                raise AlreadyExists("an object has this name", path=path, op="mkdir", backend=NAME)

        self._ask("mkdir", path, run)

    def _rmdir(self, path: str) -> None:
        self._key(path, "rmdir")
        attempt = Attempt()

        def run(_: Link, session: Session) -> None:
            if not self._place.check_folder(session, parent(path), path, "rmdir"):
                self._no_folder(path, "rmdir")
            full, again = self._place.full(session, path), attempt.begin()
            try:
                session.call(RMDIR, string(full))
            except Status:
                there = look(session, full)
                if there is None and again:
                    return
                if there is None or not is_folder(there):
                    self._no_folder(path, "rmdir")
                temporaries = [is_temporary(info.path) for info in itertools.islice(read_folder(session, full), _LOOK)]
                if not temporaries:
                    raise
                word = "holds temporaries of writers" if all(temporaries) else "is not empty"
                raise DirectoryNotEmpty(f"the folder {word}", path=path, op="rmdir", backend=NAME) from None

        self._ask("rmdir", path, run)

    def _no_folder(self, path: str, op: str) -> NoReturn:
        raise NotFound("no such folder", path=path, op=op, backend=NAME)

    def purge(self, path: str) -> None:
        """Delete the folder ``path`` and all that is under it, temporaries too; what symlinks lead to stays."""
        self._enter("purge", "purge", path)
        self._key(check_key(path, op="purge"), "purge")
        attempt = Attempt()

        def run(_: Link, session: Session) -> None:
            there = self._place.check_folder(session, parent(path), path, "purge")
            full = self._place.full(session, path)
            found = look(session, full) if there else None
            if found is None and attempt.asked:
                return
            if found is None or not is_folder(found):
                self._no_folder(path, "purge")
            attempt.begin()
            self._empty(session, full, path)

        self._ask("purge", path, run)

    def _empty(self, session: Session, top: bytes, path: str) -> None:
        above = top.rpartition(b"/")[0] or b"/"
        levels = [_Level(above, real_path(session, session.send(REALPATH, string(above))), iter(()))]
        levels.append(self._level(session, top, path, levels[0]))
        while len(levels) > 1:
            level = levels[-1]
            for info in level.rows:
                name = level.folder.rstrip(b"/") + b"/" + sort_key(info.path)
                if info.is_dir:
                    _check_depth(len(levels), path, "purge")
                    self._remove(session, level.doomed)
                    set_aside(level.rows)
                    levels.append(self._level(session, name, path, level))
                    break
                level.doomed.append((REMOVE, name))
                if len(level.doomed) >= BATCH:
                    self._remove(session, level.doomed, level, path)
            else:
                levels.pop()
                self._remove(session, level.doomed, levels[-1], path)
                levels[-1].doomed.append((RMDIR, level.folder))
        self._remove(session, levels[0].doomed)

    def _level(self, session: Session, folder: bytes, path: str, above: _Level) -> _Level:
        """What is to be removed in ``folder``, which lies in the folder ``above`` also after it was read."""
        rows = in_order(read_folder(session, folder))
        where = real_path(session, session.send(REALPATH, string(folder)))
        self._place.demand(session, where, path, "purge")
        if not (where or b"").startswith((above.where or b"/").rstrip(b"/") + b"/"):
            self._swapped(path)
        return _Level(folder, where, rows)

    def _remove(self, session: Session, doomed: list[Doomed], then: _Level | None = None, path: str = "") -> None:
        """Send the removals in ``doomed`` together, then check that the folder ``then`` still leads to the same place.

        Removal continues in ``then``. At most one batch is sent between two such checks.
        """
        slots = [session.send(kind, string(name)) for kind, name in doomed]
        where = None if then is None else session.send(REALPATH, string(then.folder))
        doomed.clear()
        failed: Status | None = None
        for slot in slots:
            try:
                session.answer(slot)
            except Status as error:
                failed = failed if is_absent(error) else failed or error
        if then is not None and where is not None and real_path(session, where) != then.where:
            self._swapped(path)
        if failed is not None:
            raise failed

    @staticmethod
    def _swapped(path: str) -> NoReturn:
        reason = "a folder was moved away while it was emptied, or replaced by a symlink"
        raise InvalidPath(reason, path=path, op="purge", backend=NAME)

    @staticmethod
    def _unless_absent(session: Session, kind: int, name: bytes) -> None:
        try:
            session.call(kind, string(name))
        except Status as error:
            if not is_absent(error):
                raise

    # -- what dead writers left ----------------------------------------------------------------------------------------

    def stale_uploads(self, prefix: str = "", *, older_than: timedelta = GRACE) -> Iterator[ObjectInfo]:
        """The temporaries of writers that died, by the path of the temporary.

        A temporary of one of this object's own writers is never among them. Of others' nobody can ask whether their
        writers live: they count as alive until nothing was written to them for an hour, or for ``older_than`` if that
        is longer, by the server's own clock. A writer that was idle for longer and lost its temporary raises
        ``NotFound`` from ``close``, and publishes nothing.
        """
        self._enter("list", "stale_uploads", prefix)
        return self._stale(check_prefix(prefix, op="stale_uploads"), older_than, remove=False)

    def remove_stale_uploads(self, prefix: str = "", *, older_than: timedelta = GRACE) -> int:
        """Remove what ``stale_uploads`` yields; the number of files removed."""
        self._enter("delete", "remove_stale_uploads", prefix)
        return sum(1 for _ in self._stale(check_prefix(prefix), older_than, remove=True))

    def _stale(self, prefix: str, older_than: timedelta, *, remove: bool) -> Iterator[ObjectInfo]:
        now = self._ask("stale_uploads", prefix, lambda _, session: self._server_time(session))
        newest = datetime.fromtimestamp(now, UTC) - max(older_than, GRACE)
        levels = [(prefix, self._folder(prefix, "stale_uploads", missing_ok=True))]
        while levels:
            folder, rows = levels[-1]
            for info in rows:
                path = f"{folder}/{info.path}" if folder else info.path
                if info.is_dir:
                    _check_depth(len(levels), path, "stale_uploads")
                    set_aside(rows)
                    levels.append((path, self._folder(path, "stale_uploads", missing_ok=True)))
                    break
                is_old = is_temporary(info.path) and (info.modified_at or OLDEST) <= newest
                if is_old and self._is_dead(path, remove):
                    yield info._replace(path=path)
            else:
                levels.pop()

    def _is_dead(self, path: str, remove: bool) -> bool:
        def run(_: Link, session: Session) -> bool:
            full = self._place.full(session, path)
            if full in self.live:
                return False
            if remove and self._place.check_folder(session, parent(path), path, "remove_stale_uploads"):
                self._unless_absent(session, REMOVE, full)
            return True

        return self._ask("stale_uploads", path, run)

    def _server_time(self, session: Session) -> float:
        """The server's clock, as far as the protocol shows it: the time of a file made just now."""
        handle, name = self.new_temporary(session, "x", None, "stale_uploads")
        try:
            return float(look_at_handle(session, handle).mtime or 0)
        finally:
            session.closing.append(handle)
            self.live.discard(name)
            self._remove_quietly(session, name)


def _check_depth(levels: int, path: str, op: str) -> None:
    if levels >= MAX_DEPTH:
        raise CorruptData("folders inside folders without an end", path=path, op=op, backend=NAME)
