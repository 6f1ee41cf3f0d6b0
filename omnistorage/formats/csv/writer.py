"""The encoder of ``Csv``: rows to text with Python's ``csv.writer``, in groups."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from itertools import chain
from operator import itemgetter
from typing import Any

import orjson

from omnistorage.core.stages import StageBase
from omnistorage.errors import ConfigError, RecordError

from .settings import CsvSettings, Names

_NO_FIELDS = (bytes, bytearray, memoryview, list, tuple, dict, set, frozenset)
"""What ``csv.writer`` would write the ``repr`` of."""
_FIELD_TYPES = frozenset({str, int, float, bool, type(None)})
_ROW_TYPES = frozenset({list, tuple})
_BOM = "\ufeff"
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20].", re.DOTALL)
"""How a text begins that spreadsheets run (https://owasp.org/www-community/attacks/CSV_Injection), wide forms too."""
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_INERT = (int, float, bool, type(None), Decimal, date)
"""Classes whose text is no formula."""


class _Lines:
    """A file for ``csv.writer``: each row is one call of ``write``."""

    __slots__ = ("rows", "write")

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.write = self.rows.append


class Encoder(StageBase[Sequence[Any], bytes]):
    def __init__(self, settings: CsvSettings) -> None:
        if settings.rows == "list" and settings.header == "first_row":
            raise ConfigError("csv: a list has no names to write a header of: give header=names, or header='none'")
        self._settings = settings
        self._encoding, self._end = settings.encoding, settings.lineterminator
        self._lines = _Lines()
        # With "\n" for a line terminator the module does not see that "\r" has to be quoted: groups with one in them
        # are written by the careful writer, whose own terminator is cut off.
        self._write = csv.writer(self._lines, lineterminator=self._end, **settings.writing())
        self._careful = csv.writer(self._lines, lineterminator="\r\n", **settings.writing())
        quoted = settings.writing() if settings.quote is None else {**settings.writing(), "quoting": csv.QUOTE_ALL}
        self._quoted = csv.writer(self._lines, lineterminator="\r\n", **quoted)
        self._names = settings.names
        self._columns = None if self._names is None else _columns(self._names)
        self._begun = False

    @property
    def begun(self) -> dict[str, Any] | None:
        """The names of the columns, once the head is written; None if it is not."""
        return {"names": None if self._names is None else list(self._names)} if self._begun else None

    def encode(self, record: Any, /) -> bytes:
        """The row of one record, its line break included; the first time with the header. Raises ``RecordError``."""
        if self._state != "ready":
            self._enter()
        if not self._begun:
            return self._first(record)
        data = self._try_quick((record,))
        return self._row(record) if data is None else data

    def feed(self, item: Sequence[Any], /) -> Iterable[bytes]:
        """One output: all rows. Raises ``RecordError`` before any output."""
        self._enter()
        self._state = "ready"  # a bad record raises below and does no harm
        data = self._rows(item) if item else b""
        self._enter()
        return self._run(iter((data,) if data else ()), "ready")

    def _finish(self) -> Iterator[bytes]:
        if not self._begun and self._names is not None and self._settings.header_row:
            yield self._head(self._names)

    def _rows(self, records: Sequence[Any]) -> bytes:
        if not self._begun:
            names, columns = self._names, self._columns
            first = self._first(records[0])
            try:
                return first + (self._rows(records[1:]) if len(records) > 1 else b"")
            except RecordError:
                self._names, self._columns, self._begun = names, columns, False
                raise
        data = self._try_quick(records)
        return b"".join(map(self._row, records)) if data is None else data

    def _try_quick(self, records: Sequence[Any]) -> bytes | None:
        try:
            return self._quick(records)
        except Exception:  # the row-by-row way says what it is
            return None
        finally:
            self._lines.rows.clear()

    def _quick(self, records: Sequence[Any]) -> bytes | None:
        """All rows at once, or None where one has something odd in it."""
        rows: Sequence[Any] = records
        if self._names is not None and set(map(len, records)) != {len(self._names)}:
            return None
        if self._settings.rows == "dict":
            assert self._columns is not None
            rows = list(map(self._columns, records))
        elif not set(map(type, records)) <= _ROW_TYPES or not (self._names or all(records)):
            return None
        types = set(map(type, chain.from_iterable(rows)))
        if any(issubclass(kind, _NO_FIELDS) for kind in types - _FIELD_TYPES):
            return None
        if self._settings.null and type(None) in types:
            return None
        if self._settings.formulas != "keep" and any(map(_is_formula, chain.from_iterable(rows))):
            return None
        self._write.writerows(rows)
        text = "".join(self._lines.rows)
        if ("\r" in text and (self._end == "\n" or text.count("\r") != len(records))) or "\0" in text:
            return None
        data = text.encode(self._encoding)
        return data if len(data) <= self._settings.max_record else None

    def _first(self, record: Any) -> bytes:
        """The row with all that comes before it. Changes nothing if it raises."""
        names, columns = self._names, self._columns
        try:
            if names is None and self._settings.rows == "dict":
                self._names = _names_of(record)
                self._columns = _columns(self._names)
            if self._names is not None and self._settings.header_row:
                data = self._head(self._names) + self._row(record)
            else:
                data = self._start(self._fields(record), record)
        except RecordError:
            self._names, self._columns = names, columns
            raise
        self._begun = True
        return data

    def _head(self, names: Names) -> bytes:
        return self._start(names, names)

    def _start(self, fields: Sequence[Any], record: Any) -> bytes:
        data = self._text(self._careful, fields, record)
        if data.startswith(b"\xef\xbb\xbf") and self._settings.is_utf8 and not self._settings.bom:
            # Unquoted it would be taken for a byte order mark.
            data = self._text(self._quoted, fields, record)
            if self._settings.quote is None:
                raise RecordError("the first field starts with a byte order mark", raw=_shown(record))
        return (_BOM.encode() if self._settings.bom else b"") + data

    def _row(self, record: Any) -> bytes:
        return self._text(self._careful, self._fields(record), record)

    def _text(self, writer: Any, fields: Sequence[Any], record: Any) -> bytes:
        try:
            if self._settings.formulas != "keep":
                fields = self._without_formulas(fields, record)
            writer.writerow(fields)
            text = self._lines.rows[-1][:-2]
            data = text.encode(self._encoding)
        except RecordError:
            raise
        except Exception as error:  # the field's own __str__ may raise anything
            raise RecordError(f"not writable as CSV: {error}", raw=_shown(record)) from error
        finally:
            self._lines.rows.clear()
        if "\0" in text and self._settings.nul == "error":
            raise RecordError("a NUL character in the record; nul='keep' writes it", raw=_shown(record))
        if len(data) > self._settings.max_record:
            raise RecordError(
                f"the record is {len(data)} bytes, max_record is {self._settings.max_record}", raw=_shown(record)
            )
        return data + self._end.encode()

    def _without_formulas(self, fields: Sequence[Any], record: Any) -> list[Any]:
        if self._settings.formulas == "quote":
            return [f"'{field}" if _is_formula(field) else field for field in fields]
        for field in fields:
            if _is_formula(field):
                raise RecordError(
                    f"the field {str(field)[:40]!r} is a formula to spreadsheets; formulas='quote' writes it as text",
                    raw=_shown(record),
                )
        return list(fields)

    def _fields(self, record: Any) -> list[Any]:
        if self._settings.rows == "dict":
            fields = self._by_name(record)
        elif not isinstance(record, Sequence) or isinstance(record, str | bytes | bytearray | memoryview):
            raise RecordError(f"a row is a list or a tuple, not {type(record).__name__}", raw=_shown(record))
        else:
            fields = self._fitted(list(record), record)
        if not fields:
            raise RecordError("a row without fields would be read back as no row", raw=_shown(record))
        for place, field in enumerate(fields):
            if field is None:
                fields[place] = self._settings.null
            elif isinstance(field, _NO_FIELDS):
                fields[place] = self._nested(field, record)
        return fields

    def _nested(self, field: Any, record: Any) -> str:
        is_json = isinstance(field, dict | list | tuple)
        if not is_json or self._settings.nested == "refuse":
            advice = "; nested='json' writes it as JSON text" if is_json else ""
            raise RecordError(f"a field is text or a number, not {type(field).__name__}{advice}", raw=_shown(record))
        try:
            return orjson.dumps(field).decode()
        except orjson.JSONEncodeError as error:
            raise RecordError(f"not serialisable as JSON: {error}", raw=_shown(record)) from error

    def _by_name(self, record: Any) -> list[Any]:
        if not isinstance(record, Mapping):
            raise RecordError(f"a row is a dict, not {type(record).__name__}", raw=_shown(record))
        assert self._names is not None
        missing = [name for name in self._names if name not in record]
        if missing and self._settings.missing == "error":
            raise RecordError(f"the record has no {missing[0]!r}; missing='null' writes null", raw=_shown(record))
        if len(record) + len(missing) != len(self._names) and self._settings.extra == "error":
            unknown = [name for name in record if name not in self._names]
            raise RecordError(f"the header has no {unknown[0]!r}; extra='drop' drops it", raw=_shown(record))
        return [record.get(name) for name in self._names]

    def _fitted(self, fields: list[Any], record: Any) -> list[Any]:
        if self._names is not None and len(fields) != len(self._names):
            short = len(self._names) - len(fields)
            if (self._settings.missing if short > 0 else self._settings.extra) == "error":
                raise RecordError(f"{len(fields)} fields where the header has {len(self._names)}", raw=_shown(record))
            return [*fields, *[None] * short][: len(self._names)]
        return fields


def _is_formula(field: Any) -> bool:
    """Whether spreadsheets would run a field: it begins as formulas do, and is no number."""
    if isinstance(field, _INERT):
        return False
    text = str(field)
    return _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None


def _columns(names: Names) -> Callable[[Any], Sequence[Any]]:
    if len(names) > 1:
        return itemgetter(*names)
    only = names[0]
    return lambda record: (record[only],)


def _names_of(record: Any) -> Names:
    if not isinstance(record, Mapping):
        raise RecordError(f"a row is a dict, not {type(record).__name__}", raw=_shown(record))
    if not record or not all(isinstance(name, str) for name in record):
        raise RecordError("the keys of the first record make the header: they are strings", raw=_shown(record))
    return tuple(record)


def _shown(record: Any) -> bytes:
    try:
        return repr(record).encode("utf-8", "backslashreplace")
    except Exception:  # a repr is the record's own code
        return f"<{type(record).__name__}>".encode()
