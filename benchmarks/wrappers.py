"""Encrypt against bare AES-GCM over the same chunks and streams, and a cache's hit against reading a local file."""

import hashlib
import os

from common import MIB, Bench, SameWork, over, rounds, version
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from omnistorage import Cache, Encrypt, LocalBackend, MemoryBackend, ops
from omnistorage.testing import BasicBackend

KEY = bytes(range(32))
CHUNK = 65536


class Sink(BasicBackend):
    """Takes what is written and keeps nothing: memory for it would cost more than encrypting it."""

    def open_writer(self, path, *options):
        writer = super().open_writer(path)
        writer.write = len
        return writer


def nonce(number):
    return number.to_bytes(12, "big")


def encrypt(bench: Bench):
    """A stream of 256 MiB, encrypted and decrypted, in blocks of 1 MiB."""
    count = 4 if bench.quick else 256
    blocks = [hashlib.shake_256(b"%d" % n).digest(MIB) for n in range(count)]
    sink, inner, aes = Sink(), MemoryBackend(), AESGCM(KEY)
    store = Encrypt(inner, KEY)

    def ours_in(to):
        with to.open_writer("ours") as writer:
            for block in blocks:
                writer.write(block)

    def bare_in(to):
        number = 0
        with to.open_writer("bare") as writer:
            for block in blocks:
                view = memoryview(block)
                for at in range(0, MIB, CHUNK):
                    writer.write(aes.encrypt(nonce(number), view[at : at + CHUNK], None))
                    number += 1

    def ours_out(seen=len):
        with store.open_reader("ours") as reader:
            while data := reader.read(MIB):
                seen(data)

    def bare_out(seen=len):
        number = 0
        with inner.open_reader("bare") as reader:
            while data := reader.read(CHUNK + 16):
                seen(aes.decrypt(nonce(number), data, None))
                number += 1

    ours_in(store)
    bare_in(inner)
    same = SameWork()
    for run in (ours_out, bare_out):
        digest = hashlib.sha256()
        run(digest.update)
        same.check(digest.hexdigest())
    pairs = {
        "encrypt": {"ours": lambda: ours_in(Encrypt(sink, KEY)), "bare": lambda: bare_in(sink)},
        "decrypt": {"ours": ours_out, "bare": bare_out},
    }
    for kind, contenders in pairs.items():
        times = rounds(contenders, bench.rounds * 2 - 1, lambda name, value: None)
        bench.add(
            f"wrapper_{kind}", f"Encrypt: {kind} a stream", peer="bare AESGCM, the same chunks and streams", bar=0.8,
            better="higher", samples=over(times["bare"], times["ours"]), engine=version("cryptography"),
        )  # fmt: skip


def cache(bench: Bench):
    """A cache hit on disk, 1 MiB, asked of the origin each time, against pathlib."""
    count, repeat = (4, 1) if bench.quick else (20, 10)
    for folder in ("into", "plain"):
        (bench.folder / folder).mkdir()
    origin = MemoryBackend()
    store = Cache(origin, LocalBackend(bench.folder / "into"))
    names = [f"{n:02}" for n in range(count)]
    same = SameWork()
    for name in names:
        data = os.urandom(MIB)
        (bench.folder / "plain" / name).write_bytes(data)
        ops.write_bytes(origin, name, data)
    same.check([hashlib.sha256((bench.folder / "plain" / name).read_bytes()).digest() for name in names])
    for _ in range(2):
        same.check([hashlib.sha256(ops.read_bytes(store, name)).digest() for name in names])

    def run(call):
        for _ in range(repeat):
            for name in names:
                call(name)

    contenders = {
        "ours": lambda: run(lambda name: ops.read_bytes(store, name)),
        "pathlib": lambda: run(lambda name: (bench.folder / "plain" / name).read_bytes()),
    }
    times = rounds(contenders, bench.rounds * 2 - 1, lambda name, value: None)
    if store.stats.misses != count or store.stats.errors:
        raise SystemExit(f"these were no hits: {store.stats}")
    bench.add(
        "wrapper_cache_hit", "Cache: a hit on disk, 1 MiB, etag asked", peer="pathlib", bar=0.7, better="higher",
        samples=over(times["pathlib"], times["ours"]), engine="Cache on MemoryBackend into LocalBackend",
    )  # fmt: skip


GROUPS = {"wrapper_encrypt": encrypt, "wrapper_cache": cache}
