"""The writer of one object into several targets at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations
from typing import Any, Literal, NamedTuple, Protocol

from omnistorage import ops
from omnistorage.concurrency.cancellation import Waiter
from omnistorage.concurrency.pools import forks
from omnistorage.concurrency.quorum import Quorum
from omnistorage.core import WRITE, Data, ObjectInfo, WriteOptions
from omnistorage.core.lifecycle import Publishes
from omnistorage.errors import (
    AlreadyExists,
    Cancelled,
    ConfigError,
    CorruptData,
    MultiError,
    OutcomeUnknown,
    PreconditionFailed,
    WriterClosed,
)
from omnistorage.multi.common.failures import one_reason, unsure_of
from omnistorage.multi.common.outcomes import Outcome
from omnistorage.multi.common.scheduler import CREW, Crew, Stuck
from omnistorage.multi.common.tier import Place

from .target import targets_of
from .target_queue import Feed

MODES = ("all", "quorum", "best_effort")
Mode = Literal["all", "quorum", "best_effort"]
BLOCK = 256 << 10
BUFFER = 16 << 20
CONFLICTS = (AlreadyExists, PreconditionFailed)


class Aim(NamedTuple):
    """One target of a write. ``options`` is asked off the caller's thread, and may raise."""

    place: Place
    path: str
    options: Callable[[], WriteOptions]


class Notes(Protocol):
    """What a fan-out tells whoever keeps the targets alike."""

    def begins(self, sha256: str, size: int) -> None:
        """Publication begins. What is raised keeps it from that."""

    def ended(self, outcomes: Sequence[Outcome]) -> object:
        """This is how it ended."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a fan-out is held to. ``needed`` of the targets must hold the object. They are published together, or
    ``backwards``, one by one from the last to the first; or one of the ``arbiters`` first, the next of them only where
    the one before could not be asked: of several who create the same object all but one fail there, before anything is
    published. ``strict``: it is not done where any target refuses it then. At most ``buffer`` bytes wait for each; who
    held up those needed for ``laggard`` seconds is given up."""

    needed: int
    arbiters: Callable[[], tuple[int, ...]] = tuple
    backwards: bool = False
    strict: bool = False
    buffer: int = BUFFER
    laggard: float | None = None
    stuck: Stuck = field(default_factory=Stuck)


def needed_of(mode: str, quorum: int | None, count: int) -> int:
    """How many of ``count`` targets must hold an object."""
    if mode not in MODES:
        raise ConfigError(f"mode is one of {', '.join(MODES)}: not {mode!r}")
    if quorum is not None and mode != "quorum":
        raise ConfigError("quorum is for mode='quorum'")
    needed = {"all": count, "quorum": count // 2 + 1, "best_effort": 1}[mode] if quorum is None else quorum
    if type(needed) is not int or not 1 <= needed <= count:
        raise ConfigError(f"a quorum of {needed} among {count} targets cannot be")
    return needed


def checked(laggard: float | timedelta | None, buffer: int) -> float | None:
    """``laggard`` in seconds. Raises ``ConfigError``."""
    if isinstance(laggard, timedelta):
        laggard = laggard.total_seconds()
    if laggard is not None and (not isinstance(laggard, int | float) or not laggard > 0):
        raise ConfigError(f"laggard_timeout is a number of seconds above zero, not {laggard!r}")
    if type(buffer) is not int or buffer < 1:
        raise ConfigError(f"buffer is a number of bytes from 1 up, not {buffer!r}")
    return laggard


class MultiWriter(Publishes):
    """One object into several targets, which work side by side. ``targets`` are ``(backend, path, options)`` each; the
    backend may be a store or a URL, the options may be left out.

    Nothing is published before as many targets as ``mode`` and ``quorum`` say (as in ``MultiBackend``) hold every byte;
    else everything is discarded. A target that fails is aborted at once and given nothing more, and counts as failed to
    the end. After publication ``outcomes`` says of each target how it ended, also where ``close`` raises: the error of
    the one that failed where nothing was published, or else a ``MultiError`` with all of them. Who misses an object
    here is in ``outcomes`` alone; ``MultiBackend`` has a repair journal.

    ``laggard_timeout`` and ``buffer`` as in ``MultiBackend``.
    """

    instant = False
    _forks, _over = -1, True  # until there is something to look after
    _feeds: list[Feed]

    def __init__(
        self,
        targets: Sequence[Aim] | Sequence[tuple[Any, ...]],
        mode: Mode = "all",
        quorum: int | None = None,
        *,
        laggard_timeout: float | timedelta | None = None,
        buffer: int = BUFFER,
        _terms: Terms | None = None,
        _notes: Notes | None = None,
        _alone: Callable[[], AbstractContextManager[object]] = nullcontext,
        _crew: Crew = CREW,
    ) -> None:
        if isinstance(targets, str) or not isinstance(targets, Sequence):
            raise ConfigError(f"targets are a list of (backend, path, options), not {type(targets).__name__}")
        aims = [aim for aim in targets if isinstance(aim, Aim)] or _aims(targets)
        if _terms is None:
            late = checked(laggard_timeout, buffer)
            _terms = Terms(needed_of(mode, quorum, len(aims)), buffer=buffer, laggard=late)
        self._path, self._terms, self._notes, self._alone, self._crew = aims[0].path, _terms, _notes, _alone, _crew
        self._wake = Waiter()
        self._pending: list[bytes] = []
        self._size = 0  # of what is pending
        self._total = 0
        self._digest = hashlib.sha256()
        self._sha256: str | None = None
        self._failed: BaseException | None = None
        self._over = self._prepared = False
        self.result: ObjectInfo | None = None
        self._forks, self._feeds = forks[0], list[Feed]()
        self._feeds += [Feed(_crew, self._wake, aim.place, aim.path, aim.options, _terms.stuck) for aim in aims]
        self._run("open_writer", lambda feed: feed.idle)

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """How it stands with each target; what is not over yet is told as ``aborted``."""
        return {feed.place.name: feed.outcome(self._sha256) for feed in self._feeds}

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _run(self, op: str, done: Callable[[Feed], bool]) -> None:
        """Wait until every target that is left is ``done``. Raises if too few can be."""
        try:
            self._wait(op, done)
        except BaseException as error:
            self._fail(error)
            raise

    def _wait(self, op: str, done: Callable[[Feed], bool]) -> None:
        late = self._terms.laggard

        def settled() -> bool:
            return self._lost() or all(done(feed) for feed in self._feeds if feed.live)

        def enough() -> bool:
            return settled() or sum(done(feed) for feed in self._feeds if feed.live) >= self._terms.needed

        self._crew.wait(self._wake, settled if late is None else enough, None, op, self._path)
        while late is not None and not settled():
            behind = [feed for feed in self._feeds if feed.live and not done(feed)]
            if not behind:
                continue  # it came in between
            start, longest = self._crew.clock.now(), max(feed.held_up for feed in behind)
            in_time = self._crew.wait(
                self._wake,
                lambda behind=behind: self._lost() or any(done(feed) or not feed.live for feed in behind),  # type: ignore[misc]
                late - longest,
                op,
                self._path,
            )
            for feed in behind:
                if feed.live and not done(feed) and not in_time and feed.held_up == longest:
                    feed.drop(late)
                feed.held_up += self._crew.clock.now() - start
        if self._lost():
            raise self._why(op)

    def _lost(self) -> bool:
        quorum = Quorum(self._terms.needed, len(self._feeds))
        for number, feed in enumerate(self._feeds):
            if not feed.live:
                quorum.note(number, False)
                if isinstance(feed.error, CONFLICTS) and not self._over:
                    return True  # whoever asked for a condition is told of it, wherever it fails
        return quorum.lost

    def _why(self, op: str) -> BaseException:
        """What to raise where nothing was published: what went wrong, if that is one thing."""
        errors = [feed.error for feed in self._feeds if feed.error is not None]
        conflict = next((error for error in errors if isinstance(error, CONFLICTS)), None)
        reason = conflict or one_reason(errors)
        if reason is not None:
            return reason
        return self._multi(f"{self._terms.needed} of {len(self._feeds)} targets were needed", op)

    def _multi(self, message: str, op: str) -> MultiError:
        found = [feed.error for feed in self._feeds if feed.error is not None]
        error = MultiError(message, [one for one in found if isinstance(one, Exception)], path=self._path, op=op)
        error.outcomes = tuple(self.outcomes.values())
        return error

    def _fail(self, error: BaseException) -> None:
        self._failed = self._failed or error
        self._abort_rest()

    def _check(self, op: str) -> None:
        if self._forks != forks[0]:
            raise WriterClosed("this writer belongs to the process that opened it", path=self._path, op=op)
        if self._failed is not None:
            raise self._failed
        if self._over:
            raise WriterClosed("the writer is closed", path=self._path, op=op)

    # -- the bytes -----------------------------------------------------------------------------------------------------

    def write(self, data: Data, /) -> int:
        self._check("write")
        try:
            if self._prepared:
                raise WriterClosed("the writer is prepared and takes no more", path=self._path, op="write")
            # What several hold must not change.
            block = data if type(data) is bytes else bytes(memoryview(data).cast("B"))
        except BaseException as error:
            self._fail(error)
            raise
        self._digest.update(block)
        self._pending.append(block)
        self._size += len(block)
        if self._size >= BLOCK:
            self._hand_over("write")
        return len(block)

    def _hand_over(self, op: str) -> None:
        size, pending = self._size, self._pending
        if not size:
            return
        room = max(self._terms.buffer - size, 0)
        for feed in self._feeds:
            if not feed.queued:
                feed.held_up = 0.0  # it has caught up
        self._run(op, lambda feed: feed.queued <= room)
        self._pending, self._size = [], 0
        self._total += size
        block = pending[0] if len(pending) == 1 else b"".join(pending)
        for feed in self._feeds:
            feed.write(block)

    def flush(self) -> None:
        self._check("flush")
        if self._prepared:
            return
        self._hand_over("flush")
        for feed in self._feeds:
            feed.flush()
        self._run("flush", lambda feed: feed.idle)

    def prepare(self) -> None:
        self._check("prepare")
        if self._prepared:
            return
        self._hand_over("prepare")
        for feed in self._feeds:
            feed.prepare()
        self._run("prepare", lambda feed: feed.state == "prepared")
        self._prepared, self._sha256 = True, self._digest.hexdigest()

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> ObjectInfo:
        if self.result is not None:
            return self.result
        self.prepare()
        try:
            with self._alone():
                self._publish_alone()
        except BaseException as error:
            self._fail(error)
            raise
        first = next(feed for feed in self._feeds if feed.state == "committed")
        self.result = first.outcome(None).info
        assert self.result is not None
        return self.result

    def _publish_alone(self) -> None:
        try:
            if self._notes is not None:
                self._notes.begins(self._sha256 or "", self._total)
            self._publish()
        except BaseException as error:
            self._fail(error)  # which may abort what is told now
            names = [feed.place.name for feed in self._feeds if feed.state in ("committed", "unknown")]
            if isinstance(error, Cancelled) and names:
                why = f"{error.args[0]}, and it is published, or may be, in {', '.join(names)}"
                raise OutcomeUnknown(why, path=self._path, op="close") from error
            raise
        finally:
            self._over = True
            if self._notes is not None:
                self._notes.ended(tuple(self.outcomes.values()))

    def _publish(self) -> None:
        self._over = True  # a conflict from here on is that of one target
        feeds = [feed for feed in self._feeds if feed.live]
        if self._terms.backwards:
            for feed in reversed(feeds):
                self._publish_at(feed, None)
                if feed.state != "committed":
                    raise self._partial()
            return
        arbiters = self._terms.arbiters()
        for number, at in enumerate(arbiters):
            feed, last = self._feeds[at], number + 1 == len(arbiters)
            if feed.live:
                self._publish_at(feed, None if last else self._terms.laggard)
            if feed.state == "committed":
                break
            if last or isinstance(feed.error, CONFLICTS):
                raise self._partial()
        for feed in feeds:
            if feed.state == "prepared":
                feed.close(self._verify)
        self._settle()

    def _publish_at(self, feed: Feed, late: float | None) -> None:
        feed.close(self._verify)
        if not self._crew.wait(self._wake, lambda: feed.state != "closing", late, "close", self._path):
            feed.drop(late or 0)

    def _settle(self) -> None:
        """Wait for those that were told to publish: also where too few are left, for what they do is to be told."""
        late = self._terms.laggard

        def over() -> bool:
            return all(feed.state != "closing" for feed in self._feeds)

        def enough() -> bool:
            return over() or sum(feed.state == "committed" for feed in self._feeds) >= self._terms.needed

        self._crew.wait(self._wake, over if late is None else enough, None, "close", self._path)
        if late is not None and not self._crew.wait(self._wake, over, late, "close", self._path):
            for feed in self._feeds:
                if feed.state == "closing":
                    feed.drop(late)
        refused = self._terms.strict and any(isinstance(feed.error, CONFLICTS) for feed in self._feeds)
        if refused or sum(feed.state == "committed" for feed in self._feeds) < self._terms.needed:
            raise self._partial()

    def _verify(self, info: ObjectInfo) -> None:
        stated = info.hash("sha256")
        if info.size not in (None, self._total) or stated not in (None, self._sha256):
            raise CorruptData(f"the target says that it holds {info.size} bytes of {self._total}", path=info.path)

    def _partial(self) -> BaseException:
        """What to raise when publication has begun: where nothing was published, just what went wrong."""
        done = [feed.place.name for feed in self._feeds if feed.state == "committed"]
        lost = [feed.place.name for feed in self._feeds if feed.state == "unknown"]
        errors = [feed.error for feed in self._feeds if feed.error is not None]
        reason = None if done else one_reason(errors)
        if reason is not None:
            return unsure_of(reason, lost)
        where = ", ".join(done) or "no target for certain"
        unsure = f", perhaps in {', '.join(lost)}" if lost else ""
        refused = [feed.place.name for feed in self._feeds if isinstance(feed.error, CONFLICTS)]
        why = f"{', '.join(refused)} refused it" if refused else f"{self._terms.needed} were needed"
        return self._multi(f"published in {where}{unsure}: {why}", "close")

    def abort(self) -> None:
        if self._forks != forks[0]:
            raise WriterClosed("this writer belongs to the process that opened it", path=self._path, op="abort")
        if self.result is None:
            self._over = True
            self._abort_rest()

    def _abort_rest(self) -> None:
        for feed in self._feeds:
            feed.give_up()

    def __del__(self) -> None:
        if self._forks == forks[0] and not self._over:
            for feed in self._feeds:
                feed.forget()


def _aims(targets: Sequence[tuple[Any, ...]]) -> list[Aim]:
    for target in targets:
        if (
            not isinstance(target, tuple)
            or len(target) not in (2, 3)
            or not isinstance(target[1], str)
            or (len(target) == 3 and not isinstance(target[2], WriteOptions))
        ):
            raise ConfigError(f"a target is (backend, path, options), not {target!r}")
    places = targets_of([target[0] for target in targets], apart=False)
    for one, other in combinations(zip(places, targets, strict=True), 2):
        if one[1][1] == other[1][1] and ops.same_place(one[0].backend, other[0].backend):
            raise ConfigError(f"two targets are the same object {one[1][1]!r}")
    every = [target[2] if len(target) == 3 else WRITE for target in targets]
    return [
        Aim(place, target[1], lambda own=own: own)  # type: ignore[misc]
        for place, target, own in zip(places, targets, every, strict=True)
    ]
