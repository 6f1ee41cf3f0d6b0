"""Records into compressed local files, against smart_open with orjson, one million log events of about 220 bytes."""

from pathlib import Path

import orjson
import smart_open
from common import Bench, SameWork, file_digest, log_events, over, rounds, version

from omnistorage import Gzip, open_records


def smart(path, records):
    """What people write today."""
    with smart_open.open(path, "wb") as file:
        for record in records:
            file.write(orjson.dumps(record) + b"\n")
    return path


def one_by_one(path, records, codec=None):
    with open_records(path, "w", compression=codec) as writer:
        for record in records:
            writer.write(record)
    return path


def many(path, records, codec=None):
    with open_records(path, "w", compression=codec) as writer:
        writer.write_many(records)
    return path


class Written:
    """Looks at each file that was written: the same content everywhere; then removes it."""

    def __init__(self):
        self.same, self.sizes = SameWork(), {}

    def __call__(self, name, path):
        path = Path(path)
        if name not in self.sizes:  # the writers are deterministic: the first file of each is enough
            self.sizes[name] = path.stat().st_size
            self.same.check(file_digest(path, smart_open.open))
        path.unlink()


def write_zst(bench: Bench):
    """NDJSON.zst level 3 with checksum: write_many and write."""
    events, path = log_events(bench.events), str(bench.folder / "w.ndjson.zst")
    contenders = {
        "peer": lambda: smart(path, events),
        "many": lambda: many(path, events),
        "one": lambda: one_by_one(path, events),
    }
    times = rounds(contenders, bench.rounds, Written())
    peer = f"{version('smart_open')} (backports.zstd) + orjson"
    for name, what, bar in (("many", "write_many", 1.5), ("one", "write, one call per record", 1.25)):
        bench.add(
            f"write_zst_{name}", f"write NDJSON.zst level 3 with checksum: {what}", peer=peer, bar=bar, better="higher",
            samples=over(times["peer"], times[name]), engine=version("zstandard"),
        )  # fmt: skip


def write_gz(bench: Bench):
    """NDJSON.gz, default and fast level, with and without [fast]; and the sizes against zlib level 6."""
    events, path = log_events(bench.events), str(bench.folder / "w.ndjson.gz")
    contenders = {
        "peer": lambda: smart(path, events),
        "default": lambda: many(path, events),
        "level1": lambda: many(path, events, Gzip(level=1)),
        "zlib": lambda: many(path, events, Gzip(engine="zlib")),
    }
    written = Written()
    times = rounds(contenders, bench.rounds, written)
    peer = f"{version('smart_open')} (gzip, its level 9) + orjson"
    for name, what, bar, engine in (
        ("default", "default level with [fast]", 3.5, version("zlib-ng")),
        ("level1", "Gzip(level=1) with [fast]", 9, version("isal")),
        ("zlib", "default level without [fast]", 2, "zlib"),
    ):
        bench.add(
            f"write_gz_{name}", f"write NDJSON.gz: {what}", peer=peer, bar=bar, better="higher",
            samples=over(times["peer"], times[name]), engine=engine,
        )  # fmt: skip
    for name, what, bar, engine in (
        ("default", "default level with [fast]", 1.05, version("zlib-ng")),
        ("level1", "Gzip(level=1) with [fast]", 1.25, version("isal")),
    ):
        bench.add(
            f"write_gz_{name}_size", f"size of NDJSON.gz: {what}", peer="zlib level 6, same bytes", bar=bar,
            better="lower", samples=[written.sizes[name] / written.sizes["zlib"]], engine=engine,
        )  # fmt: skip


GROUPS = {"write_zst": write_zst, "write_gz": write_gz}
