"""XZ on Python's own ``lzma``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from omnistorage.core.stages import Stage
from omnistorage.errors import ConfigError

from .members import MemberDecoder, MemberEncoder

_CHECKS = {"none": 0, "crc32": 1, "crc64": 4, "sha256": 10}  # section 2.1.1.2 of the specification
_UNTRUSTED_MEMORY = 24 << 20


@dataclass(frozen=True)
class Xz:
    """The .xz format, version 1.2 of https://tukaani.org/xz/xz-file-format.txt; not .lzma, which has no checksum.

    ``level`` 0 to 9, 6 by default, and ``extreme`` for more effort: the presets of the ``xz`` program. Writing takes
    3 MiB for level 0, about 94 for 6 and 674 for 9; reading up to 65. ``check`` is ``"crc64"``, ``"crc32"``,
    ``"sha256"`` or ``"none"``; without a check, damage may go unnoticed. ``max_memory`` bounds the memory of reading: a
    stream that needs more (in bytes) is refused.

    Writing makes one stream with one block. Python's library cannot end a block and go on, so ``flush`` ends the stream
    and what follows is another. Reading takes any number of streams, with zero bytes in multiples of four between or
    after them. Anything else behind a stream, an empty input, and a cut anywhere but exactly between two streams is
    ``CorruptData``. Wrong settings are ``ConfigError``.
    """

    name = "xz"
    suffixes = (".xz",)
    magic = b"\xfd7zXZ\0"
    content_type = "application/x-xz"

    level: int = 6
    extreme: bool = False
    check: str = "crc64"
    max_memory: int = 128 << 20

    def __post_init__(self) -> None:
        if type(self.level) is not int or not 0 <= self.level <= 9:
            raise ConfigError(f"xz has levels 0 to 9, not {self.level!r}")
        if type(self.extreme) is not bool:
            raise ConfigError(f"xz extreme is True or False, not {self.extreme!r}")
        if not isinstance(self.check, str) or self.check not in _CHECKS:
            raise ConfigError(f"xz check is one of {', '.join(_CHECKS)}, not {self.check!r}")
        if type(self.max_memory) is not int or not 1 << 20 <= self.max_memory < 1 << 63:
            raise ConfigError(f"xz max_memory is a number of bytes, at least 2**20, not {self.max_memory!r}")

    def untrusted(self) -> Self:
        """This codec with ``max_memory`` lowered to 24 MiB, so that reading stays below 32 MiB whoever made the input:
        a stream may claim a dictionary of 4 GiB. Level 7 needs 16 MiB; streams of levels 8 and 9 are refused."""
        return replace(self, max_memory=min(self.max_memory, _UNTRUSTED_MEMORY))

    def encoder(self) -> Stage[bytes, bytes]:
        """A stage that makes one stream; each ``flush`` with something to flush ends it and begins another."""
        import lzma

        preset = self.level | (lzma.PRESET_EXTREME if self.extreme else 0)
        return MemberEncoder(lambda: lzma.LZMACompressor(lzma.FORMAT_XZ, _CHECKS[self.check], preset))

    def decoder(self) -> Stage[bytes, bytes]:
        """A stage that reads streams to the end; it takes at most ``max_memory`` and a few MiB."""
        import lzma

        def explain(error: Exception) -> object:
            if "Memory usage limit" not in str(error):
                return error
            return f"the stream needs more than max_memory={self.max_memory} bytes; raise it if you trust the stream"

        def check(member: Any) -> str:  # the library reads on without a word, and without verifying anything
            return "" if lzma.is_check_supported(member.check) else f"the check {member.check} is not supported"

        return MemberDecoder(
            "xz",
            lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, self.max_memory),
            (lzma.LZMAError, OSError, ValueError, EOFError),
            padding=4,
            explain=explain,
            check=check,
        )
