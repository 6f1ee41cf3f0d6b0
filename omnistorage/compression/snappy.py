"""Snappy's framing format on ``python-snappy`` and ``google-crc32c``.

The format (https://github.com/google/snappy/blob/main/framing_format.txt) has no end: a stream that is cut between two
chunks looks whole. So what we write says at its beginning that there will be a trailer, and the trailer says how much
there was. Both are chunks that other readers skip. The libraries compress and decompress single blocks; the chunks are
walked here, because theirs overlook truncation and garbage (contracts: codec).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omnistorage.core.stages import MAX_CHUNK, Stage, StageBase
from omnistorage.errors import CorruptData

_IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"
_COMPRESSED, _STORED, _IDENTIFIES = 0x00, 0x01, 0xFF
_BLOCK = 1 << 16  # 4.2: no chunk holds more content
_COMPRESSED_MAX = 32 + _BLOCK + _BLOCK // 6  # what Snappy makes of a block at the worst

# Our own chunks, of a type that readers skip (4.4). The version counts what a trailer means.
_OURS = 0xA7
_VERSION = b"omni\x01"
_PROMISE = bytes((_OURS, len(_VERSION), 0, 0)) + _VERSION
_TRAILER_SIZE = len(_VERSION) + 8 + 4  # total length and CRC32C of the content, little-endian


@dataclass(frozen=True)
class Snappy:
    """Snappy's framing format, ``.sz``.

    Writing makes one stream that opens with the promise of a trailer and ends with it: a chunk that holds length and
    CRC32C of the whole content. Other readers skip both. ``flush`` ends the current chunk.

    Reading takes any number of streams, each with its identifier. Every chunk's checksum is verified, and the trailer
    where one was promised, so that our own streams cannot be cut anywhere without it being noticed; one that others
    wrote can, between two chunks. Anything else behind a trailer, an identifier with nothing behind it, and an empty
    input is ``CorruptData``.
    """

    name = "snappy"
    suffixes = (".sz",)
    magic = _IDENTIFIER
    content_type = "application/x-snappy-framed"

    def encoder(self) -> Stage[bytes, bytes]:
        """A stage that makes one stream; ``flush`` ends the current chunk."""
        return _Encoder()

    def decoder(self) -> Stage[bytes, bytes]:
        """A stage that reads streams to the end; it takes a few MiB of memory."""
        return _Decoder()


def _masked(crc: int) -> bytes:
    """Section 3: a checksum of data that holds checksums is a bad one, unless they are masked."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


class _Encoder(StageBase[bytes, bytes]):
    def __init__(self) -> None:
        import google_crc32c
        import snappy

        self._compress: Any = snappy.compress
        self._extend: Any = google_crc32c.extend
        self._start = _IDENTIFIER + _PROMISE
        self._parts: list[bytes] = []  # what does not fill a chunk yet
        self._held = 0
        self._length = 0
        self._crc = 0

    def _feed(self, item: bytes) -> Iterator[bytes]:
        self._parts.append(item)
        self._held += len(item)
        if self._held < _BLOCK:
            return
        whole = b"".join(self._parts)  # one part is not copied
        full = len(whole) - len(whole) % _BLOCK
        self._parts = [whole[full:]] if full < len(whole) else []
        self._held = len(whole) - full
        yield from self._chunks(whole, full)

    def _chunks(self, data: bytes, end: int) -> Iterator[bytes]:
        """``data[:end]`` as chunks, joined to outputs of less than MAX_CHUNK."""
        parts, size = [self._start], len(self._start)
        self._start = b""
        for at in range(0, end, _BLOCK):
            piece = data[at : min(at + _BLOCK, end)]
            self._crc = self._extend(self._crc, piece)
            self._length += len(piece)
            crc = self._extend(0, piece)
            body, kind = self._compress(piece), _COMPRESSED
            if len(body) >= len(piece) - len(piece) // 8:  # as Google's own writer decides
                body, kind = piece, _STORED
            parts += ((len(body) + 4 << 8 | kind).to_bytes(4, "little"), _masked(crc), body)
            size += len(body) + 8
            if size > MAX_CHUNK - _BLOCK - 8:
                yield b"".join(parts)
                parts, size = [], 0
        if size:
            yield b"".join(parts)

    def _flush(self) -> Iterator[bytes]:
        if self._held or self._start:
            data, self._parts, self._held = b"".join(self._parts), [], 0
            yield from self._chunks(data, len(data))

    def _finish(self) -> Iterator[bytes]:
        yield from self._flush()
        body = _VERSION + self._length.to_bytes(8, "little") + self._crc.to_bytes(4, "little")
        yield bytes((_OURS, len(body), 0, 0)) + body


# Where in the stream the decoder stands.
_BEFORE, _IDENTIFIED, _WITHIN, _PROMISED, _ENDED = range(5)
_PARTS = 4096  # a chunk may hold one byte, and an object for each takes memory


class _Decoder(StageBase[bytes, bytes]):
    def __init__(self) -> None:
        import google_crc32c
        import snappy

        self._uncompress: Any = snappy.uncompress
        self._error: Any = snappy.UncompressError
        self._extend: Any = google_crc32c.extend
        self._where = _BEFORE
        self._cut = bytearray()  # the beginning of a chunk that the end of an input cut
        self._need = 0  # the size that it needs before one can go on
        self._skip = 0  # bytes up to the end of a chunk that is skipped
        self._length = 0  # of the content of the stream we are in, where a trailer is promised
        self._crc = 0
        self._taken = 0  # bytes of all earlier inputs, for offsets

    def _feed(self, item: bytes) -> Iterator[bytes]:
        view = memoryview(item).cast("B")
        made: list[bytes] = []
        size = 0
        try:
            for out in self._walk(view):
                made.append(out)
                size += len(out)
                if size > MAX_CHUNK - _BLOCK or len(made) == _PARTS:
                    yield b"".join(made)
                    made, size = [], 0
        except CorruptData:
            if made:  # what stands before the damage is sound
                yield b"".join(made)
            raise
        if made:
            yield b"".join(made)
        self._taken += len(view)

    def _walk(self, view: memoryview) -> Iterator[bytes]:
        """The contents of the chunks that end in ``view``, one by one."""
        at, end = 0, len(view)
        while at < end:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
                continue
            if self._cut:
                start, at = at, at + min(self._need - len(self._cut), end - at)
                self._cut += view[start:at]
                if len(self._cut) < self._need:
                    break
                whole: bytes | memoryview = bytes(self._cut)
                if self._need == 4:
                    length = self._header(whole, at)
                    self._need += length
                    if not length:
                        self._cut.clear()
                    continue
                self._cut.clear()
            else:
                self._need = 4
                if end - at >= 4:
                    length = self._header(view[at : at + 4], at)
                    if not length:
                        at += 4
                        continue
                    self._need += length
                if end - at < self._need:
                    self._cut += view[at:]
                    break
                whole = view[at : at + self._need]
                at += self._need
            if out := self._chunk(whole, at):
                yield out

    def _finish(self) -> Iterator[bytes]:
        if self._cut or self._skip:
            raise self._corrupt("the stream is cut off within a chunk", 0)
        if self._where == _BEFORE:
            raise self._corrupt("the stream is empty; even of nothing there is an identifier", 0)
        if self._where == _IDENTIFIED:
            raise self._corrupt("the stream is cut off: there is nothing behind its identifier", 0)
        if self._where == _PROMISED:
            raise self._corrupt("the stream is cut off: the trailer that it promises is missing", 0)
        return iter(())

    def _corrupt(self, what: object, at: int) -> CorruptData:
        return CorruptData(f"snappy: {what}", offset=self._taken + at)

    def _header(self, raw: bytes | memoryview, at: int) -> int:
        """Whether the chunk that begins like this may stand here: the size of its body, 0 if it is to be skipped."""
        kind, length = raw[0], int.from_bytes(raw[1:4], "little")
        if self._where in (_BEFORE, _ENDED) and kind != _IDENTIFIES:
            where = "behind the trailer there is something else" if self._where == _ENDED else "this is no such stream"
            raise self._corrupt(f"{where}: one begins with ff 06 00 00, not with {bytes(raw).hex(' ')}", at)
        if kind == _COMPRESSED:
            if not 4 < length <= 4 + _COMPRESSED_MAX:
                raise self._corrupt(f"a compressed chunk of {length} bytes", at)
        elif kind == _STORED:
            if not 4 <= length <= 4 + _BLOCK:
                raise self._corrupt(f"an uncompressed chunk of {length} bytes", at)
        elif kind == _IDENTIFIES:
            if length != 6:
                raise self._corrupt(f"an identifier of {length} bytes", at)
            if self._where == _PROMISED:
                raise self._corrupt("the trailer that the stream promises is missing: another one begins", at)
        elif kind < 0x80:
            raise self._corrupt(f"a chunk of type {kind:#04x}, which is reserved and must not be skipped", at)
        elif kind != _OURS or length not in (len(_VERSION), _TRAILER_SIZE):
            self._skip = length  # padding, or what others have to say
            return 0
        return length

    def _chunk(self, raw: bytes | memoryview, at: int) -> bytes:
        """The content of a chunk; ``at`` is where it ends."""
        kind, body = raw[0], raw[4:]
        if kind == _IDENTIFIES:
            if body != _IDENTIFIER[4:]:
                raise self._corrupt("an identifier that is none", at)
            self._where = _IDENTIFIED
            return b""
        if kind == _OURS:
            self._own(bytes(body), at)
            return b""
        out = self._block(body[4:], at) if kind == _COMPRESSED else bytes(body[4:])
        if _masked(self._extend(0, out)) != body[:4]:
            raise self._corrupt("the checksum of a chunk is wrong", at)
        if self._where == _PROMISED:
            self._crc = self._extend(self._crc, out)
            self._length += len(out)
        else:
            self._where = _WITHIN
        return out

    def _block(self, body: bytes | memoryview, at: int) -> bytes:
        length = 0
        for shift, byte in enumerate(body[:3]):  # the length of the content, a varint: three bytes hold 2**16
            length |= (byte & 0x7F) << 7 * shift
            if byte < 0x80:
                break
        else:
            length = _BLOCK + 1
        if length > _BLOCK:
            raise self._corrupt(f"a chunk of more than {_BLOCK} bytes of content", at)
        try:
            out: bytes = self._uncompress(body)
        except self._error as error:
            raise self._corrupt(error.__cause__ or error, at) from error
        return out

    def _own(self, body: bytes, at: int) -> None:
        """A promise or a trailer, or what someone else keeps in a chunk of this type."""
        if body[:4] != _VERSION[:4]:
            return
        if body[:5] != _VERSION:
            raise self._corrupt(f"a trailer of version {body[4]} is promised, which this reader does not know", at)
        if len(body) == len(_VERSION):
            if self._where != _IDENTIFIED:
                raise self._corrupt("the promise of a trailer stands only behind an identifier", at)
            self._where, self._length, self._crc = _PROMISED, 0, 0
            return
        if self._where != _PROMISED:
            raise self._corrupt("there is a trailer that nobody promised", at)
        if body[5:] != self._length.to_bytes(8, "little") + self._crc.to_bytes(4, "little"):
            raise self._corrupt("length or checksum of the whole content is not what the trailer says", at)
        self._where = _ENDED
