"""Byte streams through a codec: ``EncodedWriter`` over a Writer, ``DecodedReader`` over a Reader.

Both begin on the caller's thread. Once a stream has passed ``OVERLAP_AFTER`` bytes, coding runs ahead on the CPU pool,
and transport on the I/O pool unless the transport is ``instant`` (a local file: handing it to a thread costs more than
the call). At most ``DEPTH`` blocks of ``BLOCK`` bytes wait between two steps, which bounds the memory of a stream.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from omnistorage.concurrency.pools import CPU, IO, Ahead, Strand, forks
from omnistorage.core import Data, ObjectInfo, Reader, Writer
from omnistorage.core.lifecycle import Closes, Publishes
from omnistorage.core.stages import Batch, Stage
from omnistorage.errors import Cancelled, ReaderClosed, StorageError, WriterClosed
from omnistorage.paths import set_location

BLOCK = 1 << 20
RAW_BLOCK = 256 * 1024
DEPTH = 2
OVERLAP_AFTER = 1 << 20


class _Pump:
    """What runs in the background of an ``EncodedWriter``. The strands know the stages and the sink, never the handle
    nor this object: without a cycle, a writer that is dropped takes its sink with it at once."""

    def __init__(self, sink: Writer, encoder: Stage[bytes, bytes] | None, block: int) -> None:
        self.encoder = encoder
        # Many small streams take turns on the caller's thread: only beside it do they use more than one core.
        self._depth = DEPTH if block == BLOCK else 1
        self._overlap_after = min(OVERLAP_AFTER, block)
        self._sink = sink
        self._taken = 0
        self._front: Strand[bytes] | None = None
        self._back: Strand[bytes] | None = None

    def push(self, block: bytes) -> None:
        self._taken += len(block)
        if self._front is None and self._taken >= self._overlap_after:
            self._overlap()
        if self._front is not None:
            self._front.put(block)
        else:
            self.emit((block,) if self.encoder is None else self.encoder.feed(block))

    def _overlap(self) -> None:
        write, encoder = self._sink.write, self.encoder
        if encoder is None:
            self._front = Strand(IO, write, self._depth)
            return
        store: Callable[[bytes], object] = write
        if not getattr(self._sink, "instant", False):
            self._back = Strand(IO, write, 2 * self._depth)
            store = self._back.put
        self._front = Strand(CPU, lambda block: _store_all(encoder.feed(block), store), self._depth)

    def emit(self, outputs: Iterable[bytes]) -> None:
        _store_all(outputs, self._sink.write if self._back is None else self._back.put)

    def settle(self) -> None:
        """Wait until all that was pushed has reached the sink."""
        if self._front is not None:
            self._front.join()
        if self._back is not None:
            self._back.join()

    def cancel(self) -> None:
        for strand in (self._front, self._back):
            if strand is not None:
                strand.cancel()


def _store_all(outputs: Iterable[bytes], store: Callable[[bytes], object]) -> None:
    for out in outputs:
        if out:
            store(out)


class EncodedWriter(Publishes):
    """A Writer of plain bytes over a Writer of encoded ones. It keeps every promise of ``core.Writer``; closing it
    closes the sink, aborting it aborts the sink. ``encoder=None`` passes bytes through, still off the thread. Bytes are
    gathered into blocks of ``block`` bytes before they are encoded: whoever opens thousands of writers takes less."""

    result: ObjectInfo | None = None
    _state = "new"

    def __init__(self, sink: Writer, encoder: Stage[bytes, bytes] | None = None, *, block: int = BLOCK) -> None:
        self._sink = sink
        self._pump = _Pump(sink, encoder, block)
        self._batch = Batch(block)
        self._forks = forks[0]
        self._error: BaseException | None = None
        self._state = "open"

    def write(self, data: Data, /) -> int:
        block = data if type(data) is bytes else bytes(data)
        self._check("write")
        try:
            for full in self._batch.feed(block):
                self._pump.push(full)
        except BaseException as error:
            self._fail(error)
            raise
        return len(block)

    @property
    def error(self) -> BaseException | None:
        """What poisoned the writer, if anything did."""
        return self._error

    def flush(self) -> None:
        """Everything written so far goes through the codec and into the sink, and the sink is flushed."""
        self._check("flush")
        try:
            self._drain()
            if self._pump.encoder is not None and self._state == "open":
                self._pump.emit(self._pump.encoder.flush())
                self._pump.settle()
            self._sink.flush()
        except BaseException as error:
            self._fail(error)
            raise

    def prepare(self) -> None:
        self._check("prepare")
        if self._state == "prepared":
            return
        try:
            self._finish("prepare")
            self._sink.prepare()
        except BaseException as error:
            self._fail(error)
            raise
        self._go_on("prepare")
        self._state = "prepared"

    def _finish(self, op: str) -> None:
        """Every byte through the codec and into the sink."""
        self._drain()
        if self._pump.encoder is not None:
            self._pump.emit(self._pump.encoder.finish())
            self._pump.settle()
        self._go_on(op)

    def close(self) -> ObjectInfo:
        if self._state == "closed" and self.result is not None:
            return self.result
        if self._error is not None and self._state != "aborted":
            self.abort()
            raise self._error
        try:
            self._check("close")
            if self._state == "open":  # the sink is not asked to prepare: some need more requests for that
                self._finish("close")
            self.result = self._sink.close()
        except BaseException as error:
            self._fail(error)
            if self._state == "aborted" and isinstance(error, Cancelled):
                raise WriterClosed("the writer was aborted", op="close") from error
            self.abort()
            raise
        self._state = "closed"
        return self.result

    def abort(self) -> None:
        if self._forks != forks[0]:
            raise WriterClosed("this writer belongs to the process that opened it", op="abort")
        if self._state in ("open", "prepared"):
            # In this order: whoever is inside ``close`` now finds the sink aborted before it could find blocks missing.
            self._state = "aborted"
            self._sink.abort()
            self._pump.cancel()

    def _drain(self) -> None:
        for block in self._batch.flush():
            self._pump.push(block)
        self._pump.settle()

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
            self._pump.cancel()

    def _check(self, op: str) -> None:
        if self._forks != forks[0]:
            raise WriterClosed("this writer belongs to the process that opened it", op=op)
        if self._error is not None:
            raise self._error
        if self._state != "open" and not (self._state == "prepared" and op != "write"):
            raise WriterClosed(f"the writer is {self._state}", op=op)

    def _go_on(self, op: str) -> None:
        """Look again after a wait: ``abort`` may have come from another thread."""
        if self._state == "aborted":
            raise WriterClosed("the writer was aborted", op=op)

    def __del__(self) -> None:
        # The sink, dropped with us, takes back what it holds by its own rule; nothing is called on it from here.
        if self._state in ("open", "prepared") and self._forks == forks[0]:
            self._state = "aborted"
            self._pump.cancel()
            warnings.warn("an encoded writer was dropped without close: aborted", ResourceWarning, stacklevel=2)


class DecodedReader(Closes):
    """A Reader of plain bytes over a Reader of encoded ones; closing it closes the source. ``info`` is the source's:
    its size counts encoded bytes. Errors of the codec carry the path."""

    def __init__(
        self,
        source: Reader,
        decoder: Stage[bytes, bytes] | None = None,
        *,
        head: bytes = b"",
        root: str | None = None,
    ) -> None:
        self.root = root  # the URL of the backend, for errors
        self._source = source
        self._forks = forks[0]
        self._closed = False
        self._rest = memoryview(b"")
        self._made = 0
        self._error: BaseException | None = None
        self._ahead: Ahead[bytes] | None = None
        self._raw = _Raw(source, head)
        self._decoded = _decoded(self._raw, decoder)

    @property
    def info(self) -> ObjectInfo:
        return self._source.info

    def next_block(self) -> bytes:
        """The next decoded bytes, as they come: at most 1 MiB; ``b""`` only at the end."""
        self._check()
        if len(self._rest):
            rest, self._rest = self._rest, memoryview(b"")
            return bytes(rest)
        if self._error is not None:
            raise self._error  # a damaged stream stays damaged: never a clean end on the second try
        try:
            if self._ahead is None:
                block = next(self._decoded, b"")
            else:
                self._raw.top_up()
                block = self._ahead.next() or b""
        except BaseException as error:
            if self._closed:
                raise ReaderClosed("the reader is closed", path=self.info.path, op="read") from error
            self._error = error
            if isinstance(error, StorageError):
                error.path = self.info.path if error.path is None else error.path
                set_location(error, self.root)
            raise
        self._check()  # close may have come from another thread meanwhile: what it cut short is no end
        self._made += len(block)
        if self._ahead is None and self._made >= OVERLAP_AFTER:
            decoded = self._decoded
            self._ahead = Ahead(CPU, lambda: next(decoded, None), DEPTH)
        return block

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(self.next_block, b""))
        if not len(self._rest) and size:
            block = self.next_block()
            if len(block) <= size:
                return block  # short, perhaps, but not copied
            self._rest = memoryview(block)
        self._check()
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)

    def _check(self) -> None:
        if self._closed:
            raise ReaderClosed("the reader is closed", path=self.info.path, op="read")
        if self._forks != forks[0]:  # the thread that reads ahead is not in this process
            raise ReaderClosed("this reader belongs to the process that opened it", path=self.info.path, op="read")

    def close(self) -> None:
        self._closed = True
        self._cancel()
        self._source.close()

    def _cancel(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()
        self._raw.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_decoded"):
            self._cancel()


def _decoded(raw: _Raw, decoder: Stage[bytes, bytes] | None) -> Iterator[bytes]:
    blocks = iter(raw.next, b"")
    if decoder is None:
        yield from blocks
        return
    for block in blocks:
        yield from decoder.feed(block)
    yield from decoder.finish()


class _Raw:
    """The source's blocks, in order, read ahead once the stream is long.

    A transport that takes its time is read ahead on the I/O pool. An ``instant`` one is read by the *consumer* of the
    decoded bytes: a decoding thread that makes a system call of microseconds loses the interpreter lock for as long as
    the consumer computes, and with it all the overlap.
    """

    def __init__(self, source: Reader, head: bytes) -> None:
        self._source = source
        self._instant = bool(getattr(source, "instant", False))
        self._lock = threading.Lock()
        self._held = deque([head] if head else ())
        self._taken = len(head)
        self._ahead: Ahead[bytes] | None = None

    def next(self) -> bytes:
        """For the decoder: the next block, ``b""`` at the end."""
        if self._ahead is not None:
            return self._ahead.next() or b""
        with self._lock:
            if self._held:
                return self._held.popleft()
            block = self._source.read(RAW_BLOCK)
        self._taken += len(block)
        if self._taken >= OVERLAP_AFTER and not self._instant:
            self._ahead = Ahead(IO, lambda: self._source.read(RAW_BLOCK) or None, 2 * DEPTH)
        return block

    def top_up(self) -> None:
        """For the consumer: have a block ready for the decoder."""
        if self._instant and not self._held:
            with self._lock:
                if not self._held and (block := self._source.read(RAW_BLOCK)):
                    self._held.append(block)

    def cancel(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()


class _File(io.RawIOBase):
    """What ``as_file`` returns."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._writes = hasattr(stream, "abort")
        self._done = False
        self._at = 0

    def readable(self) -> bool:
        return not self._writes

    def writable(self) -> bool:
        return self._writes

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def write(self, data: Any, /) -> int:
        written: int = self._stream.write(data)
        self._at += written
        return written

    def tell(self) -> int:
        """How many bytes were read or written."""
        return self._at

    def flush(self) -> None:
        if self._writes and not self._done:
            self._stream.flush()

    def close(self) -> None:
        if not self._done:
            self._done = True
            self._stream.close()
            super().close()

    def abort(self) -> None:
        """Discard what was written."""
        if not self._done:
            self._done = True
            self._stream.abort()
            super().close()

    def __exit__(self, *exc: object) -> None:
        if self._writes and exc and exc[0] is not None:
            self.abort()
        else:
            self.close()

    def __del__(self) -> None:
        # io's own finaliser would close, which publishes. The stream, dropped with us, aborts by its own rule.
        self._done = True


def as_file(stream: Reader | Writer) -> io.RawIOBase:
    """The stream as an unbuffered binary file of the ``io`` family, for libraries that want one.

    Leaving ``with`` by an exception aborts a writer, as does garbage collection. A layer of ``io`` put on top
    (``TextIOWrapper``, ``BufferedWriter``) closes, and so publishes, whatever happened: end such a block by calling
    ``abort`` on this object before the layer is closed.
    """
    return _File(stream)
