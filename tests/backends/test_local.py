"""LocalBackend: modes, temporaries, creation, appending, copies, stale uploads."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from omnistorage.backends.local import LocalBackend
from omnistorage.core import CopyOptions, ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    NotFound,
    StorageError,
)
from omnistorage.posix import OS, current_umask
from omnistorage.store import Store
from omnistorage.testing.os_faults import FaultyOS

from .local_files import TEMPORARY, get, keys, plant, put, temporaries

# A newer Python warns of fork in a process with threads; these children do nothing that could meet a held lock.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

NO_WAIT = timedelta(0)


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return LocalBackend(tmp_path / "root")


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


@pytest.mark.parametrize(
    "call",
    [
        lambda b: b.stat("no"), lambda b: b.purge("no"), lambda b: b.read_link("no"), lambda b: list(b.list_dir("no")),
        lambda b: b.copy("no", "x"), lambda b: b.open_reader("no"), lambda b: b.rmdir("no"),
        lambda b: Store(b).delete_folder("no"), lambda b: Store(b).get_folder_info("no"),
        lambda b: Store(b).move("no", "x"),
    ],
)  # fmt: skip
def test_every_call_names_the_full_path(tmp_path, call):
    with pytest.raises(NotFound) as caught:
        call(LocalBackend(tmp_path))
    assert (caught.value.path, caught.value.filename) == ("no", str(tmp_path / "no"))


def test_a_stream_names_the_full_path(tmp_path):
    backend = LocalBackend(tmp_path)
    with pytest.raises(CorruptData) as caught, backend.open_writer("d/x", WriteOptions(size=5)) as writer:
        writer.write(b"1")
    assert caught.value.filename == str(tmp_path / "d/x")
