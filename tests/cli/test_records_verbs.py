"""write, read, convert and head."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from omnistorage.cli.records.verbatim import JsonStrings, Verbatim
from omnistorage.errors import CorruptData, RecordError

Cli = Callable[..., Any]
ROWS = b'{"id": 1, "n": 12345678901234567890123}\n{"id":2,"id":3}\n'
MIXED = b'{"a":1}\nxx\n{"b":2}\n'


def unzst(path: Path) -> bytes:
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as plain:
        return plain.read()


def test_write_publishes_what_other_libraries_read(cli: Cli, box: Path) -> None:
    assert cli("write", "logs/a.ndjson.zst", "--to", "out", stdin=ROWS).code == 0
    assert cli("write", "logs/a.ndjson.gz", "--to", "out", "--compression", "gzip:9", stdin=ROWS).code == 0
    assert unzst(box / "out/logs/a.ndjson.zst") == ROWS  # byte by byte: no number was rounded, no key was lost
    assert gzip.decompress((box / "out/logs/a.ndjson.gz").read_bytes()) == ROWS


def test_pain_4_a_suffix_that_contradicts_is_refused_and_the_given_path_is_what_is_written(cli: Cli, box: Path) -> None:
    for options in (["--compression", "zstd"], ["--format", "lines"], ["--compression", "none"]):
        answer = cli("write", "a.ndjson.gz", *options, stdin=ROWS)
        assert answer.code == 7
        assert "make them agree" in answer.err
    assert cli("convert", "-", "a.log", "--format", "ndjson", stdin=ROWS).code == 7
    assert not list(box.iterdir())
    assert cli("write", "plain", "--format", "ndjson", "--compression", "gzip", stdin=ROWS).code == 0
    assert [p.name for p in box.iterdir()] == ["plain"]
    assert gzip.decompress((box / "plain").read_bytes()) == ROWS
    (box / "plain").rename(box / "plain.ndjson.zst")
    assert cli("read", "plain.ndjson.zst").out == ROWS  # magic bytes beat the suffix


def test_an_empty_input_makes_an_empty_object_and_says_so(cli: Cli, box: Path) -> None:
    answer = cli("write", "a.ndjson.zst")
    assert (answer.code, unzst(box / "a.ndjson.zst")) == (0, b"")
    assert "0 records (the input was empty)" in answer.err


def test_several_files_compressed_or_not_become_one_object(cli: Cli, box: Path) -> None:
    (box / "a.ndjson").write_bytes(b"1\n")
    (box / "b.ndjson.gz").write_bytes(gzip.compress(b'"2"\r\n\n'))
    (box / "c.log").write_bytes(b'say "hi"\n')
    assert cli("write", "out.ndjson", "--from", "a.ndjson", "b.ndjson.gz", "--from", "c.log").code == 0
    assert (box / "out.ndjson").read_bytes() == b'1\n"2"\n"say \\"hi\\""\n'


def test_a_source_that_is_missing_leaves_nothing(cli: Cli, box: Path) -> None:
    (box / "a.ndjson").write_bytes(b"1\n")
    assert cli("write", "out.ndjson", "--from", "a.ndjson", "nope.ndjson").code == 4
    assert [p.name for p in box.iterdir()] == ["a.ndjson"]


def test_no_clobber_keeps_what_is_there(cli: Cli, box: Path) -> None:
    (box / "a.ndjson").write_bytes(b"1\n")
    assert cli("write", "a.ndjson", "--no-clobber", stdin=b"2\n").code == 6
    assert (box / "a.ndjson").read_bytes() == b"1\n"
    assert cli("write", "a.ndjson", "--durable", stdin=b"2\n").code == 0
    assert (box / "a.ndjson").read_bytes() == b"2\n"


def test_a_bad_record_stops_with_its_number_and_place_and_nothing_is_visible(cli: Cli, box: Path) -> None:
    answer = cli("write", "a.ndjson", stdin=MIXED)
    assert answer.code == 6
    assert "standard input: record 2, byte 8: not a JSON text" in answer.err
    assert not list(box.iterdir())


def test_bad_records_are_skipped_collected_or_put_away(cli: Cli, box: Path) -> None:
    skipped = cli("write", "s.ndjson", "--on-error", "skip", stdin=MIXED)
    assert skipped.code == 0
    assert "1 bad record left out" in skipped.err
    collected = cli("write", "c.ndjson", "--on-error", "collect", stdin=MIXED)
    assert collected.code == 6
    assert "record 2, byte 8" in collected.err
    assert cli("write", "d.ndjson", "--dead-letter", "bad.ndjson.gz", stdin=MIXED).code == 0
    for name in ("s.ndjson", "c.ndjson", "d.ndjson"):
        assert (box / name).read_bytes() == b'{"a":1}\n{"b":2}\n'
    letter = json.loads(gzip.decompress((box / "bad.ndjson.gz").read_bytes()))
    assert (letter["number"], letter["offset"], letter["raw"]) == (2, 8, "xx")


def test_too_many_bad_records_publish_neither_object_nor_letters(cli: Cli, box: Path) -> None:
    for limit in (["--max-bad", "0"], ["--max-bad-ratio", "0.1"]):
        assert cli("write", "a.ndjson", "--dead-letter", "bad.log", *limit, stdin=MIXED).code == 6
        assert not list(box.iterdir())
        answer = cli("write", "a.ndjson", *limit, stdin=MIXED)
        assert (answer.code, f"{limit[0]} limits what" in answer.err) == (2, True), "nothing is ignored"
    assert cli("write", "a.ndjson", "--dead-letter", "bad.log", stdin=b"1\n[2]\n").code == 0
    assert not (box / "bad.log").exists()  # no bad record, no object


def test_read_prints_records_in_the_format_asked_for(cli: Cli, box: Path) -> None:
    (box / "a.ndjson").write_bytes(ROWS)
    (box / "b.log").write_bytes(b"x\xc3\xa9\ny")
    assert cli("read", "a.ndjson", "b.log").out == ROWS + '"xé"\n"y"\n'.encode()
    assert cli("read", "b.log", "a.ndjson", "--to-format", "lines").out == b"x\xc3\xa9\ny\n" + ROWS
    assert cli("read", "a.ndjson", "b.log", "-n", "3").lines[2:] == ['"xé"']
    assert cli("read", "a.ndjson", "-n", "0").out == b""
    assert cli("read", "a.ndjson", "--fields", "nope,id").out == b'{"id":1}\n{"id":3}\n'
    assert cli("read", "-", stdin=b" [1]\n").out == b" [1]\n"


def test_read_prints_the_good_records_before_a_bad_one(cli: Cli, box: Path) -> None:
    (box / "a.ndjson").write_bytes(MIXED)
    answer = cli("read", "a.ndjson")
    assert (answer.code, answer.out) == (6, b'{"a":1}\n')
    assert cli("read", "a.ndjson", "--on-error", "skip").out == b'{"a":1}\n{"b":2}\n'
    (box / "torn.ndjson").write_bytes(b'{"a":1}\n{"b"')
    answer = cli("read", "torn.ndjson")
    assert (answer.code, answer.out) == (6, b'{"a":1}\n')


def test_fields_of_a_record_that_is_no_object_is_a_bad_record(cli: Cli) -> None:
    assert cli("read", "-", "--fields", "a", stdin=b"[1]\n").code == 6
    answer = cli("read", "-", "--fields", "a", "--on-error", "skip", stdin=b'[1]\n{"a":1}\n')
    assert (answer.code, answer.out) == (0, b'{"a":1}\n')


def test_convert_between_gz_and_zst(cli: Cli, box: Path) -> None:
    (box / "a.ndjson.gz").write_bytes(gzip.compress(ROWS))
    assert cli("convert", "a.ndjson.gz", "b.ndjson.zst").code == 0
    assert unzst(box / "b.ndjson.zst") == ROWS
    assert cli("convert", "b.ndjson.zst", "c.jsonl.gz", "--compression", "gzip:1").code == 0
    assert gzip.decompress((box / "c.jsonl.gz").read_bytes()) == ROWS


def test_the_rule_between_ndjson_and_lines(cli: Cli, box: Path) -> None:
    (box / "a.log").write_bytes(b'{"a":1}\n')
    cli("convert", "a.log", "strings.ndjson")
    assert (box / "strings.ndjson").read_bytes() == b'"{\\"a\\":1}"\n'
    cli("convert", "a.log", "records.ndjson", "--from-format", "ndjson")
    assert (box / "records.ndjson").read_bytes() == b'{"a":1}\n'
    cli("convert", "records.ndjson", "b.txt")
    assert (box / "b.txt").read_bytes() == b'{"a":1}\n'
    (box / "latin.log").write_bytes(b"ok\n\xff\nok\n")
    answer = cli("convert", "latin.log", "x.ndjson")
    assert answer.code == 6
    assert "record 2, byte 3: not UTF-8" in answer.err
    assert not (box / "x.ndjson").exists()


def test_convert_works_both_ways_through_pipes(cli: Cli) -> None:
    made = cli("convert", "-", "-", "--format", "ndjson", "--compression", "gzip", stdin=ROWS)
    assert gzip.decompress(made.out) == ROWS
    assert cli("convert", "-", "-", "--from-format", "ndjson", stdin=made.out).out == ROWS


def test_head_prints_the_first_lines_decompressed_even_of_a_damaged_object(cli: Cli, box: Path) -> None:
    body = b"".join(b'{"id":%d,"r":"%s"}\n' % (i, os.urandom(20).hex().encode()) for i in range(20_000))
    (box / "cut.ndjson.gz").write_bytes(gzip.compress(body)[:-100])
    answer = cli("head", "cut.ndjson.gz", "-n", "2")
    assert (answer.code, answer.out) == (0, b"".join(body.splitlines(keepends=True)[:2]))
    assert len(cli("head", "cut.ndjson.gz").lines) == 10


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_verbatim_yields_the_lines_that_ndjson_accepts_however_they_are_cut(size: int) -> None:
    data = b'\xef\xbb\xbf{"a": 1}\r\n\n[1 , 2]\nbad\n  \n\xef\xbb\xbf1\n"x"\nnull'
    bad: list[RecordError] = []
    decoder = Verbatim().decoder(bad.append)
    found = [r for at in range(0, len(data), size) for batch in decoder.feed(data[at : at + size]) for r in batch] + [
        r for batch in decoder.finish() for r in batch
    ]
    assert found == [b'{"a": 1}', b"[1 , 2]", b'"x"', b"null"]
    assert [(e.number, e.offset) for e in bad] == [(3, data.index(b"bad")), (4, data.index(b"\xef\xbb\xbf1"))]


def test_verbatim_throws_away_a_line_too_long_and_goes_on_behind_it() -> None:
    bad: list[RecordError] = []
    decoder = Verbatim().decoder(bad.append)
    data = b"1\n" + b" " * (17 << 20) + b"2\n3\n4\n"
    found = [r for at in range(0, len(data), 1 << 20) for b in decoder.feed(data[at : at + (1 << 20)]) for r in b]
    found += [r for b in decoder.feed(b"nope\n5\n") for r in b]
    assert found == [b"1", b"3", b"4", b"5"]
    assert [(e.number, e.offset) for e in bad] == [(2, 2), (5, len(data))]


def test_verbatim_without_a_handler_raises_behind_the_good_ones() -> None:
    decoder = Verbatim().decoder()
    outputs = iter(decoder.feed(b"1\nx\n"))
    assert next(outputs) == [b"1"]
    with pytest.raises(RecordError):
        next(outputs)
    with pytest.raises(CorruptData):
        list(_fed(Verbatim().decoder(), b"12").finish())


def _fed(decoder: Any, data: bytes) -> Any:
    list(decoder.feed(data))
    return decoder


def test_json_strings_keep_count_behind_a_line_too_long() -> None:
    bad: list[RecordError] = []
    decoder = JsonStrings().decoder(bad.append)
    found = [r for b in decoder.feed(b"a\n\xff\n" + b"x" * (17 << 20) + b"\nb\n\xfe\n") for r in b]
    assert found == [b'"a"', b'"b"']
    assert [(e.number, e.offset) for e in bad] == [(2, 2), (3, 4), (5, None)]


def test_a_write_whose_input_is_missing_makes_no_folder(cli: Cli, box: Path) -> None:
    (box / "there.ndjson").write_bytes(ROWS)
    before = sorted(os.listdir(box))
    for sources in (["none.ndjson"], ["there.ndjson", "none.ndjson"]):
        assert cli("write", "a/b.ndjson", "--to", "new", "--from", *sources).code == 4
    assert sorted(os.listdir(box)) == before
    (box / "bad.ndjson").write_bytes(MIXED)
    (box / "out").mkdir()
    assert cli("write", "a/b.ndjson", "--to", "out", "--from", "bad.ndjson").code == 6
    assert os.listdir(box / "out") == []


def test_what_errors_advise_can_be_typed(cli: Cli, box: Path) -> None:
    (box / "noext").write_bytes(ROWS)
    assert "give --format (" in cli("read", "noext").err
    (box / "torn.ndjson").write_bytes(ROWS + b'{"id":')
    for verb in (["read", "torn.ndjson"], ["convert", "torn.ndjson", "whole.ndjson"]):
        answer = cli(*verb)
        assert answer.code == 6
        assert "allow_partial_tail" not in answer.err
        assert "end it with a newline" in answer.err
    answer = cli("ls", "memory://")
    assert "open_backend" not in answer.err
    assert "NAME:PATH" in answer.err


def test_fields_without_a_name_is_a_usage_error_that_points_to_the_help_of_read(cli: Cli, box: Path) -> None:
    (box / "a.ndjson").write_bytes(ROWS)
    for args in (["--fields", ","], ["--fields", ""], ["--fields"]):
        answer = cli("read", "a.ndjson", *args)
        assert (answer.code, answer.out) == (2, b"" if isinstance(answer.out, bytes) else "")
        assert "--fields" in answer.err
        assert "omnistorage read --help" in answer.err
    assert "omnistorage write --help" in cli("write", "x.ndjson", "--to").err
