"""Readers and writers of encrypted objects.

A writer holds back the latest chunk, which may be the last, and hands on up to 512 KiB at a time. A reader takes as
much as was asked for, up to 1 MiB, and returns one chunk per ``read``: to join them costs a quarter of decrypting them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, NoReturn

from omnistorage.backends.streams import READ_BLOCK, ReaderBase, WriterBase
from omnistorage.core import ObjectInfo, Reader, WriteOptions, Writer
from omnistorage.errors import ConfigError, CorruptData

from .format import CHUNK, HEADER, MAX_SIZE, SEALED, TAG, Chunks

_NOTHING = memoryview(b"")
BATCH = 8  # chunks handed to the inner writer at once


class Span(NamedTuple):
    """Which chunks are read: numbers ``first`` to ``stop`` (None: to the end), without the first ``skip`` bytes of
    content, and ``cut`` bytes of chunk ``stop``. ``last`` is the object's last chunk and ``tail`` its sealed size, both
    None where the store does not say."""

    first: int = 0
    stop: int | None = None
    skip: int = 0
    cut: int | None = None
    last: int | None = None
    tail: int | None = None


def span(offset: int, length: int | None, size: int | None) -> Span:
    """The chunks that hold ``length`` bytes of content from ``offset`` on, of ``size`` bytes if that is known. A range
    that reaches the end, or lies behind it, holds the last chunk, which proves that the end is there."""
    first, end = offset // CHUNK, None if length is None else offset + length
    last = tail = None
    if size is not None:
        last = max(0, (size - 1) // CHUNK)
        tail = size - last * CHUNK + TAG
        first = min(first, last)
        if end is not None and end > size:
            end = None
    if length == 0:
        return Span(first, first - 1, 0, None, last, tail)
    if end is None:
        return Span(first, last, offset - first * CHUNK, None, last, tail)
    stop = (end - 1) // CHUNK
    return Span(first, stop, offset - first * CHUNK, end - stop * CHUNK, last, tail)


class DecryptingReader(ReaderBase):
    """Reads ``span`` of an object from ``inner``, which stands at its first chunk. ``behind`` is called where the store
    gave nothing for a later chunk and never said the size: it proves that the object ends before."""

    def __init__(self, info: ObjectInfo, inner: Reader, chunks: Chunks, part: Span, behind: Callable[[], None]) -> None:
        super().__init__(info)
        self.chunks = chunks
        self._inner = inner
        self._span = part
        self._behind = behind
        self._index = part.first
        self._ended = part.stop is not None and part.stop < part.first
        self._raw = _NOTHING
        self._plain = b""
        self._at = 0
        self._error: BaseException | None = None

    def _read(self, size: int) -> bytes:
        if self._error is not None:
            raise self._error
        while self._at >= len(self._plain):
            if self._ended:
                return b""
            try:
                self._advance(size)
            except BaseException as error:
                self._error = error  # and never a clean end after it
                raise
        start = self._at
        self._at = min(start + size, len(self._plain))
        return self._plain[start : self._at]  # all of it is itself, not a copy

    def _advance(self, size: int) -> None:
        sealed, last = self._take(-(-min(size, READ_BLOCK) // CHUNK))
        if sealed is None:
            self._ended, self._plain, self._at = True, b"", 0
            return
        index, part = self._index, self._span
        plain = self.chunks.open(index, sealed, last, self._info.path)
        self._index += 1
        if last:
            self._check_end(HEADER + index * SEALED + len(sealed))
        self._plain = plain[: part.cut] if index == part.stop and part.cut is not None else plain
        self._at = part.skip if index == part.first else 0
        self._ended = last or index == part.stop

    def _take(self, ahead: int) -> tuple[memoryview | None, bool]:
        """The next sealed chunk, and whether it is the object's last; None where there is none."""
        last, tail = self._span.last, self._span.tail
        if last is None or tail is None:
            return self._take_unsized(ahead)
        want = tail if self._index == last else SEALED
        if len(self._raw) < want:
            upto = min(last if self._span.stop is None else self._span.stop, self._index + ahead - 1)
            whole = SEALED * (upto - self._index) + (tail if upto == last else SEALED)
            if not self._fill(want, whole):
                self._fail_cut()
        return self._cut_off(want), self._index == last

    def _cut_off(self, size: int) -> memoryview:
        sealed, rest = self._raw[:size], self._raw[size:]
        self._raw = rest if len(rest) else _NOTHING  # an empty view would keep all that it is a view of
        return sealed

    def _take_unsized(self, ahead: int) -> tuple[memoryview | None, bool]:
        # Whether a chunk is the last shows only in what follows it: at least one more byte, or nothing.
        more = len(self._raw) > SEALED or self._fill(SEALED + 1, SEALED * ahead + 1)
        if not more and not len(self._raw) and self._index:
            self._behind()
            return None, True
        if len(self._raw) < TAG + (self._index > 0):
            self._fail_cut()
        return self._cut_off(SEALED), not more

    def _fill(self, least: int, whole: int) -> bool:
        """Read until ``least`` bytes are there, asking for ``whole``; False if the inner reader ended before."""
        parts, have = [self._raw] if len(self._raw) else [], len(self._raw)
        while have < least and (data := self._inner.read(whole - have)):
            parts.append(memoryview(data))
            have += len(data)
        self._raw = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        return have >= least

    def _check_end(self, end: int) -> None:
        if len(self._raw) or self._inner.read(1):
            raise CorruptData(
                "something follows the end of the encrypted object", path=self._info.path, op="read", offset=end
            )

    def _fail_cut(self) -> NoReturn:
        at = HEADER + self._index * SEALED + len(self._raw)
        raise CorruptData("the encrypted object is cut off", path=self._info.path, op="read", offset=at)

    def _release(self) -> None:
        self._raw, self._plain, self._ended = _NOTHING, b"", True
        self._inner.close()

    def _interrupt(self) -> None:
        self._inner.close()

    def __del__(self) -> None:
        """The inner reader looks after itself."""


class EncryptingWriter(WriterBase):
    """Writes an object into ``inner``; ``outer`` turns its info into the content's."""

    _staged = False  # whether ``prepare`` was asked for

    def __init__(
        self,
        path: str,
        options: WriteOptions,
        backend: str,
        inner: Writer,
        chunks: Chunks,
        outer: Callable[[ObjectInfo], ObjectInfo],
        limit: int = MAX_SIZE,
    ) -> None:
        super().__init__(path, options, backend)
        self._inner = inner
        self._chunks = chunks
        self._outer = outer
        self._limit = limit
        self._index = 0
        self._held = bytearray()  # 1 to CHUNK bytes, once something was written
        self._out = memoryview(b"")

    def _write(self, data: bytes | memoryview) -> None:
        if self._written + len(data) > self._limit:
            raise ConfigError(f"an encrypted object holds at most {self._limit} bytes", path=self._path, op="write")
        view, at = memoryview(data), 0
        if self._held or len(view) < CHUNK:
            at = min(CHUNK - len(self._held), len(view))
            self._held += view[:at]
            if at == len(view):
                return
            self._send([self._held])
            self._held = bytearray()
        ends = at + (len(view) - at - 1) // CHUNK * CHUNK  # at least one byte stays behind
        while at < ends:
            stop = min(ends, at + BATCH * CHUNK)
            self._send([view[start : start + CHUNK] for start in range(at, stop, CHUNK)])
            at = stop
        self._held += view[at:]

    def _send(self, contents: list[bytearray] | list[memoryview], last: bool = False) -> None:
        sizes = [len(content) + TAG for content in contents]
        if len(self._out) < sum(sizes):
            self._out = memoryview(bytearray(sum(sizes)))
        if not self._index:
            self._inner.write(self._chunks.header.raw)
        at = 0
        for content, size in zip(contents, sizes, strict=True):
            self._chunks.seal(self._index, content, last, self._out[at : at + size])
            self._index += 1
            at += size
        self._inner.write(self._out[:at])

    def _flush(self) -> None:
        self._inner.flush()

    def prepare(self) -> None:
        self._staged = True
        super().prepare()

    def _prepare(self) -> None:
        self._send([self._held], last=True)
        self._held, self._out = bytearray(), memoryview(b"")
        if self._staged:  # else closing the inner writer brings the rest to the store, with one request if that will do
            self._inner.prepare()

    def _publish(self) -> ObjectInfo:
        return self._outer(self._inner.close())

    def _discard(self) -> None:
        self._held = bytearray()
        self._inner.abort()

    def _interrupt(self) -> None:
        self._inner.abort()

    def __del__(self) -> None:
        """The inner writer looks after itself: it aborts and warns."""
