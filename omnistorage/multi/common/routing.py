"""Which tier a call goes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Literal, NoReturn, Self, TypeVar

from omnistorage import ops
from omnistorage.core import COPY, Confine, CopyOptions, Features, ObjectInfo, WriteOptions, learned, power
from omnistorage.core.lifecycle import Closes
from omnistorage.core.structural import twin
from omnistorage.errors import (
    BackendUnavailable,
    Cancelled,
    CapabilityNotSupported,
    ConfigError,
    InvalidPath,
    MultiError,
    NotFound,
    StorageError,
)
from omnistorage.paths import check_key, check_new

from .calls import MISSES, agreed, info_of
from .failures import may_have_happened
from .outcomes import Difference, Outcome
from .scheduler import CREW, Crew
from .shadow import Shadow
from .tier import Place, Tier, features_of_tiers, named, places_of, told

T = TypeVar("T")


class Routing(Closes):
    """The tiers, and the questions that every call asks of them."""

    name = "tiered"
    word = "tier"
    _spare = 0  # how many places a listing can do without and still be complete
    url: str | None = None
    crew: Crew = CREW
    _chain: tuple[str, ...] = ()  # the folders that this was confined to, each in the one before

    def power_of(self, kind: Callable[..., T]) -> T | None:
        raise TypeError(f"{type(self).__name__} does not define power_of")

    def __init__(
        self,
        tiers: Iterable[Tier | Mapping[str, Any]],
        mode: Literal["fallthrough", "match"] = "fallthrough",
        *,
        read: Literal["first", "race", "shadow", "quorum"] = "first",
        quorum: int | None = None,
        write_tier: str | None = None,
        write_through: bool | Iterable[str] = False,
        promote_on_read: bool = False,
        skip_unavailable: bool = False,
        on_difference: Callable[[Difference], None] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        through = _names(write_through)
        if on_difference is not None and not callable(on_difference):
            raise ConfigError(f"on_difference takes a Difference, {on_difference!r} takes nothing")
        self.places = places_of(tiers, defaults)
        self.mode: Any = mode  # of tiers; a mirror has others
        self.read, self.quorum = read, quorum
        self._settings: dict[str, Any] = {
            "read": read, "quorum": quorum, "write_tier": write_tier, "write_through": through,
            "promote_on_read": promote_on_read, "skip_unavailable": skip_unavailable, "on_difference": on_difference,
        }  # fmt: skip
        self._check(write_tier, through, promote_on_read)
        if mode == "match":
            self.writes = tuple(place for place in self.places if place.backend.features.write)
        else:
            self.writes = self._written(write_tier, through)
        self.features: Features = self._features()
        self.durable = bool(self.writes) and all(getattr(p.backend, "durable", False) for p in self.writes)
        self._promotes = promote_on_read
        self._plain = read != "shadow" and not promote_on_read
        if promote_on_read and not (len(self.writes) == 1 and self.features.create_only):
            raise ConfigError(
                "promote_on_read needs one write tier that has create_only: it must not replace newer bytes"
            )
        self._skips = skip_unavailable
        self._shadow = Shadow(self.places, on_difference) if read == "shadow" else None

    def _features(self) -> Features:
        return features_of_tiers(self.places, self.writes, match=self.mode == "match")

    def learn_features(self) -> Features:
        """The features, after each tier that is written to has learned its own. See ``core.learned``."""
        for place in self.writes:
            with named(place):
                learned(place.backend)
        self.features = self._features()
        return self.features

    def _need_conditions(self, options: WriteOptions | CopyOptions, op: str, *paths: str) -> None:
        """Refuse conditions that not every store keeps which may hold one of ``paths``; the last one is written."""
        if options.if_match is not None or getattr(options, "source_if_match", None) is not None:
            self._need("if_match", op, *paths)
        if not options.overwrite:
            self._need("create_only", op, paths[-1])

    def _need(self, flag: str, op: str, *paths: str) -> None:
        if getattr(self.features, flag):
            return
        if self.mode == "match":  # the other tiers need not even exist
            for path in paths:
                place = self.owner(path)
                if place is not None and not _keeps(place, flag, path):
                    self._refuse(flag, op, path, f"tier {place.name!r} does not support {flag}")
            self.features = self._features()
        elif not getattr(self.learn_features(), flag):
            self._refuse(flag, op, paths[0])

    def confined(self, folder: str) -> Self:
        """The same backend for keys under ``folder``, out of which no symbolic link of a tier leads."""
        found = twin(self)
        found._chain = (*self._chain, folder)
        inner = {place.name: _confined(place, folder) for place in self.places}
        found.places = tuple(inner.values())
        found.writes = tuple(inner[place.name] for place in self.writes)
        return found

    def _check(self, write_tier: str | None, through: bool | tuple[str, ...], promotes: bool) -> None:
        names = [place.name for place in self.places]
        for word, value, known in (
            ("mode", self.mode, ("fallthrough", "match")),
            ("read", self.read, ("first", "race", "shadow", "quorum")),
        ):
            if value not in known:
                raise ConfigError(f"{word} is one of {', '.join(known)}: not {value!r}")
        named = () if isinstance(through, bool) else through
        for tier in named if write_tier is None else (write_tier, *named):
            if tier not in names:
                raise ConfigError(f"there is no tier {tier!r}; there are: {', '.join(names)}")
        if self.mode == "match":
            if self.read != "first" or write_tier is not None or through or promotes:
                raise ConfigError("with mode='match' a key has one tier: read, write_tier, write_through and "
                                  "promote_on_read are for mode='fallthrough'")  # fmt: skip
        elif any(place.match is not None for place in self.places):
            raise ConfigError("match is for mode='match': in mode='fallthrough' every tier is asked for every key")
        if self.quorum is not None and self.read != "quorum":
            raise ConfigError("quorum is for read='quorum'")
        if self.read in ("shadow", "quorum", "race") and len(self.places) < 2:
            raise ConfigError(f"read={self.read!r} needs two tiers or more")
        needed = self.quorum if self.quorum is not None else 1
        if not isinstance(needed, int) or not 1 <= needed <= len(self.places):
            raise ConfigError(f"a quorum of {needed} among {len(self.places)} tiers cannot be")

    def _written(self, write_tier: str | None, through: bool | tuple[str, ...]) -> tuple[Place, ...]:
        first = self.places[0] if write_tier is None else self.tier(write_tier)
        named = () if isinstance(through, bool) else through
        chosen = tuple(place for place in self.places if through is True or place.name in named or place is first)
        return chosen if all(place.backend.features.write for place in chosen) else ()

    def tier(self, name: str) -> Place:
        """The tier ``name``; ``ConfigError`` if there is none."""
        for place in self.places:
            if place.name == name:
                return place
        raise ConfigError(f"there is no tier {name!r}; there are: {', '.join(place.name for place in self.places)}")

    # -- which tier ----------------------------------------------------------------------------------------------------

    def owner(self, path: str) -> Place | None:
        """The tier that ``path`` belongs to by its pattern (``mode="match"``)."""
        for place in self.places:
            if place.takes(path):
                return place
        return None

    def candidates(self, path: str) -> tuple[Place, ...]:
        """The tiers that a read of ``path`` asks, in order."""
        if self.mode != "match":
            return self.places
        check_key(path)
        place = self.owner(path)
        return () if place is None else (place,)

    def _first(self, op: str, path: str, call: Callable[[Place], T]) -> tuple[Place, T]:
        """What the first tier says that has the object."""
        miss: StorageError | None = None
        down: StorageError | None = None
        misses = 0
        try:
            for place in self.candidates(path):
                try:
                    return place, call(place)
                except MISSES as error:
                    misses += 1
                    miss = error if miss is None or isinstance(error, InvalidPath) else miss
                except BackendUnavailable as error:
                    down = error
                    told(error, place, path)
                    if not self._skips:
                        raise
                except StorageError as error:
                    told(error, place, path)
                    raise
            if down is not None and (not self._spare or misses < len(self.places) - self._spare):
                raise down
            if miss is not None:
                raise miss
            raise NotFound(f"no tier takes this name; {self._patterns()}", path=path, backend=self.name, op=op)
        finally:
            miss = down = None  # or the errors would keep this frame and those of its callers, and it them

    def _find(self, op: str, path: str) -> tuple[Place, ObjectInfo]:
        """The tier that shows the object, and what it says of it."""
        if self.read == "quorum":
            return agreed(self.candidates(path), self._needed, op, path, self.crew)[:2]
        return self._first(op, path, lambda place: info_of(place.backend, path))

    @property
    def _needed(self) -> int:
        return self.quorum if self.quorum is not None else len(self.places) // 2 + 1

    def _named_by(self, etag: str) -> Place | None:
        """The tier whose etag this is."""
        return next((place for place in self.places if etag.startswith(place.head)), None)

    def _patterns(self) -> str:
        return "there are: " + ", ".join(f"{p.name} {'|'.join(p.match or ('**',))}" for p in self.places)

    def _targets(self, op: str, path: str) -> tuple[Place, ...]:
        """The tiers that a write of ``path`` goes to."""
        if self.mode == "match":
            check_new(path, op=op)
            place = self.owner(path)
            if place is None:
                raise InvalidPath(f"no tier takes this name; {self._patterns()}", path=path, backend=self.name, op=op)
            return (place,)
        if not self.writes:
            self._refuse("write", op, path)
        return self.writes

    def _others(self, path: str, targets: tuple[Place, ...]) -> Iterator[Place]:
        """The tiers besides ``targets`` that have the object."""
        for place in self.candidates(path):
            if place not in targets:
                try:
                    with named(place, path):
                        there = place.backend.exists(path)
                except InvalidPath:
                    continue
                if there:
                    yield place

    # -- copying and moving --------------------------------------------------------------------------------------------

    def copy(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        self._check_carry("copy", src, dst, options)
        return self._carry("copy", src, dst, options)

    def move(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        self._check_carry("move", src, dst, options)
        return self._carry("move", src, dst, options)

    def _carry(self, op: Literal["copy", "move"], src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        raise TypeError(f"{type(self).__name__} does not define _carry")

    def _check_carry(self, op: str, src: str, dst: str, options: CopyOptions) -> None:
        if not getattr(self.features, op):
            self._refuse(op, op, src)
        if options.source is not None:
            self._refuse("source", op, src)
        self._need_conditions(options, op, src, dst)
        check_key(src, op=op)
        check_new(dst, op=op)

    def _refuse(self, capability: str, op: str, path: str, why: str = "") -> NoReturn:
        raise CapabilityNotSupported(
            why or f"these tiers do not support {capability}", capability=capability, path=path, backend=self.name,
            op=op,
        )  # fmt: skip


def _keeps(place: Place, flag: str, path: str) -> bool:
    with named(place, path):
        return bool(getattr(learned(place.backend), flag))


def _confined(place: Place, folder: str) -> Place:
    able = power(place.backend, Confine)
    found = copy(place)
    found.backend = place.backend if able is None else ops.extended(able.confined(folder))
    return found


def in_turn(places: Sequence[Place], op: str, path: str, call: Callable[[Place], T]) -> list[T]:
    """What each place says to the change ``call``, one after the other; False: nothing was to be done there. It ends
    with the first that fails. That error is raised where nothing was changed yet, else a ``MultiError`` with how it
    ended at each."""
    answers: list[T] = []
    for place in places:
        try:
            with named(place, path):
                answers.append(call(place))
        except StorageError as error:
            if all(answer is False for answer in answers):
                raise
            half = _half_done(places, answers, error, op, path)
            if isinstance(error, Cancelled):
                error.add_note(str(half.args[0]))
                raise
            raise half from error
    return answers


def _half_done(
    places: Sequence[Place], answers: Sequence[object], error: StorageError, op: str, path: str
) -> MultiError:
    at, unsure = len(answers), may_have_happened(error)
    outcomes = [
        Outcome(place.name, "committed", answer if isinstance(answer, ObjectInfo) else None, path=path)
        for place, answer in zip(places, answers, strict=False)
    ]
    outcomes.append(Outcome(places[at].name, "unknown" if unsure else "failed", None, error, path))
    outcomes += [Outcome(place.name, "aborted", path=path) for place in places[at + 1 :]]
    done, rest = (", ".join(place.name for place in some) for some in (places[:at], places[at:]))
    message = f"{op} was done in tier {done}, {'perhaps ' if unsure else ''}not in {rest}: do it again"
    half = MultiError(message, [error], path=path, op=op, transient=error.transient, retry_after=error.retry_after)
    half.outcomes = tuple(outcomes)
    return half


def _names(through: Any) -> bool | tuple[str, ...]:
    if isinstance(through, bool):
        return through
    found = (through,) if isinstance(through, str) else tuple(through) if isinstance(through, Iterable) else (through,)
    if not all(isinstance(name, str) for name in found):
        raise ConfigError(f"write_through is True, or the names of tiers: not {through!r}")
    return found
