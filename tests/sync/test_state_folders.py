"""The folders that bisync and plans keep: for their owner alone, whatever the umask."""

import os
import stat
from contextlib import contextmanager
from functools import partial

import pytest

from omnistorage import LocalBackend
from omnistorage.errors import StorageError
from omnistorage.sync import bisync
from omnistorage.sync.execution.partitions import execute, prepare


@contextmanager
def umask(bits):
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def sides(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of {name}").write_text(name)
    return tmp_path / "a", tmp_path / "b"


@pytest.mark.parametrize(
    "kind", [str, lambda path: path, lambda path: path.as_uri(), partial(LocalBackend, private=True)]
)
def test_goal_45_what_a_bisync_remembers_is_its_owners_alone_under_any_umask(sides, tmp_path, kind):
    state = tmp_path / "deep" / "state"
    with umask(0):
        bisync(*sides, state=kind(state))
    assert mode(state) == 0o700, "nobody else gets at what is in it"
    assert (state / "state.json").exists()


def test_a_dry_run_makes_no_folder(sides, tmp_path):
    bisync(*sides, state=tmp_path / "state", dry_run=True)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("kind", [str, lambda path: path.as_uri()])
def test_goal_45_a_plan_is_its_owners_alone_under_any_umask(sides, tmp_path, kind):
    plan = tmp_path / "deep" / "plan"
    with umask(0):
        prepare(*sides, kind(plan))
        assert mode(plan) == 0o700
        assert execute(kind(plan)).ok
    for path in plan.rglob("*"):
        if path.is_dir():
            assert mode(path) == 0o700, path
        elif path.parent != plan:
            assert mode(path) == 0o600, path
    assert mode(plan) == 0o700


def test_a_folder_that_is_there_keeps_its_mode(sides, tmp_path):
    (tmp_path / "state").mkdir(0o750)
    bisync(*sides, state=tmp_path / "state")
    assert mode(tmp_path / "state") == 0o750


def test_what_is_in_the_way_of_a_state_folder_is_told_in_our_words(sides, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        bisync(*sides, state=tmp_path / "file" / "state")
    with pytest.raises(StorageError):
        prepare(*sides, tmp_path / "file" / "plan")
