"""How several places are asked at once: the fastest answer, or the one that enough of them give."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

from omnistorage.checksums import new_hash
from omnistorage.concurrency.cancellation import CancelScope, Waiter, wait
from omnistorage.core import ExtendedBackend, ObjectInfo, ReadOptions
from omnistorage.errors import BackendUnavailable, CorruptData, InvalidPath, NotFound, OutcomeUnknown
from omnistorage.ops import operations
from omnistorage.paths import check_key

from .scheduler import CREW, Crew, Turn
from .tier import Place, named, told

T = TypeVar("T")
MISSES = (NotFound, InvalidPath)


class _Attempt(Generic[T]):
    """One call on one place, in a thread of its own."""

    def __init__(
        self, place: Place, call: Callable[[Place], T], done: Callable[[_Attempt[T]], None], crew: Crew = CREW
    ) -> None:
        self.place = place
        self.scope = CancelScope()
        self.over = False
        self.answer: T | None = None
        self.error: BaseException | None = None

        def run() -> bool:
            try:
                with self.scope, named(place):
                    self.answer = call(place)
            except BaseException as error:  # raised again where it is waited for
                self.error = error
            self.over = True
            done(self)
            return False

        self.turn = crew.start(run, Waiter())  # deadlines and outer scopes hold there, too


def race(
    places: Sequence[Place], op: str, path: str, call: Callable[[Place], T], discard: Callable[[T], None]
) -> tuple[Place, T]:
    """The first good answer; the other calls are cancelled, and what they still give is discarded. A miss is no good
    answer: without any, another error is raised before ``NotFound``."""
    ended: SimpleQueue[_Attempt[T]] = SimpleQueue()
    lock, over = threading.Lock(), False
    wake = Waiter()

    def done(attempt: _Attempt[T]) -> None:
        with lock:
            if not over:
                ended.put(attempt)
                wake.set()
                return
        if attempt.error is None:
            discard(attempt.answer)  # type: ignore[arg-type]

    attempts: list[_Attempt[T]] = []
    errors: list[BaseException] = []
    winner: _Attempt[T] | None = None
    try:
        for place in places:
            attempts.append(_Attempt(place, call, done))
        while len(errors) < len(attempts):
            while ended.empty():
                wake.clear()
                if ended.empty():
                    wait(wake, op=op, path=path)
            first = ended.get()
            if first.error is None:
                winner = first
                break
            errors.append(first.error)
    finally:
        with lock:
            over = True
        for attempt in attempts:
            if attempt is not winner:
                attempt.scope.cancel()
        while not ended.empty():
            late = ended.get()
            if late is not winner and late.error is None:
                discard(late.answer)  # type: ignore[arg-type]
    if winner is not None:
        return winner.place, winner.answer  # type: ignore[return-value]
    try:
        raise next((error for error in errors if not isinstance(error, MISSES)), errors[0])
    finally:
        del attempts, first  # or the errors would keep this frame, and it them
        errors.clear()


def ask_all(
    places: Sequence[Place],
    op: str,
    path: str,
    call: Callable[[Place], T],
    *,
    enough: int | None = None,
    late: float | None = None,
    crew: Crew = CREW,
    on_late: Callable[[Place, Turn], None] = lambda place, turn: None,
) -> list[T | BaseException]:
    """The answers of all, or the errors in their places, in the order of the places. Who is ``late`` seconds behind
    ``enough`` good answers is cancelled and not waited for: ``OutcomeUnknown``, and ``on_late`` is told."""
    wake = Waiter()
    attempts = [_Attempt(place, call, lambda _: wake.set(), crew) for place in places]

    def all_over() -> bool:
        return all(attempt.over for attempt in attempts)

    def some() -> bool:
        return all_over() or sum(one.over and one.error is None for one in attempts) >= (enough or 0)

    try:
        crew.wait(wake, all_over if late is None else some, None, op, path)
        if late is not None:
            crew.wait(wake, all_over, late, op, path)
    except BaseException:
        for attempt in attempts:
            attempt.scope.cancel()
            on_late(attempt.place, attempt.turn)
        raise
    answers: list[T | BaseException] = []
    for attempt in attempts:
        if not attempt.over:
            attempt.scope.cancel()
            on_late(attempt.place, attempt.turn)
            why = f"given up: the others were done more than {late or 0:g} s before"
            answers.append(
                told(OutcomeUnknown(why, path=path, op=op, backend=attempt.place.backend.name), attempt.place)
            )
        else:
            answers.append(attempt.error if attempt.error is not None else attempt.answer)  # type: ignore[arg-type]
    return answers


# --- agreement --------------------------------------------------------------------------------------------------------

Vote = tuple[str, str]  # what a tier says of an object, and what for: two alike agree
ABSENT: Vote = ("absent", "")


def info_of(backend: ExtendedBackend, path: str) -> ObjectInfo:
    """What the tier says of the object; ``NotFound`` for a folder, too."""
    if backend.features.stat:
        return backend.stat(path)
    with backend.open_reader(path) as reader:
        return reader.info


def digest_of(backend: ExtendedBackend, path: str, algorithm: str, etag: str | None) -> str:
    """The digest of the object's bytes, which are read."""
    digest = new_hash(algorithm)
    with backend.open_reader(path, ReadOptions(if_match=etag)) as reader:
        while block := reader.read(operations.BLOCK):
            digest.update(block)
    return str(digest.hexdigest())


def agreed(
    places: Sequence[Place], needed: int, op: str, path: str, crew: Crew = CREW
) -> tuple[Place, ObjectInfo, Vote]:
    """The first tier of those ``needed`` or more that hold the same bytes, by the digest that all of them state or else
    by one of what is read, with what it says of the object. ``NotFound`` if as many agree that there is none;
    ``CorruptData`` if no such number agrees on anything, naming what each says; another error if too many cannot be
    asked."""
    check_key(path, op=op)
    if len(places) < needed:
        why = f"{needed} {places[0].word}s are to agree, and only {len(places)} are up to date: repair() the others"
        raise BackendUnavailable(why, path=path, op=op)
    asked = ask_all(places, op, path, lambda place: info_of(place.backend, path), crew=crew)
    infos = {place.index: info for place, info in zip(places, asked, strict=True)}
    there = [info for info in asked if isinstance(info, ObjectInfo)]
    stated = set.intersection(*(set(info.hashes or ()) for info in there)) if there else set()
    algorithm = next((name for name in ("sha256", "md5", "crc32c") if name in stated), None)

    def vote(place: Place) -> Vote:
        info = infos[place.index]
        if isinstance(info, BaseException):
            raise info
        if algorithm is not None:
            return algorithm, str(info.hash(algorithm))
        return "sha256", digest_of(place.backend, path, "sha256", info.etag)

    votes: dict[int, Vote] = {}
    errors: list[BaseException] = []
    answers = [] if not there else ask_all(places, op, path, vote, crew=crew)
    for place, answer in zip(places, answers or asked, strict=True):
        if isinstance(answer, MISSES):
            votes[place.index] = ABSENT
        elif isinstance(answer, BaseException):
            errors.append(answer)
        else:
            votes[place.index] = answer  # type: ignore[assignment]
    (best, count), *_ = [*Counter(votes.values()).most_common(1), (ABSENT, 0)]
    if count < needed:
        if count + len(errors) >= needed or not votes:
            raise errors[0]
        said = ", ".join(f"{place.name} {worded(votes[place.index])}" for place in places if place.index in votes)
        raise CorruptData(f"no {needed} of {len(places)} {places[0].word}s agree: {said}", path=path, op=op)
    if best == ABSENT:
        why = f"{count} of {len(places)} {places[0].word}s agree that there is no such object"
        raise NotFound(why, path=path, op=op)
    first = next(place for place in places if votes.get(place.index) == best)
    info = infos[first.index]
    assert isinstance(info, ObjectInfo)
    return first, info, best


def worded(vote: Vote) -> str:
    return "has none" if vote == ABSENT else f"{vote[0]} {vote[1][:16]}"


class Checked:
    """Holds what is read against the digest that was agreed on."""

    def __init__(self, vote: Vote, path: str) -> None:
        self._digest, self._vote, self._path, self._over = new_hash(vote[0]), vote, path, False

    def took(self, data: bytes) -> None:
        if self._over:
            raise CorruptData("there are more bytes than was agreed on", path=self._path, op="read")
        self._digest.update(data)

    def ended(self, whole: bool) -> None:
        self._over = True
        if whole and self._digest.hexdigest() != self._vote[1]:
            raise CorruptData("the bytes are not those that were agreed on", path=self._path, op="read")
