"""LocalBackend: reading, copies, processes and threads, full and read-only disks."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from omnistorage import ops
from omnistorage.backends.local import LocalBackend
from omnistorage.core import CopyOptions, ReadOptions, WriteOptions
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
from omnistorage.testing.os_faults import FaultyOS

from ..waiting import LIMIT
from .local_files import get, keys, plant, put, temporaries

# A newer Python warns of fork in a process with threads; these children do nothing that could meet a held lock.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

WHEN = datetime(2001, 2, 3, 4, 5, 6, 789012, UTC)


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return LocalBackend(tmp_path / "root")


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
        with pytest.raises(CapabilityNotSupported) as caught:
            backend.move("f", "g", options)
        assert caught.value.capability == "atomic_move"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_move_to_another_file_system_copies(tmp_path: Path, overwrite: bool) -> None:
    across = FaultyOS(at=1, error=errno.EXDEV, only=("rename" if overwrite else "link",))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "f").write_bytes(b"x")
    one, other = LocalBackend(tmp_path / "one"), LocalBackend(tmp_path / "other", _os=across)
    assert ops.move(one, "f", other, "g", CopyOptions(overwrite=overwrite)).path == "g"
    assert (list((tmp_path / "one").iterdir()), get(other, "g")) == ([], b"x")


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
        assert started.wait(LIMIT)
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
