"""ls, tree, stat, cat, cp and rm."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.fixture
def tree(box: Path) -> Path:
    for name, body in {"b.txt": "bb", "a/x.txt": "x" * 2000, "a/deep/y.txt": "y", "c d/é.txt": "é"}.items():
        at = box / "t" / name
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(body)
        os.utime(at, (1e9, 1e9))
    return box / "t"


def test_ls_lists_a_folder_an_object_or_here(cli: Cli, tree: Path) -> None:
    assert cli("ls", "t").lines == ["a/", "b.txt", "c d/"]
    assert cli("ls", str(tree) + "/").lines == ["a/", "b.txt", "c d/"]
    assert cli("ls", tree.as_uri()).lines == ["a/", "b.txt", "c d/"]
    assert cli("ls").lines == ["t/"]
    assert cli("ls", "t/b.txt").lines == ["b.txt"]
    assert cli("ls", "t", "--dirs").lines == ["a/", "c d/"]
    assert cli("ls", "t", "--files").lines == ["b.txt"]
    assert cli("ls", "t", "--files", "--dirs").code == 2


def test_ls_ends_rows_with_nul_where_names_hold_line_breaks(cli: Cli, tree: Path) -> None:
    (tree / "a\nFAKE-ROW").write_text("")
    assert cli("ls", "t", "-0", "--files").out == b"a\nFAKE-ROW\0b.txt\0"
    assert cli("ls", "-l", "t/a", "--print0").out.count(b"\0") == 2
    assert cli("ls", "t", "-0", "--json").code == 2


def test_ls_goes_down_as_far_as_it_is_told(cli: Cli, tree: Path) -> None:
    everything = ["a/", "a/deep/", "a/deep/y.txt", "a/x.txt", "b.txt", "c d/", "c d/é.txt"]
    assert cli("ls", "-R", "t").lines == everything
    assert cli("ls", "-R", "t", "--files").lines == [path for path in everything if not path.endswith("/")]
    assert cli("ls", "t", "--max-depth", "2").lines == [path for path in everything if path != "a/deep/y.txt"]


def test_ls_says_size_and_time(cli: Cli, tree: Path) -> None:
    assert cli("ls", "-l", "t/a").lines[1].split() == ["2000", "2001-09-09T01:46:40Z", "x.txt"]
    assert cli("ls", "-h", "t/a").lines[1].split() == ["2.0", "KiB", "2001-09-09T01:46:40Z", "x.txt"]


def test_ls_json_has_the_keys_of_rclone(cli: Cli, tree: Path) -> None:
    rows = [json.loads(line) for line in cli("ls", "-R", "--json", "t/a").lines]
    assert [row["Path"] for row in rows] == ["deep", "deep/y.txt", "x.txt"]
    assert list(rows[0]) == ["Path", "Name", "Size", "ModTime", "IsDir"]
    assert (rows[0]["Size"], rows[0]["IsDir"], rows[1]["Name"], rows[1]["Size"]) == (-1, True, "y.txt", 1)
    assert datetime.fromisoformat(rows[1]["ModTime"]) == datetime.fromtimestamp(1e9, UTC)


def test_tree_draws(cli: Cli, tree: Path) -> None:
    assert cli("tree", "t", "--size").lines == [
        "t",
        "├── a/",
        "│   ├── deep/",
        "│   │   └── y.txt  (1 B)",
        "│   └── x.txt  (2.0 KiB)",
        "├── b.txt  (2 B)",
        "└── c d/",
        "    └── é.txt  (2 B)",
        "",
        "3 folders, 4 objects",
    ]
    assert cli("tree", "t", "--depth", "1", "--dirs-only").lines == ["t", "├── a/", "└── c d/", "", "2 folders"]


def test_tree_ends_below_two_hundred_folders(cli: Cli, box: Path) -> None:
    (box / "deep" / "/".join("d" * 205)).mkdir(parents=True)
    answer = cli("tree", "deep")
    assert answer.code == 6
    assert "200 folders" in answer.err
    assert answer.lines[-1].startswith("200 folders")


def test_stat_speaks_to_people_and_programs(cli: Cli, tree: Path) -> None:
    assert "size:         2000 (2.0 KiB)" in cli("stat", "t/a/x.txt").lines
    row = json.loads(cli("--json", "stat", "t/b.txt").out)
    assert (row["Path"], row["Size"], row["Kind"]) == ("b.txt", 2, "file")
    assert row["ETag"]


def test_no_value_of_stat_looks_like_another_fact(cli: Cli, box: Path) -> None:
    name = "a\netag:         forged\u2028size: 5"
    (box / name).write_text("x")
    answer = cli("stat", name)
    assert [line.partition(":")[0] for line in answer.lines] == ["path", "kind", "size", "modified", "etag"]
    assert "forged" in answer.lines[0]


def test_cat_prints_bytes_as_stored_unless_told_to_decode(cli: Cli, box: Path) -> None:
    packed = gzip.compress(b"0123456789")
    (box / "a.gz").write_bytes(packed)
    assert cli("cat", "a.gz", "a.gz").out == packed * 2
    assert cli("cat", "a.gz", "--offset", "2", "--count", "3").out == packed[2:5]
    assert cli("cat", "a.gz", "--decompress", "--offset", "2", "--count", "3").out == b"234"
    assert cli("cat", "-", "--offset", "2", "--count", "3", stdin=b"0123456789").out == b"234"
    assert cli("cat", "a.gz", "--count", "0").out == b""
    (box / "cut.gz").write_bytes(packed[:-1])
    assert cli("cat", "--decompress", "cut.gz").code == 6


def test_cp_copies_an_object_to_a_name_or_into_a_folder(cli: Cli, tree: Path, box: Path) -> None:
    assert cli("cp", "t/b.txt", "new/name").code == 0
    assert cli("cp", "t/b.txt", "t/a/x.txt", "into/").code == 0
    assert sorted(p.name for p in (box / "into").iterdir()) == ["b.txt", "x.txt"]
    assert (box / "into/b.txt").stat().st_mtime == 1e9
    assert (box / "new/name").read_text() == "bb"
    answer = cli("cp", "t/b.txt", "t/a/x.txt", "elsewhere")
    assert answer.code == 2
    assert "elsewhere/" in answer.err
    answer = cli("cp", "t/b.txt", "t")
    assert answer.code == 6
    assert "end it with /" in answer.err


def test_cp_refuses_what_would_lose_or_never_end(cli: Cli, tree: Path, box: Path) -> None:
    (box / "b.txt").write_text("another")
    answer = cli("cp", "t/b.txt", "b.txt", "into/")
    assert answer.code == 2
    assert (box / "into/b.txt").read_text() == "bb"
    assert cli("cp", "-R", "t", "t/inside").code == 2
    assert cli("cp", "-R", "t", "t/").code == 2
    assert cli("cp", "-R", "t", "t").code == 2
    assert cli("cp", "t/b.txt", "t/b.txt").code == 6
    assert (tree / "b.txt").read_text() == "bb"
    assert cli("cp", "--no-clobber", "b.txt", "t/b.txt").code == 6
    assert (tree / "b.txt").read_text() == "bb"


def test_cp_r_of_a_tree_with_odd_names(cli: Cli, box: Path) -> None:
    odd = ["a b", "é", "%41", "a?b#c", "*", "-n", "x:y", "[1]", "'\"", "trailing ", ".hidden", "d/ /e"]
    for name in odd:
        at = box / "odd" / name
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(name)
    assert cli("cp", "-R", "odd", "new").code == 0
    found = {str(p.relative_to(box / "new")): p.read_text() for p in (box / "new").rglob("*") if p.is_file()}
    assert found == {name: name for name in odd}
    assert cli("cp", "-R", "odd/", "into/", "-q").err == ""
    assert (box / "into/odd/é").read_text() == "é"


def test_names_that_do_not_print_are_escaped_and_refused_one_by_one(cli: Cli, box: Path) -> None:
    (box / "odd").mkdir()
    for raw in (b"new\nline", b"\x1b[31mred", b"\xff", b"good"):
        (Path(os.fsencode(box).decode()) / "odd").mkdir(exist_ok=True)
        with open(os.fsencode(box) + b"/odd/" + raw, "wb"):
            pass
    assert cli("ls", "odd").out == b"\x1b[31mred\ngood\nnew\nline\n\xff\n"  # a pipe gets the bytes
    names = [json.loads(line)["Name"] for line in cli("ls", "odd", "--json").lines]
    assert names == ["\x1b[31mred", "good", "new\nline", "\udcff"]
    answer = cli("cp", "-R", "odd", "new")
    assert answer.code == 6
    assert len(answer.err.splitlines()) == 5
    assert all(shown in answer.err for shown in ("new\\nline", "\\x1b[31mred", "\\udcff"))
    assert os.listdir(box / "new") == ["good"]
    assert cli("rm", "-R", "odd").code == 0
    assert not (box / "odd").exists()


def test_cp_says_which_links_it_leaves_out(cli: Cli, tree: Path, box: Path) -> None:
    (tree / "link").symlink_to("b.txt")
    answer = cli("cp", "-R", "t", "new")
    assert answer.code == 0
    assert "t/link: not copied" in answer.err
    assert not (box / "new/link").exists()


def test_cp_dry_run_tells_and_touches_nothing(cli: Cli, tree: Path, box: Path) -> None:
    answer = cli("cp", "-R", "-n", "t", "new", "--json")
    events = [json.loads(line) for line in answer.lines]
    assert [event["event"] for event in events] == ["copy"] * 4 + ["summary"]
    assert all(event["dry_run"] for event in events[:-1])
    assert not (box / "new").exists()
    assert cli("cp", "-n", "nope", "new").code == 4


def test_cp_both_ways_through_pipes(cli: Cli, tree: Path, box: Path) -> None:
    assert cli("cp", "-", "in.bin", "--checksum", stdin=b"\0bytes").code == 0
    assert (box / "in.bin").read_bytes() == b"\0bytes"
    assert cli("cp", "in.bin", "t/b.txt", "-").out == b"\0bytesbb"
    assert cli("cp", "-", "folder/").code == 2
    assert cli("cp", "in.bin", "-", "--json").code == 2


def test_cp_checks_and_requires(cli: Cli, tree: Path, box: Path) -> None:
    assert cli("cp", "--checksum", "t/a/x.txt", "x").code == 0
    assert cli("cp", "--content-type", "text/plain", "t/a/x.txt", "y").code == 0
    assert (box / "y").stat().st_mtime == 1e9
    assert cli("cp", "--metadata", "a=b", "t/b.txt", "z").code == 6  # files hold none: refused, not ignored
    assert cli("cp", "--metadata", "a", "t/b.txt", "z").code == 2
    assert not (box / "z").exists()


def test_pain_12_every_planned_action_gets_a_line_and_an_event_and_one_failure_does_not_hide(
    cli: Cli, tree: Path, box: Path
) -> None:
    (box / "new/a").mkdir(parents=True)
    (box / "new/b.txt").mkdir()  # stands in the way of one
    answer = cli("cp", "-R", "t", "new", "--json")
    events = [json.loads(line) for line in answer.lines]
    assert [e["event"] for e in events] == ["copy", "copy", "error", "copy", "summary"]
    assert answer.code == events[-1]["exit_code"] == events[2]["exit_code"] == 6
    assert (events[-1]["done"], events[-1]["failed"], events[-1]["verb"]) == (3, 1, "cp")
    assert answer.err.count("copied t/") == 3
    assert answer.err.count("error: t/b.txt -> new/b.txt") == 1
    quiet = cli("cp", "-q", "-R", "t", "new")
    assert (quiet.code, len(quiet.err.splitlines())) == (6, 1)


def test_rm_removes_objects_and_with_r_folders(cli: Cli, tree: Path, box: Path) -> None:
    assert cli("rm", "t/b.txt", "t/a/x.txt").code == 0
    answer = cli("rm", "t/a")
    assert answer.code == 4
    assert "-R" in answer.err
    assert cli("rm", "-R", "-n", "t").err.splitlines()[0] == "would remove t/a/deep/y.txt"
    (box / "keep").write_text("kept")
    (tree / "link").symlink_to("../keep")
    assert cli("rm", "-R", "t/").code == 0
    assert os.listdir(box) == ["keep"]


def test_rm_refuses_to_guess(cli: Cli, tree: Path) -> None:
    for name in ("/", ".", "t/..", ""):
        assert cli("rm", "-R", name).code == 2
    assert cli("rm", "t/nope").code == cli("rm", "-R", "t/nope").code == cli("rm", "-n", "t/nope").code == 4
    assert cli("rm", "-f", "t/nope").code == cli("rm", "-Rf", "t/nope").code == 0
    events = [json.loads(line) for line in cli("rm", "t/nope", "t/b.txt", "--json").lines]
    assert [event["event"] for event in events] == ["error", "remove", "summary"]


def test_a_configured_backend_is_named(cli: Cli, tree: Path, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (box / "c.toml").write_text('[backends.data]\ntype = "local"\n[backends.data.options]\nroot = "${WHERE}"\n')
    monkeypatch.setenv("WHERE", str(tree))
    assert cli("--config", "c.toml", "ls", "data:a").lines == ["deep/", "x.txt"]
    assert cli("cat", "data:b.txt", "--config", "c.toml").out == b"bb"
    monkeypatch.setenv("OMNISTORAGE_CONFIG", "c.toml")
    assert cli("ls", "data:").lines == ["a/", "b.txt", "c d/"]
    assert cli("cp", "-R", "data:a", "data:b").code == 0
    assert (tree / "b/deep/y.txt").exists()
    answer = cli("ls", "date:")
    assert answer.code == 7
    assert "did you mean 'data'" in answer.err
    (box / "x:y").write_text("file")
    assert cli("cat", "./x:y").out == b"file"


def test_tree_of_an_object_says_what_it_is(cli: Cli, box: Path) -> None:
    (box / "ok.ndjson").write_bytes(b"{}\n")
    answer = cli("tree", "ok.ndjson")
    assert answer.code == 3
    assert "ok.ndjson: is an object; stat or cat it" in answer.err
    assert "is an object" not in cli("tree", "nothing").err
