"""Zstandard (RFC 8878) on the ``zstandard`` library.

The library decodes what it is given in one go, and 64 KiB of input can hold 2 GiB of output. So the decoder here walks
along the frame and block headers and cuts the input behind every MiB of output; that also tells truncation and
garbage, which the library does not.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

from omnistorage.core.stages import MAX_CHUNK, Stage, StageBase
from omnistorage.errors import ConfigError, CorruptData

_MAGIC = b"\x28\xb5\x2f\xfd"
_HEADER_MAX = 18
_RAW, _RLE, _RESERVED = 0, 1, 3  # kinds of block; 2 is a compressed one
_BLOCK_MAX = 1 << 17  # RFC 8878 3.1.1.2.4: no block decodes to more
_DICTIONARY_MIN = 8  # the library takes less for no dictionary, without a word
_UNTRUSTED_WINDOW = 8 << 20


@dataclass(frozen=True)
class Zstd:
    """Zstandard, RFC 8878.

    ``level`` 1 to 22, 3 by default, or -7 to -1 for more speed. ``threads`` compresses on so many extra threads, 0 on
    the caller's. ``checksum`` adds a content checksum to what is written; without it about a third of all damage to
    one bit goes unnoticed, so it is on. ``max_window`` bounds the memory of reading: a frame that needs a larger window
    (in bytes; the ``zstd`` program writes up to 2**27 unless told ``--long=28`` or more) is refused. Eight MiB, which
    level 19 needs, are a sensible bound for input one does not trust (``untrusted``).

    ``dictionary`` is what ``zstd --train`` or ``zstandard.train_dictionary(...).as_bytes()`` made, or any other bytes
    that resemble the data; both sides need the same one. Frames then carry its id, if it has one, and a frame with
    another id is refused. Frames without an id are decoded with it as well.

    Writing makes one frame. Reading takes any number of frames and skippable frames, up to the end: anything else, a
    stream without a frame, and a stream cut anywhere but exactly between two frames is ``CorruptData``, as are frames
    that need a dictionary which was not given. Wrong settings, among them a dictionary that does not parse, are
    ``ConfigError``.
    """

    name = "zstd"
    suffixes = (".zst", ".zstd")
    magic = _MAGIC
    content_type = "application/zstd"

    level: int = 3
    threads: int = 0
    checksum: bool = True
    max_window: int = 1 << 27
    dictionary: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if type(self.level) is not int or not (-7 <= self.level <= -1 or 1 <= self.level <= 22):
            raise ConfigError(f"zstd has levels 1 to 22 and -7 to -1, not {self.level!r}")
        if type(self.threads) is not int or not 0 <= self.threads <= 256:
            raise ConfigError(f"zstd threads is a number from 0 to 256, not {self.threads!r}")
        if type(self.checksum) is not bool:
            raise ConfigError(f"zstd checksum is True or False, not {self.checksum!r}")
        if type(self.max_window) is not int or not 1 << 10 <= self.max_window <= 1 << 31:
            raise ConfigError(f"zstd max_window is a number of bytes from 2**10 to 2**31, not {self.max_window!r}")
        if self.dictionary is not None:
            self._check_dictionary(self.dictionary)

    def _check_dictionary(self, raw: bytes) -> None:
        if type(raw) is not bytes or len(raw) < _DICTIONARY_MIN:
            what = f"{len(raw)} bytes" if isinstance(raw, bytes) else type(raw).__name__
            raise ConfigError(f"a zstd dictionary is at least {_DICTIONARY_MIN} bytes, not {what}")
        import zstandard

        try:  # the library looks at it when it is used, and then says that there is no memory
            zstandard.ZstdCompressor(dict_data=zstandard.ZstdCompressionDict(raw)).compress(b"")
        except zstandard.ZstdError as error:
            raise ConfigError(f"the zstd dictionary of {len(raw)} bytes begins like one but does not parse") from error

    def untrusted(self) -> Self:
        """This codec with ``max_window`` lowered to 8 MiB, so that reading stays below 32 MiB whoever made the input: a
        frame may claim a window of any size. Level 19 needs 8 MiB; most frames of levels 20 to 22 are refused."""
        return replace(self, max_window=min(self.max_window, _UNTRUSTED_WINDOW))

    def encoder(self) -> Stage[bytes, bytes]:
        """A stage that makes one frame; ``flush`` ends the current block."""
        return _Encoder(self)

    def decoder(self) -> Stage[bytes, bytes]:
        """A stage that reads frames to the end; it takes the frame's window and a few MiB of memory."""
        return _Decoder(self.max_window, self.dictionary)


class _Encoder(StageBase[bytes, bytes]):
    def __init__(self, settings: Zstd) -> None:
        import zstandard

        compressor = zstandard.ZstdCompressor(
            level=settings.level,
            threads=settings.threads,
            write_checksum=settings.checksum,
            dict_data=None if settings.dictionary is None else zstandard.ZstdCompressionDict(settings.dictionary),
        )
        # A chunker makes its output piece by piece, however much the compressing threads have ready at once.
        self._chunker: Any = compressor.chunker(chunk_size=MAX_CHUNK // 4)  # its stubs are not whole

    def _feed(self, item: bytes) -> Iterator[bytes]:
        return iter(self._chunker.compress(item))

    def _flush(self) -> Iterator[bytes]:
        return iter(self._chunker.flush())

    def _finish(self) -> Iterator[bytes]:
        return iter(self._chunker.finish())


class _Decoder(StageBase[bytes, bytes]):
    """Hands the library every byte of a frame as it comes, and walks along to know where to cut and where it ends."""

    def __init__(self, max_window: int, dictionary: bytes | None) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        data = None if dictionary is None else zstandard.ZstdCompressionDict(dictionary)
        self._library = zstandard.ZstdDecompressor(max_window_size=max_window, dict_data=data)
        self._dictionary = None if data is None else data.dict_id()
        self._max_window = max_window
        self._frame: Any = None  # the library's decoder of the frame we are in, None between frames
        self._frames = 0
        self._taken = 0  # bytes of all earlier chunks, for offsets
        self._head = b""  # the beginning of a frame or block header that the end of a chunk cut
        self._left = 0  # bytes up to the next header: of a skippable frame, or of a block (and the checksum behind it)
        self._makes = 0  # what the block we are in can decode to
        self._last = False  # the block we are in is the frame's last
        self._checksum = 0  # the size of the frame's checksum

    def _feed(self, item: bytes) -> Iterator[bytes]:
        view = memoryview(item).cast("B")
        at, size = 0, len(view)
        while at < size:
            if self._frame is not None:
                at = yield from self._blocks(view, at)
            elif self._left:
                skipped = min(self._left, size - at)
                self._left -= skipped
                at += skipped
            else:
                at = self._header(view, at)
        self._taken += size

    def _finish(self) -> Iterator[bytes]:
        if self._frame is not None or self._head or self._left:
            raise CorruptData("zstd: the stream is cut off within a frame", offset=self._taken)
        if not self._frames:
            raise CorruptData("zstd: the stream holds no frame", offset=self._taken)
        return iter(())

    def _corrupt(self, what: object, at: int) -> CorruptData:
        return CorruptData(f"zstd: {what}", offset=self._taken + at)

    def _header(self, view: memoryview, at: int) -> int:
        """Read a frame header from ``view[at:]`` and return where it ends, or hold on to what there is of it."""
        held = len(self._head)
        raw = self._head + bytes(view[at : at + _HEADER_MAX - held])
        try:
            size, window, dictionary = _frame_header(raw)
        except ValueError as error:
            where = "behind the last frame there is something else: " if self._frames else ""
            raise self._corrupt(f"{where}{error}", at) from None
        if not size:
            self._head = raw
            return len(view)
        self._head = b""
        if window < 0:  # a skippable frame
            self._left = int.from_bytes(raw[4:8], "little")
            return at + size - held
        if window > self._max_window:
            raise self._corrupt(
                f"the frame needs a window of {window} bytes, max_window is {self._max_window}: "
                f"Zstd(max_window={window}) reads it if you trust it",
                at,
            )
        if dictionary not in (0, self._dictionary):
            ours = "none was given" if self._dictionary is None else f"the one given has {self._dictionary or 'none'}"
            raise self._corrupt(
                f"the frame needs the dictionary with id {dictionary}, {ours}: "
                "give Zstd(dictionary=...) the one it was written with",
                at,
            )
        self._checksum = 4 if raw[4] & 4 else 0
        self._last = False
        self._frame = self._library.decompressobj(write_size=MAX_CHUNK)
        self._decode(raw[:size], at)
        return at + size - held

    def _blocks(self, view: memoryview, at: int) -> Generator[bytes, None, int]:
        """Decode blocks from ``view[at:]``, at most MAX_CHUNK of output per call of the library; returns where it
        stopped: behind the frame or at the end of the input."""
        start, size = at, len(view)
        room = MAX_CHUNK - self._makes
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
            else:
                at = self._block_header(view, at)
                if self._head:
                    break
                if self._makes > room:
                    if out := self._decode(view[start:at], at):
                        yield out
                    start, room = at, MAX_CHUNK
                room -= self._makes
            if not self._left:
                self._makes = 0
                if self._last:
                    break
        if out := self._decode(view[start:at], at):
            yield out
        if self._last and not self._left:
            if not self._frame.eof or self._frame.unused_data:
                raise self._corrupt("the frame does not end where its last block does", at)
            self._frame = None
            self._frames += 1
        return at

    def _block_header(self, view: memoryview, at: int) -> int:
        """Read a block header (RFC 8878 3.1.1.2) from ``view[at:]``; returns where it stopped. ``_head`` is empty if it
        is whole."""
        raw = self._head + bytes(view[at : at + 3 - len(self._head)])
        at += len(raw) - len(self._head)
        if len(raw) < 3:
            self._head = raw
            return at
        self._head = b""
        bits = int.from_bytes(raw, "little")
        kind, size = bits >> 1 & 3, bits >> 3
        if kind == _RESERVED or size > _BLOCK_MAX:
            raise self._corrupt("a block header is damaged", at)
        self._makes = size if kind in (_RAW, _RLE) else _BLOCK_MAX
        self._left = 1 if kind == _RLE else size
        if bits & 1:
            self._last = True
            self._left += self._checksum
        return at

    def _decode(self, piece: bytes | memoryview, at: int) -> bytes:
        try:
            out: bytes = self._frame.decompress(piece)
        except self._error as error:
            raise self._corrupt(error, at) from error
        return out


def _frame_header(raw: bytes) -> tuple[int, int, int]:
    """Size, window (-1 for a skippable frame) and dictionary id (0 for none) of the frame header that ``raw`` begins
    with, RFC 8878 3.1.1.1 and 3.1.2. The size is 0 if the header is not whole. ValueError if it is none."""
    if len(raw) >= 4 and raw[:4] != _MAGIC:
        if raw[0] & 0xF0 != 0x50 or raw[1:4] != b"\x2a\x4d\x18":
            raise ValueError(f"a frame begins with 28 b5 2f fd, not with {raw[:4].hex(' ')}")
        return (8 if len(raw) >= 8 else 0), -1, 0
    if len(raw) < 5:
        return 0, 0, 0
    descriptor = raw[4]
    single_segment = bool(descriptor & 0x20)
    dictionary_size = (0, 1, 2, 4)[descriptor & 3]
    content_at = 5 + (not single_segment) + dictionary_size
    size = content_at + (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    if len(raw) < size:
        return 0, 0, 0
    dictionary = int.from_bytes(raw[content_at - dictionary_size : content_at], "little")
    if single_segment:  # then the window is the content
        content = int.from_bytes(raw[content_at:size], "little")
        return size, content + 256 if size - content_at == 2 else content, dictionary
    exponent, mantissa = raw[5] >> 3, raw[5] & 7
    return size, (1 << 10 + exponent) + (1 << 7 + exponent) * mantissa, dictionary
