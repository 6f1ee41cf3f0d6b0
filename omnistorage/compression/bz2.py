"""Bzip2 on Python's own ``bz2``."""

from __future__ import annotations

from dataclasses import dataclass

from omnistorage.core.stages import Stage
from omnistorage.errors import ConfigError

from .members import MemberDecoder, MemberEncoder


@dataclass(frozen=True)
class Bz2:
    """bzip2, as the program of that name writes it.

    ``level`` 1 to 9, 9 by default: the size of a block in 100 kB. Reading takes about 4 MiB for level 9, writing 8.

    Writing makes one stream. The format has no way to end a block and go on, so ``flush`` ends the stream and what
    follows is another. Reading takes any number of streams; the checksums of blocks and streams are verified. Anything
    else behind a stream, an empty input, and a cut anywhere but exactly between two streams is ``CorruptData``. Wrong
    settings are ``ConfigError``.
    """

    name = "bz2"
    suffixes = (".bz2",)
    magic = b"BZh"
    content_type = "application/x-bzip2"

    level: int = 9

    def __post_init__(self) -> None:
        if type(self.level) is not int or not 1 <= self.level <= 9:
            raise ConfigError(f"bz2 has levels 1 to 9, not {self.level!r}")

    def encoder(self) -> Stage[bytes, bytes]:
        """A stage that makes one stream; each ``flush`` with something to flush ends it and begins another."""
        import bz2

        return MemberEncoder(lambda: bz2.BZ2Compressor(self.level))

    def decoder(self) -> Stage[bytes, bytes]:
        """A stage that reads streams to the end; memory stays within some MiB whatever the input expands to."""
        import bz2

        return MemberDecoder("bz2", bz2.BZ2Decompressor, (OSError, ValueError, EOFError))
