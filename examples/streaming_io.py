"""Byte streams: read and write in pieces, read ranges, go through a codec, and lend a stream to another library."""

import csv
import hashlib
import io
import tempfile

from omnistorage import LocalBackend, MemoryBackend, ReadOptions, as_file, open_records, ops
from omnistorage.records import open_decoded


def main(folder: str) -> None:
    local, memory = LocalBackend(folder), MemoryBackend()

    # Nothing here holds a whole object: the source is a generator, the copy moves a block at a time.
    blocks = (bytes([n]) * 65536 for n in range(64))
    with local.open_writer("big.bin") as writer:
        for block in blocks:
            writer.write(block)
    print(f"wrote {writer.result.size} bytes")

    digest = hashlib.sha256()
    with local.open_reader("big.bin") as reader, memory.open_writer("big.bin") as writer:
        while block := reader.read(1 << 20):  # may be short; empty only at the end
            digest.update(block)
            writer.write(block)
    print(f"streamed {writer.result.size} bytes, sha256 {digest.hexdigest()[:12]}")
    assert ops.read_bytes(local, "big.bin") == ops.read_bytes(memory, "big.bin")

    with memory.open_reader("big.bin", ReadOptions(offset=65535, length=2)) as reader:
        print("two bytes across a border:", reader.read())

    # Records one by one, without a list of them anywhere.
    with open_records(local, "numbers.ndjson.zst", "w") as records:
        records.write_many({"n": n} for n in range(100_000))
    with open_records(local, "numbers.ndjson.zst", "r") as found:
        print("sum:", sum(record["n"] for record in found))

    # The decoded bytes of an object, whatever it is compressed with.
    with open_decoded(local.open_reader("numbers.ndjson.zst")) as decoded:
        print("decoded:", sum(len(block) for block in iter(lambda: decoded.read(65536), b"")), "bytes")

    # A library that wants a file gets one; leaving the block by an exception would discard the object.
    with as_file(memory.open_writer("table.csv")) as raw:
        text = io.TextIOWrapper(raw, newline="")
        csv.writer(text).writerows([["id", "name"], [1, "one"], [2, "two"]])
        text.flush()
        text.detach()
    with io.TextIOWrapper(io.BufferedReader(as_file(memory.open_reader("table.csv"))), newline="") as text:
        rows = list(csv.DictReader(text))
    print("csv:", rows)
    assert rows == [{"id": "1", "name": "one"}, {"id": "2", "name": "two"}]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
