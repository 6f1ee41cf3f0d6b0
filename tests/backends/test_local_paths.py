"""Goal 40: no path, no symlink and no race leads out of the root, with ``openat2`` or the walk that replaces it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import mmap
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from omnistorage import open_backend, open_records, open_store
from omnistorage.backends.local import LocalBackend
from omnistorage.core import CopyOptions, ListOptions, WriteOptions
from omnistorage.errors import ConfigError, InvalidPath, StorageError
from omnistorage.posix import FOLDER_HANDLE, HANDLE, OS, READ_FILE, READ_FOLDER
from omnistorage.segments import SegmentLog
from omnistorage.wrappers import Prefix

from ..budget import pick
from ..waiting import LIMIT

# A newer Python warns of fork in a process with threads; these children do nothing that could meet a held lock.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

SWAPS = pick(default=5_000, ci=20_000, soak=100_000)
SECRET = b"the secret outside"
layers = pytest.mark.parametrize("walk", [False, True], ids=["openat2", "walk"])
WAYS: dict[str, Callable[[Path], Any]] = {
    "openat2": lambda root: LocalBackend(root, _os=OS()),
    "walk": lambda root: LocalBackend(root, _os=OS(walk=True)),
    "prefix": lambda root: Prefix(LocalBackend(root.parent), root.name),
}
ways = pytest.mark.parametrize("way", WAYS)


def payloads() -> list[str]:
    heads = ["", "d/", "d/../", "./", "/", "//", "d//", "out/", "up/", "abs/", "chain/", "loop/", "d/up2/", "file/"]
    bodies = ["..", "../secret", "../../secret", "../root/../secret", "secret", "etc/passwd", "d/../../secret", "tmp"]
    tails = ["", "/", "/.", "/..", "\0", "/x"]
    odd = [
        "\\..\\secret", "..\\secret", "%2e%2e/secret", "..%2fsecret", "....//secret", "..;/secret", "~/secret", "~root",
        "$HOME/secret", "C:\\secret", "C:/secret", "\\\\host\\secret", "file:///etc/passwd", "‥/secret", "．．/secret",
        "․․/secret", "..\u2215secret", "\ud800", "\udcff/..", "a\nb/../..", " ../secret", "../secret ", "..\t/secret",
        "proc/self/root/etc/passwd", "/proc/self/root", "/dev/fd/0", "x" * 5000, "x/" * 3000 + "..", "é" * 200, ".",
    ]  # fmt: skip
    made = ["".join(parts) for parts in itertools.product(heads, bodies, tails)]
    return sorted({*made, *odd, *(head + each for head in ("out/", "d/") for each in odd)})


def plant(base: Path) -> Path:
    root = base / "root"
    (root / "d").mkdir(parents=True)
    (root / "file").write_bytes(b"inside")
    (base / "secret").write_bytes(SECRET)
    (base / "outside").mkdir()
    (base / "outside/secret").write_bytes(SECRET)
    for name, target in {
        "out": "../outside", "up": "..", "abs": str(base), "chain": "d/../out", "loop": "loop", "d/up2": "../..",
        "d/leaf": "../../secret", "leaf": str(base / "secret"), "dangling": "../made", "inner": "d",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    return root


def outside(base: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(base)): p.read_bytes() if p.is_file() else b"/"
        for p in [*base.iterdir(), *(base / "outside").rglob("*")]
        if p.name != "root"
    }


WHEN = datetime(2020, 1, 1, tzinfo=UTC)


def read(backend: LocalBackend, path: str) -> bytes:
    with backend.open_reader(path) as reader:
        return reader.read()


def put(writer: object) -> None:
    with writer as open_writer:  # type: ignore[attr-defined]
        open_writer.write(b"owned")


METHODS: dict[str, Callable[[LocalBackend, str], object]] = {
    "open_reader": read,
    "read_ranges": lambda b, p: b"".join(b.read_ranges(p, [(0, 100)])),
    "open_writer": lambda b, p: put(b.open_writer(p)),
    "create": lambda b, p: put(b.open_writer(p, WriteOptions(overwrite=False, durable=True))),
    "open_appender": lambda b, p: put(b.open_appender(p)),
    "exists": lambda b, p: b.exists(p),
    "stat": lambda b, p: b.stat(p),
    "list": lambda b, p: [info.path for info in b.list(p)],
    "start_after": lambda b, p: [info.path for info in b.list("", ListOptions(start_after=p))],
    "list_dir": lambda b, p: [info.path for info in b.list_dir(p)],
    "copy from": lambda b, p: b.copy(p, "copied"),
    "copy to": lambda b, p: b.copy("file", p),
    "move to": lambda b, p: (b.copy("file", "moving"), b.move("moving", p)),
    "move create": lambda b, p: (b.copy("file", "moving2"), b.move("moving2", p, CopyOptions(overwrite=False))),
    "set_metadata": lambda b, p: b.set_metadata(p, modified_at=WHEN),
    "mkdir": lambda b, p: b.mkdir(p),
    "rmdir": lambda b, p: b.rmdir(p),
    "move from": lambda b, p: b.move(p, "moved"),
    "delete": lambda b, p: b.delete(p),
    "purge": lambda b, p: b.purge(p),
}


@ways
@pytest.mark.parametrize("method", METHODS)
def test_goal_40_no_payload_escapes_and_only_our_errors_come_out(tmp_path: Path, method: str, way: str) -> None:
    root = plant(tmp_path)
    before = outside(tmp_path)
    backend = WAYS[way](root)
    step = pick(default=4, ci=1, soak=1)  # and each method begins with another one
    hostile = payloads()[list(METHODS).index(method) % step :: step]
    assert len(hostile) >= 150
    refused = 0
    for path in hostile:
        try:
            result = METHODS[method](backend, path)
        except StorageError:
            refused += 1
        else:
            assert not (isinstance(result, bytes) and SECRET in result), path
        if not (root / "file").exists():
            (root / "file").write_bytes(b"inside")
        if not (root / "d").exists():
            (root / "d").mkdir()
    for info in backend.list():
        if info.kind == "file":
            assert SECRET not in read(backend, info.path), info.path
    assert outside(tmp_path) == before
    assert method in ("exists", "start_after") or refused > 50


@ways
def test_go_f2_symlinks_that_lead_out_are_refused_and_inner_ones_followed(tmp_path: Path, way: str) -> None:
    root = plant(tmp_path)
    (root / "d/x").write_bytes(b"x")
    backend = WAYS[way](root)
    for path in ("out/secret", "up/secret", "abs/secret", "chain/secret", "d/up2/secret", "d/leaf", "leaf", "loop"):
        with pytest.raises(InvalidPath):
            backend.open_reader(path)
        with pytest.raises(InvalidPath):
            backend.stat(path)
        assert not backend.exists(path)
    for path in ("out", "up", "d/up2"):
        with pytest.raises(InvalidPath):
            list(backend.list(path))
        with pytest.raises(InvalidPath):
            list(backend.list_dir(path))
        with pytest.raises(InvalidPath):
            backend.open_writer(f"{path}/new")
        with pytest.raises(InvalidPath):
            backend.mkdir(f"{path}/new")
        with pytest.raises(InvalidPath):
            backend.delete(f"{path}/secret")
    assert read(backend, "inner/x") == b"x"
    assert [info.path for info in backend.list("inner") if info.kind == "file"] == ["inner/x"]
    put(backend.open_writer("leaf"))  # the link is replaced, what it led to is not touched
    assert (root / "leaf").read_bytes() == b"owned"
    assert (tmp_path / "secret").read_bytes() == SECRET
    put(backend.open_writer("dangling"))
    assert not (tmp_path / "made").exists()


@layers
def test_go_f4_names_that_only_look_like_dots_are_names(tmp_path: Path, walk: bool) -> None:
    backend = LocalBackend(tmp_path, _os=OS(walk=walk))
    for path in ("..a", "...", "a..b", ".hidden", "..c/..b", "a b/ c"):
        put(backend.open_writer(path))
        assert read(backend, path) == b"owned"
    assert {info.path for info in backend.list()} == {"..a", "...", "a..b", ".hidden", "..c/..b", "a b/ c"}


# -- the two ways to open beneath a folder agree -----------------------------------------------------------------------


def answer(layer: OS, root: int, path: str, flags: int, links: bool) -> object:
    try:
        fd = layer.open_beneath(root, path, flags, 0o600 if flags & os.O_CREAT else 0, links)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    try:
        assert os.get_inheritable(fd) is False
        found = os.fstat(fd)
        return found.st_dev, found.st_ino, found.st_mode
    finally:
        os.close(fd)


def test_without_a_libc_to_ask_the_walk_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    layer = OS()
    backend = LocalBackend(tmp_path, _os=layer)
    with backend.open_writer("d/f") as writer:
        writer.write(b"x")
    assert layer._opener == layer._walk
    with pytest.raises(InvalidPath):
        backend.open_reader("d/../../f")


def needs_openat2() -> OS:
    layer = OS()
    os.close(layer.open_beneath(folder := os.open("/", FOLDER_HANDLE), ".", FOLDER_HANDLE))
    os.close(folder)
    if layer._opener == layer._walk:
        pytest.skip("this kernel or sandbox has no openat2 to compare with")
    return layer


def test_the_walk_gives_the_same_answers_as_openat2(tmp_path: Path) -> None:
    kernel, walk = needs_openat2(), OS(walk=True)
    root = plant(tmp_path)
    (root / "d/e").mkdir()
    (root / "d/e/f").write_bytes(b"f")
    os.mkfifo(root / "fifo")
    for name, target in {
        "s1": "d/e", "s2": "d/e/", "s3": "d/./e/../e/f", "s4": "s3", "s5": "file/", "s6": "d/e/../../..", "s7": "./",
        "s8": "nothing", "s9": "nothing/x", "s10": "..", "s11": "d/up2/root/file", "s12": "s1/f", "s13": ".",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    for number in range(45):
        (root / f"c{number}").symlink_to(f"c{number + 1}" if number < 44 else "file")
    names = ["d", "e", "f", "file", "out", "up", "loop", "inner", "fifo", "nothing", ".", "..", "c3", "c4", "c5", "c30"]
    names += [f"s{n}" for n in range(1, 14)]
    chance = random.Random(40)
    paths = [
        *names,
        *(
            "/".join(chance.choices(names, k=chance.randint(2, 5)))
            for _ in range(pick(default=1000, ci=3000, soak=3000))
        ),
    ]
    folder = os.open(root, FOLDER_HANDLE)
    kinds = [HANDLE, FOLDER_HANDLE, READ_FILE, READ_FOLDER, READ_FOLDER | os.O_NOFOLLOW, HANDLE | os.O_NOFOLLOW]
    seen = set()
    try:
        for path in paths:
            for flags, links in itertools.product(kinds, (True, False)):
                expected = answer(kernel, folder, path, flags, links)
                assert answer(walk, folder, path, flags, links) == expected, (path, oct(flags), links)
                seen.add(expected if isinstance(expected, str) else "opened")
    finally:
        os.close(folder)
    assert seen >= {"opened", "ENOENT", "ENOTDIR", "ELOOP", "EXDEV"}


@layers
def test_creating_beneath_stays_beneath(tmp_path: Path, walk: bool) -> None:
    root = plant(tmp_path)
    layer = OS(walk=walk)
    folder = os.open(root, FOLDER_HANDLE)
    make = os.O_WRONLY | os.O_CREAT
    assert answer(layer, folder, "dangling", make, True) == "EXDEV"
    assert answer(layer, folder, "dangling", make | os.O_EXCL, True) == "EEXIST"
    assert answer(layer, folder, "out/new", make, True) == "EXDEV"
    assert not isinstance(answer(layer, folder, "inner/new", make, True), str)
    os.close(folder)
    assert (root / "d/new").exists()
    assert not (tmp_path / "made").exists()


# -- races -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def swapping(here: Path, there: Path) -> Iterator[Callable[[], int]]:
    """Let another process exchange the two names until the block or this process ends; yields the count so far."""
    exchange = ctypes.CDLL(None, use_errno=True).renameat2
    one, two = os.fsencode(here), os.fsencode(there)
    if exchange(-100, one, -100, two, 2) != 0:
        pytest.skip("this file system cannot exchange two names")
    made, over = memoryview(mmap.mmap(-1, 8)).cast("Q"), mmap.mmap(-1, 1)
    parent, child = os.getpid(), os.fork()
    if child == 0:
        while not over[0] and os.getppid() == parent and exchange(-100, one, -100, two, 2) == 0:
            made[0] += 1
        os._exit(0 if over[0] else 1)
    try:
        yield lambda: made[0]
    finally:
        over[0] = 1
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended == 0, "a swap failed"


def attacks(backend: LocalBackend) -> list[Callable[[], object]]:
    return [
        lambda: read(backend, "swap/f"),
        lambda: put(backend.open_writer("swap/f")),
        lambda: put(backend.open_writer("swap/deep/new")),
        lambda: put(backend.open_appender("swap/log")),
        lambda: backend.copy("swap/f", "copied"),
        lambda: read(backend, "copied"),
        lambda: backend.copy("file", "swap/copied"),
        lambda: backend.move("swap/copied", "swap/moved"),
        lambda: backend.set_metadata("swap/f", modified_at=WHEN),
        lambda: list(backend.list()),
        lambda: list(backend.list("swap")),
        lambda: list(backend.list_dir("swap")),
        lambda: [backend.exists("swap/f"), backend.stat("swap/f")],
        lambda: backend.mkdir("swap/made/deep"),
        lambda: backend.rmdir("swap/made/deep"),
        lambda: backend.delete("swap/moved"),
        lambda: backend.purge("swap/deep"),
        lambda: backend.remove_stale_uploads(older_than=timedelta(0)),
    ]


@layers
@pytest.mark.parametrize("deep", [False, True], ids=["folder", "parent"])
def test_goal_40_a_race_of_symlink_swaps_never_leads_out(tmp_path: Path, walk: bool, deep: bool) -> None:
    root = tmp_path / "root"
    (root / "up").mkdir(parents=True)
    (root / "file").write_bytes(b"inside")
    elsewhere = tmp_path / "outside"
    elsewhere.mkdir()
    trap = elsewhere / "swap" if deep else elsewhere
    (trap / "deep").mkdir(parents=True)
    for name in ("f", "moved", "copied", "log", ".omnistorage-0123456789abcdef.tmp", "deep/x", "only-outside"):
        (trap / name).write_bytes(SECRET)
    before = {str(p): p.read_bytes() if p.is_file() else b"" for p in elsewhere.rglob("*")}
    stats = {str(p): p.stat().st_mtime_ns for p in elsewhere.rglob("*")}
    backend = LocalBackend(root / "real" if deep else root, _os=OS(walk=walk))
    if deep:  # a folder above the one that the paths name is what gets swapped
        (root / "real/swap").mkdir(parents=True)
        backend = LocalBackend(root, _os=OS(walk=walk))
        one, two = root / "real", root / "link"
        two.symlink_to("../outside")
        names = {"swap/": "real/swap/", "swap": "real/swap"}
    else:
        (root / "swap").mkdir()
        one, two = root / "swap", root / "link"
        two.symlink_to("../outside")
        names = {}
    view = _Renamed(backend, names)
    jobs = attacks(view)  # type: ignore[arg-type]
    if deep:
        jobs.append(lambda: view.purge("swap"))
    good = bad = rounds = 0
    end = time.monotonic() + LIMIT
    with swapping(one, two) as made:
        while made() < SWAPS // 4 or rounds < 20 or min(good, bad) <= 50:
            assert time.monotonic() < end, f"{made()} swaps in {rounds} rounds, of which {good} calls went through"
            rounds += 1
            for job in jobs:
                try:
                    result = job()
                    good += 1
                    assert not (isinstance(result, bytes) and SECRET in result)
                    assert "only-outside" not in repr(result)
                except StorageError:
                    bad += 1
    assert good > 50
    assert bad > 50
    assert {str(p): p.read_bytes() if p.is_file() else b"" for p in elsewhere.rglob("*")} == before
    assert {str(p): p.stat().st_mtime_ns for p in elsewhere.rglob("*")} == stats


class _Renamed:
    """The backend with other names for the same attacks."""

    def __init__(self, backend: LocalBackend, names: dict[str, str]) -> None:
        self._backend = backend
        self._names = names

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self._backend, name)

        def call(*paths: str, **options: object) -> object:
            return method(*(self._rename(path) for path in paths), **options)

        return call

    def _rename(self, path: str) -> str:
        return f"real/{path}" if self._names and path.startswith("swap") else path


@layers
def test_a_folder_moved_out_of_the_root_takes_no_later_write_along(tmp_path: Path, walk: bool) -> None:
    backend = LocalBackend(tmp_path / "root", _os=OS(walk=walk))
    put(backend.open_writer("d/first"))
    (tmp_path / "root/d").rename(tmp_path / "gone")
    put(backend.open_writer("d/second"))
    assert sorted(p.name for p in (tmp_path / "gone").iterdir()) == ["first"]
    assert (tmp_path / "root/d/second").exists()


# -- the folder of the user --------------------------------------------------------------------------------------------


def test_a_tilde_is_the_folder_of_the_user_wherever_a_path_begins_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with open_records("~/a/x.ndjson", "w") as writer:
        writer.write({"n": 1})
    assert list(open_records("~/a/x.ndjson")) == [{"n": 1}]
    assert LocalBackend("~").root == open_backend("local", {"root": "~"}).root == str(tmp_path)
    assert open_store("~/a").exists("x.ndjson")
    log = SegmentLog("~/log")
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "log"]


def test_a_tilde_elsewhere_is_a_name(tmp_path, monkeypatch):
    """A path object may be made of a name that a listing found."""
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    (tmp_path / "~/x.ndjson").write_text("{}")
    assert list(open_records(Path("~/x.ndjson"))) == [{}]
    for opened in (LocalBackend(Path("~")), open_backend(Path("~")), open_store(Path("~")).as_backend()):
        assert opened.url == f"{tmp_path.as_uri()}/~/"
    (tmp_path / "~/x.ndjson").unlink()
    (tmp_path / "~").rmdir()
    for path in ("./~", "b~"):
        assert LocalBackend(path).root == str(tmp_path / path)
    assert open_backend("file:///~/x").root == "/~/x"
    with LocalBackend(tmp_path).open_writer("~/x") as writer:
        writer.write(b"x")
    assert (tmp_path / "~" / "x").exists()


def test_the_folder_of_a_user_that_is_not_there_is_refused():
    for path in ("~no-such-user/x", "~no-such-user"):
        with pytest.raises(ConfigError):
            LocalBackend(path)
        with pytest.raises(ConfigError):
            open_records(path)
