"""What comes when both listings were read: renames, deletions and what waits for them.

Whatever is not safe is turned down here, before the first deletion is planned: after a listing error, with an empty
source, or beyond the limits nothing is deleted at all.
"""

from __future__ import annotations

from collections.abc import Iterator

from omnistorage.sync.entries import Entry, Fold
from omnistorage.sync.options import SyncOptions

from .actions import Action, Spool
from .comparison import Comparison
from .incomplete_folders import lies_below
from .renames import RenameFinder
from .statistics import Seen


class Ending:
    """Collects while the listings are read, then yields in the order in which it is safe."""

    def __init__(self, options: SyncOptions, seen: Seen, comparison: Comparison, fold: Fold) -> None:
        self.o, self.seen = options, seen
        self.comparison, self.fold = comparison, fold
        self.deletes, self.folders, self.late, self.new = Spool(), Spool(), Spool(), Spool()
        self._kept: set[str] = set()  # names below which nothing gives way after all
        self._gave: set[str] = set()
        self._renamed: set[str] = set()

    def close(self) -> None:
        for spool in (self.deletes, self.folders, self.late, self.new):
            spool.close()

    # -- collecting ----------------------------------------------------------------------------------------------------

    def copy(self, action: Action) -> Iterator[Action]:
        """A new object: at once, unless it could be one that has another name at the destination."""
        if self.o.renames:
            self.new.add(action)
        else:
            yield action

    def superfluous(self, b: Entry) -> bool:
        """An object that the source does not have is to be deleted; False if it is one of our own backups."""
        if self.o.suffix and b.path.endswith(self.o.suffix):
            return False
        self.deletes.add(Action("delete", b.path, "not at the source", b.info.size, expect_dst=b.info))
        return True

    def gives_way(self, b: Entry, why: str) -> None:
        """The object is deleted as its name, or a folder of its name, is needed."""
        if b.path not in self._gave:
            self._gave.add(b.path)
            self.deletes.add(Action("delete", b.path, why, b.info.size, expect_dst=b.info))

    def keep_below(self, path: str) -> None:
        """What was to give way below ``path`` stays."""
        self._kept.add(self.fold(path))

    # -- the end -------------------------------------------------------------------------------------------------------

    def actions(self, failed: set[str], included: int, errors: int) -> Iterator[Action]:
        """The end of a plan in which so many ``included`` objects of the source, and ``errors``, were seen. ``failed``
        are the source's folders, by their folded names, that could not be listed.

        Copies come first, then renames, then deletions: what takes a name away waits for what might fail.
        """
        wrong = (errors or self.seen.listing_errors) and not self.o.ignore_errors
        # A rename takes an old name away: what is not safe to delete is not safe to rename.
        renames, others = self._renames(None if wrong else failed)
        try:
            why = self._refused(failed, included)
            yield from others
            if why or wrong:
                self._renamed.clear()
                yield from (_copied(action) for action in renames)
                yield from self._turned_down(why)
                return
            yield from renames
        finally:
            renames.close()
            others.close()
        yield from self._deletes(failed)
        for action in self.folders:
            if not self._is_below(action, self._kept) and not self._is_below(action, failed):
                yield action
        yield from self.late

    def _turned_down(self, why: str) -> Iterator[Action]:
        """What there is to say where nothing is deleted."""
        if why:
            yield Action("error", "", why)
        self.seen.blocked = sum(1 for _ in self._deletes(set()))
        if not why and self.seen.blocked:
            self.seen.warn("there were errors, so nothing is deleted; ignore_errors deletes all the same")
        for action in self.late:
            yield action._replace(kind="error", why="what is in its way is not deleted")

    def _deletes(self, failed: set[str]) -> Iterator[Action]:
        for action in self.deletes:
            if action.path in self._renamed or self._is_below(action, self._kept):
                continue
            if self._is_below(action, failed):
                self.seen.blocked += 1
            else:
                yield action

    def _renames(self, failed: set[str] | None) -> tuple[Spool, Spool]:
        """New objects that are to be deleted ones under another name, and the other new ones. None: there are no
        renames."""
        deletes = self._deletes(failed) if len(self.new) and failed is not None else iter(())
        finder = RenameFinder(self.seen, self.comparison, deletes)
        renames, others = Spool(), Spool()
        for new in self.new:
            old = finder.take(new)
            if old is None:
                others.add(new)
            else:
                self._renamed.add(old.path)
                renames.add(
                    new._replace(kind="rename", why="the same object", expect_dst=old.expect_dst, other=old.path)
                )
        return renames, others

    def _is_below(self, action: Action, folders: set[str]) -> bool:
        return bool(folders) and lies_below(self.fold(action.path), folders)

    def _refused(self, failed: set[str], included: int) -> str:
        """Why it would be too dangerous to delete; ``""`` if it is not."""
        o, seen = self.o, self.seen
        count = size = 0
        for action in self._deletes(failed):
            count, size = count + 1, size + (action.size or 0)
        seen.blocked = 0
        if not count and not len(self.folders):
            return ""
        if not included and not o.allow_empty_source:
            return (
                f"the source is empty, so nothing is deleted of {seen.destination_objects:,} objects; "
                "allow_empty_source means it"
            )
        limit = o.delete_limit(seen.destination_objects)
        if count > limit:
            return (
                f"{count:,} of {seen.destination_objects:,} objects would be deleted, max_delete allows "
                f"{o.max_delete if isinstance(o.max_delete, str) else f'{o.max_delete:,}'}: nothing is deleted"
            )
        if o.max_delete_size is not None and size > o.max_delete_size:
            return f"{size:,} bytes would be deleted, max_delete_size allows {o.max_delete_size:,}: nothing is deleted"
        return ""


def _copied(rename: Action) -> Action:
    """The rename as the copy that it saves."""
    return rename._replace(kind="copy", why="new", expect_dst=None, other=None)
