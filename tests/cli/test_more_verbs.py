"""lsjson, size, hash, mv, mkdir, rmdir, backends, config, completion, and what cp owes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from omnistorage.backends.local import LocalBackend
from omnistorage.backends.memory import MemoryBackend
from omnistorage.cli.core.app import App
from omnistorage.config import backend_names, backend_options, register_backend
from omnistorage.config.backend_options import backend_parameters, may_be_secret
from omnistorage.core import ObjectInfo
from omnistorage.ops import read_bytes, write_bytes

from ..servers import server
from ..servers.proxy import Answer, Proxy
from ..waiting import LIMIT

Cli = Callable[..., Any]


class Shared(MemoryBackend):
    """``shared:///x``: a store of another kind that outlives one command, and may do things to what it is given."""

    one: MemoryBackend
    spoils = False

    @classmethod
    def options_from_url(cls, parts: Any, *, is_object: bool) -> tuple[dict[str, Any], str]:
        return {}, parts.path.strip("/")

    def __new__(cls) -> Any:
        return cls.one


class _Kept(MemoryBackend):
    spoils = False

    def _open_reader(self, path: str, options: Any) -> Any:
        if self.spoils:
            self.spoils = False
            write_bytes(self, path, b"spoilt")
        return super()._open_reader(path, options)

    def _list(self, prefix: str, options: Any) -> Iterator[ObjectInfo]:
        for info in super()._list(prefix, options):
            digest = hashlib.md5(read_bytes(self, info.path)).hexdigest()
            yield info._replace(hashes={"md5": digest})

    def close(self) -> None:
        """It stays."""


register_backend("shared", Shared)


@pytest.fixture
def shared() -> _Kept:
    Shared.one = _Kept()
    return Shared.one


@pytest.fixture
def tree(box: Path) -> Path:
    for name, body in {"b.txt": "bb", "a/x.txt": "x" * 2000, "a/deep/y.txt": "y"}.items():
        at = box / "t" / name
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(body)
    (box / "t/void/inner").mkdir(parents=True)
    return box / "t"


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# -- lsjson, size ------------------------------------------------------------------------------------------------------


def test_lsjson_is_an_array_with_the_keys_of_rclone(cli: Cli, tree: Path) -> None:
    rows = json.loads(cli("lsjson", "t").out)
    assert [row["Path"] for row in rows] == ["a", "b.txt", "void"]
    assert list(rows[1]) == ["Path", "Name", "Size", "MimeType", "ModTime", "IsDir", "Hashes"]
    assert (rows[0]["MimeType"], rows[0]["Size"], rows[0]["IsDir"]) == ("inode/directory", -1, True)
    assert (rows[1]["MimeType"], rows[1]["Size"], rows[1]["IsDir"]) == ("text/plain", 2, False)
    assert json.loads(cli("lsjson", "t/a/deep", "--dirs").out) == []
    assert [r["Path"] for r in json.loads(cli("lsjson", "t/b.txt").out)] == ["b.txt"]


def test_lsjson_streams_and_goes_down(cli: Cli, tree: Path, shared: _Kept) -> None:
    rows = [json.loads(line) for line in cli("lsjson", "t", "--stream", "-R", "--files").lines]
    assert [row["Path"] for row in rows] == ["a/deep/y.txt", "a/x.txt", "b.txt"]
    assert [r["Path"] for r in json.loads(cli("lsjson", "t", "--max-depth", "2", "--dirs").out)] == [
        "a",
        "a/deep",
        "void",
        "void/inner",
    ]
    write_bytes(shared, "x.bin", b"x")
    (row,) = json.loads(cli("lsjson", "shared:///", "-R", "--files").out)
    assert row["Path"] == "x.bin"
    assert cli("lsjson", "t", "--files", "--dirs").code == 2
    missing = cli("lsjson", "nope")
    assert missing.code == 3
    with pytest.raises(ValueError):
        json.loads(missing.out)


def test_size_counts_objects_and_bytes(cli: Cli, tree: Path) -> None:
    assert json.loads(cli("size", "t", "--json").out) == {"count": 3, "bytes": 2003, "sizeless": 0}
    assert cli("size", "t").lines == ["objects: 3", "bytes:   2,003 (2.0 KiB)"]
    assert json.loads(cli("size", "t", "--json", "--max-depth", "1").out)["count"] == 1
    assert json.loads(cli("size", "t/b.txt", "--json").out)["bytes"] == 2
    assert cli("size", "nope").code == 3


# -- hash --------------------------------------------------------------------------------------------------------------


def test_hash_prints_what_sha256sum_checks(cli: Cli, tree: Path, box: Path) -> None:
    (tree / "back\\slash\nline").write_text("odd")
    (box / "sums").write_bytes(cli("hash", "sha256", "-R", "t").out)
    assert (box / "sums").read_bytes().count(b"\n") == 4
    subprocess.run(["sha256sum", "-c", "--strict", "--quiet", "sums"], cwd=box, check=True)
    assert cli("hash", "sha1", "t/b.txt", "-", stdin=b"in").lines == [
        f"{hashlib.sha1(b'bb').hexdigest()}  t/b.txt",
        f"{hashlib.sha1(b'in').hexdigest()}  -",
    ]


def test_hash_takes_what_the_listing_knows_and_reads_when_told_to(cli: Cli, shared: _Kept) -> None:
    write_bytes(shared, "d/x", b"x")
    wrong = {"md5": "0" * 32}
    shared._list = lambda prefix, options: iter([ObjectInfo("d/x", size=1, hashes=wrong)])  # type: ignore[method-assign]
    assert cli("hash", "md5", "-R", "shared:///d").lines == [f"{'0' * 32}  shared:///d/x"]
    right = hashlib.md5(b"x").hexdigest()
    assert cli("hash", "md5", "-R", "shared:///d", "--download").lines == [f"{right}  shared:///d/x"]
    assert json.loads(cli("hash", "MD5", "--json", "-R", "shared:///d").out)["Hash"] == "0" * 32


def test_hash_fails_for_what_is_not_there_and_goes_on(cli: Cli, tree: Path) -> None:
    answer = cli("hash", "md5", "t/nope", "t/b.txt")
    assert (answer.code, len(answer.lines)) == (4, 1)
    assert "-R" in cli("hash", "md5", "t").err
    assert cli("hash", "md5", "-R", "nope").code == 4
    assert cli("hash", "md6", "t/b.txt").code == 2


def test_hash_computes_the_checksums_of_stores_too(cli: Cli, box: Path) -> None:
    (box / "check").write_bytes(b"123456789")  # the check values that the catalogues of CRCs give
    assert cli("hash", "crc32c", "check").lines == ["e3069283  check"]
    assert cli("hash", "crc32", "check").lines == ["cbf43926  check"]


# -- mv ----------------------------------------------------------------------------------------------------------------


def test_mv_renames_objects_and_moves_folders_with_what_is_empty(cli: Cli, tree: Path, box: Path) -> None:
    inode = (tree / "b.txt").stat().st_ino
    assert cli("mv", "t/b.txt", "new/name").code == 0
    assert (box / "new/name").stat().st_ino == inode  # no byte was copied
    assert cli("mv", "-R", "t", "moved").code == 0
    assert not tree.exists()
    assert names(box / "moved") == ["a", "a/deep", "a/deep/y.txt", "a/x.txt", "void", "void/inner"]
    assert cli("mv", "moved/a/x.txt", "moved/a/deep/y.txt", "into/").code == 0
    assert names(box / "into") == ["x.txt", "y.txt"]


@pytest.mark.parametrize("options", [[], ["--checksum"]])
def test_mv_between_stores_removes_the_source_behind_the_copy(
    cli: Cli, tree: Path, shared: _Kept, options: list[str]
) -> None:
    assert cli("mv", *options, "-R", "t", "shared:///x").code == 0
    assert not tree.exists()
    assert read_bytes(shared, "x/a/deep/y.txt") == b"y"
    assert cli("mv", *options, "-R", "shared:///x", "back").code == 0
    assert [info.path for info in shared.list()] == []
    assert (tree.parent / "back/a/x.txt").read_text() == "x" * 2000


def test_mv_keeps_the_source_of_a_copy_that_reads_back_differently(cli: Cli, tree: Path, shared: _Kept) -> None:
    shared.spoils = True
    answer = cli("mv", "--checksum", "t/b.txt", "shared:///b.txt")
    assert answer.code == 6
    assert (tree / "b.txt").read_text() == "bb"


@pytest.mark.parametrize("options", [[], ["--checksum"]])
def test_mv_keeps_a_source_that_changed_meanwhile(
    cli: Cli, tree: Path, shared: _Kept, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    write_bytes(shared, "s.txt", b"old")

    original = LocalBackend._open_writer

    def writer(self: LocalBackend, path: str, options: Any) -> Any:
        write_bytes(shared, "s.txt", b"new")
        return original(self, path, options)

    monkeypatch.setattr(LocalBackend, "_open_writer", writer)
    assert cli("mv", *options, "shared:///s.txt", "t/s.txt").code == 6
    assert read_bytes(shared, "s.txt") == b"new"


def test_mv_keeps_a_source_that_changed_after_the_copy_was_found_good(
    cli: Cli, tree: Path, shared: _Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(shared, "s.txt", b"old")
    original = LocalBackend._open_reader

    def reader(self: LocalBackend, path: str, options: Any) -> Any:
        write_bytes(shared, "s.txt", b"new")
        return original(self, path, options)

    monkeypatch.setattr(LocalBackend, "_open_reader", reader)
    assert cli("mv", "--checksum", "shared:///s.txt", "t/s.txt").code == 6
    assert read_bytes(shared, "s.txt") == b"new"
    assert (tree / "s.txt").read_bytes() == b"old"


def test_mv_refuses_and_tells(cli: Cli, tree: Path, box: Path) -> None:
    (box / "there").write_text("there")
    assert cli("mv", "--no-clobber", "t/b.txt", "there").code == 6
    assert (tree / "b.txt").read_text() == "bb"
    assert (box / "there").read_text() == "there"
    assert cli("mv", "t/b.txt", "t/b.txt").code == 6
    assert (tree / "b.txt").read_text() == "bb"
    assert cli("mv", "-R", "t", "t/inside").code == 2
    assert cli("mv", "-", "x").code == cli("mv", "t/b.txt", "-").code == 2
    assert cli("mv", "nope", "x").code == 4
    before = names(box)
    events = [json.loads(line) for line in cli("mv", "-R", "-n", "t", "new", "--json").lines]
    assert [e["event"] for e in events] == ["move", "move", "move", "mkdir", "summary"]
    assert names(box) == before


def test_mv_of_a_folder_keeps_what_could_not_be_moved(cli: Cli, tree: Path, box: Path) -> None:
    (box / "new/b.txt").mkdir(parents=True)  # in the way of one
    answer = cli("mv", "-R", "t", "new")
    assert answer.code == 6
    assert names(tree) == ["b.txt"]
    assert (box / "new/a/x.txt").exists()


# -- cp ----------------------------------------------------------------------------------------------------------------


def test_cp_makes_empty_folders_where_the_target_has_folders(cli: Cli, tree: Path, box: Path) -> None:
    (tree / "a/aaa").mkdir()
    answer = cli("cp", "-R", "t", "new", "--json")
    assert names(box / "new") == names(tree)
    events = [json.loads(line) for line in answer.lines]
    assert [e["event"] for e in events] == ["mkdir", "copy", "copy", "copy", "mkdir", "summary"]
    (box / "hollow").mkdir()
    assert cli("cp", "-R", "hollow", "copy").code == 0
    assert (box / "copy").is_dir()
    assert cli("cp", "-R", "hollow", "into/").code == 0
    assert (box / "into/hollow").is_dir()
    cli("cp", "-n", "-R", "hollow", "dry")
    assert not (box / "dry").exists()


def test_cp_checksum_leaves_no_bad_copy_behind(cli: Cli, tree: Path, shared: _Kept) -> None:
    for argv, stdin in ((["t/b.txt"], b""), (["-"], b"bb")):
        shared.spoils = True
        answer = cli("cp", "--checksum", *argv, "shared:///b.txt", stdin=stdin)
        assert answer.code == 6
        assert "SHA-256" in answer.err
    shared.spoils = False
    assert cli("cp", "--checksum", "t/b.txt", "shared:///b.txt").code == 0
    assert read_bytes(shared, "b.txt") == b"bb"


def test_cp_checksum_removes_a_copy_that_the_disk_spoilt(
    cli: Cli, tree: Path, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LocalBackend._open_reader

    def reader(self: LocalBackend, path: str, options: Any) -> Any:
        if path == "copy":
            (box / "copy").write_text("rotten")
        return original(self, path, options)

    monkeypatch.setattr(LocalBackend, "_open_reader", reader)
    answer = cli("cp", "--checksum", "t/b.txt", "copy")
    assert (answer.code, (box / "copy").exists()) == (6, False)
    assert "it was removed" in answer.err


@pytest.mark.parametrize("argv", [["cp", "d/*", "to/"], ["read", "d/*"], ["rm", "e/*/*"],
                                  *(pytest.param(argv, marks=pytest.mark.ci_only) for argv in (
                                      ["hash", "md5", "d/*"], ["cat", "e/*/*"], ["mv", "e/*/*", "to/"]))])  # fmt: skip
def test_thousands_of_arguments_need_few_open_files(box: Path, argv: list[str]) -> None:
    for number in range(300):
        (box / f"e/{number}").mkdir(parents=True)
        (box / f"e/{number}/{number}.ndjson").write_bytes(b"1\n")
        (box / "d").mkdir(exist_ok=True)
        (box / f"d/{number}.ndjson").write_bytes(b"1\n")
    line = f"ulimit -n 150; exec {shlex.quote(sys.executable)} -m omnistorage -q {' '.join(argv)}"
    done = subprocess.run(line, shell=True, cwd=box, capture_output=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# -- a path inside a store ---------------------------------------------------------------------------------------------


def test_write_and_read_below_a_path_of_a_store(cli: Cli, shared: _Kept) -> None:
    rows = b'{"t":1000000}\n{"t":1}\n'
    args = ["write", "{seq}.ndjson", "--to", "shared:///in/x", "--manifest", "m.ndjson", "--time-field", "t"]
    late = ["--late-after", "1h", "--late", "prefix"]
    answer = cli(*args, *late, "--json", stdin=rows)
    assert answer.code == 0, answer.err
    found = {info.path: read_bytes(shared, info.path) for info in shared.list()}
    assert set(found) == {"in/x/0.ndjson", "in/x/late/0.ndjson", "in/x/m.ndjson"}
    events = [json.loads(line) for line in answer.lines]
    assert {e["path"] for e in events if e["event"] == "commit"} == {"0.ndjson", "late/0.ndjson"}
    for target in ("shared:///in/x", "shared:///in/x/"):
        answer = cli("read", target, "--manifest", "shared:///in/x/m.ndjson")
        assert (answer.code, sorted(answer.out.splitlines())) == (0, sorted(rows.splitlines()))
    assert cli("read", "shared:///in/x/late/*.ndjson").out == b'{"t":1}\n'
    assert cli(*args, stdin=rows).code == 0
    assert read_bytes(shared, "in/x/1.ndjson") == rows
    write_bytes(shared, "in/x/0.ndjson", b'{"t":1000001}\n')
    answer = cli("read", "shared:///in/x", "--manifest", "shared:///in/x/m.ndjson")
    assert answer.code == 6
    assert "shared:///in/x/0.ndjson: not the object of the manifest" in answer.err


# -- mkdir, rmdir ------------------------------------------------------------------------------------------------------


def test_mkdir_and_rmdir(cli: Cli, tree: Path, box: Path) -> None:
    assert cli("mkdir", "x/y/z", "t", "w/").code == 0
    assert (box / "x/y/z").is_dir()
    assert cli("mkdir", "t/b.txt").code == 6
    assert cli("rmdir", "x").code == 6
    assert cli("rmdir", "x/y/z", "w/").code == 0
    assert not (box / "x/y/z").exists()
    assert cli("rmdir", "nope").code == 3
    assert cli("rmdir", "-f", "nope").code == 0
    assert cli("rmdir", "-n", "t/void/inner").code == cli("mkdir", "-n", "fresh").code == 0
    assert (tree / "void/inner").is_dir()
    assert not (box / "fresh").exists()
    for name in (".", "/", "data:"):
        assert cli("mkdir", name).code == cli("rmdir", name).code == 2
    events = [json.loads(line) for line in cli("mkdir", "one", "two", "--json").lines]
    assert [(e["event"], e.get("path")) for e in events] == [("mkdir", "one"), ("mkdir", "two"), ("summary", None)]


# -- the command itself ------------------------------------------------------------------------------------------------


def test_backends_is_a_matrix_of_what_each_can_do(cli: Cli, box: Path) -> None:
    lines = cli("backends").lines
    heads = lines[0].split()
    assert {"file", "memory"} <= set(heads)
    move = next(line for line in lines if line.startswith("atomic_move")).split()
    assert move[1 + heads.index("memory")] == "yes"
    (box / "c.toml").write_text(f'[backends.d]\ntype="local"\noptions={{root="{box}"}}\n[backends.e]\ntype="s4"\n')
    answer = cli("--config", "c.toml", "backends", "--json")
    rows = {row["name"]: row for row in map(json.loads, answer.lines)}
    assert rows["d:"]["features"] == rows["file"]["features"]
    assert rows["d:"]["features"]["if_match"] is False
    assert answer.code == 7
    assert "s4" in answer.err


def test_probe_prints_what_to_write_down(cli: Cli) -> None:
    url = f"gs://bucket/probed?endpoint_url={server('fake_gcs')['endpoint']}"
    answer = cli("probe", url)
    assert (answer.code, answer.err) == (0, "")
    assert answer.lines[-3:] == ["conditional_writes = false", "conditional_uploads = false", "ordered_listing = true"]
    assert [line for line in answer.lines if line.startswith("order of listings") and line.endswith("yes")]
    assert [line for line in answer.lines if line.startswith("conditions of deletes") and " no: " in line]
    told = json.loads(cli("probe", url, "--json").lines[0])
    assert told["options"] == {"conditional_writes": False, "conditional_uploads": False, "ordered_listing": True}
    assert cli("probe", ".").lines == ["local has no options that depend on the server"]
    assert cli("probe", "s3://bucket?endpoint_url=http://127.0.0.1:9&anonymous=true&vendor=nobody").code == 7


def test_the_global_limits_hold_for_every_networked_backend_together(cli: Cli, box: Path) -> None:
    (box / "c.toml").write_text('[backends.far]\ntype="sftp"\noptions={host="h", root="/r", timeout=7.0}\n')
    app = App(config="c.toml", retries=1, timeout=2.5, bwlimit=10 << 20, tpslimit=4.0)
    s3 = app.locate("s3://bucket/x?endpoint_url=http://127.0.0.1:9").backend
    far, here = app.locate("far:x").backend, app.locate("x").backend
    assert isinstance(here, LocalBackend), "which has no network, and no such options"
    assert (s3._options["read_timeout"], far._options["timeout"]) == (2.5, 7.0), "what is configured stands"
    policy = s3._policy
    assert policy is far.policy
    assert (policy.retries, policy.bandwidth.rate, policy.requests.rate) == (1, 10 << 20, 4.0)
    app.close()
    assert App().defaults == {}
    assert App(bwlimit=0).defaults == {}


def test_the_global_limits_are_read_before_the_verb_and_behind_it(cli: Cli, box: Path) -> None:
    info = server("fake_gcs")
    with Proxy(info["port"]) as proxy:
        (box / "x").write_bytes(b"data")
        url = f"gs://bucket/limits/x?endpoint_url={proxy.url}"
        limits = ("--timeout", "30s", "--bwlimit", "100MiB", "--tpslimit", "1000")
        assert cli(*limits, "cp", "x", url).code == 0
        proxy.next(Answer("GET /download", 503))
        answer = cli("cat", url, "--retries", "0", *limits)
        assert (answer.code, answer.out) == (5, b"")
        proxy.next(Answer("GET /download", 503))
        answer = cli("--retries", "2", "cat", url)
        assert (answer.code, answer.out, answer.err) == (0, b"data", "")
    for wrong in (("--retries", "-1"), ("--timeout", "soon"), ("--bwlimit", "much"), ("--tpslimit", "0")):
        assert cli(*wrong, "ls").code == 2


def test_backends_that_cannot_be_made_say_why(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend_options._TABLE._members, "zz_broken", "omnistorage.nowhere:X")
    answer = cli("backends")
    assert answer.code == 0
    assert [line for line in answer.lines if line.startswith("zz_broken: ")]


CONFIG = """
[backends.ok]
type = "local"
options = { root = "/tmp" }
[backends.one]
type = "locl"
[backends.two]
type = "local"
options = { rot = "/x" }
[backends.three]
type = "local"
options = { root = "${NOT_SET_ANYWHERE}" }
[odd]
"""


def test_config_check_finds_all_mistakes(cli: Cli, box: Path) -> None:
    (box / "c.toml").write_text(CONFIG)
    answer = cli("config", "check", "--config", "c.toml")
    assert answer.code == 7
    errors = answer.err.splitlines()
    assert len(errors) == 4
    for hint in ("did you mean 'local'", "did you mean 'root'", "NOT_SET_ANYWHERE", "'odd'"):
        assert sum(hint in line for line in errors) == 1, hint
    (box / "c.toml").write_text(CONFIG[: CONFIG.index("[backends.one]")])
    answer = cli("config", "check", "--config", "c.toml")
    assert (answer.code, "1 backend, no mistakes" in answer.err) == (0, True)
    (box / "c.toml").write_text("= no toml")
    assert cli("config", "check", "--config", "c.toml").code == 7
    assert cli("config", "check").code == 7


def test_goal_41_config_show_hides_every_option_that_may_be_secret(cli: Cli, box: Path) -> None:
    secret = "c4n4ry/DO NOT@SHOW"
    lines = []
    for name in backend_names():
        options = [one for one in backend_parameters(name) if may_be_secret(name, one)]
        lines += [f"[backends.{name}]", f'type = "{name}"', f"[backends.{name}.options]"]
        lines += [f'{one} = "{secret}"' for one in options if one != "headers"]
        lines += [f'url = "postgresql://u:{secret}@h/d"'] if "url" in backend_parameters(name) else []
        lines += [f"[backends.{name}.options.headers]", f'X-Vault = "{secret}"'] if "headers" in options else []
    (box / "c.toml").write_text("\n".join(lines))
    for more in ([], ["--json"]):
        answer = cli("--config", "c.toml", "config", "show", *more)
        assert b"X-Vault" in answer.out
        assert not re.search("c4n4ry|NOT|SHOW", answer.out.decode() + answer.err)
    answer = cli("--config", "c.toml", "config", "check")
    assert not re.search("c4n4ry|NOT|SHOW", answer.out.decode() + answer.err)


def test_config_show_hides_secrets(cli: Cli, box: Path) -> None:
    (box / "c.toml").write_text(
        '[backends."a b"]\ntype = "s3"\n[backends."a b".options]\nbucket = "x"\nsecret_access_key = "hunter2"\n'
        'url = "http://me:hunter2@h/"\nnested = { token = "hunter2", n = [1, "two"] }\n'
    )
    answer = cli("--config", "c.toml", "config", "show")
    assert b"hunter2" not in answer.out
    assert "hunter2" not in answer.err
    import tomllib

    shown = tomllib.loads(answer.out.decode())["backends"]["a b"]["options"]
    assert (shown["bucket"], shown["secret_access_key"], shown["nested"]["n"]) == ("x", "***", [1, "two"])
    assert json.loads(cli("--config", "c.toml", "config", "show", "--json").out)["options"]["bucket"] == "x"
    assert cli("config", "show").code == 7


def test_config_path_says_where_it_is_looked_for(cli: Cli, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("config", "path").lines == [f"{box}/home/.config/omnistorage/config.toml"]
    monkeypatch.setenv("OMNISTORAGE_CONFIG", "from_env.toml")
    assert json.loads(cli("config", "path", "--json").out) == {
        "path": "from_env.toml",
        "from": "$OMNISTORAGE_CONFIG",
        "exists": False,
    }
    assert cli("config", "path", "--config", "given").lines == ["given"]
    assert cli("config", "pth").code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(cli: Cli, shell: str) -> None:
    answer = cli("completion", shell)
    assert answer.code == 0
    assert b"_OMNISTORAGE_COMPLETE" in answer.out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=answer.out, check=True, timeout=LIMIT)


def test_the_script_gets_verbs_and_options_from_the_command(box: Path) -> None:
    def complete(words: str, at: int) -> list[str]:
        env = {**os.environ, "_OMNISTORAGE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        command = [sys.executable, "-m", "omnistorage"]
        done = subprocess.run(command, env=env, cwd=box, capture_output=True, text=True, check=True, timeout=LIMIT)
        assert done.stderr == ""
        return [line.rpartition(",")[2] for line in done.stdout.splitlines()]

    assert {"config", "convert", "completion"} <= set(complete("omnistorage co", 1))
    assert "--roll-bytes" in complete("omnistorage write --roll", 2)
    assert complete("omnistorage config --log-file keep sh", 4) == ["show"]
    assert not (box / "keep").exists()
    assert complete("omnistorage read --to-format c", 3) == ["csv"]
    assert {"none", "gzip", "zstd"} <= set(complete("omnistorage convert --compression ''", 3))
    assert complete("omnistorage hash sha3_5", 2) == ["sha3_512"]
    assert not any(complete("omnistorage nope --x", 2))


def test_places_complete_to_names_of_the_configuration_and_else_to_files(box: Path) -> None:
    (box / "c.toml").write_text('[backends.data]\ntype = "memory"\n[stores.days]\nbackend = "data"\n')
    (box / "list.txt").touch()
    program = box / "bin/omnistorage"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m omnistorage "$@"\n')
    program.chmod(0o700)
    script = """
        eval "$(omnistorage completion bash)"
        complete -p omnistorage
        COMP_WORDS=(omnistorage ls da) COMP_CWORD=2
        _omnistorage_completion omnistorage
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = f"{program.parent}:{os.environ['PATH']}"
    env = {**os.environ, "OMNISTORAGE_CONFIG": "c.toml", "PATH": path}
    done = subprocess.run(
        ["bash", "-c", script], env=env, cwd=box, capture_output=True, text=True, check=True, timeout=LIMIT
    )
    how, *found = done.stdout.splitlines()
    assert "-o default" in how
    assert found == ["data:", "days:"]


@pytest.mark.parametrize(
    "line",
    ["rm -R ~", "cp -R ~ kept", "cat ~/f", "mv ~/f kept", "sync ~ kept", "ls ~", "hash md5 ~/f", "spool status ~"],
)
def test_a_name_that_begins_with_a_tilde_is_not_the_home_folder(cli: Cli, box: Path, line: str) -> None:
    """A shell has replaced each ~ that was typed: another one is a name that ``*`` or ``ls -0`` has found."""
    for folder in (box / "home", box / "~"):
        folder.mkdir()
        (folder / "f").write_text(str(folder))
    assert cli(*line.split()).code == 7
    assert (box / "home/f").read_text() == str(box / "home")
    assert not (box / "kept").exists()
    assert cli("rm", "-R", "./~").code == 0
    assert not (box / "~").exists()


def test_help_is_asked_for_in_short_too(cli: Cli) -> None:
    assert cli("cp", "-h").out == cli("cp", "--help").out
    assert cli("ls", "-h").code == 0


@pytest.mark.parametrize("suffix", ["toml", "json", "yaml", "yml"])
def test_the_suffix_of_the_configuration_says_what_it_is(cli: Cli, box: Path, suffix: str) -> None:
    (box / "x").write_text("1")
    text = {"toml": '[backends.d]\ntype = "local"\noptions = {root = "."}'}.get(suffix) or json.dumps(
        {"backends": {"d": {"type": "local", "options": {"root": "."}}}}
    )
    (box / f"c.{suffix}").write_text(text)
    assert cli("--config", f"c.{suffix}", "cat", "d:x").out == b"1"
    assert cli("--config", f"c.{suffix}", "config", "check").code == 0


def test_patterns_and_buckets_where_a_verb_takes_none_are_explained(cli: Cli, box: Path) -> None:
    assert "--include" in cli("cat", "parts/*.txt").err
    assert "--include" not in cli("cat", "parts/a.txt").err
    answer = cli("mkdir", "s3://bucket")
    assert answer.code == 2
    assert answer.err.count("s3://bucket") == 1
    (box / "n.ndjson").write_text('{"a": {"b": 1}}\n')
    assert "--to-format csv:nested=json" in cli("convert", "n.ndjson", "n.csv").err
    assert cli("convert", "--to-format", "csv:nested=json", "n.ndjson", "n.csv").code == 0
    assert (box / "n.csv").read_text() == 'a\n"{""b"":1}"\n'


def test_a_configured_store_is_a_name_too_and_tiers_are_one(cli: Cli, box: Path) -> None:
    for folder in ("hot", "cold/logs"):
        (box / folder).mkdir(parents=True)
    (box / "cold/logs/x.txt").write_text("cold\n")
    (box / "c.toml").write_text(
        '[backends.seasons]\ntype = "tiered"\noptions = { tiers = [{ name = "hot", store = "./hot" }, '
        '{ name = "cold", store = "./cold" }] }\n'
        '[stores.logs]\nbackend = "seasons"\nroot_path = "logs/"\n'
        '[stores.kept]\nbackend = "seasons"\noptions = { read_only = true }\n'
    )
    with_config = ("--config", "c.toml")
    assert cli(*with_config, "cat", "logs:x.txt").out == b"cold\n"
    assert cli(*with_config, "cp", "logs:x.txt", "logs:y.txt").code == 0
    assert (box / "hot/logs/y.txt").read_text() == "cold\n"
    assert cli(*with_config, "cat", "seasons:logs/y.txt").out == b"cold\n"
    assert cli(*with_config, "cp", "logs:x.txt", "kept:z.txt").code != 0
    assert not (box / "hot/z.txt").exists()
    answer = cli(*with_config, "cat", "lags:x.txt")
    assert "no backend or store 'lags'; did you mean 'logs'?" in answer.err
    answer = cli(*with_config, "config", "check")
    assert (answer.code, "1 backend, 2 stores, no mistakes" in answer.err) == (0, True)
    assert b"[stores.logs]" in cli(*with_config, "config", "show").out
    (box / "c.toml").write_text('[stores.x]\nbackend = "nope"\n[stores.y]\nbacknd = "z"\n')
    answer = cli(*with_config, "config", "check")
    assert answer.code == 7
    assert "stores.x: there is no backend 'nope'" in answer.err
    assert "stores.y: unknown key 'backnd'; did you mean 'backend'?" in answer.err
