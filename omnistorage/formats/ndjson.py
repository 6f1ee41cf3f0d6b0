"""NDJSON: one JSON text (RFC 8259) per line (https://github.com/ndjson/ndjson-spec).

The fast path is one ``map(orjson.loads, lines)`` per group of lines; only a group with something odd in it is gone
through line by line. Lines are never glued into one JSON array: that would accept ``[1`` ``2]`` ``3`` as one record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import orjson

from omnistorage.core.stages import BATCH_RECORDS, OnBad, RecordEncoder, Stage, StageBase
from omnistorage.errors import ConfigError, CorruptData, RecordError

from .line_splitter import UNTRUSTED_RECORD, LineSplitter, report

_BOM = b"\xef\xbb\xbf"
_UNTRUSTED_VALUES = 100_000
_SPACE = b" \t\r"  # JSON white space, without the newline
_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True)
class Ndjson:
    """Newline-delimited JSON, one record per line.

    A record is any value that ``orjson`` serialises, or ``bytes`` (``bytearray``, ``memoryview``) holding one already
    encoded JSON text without a newline. Reading gives dicts, lists, strings, numbers, booleans and None. What orjson
    does is what happens: NaN and infinities are written as ``null``, numbers beyond 64 bits are read as floats, and the
    content of an ``orjson.Fragment`` is taken on trust (but for newlines). Numbers and arrays of numpy are written as
    those of JSON. ``default`` is called with each value that JSON has no type for, such as a ``Decimal``, a set or a
    path, and returns one that it has, as with ``json.dumps``: ``Ndjson(default=str)``. Without it such a value is a
    ``RecordError``.

    Lines end with ``\\n``; reading accepts ``\\r\\n``, skips blank lines and a UTF-8 BOM at the start. A record's text
    is at most ``max_record`` bytes: a larger one is a ``RecordError`` on writing, and one bad record on reading. If
    ``max_values`` is given, a record of more values, counted by its commas, is one bad record on reading: a value may
    take thirty times the memory of its text. A last line without ``\\n`` is a record if it is whole JSON and not a
    number (``12`` may be what is left of ``123``); else ``finish`` raises ``CorruptData``, or drops it when
    ``allow_partial_tail`` is set.
    """

    name = "ndjson"
    suffixes = (".ndjson", ".jsonl")
    content_type = "application/x-ndjson"

    max_record: int = 16 << 20
    allow_partial_tail: bool = False
    max_values: int | None = None
    default: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.max_values is not None and (type(self.max_values) is not int or self.max_values < 1):
            raise ConfigError(f"ndjson max_values is a number from 1 up or None, not {self.max_values!r}")
        if type(self.max_record) is not int or self.max_record < 1:
            raise ConfigError(f"ndjson max_record is a number of bytes from 1 up, not {self.max_record!r}")
        if type(self.allow_partial_tail) is not bool:
            raise ConfigError(f"ndjson allow_partial_tail is True or False, not {self.allow_partial_tail!r}")
        if self.default is not None and not callable(self.default):
            raise ConfigError(f"ndjson default takes a value and returns one that JSON has, not {self.default!r}")

    def untrusted(self) -> Self:
        """This format for input that anybody may have made: records of at most 1 MiB and 100,000 values."""
        return replace(
            self,
            max_record=min(self.max_record, UNTRUSTED_RECORD),
            max_values=min(self.max_values or _UNTRUSTED_VALUES, _UNTRUSTED_VALUES),
        )

    def encoder(self) -> RecordEncoder[Any]:
        return _Encoder(self.max_record) if self.default is None else _Converter(self.max_record, self.default)

    def decoder(self, on_bad: OnBad | None = None) -> Stage[bytes, list[Any]]:
        """See ``stages.Format``. ``raw`` of a bad record is its line without the ``\\n``, ``number`` does not count
        blank lines, ``offset`` is where the line starts (behind the BOM if there is one)."""
        return _Decoder(self, on_bad)


_dumps = orjson.dumps  # one look-up less for each record


class _Encoder(StageBase[Sequence[Any], bytes]):
    _advice = "; Ndjson(default=...) converts what JSON has no type for"

    def __init__(self, max_record: int) -> None:
        self._max_record = max_record

    def encode(self, record: Any, /) -> bytes:
        """The line of one record, ``\\n`` included. Raises ``RecordError``."""
        if self._state != "ready":
            self._enter()
        try:
            line = _dumps(record, None, _LINE)
        except Exception as error:
            return self._encoded(record, error)
        last = len(line) - 1
        if last > self._max_record or line.find(b"\n") != last:
            self._refuse(line, record)
        return line

    def feed(self, item: Sequence[Any], /) -> Iterable[bytes]:
        """One output: the lines of all records. Raises ``RecordError`` before any output."""
        self._enter()
        self._state = "ready"  # a bad record raises below and does no harm
        data = self._lines(item)
        self._enter()
        return self._run(iter((data,) if data else ()), "ready")

    def _lines(self, records: Sequence[Any]) -> bytes:
        dumps = _dumps
        try:
            data = b"".join([dumps(record, None, _LINE) for record in records])
        except Exception:
            return b"".join(map(self.encode, records))
        if len(data) - 1 > self._max_record or data.count(b"\n") != len(records):
            return b"".join(map(self.encode, records))
        return data

    def _encoded(self, record: Any, error: Exception) -> bytes:
        """What orjson cannot serialise: an already encoded record, or an error."""
        if not isinstance(record, bytes | bytearray | memoryview):
            raise RecordError(f"not serialisable as JSON: {error}{self._advice}", raw=_shown(record)) from error
        line = bytes(record)
        if b"\n" in line:
            raise RecordError("an encoded record is one line; this has a newline in it", raw=_shown(line))
        if len(line) > self._max_record:
            raise RecordError(f"the record is {len(line)} bytes, max_record is {self._max_record}", raw=_shown(line))
        try:
            orjson.loads(line)
        except ValueError as wrong:
            raise RecordError(f"not a JSON text: {wrong}", raw=_shown(line)) from wrong
        return line + b"\n"

    def _refuse(self, line: bytes, record: Any) -> None:
        if line.find(b"\n") != len(line) - 1:
            raise RecordError("a newline in an orjson.Fragment would cut the record in two", raw=_shown(record))
        raise RecordError(f"the record is {len(line) - 1} bytes, max_record is {self._max_record}", raw=_shown(record))


class _Converter(_Encoder):
    """Has ``default`` convert what JSON has no type for."""

    _advice = ""

    def __init__(self, max_record: int, default: Callable[[Any], Any]) -> None:
        super().__init__(max_record)
        self._default = default

    def encode(self, record: Any, /) -> bytes:
        if isinstance(record, bytes | bytearray | memoryview):
            return super().encode(record)
        if self._state != "ready":
            self._enter()
        try:
            line = _dumps(record, self._default, _LINE)
        except Exception as error:
            return self._encoded(record, error.__cause__ if isinstance(error.__cause__, Exception) else error)
        last = len(line) - 1
        if last > self._max_record or line.find(b"\n") != last:
            self._refuse(line, record)
        return line

    def _lines(self, records: Sequence[Any]) -> bytes:
        return b"".join(map(self.encode, records))


def _shown(record: Any) -> bytes:
    try:
        return repr(record).encode("utf-8", "backslashreplace")
    except Exception:  # a repr is the record's own code, or too deep
        return f"<{type(record).__name__}>".encode()


class _Decoder(StageBase[bytes, list[Any]]):
    def __init__(self, settings: Ndjson, on_bad: OnBad | None) -> None:
        self._settings = settings
        self._on_bad = on_bad
        self._splitter = LineSplitter(settings.max_record + len(_BOM) + 1)  # and a "\r"
        self._number = 0

    def _feed(self, item: bytes) -> Iterator[list[Any]]:
        for offset, block, cut in self._splitter.feed(item):
            if not offset and block.startswith(_BOM):
                offset, block = len(_BOM), block[len(_BOM) :]
            if cut:
                self._number += 1
                self._bad(self._too_long, offset, block)
            else:
                yield from self._block(block, offset)

    def _block(self, block: bytes, offset: int) -> Iterator[list[Any]]:
        loads, lines = orjson.loads, block.split(b"\n")
        fits = len(block) <= self._settings.max_record and self._is_narrow(block)
        seen = 0  # the number of lines before ``offset``
        for at in range(0, len(lines), BATCH_RECORDS):
            group = lines[at : at + BATCH_RECORDS] if len(lines) > BATCH_RECORDS else lines
            try:
                records = list(map(loads, group)) if fits else None
            except ValueError:
                records = None
            if records is None:
                offset += sum(map(len, lines[seen:at])) + at - seen
                seen = at
                yield from self._one_by_one(group, offset)
            else:
                self._number += len(records)
                yield records

    def _one_by_one(self, lines: list[bytes], offset: int) -> Iterator[list[Any]]:
        good: list[Any] = []
        for line in lines:
            start, offset = offset, offset + len(line) + 1
            text = line.removesuffix(b"\r")
            problem: str | ValueError = self._too_long
            if not self._is_narrow(text):
                problem = self._too_wide
            elif len(text) <= self._settings.max_record:
                if not text.strip(_SPACE):
                    continue
                try:
                    good.append(orjson.loads(text))
                    self._number += 1
                    continue
                except ValueError as error:
                    problem = error
            if good:
                yield good
                good = []
            self._number += 1
            self._bad(problem, start, line)
        if good:
            yield good

    def _is_narrow(self, text: bytes) -> bool:
        most = self._settings.max_values
        return most is None or text.count(b",") < most

    @property
    def _too_wide(self) -> str:
        return f"the record has more than max_values={self._settings.max_values} values"

    @property
    def _too_long(self) -> str:
        return f"the line is longer than max_record={self._settings.max_record} bytes"

    def _bad(self, problem: str | ValueError, offset: int, raw: bytes) -> None:
        text = problem if isinstance(problem, str) else f"not a JSON text: {problem}"
        report(RecordError(text, number=self._number, offset=offset, raw=raw), self._on_bad)

    def _finish(self) -> Iterator[list[Any]]:
        offset, tail, cut = self._splitter.tail()
        if not offset and tail.startswith(_BOM):
            offset, tail = len(_BOM), tail[len(_BOM) :]
        if not tail.strip(_SPACE) and not cut:
            return
        if not cut and len(tail.removesuffix(b"\r")) <= self._settings.max_record and self._is_narrow(tail):
            try:
                record = orjson.loads(tail)
            except ValueError:
                pass
            else:
                if isinstance(record, bool) or not isinstance(record, int | float):
                    yield [record]
                    return
        if not self._settings.allow_partial_tail:
            raise CorruptData(
                f"the last line has no newline and may be cut off: {tail[:80]!r}; allow_partial_tail=True drops it",
                offset=offset,
            )
