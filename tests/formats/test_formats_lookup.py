"""Formats by name and suffix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from omnistorage import MemoryBackend, formats, open_records
from omnistorage.core.stages import Format
from omnistorage.errors import ConfigError
from omnistorage.formats import format_for_path, format_names, record_format, register_format
from omnistorage.formats.csv import Csv
from omnistorage.formats.length_prefixed import LengthPrefixed
from omnistorage.formats.lines import Lines
from omnistorage.formats.ndjson import Ndjson


@dataclass(frozen=True)
class Toy:
    name: ClassVar[str] = "toy"
    suffixes: ClassVar[tuple[str, ...]] = (".toyrec", ".log")

    def encoder(self) -> Any:
        raise NotImplementedError

    def decoder(self, on_bad: Any = None) -> Any:
        raise NotImplementedError


@pytest.fixture
def clean_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(formats._TABLE, "_members", dict(formats._TABLE._members))
    monkeypatch.setattr(formats._SUFFIXES, "known", dict(formats._SUFFIXES.known))
    monkeypatch.setattr(formats._SUFFIXES, "_learnt", set())
    return


def test_a_name_with_options_makes_the_value_and_a_value_is_returned_as_it_is() -> None:
    assert record_format("ndjson") == Ndjson()
    assert record_format("ndjson", max_record=5, allow_partial_tail=True) == Ndjson(5, True)
    value = Lines(7)
    assert record_format(value) is value


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        ("njson", {}, "did you mean 'ndjson'"),
        ("ndjson", {"maxrecord": 3}, "did you mean 'max_record'"),
        ("ndjson", {"max_record": 0}, "from 1 up"),
        (Ndjson(), {"max_record": 3}, "set them when making it"),
        (Ndjson, {}, "as a value such as Ndjson"),
        (None, {}, "as a value such as Ndjson"),
    ],
)
def test_what_is_wrong_is_a_config_error_that_helps(spec: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        record_format(spec, **options)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.ndjson", Ndjson()),
        ("a.JSONL", Ndjson()),
        ("a.ndjson.gz", Ndjson()),
        ("x.y/a.jsonl.ZST", Ndjson()),
        ("a.txt", Lines()),
        ("a.log.zst", Lines()),
        ("a.csv", Csv()),
        ("a.CSV.gz", Csv()),
        ("a.tsv", Csv(delimiter="\t")),
        ("a.Tsv.zst", Csv(delimiter="\t")),
        ("a.lp", LengthPrefixed()),
        ("a.lpv.zst", LengthPrefixed(prefix="varint")),
        ("a.gz", None),
        ("a.ndjson.gz.gz", None),
        ("a", None),
        ("a.ndjson/b", None),
        (".ndjson", None),
        ("a.unheardof", None),
    ],
)
def test_the_suffix_before_a_codecs_names_the_format(path: str, value: Format[Any] | None) -> None:
    assert format_for_path(path) == value


@pytest.mark.parametrize("name", format_names())
def test_the_table_says_what_the_classes_say(name: str) -> None:
    value = record_format(name)
    assert value.name == name
    for suffix in value.suffixes:
        assert format_for_path(f"a{suffix}") == value
    known = {suffix for suffix, owner in formats._SUFFIXES.known.items() if owner == name}
    assert set(value.suffixes) == known - set(formats._SAID_BY_SUFFIX)
    for suffix in known:
        found = format_for_path(f"a{suffix}")
        assert found is not None
        assert found.name == name
        assert suffix in found.suffixes


def test_a_suffix_that_says_more_than_a_format_is_held_against_the_argument() -> None:
    store = MemoryBackend()
    for path, says, record in (
        ("a.tsv", "csv", {"a": "1", "b": "2"}),
        ("a.tsv.gz", Csv("\t", lineterminator="\r\n"), {"a": "1", "b": "2"}),
        ("a.csv", Csv("\t"), {"a": "1", "b": "2"}),
        ("b.csv", Csv(";"), {"a": "1", "b": "2"}),
        ("a.lpv", "length_prefixed", b"x" * 300),
        ("b.lpv", LengthPrefixed("varint", crc32c=True), b"x" * 300),
        ("a.lp", LengthPrefixed("le32"), b"x" * 300),
    ):
        with open_records(store, path, "w", format=says) as writer:
            writer.write(record)
        assert list(open_records(store, path, "r", format=says)) == [record]
    assert list(open_records(store, "a.tsv", "r")) == [{"a": "1", "b": "2"}]
    assert list(open_records(store, "a.lpv", "r")) == [b"x" * 300]
    for path, wrong in (
        ("a.tsv", Csv()),
        ("a.tsv", Csv(";")),
        ("a.lpv", LengthPrefixed()),
        ("a.lpv", LengthPrefixed("be32", max_record=7)),
        ("a.lp", LengthPrefixed("varint")),
        ("a.lp", "csv"),
    ):
        for mode in ("r", "w"):
            with pytest.raises(ConfigError, match="make them agree"):
                open_records(store, path, mode, format=wrong)


@pytest.mark.usefixtures("clean_tables")
def test_a_registered_format_is_found_by_name_and_suffix() -> None:
    register_format("toy", Toy)
    register_format("toy", Toy)
    assert record_format("toy") == Toy()
    assert format_for_path("a.toyrec.gz") == Toy()
    assert format_for_path("a.log") == Lines()  # built-in suffixes stay theirs
    assert "toy" in format_names()
    with pytest.raises(ConfigError, match="is taken"):
        register_format("lines", Toy)
