"""What the commands keep for themselves is for its owner alone, whatever the umask; what they publish is not."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from omnistorage.errors import PermissionDenied
from omnistorage.multi import MultiBackend
from omnistorage.segments import SegmentLog
from omnistorage.sync import bisync
from omnistorage.sync.execution.partitions import prepare

Cli = Callable[..., Any]
LINE = b'{"a":1}\n'
COMMANDS = [
    "write {seq}.ndjson --to out/spooled --spool own/spool --log-file own/log",
    "write {seq}.ndjson --to out/one --to out/two --journal own/mirror/journal",
    "write {seq}.ndjson --to out/three --to full --mode best_effort --journal own/missed",
    "convert src/a.ndjson out/a.csv",
    "cp src out/copied",
    "sync src out/synced --report out/report.html",
    "sync src out/planned --journal own/deep/plan",
    "sync --resume own/deep/plan",
    "copy src out/copied2 --combined out/combined",
    "check src out/synced --combined out/differences",
    "bisync src out/other --state own/state",
    "bisync src out/another",
    "spool status own/spool",
    "spool drain own/spool",
    "ls -l out",
    "hash sha256 src",
]


@pytest.fixture(params=[0o000, 0o022])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {str(path): stat.S_IMODE(path.lstat().st_mode) for path in [folder, *folder.rglob("*")]}


def test_goal_45_no_command_leaves_state_that_others_can_read(
    cli: Cli, box: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(box / "own" / "home"))
    (box / "own").mkdir()
    (box / "src").mkdir()
    (box / "src" / "a.ndjson").write_bytes(LINE)
    (box / "full").write_bytes(b"a file where a target should be")
    for command in COMMANDS:
        cli(*command.split(), stdin=LINE)
    kept = modes(box / "own")
    del kept[str(box / "own")]
    for name in ("spool", "log", "mirror/journal", "missed", "deep/plan/plan.json", "state/state.json", "home"):
        assert str(box / "own" / name) in kept
    assert {path: oct(mode) for path, mode in kept.items() if mode & 0o077} == {}
    published = modes(box / "out")
    assert str(box / "out" / "report.html") in published
    assert str(box / "out" / "planned" / "a.ndjson") in published
    for path, mode in published.items():
        assert mode == (0o777 if Path(path).is_dir() else 0o666) & ~umask, path


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
@pytest.mark.parametrize(
    "use",
    [
        lambda box, state: SegmentLog(state),
        lambda box, state: bisync(box / "a", box / "b", state=state),
        lambda box, state: prepare(box / "a", box / "b", state),
        lambda box, state: MultiBackend([f"{box}/a/", f"{box}/b/"], journal=state).repair(),
    ],
    ids=["log", "bisync", "plan", "journal"],
)
def test_goal_45_a_folder_of_state_that_others_can_write_to_is_refused(
    tmp_path: Path, use: Callable[..., Any], mode: int
) -> None:
    for name in ("a", "b", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "state").chmod(mode)
    with pytest.raises(PermissionDenied):
        use(tmp_path, tmp_path / "state")
    assert list((tmp_path / "state").iterdir()) == []
