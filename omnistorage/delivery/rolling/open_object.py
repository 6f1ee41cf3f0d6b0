"""One object on its way: the records of one partition between two rolls."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple, NoReturn

from omnistorage.core import Backend, Writer
from omnistorage.core.stages import Codec, Format
from omnistorage.delivery.verified_sink import Metered
from omnistorage.errors import StorageError, WriterClosed
from omnistorage.records import BadRecords, RecordWriter, open_decoded
from omnistorage.records.byte_streams import BLOCK


class Committed(NamedTuple):
    """An object that was published. ``sha256`` is the digest of its ``bytes`` bytes as stored, ``raw_bytes`` counts
    them before compression; ``first`` and ``last`` are the sequence numbers of its first and last record."""

    path: str
    records: int
    bytes: int
    raw_bytes: int
    sha256: str
    first: int
    last: int


class Progress(NamedTuple):
    """Counters. ``taken`` records came in, of which ``bad`` and ``late`` ones were dealt with apart, ``dead_lettered``
    of the bad ones by whoever takes them; ``records`` are published in ``objects``, which are ``bytes`` as stored and
    ``raw_bytes`` before compression; ``open`` and ``closing`` objects are on their way. ``skipped`` ones were left out
    (``names="deterministic"``), as an object that was published before has them. Every record up to sequence number
    ``durable`` is published or dealt with, or safe in the spool.

    With a spool: ``spooled`` records, which take ``spooled_bytes``, are not published yet; the store was given them
    again ``retried`` times, after ``last_error``, which is None while all is well; ``dropped`` ones had to make room
    and ``damaged`` ones could not be read. The last ``lost`` ones that were taken, none of them acknowledged, the disk
    of the spool had not taken when the writer ended."""

    taken: int
    records: int
    objects: int
    bytes: int
    raw_bytes: int
    bad: int
    late: int
    open: int
    closing: int
    durable: int
    skipped: int = 0
    spooled: int = 0
    spooled_bytes: int = 0
    retried: int = 0
    dead_lettered: int = 0
    dropped: int = 0
    damaged: int = 0
    lost: int = 0
    last_error: str | None = None


def letters(bad: BadRecords) -> int:
    """How many bad records were handed to somebody."""
    return 0 if isinstance(bad.on_error, str) else bad.count


def measured(backend: Backend, path: str, codec: Codec | None, *, records: int, first: int, last: int) -> Committed:
    """The entry of an object that an earlier run has published."""
    digest, size, raw = hashlib.sha256(), 0, 0
    with backend.open_reader(path) as reader:
        while block := reader.read(BLOCK):
            digest.update(block)
            size += len(block)
    with open_decoded(backend.open_reader(path), codec or "none") as decoded:
        while block := decoded.next_block():
            raw += len(block)
    return Committed(path, records, size, raw, digest.hexdigest(), first, last)


def _ended(record: object) -> NoReturn:
    raise WriterClosed("the object is closed", op="write")


class OpenObject:
    """The writer of one object, and what decides when it is rolled."""

    __slots__ = (
        "_known",
        "_ratio",
        "_stored",
        "compressed",
        "first",
        "last",
        "opened",
        "path",
        "records",
        "since",
        "sink",
        "touched",
        "writer",
    )

    def __init__(
        self,
        backend: Backend,
        path: str,
        sink: Writer,
        form: Format[Any],
        codec: Codec | None,
        since: int,
        now: float,
        block: int,
    ) -> None:
        self.path = path
        self.since = since  # until the object is published, a replay must begin here or before
        self.sink = Metered(sink, backend, path)
        try:
            self.writer: RecordWriter[Any] = RecordWriter(
                self.sink, form, codec, block=block, path=path, root=getattr(backend, "url", None)
            )
        except BaseException:
            sink.abort()
            raise
        self.writer.warns = False
        self.compressed = codec is not None
        self.first = self.last = since
        self.records = 0
        self.opened = self.touched = now
        self._known = self._stored = 0  # raw bytes whose size as stored was known for sure, and that size
        self._ratio = 1.0

    def holds(self, limit: int) -> bool:
        """Whether ``limit`` bytes are in the object, as stored. A codec holds bytes back: where they may make up what
        is missing, they are pushed out to be counted, and a 64th below the limit is near enough."""
        if not self.compressed:
            return self.writer.raw_bytes >= limit
        raw = self.writer.raw_bytes
        if self._stored + (raw - self._known) * self._ratio < limit:
            return self.sink.bytes >= limit
        self.writer.flush()
        self._known, self._stored = raw, self.sink.bytes
        self._ratio = self._stored / raw if raw else 1.0
        return self._stored >= limit - limit // 64

    def commit(self) -> Committed:
        """Publish the object. ``CorruptData`` where the store says that it holds something else."""
        try:
            self.writer.close()
        except StorageError as error:
            error.path = error.path or self.path
            raise
        # What a closed one encodes with refers to the writer itself: without this its codec, with zstd some 8 MiB, is
        # kept until the next collection of garbage.
        self.writer._encode = _ended
        return Committed(
            self.path,
            self.records,
            self.sink.bytes,
            self.writer.raw_bytes,
            self.sink.sha256,
            self.first,
            self.last,
        )
