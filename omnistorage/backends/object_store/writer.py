"""Writers of object stores, over an ``ObjectClient``.

A body that fits one part is one request; a longer one is a multipart upload, whose parts travel side by side on the I/O
pool. Nothing is visible before the last request, which ``close`` sends.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from omnistorage.backends.streams import WriterBase
from omnistorage.concurrency.cancellation import wait_until
from omnistorage.concurrency.in_flight import taking_back
from omnistorage.concurrency.pools import IO
from omnistorage.core import ObjectInfo, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    Cancelled,
    CapabilityNotSupported,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    StorageError,
    WriterClosed,
)

from .client import ObjectClient, Put, Upload
from .reader import Source

T = TypeVar("T")
MAX_PARTS = 10_000
DOUBLING = 1000
"""After so many parts of one size the next ones are twice as long, so that 10,000 parts hold 5 TiB and more."""
SMALL = 64 * 1024


def part_length(first: int, number: int, grows: bool) -> int:
    """The bytes of part ``number``, counted from 1, where the first one has ``first``."""
    return first << ((number - 1) // DOUBLING) if grows else first


class Store(Source, Protocol):
    """What a writer asks of its backend."""

    conditional_uploads: bool
    any_order: bool
    most_parts: int | None

    def abandon(self, parts: Parts) -> None: ...
    def live(self, upload: Upload, alive: bool) -> None: ...


class Parts:
    """The parts of one upload on their way. Knows nothing of the writer, which can be collected meanwhile."""

    def __init__(self, store: Store, upload: Upload, path: str) -> None:
        self.upload = upload
        self.tags: dict[int, str] = {}
        self.sent = 0
        self._store = store
        self._path = path
        self._changed = threading.Condition()
        self._most = store.concurrency if store.any_order else 1
        self.flying = 0
        self.stopped = False
        self._error: BaseException | None = None

    def put(self, data: bytes) -> None:
        """Send the next part, in the background; waits while too many are on their way."""
        self.sent += 1
        number = self.sent
        most = self._store.most_parts
        if most is not None and number > most:
            raise StorageError(f"an upload has at most {most} parts: give size= or a larger part_size")
        with self._changed:
            wait_until(self._changed, lambda: self.flying < self._most or self.stopped or self._error is not None)
            self._check()
            self.flying += 1
        try:
            spawned = IO.spawn(lambda: self._send(number, data))
        except BaseException:
            with self._changed:
                self.flying -= 1
            raise
        if not spawned:
            self._send(number, data)

    def _send(self, number: int, data: bytes) -> None:
        try:
            if self.stopped or self._error is not None:
                return
            self._store.throttle(len(data))
            client = self._store.client

            def attempt() -> str:
                self._check()
                return client.put_part(self.upload, number, data)

            self.tags[number] = self._store.run("write", self._path, attempt)
        except BaseException as error:
            self._error = self._error or error
        finally:
            with self._changed:
                self.flying -= 1
                self._changed.notify_all()

    def join(self) -> None:
        """Wait until all parts have arrived; raises what kept one from it."""
        with self._changed:
            wait_until(self._changed, lambda: not self.flying or self.stopped)
            self._check()
        if len(self.tags) != self.sent:
            raise StorageError(f"of {self.sent} parts {len(self.tags)} have arrived", path=self._path, op="write")

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self.stopped:
            raise WriterClosed("the writer was aborted", path=self._path, op="write")

    def stop(self) -> None:
        """Send no more, and free whoever waits."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait for what is on its way: a part that arrives after the upload was aborted would stay at the store."""
        with self._changed:
            wait_until(self._changed, lambda: not self.flying)


class ObjectWriter(WriterBase):
    """Writes one object: nothing is sent before a part is full or ``close`` comes."""

    def __init__(self, store: Store, path: str, key: str, options: WriteOptions, put: Put) -> None:
        self._store = store
        self._key = key
        self._put = put
        self._parts: Parts | None = None
        self._held: list[bytes] = []
        self._small = bytearray()  # pieces too small to be held one by one
        self._size = 0
        self._staged = self._kept = False
        self._part_size = store.part_size
        if store.most_parts is not None:
            self._part_size = max(store.part_size, -(-(options.size or 0) // (store.most_parts - 1)))
        self.first_part = self._part_size
        super().__init__(path, options, store.name)

    @classmethod
    def resumed(
        cls,
        store: Store,
        path: str,
        options: WriteOptions,
        parts: Parts,
        tags: Mapping[int, str],
        first_part: int,
        *,
        kept: bool,
    ) -> ObjectWriter:
        """A writer that goes on behind the parts that ``tags`` are of; ``kept`` as after ``checkpoint``."""
        writer = cls(store, path, parts.upload.key, options, parts.upload.put)
        store.live(parts.upload, True)
        parts.tags.update(tags)
        parts.sent = len(tags)
        grows = bool(store.most_parts) and options.size is None
        writer._parts, writer.first_part, writer._kept = parts, first_part, kept
        writer._part_size = part_length(first_part, len(tags) + 1, grows)
        writer._written = sum(part_length(first_part, number, grows) for number in tags)
        return writer

    @property
    def parts(self) -> Parts | None:
        """The parts that were sent, None as long as there are none."""
        return self._parts

    @property
    def written(self) -> int:
        """How many bytes were written."""
        return self._written

    @property
    def size_hint(self) -> int | None:
        return self._options.size

    def checkpoint(self) -> tuple[Parts | None, bytes]:
        """Wait until what was sent has arrived, and leave it at the store from now on, whatever becomes of the writer:
        the parts, and the bytes that are not in them."""

        def keep() -> None:
            if self._parts is not None:
                self._parts.join()
                self._kept = True

        self._guarded("checkpoint", keep)
        return self._parts, b"".join((*self._held, self._small))

    def _write(self, data: bytes | memoryview) -> None:
        view = data if type(data) is bytes and self._size + len(data) <= self._part_size else memoryview(data)
        while len(view):
            if self._size == self._part_size:
                self._push()
            piece = bytes(view[: self._part_size - self._size])
            if len(piece) < SMALL:
                self._small += piece
            if self._small and (len(piece) >= SMALL or len(self._small) >= SMALL):
                self._held.append(bytes(self._small))
                self._small.clear()
            if len(piece) >= SMALL:
                self._held.append(piece)
            self._size += len(piece)
            view = view[len(piece) :]

    def _push(self) -> None:
        """Send what is held as a part."""
        data = self._taken()
        self._size = 0
        if self._parts is None:
            self._check_upload()
            upload = self._store.run("write", self._path, lambda: self._store.client.start_upload(self._key, self._put))
            self._store.live(upload, True)
            self._parts = Parts(self._store, upload, self._path)
        self._parts.put(data)
        if self._store.most_parts and self._parts.sent % DOUBLING == 0 and self._options.size is None:
            self._part_size *= 2

    def _taken(self) -> bytes:
        data = b"".join((*self._held, self._small))
        self._held.clear()
        self._small.clear()
        return data

    def check_size(self) -> None:
        """Refuse at once a body that is announced to be too long for the conditions on it."""
        if (self._options.size or 0) > self._part_size:
            self._check_upload("open_writer")

    def _check_upload(self, op: str = "write") -> None:
        if self._put.conditional and not self._store.conditional_uploads:
            raise CapabilityNotSupported(
                "this server keeps overwrite=False and if_match only for a body in one request: give a part_size that "
                "holds it, and do not prepare it",
                capability="conditional_uploads", path=self._path, backend=self._backend, op=op,
            )  # fmt: skip

    def prepare(self) -> None:
        self._staged = True
        super().prepare()

    def _prepare(self) -> None:
        if self._parts is None and not self._staged:
            return  # one request will do
        if self._size or self._parts is None:
            self._push()
        assert self._parts is not None
        self._parts.join()

    def _publish(self) -> ObjectInfo:
        parts, client = self._parts, self._store.client
        if parts is None:
            data = self._taken()
            self._store.throttle(len(data))
            return self._conclude(lambda: client.put(self._key, data, self._put), None)._replace(size=len(data))
        try:
            info = self._conclude(lambda: client.finish_upload(parts.upload, parts.tags), parts.tags)
        finally:
            self._store.live(parts.upload, False)  # if nobody knows how it ended, it may be stale one day
        return info._replace(size=self._written)

    def _conclude(self, request: Callable[[], ObjectInfo], tags: Mapping[int, str] | None) -> ObjectInfo:
        def unless_aborted() -> ObjectInfo:
            if self._abort_asked:
                raise WriterClosed("the writer was aborted", path=self._path, op="close")
            return request()

        return conclude(self._store, "close", self._path, self._key, self._put, unless_aborted, tags)

    def _interrupt(self) -> None:
        if self._parts is not None:
            self._parts.stop()

    def _discard(self) -> None:
        self._held.clear()
        self._small.clear()
        parts = self._parts
        if parts is None:
            return
        parts.stop()
        try:
            taking_back(lambda: self._take_back(parts))
        except NotFound:
            pass
        except Cancelled:
            if not self._kept:
                self._store.abandon(parts)
        finally:
            self._store.live(parts.upload, False)

    def _take_back(self, parts: Parts) -> None:
        parts.settle()
        if not self._kept:
            client = self._store.client
            self._store.run("abort", self._path, lambda: client.abort_upload(parts.upload))

    def _drop(self) -> None:
        if self._parts is not None:
            self._parts.stopped = True  # without a lock
            if not self._kept:
                self._store.abandon(self._parts)
            else:
                self._store.live(self._parts.upload, False)


_OTHERS_GONE = ("no such bucket", "NoSuchUpload", "no such object (NoSuchUpload")


def conclude(
    store: Store,
    op: str,
    path: str,
    key: str,
    put: Put,
    request: Callable[[], ObjectInfo],
    tags: Mapping[int, str] | None = None,
    etag: str | None = None,
) -> ObjectInfo:
    """Send the request that publishes ``key``; ``tags`` are those of an upload's parts, ``etag`` what the object has
    then, if that is known. Should its answer be lost, look whose object stands there before anything is said: a second
    try may meet the first one's success."""
    tried: list[StorageError] = []
    lost: list[StorageError] = []  # those after which it may have happened
    is_done = False

    def attempt() -> ObjectInfo:
        nonlocal is_done
        try:
            made = request()
            is_done = True
            return made
        except Exception as error:
            ours = error if isinstance(error, StorageError) else store.client.translate(error)
            if ours is not None and (ours.transient or isinstance(ours, Cancelled)):
                tried.append(ours)
                if ours.retry_after is None:
                    lost.append(ours)
            elif tried and isinstance(ours, PreconditionFailed | NotFound):
                found = _resolved(store.client, key, put, tags, etag)
                if found is not None:
                    return found
                if lost:
                    raise _unknown(lost[0]) from error
            raise

    try:
        return store.run(op, path, attempt)
    except PreconditionFailed as error:
        if put.create:
            raise AlreadyExists(
                "the object exists, and overwrite=False keeps it", path=path, backend=store.name, op=op
            ) from error
        raise
    except NotFound as error:
        gone = op == "close" and not str(error.args[0]).startswith(_OTHERS_GONE)
        if lost:
            raise _unknown(lost[0], path=path, backend=store.name, op=op) from error
        if put.if_match is not None and gone:
            raise PreconditionFailed("there is no object to replace", path=path, backend=store.name, op=op) from error
        raise
    except StorageError as error:
        if is_done:  # and was cut off at that moment: an answer that was cut short may look like a whole one
            lost.append(error)
        if lost and not isinstance(error, OutcomeUnknown):
            raise _unknown(lost[0], path=path, backend=store.name, op=op) from error
        raise


def noting(client: ObjectClient, call: Callable[[], T], lost: list[StorageError]) -> Callable[[], T]:
    """``call``; ``lost`` takes the errors of attempts that may have done it."""

    def attempt() -> T:
        try:
            return call()
        except Exception as error:
            ours = error if isinstance(error, StorageError) else client.translate(error)
            if ours is not None and ours.transient and ours.retry_after is None:
                lost.append(ours)
            raise

    return attempt


def _resolved(
    client: ObjectClient, key: str, put: Put, tags: Mapping[int, str] | None, etag: str | None
) -> ObjectInfo | None:
    """The object at ``key`` if it is known to be the one that was to be published."""
    try:
        if put.write_id is not None:
            owner, info = client.written_by(key)
            return info if owner == put.write_id else None
        info = client.head(key)
    except Exception as error:
        ours = client.translate(error)
        if ours is not None and not ours.transient:  # it is not there, or we may not look
            return None
        raise
    wanted = client.etag_of(tags) if tags else etag
    return info if info.etag is not None and info.etag == wanted else None


def _unknown(lost: StorageError, **where: Any) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"the answer to the publication was lost ({lost.args[0]}), and what stands there now does not tell", **where
    )


def new_put(options: WriteOptions, content_type: str) -> Put:
    """What a writer with ``options`` sends along."""
    return Put(
        content_type=options.content_type or content_type,
        metadata=options.user_metadata or {},
        extra=options.extra or {},
        create=not options.overwrite,
        if_match=options.if_match,
        write_id=None if options.overwrite and options.if_match is None else uuid.uuid4().hex,
    )
