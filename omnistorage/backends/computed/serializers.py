"""Tables as bytes: Parquet, CSV, Arrow IPC and NDJSON, one batch of rows at a time. pyarrow is loaded with the first
table.

Formats: Parquet (https://parquet.apache.org/docs/file-format/), CSV (RFC 4180, a header, text in quotes, null as
nothing at all), Arrow IPC in its *file* form, for which the suffix ``.arrow`` stands
(https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format), and NDJSON (one object per line; decimals as text,
bytes in base64, times as of ISO 8601, durations in seconds, NaN and infinities as null). Nothing seeks: all can be
written as a stream.
"""

from __future__ import annotations

import base64
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, BinaryIO, Protocol

from omnistorage.errors import CapabilityNotSupported, ConfigError, MissingExtra, StorageError

CONTENT_TYPES = {
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.file",
    "ndjson": "application/x-ndjson",
}
FORMATS = tuple(CONTENT_TYPES)
BATCH_ROWS = 65_536
"""Rows of a Parquet row group and of an Arrow batch."""
_BATCH_BYTES = 16 << 20


def arrow() -> Any:
    """pyarrow; ``MissingExtra`` if it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra('tables need pyarrow: pip install "omnistorage[sql-query]"', extra="sql-query") from error
    return pyarrow


class Table(Protocol):
    """What a serializer is given: the schema, known before any row, and the rows as Arrow record batches. ``close``
    gives back what stands behind; ``interrupt`` comes from another thread."""

    @property
    def schema(self) -> Any: ...
    def batches(self) -> Iterator[Any]: ...
    def close(self) -> None: ...
    def interrupt(self) -> None: ...


class ResultSerializer(Protocol):
    """Turns a result into a stream of bytes. ``formats`` are the suffixes it knows, None if it takes any; ``name``
    stands for whatever it does with the bytes: it is part of fingerprints. ``serialize`` streams: what it returns reads
    the result while it is read itself, and closes it with itself."""

    @property
    def name(self) -> str: ...
    @property
    def formats(self) -> tuple[str, ...] | None: ...
    def serialize(self, result: Any, format: str) -> BinaryIO: ...


class ArrowSerializer:
    """The default: the rows of the driver as Arrow batches, written by pyarrow. ``batch_rows`` is the most rows of a
    Parquet row group or an Arrow batch; one of 16 MiB is closed earlier. Both are held in memory, once as rows of
    Python at most 8,192 at a time."""

    formats: tuple[str, ...] | None = FORMATS

    def __init__(self, *, batch_rows: int = BATCH_ROWS, compression: str = "zstd") -> None:
        if isinstance(batch_rows, bool) or not isinstance(batch_rows, int) or batch_rows < 1:
            raise ConfigError(f"batch_rows counts from 1, not {batch_rows!r}")
        self.batch_rows, self.compression = batch_rows, compression

    @property
    def name(self) -> str:
        return f"{type(self).__name__}(batch_rows={self.batch_rows}, compression={self.compression})"

    def __repr__(self) -> str:
        return self.name

    def serialize(self, result: Any, format: str) -> BinaryIO:
        return TableStream(result, result.schema, result.batches(), format, self.batch_rows, self.compression)


class TableStream(io.RawIOBase, BinaryIO):
    """The bytes of a table, made as they are read; at most one batch and its bytes are held."""

    def __init__(
        self, table: Table, schema: Any, batches: Iterable[Any], format: str, batch_rows: int, compression: str
    ) -> None:
        super().__init__()
        self._sink = _Sink()
        self._table = table
        self._batches = regrouped(batches, batch_rows)
        self._writer: Any = _WRITERS[format](self._sink, schema, compression)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes, perhaps fewer; ``b""`` only at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        while size and not self._sink.parts and self._writer is not None:
            self._step()
        return self._sink.take(size)

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _step(self) -> None:
        batch = next(self._batches, None)
        try:
            if batch is not None:
                self._writer.write_batch(batch)
            else:
                writer, self._writer = self._writer, None
                writer.close()
        except (arrow().ArrowException, TypeError, ValueError) as error:
            raise StorageError(f"these rows cannot be written: {type(error).__name__}: {str(error)[:300]}") from error

    def interrupt(self) -> None:
        """From another thread: make a blocked ``read`` fail soon."""
        self._table.interrupt()

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._writer = None
            self._table.close()


class _Sink(io.RawIOBase):
    """What a writer has written and nobody has read yet."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: deque[bytes] = deque()
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any, /) -> int:
        data = bytes(data)
        if data:
            self.parts.append(data)
            self._at += len(data)
        return len(data)

    def take(self, size: int) -> bytes:
        out, parts = [], self.parts
        while parts and size > 0:
            part = parts.popleft()
            if len(part) > size:
                parts.appendleft(part[size:])
                part = part[:size]
            out.append(part)
            size -= len(part)
        return out[0] if len(out) == 1 else b"".join(out)


def regrouped(batches: Iterable[Any], rows: int) -> Iterator[Any]:
    """The same rows in batches of at most ``rows`` rows, or somewhat over 16 MiB; empty ones left out. Where a batch
    ends depends on the rows alone, not on how they came."""
    held: list[Any] = []
    count = size = 0
    for whole in batches:
        at = 0
        while at < whole.num_rows:
            batch = whole.slice(at, min(rows - count, whole.num_rows - at))
            at += batch.num_rows
            held.append(batch)
            count, size = count + batch.num_rows, size + batch.nbytes
            if count == rows or size >= _BATCH_BYTES:
                yield _joined(held)
                held, count, size = [], 0, 0
    if held:
        yield _joined(held)


def _joined(batches: list[Any]) -> Any:
    if len(batches) == 1:
        return batches[0]
    (joined,) = arrow().Table.from_batches(batches).combine_chunks().to_batches()
    return joined


# --- one writer per format --------------------------------------------------------------------------------------------


def _parquet(sink: _Sink, schema: Any, compression: str) -> Any:
    import pyarrow.parquet as parquet

    pa = arrow()
    _refuse(schema, "parquet", lambda kind: pa.types.is_interval(kind) or pa.types.is_union(kind))
    try:
        writer = parquet.ParquetWriter(sink, schema, compression=compression)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ConfigError(f"this table cannot be written as Parquet: {error}") from error
    return _RowGroups(writer, pa)


class _RowGroups:
    """Each batch is a row group of its own: a writer that collects would hold a million rows."""

    def __init__(self, writer: Any, pa: Any) -> None:
        self._writer, self._pa = writer, pa
        self.close = writer.close

    def write_batch(self, batch: Any) -> None:
        self._writer.write_table(self._pa.Table.from_batches([batch]), row_group_size=batch.num_rows)


def _csv(sink: _Sink, schema: Any, compression: str) -> Any:
    from pyarrow import csv

    pa = arrow()
    text_or_plain = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating,
        pa.types.is_decimal, pa.types.is_temporal, pa.types.is_null,
    )  # fmt: skip
    _refuse(schema, "csv", lambda kind: pa.types.is_interval(kind) or not any(fits(kind) for fits in text_or_plain))
    return csv.CSVWriter(sink, schema)


def _ipc(sink: _Sink, schema: Any, compression: str) -> Any:
    return arrow().ipc.new_file(sink, schema)


def _ndjson(sink: _Sink, schema: Any, compression: str) -> Any:
    return _Lines(sink)


class _Lines:
    def __init__(self, sink: _Sink) -> None:
        import orjson

        self._sink, self._dumps = sink, orjson.dumps
        self._options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS

    def write_batch(self, batch: Any) -> None:
        for at in range(0, batch.num_rows, 4096):
            rows = batch.slice(at, 4096).to_pylist()
            self._sink.write(b"".join([self._dumps(row, _plain, self._options) for row in rows]))

    def close(self) -> None:
        """There is no trailer."""


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def _refuse(schema: Any, format: str, wrong: Callable[[Any], bool]) -> None:
    for field in schema:
        if wrong(field.type):
            raise CapabilityNotSupported(
                f"column {field.name!r}: {format} cannot hold {field.type}; turn it into text, or take another format",
                capability=f"{format}: {field.type}",
            )


_WRITERS: dict[str, Callable[[_Sink, Any, str], Any]] = {
    "parquet": _parquet,
    "csv": _csv,
    "arrow": _ipc,
    "ndjson": _ndjson,
}


def without_views(reader: Any) -> Any:
    """A reader whose text and bytes are plain: other libraries' columns are views, which few formats can hold, or have
    dictionaries, which may change between two batches, as an IPC file cannot."""
    pa = arrow()
    views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}

    def plain(kind: Any) -> Any:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return views.get(kind, kind)

    if all(plain(field.type) == field.type for field in reader.schema):
        return reader
    return reader.cast(pa.schema([field.with_type(plain(field.type)) for field in reader.schema]))


def check_distinct(names: Iterable[str]) -> None:
    """Refuse a table in which two columns have one name: most formats would keep one of them."""
    seen = set[str]()
    for name in names:
        if name in seen:
            raise StorageError(f"two columns are called {name!r}: give each a name of its own, with AS")
        seen.add(name)
