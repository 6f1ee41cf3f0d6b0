"""The folders of a WebDAV server, and what dead writers left in them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NoReturn

from omnistorage.backends.object_store.response_marks import unmarked
from omnistorage.core import ObjectInfo
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    CorruptData,
    DirectoryNotEmpty,
    NotFound,
    OutcomeUnknown,
    StorageError,
)
from omnistorage.paths import check_key, check_prefix, join, parent

from .client import error_of, finish
from .listing import DEEPEST
from .responses import time_of
from .settings import NAME
from .urls import born, is_hidden, new_hidden
from .webdav import DONE, Dav

GRACE = timedelta(hours=1)
OLDEST = datetime.min.replace(tzinfo=UTC)


class Folders(Dav):
    """Making, removing and emptying folders."""

    def _mkdir(self, path: str) -> None:
        self._new_key(path, "mkdir")

        def attempt() -> None:
            found = self._look(path)
            if found is None:
                self._make_folders(path, "mkdir")
                if self._look(path) is None:
                    raise unmarked("MKCOL was answered with 201, and there is no folder", NAME)
            elif not found.is_dir:
                raise AlreadyExists("an object has this name", path=path, op="mkdir", backend=NAME)

        self.run("mkdir", path, attempt)

    def _no_folder(self, path: str, op: str) -> NoReturn:
        raise NotFound("no such folder", path=path, op=op, backend=NAME)

    def _rmdir(self, path: str) -> None:
        """WebDAV deletes a folder with all that is in it. So an empty one is first taken out of the way, where nobody
        finds it, looked at again, and put back if something has come meanwhile."""
        self._key(path, "rmdir")
        aside, gone = join(parent(path), new_hidden()), list[StorageError]()

        def attempt() -> None:
            found = self._look(path)
            hidden = gone and self._look(aside) is not None
            if not hidden:
                if gone and found is None:
                    return
                if found is None or not found.is_dir:
                    self._no_folder(path, "rmdir")
                self._demand_empty(path, path)
                if not self._put_there(lambda: self._shift(path, aside, gone), path, "rmdir"):
                    raise BackendUnavailable("the folder was moved meanwhile", retry_after=0.0, backend=NAME)
            try:
                self._demand_empty(aside, path)
            except DirectoryNotEmpty:
                self._put_back(aside, path, gone)
                raise
            status = self._noting(gone, lambda: self._ask("DELETE", self.root.folder(aside)))
            if status not in DONE and status != 404:
                raise error_of(status, {})
            if status in DONE:
                self._check_deleted(aside, status, found or ObjectInfo(aside, kind="dir"))

        try:
            self.run("rmdir", path, attempt)
        except StorageError as error:
            if not gone or isinstance(error, DirectoryNotEmpty | NotFound | OutcomeUnknown):
                raise
            raise OutcomeUnknown(
                f"the folder may be half removed: it stands in {aside!r}, if anywhere", path=path, backend=NAME
            ) from error

    def _shift(self, src: str, dst: str, gone: list[StorageError]) -> int:
        headers = {"Destination": self.root.folder(dst), "Overwrite": "F", "Depth": "infinity"}
        status = self._noting(gone, lambda: self._marked("MOVE", self.root.folder(src), headers))
        if status in DONE:
            if self._look(src) is not None and self._look(dst) is None:
                raise unmarked(f"MOVE was answered with {status}, and nothing was moved", NAME)
            gone.append(StorageError("it was taken out of the way"))
        return status

    def _put_back(self, aside: str, path: str, gone: list[StorageError]) -> None:
        """The folder, or if there is one again what is in it."""
        if self._shift(aside, path, gone) in DONE:
            return
        for row in self._members(aside):
            self._shift_member(row, join(path, row.name), gone)
        if self._members(aside):
            raise OutcomeUnknown(f"what came meanwhile stands in {aside!r} now", path=path, backend=NAME)
        self._ask("DELETE", self.root.folder(aside))

    def _shift_member(self, row: ObjectInfo, dst: str, gone: list[StorageError]) -> None:
        place = self.root.folder if row.is_dir else self.root.of
        headers = {"Destination": place(dst), "Overwrite": "F", "Depth": "infinity"}
        self._noting(gone, lambda: self._ask("MOVE", place(row.path), headers))

    def _demand_empty(self, folder: str, path: str) -> None:
        rows = self._members(folder)
        if rows:
            word = "holds temporaries of writers" if all(is_hidden(row.name) for row in rows) else "is not empty"
            raise DirectoryNotEmpty(f"the folder {word}", path=path, op="rmdir", backend=NAME)

    def purge(self, path: str) -> None:
        """Delete the folder ``path`` and all that is under it, temporaries too."""
        self._enter("purge", "purge", path)
        self._key(check_key(path, op="purge"), "purge")
        lost: list[StorageError] = []

        def attempt() -> None:
            found = self._look(path)
            if found is None and lost:
                return
            if found is None or not found.is_dir:
                self._no_folder(path, "purge")
            status = self._noting(lost, lambda: self._ask("DELETE", self.root.folder(path)))
            if status not in DONE and status != 404:
                raise error_of(status, {})
            if status in DONE:
                self._check_deleted(path, status, found)

        self.run("purge", path, attempt)

    # -- what dead writers left ----------------------------------------------------------------------------------------

    def stale_uploads(self, prefix: str = "", *, older_than: timedelta = GRACE) -> Iterator[ObjectInfo]:
        """The temporaries of writers that died, by the path of the temporary. Of others' nobody can ask whether their
        writers live: they count as alive until they are an hour old, or ``older_than`` if that is longer."""
        self._enter("list", "stale_uploads", prefix)
        return self._stale(check_prefix(prefix, op="stale_uploads"), older_than)

    def remove_stale_uploads(self, prefix: str = "", *, older_than: timedelta = GRACE) -> int:
        """Remove what ``stale_uploads`` yields; how many there were."""
        self._enter("delete", "remove_stale_uploads", prefix)
        count = 0
        for info in self._stale(check_prefix(prefix, op="remove_stale_uploads"), older_than):
            url = self.root.folder(info.path) if info.is_dir else self.root.of(info.path)
            status = self.run("remove_stale_uploads", info.path, partial(self._ask, "DELETE", url))
            if status in DONE:
                count += 1
        return count

    def _stale(self, prefix: str, older_than: timedelta) -> Iterator[ObjectInfo]:
        newest = self.run("stale_uploads", prefix, self._server_time) - max(older_than, GRACE)
        levels = [iter([ObjectInfo(prefix, kind="dir")])]
        while levels:
            for info in levels[-1]:
                if is_hidden(info.name):
                    if info.path not in self._live and self._is_stale(info, newest):
                        yield info
                elif info.is_dir:
                    if len(levels) > DEEPEST:
                        raise CorruptData("folders inside folders without an end", path=info.path, backend=NAME)
                    levels.append(self._rows(info.path))
                    break
            else:
                levels.pop()

    def _rows(self, folder: str) -> Iterator[ObjectInfo]:
        try:
            return iter(self._folder(folder, "stale_uploads"))
        except NotFound:
            return iter(())

    def _is_stale(self, info: ObjectInfo, newest: datetime) -> bool:
        """Whether it is old; what a folder was put aside with is somebody's, however old."""
        if max(born(info.name), info.modified_at or OLDEST) > newest:
            return False
        try:
            return not info.is_dir or not self._folder(info.path, "stale_uploads")
        except NotFound:
            return False

    def _server_time(self) -> datetime:
        answer = self.client.send("OPTIONS", self.root.url, follow=False)
        finish(answer)
        return time_of(answer.headers.get("Date")) or datetime.now(UTC)
