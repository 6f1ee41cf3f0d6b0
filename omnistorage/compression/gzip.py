"""Gzip (RFC 1952) on the fastest deflate engine that is installed.

Only deflate itself (RFC 1951) is left to the engines. Member headers and trailers are read here, because the engines
differ there: isal loses its way in an optional header field that is cut by a chunk boundary and ignores reserved flags.
So the rules are the same whichever engine runs.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from omnistorage.core.stages import MAX_CHUNK, Stage, StageBase
from omnistorage.errors import ConfigError, CorruptData, MissingExtra

_ENGINES = {"isal": "isal.isal_zlib", "zlib-ng": "zlib_ng.zlib_ng", "zlib": "zlib"}
_LEVELS = {"isal": range(4), "zlib-ng": range(10), "zlib": range(10)}
_READ_ORDER = ("isal", "zlib-ng", "zlib")
_SLICE = 1 << 18  # input goes to an engine in slices: it copies what it did not use


@cache
def _load(engine: str) -> Any:
    try:
        return import_module(_ENGINES[engine])
    except ImportError as error:
        raise MissingExtra(
            f'the gzip engine {engine!r} is not installed: pip install "omnistorage[fast]"', extra="fast"
        ) from error


def _first_installed(engines: tuple[str, ...]) -> Any:
    for engine in engines:
        try:
            return _load(engine)
        except MissingExtra:
            continue
    return zlib


def _write_order(level: int) -> tuple[str, ...]:
    # isal's level 1 is both faster and smaller than level 1 of the others; it has no counterpart to the higher ones.
    return ("isal", "zlib-ng", "zlib") if level == 1 else ("zlib-ng", "zlib")


@dataclass(frozen=True)
class Gzip:
    """gzip, RFC 1952.

    ``level`` 0 (stored) to 9, 6 by default, 1 for speed. ``engine`` None takes the fastest installed one that has such
    a level: isal for 1, else zlib-ng, else zlib; reading takes isal, zlib-ng or zlib. The same data may give other
    compressed bytes on another engine; decoded they are the same. ``engine="isal"`` (levels 0 to 3), ``"zlib-ng"`` or
    ``"zlib"`` (0 to 9) is used for both directions or refused: ``ConfigError`` for a level it does not have,
    ``MissingExtra`` when it is not installed.

    Writing makes one member with time 0 and no name, so equal input gives equal bytes. Reading takes any number of
    members, with zero bytes between or after them; checksums and lengths are verified. Anything else behind a member,
    an empty stream, and a stream cut anywhere but exactly between two members is ``CorruptData``.
    """

    name = "gzip"
    suffixes = (".gz",)
    magic = b"\x1f\x8b"
    content_type = "application/gzip"

    level: int = 6
    engine: str | None = None

    def __post_init__(self) -> None:
        if self.engine is not None and self.engine not in _ENGINES:
            raise ConfigError(f"gzip engine is one of {', '.join(_ENGINES)} or None, not {self.engine!r}")
        levels = _LEVELS[self.engine or "zlib"]
        if type(self.level) is not int or self.level not in levels:
            owner = f"the gzip engine {self.engine!r}" if self.engine else "gzip"
            raise ConfigError(f"{owner} has levels {levels[0]} to {levels[-1]}, not {self.level!r}")
        if self.engine is not None:
            _load(self.engine)

    def encoder(self) -> Stage[bytes, bytes]:
        """A stage that makes one member; ``flush`` is a sync flush (RFC 1951 3.2.4, an empty stored block)."""
        return _Encoder(_load(self.engine) if self.engine else _first_installed(_write_order(self.level)), self.level)

    def decoder(self) -> Stage[bytes, bytes]:
        """A stage that reads members to the end; memory stays within a few MiB whatever the input expands to."""
        return _Decoder(_load(self.engine) if self.engine else _first_installed(_READ_ORDER))


class _Encoder(StageBase[bytes, bytes]):
    def __init__(self, engine: Any, level: int) -> None:
        self._engine = engine
        self._deflate = engine.compressobj(level, zlib.DEFLATED, 31)

    def _feed(self, item: bytes) -> Iterator[bytes]:
        if len(item) <= _SLICE:
            out = self._deflate.compress(item)
            if out:
                yield out
            return
        view = memoryview(item).cast("B")
        for at in range(0, len(view), _SLICE):
            out = self._deflate.compress(view[at : at + _SLICE])
            if out:
                yield out

    def _flush(self) -> Iterator[bytes]:
        out = self._deflate.flush(zlib.Z_SYNC_FLUSH)
        if out:
            yield out

    def _finish(self) -> Iterator[bytes]:
        out = self._deflate.flush(zlib.Z_FINISH)
        if out:
            yield out


# Where in the stream the decoder stands.
_HEADER, _BODY, _TRAILER = range(3)
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT, _RESERVED = 2, 4, 8, 16, 0xE0
_START = b"\x1f\x8b\x08"
_HEADER_LIMIT = 1 << 18  # real headers hold a file name at most; the extra field alone can take 64 KiB


class _Decoder(StageBase[bytes, bytes]):
    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._inflate: Any = None
        self._where = _HEADER
        self._held = b""  # the beginning of a header or trailer that the end of a chunk cut
        self._step = 0  # how much of the input the engine is shown next
        self._taken = 0  # bytes of all earlier chunks, for offsets
        self._members = 0
        self._crc = 0
        self._length = 0

    def _feed(self, item: bytes) -> Iterator[bytes]:
        view = memoryview(item).cast("B")
        at, size = 0, len(view)
        while at < size or self._where == _BODY:
            if self._where == _HEADER:
                at = self._header(view, at)
            elif self._where == _TRAILER:
                at = self._trailer(view, at)
            else:
                at = yield from self._body(view, at)
                if self._where == _BODY:
                    break  # all input is used
        self._taken += size

    def _finish(self) -> Iterator[bytes]:
        if self._where != _HEADER or self._held:
            raise CorruptData("gzip: the stream is cut off within a member", offset=self._taken)
        if not self._members:
            raise CorruptData("gzip: the stream is empty; even of nothing a member is 20 bytes", offset=self._taken)
        return iter(())

    def _header(self, view: memoryview, at: int) -> int:
        """Read a member's header from ``view[at:]`` and return where it ends, or hold on to what there is of it."""
        if self._members and not self._held and not view[at]:
            padding = bytes(view[at : at + 4096])
            return at + len(padding) - len(padding.lstrip(b"\0"))
        for window in (64, _HEADER_LIMIT):
            raw = self._held + bytes(view[at : at + window])
            try:
                size = _header_size(raw)
            except ValueError as error:
                where = "behind the last member there is something else: " if self._members else ""
                raise CorruptData(f"gzip: {where}{error}", offset=self._taken + at) from None
            if size:
                at += size - len(self._held)
                self._held = b""
                self._where, self._step, self._crc, self._length = _BODY, 512, 0, 0
                self._inflate = _inflate(self._engine)
                return at
        if len(raw) >= _HEADER_LIMIT:
            raise CorruptData(f"gzip: a member's header is over {_HEADER_LIMIT} bytes", offset=self._taken + at)
        self._held = raw
        return len(view)

    def _body(self, view: memoryview, at: int) -> Generator[bytes, None, int]:
        """Inflate ``view[at:]`` to the end of the member or of the input; returns where that is."""
        inflate, engine = self._inflate, self._engine
        keeps = hasattr(inflate, "needs_input")  # it holds on to the input it has not used, instead of giving it back
        while True:
            piece = view[at : at + self._step] if not keeps or inflate.needs_input else b""
            try:
                out = inflate.decompress(piece, MAX_CHUNK)
            except engine.error as error:
                raise CorruptData(f"gzip: {error}", offset=self._taken + at) from error
            done = inflate.eof
            at += len(piece) - len(inflate.unused_data if done else b"" if keeps else inflate.unconsumed_tail)
            if out:
                self._crc = engine.crc32(out, self._crc)
                self._length += len(out)
                yield out
            if done:
                self._where, self._inflate = _TRAILER, None
                return at
            # An engine copies what it leaves over. Growing steps keep that small when members are tiny.
            self._step = min(self._step * 4, _SLICE)
            if at == len(view) and (inflate.needs_input if keeps else len(out) < MAX_CHUNK):
                return at

    def _trailer(self, view: memoryview, at: int) -> int:
        """Read CRC-32 and length (RFC 1952 2.3.1) and compare."""
        raw = self._held + bytes(view[at : at + 8 - len(self._held)])
        if len(raw) < 8:
            self._held = raw
            return len(view)
        at += 8 - len(self._held)
        if raw != (self._crc | (self._length & 0xFFFFFFFF) << 32).to_bytes(8, "little"):
            raise CorruptData("gzip: checksum or length of a member is wrong", offset=self._taken + at)
        self._held = b""
        self._where = _HEADER
        self._members += 1
        return at


def _inflate(engine: Any) -> Any:
    """A raw inflater. isal's own kind takes room for a whole chunk at once; its zlib kind, like zlib, starts small and
    asks for the interpreter lock again at each doubling, which leaves nothing of running beside other threads."""
    if engine.__name__ != _ENGINES["isal"]:
        return engine.decompressobj(-15)
    library = _igzip_lib()
    return library.IgzipDecompressor(flag=library.DECOMP_DEFLATE)


@cache
def _igzip_lib() -> Any:
    return import_module("isal.igzip_lib")


def _header_size(raw: bytes) -> int:
    """The size of the header (RFC 1952 2.3) that ``raw`` begins with; 0 if it is not whole, ValueError if bad."""
    if not raw.startswith(_START[: len(raw)]):
        raise ValueError(f"a member begins with 1f 8b 08, not with {raw[:3].hex(' ')}")
    if len(raw) < 10:
        return 0
    flags = raw[3]
    if flags & _RESERVED:
        raise ValueError("reserved flags are set in a member's header")
    end = 10
    if flags & _FEXTRA:
        end = 12 + int.from_bytes(raw[10:12], "little")
    for flag in (_FNAME, _FCOMMENT):
        if flags & flag:
            end = raw.find(b"\0", end) + 1
            if not end:
                return 0
    if flags & _FHCRC:
        end += 2
        if end <= len(raw) and zlib.crc32(raw[: end - 2]) & 0xFFFF != int.from_bytes(raw[end - 2 : end], "little"):
            raise ValueError("the checksum of a member's header is wrong")
    return end if end <= len(raw) else 0
