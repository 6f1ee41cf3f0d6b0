"""The decoder of ``Csv``: blocks of whole lines through Python's ``csv.reader``.

The fast path gives a block of some 64 KiB to one ``csv.reader``. Where the block ends within a quoted field is guessed
by counting quotes, and the reader itself proves the guess: it is strict, so it raises if the block ends inside a row.
Only a block with something odd in it is gone through row by row, with ``RowScanner``.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from omnistorage.core.stages import BATCH_BYTES, BATCH_RECORDS, OnBad, StageBase
from omnistorage.errors import ConfigError, CorruptData, RecordError
from omnistorage.formats.line_splitter import RAW_LIMIT, report

from .scanner import RowScanner
from .settings import PARSERS, CsvSettings, Names

_BOM = b"\xef\xbb\xbf"


class _Odd(Exception):
    """A row that is no record, and why."""


class _Unusable(ConfigError):
    """A callable of ``types`` that fails on the first value it gets: probably it takes something else than a text."""


class Decoder(StageBase[bytes, list[Any]]):
    def __init__(self, settings: CsvSettings, on_bad: OnBad | None) -> None:
        self._settings = settings
        self._on_bad = on_bad
        self._dialect: Any = csv.reader((), **settings.reading()).dialect  # made once: that costs more than a short row
        self._quote = settings.quote.encode() if settings.quote else b""
        self._scanner = RowScanner(settings.delimiter, settings.quote, settings.escapechar, settings.doublequote)
        self._bom = settings.is_utf8
        self._widest = settings.max_columns
        self._wants_header = settings.starts_with_header
        self._names: Names | None = None
        self._types: list[tuple[int, str, Callable[[str], Any]]] = []
        if settings.names is not None:
            self._learn(settings.names)
        self._number = 0
        self._offset = 0  # where the unfinished row starts
        self._held = bytearray()  # what there is of it
        self._dropped = 0  # how much of it was thrown away
        self._block_size = min(BATCH_BYTES, settings.max_record)  # so no block holds a row that is too long

    def _feed(self, item: bytes) -> Iterator[list[Any]]:
        if self._bom:
            item, self._held = b"".join((self._held, item)), bytearray()
            if len(item) < len(_BOM) and _BOM.startswith(item):
                self._held += item
                return
            self._bom = False
            if item.startswith(_BOM):
                item = item[len(_BOM) :]
                self._offset = len(_BOM)
        at = 0
        if self._held:
            at = self._scanner.scan(item, 0)
            self._hold(item, 0, at or len(item))
            if not at:
                return
            yield from self._held_row()
        while at < len(item):
            end = item.rfind(b"\n", at, at + self._block_size) + 1
            if end and not self._wants_header:
                end = yield from self._block(item[at:end])
            elif end:
                end = yield from self._one_by_one(item[at:end])
            if end:
                at += end
                continue
            # One row that is longer than a block, or is not all there.
            end = self._scanner.scan(item, at)
            self._hold(item, at, end or len(item))
            if not end:
                return
            yield from self._held_row()
            at = end

    def _hold(self, data: bytes, at: int, end: int) -> None:
        if self._dropped or len(self._held) + end - at > self._settings.max_record + 2:  # and the line break
            room = max(RAW_LIMIT - len(self._held), 0)
            self._dropped += len(self._held) + end - at
            self._held += memoryview(data)[at : min(at + room, end)]
            del self._held[RAW_LIMIT:]
            self._dropped -= len(self._held)
        else:
            self._held += memoryview(data)[at:end]

    def _held_row(self) -> Iterator[list[Any]]:
        row, dropped = bytes(self._held), self._dropped
        self._held, self._dropped = bytearray(), 0
        good: list[Any] = []
        problem = self._take(row, good, bool(dropped))
        if good:
            yield good
        if problem:
            self._bad(problem, self._offset, row)
        self._offset += len(row) + dropped

    def _block(self, block: bytes) -> Generator[list[Any], None, int]:
        """The records of all rows that end in ``block``, which ends with a newline; returns where the last one ends, 0
        if none does."""
        end, odd = len(block), block.count(self._quote) & 1 if self._quote else 0
        while odd:  # a row goes on behind the block, or there is a quote where it means nothing
            start = block.rfind(b"\n", 0, end - 1) + 1
            odd ^= block.count(self._quote, start, end) & 1
            end = start
        if not end:
            return 0
        whole = block if end == len(block) else block[:end]
        try:
            records = self._records(self._rows(whole))
        except (_Odd, csv.Error, ValueError):
            return (yield from self._one_by_one(block))
        self._number += len(records)
        self._offset += end
        if len(records) <= BATCH_RECORDS:
            if records:
                yield records
        else:
            for at in range(0, len(records), BATCH_RECORDS):
                yield records[at : at + BATCH_RECORDS]
        return end

    def _rows(self, block: bytes) -> list[list[str]]:
        text = block.decode(self._settings.encoding)
        if "\0" in text and self._settings.nul == "error":
            raise _Odd
        if (self._quote and self._quote in block) or self._settings.escapechar:
            # A row may go on over a newline, which then is part of it. Only "\n" separates.
            return list(csv.reader(io.StringIO(text, newline="\n"), self._dialect))
        lines = text.split("\n")
        lines.pop()  # what stands behind the last newline: nothing
        return list(csv.reader(lines, self._dialect))

    def _records(self, rows: list[list[str]]) -> list[Any]:
        """The records of sound rows, blank ones left out. Raises if there is anything odd."""
        names = self._names
        if names is None:
            if self._widest is not None and max(map(len, rows), default=0) > self._widest:
                raise _Odd
            return rows if all(rows) else list(filter(None, rows))
        if set(map(len, rows)) != {len(names)}:
            rows = list(filter(None, rows))
            if not set(map(len, rows)) <= {len(names)}:
                raise _Odd
        values: list[Any] = rows
        if self._types:
            try:
                for row in values:
                    for place, _, parse in self._types:
                        row[place] = parse(row[place])
            except Exception as error:  # a callable's own
                raise _Odd from error
        if self._settings.rows == "dict":
            return [dict(zip(names, row)) for row in values]  # noqa: B905  # lengths are checked, strict= costs
        return values

    def _one_by_one(self, block: bytes) -> Generator[list[Any], None, int]:
        """The same as ``_block``, slowly and with an eye on each row."""
        good: list[Any] = []
        at = 0
        while at < len(block) and (end := self._scanner.scan(block, at)):
            row = block[at:end]
            problem = self._take(row, good)
            if good and (problem or len(good) == BATCH_RECORDS):
                yield good
                good = []
            if problem:
                self._bad(problem, self._offset, row)
            self._offset += end - at
            at = end
        if good:
            yield good
        self._scanner.reset()
        return at

    def _take(self, row: bytes, good: list[Any], cut: bool = False) -> str:
        """Make a record of one row, the header, or nothing; returns what is wrong with it."""
        try:
            fields = self._parse(row, cut)
            if not fields:
                return ""
            if self._wants_header:
                self._wants_header = False
                self._learn(fields)
                return ""
            record = self._record(fields)
        except (_Odd, csv.Error, UnicodeError) as error:
            if self._wants_header:
                raise CorruptData(f"the header cannot be read: {error}", offset=self._offset) from error
            self._number += 1
            return f"not a CSV row: {error}" if isinstance(error, csv.Error) else str(error)
        self._number += 1
        good.append(record)
        return ""

    def _parse(self, row: bytes, cut: bool) -> list[str]:
        line = row.removesuffix(b"\n").removesuffix(b"\r")
        if cut or len(line) > self._settings.max_record:
            raise _Odd(f"the row is longer than max_record={self._settings.max_record} bytes")
        text = row.decode(self._settings.encoding)
        if "\0" in text and self._settings.nul == "error":
            raise _Odd("a NUL character in the row; nul='keep' reads it")
        if len(text) > csv.field_size_limit():
            # The limit is one for the whole process and 131,072 at first. It is raised where a row needs that, and
            # never lowered: how large a row may be says max_record.
            csv.field_size_limit(len(text))
        fields: list[str] = next(csv.reader((text,), self._dialect))
        return fields

    def _record(self, fields: list[str]) -> Any:
        names = self._names
        if self._widest is not None and len(fields) > self._widest:
            raise _Odd(f"{len(fields)} fields where max_columns={self._widest}")
        if names is None:
            return fields
        values: list[Any] = fields
        if len(fields) != len(names):
            short = len(names) - len(fields)
            if (self._settings.missing if short > 0 else self._settings.extra) == "error":
                raise _Odd(f"{len(fields)} fields where the header has {len(names)}")
            values = [*fields, *[None] * short][: len(names)]
        for place, name, parse in self._types:
            value = values[place]
            try:
                values[place] = None if value is None else parse(value)
            except _Unusable:
                raise
            except Exception as error:  # a callable's own
                raise _Odd(f"column {name!r}: {value!r}: {error}") from error
        return dict(zip(names, values, strict=True)) if self._settings.rows == "dict" else values

    def _learn(self, fields: Sequence[str]) -> None:
        """Take up the header."""
        names, said = tuple(fields), self._settings.names
        if self._widest is not None and len(names) > self._widest:
            raise CorruptData(f"the header has {len(names)} columns, max_columns={self._widest}", offset=self._offset)
        if said is not None and names != said:
            raise CorruptData(f"the header is {_listed(names)}, header= says {_listed(said)}", offset=self._offset)
        count = Counter(names)
        if len(count) < len(names):
            twice = [name for name, times in count.items() if times > 1]
            raise CorruptData(f"the header names a column twice: {_listed(sorted(twice))}", offset=self._offset)
        types: dict[str, Any] = dict(self._settings.types)
        for name in types:
            if name not in count:
                raise CorruptData(f"the header {_listed(names)} lacks the typed column {name!r}", offset=self._offset)
        self._names = names
        null = self._settings.null
        self._types = [
            (place, name, _parser(name, types[name], null)) for place, name in enumerate(names) if name in types
        ]

    def _bad(self, problem: str, offset: int, row: bytes) -> None:
        raw = row.removesuffix(b"\n")
        report(RecordError(problem, number=self._number, offset=offset, raw=raw), self._on_bad)

    def _finish(self) -> Iterator[list[Any]]:
        tail = bytes(self._held)
        if not tail:
            return
        good: list[Any] = []
        try:
            problem = self._take(tail, good, bool(self._dropped))
        except CorruptData:
            if not self._settings.allow_partial_tail:
                raise
            return
        if problem and not self._settings.allow_partial_tail:
            raise CorruptData(
                f"the last row has no line break and is cut off: {problem}: {tail[:80]!r}; allow_partial_tail=True "
                "drops it",
                offset=self._offset,
            )
        if good:
            yield good


def _listed(names: Sequence[str]) -> str:
    """The names for a message, not all of them if they are many."""
    shown = ", ".join(repr(name[:80]) for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def _parser(name: str, kind: Any, null: str) -> Callable[[str], Any]:
    parse = PARSERS[kind] if isinstance(kind, str) else _tried(name, kind)

    def typed(text: str) -> Any:
        return None if not text or text == null else parse(text)

    return typed


def _tried(name: str, parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """``parse``, which raises ``_Unusable`` if it fails on the first value it gets."""
    works = False

    def tried(text: str) -> Any:
        nonlocal works
        try:
            value = parse(text)
        except Exception as error:
            if works:
                raise
            raise _Unusable(
                f"csv types: column {name!r}: {parse!r} failed on the first value, {text!r}: {type(error).__name__}: "
                f"{error}; give a callable that takes the text of a field, or one of {', '.join(PARSERS)}"
            ) from error
        works = True
        return value

    return tried
