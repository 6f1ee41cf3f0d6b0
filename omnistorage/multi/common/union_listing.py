"""The listing of several tiers as one: in key order, the first tier wins, memory bounded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import merge
from typing import Protocol

from omnistorage import ops
from omnistorage.core import ListOptions, ObjectInfo, as_extended
from omnistorage.errors import BackendUnavailable, BucketNotFound, InvalidPath, NotFound, StorageError
from omnistorage.paths import sort_key

from .tier import Place, told

Entry = tuple[bytes, int, ObjectInfo]


class Shows(Protocol):
    """Which of the keys that a place has it shows."""

    def __call__(self, place: Place, path: str) -> bool: ...
    def all_of(self, place: Place, folder: str) -> bool:
        """Whether it is known to show all it has under ``folder``, so that nobody need look."""
        ...

    def hides(self, down: Collection[str], folder: str) -> bool:
        """Whether something under ``folder`` is shown by none but places that are ``down``."""
        ...


class Owned:
    """Every key belongs to one place."""

    def __init__(self, places: Sequence[Place], owner: Callable[[str], Place | None]) -> None:
        self._places, self._owner = places, owner

    def __call__(self, place: Place, path: str) -> bool:
        return self._owner(path) is place

    def all_of(self, place: Place, folder: str) -> bool:
        before = self._places[: place.index]
        return place.takes_all_of(folder) and not any(one.touches(folder) for one in before)

    def hides(self, down: Collection[str], folder: str) -> bool:
        return bool(down)


class _Spared:
    """How many more places may be left out for being out of reach, and which ones are."""

    def __init__(self, spare: int) -> None:
        self._left = spare
        self.down: dict[str, BackendUnavailable] = {}

    def take(self, place: Place, error: BackendUnavailable) -> bool:
        self._left -= 1
        if self._left >= 0:
            self.down[place.name] = error
        return self._left >= 0

    def check(self, shows: Shows | None, folder: str, on_error: Callable[[StorageError], None] | None = None) -> None:
        """Raise, or tell ``on_error``, that what is known to be there was not seen."""
        if self.down and shows is not None and shows.hides(self.down, folder):
            error = next(iter(self.down.values()))
            if on_error is None:
                raise error
            on_error(error)


def union(
    places: Sequence[Place], prefix: str, options: ListOptions, shows: Shows | None, spare: int = 0
) -> Iterator[ObjectInfo]:
    """Every object under ``prefix``, each as the first place that has it shows it. ``spare`` places may be out of
    reach; one more makes it raise, or is told to ``on_error``."""
    last, spared = None, _Spared(spare)
    for key, index, info in merge(*(_entries(place, prefix, options, spared) for place in places)):
        if key != last and (shows is None or shows(places[index], info.path)):
            last = key
            yield places[index].out(info)
    spared.check(shows, prefix, options.on_error)


def _entries(place: Place, prefix: str, options: ListOptions, spared: _Spared) -> Iterator[Entry]:
    try:
        for info in ops.sorted_list(place.backend, prefix, start_after=options.start_after, on_error=options.on_error):
            yield sort_key(info.path), place.index, info
    except NotFound as error:
        raise rootless(place, prefix, "list", error) from error
    except BackendUnavailable as error:
        told(error, place)
        if spared.take(place, error):
            return
        if options.on_error is None:
            raise
        options.on_error(error)
    except StorageError as error:
        raise told(error, place) from error.__cause__


def rootless(place: Place, path: str, op: str, error: NotFound) -> NotFound:
    """A prefix with nothing under it is no error: this is a bucket, folder or table that is not there."""
    where = "" if place.backend.url is None else f" ({place.backend.url})"
    kind = BucketNotFound if isinstance(error, BucketNotFound) else NotFound
    return kind(
        f"the root of {place.word} {place.name!r}{where} does not exist: mount it, or make it if the disk or bucket "
        "really is new", path=path, backend=error.backend, op=op,
    )  # fmt: skip


def union_dir(
    places: Sequence[Place], folder: str, name: str, shows: Shows | None, spare: int = 0
) -> Iterator[ObjectInfo]:
    """The children of ``folder`` in all places, sorted. ``NotFound`` where none has such a folder."""
    misses: dict[int, StorageError] = {}
    try:
        yield from _union_dir(places, folder, name, shows, misses, _Spared(spare))
    finally:
        misses.clear()  # or the errors would keep this frame, and it them


def _union_dir(
    places: Sequence[Place],
    folder: str,
    name: str,
    shows: Shows | None,
    misses: dict[int, StorageError],
    spared: _Spared,
) -> Iterator[ObjectInfo]:
    last = None
    for key, index, info in merge(*(_children(place, folder, misses, spared) for place in places)):
        place = places[index]
        if key != last and (shows is None or (_is_real if info.is_dir else _shown)(place, info.path, shows)):
            last = key
            yield place.out(info)
    spared.check(shows, folder)
    if last is not None or not folder:
        return
    if len(misses) == len(places):
        kinds = (InvalidPath, NotFound)
        raise next(error for kind in kinds for error in misses.values() if isinstance(error, kind))
    have = [place for place in places if place.index not in misses]
    if shows is not None and not any(_is_real(place, folder, shows) for place in have):
        raise NotFound("no such folder", path=folder, backend=name, op="list_dir")


def _children(place: Place, folder: str, misses: dict[int, StorageError], spared: _Spared) -> Iterator[Entry]:
    try:
        found: Iterable[ObjectInfo] = ops.children(place.backend, folder)
        if as_extended(place.backend) is None or isinstance(place.backend, ops.BasicView):
            found = sorted(found, key=_dir_key)
        for info in found:
            yield _dir_key(info), place.index, info
    except (NotFound, InvalidPath) as error:
        if not folder or isinstance(error, BucketNotFound):
            raise rootless(place, folder, "list_dir", error) if isinstance(error, NotFound) else error from error
        misses[place.index] = error
    except BackendUnavailable as error:
        told(error, place)
        if not spared.take(place, error):
            raise
        misses[place.index] = error
    except StorageError as error:
        raise told(error, place) from error.__cause__


def _dir_key(info: ObjectInfo) -> bytes:
    return sort_key(info.path) + (b"/" if info.is_dir else b"")


def _shown(place: Place, path: str, shows: Shows) -> bool:
    return shows(place, path)


def _is_real(place: Place, folder: str, shows: Shows) -> bool:
    """Whether a folder that the place has holds a key that the place shows, or is an empty one of its own."""
    if shows.all_of(place, folder):
        return True
    empty = True
    for info in place.backend.list(folder):
        if shows(place, info.path):
            return True
        empty = False
    return empty and place.backend.features.dirs and shows(place, folder)
