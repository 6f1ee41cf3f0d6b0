"""Targets on disks that are not mounted: a root folder that has gone is a target that failed, for every change."""

import os
from datetime import UTC, datetime

import pytest

from omnistorage import (
    BackendUnavailable,
    LocalBackend,
    MemoryBackend,
    MultiBackend,
    MultiError,
    NotFound,
    Store,
    Target,
)
from omnistorage.core import WriteOptions
from omnistorage.ops import read_bytes, write_bytes

from .mirrors import states, switches

THEN = datetime(2020, 1, 1, tzinfo=UTC)
HELD = {"gone": b"g", "k": b"old", "moved": b"m", "marked": b"t", "many/1": b"1", "many/2": b"2"}
CHANGES = {
    "write": lambda multi: write_bytes(multi, "k", b"new"),
    "create": lambda multi: write_bytes(multi, "fresh", b"f", WriteOptions(overwrite=False)),
    "delete": lambda multi: multi.delete("gone"),
    "move": lambda multi: multi.move("moved", "there"),
    "copy": lambda multi: multi.copy("k", "copied"),
    "mkdir": lambda multi: multi.mkdir("folder"),
    "rmdir": lambda multi: multi.rmdir("empty"),
    "set_metadata": lambda multi: multi.set_metadata("marked", modified_at=THEN),
    "purge": lambda multi: Store(multi).delete_folder("many", recursive=True),
    "delete_many": lambda multi: Store(multi).delete_many(["many/1", "many/2"]),
}


def folders(tmp_path, names="abc"):
    for name in names:
        (tmp_path / name).mkdir()
    return [Target(name, LocalBackend(tmp_path / name)) for name in names]


def tree(folder):
    """What a folder holds, with the times of files that were set."""
    found = {}
    for path in folder.rglob("*"):
        old = path.stat().st_mtime == THEN.timestamp()
        found[path.relative_to(folder).as_posix()] = (path.read_bytes(), old) if path.is_file() else None
    return found


class Disk:
    """A folder that is unmounted in one of three ways."""

    def __init__(self, folder, how):
        self.folder, self.aside, self.how = folder, folder.with_name(f"{folder.name}-aside"), how

    def unmount(self):
        self.folder.rename(self.aside)
        if self.how == "replaced":
            self.folder.mkdir()
        elif self.how == "file":
            self.folder.write_bytes(b"in the way")

    def mount(self):
        if self.how == "replaced":
            assert not list(self.folder.iterdir()), "something was written below the mount point"
            self.folder.rmdir()
        elif self.how == "file":
            self.folder.unlink()
        self.aside.rename(self.folder)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("how", ["gone", "replaced", "file"])
def test_a_target_without_its_root_misses_every_change(tmp_path, how, change):
    multi = MultiBackend(folders(tmp_path), "quorum", journal=MemoryBackend())
    for path, data in HELD.items():
        write_bytes(multi, path, data)
    multi.mkdir("empty")
    disk = Disk(tmp_path / "a", how)
    disk.unmount()
    CHANGES[change](multi)
    assert {name for entry in multi.journal.load() for name in entry.targets} == {"a"}
    assert all(not entry.intent for entry in multi.journal.load())
    assert multi.repair(grace=0).waiting
    disk.mount()
    assert not multi.repair(grace=0).waiting
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c")
    assert not multi.journal.load()


@pytest.mark.parametrize("change", ["write", "delete", "copy", "mkdir", "set_metadata"])
def test_in_all_a_change_without_a_root_fails_and_names_the_folder(tmp_path, change):
    multi = MultiBackend(folders(tmp_path, "ab"))
    for path, data in HELD.items():
        write_bytes(multi, path, data)
    Disk(tmp_path / "a", "gone").unmount()
    with pytest.raises((BackendUnavailable, MultiError)) as told:
        CHANGES[change](multi)
    errors = getattr(told.value, "exceptions", [told.value])
    assert str(tmp_path / "a") in str(errors[0])
    if change == "write":
        assert (tmp_path / "b/k").read_bytes() == b"old"
    else:
        assert states(told.value.outcomes) == {"a": "failed", "b": "committed"}
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("read", ["first", "race", "quorum"])
def test_reads_go_past_a_target_without_its_root(tmp_path, read):
    multi = MultiBackend(folders(tmp_path), "quorum", journal=MemoryBackend(), read=read)
    write_bytes(multi, "k", b"1")
    Disk(tmp_path / "a", "replaced").unmount()
    assert read_bytes(multi, "k") == b"1"
    assert multi.exists("k")
    assert multi.stat("k").size == 1
    assert [info.path for info in multi.list()] == ["k"]
    assert [info.path for info in multi.list_dir()] == ["k"]
    with pytest.raises(BackendUnavailable if read == "race" else NotFound):
        multi.stat("other")


def test_nothing_is_said_to_be_missing_by_targets_without_roots(tmp_path):
    multi = MultiBackend(folders(tmp_path), "quorum", journal=MemoryBackend())
    write_bytes(multi, "k", b"1")
    for name in "ab":
        Disk(tmp_path / name, "gone").unmount()
    (tmp_path / "c/k").unlink()
    with pytest.raises(BackendUnavailable):
        read_bytes(multi, "k")
    with pytest.raises(BackendUnavailable):
        list(multi.list())


def test_a_root_that_goes_while_a_writer_is_open_gets_nothing(tmp_path):
    multi = MultiBackend(folders(tmp_path), "quorum", journal=MemoryBackend())
    writer = multi.open_writer("k")
    writer.write(b"1")
    writer.flush()
    Disk(tmp_path / "a", "replaced").unmount()
    writer.close()
    assert states(writer.outcomes) == {"a": "failed", "b": "committed", "c": "committed"}
    assert not tree(tmp_path / "a")
    assert not tree(tmp_path / "a-aside")


def test_the_first_write_of_a_new_mirror_makes_the_folders(tmp_path):
    multi = MultiBackend([tmp_path / name for name in "abc"], "quorum", journal=MemoryBackend())
    assert not multi.exists("k")
    assert multi.delete("k") is False
    write_bytes(multi, "k", b"1")
    assert [(tmp_path / name / "k").read_bytes() for name in "abc"] == [b"1"] * 3
    Disk(tmp_path / "a", "gone").unmount()
    write_bytes(multi, "k", b"22")
    assert not (tmp_path / "a").exists(), "once it is there it is known"


@pytest.mark.parametrize("made", ["mounted", "made"])
def test_a_root_that_was_never_seen_is_not_made_where_others_hold_something(tmp_path, made):
    targets, journal = folders(tmp_path), MemoryBackend()
    multi = MultiBackend(targets, "quorum", journal=journal)
    for path in ("k", "gone"):
        write_bytes(multi, path, b"old")
    disk = Disk(tmp_path / "a", "gone")
    disk.unmount()
    multi = MultiBackend(targets, "quorum", journal=journal)
    assert read_bytes(multi, "k") == b"old"
    multi.delete("gone")
    write_bytes(multi, "k", b"new")
    assert not (tmp_path / "a").exists()
    assert [outcome[1] for outcome in multi.repair(grace=0).waiting] != []
    if made == "made":
        (tmp_path / "a").mkdir()
    else:
        disk.mount()
    assert not multi.repair(grace=0).waiting
    assert tree(tmp_path / "a") == {"k": (b"new", False)}


def test_a_root_that_was_never_seen_waits_for_targets_that_cannot_say_what_they_hold(tmp_path):
    (down,) = switches(1)
    down.down = True
    multi = MultiBackend([tmp_path / "a", down, MemoryBackend()], "best_effort", journal=MemoryBackend())
    write_bytes(multi, "k", b"1")
    assert not (tmp_path / "a").exists()
    down.down = False
    assert [str(tmp_path / "a") in str(error) for _, error in multi.repair(grace=0).waiting] == [True]
    (tmp_path / "a").mkdir()
    assert not multi.repair(grace=0).waiting
    assert (tmp_path / "a/k").read_bytes() == b"1"


def test_a_folder_that_cannot_be_looked_at_is_down(tmp_path, monkeypatch):
    multi = MultiBackend(folders(tmp_path), "quorum", journal=MemoryBackend())
    (tmp_path / "a").rmdir()
    (tmp_path / "a").symlink_to(tmp_path / "a")  # a loop
    write_bytes(multi, "k", b"1")
    assert {entry.targets for entry in multi.journal.load()} == {("a",)}
    os.unlink(tmp_path / "a")


def test_the_deletion_of_the_last_object_does_not_make_a_mirror_new(tmp_path):
    """Another process is in the middle of it: two targets have done it, and the third is not mounted."""
    journal = MemoryBackend()
    other = MultiBackend(folders(tmp_path), "quorum", journal=journal)
    other.journal.add(other.entry("k", other.places, sha256="", intent=True))
    disk = Disk(tmp_path / "c", "gone")
    disk.unmount()
    targets = [Target(name, LocalBackend(tmp_path / name)) for name in "abc"]
    multi = MultiBackend(targets, "quorum", journal=journal)
    write_bytes(multi, "x", b"1")
    assert not (tmp_path / "c").exists()
    disk.mount()
    assert set(multi.repair(grace=0).paths) == {"k", "x"}
    assert (tmp_path / "c" / "x").read_bytes() == b"1"
