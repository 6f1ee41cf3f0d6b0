"""Object names made from records: ``logs/{service}/{time:%Y/%m/%d/%H}/{seq:06d}.ndjson.zst``. Pure.

A template tells two things apart: what puts a record into a partition (``{time:...}`` and the record's own fields), and
what names the objects of one partition (``{seq}``, ``{id}``, ``{source}``, ``{start}``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from fractions import Fraction
from itertools import chain, zip_longest
from math import floor, isfinite
from string import Formatter
from typing import Any, NamedTuple

from omnistorage.core.spelling import nearest
from omnistorage.errors import ConfigError, InvalidPath, RecordError
from omnistorage.paths import check_new

OBJECT_FIELDS = ("seq", "id", "source", "start")
MAX_VALUE_BYTES = 200
"""The longest field value in a name, in UTF-8 bytes once escaped: file systems end at 255 for a whole segment."""
MAX_WIDTH = 200
"""The largest width of a number in a name."""

_UNSAFE = re.compile("[/\\\\%\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNSAFE_IN_HIVE = re.compile("[\"#%'*/:=?\\\\{}[\\]^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What Hive and Spark escape as well (``FileUtils.escapePathName`` of Hive, ``ExternalCatalogUtils`` of Spark)."""
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_CACHED = 4096
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIRECTIVE = re.compile(r"%[-_0^#]*[0-9]*:?[EO]?(.?)", re.DOTALL)
_DIRECTIVES = frozenset("aAbBcCdDeFfgGhHIjklmMnNpPrRsStTuUVwWxXyYzZ+%")  # of C, of glibc, and of datetime
_FINE = re.compile(r"%[fSTXcrs+]|%-S")  # directives that say more than the minute


class Piece(NamedTuple):
    literal: str
    name: str | None
    spec: str


class Template:
    """A parsed template. Raises ``ConfigError`` for one that makes no valid names.

    ``suffix`` is put behind it. ``time_of`` finds a record's time, ``zone`` is the zone in which ``{time:...}`` is
    written and in which times that name none are read. ``missing`` stands in for fields that a record lacks; without
    it such a record is a bad one.
    """

    def __init__(
        self,
        text: str,
        *,
        suffix: str = "",
        time_of: Callable[[Any], Any] | None = None,
        zone: tzinfo = UTC,
        missing: str | None = None,
    ) -> None:
        self.text = text
        self.pieces = _parse(text, suffix)
        self.zone = zone
        self._time_of = time_of
        self._missing = missing
        names = [piece.name for piece in self.pieces if piece.name is not None]
        self.object_fields = frozenset(name for name in names if name in OBJECT_FIELDS)
        self._times = tuple(p.spec for p in self.pieces if p.name == "time")
        fields = dict.fromkeys(n for n in names if n not in OBJECT_FIELDS and n != "time")
        self._lookups = tuple((field, tuple(field.split("."))) for field in fields)
        self._step = 60 if not _FINE.search("".join(self._times)) else 1
        self._cached_times: dict[float, tuple[str, ...]] = {}
        self._cached_names: dict[tuple[str, ...], str] = {}
        self._joins = _joins(self.pieces)
        self._check()

    @property
    def is_constant(self) -> bool:
        """Whether every record goes to the same partition."""
        return not self._times and not self._lookups

    def _check(self) -> None:
        times = tuple(datetime(2000, 12, 31, 23, 59, 59, tzinfo=UTC).strftime(spec) for spec in self._times)
        key = (*times, *("x" for _ in self._lookups))
        try:
            check_new(self.path((self._rendered(key),) if self._joins else key, seq=0, id="0", source="s", start=0))
        except InvalidPath as error:
            raise ConfigError(f"the template {self.text!r} makes no valid name: {error.args[0]}") from error
        except ValueError as error:
            raise ConfigError(f"the template {self.text!r}: {error}") from error

    # -- from a record to its partition --------------------------------------------------------------------------------

    def seconds(self, record: Any, now: Callable[[], datetime]) -> float:
        """The record's time in seconds since 1970. Raises ``RecordError`` for one that has none."""
        if self._time_of is None:
            return now().timestamp()
        try:
            return _seconds(self._time_of(record), self.zone)
        except (RecordError, KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError) as error:
            raise RecordError(f"the record has no usable time: {error}", raw=_shown(record)) from error

    @property
    def needs_time(self) -> bool:
        return bool(self._times)

    def same_times(self, first: float, last: float) -> bool:
        """Whether all times from ``first`` to ``last`` are certain to be written alike."""
        return self._step == 60 and last - first < 60 and self._time_key(first) == self._time_key(last)

    @property
    def needs_fields(self) -> bool:
        return bool(self._lookups)

    @property
    def has_record_time(self) -> bool:
        return self._time_of is not None

    def key(self, record: Any, seconds: float) -> tuple[str, ...]:
        """What the record's partition is known by: its times as text, then its field values as they are. Where the
        values of one name segment could be divided in another way, the name is: ``{a}-{b}`` makes one partition of
        (``x-y``, ``z``) and (``x``, ``y-z``)."""
        key = self._time_key(seconds) if self._times else ()
        for field, steps in self._lookups:
            key += (self._value(record, field, steps),)
        return (self._rendered(key),) if self._joins else key

    def _time_key(self, seconds: float) -> tuple[str, ...]:
        # Zones change their offset on the minute, so that within one the text is the same.
        bucket = seconds // 60 * 60 if self._step == 60 else seconds
        found = self._cached_times.get(bucket)
        if found is None:
            if len(self._cached_times) >= _CACHED:
                self._cached_times.clear()
            try:
                whole = floor(bucket)
                # To the nearest microsecond, which a float does not hold exactly, but never into the next second.
                moment = _EPOCH + timedelta(0, whole, min(round((bucket - whole) * 1e6), 999_999))
            except OverflowError as error:
                raise RecordError("the record's time is beyond the calendar") from error
            local = moment.astimezone(self.zone)
            found = self._cached_times[bucket] = tuple(local.strftime(spec) for spec in self._times)
        return found

    def _value(self, record: Any, field: str, steps: tuple[str, ...]) -> str:
        value = record
        for step in steps:
            try:
                value = value[step]
            except (KeyError, TypeError, IndexError):
                value = None
                if not isinstance(record, Mapping):
                    raise RecordError(
                        f"the template needs the field {field!r}, and this record has no fields", raw=_shown(record)
                    ) from None
                break
        if type(value) is str and value:
            return value
        if value is None or value == "":
            if self._missing is None:
                raise RecordError(
                    f"the template needs the field {field!r}, which this record lacks; missing= names a stand-in",
                    raw=_shown(record),
                )
            return self._missing
        return _text(value, field, record)

    # -- from a partition to a name ------------------------------------------------------------------------------------

    def path(self, key: tuple[str, ...], *, seq: int, id: str, source: str, start: int) -> str:
        """The name of an object of the partition ``key``. Raises ``RecordError`` for a value too long for a name."""
        own: dict[str, Any] = {"seq": seq, "id": id, "source": source, "start": start}
        parts = key[0].split("\0") if self._joins else self._parts(key)
        objects = (format(own[piece.name], piece.spec) for piece in self.pieces if piece.name in own)
        return "".join(chain.from_iterable(zip_longest(parts, objects, fillvalue="")))

    def _rendered(self, key: tuple[str, ...]) -> str:
        """The name that ``key`` makes, with NUL where the fields of the object go: no escaped value holds one."""
        found = self._cached_names.get(key)
        if found is None:
            if len(self._cached_names) >= _CACHED:
                self._cached_names.clear()
            found = self._cached_names[key] = "\0".join(self._parts(key))
        return found

    def _parts(self, key: tuple[str, ...]) -> list[str]:
        """What stands before, between and behind the fields of the object."""
        times = iter(key[: len(self._times)])
        values = dict(zip((field for field, _ in self._lookups), key[len(self._times) :], strict=True))
        parts = [""]
        for piece in self.pieces:
            parts[-1] += piece.literal
            if piece.name == "time":
                parts[-1] += next(times)
            elif piece.name in OBJECT_FIELDS:
                parts.append("")
            elif piece.name is not None:
                parts[-1] += self._field(piece, values[piece.name])
        return parts

    def _field(self, piece: Piece, value: str) -> str:
        """The value of a field as it stands in the name. ``day={day}`` is a Hive partition."""
        assert piece.name is not None
        if not piece.literal.endswith("="):
            return _escape(value, piece.name)
        if value == _HIVE_NULL and self._missing != _HIVE_NULL:
            raise RecordError(
                f"the field {piece.name!r} is {value!r}, which stands for a missing value in Hive's names"
            )
        return _escape(value, piece.name, _UNSAFE_IN_HIVE)


def _joins(pieces: list[Piece]) -> bool:
    """Whether the value of a field meets another one in a segment of the name."""
    joins, in_segment = False, set[str | None]()
    for before, piece in zip([None, *pieces], pieces, strict=False):
        if "/" in piece.literal:
            in_segment.clear()
        elif before is not None and piece.name is not None:
            _check_digits(before.name, piece)
        if piece.name is not None and piece.name not in OBJECT_FIELDS:
            joins = joins or bool({piece.name, *in_segment} - {"time"} and in_segment)
            in_segment.add(piece.name)
    return joins


def _check_digits(before: str | None, piece: Piece) -> None:
    """Raise ``ConfigError`` where a digit could belong to a value or to a number: ``{shop}{seq}``."""
    names = {before, piece.name}
    if names & {"seq", "start"} and names - {*OBJECT_FIELDS, "time"} and (not piece.literal or piece.literal.isdigit()):
        raise ConfigError(
            f"{{{before}}} and {{{piece.name}}} meet, and a digit could belong to either: put a character between them"
        )


def _parse(text: str, suffix: str) -> list[Piece]:
    if not isinstance(text, str) or not text:
        raise ConfigError(f"a template is the text of a name, not {text!r}")
    pieces: list[Piece] = []
    try:
        for literal, name, spec, conversion in Formatter().parse(text):
            if name == "":
                raise ConfigError(f"the template {text!r} has a {{}} without a name in it")
            if conversion is not None or (spec and "{" in spec):
                raise ConfigError(f"the template {text!r}: {{{name}}} takes no conversion and no nested field")
            _check_piece(text, name, spec or "")
            pieces.append(Piece(literal, name, spec or ""))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"the template {text!r}: {error}") from error
    pieces.append(Piece(suffix, None, ""))
    return pieces


def _check_piece(text: str, name: str | None, spec: str) -> None:
    if name is None:
        return
    if name == "time" and "%" not in spec:
        raise ConfigError(f"the template {text!r}: {{time}} says how, as in {{time:%Y/%m/%d}}")
    if name == "time":
        for directive in _DIRECTIVE.finditer(spec):
            if directive[1] not in _DIRECTIVES or not directive[1]:
                raise ConfigError(f"the template {text!r}: {directive[0]} is no directive of strftime")
            _check_width(text, directive[0])
    if name in ("seq", "start"):
        _check_width(text, spec)
    if name in ("id", "source") and spec:
        raise ConfigError(f"the template {text!r}: {{{name}}} takes no format")
    if name not in (*OBJECT_FIELDS, "time") and spec:
        hint = nearest(name, (*OBJECT_FIELDS, "time"))
        raise ConfigError(f"the template {text!r}: the record's field {name!r} takes no format{hint}")
    if name != "time" and re.search(r"[\[\]]", name):
        raise ConfigError(f"the template {text!r}: nested fields are written with dots, as in {{user.id}}")


def _check_width(text: str, spec: str) -> None:
    """Raise ``ConfigError`` for a width that no name has: the number would be filled with as many characters."""
    for number in re.findall("[0-9]+", spec):
        if len(number.lstrip("0")) > len(str(MAX_WIDTH)) or int(number) > MAX_WIDTH:
            raise ConfigError(f"the template {text!r:.200}: {number:.20} is too wide for a name, at most {MAX_WIDTH}")


def _seconds(value: Any, zone: tzinfo) -> float:
    """Seconds since 1970 of a datetime, an ISO 8601 text, or a number: of seconds, or of milli-, micro- or nanoseconds
    where it would otherwise lie beyond the year 5138. What is smaller than a microsecond is cut off."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=zone)).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecordError(f"a time is a datetime, an ISO 8601 text or a number of seconds, not {value!r:.80}")
    if not isfinite(value):
        raise RecordError("a time is a finite number")
    unit = 1
    while abs(value) >= unit * 10**11:
        unit *= 1000
    if isinstance(value, float) and unit == 1:
        return value
    exact = Fraction(value) if isinstance(value, float) else value
    return int(exact * 1_000_000 // unit) / 1_000_000


def _text(value: Any, field: str, record: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise RecordError(
        f"the field {field!r} is {type(value).__name__}, which names nothing; text, numbers and dates do",
        raw=_shown(record),
    )


def _escape(value: str, field: str = "", unsafe: re.Pattern[str] = _UNSAFE) -> str:
    """``value`` as part of one path segment, percent-encoded (RFC 3986) where it would be more than that. Different
    values stay different."""
    if value in (".", ".."):
        return value.replace(".", "%2E")
    safe = unsafe.sub(lambda m: "".join(f"%{b:02X}" for b in m[0].encode("utf-8", "surrogatepass")), value)
    if len(safe.encode()) > MAX_VALUE_BYTES:
        raise RecordError(
            f"the value of the field {field!r} is too long for a name ({len(safe.encode())} bytes, at most "
            f"{MAX_VALUE_BYTES}): {safe[:60]!r}..."
        )
    return safe


def _shown(record: Any) -> bytes:
    return bytes(record) if isinstance(record, bytes | bytearray | memoryview) else repr(record).encode()[:65536]
