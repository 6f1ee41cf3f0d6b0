"""Records and bytes out of compressed local files, against smart_open with orjson reading the very same file."""

import hashlib

import orjson
import smart_open
from common import Bench, SameWork, log_events, over, rounds, version

from omnistorage import open_backend, open_records
from omnistorage.records import open_decoded


def smart_objects(path):
    count = 0
    with smart_open.open(path, "rb") as file:
        for line in file:
            orjson.loads(line)
            count += 1
    return count


def objects(path):
    count = 0
    with open_records(path, "r") as reader:
        for _ in reader:
            count += 1
    return count


def batches(path):
    count = 0
    with open_records(path, "r") as reader:
        for batch in reader.iter_batches():
            count += len(batch)
    return count


def smart_bytes(path, size):
    count = 0
    with smart_open.open(path, "rb") as file:
        while block := file.read(size):
            count += len(block)
    return count


def plain_bytes(path, size):
    folder, _, name = path.rpartition("/")
    count = 0
    with open_backend("file", {"root": folder}) as backend, open_decoded(backend.open_reader(name)) as reader:
        while block := reader.read(size):
            count += len(block)
    return count


def in_memory(data):
    count = 0
    for line in data.split(b"\n"):
        if line:
            orjson.loads(line)
            count += 1
    return count


def prepare(bench, suffix):
    """The file, written by us with the checksum on, and proof that both sides read the same records out of it."""
    path = str(bench.folder / f"r.ndjson{suffix}")
    with open_records(path, "w") as writer:
        writer.write_many(log_events(bench.events))
    same = SameWork()
    for records in (map(orjson.loads, smart_open.open(path, "rb")), open_records(path, "r")):
        digest = hashlib.sha256()
        for record in records:
            digest.update(orjson.dumps(record))
        same.check(digest.hexdigest())
    return path


def read_file(bench, suffix, peer, engine, bars):
    """Compare all three ways of reading; returns the file."""
    path = prepare(bench, suffix)
    same = SameWork()
    contenders = {
        "peer": lambda: smart_objects(path),
        "objects": lambda: objects(path),
        "batches": lambda: batches(path),
    }
    times = rounds(contenders, bench.rounds, lambda name, count: same.check(count))
    ratios = {
        "objects": over(times["peer"], times["objects"]),
        "batches": over(times["peer"], times["batches"]),
        "bytes": read_bytes(bench, path, 64 << 10),
        "bytes_1mib": read_bytes(bench, path, 1 << 20),
    }
    shown = {
        "objects": "one object at a time",
        "batches": "in batches",
        "bytes": "plain bytes in blocks of 64 KiB, as shutil.copyfileobj asks for them",
        "bytes_1mib": "plain bytes in blocks of 1 MiB",
    }
    for name, samples in ratios.items():
        bench.add(
            f"read_{suffix[1:]}_{name}", f"read NDJSON{suffix}: {shown[name]}",
            peer=peer if name.startswith("bytes") else f"{peer} + orjson", bar=bars[name.partition("_")[0]],
            better="higher", samples=samples, engine=engine,
        )  # fmt: skip
    return path


def read_bytes(bench, path, block):
    """Ratios of reading plain bytes, ``block`` at a time."""
    same = SameWork()
    passes = range(1 if path.endswith(".gz") else 5)  # one pass over zstd is too short to time well
    contenders = {
        "peer": lambda: sum(smart_bytes(path, block) for _ in passes),
        "bytes": lambda: sum(plain_bytes(path, block) for _ in passes),
    }
    times = rounds(contenders, bench.rounds * 2 - 1, lambda name, count: same.check(count))
    return over(times["peer"], times["bytes"])


def read_zst(bench: Bench):
    """NDJSON.zst: objects, batches and plain bytes; and batches against parsing in memory."""
    peer = f"{version('smart_open')} (backports.zstd)"
    bars = {"objects": 1.05, "batches": 1.2, "bytes": 1.1}
    path = read_file(bench, ".zst", peer, version("zstandard"), bars)
    with smart_open.open(path, "rb") as file:
        data = file.read()
    same = SameWork()
    contenders = {"peer": lambda: in_memory(data), "batches": lambda: batches(path)}
    times = rounds(contenders, bench.rounds, lambda name, count: same.check(count))
    bench.add(
        "read_zst_of_memory", "read NDJSON.zst in batches, as a share of parsing decoded bytes in memory",
        peer="split + orjson.loads in memory", bar=0.85, better="higher",
        samples=over(times["peer"], times["batches"]), engine=version("zstandard"),
    )  # fmt: skip


def read_gz(bench: Bench):
    """NDJSON.gz: objects, batches and plain bytes."""
    peer = f"{version('smart_open')} (gzip)"
    read_file(bench, ".gz", peer, version("isal"), {"objects": 1.5, "batches": 1.7, "bytes": 2.5})


GROUPS = {"read_zst": read_zst, "read_gz": read_gz}
