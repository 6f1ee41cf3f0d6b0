"""Zstd: the kit, interoperation both ways, what the frame walk must know, and the goals that concern it."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from omnistorage.compression.zstd import Zstd
from omnistorage.core.stages import MAX_CHUNK, Limit
from omnistorage.errors import ConfigError, CorruptData
from omnistorage.testing.codecs import SAMPLE, CodecTests, noise, pieces, through

from ..budget import pick
from .goals import MEMBERS, OUTPUT, cut_everywhere, flip_every_bit

MAGIC = Zstd.magic


class TestZstd(CodecTests):
    codec = Zstd()


class TestZstdThreads(CodecTests):
    codec = Zstd(threads=2)


@pytest.mark.ci_only
class TestZstdFast(CodecTests):
    codec = Zstd(level=-5)


def trained(seed: int = 1) -> bytes:
    rng = random.Random(seed)
    rows = [b'{"id":%d,"text":"streaming, layered %d"}' % (n, rng.randrange(1000)) for n in range(3000)]
    return zstandard.train_dictionary(4096, rows, dict_id=70_000 + seed).as_bytes()


DICTIONARY = trained()


class TestZstdDictionary(CodecTests):
    codec = Zstd(dictionary=DICTIONARY)


@pytest.mark.ci_only
class TestZstdRawDictionary(CodecTests):
    codec = Zstd(dictionary=SAMPLE, threads=1)


@pytest.mark.ci_only
class TestZstdWithoutChecksum(CodecTests):
    codec = Zstd(level=9, checksum=False)
    has_checksum = False


def decode(blob: bytes, size: int = 1 << 16, **options: Any) -> bytes:
    return through(Zstd(**options).decoder(), pieces(blob, [size]))


def encode(data: bytes, **options: Any) -> bytes:
    return through(Zstd(**options).encoder(), [data])


def skippable(content: bytes, kind: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + kind, len(content)) + content


def block(kind: int, size: int, content: bytes, last: bool = False) -> bytes:
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + content


def frame(*blocks: bytes, window: int = 0x58) -> bytes:
    """A frame without content size and checksum; the default window is 2 MiB."""
    return MAGIC + bytes((0, window)) + b"".join(blocks)


# Settings.


@pytest.mark.parametrize(
    "options",
    [
        {"level": 0},
        {"level": 23},
        {"level": -8},
        {"level": "3"},
        {"level": True},
        {"threads": -1},
        {"threads": 1.5},
        {"threads": 257},
        {"checksum": 1},
        {"max_window": 1023},
        {"max_window": (1 << 31) + 1},
        {"max_window": None},
        {"dictionary": "text"},
        {"dictionary": bytearray(100)},
        {"dictionary": b""},
        {"dictionary": b"7 bytes"},
        {"dictionary": DICTIONARY[:8]},
        {"dictionary": DICTIONARY[:100]},
        {"dictionary": b"\x37\xa4\x30\xec" + noise(500)},
    ],
)
def test_wrong_settings_are_config_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Zstd(**options)


def test_go_r4_the_level_is_honoured() -> None:
    data = bytes(str(random.Random(9).choices("abcdefgh", k=200_000)), "ascii")
    sizes = [len(encode(data, level=level)) for level in (-7, 1, 9, 19)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


def test_levels_are_honoured_with_threads_too_and_what_threads_write_reads_back() -> None:
    data = bytes(str(random.Random(9).choices("abcdefgh", k=1_000_000)), "ascii")
    for threads in (1, 2, 4):
        blobs = [encode(data, level=level, threads=threads) for level in (-7, 1, 9)]
        sizes = [len(blob) for blob in blobs]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == 3
        for blob in blobs:
            assert decode(blob) == data
    long = data * 5  # cut between threads, which a single one is not
    assert encode(long, level=1, threads=2) != encode(long, level=1)


def test_what_we_write_is_one_frame_with_a_content_checksum() -> None:
    for threads in (0, 2):
        blob = encode(SAMPLE * 10_000, threads=threads)
        assert zstandard.get_frame_parameters(blob).has_checksum
        assert not zstandard.get_frame_parameters(encode(SAMPLE, checksum=False)).has_checksum
        reader = zstandard.ZstdDecompressor().decompressobj()
        assert reader.decompress(blob) == SAMPLE * 10_000
        assert reader.eof
        assert not reader.unused_data


def test_the_library_loads_only_when_it_is_needed() -> None:
    code = "import sys; from omnistorage.compression.zstd import Zstd; Zstd(); print('zstandard' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


def test_untrusted_lowers_but_never_raises_the_window() -> None:
    assert Zstd(level=7).untrusted() == Zstd(level=7, max_window=8 << 20)
    assert Zstd(max_window=1 << 20).untrusted() == Zstd(max_window=1 << 20)
    with pytest.raises(CorruptData, match="max_window"):
        through(Zstd().untrusted().decoder(), [frame(block(0, 1, b"x", last=True), window=14 << 3)])
    level_19 = zstandard.ZstdCompressor(level=19).compressobj()
    blob = level_19.compress(SAMPLE) + level_19.flush()
    assert through(Zstd().untrusted().decoder(), [blob]) == SAMPLE


# Dictionaries.


def test_a_dictionary_makes_small_streams_smaller_and_its_id_stands_in_the_frame() -> None:
    data = b'{"id":77,"text":"streaming, layered 5"}'
    for threads in (0, 2):
        blob = encode(data, dictionary=DICTIONARY, threads=threads)
        assert len(blob) < len(encode(data)) - 10
        assert zstandard.get_frame_parameters(blob).dict_id == 70_001
        assert decode(blob, 1, dictionary=DICTIONARY) == data


def test_the_dictionary_is_not_printed_but_compared() -> None:
    assert repr(Zstd(dictionary=DICTIONARY)) == repr(Zstd())
    assert Zstd(dictionary=DICTIONARY) != Zstd()
    assert Zstd(dictionary=DICTIONARY) == Zstd(dictionary=bytes(DICTIONARY))


def test_a_frame_with_another_dictionary_is_refused_with_its_id_and_what_to_do() -> None:
    blob = encode(SAMPLE, dictionary=DICTIONARY)
    for options, says in (
        ({}, "none was given"),
        ({"dictionary": trained(2)}, "the one given has 70002"),
        ({"dictionary": SAMPLE}, "the one given has none"),
    ):
        for size in (1, 1 << 16):
            with pytest.raises(CorruptData, match=rf"with id 70001, {says}: give Zstd\(dictionary=") as caught:
                decode(encode(b"good") + blob, size, **options)
            assert caught.value.offset is not None


def test_frames_with_and_without_the_dictionary_mix() -> None:
    blob = encode(SAMPLE, dictionary=DICTIONARY) + encode(b"plain") + encode(SAMPLE, dictionary=DICTIONARY)
    for size in (1, 1 << 16):
        assert decode(blob, size, dictionary=DICTIONARY) == SAMPLE + b"plain" + SAMPLE


def test_a_raw_dictionary_helps_and_without_it_the_damage_is_noticed() -> None:
    blob = encode(SAMPLE, dictionary=SAMPLE)
    assert len(blob) < 30
    assert zstandard.get_frame_parameters(blob).dict_id == 0
    assert decode(blob, dictionary=SAMPLE) == SAMPLE
    for options in ({}, {"dictionary": noise(len(SAMPLE))}):
        with pytest.raises(CorruptData):
            decode(blob, **options)  # type: ignore[arg-type]


def test_the_zstandard_library_reads_dictionary_frames_and_we_read_its_ones() -> None:
    for raw in (DICTIONARY, SAMPLE):
        theirs = zstandard.ZstdCompressionDict(raw)
        blob = encode(SAMPLE, dictionary=raw)
        assert zstandard.ZstdDecompressor(dict_data=theirs).decompressobj().decompress(blob) == SAMPLE
        assert decode(zstandard.ZstdCompressor(dict_data=theirs).compress(SAMPLE), 5, dictionary=raw) == SAMPLE


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd program")
def test_the_zstd_program_and_we_read_each_others_dictionary_frames(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for raw in (DICTIONARY, SAMPLE):
        (tmp_path / "dictionary").write_bytes(raw)
        program = ["zstd", "-c", "-D", str(tmp_path / "dictionary")]
        blob = encode(SAMPLE * 50, dictionary=raw)
        assert subprocess.run([*program, "-d"], input=blob, capture_output=True, check=True).stdout == SAMPLE * 50
        theirs = subprocess.run(program, input=SAMPLE * 50, capture_output=True, check=True).stdout
        assert decode(theirs, 17, dictionary=raw) == SAMPLE * 50


# The walk along frames and blocks.


@given(
    parts=st.lists(
        st.tuples(
            st.one_of(
                st.binary(max_size=400),
                st.builds(lambda size: b"a" * size, st.integers(0, 600_000)),
                st.builds(noise, st.integers(0, 200_000)),
            ),
            st.sampled_from(["", "flush", "end", "skippable"]),
        ),
        max_size=6,
    ),
    level=st.sampled_from([-3, 1, 4]),
    checksum=st.booleans(),
    size=st.sampled_from([1, 2, 3, 7, 1000, 65_536, 10**7]),
)
def test_frames_of_any_make_decode_in_any_chunking(
    parts: list[tuple[bytes, str]], level: int, checksum: bool, size: int
) -> None:
    codec = Zstd(level, checksum=checksum)
    encoder, blob = codec.encoder(), b""
    for data, then in parts:
        blob += b"".join(encoder.feed(data))
        if then == "flush":
            blob += b"".join(encoder.flush())
        elif then:
            blob += b"".join(encoder.finish()) + (skippable(data[:50]) if then == "skippable" else b"")
            encoder = codec.encoder()
    blob += b"".join(encoder.finish())
    if len(blob) > 20_000:
        size = max(size, 1000)
    decoder, made = codec.decoder(), []
    for chunk in pieces(blob, [size]):
        for out in decoder.feed(chunk):
            assert 0 < len(out) <= MAX_CHUNK
            made.append(out)
    made += decoder.finish()
    assert b"".join(made) == b"".join(data for data, _ in parts)


def test_frame_headers_of_every_shape_are_understood() -> None:
    for size in (0, 1, 255, 256, 257, 65_791, 65_792, 300_000):
        data = noise(size)
        for options in ({}, {"write_content_size": False}, {"write_checksum": True}, {"level": 19}):
            blob = zstandard.ZstdCompressor(**options).compress(data)  # type: ignore[arg-type]
            for step in (1, 1 << 16) if size < 1000 else (5000,):
                assert decode(blob, step) == data


def test_codec_frames_and_skippable_frames_mix() -> None:
    blob = (
        skippable(b"") + encode(b"one") + skippable(noise(70_000), 15) + encode(b"") + encode(b"two") + skippable(b"x")
    )
    for size in (1, 1 << 16):
        assert decode(blob, size) == b"onetwo"


def test_a_stream_of_skippable_frames_only_raises() -> None:
    with pytest.raises(CorruptData, match="no frame"):
        decode(skippable(b"nothing else"))
    for end in range(1, 20):
        with pytest.raises(CorruptData):
            decode(encode(SAMPLE) + skippable(b"nothing else")[:end])


def test_blocks_of_repeated_bytes_come_out_a_mib_at_a_time() -> None:
    run = block(1, 1 << 17, b"z")
    blob = frame(*[run] * 400, block(0, 0, b"", last=True))
    assert len(blob) < 2000
    for size in (1, 3, 4, 5, 1 << 16):
        decoder, made = Zstd().decoder(), 0
        for chunk in pieces(blob, [size]):
            for out in decoder.feed(chunk):
                assert len(out) <= MAX_CHUNK
                made += len(out)
        assert list(decoder.finish()) == []
        assert made == 400 << 17


@pytest.mark.parametrize(
    "bad",
    [
        frame(block(3, 10, bytes(10), last=True)),  # a reserved kind of block
        frame(block(1, (1 << 17) + 1, b"x", last=True)),  # more than a block may hold
        frame(block(0, (1 << 17) + 1, bytes((1 << 17) + 1), last=True)),
        frame(block(2, 5, b"\xff" * 5, last=True)),
        MAGIC + b"\x08\x58" + block(0, 1, b"x", last=True),  # a reserved bit
        MAGIC + b"\x20\x05" + block(0, 1, b"x", last=True),  # content size 5, content 1
        MAGIC + b"\x04\x58" + block(0, 1, b"x", last=True) + b"abcd",  # checksum
        MAGIC + b"\x01\x58\x07" + block(0, 1, b"x", last=True),  # a dictionary
        b"\x27" + MAGIC[1:] + bytes(20),  # the format before 1.0
    ],
)
def test_damaged_frames_raise_corrupt_data_with_the_offset(bad: bytes) -> None:
    for start in (b"", encode(b"good")):
        for size in (1, 1 << 18):
            with pytest.raises(CorruptData) as caught:
                decode(start + bad, size)
            assert caught.value.offset is not None
            assert caught.value.offset >= len(start)


def test_a_frame_that_needs_too_large_a_window_is_refused_and_told_what_to_set() -> None:
    blob = frame(block(0, 3, b"abc", last=True), window=18 << 3)  # 2**28
    with pytest.raises(CorruptData, match=r"Zstd\(max_window=268435456\)"):
        decode(blob)
    assert decode(blob, max_window=1 << 28) == b"abc"
    one_segment = zstandard.ZstdCompressor().compress(bytes(100_000))
    assert decode(one_segment, max_window=1 << 17) == bytes(100_000)
    with pytest.raises(CorruptData, match="max_window"):
        decode(one_segment, max_window=1 << 16)


def test_goal_15_truncation_is_detected_at_every_byte() -> None:
    encoder = Zstd().encoder()
    flushed = b"".join([*encoder.feed(SAMPLE), *encoder.flush(), *encoder.feed(SAMPLE), *encoder.finish()])
    others = zstandard.ZstdCompressor().compress(SAMPLE)  # without a checksum
    blobs = (flushed, encode(b""), encode(noise(500)), encode(bytes(300_000)), others)
    cut_everywhere(decode, blobs, encode(b"a whole frame before it"))


def test_goal_16_no_flipped_bit_of_what_we_write_is_silent() -> None:
    flip_every_bit(encode, decode)


BOMB = """
import sys
from omnistorage.compression.zstd import Zstd
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
e = Zstd().encoder(); warm = b"".join([*e.feed(b"warm"), *e.finish()])
d = Zstd().decoder(); list(d.feed(warm)); list(d.finish())
blob = open(sys.argv[1], "rb").read()
before, made, d = peak(), 0, Zstd().decoder()
for at in range(0, len(blob), 1 << 20):
    for out in d.feed(blob[at : at + (1 << 20)]):
        made += len(out)
for out in d.finish():
    made += len(out)
print(made, peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux")
@pytest.mark.parametrize("kind", ["level 19", "untrusted window", "repeated bytes", "empty frames", "tiny blocks"])
def test_goal_17_bombs_stay_within_32_mib(tmp_path, kind: str) -> None:  # type: ignore[no-untyped-def]
    size = 0
    if kind == "level 19":
        size, blob = OUTPUT, zstandard.ZstdCompressor(level=19, write_checksum=True).compress(bytes(OUTPUT))
    elif kind == "untrusted window":  # filled with what does not compress; BOMB reads with the default bound
        parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=23)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        size, blob = 64 << 20, compressor.compress(noise(16 << 20) * 4) + compressor.flush()
    elif kind == "repeated bytes":
        count = pick(default=800, ci=4000, soak=8000)
        size, blob = count << 17, frame(*[block(1, 1 << 17, b"z")] * count, block(0, 0, b"", last=True))
    elif kind == "empty frames":
        blob = encode(b"") * MEMBERS
    else:
        blob = frame(*[block(0, 0, b"")] * (5 * MEMBERS), block(0, 0, b"", last=True))
    (tmp_path / "bomb").write_bytes(blob)
    run = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / "bomb")], capture_output=True, text=True, check=True
    )
    made, grown = map(int, run.stdout.split())
    assert made == size
    assert grown <= 32 * 1024, f"{grown} KiB"


def test_goal_17_a_limit_stops_a_bomb_within_a_mib() -> None:
    blob = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))
    for limit, bound in (({"max_output": 1 << 20}, 1 << 20), ({"max_ratio": 1000.0}, 16 << 20)):
        decoder, made = Limit(Zstd().decoder(), **limit), 0  # type: ignore[arg-type]
        with pytest.raises(CorruptData, match="raise the limit"):
            for out in decoder.feed(blob):
                made += len(out)
        assert made <= bound + MAX_CHUNK


# Interoperation.


def test_zstandard_reads_what_we_write_and_we_read_what_it_writes() -> None:
    data = SAMPLE * 3000
    for level in (-7, -1, 1, 3, 9, 19):
        assert zstandard.ZstdDecompressor().decompressobj().decompress(encode(data, level=level)) == data
        assert decode(zstandard.ZstdCompressor(level=level).compress(data)) == data


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd program")
def test_the_zstd_program_reads_what_we_write() -> None:
    for options in ({}, {"threads": 2}, {"level": -4}, {"checksum": False}):
        blob = encode(SAMPLE * 5000, **options) + encode(b"another frame", **options)  # type: ignore[arg-type]
        run = subprocess.run(["zstd", "-dc"], input=blob, capture_output=True, check=True)
        assert run.stdout == SAMPLE * 5000 + b"another frame"


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd program")
@pytest.mark.parametrize("options", [["-1"], ["-19"], ["--fast=5"], ["--no-check"], ["--long=27"], ["-T2", "-B65536"]])
def test_we_read_what_the_zstd_program_writes(options: list[str]) -> None:
    data = SAMPLE * 5000
    blob = subprocess.run(["zstd", "-c", *options], input=data, capture_output=True, check=True).stdout
    assert decode(blob) == data
    assert decode(blob + blob, 17) == data + data


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd program")
def test_a_longer_window_than_the_default_has_to_be_asked_for() -> None:
    blob = subprocess.run(["zstd", "-c", "-1", "--long=28"], input=SAMPLE, capture_output=True, check=True).stdout
    with pytest.raises(CorruptData, match="max_window"):
        decode(blob)
    assert decode(blob, max_window=1 << 28) == SAMPLE


@pytest.mark.skipif(shutil.which("pzstd") is None, reason="no pzstd program")
def test_codec_we_read_the_many_frames_that_pzstd_writes() -> None:
    data = noise(1 << 20) * 6 + SAMPLE
    blob = subprocess.run(["pzstd", "-c", "-p", "2"], input=data, capture_output=True, check=True).stdout
    assert blob.startswith(b"\x50\x2a\x4d\x18")
    assert decode(blob) == data
