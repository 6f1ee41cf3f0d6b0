"""Objects from tier to tier. Imports floors 0 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from .. import ops
from ..core import CopyOptions, ExtendedBackend, ObjectInfo
from ..errors import AlreadyExists, CapabilityNotSupported, InvalidPath, NotFound, PreconditionFailed
from ._asking import digest_of, info_of
from ._routing import Routing
from .tiers import Place, named

PAGE = 1000


def migrate(backend: Routing, path: str, from_tier: str, to_tier: str, *, overwrite: bool = False) -> ObjectInfo:
    """Copy, verify, and only then delete what was copied, if it is still that. An equal object that is in ``to_tier``
    already (of a migration that was cut short) counts as the copy; another one is ``AlreadyExists``."""
    source, target = backend.tier(from_tier), backend.tier(to_tier)
    if source is target:
        raise InvalidPath("an object is migrated to another tier than its own", path=path, op="migrate")
    if backend.mode == "match" and backend.owner(path) is not target:
        raise InvalidPath(f"the patterns do not lead to tier {to_tier!r} for it", path=path, op="migrate")
    if not source.backend.features.delete:
        why = f"nothing can be deleted in tier {from_tier!r}: copy it instead"
        raise CapabilityNotSupported(why, capability="delete", path=path, op="migrate")
    with named(source):
        before = info_of(source.backend, path)
    done, fresh = _copy(source, target, path, before, overwrite)
    remove_source(source, path, before, target, path, "migrate", fresh=fresh)
    return target.out(done)


def _copy(source: Place, target: Place, path: str, before: ObjectInfo, overwrite: bool) -> tuple[ObjectInfo, bool]:
    """What is in ``target`` then, and whether it was put there now."""
    options = CopyOptions(overwrite=overwrite or not target.backend.features.create_only)
    there: ObjectInfo | None = None
    if not overwrite and options.overwrite:
        try:
            there = info_of(target.backend, path)
        except NotFound:
            pass
    if there is None:
        try:
            return ops.transfer(source.backend, path, target.backend, path, options), True
        except AlreadyExists:
            there = info_of(target.backend, path)
    # The etag of a local file is of its inode: another name of the same folder shows by it.
    local = all((place.backend.url or "").startswith("file:") for place in (source, target))
    if local and before.etag == there.etag:
        names = f"tiers {source.name!r} and {target.name!r}"
        raise InvalidPath(f"{names} seem to be one place: it is kept", path=path, op="migrate")
    if there.size == before.size and _digest(source, path) == _digest(target, path):
        return there, False
    raise AlreadyExists(f"tier {target.name!r} has another object of this name", path=path, op="migrate")


def _digest(place: Place, path: str) -> str:
    return digest_of(place.backend, path, "sha256", None)


def remove_source(
    source: Place, path: str, before: ObjectInfo, target: Place, copy: str, op: str, *, fresh: bool = True
) -> None:
    """Delete what was copied; ``PreconditionFailed`` if it is not that any more. Where the store has no ``if_match``, a
    moment remains between the look and the deletion. A store that says nothing of its objects' states is compared with
    the copy. Where nothing can be deleted after all, a ``fresh`` copy goes again."""
    try:
        with named(source):
            _remove_unchanged(source, path, before, target, copy, op)
    except CapabilityNotSupported:
        if fresh:
            target.backend.delete(copy)
        raise


def _remove_unchanged(source: Place, path: str, before: ObjectInfo, target: Place, copy: str, op: str) -> None:
    backend: ExtendedBackend = source.backend
    if backend.features.if_match and before.etag is not None:
        try:
            backend.delete(path, if_match=before.etag)
            return
        except CapabilityNotSupported as error:
            if error.capability == "delete":
                raise
            # conditions on writes alone: some S3 servers
    now = info_of(backend, path)
    same = (now.etag, now.size, now.modified_at) == (before.etag, before.size, before.modified_at)
    if same and now.etag is None and now.modified_at is None:
        same = _digest(source, path) == _digest(target, copy)
    if not same:
        raise PreconditionFailed("the source changed meanwhile; it is kept", path=path, op=op)
    backend.delete(path)


def migrate_folder(
    backend: Routing, folder: str, from_tier: str, to_tier: str, *, overwrite: bool = False
) -> tuple[int, int]:
    """All objects under ``folder`` that ``from_tier`` has, and that the patterns lead to ``to_tier``: how many, and
    their bytes. What was migrated when it failed stays; running it again goes on."""
    source, target = backend.tier(from_tier), backend.tier(to_tier)
    count = size = 0
    for path in _paths(source.backend, folder):
        if backend.mode != "match" or backend.owner(path) is target:
            done = migrate(backend, path, from_tier, to_tier, overwrite=overwrite)
            count += 1
            size += done.size or 0
    return count, size


def _paths(backend: ExtendedBackend, folder: str) -> Iterator[str]:
    """Page by page, as what is listed is taken away meanwhile. What must be sorted is read to its end before."""
    if not backend.features.sorted_list:
        yield from (info.path for info in ops.sorted_list(backend, folder))
        return
    last: str | None = None
    while page := [info.path for info in islice(ops.sorted_list(backend, folder, start_after=last), PAGE)]:
        yield from page
        last = page[-1]
