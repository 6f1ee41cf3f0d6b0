"""Record formats whose records stay the bytes they were.

To parse a JSON text and write it again changes it: numbers beyond 64 bits become floats, a repeated key is lost, spaces
go. A command that only moves records must not do that. So the lines go on as they are, and the real decoder of the
format runs beside them over the same bytes as the judge: numbers, offsets and limits are its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omnistorage.core.stages import BATCH_RECORDS, Format, OnBad, RecordEncoder, Stage, StageBase
from omnistorage.errors import RecordError
from omnistorage.formats import record_format

_BOM = b"\xef\xbb\xbf"
_LONGEST = 16 << 20  # what every line format takes by default, so no longer line can be good


@dataclass(frozen=True)
class Verbatim:
    """NDJSON; a record is one line's bytes, a valid JSON text. ``base`` has the settings."""

    base: Format[Any] = field(default_factory=lambda: record_format("ndjson"))
    name: ClassVar[str] = "ndjson"
    suffixes: ClassVar[tuple[str, ...]] = (".ndjson", ".jsonl")
    content_type: ClassVar[str] = "application/x-ndjson"

    def encoder(self) -> RecordEncoder[Any]:
        return record_format("lines", max_record=getattr(self.base, "max_record", _LONGEST)).encoder()

    def decoder(self, on_bad: OnBad | None = None) -> Stage[bytes, list[bytes]]:
        return _VerbatimDecoder(self.base, on_bad)


@dataclass(frozen=True)
class JsonStrings:
    """Lines; a record is the line as an encoded JSON string. A line that is not UTF-8 is a bad record."""

    base: Format[Any] = field(default_factory=lambda: record_format("lines"))
    name: ClassVar[str] = "lines"
    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".log")

    def encoder(self) -> RecordEncoder[Any]:
        return self.base.encoder()

    def decoder(self, on_bad: OnBad | None = None) -> Stage[bytes, list[bytes]]:
        return _StringsDecoder(self.base, on_bad)


class _VerbatimDecoder(StageBase[bytes, list[bytes]]):
    def __init__(self, base: Format[Any], on_bad: OnBad | None) -> None:
        self._on_bad = on_bad
        self._bad = deque[RecordError]()
        self._judge = base.decoder(self._bad.append)
        self._longest = getattr(base, "max_record", _LONGEST)
        self._start = 0  # where what is held begins
        self._held = bytearray()
        self._skipped = 0  # bytes thrown away of a line that is longer than any good one

    def _feed(self, item: bytes) -> Iterator[list[bytes]]:
        good = sum(map(len, self._judge.feed(item)))
        cut = item.rfind(b"\n")
        if cut < 0:
            self._hold(item)
            return
        if self._skipped:  # the judge has said so: go on behind it
            end = item.find(b"\n")
            self._start += self._skipped + len(self._held) + end + 1
            self._skipped, self._held = 0, bytearray()
            block = item[end + 1 : cut] if end < cut else None
        else:
            block = bytes(self._held) + item[:cut] if self._held else item[:cut]
        start = self._start
        if block is not None:
            self._start += len(block) + 1
        self._held = bytearray()
        self._hold(item[cut + 1 :])
        if block is not None or self._bad:
            yield from self._lines([] if block is None else block.split(b"\n"), start, good)

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > self._longest + 4:  # a BOM and a "\r" are no part of the record
            self._skipped += len(self._held)
            self._held = bytearray()

    def _lines(self, lines: list[bytes], start: int, good: int) -> Iterator[list[bytes]]:
        if len(lines) != good or self._bad:
            yield from self._sorted_out(lines, start)
            return
        if start == 0:
            lines[0] = lines[0].removeprefix(_BOM)
        yield from _batches([line.removesuffix(b"\r") for line in lines])

    def _sorted_out(self, lines: list[bytes], start: int) -> Iterator[list[bytes]]:
        """The same with the bad records reported at their places and blank lines left out."""
        bad = self._bad.copy()
        self._bad.clear()
        kept: list[bytes] = []
        for line in lines:
            if start == 0 and line.startswith(_BOM):
                line, start = line[len(_BOM) :], len(_BOM)
            while bad and bad[0].offset is not None and bad[0].offset < start:
                yield from self._report(bad.popleft(), kept)
                kept = []
            if bad and bad[0].offset == start:
                yield from self._report(bad.popleft(), kept)
                kept = []
            elif line.strip(b" \t\r"):
                kept.append(line.removesuffix(b"\r"))
            start += len(line) + 1
        for error in bad:
            yield from self._report(error, kept)
            kept = []
        yield from _batches(kept)

    def _report(self, error: RecordError, before: list[bytes]) -> Iterator[list[bytes]]:
        yield from _batches(before)
        if self._on_bad is None:
            raise error
        self._on_bad(error)

    def _finish(self) -> Iterator[list[bytes]]:
        if any(map(len, self._judge.finish())):  # else it was blank, or has raised
            tail = bytes(self._held)
            yield [(tail.removeprefix(_BOM) if self._start == 0 else tail).removesuffix(b"\r")]


class _StringsDecoder(StageBase[bytes, list[bytes]]):
    def __init__(self, base: Format[Any], on_bad: OnBad | None) -> None:
        self._on_bad = on_bad
        self._number = 0
        self._offset: int | None = 0  # not known any more behind a line too long to be kept
        self._lines = base.decoder(self._too_long)
        self._strings = record_format("ndjson").encoder()

    def _feed(self, item: bytes) -> Iterator[list[bytes]]:
        for batch in self._lines.feed(item):
            yield from self._batch(batch)

    def _finish(self) -> Iterator[list[bytes]]:
        for batch in self._lines.finish():
            yield from self._batch(batch)

    def _batch(self, lines: list[bytes]) -> Iterator[list[bytes]]:
        try:
            made = [self._encoded([line.decode() for line in lines])]
        except UnicodeDecodeError:
            made = None
        if made is None:
            yield from self._one_by_one(lines)
            return
        self._number += len(lines)
        if self._offset is not None:
            self._offset += sum(map(len, lines)) + len(lines)
        yield from made

    def _one_by_one(self, lines: list[bytes]) -> Iterator[list[bytes]]:
        for line in lines:
            self._number += 1
            try:
                yield self._encoded([line.decode()])
            except UnicodeDecodeError as error:
                text = f"not UTF-8, so no JSON string: {error.reason}"
                self._bad(RecordError(text, number=self._number, offset=self._offset, raw=line))
            if self._offset is not None:
                self._offset += len(line) + 1

    def _encoded(self, texts: list[str]) -> list[bytes]:
        return b"".join(self._strings.feed(texts)).split(b"\n")[:-1]

    def _too_long(self, error: RecordError) -> None:
        self._number, self._offset = error.number or 0, None
        self._bad(error)

    def _bad(self, error: RecordError) -> None:
        if self._on_bad is None:
            raise error
        self._on_bad(error)


def _batches(lines: list[bytes]) -> Iterator[list[bytes]]:
    for at in range(0, len(lines), BATCH_RECORDS):
        yield lines[at : at + BATCH_RECORDS]
