"""A folder of the local file system as a backend.

Every call starts at a descriptor of the root and resolves beneath it, so that no ``..``, absolute path or symlink leads
out, even while others move folders and swap symlinks. Writes go to a hidden temporary and appear whole. Listings come
in key order, lazily, and are complete or raise.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Any

from omnistorage.backends.streams import check_conditions
from omnistorage.core import WRITE, CopyOptions, Features, ListOptions, ObjectInfo, ReadOptions, WriteOptions
from omnistorage.core.option_checks import check_time
from omnistorage.errors import (
    AlreadyExists,
    CapabilityNotSupported,
    ConfigError,
    InvalidPath,
    NotFound,
    OutcomeUnknown,
    StorageError,
)
from omnistorage.paths import check_key, check_new, parent
from omnistorage.posix import HANDLE, OS, READ_FILE, READ_FOLDER, REAL, expanded

from .links import LocalPowers
from .reader import (
    ABSENT,
    NAME,
    NOTHING_THERE,
    Folder,
    LocalReader,
    TreeListing,
    close_quietly,
    info_of,
    is_temporary,
    list_folder,
    names_in,
    translate,
)
from .root import Root
from .stale_uploads import empty_folder, remove_temporaries
from .writer import (
    LocalAppender,
    LocalWriter,
    check_target,
    is_one_entry,
    is_same_file,
    look,
    new_appender,
    new_writer,
    set_modified,
)

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_FEATURES = Features(
    read=True,
    write=True,
    delete=True,
    list=True,
    sorted_list=True,
    list_seek=True,
    stat=True,
    copy=True,
    move=True,
    atomic_move=True,
    dirs=True,
    range_read=True,
    lazy_read=True,
    atomic_write=True,
    create_only=True,
    purge=True,
    set_modified=True,
    append=True,
    modified_precision=timedelta(microseconds=1),
)

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")


class _NothingToCopyError(Exception):
    """Source and destination are one directory entry."""


class LocalBackend(LocalPowers):
    """The files under the folder ``root``, which need not exist before the first write makes it.

    A key is a relative path. Symlinks inside the root are followed by reads and replaced by writes; ``list`` yields
    them as kind ``"link"`` and does not follow them; one that leads out of the root raises ``InvalidPath``. ``list``
    and ``list_dir`` do follow a symlink that is named as the folder to list. A write keeps the mode that the file it
    replaces had when the writer was opened; new files get what the umask leaves. ``durable=True`` survives a power cut
    once ``close`` has returned.

    ``private=True`` is for state: files get mode 0600 and folders 0700 from the first instant, with the root and the
    folders above it that are missing. A root that other users can write to raises ``PermissionDenied``.

    What killed writers leave behind is hidden from listings and removed by ``remove_stale_uploads``; ``rmdir`` and
    ``purge`` clear it away too.
    """

    name = NAME
    instant = True  # as its readers and writers are
    features = _FEATURES
    durable = True

    def __init__(self, root: str | os.PathLike[str], *, private: bool = False, _os: OS = REAL) -> None:
        given = os.fspath(root) if isinstance(root, os.PathLike) else root
        if not isinstance(given, str) or not given or "\0" in given:
            raise ConfigError(f"root is the path of a folder, not {given!r}")
        self.root = os.path.abspath(expanded(root))
        try:
            raw = os.fsencode(self.root.rstrip("/") + "/")
        except UnicodeEncodeError as error:
            raise ConfigError(f"no file system holds the root {given!r}") from error
        self.url = "file://" + "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in raw)
        self._os = _os
        self._at = Root(_os, self.root, private=private)

    def native(self) -> object:
        from pathlib import Path  # it brings urllib along

        return Path(self.root)

    @classmethod
    def options_from_path(cls, path: str, *, is_object: bool) -> tuple[dict[str, Any], str]:
        """The options that open a plain file path, and the path left: its folder and name, or all of it as the root."""
        if "\0" in path or not path:
            raise ConfigError(f"not a file path: {path!r}")
        full = os.path.abspath(expanded(path))
        if not is_object:
            return {"root": full}, ""
        if path.endswith("/") or full == "/":
            raise ConfigError(f"{path!r} is a folder; name a file in it")
        folder, name = os.path.split(full)
        return {"root": folder}, name

    @classmethod
    def options_from_url(cls, parts: SplitResult, *, is_object: bool) -> tuple[dict[str, Any], str]:
        """The same for ``file:///path`` (RFC 8089; percent-encoded)."""
        from urllib.parse import unquote  # costs milliseconds, and only URLs need it

        if parts.netloc not in ("", "localhost"):
            raise ConfigError(f"a file URL has three slashes before its path: file:///...{parts.path}")
        return cls.options_from_path(unquote(parts.path, errors="surrogateescape"), is_object=is_object)

    def __repr__(self) -> str:
        return f"LocalBackend({self.root!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.root, self._at.chain, self._at.private)

    def _close(self) -> None:
        self._at.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _open_file(self, path: str, op: str, flags: int = READ_FILE) -> tuple[int, os.stat_result]:
        """Open an existing regular file beneath the root."""
        os_ = self._os
        try:
            root = self._at.open()
            fd = self._at.open_beneath(root, path, flags)
            try:
                found = os_.fstat(fd)
                if S_ISREG(found.st_mode):
                    return fd, found
            except BaseException:
                close_quietly(os_, fd)
                raise
            close_quietly(os_, fd)
        except OSError as error:
            raise translate(error, op, path, reading=True) from error
        if S_ISDIR(found.st_mode):
            raise NotFound("this is a folder, not an object", path=path, op=op, backend=NAME)
        raise InvalidPath("not a regular file", path=path, op=op, backend=NAME)

    def _open_reader(self, path: str, options: ReadOptions) -> LocalReader:
        self._key(path, "open_reader")
        if options.version is not None:
            self._refuse("version", "open_reader", path)
        fd, found = self._open_file(path, "open_reader")
        reader = LocalReader(self._os, fd, info_of(path, found), found, options)
        if options.if_match is not None or options.if_none_match is not None:
            try:
                check_conditions(reader.info, options, NAME)
            except BaseException:
                reader.close()
                raise
        return reader

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self._enter("range_read", "read_ranges", path)
        self._key(check_key(path, op="read_ranges"), "read_ranges")
        for offset, length in ranges:
            ReadOptions(offset, length)  # refuses what counts from below zero
        fd, found = self._open_file(path, "read_ranges")
        with LocalReader(self._os, fd, info_of(path, found), found, ReadOptions()) as reader:
            return [reader.read_range(offset, length) for offset, length in ranges]

    def _look(self, path: str) -> os.stat_result | None:
        """What ``path`` leads to without leaving the root, None for a folder. Raises OSError."""
        os_ = self._os
        root = self._at.open()
        if "/" not in path:  # then there is no way out but the last step, and that is not followed
            found = os_.stat(path, dir_fd=root.fd, follow_symlinks=False)
            if S_ISREG(found.st_mode):
                return found
        fd = self._at.open_beneath(root, path, HANDLE)
        try:
            found = os_.fstat(fd)
        finally:
            close_quietly(os_, fd)
        return None if S_ISDIR(found.st_mode) else found

    def _exists(self, path: str) -> bool:
        if self._at.why_not(path) is not None:
            return False
        try:
            return self._look(path) is not None
        except OSError as error:
            if error.errno in NOTHING_THERE:
                return False
            raise translate(error, "exists", path, reading=True) from error

    def _stat(self, path: str) -> ObjectInfo:
        self._key(path, "stat")
        try:
            found = self._look(path)
        except OSError as error:
            raise translate(error, "stat", path, reading=True) from error
        if found is None:
            raise NotFound("this is a folder, not an object", path=path, op="stat", backend=NAME)
        return info_of(path, found)

    # -- listing -------------------------------------------------------------------------------------------------------

    def _list(self, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
        if prefix:
            self._key(prefix, "list")
        return self._listing(prefix, options)

    def _listing(self, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
        try:
            root = self._at.open()
        except OSError as error:
            raise translate(error, "list", prefix, reading=True) from error
        try:
            base = self._at.folder(root, prefix)
        except OSError as error:
            if error.errno in ABSENT:
                return  # nothing under this prefix
            raise translate(error, "list", prefix) from error
        yield from TreeListing(self._os, base, prefix, options)

    def _list_dir(self, path: str) -> Iterator[ObjectInfo]:
        if path:
            self._key(path, "list_dir")
        return self._children(path)

    def _children(self, path: str) -> Iterator[ObjectInfo]:
        try:
            folder = self._at.folder(self._at.open(), path, READ_FOLDER)
        except OSError as error:
            raise translate(error, "list_dir", path, reading=True) from error
        yield from list_folder(self._os, folder, path)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _open_writer(self, path: str, options: WriteOptions) -> LocalWriter:
        return self._writer(path, options, "open_writer")

    def _writer(self, path: str, options: WriteOptions, op: str) -> LocalWriter:
        self._key(path, op)
        try:
            return new_writer(self._at, path, options, op)
        except StorageError:
            raise
        except OSError as error:
            raise translate(error, op, path) from error

    def open_appender(self, path: str, options: WriteOptions = WRITE) -> LocalAppender:
        """A writer at the end of the file ``path``, which is made if absent. One appender at a time: another one, in
        any process, gets ``BackendUnavailable``. What is written is visible at once; ``abort`` takes it back."""
        self._enter("append", "open_appender", path)
        check_new(path, op="open_appender")
        self._check_write(path, options, "open_appender")
        self._key(path, "open_appender")
        try:
            return new_appender(self._at, path, options)
        except StorageError:
            raise
        except OSError as error:
            raise translate(error, "open_appender", path) from error

    def set_metadata(
        self, path: str, *, modified_at: datetime | None = None, user_metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        self._enter("set_modified", "set_metadata", path)
        self._key(check_key(path, op="set_metadata"), "set_metadata")
        if user_metadata is not None:
            self._refuse("user_metadata", "set_metadata", path)
        check_time(modified_at)
        if modified_at is None:
            return self.stat(path)
        fd, _ = self._open_file(path, "set_metadata")
        try:
            set_modified(self._os, fd, modified_at)
            return info_of(path, self._os.fstat(fd))
        except OSError as error:
            raise translate(error, "set_metadata", path) from error
        finally:
            close_quietly(self._os, fd)

    # -- deleting, copying, moving -------------------------------------------------------------------------------------

    def _delete(self, path: str, if_match: str | None) -> bool:
        self._key(path, "delete")
        above, _, leaf = path.rpartition("/")
        try:
            with self._at.folder(self._at.open(), above) as folder:
                try:
                    self._os.unlink(leaf, dir_fd=folder.fd)
                except PermissionError:
                    found = look(self._os, folder, leaf)  # what some systems say of a folder
                    if found is None or S_ISDIR(found.st_mode):
                        return False
                    raise
            return True
        except OSError as error:
            if error.errno in ABSENT or error.errno == errno.EISDIR:
                return False
            raise translate(error, "delete", path) from error

    def _source(self, options: CopyOptions, src: str, dst: str, op: str) -> LocalBackend:
        source = options.source or self
        if not isinstance(source, LocalBackend):
            self._refuse("source", op, src)
        source._key(src, op)
        self._key(dst, op)
        return source

    def _copy(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        source = self._source(options, src, dst, "copy")
        fd, found = source._open_file(src, "copy")
        try:
            with self._writer(dst, WriteOptions(overwrite=options.overwrite), "copy") as writer:
                if is_same_file(writer.found, found) and self._is_onto_itself(source, src, dst):
                    raise _NothingToCopyError
                writer.fill_from(fd)
            return writer.close()
        except _NothingToCopyError:
            return info_of(dst, found)
        finally:
            close_quietly(self._os, fd)

    def _is_onto_itself(self, source: LocalBackend, src: str, dst: str) -> bool:
        try:
            with (
                source._at.folder(source._at.open(), parent(src)) as from_,
                self._at.folder(self._at.open(), parent(dst)) as to,
            ):
                return is_one_entry(self._os, from_, src.rpartition("/")[2], to, dst.rpartition("/")[2])
        except OSError as error:
            raise translate(error, "copy", dst) from error

    def _move(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        source = self._source(options, src, dst, "move")
        above, _, leaf = src.rpartition("/")
        try:
            from_ = source._at.folder(source._at.open(), above)
        except OSError as error:
            raise translate(error, "move", src, reading=True) from error
        with from_:
            try:
                found = self._os.stat(leaf, dir_fd=from_.fd, follow_symlinks=False)
            except OSError as error:
                raise translate(error, "move", src, reading=True) from error
            if S_ISDIR(found.st_mode):
                raise NotFound("this is a folder, not an object", path=src, op="move", backend=NAME)
            try:
                with self._at.make_folder(parent(dst)) as to, to.undone_on_error():
                    self._rename(from_, leaf, found, to, dst, options.overwrite)
            except StorageError:
                raise
            except OSError as error:
                raise translate(error, "move", dst) from error
        return info_of(dst, found)

    def _rename(self, from_: Folder, leaf: str, found: os.stat_result, to: Folder, dst: str, overwrite: bool) -> None:
        os_ = self._os
        name = dst.rpartition("/")[2]
        there = check_target(os_, to, name, dst, overwrite=overwrite, op="move")
        try:
            if not overwrite:
                os_.link(leaf, name, src_dir_fd=from_.fd, dst_dir_fd=to.fd, follow_symlinks=False)
            elif not is_same_file(there, found) or is_one_entry(os_, from_, leaf, to, name):
                os_.rename(leaf, name, src_dir_fd=from_.fd, dst_dir_fd=to.fd)
                return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise CapabilityNotSupported(
                "source and destination are on different file systems: copy, then delete",
                capability="atomic_move",
                path=dst,
                op="move",
                backend=NAME,
            ) from error
        try:  # two names stand for the one file now, or did so before: rename would do nothing
            os_.unlink(leaf, dir_fd=from_.fd)
        except OSError as error:
            raise OutcomeUnknown(
                "the object has its new name, but the old one could not be removed",
                path=dst,
                op="move",
                backend=NAME,
            ) from error

    # -- folders -------------------------------------------------------------------------------------------------------

    def _mkdir(self, path: str) -> None:
        self._key(path, "mkdir")
        try:
            self._at.make_folder(path).close()
        except NotADirectoryError as error:
            if self._exists(path):
                raise AlreadyExists("an object has this name", path=path, op="mkdir", backend=NAME) from error
            raise translate(error, "mkdir", path) from error
        except OSError as error:
            raise translate(error, "mkdir", path) from error

    def _rmdir(self, path: str) -> None:
        self._key(path, "rmdir")
        self._at.forget_synced()
        above, _, leaf = path.rpartition("/")
        os_ = self._os
        try:
            with self._at.folder(self._at.open(), above) as folder:
                try:
                    os_.rmdir(leaf, dir_fd=folder.fd)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    with Folder(os_, os_.open(leaf, READ_FOLDER | os.O_NOFOLLOW, dir_fd=folder.fd)) as inner:
                        names = names_in(os_, inner.fd)
                        if all(map(is_temporary, names)):
                            remove_temporaries(os_, inner, names)
                    os_.rmdir(leaf, dir_fd=folder.fd)
        except OSError as error:
            raise translate(error, "rmdir", path, reading=True) from error

    def purge(self, path: str) -> None:
        """Delete the folder ``path`` and all that is under it, temporaries too; what symlinks lead to stays."""
        self._enter("purge", "purge", path)
        self._key(check_key(path, op="purge"), "purge")
        self._at.forget_synced()
        above, _, leaf = path.rpartition("/")
        os_ = self._os
        try:
            with (
                self._at.folder(self._at.open(), above) as folder,
                Folder(os_, os_.open(leaf, READ_FOLDER | os.O_NOFOLLOW, dir_fd=folder.fd)) as base,
            ):
                empty_folder(os_, base)
                os_.rmdir(leaf, dir_fd=folder.fd)
        except StorageError:
            raise
        except OSError as error:
            raise translate(error, "purge", path, reading=True) from error


def _again(cls: type[LocalBackend], root: str, chain: tuple[str, ...], private: bool) -> LocalBackend:
    made = cls(root, private=private)
    for folder in chain:
        made = made.confined(folder)
    return made
