"""Xz: the kit, interoperation both ways, and the goals that concern it."""

from __future__ import annotations

import lzma
import shutil
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from omnistorage.compression.xz import Xz
from omnistorage.errors import ConfigError, CorruptData
from omnistorage.testing.codecs import SAMPLE, CodecTests, noise, pieces, through

from ..budget import pick
from .goals import MEMBERS, OUTPUT, cut_everywhere, flip_every_bit, on_linux, stays_within_32_mib, stops_at_a_limit


class XzTests(CodecTests):
    def test_zero_bytes_behind_the_end_are_what_the_kit_was_told(self) -> None:
        """Section 2.2 of the format: stream padding comes in multiples of four bytes, unlike gzip's."""
        blob = self.encode(SAMPLE)
        for sizes in ([1 << 16], [1]):
            for zeros in range(1, 14):
                if zeros % 4:
                    self.assert_corrupt(blob + bytes(zeros), sizes, f"{zeros} zero bytes behind the end")
                    self.assert_corrupt(blob + bytes(zeros) + blob, sizes, f"{zeros} zero bytes between")
                else:
                    assert self.decode(blob + bytes(zeros), sizes) == SAMPLE
                    assert self.decode(blob + bytes(zeros) + blob, sizes) == SAMPLE * 2
            self.assert_corrupt(blob + bytes(8) + b"x", sizes, "garbage behind the zero bytes")
            self.assert_corrupt(bytes(8) + blob, sizes, "zero bytes before the first stream")


class TestXz(XzTests):
    codec = Xz(level=1)


@pytest.mark.ci_only
class TestXzExtreme(XzTests):
    codec = Xz(level=0, extreme=True, check="sha256")


@pytest.mark.ci_only
class TestXzWithoutCheck(XzTests):
    codec = Xz(level=0, check="none")
    has_checksum = False


@pytest.mark.ci_only
class TestXzUntrusted(XzTests):
    codec = Xz(level=2, check="crc32").untrusted()


def decode(blob: bytes, size: int = 1 << 16, **options: Any) -> bytes:
    return through(Xz(**options).decoder(), pieces(blob, [size]))


def encode(data: bytes, **options: Any) -> bytes:
    return through(Xz(**options).encoder(), [data])


@pytest.mark.parametrize(
    "options",
    [
        {"level": -1},
        {"level": 10},
        {"level": "6"},
        {"level": True},
        {"extreme": 1},
        {"extreme": None},
        {"check": "md5"},
        {"check": 4},
        {"check": None},
        {"check": ["crc64"]},
        {"max_memory": 0},
        {"max_memory": (1 << 20) - 1},
        {"max_memory": 1e9},
        {"max_memory": True},
        {"max_memory": 1 << 63},
    ],
)
def test_wrong_settings_are_config_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Xz(**options)


@pytest.mark.ci_only
def test_level_extreme_and_check_reach_the_library() -> None:
    data = b"".join(b'{"n":%d,"square":%d}\n' % (n, n * n) for n in range(20_000))
    blobs = {level: encode(data, level=level) for level in (0, 3, 6)}
    assert blobs == {level: lzma.compress(data, preset=level) for level in blobs}
    assert len(set(blobs.values())) == 3
    extreme = encode(data, level=2, extreme=True)
    assert extreme == lzma.compress(data, preset=2 | lzma.PRESET_EXTREME)
    assert extreme != encode(data, level=2)
    for check, number in (("none", 0), ("crc32", 1), ("crc64", 4), ("sha256", 10)):
        assert encode(SAMPLE, check=check)[7] == number
        assert decode(encode(SAMPLE, check=check), check="crc64") == SAMPLE
    assert encode(SAMPLE)[7] == 4


def test_what_we_write_is_one_stream_and_a_flush_with_something_to_flush_ends_it() -> None:
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    assert reader.decompress(encode(SAMPLE * 5000, level=1)) == SAMPLE * 5000
    assert reader.eof
    assert not reader.unused_data
    encoder = Xz(level=0).encoder()
    assert list(encoder.flush()) == []
    first = b"".join([*encoder.feed(b"one"), *encoder.flush()])
    assert list(encoder.feed(b"")) == list(encoder.flush()) == []
    assert list(encoder.finish()) == []
    assert lzma.decompress(first) == b"one"


def test_the_library_loads_only_when_it_is_needed() -> None:
    code = "import sys; from omnistorage.compression.xz import Xz; Xz(); print('lzma' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


def test_codec_concatenated_streams_are_read_and_garbage_behind_them_is_not() -> None:
    blob = lzma.compress(b"one") + lzma.compress(b"") + bytes(8) + lzma.compress(SAMPLE, preset=0)
    for size in (1, 7, 1 << 16):
        assert decode(blob, size) == b"one" + SAMPLE
        for garbage in (b"x", b"\xfd7", b"\n", noise(100)):
            with pytest.raises(CorruptData) as caught:
                decode(blob + garbage, size)
            assert len(blob) <= (caught.value.offset or 0) <= len(blob + garbage)


def test_zero_bytes_are_counted_across_inputs_of_any_size() -> None:
    blob = encode(b"one", level=0)
    for zeros, size in ((4096, 4095), (8192, 4097), (10_000, 3), (1 << 17, 1 << 16)):
        assert decode(blob + bytes(zeros) + blob, size) == b"oneone"
        with pytest.raises(CorruptData, match="multiples of 4"):
            decode(blob + bytes(zeros + 2) + blob, size)
        with pytest.raises(CorruptData, match="multiples of 4"):
            decode(blob + bytes(zeros + 1), size)


def test_the_lzma_alone_format_is_refused() -> None:
    for size in (1, 1 << 16):
        with pytest.raises(CorruptData, match="xz: Input format not supported"):
            decode(lzma.compress(SAMPLE, lzma.FORMAT_ALONE), size)


def test_a_check_the_library_cannot_verify_is_refused_instead_of_passed_over() -> None:
    flags = b"\0\x02"  # a reserved check of four bytes
    blob = bytearray(lzma.compress(SAMPLE, check=lzma.CHECK_CRC32))
    blob[6:12] = flags + struct.pack("<I", zlib.crc32(flags))
    blob[-4:-2] = flags
    blob[-12:-8] = struct.pack("<I", zlib.crc32(bytes(blob[-8:-2])))
    assert lzma.decompress(bytes(blob)) == SAMPLE  # Python passes over it
    with pytest.raises(CorruptData, match="check 2 is not supported"):
        decode(bytes(blob))


def test_a_stream_that_needs_more_memory_is_refused_and_told_what_to_set() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 256 << 20}]
    blob = lzma.compress(SAMPLE, filters=filters)
    for size in (1, 1 << 16):
        with pytest.raises(CorruptData, match="more than max_memory=134217728 bytes; raise it"):
            decode(blob, size)
    assert decode(blob, max_memory=300 << 20) == SAMPLE
    assert decode(lzma.compress(SAMPLE, preset=9)) == SAMPLE


def test_untrusted_reads_up_to_level_7_and_lowers_but_never_raises_the_bound() -> None:
    assert Xz(level=3).untrusted() == Xz(level=3, max_memory=24 << 20)
    assert Xz(max_memory=1 << 20).untrusted() == Xz(max_memory=1 << 20)
    assert through(Xz().untrusted().decoder(), [lzma.compress(SAMPLE, preset=7)]) == SAMPLE
    with pytest.raises(CorruptData, match="max_memory"):
        through(Xz().untrusted().decoder(), [lzma.compress(SAMPLE, preset=8)])


def test_goal_15_truncation_is_detected_at_every_byte() -> None:
    none = lzma.compress(SAMPLE, check=lzma.CHECK_NONE, preset=0)
    blobs = (encode(b""), encode(noise(500)), encode(bytes(300_000), level=0), none)
    cut_everywhere(decode, blobs, encode(b"a whole member before it"))


def test_goal_16_no_flipped_bit_of_what_we_write_is_silent() -> None:
    flip_every_bit(lambda data: encode(data, level=0), decode)


@on_linux
@pytest.mark.parametrize("kind", ["zeros", "the largest dictionary", "empty streams", "wide in narrow"])
def test_goal_17_untrusted_bombs_stay_within_32_mib(tmp_path: Path, kind: str) -> None:
    large, wide = pick(default=24, ci=48, soak=48), OUTPUT >> 20  # MiB; the largest dictionary has 16
    size, blob = {
        "zeros": lambda: (OUTPUT, lzma.compress(bytes(OUTPUT), preset=0)),
        "the largest dictionary": lambda: (
            large << 20,
            lzma.compress(
                noise(1 << 20) * large, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 16 << 20}]
            ),
        ),
        "empty streams": lambda: (0, lzma.compress(b"") * MEMBERS),
        "wide in narrow": lambda: (wide << 20, lzma.compress(bytes(1 << 20), preset=0) * wide),
    }[kind]()
    stays_within_32_mib(tmp_path, "xz", size, blob)


def test_goal_17_a_limit_stops_a_bomb_within_a_mib() -> None:
    stops_at_a_limit(Xz(), lzma.compress(bytes(32 << 20), preset=0), 1000.0)


@pytest.mark.ci_only
def test_goal_18_a_million_empty_streams_take_under_ten_seconds() -> None:
    blob = lzma.compress(b"") * 1_000_000
    start = time.process_time()
    assert through(Xz().decoder(), pieces(blob, [1 << 20])) == b""
    assert time.process_time() - start < 10


def test_python_reads_what_we_write_and_we_read_what_it_writes() -> None:
    data = SAMPLE * 3000
    for level in (0, 1, 6):
        assert lzma.decompress(through(Xz(level).encoder(), pieces(data, [99_999]))) == data
        for check in (lzma.CHECK_NONE, lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256):
            assert decode(lzma.compress(data, check=check, preset=level), 999) == data


@pytest.mark.skipif(shutil.which("xz") is None, reason="no xz program")
def test_the_xz_program_reads_what_we_write() -> None:
    for options in ({}, {"level": 0, "check": "sha256"}, {"extreme": True, "check": "none"}):
        encoder = Xz(**options).encoder()  # type: ignore[arg-type]
        blob = b"".join([*encoder.feed(SAMPLE * 3000), *encoder.flush(), *encoder.feed(b"two"), *encoder.finish()])
        run = subprocess.run(["xz", "-dc"], input=blob + bytes(4), capture_output=True, check=True)
        assert run.stdout == SAMPLE * 3000 + b"two"


@pytest.mark.skipif(shutil.which("xz") is None, reason="no xz program")
@pytest.mark.parametrize(
    "options", [["-0"], ["-9e"], ["-C", "none"], ["-C", "sha256"], ["-T2", "--block-size=65536"], ["--x86", "--lzma2"]]
)
def test_we_read_what_the_xz_program_writes(options: list[str]) -> None:
    data = SAMPLE * 3000
    blob = subprocess.run(["xz", "-c", *options], input=data, capture_output=True, check=True).stdout
    assert decode(blob) == data
    assert decode(blob + bytes(12) + blob, 17) == data + data
