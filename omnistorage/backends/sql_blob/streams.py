"""Readers and writers of the SQL blob backend.

A body of at most ``INLINE`` bytes comes with its row; a larger one is fetched in parts of at most ``INLINE`` bytes and
written in chunks of that size, each in a transaction of its own. Neither holds more than a few of them.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from os import getpid
from typing import Any

from omnistorage.backends.sql.connection import Link
from omnistorage.backends.streams import READ_BLOCK, ReaderBase, WriterBase
from omnistorage.core import ObjectInfo, ReadOptions, WriteOptions
from omnistorage.core.lifecycle import Closes
from omnistorage.errors import CapabilityNotSupported, CorruptData, ReaderClosed, StorageError, WriterClosed

from .garbage_collection import pin
from .integrity import check_size, digest_check
from .listing import as_time
from .schema import INLINE
from .transactions import Publication, as_json, new_token

_FIRST_FETCH = 64 << 10
# --- reading ----------------------------------------------------------------------------------------------------------


class InlineReader(Closes):
    """Over bytes that came with the row. There is nothing to wait for and nothing to give back, so it does without the
    lock that other readers need; ``info`` is made of the row when somebody asks."""

    instant = True
    _closed = False
    _at = 0

    def __init__(
        self, row: Any, to_info: Callable[[Any], ObjectInfo], data: bytes, path: str, *, whole: bool = False
    ) -> None:
        self._row = row
        self._to_info = to_info
        self._data = data
        self._path = path
        self._check = digest_check(path, row[4], whole)

    @cached_property
    def info(self) -> ObjectInfo:
        try:
            return self._to_info(self._row)
        except CorruptData as error:
            error.path, error.op = self._path, "open_reader"
            raise

    def read(self, size: int = -1, /) -> bytes:
        start, data = self._at, self._data
        if self._check is not None and not self._closed:
            self._check.update(data)
            self._check.end()
            self._check = None
        self._at = start + size if size >= 0 else len(data)
        found = data[start : self._at]
        if self._closed:  # perhaps by another thread, just now
            raise ReaderClosed("the reader is closed", path=self._path, op="read")
        return found

    def close(self) -> None:
        self._closed = True
        self._data = b""
        self._row = self._row[:8]  # what info is made of; behind it stand the bytes


class ChunkReader(ReaderBase):
    """Over the chunks of a blob, which it pins: they stay, whatever becomes of the object."""

    def __init__(self, backend: Any, info: ObjectInfo, blob: str, options: ReadOptions) -> None:
        super().__init__(info)
        self._from = backend
        self._blob = blob
        size = info.size or 0
        self._at = min(options.offset, size)
        self._stop = size if options.length is None else min(size, self._at + options.length)
        self._held: bytes = b""
        self._used = 0
        self._window = _FIRST_FETCH
        self._pinned = time.monotonic()
        self._link: Link | None = None
        self._check = digest_check(info.path, info.hash("sha256"), self._at == 0 and self._stop == size)

    def _read(self, size: int) -> bytes:
        if self._used == len(self._held):
            if self._at == self._stop:
                return b""
            self._held, self._used = self._fetch(size), 0
            if len(self._held) <= size:  # handed on as it is
                held, self._held = self._held, b""
                return held
        start, self._used = self._used, min(len(self._held), self._used + size)
        return self._held[start : self._used]

    def _fetch(self, size: int) -> bytes:
        seq, start = divmod(self._at, INLINE)
        wanted = min(INLINE - start, self._stop - self._at, max(size, self._window))
        self._window = INLINE  # whoever reads on, reads all
        found: bytes = self._from._call("read", self._info.path, lambda link: self._part(link, seq, start, wanted))
        if len(found) != wanted:
            raise CorruptData("a part of the blob is missing", path=self._info.path, offset=self._at, op="read")
        self._at += wanted
        if self._check is not None:
            self._check.update(found)
            if self._at == self._stop:  # before the last bytes are handed out: not everybody asks for the end
                self._check.end()
        return found

    def _part(self, link: Link, seq: int, start: int, wanted: int) -> bytes:
        self._link = link
        try:
            if self._closed:
                raise ReaderClosed("the reader is closed", path=self._info.path, op="read")
            table, now = self._from._table, time.monotonic()
            if now - self._pinned > self._from._lease / 4:
                pin(link, table, self._blob, self._from._lease)
                self._pinned = now
            row = link.one(table.chunk, (start + 1, wanted, self._blob, seq))
        except Exception as error:
            if self._closed and not isinstance(error, ReaderClosed):
                raise ReaderClosed("the reader was closed", path=self._info.path, op="read") from error
            raise
        finally:
            self._link = None
        return b"" if row is None else bytes(row[0])

    def _interrupt(self) -> None:
        link = self._link
        if link is not None:
            link.cancel()

    def _release(self) -> None:
        self._held = b""


class ColumnReader(ReaderBase):
    """Over a large value of an existing SQLite table, read piece by piece. Until it is closed it keeps a connection,
    whose snapshot is what it reads from."""

    def __init__(self, backend: Any, info: ObjectInfo, link: Link, blob: Any, options: ReadOptions) -> None:
        super().__init__(info)
        self._from, self._link, self._blob = backend, link, blob
        size = len(blob)
        if "size" in backend._table.present:
            check_size(info.path, info.size, size)
        at = min(options.offset, size)
        self._left = size - at if options.length is None else min(size - at, options.length)
        self._check = digest_check(info.path, info.hash("sha256"), self._left == size)
        self._pid = getpid()
        blob.seek(at)

    def _read(self, size: int) -> bytes:
        if self._pid != getpid():
            raise ReaderClosed("this reader belongs to the process that opened it", path=self._info.path, op="read")
        try:
            data: bytes = self._blob.read(min(size, self._left, READ_BLOCK))
        except Exception as error:
            raise self._from._db.translated(error, "read", self._info.path) from error
        self._left -= len(data)
        if self._check is not None and data:
            self._check.update(data)
            if not self._left:  # before the last bytes are handed out: not everybody asks for the end
                self._check.end()
        return data

    def _release(self) -> None:
        if self._pid != getpid():
            return
        try:
            self._blob.close()
            self._link.execute("ROLLBACK")
        except Exception:
            self._link.close(broken=True)
            return
        self._from._db.give(self._link)


# --- writing ----------------------------------------------------------------------------------------------------------


class _SQLWriter(WriterBase):
    """What the two writers share: the digest, the row, calls that ``abort`` can end."""

    def __init__(self, backend: Any, path: str, options: WriteOptions) -> None:
        super().__init__(path, options, backend.name)
        self._to = backend
        self._sha: Any = None
        self._link: Link | None = None
        self._etag = new_token()
        self._stopped = False
        self._limit: int | None = backend.write_limit

    def _check_limit(self, data: bytes | memoryview) -> None:
        """Raise before ``data`` would make the object longer than ``max_blob_size``."""
        if self._limit is not None and self._written + len(data) > self._limit:
            raise CapabilityNotSupported(
                f"this backend takes objects of at most max_blob_size={self._limit} bytes",
                capability="max_blob_size", path=self._path, backend=self._backend, op="write",
            )  # fmt: skip

    def _hash(self, data: bytes | memoryview) -> None:
        if self._sha is None:
            self._sha = hashlib.sha256(data)
        else:
            self._sha.update(data)

    def _values(self, size: int, blob: str | None, body: Any) -> tuple[Any, ...]:
        options = self._options
        when = options.modified_at
        if when is None and not self._to._db.dialect.for_update:
            when = datetime.now(UTC)  # the database is in this process, and so is its clock
        digest = (self._sha or hashlib.sha256()).hexdigest()
        kind = options.content_type
        if kind is not None and not kind.isprintable():
            kind = None
        extra = as_json(options.user_metadata) if options.user_metadata else None
        return (self._path, size, when, kind, digest, self._etag, extra, blob, body)

    def _call(self, op: str, work: Any) -> Any:
        return self._to._call(op, self._path, lambda link: self._guarded_work(link, work))

    def _guarded_work(self, link: Link, work: Any) -> Any:
        self._link = link
        try:
            if self._abort_asked and self._state != "aborted":
                raise WriterClosed("the writer was aborted", path=self._path, op="write")
            return work(link)
        finally:
            self._link = None

    def _interrupt(self) -> None:
        link = self._link
        if link is not None:
            self._stopped = True
            link.cancel()

    def _published(self, publication: Publication) -> ObjectInfo:
        to = self._to
        to._db.settle("close", self._path, publication.run)
        if publication.replaced is not None:
            to._collect(publication.replaced)
        _, size, _, kind, digest, etag, *_ = publication.values
        given = self._options.user_metadata
        info = tuple.__new__(
            ObjectInfo,
            (
                self._path, size, as_time(publication.modified), "file", etag, None, kind, {"sha256": digest},
                dict(given) if given else {},
            ),
        )  # fmt: skip
        return info if to._table.ours else to._written(info)


class BlobWriter(_SQLWriter):
    """Into our own tables: a small body in one statement at the end, a larger one chunk by chunk, then the row."""

    def __init__(self, backend: Any, path: str, options: WriteOptions) -> None:
        super().__init__(backend, path, options)
        self._parts: list[bytes] = []
        self._size = 0
        self._blob: str | None = None
        self._seq = 0
        self._held = 0.0
        self._stage = False

    def _write(self, data: bytes | memoryview) -> None:
        self._check_limit(data)
        size = len(data)
        if self._size + size > INLINE:
            self._write_chunks(data)
        else:
            self._parts.append(bytes(data))
            self._size += size
        self._hash(data)

    def _write_chunks(self, data: bytes | memoryview) -> None:
        """Send every full chunk; ``_parts`` keeps the rest, whose size is ``_size``."""
        with memoryview(data) as view:
            at = 0
            while self._size + len(view) - at > INLINE:
                step = INLINE - self._size
                self._parts.append(bytes(view[at : at + step]))
                self._send()
                at += step
            if at < len(view):
                self._parts.append(bytes(view[at:]))
                self._size += len(view) - at

    def _send(self) -> None:
        chunk = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._blob is None:
            self._blob = new_token()
            self._call("write", self._begin_blob)
        self._to._db.policy.throttle(len(chunk))
        self._call("write", lambda link: self._insert_chunk(link, chunk))
        self._seq += 1
        self._parts, self._size = [], 0

    def _begin_blob(self, link: Link) -> None:
        table = self._to._table
        self._held = time.monotonic()
        self._once(link, table.new_blob, (self._blob, table.key(self._path), int(self._to._lease * 1e6)))

    def _insert_chunk(self, link: Link, chunk: bytes) -> None:
        table, now = self._to._table, time.monotonic()
        there = True
        if now - self._held > self._to._lease / 4:
            there = link.change(table.hold, (int(self._to._lease * 1e6), self._blob)) == 1
            self._held = now
        if not there or not self._once(link, table.new_chunk, (self._seq, chunk, self._blob)):
            raise StorageError("what was written was collected as garbage meanwhile", path=self._path, op="write")

    def _once(self, link: Link, statement: str, values: tuple[Any, ...]) -> bool:
        """Whether the row is there now."""
        try:
            return link.change(statement, values) == 1
        except Exception as error:
            if not self._to._db.is_duplicate(error):  # else an attempt whose answer was lost did it
                raise
            return True

    def prepare(self) -> None:
        self._stage = True
        super().prepare()

    def _prepare(self) -> None:
        if self._blob is not None:
            if self._size:
                self._send()
        elif self._stage:
            self._send()
        else:
            self._to._db.policy.throttle(self._size)

    def _publish(self) -> ObjectInfo:
        if self._blob is None:
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            values = self._values(len(body), None, body)
            return self._published(Publication(self._to, values, self._options, "?", None))
        small = self._written <= INLINE
        values = self._values(self._written, None if small else self._blob, self._blob if small else None)
        info = self._published(Publication(self._to, values, self._options, "(" if small else "?", self._blob))
        self._parts = []
        self._to._sweep()
        return info

    def _discard(self) -> None:
        self._parts = []
        if self._blob is not None and self._stopped:
            self._drop()  # whatever held up the call that was ended would hold this up, too
        elif self._blob is not None:
            self._to._drop_blob(self._blob)

    def _drop(self) -> None:
        if self._blob is not None:
            self._to._db.garbage.append(self._blob)


class ColumnWriter(_SQLWriter):
    """Into the one column of an existing table. SQLite gets a large body piece by piece from a temporary file;
    elsewhere it is kept in memory, at most ``max_blob_size`` bytes."""

    def __init__(self, backend: Any, path: str, options: WriteOptions) -> None:
        super().__init__(backend, path, options)
        self._streams = backend._table.streams
        # Closed by _publish, _discard or _drop.
        held = INLINE if self._streams or self._limit is None else self._limit + 1
        self._file = tempfile.SpooledTemporaryFile(max_size=held)  # noqa: SIM115

    def _write(self, data: bytes | memoryview) -> None:
        self._check_limit(data)
        self._file.write(data)
        self._hash(data)

    def _publish(self) -> ObjectInfo:
        size = self._written
        self._file.seek(0)
        if size <= INLINE or not self._streams:
            values, form, fill = self._values(size, None, self._file.read()), "?", None
        else:
            values, form, fill = self._values(size, None, size), "z", self._fill
        publication = Publication(self._to, values, self._options, form, None)
        publication.fill = fill
        info = self._published(publication)
        self._file.close()
        return info

    def _fill(self, link: Link) -> None:
        self._file.seek(0)
        with self._to._open_column(link, self._path, readonly=False) as blob:
            while block := self._file.read(READ_BLOCK):
                blob.write(block)

    def _discard(self) -> None:
        self._file.close()

    _drop = _discard
