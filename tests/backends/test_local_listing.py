"""LocalBackend: names, listings, folders."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from omnistorage.backends.local import LocalBackend
from omnistorage.core import ListOptions
from omnistorage.errors import DirectoryNotEmpty, InvalidPath, NotFound, PermissionDenied, StorageError
from omnistorage.paths import sort_key
from omnistorage.posix import OS
from omnistorage.testing.os_faults import FaultyOS

from .local_files import TEMPORARY, get, keys, plant, put

# A newer Python warns of fork in a process with threads; these children do nothing that could meet a held lock.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return LocalBackend(tmp_path / "root")


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf_8_are_listed_read_and_deleted_but_never_made(backend: LocalBackend) -> None:
    root = plant(backend, "d/z", "d/é", "d/\U0001f600")
    raw = [b"caf\xe9", b"\xff", b"\xf0\x90"]
    for name in raw:
        with open(os.fsencode(root / "d") + b"/" + name, "wb") as file:
            file.write(name)
    found = keys(backend)
    assert found == sorted(found, key=sort_key)
    assert len(found) == 6
    for name in raw:
        path = "d/" + os.fsdecode(name)
        assert path in found
        assert get(backend, path) == name
        assert backend.exists(path)
        assert backend.stat(path).size == len(name)
        assert keys(backend, "d", start_after=path) == [
            key for key in keys(backend, "d") if sort_key(key) > sort_key(path)
        ]
        with pytest.raises(InvalidPath):
            backend.open_writer(path)
        with pytest.raises(InvalidPath):
            backend.copy(path, path + "2")
        assert backend.copy(path, "copied").size == len(name)
        assert backend.delete(path) is True
    for path in ("\ud800", "d/\udfff\ud800"):
        assert not backend.exists(path)
        with pytest.raises(InvalidPath):
            backend.stat(path)
        with pytest.raises(InvalidPath):
            list(backend.list("", ListOptions(start_after=path)))


def test_rs_7_3_names_with_backslashes_and_long_names(backend: LocalBackend) -> None:
    put(backend, "a\\b.txt", b"x")
    assert keys(backend) == ["a\\b.txt"]
    assert get(backend, "a\\b.txt") == b"x"
    long = "n" * 300
    assert not backend.exists(long)
    assert backend.delete(long) is False
    for refused in (
        lambda: backend.open_writer(long),
        lambda: backend.mkdir(long),
        lambda: backend.open_writer(f"{long}/x"),
    ):
        with pytest.raises(InvalidPath):
            refused()
    with pytest.raises(NotFound):
        backend.open_reader(long)
    assert keys(backend, long) == []
    put(backend, "m" * 255)
    assert backend.exists("m" * 255)


# -- listing -----------------------------------------------------------------------------------------------------------


def test_the_order_is_that_of_the_keys_bytes(backend: LocalBackend) -> None:
    paths = [
        "a-b",
        "a/b",
        "a.b",
        "a0",
        "a/b-c",
        "a/b.d/e",
        "ab",
        "a/c",
        "Z",
        "é",
        "\U0001f600",
        "\uffee",
        "a b",
        "a/b/c2",
    ]
    paths.remove("a/b")
    plant(backend, *paths)
    assert keys(backend) == sorted(paths, key=sort_key)
    children = [info.path + "/" * info.is_dir for info in backend.list_dir()]
    assert children == sorted({p.partition("/")[0] + "/" * ("/" in p) for p in paths}, key=sort_key)


def test_start_after_and_prefix_agree_with_a_sorted_list(backend: LocalBackend) -> None:
    chance = random.Random(7)
    segments = ["a", "a-", "a.", "a0", "b", "é", "~"]
    paths = {"/".join(chance.choices(segments, k=chance.randint(1, 4))) + ".f" for _ in range(200)}
    plant(backend, *paths)
    order = sorted(paths, key=sort_key)
    starts = [*order[::7], "", "a", "a/", "a/a", "a/a/", "a-", "a0", "b/zzz", "zz", "é/é", "\uffff"]
    for prefix in ("", "a", "a/a", "a-", "nothing", "b/é"):
        for start in starts:
            expected = [
                p for p in order if p.startswith(prefix + "/" if prefix else "") and sort_key(p) > sort_key(start)
            ]
            assert keys(backend, prefix, start_after=start) == expected, (prefix, start)


def test_start_after_does_not_open_the_folders_it_skips(tmp_path: Path) -> None:
    plant(LocalBackend(tmp_path), *(f"{n:03}/{m}" for n in range(50) for m in range(3)))
    faulty = FaultyOS()
    assert keys(LocalBackend(tmp_path, _os=faulty), start_after="048~") == ["049/0", "049/1", "049/2"]
    assert faulty.calls.count("scandir") == 2
    assert faulty.calls.count("stat") == 4  # one is the root


def test_a_listing_is_lazy_and_holds_few_descriptors(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 200)
    plant(LocalBackend(tmp_path), f"{deep}/f", *("/".join(["d"] * n) + "/z" for n in range(1, 200, 3)))
    faulty = FaultyOS()
    listing = LocalBackend(tmp_path, _os=faulty).list()
    assert faulty.calls == []
    assert next(listing).path == f"{deep}/f"
    before = len(os.listdir("/proc/self/fd"))
    rest = [info.path for info in listing]
    assert len(rest) == 67
    assert before - len(os.listdir("/proc/self/fd")) <= 2
    assert faulty.calls.count("open") + faulty.calls.count("open_beneath") == faulty.calls.count("close")


def test_go_s1_a_missing_root_raises_and_a_missing_prefix_is_empty(backend: LocalBackend) -> None:
    for listing in (lambda: keys(backend), lambda: keys(backend, "p"), lambda: list(backend.list_dir())):
        with pytest.raises(NotFound):
            listing()
    with pytest.raises(NotFound):
        backend.check_health()
    put(backend, "d/f")
    assert keys(backend, "p") == keys(backend, "d/f") == keys(backend, "d/f/g") == []
    for path in ("p", "d/f"):
        with pytest.raises(NotFound):
            list(backend.list_dir(path))
    backend.check_health()


def test_go_s1_a_root_that_went_away_or_was_made_anew_is_noticed(backend: LocalBackend, tmp_path: Path) -> None:
    put(backend, "f", b"old")
    (tmp_path / "root").rename(tmp_path / "moved")
    with pytest.raises(NotFound):
        keys(backend)
    assert not backend.exists("f")
    put(backend, "g")
    assert keys(backend) == ["g"]
    assert os.listdir(tmp_path / "moved") == ["f"]
    shutil.rmtree(tmp_path / "root")
    with pytest.raises(NotFound):
        keys(backend)


def test_go_s1_rs_7_2_a_folder_that_vanishes_is_reported_and_a_file_skipped(backend: LocalBackend) -> None:
    root = plant(backend, "a", "b/c/d", "b/e", "b/g", "h")
    listing = backend.list()
    assert next(listing).path == "a"
    shutil.rmtree(root / "b")
    with pytest.raises(NotFound) as caught:
        next(listing)
    assert caught.value.path == "b"
    plant(backend, "b/c/d", "b/e", "b/g")
    errors: list[StorageError] = []
    listing = backend.list("", ListOptions(on_error=errors.append))
    assert [next(listing).path for _ in range(2)] == ["a", "b/c/d"]
    (root / "h").unlink()
    shutil.rmtree(root / "b")
    assert list(listing) == []
    assert [(type(error), error.path, error.op) for error in errors] == [(NotFound, "b", "list")]
    assert errors[0].__cause__ is not None


def test_a_folder_replaced_while_it_is_listed_is_reported(backend: LocalBackend) -> None:
    root = plant(backend, "b/c/d", "b/e")
    errors: list[StorageError] = []
    listing = backend.list("", ListOptions(on_error=errors.append))
    assert next(listing).path == "b/c/d"
    (root / "b").rename(root / "y")
    plant(backend, "b/other")
    assert list(listing) == []
    assert [error.path for error in errors] == ["b"]


def test_go_s2_an_unreadable_folder_is_never_silently_empty(tmp_path: Path) -> None:
    plant(LocalBackend(tmp_path), "a/x", "b/y", "c/z")
    for code, kind in ((errno.EACCES, PermissionDenied), (errno.EIO, StorageError), (errno.ENOENT, NotFound)):
        errors: list[StorageError] = []
        failing = FaultyOS(at=2, error=code, only=("scandir",))
        assert keys(LocalBackend(tmp_path, _os=failing), on_error=errors.append) == ["b/y", "c/z"]
        assert [(type(error), error.path) for error in errors] == [(kind, "a")]
        with pytest.raises(kind):
            keys(LocalBackend(tmp_path, _os=FaultyOS(at=2, error=code, only=("scandir",))))


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user in a child process, which takes root")
def test_go_s2_f5_permissions_of_a_real_other_user() -> None:
    root = Path(
        tempfile.mkdtemp(prefix="omnistorage-test-", dir="/tmp")
    )  # tmp_path lies in a folder that is closed to others
    plant(LocalBackend(root), "open/a", "shut/b", "blind/c")
    for name, mode in (("", 0o777), ("open", 0o755), ("shut", 0o700), ("blind", 0o744)):
        (root / name).chmod(mode)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setresuid(65534, 65534, 65534)
            backend = LocalBackend(root)
            errors: list[StorageError] = []
            assert keys(backend, on_error=errors.append) == ["open/a"]
            assert sorted((type(e), e.path) for e in errors) == [
                (PermissionDenied, "blind/c"),
                (PermissionDenied, "shut"),
            ]
            for run in (
                lambda: keys(backend),
                lambda: keys(backend, "shut"),
                lambda: backend.stat("shut/b"),
                lambda: backend.exists("shut/b"),
                lambda: backend.open_writer("shut/new"),
                lambda: backend.delete("open/a"),
                lambda: backend.mkdir("open/new"),
                lambda: backend.copy("open/a", "open/new"),
            ):
                with pytest.raises(PermissionDenied):
                    run()
            put(backend, "mine/a")
            code = 0
        finally:
            os._exit(code)
    result = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    shutil.rmtree(root)
    assert result == 0


def test_rs_7_2_links_are_listed_as_links_and_never_descended(backend: LocalBackend) -> None:
    root = plant(backend, "d/f")
    for name, target in (("in", "d"), ("file", "d/f"), ("broken", "x"), ("out", "/etc"), ("d/loop", "..")):
        (root / name).symlink_to(target)
    found = [(info.path, info.kind) for info in backend.list()]
    assert found == [
        ("broken", "link"),
        ("d/f", "file"),
        ("d/loop", "link"),
        ("file", "link"),
        ("in", "link"),
        ("out", "link"),
    ]
    assert backend.stat("file").kind == "file"
    assert get(backend, "in/f") == b"x"
    assert not backend.exists("broken")
    assert not backend.exists("in")
    with pytest.raises(NotFound):
        backend.open_reader("broken")
    for path in ("in", "file", "broken", "out"):
        assert backend.delete(path) is True
    assert keys(backend) == ["d/f", "d/loop"]
    plant(backend, "a", "e/g")
    errors: list[StorageError] = []
    listing = backend.list("", ListOptions(on_error=errors.append))
    assert next(listing).path == "a"
    (root / "e").rename(root / "z")
    (root / "e").symlink_to("d")  # it was a folder when the names around it were read
    assert [info.path for info in listing] == ["d/f", "d/loop"]
    assert [error.path for error in errors] == ["e"]


# -- folders -----------------------------------------------------------------------------------------------------------


def test_rmdir_collects_orphans_but_nothing_alive(backend: LocalBackend) -> None:
    root = plant(backend, f"d/{TEMPORARY}")
    backend.rmdir("d")
    assert not (root / "d").exists()
    with pytest.raises(NotFound):
        backend.rmdir("d")
    writer = backend.open_writer("d/f")
    with pytest.raises(DirectoryNotEmpty):
        backend.rmdir("d")
    writer.close()
    assert keys(backend) == ["d/f"]
    with pytest.raises(DirectoryNotEmpty):
        backend.rmdir("d")
    with pytest.raises(NotFound):
        backend.rmdir("d/f")
    for refuse in (backend.rmdir, backend.purge):
        with pytest.raises(InvalidPath):
            refuse("")


def test_purge_removes_a_tree_and_follows_no_link(backend: LocalBackend, tmp_path: Path) -> None:
    root = plant(backend, "d/a/b/c", "d/e", f"d/a/{TEMPORARY}", "keep")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").write_bytes(b"x")
    (root / "d/a/out").symlink_to(tmp_path / "outside")
    (root / "link").symlink_to("d")
    with pytest.raises(NotFound):
        backend.purge("link")
    backend.purge("d")
    assert keys(backend) == ["keep", "link"]
    assert (tmp_path / "outside/x").exists()
    for path in ("d", "keep"):
        with pytest.raises(NotFound):
            backend.purge(path)


@pytest.mark.parametrize("walk", [False, True])
def test_purge_removes_no_folder_through_a_symlink_that_came_in_meanwhile(tmp_path: Path, walk: bool) -> None:
    class Swapping(OS):
        def open_beneath(self, root: int, path: str, flags: int, mode: int = 0, links: bool = True) -> int:
            if path == "a" and not (tmp_path / "root/d/a").is_symlink() and not os.listdir(tmp_path / "root/d/a/b"):
                os.rename(tmp_path / "root/d/a", tmp_path / "aside")
                os.symlink("../other", tmp_path / "root/d/a")
            return super().open_beneath(root, path, flags, mode, links)

    backend = LocalBackend(tmp_path / "root", _os=Swapping(walk=walk))
    plant(backend, "d/a/b/c", "other/keep")
    (tmp_path / "root/other/b").mkdir()
    with pytest.raises(StorageError):
        backend.purge("d")
    assert (tmp_path / "root/d/a").is_symlink(), "the swap was made"
    assert (tmp_path / "root/other/b").is_dir()
