"""Names, folders and errors on the far side: what the parts of the SFTP backend share.

Never out of the root: SFTP has no way to resolve beneath a folder, so every call asks the server where its path really
leads (REALPATH) before it touches anything. Between that answer and the next request somebody with an account on the
server could still put a symlink in the way. What is opened is therefore looked at again once it is open (REALPATH right
behind OPEN, which costs no round trip), and a folder before each step that changes several names in it. That makes it
hard and not impossible, and REMOVE, RMDIR and SETSTAT cannot be looked at again: against those, confine the account
(``ChrootDirectory`` of sshd).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from os import urandom
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISDIR, S_ISREG

from omnistorage.core import Kind, ListOptions, ObjectInfo
from omnistorage.core.external_sort import Sorted
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    CorruptData,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    PermissionDenied,
    StorageError,
    WriterClosed,
)
from omnistorage.paths import is_under, sort_key

from .protocol import (
    ATTRS,
    BAD_MESSAGE,
    EOF,
    FOR_READING,
    FSTAT,
    HANDLE,
    LSTAT,
    MKDIR,
    NAME,
    NO_SUCH_FILE,
    OPEN,
    OPENDIR,
    PERMISSION_DENIED,
    READDIR,
    REALPATH,
    STAT,
    UNSUPPORTED,
    Answer,
    Attrs,
    Lost,
    Session,
    Slot,
    Status,
    Stopped,
    number,
    string,
)
from .settings import NAME as BACKEND

Check = Callable[[], None]
"""Waits for the answer to a question that is on its way, and raises if it is not what it has to be."""

MARK = ".omnistorage-"
_HIDDEN = re.compile(r"\.omnistorage-[0-9a-f]{16}\.(tmp|old)", re.ASCII)
_LONGEST_NAME = 255
_SHOWN = 300
"""So much of what the server says is repeated, in characters."""
MAX_LISTED_NAME = 1024
"""The longest name that is believed of a listing, in bytes: 255 characters of four bytes."""
MAX_FOLDER = 10_000_000
"""So many names a folder has at most: a server may go on for ever."""
MAX_DEPTH = 256
RUN = 50_000
"""Names of a folder that are sorted in memory; more are sorted on disk."""

_ABSENT = (NO_SUCH_FILE, 10, 19)  # 10 and 19 are what servers say who know the codes of later versions
_EXISTS, _NOT_EMPTY, _IS_FOLDER = 11, 18, 24
_NO_ROOM = {14: errno.ENOSPC, 15: errno.EDQUOT}


def new_hidden(ending: str = "tmp") -> str:
    return f"{MARK}{urandom(8).hex()}.{ending}"


def is_hidden(name: str) -> bool:
    return _HIDDEN.fullmatch(name) is not None


def is_temporary(name: str) -> bool:
    return is_hidden(name) and name.endswith(".tmp")


def why_not(path: str) -> str | None:
    """Why the key ``path`` cannot be a file here: it would alias another name, or hide one of ours. None if it can."""
    segments = path.split("/")
    if "" in segments:
        return "leading, trailing and double slashes would alias another name"
    if "." in segments:
        return "a '.' segment would alias another name"
    if MARK in path and any(map(is_hidden, segments)):
        return "this is the name of a temporary file"
    try:
        if any(len(sort_key(segment)) > _LONGEST_NAME for segment in segments):
            return f"a name has at most {_LONGEST_NAME} bytes between two slashes"
    except UnicodeEncodeError:
        return "no server holds this name: it is neither Unicode nor bytes escaped as surrogates"
    return None


def key_of(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def translate(error: BaseException) -> StorageError | None:
    """Our error for what the wire said: the one place."""
    if isinstance(error, Lost):
        return BackendUnavailable(str(error), backend=BACKEND)
    if isinstance(error, Stopped):
        return WriterClosed("the writer was aborted in another thread", backend=BACKEND)
    if not isinstance(error, Status):
        return None
    code, text = error.code, str(error)
    if code in _ABSENT:
        return NotFound("no such object or folder", backend=BACKEND)
    if code == PERMISSION_DENIED:
        return PermissionDenied("permission denied", backend=BACKEND)
    if code == _EXISTS:
        return AlreadyExists("an object has this name", backend=BACKEND)
    if code == _NOT_EMPTY:
        return DirectoryNotEmpty("the folder is not empty", backend=BACKEND)
    if code == _IS_FOLDER:
        return InvalidPath("a folder has this name", backend=BACKEND)
    if code in _NO_ROOM:
        why = "the quota is used up" if _NO_ROOM[code] == errno.EDQUOT else "no space is left"
        full = StorageError(f"{why} on the server: free some space there and do it again", backend=BACKEND)
        full.errno = _NO_ROOM[code]
        return full
    if code == BAD_MESSAGE:
        return InvalidPath("the server cannot hold this name", backend=BACKEND)
    if code == UNSUPPORTED:
        return CapabilityNotSupported("the server does not know this request", capability="request", backend=BACKEND)
    return StorageError(f"the server refused: {text[:_SHOWN]}", backend=BACKEND)


def is_absent(error: Status) -> bool:
    return error.code in _ABSENT


def etag_of(attrs: Attrs) -> str | None:
    if attrs.mtime is None or attrs.size is None:
        return None
    return f"{attrs.mtime:x}-{attrs.size:x}"


def info_of(path: str, attrs: Attrs) -> ObjectInfo:
    """What ``list``, ``stat`` and writers say about a file, the same in all three."""
    modified_at = None if attrs.mtime is None else datetime.fromtimestamp(attrs.mtime, UTC)
    form = S_IFREG if attrs.mode is None else S_IFMT(attrs.mode)
    if form in (S_IFREG, 0):
        return ObjectInfo(path, attrs.size, modified_at, "file", etag_of(attrs))
    kind: Kind = "dir" if form == S_IFDIR else "link" if form == S_IFLNK else "other"
    return ObjectInfo(path, None if kind == "dir" else attrs.size, modified_at, kind)


def is_folder(attrs: Attrs) -> bool:
    return attrs.mode is not None and S_ISDIR(attrs.mode)


def is_file(attrs: Attrs) -> bool:
    return attrs.mode is None or S_ISREG(attrs.mode) or not S_IFMT(attrs.mode)


# --- single questions -------------------------------------------------------------------------------------------------


def look(session: Session, path: bytes, kind: int = LSTAT) -> Attrs | None:
    """What stands at ``path`` itself (LSTAT) or where it leads to (STAT); None if nothing does."""
    return looked(session, session.send(kind, string(path)))


def looked(session: Session, slot: Slot) -> Attrs | None:
    try:
        return session.answer(slot, ATTRS).attrs()
    except Status as error:
        if is_absent(error) or error.code == BAD_MESSAGE:
            return None
        raise


def look_at_handle(session: Session, handle: bytes) -> Attrs:
    return session.call(FSTAT, string(handle), want=ATTRS).attrs()


def real_path(session: Session, slot: Slot) -> bytes | None:
    """The answer to a REALPATH; None where it leads nowhere."""
    try:
        answer = session.answer(slot, NAME)
    except Status as error:
        if error.code == PERMISSION_DENIED:
            raise
        return None
    return answer.string() if answer.number() else None


def read_folder(session: Session, path: bytes, again: Callable[[], Check] | None = None) -> Iterator[ObjectInfo]:
    """Everything in a folder by its name there, unsorted, our temporaries included. Raises ``Status``. ``again`` asks
    where the folder leads once it is open, before the first name is given."""
    opening = session.send(OPENDIR, string(path))
    check = None if again is None else again()
    handle = session.answer(opening, HANDLE).string()
    left = MAX_FOLDER
    try:
        ahead: Slot | None = session.send(READDIR, string(handle))
        if check is not None:
            check()
        while ahead is not None:
            answer = session.answer(ahead, NAME)
            ahead = session.send(READDIR, string(handle))  # while this one is read
            count = answer.number()
            left -= max(count, 1)  # an answer without a name is an answer, too
            if left < 0:
                raise CorruptData(f"the server lists more than {MAX_FOLDER} names in one folder", backend=BACKEND)
            yield from _entries(answer, count)
    except Status as error:
        if error.code != EOF:
            raise
    finally:
        session.closing.append(handle)


def _entries(answer: Answer, count: int) -> Iterator[ObjectInfo]:
    for _ in range(count):
        raw = answer.string()
        answer.view()
        attrs = answer.attrs()
        if raw not in (b".", b".."):
            if not raw or b"/" in raw or b"\0" in raw or len(raw) > MAX_LISTED_NAME:
                raise StorageError(f"the server listed a name that cannot be one: {raw[:100]!r}", backend=BACKEND)
            yield info_of(key_of(raw), attrs)


def in_order(rows: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
    """``rows`` in the order of their keys, a folder's with its slash. All are read when this returns: in memory, or
    sorted on disk if they are many."""
    return Sorted(rows, _order, run=RUN)


def set_aside(rows: Iterator[ObjectInfo]) -> None:
    """Have the rest of a folder wait for one below it: its open files and its memory add up over the levels."""
    if isinstance(rows, Sorted):
        rows.shrink()


def _order(info: ObjectInfo) -> bytes:
    return sort_key(info.path + "/" * info.is_dir)


class Place:
    """The root, and the way from keys to the server's paths and back."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.below = ""
        """The folder that no symbolic link may lead out of; all of the root if empty."""
        self.chain: tuple[str, ...] = ()
        """``below``, behind the folders that it lies in and that no link may lead out of either."""
        self._base: bytes | None = None

    def why_not(self, path: str) -> str | None:
        """Why the key ``path`` is none of this root. None if it is one."""
        return why_not(path)

    def base(self, session: Session) -> bytes:
        """The real, absolute path of the root."""
        if self._base is None:
            self._base = self._resolve(session)
        return self._base

    def _resolve(self, session: Session) -> bytes:
        real = real_path(session, session.send(REALPATH, string(sort_key(self.root or "."))))
        if real is None and self.root.startswith("/"):
            real = sort_key(self.root.rstrip("/") or "/")
        elif real is None:
            home = real_path(session, session.send(REALPATH, string(b"."))) or b""
            real = home.rstrip(b"/") + b"/" + sort_key(self.root.rstrip("/"))
        return real

    def full(self, session: Session, path: str) -> bytes:
        base = self.base(session)
        if not path:
            return base
        return (base if base != b"/" else b"") + b"/" + sort_key(path)

    def demand(self, session: Session, real: bytes | None, path: str, op: str) -> None:
        """Raise ``InvalidPath`` unless ``real``, where a path leads, lies in the root."""
        if real is not None and not self._holds(session, real):
            self._base = None  # the root may have been made anew, or reached through a symlink that was moved
        if real is None or not self._holds(session, real):
            raise InvalidPath("a symlink leads out of the root", path=path, op=op, backend=BACKEND)

    def _holds(self, session: Session, real: bytes) -> bool:
        base = self.base(session)
        return base == b"/" or real == base or real.startswith(base + b"/")

    def make_folders(self, session: Session, folder: str, path: str, op: str) -> None:
        """Make ``folder`` and what is missing above it, the root included; never through a symlink that leads out."""
        base = self.base(session)
        missing: list[bytes] = []
        at = self.full(session, folder)
        while (found := look(session, at, STAT)) is None and at not in (b"", b"/"):
            missing.append(at)
            at = at.rpartition(b"/")[0] or b"/"
        if found is not None and not is_folder(found):
            raise InvalidPath("a file stands where a folder is needed", path=path, op=op, backend=BACKEND)
        if len(at) > len(base):
            self._demand_above(session, at, session.send(REALPATH, string(at)), path, op)
        for name in reversed(missing):
            where = self._make_folder(session, name, path, op)
            if len(name) > len(base):  # a symlink may have replaced the folder that was just made
                self._demand_above(session, name, where, path, op)

    @staticmethod
    def _make_folder(session: Session, name: bytes, path: str, op: str) -> Slot:
        """Make one folder. Where it leads is asked along with that."""
        slot, where = session.send(MKDIR, string(name), Attrs().packed()), session.send(REALPATH, string(name))
        try:
            session.answer(slot)
        except Status:
            there = look(session, name, STAT)  # most servers do not say why; somebody may have made it just now
            if there is None:
                raise
            if not is_folder(there):
                raise InvalidPath("a file stands where a folder is needed", path=path, op=op, backend=BACKEND) from None
        return where

    def _demand_above(self, session: Session, at: bytes, where: Slot, path: str, op: str) -> None:
        """``demand`` for ``at``, a folder above ``path`` that is there, and for the answer to where it leads."""
        real = real_path(session, where) or real_path(session, session.send(REALPATH, string(at)))
        self.demand(session, real, path, op)

    def check_folder(self, session: Session, folder: str, path: str, op: str) -> bool:
        """Whether the folder is there, inside of the root."""
        if not folder:
            return True
        real = real_path(session, session.send(REALPATH, string(self.full(session, folder))))
        if real is None:
            return False
        self.demand(session, real, path, op)
        return True

    def again(self, session: Session, place: str, path: str, op: str) -> Check:
        """Ask once more where ``place`` leads, with what was sent before. It has to be there, inside of the root."""
        if not place:
            return lambda: None
        slot = session.send(REALPATH, string(self.full(session, place)))

        def check() -> None:
            real = real_path(session, slot)
            if real is None:
                raise NotFound("somebody took it away meanwhile", path=path, op=op, backend=BACKEND)
            self.demand(session, real, path, op)

        return check

    def opened(self, session: Session, path: str, op: str) -> bytes:
        """The handle of the file ``path``, opened for reading. It lies in the root after that, too."""
        slot = session.send(OPEN, string(self.full(session, path)), number(FOR_READING), Attrs().packed())
        check = self.again(session, path, path, op)
        handle = session.answer(slot, HANDLE).string()
        try:
            check()
        except BaseException:
            session.closing.append(handle)
            raise
        return handle

    def find(self, session: Session, path: str, op: str) -> Attrs | None:
        """What ``path`` leads to, inside of the root; None if nothing does."""
        full = string(self.full(session, path))
        where, what = session.send(REALPATH, full), session.send(STAT, full)
        try:
            attrs = looked(session, what)
        finally:
            real = real_path(session, where)
        if attrs is not None:
            self.demand(session, real, path, op)
        return attrs


class ConfinedPlace(Place):
    """The same root for keys under ``below``, out of which no symbolic link leads."""

    def __init__(self, whole: Place, below: str) -> None:
        super().__init__(whole.root)
        self.below = below
        self.chain = (*whole.chain, below)
        self._whole = whole
        self._folder: bytes | None = None

    def why_not(self, path: str) -> str | None:
        if path != self.below and not is_under(path, self.below):
            return f"it does not lie in the folder {self.below!r}"
        return why_not(path)

    def base(self, session: Session) -> bytes:
        return self._whole.base(session)

    def demand(self, session: Session, real: bytes | None, path: str, op: str) -> None:
        self._whole.demand(session, real, path, op)
        if real is not None and not self._is_below(real):
            full = self.full(session, self.below)
            self._folder = real_path(session, session.send(REALPATH, string(full))) or full
            if not self._is_below(real):
                raise InvalidPath(
                    f"a symlink leads out of the folder {self.below!r}", path=path, op=op, backend=BACKEND
                )

    def _is_below(self, real: bytes) -> bool:
        return self._folder is not None and (real == self._folder or real.startswith(self._folder + b"/"))

    def _demand_above(self, session: Session, at: bytes, where: Slot, path: str, op: str) -> None:
        if len(at) < len(self.full(session, self.below)):
            self._whole._demand_above(session, at, where, path, op)
        else:
            super()._demand_above(session, at, where, path, op)


# --- listings ---------------------------------------------------------------------------------------------------------


def visible(rows: Iterator[ObjectInfo], after: bytes | None = None) -> Iterator[ObjectInfo]:
    """``rows`` without temporaries, and without what lies wholly at or before ``after``."""
    for info in rows:
        if is_hidden(info.path):
            continue
        key = b"" if after is None else _order(info)
        if after is None or key > after or (info.is_dir and after.startswith(key)):
            yield info


def walk(read: Callable[[str], Iterator[ObjectInfo]], prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
    """Every file under the folder ``prefix`` in the order of the keys; ``read`` gives the entries of one folder."""
    head = prefix + "/" if prefix else ""
    start = None if options.start_after is None else sort_key(options.start_after)

    def wanted(folder: str) -> tuple[str, Iterator[ObjectInfo], Iterator[ObjectInfo]]:
        key = sort_key(folder)
        skips = start is not None and start >= key
        if skips and not (start or b"").startswith(key):
            return folder, iter(()), iter(())
        rows = read(folder)
        return folder, rows, visible(rows, (start or b"")[len(key) :] if skips else None)

    levels = [wanted(head)]
    while levels:
        here, all_rows, rows = levels[-1]
        for info in rows:
            path = here + info.path
            if not info.is_dir:
                yield info._replace(path=path)
                continue
            if len(levels) >= MAX_DEPTH:
                raise CorruptData("folders inside folders without an end", path=path, op="list", backend=BACKEND)
            set_aside(all_rows)
            try:
                levels.append(wanted(path + "/"))
            except StorageError as error:
                if options.on_error is None:
                    raise
                options.on_error(error)
                continue
            break
        else:
            levels.pop()
