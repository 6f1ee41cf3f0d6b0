"""Records through format, compression and backend: ``RecordWriter``, ``RecordReader``, ``open_records``. Floor 2.

A writer is a format's encoder, a batch, a codec's encoder and a backend's Writer; a reader the same in the other
direction. Encoding and decoding of records happen on the caller's thread, coding and transport beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from os import PathLike
from typing import Any, Generic, Literal, NoReturn, Self, TypedDict, TypeVar, Unpack, overload

from ._table import nearest
from .bad_records import BadRecords, OnError
from .compression import codec as codec_named
from .compression import codec_for_magic, codec_for_path
from .core import READ, WRITE, Backend, ObjectInfo, Reader, ReadOptions, WriteOptions, Writer
from .errors import ConfigError, RecordError, StorageError, WriterClosed
from .formats import format_for_path, record_format
from .stages import BATCH_BYTES, BATCH_RECORDS, Codec, Format, Limit, RecordEncoder, Stage
from .strands import forks
from .streams import RAW_BLOCK, DecodedReader, EncodedWriter

T = TypeVar("T")
_ON_EXCEPTION = ("abort", "commit_whole_records")
UNTRUSTED_OUTPUT = 16 << 30
UNTRUSTED_RATIO = 1000.0


def _known_exit(on_exception: str) -> str:
    if on_exception not in _ON_EXCEPTION:
        raise ConfigError(f"on_exception={on_exception!r}: use one of {', '.join(_ON_EXCEPTION)}")
    return on_exception


class RecordWriter(Generic[T]):
    """Writes records into a ``Writer``. A context manager: a clean exit closes, an exception aborts, or with
    ``on_exception="commit_whole_records"`` publishes the records taken so far.

    A record that cannot be encoded raises ``RecordError`` (or goes where ``on_error`` says) and leaves the writer
    usable; an error of codec or sink poisons it. ``records`` counts what was taken, ``bad`` the rest.
    """

    def __init__(
        self,
        sink: Writer,
        format: Format[T],
        codec: Codec | None = None,
        *,
        on_error: OnError = "raise",
        max_bad: int | None = None,
        max_bad_ratio: float | None = None,
        on_exception: str = "abort",
        owned: Backend | None = None,
    ) -> None:
        self.format = format
        self.codec = codec
        self.on_exception = _known_exit(on_exception)
        self.bad = BadRecords(on_error, max_bad, max_bad_ratio)
        self._stream = EncodedWriter(sink, None if codec is None else codec.encoder())
        self._encoder: RecordEncoder[T] = format.encoder()
        self._encode: Callable[[T], bytes] = self._encoder.encode
        self._owned = owned
        self._forks = forks[0]
        self._parts: list[bytes] = []
        self._held = 0
        self._count = 0
        self._ended = False

    @property
    def records(self) -> int:
        """How many records were taken so far."""
        return self._count

    @property
    def result(self) -> ObjectInfo | None:
        """What ``close`` returned."""
        return self._stream.result

    def write(self, record: T, /) -> None:
        """Take one record; it is checked and encoded now, and stored later."""
        try:
            data = self._encode(record)
        except RecordError as error:
            self._reject(error)
            return
        self._parts.append(data)
        self._held += len(data)
        self._count += 1
        if self._held >= BATCH_BYTES or self._forks != forks[0]:
            self._hand_on()

    def write_many(self, records: Iterable[T], /) -> int:
        """Take all ``records``; returns how many were good. Those before a record that raises are kept."""
        before = self._count
        feed = self._encoder.feed
        source = iter(records)
        while batch := list(itertools.islice(source, BATCH_RECORDS)):
            if self._ended:
                self._refuse("write_many")
            try:
                parts = list(feed(batch))
            except RecordError:
                for record in batch:
                    self.write(record)
                continue
            self._parts += parts
            self._held += sum(map(len, parts))
            self._count += len(batch)
            if self._held >= BATCH_BYTES or self._forks != forks[0]:
                self._hand_on()
        return self._count - before

    def flush(self) -> None:
        """Push every record taken so far through the codec into the sink and flush it: a reader that sees the bytes
        can decode them all."""
        if self._ended:
            self._refuse("flush")
        self._parts.extend(self._encoder.flush())
        self._hand_on()
        self._stream.flush()

    def prepare(self) -> None:
        """All records at the store, nothing visible; only ``close`` or ``abort`` may follow."""
        self._end()
        self._stream.prepare()

    def close(self) -> ObjectInfo:
        """Publish the object and return its info. Again: the same info."""
        if self._stream.result is not None:
            return self._stream.result
        try:
            self._end()
            self.bad.check_ratio(self._count, None, final=True)
            info = self._stream.close()
        except BaseException:
            self.abort()
            raise
        self._disown()
        return info

    def abort(self) -> None:
        """Discard everything. Idempotent; nothing becomes visible."""
        self._ended, self._encode = True, self._refuse_record
        self._parts.clear()
        try:
            self._stream.abort()
        finally:
            self._disown()

    def _hand_on(self) -> None:
        parts, self._parts, self._held = self._parts, [], 0
        if parts:
            self._stream.write(b"".join(parts))

    def _end(self) -> None:
        if self._ended:
            return
        # ``write`` is the hot path: instead of asking each time whether the writer is closed, it is given an encoder
        # that says so.
        self._ended, self._encode = True, self._refuse_record
        self._parts.extend(self._encoder.finish())
        self._hand_on()

    def _reject(self, error: RecordError) -> None:
        error.number = self._count + self.bad.count + 1
        self.bad.handle(error)
        self.bad.check_ratio(self._count, error.path)

    def _refuse_record(self, record: T, /) -> bytes:
        self._refuse("write")

    def _refuse(self, op: str) -> NoReturn:
        raise WriterClosed("the record writer is closed", op=op)

    def _disown(self) -> None:
        owned, self._owned = self._owned, None
        if owned is not None:
            owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not exc or exc[0] is None:
            self.close()
            return
        try:
            if self.on_exception == "commit_whole_records" and not self._ended:
                self.close()
            else:
                self.abort()
        except StorageError:
            pass  # the exception that brought us here is the one to see; a close that failed has aborted


class RecordReader(Generic[T]):
    """Reads records from a decoded stream: iterate over it, or use ``read``, ``read_many`` and ``iter_batches``.

    ``records`` counts good records handed out, ``bad`` what ``on_error`` dealt with.
    """

    def __init__(
        self,
        stream: DecodedReader,
        format: Format[T],
        *,
        on_error: OnError = "raise",
        max_bad: int | None = None,
        max_bad_ratio: float | None = None,
        owned: Backend | None = None,
    ) -> None:
        self.format = format
        self.bad = BadRecords(on_error, max_bad, max_bad_ratio)
        self.records = 0
        self._stream = stream
        self._owned = owned
        self._path = stream.info.path
        self._found: list[RecordError] = []  # bad records before the batch in hand
        self._batches = _batches(stream, format.decoder(self._found.append))
        self._held: list[T] | None = None
        self._error: BaseException | None = None
        self._rest: Iterator[T] = iter(())  # what is left of the batch in hand, whichever method took from it

    @property
    def info(self) -> ObjectInfo:
        """What the store said about the object when it was opened."""
        return self._stream.info

    def _next_batch(self) -> list[T] | None:
        """The next records, or None at the end. Raises what ``on_error`` raises; can be called again after that."""
        if self._held is None and self._error is None:
            try:
                self._held = next(self._batches, None)
            except BaseException as error:
                self._error = error  # kept: asked again, a damaged stream must not look like one that ended
                if isinstance(error, StorageError) and error.path is None:
                    error.path = self._path
        self._settle()
        if self._error is not None:
            raise self._error
        batch, self._held = self._held, None
        if batch is None:
            self.bad.check_ratio(self.records, self._path, final=True)
            return None
        self.records += len(batch)
        if self.bad.count:
            self.bad.check_ratio(self.records, self._path)
        return batch

    def _settle(self) -> None:
        while self._found:
            error = self._found.pop(0)
            error.path = self._path
            self.bad.handle(error)

    def __iter__(self) -> Iterator[T]:
        while True:
            yield from self._rest
            batch = self._next_batch()
            if batch is None:
                return
            self._rest = iter(batch)

    def iter_batches(self, n: int | None = None, /) -> Iterator[list[T]]:
        """Lists of exactly ``n`` records (the last may be shorter); without ``n`` as they come, at most 256."""
        if n is not None and n < 1:
            raise ConfigError(f"a batch has at least one record, not {n}")
        if n is not None:
            while batch := self.read_many(n):
                yield batch
            return
        if rest := list(self._rest):
            yield rest
        while (more := self._next_batch()) is not None:
            yield more

    def read(self) -> T:
        """The next record. Raises ``EOFError`` at the end."""
        while True:
            for record in self._rest:
                return record
            batch = self._next_batch()
            if batch is None:
                raise EOFError("no more records")
            self._rest = iter(batch)

    def read_many(self, n: int, /) -> list[T]:
        """The next ``n`` records, fewer only at the end. If a bad record raises, the good ones before it are kept for
        the next call."""
        out = list(itertools.islice(self._rest, n))
        while len(out) < n:
            try:
                batch = self._next_batch()
            except BaseException:
                self._rest = iter(out)
                raise
            if batch is None:
                break
            self._rest = iter(batch)
            out += itertools.islice(self._rest, n - len(out))
        return out

    def close(self) -> None:
        """Release the source. Idempotent."""
        self._stream.close()
        owned, self._owned = self._owned, None
        if owned is not None:
            owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _batches(stream: DecodedReader, decoder: Stage[bytes, list[T]]) -> Iterator[list[T]]:
    for block in iter(stream.next_block, b""):
        yield from decoder.feed(block)
    yield from decoder.finish()


class OpenSettings(TypedDict, total=False):
    """The keyword arguments of ``open_records``; all optional."""

    format: str | Format[Any] | None
    compression: str | Codec | None
    options: ReadOptions | WriteOptions | None
    on_error: OnError
    max_bad: int | None
    max_bad_ratio: float | None
    on_exception: str
    untrusted: bool
    max_output: int | None
    max_ratio: float | None


@overload
def open_records(target: Any, path: str, mode: Literal["r"], /, **s: Unpack[OpenSettings]) -> RecordReader[Any]: ...
@overload
def open_records(
    target: Any, path: str, mode: Literal["w", "x"], /, **s: Unpack[OpenSettings]
) -> RecordWriter[Any]: ...
@overload
def open_records(
    target: str | PathLike[str], mode: Literal["r"] = "r", /, **s: Unpack[OpenSettings]
) -> RecordReader[Any]: ...
@overload
def open_records(
    target: str | PathLike[str], mode: Literal["w", "x"], /, **s: Unpack[OpenSettings]
) -> RecordWriter[Any]: ...
def open_records(target: Any, path: str = "r", mode: str = "r", /, **s: Unpack[OpenSettings]) -> Any:
    """Open records for reading (``"r"``), writing (``"w"``), or writing a new object only (``"x"``).

    ``open_records(backend, path, mode)``, or ``open_records(url, mode)`` with a URL or a plain path. Format and codec
    are read from the suffixes (``a.ndjson.gz``) where they are not given; ``compression="none"`` means none. Exactly
    the given path is written, and a suffix that contradicts an argument is a ``ConfigError``. On reading, magic bytes
    beat the suffix.

    ``max_output`` (bytes) and ``max_ratio`` bound what decoding may make of the input; ``untrusted=True`` sets them to
    16 GiB and 1,000 unless given.
    """
    unknown = sorted(set(s) - set(OpenSettings.__annotations__))
    if unknown:
        raise ConfigError(f"open_records takes no {unknown[0]!r}{nearest(unknown[0], OpenSettings.__annotations__)}")
    owned: Backend | None = None
    if isinstance(target, str | PathLike):
        from .registry import locate

        mode = path
        backend, path = locate(target)
        owned = backend
    else:
        backend = target.as_backend() if hasattr(target, "as_backend") else target
    try:
        if mode == "r":
            return _open_reader(backend, path, s, owned)
        if mode in ("w", "x"):
            return _open_writer(backend, path, mode, s, owned)
        raise ConfigError(f"mode {mode!r}: use 'r', 'w' or 'x'", path=path)
    except BaseException:
        if owned is not None:
            owned.close()
        raise


def _policy(s: OpenSettings) -> dict[str, Any]:
    policy: dict[str, Any] = {
        "on_error": s.get("on_error", "raise"),
        "max_bad": s.get("max_bad"),
        "max_bad_ratio": s.get("max_bad_ratio"),
    }
    BadRecords(**policy)  # a wrong policy is refused before anything is opened
    return policy


def _open_reader(backend: Backend, path: str, s: OpenSettings, owned: Backend | None) -> RecordReader[Any]:
    form, policy = _pick_format(path, s.get("format")), _policy(s)
    options = s.get("options") or READ
    if not isinstance(options, ReadOptions):
        raise ConfigError(f"reading takes ReadOptions, not {type(options).__name__}", path=path)
    max_output, max_ratio = s.get("max_output"), s.get("max_ratio")
    if s.get("untrusted"):
        max_output = UNTRUSTED_OUTPUT if max_output is None else max_output
        max_ratio = UNTRUSTED_RATIO if max_ratio is None else max_ratio
    source = backend.open_reader(path, options)
    stream = open_decoded(source, s.get("compression"), max_output=max_output, max_ratio=max_ratio)
    return RecordReader(stream, form, owned=owned, **policy)


def _open_writer(backend: Backend, path: str, mode: str, s: OpenSettings, owned: Backend | None) -> RecordWriter[Any]:
    form, codec, policy = _pick_format(path, s.get("format")), _pick_codec(path, s.get("compression")), _policy(s)
    options = s.get("options") or WRITE
    if not isinstance(options, WriteOptions):
        raise ConfigError(f"writing takes WriteOptions, not {type(options).__name__}", path=path)
    if mode == "x":
        options = replace(options, overwrite=False)
    if options.content_type is None:
        # The type says what the bytes are, compression included. Never Content-Encoding: clients would undo it unasked.
        options = replace(options, content_type=getattr(codec or form, "content_type", None))
    on_exception = _known_exit(s.get("on_exception", "abort"))
    sink = backend.open_writer(path, options)
    return RecordWriter(sink, form, codec, owned=owned, on_exception=on_exception, **policy)


def open_decoded(
    source: Reader,
    compression: str | Codec | None = None,
    *,
    max_output: int | None = None,
    max_ratio: float | None = None,
) -> DecodedReader:
    """The plain bytes of an object. ``compression=None`` takes the codec from the magic bytes, else from the suffix;
    ``"none"`` takes the bytes as they are. Closes ``source`` if it raises."""
    try:
        head = b""
        codec = None
        if compression is None:
            while len(head) < 16 and (more := source.read(RAW_BLOCK)):
                head += more
            codec = codec_for_magic(head) or codec_for_path(source.info.path)
        elif compression != "none":
            codec = codec_named(compression)
        decoder = None if codec is None else codec.decoder()
        if decoder is not None and (max_output is not None or max_ratio is not None):
            decoder = Limit(decoder, max_output=max_output, max_ratio=max_ratio)
        return DecodedReader(source, decoder, head=head)
    except BaseException:
        source.close()
        raise


def _pick_format(path: str, wanted: str | Format[Any] | None) -> Format[Any]:
    found = format_for_path(path)
    if wanted is None:
        if found is None:
            raise ConfigError("no record format is known by this suffix: give format=", path=path)
        return found
    form: Format[Any] = record_format(wanted)
    if found is not None and found.name != form.name:
        raise ConfigError(f"the suffix says {found.name}, format= says {form.name}: make them agree", path=path)
    return form


def _pick_codec(path: str, wanted: str | Codec | None) -> Codec | None:
    found = codec_for_path(path)
    if wanted is None:
        return found
    codec = None if wanted == "none" else codec_named(wanted)
    said = "none" if codec is None else codec.name
    # A path that ends in a format's own suffix says that it is not compressed.
    shown = found.name if found is not None else "none" if format_for_path(path) is not None else said
    if shown != said:
        raise ConfigError(f"the suffix says compression {shown}, the argument says {said}: make them agree", path=path)
    return codec
