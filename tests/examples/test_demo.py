"""``examples/demo.py``, which ``./scripts/demo`` runs: real input, every record verified, one line for bad input."""

import gzip
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from omnistorage import LocalBackend, open_backend, open_records, ops
from omnistorage.delivery import read_manifest

from ..servers import server
from ..waiting import LIMIT

DEMO = pathlib.Path(__file__).parent.parent.parent / "examples" / "demo.py"


def demo(folder, *arguments, stdin="", **variables):
    command = [sys.executable, "-W", "error", DEMO, *arguments]
    return subprocess.run(
        command, cwd=folder, input=stdin, capture_output=True, text=True, env={**os.environ, **variables}, timeout=LIMIT
    )


def entries(folder):
    found = list(read_manifest(LocalBackend(folder / "demo-out"), "_manifest.ndjson"))
    return sorted(found, key=lambda entry: entry.first)


def read(folder):
    """Every record, in the order of the input."""
    records = []
    for entry in entries(folder):
        with open_records(folder / "demo-out" / entry.path, "r") as reader:
            records += reader
    return records


def numbers(pattern, text):
    return [int(found.replace(",", "")) for found in re.search(pattern, text).groups()]


@pytest.mark.ci_only
def test_without_arguments_the_installed_packages_are_rolled_by_package_and_verified(tmp_path):
    done = demo(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    records, objects = numbers(r"wrote +([\d,]+) records into ([\d,]+) objects", done.stdout)
    ok, bad, apart = numbers(r"on disk: ([\d,]+) ok, ([\d,]+) bad, ([\d,]+) no hash", done.stdout)
    assert records > 500
    assert ok > 300
    assert (ok + apart, bad) == (records, 0)
    written = entries(tmp_path)
    assert len(written) == objects == len(list((tmp_path / "demo-out").rglob("*.ndjson.zst")))
    assert sum(entry.records for entry in written) == records
    assert max(entry.records for entry in written) == 250, "a large package is rolled"
    for entry in written:
        with open_records(tmp_path / "demo-out" / entry.path, "r") as reader:
            assert {record["package"] for record in reader} == {entry.path.partition("/")[0]}
    assert set(read(tmp_path)[0]) == {"package", "path", "sha256", "size"}
    assert "demo-out/\n├── _manifest.ndjson" in done.stdout
    assert len(done.stdout.splitlines()) < 45


def test_a_second_run_takes_the_place_of_the_first(tmp_path):
    (tmp_path / "a.log").write_text("one\n")
    (tmp_path / "b.log").write_text("two\n")
    assert demo(tmp_path, "a.log").returncode == 0
    assert demo(tmp_path, "b.log").returncode == 0
    assert [path.name for path in (tmp_path / "demo-out").iterdir() if path.is_dir()] == ["b.log"]
    assert [entry.path for entry in entries(tmp_path)] == ["b.log/0000.ndjson.zst"]


@pytest.mark.ci_only
def test_to_a_url_it_writes_there_and_takes_the_place_of_its_own_earlier_run_alone(tmp_path):
    info = server("seaweedfs")
    keys = {"AWS_ACCESS_KEY_ID": info["access_key"], "AWS_SECRET_ACCESS_KEY": info["secret_key"]}
    url = f"s3://{info['bucket']}/demo-{os.getpid()}?endpoint_url={info['endpoint']}&vendor=seaweedfs"
    (tmp_path / "a.log").write_text("one\n")
    (tmp_path / "b.log").write_text("two\n" * 3)
    store = open_backend(f"{url}&access_key={info['access_key']}&secret_key={info['secret_key']}")
    ops.write_bytes(store, "mine.txt", b"mine")
    for name in ("a.log", "b.log"):
        done = demo(tmp_path, "--to", url, name, **keys)
        assert (done.returncode, done.stderr) == (0, "")
        assert info["secret_key"] not in done.stdout
    assert "compared  3 records with the source: 3 ok, 0 bad" in done.stdout
    assert [info.path for info in store.list()] == ["_manifest.ndjson", "b.log/0000.ndjson.zst", "mine.txt"]
    assert not (tmp_path / "demo-out").exists()
    store.close()
    assert demo(tmp_path, "--to").returncode == 2


def test_a_folder_that_no_demo_wrote_is_kept(tmp_path):
    (tmp_path / "demo-out").mkdir()
    (tmp_path / "demo-out" / "mine.txt").write_text("mine")
    (tmp_path / "a.log").write_text("one\n")
    assert demo(tmp_path, "a.log").returncode == 0
    assert (tmp_path / "demo-out" / "mine.txt").read_text() == "mine"


def test_its_own_output_is_not_taken_for_input(tmp_path):
    (tmp_path / "a.log").write_text("one\n")
    assert demo(tmp_path, "a.log").returncode == 0
    done = demo(tmp_path, "demo-out/a.log/0000.ndjson.zst")
    assert done.returncode == 1
    assert "made anew by each run" in done.stderr
    assert len(read(tmp_path)) == 1, "and nothing was removed"


@pytest.mark.parametrize("own", [pytest.param(False, marks=pytest.mark.ci_only), True])
def test_the_commands_it_names_work(tmp_path, own):
    pytest.importorskip("click")
    (tmp_path / "my log.txt").write_text("".join(f"line {n}\n" for n in range(250)))
    done = demo(tmp_path, *["my log.txt"] * own)
    commands = done.stdout.partition("Try next:")[2].strip().splitlines()
    assert len(commands) == 5
    said = []
    for command in commands:
        ran = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
        assert ran.returncode == 0, (command, ran.stderr)
        said.append(ran.stdout)
    assert "0000.ndjson.zst" in said[0]
    for out in said[1:3]:
        assert len([json.loads(line) for line in out.splitlines()]) == 3
    with gzip.open(tmp_path / "demo-out" / "copy.ndjson.gz") as converted:
        count = len(converted.readlines())
    rolled = sorted((tmp_path / "demo-out" / "rolled").iterdir())
    assert [path.name for path in rolled] == ["000.ndjson.gz", "001.ndjson.gz", "002.ndjson.gz"]
    assert [len(gzip.decompress(path.read_bytes()).splitlines()) for path in rolled] == [100, 100, count - 200]


def test_files_become_records_by_their_kind(tmp_path):
    (tmp_path / "t.csv").write_text('id,name\n1,"a ""b""\n c"\n2,d\n')
    (tmp_path / "e.jsonl").write_text('{"a":1}\n[2.5,null]\n')
    (tmp_path / "app.log.gz").write_bytes(gzip.compress(b"first\n\xff raw\n\nlast"))
    (tmp_path / "README").write_text("no suffix\n")
    done = demo(tmp_path, "t.csv", "e.jsonl", "app.log.gz", "README")
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote     9 records into 4 objects" in done.stdout
    assert "compared  9 records with the source: 9 ok, 0 bad\n" in done.stdout
    assert [(record["file"], record["number"], record["record"]) for record in read(tmp_path)] == [
        ("t.csv", 1, {"id": "1", "name": 'a "b"\n c'}), ("t.csv", 2, {"id": "2", "name": "d"}),
        ("e.jsonl", 1, {"a": 1}), ("e.jsonl", 2, [2.5, None]),
        ("app.log.gz", 1, "first"), ("app.log.gz", 2, "\\xff raw"), ("app.log.gz", 3, ""), ("app.log.gz", 4, "last"),
        ("README", 1, "no suffix"),
    ]  # fmt: skip


def test_a_large_file_is_rolled_and_files_of_one_name_are_kept_apart(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "a.log").write_text("".join(f"line {n}\n" for n in range(25_000)))
    (tmp_path / "x" / "a.log").write_text("another\n")
    done = demo(tmp_path, "a.log", "x/a.log")
    assert (done.returncode, done.stderr) == (0, "")
    assert [(entry.path, entry.records) for entry in entries(tmp_path)] == [
        ("a.log/0000.ndjson.zst", 10_000), ("a.log/0001.ndjson.zst", 10_000), ("a.log/0002.ndjson.zst", 5000),
        ("a.log-2/0000.ndjson.zst", 1),
    ]  # fmt: skip


def test_standard_input_is_taken_as_lines(tmp_path):
    done = demo(tmp_path, "-", stdin="".join(f"line {n}\n" for n in range(5000)))
    assert (done.returncode, done.stderr) == (0, "")
    assert "compared  5,000 records with the source: 5,000 ok, 0 bad\n" in done.stdout
    assert read(tmp_path)[4999] == {"file": "stdin", "number": 5000, "record": "line 4999"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.txt", "no such file"),
        pytest.param("empty.log", "there is no record in it", marks=pytest.mark.ci_only),
        pytest.param(".", "a folder", marks=pytest.mark.ci_only),
    ],
)
def test_one_input_that_gives_nothing_is_one_line_and_exit_code_1(tmp_path, name, says):
    (tmp_path / "empty.log").write_bytes(b"")
    done = demo(tmp_path, name)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"demo: {re.escape(name)}: .*{says}.*\n", done.stderr)
    assert not (tmp_path / "demo-out").exists()


def test_bad_input_gets_one_clear_line_and_the_rest_is_done(tmp_path):
    (tmp_path / "good.txt").write_text("fine\n")
    (tmp_path / "garbage.bin").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "empty.log").write_bytes(b"")
    (tmp_path / "bad.csv").write_text('a,b\n1,"2\n')
    (tmp_path / "cut.log.gz").write_bytes(gzip.compress(b"text\n" * 100)[:-5])
    (tmp_path / "folder").mkdir()
    wrong = ["missing.txt", "garbage.bin", "empty.log", "bad.csv", "cut.log.gz", "folder"]
    done = demo(tmp_path, *wrong, "good.txt")
    assert done.returncode == 1
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == wrong
    assert "compared  1 record with the source: 1 ok, 0 bad\n" in done.stdout
    assert [entry.path for entry in entries(tmp_path)] == ["good.txt/0000.ndjson.zst"]


def test_bad_records_are_left_out_and_counted(tmp_path):
    (tmp_path / "e.ndjson").write_text('{"a":1}\n{oops\n{"a":3}\n')
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3\n4,5,6\n7,8\n")
    done = demo(tmp_path, "e.ndjson", "t.csv")
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("demo: e.ndjson: 1 bad record left out, the first is number 2: ")
    assert second == "demo: t.csv: 2 bad records left out, the first is number 2: 1 fields where the header has 2"
    assert "compared  4 records with the source: 4 ok, 0 bad\n" in done.stdout
    assert [record["record"] for record in read(tmp_path)] == [
        {"a": 1}, {"a": 3}, {"a": "1", "b": "2"}, {"a": "7", "b": "8"}
    ]  # fmt: skip


def meddling(folder, between):
    """The demo over ten records, with ``between`` run before everything is read back."""
    (folder / "a.ndjson").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(10)))
    program = (
        f"import sys, pathlib; sys.path.insert(0, {str(DEMO.parent)!r}); import demo; plain = demo.read_back\n"
        f"def read_back(backend, sources, show):\n    {between}\n    return plain(backend, sources, show)\n"
        "demo.read_back = read_back\nsys.exit(demo.main(['a.ndjson']))"
    )
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=LIMIT)


def test_records_that_differ_from_their_source_fail_the_run(tmp_path):
    changed = "".join(json.dumps({"n": n + n // 7}) + "\n" for n in range(10))
    done = meddling(tmp_path, f"pathlib.Path('a.ndjson').write_text({changed!r})")
    assert done.returncode == 1
    assert "compared  10 records with the source: 7 ok, 3 bad\n" in done.stdout
    assert done.stderr.count("BAD: a.ndjson/0000.ndjson.zst: record") == 3


def test_a_changed_object_fails_the_run(tmp_path):
    between = (
        "file = pathlib.Path('demo-out/a.ndjson/0000.ndjson.zst'); data = file.read_bytes(); "
        "file.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])"
    )
    done = meddling(tmp_path, between)
    assert done.returncode == 1
    assert "the SHA-256 is not the one in the manifest" in done.stderr
    assert "compared" not in done.stdout


def test_a_record_that_is_missing_fails_the_run(tmp_path):
    done = meddling(tmp_path, "sources[0].count += 1")
    assert done.returncode == 1
    assert "10 ok, 1 bad\n" in done.stdout


def test_an_output_that_knows_no_unicode_is_no_obstacle(tmp_path):
    (tmp_path / "a.log").write_text("one\n")
    done = demo(tmp_path, "a.log", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "0000.ndjson.zst" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    (tmp_path / "a.log").write_text("one\n")
    command = [sys.executable, "-W", "error", DEMO, "a.log"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
        done.stdout.close()
        assert done.stderr.read() == b""
        assert done.wait(LIMIT) == 141


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_on_a_terminal_progress_is_drawn_and_cleared(tmp_path):
    pytest.importorskip("rich")
    (tmp_path / "a.log").write_text("one\n" * 20_000)
    ours, theirs = os.openpty()
    env = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    command = [sys.executable, "-W", "error", DEMO, "a.log"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, env=env) as done:
        os.close(theirs)
        drawn = b""
        try:
            while more := os.read(ours, 65536):
                drawn += more
        except OSError:  # how Linux says that the other end has closed
            pass
        out = done.stdout.read()
        assert done.wait(LIMIT) == 0
    os.close(ours)
    assert b"writing" in drawn
    assert b"100%" in drawn
    assert b"verifying" in drawn
    assert b"\x1b" not in out
