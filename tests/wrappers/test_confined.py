"""A folder of a backend as a backend or a Store of its own: no symbolic link leads out of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from omnistorage import BackendClosed, InvalidPath, LocalBackend, MemoryBackend, Store, SyncError, ops, sync
from omnistorage.backends.base import leads_out
from omnistorage.core import Confine, CopyOptions, power
from omnistorage.wrappers import Cache, Encrypt, Observe, Prefix, ReadOnly

WRAPPERS = {
    "Observe": lambda b: Observe(b, lambda event: None),
    "ReadOnly": ReadOnly,
    "Encrypt": lambda b: Encrypt(b, b"k" * 32),
    "Cache": lambda b: Cache(b, MemoryBackend()),
    "Prefix": lambda b: Prefix(b, "tenants"),
}


@pytest.fixture
def disk(tmp_path):
    """``tenants/a`` has links to what belongs to ``tenants/b``."""
    backend = LocalBackend(tmp_path)
    ops.write_bytes(backend, "tenants/a/own", b"own")
    ops.write_bytes(backend, "tenants/b/secret", b"secret")
    backend.make_link("tenants/a/file", "../b/secret")
    backend.make_link("tenants/a/folder", "../b")
    return backend


@pytest.mark.parametrize(
    ("path", "target", "folder", "out"),
    [
        ("a/x", "y", "a", False), ("a/x", "./y/../z", "a", False), ("a/x", "..", "a", True),
        ("a/x", "../a/y", "a", True), ("a/b/x", "../y", "a", False), ("a/b/x", "../../y", "a", True),
        ("a/b/x", "../y", "a/b", True),
        ("a/x", "y/../../z", "a", True), ("a/x", "/a/y", "a", True), ("a/x", "y//..//z", "a", False),
    ],
)  # fmt: skip
def test_where_a_target_lies(path, target, folder, out):
    assert leads_out(path, target, folder) is out


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_folder_of_a_wrapper_is_confined(disk, name):
    wrapped = WRAPPERS[name](disk)
    folder = Prefix(wrapped, "a" if name == "Prefix" else "tenants/a")
    for path in ("file", "folder/secret"):
        with pytest.raises(InvalidPath) as caught:
            folder.open_reader(path)
        assert caught.value.path == path
    assert power(folder, Confine) is folder


@pytest.mark.parametrize("ttl", [0, 60])
def test_a_confined_cache_believes_nothing_that_another_was_told(disk, ttl):
    cache = Cache(disk, MemoryBackend(), ttl=ttl)
    root, child = Store(cache), Store(cache).child("tenants/a")
    assert child.read_bytes("own") == b"own"
    assert root.read_bytes("tenants/a/file") == b"secret"
    for _ in range(2):
        with pytest.raises(InvalidPath):
            child.read_bytes("file")
    root.write("tenants/a/own", b"new", overwrite=True)
    assert child.read_bytes("own") == b"new"
    child.write("own", b"newer", overwrite=True)
    assert root.read_bytes("tenants/a/own") == b"newer"


def test_a_child_of_a_store_is_confined(disk):
    child = Store(disk).child("tenants").child("a")
    for run in (lambda: child.read_bytes("file"), lambda: child.read_bytes("folder/secret"),
                lambda: child.write("folder/new", b""), lambda: child.delete("folder/secret"),
                lambda: list(child.list_files("folder")), lambda: child.move("folder/secret", "mine")):  # fmt: skip
        with pytest.raises(InvalidPath):
            run()
    assert child.read_bytes("own") == b"own"
    assert sorted(info.path for info in disk.list("tenants/b")) == ["tenants/b/secret"]


def test_a_folder_that_is_itself_a_link_is_where_it_leads_to(disk):
    disk.make_link("current", "tenants/a")
    folder = Prefix(disk, "current")
    assert ops.read_bytes(folder, "own") == b"own"
    with pytest.raises(InvalidPath):
        ops.read_bytes(folder, "file")
    disk.make_link("away", "/etc")
    with pytest.raises(InvalidPath):
        ops.read_bytes(Prefix(disk, "away"), "passwd")


def test_it_lives_as_long_as_the_backend_and_survives_a_pickle(disk):
    folder = Prefix(disk, "tenants/a")
    again = pickle.loads(pickle.dumps(folder))
    assert ops.read_bytes(again, "own") == b"own"
    with pytest.raises(InvalidPath):
        ops.read_bytes(again, "file")
    disk.close()
    with pytest.raises(BackendClosed):
        folder.open_reader("own")
    again.close()
    with pytest.raises(BackendClosed):
        again.open_reader("own")


def test_two_folders_of_one_backend_copy_and_move_between_each_other(disk):
    one, two = Prefix(disk, "tenants/a"), Prefix(disk, "tenants/b")
    two.copy("own", "copied", CopyOptions(source=one))
    assert ops.read_bytes(two, "copied") == b"own"
    with pytest.raises(InvalidPath):
        two.copy("file", "stolen", CopyOptions(source=one))
    with pytest.raises(InvalidPath):  # a backend that is confined takes no key of another folder
        two.inner.copy("tenants/a/own", "tenants/b/taken")
    assert not two.inner.exists("tenants/a/own")
    report = sync.move(one, two)
    assert report.ok
    assert ops.read_bytes(two, "own") == b"own"


@pytest.mark.parametrize("target", ["../b/secret", "/etc/passwd", "../../tenants/b"])
def test_no_sync_stores_a_link_that_leads_out(disk, tmp_path, target):
    source = MemoryBackend()
    ops.write_bytes(source, "x.rclonelink", target.encode())
    ops.write_bytes(source, "fine.rclonelink", b"own")
    ops.write_bytes(source, "folder/planted", b"planted")
    with pytest.raises(SyncError) as caught:
        sync.copy(source, Prefix(disk, "tenants/a"), links="store")
    assert {type(error) for error in caught.value.exceptions} == {InvalidPath}
    assert Path(tmp_path, "tenants/a/fine").is_symlink()
    assert not Path(tmp_path, "tenants/a/x").is_symlink()
    assert [info.path for info in disk.list("tenants/b")] == ["tenants/b/secret"]
