"""What is the local backend's own, beyond the conformance kit: modes, locks, links, odd names, order, full disks."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from omnistorage._os import OS, current_umask
from omnistorage.backends.local import LocalBackend
from omnistorage.core import CopyOptions, ListOptions, ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
    WriterClosed,
)
from omnistorage.paths import sort_key
from omnistorage.testing.os_faults import FaultyOS

# A newer Python warns of fork in a process with threads; these children do nothing that could meet a held lock.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

NO_WAIT = timedelta(0)
WHEN = datetime(2001, 2, 3, 4, 5, 6, 789012, UTC)
TEMPORARY = ".omnistorage-0123456789abcdef.tmp"


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return LocalBackend(tmp_path / "root")


def put(backend: LocalBackend, path: str, data: bytes = b"x", options: WriteOptions | None = None) -> None:
    with backend.open_writer(path, options or WriteOptions()) as writer:
        writer.write(data)


def get(backend: LocalBackend, path: str, options: ReadOptions | None = None) -> bytes:
    with backend.open_reader(path, options or ReadOptions()) as reader:
        return reader.read()


def keys(backend: LocalBackend, prefix: str = "", **options: object) -> list[str]:
    return [info.path for info in backend.list(prefix, ListOptions(**options))]  # type: ignore[arg-type]


def plant(backend: LocalBackend, *paths: str) -> Path:
    root = Path(backend.root)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    root.mkdir(exist_ok=True)
    return root


def temporaries(backend: LocalBackend) -> list[Path]:
    return list(Path(backend.root).rglob(".omnistorage-*"))


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


# -- modes -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("umask")
def test_rs_7_3_new_files_get_the_umask_and_replaced_ones_keep_their_mode(backend: LocalBackend) -> None:
    put(backend, "d/f")
    file = Path(backend.root) / "d/f"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o750
    for mode, kept in ((0o600, 0o600), (0o755, 0o755), (0o4755, 0o755), (0o444, 0o444)):
        file.chmod(mode)
        put(backend, "d/f", b"new")
        assert stat.S_IMODE(file.stat().st_mode) == kept
        backend.copy("d/f", "d/g")
        backend.copy("d/g", "d/f")
        assert stat.S_IMODE(file.stat().st_mode) == kept


def test_goal_45_a_temporary_is_0600_under_any_umask(backend: LocalBackend) -> None:
    before = os.umask(0)
    try:
        writer = backend.open_writer("f")
        writer.write(b"x")
        [temporary] = temporaries(backend)
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        writer.close()
    finally:
        os.umask(before)


@pytest.mark.usefixtures("umask")
def test_reading_the_umask_changes_nothing() -> None:
    assert [current_umask(), current_umask()] == [0o027, 0o027]


# -- temporaries -------------------------------------------------------------------------------------------------------


def test_rs_7_3_temporaries_are_never_listed_read_or_deleted_by_name(backend: LocalBackend) -> None:
    root = plant(backend, "d/a", f"d/{TEMPORARY}", f"d/.omnistorage-{'0' * 15}.tmp")
    writer = backend.open_writer("d/b")
    assert keys(backend) == [f"d/.omnistorage-{'0' * 15}.tmp", "d/a"]
    assert [info.path for info in backend.list_dir("d")] == keys(backend)
    path = f"d/{TEMPORARY}"
    assert not backend.exists(path)
    for refused in (
        lambda: backend.stat(path),
        lambda: backend.open_reader(path),
        lambda: backend.delete(path),
        lambda: backend.open_writer(path),
        lambda: backend.mkdir(path),
        lambda: backend.copy("d/a", path),
        lambda: backend.move("d/a", path),
        lambda: backend.open_appender(path),
    ):
        with pytest.raises(InvalidPath):
            refused()
    writer.abort()
    assert temporaries(backend) != []
    assert (root / path).exists()


def test_go_s6_pain_1_an_exception_discards_and_leaves_the_old_object(backend: LocalBackend) -> None:
    put(backend, "f", b"old")
    with pytest.raises(RuntimeError), backend.open_writer("f") as writer:
        writer.write(b"half")
        raise RuntimeError
    assert get(backend, "f") == b"old"
    assert temporaries(backend) == []


def test_an_aborted_write_takes_the_folders_it_made_away_and_no_others(backend: LocalBackend) -> None:
    root = Path(backend.root)
    for open_ in (backend.open_writer, backend.open_appender):
        with pytest.raises(KeyError), open_("p/q/r") as writer:
            writer.write(b"x")
            raise KeyError
        assert os.listdir(root) == []
    put(backend, "p/q/r", b"data")  # and its folders can be made anew
    put(backend, "p/q/s", b"data", WriteOptions(durable=True))
    backend.mkdir("own")
    with pytest.raises(KeyError), backend.open_writer("own/a/b") as writer:
        raise KeyError
    with pytest.raises(KeyError), backend.open_writer("n/a/b") as writer:
        put(backend, "n/other")
        raise KeyError
    with pytest.raises(KeyError), backend.open_writer("p/q/r") as writer:
        raise KeyError
    with pytest.raises(NotFound):
        backend.copy("nothing", "new/x")
    assert sorted(str(p.relative_to(root)) for p in root.rglob("*")) == [
        "n", "n/other", "own", "p", "p/q", "p/q/r", "p/q/s"
    ]  # fmt: skip
    with pytest.warns(ResourceWarning):
        backend.open_writer("dropped/x")
    assert not (root / "dropped").exists()
    with pytest.raises(InvalidPath):
        backend.open_writer("long/" + "x" * 300)
    with pytest.raises(InvalidPath):
        backend.mkdir("long/" + "x" * 300)
    assert not (root / "long").exists()


def test_a_failed_move_takes_the_folders_it_made_away(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path, _os=FaultyOS(at=1, error=errno.EIO, sticky=True, only=("rename",)))
    (tmp_path / "f").write_bytes(b"x")
    with pytest.raises(StorageError):
        backend.move("f", "new/folder/g")
    assert os.listdir(tmp_path) == ["f"]


def test_pain_2_a_dropped_writer_aborts_and_warns(backend: LocalBackend) -> None:
    put(backend, "f", b"old")
    writer = backend.open_writer("f")
    writer.write(b"half")
    with pytest.warns(ResourceWarning, match="dropped without close"):
        del writer
    assert get(backend, "f") == b"old"
    assert temporaries(backend) == []


def test_rs_7_1_3_the_wrong_type_is_refused_without_damage(backend: LocalBackend) -> None:
    put(backend, "f", b"old")
    for wrong in ("text", None, 7, iter([b"x"])):
        with pytest.raises(TypeError), backend.open_writer("f") as writer:
            writer.write(wrong)  # type: ignore[arg-type]
    assert get(backend, "f") == b"old"
    for right in (bytearray(b"new"), memoryview(b"new")):
        with backend.open_writer("f") as writer:
            writer.write(right)
        assert get(backend, "f") == b"new"


def test_go_s8_rs_7_1_2_an_object_survives_being_copied_and_moved_onto_itself(backend: LocalBackend) -> None:
    put(backend, "a", b"data")
    for run in (backend.copy, backend.move):
        assert run("a", "a").size == 4
        assert get(backend, "a") == b"data"
    os.link(Path(backend.root) / "a", Path(backend.root) / "hard")
    os.symlink("a", Path(backend.root) / "soft")
    backend.copy("a", "soft")
    backend.copy("hard", "a")
    assert get(backend, "a") == get(backend, "soft") == b"data"
    os.unlink(Path(backend.root) / "hard")
    os.link(Path(backend.root) / "a", Path(backend.root) / "hard")
    backend.move("a", "hard")  # rename(2) between two names of one file does nothing and says yes
    assert not backend.exists("a")
    assert get(backend, "hard") == b"data"
    with backend.open_reader("hard") as reader, backend.open_writer("hard") as writer:
        while block := reader.read(2):
            writer.write(block)
    assert get(backend, "hard") == b"data"


def test_go_s8_a_move_through_a_symlinked_folder_onto_itself_loses_nothing(backend: LocalBackend) -> None:
    put(backend, "d/a", b"data")
    os.symlink("d", Path(backend.root) / "l")
    before = backend.stat("d/a")
    for call in (backend.move, backend.copy):
        for src, dst in (("d/a", "l/a"), ("l/a", "d/a")):
            assert call(src, dst)._replace(path="d/a") == before
            assert get(backend, "d/a") == b"data"
    for call in (backend.move, backend.copy):
        with pytest.raises(AlreadyExists):
            call("d/a", "l/a", CopyOptions(overwrite=False))
    assert backend.stat("d/a") == before
    os.link(Path(backend.root) / "d/a", Path(backend.root) / "d/b")
    backend.move("d/a", "l/b")  # another name of the file in the same folder: a real move
    assert not backend.exists("d/a")
    assert get(backend, "d/b") == b"data"
    put(backend, "e/b", b"data")
    os.unlink(Path(backend.root) / "e/b")
    os.link(Path(backend.root) / "d/b", Path(backend.root) / "e/b")
    backend.move("d/b", "e/b")  # the same name of the file in another folder
    assert not backend.exists("d/b")
    assert get(backend, "e/b") == b"data"


def test_go_s8_overlapping_roots_and_the_backend_itself_as_source_lose_nothing(tmp_path: Path) -> None:
    outer, inner, twin = LocalBackend(tmp_path), LocalBackend(tmp_path / "d"), LocalBackend(tmp_path)
    put(inner, "a", b"data")
    before = inner.stat("a")
    for op in ("move", "copy"):
        assert getattr(outer, op)("a", "d/a", CopyOptions(source=inner)) == before._replace(path="d/a")
        assert getattr(inner, op)("d/a", "a", CopyOptions(source=outer)) == before
        for source in (outer, twin):
            assert getattr(outer, op)("d/a", "d/a", CopyOptions(source=source)) == before._replace(path="d/a")
        assert inner.stat("a") == before
    assert get(inner, "a") == b"data"


class _CaseBlind(OS):
    """A folder whose names differ by case only for those who ask."""

    def stat(self, path: str | int, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        return super().stat("name" if path == "NAME" else path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


def test_go_s8_a_move_to_another_case_is_a_rename_where_case_is_ignored(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path, _os=_CaseBlind())
    put(backend, "name", b"data")
    backend.move("name", "NAME")
    assert os.listdir(tmp_path) == ["NAME"]
    assert (tmp_path / "NAME").read_bytes() == b"data"


def test_rs_7_1_11_a_path_that_must_be_refused_is_refused_before_anything_happens(backend: LocalBackend) -> None:
    for path in ("x/../b.txt", "./b", "b/", "/b", "a//b", "a/./b", "a\0b"):
        with pytest.raises(InvalidPath):
            backend.open_writer(path)
    assert not os.path.exists(backend.root)


def test_keys_that_would_alias_another_name_name_nothing(backend: LocalBackend) -> None:
    put(backend, "d/f")
    for path in ("d//f", "/d/f", "d/f/", "./d/f", "d/./f", "d/f/.", "."):
        assert not backend.exists(path)
        for refused in (backend.stat, backend.open_reader, backend.delete, backend.rmdir, backend.purge):
            with pytest.raises(InvalidPath):
                refused(path)


def test_go_f3_parents_and_the_root_are_made(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "not/there/yet")
    put(backend, "a/b/c")
    assert keys(backend) == ["a/b/c"]


def test_go_f5_f13_a_folder_or_a_file_in_the_way_is_invalid(backend: LocalBackend) -> None:
    put(backend, "d/f")
    for refused in (
        lambda: backend.open_writer("d"),
        lambda: backend.open_writer("d/f/g"),
        lambda: backend.open_appender("d"),
        lambda: backend.copy("d/f", "d/f/g"),
        lambda: backend.mkdir("d/f/g"),
        lambda: backend.mkdir("d/f/g/h"),
    ):
        with pytest.raises(InvalidPath):
            refused()
    with pytest.raises(AlreadyExists):
        backend.mkdir("d/f")
    for absent in (lambda: backend.stat("d"), lambda: backend.open_reader("d/f/g"), lambda: backend.move("d", "e")):
        with pytest.raises(NotFound):
            absent()
    assert backend.delete("d") is False
    assert backend.delete("d/f/g") is False


def test_go_f13_what_cannot_be_honoured_is_refused(backend: LocalBackend) -> None:
    put(backend, "a")
    with pytest.raises(CapabilityNotSupported):
        backend.open_writer("b", WriteOptions(user_metadata={"k": "v"}))
    with pytest.raises(CapabilityNotSupported):
        backend.open_writer("b", WriteOptions(if_match="x"))
    with pytest.raises(CapabilityNotSupported):
        backend.open_reader("a", ReadOptions(version="1"))
    with pytest.raises(CapabilityNotSupported):
        backend.set_metadata("a", user_metadata={"k": "v"})
    with pytest.raises(ConfigError):
        backend.set_metadata("a", modified_at=datetime(2020, 1, 1))
    for root in ("", "a\0b", b"bytes"):
        with pytest.raises(ConfigError):
            LocalBackend(root)  # type: ignore[arg-type]


# -- create only -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["write", "copy", "move"])
def test_rs_7_2_pain_14_exclusive_create_has_exactly_one_winner(backend: LocalBackend, how: str) -> None:
    workers, rounds = 8, 60 if how == "write" else 20
    start = threading.Barrier(workers)
    for worker in range(workers):
        put(backend, f"source/{worker}", b"%d" % worker)

    def attempt(worker: int, target: str) -> bool:
        start.wait()
        try:
            if how == "write":
                put(backend, target, b"%d" % worker, WriteOptions(overwrite=False))
            elif how == "copy":
                backend.copy(f"source/{worker}", target, CopyOptions(overwrite=False))
            else:
                backend.move(f"source/{worker}", target, CopyOptions(overwrite=False))
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(workers) as pool:
        for number in range(rounds):
            target = f"new/{number}"
            won = list(pool.map(attempt, range(workers), [target] * workers))
            assert won.count(True) == 1
            winner = won.index(True)
            assert get(backend, target) == b"%d" % winner
            if how == "move":
                backend.move(target, f"source/{winner}")
    assert temporaries(backend) == []


def test_rs_7_2_create_only_does_not_clobber_what_appeared_meanwhile(backend: LocalBackend) -> None:
    writer = backend.open_writer("f", WriteOptions(overwrite=False))
    writer.write(b"late")
    put(backend, "f", b"first")
    with pytest.raises(AlreadyExists):
        writer.close()
    assert get(backend, "f") == b"first"
    assert temporaries(backend) == []

    class Meanwhile(OS):
        """Somebody else makes the destination of a move after it was found to be free."""

        def link(self, *args: object, **kwargs: object) -> None:
            plant(backend, "to")
            os.link(*args, **kwargs)  # type: ignore[arg-type]

        def rename(self, *args: object, **kwargs: object) -> None:
            plant(backend, "to")
            os.rename(*args, **kwargs)  # type: ignore[arg-type]

    with pytest.raises(AlreadyExists):
        LocalBackend(backend.root, _os=Meanwhile()).move("f", "to", CopyOptions(overwrite=False))
    assert get(backend, "to") == b"x"
    assert get(backend, "f") == b"first"


# -- reading -----------------------------------------------------------------------------------------------------------


def test_ranges_and_conditions(backend: LocalBackend) -> None:
    put(backend, "f", b"0123456789")
    for offset, length, expected in ((0, 3, b"012"), (7, 100, b"789"), (10, 1, b""), (1 << 70, 5, b""), (3, 0, b"")):
        assert get(backend, "f", ReadOptions(offset, length)) == expected
    assert get(backend, "f", ReadOptions(offset=4)) == b"456789"
    assert backend.read_ranges("f", [(8, 9), (0, 1), (99, 1), (2, 0)]) == [b"89", b"0", b"", b""]
    with pytest.raises(ConfigError):
        backend.read_ranges("f", [(-1, 1)])
    etag = backend.stat("f").etag
    assert get(backend, "f", ReadOptions(if_match=etag)) == b"0123456789"
    for options in (ReadOptions(if_match="other"), ReadOptions(if_none_match=etag)):
        with pytest.raises(PreconditionFailed):
            backend.open_reader("f", options)


def test_a_reader_keeps_what_it_opened_and_huge_sizes_take_no_memory(backend: LocalBackend) -> None:
    put(backend, "f", b"old")
    with backend.open_reader("f") as reader:
        put(backend, "f", b"new")
        assert reader.read(1 << 50) == b"old"
        assert reader.read(1 << 50) == b""


def test_a_file_that_grows_or_shrinks_is_read_to_its_real_end(backend: LocalBackend) -> None:
    put(backend, "f", b"12345")
    file = Path(backend.root) / "f"
    with backend.open_reader("f") as reader:
        file.write_bytes(b"1234567890")
        assert reader.read() == b"1234567890"
    with backend.open_reader("f") as reader:
        file.write_bytes(b"12")
        assert reader.read() == b"12"


def test_a_fifo_and_other_kinds_do_not_block_and_are_no_objects_to_read(backend: LocalBackend) -> None:
    root = plant(backend, "a")
    os.mkfifo(root / "fifo")
    with pytest.raises(InvalidPath):
        backend.open_reader("fifo")
    with pytest.raises(InvalidPath):
        backend.open_appender("fifo")
    assert [(info.path, info.kind) for info in backend.list()] == [("a", "file"), ("fifo", "other")]
    assert backend.stat("fifo").kind == "other"
    put(backend, "fifo", b"replaced")
    assert get(backend, "fifo") == b"replaced"


def test_infos_agree_everywhere(backend: LocalBackend) -> None:
    with backend.open_writer("d/f", WriteOptions(modified_at=WHEN)) as writer:
        writer.write(b"abc")
    info = writer.result
    assert info is not None
    assert info.modified_at == WHEN
    assert [info] == list(backend.list()) == list(backend.list_dir("d")) == [backend.stat("d/f")]
    with backend.open_reader("d/f") as reader:
        assert reader.info == info
    moved = backend.move("d/f", "g")
    assert moved == info._replace(path="g") == backend.stat("g")
    copied = backend.copy("g", "h")
    assert copied == backend.stat("h")
    assert copied.modified_at != WHEN
    assert backend.set_metadata("h", modified_at=WHEN) == backend.stat("h")
    assert backend.stat("h").modified_at == WHEN


def test_a_time_the_file_system_cannot_hold_is_refused_or_kept(backend: LocalBackend) -> None:
    far = datetime(9999, 12, 31, tzinfo=UTC)
    try:
        put(backend, "f", b"x", WriteOptions(modified_at=far))
    except StorageError:
        assert not backend.exists("f")
    else:
        assert backend.stat("f").modified_at == far
    os.utime(plant(backend, "g") / "g", (0, 2**33))
    assert backend.stat("g").size == 1


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
    root = Path(tempfile.mkdtemp(prefix="omnistorage-test-"))  # tmp_path lies in a folder that is closed to others
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


# -- stale uploads -----------------------------------------------------------------------------------------------------


def test_goal_6_only_dead_and_old_temporaries_are_collected(backend: LocalBackend) -> None:
    root = plant(backend, f"d/{TEMPORARY}", f".omnistorage-{'f' * 16}.tmp")
    os.utime(root / f"d/{TEMPORARY}", (0, 0))
    live = [backend.open_writer(f"d/{n}") for n in range(3)]
    assert [info.path for info in backend.stale_uploads()] == [f"d/{TEMPORARY}"]
    assert backend.remove_stale_uploads() == 1
    assert backend.remove_stale_uploads(older_than=NO_WAIT) == 1
    assert len(temporaries(backend)) == 3
    for writer in live:
        writer.write(b"x")
        writer.close()
    assert temporaries(backend) == []
    assert keys(backend) == ["d/0", "d/1", "d/2"]


def test_goal_6_collectors_and_writers_race_without_losing_a_write(backend: LocalBackend) -> None:
    backend.mkdir("d")
    stop = threading.Event()

    def collect() -> int:
        count = 0
        while not stop.is_set():
            count += backend.remove_stale_uploads(older_than=NO_WAIT)
        return count

    def write(worker: int) -> None:
        for number in range(150):
            put(backend, f"d/{worker}-{number}", b"%d" % number)

    with ThreadPoolExecutor(4) as pool:
        collectors = [pool.submit(collect) for _ in range(2)]
        writers = [pool.submit(write, worker) for worker in range(2)]
        try:
            for done in writers:
                done.result()
        finally:
            stop.set()
        for ended in collectors:
            ended.result()
    assert len(keys(backend)) == 300
    assert temporaries(backend) == []


def test_a_writer_whose_fresh_temporary_was_collected_takes_another(tmp_path: Path) -> None:
    class Greedy(OS):
        """A collector that is faster than the writer: it takes the first three temporaries before they are locked."""

        taken = 0

        def steal(self, fd: int, operation: int) -> None:
            if operation & fcntl.LOCK_EX and self.taken < 3:
                self.taken += 1
                [name] = [n for n in os.listdir(tmp_path) if n.startswith(".omnistorage-")]
                if self.taken == 3:
                    raise BlockingIOError(errno.EAGAIN, "locked")
                os.unlink(tmp_path / name)
            fcntl.flock(fd, operation)

    greedy = Greedy()
    greedy.flock = greedy.steal  # type: ignore[assignment]
    put(LocalBackend(tmp_path, _os=greedy), "f", b"kept")
    assert greedy.taken == 3
    assert (tmp_path / "f").read_bytes() == b"kept"
    assert os.listdir(tmp_path) == ["f"]


def test_without_locks_writes_work_and_nothing_is_collected(tmp_path: Path) -> None:
    plant(LocalBackend(tmp_path), TEMPORARY)
    backend = LocalBackend(tmp_path, _os=FaultyOS(at=1, error=errno.ENOLCK, sticky=True, only=("flock",)))
    put(backend, "f", b"x")
    assert get(backend, "f") == b"x"
    assert backend.remove_stale_uploads(older_than=NO_WAIT) == 0
    assert len(temporaries(backend)) == 1


def test_links_and_pipes_with_the_name_of_a_temporary_are_not_collected(backend: LocalBackend) -> None:
    root = plant(backend, "f")
    (root / f".omnistorage-{'1' * 16}.tmp").symlink_to("f")
    os.mkfifo(root / f".omnistorage-{'2' * 16}.tmp")
    assert backend.remove_stale_uploads(older_than=NO_WAIT) == 0
    assert len(temporaries(backend)) == 2


# -- append ------------------------------------------------------------------------------------------------------------


def test_append_keeps_what_is_there_and_abort_takes_back(backend: LocalBackend) -> None:
    for data in (b"one,", b"two,"):
        with backend.open_appender("d/log", WriteOptions(durable=True)) as writer:
            writer.write(data)
        assert writer.result == backend.stat("d/log")
    writer = backend.open_appender("d/log")
    writer.write(b"never")
    assert get(backend, "d/log") == b"one,two,never"  # visible before close: what append is for
    with pytest.raises(BackendUnavailable):
        backend.open_appender("d/log")
    writer.abort()
    assert get(backend, "d/log") == b"one,two,"
    with pytest.raises(RuntimeError), backend.open_appender("fresh") as writer:
        writer.write(b"x")
        raise RuntimeError
    assert not backend.exists("fresh")
    with pytest.raises(AlreadyExists):
        backend.open_appender("d/log", WriteOptions(overwrite=False))
    with backend.open_appender("d/log", WriteOptions(modified_at=WHEN)) as writer:
        writer.write(b"three")
    assert backend.stat("d/log").modified_at == WHEN


def test_an_appender_notices_that_its_file_was_replaced(backend: LocalBackend) -> None:
    put(backend, "log", b"old")
    writer = backend.open_appender("log")
    writer.write(b"lost")
    put(backend, "log", b"new")
    with pytest.raises(StorageError, match="replaced"):
        writer.close()
    assert get(backend, "log") == b"new"


def test_a_dropped_appender_takes_back_what_it_wrote(backend: LocalBackend) -> None:
    put(backend, "log", b"old")
    writer = backend.open_appender("log")
    writer.write(b"half")
    with pytest.warns(ResourceWarning):
        del writer
    assert get(backend, "log") == b"old"


# -- copy and move -----------------------------------------------------------------------------------------------------


def test_copy_and_move_between_two_roots(tmp_path: Path) -> None:
    one, two = LocalBackend(tmp_path / "1"), LocalBackend(tmp_path / "2")
    put(one, "d/f", b"data" * 100_000)
    assert two.copy("d/f", "e/g", CopyOptions(source=one)).size == 400_000
    assert two.move("d/f", "d/f", CopyOptions(source=one)).size == 400_000
    assert not one.exists("d/f")
    assert get(two, "d/f") == get(two, "e/g") == b"data" * 100_000


def test_copy_falls_back_where_the_kernel_does_not_copy(tmp_path: Path) -> None:
    for code in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        backend = LocalBackend(tmp_path, _os=FaultyOS(at=1, error=code, sticky=True, only=("copy_file_range",)))
        put(backend, "f", os.urandom(3_000_000))
        backend.copy("f", "g")
        assert get(backend, "f") == get(backend, "g")


def test_a_move_to_another_file_system_says_what_to_do(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path, _os=FaultyOS(at=1, error=errno.EXDEV, sticky=True, only=("rename", "link")))
    (tmp_path / "f").write_bytes(b"x")
    for options in (CopyOptions(), CopyOptions(overwrite=False)):
        with pytest.raises(StorageError, match="copy, then delete"):
            backend.move("f", "g", options)
    assert os.listdir(tmp_path) == ["f"]


# -- processes and threads ---------------------------------------------------------------------------------------------


def test_it_pickles_as_its_configuration(backend: LocalBackend) -> None:
    put(backend, "f", b"data")
    again = pickle.loads(pickle.dumps(backend))
    assert (again.root, again.url, get(again, "f")) == (backend.root, backend.url, b"data")
    assert LocalBackend("relative").root == os.path.join(os.getcwd(), "relative")


def test_the_url_is_percent_encoded(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "a b%é#")
    assert backend.url == f"file://{tmp_path}/a%20b%25%C3%A9%23/"
    assert LocalBackend("/").url == "file:///"


def test_pain_9_it_works_in_a_forked_child_which_leaves_its_parents_writer_alone(backend: LocalBackend) -> None:
    put(backend, "f", b"data")
    writer = backend.open_writer("g")
    writer.write(b"parent")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert get(backend, "f") == b"data"
            put(backend, "from child", b"x")
            with pytest.raises(WriterClosed):
                writer.write(b"x")
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                del writer
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    writer.close()
    assert get(backend, "g") == b"parent"
    assert backend.exists("from child")


def test_a_child_forked_meanwhile_does_not_keep_the_lock(backend: LocalBackend) -> None:
    writer, appender = backend.open_writer("f"), backend.open_appender("g")
    waits, says = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(says)
        os.read(waits, 1)
        os._exit(0)
    writer.close()
    appender.close()
    for path in ("f", "g"):
        backend.open_appender(path).close()
    os.close(says)
    os.close(waits)
    os.waitpid(child, 0)


def test_a_writer_aborted_from_another_thread_leaves_nothing(backend: LocalBackend) -> None:
    started = threading.Event()
    writer = backend.open_writer("f")

    def write() -> int:
        count = 0
        try:
            while True:
                writer.write(b"x" * 4096)
                count += 1
                started.set()
        except WriterClosed:
            return count

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(write)
        assert started.wait(30)
        writer.abort()
        assert running.result() > 0
    with pytest.raises(WriterClosed):
        writer.close()
    assert not backend.exists("f")
    assert temporaries(backend) == []


def test_many_threads_replace_and_read_one_object_whole(backend: LocalBackend) -> None:
    put(backend, "f", b"0" * 50_000)

    def work(worker: int) -> None:
        for _ in range(40):
            if worker % 2:
                put(backend, "f", b"%d" % worker * 50_000)
            else:
                data = get(backend, "f")
                assert len(data) == 50_000
                assert len(set(data)) == 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert temporaries(backend) == []


def test_folders_made_and_removed_under_writers_do_not_fail_them(backend: LocalBackend) -> None:
    backend.mkdir("d")

    def remove() -> None:
        for _ in range(10):  # fewer than a write tries again
            try:
                backend.rmdir("d/e")
            except (NotFound, DirectoryNotEmpty):
                pass

    with ThreadPoolExecutor(1) as pool:
        for number in range(300):
            remover = pool.submit(remove)
            put(backend, f"d/e/{number}")
            assert backend.delete(f"d/e/{number}") is True
            remover.result()


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    backend = LocalBackend(tmp_path / "root")
    put(backend, "d/f")
    get(backend, "d/f")
    keys(backend)
    next(backend.list())
    backend.copy("d/f", "g")
    backend.move("g", "h/i")
    backend.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_it_imports_no_third_party_and_no_ctypes_before_it_must() -> None:
    script = (
        "import sys, omnistorage.backends.local;"
        "print([m for m in ('ctypes', 'random', 'tempfile', 'urllib', 'google_crc32c') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


# -- full and read-only disks ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "disk"
    where.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root and mount(8)")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=256k", "none", str(where)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"the mount was refused: {done.stderr.decode().strip()}")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_rs_7_3_goal_4_a_full_disk_keeps_the_old_object_and_frees_what_was_taken(small_disk: Path) -> None:
    backend = LocalBackend(small_disk)
    put(backend, "f", b"old")
    put(backend, "log", b"old")
    with pytest.raises(StorageError, match="no space"):
        put(backend, "f", b"x" * 1_000_000)
    with pytest.raises(StorageError, match="no space"):
        put(backend, "new/f", b"x" * 1_000_000, WriteOptions(overwrite=False, durable=True))
    with pytest.raises(StorageError, match="no space"), backend.open_appender("log") as writer:
        writer.write(b"x" * 1_000_000)
    put(backend, "big", b"x" * 150_000)
    with pytest.raises(StorageError, match="no space"):
        backend.copy("big", "f")
    assert get(backend, "f") == get(backend, "log") == b"old"
    assert temporaries(backend) == []
    assert keys(backend) == ["big", "f", "log"]
    put(backend, "f", b"x" * 50_000)


def test_a_read_only_disk_refuses_with_permission_denied(small_disk: Path) -> None:
    backend = LocalBackend(small_disk)
    put(backend, "d/f", b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for run in (
        lambda: backend.open_writer("d/f"),
        lambda: backend.open_writer("new/f"),
        lambda: backend.open_appender("d/f"),
        lambda: backend.delete("d/f"),
        lambda: backend.mkdir("e"),
        lambda: backend.copy("d/f", "d/g"),
        lambda: backend.move("d/f", "d/g"),
        lambda: backend.purge("d"),
        lambda: backend.set_metadata("d/f", modified_at=WHEN),
    ):
        with pytest.raises(PermissionDenied):
            run()
    assert get(backend, "d/f") == b"old"
