"""How one action is carried out: verified, atomically, and only if both sides still are what the plan saw.

Where a store checks conditions itself, they go with the request; where it does not, it is asked just before, which
leaves a moment in which somebody else may be faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from omnistorage import ops
from omnistorage.concurrency.cancellation import CLOCK, Clock, check, pause
from omnistorage.concurrency.rate_limit import TokenBucket
from omnistorage.concurrency.retry import Backoff
from omnistorage.core import (
    READ,
    CopyOptions,
    FolderTimes,
    ObjectInfo,
    Reader,
    ReadOptions,
    ResumableWrite,
    WriteOptions,
    Writer,
    power,
)
from omnistorage.core.option_checks import fitting_metadata
from omnistorage.errors import (
    AlreadyExists,
    Cancelled,
    CapabilityNotSupported,
    CorruptData,
    NotFound,
    PreconditionFailed,
    StorageError,
)
from omnistorage.ops.copying import Digests, verify
from omnistorage.sync.endpoint_aliases import FirstRemoval
from omnistorage.sync.error_context import WRITES, blamed, met_at
from omnistorage.sync.events import Event, Events
from omnistorage.sync.kept_times import exact_time, for_store
from omnistorage.sync.planning.actions import TRANSFERS, Action
from omnistorage.sync.planning.comparison import EQUAL, TOUCH, same_digest, time_to_keep
from omnistorage.sync.rate_limits import BLOCK, Amount, Bandwidth
from omnistorage.sync.versions import TICK, is_fresh, must_be

from . import parallel_reader
from .guarded_ops import Steps

if TYPE_CHECKING:
    from omnistorage.sync.planning.plan import Plan

_SMALL = 1 << 20
_CONDITIONS = ("conditional_uploads", "create_only", "if_match")
_CHECKED = ("md5", "sha256", "crc32c")


def _unknown() -> bool:
    return False


class LimitReached(StorageError):
    """A transfer would pass ``max_transfer``."""


@dataclass
class Hands(Steps):
    """Carries out actions of ``plan``, from any thread."""

    plan: Plan
    events: Events = field(default_factory=Events)
    clock: Clock = CLOCK
    backoff: Backoff = field(default_factory=Backoff)
    bandwidth: Bandwidth | None = None
    operations: TokenBucket | None = None
    amount: Amount = field(default_factory=lambda: Amount(None))
    ends: float | None = None  # when what runs is broken off

    def __post_init__(self) -> None:
        self.o = self.plan.options
        self.src, self.dst, self.backup = self.plan.src, self.plan.dst, self.plan.backup
        self._server_side = (
            self.dst.features.copy
            and type(self.src.backend) is type(self.dst.backend)
            and not hasattr(self.src.backend, "inner")  # what wraps another backend wants to see the bytes
            # A file can be written to in place while it is copied, which only its reader can notice.
            and (self.src.features.if_match or not self.src.features.dirs)
        )
        self.removal = FirstRemoval(self.src, self.dst)
        if self.backup is None and self.o.suffix:
            self.backup = self.dst
        # Whether an object of the source can be written to while it is read.
        self._in_place = self.src.features.dirs or not self.src.features.atomic_write
        # What is held to a digest of all of it is not gone on with: its beginning is not read again.
        whole = self.o.move or not self.src.features.hashes.isdisjoint(_CHECKED) or not self.src.features.range_read
        resumes = self.plan.keeps_tokens and not whole
        self._resumable = power(self.dst.backend, ResumableWrite) if resumes else None
        self._too_long: float = inf  # the size from which a store does not keep its conditions

    def do(self, action: Action) -> int:
        """Carry it out, as often as ``retries`` allows while errors are transient; the bytes it moved. Raises
        ``StorageError``; then nothing has changed that shows."""
        attempt = 0
        how = getattr(self, f"_{action.kind}")
        if self.plan.is_done(action):
            return self._ended_before(action)
        while True:
            check(action.kind, action.path)
            if self.operations is not None:
                self.operations.take(1)
            try:
                moved: int = how(action)
                return moved
            except (AlreadyExists, PreconditionFailed):
                if self.plan.was_done(action):
                    return self._ended_before(action)
                raise
            except StorageError as error:
                attempt += 1
                if not error.transient or attempt > self.o.retries:
                    raise
                self.events.send(Event("retried", action.path, action.size, action, error))
                pause(self.backoff.delay(attempt, error.retry_after), self.clock, action.kind, action.path)

    def blamed(self, action: Action, error: StorageError) -> StorageError:
        """The error of an action that was carried out here, with a note of the side it is of where that is known."""
        if isinstance(error, LimitReached | Cancelled):
            return error
        if action.kind not in TRANSFERS and action.kind != "remove":
            return blamed(error, self.dst)
        if error.op == "delete":  # of a move
            return blamed(error, self.src)
        return blamed(error, self.dst) if error.op in WRITES else error

    def _ended_before(self, action: Action) -> int:
        """An earlier run brought the object to the destination; of a move the source may still be there."""
        if self.o.move and action.kind in TRANSFERS and action.expect_src is not None:
            there = self.dst.look(self.dst.key(action.target))
            if there is not None and self.src.look(action.expect_src.path) is not None:
                self._remove(action._replace(expect_dst=there))
        return 0

    # -- kinds ---------------------------------------------------------------------------------------------------------

    def _copy(self, action: Action) -> int:
        return self._transfer(action)

    _update = _copy

    def _remove(self, action: Action) -> int:
        """Of a move: the destination seems to have it. Only if it does, byte for byte, the source goes."""
        assert action.expect_src is not None
        assert action.expect_dst is not None
        source, target = self._now(self.src, action.expect_src.path), self._now(self.dst, action.expect_dst.path)
        must_be(action.expect_src, source, self.src)
        must_be(action.expect_dst, target, self.dst)
        if not self._identical(source, target):
            if self.o.immutable:
                raise PreconditionFailed("immutable, but the content differs", path=action.path, op="move")
            return self._transfer(action)
        must_be(target, self._now(self.dst, target.path), self.dst)
        if action.why == TOUCH:  # else the time of the source would be lost with it
            target = self._set_time(target.path, action.expect_src) or target
        self._remove_source(source, target, found=True)
        return 0

    def _remove_source(self, source: ObjectInfo, copy: ObjectInfo, *, found: bool = False) -> None:
        """Of a move: remove the object whose ``copy`` was made or ``found``."""
        self.removal.remove(source, copy, partial(self._delete_seen, self.src, source), found=found)

    def _touch(self, action: Action) -> int:
        assert action.expect_src is not None
        assert action.expect_dst is not None
        must_be(action.expect_dst, self._now(self.dst, action.expect_dst.path), self.dst)
        self._set_time(action.expect_dst.path, action.expect_src)
        return 0

    def _rename(self, action: Action) -> int:
        assert action.expect_src is not None
        assert action.expect_dst is not None
        features = self.dst.features
        old = action.expect_dst
        condition = old.etag if features.if_match else None
        if condition is None:
            must_be(old, self._now(self.dst, old.path), self.dst)
        options = CopyOptions(overwrite=not features.create_only, source_if_match=condition)
        key = self.dst.key(action.path)
        if not features.create_only:
            self._must_be_absent(key)
        ops.move(self.dst.backend, old.path, self.dst.backend, key, options)
        # The plan has verified that it is the same object, so the time of the source is its own.
        if action.expect_src.modified_at != old.modified_at and features.set_modified:
            self._set_time(key, action.expect_src)
        return 0

    def _mkdir(self, action: Action) -> int:
        self.dst.backend.mkdir(self.dst.key(action.path))
        return 0

    def _delete(self, action: Action) -> int:
        seen = action.expect_dst
        assert seen is not None
        if self.backup is not None and seen.kind == "file":
            try:
                self._keep_old(action, seen)
            except (NotFound, PreconditionFailed):
                if self.dst.look(seen.path) is None:
                    return 0  # somebody else was faster
                raise
        self._delete_seen(self.dst, seen)
        return 0

    def _rmdir(self, action: Action) -> int:
        try:
            self.dst.backend.rmdir(self.dst.key(action.path))
        except NotFound:
            pass
        return 0

    def _dirtime(self, action: Action) -> int:
        assert action.expect_src is not None
        setter = power(self.dst.backend, FolderTimes)
        moment = exact_time(self.src, action.expect_src)
        if setter is not None and moment is not None:
            setter.set_folder_time(self.dst.key(action.target), for_store(self.dst, moment) or moment)
        return 0

    # -- transfers -----------------------------------------------------------------------------------------------------

    def _transfer(self, action: Action) -> int:
        assert action.expect_src is not None
        if self._server_side and self.backup is None and (not self.o.move or self._is_fixed(action.expect_src)):
            moved = self._by_server(action)
            if moved is not None:
                return moved
        size = action.size or 0
        features = self.dst.features
        if not (features.create_only or features.if_match):
            features = self.dst.learn_features()  # one probe of the server saves a look before each write
        if size < self._too_long and (features.create_only or features.if_match):
            try:
                return self._streamed(action, features.create_only, features.if_match)
            except CapabilityNotSupported as error:
                if error.capability not in _CONDITIONS:
                    raise
                self._too_long = min(self._too_long, size)  # conditions hold for uploads in one request only
        return self._streamed(action, False, False)

    def _is_fixed(self, source: ObjectInfo) -> bool:
        """Whether the store can be held to copy the very object that was listed, and the copy be held against it."""
        return self.src.features.if_match and source.etag is not None and bool(source.hashes)

    def _by_server(self, action: Action) -> int | None:
        """Let the store copy. None where it cannot, or where streaming is as good."""
        source, seen, features = action.expect_src, action.expect_dst, self.dst.features
        assert source is not None
        if features.set_modified and (source.size or 0) < _SMALL:
            return None  # a second request would set the time
        options = CopyOptions(
            overwrite=not (seen is None and features.create_only),
            if_match=seen.etag if seen is not None and features.if_match else None,
            source_if_match=source.etag if features.if_match else None,
            source=None if self.src.backend is self.dst.backend else self.src.backend,
        )
        if seen is not None and options.if_match is None:
            must_be(seen, self._still(self.dst, seen), self.dst)
        if options.source_if_match is None:
            must_be(source, self._now(self.src, source.path), self.src)
        if seen is None and options.overwrite:
            self._must_be_absent(self.dst.key(action.target))
        key, size = self.dst.key(action.target), source.size or 0
        fits = self.amount.take(size)
        try:
            if not fits and self.o.cutoff == "hard":
                raise LimitReached("max_transfer is reached", path=action.path, op="transfer")
            info = self.dst.backend.copy(source.path, key, options)
        except CapabilityNotSupported:
            self._server_side = False  # another server, or conditions that its copies know nothing of
            self.amount.give_back(size)
            return None
        if info.size is not None and source.size is not None and info.size != source.size:
            self._take_back(key, info)
            raise CorruptData(f"{info.size} bytes arrived of {source.size}", path=action.path, op="copy")
        verdict = same_digest(source, info)
        if verdict not in (None, EQUAL):
            self._take_back(key, info)
            raise CorruptData("the copy has another digest than its source", path=action.path, op="copy")
        if features.set_modified:
            info = self._set_time(key, source) or info
        if self.o.move and verdict is None:
            self._server_side = False  # to stream is less work than to read both
            if not self._identical(source, info):
                self._take_back(key, info)
                raise CorruptData("the copy differs from its source", path=action.path, op="move")
        self.plan.made(action, info)
        if self.o.move:
            self._remove_source(source, info._replace(path=key))
        return size

    def _streamed(self, action: Action, create_only: bool, if_match: bool) -> int:
        """Read and write; the destination checks the conditions that it can, and is asked for the others."""
        source, seen, target = action.expect_src, action.expect_dst, self.dst.key(action.target)
        assert source is not None
        condition = seen.etag if seen is not None and if_match else None
        create_only = create_only and seen is None
        read = ReadOptions(if_match=source.etag) if self.src.features.if_match and source.etag else READ
        in_place = self._in_place and read is READ
        begun, at, noted = self._begun(action)
        if begun is not None:  # what it was begun with holds, and nothing else
            create_only = create_only and noted.get("create_only") is True
            condition = condition if noted.get("if_match") == condition else None
        with begun or nullcontext(), self._opened(source, replace(read, offset=at) if at else read) as reader:
            if in_place and is_fresh(reader.info):
                pause(TICK.total_seconds(), self.clock, "transfer", action.path)
                self._must_not_have_changed(reader, source.path)
            options = self._write_options(reader.info, source, create_only, condition)
            digests = Digests(reader.info) if self.o.move else None
            with begun or self.dst.backend.open_writer(target, options) as writer:
                noting = partial(self._noted, action, writer, create_only, condition)
                count = self._pump(action, reader, writer, digests, in_place, at, noting)
                try:
                    if in_place:
                        self._must_not_have_changed(reader, source.path)
                    made = self._published(action, writer, target, condition, create_only)
                except BaseException:
                    self.amount.give_back(count - at)  # it did not arrive
                    raise
            self._verify(target, made, reader.info, count, digests)
            self.plan.made(action, made)
            if self.o.move:
                self._remove_source(source, made._replace(path=target))
        return count - at

    def _begun(self, action: Action) -> tuple[Writer | None, int, Mapping[str, Any]]:
        """The upload that a run which died has left, how many bytes it has, and what was noted of it."""
        noted = None if self._resumable is None else self.plan.take_token(action)
        if self._resumable is None or noted is None:
            return None, 0, {}
        try:
            writer, at = self._resumable.resume_writer(self.dst.key(action.target), noted["upload"])
        except StorageError as error:
            if error.transient:
                raise
            return None, 0, {}  # it is gone, or not ours to look at
        except (KeyError, TypeError):
            return None, 0, {}
        return writer, at, noted

    def _noted(self, action: Action, writer: Writer, create_only: bool, condition: str | None) -> bool:
        """Whether the plan knows of the upload that ``writer`` has begun, and of the conditions that the store keeps at
        its end, or there is nothing to know."""
        if self._resumable is None:
            return True
        token = self._resumable.token_of(writer)
        if token is not None:
            self.plan.keep_token(action, {"upload": token, "create_only": create_only, "if_match": condition})
        return token is not None

    def _published(
        self, action: Action, writer: Writer, target: str, condition: str | None, create_only: bool
    ) -> ObjectInfo:
        """Publish what was written, if the destination still is what the plan saw."""
        seen = action.expect_dst
        if seen is not None and self.backup is not None:
            writer.prepare()
            self._keep_old(action, seen)
        if seen is not None and condition is None:
            must_be(seen, self._still(self.dst, seen), self.dst)
        elif seen is None and not create_only:
            self._must_be_absent(target)
        return writer.close()

    def _must_not_have_changed(self, reader: Reader, key: str) -> None:
        """What can be written in place while it is read has another time afterwards."""
        if not getattr(reader, "is_unchanged", _unknown)():
            must_be(reader.info, self._now(self.src, key), self.src, "while it was read")

    def _opened(self, source: ObjectInfo, options: ReadOptions) -> Reader:
        with met_at(self.src):
            return self._open(source, options)

    def _open(self, source: ObjectInfo, options: ReadOptions) -> Reader:
        backend, o = self.src.backend, self.o
        try:
            whole = not options.offset and self.bandwidth is None  # ranges would be read ahead of their time
            reader: Reader | None = None
            if whole and parallel_reader.suits(backend, source, o.multi_thread_cutoff, o.multi_thread_streams):
                with suppress(CapabilityNotSupported):  # its listing knows an etag that its readers do not
                    reader = parallel_reader.LaneReader(backend, source, o.multi_thread_streams)
            reader = reader or backend.open_reader(source.path, options)
        except NotFound as error:
            raise PreconditionFailed(
                "it is gone from the source since it was listed", path=source.path, op="open_reader"
            ) from error
        try:
            must_be(source, reader.info, self.src)
        except BaseException:
            reader.close()
            raise
        return reader

    def _pump(
        self,
        action: Action,
        reader: Reader,
        writer: Writer,
        digests: Digests | None,
        in_place: bool,
        at: int,
        note: Callable[[], bool],
    ) -> int:
        """Everything behind the first ``at`` bytes; how many there are then."""
        count, noted = at, self._resumable is None
        # Whether it grew is looked at afterwards. Some files say that they are empty and are not.
        enough = reader.info.size or None if in_place else None
        try:
            while count != enough and (block := self._next(action, reader)):
                count += len(block)
                if not self.amount.take(len(block)) and self.o.cutoff == "hard":
                    raise LimitReached("max_transfer is reached", path=action.path, op="transfer")
                if self.bandwidth is not None:
                    self.bandwidth.take(len(block))
                writer.write(block)
                if not noted:
                    noted = note()
                if digests is not None:
                    digests.update(block)
                if self.events:
                    self.events.send(Event("bytes", action.path, len(block), action))
        except BaseException:
            self.amount.give_back(count - at)  # it did not arrive
            raise
        if reader.info.size not in (None, count):
            self._must_not_have_changed(reader, reader.info.path)
            raise CorruptData(f"{count} bytes came of {reader.info.size}", path=action.path, op="read")
        return count

    def _next(self, action: Action, reader: Reader) -> bytes:
        check("transfer", action.path)
        if self.ends is not None and self.clock.now() >= self.ends:
            raise LimitReached("max_duration is over", path=action.path, op="transfer")
        try:
            return reader.read(BLOCK if self.bandwidth is None else self.bandwidth.block)
        except StorageError as error:
            raise blamed(error, self.src) from error.__cause__

    def _write_options(
        self, info: ObjectInfo, source: ObjectInfo, create_only: bool, condition: str | None
    ) -> WriteOptions:
        features = self.dst.features
        metadata: dict[str, str] = {}
        moment = self._source_time(source, info)
        modified_at = moment if features.set_modified else None
        if features.user_metadata:
            metadata = self._metadata(info)
            if modified_at is None and moment is not None:
                metadata["mtime"] = time_to_keep(moment)
        return WriteOptions(
            overwrite=not create_only,
            if_match=condition,
            modified_at=modified_at,
            user_metadata=metadata or None,
            expect={name: value for name, value in (info.hashes or {}).items() if name in _CHECKED},
            content_type=info.content_type,
            size=info.size,
        )

    def _metadata(self, info: ObjectInfo) -> dict[str, str]:
        """What can be kept of the source's metadata: other tools write names that not every store can hold."""
        found = info.metadata or {}
        kept = fitting_metadata(found)
        if len(kept) < len(found):
            self.plan.seen.warn("some metadata could not be kept: its names or values are not for every store")
        return kept

    def _verify(self, target: str, made: ObjectInfo, source: ObjectInfo, count: int, digests: Digests | None) -> None:
        """Hold what the destination says of the new object against what was read; a bad one is removed."""
        try:
            if made.size not in (None, count):
                raise CorruptData(f"the destination holds {made.size} bytes of {count}", path=target, op="verify")
            if same_digest(source, made) not in (None, "equal"):
                raise CorruptData("the destination states another digest than the source", path=target, op="verify")
            if digests is not None:
                verify(self.dst.backend, target, made, digests.hexdigests())
        except CorruptData:
            self._take_back(target, made)
            raise
