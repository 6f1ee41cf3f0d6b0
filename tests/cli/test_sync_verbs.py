"""``sync``, ``copy``, ``move`` and ``check``, and the filters of ``ls`` and ``rm``."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnistorage import AlreadyExists, LocalBackend, PermissionDenied
from omnistorage.cli.core.exit_codes import explain
from omnistorage.cli.options.option_names import in_options, worded

from ..waiting import LIMIT

Cli = Callable[..., Any]


@pytest.fixture
def tree(box: Path) -> Path:
    for name in ("a.csv", "b.tmp", "sub/c.csv", "sub/deep/d.ndjson"):
        path = box / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name * 3)
    return box


def files(folder: Path) -> dict[str, str]:
    """What lies in a folder; the hidden temporaries of a killed process are no part of it."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".omnistorage-"))
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def events(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.lines]


def test_a_dry_run_says_what_would_happen_and_why_and_does_nothing(cli: Cli, tree: Path) -> None:
    (tree / "dst").mkdir()
    (tree / "dst" / "old").write_text("x")
    answer = cli("sync", "src", "dst", "--delete", "--max-delete", "5", "-n")
    assert answer.code == 0
    assert "would copy sub/deep/d.ndjson (51 B): new" in answer.err
    assert "would delete old (1 B): not at the source" in answer.err
    assert files(tree / "dst") == {"old": "x"}
    done = cli("sync", "src", "dst", "--delete", "--max-delete", "5")
    assert done.code == 0
    assert files(tree / "dst") == files(tree / "src")
    for line in ("copied sub/deep/d.ndjson", "deleted old"):
        assert line in done.err


def test_errors_name_the_side_at_fault(cli: Cli, tree: Path) -> None:
    (tree / "dst/a.csv").mkdir(parents=True)
    (tree / "file").write_text("x")
    (tree / "sub").write_text("x")
    for verb in ("sync", "copy", "move"):
        done = cli(verb, "src", "file/x")
        assert done.code == 6
        assert f"error: file/x: the destination is to be a folder, and {tree}/file is a file\n" in done.err
        assert "nothing to do" not in done.err
    done = cli("copy", "src/a.csv", "file")
    assert "error: file/a.csv: a file stands where a folder is needed\n" in done.err
    done = cli("copy", "src/a.csv", "failing://odd/x")
    assert "error: failing://odd/x: something else\n" in done.err
    done = cli("sync", "src", "failing://denied/x")
    assert "error: failing://denied/x: no key, no entry;" in done.err
    done = cli("sync", "failing://denied/x", "dst")
    assert "error: failing://denied/x: no key, no entry;" in done.err
    assert cli("sync", "src", "new").code == 0
    (tree / "src/a.csv").write_text("another")
    done = cli("sync", "src", "new", "--backup-dir", "file/kept")
    assert "error: file/kept/a.csv: a file stands where a folder is needed\n" in done.err


def test_a_folder_that_cannot_be_listed_is_named_and_an_error(
    cli: Cli, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(self: LocalBackend, path: str, plain: Any = LocalBackend._list_dir) -> Any:
        if path == "sub/deep" and self.root == str(tree / at):
            raise PermissionDenied("not yours", path=path, op="list_dir")
        return plain(self, path)

    assert cli("sync", "src", "dst").code == 0
    monkeypatch.setattr(LocalBackend, "_list_dir", listed)
    for at in ("src", "dst"):
        done = cli("sync", "src", "dst")
        assert done.code == 7, at
        assert f"error: {at}/sub/deep: not yours;" in done.err
        assert "nothing is deleted" not in done.err
        done = cli("check", "src", "dst")
        assert done.code == 7, at
        assert f"{at}/sub/deep: not yours;" in done.err


def test_a_run_that_deletes_nothing_does_not_speak_of_it(cli: Cli, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: LocalBackend, path: str, options: Any, plain: Any = LocalBackend._open_reader) -> Any:
        if path.endswith("a.csv"):
            raise PermissionDenied("not yours", path=path, op="open_reader")
        return plain(self, path, options)

    monkeypatch.setattr(LocalBackend, "_open_reader", refused)
    for options in ([], ["--delete"]):
        done = cli("sync", "src", "dst", *options)
        assert done.code == 7
        assert "nothing is deleted" not in done.err


def test_folders_that_could_not_be_made_get_no_time(cli: Cli, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: LocalBackend, path: str, options: Any) -> Any:
        raise PermissionDenied("not yours", path=path, op="open_writer")

    monkeypatch.setattr(LocalBackend, "_open_writer", refused)
    done = cli("sync", "src", "dst")
    assert done.code == 7
    assert "error: dst/sub/c.csv: not yours;" in done.err
    assert "time" not in done.err
    assert "4 failed" in done.err


def test_what_a_run_says_has_options_for_settings(cli: Cli, tree: Path) -> None:
    (tree / "none").mkdir()
    assert cli("sync", "src", "dst").code == 0
    done = cli("sync", "none", "dst", "--delete")
    assert "; --allow-empty-source means it\n" in done.err
    done = cli("sync", "src/sub", "dst", "--delete", "--max-delete", "1")
    assert "--max-delete allows 1: nothing" in done.err
    done = cli("sync", "src/sub", "dst", "--delete", "--max-delete", "90%", "--max-delete-size", "1b")
    assert "--max-delete-size allows 1: nothing" in done.err
    (tree / "src/clash").write_text("x")
    (tree / "dst/clash").mkdir()
    (tree / "dst/clash/x").write_text("x")
    (tree / "src/b.tmp").unlink()
    done = cli("sync", "src", "dst", "--delete")
    assert "warning: there were errors, so nothing is deleted; --ignore-errors deletes all the same\n" in done.err
    done = cli("sync", "src", "dst", "--journal", "plan", "--delete")
    assert "; --ignore-errors deletes all the same" in done.err


def test_names_of_files_are_no_settings() -> None:
    kept = "a/max_delete max_delete.txt 'max_delete' max_delete/b no_max_delete max_delete-1"
    assert in_options(kept) == kept
    assert in_options("set max_delete, or max_delete_size.") == "set --max-delete, or --max-delete-size."


def test_running_it_again_transfers_nothing(cli: Cli, tree: Path) -> None:
    assert cli("sync", "src", "dst").code == 0
    again = cli("sync", "src", "dst", "--json")
    assert again.code == 0
    found = events(again)
    assert [one["event"] for one in found] == ["report", "summary"]
    assert (found[0]["equal"], found[0]["copied"]) == (4, 0)
    assert cli("sync", "src", "dst", "--error-on-no-transfer").code == 9


def test_pain_12_every_planned_action_has_one_line_and_one_event(cli: Cli, tree: Path) -> None:
    (tree / "dst").mkdir()
    (tree / "dst" / "a.csv").write_text("other")
    (tree / "dst" / "gone").write_text("x")
    planned = cli("sync", "src", "dst", "--delete", "-n", "--json")
    done = cli("sync", "src", "dst", "--delete", "--json")
    kinds = [
        sorted((one["event"], one["path"]) for one in events(answer) if one["event"] not in ("report", "summary"))
        for answer in (planned, done)
    ]
    assert kinds[0] == kinds[1]
    assert kinds[0] == sorted(
        [
            ("update", "a.csv"),
            ("copy", "b.tmp"),
            ("copy", "sub/c.csv"),
            ("copy", "sub/deep/d.ndjson"),
            ("delete", "gone"),
            ("dirtime", "sub"),
            ("dirtime", "sub/deep"),
        ]
    )
    assert all(one["dry_run"] for one in events(planned) if one["event"] == "copy")


def test_pain_12_a_sync_that_fails_never_exits_with_0(cli: Cli, tree: Path) -> None:
    (tree / "src" / "sub" / "c.csv").chmod(0)
    (tree / "dst" / "b.tmp").mkdir(parents=True)
    (tree / "dst" / "b.tmp" / "inner").write_text("x")
    answer = cli("sync", "src", "dst", "--delete")
    assert answer.code != 0
    assert "src/b.tmp: a folder at the destination has this name" in answer.err
    assert "1 not deleted" in answer.err or (tree / "dst" / "b.tmp" / "inner").exists()


def test_the_exit_code_tells_what_was_wrong(cli: Cli, tree: Path) -> None:
    assert cli("sync", "nosuch", "dst", "--delete").code == 3
    assert cli("sync", "src", "src/sub").code == 7
    assert cli("sync", "src", "failing://busy/x").code == 5
    assert cli("sync", "src", "dst", "--max-transfer", "30").code == 8
    assert cli("check", "src", "src").code == 0
    assert cli("check", "src", "failing://denied/x").code == 7
    for wrong in (
        ["--max-delete", "lots"],
        ["--checksum=maybe"],
        ["--compare", "nobody"],
        ["--size-only", "--checksum"],
        ["--order-by", "colour"],
        ["--include", "a{b"],
        ["--filter", "*.csv"],
        ["--min-size", "1X"],
        ["--delete-excluded"],
    ):
        assert cli("sync", "src", "dst", *wrong).code == 2, wrong
    assert cli("copy", "src", "dst", "--delete").code == 2


def test_more_than_half_is_not_deleted_unless_it_is_said(cli: Cli, tree: Path) -> None:
    cli("sync", "src", "dst")
    for name in ("a.csv", "b.tmp", "sub/c.csv"):
        (tree / "src" / name).unlink()
    answer = cli("sync", "src", "dst", "--delete")
    assert answer.code != 0
    assert "3 of 4 objects would be deleted" in answer.err
    assert len(files(tree / "dst")) == 4
    assert cli("sync", "src", "dst", "--delete", "--max-delete", "75%").code == 0
    assert list(files(tree / "dst")) == ["sub/deep/d.ndjson"]


def test_copy_takes_one_object_and_move_takes_the_source_away(cli: Cli, tree: Path) -> None:
    assert cli("copy", "src/sub/c.csv", "out").code == 0
    assert files(tree / "out") == {"c.csv": "sub/c.csv" * 3}
    (tree / "src" / "a.csv.bak").write_text("not this one")
    assert cli("copy", "src/a.csv", "out").code == 0
    assert set(files(tree / "out")) == {"c.csv", "a.csv"}
    assert cli("move", "src", "moved", "--include", "*.csv").code == 0
    assert set(files(tree / "moved")) == {"a.csv", "sub/c.csv"}
    assert set(files(tree / "src")) == {"a.csv.bak", "b.tmp", "sub/deep/d.ndjson"}


def test_filters_choose_in_sync_ls_and_rm(cli: Cli, tree: Path) -> None:
    (tree / "rules").write_text("# comment\n- *.tmp\n+ sub/**\n- *\n")
    assert cli("sync", "src", "dst", "--filter-from", "rules").code == 0
    assert set(files(tree / "dst")) == {"sub/c.csv", "sub/deep/d.ndjson"}
    assert cli("ls", "-R", "--files", "src", "--include", "*.csv").lines == ["a.csv", "sub/c.csv"]
    assert cli("ls", "-R", "--files", "src", "--exclude", "sub/").lines == ["a.csv", "b.tmp"]
    assert cli("rm", "src", "--include", "*.tmp").code == 2
    assert cli("rm", "-R", "src", "--include", "*.tmp").code == 0
    assert set(files(tree / "src")) == {"a.csv", "sub/c.csv", "sub/deep/d.ndjson"}
    names = b"a.csv\nsub/c.csv\n"
    assert cli("copy", "src", "some", "--files-from", "-", stdin=names).code == 0
    assert set(files(tree / "some")) == {"a.csv", "sub/c.csv"}


def test_check_tells_each_kind_of_difference(cli: Cli, tree: Path) -> None:
    cli("sync", "src", "dst")
    (tree / "dst" / "a.csv").write_text("different")
    (tree / "dst" / "sub" / "c.csv").unlink()
    (tree / "dst" / "extra").write_text("x")
    lists = ["--combined", "-", "--differ", "d", "--missing-on-dst", "m", "--missing-on-src", "s", "--match", "e"]
    answer = cli("check", "src", "dst", *lists)
    assert answer.code == 1
    assert sorted(answer.lines) == ["* a.csv", "+ sub/c.csv", "- extra", "= b.tmp", "= sub/deep/d.ndjson"]
    found = {name: (tree / name).read_text().split() for name in "dmse"}
    assert found == {"d": ["a.csv"], "m": ["sub/c.csv"], "s": ["extra"], "e": ["b.tmp", "sub/deep/d.ndjson"]}
    assert cli("check", "src", "dst", "--include", "*.tmp").code == 0
    assert cli("check", "src", "dst", "--one-way", "--exclude", "*.csv").code == 0
    assert events(cli("check", "src", "dst", "--json"))[-1]["exit_code"] == 1
    os.utime(tree / "dst" / "b.tmp", (1, 1))
    assert cli("check", "src", "dst", "--include", "*.tmp").code == 0, "the content is the same"
    assert cli("check", "src", "dst", "--include", "*.tmp", "--compare", "mtime").code == 1
    assert cli("check", "src", "dst", "--include", "*.tmp", "--download").code == 0


def test_interactive_asks_before_each_change(cli: Cli, tree: Path) -> None:
    answer = cli("copy", "src", "dst", "-i", stdin=b"y\nn\nmaybe\na\n")
    assert answer.code == 0
    assert "copy a.csv (new)? [y]es, [n]o, [a]ll, [q]uit:" in answer.err
    assert set(files(tree / "dst")) == {"a.csv", "sub/c.csv", "sub/deep/d.ndjson"}
    assert cli("copy", "src", "none", "-i", stdin=b"q\n").code != 0
    assert not (tree / "none").exists()


def test_the_first_signal_breaks_off_and_running_it_again_ends_it(popen: Cli, command: Cli, tree: Path) -> None:
    (tree / "src" / "long").write_bytes(b"x" * (4 << 20))
    process = popen("sync", "src", "dst", "--bwlimit", "100k", "-v")
    while b"copied" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "long" not in files(tree / "dst")
    assert not list((tree / "dst").rglob(".omnistorage-*")), "no temporary is left"
    assert command("sync", "src", "dst").code == 0
    assert files(tree / "dst") == files(tree / "src")


def test_a_terminal_shows_totals_rate_time_left_and_bars(popen: Cli, tree: Path) -> None:
    (tree / "src" / "long").write_bytes(b"x" * (5 << 18))
    ours, theirs = pty.openpty()
    process = popen(
        "sync",
        "src",
        "dst",
        "--bwlimit",
        "2M",
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env={"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:
        pass
    process.communicate(timeout=LIMIT)
    os.close(ours)
    assert process.returncode == 0
    for text in (b"sync to dst", b"of 5 objects", b"MiB/s", b"left 0:0", b"% of", b"long", b"5 copied"):
        assert text in shown, text


@pytest.mark.ci_only
def test_a_journal_goes_on_after_a_kill(popen: Cli, cli: Cli, tree: Path) -> None:
    for number in range(300):
        (tree / "src" / f"n{number:03}").write_text(str(number) * 200)
    process = popen("sync", "src", "dst", "--journal", "plan", "--bwlimit", "60k")
    while sum(len(names) for _, _, names in os.walk(tree / "dst")) < 20:
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert 10 <= len(files(tree / "dst")) < 304
    made = {path: path.stat().st_ino for path in (tree / "dst").rglob("n*")}
    assert cli("sync", "src", "dst", "--resume", "plan").code == 7, "other options than those of the plan"
    assert cli("sync", "src", "dst", "--journal", "plan").code == 7
    answer = cli("sync", "src", "dst", "--resume", "plan", "--bwlimit", "60k", "-q", "--json")
    assert answer.code == 0, answer.err
    assert files(tree / "dst") == files(tree / "src")
    assert {path: path.stat().st_ino for path in made} == made, "nothing was written twice"
    assert cli("sync", "src", "dst", "--resume", "nowhere").code != 0
    assert cli("sync", "src", "dst", "--journal", "p", "-n").code == 2


@pytest.mark.parametrize("verb", ["copy", "move", "sync"])
def test_a_copy_replaces_no_folder(cli: Cli, tree: Path, verb: str) -> None:
    (tree / "dst" / "a.csv").mkdir(parents=True)
    (tree / "dst" / "a.csv" / "precious").write_text("x")
    answer = cli(verb, "src", "dst", "--on-type-clash", "replace")
    assert answer.code == 2
    assert "--on-type-clash 'replace' deletes what is in the way" in answer.err
    assert files(tree / "dst") == {"a.csv/precious": "x"}


def test_sync_of_one_file_says_which_verb_takes_it(cli: Cli, tree: Path) -> None:
    answer = cli("sync", "src/a.csv", "dst")
    assert answer.code == 2
    assert "src/a.csv" in answer.err
    assert cli("copy", "src/a.csv", "dst").code == 0
    assert cli("sync", "src/nothing", "dst").code == 3


def test_an_object_that_appeared_gives_no_hint_of_another_verb() -> None:
    error = AlreadyExists("it appeared", path="f")
    assert "--no-clobber" in explain(error)
    assert "--no-clobber" not in explain(worded(error))
