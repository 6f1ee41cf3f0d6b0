"""Whether two places overlap, as far as their names tell. Imports floors 0 and 2, ``Prefix``, ``places``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any
from urllib.parse import unquote

from .. import ops
from ..wrappers import Prefix
from ._volumes import mounts_below, volume_path
from .places import Side, bare


def overlap(a: Side, b: Side) -> str | None:
    """The relative path from the outer to the inner of two places of which one lies in the other (``""``: they are one
    place), or None if they are apart, or nobody knows."""
    if ops.same_place(a.backend, b.backend):
        one, other = f"{a.prefix}/".lstrip("/"), f"{b.prefix}/".lstrip("/")
        if (inner := _between(one, other)) is not None:
            return inner
    first, second = a.where(), b.where()
    if first is None or second is None:
        return None
    inner = _between(first, second)
    if inner is None and a.local is not None and b.local is not None:
        return _between_volumes(first, second)
    return inner if inner is None or first.startswith("/") else unquote(inner, errors="surrogateescape")


def _between_volumes(one: str, other: str) -> str | None:
    """The same of two local folders, by where they lie on their volumes, and by what is mounted inside them."""
    first, second = volume_path(one), volume_path(other)
    if first is None or second is None:
        return None
    inner = _on_volume(first, second)
    if inner is None:
        inner = next(chain(_mounted(one, second), _mounted(other, first)), None)
    return inner


def _mounted(outer: str, place: tuple[str, str]) -> Iterator[str]:
    """The paths from ``outer`` to the mounts inside it that show ``place``, or show a folder of it."""
    for point, device, root in mounts_below(outer):
        inner = _on_volume((device, root), place)
        if inner is not None:
            below = f"{place[1].rstrip('/')}/".startswith(f"{root.rstrip('/')}/")
            yield f"{point}/{inner}".rstrip("/") if below else point


def _on_volume(one: tuple[str, str], other: tuple[str, str]) -> str | None:
    if one[0] != other[0]:
        return None
    return _between(*(f"{place[1].rstrip('/')}/" for place in (one, other)))


def _between(one: str, other: str) -> str | None:
    if one.startswith(other):
        return one[len(other) :].rstrip("/")
    return other[len(one) :].rstrip("/") if other.startswith(one) else None


def overlaps(a: Side, b: Side, *, tiers: bool = True) -> Iterator[str]:
    """What ``overlap`` says of the two, and of each store behind the wrappers and tiers of one with each behind those
    of the other, where they overlap: what is deleted on one side may then be gone from the other, whatever their urls
    say. Different backends without a url are taken to be apart."""
    others = list(stores(b, tiers))
    for one in stores(a, tiers):
        for other in others:
            if (inner := overlap(one, other)) is not None:
                yield inner


def stores(side: Side, tiers: bool = True) -> Iterator[Side]:
    """The side, and what is behind its wrappers, and its ``tiers``."""
    yield side
    backend: Any = bare(side.backend)
    behind: list[Any] = [getattr(backend, "inner", None)]
    behind += [getattr(tier, "backend", None) for tier in (getattr(backend, "places", None) or ()) if tiers]
    for inner in behind:
        if callable(getattr(inner, "open_reader", None)):
            yield from stores(Side(Prefix(inner, side.prefix) if side.prefix else inner, side.role), tiers)
