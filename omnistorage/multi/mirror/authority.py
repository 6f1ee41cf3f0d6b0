"""Who has what a path should be, by what the journal says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from omnistorage import ops
from omnistorage.core import ObjectInfo
from omnistorage.errors import Cancelled, ConfigError, StorageError
from omnistorage.multi.common.calls import ABSENT, MISSES, Vote, ask_all, digest_of, info_of
from omnistorage.multi.common.tier import Place

from .coordinator import Mirroring
from .journal import Missed

Seen = tuple[Place, ObjectInfo | StorageError | None]


class Rulers:
    """The targets that hold what the path of some entries should be. An entry is no vote: the last one that tells of an
    end, or of a beginning that came to something, has the word, whatever is doubted since."""

    def __init__(self, mirror: Mirroring) -> None:
        self._mirror = mirror

    def of(self, entries: list[Missed]) -> list[Place]:
        """The targets that hold what the path should be."""
        while entries:
            last = _last_word(entries)
            places = [place for place in self._mirror.places if not last.among or place.name in last.among]
            missed = {name for entry in entries if not entry.intent for name in entry.targets}
            good = [place for place in places if place.name not in missed]
            if not last.intent:
                return good or self._left(last, entries, places)
            if last.sha256 is None:
                # Nobody was told that it was done, and all were alike before: whatever came of it is right.
                return self._most(last, good or places)
            holders, down = self._holders(last)
            if any(place.name in last.targets for place in holders):
                return holders
            if down is not None:
                raise down  # it may be the one that did it
            entries.remove(last)  # nobody ever did it
        return []

    def _left(self, last: Missed, entries: Sequence[Missed], places: Sequence[Place]) -> list[Place]:
        """The rulers where each target is said to have missed something: those that ``last`` says did not miss it, or
        that still hold it."""
        doubted = {name for entry in entries if entry.doubt for name in entry.targets}
        had = [place for place in places if place.name not in last.targets]
        good = [place for place in had if place.name not in doubted]
        if not good and last.sha256 is not None:
            holders, down = self._holders(last)
            good = [place for place in holders if place in had] or holders  # they have its metadata, too
            if not good and down is not None:
                raise down
        gone = set(last.among) - set(last.targets) - {place.name for place in places}
        if not good and gone:
            raise ConfigError(
                f"only {', '.join(sorted(gone))} had what {last.path!r} should be, and there is no such target any "
                f"more: add it again, or delete the entries of that path ({last.id}.json, ...) and verify()"
            )
        return good or self._most(last, had or places)

    def _holders(self, last: Missed) -> tuple[list[Place], BaseException | None]:
        """Those that hold what ``last`` says, and why one that might could not be asked."""
        votes = self._votes(last.path, "sha256")
        wanted = ("sha256", last.sha256) if last.sha256 else ABSENT
        holders = [place for place in self._mirror.places if votes[place.index] == wanted]
        asked = [votes[place.index] for place in self._mirror.places if not last.intent or place.name in last.targets]
        return holders, next((vote for vote in asked if isinstance(vote, BaseException)), None)

    def agreed(self, entries: Sequence[Missed], rulers: Sequence[Place]) -> list[Place]:
        """Those of the rulers that hold what is right, where they are seen not to hold the same. Where several changes
        met, what is stated is not enough to see it by."""
        path = entries[-1].path
        one, *others = ((place, seen(place, path)) for place in rulers)
        if all(_may_be_one(path, one, other, reads=len(entries) > 1) for other in others):
            return list(rulers)
        last = _last_word(entries)
        holders = [] if last.sha256 is None else [place for place in self._holders(last)[0] if place in rulers]
        return holders or self._most(last, rulers)

    def _most(self, last: Missed, among: Sequence[Place]) -> list[Place]:
        """Those that hold what most of them hold. Where that is undecided, something rather than nothing, else what the
        first of them holds: nothing is deleted on a tie."""
        if last.kind == "dir":
            return [place for place in among if has_folder(place, last.path)] or list(among[:1])
        votes = [vote for place, vote in zip(self._mirror.places, self._votes(last.path, "sha256"), strict=True)
                 if place in among]  # fmt: skip
        for vote in votes:
            if isinstance(vote, BaseException):
                raise vote
        best = max(Counter(votes).items(), key=lambda found: (found[1], found[0] != ABSENT))[0]
        return [place for place, vote in zip(among, votes, strict=True) if vote == best]

    def _votes(self, path: str, algorithm: str) -> list[Vote | BaseException]:
        def ask(place: Place) -> Vote:
            self._mirror.stuck.check(place.name, path)  # what it holds may be gone in a moment
            return vote_of(place, path, algorithm)

        return ask_all(self._mirror.places, "repair", path, ask, crew=self._mirror.crew)


def _last_word(entries: Sequence[Missed]) -> Missed:
    return next((entry for entry in reversed(entries) if not entry.doubt), entries[-1])


def vote_of(place: Place, path: str, algorithm: str) -> Vote:
    """What the place says that it holds, by the digest that it states or else of what is read."""
    try:
        info = info_of(place.backend, path)
        stated = info.hash(algorithm)
        return algorithm, stated or digest_of(place.backend, path, algorithm, condition_of(place, info))
    except MISSES:
        return ABSENT


def look(place: Place, path: str) -> ObjectInfo | None:
    try:
        return info_of(place.backend, path)
    except MISSES:
        return None


def seen(place: Place, path: str) -> ObjectInfo | StorageError | None:
    try:
        return look(place, path)
    except Cancelled:
        raise
    except StorageError as error:
        return error


def _may_be_one(path: str, one: Seen, other: Seen, *, reads: bool) -> bool:
    """Whether nothing tells the two apart: what is stated of them, or what they hold."""
    (place, a), (another, b) = one, other
    if isinstance(a, StorageError) or isinstance(b, StorageError):
        return True
    if a is None or b is None:
        return a is b
    if not reads and not set(a.hashes or ()) & set(b.hashes or ()):
        return None in (a.size, b.size) or a.size == b.size
    return alike(path, place, a, another, b)


def _mark(info: ObjectInfo | None) -> object:
    return None if info is None else (info.etag, info.size, info.modified_at)


def is_same(one: ObjectInfo | None, other: ObjectInfo | None) -> bool:
    """Whether one place says the same of an object twice."""
    return _mark(one) == _mark(other)


def is_still(info: ObjectInfo | None, place: Place, path: str) -> bool:
    return is_same(info, look(place, path))


def condition_of(place: Place, info: ObjectInfo) -> str | None:
    return info.etag if place.backend.features.if_match else None


def alike(path: str, one: Place, a: ObjectInfo, other: Place, b: ObjectInfo) -> bool:
    if None not in (a.size, b.size) and a.size != b.size:
        return False
    common = set(a.hashes or ()) & set(b.hashes or ())
    for algorithm in ("sha256", "md5", "crc32c"):
        if algorithm in common:
            return a.hash(algorithm) == b.hash(algorithm)
    return digest_of(one.backend, path, "sha256", condition_of(one, a)) == digest_of(
        other.backend, path, "sha256", condition_of(other, b)
    )


def has_folder(place: Place, path: str) -> bool:
    try:
        next(ops.children(place.backend, path), None)
    except MISSES:
        return False
    return True
