"""Each option of ``sync``, ``copy`` and ``move`` does on the command line what its setting does in the library."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
OLD, NEW = 1_700_000_000, 1_750_000_000


def put(box: Path, name: str, text: str, at: int = OLD) -> None:
    path = box / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (at, at))


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def pair(box: Path) -> Path:
    """``new`` is at the source alone, ``gone`` at the destination; ``both`` differs and is newer at the source."""
    put(box, "src/new", "new")
    put(box, "src/both", "of the source", NEW)
    put(box, "dst/both", "of the destination")
    put(box, "dst/gone", "gone")
    return box


def summary(answer: Any) -> dict[str, Any]:
    return next(one for one in map(json.loads, answer.lines) if one["event"] == "report")


def test_what_is_replaced_or_deleted_is_kept_in_a_folder(cli: Cli, pair: Path) -> None:
    put(pair, "dst/more", "x")
    done = cli("sync", "src", "dst", "--delete", "--max-delete", "90%", "--backup-dir", "kept")
    assert done.code == 0, done.err
    assert files(pair / "dst") == {"new": "new", "both": "of the source"}
    assert files(pair / "kept") == {"both": "of the destination", "gone": "gone", "more": "x"}


def test_what_is_replaced_is_kept_beside_it(cli: Cli, pair: Path) -> None:
    assert cli("sync", "src", "dst", "--suffix", ".bak").code == 0
    assert files(pair / "dst")["both.bak"] == "of the destination"
    assert files(pair / "dst")["both"] == "of the source"
    again = cli("sync", "src", "dst", "--suffix", ".bak", "--delete", "--max-delete", "90%")
    assert again.code == 0
    assert "both.bak" in files(pair / "dst"), "it is left alone"


def test_renames_are_found(cli: Cli, box: Path) -> None:
    put(box, "src/new name", "the very same")
    put(box, "src/other", "other")
    put(box, "dst/old name", "the very same")
    put(box, "dst/other", "other")
    done = cli("sync", "src", "dst", "--delete", "--track-renames", "modtime", "--json")
    assert (summary(done)["renamed"], summary(done)["copied"]) == (1, 0)
    assert files(box / "dst") == files(box / "src")


def test_what_is_newer_at_the_destination_stays(cli: Cli, box: Path) -> None:
    put(box, "src/f", "older")
    put(box, "dst/f", "newer, and longer", NEW)
    assert cli("copy", "src", "dst", "--update").code == 0
    assert files(box / "dst") == {"f": "newer, and longer"}
    assert cli("copy", "src", "dst").code == 0
    assert files(box / "dst") == {"f": "older"}


def test_what_is_there_stays(cli: Cli, pair: Path) -> None:
    assert cli("copy", "src", "dst", "--ignore-existing").code == 0
    assert files(pair / "dst") == {"new": "new", "both": "of the destination", "gone": "gone"}


def test_everything_is_transferred(cli: Cli, box: Path) -> None:
    for side in ("src", "dst"):
        put(box, f"{side}/f", "same")
    assert summary(cli("copy", "src", "dst", "--json"))["updated"] == 0
    assert summary(cli("copy", "src", "dst", "--json", "--ignore-times"))["updated"] == 1


def test_what_differs_must_not(cli: Cli, pair: Path) -> None:
    done = cli("copy", "src", "dst", "--immutable")
    assert done.code == 1
    assert "both" in done.err
    assert files(pair / "dst")["both"] == "of the destination"


@pytest.mark.parametrize("settings", [[], ["--delete"]])
def test_a_file_in_place_of_a_folder(cli: Cli, box: Path, settings: list[str]) -> None:
    put(box, "src/x", "a file")
    put(box, "dst/x/y", "in a folder")
    assert cli("sync", "src", "dst", *settings).code == 1
    assert files(box / "dst") == {"x/y": "in a folder"}
    done = cli("sync", "src", "dst", *settings, "--on-type-clash", "replace", "--max-delete", "100%")
    if settings:
        assert done.code == 0, done.err
        assert files(box / "dst") == {"x": "a file"}
    else:
        assert done.code == 2
        assert files(box / "dst") == {"x/y": "in a folder"}


def test_a_limit_in_bytes_of_what_is_deleted(cli: Cli, box: Path) -> None:
    for name in ("a", "b", "c"):
        put(box, f"src/{name}", name)
        put(box, f"dst/{name}", name)
    put(box, "dst/large", "x" * 2000)
    assert cli("sync", "src", "dst", "--delete", "--max-delete-size", "1K").code != 0
    assert "large" in files(box / "dst")
    assert cli("sync", "src", "dst", "--delete", "--max-delete-size", "3K").code == 0
    assert files(box / "dst") == files(box / "src")


def test_empty_folders_and_their_times(cli: Cli, box: Path) -> None:
    (box / "src/empty").mkdir(parents=True)
    os.utime(box / "src/empty", (OLD, OLD))
    put(box, "src/f", "x")
    assert cli("sync", "src", "dst").code == 0
    assert not (box / "dst/empty").exists()
    assert cli("sync", "src", "dst", "--empty-dirs").code == 0
    assert (box / "dst/empty").stat().st_mtime == OLD
    assert cli("sync", "src", "other", "--empty-dirs", "--no-folder-times").code == 0
    assert (box / "other/empty").stat().st_mtime != OLD


def test_times_that_are_close_are_equal(cli: Cli, box: Path) -> None:
    put(box, "src/f", "1", OLD)
    put(box, "dst/f", "2", OLD + 5)
    assert summary(cli("copy", "src", "dst", "--json", "--modify-window", "10s", "-n"))["equal"] == 1
    assert summary(cli("copy", "src", "dst", "--json", "-n"))["updated"] == 1


@pytest.mark.parametrize("links", ["skip", "follow", "store"])
def test_links(cli: Cli, box: Path, links: str) -> None:
    put(box, "src/f", "text")
    (box / "src/link").symlink_to("f")
    done = cli("copy", "src", "dst", "--links", links)
    assert done.code == 0, done.err
    found = {path.name: path.is_symlink() for path in (box / "dst").iterdir()}
    assert (
        found
        == {
            "skip": {"f": False},
            "follow": {"f": False, "link": False},
            "store": {"f": False, "link": True},
        }[links]
    )


@pytest.mark.parametrize(
    "settings",
    [
        ["--no-traverse"], ["--check-first"], ["--sort-listings"], ["--transfers", "1", "--checkers", "1"],
        ["--order-by", "size,desc"], ["--multi-thread-cutoff", "1b", "--multi-thread-streams", "2"],
        ["--portable-names"], ["--cutoff", "soft", "--max-transfer", "1G", "--max-duration", "1h"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_however_it_goes_about_it_the_result_is_the_same(cli: Cli, pair: Path, settings: list[str]) -> None:
    put(pair, "src/long", "0123456789" * 100_000)
    assert cli("copy", "src", "dst", *settings).code == 0
    assert files(pair / "dst") == {**files(pair / "src"), "gone": "gone"}


def test_it_stops_where_enough_was_transferred(cli: Cli, box: Path) -> None:
    for name in "abcdef":
        put(box, f"src/{name}", "x" * 1000)
    done = cli("copy", "src", "dst", "--max-transfer", "2500b", "--cutoff", "cautious", "--transfers", "1")
    assert done.code != 0
    assert "error: --max-transfer is reached" in done.err
    assert 0 < len(files(box / "dst")) <= 2


def test_names_that_windows_cannot_hold(cli: Cli, box: Path) -> None:
    put(box, "src/aux.txt", "x")
    put(box, "src/fine", "x")
    done = cli("copy", "src", "dst", "--portable-names")
    assert done.code == 1
    assert "aux.txt" in done.err
    assert files(box / "dst") == {"fine": "x"}


@pytest.mark.parametrize("verb", ["check", "sync", "bisync"])
def test_an_option_without_its_value_takes_no_argument_for_one(cli, box, verb):
    for side, text in (("a", "same"), ("b", "same")):
        (box / side).mkdir()
        (box / side / "f").write_text(text)
    more = ["--state", "state"] if verb == "bisync" else []
    assert cli(verb, *more, "--checksum", "a", "b").code == 0
    assert cli(verb, *more, "--checksum=strict", "a", "b").code == 0
    assert cli(verb, *more, "--checksum=other", "a", "b").code == 2
