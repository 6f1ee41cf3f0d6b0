"""Lines: the kit, and what is its own."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import strategies as st

from omnistorage.errors import ConfigError, CorruptData, RecordError
from omnistorage.formats.lines import Lines
from omnistorage.testing.codecs import pieces
from omnistorage.testing.formats import FormatTests


class TestLines(FormatTests):
    format = Lines()
    limited = Lines(max_record=1000)
    records = st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"\r"))
    unencodable = (b"a\nb", b"\n", "a\n", "\ud800", None, 7, ["a"], b"x" * 1001, "é" * 501, bytearray(b"\n"))
    bad = ((b"x" * 1001 + b"\n", b"x" * 1001), (b"y" * 70_000 + b"\n", b"y" * 65_536))
    torn_tail = "is a record"
    test_a_torn_tail_is_dropped_when_that_is_asked_for = None  # it is never dropped

    def record_of_size(self, size: int) -> bytes:
        return b"r" * size


def read(data: bytes, size: int = 1 << 16, **options: Any) -> list[bytes]:
    decoder = Lines(**options).decoder()
    batches = [batch for chunk in pieces(data, [size]) for batch in decoder.feed(chunk)]
    batches += decoder.finish()
    return [record for batch in batches for record in batch]


def write(*records: bytes | str) -> bytes:
    encoder = Lines().encoder()
    return b"".join([*encoder.feed(records), *encoder.finish()])


@pytest.mark.parametrize("max_record", [0, -1, "1", True, None])
def test_wrong_settings_are_config_errors(max_record: Any) -> None:
    with pytest.raises(ConfigError):
        Lines(max_record=max_record)


def test_only_the_newline_separates_and_all_else_is_kept() -> None:
    data = b"\xef\xbb\xbfa\r\n\n \x0b\x0c\x85\n\0\xff\r\r\n"
    for size in (1, 2, 1 << 16):
        assert read(data, size) == [b"\xef\xbb\xbfa\r", b"", b" \x0b\x0c\x85", b"\0\xff\r\r"]
    assert write(*read(data)) == data


def test_str_is_written_as_utf_8_and_buffers_as_their_bytes() -> None:
    records: list[Any] = ["é", b"a", bytearray(b"b"), memoryview(b"c"), ""]
    assert write(*records) == b"\xc3\xa9\na\nb\nc\n\n"
    assert b"".join(map(Lines().encoder().encode, records)) == b"\xc3\xa9\na\nb\nc\n\n"
    assert write(*records[1:4]) == b"a\nb\nc\n"


def test_a_last_line_without_newline_is_a_line() -> None:
    assert read(b"a\nb") == [b"a", b"b"]
    assert read(b"a\n\n") == [b"a", b""]
    assert read(b"\r") == [b"\r"]


def test_a_last_line_without_newline_may_be_too_long_as_well() -> None:
    for tail in (b"x" * 11, b"x" * 200_000):
        for size in (7, 1 << 16):
            with pytest.raises(CorruptData) as caught:
                read(b"a\n" + tail, size, max_record=10)
            assert caught.value.offset == 2


def test_go_r1_a_newline_in_a_record_is_refused() -> None:
    for record in (b"two\nlines", "two\nlines"):
        with pytest.raises(RecordError, match="newline"):
            write("fine", record)
        with pytest.raises(RecordError, match="newline"):
            Lines().encoder().encode(record)


def test_a_long_line_in_small_chunks_takes_linear_time_and_memory() -> None:
    line = b"x" * (4 << 20)
    decoder, chunks = Lines().decoder(), pieces(line + b"\n", [100])
    tracemalloc.start()
    try:
        batches = [batch for chunk in chunks for batch in decoder.feed(chunk)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert batches == [[line]]
    assert peak < 4 * len(line)
