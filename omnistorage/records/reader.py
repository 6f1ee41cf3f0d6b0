"""Records out of a decoded stream.

Whichever way records are taken, one by one, in batches or by iterating, each comes once and in order.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sized
from typing import Generic, TypeVar

from omnistorage.core import Backend, ObjectInfo
from omnistorage.core.lifecycle import Closes
from omnistorage.core.stages import BATCH_BYTES, Format, Stage
from omnistorage.errors import ConfigError, CorruptData, RecordError, StorageError
from omnistorage.paths import set_location

from .bad_records import BadRecords, OnError
from .byte_streams import DecodedReader

T = TypeVar("T")


class RecordReader(Closes, Generic[T]):
    """Reads records from a decoded stream: iterate over it, or use ``read``, ``read_many`` and ``iter_batches``.

    ``records`` counts good records handed out, ``bad`` what ``on_error`` dealt with.
    """

    def __init__(
        self,
        stream: DecodedReader,
        format: Format[T],
        *,
        on_error: OnError = "raise",
        max_bad: int | None = None,
        max_bad_ratio: float | None = None,
        owned: Backend | None = None,
    ) -> None:
        self.format = format
        self.bad = BadRecords(on_error, max_bad, max_bad_ratio)
        self.records = 0
        self._stream = stream
        self._owned = owned
        self._path = stream.info.path
        self._root = stream.root
        self._found = deque[RecordError]()  # bad records before the batch in hand
        self._batches = _batches(stream, format.decoder(self._found.append), self._found)
        self._held: list[T] | None = None
        self._error: BaseException | None = None
        self._rest: Iterator[T] = iter(())  # what is left of the batch in hand, whichever method took from it

    @property
    def info(self) -> ObjectInfo:
        """What the store said about the object when it was opened."""
        return self._stream.info

    def _next_batch(self) -> list[T] | None:
        """The next records, or None at the end. Raises what ``on_error`` raises; can be called again after that."""
        while True:
            batch = self._take_batch()
            if batch is None or batch:
                return batch

    def _take_batch(self) -> list[T] | None:
        """The same, and an empty list where only bad records came."""
        if self._held is None and self._error is None:
            try:
                self._held = next(self._batches, None)
            except BaseException as error:
                self._error = error  # kept: asked again, a damaged stream must not look like one that ended
                if isinstance(error, StorageError):
                    self._place(error)
        self._settle()
        if self._error is not None:
            raise self._error
        batch, self._held = self._held, None
        if batch is not None:
            self.records += len(batch)
        if self.bad.count:
            self._hold(lambda: self.bad.check_ratio(self.records, self._path, final=batch is None))
            if batch is None and self._error is not None:
                raise self._error
        return batch

    def _settle(self) -> None:
        while self._found:
            error = self._found.popleft()
            self._place(error)
            try:
                self.bad.handle(error)
            except CorruptData as limit:
                self._error = limit
                self._place(limit)
                raise

    def _place(self, error: StorageError) -> None:
        if error.path is None:
            error.path = self._path
        set_location(error, self._root)

    def _hold(self, check: Callable[[], None]) -> None:
        """Keep an error for the next call: the records in hand are given out first."""
        try:
            check()
        except CorruptData as error:
            self._error = error
            self._place(error)

    def __iter__(self) -> Iterator[T]:
        while True:
            rest = self._rest
            yield from rest
            if rest is not self._rest:
                continue  # the loop's body read on with another method: what is left of that batch comes first
            batch = self._next_batch()
            if batch is None:
                return
            self._rest = iter(batch)

    def iter_batches(self, n: int | None = None, /) -> Iterator[list[T]]:
        """Lists of exactly ``n`` records (the last may be shorter); without ``n`` as they come, at most 256."""
        if n is not None and n < 1:
            raise ConfigError(f"a batch has at least one record, not {n}")
        if n is not None:
            while batch := self.read_many(n):
                yield batch
            return
        while True:
            more: list[T] | None = list(self._rest) or self._next_batch()
            if more is None:
                return
            yield more

    def read(self) -> T:
        """The next record. Raises ``EOFError`` at the end."""
        while True:
            for record in self._rest:
                return record
            batch = self._next_batch()
            if batch is None:
                raise EOFError("no more records")
            self._rest = iter(batch)

    def read_many(self, n: int, /) -> list[T]:
        """The next ``n`` records, fewer only at the end. If a bad record raises, the good ones before it are kept for
        the next call."""
        if n < 0:
            raise ConfigError(f"read_many takes a count from 0, not {n}")
        out = list(itertools.islice(self._rest, n))
        while len(out) < n:
            try:
                batch = self._next_batch()
            except BaseException:
                self._rest = iter(out)
                raise
            if batch is None:
                break
            self._rest = iter(batch)
            out += itertools.islice(self._rest, n - len(out))
        return out

    def close(self) -> None:
        """Release the source. Idempotent."""
        self._stream.close()
        owned, self._owned = self._owned, None
        if owned is not None:
            owned.close()


def _batches(stream: DecodedReader, decoder: Stage[bytes, list[T]], found: Sized) -> Iterator[list[T]]:
    """What ``decoder`` makes of ``stream``.

    A stream of bad records alone gives no batch, and each error takes hundreds of times the memory of its record. So
    the decoder gets at most ``BATCH_BYTES`` at once, and an empty batch comes wherever errors are in ``found``.
    """
    for block in iter(stream.next_block, b""):
        for at in range(0, len(block), BATCH_BYTES):
            yield from decoder.feed(block[at : at + BATCH_BYTES])
            if found:
                yield []
    yield from decoder.finish()
