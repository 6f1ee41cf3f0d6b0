"""What ``Cache.open_reader`` returns: an entry, bytes that were just fetched, or the origin with a copy on its way
into the cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

from omnistorage.backends.streams import READ_BLOCK, ReaderBase
from omnistorage.core import ObjectInfo, Reader, Writer
from omnistorage.errors import CorruptData


class BytesReader(ReaderBase):
    """Reads bytes that are in memory."""

    instant = True

    def __init__(self, info: ObjectInfo, data: bytes) -> None:
        super().__init__(info)
        self._data = data
        self._at = 0

    def _read(self, size: int) -> bytes:
        start, self._at = self._at, min(len(self._data), self._at + size)
        return self._data[start : self._at]  # all of it is itself, not a copy

    def _read_all(self) -> bytes:
        return self._read(len(self._data) + 1)

    def _release(self) -> None:
        self._data = b""


class EntryReader(ReaderBase):
    """Reads an entry, from byte ``at`` of the object to ``ends``, or to its end if that comes before and nobody knows
    the object's size. When that fails or is too short, ``reopen(at)`` gives the rest from the origin. ``given`` hears
    of the bytes that came from the entry, ``failed`` of an entry that broke."""

    def __init__(
        self,
        info: ObjectInfo,
        entry: Reader,
        at: int,
        ends: int | None,
        reopen: Callable[[int], Reader],
        given: Callable[[int], None],
        failed: Callable[[Exception], None],
    ) -> None:
        super().__init__(info)
        self._from = entry
        self._is_entry = True
        self._at = at
        self._ends = ends
        self._is_part = ends is not None and ends != info.size  # more may follow in the entry: it is not read
        self._is_sized = info.size is not None
        self._reopen = reopen
        self._given = given
        self._failed = failed
        self.instant = bool(getattr(entry, "instant", False))

    def _read(self, size: int) -> bytes:
        return self._checked(size) if self._is_entry else self._from.read(size)

    def _read_all(self) -> bytes:
        # As much as there is and no more: memory for what is not there would cost more than reading what is.
        ends = self._ends if self._is_sized else None
        sure = ends is not None and self._from.info.size is not None
        parts = []
        while self._is_entry and not (sure and self._at == ends):
            parts.append(self._checked(max(1, ends - self._at) if ends is not None else READ_BLOCK))
            if not parts[-1]:
                break
        if not self._is_entry:
            parts.append(self._from.read(-1))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _checked(self, size: int) -> bytes:
        ends = self._ends
        if ends is not None and self._is_part:
            size = min(size, ends - self._at)
        try:
            data = self._from.read(size) if size else b""
            self._at += len(data)
            if ends is not None and (self._at > ends or (self._is_sized and not data and self._at < ends)):
                self._at -= len(data)
                raise CorruptData("the entry has another size than the object", path=self._info.path)
        except Exception as error:
            if self._closed:
                raise
            return self._fall_back(error, size)
        self._given(len(data))
        return data

    def _fall_back(self, error: Exception, size: int) -> bytes:
        with suppress(Exception):
            self._from.close()
        self._failed(error)
        self._from = self._reopen(self._at)
        self._is_entry = False
        return self._from.read(size)

    def _release(self) -> None:
        self._from.close()

    def _interrupt(self) -> None:
        self._from.close()

    def __del__(self) -> None:
        """The reader below looks after itself."""


class Filling:
    """An entry on its way, whose failures harm nobody. ``done`` hears of the size of a whole one, ``over`` of the end
    in any case, ``failed`` of an error. ``most`` bytes may be written."""

    def __init__(
        self,
        writer: Writer | None,
        most: int | None,
        done: Callable[[int], None],
        over: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._most = most
        self._done = done
        self._over = over
        self._failed = failed
        self._size = 0

    def write(self, data: bytes) -> None:
        if self._writer is None:
            return
        self._size += len(data)
        if self._most is not None and self._size > self._most:
            self.abort()
            return
        try:
            self._writer.write(data)
        except Exception:
            self._failed()
            self.abort()

    def finish(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
            self._done(self._size)
        except Exception:
            self._failed()
        finally:
            self._over()

    def abort(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.abort()
        except Exception:
            self._failed()
        finally:
            self._over()

    def leave(self, orphans: deque[Writer]) -> None:
        """At garbage collection: no I/O, no lock. Whoever comes next aborts what is left."""
        if self._writer is not None:
            orphans.append(self._writer)
            self._writer = None
            self._over()


class TeeReader(ReaderBase):
    """Reads the origin and writes an entry along; it appears only if the object was read to its end."""

    def __init__(self, origin: Reader, filling: Filling, orphans: deque[Writer]) -> None:
        super().__init__(origin.info)
        self._origin = origin
        self._filling = filling
        self._orphans = orphans
        self._at = 0
        self._ahead = b""
        self._error: BaseException | None = None

    def _read(self, size: int) -> bytes:
        if self._error is not None:
            raise self._error
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        try:
            data = self._origin.read(size)
        except BaseException:
            self._filling.abort()
            raise
        self._at += len(data)
        if data:
            self._filling.write(data)
            if self._at == self._info.size:
                self._look_for_the_end()
        elif self._info.size in (None, self._at):
            self._filling.finish()
        else:
            self._filling.abort()
        return data

    def _look_for_the_end(self) -> None:
        """Many stop at the size that was told, and never see the end; whoever stored the object may still object."""
        try:
            self._ahead = self._origin.read(READ_BLOCK)
        except BaseException as error:
            self._error = error  # of the next read: this one has its data
            self._filling.abort()
            return
        if self._ahead:
            self._filling.abort()
        else:
            self._filling.finish()

    def _release(self) -> None:
        self._filling.abort()
        self._origin.close()

    def _interrupt(self) -> None:
        self._origin.close()

    def __del__(self) -> None:
        """The origin's reader looks after itself."""
        if "_orphans" in self.__dict__:
            self._filling.leave(self._orphans)
