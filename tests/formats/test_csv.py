"""CSV: the conformance kit in seven dialects, settings and headers."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import pickle
from typing import Any

import pytest
from hypothesis import strategies as st

from omnistorage.errors import ConfigError, CorruptData, RecordError
from omnistorage.formats.csv import Csv
from omnistorage.testing.formats import FormatTests

from .csv_tables import BOM, FIELDS, lists, read, write


class CsvTests(FormatTests):
    records = st.lists(FIELDS, min_size=1, max_size=4)
    unencodable = (
        [],
        (),
        None,
        7,
        "text",
        b"bytes",
        {"a": "b"},
        {"a"},
        ["a", b"b"],
        [["a"]],
        ["\0"],
        ["\ud800"],
        ["x" * 1001],
        ["é" * 501],
    )
    bad = (
        (b"a\0b\n", b"a\0b"),
        (b"\xff,b\r\n", b"\xff,b\r"),
        (b"a\rb\n", b"a\rb"),
        (b"x" * 1001 + b"\n", b"x" * 1001),
        (b"y" * 70_000 + b"\n", b"y" * 65_536),
    )
    quoted_bad = (
        (b'"b"c\n', b'"b"c'),
        (b'a,"b"" \n\n"c\n', b'a,"b"" \n\n"c'),
        (b'"b" ,"c\r\nd"\r\n', b'"b" ,"c\r\nd"\r'),
        (b'"\n\n' + b'x""y\n' * 300 + b'"\n', b'"\n\n' + b'x""y\n' * 300 + b'"'),
    )
    torn_tail = "is a record"

    def record_of_size(self, size: int) -> Any:
        return ["r" * size]


class TestLists(CsvTests):
    format = lists()
    limited = lists(max_record=1000)
    bad = (*CsvTests.bad, *CsvTests.quoted_bad)


@pytest.mark.ci_only
class TestTabsAndCrLf(CsvTests):
    format = lists(delimiter="\t", lineterminator="\r\n")
    limited = lists(delimiter="\t", lineterminator="\r\n", max_record=1000)
    bad = (*CsvTests.bad, CsvTests.quoted_bad[0])


@pytest.mark.ci_only
class TestAllQuoted(CsvTests):
    format = lists(quoting="all", quotechar="'", delimiter=";")
    bad = (*CsvTests.bad[:3], (b"'b'c\n", b"'b'c"), (b"'a\n';'b'c\n", b"'a\n';'b'c"))
    unencodable = CsvTests.unencodable[:-2]
    torn_tail = "raises"

    def record_of_size(self, size: int) -> Any:
        return ["r" * (size - 2)]


class TestEscapes(CsvTests):
    format = lists(escapechar="\\", doublequote=False)
    limited = lists(escapechar="\\", doublequote=False, max_record=1000)


@pytest.mark.ci_only
class TestNothingQuoted(CsvTests):
    format = lists(quoting="none", escapechar="\\")
    limited = lists(quoting="none", escapechar="\\", max_record=1000)
    # What starts a stream with a byte order mark can only be written with quotes around it.
    records = st.lists(FIELDS.map(lambda text: text.replace("\ufeff", "")), min_size=2, max_size=4)
    unencodable = (*CsvTests.unencodable, [""], [None])


class TestDicts(CsvTests):
    format = Csv(header=["only"], header_row=False)
    limited = Csv(header=["only"], header_row=False, max_record=1000)
    records = FIELDS.map(lambda text: {"only": text})
    unencodable = (
        {},
        None,
        "text",
        ["only"],
        {"other": "x"},
        {"only": "x", "other": "y"},
        {"only": b"x"},
        {"only": ["x"]},
        {"only": "\0"},
        {"only": "x" * 1001},
    )
    bad = (*CsvTests.bad, *CsvTests.quoted_bad[:1], (b"a,b\n", b"a,b"), (b",\n", b","))

    def record_of_size(self, size: int) -> Any:
        return {"only": "r" * size}


@pytest.mark.ci_only
class TestTypedDicts(TestDicts):
    format = Csv(header=["a", "n"], header_row=False, types={"n": "int"})
    limited = Csv(header=["a", "n"], header_row=False, types={"n": "int"}, max_record=1000)
    records = st.builds(lambda text, number: {"a": text, "n": number}, FIELDS, st.none() | st.integers())
    unencodable = ({"a": "x"}, {"a": 1, "n": b"2"}, {"a": 1, "n": 2, "x": 3})
    bad = ((b"x,y\n", b"x,y"), (b"x,1_0\n", b"x,1_0"), (b"x\n", b"x"), (b"1,2,3\r\n", b"1,2,3\r"))
    test_a_torn_tail_is_what_the_kit_was_told = (
        None  # a cut within the first field raises, one within the last does not
    )

    def record_of_size(self, size: int) -> Any:
        return {"a": "r" * (size - 2), "n": 7}


# -- settings and headers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"delimiter": ""},
        {"delimiter": ",,"},
        {"delimiter": "\n"},
        {"delimiter": "§"},
        {"delimiter": '"'},
        {"quotechar": None},
        {"escapechar": ","},
        {"escapechar": "\r"},
        {"quoting": "minimum"},
        {"lineterminator": "\r"},
        {"encoding": "utf-16"},
        {"encoding": "utf-7"},
        {"encoding": "utf-8-sig"},
        {"encoding": "unicode_escape"},
        {"encoding": "gb18030"},
        {"encoding": "shift_jis"},
        {"encoding": "cp500"},
        {"encoding": "nonsense"},
        {"encoding": None},
        {"encoding": "latin-1", "bom": True},
        {"bom": 1},
        {"doublequote": None},
        {"header": "first"},
        {"header": None},
        {"header": []},
        {"header": ["a", 1]},
        {"header": ["a", "b", "a"]},
        {"header": "none"},
        {"header_row": False},
        {"header_row": 1, "header": ["a"]},
        {"rows": "tuple"},
        {"extra": "keep"},
        {"missing": None},
        {"types": {"a": "integer"}},
        {"types": {1: "int"}},
        {"types": "int"},
        {"types": 5},
        {"types": {"b": "int"}, "header": ["a"]},
        {"types": {"a": "int"}, "header": "none", "rows": "list"},
        {"null": None},
        {"nul": "skip"},
        {"max_record": 0},
        {"max_record": True},
        {"allow_partial_tail": "yes"},
    ],
)
def test_wrong_settings_are_config_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Csv(**options)


def test_a_value_with_names_and_types_compares_hashes_and_pickles() -> None:
    value = Csv(header=["a", "b"], types={"a": "int", "b": datetime.date.fromisoformat})
    again = Csv(header=("a", "b"), types={"a": "int", "b": datetime.date.fromisoformat})
    assert value == again == dataclasses.replace(value) == pickle.loads(pickle.dumps(value))
    assert hash(value) == hash(again)
    assert value != Csv(header=["a", "b"], types={"a": "float"})


def test_lists_have_no_names_to_write_a_header_of() -> None:
    with pytest.raises(ConfigError, match="no names"):
        Csv(rows="list").encoder()
    assert read(b"a,b\n1,2\n", rows="list") == [["1", "2"]]


def test_tabs_have_a_suffix_and_a_type_of_their_own() -> None:
    assert (Csv().suffixes, Csv().content_type) == ((".csv",), "text/csv")
    assert (Csv("\t").suffixes[0], Csv("\t").content_type) == (".tsv", "text/tab-separated-values")


def test_the_first_record_makes_the_header() -> None:
    records = [{"b": 1, "a": None}, {"a": "x,y", "b": 2.5}]
    assert write(*records) == b'b,a\n1,\n2.5,"x,y"\n'
    encoder = Csv().encoder()
    assert encoder.encode(records[0]) == b"b,a\n1,\n"
    assert encoder.encode(records[1]) == b'2.5,"x,y"\n'
    assert b"".join(encoder.finish()) == b""
    assert write() == b""


def test_given_names_are_the_header_even_of_no_record() -> None:
    for rows in ("dict", "list"):
        assert write(header=["a", "b,c"], rows=rows) == b'a,"b,c"\n'
        assert write(header=["a"], rows=rows, header_row=False) == b""
    assert write({"b": 1, "a": 2}, header=["a", "b"]) == b"a,b\n2,1\n"
    assert write([1, 2], header=["a", "b"], rows="list") == b"a,b\n1,2\n"
    assert write({"b": 1, "a": 2}, header=["a", "b"], header_row=False) == b"2,1\n"


def test_a_first_record_that_is_refused_leaves_no_header_behind() -> None:
    for bad in ({"x": b"1"}, {"x": "\0"}, {"x\0": 1}, {}, {1: 2}, ["x"]):
        encoder = Csv().encoder()
        with pytest.raises(RecordError):
            encoder.encode(bad)
        with pytest.raises(RecordError):
            encoder.feed([bad, {"a": 1}])
        with pytest.raises(RecordError):
            encoder.feed([{"a": 1}, bad])
        assert encoder.encode({"b": 2}) == b"b\n2\n"


def test_keys_that_the_header_has_not_and_keys_that_are_missing_follow_the_policy() -> None:
    first = {"a": 1, "b": 2}
    for wrong, says in (({"a": 1}, "no 'b'"), ({**first, "c": 3}, "no 'c'"), ({"a": 1, "c": 3}, "no 'b'")):
        for write_it in (lambda e, r: e.encode(r), lambda e, r: e.feed([first, r])):
            encoder = Csv().encoder()
            encoder.encode(first)
            with pytest.raises(RecordError, match=says):
                write_it(encoder, wrong)
    assert write(first, {"b": 1}, missing="null", null="-") == b"a,b\n1,2\n-,1\n"
    assert write(first, {**first, "c": 3}, extra="drop") == b"a,b\n1,2\n1,2\n"
    with pytest.raises(RecordError, match="no 'c'"):
        write(first, {"a": 1, "c": 3}, missing="null")
    names: dict[str, Any] = {"header": ["a", "b"], "rows": "list"}
    with pytest.raises(RecordError, match="3 fields where the header has 2"):
        write([1, 2], [1, 2, 3], **names)
    assert write([1], [1, 2, 3], [], missing="null", extra="drop", **names) == b"a,b\n1,\n1,2\n,\n"


def test_values_are_written_as_their_str_and_none_as_null() -> None:
    row = [1, 2.5, True, None, "x", decimal.Decimal("1.10"), datetime.date(2026, 1, 2)]
    assert write(row, fmt=lists()) == b"1,2.5,True,,x,1.10,2026-01-02\n"
    assert write(row, fmt=lists(null="NULL")) == b"1,2.5,True,NULL,x,1.10,2026-01-02\n"
    assert write(["a", 1], fmt=lists(quoting="all")) == b'"a","1"\n'
    assert write(["a", 1], fmt=lists(quoting="nonnumeric")) == b'"a",1\n'


def test_what_would_come_back_as_something_else_is_refused() -> None:
    class Hostile:
        def __str__(self) -> str:
            raise ZeroDivisionError

        __repr__ = __str__

    for field in (b"x", bytearray(b"x"), memoryview(b"x"), ["x"], ("x",), {"x": 1}, {"x"}, Hostile()):
        for records in ([["a", field]], [["fine", 1], ["a", field]]):
            with pytest.raises(RecordError) as caught:
                write(*records, fmt=lists())
            assert caught.value.raw
    with pytest.raises(RecordError, match="without fields"):
        write(["a"], [], fmt=lists())
    with pytest.raises(RecordError):
        write(["a,b"], fmt=lists(quoting="none"))
    with pytest.raises(RecordError, match="byte order mark"):
        write(["\ufeffa", "b"], fmt=lists(quoting="none"))


def test_a_row_of_one_empty_field_is_no_blank_line() -> None:
    assert write([""], [None], ["", ""], fmt=lists()) == b'""\n""\n,\n'
    assert read(b'""\n\n""\r\n', fmt=lists()) == [[""], [""]]


def test_a_lone_cr_is_quoted_so_that_it_comes_back() -> None:
    assert write(["a\rb", "c"], fmt=lists()) == b'"a\rb",c\n'
    assert write(["x"], ["a\rb", "c"], fmt=lists(lineterminator="\r\n")) == b'x\r\n"a\rb",c\r\n'


def test_a_bom_is_stripped_and_written_if_asked_for_and_not_taken_for_data() -> None:
    assert write({"a": 1}, bom=True) == BOM + b"a\n1\n"
    for size in (1, 2, 3, 4, 100):
        assert read(BOM + b"a\n1\n", [size]) == [{"a": "1"}]
        assert read(BOM, [size]) == []
        assert read(BOM + b'"a"\r\n1\n', [size]) == [{"a": "1"}]
    rows = [["\ufeffa", "b"], ["\ufeffc"]]
    assert read(write(*rows, fmt=lists()), fmt=lists()) == rows
    errors: list[RecordError] = []
    assert read(BOM + b"a\n\xff\n1\n", on_bad=errors.append) == [{"a": "1"}]
    assert [error.offset for error in errors] == [5]


def test_other_encodings_are_read_and_written() -> None:
    for encoding in ("latin-1", "cp1252", "iso8859-15", "ascii"):
        text = "e" if encoding == "ascii" else "é"
        fmt = Csv(encoding=encoding)
        assert write({text: text}, fmt=fmt) == f"{text}\n{text}\n".encode(encoding)
        assert read(f"{text}\n{text}\n".encode(encoding), [1], fmt=fmt) == [{text: text}]
        with pytest.raises(RecordError):
            write({"a": "ʤ"}, fmt=fmt)


def test_blank_lines_are_no_records_and_do_not_count() -> None:
    data = b"\n\r\na,b\n\n1,2\r\n\r\n\nbad\n3,4\n\n"
    for size in (1, 5, 1 << 16):
        errors: list[RecordError] = []
        assert read(data, [size], errors.append) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
        assert [(error.number, error.offset, error.raw) for error in errors] == [(2, data.index(b"bad"), b"bad")]


def test_rows_of_another_length_follow_the_policy() -> None:
    data = b"a,b\n1\n1,2\n1,2,3\n"
    errors: list[RecordError] = []
    assert read(data, on_bad=errors.append) == [{"a": "1", "b": "2"}]
    assert [str(error).partition(": ")[2][:34] for error in errors] == [
        "1 fields where the header has 2: '",
        "3 fields where the header has 2: '",
    ]
    assert read(data, missing="null", extra="drop") == [
        {"a": "1", "b": None},
        {"a": "1", "b": "2"},
        {"a": "1", "b": "2"},
    ]
    assert read(data, rows="list", missing="null", extra="drop") == [["1", None], ["1", "2"], ["1", "2"]]
    assert read(data, fmt=lists()) == [["a", "b"], ["1"], ["1", "2"], ["1", "2", "3"]]


def test_a_header_that_cannot_serve_is_corrupt_data() -> None:
    cases: list[tuple[bytes, dict[str, Any], str]] = [
        (b"a,b,a\n", {}, "twice: 'a'"),
        (b",\n", {}, "twice: ''"),
        (b"a,b\n", {"header": ["b", "a"]}, "header= says"),
        (b'"a"b\n', {}, "cannot be read"),
        (b"\xff\n", {}, "cannot be read"),
        (b"a\0\n", {}, "NUL"),
        (b"a" * 11 + b"\n", {"max_record": 10}, "max_record"),
        (b"a\n", {"types": {"b": "int"}}, "lacks the typed column 'b'"),
        (b"a,b,c\n", {"max_columns": 2}, "max_columns"),
    ]
    for header, options, says in cases:
        for size in (1, 1 << 16):
            with pytest.raises(CorruptData, match=says) as caught:
                read(b"\n" + header + b"1,2\n", [size], lambda error: None, **options)
            assert caught.value.offset == 1


def test_a_row_of_more_than_max_columns_is_one_bad_record() -> None:
    for size in (1, 1 << 16):
        bad: list[RecordError] = []
        found = read(b"1,2\n1,2,3\n3,4\n", [size], bad.append, fmt=lists(max_columns=2))
        assert (found, [error.number for error in bad]) == ([["1", "2"], ["3", "4"]], [2])


def test_a_header_of_many_columns_takes_linear_time() -> None:
    """By the square it would be half an hour."""
    names = [str(number) for number in range(200_000)]
    (record,) = read(",".join(names).encode() + b"\n" + b"," * 199_999 + b"\n")
    assert list(record) == names


def test_names_without_a_header_row_name_the_columns() -> None:
    assert read(b"1,2\n", header=["a", "b"], header_row=False) == [{"a": "1", "b": "2"}]
    assert read(b"a,b\n1,2\n", header=["a", "b"]) == [{"a": "1", "b": "2"}]
    assert read(b"a,b", header=["a", "b"]) == read(b"a,b\n") == read(b"") == []
