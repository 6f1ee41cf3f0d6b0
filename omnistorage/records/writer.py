"""Records into a ``Writer``.

A record is encoded on the caller's thread; coding and transport run beside it (see ``streams``).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Generic, Literal, NoReturn, TypeVar, get_args

from omnistorage.concurrency.pools import forks
from omnistorage.core import Backend, ObjectInfo, Writer
from omnistorage.core.lifecycle import Publishes
from omnistorage.core.stages import BATCH_BYTES, BATCH_RECORDS, Codec, Format, RecordEncoder
from omnistorage.errors import ConfigError, RecordError, WriterClosed
from omnistorage.paths import set_location

from .bad_records import BadRecords, OnError
from .byte_streams import BLOCK, EncodedWriter

T = TypeVar("T")
log = logging.getLogger(__name__)
OnException = Literal["abort", "commit_whole_records"]


def known_exit(on_exception: OnException) -> OnException:
    if on_exception not in get_args(OnException):
        raise ConfigError(f"on_exception={on_exception!r}: use one of {', '.join(get_args(OnException))}")
    return on_exception


class RecordWriter(Publishes, Generic[T]):
    """Writes records into a ``Writer``. A context manager: a clean exit closes, an exception aborts, or with
    ``on_exception="commit_whole_records"`` publishes the records taken so far.

    A record that cannot be encoded raises ``RecordError`` (or goes where ``on_error`` says) and leaves the writer
    usable; an error of codec or sink poisons it. ``records`` counts what was taken, ``bad`` the rest.

    A writer that is dropped without ``close`` publishes nothing, and logs a warning with the number of records lost.
    """

    warns = True
    """Whether it logs that; one that counts the records of many writers does so itself."""

    def __init__(
        self,
        sink: Writer,
        format: Format[T],
        codec: Codec | None = None,
        *,
        on_error: OnError = "raise",
        max_bad: int | None = None,
        max_bad_ratio: float | None = None,
        on_exception: OnException = "abort",
        owned: Backend | None = None,
        block: int = BLOCK,
        path: str | None = None,
        root: str | None = None,
    ) -> None:
        self.format = format
        self.codec = codec
        self.on_exception = known_exit(on_exception)
        self.bad = BadRecords(on_error, max_bad, max_bad_ratio)
        self._encoder: RecordEncoder[T] = format.encoder()  # before there is a stream that would warn of being dropped
        self._stream = EncodedWriter(sink, None if codec is None else codec.encoder(), block=block)
        self._encode: Callable[[T], bytes] = self._encoder.encode
        self._owned = owned
        self._path, self._root = path, root
        self._forks = forks[0]
        # One of many writers joins its records soon: thousands of small objects for each would not fit the caches.
        self._batch = BATCH_BYTES if block == BLOCK else block // 8
        self._parts: list[bytes] = []
        self._held = 0
        self._handed = 0
        self._count = 0
        self._ended = False

    @property
    def records(self) -> int:
        """How many records were taken so far."""
        return self._count

    @property
    def raw_bytes(self) -> int:
        """How many bytes the records have made so far, before compression."""
        return self._handed + self._held

    @property
    def result(self) -> ObjectInfo | None:
        """What ``close`` returned."""
        return self._stream.result

    def write(self, record: T, /) -> None:
        """Take one record; it is checked and encoded now, and stored later."""
        try:
            data = self._encode(record)
        except RecordError as error:
            self._reject(error)
            return
        self._parts.append(data)
        self._held += len(data)
        self._count += 1
        if self._held >= self._batch or self._forks != forks[0]:
            self._hand_on()

    def write_many(self, records: Iterable[T], /) -> int:
        """Take all ``records``; returns how many were good. Those before a record that raises are kept; of those behind
        it up to 255 may have been read already, and are not."""
        before = self._count
        source = iter(records)
        batch: list[T] = []
        try:
            while True:
                batch.extend(itertools.islice(source, BATCH_RECORDS))
                if not batch:
                    return self._count - before
                taken, batch = batch, []
                self._write_batch(taken)
        except BaseException:
            if batch and not self._ended:
                self._write_batch(batch)  # what the caller's iterator gave before it raised
            raise

    def _write_batch(self, batch: list[T]) -> None:
        if self._ended:
            self._encode(batch[0])  # raises
        try:
            parts = list(self._encoder.feed(batch))
        except RecordError:
            for record in batch:
                self.write(record)
            return
        self._extend(parts)
        self._count += len(batch)
        if self._held >= self._batch or self._forks != forks[0]:
            self._hand_on()

    def flush(self) -> None:
        """Push every record taken so far through the codec into the sink and flush it: a reader that sees the bytes
        can decode them all."""
        if self._ended:
            self._refuse("flush")
        self._extend(self._encoder.flush())
        self._hand_on()
        self._stream.flush()

    def prepare(self) -> None:
        """All records at the store, nothing visible; only ``close`` or ``abort`` may follow."""
        self._end()
        self._stream.prepare()

    def close(self) -> ObjectInfo:
        """Publish the object and return its info. Again: the same info."""
        if self._stream.result is not None:
            return self._stream.result
        try:
            self._end()
            self.bad.check_ratio(self._count, None, final=True)
            info = self._stream.close()
        except BaseException:
            self.abort()
            raise
        self._disown()
        return info

    def abort(self) -> None:
        """Discard everything. Idempotent; nothing becomes visible."""
        self._ended, self._encode = True, self._refuse_record
        self._parts.clear()
        try:
            self._stream.abort()
        finally:
            self._disown()

    def _extend(self, outputs: Iterable[bytes]) -> None:
        parts = list(outputs)
        self._parts += parts
        self._held += sum(map(len, parts))

    def _hand_on(self) -> None:
        parts, self._parts = self._parts, []
        self._handed, self._held = self._handed + self._held, 0
        if parts:
            try:
                self._stream.write(b"".join(parts))
            except BaseException:
                self._ended, self._encode = True, self._refuse_record  # poisoned: each later call raises that error
                raise

    def _end(self) -> None:
        if self._ended:
            return
        # ``write`` is the hot path: instead of asking each time whether the writer is closed, it is given an encoder
        # that says so.
        self._ended, self._encode = True, self._refuse_record
        self._extend(self._encoder.finish())
        self._hand_on()

    def _reject(self, error: RecordError) -> None:
        error.number = self._count + self.bad.count + 1
        error.path = self._path
        set_location(error, self._root)
        self.bad.handle(error)
        self.bad.check_ratio(self._count, self._path)

    def _refuse_record(self, record: T, /) -> bytes:
        self._refuse("write")

    def _refuse(self, op: str) -> NoReturn:
        if self._stream.error is not None:
            raise self._stream.error
        raise WriterClosed("the record writer is closed", op=op)

    def _disown(self) -> None:
        owned, self._owned = self._owned, None
        if owned is not None:
            owned.close()

    def _on_exception(self) -> None:
        if self.on_exception == "commit_whole_records" and not self._ended:
            self.close()  # one that fails has aborted
        else:
            self.abort()

    def __del__(self) -> None:
        if self.warns and not getattr(self, "_ended", True) and self._forks == forks[0] and self._count:
            log.warning("a record writer was dropped without close; records lost: %d", self._count)
