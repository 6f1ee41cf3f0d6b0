"""``check --sumfile``: a folder held against what ``sha256sum`` or ``omnistorage hash`` printed."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnistorage.backends.memory import MemoryBackend
from omnistorage.cli.core.app import App
from omnistorage.core import ObjectInfo

Cli = Callable[..., Any]
NAMES = ("plain", "a b  c", "new\nline", "back\\slash", "grüße", "-n", "sub/deep/x")


@pytest.fixture
def tree(box: Path) -> Path:
    for name in NAMES:
        path = box / "dst" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"data of {name}")
    return box


def summed(tree: Path, tool: str = "sha256sum", *options: str, into: str = "SHA256SUMS") -> None:
    with (tree / into).open("wb") as out:
        subprocess.run([tool, *options, "--", *NAMES], cwd=tree / "dst", stdout=out, check=True)


needs_coreutils = pytest.mark.skipif(sys.platform != "linux", reason="coreutils")


@needs_coreutils
@pytest.mark.parametrize(
    ("tool", "options", "given"),
    [
        ("sha256sum", (), "auto"),
        ("sha256sum", ("--tag",), "auto"),
        ("sha256sum", (), "SHA-256"),
        ("md5sum", ("-b",), "md5"),
        ("sha512sum", (), "auto"),
    ],
)
def test_what_coreutils_printed_is_checked(
    tool: str, options: tuple[str, ...], given: str, cli: Cli, tree: Path
) -> None:
    summed(tree, tool, *options, into="sums")
    answer = cli("check", "sums", "dst", "--sumfile", given)
    assert (answer.code, answer.err) == (0, "7 equal\n")
    (tree / "dst" / "plain").write_text("other")
    (tree / "dst" / "-n").unlink()
    (tree / "dst" / "new").write_text("x")
    answer = cli("check", "sums", "dst", "--sumfile", given)
    assert answer.code == 1
    assert sorted(answer.err.splitlines()[:-1]) == [
        "* plain differs: the " + {"md5sum": "md5", "sha512sum": "sha512"}.get(tool, "sha256") + " differs",
        "+ -n only at the source",
        "- new only at the destination",
    ]
    assert cli("check", "sums", "dst", "--sumfile", given, "--one-way", "--exclude", "{plain,-n}").code == 0


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha512", "crc32c", "blake2b", "sha3-256"])
def test_what_hash_prints_is_read(algorithm: str, cli: Cli, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "dst")
    printed = cli("hash", "-R", algorithm, ".")
    (tree / "sums").write_bytes(printed.out)
    assert cli("check", "../sums", ".", "--sumfile", algorithm).err == "7 equal\n"
    (tree / "dst" / "new\nline").write_text("other")
    answer = cli("check", "../sums", ".", "--sumfile", algorithm, "--combined", "-")
    assert answer.code == 1
    assert "* new\nline\n" in answer.out.decode()


@pytest.mark.parametrize("spelled", ["{}/dst", "{}/dst/", "file://{}/dst"])
def test_what_hash_prints_of_a_folder_named_in_full_is_read_where_it_is_named_alike(
    spelled: str, cli: Cli, tree: Path
) -> None:
    folder = spelled.format(tree)
    (tree / "sums").write_bytes(cli("hash", "-r", "sha256", folder).out)
    assert folder.rstrip("/") in (tree / "sums").read_text()
    assert cli("check", "sums", folder, "--sumfile", "auto").err == "7 equal\n"


@pytest.mark.parametrize("spelled", ["dst", "dst/", "./dst"])
def test_what_hash_prints_of_a_folder_below_is_read_where_it_is_named_alike(
    spelled: str, cli: Cli, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    (tree / "sums").write_bytes(cli("hash", "-R", "sha256", spelled).out)
    assert cli("check", "sums", "dst", "--sumfile", "sha256").err == "7 equal\n"
    (tree / "dst" / "dst").mkdir()  # a name of its own, which does not begin with the place
    (tree / "dst" / "dst" / "x").write_text("x")
    (tree / "sums").write_bytes(cli("hash", "-R", "sha256", "dst/dst").out)
    assert cli("check", "sums", "dst/dst", "--sumfile", "sha256").err == "1 equal\n"


@needs_coreutils
def test_the_sums_may_come_from_standard_input(cli: Cli, tree: Path) -> None:
    summed(tree)
    text = (tree / "SHA256SUMS").read_bytes()
    assert cli("check", "-", "dst", "--sumfile", "auto", stdin=text).err == "7 equal\n"
    answer = cli("check", "-", "dst", "--sumfile", "auto", stdin=b"hello\n")
    assert answer.code == 7
    assert "standard input, line 1: neither 'DIGEST  NAME' nor" in answer.err


@needs_coreutils
def test_each_list_gets_its_own(cli: Cli, tree: Path) -> None:
    summed(tree)
    (tree / "dst" / "plain").write_text("other")
    (tree / "dst" / "grüße").unlink()
    (tree / "dst" / "new").write_text("x")
    options = [f"--{name}={name}" for name in ("combined", "match", "differ", "missing-on-src", "missing-on-dst")]
    assert cli("check", "SHA256SUMS", "dst", "--sumfile", "auto", *options, "--exclude", "*line").code == 1
    assert sorted((tree / "combined").read_text().splitlines()) == sorted(
        ["= a b  c", "= back\\slash", "= -n", "= sub/deep/x", "* plain", "+ grüße", "- new"]
    )
    lists = {name: (tree / name).read_text() for name in ("differ", "missing-on-src", "missing-on-dst")}
    assert lists == {"differ": "plain\n", "missing-on-src": "new\n", "missing-on-dst": "grüße\n"}
    assert len((tree / "match").read_text().splitlines()) == 4


@needs_coreutils
def test_events_and_the_report_are_those_of_check(cli: Cli, tree: Path) -> None:
    summed(tree)
    (tree / "dst" / "plain").write_text("other")
    answer = cli("check", "SHA256SUMS", "dst", "--sumfile", "auto", "--json", "--report", "out.html")
    found = [json.loads(line) for line in answer.lines]
    assert {"event": "check", "sign": "*", "path": "plain", "why": "the sha256 differs"} in found
    report = next(one for one in found if one["event"] == "report")
    assert (report["match"], report["differ"], report["in_sync"], report["source"]) == (6, 1, False, "SHA256SUMS")
    page = (tree / "out.html").read_text()
    assert "SHA256SUMS" in page
    assert 'id="command"' not in page, "no command makes a folder what a sum file says"
    assert re.search(r'\["\*", ?"plain"', page)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("what is this\n", "sums, line 1: neither 'DIGEST  NAME' nor 'ALGORITHM (NAME) = DIGEST'"),
        ("", "sums: it holds no digest, so there is nothing to check"),
        ("01234567  a\n", "sums, line 1: a digest of 8 digits may be of several algorithms: say which"),
    ],
)
def test_a_file_that_is_no_sum_file_is_an_error_and_no_difference(text: str, said: str, cli: Cli, box: Path) -> None:
    (box / "sums").write_text(text)
    (box / "dst").mkdir()
    answer = cli("check", "sums", "dst", "--sumfile", "auto", "--one-way")
    assert answer.code == 7
    assert said in answer.err


def test_a_missing_sum_file_is_a_missing_object(cli: Cli, box: Path) -> None:
    (box / "dst").mkdir()
    answer = cli("check", "SHA256SUMS", "dst", "--sumfile", "auto", "--one-way")
    assert (answer.code, answer.err.partition("SHA256SUMS: ")[0]) == (4, "omnistorage: error: ")


@pytest.mark.parametrize(
    "option",
    ["--size-only", "--checksum", "--checksum=strict", "--modify-window=1s", "--compare=mtime", "--links=follow",
     "--min-size=1k", "--max-size=1k", "--min-age=1d", "--max-age=1d"],
)  # fmt: skip
def test_an_option_that_a_sum_file_cannot_answer_is_refused_by_name(option: str, cli: Cli, box: Path) -> None:
    (box / "sums").write_text(f"{'0' * 64}  a\n")
    (box / "dst").mkdir()
    answer = cli("check", "sums", "dst", "--sumfile", "sha256", option)
    assert answer.code == 2
    assert f"{option.partition('=')[0]} does not go with --sumfile" in answer.err


def test_an_algorithm_nobody_knows_is_a_usage_error(cli: Cli, box: Path) -> None:
    answer = cli("check", "sums", "dst", "--sumfile", "sha257")
    assert answer.code == 2
    assert "unknown digest 'sha257'" in answer.err
    assert "--sumfile" in answer.err


class Lying(MemoryBackend):
    """``lying://x/``: one object, whose digest its listing states wrongly."""

    @classmethod
    def options_from_url(cls, parts: Any, *, is_object: bool) -> tuple[dict[str, Any], str]:
        return {}, parts.path.lstrip("/")

    def __init__(self) -> None:
        super().__init__()
        with self.open_writer("a") as writer:
            writer.write(b"a")

    def _list_dir(self, path: str) -> Any:
        return iter([ObjectInfo("a", 1, hashes={"sha256": "0" * 64})])


def test_download_takes_nobodys_word(cli: Cli, box: Path) -> None:
    from omnistorage.config import register_backend

    register_backend("lying", Lying)
    (box / "sums").write_text(f"{hashlib.sha256(b'a').hexdigest()}  a\n")
    assert cli("check", "sums", "lying://x/", "--sumfile", "auto").code == 1
    assert cli("check", "sums", "lying://x/", "--sumfile", "auto", "--download").code == 0


def test_what_cannot_be_read_is_an_error(cli: Cli, box: Path) -> None:
    (box / "dst").mkdir()
    (box / "dst" / "a").symlink_to("nowhere")
    (box / "sums").write_text(f"{'0' * 64}  a\n")
    answer = cli("check", "sums", "dst", "--sumfile", "auto", "--error", "-")
    assert (answer.code, answer.lines) == (1, ["a"])
    assert "error: a: it cannot be read: " in answer.err
    assert answer.err.endswith("0 equal, 1 not compared\n")


def test_a_bandwidth_stays_that_of_the_networks(cli: Cli, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    locate = App.locate
    monkeypatch.setattr(
        App, "locate", lambda app, *more, **named: seen.append(app.bwlimit) or locate(app, *more, **named)
    )
    (box / "dst").mkdir()
    (box / "dst" / "a").write_bytes(b"a")
    (box / "sums").write_text(f"{hashlib.sha256(b'a').hexdigest()}  a\n")
    assert cli("--bwlimit", "1MiB", "check", "sums", "dst", "--sumfile", "auto").code == 0
    assert cli("--bwlimit", "1MiB", "check", "dst", "dst").code == 0
    assert seen == [1 << 20] * 4
