"""What every change of a mirror goes through: who gets it, how many must have it, and what is noted of the others.
Imports floors 0 and 2, and wrappers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from typing import Any, TypeVar

from .. import ops
from ..core import ObjectInfo
from ..errors import (
    AlreadyExists,
    CapabilityNotSupported,
    ConfigError,
    InvalidPath,
    MultiError,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)
from ..paths import is_under
from ..registry import locate
from ._asking import ask_all
from ._crew import Crew, Stuck, Turn
from ._feeds import one_reason
from ._journal import Journal, Missed
from ._listing import Shows
from ._reading import Reading
from .outcomes import Outcome, State
from .tiers import Place, named

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_CERTAIN = (
    AlreadyExists,
    CapabilityNotSupported,
    ConfigError,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
)


_STRIPES = 1024


class PathLocks:
    """Changes of one path by one backend come one after the other: else two writers could each win somewhere."""

    def __init__(self) -> None:
        self._locks = [threading.Lock() for _ in range(_STRIPES)]

    @contextmanager
    def hold(self, *paths: str) -> Iterator[None]:
        with ExitStack() as held:
            for number in sorted({hash(path) % _STRIPES for path in paths}):
                held.enter_context(self._locks[number])
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
    crew: Crew
    locks: PathLocks
    stuck: Stuck
    needed: int
    laggard: float | None

    def _arrange_journal(self, place: Any, max_bytes: int) -> None:
        if place is None:
            self.journal = None
            return
        if type(max_bytes) is not int or max_bytes < 1:
            raise ConfigError(f"journal_bytes is a number of bytes from 1 up, not {max_bytes!r}")
        backend, folder = locate(place, is_object=False) if isinstance(place, str | PathLike) else (place, "")
        backend = ops.extended(backend)
        if not (backend.features.write and backend.features.list and backend.features.delete):
            raise ConfigError(f"the journal is kept where objects can be written, listed and deleted: not {backend!r}")
        self.journal = Journal(backend, folder, max_bytes)

    # -- what is known to be missed ------------------------------------------------------------------------------------

    def stale(self, path: str) -> frozenset[str]:
        """The names of the targets that are known to have missed a change of ``path``, unless that is all of them."""
        if self.journal is None:
            return frozenset()
        missed = {name for entry in self.journal.of(path) if _tells(entry) for name in entry.targets}
        return frozenset(missed) if len(missed) < len(self.places) else frozenset()

    def candidates(self, path: str) -> tuple[Place, ...]:
        stale = self.stale(path)
        return tuple(place for place in self.places if place.name not in stale) if stale else self.places

    def _shows(self, prefix: str) -> Shows | None:
        entries = [] if self.journal is None else [entry for entry in self.journal.known() if _tells(entry)]
        return Fresh(self, entries) if entries else None

    def entry(self, path: str, missed: Sequence[Place], **what: Any) -> Missed:
        urls = tuple(place.backend.url for place in missed)
        return Missed("", path, tuple(place.name for place in missed), urls=urls, **what)

    # -- changes -------------------------------------------------------------------------------------------------------

    def change(
        self,
        op: str,
        path: str,
        call: Callable[[Place], T],
        *paths: str,
        first: Place | None = None,
        kind: str = "file",
    ) -> dict[str, T]:
        """``call`` at every target; the answers of those that did it, which are ``needed`` or more. Those that did not
        are noted for ``path`` and ``paths``. ``first`` is asked before the others, and its error is the end of it."""
        others = [place for place in self.places if place is not first]

        def changing(place: Place) -> T:
            for each in (path, *paths):
                self.stuck.check(place.name, each)
            return call(place)

        def given_up(place: Place, turn: Turn) -> None:
            for each in (path, *paths):
                self.stuck.add(place.name, each, turn)

        enough = self.needed - (first is not None)
        with self.locks.hold(path, *paths):
            notes = [Noting(self, self.journal, each, kind) for each in (path, *paths)] if self.journal else []
            answers: dict[str, T | BaseException] = {}
            begun = False
            try:
                for note in notes:
                    note.begins(None, 0)
                begun = True
                if first is not None:
                    answers[first.name] = self._ask_first(first, changing)
                if first is None or not isinstance(answers[first.name], BaseException):
                    found = ask_all(
                        others, op, path, changing, enough=enough, late=self.laggard, crew=self.crew, on_late=given_up
                    )
                    answers |= zip((place.name for place in others), found, strict=True)
            except BaseException as error:
                if begun:  # cancelled: what was not answered may have happened
                    answers = {place.name: answers.get(place.name, error) for place in self.places}
                raise
            finally:
                outcomes = [_outcome(place.name, path, answers) for place in self.places]
                for note in notes:
                    note.ended(outcomes)
        done = {name: answer for name, answer in answers.items() if not isinstance(answer, BaseException)}
        if len(done) >= self.needed:
            for note in notes:
                note.check()
            return done
        errors = [answer for answer in answers.values() if isinstance(answer, BaseException)]
        reason = None if done else one_reason(errors)
        raise reason if reason is not None else self._partial(op, path, outcomes)

    def _ask_first(self, place: Place, call: Callable[[Place], T]) -> T | BaseException:
        try:
            with named(place):
                return call(place)
        except StorageError as error:
            return error

    def _partial(self, op: str, path: str, outcomes: Sequence[Outcome]) -> MultiError:
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


def _outcome(name: str, path: str, answers: Mapping[str, Any]) -> Outcome:
    if name not in answers:
        return Outcome(name, "aborted", None, None, path)
    answer = answers[name]
    if not isinstance(answer, BaseException):
        return Outcome(name, "committed", answer if isinstance(answer, ObjectInfo) else None, None, path)
    state: State = "failed" if isinstance(answer, _CERTAIN) else "unknown"
    return Outcome(name, state, None, answer, path)


class Noting:
    """Tells the journal of one change of one path: before anything is changed, and how it ended."""

    def __init__(self, mirror: Mirroring, journal: Journal, path: str, kind: str = "file") -> None:
        self._mirror, self._journal, self._path, self._kind = mirror, journal, path, kind
        self._entry: Missed | None = None
        self._sha256: str | None = None
        self._before: tuple[str, ...] = ()
        self._error: StorageError | None = None

    def begins(self, sha256: str | None, size: int) -> None:
        self._sha256 = sha256
        if self._kind != "meta":  # a change of a part settles nothing
            self._before = tuple(entry.id for entry in self._journal.of(self._path) if not entry.intent)
        entry = self._mirror.entry(self._path, self._mirror.places, kind=self._kind, sha256=sha256, intent=True)
        self._entry = self._journal.add(entry)
        self._journal.live.add(self._entry.id)

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        if self._entry is None:
            return
        self._journal.live.discard(self._entry.id)
        done = {outcome.target for outcome in outcomes if outcome.state == "committed"}
        missed = [place for place in self._mirror.places if place.name not in done]
        unsure = any(outcome.state == "unknown" for outcome in outcomes)
        entry = self._mirror.entry(self._path, missed, kind=self._kind, sha256=self._sha256)
        try:
            if done and missed:
                self._journal.add(entry)
            if done or not unsure:
                self._journal.remove([*(self._before if done else ()), self._entry.id])
        except StorageError as error:
            # The entry made before says that something happened. With a digest that is all repair needs.
            _LOG.warning("the repair journal keeps %r open: %s", self._path, error)
            self._error = error if missed and self._sha256 is None else None
            if done and missed:
                self._journal.remember(entry)

    def check(self) -> None:
        """Raise what kept the journal from learning who missed a change that nobody could tell otherwise."""
        if self._error is not None:
            raise self._error
