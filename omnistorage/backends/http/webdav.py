"""Changing things over WebDAV (RFC 4918).

A write goes to a hidden temporary beside its place and gets its name by MOVE, for a PUT shows its bytes as they come on
many servers. The body is kept here first, in memory and then in a file without a name, so that it can be sent with its
length (chunked bodies arrive empty behind some gateways) and sent again. Since MOVE onto a folder and DELETE of one
take everything in it along, what stands in a place is looked at before either.

When the answer to a MOVE or DELETE is lost, the server is asked what became of it before anything is said.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from omnistorage.backends.object_store.client import Get
from omnistorage.backends.object_store.response_marks import unmarked
from omnistorage.concurrency.in_flight import taking_back
from omnistorage.core import CopyOptions, ObjectInfo, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    CorruptData,
    InvalidPath,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)
from omnistorage.paths import join, parent

from .client import Folder, error_of, finish, translate
from .listing import Listing
from .listing_parsers import member_info
from .responses import Body, is_strong
from .settings import NAME
from .urls import new_hidden
from .webdav_writer import DAVWriter, Source

T = TypeVar("T")
LARGE = 1 << 20
"""A body of this length is not sent before its folder is seen to be there."""
_MISREAD = re.compile("[?;]")
"""Some servers decode a Destination before they take it apart, and would move to another name."""
DONE = frozenset((200, 201, 202, 204))


OVERTAKEN = 16
"""So often a place may change between the look at it and the MOVE, before that counts as a failure."""


@dataclass(frozen=True)
class Moving:
    """What is to be renamed: ``info`` of ``source`` to ``dst``."""

    op: str
    source: Dav
    info: ObjectInfo
    dst: str
    options: CopyOptions
    is_temporary: bool = False


class Dav(Listing):
    """What ``dav=True`` adds."""

    conditional_writes = False
    _leftovers: deque[str]
    _live: set[str]

    def run(
        self,
        op: str,
        path: str,
        call: Callable[[], T],
        *,
        idempotent: bool = True,
        cut: Callable[[], object] | None = None,
    ) -> T:
        if self._leftovers and op != "abort":
            self._sweep()
        return super().run(op, path, call, idempotent=idempotent, cut=cut)

    def _sweep(self) -> None:
        """Remove what dropped writers have left."""
        while self._leftovers:
            try:
                self.remove_temporary(self._leftovers.popleft())
            except IndexError:  # another thread took the last one
                return

    def _close(self) -> None:
        if self._leftovers:
            self._sweep()
        super()._close()

    def publish_temporary(self, temporary: ObjectInfo, path: str, options: CopyOptions) -> None:
        self.rename(Moving("close", self, temporary, path, options, is_temporary=True))

    def remove_later(self, temporary: str) -> None:
        """What a dropped writer left, which the next call removes."""
        self._leftovers.append(temporary)
        self._live.discard(temporary)

    def cut(self, thread: int) -> None:
        """End the request of another thread."""
        self.client.cut(thread)

    def _new_key(self, path: str, op: str) -> str:
        self._key(path, op)
        if self._propfind and _MISREAD.search(path):
            raise InvalidPath("WebDAV servers read '?' and ';' in a name differently", path=path, op=op, backend=NAME)
        if not self._propfind and any(segment.startswith(".") for segment in path.split("/")):
            raise InvalidPath("index pages leave out names that begin with a dot", path=path, op=op, backend=NAME)
        return path

    # -- what stands in a place ----------------------------------------------------------------------------------------

    def _look(self, path: str) -> ObjectInfo | None:
        """What ``path`` is, an object or a folder. One request, or its redirect; None if nothing is there."""
        try:
            if not self._propfind:
                return self.client.head(self.root.of(path), path)
            members = self._propfound(self.root.of(path), "0", list)
        except Folder:
            return ObjectInfo(path, kind="dir")
        except NotFound:
            return None
        if not members:
            raise CorruptData("the server answers with an empty multistatus", path=path, backend=NAME)
        if members[0].status in (404, 410):
            return None
        if members[0].status >= 400:
            raise error_of(members[0].status, {})
        return member_info(members[0], path)

    def _object(self, path: str, op: str) -> ObjectInfo:
        found = self._look(path)
        if found is None or found.is_dir:
            word = "no such object" if found is None else "this is a folder, not an object"
            raise NotFound(word, path=path, op=op, backend=NAME)
        return found

    def _head(self, path: str, op: str) -> ObjectInfo:
        return self.run(op, path, lambda: self._object(path, op)) if self._propfind else super()._head(path, op)

    def _got(self, url: str, path: str, get: Get) -> Body:
        if not self._propfind:
            return super()._got(url, path, get)
        try:
            body = super()._got(url, path, get)
        except (PermissionDenied, CapabilityNotSupported):
            self._object(path, "open_reader")  # a folder cannot be got, and each server says so in its own way
            raise
        if body.info.etag is None and body.info.modified_at is None:  # a page about a folder, or of somebody else
            try:
                self._check_page(body, self._object(path, "open_reader"))
            except BaseException:
                body.close()
                raise
        return body

    def _check_page(self, body: Body, there: ObjectInfo) -> None:
        """An answer that has neither etag nor time must have the object's length."""
        if there.size is None or body.info.size is None:
            known = there.etag is not None or there.modified_at is not None
        else:
            known = there.size != body.info.size
        if known:
            raise unmarked("it is not the object that the server describes, and has no ETag", NAME)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _ask(self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = None) -> int:
        """The status of the answer, whose body nobody needs."""
        answer = self.client.send(method, url, headers, body, follow=False)
        finish(answer)
        if answer.status in (401, 429, 503) or answer.status == 207:
            if answer.status == 207:
                raise PermissionDenied(f"the server did {method} in part only", backend=NAME)
            raise error_of(answer.status, answer.headers)
        return int(answer.status)

    def _marked(self, method: str, url: str, headers: dict[str, str]) -> int:
        """The status of a MOVE or COPY, which says 201 or 204 for success (RFC 4918, sections 9.8.5 and 9.9.4)."""
        status = self._ask(method, url, headers)
        if status in (200, 202):
            raise unmarked(f"{method} was answered with {status}", NAME)
        return status

    def _make_folders(self, path: str, op: str) -> None:
        """The folder ``path`` and those above it."""
        url = self.root.folder(path)
        status = self._ask("MKCOL", url)
        if status in (404, 409) and path:
            self._make_folders(parent(path), op)
            status = self._ask("MKCOL", url)
        if status == 201:
            return
        found = self._look(path) if path else ObjectInfo("", kind="dir")
        if found is None:
            self._refuse_below(path, op)
            raise unmarked(f"MKCOL was answered with {status}", NAME) if status in DONE else error_of(status, {})
        if not found.is_dir:
            raise InvalidPath(f"{path!r} is an object, and not a folder", op=op, backend=NAME)

    def _refuse_below(self, path: str, op: str) -> None:
        """Raise ``InvalidPath`` if an object stands where a folder above ``path`` would have to be."""
        above = parent(path)
        while above:
            found = self._look(above)
            if found is not None and not found.is_dir:
                raise InvalidPath(f"{above!r} is an object, and nothing can be below it", op=op, backend=NAME)
            above = parent(above) if found is None else ""

    def _lacks_folder(self, path: str) -> bool:
        return bool(parent(path)) and self._look(parent(path)) is None

    def _put_there(self, request: Callable[[], int], path: str, op: str) -> bool:
        """Send what makes something at ``path``, and again once its folder is made. False: the place changed."""
        status = request()
        if status in (404, 409) or (status == 500 and self._lacks_folder(path)):  # 500 is what nginx says
            self._make_folders(parent(path), op)
            status = request()
        if status == 412:
            return False
        if status not in DONE:
            self._refuse_below(path, op)
            raise error_of(status, {})
        return True

    # -- writing -------------------------------------------------------------------------------------------------------

    def _open_writer(self, path: str, options: WriteOptions) -> DAVWriter:
        self._new_key(path, "open_writer")
        self.client  # noqa: B018  a configuration that cannot work is an error here, not in the first write
        return DAVWriter(self, path, options)

    def new_temporary(self, path: str) -> str:
        name = join(parent(path), new_hidden())
        self._live.add(name)
        return name

    def upload(self, path: str, temporary: str, source: Source, kind: str) -> None:
        """Send ``source`` to the temporary of ``path``."""
        headers = {"Content-Type": kind, "Content-Length": str(source.size)}
        url = self.root.of(temporary)

        def attempt() -> None:
            if source.size >= LARGE and self._lacks_folder(path):
                self._make_folders(parent(path), "close")
            if not self._put_there(lambda: self._ask("PUT", url, headers, source.begin()), path, "close"):
                raise error_of(412, {})

        self.run("close", path, attempt)

    def remove_temporary(self, temporary: str) -> None:
        """What cannot be removed is found by the ``StaleUploads`` power."""
        try:
            run = super().run
            taking_back(lambda: run("abort", temporary, lambda: self._ask("DELETE", self.root.of(temporary))))
        except StorageError:
            pass
        finally:
            self._live.discard(temporary)

    def rename(self, moving: Moving) -> None:
        """MOVE an object, or a temporary of which nobody else knows."""
        op, dst, options, lost = moving.op, moving.dst, moving.options, list[StorageError]()

        def attempt() -> None:
            if lost and self._has_gone(moving):
                self._check_arrival(dst, moving.info, lost[0])
                return
            for _ in range(OVERTAKEN):
                there = self._target(op, dst, options)
                if there is None and not moving.is_temporary and not self._propfind and self._lacks_folder(dst):
                    self._make_folders(parent(dst), op)
                if self._put_there(partial(self._renamed, moving, there, lost), dst, op):
                    lost.append(StorageError("it was cut off with its answer"))  # if what ends now ends with an error
                    return
            raise BackendUnavailable("the place changes whenever it is looked at", retry_after=0.0, backend=NAME)

        try:
            self.run(op, dst, attempt)
        except StorageError as error:
            if lost and not isinstance(error, OutcomeUnknown):
                self._settle(moving, lost[0], error)
                return
            raise
        finally:
            self._live.discard(moving.info.path)

    def _has_gone(self, moving: Moving) -> bool:
        return moving.source._look(moving.info.path) is None

    def _check_moved(self, moving: Moving, status: int, lost: list[StorageError]) -> None:
        """A MOVE that was done leaves nothing in the old place. Another object may have come there meanwhile."""
        try:
            there = moving.source._look(moving.info.path)
        except Exception as error:
            lost.append(error if isinstance(error, StorageError) else StorageError(str(error)))
            raise
        before = moving.info
        known = "etag", "size", "modified_at"
        if there is not None and not any(_differ(getattr(there, one), getattr(before, one)) for one in known):
            raise unmarked(f"MOVE was answered with {status}, and nothing was moved", NAME)

    def _settle(self, moving: Moving, lost: StorageError, error: StorageError) -> None:
        """An answer was lost, and then came an error, perhaps over what we ourselves have done."""
        try:
            if self.run(moving.op, moving.dst, lambda: self._has_gone(moving)):
                self.run(moving.op, moving.dst, lambda: self._check_arrival(moving.dst, moving.info, lost))
                return
        except OutcomeUnknown:
            raise
        except StorageError:
            pass
        raise _unknown(lost, path=moving.dst, op=moving.op) from error

    def _target(self, op: str, dst: str, options: CopyOptions) -> ObjectInfo | None:
        """What stands at ``dst``, if it may be replaced."""
        there = self._look(dst)
        if there is not None and there.is_dir:
            raise InvalidPath("a folder has this name", path=dst, op=op, backend=NAME)
        if there is not None and not options.overwrite:
            raise AlreadyExists("the object exists, and overwrite=False keeps it", path=dst, op=op, backend=NAME)
        if options.if_match is not None and (there is None or there.etag != options.if_match):
            raise PreconditionFailed("the object is not the one expected", path=dst, op=op, backend=NAME)
        return there

    def _renamed(self, moving: Moving, there: ObjectInfo | None, lost: list[StorageError]) -> int:
        """The status of the MOVE; 412 if the place changed meanwhile, and may be looked at again."""
        dst, options = moving.dst, moving.options
        headers = {"Destination": self.root.of(dst), "Overwrite": "F" if there is None else "T"}
        if self.conditional_writes and is_strong(options.if_match):
            headers["If"] = f'<{self.root.tag(dst)}> (["{options.if_match}"])'
        url = moving.source.root.of(moving.info.path)
        status = self._noting(lost, lambda: self._marked("MOVE", url, headers))
        if status in (404, 409) and self._has_gone(moving):
            raise NotFound("what was to be moved is gone", path=moving.info.path, backend=NAME)
        if status == 412 and not options.overwrite:
            raise AlreadyExists("the object exists, and overwrite=False keeps it", path=dst, backend=NAME)
        if status == 412 and options.if_match is not None:
            raise PreconditionFailed("the object is not the one expected", path=dst, backend=NAME)
        if status in DONE:
            self._check_moved(moving, status, lost)
        return status

    def _noting(self, lost: list[StorageError], request: Callable[[], int]) -> int:
        """Send a request that must not be done twice; note an answer after which it may have been done."""
        try:
            status = request()
        except Exception as error:
            ours = error if isinstance(error, StorageError) else translate(error)
            sent = ours is not None and not hasattr(ours, "unsent")
            if ours is not None and sent and (ours.transient or getattr(ours, "status", 0) == 503):
                lost.append(ours)
            raise
        if status in (408, 500, 502, 504) or status > 508:
            lost.append(error_of(status, {}))
            raise lost[-1]
        return status

    def _check_arrival(self, dst: str, moved: ObjectInfo, lost: StorageError) -> None:
        """What was moved is gone from its place, after an answer was lost: it must stand in the other."""
        there = self._look(dst)
        if there is None or there.is_dir or _differ(there.size, moved.size):
            raise _unknown(lost, path=dst)
        if _differ(there.modified_at, moved.modified_at):
            raise _unknown(lost, path=dst)

    def _delete(self, path: str, if_match: str | None) -> bool | None:
        self._key(path, "delete")
        lost: list[StorageError] = []

        def attempt() -> bool | None:
            there = self._look(path)
            if there is None and lost:
                return None
            if if_match is not None and (there is None or there.etag != if_match):
                if lost:
                    raise _unknown(lost[0], path=path)
                raise PreconditionFailed("the object is not the one expected", path=path, backend=NAME)
            if there is None or there.is_dir:
                return False
            headers = {"If-Match": f'"{there.etag}"'} if self.conditional_writes and is_strong(there.etag) else {}
            status = self._noting(lost, lambda: self._ask("DELETE", self.root.of(path), headers))
            if status in DONE:
                self._check_deleted(path, status, there)
                return True
            if status == 412 and if_match is None:
                raise BackendUnavailable("the object changed while it was looked at", retry_after=0.0, backend=NAME)
            if status == 404:
                return None if lost else False
            raise error_of(status, {})

        try:
            return self.run("delete", path, attempt)
        except StorageError as error:
            if lost and not isinstance(error, OutcomeUnknown):
                raise _unknown(lost[0], path=path, op="delete") from error
            raise

    def _check_deleted(self, path: str, status: int, before: ObjectInfo) -> None:
        """204 is what servers say of a DELETE. After another status of success what was deleted must be gone."""
        if status == 204:
            return
        there = self._look(path)
        if there is not None and (there.kind, there.etag, there.size) == (before.kind, before.etag, before.size):
            raise unmarked(f"DELETE was answered with {status}, and nothing was deleted", NAME)

    # -- copy and move -------------------------------------------------------------------------------------------------

    def _from(self, options: CopyOptions, src: str, op: str) -> Dav:
        source = options.source or self
        if not isinstance(source, Dav) or source.root.origin != self.root.origin:
            self._refuse("source", op, src)
        source._key(src, op)
        return source

    def _sourced(self, source: Dav, src: str, options: CopyOptions, op: str) -> ObjectInfo:
        info = source.run(op, src, lambda: source._object(src, op))
        if options.source_if_match not in (None, info.etag):
            raise PreconditionFailed("the source is not the one expected", path=src, op=op, backend=NAME)
        return info

    def _copy(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        source = self._from(options, src, "copy")
        if source.root.of(src) == self.root.of(dst):
            return self._onto_itself("copy", dst, options)
        self._new_key(dst, "copy")
        info = self._sourced(source, src, options, "copy")
        temporary = self.new_temporary(dst)
        headers = {"Destination": self.root.of(temporary), "Overwrite": "T", "Depth": "0"}
        if self.conditional_writes and is_strong(info.etag):
            headers["If"] = f'<{source.root.tag(src)}> (["{info.etag}"])'

        def attempt() -> None:
            self._put_there(lambda: self._copied(source.root.of(src), headers), dst, "copy")

        try:
            self.run("copy", src, attempt)
            copied = ObjectInfo(temporary, info.size)
            self.rename(Moving("copy", self, copied, dst, options, is_temporary=True))
        except BaseException as error:
            if not isinstance(error, OutcomeUnknown):
                self.remove_temporary(temporary)
            raise
        return ObjectInfo(dst, info.size, content_type=info.content_type)

    def _copied(self, url: str, headers: dict[str, str]) -> int:
        status = self._marked("COPY", url, headers)
        if status == 412:
            raise PreconditionFailed("the source changed while it was looked at", backend=NAME)
        return status

    def _move(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        source = self._from(options, src, "move")
        if source.root.of(src) == self.root.of(dst):
            return self._onto_itself("move", dst, options)
        self._new_key(dst, "move")
        source._enter("delete", "move", src)
        info = self._sourced(source, src, options, "move")
        self.rename(Moving("move", source, info, dst, options))
        return ObjectInfo(dst, info.size, content_type=info.content_type)


def _differ(one: Any, other: Any) -> bool:
    """Whether both are known, and differ."""
    return None not in (one, other) and one != other


def _unknown(lost: StorageError, **where: Any) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"the answer was lost ({lost.args[0]}), and what stands there now does not tell", backend=NAME, **where
    )
