"""A cache in front of a slow store: what is kept is checked by its etag, bounded, and never the reason for an error."""

import tempfile
from pathlib import Path

from omnistorage import Cache, Encrypt, LocalBackend, MemoryBackend, Observe, Prefix, Store


def main(folder: str) -> None:
    asked: list[str] = []
    far = MemoryBackend()  # stands for a bucket: S3Backend("bucket")
    origin = Observe(far, lambda event: asked.append(event.op) if event.phase == "start" else None)
    near = LocalBackend(folder)
    cache = Cache(origin, near, max_bytes=1 << 30)
    store = Store(cache)

    store.write("models/a.bin", b"weights " * 1000)
    for _ in range(3):
        asked.clear()
        store.read_bytes("models/a.bin")
        print("asked:", asked)
    print("a range:", store.read("models/a.bin", offset=8, length=7).read(), cache.stats)

    # Somebody else changes the object: each opening asks for its etag, so that is seen at once.
    Store(far).write("models/a.bin", b"new weights", overwrite=True)
    print("changed behind its back:", store.read_bytes("models/a.bin"))

    # Within a ttl nothing is asked at all: what is read was current at most that long ago.
    eager = Cache(origin, Prefix(near, "eager"), ttl=60)
    Store(eager).read_bytes("models/a.bin")
    asked.clear()
    print("within the ttl:", Store(eager).read_bytes("models/a.bin"), asked)
    eager.invalidate("models")

    # What is kept can be kept encrypted, and whatever becomes of it, reads go on.
    private = Cache(origin, Encrypt(Prefix(near, "private"), bytes(32)))
    Store(private).read_bytes("models/a.bin")
    for file in (Path(folder) / "private").rglob("*"):
        if file.is_file():
            assert b"weights" not in file.read_bytes()
            file.write_bytes(b"damaged")
    print("damaged:", Store(private).read_bytes("models/a.bin"), "errors:", private.stats.errors)
    assert (cache.stats.hits, cache.stats.misses) == (3, 2)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
