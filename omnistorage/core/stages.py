"""Stages: pure, sans-I/O steps from items to items.

The rules every stage keeps:

1. ``feed`` takes one item and returns an iterable of outputs, lazy and bounded: however much one input expands, no
   output of a codec is larger than ``MAX_CHUNK`` bytes and none is made before it is asked for.
2. That iterable is exhausted before the next call. A stage whose output was left unread, or which raised, is poisoned:
   every later call raises.
3. ``flush`` makes all that was fed readable from the outputs so far. ``finish`` ends the stream (trailer, checksum);
   a decoder raises ``CorruptData`` there if its input stopped short. Nothing may be called after ``finish``.

Codecs and formats are values: frozen dataclasses that make stages. A stage carries state and belongs to one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from omnistorage.errors import CorruptData, RecordError, StorageError

In = TypeVar("In")
Out = TypeVar("Out")
InC = TypeVar("InC", contravariant=True)
OutC = TypeVar("OutC", covariant=True)
T = TypeVar("T")

MAX_CHUNK = 1 << 20
"""The largest single output of a codec stage, in bytes."""

BATCH_RECORDS = 256
BATCH_BYTES = 64 * 1024
"""Records travel between stages in batches of at most this many records or bytes, whichever comes first."""


class Stage(Protocol[InC, OutC]):
    """One step of a pipeline. See the module docstring for the rules."""

    def feed(self, item: InC, /) -> Iterable[OutC]: ...
    def flush(self) -> Iterable[OutC]: ...
    def finish(self) -> Iterable[OutC]: ...


@runtime_checkable
class Codec(Protocol):
    """A compression format: a frozen dataclass whose fields are its settings."""

    @property
    def name(self) -> str: ...
    @property
    def suffixes(self) -> tuple[str, ...]: ...  # (".gz",): the first is the one we write
    @property
    def magic(self) -> bytes: ...  # how an encoded stream begins
    def encoder(self) -> Stage[bytes, bytes]: ...
    def decoder(self) -> Stage[bytes, bytes]: ...


class RecordEncoder(Protocol[InC]):
    """The encoding stage of a format: ``Stage[Sequence[T], bytes]``, plus ``encode`` for one record at once.

    A record that cannot be encoded raises ``RecordError`` from ``encode`` or from ``feed`` before any output of that
    call, leaves the encoder as it was, and does not poison it.
    """

    def encode(self, record: InC, /) -> bytes: ...
    def feed(self, item: Sequence[InC], /) -> Iterable[bytes]: ...
    def flush(self) -> Iterable[bytes]: ...
    def finish(self) -> Iterable[bytes]: ...


OnBad = Callable[[RecordError], None]


@runtime_checkable
class Format(Protocol[T]):
    """A record format: a frozen dataclass whose fields are its settings.

    ``decoder(on_bad)``: for each bad record the stage yields the good ones before it, calls ``on_bad(error)`` with
    number, offset and raw bytes, and goes on behind it. Without ``on_bad`` the first bad record raises. What cannot be
    gone on behind (a torn tail, a lost boundary) raises ``CorruptData`` in either case.
    """

    @property
    def name(self) -> str: ...
    @property
    def suffixes(self) -> tuple[str, ...]: ...
    def encoder(self) -> RecordEncoder[T]: ...
    def decoder(self, on_bad: OnBad | None = None) -> Stage[bytes, list[T]]: ...


@runtime_checkable
class Headed(Protocol):
    """What a format is beside that if its streams begin with something that its records alone do not: a header.

    ``begun`` says what JSON can hold of what an encoder of the format has put there, None: nothing yet. ``behind``
    gives the format of records that come after it."""

    def begun(self, encoder: Any) -> Any: ...
    def behind(self, begun: Any) -> Format[Any]: ...


class StageBase(Generic[In, Out]):
    """Keeps rules 2 and 3 for a stage that writes ``_feed``, ``_flush`` and ``_finish`` as generators."""

    _state = "ready"

    def _feed(self, item: In) -> Iterator[Out]:
        raise TypeError(f"{type(self).__name__} does not define _feed")

    def _flush(self) -> Iterator[Out]:
        return iter(())

    def _finish(self) -> Iterator[Out]:
        return iter(())

    def feed(self, item: In, /) -> Iterable[Out]:
        self._enter()
        return self._run(self._feed(item), "ready")

    def flush(self) -> Iterable[Out]:
        self._enter()
        return self._run(self._flush(), "ready")

    def finish(self) -> Iterable[Out]:
        self._enter()
        return self._run(self._finish(), "finished")

    def _enter(self) -> None:
        if self._state != "ready":
            what = "is finished" if self._state == "finished" else "failed, or its output was not read to the end"
            raise StorageError(f"this {type(self).__name__} {what}; make a new one for a new stream")
        self._state = "poisoned"  # until the outputs of this call are exhausted

    def _run(self, outputs: Iterator[Out], after: str) -> Iterator[Out]:
        yield from outputs
        self._state = after


class Chain(StageBase[Any, Any]):
    """Stages one behind the other, as one stage. Lazy: an output of the first is pulled when the last one needs it."""

    def __init__(self, *stages: Stage[Any, Any]) -> None:
        self.stages = stages

    def _through(self, items: Iterable[Any], stages: Sequence[Stage[Any, Any]]) -> Iterator[Any]:
        if not stages:
            yield from items
            return
        for item in items:
            yield from self._through(stages[0].feed(item), stages[1:])

    def _feed(self, item: Any) -> Iterator[Any]:
        return self._through((item,), self.stages)

    def _flush(self) -> Iterator[Any]:
        for at, stage in enumerate(self.stages):
            yield from self._through(stage.flush(), self.stages[at + 1 :])

    def _finish(self) -> Iterator[Any]:
        for at, stage in enumerate(self.stages):
            yield from self._through(stage.finish(), self.stages[at + 1 :])


class Batch(StageBase[bytes, bytes]):
    """Joins small byte strings into blocks of at least ``size`` bytes, so that what follows is called seldom."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._parts: list[bytes] = []
        self._held = 0

    def _feed(self, item: bytes) -> Iterator[bytes]:
        self._parts.append(item)
        self._held += len(item)
        if self._held >= self.size:
            yield from self._flush()

    def _flush(self) -> Iterator[bytes]:
        if self._held:
            parts, self._parts, self._held = self._parts, [], 0
            yield b"".join(parts)

    _finish = _flush


class Same(StageBase[bytes, bytes]):
    """Passes bytes on as they are: no compression, as a codec stage."""

    def _feed(self, item: bytes) -> Iterator[bytes]:
        for at in range(0, len(item), MAX_CHUNK):
            yield item[at : at + MAX_CHUNK]


class Limit(StageBase[bytes, bytes]):
    """A decoder that refuses to grow beyond bounds: for input from people one does not trust.

    Raises ``CorruptData`` as soon as more than ``max_output`` bytes have come out, or, once ``ratio_after`` bytes have
    come out, when the output is more than ``max_ratio`` times the input. At most one chunk is made past the limit.
    """

    def __init__(
        self,
        decoder: Stage[bytes, bytes],
        *,
        max_output: int | None = None,
        max_ratio: float | None = None,
        ratio_after: int = 16 << 20,
    ) -> None:
        self.decoder = decoder
        self.max_output = max_output
        self.max_ratio = max_ratio
        self.ratio_after = ratio_after
        self._taken = 0
        self._made = 0

    def _check(self, outputs: Iterable[bytes]) -> Iterator[bytes]:
        for out in outputs:
            self._made += len(out)
            if self.max_output is not None and self._made > self.max_output:
                raise CorruptData(
                    f"the stream decodes to more than max_output={self.max_output} bytes; "
                    "raise the limit if you trust it",
                    offset=self._taken,
                )
            if (
                self.max_ratio is not None
                and self._made > self.ratio_after
                and self._made > self.max_ratio * self._taken
            ):
                raise CorruptData(
                    f"the stream expands more than max_ratio={self.max_ratio:g} times; raise the limit if you trust it",
                    offset=self._taken,
                )
            yield out

    def _feed(self, item: bytes) -> Iterator[bytes]:
        self._taken += len(item)
        return self._check(self.decoder.feed(item))

    def _flush(self) -> Iterator[bytes]:
        return self._check(self.decoder.flush())

    def _finish(self) -> Iterator[bytes]:
        return self._check(self.decoder.finish())
