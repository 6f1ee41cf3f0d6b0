"""The life of a reader and a writer, once for all backends.

``ReaderBase`` and ``WriterBase`` keep the promises of ``core.Reader`` and ``core.Writer`` around a handful of hooks:
poisoning, idempotence, abort and close from other threads, the refusal to live on in a forked child, garbage collection
that never publishes.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from os import getpid

from omnistorage.checksums import new_hash
from omnistorage.concurrency.cancellation import check, is_limited
from omnistorage.core import Data, ObjectInfo, ReadOptions, WriteOptions
from omnistorage.core.lifecycle import Closes, Publishes
from omnistorage.errors import (
    Cancelled,
    CapabilityNotSupported,
    CorruptData,
    OutcomeUnknown,
    PreconditionFailed,
    ReaderClosed,
    StorageError,
    WriterClosed,
)
from omnistorage.paths import set_location

READ_BLOCK = 1 << 20


def check_conditions(info: ObjectInfo, options: ReadOptions, backend: str) -> None:
    """Hold ``if_match`` and ``if_none_match`` of a read against what was opened."""
    for wanted, fails in ((options.if_match, False), (options.if_none_match, True)):
        if wanted is None:
            continue
        if info.etag is None:
            raise CapabilityNotSupported(
                "this object has no etag to compare", capability="if_match", backend=backend, path=info.path
            )
        if (info.etag == wanted) is fails:
            raise PreconditionFailed(
                f"the object's etag is {info.etag!r}", path=info.path, backend=backend, op="open_reader"
            )


class ReaderBase(Closes):
    """A reader around ``_read(size)`` (at most ``size`` > 0 bytes, ``b""`` at the end) and ``_release()``."""

    instant = False  # whether a read costs microseconds, so that handing it to another thread would cost more
    root: str | None = None  # the URL of the backend, for errors
    _gap: Cancelled | None = None  # what ended a read and took bytes with it: none are to be missing in between
    _released = False
    _closed = False

    def __init__(self, info: ObjectInfo) -> None:
        self._info = info
        self._lock = threading.Lock()

    @property
    def info(self) -> ObjectInfo:
        return self._info

    def _read(self, size: int) -> bytes:
        raise TypeError(f"{type(self).__name__} does not define _read")

    def _release(self) -> None:
        """Give back what the reader holds; called once, by whichever thread is last."""

    def _interrupt(self) -> None:
        """Make a read that is blocked in another thread return soon."""

    def read(self, size: int = -1, /) -> bytes:
        if not self._closed:
            data = b""
            try:
                with self._lock:
                    if size and not self._closed:
                        data = self._looked(size)
            except BaseException as error:
                if isinstance(error, StorageError):
                    set_location(error, self.root)
                if self._closed:  # whoever closed it found the lock taken
                    self._finish()
                raise
            if not self._closed:  # looked at after the lock is free, so that a ``close`` is seen by one of the two
                return data
        self._finish()
        raise ReaderClosed("the reader is closed", path=self._info.path, op="read")

    def _looked(self, size: int) -> bytes:
        """Read, unless it is time to stop. What no request can cut off comes in pieces, with a look between two."""
        if self._gap is not None:
            raise self._gap
        check("read", self._info.path)
        if self.instant and is_limited():
            return self._read(min(size, READ_BLOCK)) if size > 0 else ReaderBase._read_all(self)
        return self._read(size) if size > 0 else self._read_all()

    def _read_all(self) -> bytes:
        blocks: list[bytes] = []
        try:
            while block := self._looked(READ_BLOCK):
                blocks.append(block)
        except Cancelled as error:
            if blocks:  # which nobody gets any more
                self._gap = error
            raise
        return b"".join(blocks)

    def close(self) -> None:
        self._closed = True
        self._finish()

    def _finish(self) -> None:
        # The last one out releases: either this thread, or the one whose read holds the lock and comes by here after.
        if self._lock.acquire(blocking=False):
            try:
                if not self._released:
                    self._released = True
                    self._release()
            finally:
                self._lock.release()
        elif not self._released:
            self._interrupt()

    def __del__(self) -> None:
        if not self._released and hasattr(self, "_lock"):
            self._released = True
            self._release()


class WriterBase(Publishes):
    """A writer around the hooks ``_write``, ``_flush``, ``_prepare``, ``_publish``, ``_discard`` and ``_drop``.

    The hooks are called under a lock, never twice at once and never after the end. Here are kept: the poison of a
    failed write, the size hint, the expected digests, ``abort`` from another thread or from a signal handler, the
    refusal to live on in a forked child, and the warning of a writer that nobody closed.
    """

    instant = False  # whether a write costs microseconds, so that handing it to another thread would cost more
    root: str | None = None  # the URL of the backend, for errors
    _state = "new"  # open, prepared, closed or aborted
    result: ObjectInfo | None = None

    def __init__(self, path: str, options: WriteOptions, backend: str) -> None:
        self._path = path
        self._options = options
        self._backend = backend
        self._pid = getpid()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._abort_asked = False
        self._written = 0
        self._digests = {name: new_hash(name) for name in options.expect} if options.expect else {}
        self._state = "open"

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def _write(self, data: bytes | memoryview) -> None:
        raise TypeError(f"{type(self).__name__} does not define _write")

    def _flush(self) -> None:
        """Push towards the transport."""

    def _prepare(self) -> None:
        """Bring every byte to the store."""

    def _publish(self) -> ObjectInfo:
        raise TypeError(f"{type(self).__name__} does not define _publish")

    def _discard(self) -> None:
        """Take back whatever is at the store, prepared or not."""

    def _drop(self) -> None:
        """The same at garbage collection: no network, no lock; leave remote work to the backend's next call."""

    def _interrupt(self) -> None:
        """Make a hook that is blocked in another thread return soon."""

    # -- the life of a writer ------------------------------------------------------------------------------------------

    def write(self, data: Data, /) -> int:
        self._begin("write")
        try:
            view: bytes | memoryview = data if type(data) is bytes else memoryview(data).cast("B")
            if self._state != "open":
                raise WriterClosed("the writer is prepared and takes no more", path=self._path, op="write")
            if self.instant and is_limited() and len(view) > READ_BLOCK:
                for at in range(0, len(view), READ_BLOCK):
                    check("write", self._path)
                    self._write(view[at : at + READ_BLOCK])
            else:
                check("write", self._path)
                self._write(view)
            for digest in self._digests.values():
                digest.update(view)
            self._written += len(view)
        except BaseException as error:
            self._keep(error)
            raise
        finally:
            self._end()
        return len(view)

    def flush(self) -> None:
        self._guarded("flush", self._flush)

    def prepare(self) -> None:
        self._guarded("prepare", self._prepare_once)

    def close(self) -> ObjectInfo:
        if self._state == "closed" and self.result is not None:
            return self.result
        if self._error is not None and self._state in ("open", "prepared"):
            self.abort()
            raise self._error
        self._guarded("close", self._close)
        if self.result is None:  # abort came in from another thread
            raise WriterClosed("the writer was aborted", path=self._path, backend=self._backend, op="close")
        return self.result

    def abort(self) -> None:
        self._check_process("abort")
        self._abort_asked = True
        if self._lock.acquire(blocking=False):
            try:
                self._discard_once()
            finally:
                self._lock.release()
        else:
            self._interrupt()  # whoever holds the lock discards on the way out

    def __del__(self) -> None:
        if self._state not in ("open", "prepared") or self._pid != getpid():
            return
        self._state = "aborted"
        warnings.warn(f"a writer of {self._path!r} was dropped without close: aborted", ResourceWarning, stacklevel=2)
        self._drop()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _check_process(self, op: str) -> None:
        if self._pid != getpid():
            raise WriterClosed(
                "this writer belongs to the process that opened it", path=self._path, backend=self._backend, op=op
            )

    def _begin(self, op: str) -> None:
        self._check_process(op)
        self._lock.acquire()
        if self._error is None and not self._abort_asked and self._state in ("open", "prepared"):
            return
        self._lock.release()
        if self._error is not None:
            raise self._error
        word = "aborted" if self._abort_asked or self._state == "aborted" else "closed"
        raise WriterClosed(f"the writer is {word}", path=self._path, backend=self._backend, op=op)

    def _end(self) -> None:
        try:
            if self._abort_asked:
                self._discard_once()
        finally:
            self._lock.release()
        if self._abort_asked and self._state in ("open", "prepared"):
            self.abort()  # it came after the look above and found the lock taken

    def _guarded(self, op: str, run: Callable[[], None]) -> None:
        self._begin(op)
        try:
            run()
        except BaseException as error:
            self._keep(error)
            # What may have been published cannot be discarded; whatever else went wrong leaves nothing behind.
            if isinstance(error, OutcomeUnknown):
                self._state = "closed"
            elif op == "close":
                self._discard_once()
            raise
        finally:
            self._end()

    def _keep(self, error: BaseException) -> None:
        """Raise it again at every later call."""
        self._error = error
        if isinstance(error, StorageError):
            set_location(error, self.root)

    def _prepare_once(self) -> None:
        if self._state == "prepared":
            return
        self._check_content()
        self._prepare()
        self._state = "prepared"

    def _close(self) -> None:
        self._prepare_once()
        if self._abort_asked:
            return
        check("close", self._path)  # what comes after a system call that nothing ends, such as fsync, is not published
        self.result = self._publish()
        self._state = "closed"

    def _check_content(self) -> None:
        size = self._options.size
        if size is not None and size != self._written:
            raise CorruptData(
                f"{self._written} bytes were written, size={size} was announced", path=self._path, op="close"
            )
        for name, digest in self._digests.items():
            wanted = (self._options.expect or {})[name].lower()
            if digest.hexdigest() != wanted:
                raise CorruptData(
                    f"the {name} of what was written is {digest.hexdigest()}, expected {wanted}",
                    path=self._path,
                    op="close",
                )

    def _discard_once(self) -> None:
        if self._state not in ("open", "prepared"):
            return
        self._state = "aborted"
        try:
            self._discard()
        except StorageError:
            pass  # nothing is visible; what is left is found by the StaleUploads power
