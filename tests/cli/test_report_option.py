"""``--report FILE.html`` of check, sync, copy and move."""

import json
import os
import re
import shlex
from html import unescape
from pathlib import Path

import pytest

from omnistorage.cli import main


@pytest.fixture
def folders(box: Path) -> Path:
    for name, text in {"a/same": "1", "a/new": "22", "b/same": "1", "b/old": "333", "a/x.tmp": "4"}.items():
        (box / name).parent.mkdir(exist_ok=True)
        (box / name).write_text(text)
        os.utime(box / name, (1_000_000_000, 1_000_000_000))
    return box


def rows_of(page: Path) -> set[tuple[str, str]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return {(kind, path) for kind, path, *_ in json.loads(found[1])["rows"]}


def command_of(page: Path) -> list[str]:
    found = re.search(r'<pre id="command">(.*?)</pre>', page.read_text(), re.DOTALL)
    assert found is not None
    return shlex.split(unescape(re.sub(r"</?span>", "", found[1])))


def test_check_writes_the_page_and_its_exit_code_stays(folders, cli):
    answer = cli("check", "a", "b", "--report", "out.html")
    assert answer.code == 1
    assert rows_of(folders / "out.html") == {("=", "same"), ("+", "new"), ("+", "x.tmp"), ("-", "old")}
    assert f"{(folders / 'a').as_uri()}/" in (folders / "out.html").read_text()
    assert cli("check", "a", "a", "--report", "out.html").code == 0
    assert "In sync." in (folders / "out.html").read_text()


def test_the_command_on_the_page_mends_what_check_found(folders, cli):
    cli("check", "a", "b", "--report", "out.html", "--exclude", "*.tmp", "--checksum=strict", "--combined", "list")
    command = command_of(folders / "out.html")
    assert command == ["omnistorage", "sync", "a", "b", "--exclude", "*.tmp", "--checksum=strict", "--delete"]
    assert cli(*command[1:]).code == 0
    assert cli("check", "a", "b", "--exclude", "*.tmp").code == 0
    assert not (folders / "b" / "x.tmp").exists()


def test_a_comparison_of_bytes_is_mended_by_one(folders, cli):
    (folders / "a" / "same").write_text("2")
    cli("check", "a", "b", "--download", "--size-only", "--one-way", "--report", "out.html")
    command = command_of(folders / "out.html")
    assert command == ["omnistorage", "sync", "a", "b", "--checksum=strict"]
    assert cli(*command[1:]).code == 0
    assert (folders / "b" / "same").read_text() == "2"


def test_a_dry_run_writes_the_plan_and_the_command_that_does_it(folders, cli):
    answer = cli("sync", "a", "b", "-n", "--delete", "--max-age", "30y", "--report", "plan.html", "--transfers", "2")
    assert answer.code == 0
    assert rows_of(folders / "plan.html") == {("copy", "new"), ("copy", "x.tmp"), ("delete", "old")}
    assert (folders / "b" / "old").exists()
    command = command_of(folders / "plan.html")
    assert command[:4] == ["omnistorage", "sync", "a", "b"]
    assert sorted(command[4:]) == ["--delete", "--max-age", "--transfers", "2", "30y"]
    assert cli(*command[1:]).code == 0
    assert not (folders / "b" / "old").exists()


@pytest.mark.parametrize("verb", ["sync", "copy", "move"])
def test_a_run_writes_what_was_done(verb, folders, cli):
    assert cli(verb, "a", "b", "--report", "out.html").code == 0
    assert {("copy", "new"), ("copy", "x.tmp")} <= rows_of(folders / "out.html")
    assert command_of(folders / "out.html") == ["omnistorage", verb, "a", "b"]
    assert f"omnistorage {verb}</title>" in (folders / "out.html").read_text()


def test_options_with_numbers_and_times_come_back_as_they_are_understood(folders, cli):
    given = ["--modify-window", "1.5s", "--max-duration", "1h", "--max-transfer", "1MiB", "--exclude", "a b"]
    assert cli("sync", "a", "b", "-n", "--report", "one.html", *given).code == 0
    command = command_of(folders / "one.html")
    assert cli(*command[1:], "-n", "--report", "two.html").code == 0
    assert command_of(folders / "two.html") == command
    assert "1048576" in command
    assert "3600.000000s" in command


def test_names_that_look_like_options_stay_names(folders, cli):
    (folders / "a").rename(folders / "-a")
    cli("check", "--report", "out.html", "--", "-a", "b")
    command = command_of(folders / "out.html")
    assert command == ["omnistorage", "sync", "--delete", "--checksum", "--", "-a", "b"]
    assert cli(*command[1:]).code == 0
    assert cli("check", "--", "-a", "b").code == 0


@pytest.mark.parametrize("verb", ["check", "sync", "copy", "move"])
@pytest.mark.parametrize("name", ["-", ""])
def test_a_page_goes_to_a_file_and_not_to_standard_output(verb, name, folders, cli):
    answer = cli(verb, "a", "b", "--report", name)
    assert answer.code == 2
    assert "a page goes to a file" in answer.err
    assert answer.out == b""
    assert not (folders / "b" / "new").exists()


def test_a_page_that_cannot_be_written_stops_everything_before_it_begins(folders, cli):
    answer = cli("sync", "a", "b", "--report", "a/same/out.html")
    assert answer.code not in (0, 2)
    assert "a/same/out.html" in answer.err
    assert not (folders / "b" / "new").exists()


def test_a_run_that_breaks_off_leaves_the_old_page(folders, cli):
    (folders / "out.html").write_text("old")
    assert cli("sync", "nowhere", "b", "--report", "out.html").code == 3
    assert cli("check", "nowhere", "b", "--no-such-option", "--report", "out.html").code == 2
    assert (folders / "out.html").read_text() == "old"
    assert {path.name for path in folders.iterdir()} == {"a", "b", "out.html"}


def test_the_page_may_lie_in_the_folder_that_is_synced(folders, cli):
    (folders / "a" / "x.tmp").unlink()
    assert cli("sync", "a", "b", "--report", "a/out.html").code == 0
    assert rows_of(folders / "a" / "out.html") == {("copy", "new")}
    assert sorted(path.name for path in (folders / "b").iterdir()) == ["new", "old", "same"]


def test_the_help_names_it(capsys):
    for verb in ("check", "sync", "copy", "move"):
        main([verb, "--help"])
        assert "--report FILE.html" in capsys.readouterr().out
