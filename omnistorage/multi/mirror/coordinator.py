"""What every change of a mirror goes through: who gets it, how many must have it, and what is noted of the others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from omnistorage import ops
from omnistorage.concurrency.cancellation import check
from omnistorage.concurrency.pools import forks
from omnistorage.core import Backend, ObjectInfo
from omnistorage.errors import AlreadyExists, ConfigError, MultiError, PreconditionFailed, StorageError
from omnistorage.multi.common.calls import ask_all
from omnistorage.multi.common.failures import REFUSALS, may_have_happened, one_reason, unsure_of
from omnistorage.multi.common.outcomes import Outcome, State
from omnistorage.multi.common.reading import Reading
from omnistorage.multi.common.scheduler import Stuck, Turn
from omnistorage.multi.common.tier import Place, opened
from omnistorage.multi.common.union_listing import Shows
from omnistorage.paths import is_under

from .journal import FRESH, Journal, Missed
from .missing_roots import Contents
from .same_buckets import SameBuckets
from .target import check_apart

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


_STRIPES = 1024
_LOOK = 0.05  # seconds after which one who waits for a lock looks whether to go on


class PathLocks:
    """Changes of one path by one backend come one after the other: else two writers could each win somewhere."""

    def __init__(self) -> None:
        self._forks = forks[0]
        self._locks: dict[int, threading.Lock] = {}

    @contextmanager
    def hold(self, *paths: str) -> Iterator[None]:
        """Raises ``Cancelled`` and ``DeadlineExceeded`` while it waits."""
        if self._forks != forks[0]:  # those who hold them are not in this process
            self._forks, self._locks = forks[0], {}
        with ExitStack() as held:
            for number in sorted({hash(path) % _STRIPES for path in paths}):
                lock = self._locks.setdefault(number, threading.Lock())
                while not lock.acquire(timeout=_LOOK):
                    check(path=paths[0])
                held.callback(lock.release)
            yield


class Fresh:
    """A place shows what it is not known to have missed."""

    def __init__(self, mirror: Mirroring, entries: Sequence[Missed]) -> None:
        self._mirror = mirror
        self._missed = {name for entry in entries for name in entry.targets}
        self._paths = {entry.path for entry in entries}

    def __call__(self, place: Place, path: str) -> bool:
        return path not in self._paths or place in self._mirror.candidates(path)

    def all_of(self, place: Place, folder: str) -> bool:
        return place.name not in self._missed

    def hides(self, down: Collection[str], folder: str) -> bool:
        near = (path for path in self._paths if not folder or is_under(path, folder))
        return any(all(place.name in down for place in self._mirror.candidates(path)) for path in near)


class Mirroring(Reading):
    """The targets, and the rule for all changes."""

    word = "target"
    journal: Journal | None
    buckets: SameBuckets
    contents: Contents
    locks: PathLocks
    stuck: Stuck
    needed: int
    laggard: float | None
    causes: dict[str, str]
    """By target, why it missed what this process knows it to have missed last."""

    def _arrange_journal(self, place: Any, max_bytes: int, defaults: Mapping[str, Any] | None) -> Any:
        """Returns what to open it from again."""
        self.journal = None
        if place is None:
            return None
        if type(max_bytes) is not int or max_bytes < 1:
            raise ConfigError(f"journal_bytes is a number of bytes from 1 up, not {max_bytes!r}")
        if isinstance(place, str | PathLike):
            if isinstance(place, PathLike) or "://" not in place:
                place = f"{Path(place).absolute()}/"
            place = opened("the journal", place, {**(defaults or {}), "private": True})
            self._owned_journal = place
        elif not isinstance(place, Backend) and not hasattr(place, "as_backend"):
            raise ConfigError(
                f"the journal is a folder's path, a URL, a backend or a store, not {type(place).__name__}"
            )
        backend = ops.extended(place)
        can = backend.features
        if not (can.write and can.list and can.delete and can.atomic_write):
            raise ConfigError(f"the journal needs whole writes, listings and deletions, which {backend.name} has not")
        for target in self.places:
            check_apart(backend, "the journal", target.backend, f"target {target.name!r}")
        names = {target.backend.url: target.name for target in self.places if target.backend.url is not None}
        self.journal = Journal(backend, "", max_bytes, names=names)
        return place

    # -- what is known to be missed ------------------------------------------------------------------------------------

    def stale(self, path: str, max_age: float = FRESH) -> frozenset[str]:
        """The names of the targets that are known to have missed a change of ``path``, but never of all of them."""
        if self.journal is None:
            return frozenset()
        telling = [entry for entry in self.journal.of(path, max_age) if _tells(entry)]
        telling = [entry for entry in telling if entry.kind == "file"] or telling
        names = frozenset(place.name for place in self.places)
        missed = names.intersection(name for entry in telling for name in entry.targets)
        among = telling[-1].among if telling else ()
        added = missed | (names.difference(among) if among else frozenset())  # they never had it
        if len(added) < len(names):
            return added
        if len(missed) < len(names):
            return missed
        last = names.intersection(([entry for entry in telling if not entry.doubt] or telling)[-1].targets)
        return last if len(last) < len(names) else frozenset()

    def candidates(self, path: str) -> tuple[Place, ...]:
        """Those that have missed nothing; who missed metadata alone has the right bytes, and is asked last."""
        entries = [] if self.journal is None else [entry for entry in self.journal.of(path) if not entry.intent]
        if not entries:
            return self.places
        stale, late = self.stale(path), {name for entry in entries if entry.kind == "meta" for name in entry.targets}
        return tuple(
            sorted((place for place in self.places if place.name not in stale), key=lambda place: place.name in late)
        )

    def _shows(self, prefix: str) -> Shows | None:
        entries = [] if self.journal is None else [entry for entry in self.journal.load(FRESH) if _tells(entry)]
        return Fresh(self, entries) if entries else None

    def entry(self, path: str, missed: Sequence[Place], **what: Any) -> Missed:
        urls = tuple(place.backend.url for place in self.places)
        among = tuple(place.name for place in self.places)
        return Missed("", path, tuple(place.name for place in missed), urls=urls, among=among, **what)

    # -- changes -------------------------------------------------------------------------------------------------------

    def change(
        self,
        op: str,
        path: str,
        call: Callable[[Place], T],
        *paths: str,
        first: Sequence[Place] = (),
        kind: str = "file",
        gone: str | None = None,
        reads: Sequence[str] = (),
        strict: bool = False,
        unless: Callable[[], bool] = lambda: False,
    ) -> dict[str, T]:
        """``call`` at every target; the answers of those that did it, which are ``needed`` or more. Those that did not
        are noted for ``path`` and ``paths``. One of those in ``first`` is asked before all others, the next of them
        where the one before cannot be; if it refuses, that is the end of it. Nothing will be at ``gone`` afterwards.
        Nobody here changes what ``reads`` names meanwhile. ``strict``: it is not done where anybody refuses it. Nothing
        is done, and nothing returned, where ``unless`` is true once nobody here changes them any more."""

        def changing(place: Place) -> T:
            for each in (path, *paths):
                self.stuck.check(place.name, each)
            return call(place)

        def given_up(place: Place, turn: Turn) -> None:
            for each in (path, *paths):
                self.stuck.add(place.name, each, turn)

        def ask(places: Sequence[Place], enough: int) -> None:
            found = ask_all(
                places, op, path, changing, enough=enough, late=self.laggard, crew=self.crew, on_late=given_up
            )
            answers.update(zip((place.name for place in places), found, strict=True))

        self.buckets.check()
        self.contents.decide()
        with self.locks.hold(path, *paths, *reads):
            if unless():
                return {}
            notes = self._notes((path, *paths), kind, bool(first), strict)
            answers: dict[str, T | BaseException] = {}
            begun = False
            try:
                for note in notes:
                    note.begins("" if note.path == gone else None, 0)
                begun = True
                if self._decided(first, ask, answers):
                    rest = [place for place in self.places if place.name not in answers]
                    ask(rest, self.needed - sum(not isinstance(one, BaseException) for one in answers.values()))
            except BaseException as error:
                if begun:  # cancelled: what was not answered may have happened
                    answers = {place.name: answers.get(place.name, error) for place in self.places}
                raise
            finally:
                outcomes = [outcome_of(place.name, path, answers) for place in self.places]
                told = True  # a move is told of both its paths, or of none: each is decided by what all hold then
                for note in notes:
                    told = note.ended(outcomes, told=told)
        done = {name: answer for name, answer in answers.items() if not isinstance(answer, BaseException)}
        if len(done) >= self.needed and not (strict and any(map(_refused, outcomes))):
            for note in notes:
                note.check()
            return done
        errors = [answer for answer in answers.values() if isinstance(answer, BaseException)]
        reason = None if done else one_reason(errors)
        unsure = [outcome.target for outcome in outcomes if outcome.state == "unknown"]
        raise unsure_of(reason, unsure) if reason is not None else self.partial(op, path, outcomes)

    def _notes(self, paths: Sequence[str], kind: str, conditional: bool, strict: bool) -> list[Noting]:
        if self.journal is None:
            return []
        return [Noting(self, self.journal, path, kind, conditional, strict) for path in paths]

    def _decided(
        self, first: Sequence[Place], ask: Callable[[Sequence[Place], int], None], answers: Mapping[str, Any]
    ) -> bool:
        """Whether one of those who are asked first has done it."""
        for place in first:
            ask([place], 1)
            answer = answers[place.name]
            if not isinstance(answer, BaseException):
                return True
            if isinstance(answer, REFUSALS):
                return False
        return not first

    def partial(self, op: str, path: str, outcomes: Sequence[Outcome]) -> MultiError:
        """The error of a change that too few did."""
        done = [outcome.target for outcome in outcomes if outcome.state == "committed"]
        error = MultiError(
            f"{op} was done at {', '.join(done) or 'no target for certain'}: {self.needed} were needed",
            [outcome.error for outcome in outcomes if isinstance(outcome.error, Exception)], path=path, op=op,
        )  # fmt: skip
        error.outcomes = tuple(outcomes)
        return error


def _tells(entry: Missed) -> bool:
    """Whether its targets show something else than the others."""
    return not entry.intent and entry.kind != "meta"


def outcome_of(name: str, path: str, answers: Mapping[str, Any]) -> Outcome:
    if name not in answers:
        return Outcome(name, "aborted", None, None, path)
    answer = answers[name]
    if not isinstance(answer, BaseException):
        return Outcome(name, "committed", answer if isinstance(answer, ObjectInfo) else None, None, path)
    state: State = "unknown" if may_have_happened(answer) else "failed"
    return Outcome(name, state, None, answer, path)


class Noting:
    """Tells the journal of one change of one path: before anything is changed, and how it ended."""

    def __init__(
        self, mirror: Mirroring, journal: Journal, path: str, kind: str, conditional: bool, strict: bool
    ) -> None:
        self._mirror, self._journal, self.path, self._kind = mirror, journal, path, kind
        self._conditional, self._strict = conditional, strict
        self._entry: Missed | None = None
        self._sha256: str | None = None
        self._before: tuple[str, ...] = ()
        self._error: StorageError | None = None

    def begins(self, sha256: str | None, size: int) -> None:
        self._sha256, places = sha256, list(self._mirror.places)
        if self._kind != "meta":  # a change of a part settles nothing
            kinds = ("dir",) if self._kind == "dir" else ("file", "meta")
            known = [
                entry
                for entry in self._journal.of(self.path, 0.0 if self._conditional else FRESH)
                if entry.kind in kinds
            ]
            ended = self._journal.mine - self._journal.live
            self._before = tuple(entry.id for entry in known if not entry.intent or entry.id in ended)
            if self._conditional:  # a target that is behind may hold by chance what this would have made
                behind = {
                    name for entry in known if not entry.intent and entry.kind != "meta" for name in entry.targets
                }
                places = [place for place in places if place.name not in behind] or places
        entry = self._mirror.entry(self.path, places, kind=self._kind, sha256=sha256, intent=True)
        self._entry = self._journal.add(entry)
        self._journal.live.add(self._entry.id)

    def ended(self, outcomes: Sequence[Outcome], *, told: bool = True) -> bool:
        """Whether the journal knows it now; where not ``told`` it is not told, and only this process remembers."""
        if self._entry is None:
            return told
        self._journal.live.discard(self._entry.id)
        done = {outcome.target for outcome in outcomes if outcome.state == "committed"}
        wrong = [place for place in self._mirror.places if place.name not in done]
        settled = [*self._before, self._entry.id] if done else [self._entry.id]
        sha256, doubt = self._sha256, False
        lost = self._strict or len(done) < self._mirror.needed
        if self._conditional and lost and any(map(_refused, outcomes)):
            # Somebody else's object is right, and what was published of this one is not.
            refused = {outcome.target for outcome in outcomes if _refused(outcome)}
            wrong = [place for place in self._mirror.places if place.name not in refused]
            settled, sha256, doubt = [self._entry.id], None, True
        for outcome in outcomes:
            if done and outcome.error is not None:
                self._mirror.causes[outcome.target] = why(outcome.error)
        unsure = any(outcome.state == "unknown" for outcome in outcomes)
        entry = self._mirror.entry(self.path, wrong, kind=self._kind, sha256=sha256, doubt=doubt)
        try:
            if not told and (done or unsure):
                raise StorageError("another path of this change is not told", path=self.path, op="write")
            if (done or (doubt and unsure)) and wrong:
                self._journal.add(entry, in_place=True)
            if done or doubt or not unsure:
                self._journal.remove(settled)
        except StorageError as error:
            # The entry made before says that something happened. With a digest that is all repair needs.
            _LOG.warning("the repair journal keeps %r open: %s", self.path, error)
            self._error = error if wrong and self._sha256 is None else None
            if done and wrong:
                self._journal.remember(entry, self._entry.id)
            return False
        return True

    def check(self) -> None:
        """Raise what kept the journal from learning who missed a change that nobody could tell otherwise."""
        if self._error is not None:
            raise self._error


def why(error: BaseException) -> str:
    """What an error says, without where."""
    return str(error.args[0]) if error.args else type(error).__name__


def _refused(outcome: Outcome) -> bool:
    return isinstance(outcome.error, AlreadyExists | PreconditionFailed)
