"""Damages the segments of a log, or of a spool, as bad disks and careless hands do."""

from __future__ import annotations

from pathlib import Path

from omnistorage.segments import ENTRY_HEAD


def segments(folder):
    return sorted(Path(folder).glob("*.seg"))


def harm(rng, folder):
    """Damage one segment, or two, in one of many ways."""
    path, *others = rng.sample(segments(folder), k=min(2, len(segments(folder))))
    data = bytearray(path.read_bytes())
    parts = [bytes(data)] if not data else [*frames_of(data)]
    kind = rng.choice(["flip", "double", "cut out", "swap", "truncate", "unlink", "empty", "shuffle", "stray"])
    if kind == "flip" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "double":
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(parts))
        data = b"".join(parts)
    elif kind == "cut out":
        del parts[rng.randrange(len(parts))]
        data = b"".join(parts)
    elif kind == "shuffle":
        rng.shuffle(parts)
        data = b"".join(parts)
    elif kind == "swap" and others:
        data = others[0].read_bytes()
        others[0].write_bytes(path.read_bytes())
    elif kind == "truncate":
        data = data[: rng.randrange(len(data) + 1)]
    elif kind == "empty":
        data = b""
    elif kind == "stray" and others:
        data += rng.choice([*frames_of(others[0].read_bytes()), b"x"])
    path.write_bytes(data)
    if kind == "unlink":
        path.unlink()


def frames_of(data):
    """The entries in ``data`` as far as their lengths say; the rest is one more."""
    found, at = [], 0
    while at + ENTRY_HEAD <= len(data):
        end = at + ENTRY_HEAD + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        found.append(bytes(data[at:end]))
        at = end
    return [*found, bytes(data[at:])] if at < len(data) else found
