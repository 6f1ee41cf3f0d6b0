"""``--journal`` and ``--resume``: whose plan it is, what may be given with it, and what its backends are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnistorage.backends.memory import MemoryBackend
from omnistorage.config import register_backend

Cli = Callable[..., Any]


class Noting(MemoryBackend):
    """``noting://NAME``: whatever shares a name shares its objects. It notes what each opening was told."""

    told: list[tuple[str, Any, Any]] = []

    def __new__(cls, name: str, timeout: float | None = None, policy: Any = None) -> Noting:
        cls.told.append((name, timeout, policy))
        return cls.kept.setdefault(name, super().__new__(cls))

    kept: dict[str, Noting] = {}

    def __init__(self, name: str, timeout: float | None = None, policy: Any = None) -> None:
        if not hasattr(self, "name_of"):
            super().__init__()
            self.name_of = name

    @classmethod
    def options_from_url(cls, parts: Any, *, is_object: bool) -> tuple[dict[str, Any], str]:
        return {"name": parts.netloc}, parts.path.lstrip("/")

    def close(self) -> None:
        pass


register_backend("noting", Noting)


@pytest.fixture
def tree(box: Path) -> Path:
    for name in ("a/x", "a/d/y", "c/z"):
        path = box / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return box


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_plan_is_resumed_for_its_own_places_alone(cli: Cli, tree: Path) -> None:
    assert cli("sync", "a", "b", "--journal", "plan").code == 0
    (tree / "b" / "x").unlink()
    for places, theirs, ours in ((("c", "b"), "a", "c"), (("a", "d"), "b", "d")):
        answer = cli("sync", *places, "--resume", "plan")
        assert answer.code == 7
        assert f"{tree / theirs}, not {tree / ours}" in answer.err
    assert names(tree / "b") == ["d/y"]
    assert not (tree / "d").exists()
    assert cli("sync", f"{tree}/a/", "b", "--resume", "plan").code == 0, "the same, in other words"


@pytest.mark.parametrize("option", ["--journal", "--resume", "--backup-dir"])
def test_a_name_of_the_configuration_is_no_local_folder(cli: Cli, tree: Path, option: str) -> None:
    journal = ("--journal", "plan") if option == "--backup-dir" else ()
    answer = cli("sync", "a", "b", option, "store:plans", *journal)
    assert answer.code == 2
    assert "write 'store:plans' as a URL or a path" in answer.err
    assert sorted(path.name for path in tree.iterdir()) == ["a", "c"]
    if option == "--journal":
        assert cli("sync", "a", "b", option, "./store:plans").code == 0
        assert (tree / "store:plans" / "plan.json").exists()


@pytest.mark.parametrize("verb", ["copy", "move", "sync"])
def test_a_plan_of_one_object_is_refused_by_name(cli: Cli, tree: Path, verb: str) -> None:
    answer = cli(verb, "a/x", "b", "--journal", "plan")
    assert answer.code == 2
    assert "--journal plans a folder, and 'a/x' is one object" in answer.err
    assert not (tree / "plan").exists()
    assert names(tree / "a") == ["d/y", "x"]


def test_a_source_that_is_not_there_is_what_the_error_names(cli: Cli, tree: Path) -> None:
    answer = cli("sync", "nowhere", "b", "--journal", "plan")
    assert answer.code != 0
    assert "nowhere -> b, planned in plan: " in answer.err
    (tree / "file").write_text("in the way")
    answer = cli("sync", "a", "b", "--journal", "file/plan")
    assert answer.code != 0
    assert "a -> b, planned in file/plan: " in answer.err


def test_the_global_limits_hold_for_a_plan_and_for_going_on_with_it(cli: Cli, tree: Path) -> None:
    limits = ("--retries", "7", "--timeout", "9s", "--tpslimit", "5000", "--bwlimit", "900M")
    limits += ("--backup-dir", "noting://old")
    for option in ("--journal", "--resume"):
        Noting.told.clear()
        answer = cli("copy", "a", "noting://there/x", option, "noting://plans/p", *limits)
        assert answer.code == 0, answer.err
        assert {name for name, _, _ in Noting.told} == {"there", "plans", "old"}
        assert {timeout for _, timeout, _ in Noting.told} == {9.0}
        assert {policy.retries for _, _, policy in Noting.told} == {7}
        assert len({id(policy.requests) for _, _, policy in Noting.told}) == 1, "one budget for all of them"
        assert Noting.told[0][2].requests.rate == 5000
        assert Noting.told[0][2].bandwidth is None, "the run counts its bytes, over a network or not"
        Noting.kept["plans"].delete("p/part-00000.done")
