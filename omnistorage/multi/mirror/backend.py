"""``MultiBackend``: every write goes to several backends."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from os import PathLike
from typing import Any, Literal, TypeVar

from omnistorage import ops
from omnistorage.core import (
    WRITE,
    Backend,
    Confine,
    CopyOptions,
    Features,
    HealthCheck,
    ObjectInfo,
    Presign,
    SetMetadata,
    Settle,
    StaleUploads,
    WriteOptions,
    power,
)
from omnistorage.core.option_checks import check_etag
from omnistorage.errors import AlreadyExists, ConfigError, CorruptData, DirectoryNotEmpty, NotFound, PreconditionFailed
from omnistorage.multi.common.calls import ask_all, info_of
from omnistorage.multi.common.outcomes import Difference, ShadowStats
from omnistorage.multi.common.scheduler import CREW, Crew, Stuck
from omnistorage.multi.common.shadow import Shadow
from omnistorage.multi.common.tier import Place, features_of_tiers, named
from omnistorage.paths import check_key, check_new

from .coordinator import Mirroring, Noting, PathLocks
from .missing_roots import watch_roots
from .reconcile import settle
from .repair import Repaired, Verified, repair, verify
from .same_buckets import SameBuckets
from .target import Target, targets_of, with_own
from .writer import BUFFER, Aim, Mode, MultiWriter, Terms, checked, needed_of

P = TypeVar("P")
READS = ("first", "race", "shadow", "quorum")
_POWERS = frozenset({SetMetadata, Presign, HealthCheck, Settle, StaleUploads, Confine})


class MultiBackend(Mirroring):
    """Several backends that hold the same objects. Every change goes to all of them at once.

    ``mode`` says how many must have it before it counts as done: ``"all"``, ``"quorum"`` (``quorum`` of the configured
    targets, by default more than half), ``"best_effort"`` (one). Targets that cannot be opened, fail or are given up
    still count against the number. An object is published nowhere before that many hold every byte of it. After that
    there is no atomicity across backends: where too few could publish it, ``MultiError.outcomes`` says of each target
    whether it is ``committed``, ``failed`` or ``unknown``.

    ``targets`` are backends, stores, URLs or ``Target(name, store, ...)``. ``journal`` (a folder's path, a URL, a
    backend) keeps a durable entry for every target that missed a change, and of every publication that was begun until
    its end is known; ``"quorum"`` and ``"best_effort"`` need one. ``repair()`` brings those targets up to date, reads
    do not ask them meanwhile, and ``verify()`` compares everything. What other processes have noted is known within
    ten seconds, to a change with a condition at once. No entry grows old; once those that this process knows of take
    ``journal_bytes``, what would need another one fails.

    ``laggard_timeout``: a target that holds up a write for so many seconds in which those needed could have gone on is
    given up, its write journaled; without it the slowest target sets the pace. At most ``buffer`` bytes wait for each
    target; data is passed on, never copied, so an object takes about that much memory altogether.

    ``read``: ``"first"`` in order, past targets that cannot be reached; ``"race"``, ``"shadow"`` and ``"quorum"``
    (``read_quorum`` of them agree by digest) as in ``TieredBackend``. Nothing is said to be missing that too few
    targets were asked for. Etags carry the target's name. ``overwrite=False`` has one winner, as the first target
    decides; where that one is down the next does, if more than half are needed, and else the write fails.

    A target on the local disk is down while its root folder is missing or is another folder than before: the disk may
    not be mounted. The first write makes missing root folders if no target holds an object yet. Two targets whose URLs
    differ by their host alone may be one bucket: the first change writes an object to one and looks for it at the
    other.

    Closing it closes the targets. Raises ``ConfigError`` for targets and options that do not fit together.
    """

    name = "multi"
    _owned_journal: Backend | None = None

    def __init__(
        self,
        targets: Iterable[Backend | Target | str | PathLike[str] | Mapping[str, Any] | Any],
        mode: Mode = "all",
        quorum: int | None = None,
        *,
        read: Literal["first", "race", "shadow", "quorum"] = "first",
        read_quorum: int | None = None,
        journal: Backend | str | PathLike[str] | Any = None,
        journal_bytes: int = 64 << 20,
        laggard_timeout: float | timedelta | None = None,
        buffer: int = BUFFER,
        on_difference: Callable[[Difference], None] | None = None,
        defaults: Mapping[str, Any] | None = None,
        _crew: Crew = CREW,
    ) -> None:
        self.places = self.writes = targets_of(targets, defaults)
        self.contents = watch_roots(self.places, lambda: self.journal)
        count = len(self.places)
        self.mode: Any = mode
        self.read, self.quorum = read, read_quorum
        self.needed = needed_of(mode, quorum, count)
        self._check_reads(count, on_difference)
        if mode != "all" and journal is None:
            raise ConfigError(
                f"mode={mode!r} lets targets miss changes: name a journal, in which they are kept for repair()"
            )
        laggard_timeout = checked(laggard_timeout, buffer)
        self.laggard, self.crew = laggard_timeout, _crew
        self._buffer = buffer
        self._spare = self.needed - 1
        self._settings: dict[str, Any] = {
            "quorum": quorum, "read": read, "read_quorum": read_quorum, "journal_bytes": journal_bytes,
            "journal": self._arrange_journal(journal, journal_bytes, defaults), "laggard_timeout": laggard_timeout,
            "buffer": buffer, "on_difference": on_difference,
        }  # fmt: skip
        self.features = self._features()
        self.durable = all(getattr(place.backend, "durable", False) for place in self.places)
        self._kinds = frozenset(place.backend.name for place in self.places)
        self._promotes, self._skips = False, True
        self._plain = read != "shadow"
        self._shadow = Shadow(self.places, on_difference) if read == "shadow" else None
        self.locks, self.stuck, self.causes = PathLocks(), Stuck(), {}
        stores = [(f"target {place.name!r}", place.backend) for place in self.places]
        if self.journal is not None:
            stores.append(("the journal", self.journal.backend))
        self.buckets = SameBuckets(stores, _crew.clock)

    def _features(self) -> Features:
        every = [place.backend.features for place in self.places]
        return replace(
            features_of_tiers(self.places, self.places, match=True),
            atomic_move=False, append=False, copy=all(one.copy for one in every), move=all(one.move for one in every),
        )  # fmt: skip

    def _check_reads(self, count: int, on_difference: Any) -> None:
        if self.read not in READS:
            raise ConfigError(f"read is one of {', '.join(READS)}: not {self.read!r}")
        if self.read != "first" and count < 2:
            raise ConfigError(f"read={self.read!r} needs two targets or more")
        if self.quorum is not None and (
            self.read != "quorum" or type(self.quorum) is not int or not 1 <= self.quorum <= count
        ):
            raise ConfigError(f"read_quorum is for read='quorum', from 1 to {count}: not {self.quorum!r}")
        if on_difference is not None and not callable(on_difference):
            raise ConfigError(f"on_difference takes a Difference, {on_difference!r} takes nothing")

    # -- writing -------------------------------------------------------------------------------------------------------

    def open_writer(self, path: str, options: WriteOptions = WRITE) -> MultiWriter:
        self._need_conditions(options, "open_writer", path)
        check_new(path, op="open_writer")
        self.buckets.check()
        self.contents.decide()
        conditional = not options.overwrite or options.if_match is not None
        arbiters: Callable[[], tuple[int, ...]] = tuple
        told = [self._told(place, options) for place in self.places]
        each: builtins.list[Callable[[], WriteOptions]] = [lambda own=own: own for own in told]  # type: ignore[misc]
        if conditional:
            arbiters, each = self._conditions(path, options)
        # Two etags have two targets that decide first, and where half is enough each of them could have a winner.
        strict = conditional and (not options.overwrite or self.needed * 2 <= len(self.places))
        terms = Terms(self.needed, arbiters, False, strict, self._buffer, self.laggard, self.stuck)
        notes = None if self.journal is None else Noting(self, self.journal, path, "file", conditional, strict)
        aims = [Aim(place, path, ask) for place, ask in zip(self.places, each, strict=True)]
        return MultiWriter(aims, _terms=terms, _notes=notes, _alone=lambda: self.locks.hold(path), _crew=self.crew)

    def _conditions(
        self, path: str, options: WriteOptions
    ) -> tuple[Callable[[], tuple[int, ...]], builtins.list[Callable[[], WriteOptions]]]:
        """Who decides whether the conditions hold, which is asked at publication, and the options of each target."""
        stale = self.stale(path, 0.0)
        shown = None if options.if_match is None else self._named(options.if_match, path, "open_writer")

        def arbiters() -> tuple[int, ...]:
            if shown is not None:
                self._named(options.if_match or "", path, "close")
                return (shown.index,)
            return tuple(place.index for place in self._deciding(path))

        each: builtins.list[Callable[[], WriteOptions]] = []
        for place in self.places:
            own = self._told(place, options)
            if place is shown:
                own = replace(own, if_match=place.token(options.if_match, path, "open_writer"))
            elif shown is not None or place.name in stale:
                each.append(lambda place=place, own=own: _as_it_is(place, path, own))  # type: ignore[misc]
                continue
            each.append(lambda own=own: own)  # type: ignore[misc]
        return arbiters, each

    def _deciding(self, path: str) -> builtins.list[Place]:
        """Who decides whether an object is new: the first that has missed nothing, or the next where it cannot be asked
        and more than half are needed."""
        stale = self.stale(path, 0.0)
        deciding = [place for place in self.places if place.name not in stale]
        return deciding if self.needed > len(self.places) // 2 else deciding[:1]

    def _told(self, place: Place, options: WriteOptions) -> WriteOptions:
        assert isinstance(place.tier, Target)
        return place.tier.options(options, place, self._kinds)

    def delete(self, path: str, *, if_match: str | None = None) -> bool | None:
        if not self.features.delete:
            self._refuse("delete", "delete", path)
        if if_match is not None:
            self._need("if_match", "delete", path)
        check_etag(if_match, path=path, op="delete")
        check_key(path, op="delete")
        first = () if if_match is None else (self._named(if_match, path, "delete"),)

        def delete(place: Place) -> bool | None:
            if place in first:
                return place.backend.delete(path, if_match=place.token(if_match, path, "delete"))
            return place.backend.delete(path)

        stale = self.stale(path)  # what they had was not there any more
        answers = self.change("delete", path, delete, first=first, gone=path)
        found = [answer for name, answer in answers.items() if name not in stale] or [None]
        return True if any(found) else None if None in found else False

    def _named(self, etag: str, path: str, op: str) -> Place:
        place = self._named_by(etag)
        if place is None or place.name in self.stale(path, 0.0):
            raise PreconditionFailed("the object is not the one expected", path=path, backend=self.name, op=op)
        return place

    # -- copying and moving --------------------------------------------------------------------------------------------

    def _carry(self, op: Literal["copy", "move"], src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        if src == dst:
            moved: ObjectInfo = getattr(ops, op)(self, src, self, dst, options)
            return moved  # nothing changes, and nothing is settled by that
        shown = {
            self._named(token, path, op)
            for token, path in ((options.source_if_match, src), (options.if_match, dst))
            if token is not None
        }
        first = tuple(shown) or (() if options.overwrite else tuple(self._deciding(dst)))
        if len(shown) > 1:
            return self._carry_through(op, src, dst, options)
        size: int | None = None

        def carry(place: Place) -> ObjectInfo:
            nonlocal size
            own = options
            if place in shown:
                own = replace(
                    own,
                    if_match=place.token(options.if_match, dst, op),
                    source_if_match=place.token(options.source_if_match, src, op),
                )
            elif shown:
                own = replace(own, if_match=None, source_if_match=None)
            if own.user_metadata is not None:
                own = replace(own, user_metadata=with_own(own.user_metadata, place))
            done: ObjectInfo = getattr(place.backend, op)(src, dst, own)
            if None not in (size, done.size) and size != done.size:
                raise CorruptData("another object than at the other targets was there", path=src, op=op)
            size = done.size if size is None else size
            return done

        paths = (dst,) if op == "copy" else (dst, src)
        answers = self.change(
            op, paths[0], carry, *paths[1:], first=first, reads=(src,), strict=not options.overwrite,
            unless=lambda: self._is_uncertain(src, dst),
        )  # fmt: skip
        if not answers:
            return self._carry_through(op, src, dst, options)
        place = next(place for place in self.places if place.name in answers)
        return place.out(answers[place.name])

    def _is_uncertain(self, *paths: str) -> bool:
        """Whether not every target is known to hold the same at ``paths``."""
        return self.journal is not None and any(self.journal.of(path, 0.0) for path in paths)

    def _carry_through(self, op: str, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        """By way of this process: not every target has the source, or nobody knows."""
        found = self.stat(src)
        if options.source_if_match is None and self.features.if_match:
            options = replace(options, source_if_match=found.etag)
        if options.user_metadata is None and found.metadata:  # without those that the target which told it has alone
            theirs = {pair for place in self.places for pair in with_own({}, place).items()}
            options = replace(options, user_metadata=dict(found.metadata.items() - theirs))
        done = ops.transfer(self, src, self, dst, options, policy=self.crew.policy())
        if op == "move":
            if self.features.if_match:
                self.delete(src, if_match=found.etag)
            else:
                now = self.stat(src)
                if (now.size, now.modified_at) != (found.size, found.modified_at):
                    raise PreconditionFailed("it changed while it was moved, and stays", path=src, op=op)
                self.delete(src)
        return done

    # -- folders -------------------------------------------------------------------------------------------------------

    def mkdir(self, path: str) -> None:
        if not self.features.dirs:
            self._refuse("dirs", "mkdir", path)
        check_new(path, op="mkdir")
        if self._is_uncertain(path) and self.exists(path):  # a target that missed it would make the folder
            raise AlreadyExists("it is an object", path=path, backend=self.name, op="mkdir")
        self.change("mkdir", path, lambda place: place.backend.mkdir(path), kind="dir")

    def rmdir(self, path: str) -> None:
        if not self.features.dirs:
            self._refuse("dirs", "rmdir", path)
        check_key(path, op="rmdir")
        if next(self.list_dir(path), None) is not None:
            raise DirectoryNotEmpty("the folder is not empty", path=path, backend=self.name, op="rmdir")

        def rmdir(place: Place) -> bool:
            try:
                place.backend.rmdir(path)
            except NotFound:
                return False
            return True

        if not any(self.change("rmdir", path, rmdir, kind="dir").values()):
            raise NotFound("no such folder", path=path, backend=self.name, op="rmdir")

    # -- keeping them alike --------------------------------------------------------------------------------------------

    def repair(self, *, grace: float | timedelta = timedelta(minutes=15)) -> Repaired:
        """Bring every target up to date that the journal names, and forget what is settled. What cannot be settled yet
        stays, and is told in the answer. Publications of other processes that began less than ``grace`` ago are left
        alone. May be run at any time, by several processes, again and again."""
        seconds = grace.total_seconds() if isinstance(grace, timedelta) else grace
        if not isinstance(seconds, int | float):
            raise ConfigError(f"grace is a number of seconds or a timedelta, not {grace!r}")
        if self.journal is None:
            raise ConfigError("there is no journal to repair from: verify(rebuild=True) compares everything")
        return repair(self, self.journal, seconds)

    def verify(self, prefix: str = "", *, rebuild: bool = False) -> Verified:
        """Compare what the targets hold under ``prefix``, by the digests they state or else of what is read. With
        ``rebuild`` a minority that differs from more than half of all targets is made like them. Raises ``NotFound``
        where the bucket of a target is missing, ``BackendUnavailable`` where its root folder is."""
        return verify(self, prefix, rebuild=rebuild)

    def settle(self, path: str) -> bool:
        """See ``Settle``: after a kill an object may be at fewer targets than a write needs, and then no write has
        returned. What the journal says is right there, or all say that have something, or more than half of all
        targets, is given to the others; those that do not take it have an entry in the journal afterwards. False also
        where only targets that are down may have it, and too few of them for a write that has returned. Without a
        journal a deletion that was cut short is undone. What targets do not state the SHA-256 of is read. No other
        process is to change it meanwhile."""
        check_key(path, op="settle")
        return settle(self, path)

    # -- powers --------------------------------------------------------------------------------------------------------

    def power_of(self, kind: Callable[..., P]) -> P | None:
        if kind not in _POWERS:
            return None
        if kind is SetMetadata:
            able = self.features.set_modified
        else:
            always = kind is HealthCheck or kind is Settle
            able = always or any(power(place.backend, kind) is not None for place in self.places)
        return self if able else None  # type: ignore[return-value]

    def set_metadata(
        self, path: str, *, modified_at: datetime | None = None, user_metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        if not self.features.set_modified:
            self._refuse("set_modified", "set_metadata", path)

        def put(place: Place) -> ObjectInfo:
            able = power(place.backend, SetMetadata)
            if able is None:
                self._refuse("set_modified", "set_metadata", path)
            own = None if user_metadata is None else with_own(user_metadata, place)
            return able.set_metadata(path, modified_at=modified_at, user_metadata=own)

        answers = self.change("set_metadata", path, put, kind="meta")
        place = next(place for place in self.places if place.name in answers)
        return place.out(answers[place.name])

    def presign(self, path: str, method: str, expires: timedelta) -> str:
        if method.upper() not in ("GET", "HEAD"):
            self._refuse("presign", "presign", path, "a URL writes to one target, and a write goes to all of them here")
        powers = (power(place.backend, Presign) for place in self.candidates(path))
        able = next((one for one in powers if one is not None), None)
        if able is None:
            self._refuse("presign", "presign", path)
        return able.presign(path, method, expires)

    def stale_uploads(self, prefix: str = "", *, older_than: timedelta = timedelta(hours=1)) -> Iterator[ObjectInfo]:
        """Of all targets that tell them, each as its target tells it."""
        for place in self.places:
            able = power(place.backend, StaleUploads)
            if able is not None:
                with named(place):
                    yield from able.stale_uploads(prefix, older_than=older_than)

    def remove_stale_uploads(self, prefix: str = "", *, older_than: timedelta = timedelta(hours=1)) -> int:
        """At all targets that tell them: how many. Every one is tried; the first error is raised then."""

        def remove(place: Place) -> int:
            able = power(place.backend, StaleUploads)
            return 0 if able is None else able.remove_stale_uploads(prefix, older_than=older_than)

        answers = ask_all(self.places, "remove_stale_uploads", prefix, remove, crew=self.crew)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return sum(answer for answer in answers if isinstance(answer, int))

    def check_health(self) -> None:
        """Raises the error of a target unless as many as a write needs are well."""

        def check(place: Place) -> None:
            able = power(place.backend, HealthCheck)
            if able is not None:
                able.check_health()
            else:
                next(iter(place.backend.list("")), None)

        answers = ask_all(self.places, "check_health", "", check, crew=self.crew)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if len(self.places) - len(errors) < self.needed:
            raise errors[0]

    # -- the end -------------------------------------------------------------------------------------------------------

    @property
    def shadow_stats(self) -> ShadowStats:
        """What the comparisons of ``read="shadow"`` came to so far."""
        return ShadowStats() if self._shadow is None else self._shadow.stats

    def close(self) -> None:
        """Close all targets. Every one is tried; the first error is raised then."""
        if self._shadow is not None:
            self._shadow.close()
        errors = []
        stores = [place.tier.store for place in self.places]
        for store in (*stores, *([] if self._owned_journal is None else [self._owned_journal])):
            try:
                store.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def __reduce__(self) -> Any:
        return _unpickled, (tuple(place.tier for place in self.places), self.mode, self._settings, self._chain)

    def __repr__(self) -> str:
        return f"MultiBackend({', '.join(place.name for place in self.places)}, {self.mode!r})"


def _as_it_is(place: Place, path: str, options: WriteOptions) -> WriteOptions:
    """Replace what is there now and, where the target can tell, nothing that comes meanwhile: the condition itself is
    held elsewhere."""
    if not place.backend.features.if_match:
        return replace(options, if_match=None, overwrite=True)
    try:
        return replace(options, if_match=info_of(place.backend, path).etag, overwrite=True)
    except NotFound:
        return replace(options, if_match=None, overwrite=False)


def _unpickled(targets: Sequence[Target], mode: Any, settings: dict[str, Any], chain: tuple[str, ...]) -> MultiBackend:
    made = MultiBackend(targets, mode, **settings)
    for folder in chain:
        made = made.confined(folder)
    return made
