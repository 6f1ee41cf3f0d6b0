"""What an SFTP server can do beyond objects: times of folders, and symbolic links.

The time of a link itself is set by OpenSSH's extension ``lsetstat@openssh.com`` (PROTOCOL, section 4.9). SYMLINK takes
the target first and the link's name second, as OpenSSH has it (section 4.1) and others do since; the draft has them the
other way round.
"""

from __future__ import annotations

from datetime import datetime
from typing import Self

from omnistorage.backends.base import leads_out
from omnistorage.core import ObjectInfo
from omnistorage.core.option_checks import check_time
from omnistorage.core.structural import twin
from omnistorage.errors import CapabilityNotSupported, InvalidPath, NotFound
from omnistorage.paths import check_key, check_new, parent, sort_key

from .connection import Link
from .directories import Folders
from .paths import ConfinedPlace, info_of, is_absent, is_folder, key_of, look, new_hidden
from .protocol import EXTENDED, LSETSTAT, READLINK, SETSTAT, SYMLINK, Attrs, Session, Status, string
from .protocol import NAME as NAMES
from .settings import NAME
from .streams import seconds_of

LONGEST_TARGET = 4095


class Powers(Folders):
    """``FolderTimes``, ``Links`` and ``Confine`` for ``SFTPBackend``."""

    def set_folder_time(self, path: str, modified_at: datetime) -> None:
        self._enter("set_modified", "set_folder_time", path)
        self._key(check_key(path, op="set_folder_time"), "set_folder_time")
        check_time(modified_at)
        mtime = seconds_of(modified_at)

        def run(_: Link, session: Session) -> None:
            there = self._place.check_folder(session, parent(path), path, "set_folder_time")
            found = look(session, self._place.full(session, path)) if there else None
            if found is None or not is_folder(found):
                self._no_folder(path, "set_folder_time")
            full = string(self._place.full(session, path))
            session.call(SETSTAT, full, Attrs(atime=found.atime, mtime=mtime).packed())

        self._ask("set_folder_time", path, run)

    def confined(self, folder: str) -> Self:
        """The same backend for keys under ``folder``, out of which no symbolic link leads and none is made."""
        self._key(check_key(folder, op="confined"), "confined")
        found = twin(self)
        found._place = ConfinedPlace(self._place, folder)
        return found

    def read_link(self, path: str) -> tuple[str, ObjectInfo]:
        self._enter("read", "read_link", path)
        self._key(check_key(path, op="read_link"), "read_link")

        def run(_: Link, session: Session) -> tuple[str, ObjectInfo]:
            there = self._place.check_folder(session, parent(path), path, "read_link")
            full = self._place.full(session, path)
            found = look(session, full) if there else None
            info = None if found is None else info_of(path, found)
            if info is None or info.kind != "link":
                raise NotFound("there is no symbolic link of this name", path=path, op="read_link", backend=NAME)
            try:
                answer = session.call(READLINK, string(full), want=NAMES)
            except Status as error:
                if not is_absent(error):
                    raise
                raise CapabilityNotSupported(  # asyncssh, in a chroot
                    "the server does not say where this link leads", capability="links", backend=NAME
                ) from error
            answer.number()
            return key_of(answer.string()), info

        return self._ask("read_link", path, run)

    def make_link(
        self, path: str, target: str, *, overwrite: bool = True, modified_at: datetime | None = None
    ) -> ObjectInfo:
        self._enter("write", "make_link", path)
        self._key(check_new(path, op="make_link"), "make_link")
        check_time(modified_at)
        raw = _checked(path, target)
        if self._place.below and leads_out(path, target, self._place.below):
            why = f"the target {target[:200]!r} lies outside of the folder {self._place.below!r}"
            raise InvalidPath(why, path=path, op="make_link", backend=NAME)
        mtime = None if modified_at is None else seconds_of(modified_at)
        temporary, info = self._ask(
            "make_link", path, lambda _, session: self._new_link(session, path, raw, mtime, overwrite)
        )
        try:
            self.publish(path, temporary, info, overwrite=overwrite, op="make_link")
        except BaseException:
            self.leftovers.append(temporary)
            raise
        finally:
            self.live.discard(temporary)
        return info

    def _new_link(
        self, session: Session, path: str, target: bytes, mtime: int | None, overwrite: bool
    ) -> tuple[bytes, ObjectInfo]:
        """A hidden link beside ``path``: its name, and what ``path`` will be."""
        if mtime is not None and LSETSTAT not in session.extensions:
            raise CapabilityNotSupported(
                f"this server does not offer {LSETSTAT}, without which a link has the time at which it was made",
                capability="set_modified", backend=NAME,
            )  # fmt: skip
        self.check_target(session, path, "make_link", overwrite=overwrite)
        folder = parent(path)
        name = self._place.full(session, folder).rstrip(b"/") + b"/" + new_hidden().encode()
        self.live.add(name)
        try:
            try:
                session.call(SYMLINK, string(target), string(name))
            except Status as error:
                if look(session, self._place.full(session, folder)) is not None and not is_absent(error):
                    raise
                self._place.make_folders(session, folder, path, "make_link")
                session.call(SYMLINK, string(target), string(name))
            check = self.look_again(session, path, "make_link")
            if mtime is not None:
                session.call(EXTENDED, string(LSETSTAT.encode()), string(name), Attrs(mtime=mtime).packed())
            found = look(session, name)
            check()
            if found is None:
                raise NotFound("somebody removed the link before it got its name", path=path, backend=NAME)
            return name, info_of(path, found)
        except BaseException:
            self.live.discard(name)
            self.leftovers.append(name)
            raise


def _checked(path: str, target: str) -> bytes:
    try:
        raw = sort_key(target)
    except UnicodeEncodeError:
        raw = b""
    if not raw or b"\0" in raw or len(raw) > LONGEST_TARGET:
        raise InvalidPath(
            f"a link's target is 1 to {LONGEST_TARGET:,} bytes without NUL", path=path, op="make_link", backend=NAME
        )
    return raw
