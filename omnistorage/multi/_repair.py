"""Targets made alike again: by what the journal says was missed, or by comparing everything. Imports floors 0 and 2,
and wrappers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from heapq import merge
from itertools import groupby
from typing import NamedTuple

from .. import ops
from ..core import WRITE, CopyOptions, ObjectInfo, SetMetadata, WriteOptions, Writer, power
from ..errors import CapabilityNotSupported, ConfigError, DirectoryNotEmpty, NotFound, PreconditionFailed, StorageError
from ..paths import sort_key
from ..wrappers._base import Wrapper
from ._asking import MISSES, ask_all, digest_of
from ._journal import FRESH, Journal, Missed
from ._mirroring import Mirroring
from ._rulers import Rulers, alike, condition_of, has_folder, is_still, look
from .targets import Target, with_own
from .tiers import Place, told

_BATCH = 500
ATTEMPTS = 5


class Repaired(NamedTuple):
    """``paths`` are alike again, by which ``changed`` targets got something; ``waiting`` entries could not be settled,
    each with the reason."""

    paths: tuple[str, ...]
    changed: int
    waiting: tuple[tuple[Missed, StorageError], ...]


class Divergence(NamedTuple):
    """The targets do not hold the same at ``path``. ``holds`` is, by target, the digest of what it holds, None for
    nothing; those in ``rebuilt`` were made like most."""

    path: str
    holds: dict[str, str | None]
    rebuilt: tuple[str, ...] = ()


class Verified(NamedTuple):
    """``same`` objects are alike everywhere, ``differing`` are not; ``pending`` are left to ``repair``, as the journal
    has entries of them."""

    same: int
    differing: tuple[Divergence, ...]
    pending: tuple[Divergence, ...]

    @property
    def alike(self) -> bool:
        return not self.pending and all(one.rebuilt for one in self.differing)


class _Told(Wrapper):
    """A target to which objects are written with its own options."""

    def __init__(self, place: Place, kinds: frozenset[str]) -> None:
        super().__init__(place.backend)
        self._place, self._kinds = place, kinds

    def open_writer(self, path: str, options: WriteOptions = WRITE) -> Writer:
        assert isinstance(self._place.tier, Target)
        return self.inner.open_writer(path, self._place.tier.options(options, self._place, self._kinds))


class Repairer:
    """Makes targets alike. ``changed`` counts what it brought, ``touched`` says where."""

    def __init__(self, mirror: Mirroring) -> None:
        self._mirror, self.rulers = mirror, Rulers(mirror)
        self._kinds = frozenset(place.backend.name for place in mirror.places)
        self._policy = mirror.crew.policy()
        self.changed = 0
        self.touched: dict[str, list[Place]] = {}

    # -- one path ------------------------------------------------------------------------------------------------------

    def settle(self, entries: Sequence[Missed]) -> None:
        """Make all targets alike at the path of ``entries``, which are all there are of it, oldest first. Raises a
        ``StorageError`` where that cannot be done now."""
        for kind in ("dir", "file", "meta"):
            some = [entry for entry in entries if entry.kind == kind]
            if some and kind == "meta":
                self._settle_metadata(some)
            elif some:
                self._settle(some)

    def _settle(self, entries: Sequence[Missed]) -> None:
        path = entries[-1].path
        for attempt in range(ATTEMPTS):
            if attempt and self._is_told_of(entries):
                break  # what was to be brought may be what was replaced
            rulers = self.rulers.of(list(entries))
            if not rulers:
                return  # nothing ever came of it
            if entries[-1].kind == "file":
                rulers = self.rulers.agreed(entries, rulers)
            if self._make_alike(path, rulers, entries[-1].kind):
                return
        raise PreconditionFailed("it keeps changing", path=path, op="repair")

    def _is_told_of(self, entries: Sequence[Missed]) -> bool:
        """Whether there is more of the path in the journal than ``entries``."""
        assert self._mirror.journal is not None
        return not {entry.id for entry in self._mirror.journal.of(entries[-1].path, 0.0)} <= {
            entry.id for entry in entries
        }

    def _make_alike(self, path: str, rulers: Sequence[Place], kind: str) -> bool:
        """Bring what a ruler has to all the others; False if somebody changed it meanwhile."""
        others = [place for place in self._mirror.places if place not in rulers]
        ruler = rulers[0]
        if kind == "dir":
            for place in others:
                self._same_folder(path, ruler, place)
            return True
        before = look(ruler, path)
        error: BaseException | None = None
        for place in others:
            try:
                self.bring(path, ruler, before, place)
            except PreconditionFailed:
                return False
            except StorageError as found:
                error = told(found, place)  # the others are not to wait for this one
        if error is not None:
            raise error
        return is_still(before, ruler, path)

    def bring(self, path: str, ruler: Place, info: ObjectInfo | None, place: Place) -> None:
        """Make ``place`` hold what ``ruler`` holds, if that still is ``info`` and nobody changes it there meanwhile."""
        self._mirror.stuck.check(place.name, path)
        there = look(place, path)
        conditional = place.backend.features.if_match
        if info is None:
            if there is not None:
                self._touch(path, place)
                place.backend.delete(path, **({"if_match": there.etag} if conditional and there.etag else {}))
            return
        if there is not None and alike(path, ruler, info, place, there):
            return
        options = CopyOptions(source_if_match=condition_of(ruler, info))
        if conditional and there is not None and there.etag is not None:
            options = replace(options, if_match=there.etag)
        elif there is None and place.backend.features.create_only:
            options = replace(options, overwrite=False)
        self._touch(path, place)
        target = _Told(place, self._kinds)
        try:
            try:
                ops.transfer(ruler.backend, path, target, path, options, policy=self._policy)
            except CapabilityNotSupported:
                # Some stores keep conditions of short objects alone. What changes meanwhile is seen afterwards.
                options = replace(options, overwrite=True, if_match=None)
                ops.transfer(ruler.backend, path, target, path, options, policy=self._policy)
        except (NotFound, FileExistsError) as error:
            raise PreconditionFailed("it changed meanwhile", path=path, op="repair") from error

    def _touch(self, path: str, place: Place) -> None:
        self.changed += 1
        if place not in self.touched.setdefault(path, []):
            self.touched[path].append(place)

    def _same_folder(self, path: str, ruler: Place, place: Place) -> None:
        self._mirror.stuck.check(place.name, path)
        there, wanted = has_folder(place, path), has_folder(ruler, path)
        if there == wanted:
            return
        if wanted:
            place.backend.mkdir(path)
        else:
            try:
                place.backend.rmdir(path)
            except (NotFound, DirectoryNotEmpty):
                return  # what is in it is another entry's business
        self.changed += 1

    def _settle_metadata(self, entries: Sequence[Missed]) -> None:
        path = entries[-1].path
        missed = {name for entry in entries if not entry.intent for name in entry.targets}
        ruler = next((place for place in self._mirror.places if place.name not in missed), self._mirror.places[0])
        info = look(ruler, path)
        for place in self._mirror.places:
            able = power(place.backend, SetMetadata)
            if place is not ruler and info is not None and able is not None and look(place, path) is not None:
                able.set_metadata(
                    path, modified_at=info.modified_at, user_metadata=with_own(info.metadata or {}, place, ruler)
                )
                self.changed += 1


# -- the journal -------------------------------------------------------------------------------------------------------


def repair(mirror: Mirroring, journal: Journal, grace: float) -> Repaired:
    """``MultiBackend.repair``."""
    _check_targets(mirror, journal.load())
    repairer = Repairer(mirror)
    done: list[str] = []
    waiting: list[tuple[Missed, StorageError]] = []
    todo = list(dict.fromkeys(entry.path for entry in journal.load(FRESH)))
    while todo:
        batch, todo = todo[:_BATCH], todo[_BATCH:]
        settled: list[tuple[str, list[Missed]]] = []
        unsettled: list[tuple[str, list[Missed]]] = []
        journal.load()
        for path in batch:
            with mirror.locks.hold(path):
                entries = journal.of(path)
                young = [entry for entry in entries if entry.intent and _is_young(journal, entry, grace)]
                try:
                    if young:
                        raise StorageError("its publication may be under way", path=path, op="repair", transient=True)
                    if entries:
                        repairer.settle(entries)
                    settled.append((path, entries))
                except StorageError as error:
                    waiting += [(entry, error) for entry in entries]
                    unsettled.append((path, entries))
        journal.load()
        for path, entries in unsettled:
            _doubt(mirror, journal, repairer, path, entries)
        for path, entries in settled:
            with mirror.locks.hold(path):
                if not _doubt(mirror, journal, repairer, path, entries):
                    journal.remove(entry.id for entry in entries)
                    done.append(path)
                    continue
                why = StorageError("it was changed meanwhile", path=path, op="repair", transient=True)
                waiting += [(entry, why) for entry in entries]
    return Repaired(tuple(done), repairer.changed, tuple(waiting))


def _doubt(mirror: Mirroring, journal: Journal, repairer: Repairer, path: str, entries: Sequence[Missed]) -> bool:
    """Whether somebody changed ``path``, or was about to, since it had ``entries``. What was brought may not be what it
    should be any more then, and that is noted."""
    if [entry.id for entry in journal.of(path)] == [entry.id for entry in entries]:
        return False
    touched = repairer.touched.get(path)
    if touched:
        journal.add(mirror.entry(path, touched, doubt=True), in_place=True)
    return True


def _is_young(journal: Journal, entry: Missed, grace: float) -> bool:
    return entry.id in journal.live or journal.age(entry) < grace


def _check_targets(mirror: Mirroring, entries: Sequence[Missed]) -> None:
    """What the journal calls a target must be what is called so now."""
    urls = {place.name: place.backend.url for place in mirror.places}
    for entry in entries:
        for name, url in zip(entry.targets, entry.urls, strict=False):
            if name not in urls:
                raise ConfigError(
                    f"the journal speaks of a target {name!r}; there are: {', '.join(urls)}. Add it again, or delete "
                    f"the entries that name it ({entry.id}.json, ...) and verify()"
                )
            if None not in (url, urls[name]) and url != urls[name]:
                raise ConfigError(f"the journal knows the target {name!r} as {url}, and now it is {urls[name]}")


# -- everything --------------------------------------------------------------------------------------------------------


def verify(mirror: Mirroring, prefix: str, *, rebuild: bool) -> Verified:
    """``MultiBackend.verify``."""
    repairer = Repairer(mirror)
    pending = set() if mirror.journal is None else {entry.path for entry in mirror.journal.load()}
    same = 0
    differing: list[Divergence] = []
    known: list[Divergence] = []
    for path, infos in _side_by_side(mirror.places, prefix):
        if path in pending:
            known.append(Divergence(path, _holds(mirror, path, infos)))
            continue
        found = _compare(mirror, path, infos, repairer if rebuild else None)
        if found is None:
            same += 1
        else:
            differing.append(found)
    return Verified(same, tuple(differing), tuple(known))


def _side_by_side(places: Sequence[Place], prefix: str) -> Iterator[tuple[str, dict[int, ObjectInfo]]]:
    def entries(place: Place) -> Iterator[tuple[bytes, int, ObjectInfo]]:
        try:
            for info in ops.sorted_list(place.backend, prefix):
                yield sort_key(info.path), place.index, info
        except StorageError as error:
            raise told(error, place) from error.__cause__

    merged = merge(*(entries(place) for place in places))
    for _, group in groupby(merged, key=lambda entry: entry[0]):
        infos = {index: info for _, index, info in group}
        yield next(iter(infos.values())).path, infos


def _compare(
    mirror: Mirroring, path: str, infos: dict[int, ObjectInfo], repairer: Repairer | None
) -> Divergence | None:
    if len(infos) == len(mirror.places) and _stated_alike(list(infos.values())):
        return None
    holds = _holds(mirror, path, infos)
    if len(set(holds.values())) == 1:
        return None
    best, count = Counter(holds.values()).most_common(1)[0]
    if repairer is None or best is None or count * 2 <= len(holds):
        return Divergence(path, holds)  # what only some have is never taken from them
    ruler = next(place for place in mirror.places if holds[place.name] == best)
    minority = [place for place in mirror.places if holds[place.name] != best]
    with mirror.locks.hold(path):
        journal, info = mirror.journal, look(ruler, path)
        if info is None or (journal is not None and journal.of(path, 0.0)):
            return Divergence(path, holds)  # it is being changed
        changed = True
        try:
            for place in minority:
                if not is_still(infos.get(place.index), place, path):
                    return Divergence(path, holds)
                repairer.bring(path, ruler, info, place)
            changed = not is_still(info, ruler, path) or bool(journal is not None and journal.of(path, 0.0))
        finally:
            if changed and journal is not None and path in repairer.touched:
                journal.add(mirror.entry(path, repairer.touched[path], doubt=True), in_place=True)
        if changed:
            return Divergence(path, holds)
    return Divergence(path, holds, tuple(place.name for place in minority))


def _stated_alike(infos: Sequence[ObjectInfo]) -> bool:
    common = set.intersection(*(set(info.hashes or ()) for info in infos)) & {"sha256", "md5"}
    return bool(common) and all(len({info.hash(name) for info in infos}) == 1 for name in common)


def _holds(mirror: Mirroring, path: str, infos: dict[int, ObjectInfo]) -> dict[str, str | None]:
    def digest(place: Place) -> str | None:
        info = infos.get(place.index)
        if info is None:
            return None
        try:
            return info.hash("sha256") or digest_of(place.backend, path, "sha256", condition_of(place, info))
        except MISSES:
            return None

    answers = ask_all(mirror.places, "verify", path, digest, crew=mirror.crew)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return {place.name: answer for place, answer in zip(mirror.places, answers, strict=True)}  # type: ignore[misc]
