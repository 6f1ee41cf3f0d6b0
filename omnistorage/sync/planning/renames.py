"""Finding the objects that only have another name at the destination.

Name, size or time only suggest a rename. It is planned if the object is known to be the same: by a digest, or by the
time of its source where neither ``hash`` nor ``checksum`` asks for digests. Otherwise the object is copied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from omnistorage.core import ObjectInfo
from omnistorage.errors import StorageError
from omnistorage.sync.endpoint import Side

from .actions import Action
from .comparison import EQUAL, Comparison

if TYPE_CHECKING:
    from .statistics import Seen

MOST_RENAMES = 100_000
"""Objects to be deleted that are held against new ones; beyond it they are not."""


class RenameFinder:
    """Takes new objects and finds each among those to be deleted."""

    def __init__(self, seen: Seen, comparison: Comparison, deletes: Iterator[Action]) -> None:
        self._seen, self._comparison = seen, comparison
        self._by = comparison.options.renames
        self._asked: dict[tuple[str, str], ObjectInfo] = {}
        self._candidates: dict[int, list[Action]] = defaultdict(list)
        for number, action in enumerate(deletes):
            if number >= MOST_RENAMES:
                seen.warn(f"more than {MOST_RENAMES:,} objects to delete: renames were sought among the first only")
                break
            if action.size:
                self._candidates[action.size].append(action)

    def take(self, new: Action) -> Action | None:
        """The deletion of the object that ``new`` would copy, which is not a candidate any more; None if there is
        none."""
        among = self._candidates.get(new.size or 0, [])
        for old in among:
            if self._is_same(new, old):
                among.remove(old)
                return old
        return None

    def _is_same(self, new: Action, old: Action) -> bool:
        a, b = new.expect_src, old.expect_dst
        assert a is not None
        assert b is not None
        if "leaf" in self._by and a.name != b.name:
            return False
        if "modtime" in self._by:
            if a.modified_at is None or b.modified_at is None:
                return False
            if a.modified_at != b.modified_at and abs(a.modified_at - b.modified_at) >= self._comparison.window:
                return False
        try:
            return self._is_verified(a, b)
        except StorageError:
            return False  # then it is transferred

    def _is_verified(self, a: ObjectInfo, b: ObjectInfo) -> bool:
        compare = self._comparison
        if "hash" not in self._by and a.modified_at == b.modified_at and compare.same_times(a, b):
            return True  # a time that is only close is set to that of the source, so it must not vouch for the content
        a, b = self._stat(compare.src, a), self._stat(compare.dst, b)
        verdict = compare.same_content(a, b)
        if verdict is None and "hash" in self._by:
            self._seen.warn(
                "track_renames=hash recognises nothing: no digest can be had of both sides. Use modtime or leaf"
            )
            return False
        return verdict == EQUAL if verdict is not None else compare.same_source_time(a, b)

    def _stat(self, side: Side, info: ObjectInfo) -> ObjectInfo:
        """What the store says of the object when it is asked, once for each object."""
        found = self._asked.get((side.role, info.path))
        if found is None:
            if len(self._asked) >= 2 * MOST_RENAMES:
                self._asked.clear()
            found = self._asked[side.role, info.path] = self._comparison.asked(side, info)
        return found
