"""The Store's own calls: against what pathlib and remote-store do for the same on the same files, and in memory."""

import hashlib
import os
import sqlite3
import time

import remote_store
from common import Bench, SameWork, over, rounds, version
from local_small import scan

from omnistorage import CompositeStore, MemoryBackend, Store, Tier, open_store

CONTENT = hashlib.shake_256(b"omnistorage").digest(1024)
ENGINE = "Store on LocalBackend"
FOLDER = "folder"


def replace(path, data):
    """An atomic write by pathlib."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def calls(bench: Bench):
    """exists, stat, read and an atomic write of 1 KiB, in a store whose root is a folder of its backend."""
    count, repeat = (50, 1) if bench.quick else (500, 10)
    root = bench.folder / FOLDER
    root.mkdir()
    peer = remote_store.Store(_peer_backend(bench.folder), root_path=FOLDER)
    names = [f"file-{n:04}.bin" for n in range(count)]
    for name in names:
        (root / name).write_bytes(CONTENT)
    with open_store(bench.folder) as whole:
        ours = whole.child(FOLDER)
        kinds = {
            "exists": (ours.exists, lambda k: (root / k).exists(), peer.exists),
            "stat": (lambda k: ours.stat(k).size, lambda k: (root / k).stat().st_size,
                     lambda k: peer.get_file_info(k).size),
            "read": (ours.read_bytes, lambda k: (root / k).read_bytes(), peer.read_bytes),
            "write": (lambda k: ours.write_atomic(k, CONTENT, overwrite=True).size,
                      lambda k: replace(root / k, CONTENT) or 1024,
                      lambda k: peer.write_atomic(k, CONTENT, overwrite=True).size),
        }  # fmt: skip
        for kind, whose in kinds.items():
            same = SameWork()
            for call in whose:
                same.check([call(name) for name in names])

            def run(call, times=repeat if kind != "write" else 1, names=names):
                for _ in range(times):
                    for key in names:
                        call(key)

            contenders = {
                name: lambda call=call, run=run: run(call)
                for name, call in zip(("ours", "pathlib", "remote-store"), whose, strict=True)
            }
            times = rounds(contenders, bench.rounds * 2 - 1, lambda name, value: None)
            for other, bar in (("pathlib", 2.5), ("remote-store", 0.5)):
                bench.add(
                    f"store_{kind}_{other}", f"Store over local: {kind} of 1 KiB",
                    peer="pathlib" if other == "pathlib" else version("remote-store"), bar=bar,
                    better="lower", samples=over(times["ours"], times[other]), engine=ENGINE,
                )  # fmt: skip


def _peer_backend(folder):
    from remote_store.backends import LocalBackend

    return LocalBackend(root=str(folder))


def memory(bench: Bench):
    """Microseconds of each call over memory."""
    count = 1000 if bench.quick else 20_000
    with Store(MemoryBackend(), "root") as store:
        store.write("there", CONTENT)
        for kind, call in {
            "exists": lambda: store.exists("there"),
            "stat": lambda: store.stat("there"),
            "read": lambda: store.read_bytes("there"),
            "write": lambda: store.write("there", CONTENT, overwrite=True),
        }.items():
            samples = []
            for _ in range(bench.rounds):
                start = time.perf_counter()
                for _ in range(count):
                    call()
                samples.append((time.perf_counter() - start) / count * 1e6)
            bench.add(
                f"store_memory_{kind}", f"Store over memory, in a folder: {kind} of 1 KiB", peer="microseconds",
                bar=10, better="lower", samples=samples, engine="Store on MemoryBackend", unit="us",
            )  # fmt: skip


def listing(bench: Bench):
    """Listing 100,000 local files, against os.scandir and stat."""
    count = 2_000 if bench.quick else 100_000
    root = bench.folder / "tree"
    for number in range(count):
        path = root / f"{number % 10}/{number // 10 % 100:02}/file-{number:06}.bin"
        if number < 1000:
            path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"x" * (number % 7))
        os.close(fd)
    same = SameWork()
    same.check(sorted((path, size) for path, size, _ in scan(root)))
    with open_store(bench.folder) as whole:
        store = whole.child("tree")
        same.check([(info.path, info.size) for info in store.list_files(recursive=True)])
        times = rounds(
            {"peer": lambda: len(scan(root)), "ours": lambda: sum(1 for _ in store.list_files(recursive=True))},
            bench.rounds, lambda name, value: None,
        )  # fmt: skip
    bench.add(
        "store_list", "Store over local: list of 100,000 files, nested", peer="os.scandir + stat, unsorted", bar=2,
        better="lower", samples=over(times["ours"], times["peer"]), engine=ENGINE,
    )  # fmt: skip


def sqlite_listing(bench: Bench):
    """Listing 100,000 keys of a SQLite store, against the bare query that gives the same columns, and one page."""
    count = 2_000 if bench.quick else 100_000
    file = bench.folder / "objects.db"
    with open_store(f"sqlite:///{file}") as store:
        store.write("warm", b"")
        link = sqlite3.connect(file, isolation_level=None)
        link.execute("BEGIN")
        columns = [row[1] for row in link.execute("PRAGMA table_info(omnistorage_objects)")]
        (first,) = link.execute("SELECT * FROM omnistorage_objects").fetchall()
        row = dict(zip(columns, first, strict=True))
        link.executemany(
            f"INSERT INTO omnistorage_objects VALUES ({', '.join('?' * len(columns))})",
            ([{**row, "key": f"{n % 10}/{n // 10 % 100:02}/{n:06}"}[name] for name in columns] for n in range(count)),
        )
        link.execute("COMMIT")
        query = "SELECT key, size, modified_at, content_type, digest, etag, extra FROM omnistorage_objects ORDER BY key"
        same = SameWork()
        same.check([row[0] for row in link.execute(query).fetchall()])
        same.check([info.path for info in store.list_files(recursive=True)])
        times = rounds(
            {
                "peer": lambda: len(link.execute(query).fetchall()),
                "ours": lambda: sum(1 for _ in store.list_files(recursive=True)),
                "one": lambda: sum(1 for _ in store.list_files(recursive=True, limit=1)),
            },
            bench.rounds, lambda name, value: None,
        )  # fmt: skip
        link.close()
    bench.add(
        "store_list_sqlite", "Store over SQLite: list of 100,000 keys", peer="the bare query, fetched whole", bar=2,
        better="lower", samples=over(times["ours"], times["peer"]), engine="Store on SQLBlobBackend",
    )  # fmt: skip
    bench.add(
        "store_list_one", "Store over SQLite: limit=1 of 100,000 keys", peer="the whole listing", bar=0.05,
        better="lower", samples=over(times["one"], times["ours"]), engine="Store on SQLBlobBackend",
    )  # fmt: skip


def composite(bench: Bench):
    """A read through three tiers whose first one has it, against reading that tier."""
    count, repeat = (50, 1) if bench.quick else (500, 10)
    names = [f"file-{n:04}.bin" for n in range(count)]
    tiers = []
    for name in ("hot", "warm", "cold"):
        (bench.folder / name).mkdir()
        tiers.append(Tier(name, open_store(bench.folder / name)))
    for name in names:
        tiers[0].store.write(name, CONTENT)
    with CompositeStore(tiers) as store:
        same = SameWork()
        same.check([store.read_bytes(name) for name in names])
        same.check([tiers[0].store.read_bytes(name) for name in names])

        def run(call):
            for _ in range(repeat):
                for name in names:
                    call(name)

        contenders = {
            "ours": lambda: run(store.read_bytes), "peer": lambda: run(tiers[0].store.read_bytes),
        }  # fmt: skip
        times = rounds(contenders, bench.rounds * 2 - 1, lambda name, value: None)
    bench.add(
        "store_composite_read", "Three tiers, the first has it: read of 1 KiB", peer="reading that tier", bar=1.2,
        better="lower", samples=over(times["ours"], times["peer"]), engine="CompositeStore of local stores",
    )  # fmt: skip


GROUPS = {
    "store_calls": calls,
    "store_memory": memory,
    "store_listing": listing,
    "store_sqlite": sqlite_listing,
    "store_tiers": composite,
}
