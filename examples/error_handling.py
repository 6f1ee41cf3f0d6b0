"""Errors: one tree, the built-in classes beside it, bad records by policy, and damage that never passes unnoticed."""

import tempfile

from omnistorage import LocalBackend, MemoryBackend, WriteOptions, open_backend, open_records, ops
from omnistorage.errors import CapabilityNotSupported, ConfigError, CorruptData, NotFound, RecordError, StorageError


def main(folder: str) -> None:
    backend = LocalBackend(folder)

    # Every error is a StorageError that knows where it happened; many are the built-in class as well.
    try:
        backend.open_reader("logs/none.txt")
    except FileNotFoundError as error:
        print("not found:", isinstance(error, NotFound), error.path, error.op, error.backend)

    # A requirement that a backend cannot honour is refused, never ignored.
    try:
        backend.open_writer("x", WriteOptions(user_metadata={"owner": "me"}))
    except CapabilityNotSupported as error:
        print("refused:", error.capability)

    # Wrong settings say what would be right.
    for wrong in (
        lambda: open_backend("fil", {}),
        lambda: open_records(backend, "x.ndjson.zst", "w", compression="gzip"),
    ):
        try:
            wrong()
        except ConfigError as error:
            print("config:", error)

    # Bad records: the default raises at the bad one, and the good ones around it are never lost.
    ops.write_bytes(backend, "mixed.ndjson", b'{"n":1}\n{"n":\n{"n":3}\nnonsense\n{"n":5}\n')
    with open_records(backend, "mixed.ndjson", "r") as reader:
        try:
            list(reader)
        except RecordError as error:
            print(f"record {error.number} at byte {error.offset}: {error.raw!r}")
        print("and on:", next(iter(reader)))

    with open_records(backend, "mixed.ndjson", "r", on_error="collect", max_bad=10) as reader:
        print("collected:", [record["n"] for record in reader], [bad.number for bad in reader.bad.errors])

    with (
        open_records(backend, "dead.ndjson", "w") as dead,
        open_records(backend, "mixed.ndjson", "r", on_error=dead) as reader,
    ):
        print("good ones:", len(list(reader)))
    with open_records(backend, "dead.ndjson", "r") as letters:
        raw = [letter["raw"] for letter in letters]
    print("dead letters:", raw)
    assert raw == ['{"n":', "nonsense"]

    # Damage: a cut or a flipped bit in what was written is an error, never a shorter file.
    memory = MemoryBackend()
    with open_records(memory, "a.ndjson.zst", "w") as writer:
        writer.write_many({"n": n} for n in range(1000))
    ops.write_bytes(memory, "cut.ndjson.zst", ops.read_bytes(memory, "a.ndjson.zst")[:-1])
    try:
        with open_records(memory, "cut.ndjson.zst", "r") as reader:
            list(reader)
    except CorruptData as error:
        print("cut:", error)
    else:
        raise AssertionError("a cut went unnoticed")
    print("all of them:", all(issubclass(kind, StorageError) for kind in (NotFound, RecordError, CorruptData)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
