"""Objects from tier to tier. Imports floors 0 and 2."""

from __future__ import annotations

from itertools import islice

from .. import ops
from ..core import CopyOptions, ExtendedBackend, ObjectInfo
from ..errors import AlreadyExists, CapabilityNotSupported, InvalidPath, NotFound, PreconditionFailed
from ._asking import digest_of, info_of
from ._routing import Routing
from .tiers import Place

PAGE = 1000


def migrate(backend: Routing, path: str, from_tier: str, to_tier: str, *, overwrite: bool = False) -> ObjectInfo:
    """Copy, verify, and only then delete what was copied, if it is still that. An equal object that is in ``to_tier``
    already (of a migration that was cut short) counts as the copy; another one is ``AlreadyExists``."""
    source, target = backend.tier(from_tier), backend.tier(to_tier)
    if source is target:
        raise InvalidPath("an object is migrated to another tier than its own", path=path, op="migrate")
    if backend.mode == "match" and backend.owner(path) is not target:
        raise InvalidPath(f"the patterns do not lead to tier {to_tier!r} for it", path=path, op="migrate")
    before = info_of(source.backend, path)
    done = _copy(source, target, path, before, overwrite)
    remove_unchanged(source.backend, path, before, "migrate")
    return target.out(done)


def _copy(source: Place, target: Place, path: str, before: ObjectInfo, overwrite: bool) -> ObjectInfo:
    options = CopyOptions(overwrite=overwrite or not target.backend.features.create_only)
    there: ObjectInfo | None = None
    if not overwrite and options.overwrite:
        try:
            there = info_of(target.backend, path)
        except NotFound:
            pass
    if there is None:
        try:
            return ops.transfer(source.backend, path, target.backend, path, options)
        except AlreadyExists:
            there = info_of(target.backend, path)
    if there.size == before.size:
        digests = (digest_of(place.backend, path, "sha256", None) for place in (source, target))
        if next(digests) == next(digests):
            return there
    raise AlreadyExists(f"tier {target.name!r} has another object of this name", path=path, op="migrate")


def remove_unchanged(backend: ExtendedBackend, path: str, before: ObjectInfo, op: str) -> None:
    """Delete what was read; ``PreconditionFailed`` if it is not that any more."""
    if backend.features.if_match and before.etag is not None:
        try:
            backend.delete(path, if_match=before.etag)
            return
        except CapabilityNotSupported:
            pass  # conditions on writes alone: some S3 servers
    now = info_of(backend, path)
    if (now.etag, now.size, now.modified_at) != (before.etag, before.size, before.modified_at):
        raise PreconditionFailed("the source changed meanwhile; it is kept", path=path, op=op)
    backend.delete(path)


def migrate_folder(
    backend: Routing, folder: str, from_tier: str, to_tier: str, *, overwrite: bool = False
) -> tuple[int, int]:
    """All objects under ``folder`` that ``from_tier`` has: how many, and their bytes. What was migrated when it failed
    stays; running it again goes on."""
    source = backend.tier(from_tier).backend
    count = size = 0
    last: str | None = None
    # Page by page, as what is listed is taken away meanwhile.
    while page := [info.path for info in islice(ops.sorted_list(source, folder, start_after=last), PAGE)]:
        for path in page:
            done = migrate(backend, path, from_tier, to_tier, overwrite=overwrite)
            count += 1
            size += done.size or 0
        last = page[-1]
    return count, size
