"""Carrying a plan out: transfers side by side while it is read, then what has to wait for them.

The caller's thread reads the plan and hands its actions to an executor, so planning and transferring overlap. Deletions
begin when every transfer has ended, and only if none failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from itertools import islice

from omnistorage.concurrency.cancellation import CLOCK, CancelScope, Clock
from omnistorage.concurrency.rate_limit import TokenBucket
from omnistorage.concurrency.retry import Backoff
from omnistorage.core import ObjectInfo
from omnistorage.errors import Cancelled, DirectoryNotEmpty, NotFound, PermissionDenied, StorageError, SyncError
from omnistorage.sync.events import Event, EventKind, Events, Listener
from omnistorage.sync.planning.actions import ERRORS, TRANSFERS, Action, Spool
from omnistorage.sync.planning.plan import Plan
from omnistorage.sync.rate_limits import Amount, Bandwidth
from omnistorage.sync.report import Report

from .adaptive_threads import Pace
from .transfer import Hands, LimitReached

_STAGES = {"rename": 1, "delete": 2, "rmdir": 3, "dirtime": 4}
_TAKES = frozenset({"rename", "delete", "rmdir"})
_SCANNED = 1_000
_SMALL = 256 << 10
_BATCH = 16
_QUEUED = 4
_LOOK = 16
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def run(
    plan: Plan,
    executor: Executor | None = None,
    *,
    listeners: Iterable[Listener] = (),
    confirm: Callable[[Action], bool] | None = None,
    dry_run: bool = False,
    raise_errors: bool = True,
    clock: Clock = CLOCK,
    backoff: Backoff | None = None,
) -> Report:
    """Carry ``plan`` out and say how it ended. With ``dry_run`` nothing is written and the report counts what would be.

    ``executor`` runs the transfers, in this process; by default ``options.transfers`` threads. Each of ``listeners``
    is called with every ``Event``, one at a time; ``confirm`` is asked before each change. Raises ``SyncError`` with
    the ``report`` if any entry failed or a limit ended it, unless ``raise_errors`` is False. An exception from outside
    (Ctrl-C) aborts what runs and goes on up.
    """
    report = Report(plan.src.shown, plan.dst.shown, dry_run=dry_run)
    job = _Job(plan, report, Events(listeners), confirm, clock, backoff or Backoff())
    started = clock.now()
    try:
        if dry_run:
            job.rehearse()
        else:
            job.run(executor)
    finally:
        report.seconds = clock.now() - started
    job.events.send(Event("summary", size=report.bytes))
    if raise_errors:
        raise_for(report)
    return report


def raise_for(report: Report) -> None:
    """Raise ``SyncError`` if the run was not ``ok``."""
    if report.ok:
        return
    errors: list[Exception] = [failure.error for failure in report.failures]
    if report.stopped:
        errors.append(StorageError(report.stopped, op="sync"))
    if not errors:
        errors.append(StorageError("not everything could be listed", op="sync"))
    error = SyncError(f"{report.failed:,} entries failed: {report}", errors)
    error.report = report
    raise error


class _Job:
    def __init__(
        self,
        plan: Plan,
        report: Report,
        events: Events,
        confirm: Callable[[Action], bool] | None,
        clock: Clock,
        backoff: Backoff,
    ) -> None:
        o = plan.options
        self.plan, self.o, self.report, self.events, self.clock = plan, o, report, events, clock
        self.confirm = confirm
        self.hands = Hands(
            plan,
            events,
            clock,
            backoff,
            None if o.bwlimit is None else Bandwidth(o.bwlimit, clock, share=plan.share),
            None if o.tpslimit is None else TokenBucket(o.tpslimit, clock=clock),
            Amount(o.max_transfer),
            clock.now() + o.max_duration if o.max_duration is not None and o.cutoff == "hard" else None,
        )
        self.running: dict[Future[list[int | StorageError]], tuple[Action, ...]] = {}
        self.batch: list[Action] = []
        self.scope = CancelScope()
        self.pace = Pace(threads=True)
        self.ends = None if o.max_duration is None else clock.now() + o.max_duration
        self.limited = o.max_transfer is not None or o.max_duration is not None
        self.declined = False  # whether ``confirm`` said no
        self.begun = 0  # bytes of the transfers that were begun

    # -- without doing it ----------------------------------------------------------------------------------------------

    def rehearse(self) -> None:
        for action in self._stream():
            if self._said(action):
                continue
            blocked = action.kind in _TAKES and self._may_not_delete()
            if blocked and action.kind == "rename":
                action, blocked = _copied(action), False
            size = action.size or 0 if action.kind in TRANSFERS else 0
            if blocked:
                self._not_done(action)
            elif self._is_over(action):
                break
            else:
                self.begun += size
                self.hands.amount.take(size)
                self._count(action, size)
        self._close_books()

    # -- doing it ------------------------------------------------------------------------------------------------------

    def run(self, executor: Executor | None) -> None:
        at_hand = all(getattr(side.backend, "instant", False) for side in (self.plan.src, self.plan.dst))
        self.pace = Pace(threads=executor is not None or not at_hand)
        pool = executor or ThreadPoolExecutor(self.o.transfers, thread_name_prefix="omnistorage-sync")
        try:
            with self.scope:
                try:
                    self._all(pool)
                    self._submit(pool)
                    self._wait(for_all=True)
                except BaseException:
                    self.scope.cancel()
                    wait(self.running)  # they give up at their next step, and leave nothing half-written
                    raise
        finally:
            if executor is None:
                pool.shutdown(cancel_futures=True)
        self._close_books()

    def _all(self, pool: Executor) -> None:
        stage, blocked = 0, False
        for action in self._ordered(self._stream()):
            if self._said(action):
                continue
            now = _STAGES.get(action.kind, 0)
            if now != stage:
                self._submit(pool)
                self._wait(for_all=True)
                stage = now
                blocked = blocked or (action.kind != "dirtime" and self._may_not_delete())
            renamed = blocked and action.kind == "rename"
            action = _copied(action) if renamed else action
            if blocked and not renamed and action.kind != "dirtime":
                self._not_done(action)
            elif self._is_over(action):
                return
            elif action.kind == "dirtime" and self.declined:
                pass
            elif self.confirm is not None and action.kind != "dirtime" and not self.confirm(action):
                self.declined = True
                self.report.skipped += 1
            elif action.kind == "rmdir":
                self._ended((action,), self._do((action,)))
            else:
                self.begun += action.size or 0 if action.kind in TRANSFERS else 0
                self._begin(pool, action)

    def _do(self, actions: tuple[Action, ...]) -> list[int | StorageError]:
        """What each action moved, or its error."""
        found: list[int | StorageError] = []
        for action in actions:
            try:
                if self.hands.removal.failed:
                    raise LimitReached(self.hands.removal.failed, path=action.path)
                if self.report.stopped or (self.limited and self._is_over(action, begun=True)):
                    raise LimitReached(self.report.stopped, path=action.path)
                if self.events:
                    self.events.send(Event("started", action.path, action.size, action))
                found.append(self.hands.do(action))
            except StorageError as error:
                found.append(self.hands.blamed(action, error))
        return found

    def _begin(self, pool: Executor, action: Action) -> None:
        """Hand the action over. Small ones go together when there is more to do than threads to do it."""
        self.batch.append(action)
        many = len(self.running) > _QUEUED * self.o.transfers and (action.size or 0) <= _SMALL
        if not many or len(self.batch) >= _BATCH:
            self._submit(pool)
            self._wait()

    def _submit(self, pool: Executor) -> None:
        batch = tuple(self.batch)
        if batch:
            self.batch.clear()
            alone = not self.running and all((action.size or 0) <= _SMALL for action in batch)
            if alone and not self.pace.threads:
                self._ended(batch, self.pace.run(partial(self._do, batch)))
            else:
                self.running[pool.submit(copy_context().run, self._do, batch)] = batch

    def _wait(self, *, for_all: bool = False) -> None:
        """Take note of what has ended; wait for all, or until there is room for more."""
        while self.running:
            full = for_all or len(self.running) >= self.o.backlog
            if not full and len(self.running) % _LOOK:
                return
            done, _ = wait(self.running, timeout=None if full else 0, return_when=FIRST_COMPLETED)
            for future in done:
                actions = self.running.pop(future)
                if not future.cancelled():
                    self._ended(actions, future.result())
            if not full or (not for_all and len(self.running) < self.o.backlog):
                return

    def _ended(self, actions: tuple[Action, ...], results: list[int | StorageError]) -> None:
        for action, result in zip(actions, results, strict=True):
            if not isinstance(result, StorageError):
                self._count(action, result)
            elif isinstance(result, LimitReached):
                self._stop(str(result.args[0]))
            elif isinstance(result, PermissionDenied) and action.kind == "dirtime":
                self.report.warn("not every folder's time could be set, some belong to others; see no_folder_times")
            elif isinstance(result, NotFound) and action.kind == "dirtime":
                pass  # what was to be put into it failed, and is reported
            elif isinstance(result, DirectoryNotEmpty) and action.kind == "rmdir":
                pass  # what is kept in it keeps it
            elif not (isinstance(result, Cancelled) and self.scope.cancelled and self.report.stopped):
                self._fail(action, result)

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    def _stream(self) -> Iterator[Action]:
        """The plan's actions, each announced, and every thousandth entry that was compared."""
        scanned = 0
        for action in self.plan:
            if self.events:
                seen = self.plan.seen
                count = seen.source_objects + seen.destination_objects
                if count - scanned >= _SCANNED:
                    scanned = count
                    self.events.send(Event("scanned", size=count))
                self.events.send(Event("planned", action.path, action.size, action))
            yield action
        seen = self.plan.seen
        self.events.send(Event("scanned", size=seen.source_objects + seen.destination_objects))

    def _said(self, action: Action) -> bool:
        """Whether there is nothing to do but to take note of it."""
        if action.kind in ERRORS:
            self.report.refused += action.kind == "refused"
            broken = self.plan.seen.broken
            error = StorageError(action.why, path=action.path or None, op="plan")
            if not action.path and broken is not None:
                error.transient, error.__cause__ = broken.transient, broken
                for note in getattr(broken, "__notes__", ()):
                    error.add_note(note)
            self._fail(action, error)
        elif action.kind in ("skip", "equal"):
            if action.kind == "skip":
                self.report.skipped += 1
            self.events.send(Event("skipped", action.path, action.size, action))
        else:
            return False
        return True

    def _count(self, action: Action, moved: int) -> None:
        self.report.count(action, moved)
        if not self.report.dry_run:
            self.plan.note(action, moved)
        if self.events:
            kind: EventKind = "deleted" if action.kind in ("delete", "rmdir") else "done"
            self.events.send(Event(kind, action.path, action.size, action))
        if self.o.move and action.kind in TRANSFERS:
            self.report.removed += 1

    def _fail(self, action: Action, error: StorageError) -> None:
        self.report.fail(action.path, action.kind, error)
        self.events.send(Event("error", action.path, action.size, action, error))

    def _may_not_delete(self) -> bool:
        if self.report.failed > self.report.refused and not self.o.ignore_errors:
            self.report.warn("there were errors, so nothing is deleted; ignore_errors deletes all the same")
            return True
        return False

    def _not_done(self, action: Action) -> None:
        if action.kind in TRANSFERS:
            self._fail(action, StorageError("what is in its way is not deleted", path=action.path, op="copy"))
        elif action.kind == "delete":
            self.report.blocked += 1

    def _is_over(self, action: Action, *, begun: bool = False) -> bool:
        """Whether a limit says that nothing more is begun; ``begun``: the action is counted already."""
        o = self.o
        if self.report.stopped or not self.limited:
            return bool(self.report.stopped)
        if self.ends is not None and self.clock.now() >= self.ends:
            self._stop(f"max_duration of {o.max_duration:g} seconds is over")
        elif o.max_transfer is not None and action.kind in TRANSFERS:
            size = (
                self.begun + (0 if begun else action.size or 0) if o.cutoff == "cautious" else self.hands.amount.taken
            )
            if size > o.max_transfer or (o.cutoff != "cautious" and size >= o.max_transfer):
                self._stop("max_transfer is reached")
        return bool(self.report.stopped)

    def _stop(self, why: str) -> None:
        self.report.stopped = self.report.stopped or why
        if self.o.cutoff == "hard":
            self.scope.cancel()

    def _close_books(self) -> None:
        seen, report = self.plan.seen, self.report
        report.equal, report.by_size_and_time = seen.equal, seen.by_size_and_time
        report.blocked += seen.blocked
        report.complete = seen.complete
        for text in seen.warnings:
            report.warn(text)
        for error in seen.listing_errors:
            report.fail(error.path or "", "list", error)

    # -- order ---------------------------------------------------------------------------------------------------------

    def _ordered(self, actions: Iterator[Action]) -> Iterator[Action]:
        if self.o.check_first:
            spool = Spool(self.o.backlog)
            try:
                for action in actions:
                    spool.add(action)
                yield from self._sorted(iter(spool))
            finally:
                spool.close()
        else:
            yield from self._sorted(actions)

    def _sorted(self, actions: Iterator[Action]) -> Iterator[Action]:
        """Transfers by ``order_by``, as far as the backlog reaches; everything else where it stands."""
        if not self.o.order_by:
            yield from actions
            return
        by, _, direction = self.o.order_by.partition(",")
        key = _KEYS[by]
        while batch := list(islice(actions, self.o.backlog)):
            start = 0
            for end in range(len(batch) + 1):
                if end == len(batch) or batch[end].kind not in TRANSFERS:
                    part = sorted(batch[start:end], key=key, reverse=direction.startswith("desc"))
                    yield from _mixed(part) if by == "mixed" else part
                    yield from batch[end : end + 1]
                    start = end + 1


def _copied(action: Action) -> Action:
    """A rename that must not be: its object is copied, and the old one stays."""
    return action._replace(kind="copy", why="new", expect_dst=None, other=None)


def _mixed(actions: list[Action]) -> Iterator[Action]:
    """The smallest, the largest, the second smallest, ..."""
    low, high = 0, len(actions) - 1
    while low <= high:
        yield actions[low]
        if low < high:
            yield actions[high]
        low, high = low + 1, high - 1


def _info(action: Action) -> ObjectInfo:
    return action.expect_src or ObjectInfo(action.path)


_KEYS: dict[str, Callable[[Action], tuple[object, str]]] = {
    "size": lambda action: (action.size or 0, action.path),
    "mixed": lambda action: (action.size or 0, action.path),
    "name": lambda action: ("", action.path),
    "modtime": lambda action: (_info(action).modified_at or _LONG_AGO, action.path),
}
