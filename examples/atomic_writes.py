"""Close publishes, abort discards: what readers see of a write that fails, races or must survive a power cut."""

import hashlib
import tempfile
from pathlib import Path

from omnistorage import AlreadyExists, CorruptData, LocalBackend, WriteOptions, open_records, ops


def main(folder: str) -> None:
    backend = LocalBackend(folder)
    ops.write_bytes(backend, "report.txt", b"old")

    # While it is written nothing is visible, and an exception leaves the old content.
    try:
        with backend.open_writer("report.txt") as writer:
            writer.write(b"half of the new ")
            print("during the write:", ops.read_bytes(backend, "report.txt"))
            raise RuntimeError("the source broke")
    except RuntimeError as error:
        print(f"after {error!r}:", ops.read_bytes(backend, "report.txt"))

    # Through all the layers: no truncated object, no temporary file.
    try:
        with open_records(backend, "events.ndjson.zst", "w") as records:
            records.write({"n": 1})
            raise RuntimeError("stop")
    except RuntimeError:
        print(
            "records visible:",
            backend.exists("events.ndjson.zst"),
            "files:",
            sorted(p.name for p in Path(folder).iterdir()),
        )

    # Create only: exactly one winner.
    try:
        ops.write_bytes(backend, "report.txt", b"mine", WriteOptions(overwrite=False))
    except AlreadyExists as error:
        print("create only:", error)

    # Two steps, for whoever publishes several objects together: all bytes are stored, only the name is missing.
    first, second = backend.open_writer("a.bin"), backend.open_writer("b.bin")
    for writer in (first, second):
        writer.write(b"content")
        writer.prepare()
    print("prepared:", backend.exists("a.bin"), backend.exists("b.bin"))
    first.close()
    second.close()
    print("closed:", backend.exists("a.bin"), backend.exists("b.bin"))

    # Durable: written, synced, renamed and the folder synced before close returns.
    print("durable:", ops.write_bytes(backend, "ledger.bin", b"42", WriteOptions(durable=True)).size, "bytes")

    # An announced digest is verified before anything becomes visible.
    expect = {"sha256": hashlib.sha256(b"what was meant").hexdigest()}
    try:
        ops.write_bytes(backend, "report.txt", b"what arrived", WriteOptions(expect=expect))
    except CorruptData as error:
        print("digest:", str(error)[:40], "...; still", ops.read_bytes(backend, "report.txt"))
    assert ops.read_bytes(backend, "report.txt") == b"old"
    assert [found.path for found in backend.list()] == ["a.bin", "b.bin", "ledger.bin", "report.txt"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
