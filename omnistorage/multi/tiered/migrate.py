"""Objects from tier to tier."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from omnistorage import ops
from omnistorage.core import CopyOptions, ExtendedBackend, ObjectInfo, SetMetadata, power
from omnistorage.errors import (
    AlreadyExists,
    CapabilityNotSupported,
    InvalidPath,
    NotFound,
    PreconditionFailed,
    StorageError,
)
from omnistorage.multi.common.calls import MISSES, digest_of, info_of
from omnistorage.multi.common.routing import Routing
from omnistorage.multi.common.tier import Place, between, named, told
from omnistorage.ops.copying import take_back
from omnistorage.ops.same_bucket import is_one_object

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
    with named(source, path):
        before = info_of(source.backend, path)
    must_be_two(source, path, before, target, path, "migrate")
    done, fresh = _copy(source, target, path, before, overwrite)
    remove_source(source, path, before, target, done, "migrate", fresh=fresh)
    return target.out(done)


def must_be_two(source: Place, path: str, before: ObjectInfo, target: Place, to: str, op: str) -> None:
    """Check that two tiers are not one folder or bucket under two names, before an object moves between them: its copy
    would be itself, and be deleted with it.

    Args:
        source: The tier that has the object.
        path: The object's path there.
        before: What that tier shows of it.
        target: The tier that gets the copy.
        to: The copy's path there.
        op: The operation that the error names.

    Raises:
        InvalidPath: The two paths are one object.
        StorageError: The tiers cannot be compared.
    """
    with between(source, target, path):
        if all((place.backend.url or "").startswith("file:") for place in (source, target)):
            one = _has(target, to, before.etag)
        else:
            one = is_one_object(target.backend, to, source.backend, path)
    if one:
        names = f"tiers {source.name!r} and {target.name!r}"
        raise InvalidPath(f"{names} seem to be one place: it is kept", path=path, op=op)


def _has(place: Place, path: str, etag: str | None) -> bool:
    """Whether a tier shows ``etag`` at ``path``. That of a local file is of its inode, whatever leads there."""
    try:
        return etag is not None and info_of(place.backend, path).etag == etag
    except MISSES:
        return False


def _copy(source: Place, target: Place, path: str, before: ObjectInfo, overwrite: bool) -> tuple[ObjectInfo, bool]:
    """What is in ``target`` then, and whether it was put there now."""
    options = CopyOptions(overwrite=overwrite or not target.backend.features.create_only)
    there: ObjectInfo | None = None
    if not overwrite and options.overwrite:
        try:
            with named(target, path):
                there = info_of(target.backend, path)
        except NotFound:
            pass
    with between(source, target, path):
        if there is None:
            try:
                return ops.transfer(source.backend, path, target.backend, path, options), True
            except AlreadyExists:
                there = info_of(target.backend, path)
    if there.size == before.size and _digest(source, path) == _digest(target, path):
        with between(source, target, path):
            return _with_metadata(source, target, path, before, there), False
    raise AlreadyExists(f"tier {target.name!r} has another object of this name", path=path, op="migrate")


def _digest(place: Place, path: str) -> str:
    return digest_of(place.backend, path, "sha256", None)


def _with_metadata(source: Place, target: Place, path: str, before: ObjectInfo, there: ObjectInfo) -> ObjectInfo:
    """The equal object, with the user metadata of the source: what a copy made now would have."""
    theirs = target.backend.features
    kept = source.backend.features.user_metadata and theirs.user_metadata
    metadata = dict(before.metadata or {})
    if not kept or metadata == dict(there.metadata or {}):
        return there
    if theirs.if_match and there.etag is not None:
        still = before.etag if source.backend.features.if_match else None
        options = CopyOptions(if_match=there.etag, source_if_match=still)
        return ops.transfer(source.backend, path, target.backend, path, options)
    able = power(target.backend, SetMetadata)
    if able is not None:
        return able.set_metadata(path, user_metadata=metadata)
    why = f"tier {target.name!r} has the same bytes with other metadata: migrate with overwrite=True"
    raise AlreadyExists(why, path=path, op="migrate")


def remove_source(
    source: Place, path: str, before: ObjectInfo, target: Place, made: ObjectInfo, op: str, *, fresh: bool = True
) -> None:
    """Delete what was copied; ``PreconditionFailed`` if it is not that any more. Where the store has no ``if_match``, a
    moment remains between the look and the deletion. A store that says nothing of its objects' states is compared with
    the copy. Where the source stays, a ``fresh`` copy goes again if it is still what was ``made``: an old one would
    hide what the source is now, or show when that is deleted. The error says what stands where."""
    try:
        with named(source, path):
            _remove_unchanged(source, path, before, target, made.path, op)
    except (PreconditionFailed, NotFound) as error:
        raise told(_changed(source, path, target, made, op, fresh), source) from error
    except CapabilityNotSupported as error:
        if fresh:
            error.add_note(_taken_back(target, made))
        raise
    except StorageError as error:
        error.add_note(_both(source, path, target, made))
        raise


def _changed(source: Place, path: str, target: Place, made: ObjectInfo, op: str, fresh: bool) -> PreconditionFailed:
    """What to raise where the source is not what was copied. A source that is gone may have been migrated by somebody
    else, or by this call, if an answer was lost: then the copy is the only one, and stays."""
    note = None
    try:
        info_of(source.backend, path)
    except MISSES:
        why = f"the source is gone meanwhile; its copy {made.path!r} stands in tier {target.name!r}: "
        why += "delete it there if it was not to be kept"
    except StorageError:
        why, note = "the source changed meanwhile", _both(source, path, target, made)
    else:
        why = "the source changed meanwhile; it is kept, and "
        why += _taken_back(target, made) if fresh else f"tier {target.name!r} still holds {made.path!r}, as before"
    error = PreconditionFailed(why, path=path, op=op)
    if note is not None:
        error.add_note(note)
    return error


def _taken_back(target: Place, made: ObjectInfo) -> str:
    """What became of the copy that was ``made``: taken back, or replaced by somebody before. Where nothing tells it
    from another's object, it stays."""
    known = made.etag is not None or made.modified_at is not None
    if known and take_back(target.backend, made.path, made):
        return f"the old copy is gone from tier {target.name!r}"
    return f"tier {target.name!r} may still hold an old copy, {made.path!r}: look there, and delete it"


def _both(source: Place, path: str, target: Place, made: ObjectInfo) -> str:
    there = f"the copy {made.path!r} stands in tier {target.name!r}, and perhaps still {path!r} in tier {source.name!r}"
    return f"{there}: do it again if they are alike, else delete the copy"


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
