"""Lz4: the kit, interoperation both ways, what the frame headers say, and the goals that concern it."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lz4.frame
import pyarrow
import pytest

from omnistorage.compression.lz4 import Lz4
from omnistorage.errors import ConfigError, CorruptData, MissingExtra
from omnistorage.testing.codecs import SAMPLE, CodecTests, noise, pieces, through

from ..budget import pick
from .goals import MEMBERS, OUTPUT, cut_everywhere, flip_every_bit, on_linux, stays_within_32_mib, stops_at_a_limit


class TestLz4(CodecTests):
    codec = Lz4()


@pytest.mark.ci_only
class TestLz4Strong(CodecTests):
    codec = Lz4(level=9, block_size=1 << 16, block_linked=False)


class TestLz4LargeBlocks(CodecTests):
    codec = Lz4(block_size=1 << 22)


@pytest.mark.ci_only
class TestLz4WithoutChecksum(CodecTests):
    codec = Lz4(checksum=False)
    has_checksum = False


def decode(blob: bytes, size: int = 1 << 16) -> bytes:
    return through(Lz4().decoder(), pieces(blob, [size]))


def encode(data: bytes, **options: Any) -> bytes:
    return through(Lz4(**options).encoder(), [data])


def skippable(content: bytes, kind: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + kind, len(content)) + content


@pytest.mark.parametrize(
    "options",
    [
        {"level": -1},
        {"level": 17},
        {"level": "3"},
        {"level": False},
        {"block_size": 0},
        {"block_size": 7},
        {"block_size": 65_537},
        {"block_size": "65536"},
        {"block_size": 65_536.0},
        {"block_linked": 1},
        {"checksum": None},
    ],
)
def test_wrong_settings_are_config_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Lz4(**options)


def test_every_setting_reaches_the_frame() -> None:
    data = b"".join(b'{"n":%d,"square":%d}\n' % (n, n * n) for n in range(20_000))
    sizes = [len(encode(data, level=level)) for level in (0, 3, 9, 12)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    for block_size in (1 << 16, 1 << 18, 1 << 20, 1 << 22):
        for flag in (False, True):
            blob = encode(data, block_size=block_size, block_linked=flag, checksum=not flag)
            info = lz4.frame.get_frame_info(blob)
            assert info["block_size"] == block_size
            assert info["block_linked"] is flag
            assert info["content_checksum"] is not flag
    assert lz4.frame.get_frame_info(encode(data))["content_checksum"] is True


def test_every_level_reads_back_and_what_we_write_is_one_frame() -> None:
    for level in range(17):
        blob = encode(SAMPLE * 3000, level=level)
        _, used, done = lz4.frame.decompress_chunk(lz4.frame.create_decompression_context(), blob)
        assert (used, done) == (len(blob), True)
        assert decode(blob) == SAMPLE * 3000


def test_without_the_library_the_codec_is_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    value = Lz4()
    for module in ("lz4", "lz4.frame"):
        monkeypatch.setitem(sys.modules, module, None)
    for call in (Lz4, value.encoder, value.decoder):
        with pytest.raises(MissingExtra, match=r"omnistorage\[lz4\]") as caught:
            call()
        assert caught.value.extra == "lz4"


def test_the_library_loads_only_when_it_is_needed() -> None:
    code = "import sys; from omnistorage.compression.lz4 import Lz4; Lz4(); print('lz4' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


# Reading.


def test_codec_frames_and_skippable_frames_mix() -> None:
    blob = (
        skippable(b"") + encode(b"one") + skippable(noise(70_000), 15) + encode(b"") + encode(b"two") + skippable(b"x")
    )
    for size in (1, 1 << 16):
        assert decode(blob, size) == b"onetwo"


def test_a_flushed_block_comes_out_whole_however_much_it_holds() -> None:
    encoder, decoder = Lz4(block_size=1 << 22).encoder(), Lz4().decoder()
    data = noise(1 << 20) + bytes(5 << 19)
    blob = b"".join([*encoder.feed(data), *encoder.flush()])
    assert b"".join(decoder.feed(blob)) == data


def test_a_stream_of_skippable_frames_only_raises() -> None:
    with pytest.raises(CorruptData, match="no frame"):
        decode(skippable(b"nothing else"))
    for end in range(1, 20):
        with pytest.raises(CorruptData):
            decode(encode(SAMPLE) + skippable(b"nothing else")[:end])


def test_legacy_frames_and_frames_with_a_dictionary_are_refused_by_name() -> None:
    legacy = b"\x02\x21\x4c\x18" + struct.pack("<I", 20) + bytes(20)
    dictionary = b"\x04\x22\x4d\x18\x65\x40" + b"\1\0\0\0" + bytes(20)
    for size in (1, 3, 1 << 16):
        for start in (b"", encode(b"good")):
            with pytest.raises(CorruptData, match="legacy format") as caught:
                decode(start + legacy, size)
            assert (caught.value.offset or 0) >= len(start)
            with pytest.raises(CorruptData, match="needs a dictionary"):
                decode(start + dictionary, size)


@pytest.mark.skipif(shutil.which("lz4") is None, reason="no lz4 program")
def test_what_the_lz4_program_writes_with_l_or_d_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "dictionary").write_bytes(SAMPLE)
    for options, says in (
        (["-l"], "legacy format"),
        (["-D", str(tmp_path / "dictionary")], "damaged|dictionary|ERROR"),
    ):
        blob = subprocess.run(["lz4", "-c", *options], input=SAMPLE, capture_output=True, check=True).stdout
        with pytest.raises(CorruptData, match=says):
            decode(blob)


def test_content_sizes_and_block_checksums_of_others_are_verified() -> None:
    blob = lz4.frame.compress(SAMPLE, block_checksum=True, store_size=True)
    assert decode(blob, 3) == SAMPLE
    for bit in range(len(blob) * 8):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert decode(bytes(damaged)) == SAMPLE, f"bit {bit}"
        except CorruptData:
            pass


def test_goal_15_truncation_is_detected_at_every_byte() -> None:
    encoder = Lz4().encoder()
    flushed = b"".join([*encoder.feed(SAMPLE), *encoder.flush(), *encoder.feed(SAMPLE), *encoder.finish()])
    others = lz4.frame.compress(SAMPLE, store_size=False)  # without a checksum
    blobs = (flushed, encode(b""), encode(noise(500)), encode(bytes(300_000)), others)
    cut_everywhere(decode, blobs, encode(b"a whole frame before it"))


def test_goal_16_no_flipped_bit_of_what_we_write_is_silent() -> None:
    flip_every_bit(encode, decode)


@on_linux
@pytest.mark.parametrize("kind", ["zeros", "large blocks", "empty frames", "wide in narrow"])
def test_goal_17_bombs_stay_within_32_mib(tmp_path: Path, kind: str) -> None:
    eights, wide = pick(default=8, ci=12, soak=12), OUTPUT >> 20
    size, blob = {
        "zeros": lambda: (OUTPUT, encode(bytes(OUTPUT))),
        "large blocks": lambda: (
            8 * eights << 20,
            encode((noise(1 << 20) + bytes(7 << 20)) * eights, block_size=1 << 22),
        ),
        "empty frames": lambda: (0, encode(b"") * MEMBERS),
        "wide in narrow": lambda: (wide << 20, encode(bytes(1 << 20)) * wide),
    }[kind]()
    stays_within_32_mib(tmp_path, "lz4", size, blob)


def test_goal_17_a_limit_stops_a_bomb_within_a_mib() -> None:
    stops_at_a_limit(Lz4(), encode(bytes(64 << 20)), 100.0)


@pytest.mark.ci_only
def test_goal_18_a_million_empty_frames_take_under_ten_seconds() -> None:
    blob = encode(b"") * 1_000_000
    start = time.process_time()
    assert through(Lz4().decoder(), pieces(blob, [1 << 20])) == b""
    assert time.process_time() - start < 10


# Interoperation.


def test_the_library_and_pyarrow_read_what_we_write_and_we_read_what_they_write() -> None:
    data = SAMPLE * 3000
    for level in (0, 3, 16):
        blob = through(Lz4(level).encoder(), pieces(data, [99_999]))
        assert lz4.frame.decompress(blob) == data
        assert pyarrow.input_stream(pyarrow.BufferReader(blob), compression="lz4").read() == data
        for linked in (False, True):
            assert decode(lz4.frame.compress(data, compression_level=level, block_linked=linked), 999) == data
    sink = pyarrow.BufferOutputStream()
    with pyarrow.output_stream(sink, compression="lz4") as stream:
        stream.write(data)
    assert decode(sink.getvalue().to_pybytes()) == data


@pytest.mark.skipif(shutil.which("lz4") is None, reason="no lz4 program")
def test_the_lz4_program_reads_what_we_write() -> None:
    for options in ({}, {"level": 9, "block_size": 1 << 22}, {"checksum": False, "block_linked": False}):
        encoder = Lz4(**options).encoder()
        blob = b"".join([*encoder.feed(SAMPLE * 3000), *encoder.flush(), *encoder.feed(b"two"), *encoder.finish()])
        run = subprocess.run(["lz4", "-dc"], input=blob + encode(b"three"), capture_output=True, check=True)
        assert run.stdout == SAMPLE * 3000 + b"twothree"


@pytest.mark.skipif(shutil.which("lz4") is None, reason="no lz4 program")
@pytest.mark.parametrize(
    "options", [["-1"], ["-12"], ["--fast=5"], ["-B4", "-BD"], ["-BX"], ["--no-frame-crc"], ["--content-size"]]
)
def test_we_read_what_the_lz4_program_writes(tmp_path: Path, options: list[str]) -> None:
    data = SAMPLE * 3000
    (tmp_path / "plain").write_bytes(data)
    subprocess.run(["lz4", "-q", *options, str(tmp_path / "plain"), str(tmp_path / "made")], check=True)
    blob = (tmp_path / "made").read_bytes()
    assert decode(blob) == data
    assert decode(blob + blob, 17) == data + data
