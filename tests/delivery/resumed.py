"""What the tests of ``ResumableWriter`` share: objects of a few bytes, in stores whose parts are of eight."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from datetime import timedelta

from omnistorage import LocalBackend, MemoryBackend, ops
from omnistorage.backends.s3 import S3Backend
from omnistorage.core import StaleUploads, power
from omnistorage.core.stages import StageBase
from omnistorage.delivery import ResumableWriter

from ..budget import pick
from ..servers import server

PART = 8
NUMBERS = itertools.count()
TEXT = bytes(range(65, 65 + 3 * PART))
SLOW = pick(default=10, ci=100, soak=2000)


@dataclass(frozen=True)
class Raw:
    """Bytes as they are: a checkpoint can stand at any of them."""

    name = "raw"
    suffixes = (".raw",)

    def encoder(self):
        return RawEncoder()

    def decoder(self, on_bad=None):
        raise NotImplementedError("it is read as bytes")


class RawEncoder(StageBase):
    def encode(self, record):
        return record

    def _feed(self, item):
        yield b"".join(item)


def raw(store, path="d/x.raw", **settings):
    return ResumableWriter(store, path, **{"format": Raw(), "part_size": PART, **settings})


def again(store, token, **settings):
    return ResumableWriter.resume(store, json.dumps(token), **{"format": Raw(), "part_size": PART, **settings})


def ended(writer):
    """The token of a writer that ends here."""
    token = writer.checkpoint()
    writer.abort()
    return token


def tiny_s3(client="sdk", *, endpoint=None, part_size=PART):
    """A server whose parts may be of a few bytes."""
    info = server("moto_tiny")
    store = S3Backend(
        info["bucket"],
        f"t{os.getpid()}-{next(NUMBERS)}",
        endpoint_url=endpoint or info["endpoint"],
        access_key=info["access_key"],
        secret_key=info["secret_key"],
        vendor="moto",
        client=client,
    )
    store.part_size = part_size
    return store


def left(store):
    """What anybody keeps for a writer."""
    found = [info.path for info in store.list() if ".resume" in info.path]
    stale = power(store, StaleUploads)
    if stale is not None:
        found += [info.path for info in stale.stale_uploads(older_than=timedelta(days=-1))]
    return found


SUFFIX = {"none": "", "gzip": ".gz", "zstd": ".zst", "snappy": ".sz", "lz4": ".lz4", "bz2": ".bz2", "xz": ".xz"}
PLACES = ("memory", "local", "s3", "s3 by obstore")


def opened(place, tmp_path):
    if place == "memory":
        yield MemoryBackend()
    elif place == "local":
        yield LocalBackend(tmp_path / "local")
    else:
        with tiny_s3("sdk" if place == "s3" else "auto") as store:
            yield store


def kept(store, size=19):
    writer = raw(store)
    writer.write(TEXT[:size])
    token = writer.checkpoint()
    writer.abort()
    return token


def lives(store, cuts, path, lost=b"what the life that ended had written behind"):
    """Write ``TEXT`` in several lives that end at ``cuts``, each with something behind its checkpoint."""
    token, begin = None, 0
    for end in cuts:
        writer = raw(store, path) if token is None else again(store, token)
        writer.write(TEXT[begin:end])
        token, begin = writer.checkpoint(), end
        assert token["bytes"] == end
        writer.write(lost)
        writer.flush()
        writer.abort()
        assert not ops.extended(store).exists(path)
    with again(store, token) as writer:
        writer.write(TEXT[begin:])
    assert ops.read_bytes(store, path) == TEXT
