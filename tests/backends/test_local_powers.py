"""Links on their way to their names, and what a reader tells of its file: what is the local backend's own of both."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from omnistorage.backends.local import LocalBackend, stale_uploads
from omnistorage.errors import DirectoryNotEmpty, InvalidPath, NotFound, StorageError
from omnistorage.testing.os_faults import FaultyOS

NO_WAIT = timedelta(0)
WHEN = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
LEFT = [f"d/.omnistorage-{n:016x}.tmp" for n in range(2)]


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], LocalBackend]:
    """Two links that dead writers left, of which ``age`` says how many seconds ago."""
    (tmp_path / "d").mkdir()
    (tmp_path / "real").write_text("what they lead to")
    for name, target in zip(LEFT, ("../real", "/nowhere"), strict=True):
        os.symlink(target, tmp_path / name)
        os.utime(tmp_path / name, (0, 0), follow_symlinks=False)  # as make_link does, so that it tells nothing
    made = time.time()

    def age(seconds: float) -> LocalBackend:
        monkeypatch.setattr(stale_uploads, "time", SimpleNamespace(time=lambda: made + seconds))
        return LocalBackend(tmp_path)

    return age


def test_goal_6_a_link_without_its_name_is_collected_when_its_maker_must_be_dead(left, tmp_path: Path) -> None:
    for seconds, older_than in ((0, NO_WAIT), (50, NO_WAIT), (50, timedelta(hours=-1)), (3500, timedelta(hours=1))):
        assert list(left(seconds).stale_uploads(older_than=older_than)) == []
        assert left(seconds).remove_stale_uploads(older_than=older_than) == 0
    assert [info.path for info in left(70).stale_uploads(older_than=NO_WAIT)] == LEFT
    assert [info.kind for info in left(3700).stale_uploads()] == ["link", "link"]
    assert all(os.path.islink(tmp_path / name) for name in LEFT), "asking removes nothing"
    assert left(3700).remove_stale_uploads() == 2
    assert os.listdir(tmp_path / "d") == []
    assert (tmp_path / "real").read_text() == "what they lead to"


def test_a_folder_of_nothing_else_goes_when_they_may(left, tmp_path: Path) -> None:
    with pytest.raises(DirectoryNotEmpty):
        left(0).rmdir("d")
    left(70).rmdir("d")
    assert not (tmp_path / "d").exists()
    assert (tmp_path / "real").exists()


def gets_its_name(path: Path) -> None:
    path.rename(path.with_name("name"))


def gives_way(path: Path) -> None:
    path.unlink()
    path.write_text("somebody writes")


@pytest.mark.parametrize(("change", "stays"), [(gets_its_name, "name"), (gives_way, LEFT[0][2:])])
def test_what_is_no_dead_link_when_its_age_is_asked_for_stays(left, tmp_path: Path, change, stays) -> None:
    class Meanwhile(FaultyOS):
        def _call(self, name, real, args, kwargs):
            if name == "stat" and args[0] == LEFT[0][2:]:
                change(tmp_path / LEFT[0])
            return super()._call(name, real, args, kwargs)

    backend = left(70)
    backend._os = backend._at.os = Meanwhile()
    assert backend.remove_stale_uploads(older_than=NO_WAIT) == 1
    assert os.listdir(tmp_path / "d") == [stays]


def test_a_link_that_could_not_be_made_leaves_nothing(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidPath):
        backend.make_link("folder", "x")
    backend.make_link("link", "x", overwrite=False)
    with pytest.raises(StorageError):
        backend.make_link("link", "y", overwrite=False)
    with pytest.raises(InvalidPath):
        backend.make_link("new/deeper/link", "x" * 4096)
    with pytest.raises(StorageError):
        backend.make_link("link/below", "x")
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]
    assert os.readlink(tmp_path / "link") == "x"


def test_a_folders_time_is_set_whatever_lies_in_it_and_never_through_a_link(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "folder/inner").mkdir(parents=True)
    outside.mkdir()
    before = outside.stat().st_mtime_ns
    (root / "away").symlink_to(outside)
    backend = LocalBackend(root)
    backend.set_folder_time("folder", WHEN)
    assert (root / "folder").stat().st_mtime == WHEN.timestamp()
    with pytest.raises(StorageError):
        backend.set_folder_time("away", WHEN)
    assert outside.stat().st_mtime_ns == before
    (root / "beside").symlink_to("folder/inner")
    before = (root / "folder/inner").stat().st_mtime_ns
    with pytest.raises(NotFound):
        backend.set_folder_time("beside", WHEN)
    assert (root / "folder/inner").stat().st_mtime_ns == before


# -- readers -----------------------------------------------------------------------------------------------------------


def later(path: Path) -> None:
    """Until a change to ``path`` has another time than the last one: the system's clock moves in steps."""
    probe = path.with_name("probe")
    probe.touch()
    while probe.stat().st_ctime_ns <= path.stat().st_ctime_ns:
        os.utime(probe)


def in_place(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"CONT")


def in_place_with_its_old_time(path: Path) -> None:
    before = path.stat()
    in_place(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"content")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


CHANGES = [
    in_place,
    in_place_with_its_old_time,
    replaced,
    Path.unlink,
    lambda path: path.rename(path.with_name("new name")),
    lambda path: path.chmod(0o600),
    lambda path: os.truncate(path, 3),
    lambda path: os.link(path, path.with_name("second name")),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_reader_tells_that_something_about_its_file_changed(tmp_path: Path, change: Callable[[Path], object]) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"content")
    with LocalBackend(tmp_path).open_reader("f") as reader:
        assert reader.read(3) == b"con"
        assert reader.is_unchanged()
        later(file)
        assert reader.is_unchanged()
        change(file)
        assert not reader.is_unchanged()
        assert not reader.is_unchanged(), "what was seen once stays so"
    assert not reader.is_unchanged(), "nobody knows any more"


def test_a_reader_does_not_mind_what_happens_beside_its_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    with LocalBackend(tmp_path).open_reader("f") as reader:
        later(tmp_path / "f")
        (tmp_path / "g").write_bytes(b"other")
        assert (tmp_path / "f").read_bytes() == b"content"
        assert reader.is_unchanged()
