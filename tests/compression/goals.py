"""What every codec is asked for the goals 15 to 18, beside the kit: at every byte, every bit, and with bombs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from omnistorage.core.stages import MAX_CHUNK, Codec, Limit
from omnistorage.errors import CorruptData
from omnistorage.testing.codecs import SAMPLE, noise, pieces

from ..budget import pick

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux")


STRIDE = pick(default=7, ci=1, soak=1)
"""Every bit, or every seventh, so that each place in a byte has its turn."""
OUTPUT = pick(default=64 << 20, ci=200_000_000, soak=200_000_000)
"""The bytes that a bomb expands to: at least twice what a decoder may take. A decoder that holds its output fails."""
MEMBERS = pick(default=20_000, ci=100_000, soak=100_000)
"""The members of a bomb of empty members. A decoder that keeps 1.6 KiB of each of 20,000 members takes over 32 MiB."""


def cuts(size: int) -> list[int]:
    """Where a blob of ``size`` bytes is cut: at every byte, or at both its ends and at every seventh byte between."""
    return [end for end in range(size) if end % STRIDE == 0 or end < 24 or end > size - 24]


def cut_everywhere(decode: Callable[[bytes, int], Any], blobs: Iterable[bytes], before: bytes) -> None:
    """Each of ``blobs`` cut at every byte is an error, alone and after the whole stream ``before``.

    In the default run that holds for input in one piece; input that comes byte by byte, and input after another stream,
    is cut at the places of ``cuts``.
    """
    for blob in blobs:
        some = cuts(len(blob))
        for end in range(len(blob)):
            with pytest.raises(CorruptData):
                decode(blob[:end], 1 << 16)
        for end in some:
            with pytest.raises(CorruptData):
                decode(blob[:end], 1)
            for size in (1, 1 << 16) if end else ():  # a cut exactly between two streams cannot be noticed
                with pytest.raises(CorruptData):
                    decode(before + blob[:end], size)


def flip_every_bit(encode: Callable[[bytes], bytes], decode: Callable[[bytes], bytes]) -> None:
    """A flipped bit is an error, or it changes nothing."""
    for data in (b"", SAMPLE, bytes(2000), noise(400), b"short"):
        blob = encode(data)
        for bit in range(0, len(blob) * 8, STRIDE):
            damaged = bytearray(blob)
            damaged[bit // 8] ^= 1 << bit % 8
            try:
                assert decode(bytes(damaged)) == data, f"bit {bit}"
            except CorruptData:
                pass


_BOMB = """
import sys
from omnistorage.compression import codec
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
value = codec(sys.argv[1])
value = value.untrusted() if hasattr(value, "untrusted") else value
value.decoder()
blob = open(sys.argv[2], "rb").read()
before, made, d = peak(), 0, value.decoder()
for at in range(0, len(blob), 1 << 20):
    for out in d.feed(blob[at : at + (1 << 20)]):
        made += len(out)
for out in d.finish():
    made += len(out)
print(made, peak() - before)
"""


def stays_within_32_mib(tmp_path: Path, name: str, size: int, blob: bytes) -> None:
    """In a process of its own ``blob`` decodes to ``size`` bytes and takes no more memory than that."""
    (tmp_path / "bomb").write_bytes(blob)
    run = subprocess.run(
        [sys.executable, "-c", _BOMB, name, str(tmp_path / "bomb")], capture_output=True, text=True, check=True
    )
    made, grown = map(int, run.stdout.split())
    assert made == size
    assert grown <= 32 * 1024, f"{grown} KiB"


def stops_at_a_limit(codec: Codec, blob: bytes, max_ratio: float) -> None:
    """``max_output`` and ``max_ratio`` end a bomb at most one chunk behind the limit."""
    for limit, bound in (({"max_output": 1 << 20}, 1 << 20), ({"max_ratio": max_ratio}, 16 << 20)):
        decoder, made = Limit(codec.decoder(), **limit), 0  # type: ignore[arg-type]
        with pytest.raises(CorruptData, match="raise the limit"):
            for piece in pieces(blob, [1 << 16]):
                for out in decoder.feed(piece):
                    made += len(out)
        assert made <= bound + MAX_CHUNK
