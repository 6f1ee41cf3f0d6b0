"""``TieredBackend``: several backends as one, by pattern or from tier to tier."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from omnistorage import ops
from omnistorage.core import (
    WRITE,
    Append,
    Confine,
    CopyOptions,
    HealthCheck,
    ObjectInfo,
    Presign,
    ResolutionPlan,
    Resolve,
    SetMetadata,
    Settle,
    Versions,
    WriteOptions,
    Writer,
    power,
)
from omnistorage.core.option_checks import check_etag
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    PreconditionFailed,
)
from omnistorage.multi.common.calls import ABSENT, MISSES, info_of
from omnistorage.multi.common.outcomes import ShadowStats
from omnistorage.multi.common.reading import Reading
from omnistorage.multi.common.routing import in_turn
from omnistorage.multi.common.streams import TierWriter
from omnistorage.multi.common.tier import Place, between, named
from omnistorage.multi.mirror import MultiWriter
from omnistorage.multi.mirror.reconcile import differ, settled
from omnistorage.multi.mirror.writer import Aim, Terms
from omnistorage.paths import check_key

from .migrate import must_be_two, remove_source

P = TypeVar("P")
_POWERS = frozenset({Append, SetMetadata, Presign, Versions, Resolve, HealthCheck, Settle, Confine})


class TieredBackend(Reading):
    """Several backends as one.

    ``mode="fallthrough"``: reads try the tiers in order; writes, deletes and moves go to the write tier (the first, or
    ``write_tier``). With ``write_through`` (True for all, or names) a write goes to several: nothing is published
    before all of them hold it whole. What a tier that is not written to holds cannot be deleted or moved here
    (``CapabilityNotSupported`` names the tier), and shows again when what hid it is deleted.
    ``mode="match"``: the globs of the tiers route keys, the first that matches wins, and no other tier is asked. A key
    that matches none is not there, and writing it is ``InvalidPath``.

    ``read``, over tiers that mirror each other: ``"first"`` in order; ``"race"`` takes the first good answer and
    cancels the others; ``"shadow"`` reads in order and compares each whole read with the second tier in the background,
    telling ``on_difference`` (a ``Difference``); ``"quorum"`` reads what ``quorum`` tiers (by default more than half)
    agree on by digest. ``promote_on_read`` puts what was read whole in another tier into the write tier.

    ``skip_unavailable=True`` goes past a tier that cannot be reached; without it its error is raised. Even so nothing
    is said to be missing that an unreachable tier may hold, and a listing without it needs ``on_error``.

    ``defaults`` are options for the backends of tiers that are told by URL, where they have them (see
    ``open_backend``). Etags and versions carry the tier's name. Closing it closes the tiers; a ``Store`` closes what it
    owns. Raises ``ConfigError`` for tiers and options that do not fit together.
    """

    # -- writing -------------------------------------------------------------------------------------------------------

    def open_writer(self, path: str, options: WriteOptions = WRITE) -> Writer:
        targets = self._targets("open_writer", path)
        self._need_conditions(options, "open_writer", path)
        each = [options] * len(targets)
        if self.mode == "match":
            if options.if_match is not None:
                each = [replace(options, if_match=targets[0].token(options.if_match, path, "open_writer"))]
        elif not options.overwrite or options.if_match is not None:
            each = self._conditions(path, options, targets)
        if len(targets) == 1:
            with named(targets[0], path):
                return TierWriter(targets[0].backend.open_writer(path, each[0]), targets[0])
        aims = [Aim(place, path, lambda own=own: own) for place, own in zip(targets, each, strict=True)]  # type: ignore[misc]
        return MultiWriter(aims, _terms=Terms(len(aims), backwards=True))

    def _conditions(self, path: str, options: WriteOptions, targets: tuple[Place, ...]) -> builtins.list[WriteOptions]:
        """The options of each tier. What is not in the tiers written to is looked at once, now."""
        wanted = options.if_match
        if wanted is None:
            for place in self._others(path, targets):
                raise AlreadyExists(f"it is in tier {place.name!r}", path=path, backend=self.name, op="open_writer")
            return [options] * len(targets)
        shown = self._expected("open_writer", path, wanted)
        if shown in targets:
            return [self._same(place, path, options, wanted if place is shown else None) for place in targets]
        if shown.index < targets[0].index:
            self._refuse("if_match", "open_writer", path, f"tier {shown.name!r} would hide what is written")
        return [self._same(place, path, options, None) for place in targets]

    def _same(self, place: Place, path: str, options: WriteOptions, wanted: str | None) -> WriteOptions:
        """Replace in this tier only what is there now: where the tiers are written together, so are they guarded."""
        if wanted is not None:
            return replace(options, if_match=place.token(wanted, path, "open_writer"))
        try:
            with named(place, path):
                return replace(options, if_match=info_of(place.backend, path).etag)
        except NotFound:
            return replace(options, if_match=None, overwrite=False)

    def _expected(self, op: str, path: str, wanted: str) -> Place:
        """The tier that shows the object, if it shows the one that was expected."""
        try:
            place = self._named_by(wanted) if self.read == "race" else None  # the others may show another one
            shown, info = self._find(op, path) if place is None else (place, info_of(place.backend, path))
        except NotFound as error:
            raise PreconditionFailed("there is no such object", path=path, backend=self.name, op=op) from error
        if shown.out(info).etag != wanted:
            raise PreconditionFailed("the object is not the one expected", path=path, backend=self.name, op=op)
        return shown

    def delete(self, path: str, *, if_match: str | None = None) -> bool | None:
        if not self.features.delete:
            self._refuse("delete", "delete", path)
        if if_match is not None:
            self._need("if_match", "delete", path)
        check_etag(if_match, path=path, op="delete")
        if self.mode == "match":
            check_key(path, op="delete")
            place = self.owner(path)
            if place is None:
                return False
            wanted = place.token(if_match, path, "delete")
            with named(place, path):
                return place.backend.delete(path) if wanted is None else place.backend.delete(path, if_match=wanted)
        return self._delete(path, if_match)

    def _delete(self, path: str, if_match: str | None) -> bool | None:
        targets = self.writes[::-1]  # the tier that shows it goes last, so that no older one shows meanwhile
        wanted: dict[str, str | None] = {}
        if if_match is not None:
            shown = self._expected("delete", path, if_match)
            if shown not in targets:
                self._refuse_elsewhere("delete", path, [shown])
            # And first where it must still be what was expected: nothing is deleted if it is not.
            targets = (shown, *(place for place in targets if place is not shown))
            wanted[shown.name] = shown.token(if_match, path, "delete")
        answers = in_turn(targets, "delete", path, lambda place: self._deleted(place, path, wanted.get(place.name)))
        if not any(answers) and None not in answers:
            self._refuse_elsewhere("delete", path, self._others(path, targets))
        return True if any(answers) else None if None in answers else False

    def _deleted(self, place: Place, path: str, if_match: str | None) -> bool | None:
        # A store that does not say what it deleted is asked before: a miss must not pass for a deletion.
        silent = len(self.places) > 1 and not place.backend.features.dirs
        there = place.backend.exists(path) if silent else None
        delete = place.backend.delete
        answer = delete(path) if if_match is None else delete(path, if_match=if_match)
        return there if answer is None else answer

    def _refuse_elsewhere(self, op: str, path: str, places: Iterable[Place]) -> None:
        for place in places:
            self._refuse(op, op, path, f"the object is in tier {place.name!r}, which is not written to: {op} it there")

    def mkdir(self, path: str) -> None:
        if not self.features.dirs:
            self._refuse("dirs", "mkdir", path)
        in_turn(self._folder_places("mkdir", path), "mkdir", path, lambda place: place.backend.mkdir(path))

    def rmdir(self, path: str) -> None:
        if not self.features.dirs:
            self._refuse("dirs", "rmdir", path)
        places = self._folder_places("rmdir", path)
        if next(self.list_dir(path), None) is not None:
            raise DirectoryNotEmpty("the folder is not empty", path=path, backend=self.name, op="rmdir")
        misses: builtins.list[NotFound] = []

        def remove(place: Place) -> bool:
            try:
                place.backend.rmdir(path)
            except NotFound as error:
                misses.append(error)
                return False
            return True

        in_turn(places, "rmdir", path, remove)
        if len(misses) == len(places):
            there = (place for place in self.places if place not in places and _has_folder(place, path))
            self._refuse_elsewhere("dirs", path, there)
            raise misses[0]

    def _folder_places(self, op: str, path: str) -> tuple[Place, ...]:
        check_key(path, op=op)
        if self.mode != "match":
            return self.writes
        if op == "rmdir":
            return self.places
        # Where a key right in the folder would go.
        return (next((p for p in self.places if p.takes(f"{path}/x") or p.takes(path)), self.places[0]),)

    # -- copying and moving --------------------------------------------------------------------------------------------

    def _carry(self, op: Literal["copy", "move"], src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        place, info = self._find(op, src)
        if op == "move" and self.mode != "match" and place not in self.writes:
            self._refuse_elsewhere(op, src, [place])
        options = replace(options, source_if_match=place.token(options.source_if_match, src, op))
        if self.read == "quorum" and place.backend.features.if_match:
            options = replace(options, source_if_match=info.etag)  # these are the bytes that were agreed on
        if src == dst:
            options = replace(options, if_match=place.token(options.if_match, dst, op))
            with named(place, src):
                return place.out(ops.copy(place.backend, src, place.backend, dst, options))
        (target,) = self._targets(op, dst)
        if self.mode == "match":
            options = replace(options, if_match=target.token(options.if_match, dst, op))
        elif not options.overwrite or options.if_match is not None:
            write = WriteOptions(overwrite=options.overwrite, if_match=options.if_match)
            (write,) = self._conditions(dst, write, (target,))
            options = replace(options, overwrite=write.overwrite, if_match=write.if_match)
        if place is target:
            with named(place, src):
                return target.out(getattr(place.backend, op)(src, dst, options))
        if op == "move":
            if not place.backend.features.delete:
                self._refuse("delete", op, src, f"nothing can be deleted in tier {place.name!r}: copy it instead")
            must_be_two(place, src, info, target, dst, op)
        with between(place, target, src):
            done = ops.transfer(place.backend, src, target.backend, dst, options)
        if op == "move":
            remove_source(place, src, info, target, done, "move")
        return target.out(done)

    def settle(self, path: str) -> bool:
        """See ``Settle``: with ``write_through``, what some of the tiers hold that a write goes to is given to the
        others of them, the last one first. Else, and where none of them has it, that of the tier that shows it."""
        check_key(path, op="settle")
        through = self.writes[::-1] if self.mode != "match" and len(self.writes) > 1 else ()
        votes = {}
        for place in through:
            with named(place):
                votes[place.name] = settled(place, path)
        if len({*votes.values()} - {ABSENT}) > 1:
            raise differ(votes, path)
        holder = next((place for place in through if votes[place.name] != ABSENT), None)
        if holder is None:
            return self._is_settled(path)
        for place in through:
            if votes[place.name] == ABSENT:
                options = CopyOptions(overwrite=not place.backend.features.create_only)
                with named(place):
                    ops.transfer(holder.backend, path, place.backend, path, options)
        return True

    def _is_settled(self, path: str) -> bool:
        def there(place: Place) -> None:
            able = power(place.backend, Settle)
            if not (place.backend.exists(path) if able is None else able.settle(path)):
                raise NotFound("there is nothing that counts", path=path, op="settle")

        try:
            self._first("settle", path, there)
        except MISSES:
            return False
        return True

    # -- powers --------------------------------------------------------------------------------------------------------

    def power_of(self, kind: Callable[..., P]) -> P | None:
        if kind not in _POWERS:
            return None
        if kind is Append or kind is SetMetadata:
            able = self.features.append if kind is Append else self.features.set_modified
        elif kind in (Presign, Versions, Settle, Confine):
            through = kind is Settle and self.mode != "match" and len(self.writes) > 1
            able = through or any(power(place.backend, kind) is not None for place in self.places)
        else:
            able = True
        return self if able else None  # type: ignore[return-value]

    def _has(self, place: Place, kind: Callable[..., P], op: str, path: str) -> P:
        found = power(place.backend, kind)
        if found is None:
            self._refuse(op, op, path, f"tier {place.name!r} does not support {op}")
        result: P = found
        return result

    def open_appender(self, path: str, options: WriteOptions = WRITE) -> Writer:
        if not self.features.append:
            self._refuse("append", "open_appender", path)
        (place,) = self._targets("open_appender", path)
        able = self._has(place, Append, "append", path)
        with named(place, path):
            there = place.backend.exists(path)
        if not there:
            self._refuse_elsewhere("append", path, self._others(path, (place,)))
        if options.if_match is not None:
            options = replace(options, if_match=place.token(options.if_match, path, "open_appender"))
        with named(place, path):
            return TierWriter(able.open_appender(path, options), place)

    def set_metadata(
        self, path: str, *, modified_at: datetime | None = None, user_metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        if not self.features.set_modified:
            self._refuse("set_modified", "set_metadata", path)
        place, _ = self._find("set_metadata", path)
        if self.mode != "match" and place not in self.writes:
            self._refuse_elsewhere("set_modified", path, [place])
        places = (place,) if self.mode == "match" else self.writes
        able = {each.name: self._has(each, SetMetadata, "set_modified", path) for each in places}

        def change(each: Place) -> ObjectInfo | Literal[False]:
            try:
                return able[each.name].set_metadata(path, modified_at=modified_at, user_metadata=user_metadata)
            except NotFound:
                if each is place:
                    raise
                return False

        info = in_turn(places, "set_metadata", path, change)[places.index(place)]
        assert info
        return place.out(info)

    def presign(self, path: str, method: str, expires: timedelta) -> str:
        reads = method.upper() in ("GET", "HEAD")
        if not reads and self.mode != "match" and len(self.writes) > 1:
            self._refuse("presign", "presign", path, "a URL writes to one tier, and a write goes to several here")
        place = self._find("presign", path)[0] if reads else self._targets("presign", path)[0]
        with named(place, path):
            return self._has(place, Presign, "presign", path).presign(path, method, expires)

    def versions(self, path: str) -> Iterator[ObjectInfo]:
        place, _ = self._find("versions", path)
        with named(place, path):
            return _of(place, path, self._has(place, Versions, "versions", path).versions(path))

    def resolve(self, key: str) -> ResolutionPlan:
        check_key(key, op="resolve")
        found = []
        plan: ResolutionPlan | None = None
        for place in self.candidates(key):
            able = power(place.backend, Resolve)
            plan = None if able is None else able.resolve(key)
            found.append(
                {
                    "tier": place.name, "kind": "blob" if plan is None else plan.kind, "backend": place.backend.name,
                    "url": place.backend.url, **({"details": plan.details} if plan is not None else {}),
                }
            )  # fmt: skip
        alone = plan if len(found) == 1 else None  # what else determines the bytes is which tier has it
        return ResolutionPlan(
            "composite", self.name, key, {"mode": self.mode, "read": self.read, "tiers": tuple(found)},
            None if alone is None else alone.fingerprint,
        )  # fmt: skip

    def check_health(self) -> None:
        down: list[BackendUnavailable] = []
        for place in self.places:
            try:
                able = power(place.backend, HealthCheck)
                with named(place):
                    if able is not None:
                        able.check_health()
                    else:
                        next(iter(place.backend.list("")), None)
            except BackendUnavailable as error:
                if not self._skips or place in self.writes:
                    raise
                down.append(error)
        if len(down) == len(self.places):
            raise down[0]

    # -- the background ------------------------------------------------------------------------------------------------

    @property
    def shadow_stats(self) -> ShadowStats:
        """What the comparisons of ``read="shadow"`` came to so far."""
        return ShadowStats() if self._shadow is None else self._shadow.stats

    def drain(self) -> None:
        """Wait for the comparisons that are under way."""
        if self._shadow is not None:
            self._shadow.drain()

    def close(self) -> None:
        """Close all tiers. Every one is tried; the first error is raised then."""
        if self._shadow is not None:
            self._shadow.close()
        errors = []
        for place in self.places:
            try:
                place.tier.store.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def __reduce__(self) -> Any:
        return _unpickled, (tuple(place.tier for place in self.places), self.mode, self._settings, self._chain)

    def __repr__(self) -> str:
        return f"TieredBackend({', '.join(place.name for place in self.places)}, {self.mode!r})"


def _of(place: Place, path: str, found: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
    with named(place, path):
        yield from map(place.out, found)


def _has_folder(place: Place, path: str) -> bool:
    try:
        with named(place, path):
            next(ops.children(place.backend, path), None)
    except (NotFound, InvalidPath):
        return False
    return True


def _unpickled(tiers: tuple[Any, ...], mode: Any, settings: dict[str, Any], chain: tuple[str, ...]) -> TieredBackend:
    made = TieredBackend(tiers, mode, **settings)
    for folder in chain:
        made = made.confined(folder)
    return made
