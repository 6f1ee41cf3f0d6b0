"""Snappy: the kit, interoperation both ways, the chunks it must know, and the goals that concern it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import cramjam
import google_crc32c
import pytest
import snappy
from hypothesis import given
from hypothesis import strategies as st

from omnistorage.compression.snappy import Snappy
from omnistorage.errors import CorruptData
from omnistorage.testing.codecs import SAMPLE, CodecTests, noise, pieces, through

from .goals import MEMBERS, OUTPUT, cut_everywhere, flip_every_bit, on_linux, stays_within_32_mib, stops_at_a_limit

IDENTIFIER = Snappy.magic
PROMISE = b"\xa7\x05\0\0omni\x01"


class TestSnappy(CodecTests):
    codec = Snappy()


def decode(blob: bytes, size: int = 1 << 16) -> bytes:
    return through(Snappy().decoder(), pieces(blob, [size]))


def encode(data: bytes) -> bytes:
    return through(Snappy().encoder(), [data])


def chunk(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + len(body).to_bytes(3, "little") + body


def masked(data: bytes) -> bytes:
    """Section 3 of the format, word by word."""
    crc = google_crc32c.value(data)
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def stored(data: bytes) -> bytes:
    return chunk(1, masked(data) + data)


def squeezed(data: bytes) -> bytes:
    return chunk(0, masked(data) + snappy.compress(data))


def trailer(data: bytes) -> bytes:
    return chunk(0xA7, b"omni\x01" + len(data).to_bytes(8, "little") + google_crc32c.value(data).to_bytes(4, "little"))


def chunks(blob: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(blob):
        end = at + 4 + int.from_bytes(blob[at + 1 : at + 4], "little")
        found.append((blob[at], blob[at + 4 : end]))
        at = end
    assert at == len(blob)
    return found


# Writing.


def test_a_stream_is_identifier_promise_chunks_and_trailer() -> None:
    assert encode(b"") == IDENTIFIER + PROMISE + trailer(b"")
    assert encode(bytes(100)) == IDENTIFIER + PROMISE + squeezed(bytes(100)) + trailer(bytes(100))
    assert encode(noise(100)) == IDENTIFIER + PROMISE + stored(noise(100)) + trailer(noise(100))


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 131_072, 200_000, 1_048_576, 1_100_000])
def test_chunks_hold_at_most_65536_bytes_of_content_and_only_the_last_one_less(size: int) -> None:
    data = (SAMPLE * 3000)[:size]
    for step in (1 << 16, 1 << 20, 1 << 24, 77_777):
        found = chunks(through(Snappy().encoder(), pieces(data, [step])))
        content = [snappy.uncompress(body[4:]) if kind == 0 else body[4:] for kind, body in found[2:-1]]
        assert b"".join(content) == data
        assert [len(part) for part in content] == [65_536] * (size // 65_536) + [size % 65_536] * (size % 65_536 > 0)


def test_a_chunk_that_compression_does_not_help_is_stored() -> None:
    data = noise(65_536) + SAMPLE * 119
    assert [kind for kind, _ in chunks(encode(data))] == [0xFF, 0xA7, 1, 0, 0xA7]


def test_flush_ends_the_chunk_and_not_the_stream() -> None:
    encoder = Snappy().encoder()
    assert b"".join(encoder.flush()) == IDENTIFIER + PROMISE
    assert list(encoder.feed(b"one")) == []
    assert b"".join(encoder.flush()) == stored(b"one")
    assert list(encoder.flush()) == []
    assert list(encoder.feed(b"two")) == []
    assert b"".join(encoder.finish()) == stored(b"two") + trailer(b"onetwo")


def test_the_libraries_load_only_when_they_are_needed() -> None:
    code = (
        "import sys; from omnistorage.compression.snappy import Snappy; Snappy();"
        "print('snappy' in sys.modules, 'google_crc32c' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


# Reading.


@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(["stored", "squeezed", "padding", "foreign", "flush", "end", "identifier", "ours"]),
            st.binary(max_size=300) | st.builds(lambda size: b"ab" * size, st.integers(0, 32_768)),
        ),
        max_size=8,
    ),
    size=st.sampled_from([1, 2, 3, 4, 5, 7, 1000, 65_536, 10**7]),
)
def test_streams_of_any_make_decode_in_any_chunking(parts: list[tuple[str, bytes]], size: int) -> None:
    blob, content = IDENTIFIER + stored(b""), b""
    for kind, data in parts:
        if kind == "ours":
            blob += encode(data) + IDENTIFIER + stored(b"")
        elif kind == "identifier":
            blob += IDENTIFIER + squeezed(b"")
        elif kind in ("stored", "squeezed"):
            blob += (stored if kind == "stored" else squeezed)(data)
        else:
            blob += chunk({"padding": 0xFE, "foreign": 0x80, "flush": 0xFD, "end": 0xA7}[kind], data)
        content += data if kind in ("stored", "squeezed", "ours") else b""
    if len(blob) > 20_000:
        size = max(size, 1000)
    assert decode(blob, size) == content


def test_codec_python_snappy_loses_whatever_a_stream_is_cut_to_and_we_do_not() -> None:
    blob = encode(SAMPLE * 2000)
    cuts, at = [0], 0
    for _, body in chunks(blob):
        at += 4 + len(body)
        cuts.append(at)
    for cut in cuts[:-1]:
        for size in (1 << 10, 1 << 20):
            with pytest.raises(CorruptData):
                decode(blob[:cut], size)
    assert snappy.StreamDecompressor().decompress(blob[: cuts[-3]])  # a part, and not a word
    foreign = bytes(cramjam.snappy.compress(SAMPLE * 2000))
    assert decode(foreign[: len(IDENTIFIER) + 4 + len(chunks(foreign)[1][1])]) == (SAMPLE * 2000)[:65_536]


def test_what_stands_before_a_damaged_chunk_is_given_out_first() -> None:
    blob = IDENTIFIER + stored(b"one") + squeezed(b"two") + chunk(1, bytes(4) + b"three")
    decoder, made = Snappy().decoder(), b""
    with pytest.raises(CorruptData, match="checksum of a chunk"):
        for out in decoder.feed(blob):
            made += out
    assert made == b"onetwo"


def test_tiny_chunks_are_given_out_before_their_objects_take_much_memory() -> None:
    outputs = [len(out) for out in Snappy().decoder().feed(IDENTIFIER + stored(b"ab") * 10_000)]
    assert sum(outputs) == 20_000
    assert max(outputs) <= 2 * 4096


def test_a_promised_trailer_is_demanded_wherever_the_stream_stops() -> None:
    promised = IDENTIFIER + PROMISE + stored(b"one")
    for behind in (b"", chunk(0xFE, b"padding"), chunk(0xA7, b"omni"), chunk(0xA7, b"other\x02 someone's")):
        with pytest.raises(CorruptData, match="trailer"):
            decode(promised + behind)
    for behind in (encode(b"two"), IDENTIFIER + stored(b"two")):
        with pytest.raises(CorruptData, match="trailer that the stream promises is missing"):
            decode(promised + behind)


def test_a_trailer_has_the_right_length_and_checksum_and_was_promised() -> None:
    for wrong in (b"on", b"onf", b"onee", b""):
        with pytest.raises(CorruptData, match="whole content"):
            decode(IDENTIFIER + PROMISE + stored(b"one") + trailer(wrong))
    for blob in (IDENTIFIER + trailer(b""), IDENTIFIER + stored(b"one") + trailer(b"one")):
        with pytest.raises(CorruptData, match="nobody promised"):
            decode(blob)
    for blob in (IDENTIFIER + stored(b"one") + PROMISE, IDENTIFIER + PROMISE + PROMISE):
        with pytest.raises(CorruptData, match="only behind an identifier"):
            decode(blob)


def test_a_trailer_of_another_version_is_refused() -> None:
    with pytest.raises(CorruptData, match="version 2"):
        decode(IDENTIFIER + chunk(0xA7, b"omni\x02") + stored(b"one"))


def test_chunks_of_others_with_the_type_of_ours_are_skipped() -> None:
    for body in (b"", b"other", b"omni", b"17 bytes of theirs"[:17], bytes(100_000)):
        for size in (1, 1 << 16):
            if len(body) < 1000 or size > 1:
                assert decode(IDENTIFIER + chunk(0xA7, body) + stored(b"one") + chunk(0xA7, body), size) == b"one"


def test_behind_a_trailer_stands_an_identifier_or_nothing() -> None:
    for kind in (0, 1, 0xFE, 0x80, 0xA7):
        with pytest.raises(CorruptData, match="behind the trailer"):
            decode(encode(b"one") + chunk(kind, masked(b"two") + b"two"))
    with pytest.raises(CorruptData, match="nothing behind its identifier"):
        decode(encode(b"one") + IDENTIFIER)
    assert decode(encode(b"one") + IDENTIFIER + stored(b"two") + encode(b"three")) == b"onetwothree"


@pytest.mark.parametrize(
    ("blob", "says"),
    [
        (b"", "empty"),
        (IDENTIFIER, "nothing behind its identifier"),
        (IDENTIFIER * 2, "nothing behind its identifier"),
        (IDENTIFIER + chunk(0xFE, bytes(9)), "nothing behind its identifier"),
        (IDENTIFIER + stored(b"one") + IDENTIFIER, "nothing behind its identifier"),
        (stored(b"one"), "one begins with ff 06 00 00"),
        (chunk(0xFE, bytes(9)) + IDENTIFIER, "one begins with"),
        (snappy.compress(SAMPLE), "one begins with"),
        (chunk(0xFF, b"sNaPpy") + stored(b"one"), "identifier that is none"),
        (chunk(0xFF, b"sNaPpYs") + stored(b"one"), "identifier of 7 bytes"),
        (IDENTIFIER + chunk(0x02, bytes(9)), "type 0x02"),
        (IDENTIFIER + chunk(0x7F, bytes(9)), "type 0x7f"),
        (IDENTIFIER + chunk(1, b"abc"), "uncompressed chunk of 3 bytes"),
        (IDENTIFIER + stored(bytes(65_537)), "uncompressed chunk of 65541 bytes"),
        (IDENTIFIER + b"\x01\xff\xff\xff", "uncompressed chunk of 16777215 bytes"),
        (IDENTIFIER + b"\x00\xff\xff\xff", "compressed chunk of 16777215 bytes"),
        (IDENTIFIER + chunk(0, b"abcd"), "compressed chunk of 4 bytes"),
        (IDENTIFIER + squeezed(bytes(65_537)), "more than 65536 bytes of content"),
        (IDENTIFIER + chunk(0, bytes(4) + b"\xff\xff\xff\xff\x0f" + bytes(20)), "more than 65536"),
        (IDENTIFIER + chunk(0, bytes(4) + b"\x80\x80\x80\x80\x80\x80\x00"), "more than 65536"),
        (IDENTIFIER + chunk(0, bytes(4) + b"\x80"), "snappy"),
        (IDENTIFIER + chunk(0, masked(b"abc") + b"\x03\xf0\xff\xff\xff\xff"), "snappy"),
        (IDENTIFIER + chunk(0, masked(b"") + snappy.compress(b"one")), "checksum of a chunk"),
        (IDENTIFIER + chunk(1, bytes(4) + b"one"), "checksum of a chunk"),
        (IDENTIFIER + chunk(1, google_crc32c.value(b"one").to_bytes(4, "little") + b"one"), "checksum of a chunk"),
    ],
)
def test_what_the_format_forbids_raises_corrupt_data(blob: bytes, says: str) -> None:
    for start in (b"", encode(b"good")):
        for size in (1, 1 << 18):
            if start and not blob:
                continue
            with pytest.raises(CorruptData, match=says) as caught:
                decode(start + blob, size)
            assert len(start) <= (caught.value.offset or 0) <= len(start + blob)


def test_a_chunk_may_be_as_long_as_snappy_makes_it_at_the_worst() -> None:
    data = noise(65_536)
    assert len(snappy.compress(data)) > 65_536
    assert decode(IDENTIFIER + squeezed(data), 9999) == data


def test_goal_15_truncation_is_detected_at_every_byte() -> None:
    encoder = Snappy().encoder()
    flushed = b"".join([*encoder.feed(SAMPLE), *encoder.flush(), *encoder.feed(SAMPLE), *encoder.finish()])
    blobs = (flushed, encode(b""), encode(noise(500)), encode(bytes(10_000)))
    cut_everywhere(decode, blobs, encode(b"a whole stream before it"))


def test_goal_16_no_flipped_bit_of_what_we_write_is_silent() -> None:
    flip_every_bit(encode, decode)


@on_linux
@pytest.mark.parametrize(
    "kind",
    [
        "zeros",
        pytest.param("chunks of two bytes", marks=pytest.mark.ci_only),
        "empty chunks",
        "empty streams",
        "padding",
    ],
)
def test_goal_17_bombs_stay_within_32_mib(tmp_path: Path, kind: str) -> None:
    size, blob = {
        "zeros": lambda: (OUTPUT, encode(bytes(OUTPUT))),
        "chunks of two bytes": lambda: (4_000_000, IDENTIFIER + stored(b"ab") * 2_000_000),
        "empty chunks": lambda: (0, IDENTIFIER + stored(b"") * (10 * MEMBERS)),
        "empty streams": lambda: (0, encode(b"") * MEMBERS),
        "padding": lambda: (3, IDENTIFIER + stored(b"one") + chunk(0xFE, bytes((1 << 24) - 1)) * 4),
    }[kind]()
    stays_within_32_mib(tmp_path, "snappy", size, blob)


def test_goal_17_a_limit_stops_a_bomb_within_a_mib() -> None:
    stops_at_a_limit(Snappy(), encode(bytes(64 << 20)), 10.0)


@pytest.mark.ci_only
def test_goal_18_a_million_empty_streams_take_under_ten_seconds() -> None:
    blob = encode(b"") * 1_000_000
    start = time.process_time()
    assert through(Snappy().decoder(), pieces(blob, [1 << 20])) == b""
    assert time.process_time() - start < 10


# Interoperation.


@pytest.mark.parametrize("data", [b"x", SAMPLE, SAMPLE * 3000, noise(300_000), bytes(1 << 20)])
def test_cramjam_and_python_snappy_read_what_we_write_and_we_read_what_they_write(data: bytes) -> None:
    blob = through(Snappy().encoder(), pieces(data, [99_999]))
    assert bytes(cramjam.snappy.decompress(blob)) == data
    assert bytes(cramjam.snappy.decompress(blob + blob)) == data + data
    assert snappy.StreamDecompressor().decompress(blob) == data
    compressor = snappy.StreamCompressor()
    theirs = b"".join(compressor.add_chunk(part) for part in pieces(data, [70_000]))
    for foreign in (theirs, bytes(cramjam.snappy.compress(data))):
        for size in (999, 1 << 20):
            assert decode(foreign, size) == data
        assert decode(foreign + foreign + blob) == data * 3


def test_other_readers_skip_what_a_stream_of_nothing_holds() -> None:
    assert bytes(cramjam.snappy.decompress(encode(b""))) == b""
    assert snappy.StreamDecompressor().decompress(encode(b"")) == b""
