"""Bz2: the kit, interoperation both ways, and the goals that concern it."""

from __future__ import annotations

import bz2
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from omnistorage.compression.bz2 import Bz2
from omnistorage.errors import ConfigError, CorruptData
from omnistorage.testing.codecs import SAMPLE, CodecTests, noise, pieces, through

from .goals import MEMBERS, OUTPUT, cut_everywhere, flip_every_bit, on_linux, stays_within_32_mib, stops_at_a_limit


class TestBz2(CodecTests):
    codec = Bz2()


@pytest.mark.ci_only
class TestBz2Fast(CodecTests):
    codec = Bz2(level=1)


def decode(blob: bytes, size: int = 1 << 16) -> bytes:
    return through(Bz2().decoder(), pieces(blob, [size]))


def encode(data: bytes, **options: Any) -> bytes:
    return through(Bz2(**options).encoder(), [data])


@pytest.mark.parametrize("level", [0, 10, -1, "9", 9.0, True, None])
def test_wrong_settings_are_config_errors(level: Any) -> None:
    with pytest.raises(ConfigError, match="levels 1 to 9"):
        Bz2(level=level)


def test_the_level_is_the_size_of_a_block() -> None:
    for level in range(1, 10):
        assert encode(SAMPLE, level=level)[:4] == b"BZh%d" % level
    data = bytes(str(random.Random(9).choices("abcdefgh", k=300_000)), "ascii")
    assert len(encode(data, level=1)) > len(encode(data, level=9))


def test_what_we_write_is_one_stream_and_a_flush_with_something_to_flush_ends_it() -> None:
    reader = bz2.BZ2Decompressor()
    assert reader.decompress(encode(SAMPLE * 5000)) == SAMPLE * 5000
    assert reader.eof
    assert not reader.unused_data
    encoder = Bz2().encoder()
    assert list(encoder.flush()) == []
    assert list(encoder.feed(b"one")) == []
    first = b"".join(encoder.flush())
    assert list(encoder.feed(b"")) == list(encoder.flush()) == []
    assert list(encoder.finish()) == []
    assert bz2.decompress(first) == b"one"


def test_the_library_loads_only_when_it_is_needed() -> None:
    code = "import sys; from omnistorage.compression.bz2 import Bz2; Bz2(); print('bz2' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


def test_codec_concatenated_streams_are_read_and_garbage_or_zero_bytes_behind_them_are_not() -> None:
    blob = bz2.compress(b"one") + bz2.compress(b"") + bz2.compress(SAMPLE, 1)
    for size in (1, 7, 1 << 16):
        assert decode(blob, size) == b"one" + SAMPLE
        for garbage in (b"x", b"B", b"BZ", b"BZh9", bytes(4), bytes(512), b"\n", noise(100)):
            with pytest.raises(CorruptData) as caught:
                decode(blob + garbage, size)
            assert len(blob) <= (caught.value.offset or 0) <= len(blob + garbage)


def test_goal_15_truncation_is_detected_at_every_byte() -> None:
    blobs = (encode(b""), encode(noise(500)), encode(bytes(300_000)), bz2.compress(SAMPLE, 1))
    cut_everywhere(decode, blobs, encode(b"a whole member before it"))


def test_goal_16_no_flipped_bit_of_what_we_write_is_silent() -> None:
    flip_every_bit(lambda data: encode(data, level=1), decode)


@on_linux
def test_goal_17_bombs_stay_within_32_mib(tmp_path: Path) -> None:
    many = bz2.compress(bytes(900_000))
    for size, blob in (
        (OUTPUT, bz2.compress(bytes(OUTPUT))),
        (0, bz2.compress(b"") * MEMBERS),
        (900_000 * (OUTPUT // 900_000), many * (OUTPUT // 900_000)),
    ):
        stays_within_32_mib(tmp_path, "bz2", size, blob)


def test_goal_17_a_limit_stops_a_bomb_within_a_mib() -> None:
    stops_at_a_limit(Bz2(), bz2.compress(bytes(32 << 20)), 1000.0)


@pytest.mark.ci_only
def test_goal_18_a_million_empty_streams_take_under_ten_seconds() -> None:
    blob = bz2.compress(b"") * 1_000_000
    start = time.process_time()
    assert through(Bz2().decoder(), pieces(blob, [1 << 20])) == b""
    assert time.process_time() - start < 10


@pytest.mark.ci_only
def test_pyarrow_and_python_read_what_we_write_and_we_read_what_they_write() -> None:
    data = SAMPLE * 3000
    for level in (1, 5, 9):
        blob = through(Bz2(level).encoder(), pieces(data, [99_999]))
        assert bz2.decompress(blob) == data
        assert pyarrow.input_stream(pyarrow.BufferReader(blob), compression="bz2").read() == data
        assert decode(bz2.compress(data, level), 999) == data
    sink = pyarrow.BufferOutputStream()
    with pyarrow.output_stream(sink, compression="bz2") as stream:
        stream.write(data)
    assert decode(sink.getvalue().to_pybytes()) == data


@pytest.mark.skipif(shutil.which("bzip2") is None, reason="no bzip2 program")
def test_the_bzip2_program_reads_what_we_write_and_we_read_what_it_writes() -> None:
    encoder = Bz2().encoder()
    blob = b"".join([*encoder.feed(SAMPLE * 3000), *encoder.flush(), *encoder.feed(b"two"), *encoder.finish()])
    assert (
        subprocess.run(["bzip2", "-dc"], input=blob, capture_output=True, check=True).stdout == SAMPLE * 3000 + b"two"
    )
    assert subprocess.run(["bzip2", "-t"], input=encode(b""), capture_output=True, check=True).stderr == b""
    for level in ("-1", "-9"):
        made = subprocess.run(["bzip2", "-c", level], input=SAMPLE * 3000, capture_output=True, check=True).stdout
        assert decode(made + made, 17) == SAMPLE * 6000
