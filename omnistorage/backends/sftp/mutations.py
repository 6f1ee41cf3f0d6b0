"""What the SFTP backend changes on the server: publication, moves, deletion, folders, what dead writers left.

Every change is one ``_ask`` that may be sent again: where doing it twice would do harm or tell a lie, the second
attempt first looks what became of the one whose answer was lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from os import urandom
from stat import S_ISLNK, S_ISREG
from typing import TypeVar

from omnistorage.backends.base import BackendBase, is_folder_error, translating
from omnistorage.concurrency.in_flight import taking_back
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import CopyOptions, ObjectInfo
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    Cancelled,
    CapabilityNotSupported,
    InvalidPath,
    NotFound,
    OutcomeUnknown,
    StorageError,
)
from omnistorage.paths import parent

from .connection import Link
from .paths import (
    Check,
    Place,
    info_of,
    is_absent,
    is_file,
    is_folder,
    look,
    look_at_handle,
    looked,
    new_hidden,
    translate,
)
from .pool import Pool
from .protocol import (
    COPY_DATA,
    CREATE,
    EXCLUSIVE,
    EXTENDED,
    FOR_WRITING,
    HANDLE,
    HARDLINK,
    LSETSTAT,
    LSTAT,
    OPEN,
    POSIX_RENAME,
    REMOVE,
    RENAME,
    SETSTAT,
    Attrs,
    Lost,
    Session,
    Status,
    number,
    string,
)
from .settings import NAME

T = TypeVar("T")

_COPY_STEP = 64 << 20  # bytes that the server copies in one request, so that its answer comes before the timeout
_FAR_FUTURE = 0xF0000000  # about the year 2097: an access time that no reader moves


class Attempt:
    """Whether a change was asked for already, by a request whose answer may have been lost."""

    asked = False
    aside: bytes | None = None  # where what was replaced waits, without posix-rename

    def begin(self) -> bool:
        again, self.asked = self.asked, True
        return again


class Changes(BackendBase):
    """The half of the SFTP backend that changes things."""

    policy: RequestPolicy
    live: set[bytes]  # the temporaries of this object's writers
    leftovers: deque[bytes]  # temporaries to remove with the next call
    _pool: Pool
    _place: Place
    _posix_rename: bool

    def _key(self, path: str, op: str) -> None:
        reason = self._place.why_not(path)
        if reason is not None:
            raise InvalidPath(reason, path=path, op=op, backend=NAME)

    # -- asking --------------------------------------------------------------------------------------------------------

    def _ask(self, op: str, path: str, run: Callable[[Link, Session], T]) -> T:
        """What ``run`` returns, on a living connection, after as many attempts as the policy allows."""

        def once() -> T:
            try:
                with translating(op, path, translate), self._pool.use() as link:
                    self._sweep(link.sftp)
                    return run(link, link.sftp)
            except StorageError as error:
                error.path = path if error.path is None else error.path
                raise

        return self.policy.run(op, once, path=path)

    def _change(self, op: str, path: str, attempt: Attempt, run: Callable[[Link, Session], T]) -> T:
        """The same for what must be told apart: done, not done, not known."""
        try:
            return self._ask(op, path, run)
        except (BackendUnavailable, Cancelled) as error:
            if not attempt.asked:
                raise
            raise OutcomeUnknown(
                f"the answer was lost, and what happened could not be found out: {error.args[0]}",
                path=path, op=op, backend=NAME,
            ) from error  # fmt: skip

    def _sweep(self, session: Session) -> None:
        """Remove the temporaries that dropped and disconnected writers left."""
        while self.leftovers:
            try:
                name = self.leftovers.popleft()
            except IndexError:
                return
            try:
                session.call(REMOVE, string(name))
            except Status:
                pass  # gone, or not ours any more
            except BaseException:
                self.leftovers.append(name)
                raise

    def _needs(self, session: Session, extension: str, capability: str, option: str) -> None:
        if extension not in session.extensions:
            raise CapabilityNotSupported(
                f"this server does not offer {extension}: open the backend with {option}=False",
                capability=capability, backend=NAME,
            )  # fmt: skip

    # -- writing -------------------------------------------------------------------------------------------------------

    def new_temporary(self, session: Session, path: str, mode: int | None, op: str) -> tuple[bytes, bytes]:
        """A new, hidden, empty file beside ``path``: its handle and its name."""
        folder = parent(path)
        name = self._place.full(session, folder).rstrip(b"/") + b"/" + new_hidden().encode()
        request = string(name), number(FOR_WRITING | CREATE | EXCLUSIVE), Attrs(mode=mode).packed()

        def make() -> bytes:
            slot = session.send(OPEN, *request)
            check = self._place.again(session, folder, path, op)
            handle = session.answer(slot, HANDLE).string()
            try:
                check()
            except BaseException:
                session.closing.append(handle)
                self._take_back(session, name)
                raise
            return handle

        self.live.add(name)
        try:
            try:
                return make(), name
            except Status as error:
                if not is_absent(error):
                    raise
            self._place.make_folders(session, folder, path, op)
            return make(), name
        except BaseException as error:
            self.live.discard(name)
            if isinstance(error, Cancelled) or not isinstance(error, (Status, StorageError)):
                self.leftovers.append(name)  # it may be there, or come to be there yet
            raise

    def _take_back(self, session: Session, name: bytes) -> None:
        """Remove a temporary that was made in another folder than it should be, while its name still leads there."""
        try:
            session.call(REMOVE, string(name))
        except Exception:
            self.leftovers.append(name)

    def look_again(self, session: Session, path: str, op: str) -> Check:
        """Ask where the folder of ``path`` leads, shortly before something in it is published."""
        return self._place.again(session, parent(path), path, op)

    def check_target(self, session: Session, path: str, op: str, *, overwrite: bool) -> Attrs | None:
        """What stands at the destination; refused at once is what publication would refuse later."""
        if overwrite and self._posix_rename:
            self._needs(session, POSIX_RENAME, "atomic_write", "posix_rename")
        elif not overwrite:
            self._needs(session, HARDLINK, "create_only", "hardlinks")
        slot = session.send(LSTAT, string(self._place.full(session, path)))
        self._place.check_folder(session, parent(path), path, op)
        found = looked(session, slot)
        if found is not None:
            if is_folder(found):
                raise is_folder_error(path, op, NAME)
            if not overwrite:
                raise AlreadyExists("an object has this name", path=path, op=op, backend=NAME)
        return found

    def publish(self, path: str, temporary: bytes, info: ObjectInfo, *, overwrite: bool, op: str = "close") -> None:
        """Give the closed ``temporary`` the name ``path``."""
        attempt = Attempt()

        def run(_: Link, session: Session) -> None:
            if attempt.asked:  # else that was done just now
                self._place.check_folder(session, parent(path), path, op)
            final = self._place.full(session, path)
            if overwrite:
                self._replace(session, temporary, final, info, op, attempt)
            elif self._create(session, temporary, final, info, op, attempt):
                self._remove_quietly(session, temporary)

        self._change(op, path, attempt, run)

    def _replace(self, session: Session, old: bytes, new: bytes, info: ObjectInfo, op: str, attempt: Attempt) -> None:
        """Rename onto whatever file is there."""
        again = attempt.begin()
        try:
            if self._posix_rename:
                session.call(EXTENDED, string(POSIX_RENAME.encode()), string(old), string(new))
            else:
                self._swap(session, old, new, attempt)
        except Status as error:
            there = look(session, new)
            if there is not None and is_folder(there):
                raise is_folder_error(info.path, op, NAME) from error
            if look(session, old) is not None:
                raise
            self._explain_gone(there, info, op, again, error)
        if attempt.aside is not None:
            self._remove_quietly(session, attempt.aside)

    def _explain_gone(self, there: Attrs | None, info: ObjectInfo, op: str, again: bool, error: Status) -> None:
        """The file to rename is not there. Return if that is because an earlier attempt renamed it."""
        if again and there is not None and info_of(info.path, there) == info:
            return
        if again:
            raise OutcomeUnknown(
                "the answer was lost; the object was published and replaced since, or removed by somebody else",
                path=info.path, op=op, backend=NAME,
            ) from error  # fmt: skip
        raise NotFound(
            "somebody removed the file before it got its name", path=info.path, op=op, backend=NAME
        ) from error

    def _swap(self, session: Session, old: bytes, new: bytes, attempt: Attempt) -> None:
        """The same without posix-rename: what is there steps aside, and comes back if the new one fails, or if it
        is time to stop. For a moment the name is free; a crash then leaves the old file under a hidden name that nobody
        collects."""
        rename = string(old), string(new)
        try:
            session.call(RENAME, *rename)
            return
        except Status:
            there = look(session, new)
            if there is None or is_folder(there) or look(session, old) is None:
                raise
        attempt.aside = aside = new.rpartition(b"/")[0] + b"/" + new_hidden("old").encode()
        try:
            session.call(RENAME, string(new), string(aside))
            try:
                session.call(RENAME, *rename)
            except Status:
                session.call(RENAME, string(aside), string(new))
                attempt.aside = None
                raise
        except Cancelled:
            with suppress(StorageError, Status, Lost):
                taking_back(lambda: self._step_back(session, aside, new))
            raise

    def _step_back(self, session: Session, aside: bytes, new: bytes) -> None:
        """What stepped aside gets its name again, unless another file has it by now."""
        try:
            session.call(RENAME, string(aside), string(new))
        except Status:
            if look(session, new) is not None:
                self._remove_quietly(session, aside)

    def _create(self, session: Session, old: bytes, new: bytes, info: ObjectInfo, op: str, attempt: Attempt) -> bool:
        """Link ``old`` to ``new`` unless something is there, which is one step on the server."""
        again = attempt.begin()
        try:
            session.call(EXTENDED, string(HARDLINK.encode()), string(old), string(new))
        except Status as error:
            there = look(session, new)
            if there is not None and is_folder(there):
                raise is_folder_error(info.path, op, NAME) from error
            if look(session, old) is None:
                self._explain_gone(there, info, op, again, error)
                return True
            if there is None:
                raise
            if not (again and self._is_same_file(session, old, new)):
                raise AlreadyExists("an object has this name", path=info.path, op=op, backend=NAME) from error
        return True

    @staticmethod
    def _is_same_file(session: Session, one: bytes, other: bytes) -> bool:
        """Whether two names are one file, which the protocol does not say: what is set through the one name shows
        through the other. The access time is set, and set back."""
        first, second = look(session, one), look(session, other)
        if first is None or second is None or (first.size, first.mtime) != (second.size, second.mtime):
            return False
        request: tuple[int, *tuple[bytes, ...]] = SETSTAT, string(one)
        if first.mode is not None and S_ISLNK(first.mode):  # SETSTAT would be about what it leads to
            if LSETSTAT not in session.extensions:
                return False
            request = EXTENDED, string(LSETSTAT.encode()), string(one)
        mark = _FAR_FUTURE | int.from_bytes(urandom(3))
        session.call(*request, Attrs(atime=mark, mtime=first.mtime).packed())
        marked = look(session, other)
        session.call(*request, Attrs(atime=first.atime, mtime=first.mtime).packed())
        return marked is not None and marked.atime == mark

    def _remove_quietly(self, session: Session, name: bytes) -> None:
        """The object is published; what is left of its making is removed now or later."""
        try:
            session.call(REMOVE, string(name))
        except Status:
            pass
        except Exception:
            self.leftovers.append(name)

    # -- moving, copying, deleting -------------------------------------------------------------------------------------

    def _place_of(self, options: CopyOptions, path: str, op: str) -> Place:
        """Where the source of a copy or move lies: in this backend, which may be confined to another folder."""
        source = self if options.source is None else options.source
        if not isinstance(source, Changes) or source._pool is not self._pool:
            self._refuse("source", op, path)
        source._key(path, op)
        return source._place

    @staticmethod
    def _source(session: Session, place: Place, path: str, op: str) -> Attrs:
        """The object to copy or move, itself, not what it leads to."""
        there = place.check_folder(session, parent(path), path, op)
        found = look(session, place.full(session, path)) if there else None
        if found is None:
            raise NotFound("no such object", path=path, op=op, backend=NAME)
        if is_folder(found):
            raise NotFound("this is a folder, not an object", path=path, op=op, backend=NAME)
        return found

    def _move(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        self._key(dst, "move")
        attempt, place = Attempt(), self._place_of(options, src, "move")
        info: list[ObjectInfo] = []

        def run(_: Link, session: Session) -> None:
            if not info:
                found = self._source(session, place, src, "move")
                self.check_target(session, dst, "move", overwrite=options.overwrite)
                self._place.make_folders(session, parent(dst), dst, "move")
                info.append(info_of(dst, found))
            place.check_folder(session, parent(src), src, "move")
            if attempt.asked:  # else that was done just now
                self._place.check_folder(session, parent(dst), dst, "move")
            old, new = self._place.full(session, src), self._place.full(session, dst)
            if options.overwrite:
                self._replace(session, old, new, info[0], "move", attempt)
            elif self._create(session, old, new, info[0], "move", attempt):
                self._remove_old_name(session, old, dst)

        self._change("move", dst, attempt, run)
        return info[0]

    @staticmethod
    def _remove_old_name(session: Session, old: bytes, dst: str) -> None:
        try:
            session.call(REMOVE, string(old))
        except Status as error:
            if not is_absent(error):
                raise OutcomeUnknown(
                    "the object has its new name, but the old one could not be removed",
                    path=dst, op="move", backend=NAME,
                ) from error  # fmt: skip

    def _copy(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        self._key(dst, "copy")
        made: list[tuple[bytes, ObjectInfo]] = []
        place = self._place_of(options, src, "copy")

        def run(_: Link, session: Session) -> None:
            self._needs(session, COPY_DATA, "copy", "server_copy")
            found = self._source(session, place, src, "copy")
            if found.mode is not None and not S_ISREG(found.mode):
                target = place.find(session, src, "copy")
                if target is None or not is_file(target):
                    raise NotFound("no such object", path=src, op="copy", backend=NAME)
            self.check_target(session, dst, "copy", overwrite=options.overwrite)
            made.append(self._copy_data(session, place, src, dst))

        self._ask("copy", dst, run)
        temporary, info = made[-1]
        try:
            self.publish(dst, temporary, info, overwrite=options.overwrite)
        except BaseException:
            self.leftovers.append(temporary)
            raise
        finally:
            self.live.discard(temporary)
        return info

    def _copy_data(self, session: Session, place: Place, src: str, dst: str) -> tuple[bytes, ObjectInfo]:
        source = place.opened(session, src, "copy")
        try:
            size = look_at_handle(session, source).size or 0
            handle, temporary = self.new_temporary(session, dst, None, "copy")
            try:
                for at in range(0, size, _COPY_STEP):
                    step = number(at, 8), number(min(_COPY_STEP, size - at), 8)
                    session.call(
                        EXTENDED, string(COPY_DATA.encode()), string(source), *step, string(handle), number(at, 8)
                    )
                check = self.look_again(session, dst, "copy")
                info = info_of(dst, look_at_handle(session, handle))
                check()
                return temporary, info
            except BaseException:
                self.live.discard(temporary)
                self.leftovers.append(temporary)
                raise
            finally:
                session.closing.append(handle)
        finally:
            session.closing.append(source)

    def _delete(self, path: str, if_match: str | None) -> bool | None:
        self._key(path, "delete")
        attempt = Attempt()

        def run(_: Link, session: Session) -> bool | None:
            absent = None if attempt.asked else False
            if not self._place.check_folder(session, parent(path), path, "delete"):
                return absent
            full = self._place.full(session, path)
            attempt.begin()
            try:
                session.call(REMOVE, string(full))
                return True
            except Status:
                there = look(session, full)
                if there is None:
                    return absent
                if is_folder(there):
                    return False
                raise

        return self._ask("delete", path, run)
