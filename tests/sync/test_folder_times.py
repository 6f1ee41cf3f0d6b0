"""Folders get the times of the source's, last of all, where both sides have any."""

import os
import random
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import LocalBackend, MemoryBackend
from omnistorage.core import FolderTimes, power
from omnistorage.sync import Plan, check, copy, move, run, sync
from omnistorage.sync.execution.partitions import execute, prepare
from omnistorage.sync.planning.folder_times import CHANGES, DIFFERS, MOST_FOLDERS

from ..backends import test_sftp_conformance
from .stores import failing

OLD = datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def write(root, path, data="x", *, age=0):
    at = root / path
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_text(data)
    stamp(at, age)


def stamp(path, age):
    moment = (OLD + timedelta(days=age)).timestamp()
    os.utime(path, (moment, moment))


def folders(root):
    """The times of all folders below ``root``, in microseconds as the backend shows them."""
    found, stack = {}, [""]
    store = LocalBackend(root)
    while stack:
        for info in store.list_dir(stack.pop()):
            if info.is_dir:
                found[info.path] = info.modified_at
                stack.append(info.path)
    return found


def left_to_do(src, dst, **settings):
    with Plan(src, dst, **settings) as made:
        return [(action.kind, action.path, action.why) for action in made]


@pytest.fixture
def tree(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    for path in ("a/b/c/x", "a/y", "d/z", "e/only", "top"):
        write(source, path)
    target.mkdir()
    for age, path in enumerate(("a/b/c", "a/b", "a", "d", "e")):
        stamp(source / path, age)
    return source, target


@pytest.mark.parametrize("verb", [sync, copy])
def test_new_folders_have_the_times_of_the_sources(tree, verb):
    source, target = tree
    wanted = folders(source)
    report = verb(source, target)
    assert report.folder_times == len(wanted) == 5
    assert folders(target) == wanted == folders(source)
    assert left_to_do(source, target, delete=True) == []


def test_moved_folders_have_the_times_of_before_the_move(tree):
    source, target = tree
    wanted = folders(source)
    assert move(source, target).ok
    assert folders(target) == wanted


def test_a_folder_in_which_nothing_changes_gets_its_time_alone(tree):
    source, target = tree
    sync(source, target)
    stamp(source / "a/b", 77)
    assert left_to_do(source, target) == [("dirtime", "a/b", DIFFERS)]
    report = sync(source, target)
    assert (report.folder_times, report.transferred, report.failed) == (1, 0, 0)
    assert str(report).startswith("1 folders given another time")
    assert folders(target) == folders(source)


@pytest.mark.parametrize(
    ("change", "dirty"),
    [
        (lambda s: write(s, "a/b/c/x", "other", age=3), {"a/b/c"}),
        (lambda s: write(s, "a/new", age=3), {"a"}),
        (lambda s: (s / "a/b/c/x").unlink(), {"a/b/c"}),
        (lambda s: shutil.rmtree(s / "a/b"), {"a"}),
        (lambda s: write(s, "a/one/two/new", age=3), {"a", "a/one", "a/one/two"}),
        (lambda s: (s / "a/y").rename(s / "d/y2"), {"a", "d"}),
    ],
)
def test_whatever_happens_in_a_folder_it_has_its_time_afterwards(tree, change, dirty):
    source, target = tree
    sync(source, target)
    times = {path: (source / path).stat().st_mtime_ns for path in folders(source)}
    change(source)
    for path, time in times.items():
        if (source / path).exists():  # as if the change had left no trace in them
            os.utime(source / path, ns=(time, time))
    settings = {"delete": True, "track_renames": "modtime", "max_delete": 10}
    planned = left_to_do(source, target, **settings)
    assert {path for kind, path, why in planned if kind == "dirtime"} == dirty
    assert {why for kind, path, why in planned if kind == "dirtime"} == {CHANGES}
    kinds = [kind for kind, _, _ in planned]
    assert kinds[-len(dirty) :] == ["dirtime"] * len(dirty), "they come last"
    assert sync(source, target, **settings).ok
    assert folders(target) == folders(source)
    assert left_to_do(source, target, **settings) == []


def test_inner_folders_come_before_outer_ones(tree):
    source, target = tree
    times = [path for kind, path, _ in left_to_do(source, target) if kind == "dirtime"]
    assert times.index("a/b/c") < times.index("a/b") < times.index("a")


def test_a_folder_of_which_nothing_arrives_is_not_made_for_its_time(tree):
    source, target = tree
    report = sync(source, target, filter=_without("e/"))
    assert report.folder_times == 4
    assert not (target / "e").exists()
    (source / "empty").mkdir()
    assert sync(source, target).folder_times == 1, "that of e, which comes now"
    assert not (target / "empty").exists()
    assert left_to_do(source, target) == []
    stamp(source / "empty", 5)
    assert sync(source, target, empty_dirs=True).made == 1
    assert folders(target) == folders(source)


def _without(pattern):
    from omnistorage.sync import Filter

    return Filter.parse([f"- {pattern}"])


def test_a_folder_that_is_spelled_otherwise_at_the_destination_gets_its_time_under_that_name(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    write(source, "Photos/Inner/x", age=1)
    write(target, "PHOTOS/inner/x", age=1)
    stamp(source / "Photos/Inner", 3)
    stamp(source / "Photos", 5)
    assert sync(source, target, ignore_case=True).folder_times == 2
    by_name = {path.casefold(): time for path, time in folders(source).items()}
    assert {path.casefold(): time for path, time in folders(target).items()} == by_name
    write(source, "Photos/Inner/x", "other", age=2)
    stamp(source / "Photos/Inner", 3)
    planned = left_to_do(source, target, ignore_case=True)
    assert planned[1:] == [("dirtime", "Photos/Inner", CHANGES)]
    assert sync(source, target, ignore_case=True).ok
    assert left_to_do(source, target, ignore_case=True) == []


def test_it_can_be_left_out(tree):
    source, target = tree
    assert sync(source, target, no_folder_times=True).folder_times == 0
    assert folders(target).keys() == folders(source).keys()
    assert not any(folders(target)[path] == time for path, time in folders(source).items())
    assert check(source, target).in_sync


def test_where_a_side_has_no_times_of_folders_nothing_is_said_of_them(tree):
    source, target = tree
    assert power(MemoryBackend(), FolderTimes) is None
    assert all(kind != "dirtime" for kind, _, _ in left_to_do(source, MemoryBackend()))
    memory = MemoryBackend()
    assert copy(source, memory).ok
    assert all(kind != "dirtime" for kind, _, _ in left_to_do(memory, target))


def test_a_folder_that_could_not_be_made_is_no_further_error(tree):
    source, target = tree
    (target / "d").write_text("a file where a folder is needed")
    report = sync(source, target, raise_errors=False)
    assert [failure.path for failure in report.failures] == ["d/z"]
    times = folders(target)
    assert {path: times[path] for path in ("a", "a/b", "e")} == {
        path: time for path, time in folders(source).items() if path in ("a", "a/b", "e")
    }


def test_a_folder_into_which_nothing_could_be_put_is_no_further_error(tree):
    source, target = tree
    report = sync(failing(LocalBackend(source), "open_reader", None), target, raise_errors=False)
    assert sorted(failure.path for failure in report.failures) == ["a/b/c/x", "a/y", "d/z", "e/only", "top"]
    assert folders(target) == {}
    assert report.folder_times == 0
    assert "another time" not in str(report)


def test_a_dry_run_sets_nothing(tree):
    source, target = tree
    sync(source, target)
    stamp(source / "a", 99)
    before = folders(target)
    assert sync(source, target, dry_run=True).folder_times == 1
    assert folders(target) == before


def test_partitions_do_it_behind_everything_else(tree, tmp_path):
    source, target = tree
    write(target, "gone/too/x")
    found = prepare(source, target, tmp_path / "plan", delete=True, max_delete=10)
    assert [part["group"] for part in found["parts"]] == [0, 2, 3, 5]
    report = execute(tmp_path / "plan")
    assert report.ok
    assert report.folder_times == 5
    assert folders(target) == folders(source)


def test_more_changes_than_are_remembered_give_every_folder_its_time(tree, monkeypatch):
    source, target = tree
    sync(source, target)
    for name in ("a/b/c/x", "d/z"):
        write(source, name, "another", age=9)
    monkeypatch.setattr("omnistorage.sync.planning.folder_times.MOST_FOLDERS", 1)
    assert MOST_FOLDERS >= 10_000
    times = {path for kind, path, _ in left_to_do(source, target) if kind == "dirtime"}
    assert times == set(folders(source))
    assert sync(source, target).ok
    assert folders(target) == folders(source)


NAMES = st.sampled_from(["a", "b", "a!", "a0", "é"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@given(before=st.sets(PATHS, max_size=8), after=st.sets(PATHS, max_size=8), seed=st.integers(0, 1000))
def test_after_any_change_the_folders_times_are_the_sources(tmp_path_factory, before, after, seed):
    rng = random.Random(seed)
    base = tmp_path_factory.mktemp("times")
    source, target = base / "source", base / "target"
    target.mkdir()
    for paths in (before, after):
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        for path in sorted(paths):
            if not any(other != path and other.startswith(path + "/") for other in paths):
                write(source, path, f"{rng.random()}", age=rng.randrange(5))
        for path in folders(source):
            stamp(source / path, rng.randrange(5))
        settings = {"delete": True, "max_delete": "100%", "allow_empty_source": True, "on_type_clash": "replace"}
        with Plan(source, target, **settings) as made:
            assert run(made, raise_errors=False).ok
        assert folders(target) == folders(source)
        assert left_to_do(source, target, **settings) == []
    shutil.rmtree(base)


def test_on_an_sftp_server_too(tree):
    source, _ = tree
    server = test_sftp_conformance.make("asyncssh")
    assert sync(source, server).folder_times == 5
    assert left_to_do(source, server) == []
    for info in server.list_dir("a"):
        if info.is_dir:
            assert abs(info.modified_at - folders(source)[info.path]) < timedelta(seconds=1)
    stamp(source / "a/b", 50)
    assert left_to_do(source, server) == [("dirtime", "a/b", DIFFERS)]
