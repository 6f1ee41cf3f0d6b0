"""Targets made alike again: by what the journal says was missed, or by comparing everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import merge
from itertools import groupby
from typing import NamedTuple

from omnistorage import ops
from omnistorage.core import WRITE, CopyOptions, ObjectInfo, SetMetadata, WriteOptions, Writer, power
from omnistorage.errors import (
    Cancelled,
    CapabilityNotSupported,
    ConfigError,
    DirectoryNotEmpty,
    NotFound,
    PreconditionFailed,
    StorageError,
)
from omnistorage.multi.common.calls import MISSES, ask_all, digest_of
from omnistorage.multi.common.tier import Place, told
from omnistorage.multi.common.union_listing import rootless
from omnistorage.paths import sort_key
from omnistorage.wrappers.base import Wrapper

from .authority import Rulers, alike, condition_of, has_folder, is_same, is_still, look, seen
from .coordinator import Mirroring
from .journal import FRESH, Journal, Missed
from .target import Target, with_own

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


class Plan(NamedTuple):
    """Who holds what is right, and what a target held when that was found out, by its name; nobody, where nothing ever
    came of it. What has come since is not to be replaced. ``metadata``: whose are right, where
    entries are of them alone, and which these are."""

    rulers: Sequence[Place]
    held: Mapping[str, ObjectInfo | StorageError | None]
    metadata: tuple[Place, ObjectInfo] | None = None


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

    def plan(self, entries: Sequence[Missed]) -> Plan:
        """What is to be done at the path of ``entries``, which are all there are of it, oldest first. It holds if the
        journal says the same afterwards: whoever changes something says so there first."""
        some = [entry for entry in entries if entry.kind == "file"]
        rulers = self.rulers.of(list(some))
        if rulers:
            rulers = self.rulers.agreed(some, rulers)
        others = [place for place in self._mirror.places if place not in rulers[1:]]
        held = {place.name: seen(place, entries[-1].path) for place in others} if rulers else {}
        return Plan(rulers, held, self._metadata(entries))

    def settle(self, entries: Sequence[Missed], plan: Plan) -> None:
        """Make all targets alike at the path of ``entries``. Raises ``StorageError`` where that cannot be done now."""
        folders = [entry for entry in entries if entry.kind == "dir"]
        if folders and folders[-1] is not entries[-1]:
            self._settle_folder(folders)
        self._settle(entries, plan)
        if folders and folders[-1] is entries[-1]:  # where there was an object before
            self._settle_folder(folders)
        if plan.metadata is not None:
            self._settle_metadata(entries[-1].path, *plan.metadata)

    def _settle(self, entries: Sequence[Missed], plan: Plan) -> None:
        for attempt in range(ATTEMPTS):
            if attempt:
                plan = self.plan(entries)
                if self._is_told_of(entries):
                    break  # what was to be brought may be what was replaced
            if not plan.rulers or self._make_alike(entries[-1].path, plan):
                return
        raise PreconditionFailed("it keeps changing", path=entries[-1].path, op="repair")

    def _settle_folder(self, entries: Sequence[Missed]) -> None:
        rulers = self.rulers.of(list(entries))
        for place in self._mirror.places:
            if rulers and place not in rulers:
                self._same_folder(entries[-1].path, rulers[0], place)

    def _is_told_of(self, entries: Sequence[Missed]) -> bool:
        """Whether there is more of the path in the journal than ``entries``."""
        assert self._mirror.journal is not None
        return not {entry.id for entry in self._mirror.journal.of(entries[-1].path, 0.0)} <= {
            entry.id for entry in entries
        }

    def _make_alike(self, path: str, plan: Plan) -> bool:
        """Bring what a ruler has to all the others; False if somebody changed it meanwhile."""
        ruler, *rulers = plan.rulers
        before = plan.held[ruler.name]
        if isinstance(before, StorageError):
            raise before
        if not is_still(before, ruler, path):  # a change that began and ended since is not in the journal
            return False
        error: BaseException | None = None
        for place in self._mirror.places:
            if place is ruler or place in rulers:
                continue
            try:
                there = plan.held[place.name]
                if isinstance(there, StorageError):
                    raise there
                self.bring(path, ruler, before, place, there, plan.metadata)
            except PreconditionFailed:
                return False
            except Cancelled:
                raise
            except StorageError as found:
                error = told(found, place)  # the others are not to wait for this one
        if error is not None:
            raise error
        if not is_still(before, ruler, path):
            return False
        if before is not None:
            self._same_metadata(path, *(plan.metadata or (ruler, before)))
        return True

    def bring(
        self,
        path: str,
        ruler: Place,
        info: ObjectInfo | None,
        place: Place,
        there: ObjectInfo | None,
        metadata: tuple[Place, ObjectInfo] | None = None,
    ) -> None:
        """Make ``place`` hold what ``ruler`` holds, if that still is ``info`` and it holds what was seen ``there``. A
        target without conditions is looked at again. ``metadata`` are somebody else's than the ruler's, if given."""
        self._mirror.stuck.check(place.name, path)
        conditional = place.backend.features.if_match
        if not conditional and not is_still(there, place, path):
            raise PreconditionFailed("it changed meanwhile", path=path, op="repair")
        if info is None:
            if there is not None:
                self._touch(path, place)
                place.backend.delete(path, **({"if_match": there.etag} if conditional and there.etag else {}))
            return
        if there is not None and alike(path, ruler, info, place, there):
            able = power(place.backend, SetMetadata) is not None  # else it is written again for its metadata
            if able or self._own(*(metadata or (ruler, info)), place, there):
                return
        own = None
        if metadata is not None and place.backend.features.user_metadata:
            own = with_own(metadata[1].metadata or {}, place, metadata[0])
        options = CopyOptions(source_if_match=condition_of(ruler, info), user_metadata=own)
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
            if isinstance(error, NotFound) and is_still(info, ruler, path) and is_still(there, place, path):
                self.changed -= 1
                raise  # nobody changed anything: its bucket or folder cannot be had
            raise PreconditionFailed("it changed meanwhile", path=path, op="repair") from error

    def _touch(self, path: str, place: Place) -> None:
        self.changed += 1
        if place not in self.touched.setdefault(path, []):
            self.touched[path].append(place)

    def _same_folder(self, path: str, ruler: Place, place: Place) -> None:
        self._mirror.stuck.check(place.name, path)
        there, wanted = has_folder(place, path), has_folder(ruler, path)
        if there == wanted or not place.backend.features.dirs:
            return
        self._touch(path, place)
        if wanted:
            place.backend.mkdir(path)
        else:
            try:
                place.backend.rmdir(path)
            except (NotFound, DirectoryNotEmpty):
                self.changed -= 1  # what is in it is another entry's business

    def _own(self, ruler: Place, info: ObjectInfo, place: Place, there: ObjectInfo) -> bool:
        """Whether ``place`` has the metadata that the ruler has, but for those of their own."""
        wanted = with_own(info.metadata or {}, place, ruler)
        return not self._mirror.features.user_metadata or dict(there.metadata or {}) == wanted

    def _same_metadata(self, path: str, ruler: Place, info: ObjectInfo) -> None:
        """Bytes that a target has already are not brought to it; the metadata they were written with may be others."""
        for place in self._mirror.places:
            able = power(place.backend, SetMetadata)
            if place is ruler or able is None:
                continue
            there = look(place, path)
            if there is not None and not self._own(ruler, info, place, there):
                self._touch(path, place)
                able.set_metadata(path, user_metadata=with_own(info.metadata or {}, place, ruler))

    def _metadata(self, entries: Sequence[Missed]) -> tuple[Place, ObjectInfo] | None:
        """Who has the metadata that entries are of, with them: one that missed nothing of them, nor of the bytes if
        there is such a one."""
        ended = [entry for entry in entries if not entry.intent]
        missed = {name for entry in ended if entry.kind == "meta" for name in entry.targets}
        behind = {name for entry in ended if entry.kind == "file" for name in entry.targets}
        last = next((entry.targets for entry in reversed(ended) if entry.kind == "meta"), ())
        good = (
            [place for place in self._mirror.places if place.name not in missed]
            or [place for place in self._mirror.places if place.name not in last]
            or self._mirror.places[:1]
        )
        ruler = next((place for place in good if place.name not in behind), good[0])
        if all(entry.kind != "meta" for entry in entries) or (not missed and ruler.name in behind):
            return None
        info = look(ruler, entries[-1].path)
        return None if info is None else (ruler, info)

    def _settle_metadata(self, path: str, ruler: Place, info: ObjectInfo) -> None:
        for place in self._mirror.places:
            able = power(place.backend, SetMetadata)
            if able is not None and look(place, path) is not None:
                own = with_own(info.metadata or {}, place, ruler) if place.backend.features.user_metadata else None
                able.set_metadata(path, modified_at=info.modified_at, user_metadata=own)
                self.changed += place is not ruler


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
        plans = [(path, *_planned(mirror, journal, repairer, path, grace)) for path in batch]
        journal.load()
        for path, entries, plan in plans:
            with mirror.locks.hold(path):
                try:
                    if isinstance(plan, StorageError):
                        raise plan
                    if not _is_said(journal, path, entries):
                        raise StorageError("it was changed meanwhile", path=path, op="repair", transient=True)
                    if entries:
                        repairer.settle(entries, plan)
                    settled.append((path, entries))
                except Cancelled:
                    raise
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
    waiting += [(Missed(id, "", ()), error) for id, error in journal.damaged.items()]
    return Repaired(tuple(done), repairer.changed, tuple(waiting))


def _planned(
    mirror: Mirroring, journal: Journal, repairer: Repairer, path: str, grace: float
) -> tuple[list[Missed], Plan | StorageError]:
    """The entries of ``path``, and what is to be done, or why nothing can be."""
    with mirror.locks.hold(path):
        entries = journal.of(path)
        if any(entry.intent and _is_young(journal, entry, grace) for entry in entries):
            return entries, StorageError("its publication may be under way", path=path, op="repair", transient=True)
        try:
            return entries, repairer.plan(entries) if entries else Plan((), {})
        except Cancelled:
            raise
        except StorageError as error:
            return entries, error


def _is_said(journal: Journal, path: str, entries: Sequence[Missed]) -> bool:
    """Whether ``entries`` still are all there are of ``path``."""
    return [entry.id for entry in journal.of(path)] == [entry.id for entry in entries]


def _doubt(mirror: Mirroring, journal: Journal, repairer: Repairer, path: str, entries: Sequence[Missed]) -> bool:
    """Whether somebody changed ``path``, or was about to, since it had ``entries``. What was brought may not be what it
    should be any more then, and that is noted."""
    if _is_said(journal, path, entries):
        return False
    touched = repairer.touched.get(path, [])
    for kind in sorted({"dir" if entry.kind == "dir" else "file" for entry in entries}) if touched else ():
        journal.add(mirror.entry(path, touched, kind=kind, doubt=True), in_place=True)
    return True


def _is_young(journal: Journal, entry: Missed, grace: float) -> bool:
    return entry.id in journal.live or journal.age(entry) < grace


def _check_targets(mirror: Mirroring, entries: Sequence[Missed]) -> None:
    """Every target that the journal speaks of must be there."""
    names = [place.name for place in mirror.places]
    for entry in entries:
        for name in entry.targets:
            if name not in names:
                raise ConfigError(
                    f"the journal speaks of a target {name!r}; there are: {', '.join(names)}. Add it again, or delete "
                    f"the entries that name it ({entry.id}.json, ...) and verify()"
                )


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
        except NotFound as error:
            raise rootless(place, prefix, "verify", error) from error
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
        held = {place.name: look(place, path) for place in minority}
        if any(not is_same(infos.get(place.index), held[place.name]) for place in minority):
            return Divergence(path, holds)
        if info is None or (journal is not None and journal.of(path, 0.0)):
            return Divergence(path, holds)  # it is being changed
        changed = True
        try:
            for place in minority:
                repairer.bring(path, ruler, info, place, held[place.name])
            changed = not is_still(info, ruler, path) or bool(journal is not None and journal.of(path, 0.0))
        except PreconditionFailed:
            pass  # it is being changed
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
