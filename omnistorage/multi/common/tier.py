"""A tier, what several of them can do together, and which of them a key belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations
from os import PathLike
from typing import Any

from omnistorage import ops
from omnistorage.config import locate
from omnistorage.core import Backend, ExtendedBackend, Features, ObjectInfo
from omnistorage.core.spelling import nearest
from omnistorage.errors import ConfigError, PreconditionFailed, StorageError
from omnistorage.globs import CompiledGlob, compile_glob, literal_folder
from omnistorage.paths import is_under
from omnistorage.wrappers import Prefix

_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_new = tuple.__new__


@dataclass(frozen=True)
class Tier:
    """One of several stores: a ``Store``, a backend, a URL or a path, under a name. ``match``: the globs (one or
    several) of the keys that belong to it, None for all."""

    name: str
    store: Any
    match: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if isinstance(self.store, str | PathLike):
            object.__setattr__(self, "store", opened(f"tier {self.name!r}", self.store, None))
        elif not isinstance(self.store, Backend) and not hasattr(self.store, "as_backend"):
            given = type(self.store).__name__
            raise ConfigError(f"tier {self.name!r}: a store, a backend, a URL or a path, not {given}")
        match = (self.match,) if isinstance(self.match, str) else self.match
        if match is not None:
            if not isinstance(match, Sequence) or not all(isinstance(pattern, str) for pattern in match):
                raise ConfigError(f"tier {self.name!r}: match is a pattern or a list of them, not {self.match!r}")
            object.__setattr__(self, "match", tuple(match))
            for pattern in match:
                compile_glob(pattern, anchored=True)


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"a tier's name is made of letters, digits, '-' and '_': not {name!r}")


def opened(who: str, url: str | PathLike[str], defaults: Mapping[str, Any] | None) -> Backend:
    """The backend of a URL or path, which shows and pickles no secret that the URL has in it. No I/O."""
    try:
        backend, folder = locate(url, is_object=False, defaults=defaults)
    except ConfigError as error:
        raise ConfigError(f"{who}: {error.args[0]}") from error
    return Prefix(backend, folder) if folder else backend


@dataclass(eq=False, slots=True)
class Place:
    """A tier at work: its backend, and its etags told apart from those of the others."""

    name: str
    index: int
    backend: ExtendedBackend
    tier: Tier
    match: tuple[str, ...] | None
    patterns: tuple[CompiledGlob, ...] = ()
    word: str = "tier"  # what errors call it
    head: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.head = self.name + ":"
        self.patterns = tuple(compile_glob(pattern, anchored=True) for pattern in self.match or ())

    def takes(self, path: str) -> bool:
        return self.match is None or any(pattern.fullmatch(path) for pattern in self.patterns)

    def touches(self, folder: str) -> bool:
        """Whether a key under ``folder`` may match."""
        heads = [""] if self.match is None else [literal_folder(pattern) for pattern in self.match]
        return any(is_under(folder, head) or is_under(head, folder) or head == folder for head in heads)

    def takes_all_of(self, folder: str) -> bool:
        """Whether every key under ``folder`` is known to match."""
        if self.match is None:
            return True
        return any(
            pattern.endswith("/**") and (is_under(folder, head) or folder == head)
            for pattern in self.match
            if (head := literal_folder(pattern)) == pattern[:-3] and head
        )

    def out(self, info: ObjectInfo) -> ObjectInfo:
        """``info`` as the whole shows it: an etag or a version of one tier says nothing to another."""
        path, size, at, kind, etag, version, *rest = info
        etag = None if etag is None else self.head + etag
        version = None if version is None else self.head + version
        return _new(ObjectInfo, (path, size, at, kind, etag, version, *rest))

    def token(self, shown: str | None, path: str, op: str) -> str | None:
        """The etag or version of this tier that ``out`` made ``shown`` of."""
        if shown is None or shown.startswith(self.head):
            return None if shown is None else shown[len(self.head) :]
        raise PreconditionFailed(f"the object is now in {self.word} {self.name!r}", path=path, op=op)


def places_of(
    tiers: Iterable[Tier | Mapping[str, Any]], defaults: Mapping[str, Any] | None = None
) -> tuple[Place, ...]:
    """The tiers with their backends. Raises ``ConfigError`` for none, for a name that comes twice, and for what is no
    tier."""
    found: list[Place] = []
    for tier in tiers:
        if isinstance(tier, Mapping):
            tier = _tier_of(tier, len(found), defaults)
        if not isinstance(tier, Tier):
            raise ConfigError(f"a tier is Tier(name, store), not {type(tier).__name__}")
        if any(tier.name == place.name for place in found):
            raise ConfigError(f"two tiers have the name {tier.name!r}")
        match = None if tier.match is None else tuple(tier.match)
        found.append(Place(tier.name, len(found), ops.extended(tier.store), tier, match))
    if not found:
        raise ConfigError("there are no tiers")
    for one, other in combinations(found, 2):
        if ops.same_place(one.backend, other.backend):
            raise ConfigError(f"the tiers {one.name!r} and {other.name!r} are the same place")
    return tuple(found)


def _tier_of(table: Mapping[str, Any], number: int, defaults: Mapping[str, Any] | None) -> Tier:
    known = ("name", "store", "match")
    for key in table:
        if key not in known:
            raise ConfigError(f"tier {number}: there is no key {key!r}{nearest(str(key), known)}")
    for key in known[:2]:
        if key not in table:
            raise ConfigError(f"tier {number}: the key {key!r} is missing")
    _check_name(table["name"])
    store = table["store"]
    if isinstance(store, str):
        store = opened(f"tier {table['name']!r}", store, defaults)
    return Tier(**{**table, "store": store})


def told(error: BaseException, place: Place, path: str | None = None) -> BaseException:
    """The error, with the place's name in it, and the path if it had none."""
    return _noted(error, f"in {place.word} {place.name!r}", path)


def _noted(error: BaseException, note: str, path: str | None) -> BaseException:
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
    if path is not None and isinstance(error, StorageError) and error.path is None:
        error.path = path
    return error


@contextmanager
def named(place: Place, path: str | None = None) -> Iterator[None]:
    """What fails in the block, fails in this tier, and at ``path`` if it does not say where."""
    try:
        yield
    except StorageError as error:
        told(error, place, path)
        raise


@contextmanager
def between(source: Place, target: Place, path: str) -> Iterator[None]:
    """What fails in the block, fails on the way from one tier to another."""
    try:
        yield
    except StorageError as error:
        _noted(error, f"from tier {source.name!r} to tier {target.name!r}", path)
        raise


_OF_READS = ("read", "range_read")
_OF_ALL = ("list", "list_seek", "lazy_read")
_OF_WRITES = ("write", "delete", "atomic_write", "create_only", "if_match", "user_metadata", "append", "set_modified")
_OF_ONE = ("copy", "move", "atomic_move")


def features_of_tiers(places: Sequence[Place], writes: Sequence[Place], *, match: bool) -> Features:
    """What all of them can do together: reading is what any can, listing what all can, writing what those can that are
    written to."""
    every = [place.backend.features for place in places]
    written = [place.backend.features for place in writes]
    alone = len(written) == 1
    flags = {name: any(getattr(one, name) for one in every) for name in _OF_READS}
    flags |= {name: all(getattr(one, name) for one in every) for name in _OF_ALL}
    flags |= {name: bool(written) and all(getattr(one, name) for one in written) for name in _OF_WRITES}
    able = alone or match
    flags |= {name: bool(written) and able and all(getattr(one, name) for one in written) for name in _OF_ONE}
    flags["append"] = flags["append"] and able
    precisions = [one.modified_precision for one in every]
    known: list[timedelta] = [one for one in precisions if one is not None]
    return Features(
        **flags,
        sorted_list=flags["list"],
        stat=flags["read"],
        dirs=bool(written) and all(one.dirs for one in (every if match else written)),
        hashes=frozenset().union(*(one.hashes for one in every)),
        kept_hashes=frozenset().union(*(one.kept_hashes for one in every)),
        modified_precision=max(known) if known else None,
        case_sensitive=all(one.case_sensitive for one in every),
        normalizes=next((one.normalizes for one in every if one.normalizes), None),
    )
