"""Objects and folders: write, look, list, copy, move and delete, the same on every backend that has the feature."""

import tempfile

from omnistorage import LocalBackend, MemoryBackend, Purge, SetMetadata, open_backend, ops, power


def main(folder: str) -> None:
    backend = open_backend("file", {"root": folder})  # open_backend("file:///data") is the same kind of backend
    for path in ("2024/jan.txt", "2024/feb.txt", "2025/jan.txt", "notes.txt"):
        ops.write_bytes(backend, path, f"this is {path}".encode())

    info = backend.stat("2024/jan.txt")
    print(f"stat: {info.name} has {info.size} bytes, changed {info.modified_at:%Y}, etag {info.etag is not None}")
    print("exists:", backend.exists("notes.txt"), backend.exists("2024"))  # a folder is no object

    print("list:", [found.path for found in backend.list()])  # everything below, in key order, lazily
    print("list 2024:", [found.path for found in backend.list("2024")])
    print("list_dir:", [(found.name, found.kind) for found in backend.list_dir()])

    backend.copy("notes.txt", "archive/notes.txt")
    backend.move("2025/jan.txt", "2024/mar.txt")
    print("read:", ops.read_bytes(backend, "2024/mar.txt").decode())
    print("delete:", backend.delete("notes.txt"), backend.delete("notes.txt"))  # it was there, it was absent

    # Between two backends a copy is streamed, and nothing appears unless every byte arrived.
    other = MemoryBackend()
    for found in backend.list():
        ops.copy(backend, found.path, other, found.path)
    print("copied:", [found.path for found in other.list()])

    # What a backend can do beyond the six basic methods is asked for, never guessed.
    features = backend.features
    print(f"features: atomic_write={features.atomic_write} copy={features.copy} user_metadata={features.user_metadata}")
    if (setter := power(other, SetMetadata)) is not None:
        print("metadata:", setter.set_metadata("2024/jan.txt", user_metadata={"owner": "ops"}).metadata)
    if (purge := power(backend, Purge)) is not None:
        purge.purge("2024")
    print("left:", [found.path for found in backend.list()])
    assert isinstance(backend, LocalBackend)
    assert [found.path for found in backend.list()] == ["archive/notes.txt"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
