"""CSV: values, quotes and sizes; and that other readers see what ours sees."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistorage.core.stages import BATCH_RECORDS
from omnistorage.errors import ConfigError, CorruptData, RecordError
from omnistorage.formats.csv import Csv
from omnistorage.testing.codecs import pieces

from ..budget import pick
from .csv_tables import BOM, FIELDS, lists, read, write

SPECTRUM = Path(__file__).parents[1] / "corpora" / "csv-spectrum"

SIZES = st.sampled_from([[1], [2, 3], [7], [64], [1000], [1 << 16], [1 << 20]])


def tables(fields: st.SearchStrategy[str] = FIELDS) -> st.SearchStrategy[list[list[str]]]:
    return st.integers(1, 5).flatmap(
        lambda width: st.lists(st.lists(fields, min_size=width, max_size=width), max_size=12)
    )


# -- values, quotes, sizes ---------------------------------------------------------------------------------------------


def test_typed_columns_give_values_and_what_does_not_parse_is_a_bad_record() -> None:
    types: dict[str, Any] = {
        "i": "int",
        "f": "float",
        "b": "bool",
        "s": "str",
        "d": "date",
        "t": "datetime",
        "c": decimal.Decimal,
    }
    fmt = Csv(types=types, null="-")
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    row = {"i": -1, "f": 1.5, "b": True, "s": "x", "d": now.date(), "t": now, "c": decimal.Decimal("1.10"), "u": "9"}
    empty = {**dict.fromkeys(types), "u": "-"}
    assert read(write(row, empty, fmt=fmt), fmt=fmt) == [row, empty]
    assert read(b"i,u\n,\n", types={"i": "int"}) == [{"i": None, "u": ""}]
    assert read(b"b\nTRUE\n0\nfalse\n1\n", types={"b": "bool"}) == [{"b": b} for b in (True, False, False, True)]
    for name, wrong in (("i", "1.5"), ("i", "1_0"), ("f", "x"), ("b", "yes"), ("d", "2.1.2026"), ("c", "x")):
        data = f"{name},u\n,1\n{wrong},2\n,3\n".encode()
        errors: list[RecordError] = []
        found = read(data, on_bad=errors.append, types={name: types[name]})
        assert found == [{name: None, "u": "1"}, {name: None, "u": "3"}]
        assert str(errors[0]).startswith(f"record 2, byte 7: column '{name}': '{wrong}'")
    assert read(b"i,u\n7,x\n", rows="list", types={"i": "int"}) == [[7, "x"]]


def test_a_class_means_the_kind_of_its_name() -> None:
    classes = {
        "i": int,
        "f": float,
        "b": bool,
        "s": str,
        "d": datetime.date,
        "t": datetime.datetime,
        "c": decimal.Decimal,
    }
    kinds = {"i": "int", "f": "float", "b": "bool", "s": "str", "d": "date", "t": "datetime", "c": "decimal"}
    assert Csv(types=classes) == Csv(types=kinds)
    data = b"i,f,b,s,d,t,c\n1,2,false,x,2026-01-02,2026-01-02T03:04:05,1.10\n"
    assert read(data, types=classes) == read(data, types=kinds)
    assert read(b"ok\nfalse\n0\ntrue\n", types={"ok": bool}) == [{"ok": False}, {"ok": False}, {"ok": True}]
    errors: list[RecordError] = []
    assert read(b"i,c\n1_0,1\n1,1_0\n", on_bad=errors.append, types={"i": int, "c": decimal.Decimal}) == []
    assert len(errors) == 2


def test_nested_values_are_refused_or_written_as_json_text() -> None:
    record = {"id": 1, "tags": ["a", 'b"'], "at": {"x": [1, None]}, "pair": (1, 2)}
    with pytest.raises(RecordError):
        Csv().encoder().encode(record)
    data = b"".join(Csv(nested="json").encoder().feed([record, record]))
    types: Any = dict.fromkeys(("tags", "at", "pair"), json.loads)
    (rows,) = Csv(types=types).decoder().feed(data)
    assert rows == [{"id": "1", "tags": ["a", 'b"'], "at": {"x": [1, None]}, "pair": [1, 2]}] * 2
    for value in (b"bytes", {1, 2}, [{1, 2}]):
        with pytest.raises(RecordError):
            Csv(nested="json").encoder().encode({"a": value})


def test_a_callable_that_fails_on_its_first_value_is_a_wrong_setting_and_later_a_bad_record() -> None:
    for first in (b"when\n2026-01-02\n", b'when\n""\n2026-01-02\n'):
        errors: list[RecordError] = []
        with pytest.raises(ConfigError):
            read(first, on_bad=errors.append, types={"when": lambda text: datetime.date(text)})
        assert errors == []
    assert read(b"n\n1\nx\n", on_bad=errors.append, types={"n": lambda text: int(text)}) == [{"n": 1}]
    assert [error.raw for error in errors] == [b"x"]


def test_codec_csv_strict_a_closed_quote_ends_the_field() -> None:
    errors: list[RecordError] = []
    assert read(b'a,b\n1,2\n"b"c,3\n"b" ,3\n4,5\n', on_bad=errors.append, rows="list") == [["1", "2"], ["4", "5"]]
    assert [error.raw for error in errors] == [b'"b"c,3', b'"b" ,3']
    assert read(b'a\n5" pipe\n x"y"\n', rows="list") == [['5" pipe'], [' x"y"']]


def test_codec_csv_strict_an_unclosed_quote_is_a_torn_end() -> None:
    for size in (1, 1 << 16):
        seen: list[Any] = []
        decoder = Csv().decoder(lambda error: None)
        with pytest.raises(CorruptData, match="cut off") as caught:
            for chunk in pieces(b'a,b\n1,2\n"x,3\n4,5\n', [size]):
                for batch in decoder.feed(chunk):
                    seen += batch
            list(decoder.finish())
        assert (seen, caught.value.offset) == ([{"a": "1", "b": "2"}], 8)
        assert read(b'a,b\n1,2\n"x,3\n4,5\n', [size], allow_partial_tail=True) == [{"a": "1", "b": "2"}]


def test_a_last_row_without_a_line_break_is_a_record_if_it_is_sound() -> None:
    for end in (b"3,4", b"3,4\r", b'3,"4"', b'"3","4"\r'):
        assert read(b"a,b\n1,2\n" + end)[1] == {"a": "3", "b": "4"}
        assert len(read(b"a,b\n1,2\n" + end, allow_partial_tail=True)) == 2
    for end in (b"3", b"3,4,5", b'3,"4', b"3,\xc3", b"3,4\0", b'3,"4"x', b'"', b"x" * 200):
        with pytest.raises(CorruptData, match="cut off") as caught:
            read(b"a,b\n1,2\n" + end, max_record=100)
        assert caught.value.offset == 8
        assert read(b"a,b\n1,2\n" + end, max_record=100, allow_partial_tail=True) == [{"a": "1", "b": "2"}]
    with pytest.raises(CorruptData, match="header"):
        read(b'a,"b')
    assert read(b'a,"b', allow_partial_tail=True) == read(BOM[:2], allow_partial_tail=True) == []
    with pytest.raises(CorruptData):
        read(BOM[:2])


def test_nul_is_refused_or_kept() -> None:
    fmt = Csv(nul="keep")
    assert read(write({"a": "x\0y"}, fmt=fmt), fmt=fmt) == [{"a": "x\0y"}]
    for wrong in (lambda: read(b"a\nx\0y\n"), lambda: write({"a": "x\0y"}), lambda: write({"a": 1}, {"a": "\0"})):
        with pytest.raises(RecordError, match="NUL"):
            wrong()


def test_codec_csv_a_field_may_be_as_long_as_max_record_allows() -> None:
    before = csv.field_size_limit()
    for field in ("x" * 131_073, "x,\n" * 500_000):
        csv.field_size_limit(131_072)
        data = write({"a": field}, {"a": "y"})
        for size in (1 << 16, 1 << 20, 1 << 22):
            assert read(data, [size]) == [{"a": field}, {"a": "y"}]
        assert csv.field_size_limit() >= len(field)
    csv.field_size_limit(131_072)
    read(write(*[{"a": "x" * 1000}] * 1000))
    assert csv.field_size_limit() == 131_072, "it was raised though nothing asked for that"
    csv.field_size_limit(max(before, 131_072))


def test_a_long_row_of_many_lines_takes_linear_time_and_little_memory() -> None:
    record = {"a": "x,\n" * (1 << 20)}
    data, peak = write(record, {"a": "y"}), 0
    for fmt, expected in ((Csv(), 2), (Csv(max_record=1000), 1)):
        errors: list[RecordError] = []
        decoder, chunks, seen = fmt.decoder(errors.append), pieces(data, [1000]), []
        tracemalloc.start()
        try:
            for chunk in chunks:
                seen += [len(batch) for batch in decoder.feed(chunk)]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sum(seen) == expected
        assert len(errors) == 2 - expected
        assert peak < (12 * len(data) if expected == 2 else 1 << 20)


# -- others read the same ----------------------------------------------------------------------------------------------


def test_batches_of_a_block_are_lists_of_at_most_256() -> None:
    batches = list(Csv().decoder().feed(b"a,b\n" + b'1,"2"\n' * 3000))
    assert max(map(len, batches)) == BATCH_RECORDS
    assert sum(map(len, batches)) == 3000


def python_reads(data: bytes, **dialect: Any) -> list[list[str]]:
    text = data.decode()
    return [row for row in csv.reader(io.StringIO(text, newline="\n"), strict=True, **dialect) if row]


DIALECTS: list[dict[str, Any]] = [
    {},
    {"delimiter": ";", "quotechar": "'"},
    {"escapechar": "\\", "doublequote": False},
    {"escapechar": "\\"},
    {"doublequote": False},
]


@settings(max_examples=pick(default=60, ci=400, soak=10_000), deadline=None)
@given(
    data=st.lists(
        st.sampled_from(
            ['"', '""', ",", ";", "\n", "\r\n", "\r", "a", "é", "'", "\\", '"a"', '",', ',"', '"\n', '\n"', " "]
        ),
        max_size=40,
    ),
    sizes=SIZES,
    dialect=st.sampled_from(DIALECTS),
    repeat=st.sampled_from([1, 1, 1, 3000]),
)
def test_any_text_is_read_as_python_reads_it_however_it_is_cut(
    data: list[str], sizes: list[int], dialect: dict[str, Any], repeat: int
) -> None:
    blob = "".join(data).encode() * repeat
    if repeat > 1:
        sizes = [max(sizes[0], 1000)]
    try:
        expected: Any = python_reads(blob.removeprefix(BOM), **dialect)
    except csv.Error:
        expected = None
    found: Any = None
    errors: list[RecordError] = []
    try:
        found = read(blob, sizes, errors.append, lists(**dialect))
    except CorruptData:
        pass
    assert (found if not errors else None) == expected


@settings(max_examples=pick(default=60, ci=400, soak=10_000), deadline=None)
@given(table=tables(), sizes=SIZES, dialect=st.sampled_from([*DIALECTS[:4], {"quoting": "all"}, {"delimiter": "\t"}]),
       end=st.sampled_from(["\n", "\r\n"]))  # fmt: skip
def test_goal_22_random_tables_round_trip(
    table: list[list[str]], sizes: list[int], dialect: dict[str, Any], end: Any
) -> None:
    fmt = lists(lineterminator=end, **dialect)
    data = write(*table, fmt=fmt)
    assert read(data, sizes, fmt=fmt) == table
    assert b"".join(map(fmt.encoder().encode, table)) == data or (table and table[0][0].startswith("\ufeff"))
    names = [str(n) for n in range(len(table[0]))] if table else ["a"]
    for fmt in (Csv(lineterminator=end, **dialect), Csv(lineterminator=end, header=names, **dialect)):
        records = [dict(zip(names, row, strict=True)) for row in table]
        assert read(write(*records, fmt=fmt), sizes, fmt=fmt) == records


@pytest.mark.parametrize("name", sorted(path.stem for path in SPECTRUM.glob("csvs/*.csv")))
def test_goal_22_csv_spectrum(name: str) -> None:
    data = (SPECTRUM / "csvs" / f"{name}.csv").read_bytes()
    expected = json.loads((SPECTRUM / "json" / f"{name}.json").read_text("utf-8"))
    assert expected
    for size in (1, 3, 1 << 16):
        assert read(data, [size]) == expected
    assert read(write(*expected)) == expected


def test_goal_22_csv_spectrum_is_all_there() -> None:
    assert len(list(SPECTRUM.glob("csvs/*.csv"))) == len(list(SPECTRUM.glob("json/*.json"))) == 12


BAD_ROWS = [
    lambda row: row[:-1],
    lambda row: row + b",more",
    lambda row: b'"quoted"more' + row,
    lambda row: b"\xff" + row,
    lambda row: b"\0" + row,
    lambda row: b"a\rb" + row,
    lambda row: b'"two\nlines" ' + row,
    lambda row: b"x" + row,
]


@settings(max_examples=pick(default=40, ci=400, soak=10_000), deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1, 3, 64, 1000, 1 << 16]))
def test_goal_21_no_good_row_is_lost_among_bad_ones(seed: int, size: int) -> None:
    chance = random.Random(seed)
    share, data, good, wrong = chance.random() / 2, bytearray(b"n,s\n"), [], []
    for number in range(1, chance.randint(2, 300 if chance.random() < 0.1 else 80)):
        text = "".join(chance.choices('ab,"\n\ré ', k=chance.randint(1, 12)))
        row = write([number, text], fmt=lists()).removesuffix(b"\n")
        if chance.random() < share:
            spoilt = chance.choice(BAD_ROWS)
            row = b"%d" % number if spoilt is BAD_ROWS[0] else spoilt(row)
            wrong.append((number, len(data), row))
        else:
            good.append({"n": number, "s": text})
        data += row + chance.choice([b"\n", b"\n", b"\r\n"])
    errors: list[RecordError] = []
    assert read(bytes(data), [size], errors.append, types={"n": "int"}) == good
    assert [(error.number, error.offset, error.raw.removesuffix(b"\r")) for error in errors] == wrong


def arrow_table() -> pyarrow.Table:
    texts = ["plain", "with, comma", 'with "quotes"', "two\nlines", "two\r\nlines", " spaces ", "é ʤ", "x" * 5000] * 50
    return pyarrow.table({"n": pyarrow.array(range(len(texts))), "text, and more": pyarrow.array(texts)})


def test_pyarrow_reads_what_we_write() -> None:
    rows = arrow_table().to_pylist()
    for options in ({}, {"quoting": "all"}, {"lineterminator": "\r\n"}, {"bom": True}, {"delimiter": ";"}):
        data = write(*rows, **options)
        found = pyarrow.csv.read_csv(
            io.BytesIO(data),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, delimiter=options.get("delimiter", ",")),
        )
        assert found.to_pylist() == rows


def test_we_read_what_pyarrow_writes() -> None:
    for style in ("needed", "all_valid"):
        sink = io.BytesIO()
        pyarrow.csv.write_csv(arrow_table(), sink, pyarrow.csv.WriteOptions(quoting_style=style))
        for size in (1, 1000, 1 << 20):
            assert read(sink.getvalue(), [size], types={"n": "int"}) == arrow_table().to_pylist()


FORMULAS = ["=HYPERLINK(1)", "@SUM(1)", "-2+3", "+1+1", "\t=1", "\r=1", "\n=1", "\uff1d1", "=", "-2", "1=1", "+1.5e3"]
HARMLESS = {"=", "-2", "1=1", "+1.5e3"}


class _Sly:
    def __str__(self) -> str:
        return "=1"


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_kept_quoted_or_refused(text: str) -> None:
    table = [["a", text], [text, "b"]]
    safe = [[field if field in HARMLESS or field in "ab" else f"'{field}" for field in row] for row in table]
    assert read(write(*table, fmt=lists()), fmt=lists()) == table
    assert read(write(*table, fmt=lists(formulas="quote")), fmt=lists()) == safe
    if text in HARMLESS:
        assert read(write(*table, fmt=lists(formulas="refuse")), fmt=lists()) == table
    else:
        with pytest.raises(RecordError):
            write(*table, fmt=lists(formulas="refuse"))


def test_values_that_are_no_text_are_no_formulas_and_what_becomes_text_may_be_one() -> None:
    values = [-2, -2.5, decimal.Decimal("-1"), None, True, datetime.date(2026, 11, 25)]
    assert write(values, fmt=lists(formulas="refuse")) == write(values, fmt=lists())
    assert write([_Sly()], fmt=lists(formulas="quote")) == b"'=1\n"


def test_the_names_of_a_header_may_be_formulas() -> None:
    assert write({"=a": 1, "b": 2}, formulas="quote") == b"'=a,b\n1,2\n"
    with pytest.raises(RecordError):
        write({"=a": 1}, formulas="refuse")
    with pytest.raises(ConfigError):
        Csv(formulas="run")  # type: ignore[arg-type]
