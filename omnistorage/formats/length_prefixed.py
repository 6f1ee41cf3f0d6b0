"""Length-prefixed records: any bytes, each behind its length.

The fixed prefixes are the usual ones of home-made framings; ``varint`` is what protobuf calls delimited messages
(https://protobuf.dev/programming-guides/techniques/#streaming: ``writeDelimitedTo``, ``parse_length_prefixed``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from struct import Struct
from typing import Literal, Self, get_args

from omnistorage.core.stages import BATCH_BYTES, BATCH_RECORDS, OnBad, RecordEncoder, Stage, StageBase
from omnistorage.errors import ConfigError, CorruptData, RecordError

from .line_splitter import UNTRUSTED_RECORD, report

Prefix = Literal["be32", "le32", "varint"]
_FIXED = {"be32": Struct(">I"), "le32": Struct("<I")}
_CRC_SIZE = 4
_VARINT_BYTES = 10  # of 7 bits each: what 64 bits need
_TABLE_SIZE = 4096
_PLAIN = {bytes, bytearray}  # of these, ``len`` is the size; of a memoryview it need not be


@dataclass(frozen=True)
class LengthPrefixed:
    """Records of bytes, each as ``length | payload``, or ``length | payload | CRC32C`` with ``crc32c=True``.

    ``prefix`` is the form of the length, which counts the payload alone: ``be32`` and ``le32`` are 4 bytes unsigned,
    big- and little-endian; ``varint`` is protobuf's base-128, at most 10 bytes. We write the shortest varint and read
    longer forms of the same number, as protobuf's own readers do. The CRC32C is the plain one (Castagnoli, not masked)
    of prefix and payload together, so that a run of zero bytes is no run of sound empty records. Its 4 bytes are
    big-endian behind ``be32`` and little-endian behind the others.

    A record is ``bytes`` (``bytearray``, ``memoryview``) of any content, none included, and at most ``max_record``
    bytes long; a larger one is a ``RecordError`` on writing. On reading, a length beyond ``max_record`` and a varint
    that does not end raise ``CorruptData``: such a length is damage more likely than a record, and nothing behind it
    can be found. It is refused before anything is allocated for it. A wrong CRC is a ``RecordError`` and reading goes
    on behind that record; if it was the length that is damaged, what follows is out of step and fails as well.

    A stream that stops within a record raises ``CorruptData``, or drops the rest when ``allow_partial_tail`` is set.
    """

    name = "length_prefixed"
    content_type = "application/octet-stream"

    prefix: Prefix = "be32"
    crc32c: bool = False
    max_record: int = 16 << 20
    allow_partial_tail: bool = False

    def __post_init__(self) -> None:
        if self.prefix not in get_args(Prefix):
            raise ConfigError(f"length_prefixed prefix is one of {', '.join(get_args(Prefix))}, not {self.prefix!r}")
        for option in ("crc32c", "allow_partial_tail"):
            if type(getattr(self, option)) is not bool:
                raise ConfigError(f"length_prefixed {option} is True or False, not {getattr(self, option)!r}")
        most = (1 << (63 if self.prefix == "varint" else 32)) - 1
        if type(self.max_record) is not int or not 1 <= self.max_record <= most:
            raise ConfigError(
                f"length_prefixed max_record is a number of bytes from 1 to {most}, not {self.max_record!r}"
            )

    @property
    def suffixes(self) -> tuple[str, ...]:
        """``.lpv`` says varint, ``.lp`` one of the others."""
        return (".lpv",) if self.prefix == "varint" else (".lp",)

    def untrusted(self) -> Self:
        """This format for input that anybody may have made: records of at most 1 MiB."""
        return replace(self, max_record=min(self.max_record, UNTRUSTED_RECORD))

    def encoder(self) -> RecordEncoder[bytes]:
        return _Encoder(self)

    def decoder(self, on_bad: OnBad | None = None) -> Stage[bytes, list[bytes]]:
        """See ``stages.Format``. Only a wrong CRC makes a bad record; its ``raw`` is the payload, its ``offset`` where
        the prefix starts."""
        return _Decoder(self, on_bad)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _packer(prefix: Prefix) -> Callable[[int], bytes]:
    return _varint if prefix == "varint" else _FIXED[prefix].pack


@cache
def _heads(prefix: Prefix) -> tuple[bytes, ...]:
    """The prefixes of all short records."""
    return tuple(map(_packer(prefix), range(_TABLE_SIZE)))


def _crc(settings: LengthPrefixed) -> tuple[Callable[[bytes], int], Struct]:
    """The checksum and the form it is stored in. The library is loaded by those who use it only."""
    import google_crc32c

    return google_crc32c.value, _FIXED["be32" if settings.prefix == "be32" else "le32"]


class _Encoder(StageBase[Sequence[bytes], bytes]):
    def __init__(self, settings: LengthPrefixed) -> None:
        self._max_record = settings.max_record
        self._pack = _packer(settings.prefix)
        self._heads = _heads(settings.prefix)
        self._crc = _crc(settings) if settings.crc32c else None

    def encode(self, record: bytes, /) -> bytes:
        """The record in its frame. Raises ``RecordError``."""
        if self._state != "ready":
            self._enter()
        if type(record) is not bytes:
            if not isinstance(record, bytes | bytearray | memoryview):
                kind = type(record).__name__
                raise RecordError(f"a length-prefixed record is bytes, not {kind}", raw=f"<{kind}>".encode())
            record = bytes(record)
        size = len(record)
        if size > self._max_record:
            raise RecordError(
                f"the record is {size} bytes, max_record is {self._max_record}", raw=repr(record[:65536]).encode()
            )
        data = (self._heads[size] if size < _TABLE_SIZE else self._pack(size)) + record
        if self._crc is not None:
            value, form = self._crc
            data += form.pack(value(data))
        return data

    def feed(self, item: Sequence[bytes], /) -> Iterable[bytes]:
        """One output: all records. Raises ``RecordError`` before any output."""
        self._enter()
        self._state = "ready"  # a bad record raises below and does no harm
        data = self._frames(item)
        self._enter()
        return self._run(iter((data,) if data else ()), "ready")

    def _frames(self, records: Sequence[bytes]) -> bytes:
        if self._crc is not None or not set(map(type, records)) <= _PLAIN:
            return b"".join(map(self.encode, records))
        sizes = list(map(len, records))
        if max(sizes, default=0) >= min(_TABLE_SIZE, self._max_record + 1):
            return b"".join(map(self.encode, records))
        if sizes and sizes.count(sizes[0]) == len(sizes):
            return self._heads[sizes[0]].join((b"", *records))  # all are of one size: one prefix between them will do
        parts: list[bytes] = [b""] * (2 * len(sizes))
        parts[::2] = map(self._heads.__getitem__, sizes)
        parts[1::2] = records
        return b"".join(parts)


class _Decoder(StageBase[bytes, list[bytes]]):
    def __init__(self, settings: LengthPrefixed, on_bad: OnBad | None) -> None:
        self._settings = settings
        self._on_bad = on_bad
        self._read_length = _varint_at if settings.prefix == "varint" else _fixed_at(_FIXED[settings.prefix])
        self._crc = _crc(settings) if settings.crc32c else None
        self._careful = settings.crc32c or settings.max_record < BATCH_BYTES
        self._number = 0
        self._offset = 0  # where the unfinished record starts
        self._held = bytearray()  # what there is of it
        self._need = 0  # how much of it has to be there before it is worth looking again

    def _feed(self, item: bytes) -> Iterator[list[bytes]]:
        if self._held:
            if len(self._held) + len(item) < self._need:
                self._held += item
                return
            item = b"".join((self._held, item))
            self._held = bytearray()
        at = 0
        while at < len(item):
            batch, end = self._batch(item, at)
            if end == at:
                # One record that is larger than a batch, or is not all there, or has a CRC.
                size, start, end = self._frame(item, at)
                if end > len(item):
                    self._need = end - at
                    self._held += memoryview(item)[at:]
                    break
                batch = self._whole(item, at, start, start + size)
            self._number += len(batch)
            self._offset += end - at
            at = end
            if batch:
                yield batch

    def _batch(self, data: bytes, at: int) -> tuple[list[bytes], int]:
        """The records from ``at`` on that make one batch and are all there, and where they end. Stops at whatever is
        odd: then another look from there says what it is."""
        if self._careful:
            return self._careful_batch(data, at)
        last = min(len(data), at + BATCH_BYTES)
        if self._settings.prefix == "varint":
            return _varint_batch(data, at, last)
        unpack = _FIXED[self._settings.prefix].unpack_from
        last4 = last - 4
        if at <= last4 and (count := _run_length(data, at, 4 + unpack(data, at)[0], last)):
            form = _run_form(unpack(data, at)[0], count)
            return list(form.unpack_from(data, at)), at + form.size
        batch: list[bytes] = []
        append = batch.append
        for _ in range(BATCH_RECORDS):
            if at > last4:
                break
            start = at + 4
            end = start + unpack(data, at)[0]
            if end > last:
                break
            append(data[start:end])
            at = end
        return batch, at

    def _careful_batch(self, data: bytes, at: int) -> tuple[list[bytes], int]:
        """The same where there are CRCs, or a length that fits in a batch may be more than ``max_record``."""
        read, most, extra = self._read_length, self._settings.max_record, 0 if self._crc is None else _CRC_SIZE
        batch: list[bytes] = []
        last = min(len(data), at + BATCH_BYTES)
        for _ in range(BATCH_RECORDS):
            size, start = read(data, at)
            end = start + size
            if not 0 <= size <= most or end + extra > last:
                break
            if self._crc is not None and self._crc[0](data[at:end]) != self._crc[1].unpack_from(data, end)[0]:
                break
            batch.append(data[start:end])
            at = end + extra
        return batch, at

    def _frame(self, data: bytes, at: int) -> tuple[int, int, int]:
        """Size and start of the payload, and the end of the frame. Where the prefix is not all there the end is one
        byte further than what there is. Raises ``CorruptData`` for a length that cannot be."""
        size, start = self._read_length(data, at)
        if size == _NOT_ALL:
            return 0, at, len(data) + 1
        if size == _ENDLESS:
            raise CorruptData(f"a varint of more than {_VARINT_BYTES} bytes or 64 bits", offset=self._offset)
        if size > self._settings.max_record:
            raise CorruptData(
                f"a length of {size} bytes where max_record={self._settings.max_record}: the stream is damaged, or is "
                f"not length-prefixed with {self._settings.prefix}, or its records are larger than was allowed",
                offset=self._offset,
            )
        return size, start, start + size + (_CRC_SIZE if self._crc is not None else 0)

    def _whole(self, data: bytes, at: int, start: int, end: int) -> list[bytes]:
        record = data[start:end]
        if self._crc is not None:
            value, form = self._crc
            found, said = value(data[at:end]), form.unpack_from(data, end)[0]
            if found != said:
                self._number += 1
                text = f"the CRC32C of the record is {found:08x}, stored is {said:08x}"
                report(RecordError(text, number=self._number, offset=self._offset, raw=record), self._on_bad)
                return []
        return [record]

    def _finish(self) -> Iterator[list[bytes]]:
        if self._held and not self._settings.allow_partial_tail:
            raise CorruptData(
                f"the stream ends within a record, {len(self._held)} bytes behind its start; allow_partial_tail=True "
                "drops it",
                offset=self._offset,
            )
        return iter(())


def _varint_batch(data: bytes, at: int, last: int) -> tuple[list[bytes], int]:
    """Records behind lengths of one and two bytes, which are most of them."""
    batch: list[bytes] = []
    append = batch.append
    last2 = last - 2
    for _ in range(BATCH_RECORDS):
        if at > last2:
            break
        size = data[at]
        start = at + 1
        if size > 0x7F:
            second = data[start]
            if second > 0x7F:
                break
            size = size & 0x7F | second << 7
            start = at + 2
        end = start + size
        if end > last:
            break
        append(data[start:end])
        at = end
    return batch, at


def _run_length(data: bytes, at: int, step: int, last: int) -> int:
    """How many records there are, one batch at most, if all have the prefix of the first one, else 0."""
    count = min((last - at) // step, BATCH_RECORDS)
    if count < 8 or data[at : at + 4] != data[at + step : at + step + 4]:
        return 0
    end = at + count * step
    return count if all(data[i:end:step] == data[i : i + 1] * count for i in range(at, at + 4)) else 0


@lru_cache(64)
def _run_form(size: int, count: int) -> Struct:
    return Struct(f"4x{size}s" * count)


_NOT_ALL = -1
_ENDLESS = -2


def _fixed_at(form: Struct) -> Callable[[bytes, int], tuple[int, int]]:
    def read(data: bytes, at: int) -> tuple[int, int]:
        if at + 4 > len(data):
            return _NOT_ALL, at
        return form.unpack_from(data, at)[0], at + 4

    return read


def _varint_at(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at`` and where it ends."""
    number = 0
    for place, byte in enumerate(data[at : at + _VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return (number, at + place + 1) if number < 1 << 64 else (_ENDLESS, at)
    return (_ENDLESS if len(data) - at >= _VARINT_BYTES else _NOT_ALL), at
