"""LengthPrefixed: the kit in several settings, its own edges, the goals that concern it, and protobuf."""

from __future__ import annotations

import io
import random
import tracemalloc
from typing import Any

import google_crc32c
import pytest
from google.protobuf import proto
from google.protobuf.struct_pb2 import Struct as Message
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistorage.errors import ConfigError, CorruptData, RecordError
from omnistorage.formats.length_prefixed import LengthPrefixed
from omnistorage.testing.codecs import pieces
from omnistorage.testing.formats import FormatTests

from ..budget import pick

KINDS = [LengthPrefixed(prefix, crc32c=crc) for prefix in ("be32", "le32", "varint") for crc in (False, True)]
HEADS = {
    "be32": lambda size: size.to_bytes(4, "big"),
    "le32": lambda size: size.to_bytes(4, "little"),
    "varint": lambda size: bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7]),
}


def read(fmt: LengthPrefixed, data: bytes, sizes: Any = (1 << 16,), on_bad: Any = None) -> list[bytes]:
    decoder = fmt.decoder(on_bad)
    batches = [batch for chunk in pieces(data, sizes) for batch in decoder.feed(chunk)]
    batches += decoder.finish()
    return [record for batch in batches for record in batch]


def write(fmt: LengthPrefixed, *records: Any) -> bytes:
    encoder = fmt.encoder()
    return b"".join([*encoder.feed(records), *encoder.finish()])


def wrong_crc(fmt: LengthPrefixed, payload: bytes) -> tuple[bytes, bytes]:
    frame = bytearray(write(fmt, payload))
    frame[-1] ^= 1
    return bytes(frame), payload


class LengthPrefixedTests(FormatTests):
    records = st.binary(max_size=30) | st.binary(min_size=100, max_size=300)
    unencodable = ("text", None, 7, ["a"], b"x" * 1001, bytearray(1001), memoryview(bytes(1001)), {"a": 1})

    def record_of_size(self, size: int) -> bytes:
        return b"r" * size

    # Where a length is too large nothing behind it can be found: that is no bad record.

    test_an_oversized_record_is_not_held_in_memory = None

    def test_an_oversized_record_is_one_bad_record_and_the_rest_goes_on(self) -> None:
        good = self.samples(3)
        for size in (1001, 3000, 70_000):
            start, large = self.encode(good), self.encode([self.record_of_size(size)])
            for sizes in ([1 << 20], [777], [1]):
                errors: list[RecordError] = []
                with pytest.raises(CorruptData, match="max_record=1000") as caught:
                    self.decode(start + large + start, sizes, errors.append, self.limited)
                assert caught.value.offset == len(start)
                assert errors == []


class TestBigEndian(LengthPrefixedTests):
    format = LengthPrefixed()
    limited = LengthPrefixed(max_record=1000)
    dropping = LengthPrefixed(allow_partial_tail=True)


@pytest.mark.ci_only
class TestLittleEndian(LengthPrefixedTests):
    format = LengthPrefixed("le32")
    limited = LengthPrefixed("le32", max_record=1000)
    dropping = LengthPrefixed("le32", allow_partial_tail=True)


class TestVarint(LengthPrefixedTests):
    format = LengthPrefixed("varint")
    limited = LengthPrefixed("varint", max_record=1000)
    dropping = LengthPrefixed("varint", allow_partial_tail=True)


@pytest.mark.ci_only
class TestBigEndianWithCrc(LengthPrefixedTests):
    format = LengthPrefixed(crc32c=True)
    limited = LengthPrefixed(crc32c=True, max_record=1000)
    dropping = LengthPrefixed(crc32c=True, allow_partial_tail=True)
    bad = (wrong_crc(format, b""), wrong_crc(format, b"some payload"), (bytes(8), b""))


class TestVarintWithCrc(LengthPrefixedTests):
    format = LengthPrefixed("varint", crc32c=True)
    limited = LengthPrefixed("varint", crc32c=True, max_record=1000)
    dropping = LengthPrefixed("varint", crc32c=True, allow_partial_tail=True)
    bad = (wrong_crc(format, b""), wrong_crc(format, b"some payload"), (bytes(5), b""))


@pytest.mark.ci_only
class TestLargeRecordsWithCrc(LengthPrefixedTests):
    format = LengthPrefixed("le32", crc32c=True)
    bad = (wrong_crc(format, b"r" * 70_000), (wrong_crc(format, b"s" * 65_536)))[1:]

    def samples(self, count: int = 20) -> list[bytes]:
        return super().samples(min(count, 20))

    test_an_oversized_record_is_one_bad_record_and_the_rest_goes_on = None
    test_a_record_that_cannot_be_encoded_raises_record_error_and_does_no_harm = None
    test_feed_raises_before_any_output = None
    test_what_it_writes_its_own_reader_accepts = None
    test_many_bad_records_are_reported_and_no_good_one_is_lost = None


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": "be16"},
        {"prefix": None},
        {"prefix": ["be32"]},
        {"crc32c": 1},
        {"allow_partial_tail": None},
        {"max_record": 0},
        {"max_record": True},
        {"max_record": 1.0},
        {"max_record": 1 << 32},
        {"prefix": "varint", "max_record": 1 << 63},
    ],
)
def test_wrong_settings_are_config_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LengthPrefixed(**options)


# The bytes.


@pytest.mark.parametrize(
    ("prefix", "data"),
    [
        ("be32", b"\0\0\0\2ab\0\0\0\0\0\0\1\x2c" + b"c" * 300),
        ("le32", b"\2\0\0\0ab\0\0\0\0\x2c\1\0\0" + b"c" * 300),
        ("varint", b"\2ab\0\xac\2" + b"c" * 300),
    ],
)
def test_a_record_stands_behind_its_length(prefix: Any, data: bytes) -> None:
    fmt, records = LengthPrefixed(prefix), [b"ab", b"", b"c" * 300]
    assert write(fmt, *records) == data
    assert b"".join(map(fmt.encoder().encode, records)) == data
    assert read(fmt, data) == records


@pytest.mark.parametrize("prefix", HEADS)
def test_the_crc_is_of_prefix_and_payload_and_stands_behind_them(prefix: Any) -> None:
    for payload in (b"", b"123456789", b"x" * 300):
        frame = HEADS[prefix](len(payload)) + payload
        crc = google_crc32c.value(frame).to_bytes(4, "big" if prefix == "be32" else "little")
        assert write(LengthPrefixed(prefix, crc32c=True), payload) == frame + crc
    assert google_crc32c.value(b"123456789") == 0xE3069283  # the check value of CRC-32C: plain, not masked


def test_buffers_are_written_as_their_bytes() -> None:
    words: Any = memoryview(b"abcdefgh").cast("I")  # its len is 2
    for fmt in KINDS:
        encoder = fmt.encoder()
        expected = write(fmt, b"a", b"abcdefgh")
        assert write(fmt, bytearray(b"a"), words) == expected
        assert encoder.encode(bytearray(b"a")) + encoder.encode(words) == expected
    record = bytearray(b"a")
    data = LengthPrefixed().encoder().encode(record)  # type: ignore[arg-type]
    record[:] = b"bc"
    assert data == b"\0\0\0\1a"


@pytest.mark.ci_only
def test_every_size_around_the_borders_of_varints_tables_and_batches_reads_back() -> None:
    sizes = [
        n + d for n in (0, 127, 128, 4095, 4096, 16383, 16384, 65531, 65532, 65536) for d in (-1, 0, 1) if n + d >= 0
    ]
    records = [bytes([size % 251]) * size for size in sizes]
    for fmt in KINDS:
        data = write(fmt, *records)
        for chunk in (1, 4096, 65536, 1 << 20):
            assert read(fmt, data, [chunk]) == records
    _, table = LengthPrefixed("varint", max_record=5000), [b"x" * 4999]
    assert (
        read(LengthPrefixed("varint", max_record=4999), write(LengthPrefixed("varint", max_record=4999), *table))
        == table
    )


def test_longer_forms_of_a_varint_are_read_as_protobuf_reads_them() -> None:
    fmt = LengthPrefixed("varint")
    for longer in (b"\x82\0", b"\x82\x80\0", b"\x82" + b"\x80" * 8 + b"\0"):
        for size in (1, 2, 100):
            assert read(fmt, b"\1x" + longer + b"ab" + b"\1y", [size]) == [b"x", b"ab", b"y"]


# Damage.


@pytest.mark.parametrize("fmt", KINDS, ids=repr)
def test_goal_15_a_cut_at_any_byte_is_noticed(fmt: LengthPrefixed) -> None:
    records = [b"", b"one", b"x" * 200, b"", b"last"]
    data = write(fmt, *records)
    ends = {len(write(fmt, *records[:n])) for n in range(len(records) + 1)}
    assert len(ends) == 6
    for end in range(len(data)):
        for sizes in ([1], [1 << 16]):
            if end in ends:
                assert read(fmt, data[:end], sizes) == records[: sorted(ends).index(end)]
            else:
                with pytest.raises(CorruptData, match="ends within a record") as caught:
                    read(fmt, data[:end], sizes)
                assert caught.value.offset == max(at for at in ends if at < end)


def test_goal_16_with_a_crc_no_flipped_bit_is_silent() -> None:
    for fmt in KINDS:
        if fmt.crc32c:
            data = write(fmt, b"payload one", b"", b"x" * 40)
            for bit in range(8 * len(data)):
                damaged = bytearray(data)
                damaged[bit // 8] ^= 1 << bit % 8
                with pytest.raises((CorruptData, RecordError)):
                    read(fmt, bytes(damaged))


def test_a_run_of_zeros_is_no_run_of_records_where_there_is_a_crc() -> None:
    assert read(LengthPrefixed(), bytes(12)) == [b""] * 3
    for fmt in KINDS:
        if fmt.crc32c:
            with pytest.raises(RecordError, match="CRC32C"):
                read(fmt, bytes(64))


LARGE = 1 << 32


@pytest.mark.parametrize(
    ("prefix", "head", "says"),
    [
        ("be32", b"\xff\xff\xff\xff", "4294967295 bytes"),
        ("le32", b"\xff\xff\xff\xff", "4294967295 bytes"),
        ("varint", b"\xff\xff\xff\xff\x0f", "4294967295 bytes"),
        ("varint", b"\xff" * 9 + b"\1", "18446744073709551615 bytes"),
        ("varint", b"\xff" * 9 + b"\2", "more than 10 bytes or 64 bits"),
        ("varint", b"\xff" * 11, "more than 10 bytes or 64 bits"),
        ("varint", b"\x80" * 10 + b"\0", "more than 10 bytes or 64 bits"),
    ],
)
@pytest.mark.parametrize("crc", [False, True])
def test_goal_19_an_absurd_length_raises_before_anything_is_allocated(
    prefix: Any, head: bytes, says: str, crc: bool
) -> None:
    fmt = LengthPrefixed(prefix, crc32c=crc)
    start = write(fmt, b"fine")
    for sizes in ([1], [1 << 16]):
        chunks, seen, peak = pieces(start + head + b"abc", sizes), [], 0
        decoder = fmt.decoder()
        tracemalloc.start()
        try:
            with pytest.raises(CorruptData, match=says) as caught:
                for chunk in chunks:
                    for batch in decoder.feed(chunk):
                        seen += batch
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert seen == [b"fine"]
        assert caught.value.offset == len(start)
        assert peak < 64 * 1024


def test_goal_19_a_length_that_is_allowed_takes_no_memory_before_its_bytes_come() -> None:
    for fmt in KINDS:
        head = write(LengthPrefixed(fmt.prefix), bytes(16 << 20))[:4]
        decoder = fmt.decoder()
        tracemalloc.start()
        try:
            assert list(decoder.feed(head + b"x" * 1000)) == []
            with pytest.raises(CorruptData, match="ends within"):
                list(decoder.finish())
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 64 * 1024


def test_a_large_record_in_small_chunks_takes_linear_time_and_memory() -> None:
    record = random.Random(1).randbytes(4 << 20)
    for fmt in (LengthPrefixed(), LengthPrefixed("varint", crc32c=True)):
        chunks, decoder = pieces(write(fmt, record), [100]), fmt.decoder()
        tracemalloc.start()
        try:
            batches = [batch for chunk in chunks for batch in decoder.feed(chunk)]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert batches == [[record]]
        assert peak < 4 * len(record)


@settings(max_examples=pick(default=30, ci=300, soak=1000), deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1, 3, 64, 1000, 1 << 16]), fmt=st.sampled_from(KINDS[1::2]))
def test_goal_21_no_good_record_is_lost_among_those_with_a_wrong_crc(seed: int, size: int, fmt: LengthPrefixed) -> None:
    chance = random.Random(seed)
    share, data, good, wrong = chance.random() / 2, bytearray(), [], []
    for number in range(1, chance.randint(2, 300)):
        payload = chance.randbytes(chance.choice((0, 1, 20, 200)))
        frame = bytearray(write(fmt, payload))
        if chance.random() < share:
            frame[-chance.randint(1, 4)] ^= 1 << chance.randrange(8)
            wrong.append((number, len(data), payload))
        else:
            good.append(payload)
        data += frame
    errors: list[RecordError] = []
    assert read(fmt, bytes(data), [size], errors.append) == good
    assert [(error.number, error.offset, error.raw) for error in errors] == wrong


# Protobuf.


def messages() -> list[Message]:
    made = []
    for number in range(300):
        message = Message()
        message.update({"n": number, "text": "é" * (number * 3), "none": None})
        made.append(message)
    return [Message(), *made]


def test_protobuf_reads_the_delimited_messages_that_we_write() -> None:
    stream = io.BytesIO(write(LengthPrefixed("varint"), *(message.SerializeToString() for message in messages())))
    found = []
    while (message := proto.parse_length_prefixed(Message, stream)) is not None:
        found.append(message)
    assert found == messages()


def test_we_read_the_delimited_messages_that_protobuf_writes() -> None:
    stream = io.BytesIO()
    for message in messages():
        proto.serialize_length_prefixed(message, stream)
    for size in (1, 1000, 1 << 20):
        found = read(LengthPrefixed("varint"), stream.getvalue(), [size])
        assert [Message.FromString(record) for record in found] == messages()
