"""Who has to do what so that two sides agree: four listings, those of now and those of the last good run, merged into
actions. Reads, never writes.

Names come in merge order, so memory is bounded by their depth; what is decided goes into spools. Nothing is carried out
before all of it is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import count
from typing import Any

from omnistorage.errors import BucketNotFound, NotFound, StorageError
from omnistorage.sync.endpoint import Side
from omnistorage.sync.entries import Entry, Fold
from omnistorage.sync.listing.ancestor_stack import Passed
from omnistorage.sync.options import SyncOptions
from omnistorage.sync.planning.actions import Action, Spool
from omnistorage.sync.planning.comparison import EQUAL, SAME, Comparison, same_digest
from omnistorage.sync.versions import is_same_version

from .report import BisyncReport, Conflict
from .state import Rows, info_of, plain_row

KEEP, COPY, SETTLE, DELETE, LATE = range(5)
"""The phases, in the order in which it is safe to act: the losers of conflicts are put aside; copies; the winners take
the names; deletions; copies to names that a deletion made free."""
Step = tuple[int, int, int]
"""A phase, the number of the side that is read and that of the side that is changed."""
NAMES = ("path1", "path2")
_UNCHANGED, _CHANGED, _GONE = range(3)
_TOLD = 5
_Four = list[Entry | None]


def merged(streams: Iterable[Iterator[Entry]]) -> Iterator[tuple[bytes, _Four]]:
    """Every key that any of the sorted streams holds, with the entry that each has for it."""
    sources = list(streams)
    heads = [next(one, None) for one in sources]
    while keys := [head.key for head in heads if head is not None]:
        key, found = min(keys), _Four()
        for number, head in enumerate(heads):
            if head is not None and head.key == key:
                found.append(head)
                heads[number] = next(sources[number], None)
            else:
                found.append(None)
        yield key, found


def entries_of(rows: Iterable[Any], fold: Fold | None) -> Iterator[Entry]:
    """Saved rows as a listing."""
    for info in rows:
        path = info.path if fold is None else fold(info.path)
        yield Entry(path.encode("utf-8", "surrogateescape"), info.path, info)


def precision_of(side: Side) -> timedelta:
    return side.features.modified_precision or timedelta(0)


class Few:
    """How many there were, and the first of them: what can be told whatever their number."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if len(self._first) < _TOLD:
            self._first.append(text)

    def __str__(self) -> str:
        more = self.count - len(self._first)
        return "; ".join(self._first) + (f"; and {more:,} more" if more else "")


class _Waiting:
    """A copy of a new object that waits whether something below its name is deleted first."""

    def __init__(self, step: Step, action: Action) -> None:
        self.step, self.action = step, action


class Decisions:
    """One comparison of both sides with what they were. ``steps`` holds the actions, ``expected`` for each side the
    objects that this run leaves as they are and knows; ``left`` the conflicts that were left, with both versions;
    ``changed`` whether anything has to be done or saved."""

    def __init__(
        self,
        sides: tuple[Side, Side],
        options: SyncOptions,
        policy: str,
        report: BisyncReport,
        fold: Fold | None,
        known: dict[str, Any],
        touch: Callable[[], None],
    ) -> None:
        self.sides, self.o, self.policy, self.report, self.fold = sides, options, policy, report, fold
        self.known, self.touch = known, touch
        self._all = options.filter.is_all
        self.steps: dict[Step, Spool] = {}
        self.expected = Rows(), Rows()
        self.left: dict[str, Any] = {}
        self.changed = False
        self.prior, self.listed, self.vanished = [0, 0], [0, 0], [0, 0]
        self.doubles, self._left_out = Few(), Few()
        self._shields = Passed[None]()
        self._deleting = Passed[None](), Passed[None]()
        self._waiting = Passed[_Waiting](), Passed[_Waiting]()
        self._rule = Comparison(*sides, options)
        self._strict = SyncOptions(checksum="strict")

    def close(self) -> None:
        for rows in self.expected:
            rows.close()
        for spool in self.steps.values():
            spool.close()

    def read(self, prior: tuple[Iterable[Any], Iterable[Any]], *, may_miss: bool) -> None:
        """Decide. Raises what a listing raises: a side that cannot be listed whole is no ground for anything. With
        ``may_miss`` one of the two may not exist yet."""
        missing: list[StorageError] = []
        saved = [entries_of(rows, self.fold) for rows in prior]
        now = [self._listed(side, missing if may_miss else None) for side in self.sides]
        for key, found in merged([saved[0], now[0], saved[1], now[1]]):
            self.touch()
            for dst in range(2):
                self._leave(dst, key)
            for _ in self._shields.leave(key):
                pass
            self._one(key, found)
        for dst in range(2):
            self._leave(dst, None)
        if self._left_out.count:
            what = f"{self._left_out.count:,} ({self._left_out})"
            self.report.warn(f"left out, as they are no plain objects, and whatever lies below these names: {what}")
        if len(missing) == 2:
            raise missing[0]

    def _listed(self, side: Side, missing: list[StorageError] | None) -> Iterator[Entry]:
        def double(one: Entry, other: Entry) -> None:
            self.doubles.add(f"{one.path!r} and {other.path!r} of {side.role}")

        try:
            yield from side.entries(self.o.filter, fold=self.fold, resort=self.o.sort_listings, on_double=double)
        except NotFound as error:
            if missing is None or isinstance(error, BucketNotFound):
                raise
            missing.append(error)

    # -- one name ------------------------------------------------------------------------------------------------------

    def _one(self, key: bytes, found: _Four) -> None:
        before: _Four = [found[0], found[2]]
        hidden = bool(self._shields.above(key))
        now: _Four = []
        for number in range(2):
            entry = found[2 * number + 1]
            if entry is not None and not self._all and not self.o.filter.includes_path(entry.path):
                entry = None
            if entry is not None:
                self.listed[number] += 1
                hidden = self._is_hidden(entry) or hidden
            now.append(entry)
            self.prior[number] += before[number] is not None
        if hidden:
            self._keep(before)  # as long as one side cannot be judged, nothing is learned of the name
            return
        if before == now == [None, None]:
            return  # the filter leaves it out
        for number in range(2):
            self.vanished[number] += before[number] is not None and now[number] is None
        if before[0] is None or before[1] is None:
            self._new(key, before, now)
        else:
            self._judged(key, before, now)

    def _is_hidden(self, entry: Entry) -> bool:
        """Whether the object takes no part, though its name does. Then nothing is known of what it was or will be."""
        if entry.info.kind != "file":
            self._left_out.add(entry.path)
            self._shields.push(entry.key, None)
            return True
        return not self._all and not self.o.filter.includes(entry.path, entry.info)

    def _new(self, key: bytes, before: _Four, now: _Four) -> None:
        """There is no common ancestor: a union."""
        if now[0] is not None and now[1] is not None:
            self._both(key, before, now)
        elif now[0] is None and now[1] is None:
            self.changed = True  # what was saved of it goes
        else:
            one = 0 if now[0] is not None else 1
            self._copy(key, one, now, f"new on {NAMES[one]}")

    def _judged(self, key: bytes, before: _Four, now: _Four) -> None:
        was = [self._state(number, before[number], now[number]) for number in range(2)]
        if was == [_UNCHANGED, _UNCHANGED]:
            self.report.unchanged += 1
            self._expect(now)
        elif was == [_GONE, _GONE]:
            self.changed = True
        elif was == [_CHANGED, _CHANGED]:
            self._both(key, before, now)
        elif _CHANGED in was:
            one = was.index(_CHANGED)
            gone = f", deleted on {NAMES[1 - one]}" if _GONE in was else ""
            self._copy(key, one, now, f"changed on {NAMES[one]}{gone}")
        else:
            gone_from = was.index(_GONE)
            self._delete(key, 1 - gone_from, now[1 - gone_from], f"deleted on {NAMES[gone_from]}")

    def _state(self, number: int, before: Entry | None, now: Entry | None) -> int:
        assert before is not None
        if now is None:
            return _GONE
        same = is_same_version(before.info, now.info, precision_of(self.sides[number]))
        return _UNCHANGED if same else _CHANGED

    # -- on both sides -------------------------------------------------------------------------------------------------

    def _both(self, key: bytes, before: _Four, now: _Four) -> None:
        a, b = now
        assert a is not None
        assert b is not None
        versions = [plain_row(a.path, a.info), plain_row(b.path, b.info)]
        if self.policy == "skip" and self._is_known(a.path, a, b):
            self.left[a.path] = self.known[a.path]
            self._keep(before)
            return
        try:
            same = self._same(a, b, union=before[0] is None or before[1] is None)
            if not same:
                self._conflict(key, before, a, b, versions)
                return
        except StorageError as error:
            self.report.fail(a.path, "compare", error)
            return
        self.report.same += 1
        self.changed = True
        self._expect(now)

    def _is_known(self, path: str, a: Entry, b: Entry) -> bool:
        rows = self.known.get(path)
        if rows is None:
            return False
        pairs = zip(rows, (a, b), self.sides, strict=True)
        return all(is_same_version(info_of(row), entry.info, precision_of(side)) for row, entry, side in pairs)

    def _same(self, a: Entry, b: Entry, *, union: bool) -> bool:
        """Whether two objects hold the same. Where nothing is known of their past, equal times count where both sides
        keep the times of sources; two edits are told apart by content alone."""
        one, other = a.info, b.info
        if self.o.size_only or self.o.compare != "default":
            return (self._rule.quick(one, other) or self._rule.slow(one, other)) in SAME
        if one.size is not None and other.size is not None and one.size != other.size:
            return False
        verdict = same_digest(one, other)
        if verdict is not None:
            return verdict == EQUAL
        keep_times = all(side.features.set_modified for side in self.sides)
        if union and keep_times and not self.o.checksum and self._apart(a, b) == timedelta(0):
            return True
        return self._same_bytes(0, one, 1, other)

    def _same_bytes(self, side: int, one: Any, other_side: int, other: Any) -> bool:
        rule = Comparison(self.sides[side], self.sides[other_side], self._strict)
        return rule.by_digest(one, other) == EQUAL

    def _apart(self, a: Entry, b: Entry) -> timedelta | None:
        """How much later ``b`` was changed; zero within the clocks' precision, None if that is unknown."""
        first, second = a.info.modified_at, b.info.modified_at
        if first is None or second is None:
            return None
        return timedelta(0) if abs(second - first) < self._rule.window else second - first

    def _conflict(self, key: bytes, before: _Four, a: Entry, b: Entry, versions: list[Any]) -> None:
        self.changed = True
        if self.policy == "error":
            self.report.conflict(Conflict(a.path))
            self.report.fail(a.path, "conflict", StorageError("changed on both sides, and not alike", path=a.path))
            return
        if self.policy == "skip":
            self.report.conflict(Conflict(a.path))
            self.left[a.path] = versions
            self._keep(before)
            return
        chosen = self._chosen(a, b)
        winner = chosen if chosen is not None else self._newer(a, b) or 0
        loser = b if winner == 0 else a
        kept = "" if chosen is not None else self._put_aside(1 - winner, loser)
        self.report.conflict(Conflict(a.path, NAMES[winner], kept))
        why = f"in conflict, {NAMES[winner]} has the name" + (f", the other is {kept}" if kept else "")
        self._copy(key, winner, [a, b], why, SETTLE)

    def _chosen(self, a: Entry, b: Entry) -> int | None:
        """The side that the policy prefers; None: both are to be kept."""
        if self.policy in NAMES:
            return NAMES.index(self.policy)
        if self.policy in ("newer", "older"):
            newer = self._newer(a, b)
            return newer if newer is None or self.policy == "newer" else 1 - newer
        sizes = (a.info.size, b.info.size)
        if self.policy == "keep-both" or sizes[0] is None or sizes[1] is None or sizes[0] == sizes[1]:
            return None
        larger = 0 if sizes[0] > sizes[1] else 1
        return larger if self.policy == "larger" else 1 - larger

    def _newer(self, a: Entry, b: Entry) -> int | None:
        apart = self._apart(a, b)
        return None if not apart else 1 if apart > timedelta(0) else 0

    def _put_aside(self, side: int, loser: Entry) -> str:
        """Keep the version of ``side`` on both sides under a name that is free on both; the name."""
        folder, slash, leaf = loser.path.rpartition("/")
        stem, dot, suffix = leaf.rpartition(".")
        if not stem:
            stem, dot, suffix = leaf, "", ""
        for number in count(1):
            kept = f"{folder}{slash}{stem}.conflict-{number}{dot}{suffix}"
            there = [one.look(one.key(kept)) for one in self.sides]
            if there[0] is None and there[1] is None:
                break
            # A run that was broken off may have put it aside already.
            if all(
                info is not None and info.size == loser.info.size and self._same_bytes(side, loser.info, at, info)
                for at, info in enumerate(there)
            ):
                return kept
        why = f"{NAMES[side]}'s version of a conflict"
        for dst in range(2):
            action = Action("copy", loser.path, why, loser.info.size, loser.info, None, kept)
            self._add((KEEP, side, dst), action)
        return kept

    # -- what is done about it -----------------------------------------------------------------------------------------

    def _expect(self, now: _Four) -> None:
        for rows, entry in zip(self.expected, now, strict=True):
            if entry is not None:
                rows.add(entry.path, entry.info)

    def _keep(self, before: _Four) -> None:
        """What is known of the name stays what it was."""
        if before[0] is not None and before[1] is not None:
            self._expect(before)

    def _copy(self, key: bytes, src: int, now: _Four, why: str, phase: int = COPY) -> None:
        source, there = now[src], now[1 - src]
        assert source is not None
        other = there.path if there is not None and there.path != source.path else None
        action = Action(
            "copy" if there is None else "update",
            source.path,
            why,
            source.info.size,
            source.info,
            None if there is None else there.info,
            other,
        )
        self.expected[src].add(source.path, source.info)
        self.changed = True
        step, dst = (phase, src, 1 - src), 1 - src
        if there is not None or not self.sides[dst].features.dirs:
            self._add(step, action)
        elif self._deleting[dst].above(key):
            self._add((LATE, src, dst), action)
        else:
            self._waiting[dst].push(key, _Waiting(step, action))

    def _delete(self, key: bytes, side: int, there: Entry | None, why: str) -> None:
        assert there is not None
        self.changed = True
        self._add((DELETE, side, side), Action("delete", there.path, why, there.info.size, expect_dst=there.info))
        self._deleting[side].push(key, None)
        for waiting in self._waiting[side].above(key):
            waiting.step = (LATE, *waiting.step[1:])

    def _leave(self, dst: int, key: bytes | None) -> None:
        for _ in self._deleting[dst].leave(key):
            pass
        for waiting in self._waiting[dst].leave(key):
            self._add(waiting.step, waiting.action)

    def _add(self, step: Step, action: Action) -> None:
        if step not in self.steps:
            self.steps[step] = Spool(self.o.backlog)
        self.steps[step].add(action)
