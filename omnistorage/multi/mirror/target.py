"""A target of a fan-out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations, permutations
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from omnistorage import ops
from omnistorage.core import Backend, ExtendedBackend, WriteOptions
from omnistorage.core.option_checks import check_metadata
from omnistorage.core.spelling import nearest
from omnistorage.errors import ConfigError
from omnistorage.multi.common.tier import Place, Tier, opened
from omnistorage.ops.volumes import between_mounts


@dataclass(frozen=True)
class Target(Tier):
    """One of several stores that get the same objects: a ``Store``, a backend or a URL, under the name that reports and
    the repair journal call it by. ``user_metadata`` and ``extra`` (``{"s3.storage_class": "GLACIER"}``) are added to
    those of every object written there; a URL or ``Prefix`` gives it a folder."""

    user_metadata: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.store, PathLike):
            object.__setattr__(self, "store", f"{Path(self.store).absolute()}/")
        super().__post_init__()
        if self.match is not None:
            raise ConfigError(f"target {self.name!r}: every target gets every key; match is for TieredBackend")
        check_metadata(self.user_metadata)

    def options(self, options: WriteOptions, place: Place, names: frozenset[str]) -> WriteOptions:
        """``options`` as this target is told them. An extra that begins with the name of a kind of backend, ``names``,
        is for the targets of that kind."""
        extra = {
            key: value
            for key, value in (options.extra or {}).items()
            if (kind := key.partition(".")[0]) == place.backend.name or kind not in names
        }
        if not self.extra and not self.user_metadata and extra == (options.extra or {}):
            return options
        metadata = {**(options.user_metadata or {}), **self.user_metadata}
        return replace(options, extra={**extra, **self.extra} or None, user_metadata=metadata or None)


def with_own(metadata: Mapping[str, str], place: Place, of: Place | None = None) -> dict[str, str]:
    """The user metadata of an object as the target ``place`` has it; ``of``: as that other target has it so far."""
    assert isinstance(place.tier, Target)
    theirs = of.tier.user_metadata if of is not None and isinstance(of.tier, Target) else {}
    return {**{key: text for key, text in metadata.items() if key not in theirs}, **place.tier.user_metadata}


_KEYS = ("name", "store", "user_metadata", "extra")


def targets_of(
    targets: Iterable[Target | Backend | str | Mapping[str, Any] | Any],
    defaults: Mapping[str, Any] | None = None,
    *,
    apart: bool = True,
) -> tuple[Place, ...]:
    """The targets with their backends. What has no name gets that of its kind, with a number if it is not the first.
    ``apart``: no two may be the same place."""
    if isinstance(targets, str | Mapping) or not isinstance(targets, Iterable):
        raise ConfigError(f"targets are a list of backends, stores, URLs or Targets, not {type(targets).__name__}")
    found: list[Place] = []
    taken: set[str] = set()
    for given in targets:
        target = _target(given, len(found), taken, defaults)
        if target.name in taken:
            raise ConfigError(f"two targets have the name {target.name!r}")
        taken.add(target.name)
        place = Place(target.name, len(found), ops.extended(target.store), target, None, word="target")
        if not place.backend.features.write:
            raise ConfigError(f"target {target.name!r} cannot be written to: {place.backend.name} is read-only here")
        found.append(place)
    if not found:
        raise ConfigError("there are no targets")
    for one, other in combinations(found, 2):
        if apart:
            check_apart(one.backend, f"target {one.name!r}", other.backend, f"target {other.name!r}")
    return tuple(found)


def check_apart(a: ExtendedBackend, a_name: str, b: ExtendedBackend, b_name: str) -> None:
    """Raise ``ConfigError`` where one place is the other or lies in it: by their URLs, and for local folders by what
    is on the disk, whatever links and mounts lead there."""
    if ops.same_place(a, b) or _is_same_folder(a, b):
        raise ConfigError(f"{a_name} and {b_name} are the same place: give each a place of its own")
    for (one, one_name), (other, other_name) in permutations(((a, a_name), (b, b_name))):
        inner, outer = _real(one), _real(other)
        if inner is not None and outer is not None and inner.startswith(outer):
            raise ConfigError(f"{one_name} lies in {other_name} ({inner} in {outer}): give each a place of its own")
    if _share_volume(a, b):
        raise ConfigError(
            f"one of {a_name} and {b_name} lies in the other by way of a mount: give each a place of its own"
        )


def folder_of(backend: ExtendedBackend) -> str | None:
    """The folder of a backend on the local disk."""
    parts = urlsplit(backend.url or "")
    return unquote(parts.path) if parts.scheme == "file" else None


def _is_same_folder(a: ExtendedBackend, b: ExtendedBackend) -> bool:
    one, other = folder_of(a), folder_of(b)
    try:
        return one is not None and other is not None and os.path.samefile(one, other)
    except OSError:  # one that is not there yet
        return False


def _share_volume(a: ExtendedBackend, b: ExtendedBackend) -> bool:
    one, other = folder_of(a), folder_of(b)
    if one is None or other is None:
        return False
    return between_mounts(os.path.realpath(one), os.path.realpath(other)) is not None


def _real(backend: ExtendedBackend) -> str | None:
    """The URL, of a local folder without links in it; None where there is none that could be the start of another."""
    folder = folder_of(backend)
    if folder is not None:
        return os.path.join(os.path.realpath(folder), "")
    return backend.url if backend.url and backend.url.endswith("/") and "?" not in backend.url else None


def _target(given: Any, number: int, taken: set[str], defaults: Mapping[str, Any] | None) -> Target:
    if isinstance(given, Target):
        return given
    if isinstance(given, Mapping):
        for key in given:
            if key not in _KEYS:
                raise ConfigError(f"target {number}: there is no key {key!r}{nearest(str(key), _KEYS)}")
        if "store" not in given:
            raise ConfigError(f"target {number}: the key 'store' is missing")
        store = given["store"]
        if isinstance(store, str | PathLike):
            store = opened(f"target {number}", store, defaults)
        return Target(**{**given, "name": given.get("name") or _name(store, taken), "store": store})
    if isinstance(given, str | PathLike):
        given = opened(f"target {number}", given, defaults)
    elif not isinstance(given, Backend) and not hasattr(given, "as_backend"):
        raise ConfigError(f"target {number}: a store, a backend, a URL or a Target, not {type(given).__name__}")
    return Target(_name(given, taken), given)


def _name(store: Any, taken: set[str]) -> str:
    kind = ops.extended(store).name
    free = (kind if number == 1 else f"{kind}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in free if name not in taken)
