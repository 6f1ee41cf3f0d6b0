"""Symbolic links as small files, so that they can be kept where there are none.

The link ``x`` shows as the file ``x.rclonelink``, which holds what the link says: rclone's ``--links`` has it so, and
each reads what the other wrote.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping
from datetime import datetime

from omnistorage import ops
from omnistorage.core import (
    LIST,
    READ,
    WRITE,
    Data,
    ExtendedBackend,
    FolderTimes,
    Links,
    ListOptions,
    ObjectInfo,
    Reader,
    ReadOptions,
    SetMetadata,
    WriteOptions,
    Writer,
    power,
)
from omnistorage.core.lifecycle import Closes, Publishes
from omnistorage.errors import AlreadyExists, CorruptData, InvalidPath, NotFound, StorageError
from omnistorage.ops.copying import Digests
from omnistorage.paths import parent, sort_key
from omnistorage.wrappers.base import Wrapper

from .endpoint import Side

SUFFIX = ".rclonelink"
_KNOWN_FOLDERS = 10_000
_LONGEST = 64 << 10


def store_links(side: Side) -> None:
    """Have ``side`` show its links as files, if it can have any."""
    if power(side.backend, Links) is not None:
        side.backend = ops.extended(StoredLinks(side.backend, side.prefix))
        side.features = side.backend.features


class StoredLinks(Wrapper):
    """``inner``, whose links are files of another name. A file that has such a name by itself is shown as neither file
    nor folder, as its name is taken. Nothing is written through a link that stands where a folder is needed.

    ``x`` and ``x.rclonelink`` are two names here and one of ``inner``'s: where the one is, the other is refused
    (``AlreadyExists``)."""

    clears = frozenset({"copy", "move", "atomic_move", "append", "purge"})
    adapts = frozenset({FolderTimes, SetMetadata})

    def __init__(self, inner: ExtendedBackend, root: str = "") -> None:
        super().__init__(inner)
        links = power(inner, Links)
        assert links is not None
        self._links: Links = links
        self._folders = {root}  # that may be written to: ``root`` was named by the user, the others are no links

    def _link(self, path: str) -> tuple[bytes, ObjectInfo] | None:
        """What the link says that shows as ``path``, and how it shows."""
        if not path.endswith(SUFFIX) or path.endswith("/" + SUFFIX) or path == SUFFIX:
            return None
        try:
            target, info = self._links.read_link(path.removesuffix(SUFFIX))
        except NotFound:
            return None
        raw = sort_key(target)
        return raw, ObjectInfo(path, len(raw), info.modified_at)

    def _is_link(self, path: str) -> bool:
        try:
            self._links.read_link(path)
        except NotFound:
            return False
        return True

    def _must_be_none(self, path: str, op: str) -> None:
        """A link has no object of its own name."""
        if self._is_link(path):
            raise NotFound("this is a symbolic link", path=path, op=op, backend=self.name)

    # -- reading -------------------------------------------------------------------------------------------------------

    def open_reader(self, path: str, options: ReadOptions = READ) -> Reader:
        found = self._link(path)
        if found is not None:
            return _LinkReader(*found, options)
        self._must_be_none(path, "open_reader")
        return super().open_reader(path, options)

    def stat(self, path: str) -> ObjectInfo:
        found = self._link(path)
        if found is not None:
            return found[1]
        self._must_be_none(path, "stat")
        return super().stat(path)

    def exists(self, path: str) -> bool:
        """Also if the other kind has the name: it is taken."""
        return self._is_link(path) or self._link(path) is not None or super().exists(path.removesuffix(SUFFIX))

    def list(self, prefix: str = "", options: ListOptions = LIST) -> Iterator[ObjectInfo]:
        after = None if options.start_after is None else sort_key(options.start_after)
        infos = ops.walk(self, prefix, descend=lambda folder: True, on_error=options.on_error)
        return infos if after is None else (info for info in infos if sort_key(info.path) > after)

    def list_dir(self, path: str = "") -> Iterator[ObjectInfo]:
        return iter(sorted(map(_shown, super().list_dir(path)), key=_order))

    # -- changing ------------------------------------------------------------------------------------------------------

    def open_writer(self, path: str, options: WriteOptions = WRITE) -> Writer:
        self._must_hold(parent(path))
        if not path.endswith(SUFFIX) or path.endswith("/" + SUFFIX) or path == SUFFIX:
            if self._is_link(path):
                raise AlreadyExists("a symbolic link has this name", path=path, op="open_writer", backend=self.name)
            return super().open_writer(path, options)
        self._need_all(options, "open_writer", path)
        if super().exists(path.removesuffix(SUFFIX)) and not self._is_link(path.removesuffix(SUFFIX)):
            raise AlreadyExists("a file has the name of this link", path=path, op="open_writer", backend=self.name)
        return _LinkWriter(self._links, path, options)

    def mkdir(self, path: str) -> None:
        self._must_hold(path)
        super().mkdir(path)

    def set_folder_time(self, path: str, modified_at: datetime) -> None:
        self._must_hold(path)
        super().set_folder_time(path, modified_at)

    def delete(self, path: str, *, if_match: str | None = None) -> bool | None:
        if self._link(path) is not None:
            return super().delete(path.removesuffix(SUFFIX), if_match=if_match)
        return False if self._is_link(path) else super().delete(path, if_match=if_match)

    def set_metadata(
        self, path: str, *, modified_at: datetime | None = None, user_metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        found = self._link(path)
        if found is None:
            return super().set_metadata(path, modified_at=modified_at, user_metadata=user_metadata)
        info = self._links.make_link(
            path.removesuffix(SUFFIX), found[0].decode("utf-8", "surrogateescape"), modified_at=modified_at
        )
        return found[1]._replace(modified_at=info.modified_at)

    def _must_hold(self, folder: str) -> None:
        """Raise ``InvalidPath`` if ``folder``, or one above it, is a link."""
        missing: builtins.list[str] = []
        while folder and folder not in self._folders:
            if self._is_link(folder):
                raise InvalidPath(
                    f"{folder!r} is a symbolic link, and what is written below it would land where it leads",
                    path=folder, backend=self.name, op="open_writer",
                )  # fmt: skip
            missing.append(folder)
            folder = parent(folder)
        if len(self._folders) < _KNOWN_FOLDERS:
            self._folders.update(missing)


def _shown(info: ObjectInfo) -> ObjectInfo:
    if info.kind == "link":
        return ObjectInfo(info.path + SUFFIX, info.size, info.modified_at)
    if info.kind == "file" and info.path.endswith(SUFFIX):
        return info._replace(kind="other")
    return info


def _order(info: ObjectInfo) -> bytes:
    return sort_key(info.path + "/" if info.is_dir else info.path)


class _LinkReader(Closes):
    def __init__(self, target: bytes, info: ObjectInfo, options: ReadOptions) -> None:
        ends = None if options.length is None else options.offset + options.length
        self.info = info
        self._rest = target[options.offset : ends]

    def read(self, size: int = -1, /) -> bytes:
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def close(self) -> None:
        self._rest = b""


class _LinkWriter(Publishes):
    """Gathers what a link is to say, and makes it when it is closed."""

    def __init__(self, links: Links, path: str, options: WriteOptions) -> None:
        self.result: ObjectInfo | None = None
        self._links, self._path, self._options = links, path, options
        self._target = b""
        self._digests = Digests(ObjectInfo(path, hashes=options.expect))
        self._open = True

    def write(self, data: Data, /) -> int:
        self._check_open()
        if len(self._target) + len(data) > _LONGEST:
            raise InvalidPath("this is longer than what any link says", path=self._path, op="write")
        self._target += data
        self._digests.update(bytes(data))
        return len(data)

    def flush(self) -> None:
        self._check_open()

    def prepare(self) -> None:
        self._check_open()
        o, size = self._options, len(self._target)
        found = self._digests.hexdigests()
        if o.size not in (None, size) or any(
            found.get(name, value) != value for name, value in (o.expect or {}).items()
        ):
            raise CorruptData("what was written is not what was announced", path=self._path, op="close")

    def close(self) -> ObjectInfo:
        if self.result is None:
            self.prepare()
            self._open = False
            target = self._target.decode("utf-8", "surrogateescape")
            o = self._options
            info = self._links.make_link(
                self._path.removesuffix(SUFFIX), target, overwrite=o.overwrite, modified_at=o.modified_at
            )
            self.result = ObjectInfo(self._path, len(self._target), info.modified_at)
        return self.result

    def abort(self) -> None:
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise StorageError("the writer is closed", path=self._path, op="write")
