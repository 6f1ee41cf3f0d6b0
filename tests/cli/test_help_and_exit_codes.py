"""What the command says about itself, and the exit codes of DESIGN section 6."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import omnistorage.cli.commands.ls as listing
from omnistorage.cli.core.exit_codes import escape, exit_code
from omnistorage.cli.runner import VERBS
from omnistorage.errors import BackendUnavailable, ConfigError, MissingExtra, MultiError, NotFound, StorageError

from ..budget import FULL
from ..waiting import LIMIT

Cli = Callable[..., Any]
NAMES = [name for verbs in VERBS.values() for name in verbs]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("ls",), 0),
        (("ls", "failing://odd/x"), 1),
        (("cat",), 2),
        (("ls", "nope"), 3),
        (("tree", "nope"), 3),
        (("cp", "-R", "nope", "new"), 3),
        (("cp", "a.ndjson", "failing://nobucket/x"), 3),
        (("cat", "nope"), 4),
        (("read", "nope.ndjson"), 4),
        (("stat", "nope"), 4),
        (("rm", "nope"), 4),
        (("cp", "nope", "new"), 4),
        (("convert", "nope.ndjson", "b.ndjson"), 4),
        (("cat", "failing://busy/x"), 5),
        (("cp", "--no-clobber", "a.ndjson", "b.ndjson"), 6),
        (("cat", "failing://denied/x"), 7),
        (("ls", "s3x://bucket"), 7),
        (("ls", "unknown:"), 7),
        (("--log-file", "no/such/folder", "ls"), 7),
    ],
)
def test_pain_12_exit_codes(cli: Cli, box: Path, argv: tuple[str, ...], code: int) -> None:
    (box / "a.ndjson").write_bytes(b"1\n")
    (box / "b.ndjson").write_bytes(b"1\n")
    answer = cli(*argv)
    assert answer.code == code
    assert bool(answer.err) == bool(code)
    assert all(line.startswith("omnistorage: error: ") for line in answer.err.splitlines())


def test_pain_12_several_failures_agree_or_are_1(cli: Cli, box: Path) -> None:
    assert cli("rm", "x", "y").code == 4
    assert cli("rm", "x", "failing://busy/x").code == 1
    assert cli("rm", "x", "failing://denied/x").code == 7


def test_codes_of_groups_and_of_what_is_no_storage_error() -> None:
    assert exit_code(MultiError("two", [NotFound("a"), NotFound("b")])) == 4
    assert exit_code(MultiError("two", [NotFound("a"), BackendUnavailable("b")])) == 1
    assert exit_code(StorageError("x", transient=True)) == 5
    assert exit_code(ConfigError("x")) == exit_code(MissingExtra(extra="s3")) == 7
    assert exit_code(ValueError("x")) == 1


def test_a_bug_is_one_line_and_a_traceback_only_when_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "rows", None)
    answer = cli("ls")
    assert (answer.code, len(answer.err.splitlines())) == (1, 1)
    assert "internal error: TypeError" in answer.err
    assert "Traceback" in cli("-vv", "ls").err
    assert "Traceback" not in cli("-v", "cat", "nope").err
    assert "Traceback" in cli("cat", "nope", "-v", "-v").err


def test_the_log_file_keeps_everything_that_is_said(cli: Cli, box: Path) -> None:
    cli("cat", "nope", "--log-file", "log", "-q")
    text = (box / "log").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\dT[\d:.]+Z ERROR omnistorage: error: nope: no such", text, re.MULTILINE)
    assert " TRACE Traceback" in text


def test_secrets_in_urls_do_not_print(cli: Cli) -> None:
    answer = cli("-vv", "ls", "s3://me:hunter2@bucket/x?token=abcdef")
    assert answer.code == 7
    assert "hunter2" not in answer.err
    assert "abcdef" not in answer.err


def test_unknown_verbs_and_options_suggest_the_nearest(cli: Cli) -> None:
    for argv, hint in (
        (["raed", "x"], "'read'"),
        (["convrt"], "'convert'"),
        (["--jsn", "ls"], "--json"),
        (["ls", "--recursve"], "--recursive"),
        (["write", "a.ndjson", "--on-eror", "skip"], "--on-error"),
        (["write", "a.ndjson", "--compression", "zst"], "did you mean 'zstd'"),
    ):
        answer = cli(*argv)
        assert answer.code == 2
        assert hint in answer.err
        assert len(answer.err.splitlines()) == 1


def test_values_that_cannot_be_are_usage_errors(cli: Cli) -> None:
    for argv in (
        ["write", "a.ndjson", "--compression", "gzip:99"],
        ["write", "a.ndjson", "--compression", "gzip:x"],
        ["write", "a.ndjson", "--format", "parquet"],
        ["write", "a.ndjson", "--from"],
        ["write", "--from", "b", "a.ndjson"],
        ["write", "/a.ndjson"],
        ["write", "a.ndjson", "--dead-letter", "b", "--on-error", "skip"],
        ["read", "a.ndjson", "-n", "-1"],
        ["--json", "cat", "x"],
        [],
    ):
        assert cli(*argv).code == 2, argv


def test_the_global_options_stand_before_or_behind_the_verb(cli: Cli, box: Path) -> None:
    assert cli("--json", "ls").out == cli("ls", "--json").out
    assert "file://" in cli("-v", "ls").err
    assert "file://" in cli("ls", "-v").err


def test_version_and_help(cli: Cli) -> None:
    assert re.fullmatch(rb"omnistorage \d+\.\d+\.\d+\S*\n", cli("--version").out)
    text = cli("--help").out.decode()
    assert all(re.search(rf"^  {name}\s", text, re.MULTILINE) for name in NAMES)
    assert "Exit codes" in text


@pytest.mark.parametrize("verb", NAMES)
def test_the_example_in_the_help_works(cli: Cli, box: Path, verb: str) -> None:
    text = cli(verb, "--help").out.decode()
    example = re.search(r"^Example:\n  (omnistorage .*)$", text, re.MULTILINE)
    assert example is not None
    assert next(verbs[verb][1] for verbs in VERBS.values() if verb in verbs)
    (box / "events.ndjson").write_bytes(b'{"id":1,"name":"a"}\n' * 5)
    (box / "empty").mkdir()
    for name in ("logs/app.log", "mirror/app.log", "old/thing"):
        (box / name).parent.mkdir()
        (box / name).write_bytes(b"one\ntwo\n")
    if not FULL and not set(example[1]) & set("|<>&;$*"):  # no shell is needed: here it is quicker
        answer = cli(*shlex.split(example[1])[1:])
        assert (answer.code, "error" in answer.err) == (0, False), answer.err
        assert answer.out or answer.err
        return
    line = example[1].replace("omnistorage", f"{shlex.quote(sys.executable)} -m omnistorage", 1)
    done = subprocess.run(line, shell=True, cwd=box, capture_output=True, timeout=LIMIT, check=False)
    assert (done.returncode, b"error" in done.stderr) == (0, False), done.stderr
    assert done.stdout or done.stderr


def test_help_loads_no_library_it_does_not_need(box: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "omnistorage", "--help"], capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not {name.partition(".")[0] for name in loaded} & {"rich", "orjson", "zstandard", "snappy", "hypothesis"}
    assert not [name for name in loaded if name.startswith("omnistorage.backends")]


def test_without_the_extra_it_says_what_to_install(box: Path) -> None:
    code = "import sys; sys.modules['click'] = None\nfrom omnistorage.cli import main\nsys.exit(main(['ls']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert 'pip install "omnistorage[cli]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_escape_leaves_what_prints() -> None:
    assert escape("é 漢 a\\b") == "é 漢 a\\b"
    assert escape("a\n\x1b\udcff\u2028") == "a\\n\\x1b\\udcff\\u2028"


def test_json_rows_survive_any_name(cli: Cli, box: Path) -> None:
    with open(os.fsencode(box) + b"/\xff\xc3\xa9", "wb"):
        pass
    (row,) = [json.loads(line) for line in cli("ls", "--json").lines]
    assert row["Name"] == "\udcffé"


def test_json_rows_hold_nothing_that_a_terminal_obeys(cli: Cli, box: Path) -> None:
    name = "a\x7f\x9b31m\u202eb\u2028\U000e0041é"
    (box / name).touch()
    for line in (*cli("ls", "--json").lines, *cli("stat", "--json", name).lines, *cli("lsjson", ".").lines):
        assert line.isprintable()
    assert [row["Name"] for row in json.loads(cli("lsjson", ".").out)] == [name]
