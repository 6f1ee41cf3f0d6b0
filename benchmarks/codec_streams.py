"""Our streams through bz2, lz4, snappy and xz against the bare libraries, in the same blocks of 1 MiB; their memory.

The bars say what layers may cost: a tenth of the speed, and 32 MiB beyond what the library itself takes. For the memory
this file is its own child: ``ours|bare write|read CODEC PATH PLAIN MIB`` prints the MiB of peak memory beyond imports.
"""

import bz2
import hashlib
import lzma
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import google_crc32c  # noqa: F401  (counted among the imports)
import lz4.frame
import orjson
import snappy
from common import MIB, Bench, SameWork, file_digest, log_events, over, rounds, version

from omnistorage import LocalBackend
from omnistorage.compression import codec
from omnistorage.records import as_file
from omnistorage.records.byte_streams import DecodedReader, EncodedWriter


class SnappyCompressor:
    """python-snappy's, with the names of the others."""

    def __init__(self):
        self.compress = snappy.StreamCompressor().add_chunk

    def flush(self):
        return b""


class Lz4Compressor(lz4.frame.LZ4FrameCompressor):
    """lz4's with our settings: its header at once, as the others have it, and a content checksum."""

    def __init__(self):
        super().__init__(block_size=lz4.frame.BLOCKSIZE_MAX256KB, content_checksum=True)
        self.head = self.begin()

    def compress(self, data):
        head, self.head = self.head, b""
        return head + super().compress(data)


# name: suffix, MiB (the slow ones get less), engine, the library's own compressor and decompressor
CODECS = {
    "snappy": ("sz", 1024, version("python-snappy"), SnappyCompressor, snappy.StreamDecompressor),
    "lz4": ("lz4", 1024, version("lz4"), Lz4Compressor, lz4.frame.LZ4FrameDecompressor),
    "bz2": ("bz2", 64, "bz2", bz2.BZ2Compressor, bz2.BZ2Decompressor),
    "xz": ("xz", 32, "lzma", lambda: lzma.LZMACompressor(check=lzma.CHECK_CRC64), lzma.LZMADecompressor),
}


@cache
def blocks():
    """60 MiB of log events as NDJSON, in blocks of 1 MiB."""
    text = b"".join(orjson.dumps(event) + b"\n" for event in log_events(300_000))
    return [text[at : at + MIB] for at in range(0, 60 * MIB, MIB)]


def bare_write(name, path, data):
    made = CODECS[name][3]()
    with open(path, "wb") as file:
        for block in data:
            file.write(made.compress(block))
        file.write(made.flush())


def our_write(name, path, data):
    with (
        LocalBackend(path.parent) as backend,
        EncodedWriter(backend.open_writer(path.name), codec(name).encoder()) as writer,
    ):
        for block in data:
            writer.write(block)


def bare_read(name, path, sink):
    made = CODECS[name][4]()
    with open(path, "rb") as file:
        while block := file.read(MIB):
            sink(made.decompress(block))


def our_read(name, path, sink):
    with (
        LocalBackend(path.parent) as backend,
        DecodedReader(backend.open_reader(path.name), codec(name).decoder()) as reader,
    ):
        while block := reader.read(MIB):
            sink(block)


def our_file(path, mode):
    name = next(name for name, row in CODECS.items() if path.name.endswith(row[0]))
    return as_file(DecodedReader(LocalBackend(path.parent).open_reader(path.name), codec(name).decoder()))


def count(read, name, path):
    found = []
    read(name, path, lambda block: found.append(len(block)))
    return sum(found)


def digest(read, name, path):
    found = hashlib.sha256()
    read(name, path, found.update)
    return found.hexdigest()


def speed(bench, name):
    """Writing and reading one codec, in turns with the bare library."""
    size = max(CODECS[name][1] // 16, 8) if bench.quick else CODECS[name][1]
    data = (blocks() * (size // 60 + 1))[:size]
    path = bench.folder / f"codec.{CODECS[name][0]}"
    contents = SameWork()

    def check_and_clear(who, value):
        contents.check(file_digest(path, our_file))
        path.unlink()

    contenders = {
        "peer": lambda: bare_write(name, path, data),
        "ours": lambda: our_write(name, path, data),
    }
    report(bench, name, "write", size, rounds(contenders, bench.rounds, check_and_clear))
    our_write(name, path, data)
    for read in (bare_read, our_read):
        contents.check(digest(read, name, path))
    counts = SameWork()
    contenders = {
        "peer": lambda: count(bare_read, name, path),
        "ours": lambda: count(our_read, name, path),
    }
    report(bench, name, "read", size, rounds(contenders, bench.rounds, lambda who, n: counts.check(n)))
    path.unlink()


def report(bench, name, verb, size, times):
    bench.add(
        f"codec_{name}_{verb}", f"{verb} {size} MiB of NDJSON.{CODECS[name][0]} in blocks of 1 MiB",
        peer=f"bare {CODECS[name][2]} and open()", bar=0.9, better="higher", samples=over(times["peer"], times["ours"]),
        engine=CODECS[name][2],
    )  # fmt: skip


def memory(bench: Bench):
    """Peak memory of all four beyond what the bare library takes for the same."""
    plain = bench.folder / "plain"
    plain.write_bytes(b"".join(blocks()[:8]))
    for name, (suffix, size, engine, *_) in CODECS.items():
        path = bench.folder / f"m.{suffix}"
        mib = str(min(size, 256) // (8 if bench.quick else 1))
        for verb in ("write", "read"):
            grown = {}  # in MiB
            for who in ("bare", "ours"):
                arguments = [sys.executable, __file__, who, verb, name, path, plain, mib]
                grown[who] = float(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
            bench.add(
                f"codec_{name}_{verb}_memory", f"peak memory: {verb} {mib} MiB of NDJSON.{suffix}",
                peer=f"beyond that of bare {engine}", bar=32, better="lower", unit="MiB",
                samples=[max(grown["ours"] - grown["bare"], 0)], engine=engine,
            )  # fmt: skip
        path.unlink()


def peak():
    """The most memory this process has had, in KiB."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def child(who, verb, name, path, plain, mib):
    with open(plain, "rb") as file:
        data = [file.read(MIB) for _ in range(8)]
    codec(name)  # its module counts among the imports, what an encoder takes does not
    before = peak()
    if verb == "write":
        {"bare": bare_write, "ours": our_write}[who](name, Path(path), (data * (int(mib) // 8 + 1))[: int(mib)])
    else:
        {"bare": bare_read, "ours": our_read}[who](name, Path(path), len)
    print(f"{(peak() - before) / 1024:.1f}")


def snappy_speed(bench: Bench):
    """Snappy streams against python-snappy's."""
    speed(bench, "snappy")


def lz4_speed(bench: Bench):
    """LZ4 streams against the lz4 library's."""
    speed(bench, "lz4")


def bz2_speed(bench: Bench):
    """Bzip2 streams against Python's bz2."""
    speed(bench, "bz2")


def xz_speed(bench: Bench):
    """XZ streams against Python's lzma."""
    speed(bench, "xz")


GROUPS = {"snappy": snappy_speed, "lz4": lz4_speed, "bz2": bz2_speed, "xz": xz_speed, "codec_memory": memory}

if __name__ == "__main__":
    child(*sys.argv[1:])
