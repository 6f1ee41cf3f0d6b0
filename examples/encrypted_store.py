"""Client-side encryption: what is stored tells nothing, ranges stay cheap, damage is noticed, and keys are rotated."""

import secrets
import tempfile
from pathlib import Path

from omnistorage import ConfigError, CorruptData, Encrypt, LocalBackend, Secret, Store


def main(folder: str) -> None:
    # A real key comes from elsewhere: Secret.env("STORE_KEY"), Secret.file(...), Secret.command([...]).
    old, new = (Secret(secrets.token_hex(32)) for _ in range(2))
    backend = LocalBackend(folder)
    before = Store(Encrypt(backend, old, key_id="2025"))
    before.write("reports/q1.txt", b"confidential: " + b"9" * 200_000)
    print("the content:", before.stat("reports/q1.txt").size, "bytes")

    stored = (Path(folder) / "reports/q1.txt").read_bytes()
    print("stored:", len(stored), "bytes, readable:", b"confidential" in stored)

    # A range reads, verifies and decrypts only the chunks of 64 KiB that it touches.
    with before.read("reports/q1.txt", offset=100_000, length=3) as part:
        print("a range:", part.read())

    # Rotation: both keys can read, the new one writes, and what there is is written anew.
    both = Encrypt(backend, {"2025": old, "2026": new}, key_id="2026")
    for info in list(both.list()):
        both.reencrypt(info.path)
    after = Store(Encrypt(backend, new, key_id="2026"))
    print("rotated:", after.read_bytes("reports/q1.txt")[:12])
    try:
        before.read_bytes("reports/q1.txt")
    except ConfigError as error:
        print("the old key alone:", error.args[0])

    # Whatever is changed, cut off or moved within what is stored is noticed.
    damaged = bytearray((Path(folder) / "reports/q1.txt").read_bytes())
    damaged[150_000] ^= 1
    (Path(folder) / "reports/q1.txt").write_bytes(damaged)
    try:
        after.read_bytes("reports/q1.txt")
    except CorruptData as error:
        print(f"damaged: {error.path} from byte {error.offset}")
    assert repr(both).endswith("key_id='2026')")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
