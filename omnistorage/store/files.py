"""Files of the ``io`` family over readers and writers: what ``Store.open`` returns.

Python's own buffers close when they are dropped, and closing publishes. Ours do not: leaving ``with`` by an exception
and being dropped both discard what was written.
"""

from __future__ import annotations

import io
import logging
import tempfile
from typing import Any

from omnistorage.concurrency.pools import forks
from omnistorage.core import Backend, ObjectInfo, Reader, ReadOptions, Writer
from omnistorage.errors import PreconditionFailed
from omnistorage.records import as_file

log = logging.getLogger(__name__)

BUFFER = 128 * 1024
SPOOL = 8 << 20
"""What ``read_seekable`` keeps in memory of a store that has no ranges; beyond that it is a temporary file."""
NEAR = 64 * 1024
"""A seek forward by at most this reads on, instead of asking for another range."""


class SeekableReader(io.RawIOBase):
    """A reader that can seek, by asking for ranges of the version that it opened first."""

    _reader: Reader | None = None  # io closes what could not be made, too

    def __init__(self, backend: Backend, path: str, options: ReadOptions) -> None:
        self._backend, self._path = backend, path
        self._reader = backend.open_reader(path, options)
        self.info: ObjectInfo = self._reader.info
        self._version = options.version
        self._at = self._reader_at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check()
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._check()
        if whence == io.SEEK_END:
            offset += self._size()
        elif whence == io.SEEK_CUR:
            offset += self._at
        elif whence != io.SEEK_SET:
            raise ValueError(f"whence is 0, 1 or 2, not {whence!r}")
        if offset < 0:
            raise ValueError(f"a position counts bytes from 0: {offset}")
        self._at = offset
        return offset

    def _size(self) -> int:
        if self.info.size is None:
            while data := self.read(BUFFER):
                del data
            self.info = self.info._replace(size=self._at)
        return self.info.size or 0

    def readinto(self, buffer: Any, /) -> int:
        self._check()
        view = memoryview(buffer).cast("B")
        if self.info.size is not None and self._at >= self.info.size:
            return 0
        data = self._placed().read(len(view)) if len(view) else b""
        view[: len(data)] = data
        self._at += len(data)
        self._reader_at = self._at
        return len(data)

    def _placed(self) -> Reader:
        """The reader, at the position."""
        gap = self._at - self._reader_at
        if self._reader is not None and 0 <= gap <= NEAR:
            while gap > 0 and (data := self._reader.read(gap)):
                gap -= len(data)
            return self._reader
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        options = ReadOptions(offset=self._at, if_match=self.info.etag, version=self._version)
        found = self._backend.open_reader(self._path, options)
        before, now = self.info, found.info
        if before.etag is None and (before.size, before.modified_at) != (now.size, now.modified_at):
            found.close()
            raise PreconditionFailed("the object changed while it was read", path=self._path, op="read")
        self._reader, self._reader_at = found, self._at
        return found

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def close(self) -> None:
        if not self.closed:
            super().close()
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()


class BinaryReader(io.BufferedReader):
    """A binary file for reading; closing it closes ``owner``, too."""

    def __init__(self, raw: io.RawIOBase, owner: Backend | None = None, buffer_size: int = BUFFER) -> None:
        self._owner = owner
        super().__init__(raw, buffer_size)

    def close(self) -> None:
        owner, self._owner = getattr(self, "_owner", None), None
        try:
            super().close()
        finally:
            if owner is not None:
                owner.close()


class BinaryWriter(io.BufferedWriter):
    """A binary file for writing. ``close`` publishes; ``abort``, an exception in ``with`` and being dropped do not.
    ``result`` is then what the store says of the object."""

    _ended = True  # until it is whole
    _in_close = False  # a flush is part of closing then, and none that somebody asked for
    _at_start = False

    def __init__(self, stream: Writer, owner: Backend | None = None, buffer_size: int = BUFFER) -> None:
        self._stream = stream
        self._owner = owner
        self._forks = forks[0]
        self._file: Any = as_file(stream)
        super().__init__(self._file, buffer_size)
        self._ended = False

    @property
    def result(self) -> ObjectInfo | None:
        return self._stream.result

    def flush(self) -> None:
        """Push what was written towards the store, as far as it goes; nothing is visible before ``close``."""
        super().flush()
        if not self._in_close and not self.closed:
            self._stream.flush()

    def close(self) -> None:
        """Publish what was written, and close what the file came from if it is the file's to close."""
        # Not by io's own: it closes the stream, and so publishes, even if the buffer could not be emptied.
        if not self.closed:
            self._in_close = self._ended = True
            try:
                self.flush()
                self._file.close()
            except BaseException:
                self.abort()
                raise
            self._let_go()

    def abort(self) -> None:
        """Discard what was written: nothing appears."""
        self._ended = True
        self._file.abort()
        self._let_go()

    def _let_go(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.close()

    def __exit__(self, *exc: object) -> None:
        if exc and exc[0] is not None:
            self.abort()
        else:
            self.close()

    def __del__(self) -> None:
        # Instead of io's own, which would close. The stream below warns, and discards by its own rule.
        if not self._ended and self._forks == forks[0]:
            log.warning("a file for writing was dropped without close, so nothing of it was published")

    def seekable(self) -> bool:
        return self._at_start


class TextWriter(io.TextIOWrapper):
    """The same for text."""

    def __init__(
        self, binary: BinaryWriter, encoding: str, errors: str | None, newline: str | None, *, new: bool = True
    ) -> None:
        self._binary = binary
        # Only of what says that it stands at 0 does io know that a byte order mark belongs there.
        binary._at_start = new
        super().__init__(binary, encoding, errors, newline)
        binary._at_start = False

    @property
    def result(self) -> ObjectInfo | None:
        return self._binary.result

    def close(self) -> None:
        """Publish what was written."""
        if not self.closed:
            self._binary._in_close = True
            try:
                self.flush()
            except BaseException:
                self.abort()
                raise
            self._binary.close()

    def abort(self) -> None:
        """Discard what was written: nothing appears."""
        self._binary.abort()

    __exit__ = BinaryWriter.__exit__

    def __del__(self) -> None:
        """Instead of io's own, which would close. The binary file below says what is lost."""


def binary_reader(reader: Reader, owner: Backend | None = None) -> BinaryReader:
    """A binary file over a reader, which cannot seek."""
    return BinaryReader(as_file(reader), owner)


def spooled(reader: Reader) -> BinaryReader:
    """A binary file that can seek, of all that ``reader`` still brings: in memory up to 8 MiB, else on disk."""
    spool = tempfile.SpooledTemporaryFile(SPOOL)  # noqa: SIM115  closed with what is returned
    try:
        with reader:
            while block := reader.read(1 << 20):
                spool.write(block)
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return BinaryReader(_Spool(spool))


class _Spool(io.RawIOBase):
    """A spool as a raw file: what ``BufferedReader`` wants."""

    def __init__(self, spool: Any) -> None:
        self._spool = spool

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        at: int = self._spool.seek(offset, whence)
        return at

    def tell(self) -> int:
        at: int = self._spool.tell()
        return at

    def readinto(self, buffer: Any, /) -> int:
        data = self._spool.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._spool.close()


__all__ = ["BinaryReader", "BinaryWriter", "SeekableReader", "TextWriter", "binary_reader", "spooled"]
