"""docs/encryption.md in as few lines as possible, sharing nothing with the package: what the tests hold it against."""

import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def _cipher(master, header):
    return AESGCM(HKDF(hashes.SHA256(), 32, salt=header[40:72], info=header).derive(master))


def encode(master, content, key_id="default", salt=bytes(32), prefix=bytes(7)):
    header = b"OMNIENC\x01" + key_id.encode().ljust(32, b"\0") + salt + prefix + b"\x10"
    parts = [content[at : at + 65536] for at in range(0, len(content), 65536)] or [b""]
    aes = _cipher(master, header)
    return header + b"".join(
        aes.encrypt(prefix + struct.pack(">IB", n, n == len(parts) - 1), part, None) for n, part in enumerate(parts)
    )


def decode(master, stored):
    header, body = stored[:80], stored[80:]
    assert header[:8] == b"OMNIENC\x01"
    assert header[79] == 16
    parts = [body[at : at + 65552] for at in range(0, len(body), 65552)]
    aes = _cipher(master, header)
    return b"".join(
        aes.decrypt(header[72:79] + struct.pack(">IB", n, n == len(parts) - 1), part, None)
        for n, part in enumerate(parts)
    )


def size_of(content_size):
    return 80 + content_size + 16 * max(1, (content_size + 65535) // 65536)
