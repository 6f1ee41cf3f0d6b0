"""``Observe``: tells a listener of every call and every stream."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

from omnistorage.concurrency.cancellation import CLOCK, Clock
from omnistorage.core import Backend, Data, ObjectInfo, Reader, Writer
from omnistorage.errors import ConfigError

from .base import Wrapper
from .streams import WrappedReader, WrappedWriter

R = TypeVar("R")
T = TypeVar("T")


class Event(NamedTuple):
    """Something begins or ends. ``op`` is the method, or ``"read"`` and ``"write"`` for the life of a stream, from
    before its ``open_...`` call to its close or abort. At the end: ``seconds`` it took, ``bytes`` that went through a
    stream, ``items`` that a listing yielded, ``error`` if it failed, and ``aborted`` for a writer that was."""

    phase: Literal["start", "end"]
    op: str
    path: str
    seconds: float | None = None
    bytes: int | None = None
    items: int | None = None
    error: BaseException | None = None
    aborted: bool = False


Listener = Callable[[Event], object]


class Observe(Wrapper):
    """The inner backend, with every call and stream told to ``listener``, at its start and at its end. Every start has
    an end, but for listings and streams that are never finished, closed or dropped. Calls come on the thread that made
    the call; what the listener raises is logged and harms nobody."""

    def __init__(self, inner: Backend, listener: Listener, *, clock: Clock = CLOCK) -> None:
        if not callable(listener):
            raise ConfigError(f"a listener takes an Event, {listener!r} takes nothing")
        super().__init__(inner)
        self.listener = listener
        self._clock = clock

    def _tell(self, event: Event) -> None:
        try:
            self.listener(event)
        except Exception:
            logging.getLogger(__name__).exception("a listener of %r failed", self)

    def _begin(self, op: str, path: str) -> Callable[..., None]:
        """Tell of the start; what is returned tells of the end, once."""
        self._tell(Event("start", op, path))
        started: list[float] = [self._clock.now()]

        def end(**facts: Any) -> None:
            if started:
                self._tell(Event("end", op, path, self._clock.now() - started.pop(), **facts))

        return end

    def _forward(self, op: str, path: str, run: Callable[[str], R]) -> R:
        end = self._begin(op, path)
        try:
            answer = run(path)
        except BaseException as error:
            end(error=error)
            raise
        end()
        return answer

    def _items(self, op: str, path: str, run: Callable[[str], Iterator[T]]) -> Iterator[T]:
        end = self._begin(op, path)
        try:
            found = run(path)
        except BaseException as error:
            end(error=error)
            raise
        return _counted(found, end)

    def _reader(self, reader: Reader, path: str) -> Reader:
        return _Reader(reader, self._begin("read", path))

    def _writer(self, writer: Writer, path: str) -> Writer:
        return _Writer(writer, self._begin("write", path))


def _counted(items: Iterator[T], end: Callable[..., None]) -> Iterator[T]:
    count = 0
    try:
        for item in items:
            count += 1
            yield item
    except GeneratorExit:
        raise
    except BaseException as error:
        end(items=count, error=error)
        raise
    finally:
        end(items=count)


class _Reader(WrappedReader):
    def __init__(self, inner: Reader, end: Callable[..., None]) -> None:
        super().__init__(inner)
        self._end = end
        self._bytes = 0
        self._error: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            data = self.inner.read(size)
        except BaseException as error:
            self._error = error
            raise
        self._bytes += len(data)
        return data

    def close(self) -> None:
        try:
            self.inner.close()
        finally:
            self._end(bytes=self._bytes, error=self._error)


class _Writer(WrappedWriter):
    def __init__(self, inner: Writer, end: Callable[..., None]) -> None:
        super().__init__(inner)
        self._end = end
        self._bytes = 0
        self._error: BaseException | None = None

    def _call(self, op: str, run: Callable[[], R]) -> R:
        try:
            return run()
        except BaseException as error:
            self._error = self._error or error
            raise

    def write(self, data: Data, /) -> int:
        size = super().write(data)
        self._bytes += size
        return size

    def close(self) -> ObjectInfo:
        try:
            return super().close()
        finally:
            self._end(bytes=self._bytes, error=self._error)

    def abort(self) -> None:
        try:
            super().abort()
        finally:
            self._end(bytes=self._bytes, error=self._error, aborted=True)
