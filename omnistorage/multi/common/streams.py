"""Readers and writers of tiers."""

from __future__ import annotations

from collections.abc import Callable

from omnistorage.core import ObjectInfo, Reader, Writer
from omnistorage.core.lifecycle import Closes, Publishes
from omnistorage.errors import StorageError

from .tier import Place, named


class TierReader(Closes):
    """A reader of one tier, its info told as the whole tells it."""

    def __init__(self, inner: Reader, place: Place) -> None:
        self.inner = inner
        self._place = place
        self.instant = bool(getattr(inner, "instant", False))

    @property
    def info(self) -> ObjectInfo:
        return self._place.out(self.inner.info)

    def read(self, size: int = -1, /) -> bytes:
        return self.inner.read(size)

    def close(self) -> None:
        self.inner.close()


class SkippingReader(TierReader):
    """A range of an object in a tier that only reads whole ones: what stands before it is read and thrown away."""

    def __init__(self, inner: Reader, place: Place, offset: int, length: int | None) -> None:
        super().__init__(inner, place)
        self._skip, self._left = offset, length

    def read(self, size: int = -1, /) -> bytes:
        while self._skip:
            skipped = len(self.inner.read(min(self._skip, 1 << 20)))
            if not skipped:
                self._skip, self._left = 0, 0
            self._skip -= min(skipped, self._skip)
        if self._left is None:
            return self.inner.read(size)
        if size < 0:
            pieces = list(iter(lambda: self.read(1 << 20), b""))
            return b"".join(pieces)
        data = self.inner.read(min(size, self._left)) if self._left else b""
        self._left -= len(data)
        return data


class WatchedReader(Closes):
    """Shows every block, and then the end, to someone else: ``took(block)``, ``ended(whole)`` once. Not everybody asks
    for more than there is: where ``expected`` bytes were read, it looks by itself whether that is the end, and what it
    finds instead comes with the next read."""

    def __init__(
        self,
        inner: TierReader,
        took: Callable[[bytes], None],
        ended: Callable[[bool], None],
        expected: int | None = None,
    ) -> None:
        self.inner = inner
        self.instant = inner.instant
        self._took, self._ended, self._left, self._over = took, ended, expected, False
        self._held: bytes = b""
        self._error: StorageError | None = None

    @property
    def info(self) -> ObjectInfo:
        return self.inner.info

    def read(self, size: int = -1, /) -> bytes:
        if self._error is not None:
            raise self._error
        if self._held and size:
            data = self._held + (self.inner.read(size) if size < 0 else b"")
            self._held = b""
        else:
            data = self.inner.read(size)
        if data:
            self._took(data)
            if self._left is not None:
                self._left -= len(data)
        if size < 0 or (not data and size):
            self._end(whole=True)
        elif self._left == 0 and data:
            self._look()
        return data

    def _look(self) -> None:
        try:
            self._held = self.inner.read(1)
        except StorageError as error:
            self._error = error
            self._end(whole=False)
        else:
            if not self._held:
                self._end(whole=True)

    def _end(self, *, whole: bool) -> None:
        if not self._over:
            self._over = True
            self._ended(whole)

    def close(self) -> None:
        try:
            self._end(whole=False)
        finally:
            self.inner.close()


class TierWriter(Publishes):
    """A writer into one tier."""

    def __init__(self, inner: Writer, place: Place) -> None:
        self.inner = inner
        self._place = place
        self.write, self.flush, self.prepare, self.abort = inner.write, inner.flush, inner.prepare, inner.abort  # type: ignore[method-assign]
        self.instant = bool(getattr(inner, "instant", False))

    @property
    def result(self) -> ObjectInfo | None:
        result = self.inner.result
        return None if result is None else self._place.out(result)

    def close(self) -> ObjectInfo:
        with named(self._place):
            return self._place.out(self.inner.close())


class Promotion:
    """What is read in one tier goes into another at the same time, and appears there if it was read to its end and
    ``is_it()``: the tier it was read in still has that. Nothing about it can fail the read: an object that is there by
    then is newer, and one that cannot be written is not needed."""

    def __init__(self, writer: Writer, size: int | None, is_it: Callable[[], bool]) -> None:
        self._writer: Writer | None = writer
        self._left = size
        self._is_it = is_it

    def took(self, data: bytes) -> None:
        writer = self._writer
        if writer is not None:
            if self._left is not None:
                self._left -= len(data)
            self._try(writer, lambda: writer.write(data))

    def ended(self, whole: bool) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if whole and not self._left and self._still():
            self._try(writer, writer.close)
        else:
            _quietly(writer.abort)

    def _still(self) -> bool:
        try:
            return self._is_it()
        except StorageError:
            return False

    def _try(self, writer: Writer, run: Callable[[], object]) -> None:
        try:
            run()
        except StorageError:
            self._writer = None
            _quietly(writer.abort)


def _quietly(run: Callable[[], object]) -> None:
    try:
        run()
    except StorageError:
        pass
