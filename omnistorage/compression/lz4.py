"""LZ4 frames on the ``lz4`` library (extra ``lz4``).

The library decodes a frame within bounds and says where it ends. What it would get wrong is done here: skippable frames
count as none, and frames that need a dictionary, which it would decode to something else, are refused.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from omnistorage.core.stages import MAX_CHUNK, Stage, StageBase
from omnistorage.errors import ConfigError, CorruptData, MissingExtra

_MAGIC = b"\x04\x22\x4d\x18"
_LEGACY = b"\x02\x21\x4c\x18"
_BLOCK_IDS = {1 << 16: 4, 1 << 18: 5, 1 << 20: 6, 1 << 22: 7}
_SLICE = 1 << 18  # of input, to the decoder
_DICTIONARY = 1  # the flag in FLG that a dictionary id follows


def _missing() -> MissingExtra:
    return MissingExtra('the lz4 library is not installed: pip install "omnistorage[lz4]"', extra="lz4")


def _load() -> Any:
    try:
        import lz4.frame
    except ImportError as error:
        raise _missing() from error
    return lz4.frame


@dataclass(frozen=True)
class Lz4:
    """LZ4 frames, version 1.6.4 of https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md.

    ``level`` 0 to 16, 0 by default: to the library 1 and 2 are the same as 0, from 3 on it compresses better but
    slower, and above 12 it knows nothing more. ``block_size`` is 65536, 262144, 1048576 or 4194304 bytes of content;
    ``block_linked`` lets blocks refer to earlier ones, which makes small ones smaller. ``checksum`` adds a checksum of
    the content to what is written; without it damage may go unnoticed, so it is on.

    Writing makes one frame. Reading takes any number of frames and skippable frames, up to the end: anything else, a
    stream without a frame, and a stream cut anywhere but exactly between two frames is ``CorruptData``, as are frames
    that need a dictionary and the legacy format of ``lz4 -l``. Wrong settings are ``ConfigError``; without the library
    making the codec is ``MissingExtra``.
    """

    name = "lz4"
    suffixes = (".lz4",)
    magic = _MAGIC
    content_type = "application/x-lz4"

    level: int = 0
    block_size: int = 1 << 18
    block_linked: bool = True
    checksum: bool = True

    def __post_init__(self) -> None:
        if type(self.level) is not int or not 0 <= self.level <= 16:
            raise ConfigError(f"lz4 has levels 0 to 16, not {self.level!r}")
        if type(self.block_size) is not int or self.block_size not in _BLOCK_IDS:
            sizes = ", ".join(map(str, _BLOCK_IDS))
            raise ConfigError(f"lz4 block_size is one of {sizes}, not {self.block_size!r}")
        for option in ("block_linked", "checksum"):
            if type(getattr(self, option)) is not bool:
                raise ConfigError(f"lz4 {option} is True or False, not {getattr(self, option)!r}")
        if find_spec("lz4") is None:
            raise _missing()

    def encoder(self) -> Stage[bytes, bytes]:
        """A stage that makes one frame; ``flush`` ends the current block."""
        return _Encoder(self)

    def decoder(self) -> Stage[bytes, bytes]:
        """A stage that reads frames to the end; it takes two blocks and a few MiB of memory."""
        return _Decoder()


class _Encoder(StageBase[bytes, bytes]):
    def __init__(self, settings: Lz4) -> None:
        self._library = _load()
        self._context = self._library.create_compression_context()
        self._head: bytes = self._library.compress_begin(
            self._context,
            compression_level=settings.level,
            block_size=_BLOCK_IDS[settings.block_size],
            block_linked=settings.block_linked,
            content_checksum=settings.checksum,
            auto_flush=False,
        )

    def _out(self, made: bytes) -> Iterator[bytes]:
        if self._head:
            made, self._head = self._head + made, b""
        for at in range(0, len(made), MAX_CHUNK):  # a block of 4 MiB comes at once
            yield made[at : at + MAX_CHUNK]

    def _feed(self, item: bytes) -> Iterator[bytes]:
        view = memoryview(item).cast("B")
        for at in range(0, len(view), MAX_CHUNK):  # small calls cost: each takes a copy of the window
            made = self._library.compress_chunk(self._context, view[at : at + MAX_CHUNK])
            if made:
                yield from self._out(made)

    def _flush(self) -> Iterator[bytes]:
        yield from self._out(self._library.compress_flush(self._context, end_frame=False))

    def _finish(self) -> Iterator[bytes]:
        yield from self._out(self._library.compress_flush(self._context, end_frame=True))


class _Decoder(StageBase[bytes, bytes]):
    def __init__(self) -> None:
        self._library = _load()
        self._context = self._library.create_decompression_context()  # good for one frame after the other
        self._inside = False  # of a frame
        self._left = 0  # bytes up to the end of a skippable frame
        self._head = b""  # the beginning of a frame's header that the end of a chunk cut
        self._frames = 0
        self._taken = 0  # bytes of all earlier chunks, for offsets

    def _feed(self, item: bytes) -> Iterator[bytes]:
        view = memoryview(item).cast("B")
        at, size = 0, len(view)
        while at < size:
            if self._inside:
                at = yield from self._frame(view, at)
            elif self._left:
                skipped = min(self._left, size - at)
                self._left -= skipped
                at += skipped
            else:
                at = self._header(view, at)
        self._taken += size

    def _finish(self) -> Iterator[bytes]:
        if self._inside or self._head or self._left:
            raise self._corrupt("the stream is cut off within a frame", 0)
        if not self._frames:
            raise self._corrupt("the stream holds no frame", 0)
        return iter(())

    def _corrupt(self, what: object, at: int) -> CorruptData:
        return CorruptData(f"lz4: {what}", offset=self._taken + at)

    def _header(self, view: memoryview, at: int) -> int:
        """Read the beginning of a frame's header from ``view[at:]`` and return where it ends, or hold on to it."""
        held = len(self._head)
        raw = self._head + bytes(view[at : at + 8 - held])
        skippable = raw[0] & 0xF0 == 0x50
        if not (raw[1:4] == b"\x2a\x4d\x18"[: len(raw) - 1] if skippable else raw[:4] == _MAGIC[: len(raw)]):
            if len(raw) >= 4 and raw[:4] == _LEGACY:
                raise self._corrupt("this is the legacy format (lz4 -l), which has no checksums and no end", at)
            if not _LEGACY.startswith(raw):
                where = "behind the last frame there is something else: " if self._frames else ""
                raise self._corrupt(f"{where}a frame begins with 04 22 4d 18, not with {raw[:4].hex(' ')}", at)
        if len(raw) < (8 if skippable else 5):
            self._head = raw
            return len(view)
        self._head = b""
        if skippable:
            self._left = int.from_bytes(raw[4:8], "little")
            return at + 8 - held
        if raw[4] & _DICTIONARY:
            raise self._corrupt("the frame needs a dictionary, which is not supported", at)
        self._inside = True
        self._decode(raw[:5], at)
        return at + 5 - held

    def _frame(self, view: memoryview, at: int) -> Generator[bytes, None, int]:
        """Decode ``view[at:]`` to the end of the frame or of the input; returns where that is."""
        size = len(view)
        while True:
            out, used, done = self._decode(view[at : at + _SLICE], at)
            at += used
            if out:
                yield out
            if done:
                self._inside = False
                self._frames += 1
                return at
            if at == size and len(out) < MAX_CHUNK:
                return at
            if not used and not out:
                raise self._corrupt("the library does not go on", at)

    def _decode(self, piece: bytes | memoryview, at: int) -> tuple[bytes, int, bool]:
        try:
            made: tuple[bytes, int, bool] = self._library.decompress_chunk(self._context, piece, max_length=MAX_CHUNK)
        except (RuntimeError, ValueError, EOFError, OSError) as error:
            raise self._corrupt(error, at) from error
        return made
