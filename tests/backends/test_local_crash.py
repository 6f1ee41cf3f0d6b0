"""Goals 1, 2, 3, 6 and 45: what a kill or a power cut leaves, and the order of the system calls of a write."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from omnistorage.backends.local import LocalBackend
from omnistorage.core import CopyOptions, WriteOptions
from omnistorage.testing.os_faults import Event, RecordingOS

from ..budget import FULL, pick

# A newer Python warns of fork in a process with threads; these children do nothing that could meet a held lock.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

KILLS = pick(default=15, ci=200, soak=10_000)
PARTS = 8 if FULL else 5  # the calls of write in each operation of a workload
NO_WAIT = timedelta(0)
DURABLE = WriteOptions(durable=True)


# -- goals 1 and 6: SIGKILL --------------------------------------------------------------------------------------------


def frame(serial: int, size: int) -> bytes:
    """A payload that proves itself whole: its serial number, its length, its body and the hash of all that."""
    head = f"{serial:012d} {size:012d} ".encode() + random.Random(serial).randbytes(size)
    return head + hashlib.sha256(head).digest()


def serial_of(data: bytes) -> int:
    assert hashlib.sha256(data[:-32]).digest() == data[-32:], "torn"
    assert int(data[13:25]) == len(data) - 26 - 32
    return int(data[:12])


def write_forever(root: Path, first: int, ready: int) -> None:
    """The child: replace, create and copy whole objects until killed; what is acknowledged goes through ``ready``."""
    backend = LocalBackend(root)
    for serial in itertools.count(first):
        data = frame(serial, 200 + serial * 7919 % 40_000)
        with backend.open_writer("d/object", WriteOptions(durable=serial % 7 == 0)) as writer:
            for start in range(0, len(data), 4096):
                writer.write(data[start : start + 4096])
        os.write(ready, b"%012d\n" % serial)
        backend.copy("d/object", "e/copy")
        with backend.open_writer(f"new/{serial % 50}/{serial}", WriteOptions(overwrite=False)) as writer:
            writer.write(data)


def test_goal_1_and_6_kill_9_leaves_old_or_new_content_and_orphans_are_collected(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    backend.mkdir("d")
    live = backend.open_writer("d/live")  # ours, alive through all of this
    live.write(b"still here")
    acknowledged, orphans, chance, kills = 0, 0, random.Random(0), 0
    while kills < KILLS or not orphans:  # until one has hit a write
        kills += 1
        heard, says = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                write_forever(tmp_path, acknowledged + 1, says)
            finally:
                os._exit(9)
        os.close(says)
        with os.fdopen(heard, "rb") as pipe:
            pipe.readline()  # it is at work
            _wait(chance.random() * 0.012)
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            told = pipe.read().split()
        assert os.WIFSIGNALED(status), "the child ended by itself"
        at_least = int(told[-1]) if told else acknowledged + 1
        found = serial_of((tmp_path / "d/object").read_bytes())
        assert at_least <= found <= at_least + 1
        acknowledged = found
        left = list(tmp_path.rglob(".omnistorage-*"))
        keys = [info.path for info in backend.list()]
        assert not any(".omnistorage-" in key for key in keys)
        orphans += len(left) - 1
        assert backend.remove_stale_uploads(older_than=NO_WAIT) == len(left) - 1
        for key in keys:
            serial_of((tmp_path / key).read_bytes())
        if "new" in {info.path for info in backend.list_dir()}:
            backend.purge("new")  # so that the last of many rounds is as quick as the first
    assert len(list(tmp_path.rglob(".omnistorage-*"))) == 1, "only the live one is left"
    live.close()
    assert (tmp_path / "d/live").read_bytes() == b"still here"
    assert list(tmp_path.rglob(".omnistorage-*")) == []


def _wait(seconds: float) -> None:
    # The moment of the kill is the input of this test, not a wait for something to happen.
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


# -- goal 2: power cuts ------------------------------------------------------------------------------------------------


@dataclass
class Disk:
    """The changes of one run, sorted by what orders them: each folder keeps a prefix of its pending entries, each file
    a prefix of its pending writes (the next of them perhaps torn), whatever the others keep. What was synced stays."""

    events: list[Event]
    root: int
    folder_ops: dict[int, list[tuple[int, Event]]] = field(default_factory=dict)
    file_ops: dict[int, list[tuple[int, Event]]] = field(default_factory=dict)
    syncs: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        now: dict[int, int] = {}  # a freed inode number comes back: give each file of the run a number of its own
        fresh = itertools.count(1)
        for at, raw in enumerate(self.events):
            if raw.kind in ("create", "mkdir"):
                now[raw.inode] = -next(fresh)
            event = Event(
                raw.kind,
                now.get(raw.inode, raw.inode),
                now.get(raw.folder, raw.folder),
                raw.name,
                now.get(raw.to_folder, raw.to_folder),
                raw.to,
                raw.offset,
                raw.data,
            )
            if event.kind == "fsync":
                self.syncs.setdefault(event.inode, []).append(at)
            elif event.kind in ("write", "truncate"):
                self.file_ops.setdefault(event.inode, []).append((at, event))
            elif event.kind != "mark":
                # A rename between two folders is one entry of the journal, ordered with what happens in both of them.
                for folder in {event.to_folder or event.folder, event.folder if event.kind == "rename" else 0} - {0}:
                    self.folder_ops.setdefault(folder, []).append((at, event))

    def states(self, cut: int) -> Iterator[dict[str, bytes]]:
        """Every content a power cut before event ``cut`` could leave, by path."""
        folders = {key: self._ranges(key, ops, cut) for key, ops in self.folder_ops.items()}
        files = {key: self._ranges(key, ops, cut) for key, ops in self.file_ops.items()}
        contents = {
            key: {
                self._content(self.file_ops[key], kept, torn)
                for kept in kepts
                for torn in ((False, True) if kept < kepts[-1] else (False,))
            }
            for key, kepts in files.items()
        }
        for kept in itertools.product(*folders.values()):
            tree = self._tree(dict(zip(folders, kept, strict=True)))
            present = {path: inode for path, inode in tree.items() if ".omnistorage-" not in path}
            inodes = sorted(set(present.values()))
            for chosen in itertools.product(*(contents.get(inode, {b""}) for inode in inodes)):
                data = dict(zip(inodes, chosen, strict=True))
                yield {path: data[inode] for path, inode in present.items()}

    def _ranges(self, key: int, ops: list[tuple[int, Event]], cut: int) -> range:
        synced = max((at for at in self.syncs.get(key, ()) if at < cut), default=-1)
        return range(sum(at < synced for at, _ in ops), sum(at < cut for at, _ in ops) + 1)

    @staticmethod
    def _content(ops: list[tuple[int, Event]], kept: int, torn: bool) -> bytes:
        data = bytearray()
        for number, (_, event) in enumerate(ops[: kept + torn]):
            if event.kind == "truncate":
                if number < kept:
                    del data[event.offset :]
                continue
            part = event.data if number < kept else event.data[: len(event.data) // 2]
            data[event.offset : event.offset + len(part)] = part
        return bytes(data)

    def _tree(self, kept: dict[int, int]) -> dict[str, int]:
        entries: dict[int, dict[str, int]] = {}
        chosen = Counter(op for key, count in kept.items() for op in self.folder_ops[key][:count])
        for (_, event), times in sorted(chosen.items(), key=lambda item: item[0][0]):
            if event.kind == "rename" and event.folder != event.to_folder and times < 2:
                continue
            here = entries.setdefault(event.folder, {})
            if event.kind in ("create", "mkdir"):
                here[event.name] = event.inode
            elif event.kind in ("unlink", "rmdir"):
                here.pop(event.name, None)
            else:
                if event.kind == "rename":
                    here.pop(event.name, None)
                entries.setdefault(event.to_folder, {})[event.to] = event.inode
        made = {event.inode for ops in self.folder_ops.values() for _, event in ops if event.kind == "mkdir"}
        found: dict[str, int] = {}
        todo = [("", self.root)]
        while todo:
            head, folder = todo.pop()
            for name, inode in entries.get(folder, {}).items():
                if inode in made:
                    todo.append((f"{head}{name}/", inode))
                else:
                    found[head + name] = inode
        return found


@dataclass
class Step:
    """One operation of a workload: what it makes of ``path``, when it began and when it was acknowledged."""

    run: Callable[[LocalBackend], object]
    path: str
    content: bytes | None  # None: nothing is there afterwards
    durable: bool
    torn_from: int | None = 0  # without a sync any prefix of at least this length may be there; None: never torn
    also: str | None = None  # a path on which the same content is as good (the source of a move)
    began: int = -1
    done: int = 1 << 60


def write(path: str, letter: bytes, options: WriteOptions = DURABLE, parts: int = PARTS) -> Step:
    def run(backend: LocalBackend) -> None:
        with backend.open_writer(path, options) as writer:
            for part in range(parts):
                writer.write(letter * (6 + 2 * part))

    whole = b"".join(letter * (6 + 2 * part) for part in range(parts))
    return Step(run, path, whole, options.durable, None if options.durable else 0)


def fast(path: str, letter: bytes) -> Step:
    return write(path, letter, WriteOptions())


def create(path: str, letter: bytes) -> Step:
    return write(path, letter, WriteOptions(overwrite=False, durable=True))


def append(path: str, old: bytes, letter: bytes) -> Step:
    def run(backend: LocalBackend) -> None:
        with backend.open_appender(path, DURABLE) as writer:
            writer.write(letter * 4)
            writer.write(letter * 4)

    return Step(run, path, old + letter * 8, True, len(old))


def delete(path: str) -> Step:
    return Step(lambda backend: backend.delete(path), path, None, False)


def copy(src: str, dst: str, data: bytes | None) -> Step:
    return Step(lambda backend: backend.copy(src, dst), dst, data, False)


def move(src: str, dst: str, data: bytes | None, overwrite: bool = True) -> Step:
    options = CopyOptions(overwrite=overwrite)
    return Step(lambda backend: backend.move(src, dst, options), dst, data, False, None, also=src)


def workloads() -> Iterator[tuple[str, list[Step]]]:
    kinds: dict[str, Callable[[str, bytes], Step]] = {"durable": write, "fast": fast, "create": create}
    for (a, first), (b, second) in itertools.product(kinds.items(), repeat=2):
        if b != "create":
            yield f"{a} then {b}, one key", [first("a", b"1"), second("a", b"2")]
        yield f"{a} then {b}, two folders", [first("d/a", b"1"), second("e/f/b", b"2")]
        yield f"{a} then {b}, one new folder", [first("d/a", b"1"), second("d/b", b"2")]
    layouts = [("a", "b", "c"), ("d/a", "d/b", "e/c"), ("d/a", "e/f/b", "e/g/c"), ("d/a", "d/a", "d/b")]
    for three in itertools.product(("durable", "fast"), repeat=3):
        for layout in layouts:
            steps = [kinds[kind](path, b"%d" % n) for n, (kind, path) in enumerate(zip(three, layout, strict=True))]
            yield f"{three} in {layout}", steps
    one, two = write("a", b"1"), write("d/a", b"2")
    yield "three replace", [write("a", b"1"), write("a", b"2"), write("a", b"3")]
    yield "fast between durable", [write("a", b"1"), fast("a", b"2"), write("a", b"3")]
    yield "durable after two fast", [fast("d/a", b"1"), fast("d/b", b"2"), write("d/c", b"3")]
    yield "delete", [write("a", b"1"), delete("a")]
    yield "delete and again", [write("d/a", b"1"), delete("d/a"), write("d/a", b"2")]
    yield "append to nothing", [append("log", b"", b"1")]
    yield "append", [write("log", b"1"), append("log", one.content or b"", b"2")]
    yield "append twice", [append("d/log", b"", b"1"), append("d/log", b"1" * 8, b"2")]
    yield "append in a fast folder", [fast("d/a", b"1"), append("d/log", b"", b"2")]
    yield "copy", [write("a", b"1"), copy("a", "d/b", one.content), write("d/c", b"3")]
    yield "move", [write("a", b"1"), move("a", "d/b", one.content), write("d/c", b"3")]
    yield "move over", [write("d/a", b"2"), write("b", b"1"), move("d/a", "b", two.content)]
    yield "move to a new name", [write("a", b"1"), move("a", "b", one.content, overwrite=False)]
    made = Step(lambda backend: backend.mkdir("d/e"), "none", None, False)
    yield "mkdir first", [made, write("d/e/a", b"1")]


def accepted(steps: list[Step], number: int, cut: int, state: dict[str, bytes]) -> bool:
    """Whether ``state`` honours step ``number``, durable and acknowledged: its own result, or that of a later step."""
    step = steps[number]
    found = state.get(step.path)
    if found == step.content:
        return True
    for later in steps[number + 1 :]:
        if later.began >= cut:
            continue
        if later.also == step.path and found is None:
            if state.get(later.path) == step.content:
                return True
        elif later.path == step.path:
            if found == later.content:
                return True
            torn = later.torn_from is not None and found is not None and later.content is not None
            # A later write that is not durable, or not acknowledged yet if it works in place, may be torn.
            if torn and (not later.durable or later.done > cut):
                assert found is not None
                assert later.content is not None
                if later.content.startswith(found) and len(found) >= (later.torn_from or 0):
                    return True
    return False


def check(root: Path, steps: list[Step], os_: RecordingOS) -> tuple[int, list[str]]:
    """Run a workload, cut the power at every moment in every way: the number of states, and what was lost in them."""
    backend = LocalBackend(root, _os=os_)
    for step in steps:
        step.began = len(os_.events)
        step.run(backend)
        os_.mark("done")
        step.done = len(os_.events)
    disk = Disk(os_.events, root.stat().st_ino)
    states, lost = 0, []
    for cut in range(len(os_.events) + 1):
        acknowledged = [n for n, step in enumerate(steps) if step.durable and step.done <= cut]
        for state in disk.states(cut):
            states += 1
            lost += [
                f"cut {cut}: {steps[n].path} {steps[n].content!r}: {state}"
                for n in acknowledged
                if not accepted(steps, n, cut, state)
            ]
    return states, lost


def test_goal_2_no_power_cut_loses_or_tears_an_acknowledged_durable_write(tmp_path: Path) -> None:
    total, count = 0, 0
    for name, steps in workloads():
        count += 1
        root = tmp_path / str(count)
        root.mkdir()
        assert len(steps) <= 3
        states, lost = check(root, steps, RecordingOS())
        assert not lost, f"{name}: {len(lost)} of {states} states, first: {lost[0]}"
        assert states > 10
        total += states
    print(f"{count} workloads, {total} crash states")
    assert count >= 20
    assert total >= 50_000


@pytest.mark.parametrize("kind", ["file", "dir"])
def test_goal_2_the_checker_catches_a_missing_sync(tmp_path: Path, kind: str) -> None:
    caught = 0
    for number, (_, steps) in enumerate(workloads()):
        root = tmp_path / str(number)
        root.mkdir()
        caught += bool(check(root, steps[:1], RecordingOS(skip_fsync=(kind,)))[1]) if steps[0].durable else 0
    assert caught >= 8


# -- goals 3 and 45: the order of the calls ----------------------------------------------------------------------------

_SCRIPT = """
import os, sys
os.umask(0)
from omnistorage.backends.local import LocalBackend
from omnistorage.core import WriteOptions
backend = LocalBackend(sys.argv[1])
options = eval(sys.argv[2], {"WriteOptions": WriteOptions})
backend.exists("warm/up")
os.write(2, b"BEGIN")
with backend.open_writer("d/e/f", options) as writer:
    writer.write(b"x" * 1000)
    writer.write(b"y" * 1000)
os.write(2, b"END")
"""


def traced(tmp_path: Path, options: str) -> list[str]:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    calls = "openat,openat2,write,fsync,fdatasync,rename,renameat,renameat2,linkat,unlinkat,close,fchmod,flock,mkdirat"
    done = subprocess.run(
        [strace, "-f", "-e", f"trace={calls}", sys.executable, "-c", _SCRIPT, str(tmp_path), options],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr and "not permitted" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr.partition('"BEGIN"')[2].partition('write(2, "END"')[0].splitlines()


def step_at(lines: list[str], pattern: str) -> int:
    found = [number for number, line in enumerate(lines) if re.search(pattern, line)]
    assert found, f"{pattern} is not among:\n" + "\n".join(lines)
    return found[-1]


@pytest.mark.parametrize("mode", ["fast", "create", "durable"])
def test_goal_3_and_45_write_fsync_rename_fsync_dir_and_0600_from_the_first_instant(tmp_path: Path, mode: str) -> None:
    options = {
        "fast": "WriteOptions()",
        "create": "WriteOptions(overwrite=False, durable=True)",
        "durable": "WriteOptions(durable=True)",
    }[mode]
    lines = traced(tmp_path, options)
    opened = step_at(lines, r"openat\(\d+, \"\.omnistorage-\w+\.tmp\".*O_CREAT\|O_EXCL.*, 0600\) = \d+")
    fd = re.search(r"= (\d+)$", lines[opened].strip())
    folder = re.search(r"openat\((\d+), \"\.omnistorage", lines[opened])
    assert fd is not None
    assert folder is not None
    locked = step_at(lines, rf"flock\({fd[1]}, LOCK_EX\|LOCK_NB\)")
    written = step_at(lines, rf"write\({fd[1]}, ")
    published = step_at(lines, r"linkat\(" if mode == "create" else r"renameat2?\(|rename\(")
    closed = step_at(lines, rf"close\({fd[1]}\)")
    assert opened < locked < written < published < closed
    creations = [line for line in lines if "O_CREAT" in line]
    assert len(creations) == 1
    syncs = [number for number, line in enumerate(lines) if re.search(r"f(data)?sync\(", line)]
    if mode == "fast":
        assert syncs == []
        return
    content = step_at(lines, rf"fsync\({fd[1]}\)")
    entry = step_at(lines, rf"fsync\({folder[1]}\)")
    assert written < content < published < entry
    # The new folders above, too: e in d, d in the root, before anything is published.
    assert len(syncs) == 4
    assert sum(number < written for number in syncs) == 2
    assert (tmp_path / "d/e/f").stat().st_mode & 0o777 == 0o666
