"""Small local files: looking, reading, listing and atomic writing, against what Python's own calls cost."""

import hashlib
import os

from common import Bench, SameWork, over, rounds

from omnistorage import LocalBackend, WriteOptions

CONTENT = hashlib.shake_256(b"omnistorage").digest(1024)
ENGINE = "LocalBackend"


def look_and_read(bench: Bench):
    """exists, stat and read of 1 KiB files at the root and in a folder, against pathlib."""
    (bench.folder / "folder").mkdir()
    with LocalBackend(bench.folder) as backend:
        for where, prefix in (("", ""), ("_in_folder", "folder/")):
            names = [f"{prefix}file-{n:04}.bin" for n in range(1000)]
            for name in names:
                (bench.folder / name).write_bytes(CONTENT)
            compare_calls(bench, backend, names, where)


def compare_calls(bench, backend, names, where):
    root = bench.folder
    repeat = range(2 if bench.quick else 20)

    def read(name):
        with backend.open_reader(name) as reader:
            return reader.read()

    def run(call):
        for _ in repeat:
            for key in names:
                call(key)

    kinds = {
        "exists": (backend.exists, lambda name: (root / name).exists(), bool, bool, 2.5),
        "stat": (backend.stat, lambda name: (root / name).stat(), lambda i: i.size, lambda i: i.st_size, 2.5),
        "read": (read, lambda name: (root / name).read_bytes(), bytes, bytes, 2),
    }
    for kind, (ours, theirs, of_ours, of_theirs, bar) in kinds.items():
        if list(map(of_ours, map(ours, names))) != list(map(of_theirs, map(theirs, names))):
            raise SystemExit(f"{kind} differs from pathlib's")
        contenders = {"peer": lambda call=theirs: run(call), "ours": lambda call=ours: run(call)}
        times = rounds(contenders, bench.rounds * 2 - 1, lambda name, value: None)
        bench.add(
            f"local_{kind}{where}", f"local {kind} of a 1 KiB file {'in a folder' if where else 'at the root'}",
            peer=f"pathlib: (root / key).{'read_bytes' if kind == 'read' else kind}()", bar=bar, better="lower",
            samples=over(times["ours"], times["peer"]), engine=ENGINE,
        )  # fmt: skip


def scan(folder, prefix=""):
    """Every file below with its size and time: what a listing has to find out."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found += scan(entry.path, f"{prefix}{entry.name}/")
            else:
                info = entry.stat(follow_symlinks=False)
                found.append((prefix + entry.name, info.st_size, info.st_mtime_ns))
    return found


def listing(bench: Bench):
    """Listing 100,000 files, in one folder and in a tree of 1,000, against os.scandir and stat."""
    count = 2_000 if bench.quick else 100_000
    for shape, name_of in (
        ("flat", lambda n: f"file-{n:06}.bin"),
        ("nested", lambda n: f"{n % 10}/{n // 10 % 100:02}/file-{n:06}.bin"),
    ):
        root = bench.folder / shape
        for number in range(count):
            path = root / name_of(number)
            if number < 1000:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * (number % 7))
        same = SameWork()
        same.check(sorted((path, size) for path, size, _ in scan(root)))
        with LocalBackend(root) as backend:
            same.check([(info.path, info.size) for info in backend.list()])
            contenders = {"peer": lambda root=root: len(scan(root)), "ours": lambda to=backend: len(list(to.list()))}
            lengths = SameWork()
            times = rounds(contenders, bench.rounds, lambda name, length, check=lengths.check: check(length))
        bench.add(
            f"local_list_{shape}", f"local list of 100,000 files, {shape}, sorted", peer="os.scandir + stat, unsorted",
            bar=2, better="lower", samples=over(times["ours"], times["peer"]), engine=ENGINE,
        )  # fmt: skip


def bare_write(folder, name, data, *, durable):
    """The system calls that an atomic write cannot do without."""
    temporary = f"{folder}/.{name}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    os.write(fd, data)
    if durable:
        os.fsync(fd)
    os.close(fd)
    os.rename(temporary, f"{folder}/{name}")
    if durable:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(fd)
        os.close(fd)


def atomic(bench: Bench, name: str, data: bytes, count: int, options: WriteOptions, bar: float, what: str, peer: str):
    folder = bench.folder / name
    folder.mkdir()
    names = [f"object-{n:04}" for n in range(count)]

    def check_and_clear(contender, value):
        if {path.name: path.read_bytes() for path in folder.iterdir()} != dict.fromkeys(names, data):
            raise SystemExit(f"{contender} did not write what it should")
        for key in names:
            (folder / key).unlink()
        os.sync()  # nobody pays for what the one before left to the disk

    with LocalBackend(folder) as backend:

        def ours():
            for key in names:
                with backend.open_writer(key, options) as writer:
                    writer.write(data)

        def theirs():
            for key in names:
                bare_write(str(folder), key, data, durable=options.durable)

        times = rounds({"peer": theirs, "ours": ours}, bench.rounds * 2 - 1, check_and_clear)
    bench.add(
        f"local_{name}", what, peer=peer, bar=bar, better="lower", samples=over(times["ours"], times["peer"]),
        engine=ENGINE,
    )  # fmt: skip


def small_writes(bench: Bench):
    """An atomic write of 1 KiB and a durable one of 64 KiB, against their bare system calls."""
    atomic(
        bench, "atomic_write", CONTENT, 100 if bench.quick else 2000, WriteOptions(), 1.5,
        "local atomic write of 1 KiB", "open, write, close, rename",
    )  # fmt: skip
    atomic(
        bench, "durable_write", CONTENT * 64, 20 if bench.quick else 200, WriteOptions(durable=True), 1.3,
        "local durable write of 64 KiB", "open, write, fsync, close, rename, fsync of the folder",
    )  # fmt: skip


GROUPS = {"look_and_read": look_and_read, "listing": listing, "small_writes": small_writes}
