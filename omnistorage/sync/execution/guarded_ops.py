"""The single steps of carrying out an action: looking again, deleting, keeping what goes.

Where a store checks conditions itself, they go with the request; where it does not, it is asked just before, which
leaves a moment in which somebody else may be faster.
"""

from __future__ import annotations

from datetime import datetime

from omnistorage import ops
from omnistorage.concurrency.cancellation import check
from omnistorage.concurrency.in_flight import taking_back
from omnistorage.core import CopyOptions, ObjectInfo, SetMetadata, WriteOptions, power
from omnistorage.errors import AlreadyExists, CapabilityNotSupported, NotFound, PreconditionFailed, StorageError
from omnistorage.paths import parent
from omnistorage.sync.endpoint import Side
from omnistorage.sync.error_context import WRITES, blamed
from omnistorage.sync.kept_times import exact_time, for_store, kept_time
from omnistorage.sync.options import SyncOptions
from omnistorage.sync.planning.actions import Action
from omnistorage.sync.planning.content import same_digest, without_kept
from omnistorage.sync.rate_limits import BLOCK
from omnistorage.sync.versions import must_be, same_bytes


class Steps:
    """What ``Hands`` is made of."""

    src: Side
    dst: Side
    backup: Side | None
    o: SyncOptions

    def _now(self, side: Side, key: str) -> ObjectInfo:
        """What the store says of an object now; ``PreconditionFailed`` if it is gone."""
        try:
            if side.features.stat:
                return side.backend.stat(key)
            with side.backend.open_reader(key) as reader:
                return reader.info
        except NotFound as error:
            raise PreconditionFailed(f"it is gone from the {side.role} since it was listed", path=key) from error

    def _must_be_absent(self, key: str) -> None:
        if self.dst.backend.exists(key):
            raise AlreadyExists("it appeared at the destination since that was listed; run again", path=key)

    def _still(self, side: Side, seen: ObjectInfo) -> ObjectInfo:
        """``_now`` of what a listing showed: a link itself, as asking for it would show what it leads to."""
        if seen.kind == "file":
            return self._now(side, seen.path)
        for info in ops.children(side.backend, parent(seen.path)):
            if info.path == seen.path:
                return info
        raise PreconditionFailed(f"it is gone from the {side.role} since it was listed", path=seen.path)

    def _identical(self, a: ObjectInfo, b: ObjectInfo) -> bool:
        """Whether two objects hold the same bytes: by digests that both stores state of what they hold now, else by
        reading both."""
        if a.size is not None and b.size is not None and a.size != b.size:
            return False
        verdict = same_digest(without_kept(a, self.src), without_kept(b, self.dst))
        if verdict is not None:
            return verdict == "equal"
        with self.src.backend.open_reader(a.path) as one, self.dst.backend.open_reader(b.path) as other:
            return same_bytes(one, other)

    def _delete_seen(self, side: Side, seen: ObjectInfo) -> None:
        """Delete an object if it still is what was seen."""
        if side.features.if_match and seen.etag is not None:
            try:
                side.backend.delete(seen.path, if_match=seen.etag)
                return
            except CapabilityNotSupported as error:
                if error.capability == "delete":
                    raise  # else: conditions on writes alone, as some S3 servers have them
            except PreconditionFailed:
                if not side.backend.exists(seen.path):
                    return
                raise
        try:
            must_be(seen, self._still(side, seen), side)
        except PreconditionFailed as error:
            if isinstance(error.__cause__, NotFound):
                return
            raise
        side.backend.delete(seen.path)

    def _keep_old(self, action: Action, seen: ObjectInfo) -> None:
        """Copy what is about to go to the backup, and nothing else that may have its name by now."""
        assert self.backup is not None
        try:
            self._put_aside(action, seen, self.backup)
        except StorageError as error:
            if error.op in WRITES or (error.op == "copy" and not isinstance(error, PreconditionFailed)):
                blamed(error, self.backup)
            raise

    def _put_aside(self, action: Action, seen: ObjectInfo, backup: Side) -> None:
        path = action.target if action.kind != "delete" else action.path
        key = backup.key(path + self.o.suffix) if backup is not self.dst else seen.path + self.o.suffix
        if backup is self.dst and self.src.look(self.src.key(path + self.o.suffix)) is not None:
            raise AlreadyExists("the source has an object of the name of its backup: take another suffix", path=path)
        try:
            condition = seen.etag if self.dst.features.if_match else None
            if condition is None:
                raise CapabilityNotSupported(capability="if_match")
            ops.copy(self.dst.backend, seen.path, backup.backend, key, CopyOptions(source_if_match=condition))
        except CapabilityNotSupported:
            with self.dst.backend.open_reader(seen.path) as reader:
                must_be(seen, reader.info, self.dst)
                options = WriteOptions(content_type=reader.info.content_type, size=reader.info.size)
                with backup.backend.open_writer(key, options) as writer:
                    while block := reader.read(BLOCK):
                        check("transfer", path)
                        writer.write(block)
        if backup.features.set_modified and seen.modified_at is not None:
            setter, moment = power(backup.backend, SetMetadata), for_store(backup, exact_time(self.dst, seen))
            if setter is not None and moment is not None:
                setter.set_metadata(key, modified_at=moment)

    def _source_time(self, listed: ObjectInfo, found: ObjectInfo | None = None) -> datetime | None:
        """The time that a copy gets.

        Args:
            listed: The object, as the listing of the source showed it.
            found: The same object, as its reader or a request shows it.

        Returns:
            The time that an upload keeps of its own source, or else that of the store.
        """
        if self.src.keeps_mtime:
            if (found is None or found.metadata is None) and self.src.features.stat:
                found = self._now(self.src, listed.path)
            moment = (kept_time(found) if found is not None else None) or listed.modified_at
        else:
            moment = exact_time(self.src, listed if found is None or found.modified_at is None else found)
        return for_store(self.dst, moment)

    def _set_time(self, key: str, source: ObjectInfo) -> ObjectInfo | None:
        """What the object is then; None if nothing was set."""
        setter = power(self.dst.backend, SetMetadata)
        moment = self._source_time(source)
        if setter is None or moment is None:
            return None
        return setter.set_metadata(key, modified_at=moment)

    def _take_back(self, key: str, made: ObjectInfo) -> None:
        """Remove a bad copy, unless somebody has replaced it meanwhile."""
        try:
            taking_back(lambda: self._delete_seen(self.dst, made._replace(path=key)))
        except StorageError:
            pass  # the error that brought us here is the one to see
