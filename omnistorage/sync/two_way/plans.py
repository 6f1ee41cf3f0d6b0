"""The parts of a ``bisync`` as plans that the engine carries out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from omnistorage import ops
from omnistorage.core import ObjectInfo
from omnistorage.errors import InvalidPath, NotFound, StorageError
from omnistorage.sync.endpoint import Side
from omnistorage.sync.options import SyncOptions
from omnistorage.sync.planning.actions import Action
from omnistorage.sync.planning.plan import Plan
from omnistorage.sync.planning.statistics import Seen

from .state import Rows


class Directed(Action):
    """An action of a bisync; ``to`` is the side that it changes: ``"path1"`` or ``"path2"``."""

    to: str = ""


class Pair(Plan):
    """A plan from one open side to another. What it does is given by whoever derives from it."""

    def __init__(self, src: Side, dst: Side, options: SyncOptions) -> None:
        # Not Plan's own: both sides are open already, may be one, and were checked.
        self.options, self.src, self.dst, self.backup = options, src, dst, None
        self.pool, self.seen = ThreadPoolExecutor, Seen(complete=True)

    def close(self) -> None:
        """The sides belong to the caller."""

    def need(self, *flags: str) -> None:
        """Raise ``CapabilityNotSupported`` unless the destination has all of them."""
        self._need(self.dst, *flags)


class Given(Pair):
    """The actions of a spool, told apart by the side that they change; what they make is kept in ``written``."""

    def __init__(
        self, src: Side, dst: Side, options: SyncOptions, actions: Iterable[Action], to: str, written: Rows
    ) -> None:
        super().__init__(src, dst, options)
        self._actions, self._to, self._written = actions, to, written

    def __iter__(self) -> Iterator[Action]:
        for action in self._actions:
            directed = Directed(*action)
            directed.to = self._to
            yield directed

    def is_done(self, action: Action) -> bool:
        """Never; but a store that creates unconditionally is asked whether a new name still is free."""
        if action.kind == "copy" and not self.dst.features.create_only:
            key = self.dst.key(action.target)
            if self.dst.backend.exists(key):
                raise StorageError("somebody else made an object of this name meanwhile; run again", path=key)
        return False

    def was_done(self, action: Action) -> bool:
        return False

    def made(self, action: Action, info: ObjectInfo) -> None:
        key = self.dst.key(action.target)
        if info.etag is None and info.modified_at is None and self.dst.features.stat:
            info = self.dst.backend.stat(key)  # else an edit that keeps the size could not be told from our own write
        self._written.add(action.target, info)


def empty_folders(side: Side, other: Side, deleted: Iterable[Action]) -> Iterator[Action]:
    """The folders in which a deletion left nothing, deepest first, unless the other side has them."""
    last: list[str] = []
    for action in deleted:
        folders = action.path.split("/")[:-1]
        common = sum(1 for _ in _while_equal(last, folders))
        yield from _removable(side, other, last, common)
        last = folders
    yield from _removable(side, other, last, 0)


def _removable(side: Side, other: Side, folders: list[str], keep: int) -> Iterator[Action]:
    for depth in range(len(folders), keep, -1):
        folder = "/".join(folders[:depth])
        if not _is_empty(side, folder) or _is_there(other, folder):
            return
        yield Action("rmdir", folder, "left empty")


def _is_empty(side: Side, folder: str) -> bool:
    with suppress(StorageError):
        return next(iter(ops.children(side.backend, side.key(folder))), None) is None
    return False


def _is_there(side: Side, folder: str) -> bool:
    try:
        next(iter(ops.children(side.backend, side.key(folder))), None)
    except (NotFound, InvalidPath):
        return False
    except StorageError:
        pass  # who knows
    return True


def _while_equal(one: list[str], other: list[str]) -> Iterator[str]:
    for left, right in zip(one, other, strict=False):
        if left != right:
            return
        yield left
