"""The listing of several tiers as one: in key order, the first tier wins, memory bounded. Imports floors 0 and 2."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from typing import Any

from .. import ops
from ..core import ListOptions, ObjectInfo, as_extended
from ..errors import BackendUnavailable, InvalidPath, NotFound, StorageError
from ..paths import sort_key
from .tiers import Place, told

Entry = tuple[bytes, int, ObjectInfo]


def union(
    places: Sequence[Place], prefix: str, options: ListOptions, owner: Callable[[str], Place | None] | None
) -> Iterator[ObjectInfo]:
    """Every object under ``prefix``, each as the first tier that has it shows it; with ``owner`` only those that
    belong to the tier they are in. A tier that cannot be listed makes it raise, or is told to ``on_error``."""
    last = None
    for key, index, info in merge(*(_entries(place, prefix, options) for place in places)):
        if key != last and (owner is None or owner(info.path) is places[index]):
            last = key
            yield places[index].out(info)


def _entries(place: Place, prefix: str, options: ListOptions) -> Iterator[Entry]:
    try:
        for info in ops.sorted_list(place.backend, prefix, start_after=options.start_after, on_error=options.on_error):
            yield sort_key(info.path), place.index, info
    except NotFound as error:
        raise _rootless(place, prefix, "list", error) from error
    except BackendUnavailable as error:
        told(error, place)
        if options.on_error is None:
            raise
        options.on_error(error)
    except StorageError as error:
        raise told(error, place) from error.__cause__


def _rootless(place: Place, path: str, op: str, error: NotFound) -> NotFound:
    """A prefix with nothing under it is no error: this is a bucket, folder or table that is not there."""
    return NotFound(f"the root of tier {place.name!r} does not exist", path=path, backend=error.backend, op=op)


def union_dir(
    places: Sequence[Place], folder: str, name: str, owner: Callable[[str], Place | None] | None
) -> Iterator[ObjectInfo]:
    """The children of ``folder`` in all tiers, sorted. ``NotFound`` where no tier has such a folder."""
    misses: dict[int, StorageError] = {}
    try:
        yield from _union_dir(places, folder, name, owner, misses)
    finally:
        misses.clear()  # or the errors would keep this frame, and it them


def _union_dir(
    places: Sequence[Place],
    folder: str,
    name: str,
    owner: Callable[[str], Place | None] | None,
    misses: dict[int, StorageError],
) -> Iterator[ObjectInfo]:
    last = None
    for key, index, info in merge(*(_children(place, folder, misses) for place in places)):
        place = places[index]
        if key != last and (owner is None or _belongs(info, place, places, owner)):
            last = key
            yield place.out(info)
    if len(misses) == len(places) and folder:
        raise next((error for error in misses.values() if isinstance(error, InvalidPath)), misses[0])
    have = [place for place in places if place.index not in misses]
    if (
        last is None
        and folder
        and owner is not None
        and not any(is_real(place, folder, places, owner) for place in have)
    ):
        raise NotFound("no such folder", path=folder, backend=name, op="list_dir")


def _children(place: Place, folder: str, misses: dict[int, StorageError]) -> Iterator[Entry]:
    try:
        found: Iterable[ObjectInfo] = ops.children(place.backend, folder)
        if as_extended(place.backend) is None or isinstance(place.backend, ops.BasicView):
            found = sorted(found, key=_dir_key)
        for info in found:
            yield _dir_key(info), place.index, info
    except (NotFound, InvalidPath) as error:
        if not folder:
            raise _rootless(place, folder, "list_dir", error) if isinstance(error, NotFound) else error from error
        misses[place.index] = error
    except StorageError as error:
        raise told(error, place) from error.__cause__


def _dir_key(info: ObjectInfo) -> bytes:
    return sort_key(info.path) + (b"/" if info.is_dir else b"")


def _belongs(info: ObjectInfo, place: Place, places: Sequence[Place], owner: Callable[[str], Place | None]) -> bool:
    return is_real(place, info.path, places, owner) if info.is_dir else owner(info.path) is place


def is_real(place: Place, folder: str, places: Sequence[Place], owner: Callable[[str], Any]) -> bool:
    """Whether a folder that the tier has holds a key that belongs to the tier, or is an empty one of its own."""
    if place.takes_all_of(folder) and not any(before.touches(folder) for before in places[: place.index]):
        return True  # known without looking
    empty = True
    for info in place.backend.list(folder):
        if owner(info.path) is place:
            return True
        empty = False
    return empty and place.backend.features.dirs
