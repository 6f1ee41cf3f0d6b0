"""Goals 4 and 5: a fault at every single system call leaves the old content or the new, and leaks nothing."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from omnistorage import open_records
from omnistorage.backends.local import LocalBackend, stale_uploads
from omnistorage.core import CopyOptions, WriteOptions
from omnistorage.errors import OutcomeUnknown, StorageError
from omnistorage.testing.os_faults import CALLS, FaultyOS, counting

from ..budget import pick

OLD, NEW = b"old" * 100, b"new content" * 200
NO_WAIT = timedelta(0)


def open_below(root: Path) -> list[str]:
    """What is open below ``root``. The root's own descriptor is shared, and goes with the last object that knows it."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass  # the descriptor of the listing itself
    return [name for name in found if name.startswith(f"{root}/")]


def write(options: WriteOptions, path: str = "d/f") -> Callable[[LocalBackend], object]:
    def run(backend: LocalBackend) -> object:
        with backend.open_writer(path, options) as writer:
            writer.write(NEW[:700])
            writer.write(NEW[700:])
        return writer.result

    return run


def append(backend: LocalBackend) -> object:
    with backend.open_appender("d/f", WriteOptions(durable=True)) as writer:
        writer.write(NEW)
    return writer.result


def read(backend: LocalBackend) -> object:
    with backend.open_reader("d/f") as reader:
        assert reader.read() == OLD
    return [backend.exists("d/f"), backend.stat("d/f"), backend.read_ranges("d/f", [(0, 3)]), *backend.list()]


def read_link(backend: LocalBackend) -> object:
    os.symlink("f", f"{backend.root}/d/link")
    assert backend.read_link("d/link")[0] == "f"
    return None


def folders(backend: LocalBackend) -> object:
    backend.mkdir("m/n/o")
    backend.rmdir("m/n/o")
    backend.purge("m")
    return None


WHEN = datetime(2020, 1, 1, tzinfo=UTC)
TIMED = WriteOptions(modified_at=WHEN, durable=True)
JOBS: dict[str, Callable[[LocalBackend], object]] = {
    "overwrite": write(WriteOptions()),
    "durable": write(WriteOptions(durable=True)),
    "timed": write(TIMED),
    "new": write(WriteOptions(), "x/y/z"),
    "new durable": write(WriteOptions(durable=True), "x/y/z"),
    "create only": write(WriteOptions(overwrite=False, durable=True), "x/z"),
    "append": append,
    "copy": lambda b: b.copy("s", "d/f"),
    "copy create only": lambda b: b.copy("s", "x/z", CopyOptions(overwrite=False)),
    "move": lambda b: b.move("s", "d/f"),
    "move create only": lambda b: b.move("s", "x/z", CopyOptions(overwrite=False)),
    "delete": lambda b: b.delete("d/f"),
    "set time": lambda b: b.set_metadata("d/f", modified_at=datetime(2021, 1, 1, tzinfo=UTC)),
    "link": lambda b: b.make_link("d/f", "../s", modified_at=WHEN),
    "link create only": lambda b: b.make_link("x/z", "../s", overwrite=False, modified_at=WHEN),
    "folder time": lambda b: b.set_folder_time("d", WHEN),
    "folders": folders,
    "read": read,
    "read link": read_link,
    "collect": lambda b: b.remove_stale_uploads(older_than=NO_WAIT),
    "list_dir": lambda b: list(b.list_dir("d")),
    "list": lambda b: list(b.list()),
}
# What each job may leave under each name, besides what was there before.
TARGETS = {"new": "x/y/z", "new durable": "x/y/z", "create only": "x/z", "copy create only": "x/z"}
ERRORS = [errno.EIO, errno.ENOSPC, errno.EINTR, errno.EACCES, errno.EROFS, errno.EMFILE]
TRIED = pick(default=ERRORS[:1], ci=ERRORS, soak=ERRORS)


def plant(root: Path) -> None:
    (root / "d").mkdir(parents=True)
    (root / "d/f").write_bytes(OLD)
    (root / "s").write_bytes(NEW)


def content(root: Path, key: str) -> bytes | None:
    try:
        return (root / key).read_bytes()
    except FileNotFoundError:
        return None


def temporaries(root: Path) -> list[str]:
    return [str(p.relative_to(root)) for p in root.rglob(".omnistorage-*")]


def allowed(job: str, root: Path) -> bool:
    """Old or new content under every name, never other, and nothing lost."""
    links = [root / key for key in ("d/f", "x/z") if (root / key).is_symlink()]
    if any((os.readlink(at), at.lstat().st_mtime) != ("../s", WHEN.timestamp()) for at in links):
        return False  # they lead to the new content, and have their time when they appear
    f, s, x = content(root, "d/f"), content(root, "s"), content(root, TARGETS.get(job, "x/z"))
    if job.startswith("move"):  # the object has its old name, its new one, or for a moment both, never neither
        return f in (OLD, NEW) and s in (None, NEW) and x in (None, NEW) and (s == NEW or NEW in (f, x))
    if s != NEW or x not in (None, NEW):
        return False
    if job == "append":
        return f in (OLD, OLD + NEW)
    if job == "delete":
        return f in (OLD, None)
    if job in ("read", "read link", "set time", "folder time", "folders", "collect", "list_dir", "list"):
        return f == OLD
    return f in (OLD, NEW)


@pytest.mark.parametrize(
    ("sticky", "walk"),
    [
        pytest.param(False, False, id="once-openat2"),
        pytest.param(False, True, id="once-walk"),
        pytest.param(True, False, id="sticky-openat2"),
        pytest.param(True, True, id="sticky-walk", marks=pytest.mark.ci_only),
    ],
)
@pytest.mark.parametrize("job", JOBS)
def test_goal_4_a_fault_at_every_call_leaves_old_or_new_and_leaks_nothing(
    tmp_path: Path, job: str, sticky: bool, walk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Links are made by nobody any more when they are collected below.
    monkeypatch.setattr(stale_uploads, "time", SimpleNamespace(time=lambda: time.time() + 100))
    rounds = 0
    outcomes: set[str] = set()

    def run(faulty: FaultyOS) -> None:
        nonlocal rounds
        rounds += 1
        root = tmp_path / f"r{error}-{rounds}"
        plant(root)
        backend = LocalBackend(root, _os=faulty)
        try:
            JOBS[job](backend)
            outcomes.add("done")
        except StorageError:
            outcomes.add("failed")
        assert allowed(job, root), f"{job}: call {faulty.at} ({faulty.calls[-1]}) with errno {error}"
        assert open_below(root) == [], f"{job}: call {faulty.at} of {faulty.calls} leaks a descriptor"
        faulty.heal()
        clean = LocalBackend(root)
        left = temporaries(root)
        assert clean.remove_stale_uploads(older_than=NO_WAIT) == len(left)
        assert temporaries(root) == []
        if not sticky and "unlink" not in faulty.failed:
            assert left == [], f"{job}: a temporary is left although only call {faulty.at} {faulty.failed} failed"

    for error in TRIED[: 2 if walk else None]:
        fired = [faulty.failed[0] for faulty in counting(run, error=error, sticky=sticky, walk=walk)]
        assert fired
        assert set(fired) <= set(CALLS)
    assert outcomes == {"done", "failed"}


@pytest.mark.parametrize("step", [1, 7, 4096])
@pytest.mark.parametrize("job", ["overwrite", "durable", "append", "copy"])
def test_goal_4_short_writes_are_finished(tmp_path: Path, job: str, step: int) -> None:
    plant(tmp_path)
    faulty = FaultyOS(short_writes=step)
    if job == "copy":
        faulty.copy_file_range = unsupported  # type: ignore[assignment]
    JOBS[job](LocalBackend(tmp_path, _os=faulty))
    assert content(tmp_path, "d/f") == (OLD + NEW if job == "append" else NEW)
    assert faulty.calls.count("write") >= len(NEW) // step


def unsupported(*_: object) -> int:
    raise OSError(errno.EOPNOTSUPP, "not here")


def test_a_write_of_which_the_system_takes_nothing_fails(tmp_path: Path) -> None:
    plant(tmp_path)
    with pytest.raises(StorageError):
        JOBS["overwrite"](LocalBackend(tmp_path, _os=FaultyOS(short_writes=0)))
    assert content(tmp_path, "d/f") == OLD
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("nth", [1, 2])
def test_goal_5_a_failed_fsync_never_reports_success_and_is_never_retried(tmp_path: Path, nth: int) -> None:
    plant(tmp_path)
    backend = LocalBackend(tmp_path)
    with backend.open_writer("d/other", WriteOptions(durable=True)):
        pass  # d is known to be synced from here on: what follows syncs the file and d
    faulty = FaultyOS(at=nth, only=("fsync",))
    backend._os = backend._at.os = faulty
    synced: list[int] = []
    inner = faulty.fsync

    def fsync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        inner(fd)

    faulty.fsync = fsync  # type: ignore[assignment]
    writer = backend.open_writer("d/f", WriteOptions(durable=True))
    writer.write(NEW)
    with pytest.raises(StorageError) as caught:
        writer.close()
    with pytest.raises(StorageError) as again:
        writer.close()
    assert again.value is caught.value
    assert writer.result is None
    assert len(synced) == len(set(synced)) == nth
    # Before the rename nothing has changed; after it nothing can be taken back, and the error says so.
    assert isinstance(caught.value, OutcomeUnknown) is (nth == 2)
    assert content(tmp_path, "d/f") == (OLD if nth == 1 else NEW)
    assert temporaries(tmp_path) == []


def test_a_prepared_writer_whose_fsync_failed_does_not_publish(tmp_path: Path) -> None:
    plant(tmp_path)
    writer = LocalBackend(tmp_path, _os=FaultyOS(at=3, only=("fsync",))).open_writer("d/f", WriteOptions(durable=True))
    writer.write(NEW)
    writer.prepare()  # the first fsync is of the folder above d, the second of the file
    writer.abort()
    assert content(tmp_path, "d/f") == OLD
    writer = LocalBackend(tmp_path, _os=FaultyOS(at=2, only=("fsync",))).open_writer("d/f", WriteOptions(durable=True))
    writer.write(NEW)
    with pytest.raises(StorageError):
        writer.prepare()
    with pytest.raises(StorageError):
        writer.close()
    assert content(tmp_path, "d/f") == OLD
    assert temporaries(tmp_path) == []


def test_go_s6_a_failed_copy_publishes_nothing(tmp_path: Path) -> None:
    plant(tmp_path)
    faulty = FaultyOS(at=2, only=("copy_file_range",))
    with pytest.raises(StorageError):
        LocalBackend(tmp_path, _os=faulty).copy("s", "new")
    assert faulty.failed == ["copy_file_range"]
    assert content(tmp_path, "new") is None
    assert temporaries(tmp_path) == []


def test_every_errno_becomes_one_of_ours_and_keeps_its_cause(tmp_path: Path) -> None:
    plant(tmp_path)
    jobs = [JOBS[job] for job in ("overwrite", "delete", "folders", "list_dir", "list")]
    caught = []
    codes = sorted(errno.errorcode)[:: pick(default=6, ci=1, soak=1)]
    for code in codes:
        for call in ("open_beneath", "stat", "scandir", "rename", "write"):
            backend = LocalBackend(tmp_path, _os=FaultyOS(at=1, error=code, only=(call,), sticky=True))
            for run in jobs:
                try:
                    run(backend)
                except StorageError as error:
                    caught.append(error)
            (tmp_path / "d/f").write_bytes(OLD)
    assert len(caught) > 7 * len(codes)
    assert all(isinstance(error.__cause__, OSError) and error.backend == "local" for error in caught)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_by_its_number_and_the_path(tmp_path: Path, code: int) -> None:
    backend = LocalBackend(tmp_path, _os=FaultyOS(at=1, error=code, only=("write",), sticky=True))
    with pytest.raises(StorageError) as caught, open_records(backend, "x.ndjson", "w") as writer:
        writer.write_many({"n": n} for n in range(100_000))
    assert caught.value.errno == code
    assert caught.value.location == str(tmp_path / "x.ndjson")
