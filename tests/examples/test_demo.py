"""``examples/demo.py``, which ``./scripts/demo`` runs: real input, every record verified, one line for bad input."""

import gzip
import json
import pathlib
import re
import subprocess
import sys

import pytest

from omnistorage import open_records

DEMO = pathlib.Path(__file__).parent.parent.parent / "examples" / "demo.py"


def demo(folder, *arguments, stdin=""):
    command = [sys.executable, "-W", "error", DEMO, *arguments]
    return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, text=True)


def read(path):
    with open_records(path, "r") as reader:
        return list(reader)


def test_without_arguments_the_installed_packages_are_written_and_verified(tmp_path):
    done = demo(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    records, objects = re.search(r"wrote +([\d,]+) records into ([\d,]+) objects", done.stdout).groups()
    ok, bad, apart = re.search(r"verified +([\d,]+) ok, ([\d,]+) bad, ([\d,]+) without", done.stdout).groups()
    records, ok, apart = (int(text.replace(",", "")) for text in (records, ok, apart))
    assert records > 500
    assert (ok + apart, bad) == (records, "0")
    written = list((tmp_path / "demo-out").iterdir())
    assert len(written) == int(objects)
    first = read(tmp_path / "demo-out" / "pytest.ndjson.zst")[0]
    assert list(first) == ["package", "path", "sha256", "size"]


def test_the_commands_it_names_work(tmp_path):
    pytest.importorskip("click")
    (tmp_path / "my log.txt").write_text("one\ntwo\n")
    done = demo(tmp_path, "my log.txt")
    commands = done.stdout.partition("Try next:")[2].strip().splitlines()
    assert len(commands) == 4
    for command in commands:
        ran = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, (command, ran.stderr)
    assert ran.stdout == '{"line":1,"text":"one"}\n{"line":2,"text":"two"}\n'
    with gzip.open(tmp_path / "demo-out" / "my log.txt.ndjson.gz") as converted:
        assert len(converted.readlines()) == 2


def test_files_become_records_by_their_kind(tmp_path):
    (tmp_path / "t.csv").write_text('id,name\n1,"a ""b""\n c"\n2,d\n')
    (tmp_path / "e.jsonl").write_text('{"a":1}\n[2.5,null]\n')
    (tmp_path / "app.log.gz").write_bytes(gzip.compress(b"first\n\xff raw\n\nlast"))
    done = demo(tmp_path, "t.csv", "e.jsonl", "app.log.gz")
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote     8 records into 3 objects" in done.stdout
    assert "verified  8 ok, 0 bad" in done.stdout
    out = tmp_path / "demo-out"
    assert read(out / "t.csv.ndjson.zst") == [{"id": "1", "name": 'a "b"\n c'}, {"id": "2", "name": "d"}]
    assert read(out / "e.ndjson.zst") == [{"a": 1}, [2.5, None]]
    assert [r["text"] for r in read(out / "app.log.ndjson.zst")] == ["first", "\\xff raw", "", "last"]


def test_standard_input_is_taken_as_lines(tmp_path):
    done = demo(tmp_path, "-", stdin="".join(f"line {n}\n" for n in range(5000)))
    assert (done.returncode, done.stderr) == (0, "")
    assert "verified  5,000 ok, 0 bad" in done.stdout
    assert read(tmp_path / "demo-out" / "stdin.ndjson.zst")[4999] == {"line": 5000, "text": "line 4999"}


def test_bad_input_gets_one_clear_line_and_the_rest_is_done(tmp_path):
    (tmp_path / "good.txt").write_text("fine\n")
    (tmp_path / "garbage.bin").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "empty.log").write_bytes(b"")
    (tmp_path / "bad.ndjson").write_text('{"a":1}\n{oops\n')
    (tmp_path / "bad.csv").write_text('a,b\n1,"2\n')
    (tmp_path / "cut.log.gz").write_bytes(gzip.compress(b"text\n" * 100)[:-5])
    (tmp_path / "folder").mkdir()
    wrong = ["missing.txt", "garbage.bin", "empty.log", "bad.ndjson", "bad.csv", "cut.log.gz", "folder"]
    done = demo(tmp_path, *wrong, "good.txt")
    assert done.returncode == 1
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == wrong
    assert "verified  1 ok, 0 bad" in done.stdout
    assert [path.name for path in (tmp_path / "demo-out").iterdir()] == ["good.txt.ndjson.zst"]


def test_a_record_that_differs_from_its_source_fails_the_run(tmp_path):
    (tmp_path / "a.ndjson").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(10)))
    program = (
        f"import sys; sys.path.insert(0, {str(DEMO.parent)!r}); import demo; plain = demo.Demo.verify\n"
        "demo.Demo.verify = lambda self, path, count, right: plain(self, path, count, lambda r: right({**r, 'x': 1}))\n"
        "sys.exit(demo.main(['a.ndjson']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "0 ok, 10 bad" in done.stdout
    assert done.stderr.count("BAD: a.ndjson.zst: record") == 10
