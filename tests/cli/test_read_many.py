"""read over folders, patterns and manifests; what a record becomes in another format; head of formats with records."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from omnistorage import LocalBackend
from omnistorage.cli.options.inputs import _split
from omnistorage.cli.records.transcode import parsing, reading, unparsing, writing
from omnistorage.core import READ
from omnistorage.delivery import DatasetWriter
from omnistorage.errors import CapabilityNotSupported, PermissionDenied, RecordError
from omnistorage.formats import record_format

Cli = Callable[..., Any]


@pytest.fixture
def logs(box: Path) -> Path:
    for name, body in {
        "b.ndjson": b"2\n",
        "a/x.ndjson.gz": gzip.compress(b"1\n"),
        "a/deep/y1.ndjson": b"3\n",
        "a/deep/y2.ndjson": b"4\n",
        "a-b.ndjson": b"0\n",
        "_SUCCESS": b"",
        "a/.hidden.ndjson": b"9\n",
        "a/_tmp/part.ndjson": b"8\n",
    }.items():
        at = box / "logs" / name
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(body)
    return box / "logs"


def framed(*records: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(record)) + record for record in records)


# -- which objects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["logs", "logs/", "{uri}", "{uri}/"])
def test_a_folder_is_read_in_the_order_of_its_keys(cli: Cli, logs: Path, argument: str) -> None:
    answer = cli("read", argument.replace("{uri}", logs.as_uri()))
    assert (answer.code, answer.out) == (0, b"0\n3\n4\n1\n2\n")  # "a-b" before "a/", and no _SUCCESS, no .hidden


def test_a_success_of_others_makes_no_data_set_of_ours(cli: Cli, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (box / "theirs").mkdir()
    (box / "theirs" / "part-0.ndjson").write_bytes(b"1\n")
    for said in (b"", b'{"name": "org.apache.hadoop.fs.s3a.commit.files.SuccessData/1"}', b"{"):
        (box / "theirs" / "_SUCCESS").write_bytes(said)
        answer = cli("read", "theirs")
        assert (answer.code, answer.out, answer.err) == (0, b"1\n", "")
    plain = LocalBackend.open_reader

    def picky(store: LocalBackend, path: str, options: Any = READ) -> Any:
        if path.endswith("_SUCCESS"):
            raise CapabilityNotSupported(capability="range_read") if options != READ else PermissionDenied("no")
        return plain(store, path, options)

    monkeypatch.setattr(LocalBackend, "open_reader", picky)
    answer = cli("read", "theirs")
    assert (answer.code, answer.out, answer.err) == (0, b"1\n", "")


def test_what_is_not_there_is_that_first(cli: Cli, box: Path) -> None:
    answer = cli("read", "missing")
    assert (answer.code, "missing: no such object" in answer.err) == (4, True)
    (box / "there").write_bytes(b"")
    answer = cli("read", "there")
    assert (answer.code, "give --format" in answer.err) == (7, True)


def test_of_a_data_set_what_counts_is_read_and_verified(cli: Cli, box: Path) -> None:
    def part(name: str) -> Any:
        return lambda n: [{"p": name, "n": n}]

    path = box / "set"
    writer = DatasetWriter(path, partition_by="p", if_exists="replace")
    begun = DatasetWriter(path, partition_by="p", if_exists="replace").begin()
    begun.write_part(0, part("b")(7))  # a run that has died
    answer = cli("read", "set")
    assert (answer.code, answer.out) == (0, b'{"p":"b","n":7}\n')
    assert "without _SUCCESS" in answer.err
    writer.run(ThreadPoolExecutor(1), part("a"), [1, 2])
    answer = cli("read", "set/")
    assert (answer.code, answer.out, answer.err) == (0, b'{"p":"a","n":1}\n{"p":"a","n":2}\n', "")
    one = next(path.glob("p=a/part-*"))
    one.write_bytes(one.read_bytes()[:-1])
    answer = cli("read", "set")
    assert (answer.code, "where the manifest says" in answer.err) == (6, True)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("logs/*.ndjson", b"0\n2\n"),
        ("logs/**/*.ndjson", b"0\n9\n8\n3\n4\n2\n"),
        ("logs/a/deep/y?.ndjson", b"3\n4\n"),
        ("logs/a/*/y[2-9].ndjson", b"4\n"),
        ("l*/b.ndjson", b"2\n"),
        ("logs/**.gz", b"1\n"),
        ("./logs/b.*", b"2\n"),
    ],
)
def test_patterns_say_which_objects_are_read(cli: Cli, logs: Path, pattern: str, found: bytes) -> None:
    assert cli("read", pattern).out == found
    assert cli("read", str(logs.parent / pattern)).out == found
    if "./" not in pattern:
        assert cli("read", f"{logs.parent.as_uri()}/{pattern}").out == found


def test_a_pattern_is_cut_where_its_first_wildcard_stands() -> None:
    assert _split("logs/a.ndjson") is None
    assert _split("*.gz") == (".", "*.gz", "")
    assert _split("/*.gz") == ("/", "*.gz", "")
    assert _split("a/b*/c") == ("a/", "b*/c", "")
    assert _split("s3://b/*.gz?region=x") == ("s3://b/", "*.gz", "?region=x")
    assert _split("s3://b/a?.gz?region=x") == ("s3://b/", "a?.gz", "?region=x")
    assert _split("s3://b/a.gz?region=x") is None
    assert _split("s3://b/d/?.gz") == ("s3://b/d/", "?.gz", "")
    assert _split("data:*.gz") == ("data:", "*.gz", "")
    assert _split("data:a/**") == ("data:a/", "**", "")
    assert _split("file:///d%20e/f%20%5Bg*") == ("file:///d%20e/", "f \\[g*", "")


def test_what_matches_nothing_is_missing_and_a_name_with_wildcards_is_that_name(cli: Cli, logs: Path) -> None:
    answer = cli("read", "logs/*.csv")
    assert (answer.code, answer.out) == (4, b"")
    assert "no object matches" in answer.err
    assert cli("read", "nowhere/").code == 3
    (logs / "b[1].ndjson").write_bytes(b"7\n")
    (logs / "b1.ndjson").write_bytes(b"8\n")
    assert cli("read", "logs/b[1].ndjson").out == b"7\n"
    assert cli("read", "logs/b[1-3].ndjson").out == b"8\n"


def test_an_object_of_an_unknown_format_in_a_folder_is_no_silence(cli: Cli, logs: Path) -> None:
    (logs / "picture.png").write_bytes(b"x")
    answer = cli("read", "logs")
    assert answer.code == 7
    assert "picture.png" in answer.err


def test_the_limit_counts_over_all_objects(cli: Cli, logs: Path) -> None:
    assert cli("read", "logs", "-n", "3").out == b"0\n3\n4\n"
    assert cli("read", "-", "logs/b.ndjson", "-n", "1", stdin=b"1\n2\n").out == b"1\n"
    picked = cli("read", "-", "--fields", "a", "-n", "1", "--on-error", "skip", stdin=b'[1]\n{"a":1}\n{"a":2}\n')
    assert picked.out == b'{"a":1}\n'  # what was left out does not count


def test_folders_of_a_configured_backend(cli: Cli, logs: Path) -> None:
    (logs.parent / "c.toml").write_text(f'[backends.d]\ntype="local"\noptions={{root="{logs}"}}\n')
    assert cli("--config", "c.toml", "read", "d:a").out == b"3\n4\n1\n"
    assert cli("--config", "c.toml", "read", "d:").out == b"0\n3\n4\n1\n2\n"
    assert cli("--config", "c.toml", "read", "d:a/deep/*2*").out == b"4\n"


# -- manifests ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(cli: Cli, box: Path) -> Path:
    args = ["write", "{seq}.ndjson.gz", "--to", "out", "--manifest", "m.ndjson", "--roll-records", "2"]
    assert cli(*args, stdin=b"1\n2\n3\n").code == 0
    return box / "out"


def test_a_manifest_says_what_is_read_and_nothing_else_is(cli: Cli, published: Path) -> None:
    (published / "7.ndjson").write_bytes(b"not published\n")
    answer = cli("read", "out", "--manifest", "out/m.ndjson")
    assert (answer.code, sorted(answer.out.split())) == (0, [b"1", b"2", b"3"])
    assert cli("read", "out", "out", "--manifest", "out/m.ndjson").code == 2


def test_an_object_that_is_not_the_manifests_is_corrupt(cli: Cli, published: Path) -> None:
    right = (published / "0.ndjson.gz").read_bytes()
    other = gzip.compress(b"8\n9\n", mtime=1)
    for body, hint in (
        (right + gzip.compress(b"4\n"), "bytes where the manifest says"),
        (other[: len(right)].ljust(len(right), b"\0"), "SHA-256"),
    ):
        (published / "0.ndjson.gz").write_bytes(body)
        answer = cli("read", "out", "--manifest", "out/m.ndjson")
        assert answer.code == 6
        assert "out/0.ndjson.gz: not the object of the manifest" in answer.err
        assert hint in answer.err
        assert b"4" not in answer.out  # one of another size is not read at all
    (published / "0.ndjson.gz").unlink()
    assert cli("read", "out", "--manifest", "out/m.ndjson").code == 4
    (published / "m.ndjson").write_bytes(b"{}\n")
    assert cli("read", "out", "--manifest", "out/m.ndjson").code == 6


# -- formats -----------------------------------------------------------------------------------------------------------

JSON = b'{"id":1,"n":12345678901234567890123,"f":1.10,"ok":true,"no":null}\n'


def test_json_becomes_csv_with_numbers_as_they_were_written_and_back(cli: Cli, box: Path) -> None:
    (box / "a.ndjson").write_bytes(JSON)
    assert cli("convert", "a.ndjson", "a.csv.gz").code == 0
    assert gzip.decompress((box / "a.csv.gz").read_bytes()) == (b"id,n,f,ok,no\n1,12345678901234567890123,1.10,true,\n")
    assert cli("convert", "a.csv.gz", "b.ndjson").code == 0
    assert json.loads((box / "b.ndjson").read_bytes()) == {
        "id": "1", "n": "12345678901234567890123", "f": "1.10", "ok": "true", "no": "",
    }  # fmt: skip
    assert cli("convert", "a.csv.gz", "c.ndjson", "--from-format", "csv:types=id=int|ok=bool|no=str").code == 0
    typed = json.loads((box / "c.ndjson").read_bytes())
    assert (typed["id"], typed["ok"], typed["no"]) == (1, True, None)


def test_every_format_becomes_every_other(cli: Cli, box: Path) -> None:
    row = b'{"a":"1","b":"x"}'
    bodies = {
        "ndjson": row + b"\n",
        "csv": b"a,b\n1,x\n",
        "log": row + b"\n",
        "lp": framed(row),
    }
    for source, body in bodies.items():
        (box / f"s.{source}").write_bytes(body)
        for target, expected in bodies.items():
            assert cli("convert", f"s.{source}", f"t.{target}").code == 0, (source, target)
            if (source, target) == ("log", "ndjson"):
                expected = json.dumps(row.decode()).encode() + b"\n"  # a line is a text
            assert (box / f"t.{target}").read_bytes() == expected, (source, target)


def test_what_a_format_cannot_hold_is_a_bad_record(cli: Cli, box: Path) -> None:
    (box / "a.lp").write_bytes(framed(b"\xff\x00", b'{"a":\n1}', b"no json"))
    answer = cli("convert", "a.lp", "b.ndjson")
    assert answer.code == 6
    assert "a.lp: record 1" in answer.err
    assert cli("convert", "a.lp", "b.ndjson", "--on-error", "skip").code == 0
    assert (box / "b.ndjson").read_bytes() == b'{"a": 1}\n'  # a line break between tokens is white space
    assert cli("convert", "a.lp", "b.log", "--on-error", "skip").code == 0
    assert (box / "b.log").read_bytes() == b"\xff\x00\nno json\n"
    answer = cli("convert", "-", "c.csv", "--from-format", "ndjson", stdin=b'{"a":[1]}\n')
    assert (answer.code, (box / "c.csv").exists()) == (6, False)
    assert cli("convert", "-", "c.csv", "--from-format", "ndjson", stdin=b"[1]\n").code == 6
    answer = cli("convert", "-", "c.csv", "--from-format", "ndjson", stdin=b'{"a":1}\n{"b":1}\n')
    assert answer.code == 6
    assert "csv:missing=null" in answer.err


def test_options_of_a_format_stand_behind_its_name(cli: Cli, box: Path) -> None:
    rows = b'{"a":"1","b":"x;y"}\n{"a":"2"}\n'
    made = cli("convert", "-", "-", "--from-format", "ndjson", "--format", "csv:delimiter=;,missing=null", stdin=rows)
    assert made.out == b'a;b\n1;"x;y"\n2;\n'
    back = cli("read", "-", "--format", "csv:delimiter=;", stdin=made.out)
    assert back.out == b'{"a":"1","b":"x;y"}\n{"a":"2","b":""}\n'
    tabs = cli("convert", "-", "t.tsv", "--from-format", "ndjson", stdin=b'{"a":1,"b":2}\n')
    assert (tabs.code, (box / "t.tsv").read_bytes()) == (0, b"a\tb\n1\t2\n")
    assert cli("read", "t.tsv").out == b'{"a":"1","b":"2"}\n'
    named = "csv:header=x|y,header_row=false,delimiter=,"
    assert cli("read", "-", "--format", named, stdin=b"1,2\n").out == b'{"x":"1","y":"2"}\n'
    (box / "a.lpv").write_bytes(b"\x03[1]")
    assert cli("read", "a.lpv").out == b"[1]\n"
    assert cli("write", "z.ndjson.zst", "--compression", "zstd:level=19,threads=2", stdin=rows).code == 0


def test_wrong_options_of_a_format_are_usage_errors_with_the_nearest(cli: Cli) -> None:
    for spec, hint in (
        ("csv:delimeter=;", "'delimiter'"),
        ("csv:delimiter", "OPTION=VALUE"),
        ("csv:bom=maybe", "true or false"),
        ("ndjson:max_record=x", "a number"),
        ("csb", "'csv'"),
        ("length_prefixed:prefix=be64", "be32"),
    ):
        answer = cli("read", "-", "--format", spec)
        assert answer.code == 2, spec
        assert hint in answer.err, answer.err
    assert cli("write", "a.ndjson", "--compression", "zstd:levle=3").code == 2


def test_read_prints_any_format_in_any_other(cli: Cli, box: Path) -> None:
    (box / "a.csv").write_bytes(b"a,b\n1,x\n")
    (box / "b.ndjson").write_bytes(b'{"a":2,"b":"y"}\n')
    assert cli("read", "a.csv", "b.ndjson", "--to-format", "csv").out == b"a,b\n1,x\n2,y\n"
    assert cli("read", "a.csv", "b.ndjson").out == b'{"a":"1","b":"x"}\n{"a":2,"b":"y"}\n'
    assert cli("read", "b.ndjson", "--to-format", "length_prefixed").out == framed(b'{"a":2,"b":"y"}')
    skipped = cli("read", "-", "b.ndjson", "--to-format", "csv", "--on-error", "skip", stdin=b'[1]\n{"a":1,"b":[]}\n')
    assert (skipped.code, skipped.out) == (0, b"a,b\n2,y\n")
    assert "2 bad records" in skipped.err


def test_fields_reach_into_objects_and_into_csv(cli: Cli, box: Path) -> None:
    rows = b'{"id":1,"user":{"name":"a","x":1}}\n{"id":2}\n{"id":3,"user.name":"flat"}\n'
    assert cli("read", "-", "--fields", "user.name,id", stdin=rows).out == (
        b'{"user.name":"a","id":1}\n{"id":2}\n{"user.name":"flat","id":3}\n'
    )
    answer = cli("read", "-", "--fields", "user.name,id", "--to-format", "csv", stdin=rows)
    assert answer.out == b"user.name,id\na,1\n,2\nflat,3\n"
    assert cli("read", "-", "--fields", "id,id", stdin=rows).code == 2


def test_bad_records_of_fields_go_to_the_dead_letters(cli: Cli, box: Path) -> None:
    answer = cli("read", "-", "--fields", "a", "--dead-letter", "bad.log", stdin=b'[1]\n{"a":1}\n')
    assert (answer.code, answer.out) == (0, b'{"a":1}\n')
    assert (box / "bad.log").read_bytes() == b"[1]\n"
    assert cli("read", "-", "--dead-letter", "bad.csv", stdin=b"1\n").code == 2


def test_dead_letters_touch_nothing_before_there_is_one(cli: Cli, box: Path) -> None:
    assert cli("read", "nope.ndjson", "--dead-letter", "new/bad.log").code == 4
    assert cli("convert", "-", "a.ndjson", "--dead-letter", "failing://busy/x.log", stdin=b"").code == 0
    assert not (box / "new").exists()
    assert cli("convert", "-", "a.ndjson", "--dead-letter", "failing://busy/x.log", stdin=b"xx\n").code == 5


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_changed_records_keep_their_numbers_however_the_bytes_are_cut(size: int) -> None:
    data = framed(b"1", b"x", b"[2]", b"", b"3")
    bad: list[RecordError] = []
    decoder = reading(record_format("length_prefixed"), "ndjson").decoder(bad.append)
    found = [r for at in range(0, len(data), size) for batch in decoder.feed(data[at : at + size]) for r in batch]
    found += [r for batch in decoder.finish() for r in batch]
    assert found == [b"1", b"[2]", b"3"]
    assert [(e.number, e.raw) for e in bad] == [(2, b"x"), (4, b"")]
    with pytest.raises(RecordError):
        list(reading(record_format("length_prefixed"), "ndjson").decoder().feed(data))


def test_a_parsed_record_writes_the_bytes_it_came_as() -> None:
    to = record_format("ndjson")
    (batch,) = parsing(to, to).decoder().feed(b'{"a": 1.0}\n[ 2 ]\n')
    assert batch[0]["a"] == 1
    encoder = unparsing(to).encoder()
    assert b"".join(encoder.feed(batch)) + encoder.encode(batch[0]) == b'{"a": 1.0}\n[ 2 ]\n{"a": 1.0}\n'
    assert writing(record_format("csv")) == record_format("csv")


# -- head --------------------------------------------------------------------------------------------------------------


def test_head_counts_records_where_there_are_records(cli: Cli, box: Path) -> None:
    (box / "a.csv.gz").write_bytes(gzip.compress(b'a,b\n1,"x\ny"\n2\n3,z\n'))
    assert cli("head", "a.csv.gz", "-n", "2").out == b'a,b\n1,"x\ny"\n2\n'
    assert cli("head", "a.csv.gz", "-n", "1", "--offset", "2").out == b"a,b\n3,z\n"
    (box / "a.lp").write_bytes(framed(b'{"a":1}', b"\x00\xff", b"two\nlines"))
    assert cli("head", "a.lp").lines == [
        '{"a":1}',
        f"base64:{base64.b64encode(bytes([0, 255])).decode()}",
        f"base64:{base64.b64encode(b'two' + bytes([10]) + b'lines').decode()}",
    ]
    (box / "a.ndjson").write_bytes(b"{ }\n2\n3\n")
    assert cli("head", "a.ndjson", "--count", "1", "--offset", "1").out == b"2\n"
    assert cli("head", "-", "--format", "csv", "-n", "0", stdin=b"a\n1\n").out == b"a\n"
