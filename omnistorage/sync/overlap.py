"""Whether two places overlap, as far as their names tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from omnistorage import ops
from omnistorage.ops.volumes import between, between_mounts
from omnistorage.wrappers import Prefix

from .endpoint import Side, bare


def overlap(a: Side, b: Side) -> str | None:
    """The relative path from the outer to the inner of two places of which one lies in the other (``""``: they are one
    place), or None if they are apart, or nobody knows."""
    if ops.same_place(a.backend, b.backend):
        one, other = f"{a.prefix}/".lstrip("/"), f"{b.prefix}/".lstrip("/")
        if (inner := between(one, other)) is not None:
            return inner
    first, second = a.where(), b.where()
    if first is None or second is None:
        return None
    inner = between(first, second)
    if inner is None and a.local is not None and b.local is not None:
        return between_mounts(first, second)
    return inner if inner is None or first.startswith("/") else unquote(inner, errors="surrogateescape")


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
