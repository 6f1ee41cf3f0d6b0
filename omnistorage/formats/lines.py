"""Raw lines: one record per line of bytes, nothing interpreted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from omnistorage.core.stages import BATCH_RECORDS, OnBad, RecordEncoder, Stage, StageBase
from omnistorage.errors import ConfigError, CorruptData, RecordError

from .line_splitter import UNTRUSTED_RECORD, LineSplitter, report


@dataclass(frozen=True)
class Lines:
    """Lines of bytes. Only ``\\n`` separates and it is no part of the record; everything else is kept as it is,
    ``\\r``, blank lines and a BOM included, so that any bytes without a newline come back unchanged.

    Writing takes ``bytes`` (``bytearray``, ``memoryview``) or ``str``, which is encoded as UTF-8; a newline inside is a
    ``RecordError``. A line is at most ``max_record`` bytes: a longer one is a ``RecordError`` on writing, and one bad
    record on reading. A last line without ``\\n`` is a record like any other: raw text has no torn end, so there is
    nothing to allow or to forbid. Only if it is longer than ``max_record`` does ``finish`` raise ``CorruptData``.
    """

    name = "lines"
    suffixes = (".txt", ".log")
    content_type = "text/plain"

    max_record: int = 16 << 20

    def __post_init__(self) -> None:
        if type(self.max_record) is not int or self.max_record < 1:
            raise ConfigError(f"lines max_record is a number of bytes from 1 up, not {self.max_record!r}")

    def untrusted(self) -> Self:
        """This format for input that anybody may have made: lines of at most 1 MiB."""
        return replace(self, max_record=min(self.max_record, UNTRUSTED_RECORD))

    def encoder(self) -> RecordEncoder[bytes | str]:
        return _Encoder(self.max_record)

    def decoder(self, on_bad: OnBad | None = None) -> Stage[bytes, list[bytes]]:
        """See ``stages.Format``. Every line counts as a record; only an overlong one is bad."""
        return _Decoder(self.max_record, on_bad)


class _Encoder(StageBase[Sequence[bytes | str], bytes]):
    def __init__(self, max_record: int) -> None:
        self._max_record = max_record

    def encode(self, record: bytes | str, /) -> bytes:
        """The record and its ``\\n``. Raises ``RecordError``."""
        if self._state != "ready":
            self._enter()
        if isinstance(record, bytes | bytearray | memoryview):
            line = bytes(record)
        elif isinstance(record, str):
            try:
                line = record.encode()
            except UnicodeEncodeError as error:
                raise RecordError(f"not encodable as UTF-8: {error}", raw=repr(record).encode()) from error
        else:
            kind = type(record).__name__
            raise RecordError(f"a line is bytes or str, not {kind}", raw=f"<{kind}>".encode())
        if b"\n" in line:
            raise RecordError("a newline inside would cut the record in two", raw=repr(line).encode())
        if len(line) > self._max_record:
            raise RecordError(
                f"the record is {len(line)} bytes, max_record is {self._max_record}", raw=repr(line).encode()
            )
        return line + b"\n"

    def feed(self, item: Sequence[bytes | str], /) -> Iterable[bytes]:
        """One output: all lines. Raises ``RecordError`` before any output."""
        self._enter()
        self._state = "ready"  # a bad record raises below and does no harm
        data = self._lines(item)
        self._enter()
        return self._run(iter((data,) if data else ()), "ready")

    def _lines(self, records: Sequence[bytes | str]) -> bytes:
        try:
            data = b"\n".join((*records, b""))  # type: ignore[arg-type]
        except (TypeError, BufferError):  # str, or something odd
            return b"".join(map(self.encode, records))
        if len(data) - 1 > self._max_record or data.count(b"\n") != len(records):
            return b"".join(map(self.encode, records))
        return data


class _Decoder(StageBase[bytes, list[bytes]]):
    def __init__(self, max_record: int, on_bad: OnBad | None) -> None:
        self._max_record = max_record
        self._on_bad = on_bad
        self._splitter = LineSplitter(max_record)
        self._number = 0

    def _feed(self, item: bytes) -> Iterator[list[bytes]]:
        for offset, block, cut in self._splitter.feed(item):
            if cut or len(block) > self._max_record:
                yield from self._one_by_one([block] if cut else block.split(b"\n"), offset, cut)
                continue
            lines = block.split(b"\n")
            self._number += len(lines)
            if len(lines) <= BATCH_RECORDS:
                yield lines
                continue
            for at in range(0, len(lines), BATCH_RECORDS):
                yield lines[at : at + BATCH_RECORDS]

    def _one_by_one(self, lines: list[bytes], offset: int, cut: bool) -> Iterator[list[bytes]]:
        good: list[bytes] = []
        for line in lines:
            bad = cut or len(line) > self._max_record
            if good and (bad or len(good) == BATCH_RECORDS):
                yield good
                good = []
            self._number += 1
            if bad:
                text = f"the line is longer than max_record={self._max_record} bytes"
                report(RecordError(text, number=self._number, offset=offset, raw=line), self._on_bad)
            else:
                good.append(line)
            offset += len(line) + 1
        if good:
            yield good

    def _finish(self) -> Iterator[list[bytes]]:
        offset, tail, cut = self._splitter.tail()
        if cut or len(tail) > self._max_record:
            raise CorruptData(
                f"the last line has no newline and is longer than max_record={self._max_record} bytes", offset=offset
            )
        if tail:
            yield [tail]
