"""Two places kept in step, both of which are written to.

A saved listing of each side from the last good run is the common ancestor: what differs from it was changed or deleted
on that side. Everything is decided before anything is changed, and the engine carries it out, so that every write and
every deletion still expects what was listed. The listing that is saved is a fresh one, never put together from what
was transferred; where somebody else was at work meanwhile it holds what this run knew, so that the next one sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from omnistorage import ops
from omnistorage.concurrency.cancellation import CLOCK, Clock
from omnistorage.concurrency.retry import Backoff
from omnistorage.core import ObjectInfo
from omnistorage.errors import ConfigError, CorruptData, NotFound, StorageError, SyncError
from omnistorage.sync.endpoint import Place, Side
from omnistorage.sync.entries import Entry, Fold
from omnistorage.sync.events import Event, Events, Listener
from omnistorage.sync.execution.runner import run
from omnistorage.sync.filters import Filter
from omnistorage.sync.options import SyncOptions
from omnistorage.sync.overlap import overlap
from omnistorage.sync.planning.actions import Action
from omnistorage.sync.versions import is_same_version

from .merge import COPY, DELETE, KEEP, LATE, NAMES, SETTLE, Decisions, Step, entries_of, merged, precision_of
from .plans import Directed, Given, Pair, empty_folders
from .report import BisyncReport
from .state import Lock, Rows, StateFolder

POLICIES = ("keep-both", "newer", "older", "larger", "smaller", "path1", "path2", "skip", "error")
SETTINGS = (
    *("compare", "size_only", "checksum", "modify_window", "ignore_case", "normalize", "sort_listings"),
    *("transfers", "backlog", "order_by", "bwlimit", "tpslimit", "retries"),
)
"""The fields of ``SyncOptions`` that make sense both ways."""
_COMPARES = ("default", "size", "mtime", "checksum")
_SIDES = ("first side", "second side")


def bisync(
    a: Place,
    b: Place,
    *,
    state: Place,
    resync: bool = False,
    conflict: str = "keep-both",
    max_delete: float = 50,
    dry_run: bool = False,
    filter: Filter | None = None,
    executor: Executor | None = None,
    listeners: Iterable[Listener] = (),
    raise_errors: bool = True,
    lock_expires: timedelta = timedelta(minutes=15),
    clock: Clock = CLOCK,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    backoff: Backoff | None = None,
    **settings: Any,
) -> BisyncReport:
    """Make two folders hold the same, whichever of them was written to since the last run.

    ``state`` is the folder, on any backend, that remembers the last good run of this pair. A path or URL of the local
    disk is for its owner alone, and refused where other users can write to it.

    Without what it remembers, and with ``resync``, the result is the union of both sides and nothing is deleted.
    What changed on one side is copied, what was deleted on one side and not changed on the other is deleted, a change
    beats a deletion. What changed on both sides, and not alike, is a ``conflict``: ``keep-both`` leaves the
    newer its name and keeps the other beside it, on both sides, as ``name.conflict-1.suffix`` or the next number that
    is free; ``newer``, ``older``, ``larger`` and ``smaller`` keep one of them (both, if that does not decide),
    ``path1`` and ``path2`` that side's; ``skip`` leaves both as they are, and says so once; ``error`` makes the run
    fail. ``settings`` are fields of ``SyncOptions``.

    Each of ``listeners`` is called with every ``Event``, whose ``action`` is a ``Directed`` one.

    Raises, before anything is changed, ``ConfigError`` where the places overlap or the state belongs to other places or
    another filter; ``CorruptData`` where the state is damaged; ``StorageError`` where a side lists empty that was not,
    where more than ``max_delete`` percent of what a side had is gone, while another run holds the lock (for at most
    ``lock_expires`` after its last sign of life), and after a run that ended critically until ``resync`` is given.
    Raises ``SyncError`` with the ``report`` if an entry failed, unless ``raise_errors`` is False; the state stays as it
    was then, and the next run goes on from there.
    """
    options = _options(conflict, max_delete, lock_expires, filter or Filter(), settings)
    with ExitStack() as stack:

        def opened(place: Place, role: str, *, private: bool = False) -> Side:
            side = Side(place, role, private=private)
            stack.callback(side.close)
            return side

        sides = opened(a, _SIDES[0]), opened(b, _SIDES[1])
        folder = StateFolder(opened(state, "state folder", private=True))
        _check_places(sides, folder.side, options.filter)
        lock = Lock(folder.side, lock_expires, clock, now)
        job = _Job(sides, folder, lock, options, conflict, max_delete, resync, dry_run)
        job.tools = Tools(executor, tuple(listeners), clock, backoff or Backoff())
        if not dry_run:
            lock.acquire()
            stack.callback(lock.release)
        report = job.run()
    if raise_errors and not report.ok:
        error = SyncError(f"{report.failed:,} entries failed: {report}", [f.error for f in report.failures])
        error.report = report
        raise error
    return report


def _options(
    conflict: str, max_delete: float, lock_expires: timedelta, filter: Filter, settings: dict[str, Any]
) -> SyncOptions:
    if conflict not in POLICIES:
        raise ConfigError(f"conflict={conflict!r}: use one of {', '.join(POLICIES)}")
    if isinstance(max_delete, bool) or not isinstance(max_delete, int | float) or not 0 <= max_delete <= 100:
        raise ConfigError(f"max_delete is a percentage from 0 to 100, not {max_delete!r}")
    if lock_expires <= timedelta(0):
        raise ConfigError(f"lock_expires is a time above zero, not {lock_expires!r}")
    if unknown := sorted(set(settings).difference(SETTINGS)):
        raise ConfigError(f"bisync takes no {', '.join(unknown)}; it takes {', '.join(sorted(SETTINGS))}")
    if filter.marker_names:
        raise ConfigError(
            "exclude_if_present would make a folder that is marked on one side look deleted: exclude it by name"
        )
    options = SyncOptions(filter=filter, **settings)
    if not callable(options.compare) and options.compare not in _COMPARES:
        raise ConfigError(
            f"compare={options.compare!r} is a rule for one direction: use one of {', '.join(_COMPARES)}, or a callable"
        )
    return replace(options, compare="default", checksum="strict") if options.compare == "checksum" else options


def _check_places(sides: tuple[Side, Side], state: Side, filter: Filter) -> None:
    """Refuse places that cannot do their part, and such as lie in each other."""
    first, second = sides
    for side in (first, second, state):
        Pair(side, side, SyncOptions()).need("list", "read", "write", "delete")
    inner = overlap(first, second)
    if inner is not None and (inner == "" or filter.descends(inner)):
        what = f"overlap: {inner!r} of one is the other; exclude the inner folder" if inner else "are one place"
        raise ConfigError(f"the two sides {what} ({first.shown}, {second.shown})")
    for side in sides:
        inner = overlap(side, state)
        if inner is not None and (inner == "" or filter.descends(inner)):
            raise ConfigError(
                f"the state folder {state.shown} and the {side.role} {side.shown} overlap: choose another state folder"
            )


@dataclass(frozen=True)
class Tools:
    """What a run is carried out with."""

    executor: Executor | None
    listeners: tuple[Listener, ...]
    clock: Clock
    backoff: Backoff


class _ListingFailed(StorageError):
    """A listing failed after both sides were changed."""

    def __init__(self, error: StorageError) -> None:
        super().__init__(str(error.args[0]) if error.args else "", path=error.path)
        self.error = error


class _Job:
    """One run, from the lock to the saved listings."""

    tools: Tools
    written: tuple[Rows, Rows]  # by side, what this run put there

    def __init__(
        self,
        sides: tuple[Side, Side],
        folder: StateFolder,
        lock: Lock,
        options: SyncOptions,
        policy: str,
        max_delete: float,
        resync: bool,
        dry_run: bool,
    ) -> None:
        self.sides, self.folder, self.lock, self.o = sides, folder, lock, options
        self.max_delete, self.resync, self.dry_run = max_delete, resync, dry_run
        self.report = BisyncReport(sides[0].shown, sides[1].shown, dry_run=dry_run)
        features = [side.features for side in sides]
        case = not all(one.case_sensitive for one in features) if options.ignore_case is None else options.ignore_case
        form = any(one.normalizes for one in features) if options.normalize is None else options.normalize
        self.fold = Fold(case, form) if case or form else None
        self.policy = policy
        self.touched = False  # whether anything may have been changed on a side

    def run(self) -> BisyncReport:
        started = self.tools.clock.now()
        try:
            with ExitStack() as stack:
                self.written = Rows(), Rows()
                for rows in self.written:
                    stack.callback(rows.close)
                prior = self._prior(stack)
                known = {} if self.resync else self.folder.found.get("conflicts", {})
                decided = Decisions(self.sides, self.o, self.policy, self.report, self.fold, known, self._touch)
                stack.callback(decided.close)
                decided.read(prior, may_miss=self.report.first)
                self._refuse(decided)
                self._announce(0)
                self._act(decided)
                begun = len(self.report.failures)
                self._end(decided)
                self._announce(begun)
        finally:
            self.report.seconds = self.tools.clock.now() - started
        Events(self.tools.listeners).send(Event("summary", size=self.report.bytes))
        return self.report

    def _announce(self, first: int) -> None:
        """Tell of the failures from this number on, which no action was at fault for."""
        events = Events(self.tools.listeners)
        for failure in self.report.failures[first:]:
            events.send(Event("error", failure.path, error=failure.error))

    def _touch(self) -> None:
        if not self.dry_run:
            self.lock.touch()

    # -- what may not be -----------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """What the state has to agree with."""
        return {
            "path1": self.sides[0].shown,
            "path2": self.sides[1].shown,
            "filter": self.o.filter.fingerprint(),
            "names": list(self.fold or ()),
        }

    def _prior(self, stack: ExitStack) -> tuple[Iterable[Any], Iterable[Any]]:
        found: dict[str, Any] = {}
        with suppress(*((CorruptData,) if self.resync else ())):
            found = self.folder.load()
        self.report.first = self.resync or not found
        if self.report.first:
            return (), ()
        if found.get("critical"):
            raise StorageError(
                f"an earlier run ended critically ({found['critical']}): see that both sides are as they should be, "
                "then resync",
                op="bisync",
            )
        for name, value in self._identity().items():
            if found.get(name) != value:
                what = {"filter": "another filter", "names": "names matched in another way"}.get(
                    name, f"another {name} ({found.get(name)})"
                )
                raise ConfigError(
                    f"the saved state is of a run with {what}: use that again, another state folder, or resync"
                )
        rows = []
        for which in range(2):
            rows.append(self.folder.prior(which))
            stack.callback(rows[-1].close)
        return rows[0], rows[1]

    def _refuse(self, decided: Decisions) -> None:
        """What looks like an accident stops the run before anything is changed."""
        if decided.doubles.count:
            raise ConfigError(f"one side cannot tell these names apart, rename one of each: {decided.doubles}")
        for side, prior, listed, gone in zip(self.sides, decided.prior, decided.listed, decided.vanished, strict=True):
            if prior and not listed:
                raise StorageError(
                    f"the {side.role} {side.shown} lists empty, and had {prior:,} objects: nothing was changed; if it "
                    "is meant, resync fills it again from the other side",
                    op="bisync",
                )
            if gone * 100 > self.max_delete * prior:
                raise StorageError(
                    f"{gone:,} of the {prior:,} objects of the {side.role} {side.shown} are gone, more than max_delete "
                    f"of {self.max_delete:g} percent: nothing was changed; a larger max_delete means it",
                    op="bisync",
                )

    # -- doing it ------------------------------------------------------------------------------------------------------

    def _act(self, decided: Decisions) -> None:
        for phase in (KEEP, COPY, SETTLE, DELETE, LATE):
            # What fails to be put aside or copied must not be overwritten or deleted.
            blocked = phase > COPY and not self.report.ok
            for step, spool in sorted(decided.steps.items()):
                if step[0] != phase:
                    continue
                if blocked:
                    self.report.blocked += len(spool)
                    continue
                self._step(step, spool)
                dst = step[2]
                if phase == DELETE and not self.dry_run and self.sides[dst].features.dirs:
                    self._step(step, empty_folders(self.sides[dst], self.sides[1 - dst], spool))

    def _step(self, step: Step, actions: Iterable[Action]) -> None:
        _, src, dst = step
        tools = self.tools
        plan = Given(self.sides[src], self.sides[dst], self.o, actions, NAMES[dst], self.written[dst])
        self.touched = self.touched or not self.dry_run
        done = run(
            plan,
            tools.executor,
            listeners=(self._see, *(_without_summary(one) for one in tools.listeners)),
            dry_run=self.dry_run,
            raise_errors=False,
            clock=tools.clock,
            backoff=tools.backoff,
        )
        self.report.add(dst, done)

    def _see(self, event: Event) -> None:
        self._touch()

    # -- the end -------------------------------------------------------------------------------------------------------

    def _end(self, decided: Decisions) -> None:
        if self.dry_run:
            return
        corrupt = [failure.error for failure in self.report.failures if isinstance(failure.error, CorruptData)]
        if corrupt and self.touched:
            self.lock.touch(sure=True)
            self.folder.forbid(str(corrupt[0]))
        if not self.report.ok or not (decided.changed or self.report.first):
            return
        try:
            self.lock.touch(sure=True)
            said = {**self._identity(), "conflicts": decided.left}
            self.folder.save(said, [self._fresh(which, decided) for which in range(2)])
        except _ListingFailed as error:
            self.report.fail(error.path or "", "list", error.error)
            if self.touched:
                self.folder.forbid(f"the listing at its end failed: {error.error}")

    def _fresh(self, which: int, decided: Decisions) -> Iterator[tuple[str, ObjectInfo]]:
        """The side as it is now, as far as this run knows it: what it saw at its start and left alone, and what it
        wrote. What others changed, deleted or made meanwhile is for the next run to find."""
        side = self.sides[which]
        known, listed = entries_of(decided.expected[which], self.fold), self._listed(side)
        for _, (left, wrote, there) in merged([known, self._own(which), listed]):
            self._touch()
            mine = wrote or left
            if mine is None or not self.o.filter.includes_path(mine.path):
                continue
            if there is not None and is_same_version(mine.info, there.info, precision_of(side)):
                mine = there
            yield mine.path, mine.info

    def _listed(self, side: Side) -> Iterator[Entry]:
        try:
            # Names alone count here, so nobody is asked for metadata again.
            by_name = replace(self.o.filter, metadata_rules=())
            yield from side.entries(by_name, fold=self.fold, resort=self.o.sort_listings)
        except NotFound as error:
            if not self.report.first:
                raise _ListingFailed(error) from error
        except StorageError as error:
            raise _ListingFailed(error) from error

    def _own(self, which: int) -> Iterator[Entry]:
        """What this run wrote, in merge order; of one name the last."""
        last: Entry | None = None
        for entry in entries_of(ops.sort_entries(iter(self.written[which]), key=self._key), self.fold):
            if last is not None and last.key != entry.key:
                yield last
            last = entry
        if last is not None:
            yield last

    def _key(self, info: ObjectInfo) -> bytes:
        return next(entries_of((info,), self.fold)).key


def _without_summary(listener: Listener) -> Listener:
    """A run has one summary, whatever it consists of."""

    def tell(event: Event) -> None:
        if event.kind != "summary":
            listener(event)

    return tell


__all__ = ["POLICIES", "SETTINGS", "BisyncReport", "Directed", "bisync"]
