"""What comes when both listings were read: renames, deletions and what waits for them. Imports floors 0 and 2.

Whatever is not safe is turned down here, before the first deletion is planned: after a listing error, with an empty
source, or beyond the limits nothing is deleted at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..core import ObjectInfo
from ..errors import StorageError
from .actions import Action, Spool
from .compare import Comparison, same_digest
from .places import Entry

if TYPE_CHECKING:
    from .plan import Plan

MOST_RENAMES = 100_000
"""Objects to be deleted that are held against new ones; beyond it they are not."""


class Ending:
    """Collects while the listings are read, then yields in the order in which it is safe."""

    def __init__(self, plan: Plan, comparison: Comparison) -> None:
        self.plan, self.o, self.seen = plan, plan.options, plan.seen
        self.comparison = comparison
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
        self._kept.add(path)

    # -- the end -------------------------------------------------------------------------------------------------------

    def actions(self, failed: set[str], included: int, errors: int) -> Iterator[Action]:
        """The end of a plan in which so many ``included`` entries of the source, and ``errors``, were seen."""
        yield from self._renames(errors)
        why = self._refused(failed, included)
        wrong = (errors or self.seen.listing_errors) and not self.o.ignore_errors
        if why:
            yield Action("error", "", why)
        if why or wrong:
            self.seen.blocked = sum(1 for _ in self._deletes(set()))
            if not why and self.seen.blocked:
                self.seen.warn("there were errors, so nothing is deleted; ignore_errors deletes all the same")
            for action in self.late:
                yield action._replace(kind="error", why="what is in its way is not deleted")
            return
        yield from self._deletes(failed)
        for action in self.folders:
            if not lies_below(action.path, self._kept) and not lies_below(action.path, failed):
                yield action
        yield from self.late

    def _deletes(self, failed: set[str]) -> Iterator[Action]:
        for action in self.deletes:
            if action.path in self._renamed or lies_below(action.path, self._kept):
                continue
            if lies_below(action.path, failed):
                self.seen.blocked += 1
            else:
                yield action

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

    # -- renames -------------------------------------------------------------------------------------------------------

    def _renames(self, errors: int) -> Iterator[Action]:
        """New objects that are to be deleted ones under another name, then the other new ones."""
        # A rename takes an old name away: what is not safe to delete is not safe to rename.
        safe = not (self.seen.listing_errors or errors) or self.o.ignore_errors
        candidates = self._candidates() if len(self.new) and safe else {}
        rest = Spool()
        try:
            for action in self.new:
                old = self._match(action, candidates)
                if old is None:
                    rest.add(action)
                else:
                    self._renamed.add(old.path)
                    yield Action(
                        "rename",
                        action.path,
                        "the same object",
                        action.size,
                        action.expect_src,
                        old.expect_dst,
                        old.path,
                    )
            yield from rest
        finally:
            rest.close()

    def _candidates(self) -> dict[int, list[Action]]:
        found: dict[int, list[Action]] = defaultdict(list)
        for number, action in enumerate(self.deletes):
            if number >= MOST_RENAMES:
                self.seen.warn(
                    f"more than {MOST_RENAMES:,} objects to delete: renames were sought among the first only"
                )
                break
            if action.size:
                found[action.size].append(action)
        return found

    def _match(self, new: Action, candidates: dict[int, list[Action]]) -> Action | None:
        among = candidates.get(new.size or 0, ())
        for old in among:
            if self._is_same(new, old):
                among.remove(old)  # type: ignore[union-attr]
                return old
        return None

    def _is_same(self, new: Action, old: Action) -> bool:
        a, b = new.expect_src, old.expect_dst
        assert a is not None
        assert b is not None
        by = self.o.renames
        if "leaf" in by and a.name != b.name:
            return False
        if "modtime" in by:
            if a.modified_at is None or b.modified_at is None:
                return False
            if a.modified_at != b.modified_at and abs(a.modified_at - b.modified_at) >= self.comparison.window:
                return False
        return "hash" not in by or self._same_content(a, b)

    def _same_content(self, a: ObjectInfo, b: ObjectInfo) -> bool:
        verdict = same_digest(a, b)
        if verdict is None:
            try:
                verdict = self.comparison.by_digest(a, b)
            except StorageError:
                return False  # then it is transferred
        return verdict == "equal"


def lies_below(path: str, folders: set[str]) -> bool:
    """Whether ``path`` lies below one of ``folders``."""
    if not folders:
        return False
    while path := path.rpartition("/")[0]:
        if path in folders:
            return True
    return False
