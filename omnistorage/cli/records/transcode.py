"""What a record of one format becomes in another: the rule of ``write``, ``read`` and ``convert``, in one place.

``reading(source, to)`` yields what ``writing(to)`` takes: one JSON text as bytes for ndjson, bytes for lines and
length_prefixed, values for csv and formats of third parties.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson

from omnistorage.core.stages import Format, OnBad, RecordEncoder, Stage, StageBase
from omnistorage.errors import RecordError

from .verbatim import JsonStrings, Verbatim

RULE = (
    "What a record becomes: a csv row is a JSON object of its columns in every other format. A JSON record is its own "
    "text in lines and length_prefixed, byte by byte. A line is a JSON string in ndjson. A length_prefixed record is "
    "its bytes; for ndjson they must be a JSON text. Into csv goes what is a JSON object, numbers as they were "
    "written, null as an empty field; nested values are refused. What cannot be had is a bad record (--on-error)."
)
_BYTES = ("lines", "length_prefixed")


def reading(source: Format[Any], to: str) -> Format[Any]:
    """The format that reads ``source`` for a writer of the format named ``to``; ``""`` asks for values."""
    name = source.name
    if to == "ndjson":
        if name in ("ndjson", "lines"):
            return Verbatim(source) if name == "ndjson" else JsonStrings(source)
        return Mapped(source, _json_text if name == "length_prefixed" else _dumped)
    if to in _BYTES:
        return Verbatim(source) if name == "ndjson" else source if name in _BYTES else Mapped(source, _dumped)
    if name == "ndjson":
        return source if to == "" else Mapped(Verbatim(source), _row)
    return Mapped(source, _value if to == "" else _row) if name in _BYTES else source


def writing(to: Format[Any]) -> Format[Any]:
    """The format that writes ``to`` from what ``reading`` yields."""
    return Verbatim(to) if to.name == "ndjson" else to


def takes_bytes(to: Format[Any]) -> bool:
    """Whether a writer of ``to`` gets encoded records."""
    return to.name == "ndjson" or to.name in _BYTES


# --- one record -------------------------------------------------------------------------------------------------------


def _json_text(record: bytes) -> bytes:
    """Bytes that must be one JSON text, on one line: a line break can only stand between its tokens."""
    try:
        orjson.loads(record)
    except ValueError as error:
        raise RecordError(f"not a JSON text: {error}", raw=record) from error
    return record.replace(b"\r", b" ").replace(b"\n", b" ") if b"\n" in record or b"\r" in record else record


def _dumped(record: Any) -> bytes:
    try:
        return orjson.dumps(record)
    except TypeError as error:
        raise RecordError(f"not serialisable as JSON: {error}", raw=_shown(record)) from error


def _value(record: bytes) -> Any:
    try:
        return orjson.loads(record)
    except ValueError as error:
        raise RecordError(f"not a JSON text: {error}", raw=record) from error


class _Number(float):
    """A number with a point or an exponent that prints as it was written."""

    text: str

    def __new__(cls, text: str) -> _Number:
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_loads = json.JSONDecoder(parse_float=_Number, parse_constant=_refused).decode


def _row(record: bytes) -> Any:
    """A row of csv from a JSON text; big numbers are not rounded."""
    try:
        row = _loads(record.decode())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not a JSON text: {error}", raw=record) from error
    if isinstance(row, dict):
        for name, value in row.items():
            if value is True or value is False:
                row[name] = "true" if value else "false"
    return row


def _shown(record: Any) -> bytes:
    return bytes(record) if isinstance(record, bytes) else repr(record).encode("utf-8", "backslashreplace")


# --- a format whose records are changed on the way --------------------------------------------------------------------


class Mapped:
    """``base`` with each record that is read changed by ``change``, which raises ``RecordError`` for a bad one."""

    def __init__(self, base: Format[Any], change: Callable[[Any], Any]) -> None:
        self.name, self.suffixes = base.name, base.suffixes
        self._base, self._change = base, change

    def encoder(self) -> RecordEncoder[Any]:
        return self._base.encoder()

    def decoder(self, on_bad: OnBad | None = None) -> Stage[bytes, list[Any]]:
        return _MappedDecoder(self._base, self._change, on_bad)


class _MappedDecoder(StageBase[bytes, list[Any]]):
    def __init__(self, base: Format[Any], change: Callable[[Any], Any], on_bad: OnBad | None) -> None:
        self._change, self._on_bad = change, on_bad
        self._number = 0
        self._below = deque[RecordError]()
        self._inner = base.decoder(None if on_bad is None else self._below.append)

    def _feed(self, item: bytes) -> Iterator[list[Any]]:
        yield from self._changed(self._inner.feed(item))

    def _finish(self) -> Iterator[list[Any]]:
        yield from self._changed(self._inner.finish())

    def _changed(self, batches: Iterable[list[Any]]) -> Iterator[list[Any]]:
        for batch in batches:
            self._pass_on()
            try:
                made = list(map(self._change, batch))
            except RecordError:
                yield from self._one_by_one(batch)
            else:
                self._number += len(batch)
                yield made
        self._pass_on()

    def _pass_on(self) -> None:
        """What the inner decoder found bad has come before the batch in hand."""
        while self._below:
            self._number += 1
            self._report(self._below.popleft())

    def _one_by_one(self, batch: list[Any]) -> Iterator[list[Any]]:
        good: list[Any] = []
        for record in batch:
            self._number += 1
            try:
                good.append(self._change(record))
            except RecordError as error:
                if good:
                    yield good
                good = []
                error.number = self._number
                self._report(error)
        if good:
            yield good

    def _report(self, error: RecordError) -> None:
        if self._on_bad is None:
            raise error
        self._on_bad(error)


# --- records whose fields name their object ---------------------------------------------------------------------------


class Parsed(dict[str, Any]):
    """An encoded record with its fields in reach."""

    __slots__ = ("raw",)
    raw: bytes

    def __repr__(self) -> str:
        return self.raw.decode("utf-8", "replace")


class _Bare:
    """An encoded record that has no fields."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    __repr__ = Parsed.__repr__


def _parsed(raw: bytes) -> Any:
    try:
        value = orjson.loads(raw)
    except ValueError:  # a line of text
        value = None
    if not isinstance(value, dict):
        return _Bare(raw)
    record = Parsed(value)
    record.raw = raw
    return record


def parsing(source: Format[Any], to: Format[Any]) -> Format[Any]:
    """Like ``reading`` for a writer made with ``unparsing``."""
    inner = reading(source, to.name)
    return Mapped(inner, _parsed) if takes_bytes(to) else inner


class Unparsed:
    """``base``, writing the bytes that parsed records were made of."""

    def __init__(self, base: Format[Any]) -> None:
        self.name, self.suffixes = base.name, base.suffixes
        self.content_type = getattr(base, "content_type", None)
        self._base = base

    def encoder(self) -> RecordEncoder[Any]:
        return _Unparser(self._base.encoder())

    def decoder(self, on_bad: OnBad | None = None) -> Stage[bytes, list[Any]]:
        return self._base.decoder(on_bad)


class _Unparser:
    def __init__(self, inner: RecordEncoder[Any]) -> None:
        self._inner = inner
        self.flush, self.finish = inner.flush, inner.finish

    def encode(self, record: Any, /) -> bytes:
        return self._inner.encode(record.raw)

    def feed(self, item: Sequence[Any], /) -> Iterable[bytes]:
        return self._inner.feed([record.raw for record in item])


def unparsing(to: Format[Any]) -> Format[Any]:
    """The format that writes ``to`` from what ``parsing`` yields."""
    made: Any = Unparsed(writing(to)) if takes_bytes(to) else writing(to)
    return made  # type: ignore[no-any-return]
