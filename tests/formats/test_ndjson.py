"""Ndjson: the kit, its own edges, and the goals and defect rows that concern it."""

from __future__ import annotations

import datetime
import decimal
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistorage.core.stages import BATCH_RECORDS
from omnistorage.errors import ConfigError, CorruptData, RecordError
from omnistorage.formats.ndjson import Ndjson
from omnistorage.testing.codecs import pieces
from omnistorage.testing.formats import FormatTests

BOM = b"\xef\xbb\xbf"
SUITE = Path(__file__).parents[1] / "corpora" / "JSONTestSuite" / "test_parsing.zip"

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=8,
)


class Endless:
    def __repr__(self) -> str:
        raise RuntimeError("not even a repr")


def circle() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


class NdjsonTests(FormatTests):
    format = Ndjson()
    limited = Ndjson(max_record=1000)
    dropping = Ndjson(allow_partial_tail=True)
    records = _VALUES
    unencodable = (
        {1, 2},
        {1: 2},
        2**64,
        -(2**63) - 1,
        "\ud800",
        {"key": object()},
        Endless(),
        circle(),
        b'{"a":\n1}',
        b'{"a":1}\n',
        b"",
        b"  ",
        b"{nonsense",
        BOM + b"1",
        b"\xff",
        bytearray(b"[1,"),
        memoryview(b"{} {}"),
        b'"' + b"x" * 999 + b'"',
        {"long": "x" * 1000},
        orjson.Fragment(b"[1,\n2]"),
        [orjson.Fragment(b"\n")],
    )
    bad = (
        (b"{nonsense\n", b"{nonsense"),
        (b"[1,2\r\n", b"[1,2\r"),
        (b"1 2\n", b"1 2"),
        (b"NaN\n", b"NaN"),
        (b'"\xff"\n', b'"\xff"'),
        (b"x" * 1001 + b"\n", b"x" * 1001),
        (b" " * 1001 + b"\n", b" " * 1001),
        (b'"' + b"x" * 70_000 + b'"\r\n', b'"' + b"x" * 65_535),
    )

    def record_of_size(self, size: int) -> Any:
        return "x" * (size - 2)


class TestNdjson(NdjsonTests):
    pass


class TestNdjsonWithDefault(NdjsonTests):
    format = Ndjson(default=str)


class TestNdjsonOfTables(NdjsonTests):
    format = Ndjson(allow_partial_tail=True)
    records = st.dictionaries(_TEXT, st.integers(-9, 9), max_size=5)
    torn_tail = "is dropped"

    def test_a_torn_tail_is_what_the_kit_was_told(self) -> None:
        # ``dropping`` says the same of it.
        self.test_a_torn_tail_is_dropped_when_that_is_asked_for()


def read(data: bytes, size: int = 1 << 16, on_bad: Any = None, **options: Any) -> list[Any]:
    decoder = Ndjson(**options).decoder(on_bad)
    batches = [batch for chunk in pieces(data, [size]) for batch in decoder.feed(chunk)]
    batches += decoder.finish()
    return [record for batch in batches for record in batch]


def write(*records: Any, **options: Any) -> bytes:
    encoder = Ndjson(**options).encoder()
    return b"".join([*encoder.feed(records), *encoder.finish()])


@pytest.mark.parametrize(
    "options",
    [
        {"max_record": 0},
        {"max_record": "1"},
        {"max_record": True},
        {"max_record": 1.0},
        {"allow_partial_tail": 1},
        {"default": "str"},
    ],
)
def test_wrong_settings_are_config_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Ndjson(**options)


# Writing.


def test_any_value_that_orjson_serialises_is_a_record() -> None:
    when = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert write({"at": when}, None, 1.5, "\u2028\n") == (
        b'{"at":"2026-01-02T03:04:05+00:00"}\nnull\n1.5\n"\xe2\x80\xa8\\n"\n'
    )
    assert write(orjson.Fragment(b"[1]")) == b"[1]\n"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_one_already_encoded_record(kind: type) -> None:
    assert write({"a": 1}, kind(b'{"b": 2}'), kind(b" 3\t"), 4) == b'{"a":1}\n{"b": 2}\n 3\t\n4\n'
    assert Ndjson().encoder().encode(kind(b"[]")) == b"[]\n"


def test_go_r1_a_newline_in_a_record_is_refused() -> None:
    for record in (b'{"a":1}\n{"b":2}', b"1\n", b"\n", orjson.Fragment(b'{"a":1}\n{"b":2}')):
        encoder = Ndjson().encoder()
        with pytest.raises(RecordError, match="newline"):
            encoder.encode(record)
        with pytest.raises(RecordError, match="newline"):
            encoder.feed([1, record, 2])
        assert encoder.encode({"still": "usable"}) == b'{"still":"usable"}\n'


def test_go_r1_the_writer_refuses_what_its_reader_would() -> None:
    text = "x" * (1 << 20)
    assert read(write(text)) == [text]  # far beyond 64 KiB
    for options in ({"max_record": 10}, {"max_record": 1 << 20}):
        with pytest.raises(RecordError, match="max_record"):
            write(text, **options)
        with pytest.raises(RecordError, match="max_record"):
            write(b'"' + text.encode() + b'"', **options)


def test_a_record_error_shows_the_record() -> None:
    with pytest.raises(RecordError) as caught:
        write({"key": {1, 2}})
    assert caught.value.raw == b"{'key': {1, 2}}"
    assert (caught.value.number, caught.value.offset) == (None, None)
    with pytest.raises(RecordError) as caught:
        write(Endless())
    assert caught.value.raw == b"<Endless>"


def test_default_converts_what_json_has_no_type_for() -> None:
    record = {"price": decimal.Decimal("1.10"), "tags": {1}}
    assert write(record, b"[1]", default=lambda x: str(x)) == b'{"price":"1.10","tags":"{1}"}\n[1]\n'
    for default in (None, lambda x: 1 / 0, lambda x: x, lambda x: decimal.Decimal(1)):
        with pytest.raises(RecordError):
            write({"ok": 1}, record, default=default)


# Reading.


def test_crlf_blank_lines_and_a_bom_are_accepted() -> None:
    data = BOM + b'\n{"a":1}\r\n\r\n \t \n\n[2]\n   3   \r\n'
    for size in (1, 2, 3, 1 << 16):
        assert read(data, size) == [{"a": 1}, [2], 3]
    assert read(BOM) == read(BOM + b"\n") == read(b"\n\r\n \n") == read(b"   ") == []
    assert read(BOM + b'"only"') == ["only"]
    with pytest.raises(RecordError):
        read(b"1\n" + BOM + b"2\n")


def test_blank_lines_do_not_count_and_offsets_are_of_the_stream() -> None:
    data = BOM + b"\n\n1\n\r\nbad\n" + b"2\n" * 700 + b"\nworse\r\n3\n"
    for size in (1, 5, 1 << 16):
        errors: list[RecordError] = []
        assert read(data, size, errors.append) == [1, *[2] * 700, 3]
        assert [error.number for error in errors] == [2, 703]
        assert [data[error.offset :].split(b"\n")[0] for error in errors] == [error.raw for error in errors]
        assert [error.raw for error in errors] == [b"bad", b"worse\r"]
    with pytest.raises(RecordError) as caught:
        read(BOM + b"bad\n")
    assert caught.value.offset == 3


def test_lines_are_never_read_together() -> None:
    errors: list[RecordError] = []
    assert read(b'[1\n2]\n3,4\n"a\nb"\n{"c":\n5}\n', on_bad=errors.append) == []
    assert len(errors) == 7


def test_go_r3_a_torn_last_line_is_told_from_a_whole_one() -> None:
    whole = b'{"a":1}\n[2]\n'
    for tail in (b'{"b":', b'"c', b"tru", b"1", b"-12.5", b"1e9", b"3 ", b"\xef\xbb", b"[", b"nul"):
        for size in (1, 1 << 16):
            with pytest.raises(CorruptData) as caught:
                read(whole + tail, size)
            assert caught.value.offset == len(whole)
            assert read(whole + tail, size, allow_partial_tail=True) == [{"a": 1}, [2]]
    for tail, record in ((b'{"b":2}', {"b": 2}), (b'"c"\r', "c"), (b"true", True), (b" null ", None), (b"[[]]", [[]])):
        assert read(whole + tail) == [{"a": 1}, [2], record]
        assert read(whole + tail, allow_partial_tail=True) == [{"a": 1}, [2], record]


def test_go_r3_errors_carry_number_offset_and_bytes_and_pickle() -> None:
    with pytest.raises(RecordError) as caught:
        read(b'{"a":1}\n{"b":\n')
    error = caught.value
    assert (error.number, error.offset, error.raw) == (2, 8, b'{"b":')
    assert str(error).startswith("record 2, byte 8: not a JSON text")


def test_a_tail_longer_than_max_record_is_a_torn_tail() -> None:
    for tail in (b'"' + b"x" * 20 + b'"', b'"' + b"x" * 200_000 + b'"'):
        with pytest.raises(CorruptData):
            read(b"1\n" + tail, max_record=10)
        assert read(b"1\n" + tail, max_record=10, allow_partial_tail=True) == [1]


def test_max_record_counts_the_text_and_not_its_line_ending() -> None:
    text = b'"12345678"'
    for data in (text + b"\n", text + b"\r\n", BOM + text + b"\r\n", b"1\n" + text + b"\n", BOM + text + b"\r"):
        for size in (1, 4, 1 << 16):
            assert read(data, size, max_record=10)[-1] == "12345678"
            with pytest.raises((RecordError, CorruptData)):
                read(data, size, max_record=9)


def test_a_batch_is_parsed_when_it_is_asked_for() -> None:
    data = b"1\n" * 1000 + b"bad\n"
    batches = iter(Ndjson().decoder().feed(data))
    assert next(batches) == [1] * BATCH_RECORDS
    assert [len(batch) for batch in (next(batches), next(batches), next(batches))] == [256, 256, 232]
    with pytest.raises(RecordError):
        next(batches)


def test_goal_20_json_test_suite() -> None:
    outcomes: dict[str, int] = {}
    with zipfile.ZipFile(SUITE) as archive:
        for name in archive.namelist():
            # Each file is made one record: like a newline, "\r" is white space in JSON and not allowed in a string.
            text = archive.read(name).replace(b"\n", b"\r")
            try:
                outcome = {0: "no record", 1: "accepted"}[len(read(text + b"\n"))]
            except (RecordError, CorruptData):
                outcome = "rejected"
            kind = name.rpartition("/")[2][0]
            outcomes[f"{kind} {outcome}"] = outcomes.get(f"{kind} {outcome}", 0) + 1
    assert outcomes["y accepted"] == 95
    assert "n accepted" not in outcomes
    assert outcomes["n rejected"] + outcomes["n no record"] == 188
    assert outcomes["n no record"] == 3  # the blank ones: no byte, one space, only a BOM
    assert outcomes["i accepted"] + outcomes["i rejected"] == 35
    assert sum(outcomes.values()) == 318


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1, 3, 64, 1000, 1 << 16]))
def test_goal_21_no_good_line_is_lost_among_bad_ones(seed: int, size: int) -> None:
    chance = random.Random(seed)
    share, data, good, wrong = chance.random() / 2, bytearray(), [], []
    for number in range(1, chance.randint(2, 400)):
        line = json.dumps({"n": number, "s": "é" * chance.randint(0, 30)}, ensure_ascii=chance.random() < 0.5).encode()
        if chance.random() < share:
            line = line[: chance.randint(1, len(line) - 1)]
            wrong.append((number, len(data), line))
        else:
            good.append(number)
        data += line + chance.choice([b"\n", b"\n", b"\r\n"])
    errors: list[RecordError] = []
    assert [record["n"] for record in read(bytes(data), size, errors.append)] == good
    assert [(error.number, error.offset, error.raw.rstrip(b"\r")) for error in errors] == wrong
