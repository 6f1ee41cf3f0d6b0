"""``omnistorage bisync``: what it prints, what its events are, how it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.fixture
def pair(box: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``A`` and ``B``, in step: ``always``, ``x``, ``y`` and ``d/z``; the state goes to ``state``."""
    monkeypatch.setenv("XDG_STATE_HOME", str(box / "state"))
    for name in ("always", "x", "y", "d/z"):
        for side in ("A", "B"):
            at = box / side / name
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text(f"data of {name}")
            os.utime(at, (1e9, 1e9))
    return box


@pytest.fixture
def kept(cli: Cli, pair: Path) -> Path:
    assert cli("bisync", "A", "B").code == 0
    return pair


def held(folder: Path) -> dict[str, str]:
    return {str(at.relative_to(folder)): at.read_text() for at in folder.rglob("*") if at.is_file()}


def both(box: Path) -> dict[str, str]:
    found = held(box / "A")
    assert held(box / "B") == found
    return found


def events(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.lines]


def conflict(box: Path) -> None:
    (box / "A" / "x").write_text("left side")
    os.utime(box / "A" / "x", (1.1e9, 1.1e9))
    (box / "B" / "x").write_text("right")
    os.utime(box / "B" / "x", (1.2e9, 1.2e9))


def test_each_action_has_one_line_that_names_the_side(cli: Cli, kept: Path) -> None:
    (kept / "A" / "new").write_text("four")
    (kept / "B" / "y").unlink()
    (kept / "B" / "d" / "z").write_text("changed")
    answer = cli("bisync", "A", "B")
    assert answer.code == 0
    assert answer.out == b""
    lines = answer.err.splitlines()
    assert set(lines[:-1]) == {
        "copied B/new (4 B): new on path1",
        "updated A/d/z (7 B): changed on path2",
        "deleted A/y (9 B): deleted on path2",
    }
    assert lines[-1].startswith("1 copied to path1, 1 copied to path2, 1 deleted from path1, 11 B, ")
    assert both(kept) == {"always": "data of always", "x": "data of x", "d/z": "changed", "new": "four"}


def test_json_has_one_event_for_each_action(cli: Cli, kept: Path) -> None:
    (kept / "A" / "new").write_text("four")
    (kept / "B" / "y").unlink()
    conflict(kept)
    seen = events(cli("bisync", "A", "B", "--json"))
    said = [(one["event"], one["path"], one["side"]) for one in seen if one["event"] in ("copy", "update", "delete")]
    assert set(said[:2]) == {("copy", "x.conflict-1", "path1"), ("copy", "x.conflict-1", "path2")}
    assert set(said[2:]) == {("copy", "new", "path2"), ("update", "x", "path1"), ("delete", "y", "path1")}
    by_kind = {one["event"]: one for one in seen}
    assert by_kind["conflict"] == {"event": "conflict", "path": "x", "winner": "path2", "kept": "x.conflict-1"}
    assert (by_kind["report"]["to_path1"], by_kind["report"]["to_path2"], by_kind["report"]["ok"]) == (2, 2, True)
    assert (by_kind["summary"]["done"], by_kind["summary"]["exit_code"]) == (5, 0)


def test_a_dry_run_writes_nothing_at_all(cli: Cli, pair: Path) -> None:
    (pair / "A" / "new").write_text("four")
    conflict(pair)
    before = held(pair)
    answer = cli("bisync", "A", "B", "-n")
    assert answer.code == 0
    assert "would copy B/new (4 B): new on path1" in answer.err
    assert "would copy A/x.conflict-1 (9 B)" in answer.err
    assert held(pair) == before
    assert events(cli("bisync", "A", "B", "-n", "--json"))[0]["dry_run"] is True


def test_a_second_run_has_nothing_to_do(cli: Cli, kept: Path) -> None:
    before = held(kept)
    answer = cli("bisync", "A", "B")
    assert (answer.code, answer.err.startswith("nothing to do, ")) == (0, True)
    assert held(kept) == before


def test_a_conflict_is_a_warning(cli: Cli, kept: Path) -> None:
    conflict(kept)
    answer = cli("bisync", "A", "B")
    assert answer.code == 0
    assert "warning: x: changed on both sides: path2 has the name, the other one is x.conflict-1" in answer.err
    assert both(kept)["x.conflict-1"] == "left side"


@pytest.mark.parametrize(("policy", "left"), [("newer", "right"), ("older", "left side"), ("path1", "left side")])
def test_conflict_chooses_who_wins(cli: Cli, kept: Path, policy: str, left: str) -> None:
    conflict(kept)
    assert cli("bisync", "A", "B", "--conflict", policy).code == 0
    assert both(kept)["x"] == left
    assert len(both(kept)) == 4


def test_skip_leaves_both_and_error_fails(cli: Cli, kept: Path) -> None:
    conflict(kept)
    answer = cli("bisync", "A", "B", "--conflict", "error")
    assert (answer.code, "error: A/x: changed on both sides, and not alike" in answer.err) == (1, True)
    answer = cli("bisync", "A", "B", "--conflict", "skip")
    assert (answer.code, "both stay as they are" in answer.err) == (0, True)
    assert (held(kept / "A")["x"], held(kept / "B")["x"]) == ("left side", "right")
    assert "x" not in cli("bisync", "A", "B", "--conflict", "skip").err.replace("exit", "")


def test_refusals_speak_of_options(cli: Cli, kept: Path) -> None:
    for name in ("x", "y"):
        (kept / "A" / name).unlink()
    answer = cli("bisync", "A", "B", "--max-delete", "10%")
    assert (answer.code, len(held(kept / "B"))) == (1, 4)
    assert "2 of the 4 objects" in answer.err
    assert "a larger --max-delete means it" in answer.err
    answer = cli("bisync", "A", "B", "--exclude", "*.tmp")
    assert (answer.code, "another filter" in answer.err, "--resync" in answer.err) == (7, True, True)
    assert cli("bisync", "A", "B", "--exclude", "*.tmp", "--resync").code == 0
    assert len(both(kept)) == 4
    assert cli("bisync", "A", "B", "--exclude-if-present", ".skip").code == 7
    assert cli("bisync", "A", "A").code == 7


def test_wrong_values_are_usage_errors(cli: Cli, pair: Path) -> None:
    for argv in (
        ["--conflict", "both"],
        ["--max-delete", "101"],
        ["--max-delete", "many"],
        ["--compare", "aws"],
        ["--order-by", "colour"],
        ["--transfers", "0"],
        ["--delete"],
    ):
        assert cli("bisync", "A", "B", *argv).code == 2, argv
    assert cli("bisync", "A").code == 2


def test_a_lock_that_is_held_is_worth_a_retry(cli: Cli, kept: Path) -> None:
    [state] = (kept / "state" / "omnistorage" / "bisync").iterdir()
    (state / "lock").write_text('{"token": "t", "host": "elsewhere", "pid": 7, "expires": "2999-01-01T00:00:00+00:00"}')
    answer = cli("bisync", "A", "B")
    assert (answer.code, "process 7 on elsewhere" in answer.err) == (5, True)
    assert "lock" in held(state)


def test_the_state_lies_in_a_folder_of_each_pair(cli: Cli, kept: Path) -> None:
    assert cli("bisync", "B", "A").code == 0
    assert cli("bisync", "A", "C", "--state", "own").code == 0
    assert len(list((kept / "state" / "omnistorage" / "bisync").iterdir())) == 2
    assert "state.json" in held(kept / "own")
    assert held(kept / "C") == held(kept / "A")


def test_without_xdg_the_state_lies_below_home(cli: Cli, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    assert cli("bisync", "A", "B").code == 0
    assert len(list((pair / "home" / ".local" / "state" / "omnistorage" / "bisync").iterdir())) == 1


def test_filters_hide_on_both_sides(cli: Cli, pair: Path) -> None:
    (pair / "A" / "a.tmp").write_text("a")
    (pair / "B" / "b.tmp").write_text("b")
    assert cli("bisync", "A", "B", "--exclude", "*.tmp").code == 0
    assert "b.tmp" not in held(pair / "A")
    assert "a.tmp" not in held(pair / "B")


def test_a_failure_has_the_exit_code_of_its_cause(cli: Cli, pair: Path) -> None:
    (pair / "A" / "n").write_text("a file")
    (pair / "B" / "n").mkdir()
    (pair / "B" / "n" / "in").write_text("in a folder")
    answer = cli("bisync", "A", "B")
    assert (answer.code, answer.err.count("error:")) == (6, 2)
    assert cli("bisync", "A", "failing://denied/x", "--state", "own").code == 7
