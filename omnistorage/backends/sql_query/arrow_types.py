"""Which Arrow type a column of a result has, and how its values become an array.

The type is known before the first row and never from the rows, so that an empty result has the schema of a full one:
from the typed columns of a ``Select``, from the type codes of PostgreSQL and MariaDB, from the declared types of
SQLite's columns (and of ``CAST``). Where that tells nothing, the column is refused by its name. Values are held against
the type: nothing is rounded, cut or turned into text on the way.

PostgreSQL's ``numeric`` without a precision (every ``sum`` of one) and SQLite's expressions have no type to tell:
``CAST`` gives one, or ``types``, or ``type_map``. Intervals and network addresses of PostgreSQL, JSON and UUIDs are
text; arrays are lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from omnistorage.backends.computed.serializers import arrow
from omnistorage.errors import ConfigError, RecordError, StorageError

Convert = Callable[[Any], Any]


class Column(NamedTuple):
    """A column of a result: ``sql_type`` is the database's name of its type, in lower case, ``""`` if it tells none;
    ``given`` an Arrow type (as text) that is known, None otherwise; ``loose`` says that the database keeps values of
    any type in it, and times as text; ``through`` is what each value goes through first."""

    name: str
    sql_type: str
    given: str | None = None
    loose: bool = False
    through: Convert | None = None


class Field(NamedTuple):
    """A column of the table that is made: ``takes`` are the Python types its values may have, nothing for a column
    whose values go through a function."""

    name: str
    type: Any
    takes: frozenset[type]
    convert: Convert

    @property
    def own(self) -> bool:
        return not self.takes and not arrow().types.is_null(self.type)


# --- what databases call their types ----------------------------------------------------------------------------------

_POSTGRES = {
    16: "bool", 17: "binary", 18: "string", 19: "string", 20: "int64", 21: "int16", 23: "int32", 25: "string",
    26: "uint32", 114: "string", 142: "string", 650: "string", 700: "float", 701: "double", 829: "string",
    869: "string", 1042: "string", 1043: "string", 1082: "date32", 1083: "time64[us]", 1114: "timestamp[us]",
    1184: "timestamp[us, tz=UTC]", 1186: "string", 2950: "string", 3802: "string",
    1000: "list<bool>", 1005: "list<int16>", 1007: "list<int32>", 1009: "list<string>", 1015: "list<string>",
    1016: "list<int64>", 1021: "list<float>", 1022: "list<double>", 1115: "list<timestamp[us]>",
    1182: "list<date32>",
}  # fmt: skip
AS_TEXT = ("json", "jsonb", "uuid", "interval", "inet", "cidr", "macaddr", "xml")
"""Types of PostgreSQL whose values are asked for as the server writes them: its drivers would change some."""
_NUMERIC = 1700

_MYSQL = {
    1: "int8", 2: "int16", 3: "int32", 4: "float", 5: "double", 6: "null", 7: "timestamp[us]", 8: "int64", 9: "int32",
    10: "date32", 11: "duration[us]", 12: "timestamp[us]", 13: "int16", 14: "date32", 15: "string", 16: "binary",
    245: "string", 247: "string", 248: "string", 249: "string", 250: "string", 251: "string", 252: "string",
    253: "string", 254: "string",
}  # fmt: skip
_MYSQL_NAMES = {
    0: "decimal", 1: "tinyint", 2: "smallint", 3: "int", 4: "float", 5: "double", 6: "null", 7: "timestamp",
    8: "bigint", 9: "mediumint", 10: "date", 11: "time", 12: "datetime", 13: "year", 16: "bit", 245: "json",
    246: "decimal", 252: "text", 253: "varchar", 254: "char", 255: "geometry",
}  # fmt: skip
_MYSQL_BYTES = {"text": "blob", "varchar": "varbinary", "char": "binary"}
_BINARY_CHARSET, _UNSIGNED = 63, 32

_SQLITE = {
    "int": "int64", "integer": "int64", "tinyint": "int64", "smallint": "int64", "mediumint": "int64",
    "bigint": "int64", "int2": "int64", "int4": "int64", "int8": "int64", "unsigned big int": "int64",
    "bool": "bool", "boolean": "bool", "real": "double", "double": "double", "double precision": "double",
    "float": "double", "text": "string", "varchar": "string", "char": "string", "character": "string",
    "nvarchar": "string", "nchar": "string", "clob": "string", "varying character": "string", "native character":
    "string", "character varying": "string", "json": "string", "uuid": "string", "blob": "binary",
    "varbinary": "binary", "binary": "binary", "date": "date32", "datetime": "timestamp[us]",
    "timestamp": "timestamp[us]", "time": "time64[us]",
}  # fmt: skip
_DECLARED = re.compile(r"([a-z][a-z0-9_ ]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?")


def postgres_column(name: str, code: int, precision: int | None, scale: int | None, sql_type: str) -> Column:
    """A column by the OID of its type."""
    if code == _NUMERIC and precision is not None:
        return Column(name, "numeric", _decimal(precision, scale or 0))
    return Column(name, sql_type.partition("(")[0], _POSTGRES.get(code))


def mysql_column(name: str, code: int, length: int, scale: int, charset: int | None, flags: int) -> Column:
    """A column by its type code (https://mariadb.com/kb/en/result-set-packets/)."""
    sql_type, given = _MYSQL_NAMES.get(code, str(code)), _MYSQL.get(code)
    if code in (0, 246):
        signs = (scale > 0) + (0 if flags & _UNSIGNED else 1)  # the length is that of the number as text
        return Column(name, "decimal", _decimal(max(1, length - signs), scale))
    if given == "string" and charset == _BINARY_CHARSET:
        return Column(name, _MYSQL_BYTES.get(sql_type, sql_type), "binary")
    if given and given.startswith("int") and flags & _UNSIGNED and code != 13:
        return Column(name, f"{sql_type} unsigned", f"u{given}")
    return Column(name, sql_type, given)


def sqlite_column(name: str, declared: str) -> Column:
    """A column by what its table, or a CAST, declares."""
    text = " ".join(declared.lower().split())
    found = _DECLARED.fullmatch(text)
    if found is None:
        return Column(name, text, loose=True)
    base = found[1]
    if base in ("decimal", "numeric") and found[2]:
        return Column(name, base, _decimal(int(found[2]), int(found[3] or 0)), loose=True)
    return Column(name, base, _SQLITE.get(base), loose=True)


def sqlalchemy_column(name: str, kind: Any, sa: Any, *, json_is_text: bool) -> Column | None:
    """A typed column of a Select, as sqlalchemy's own processors return its values; None if it has no type."""
    t = sa.types
    sql_type = str(kind.__visit_name__).lower()
    if isinstance(kind, t.JSON):
        return Column(name, sql_type, "string", through=None if json_is_text else _as_json)
    if isinstance(kind, t.Enum):
        return Column(name, sql_type, "string", through=lambda value: getattr(value, "name", value))
    if isinstance(kind, t.Uuid | t.String):
        return Column(name, sql_type, "string")
    if isinstance(kind, t.Interval):
        return Column(name, sql_type, "duration[us]")
    if isinstance(kind, t.Float | t.Numeric):
        if not kind.asdecimal:
            return Column(name, sql_type, "double")
        known = kind.precision is not None
        return Column(name, sql_type, _decimal(kind.precision, kind.scale or 0) if known else None)
    if isinstance(kind, t.DateTime):
        return Column(name, sql_type, "timestamp[us, tz=UTC]" if kind.timezone else "timestamp[us]")
    for one, given in (
        (t.Boolean, "bool"), (t.SmallInteger, "int16"), (t.Integer, "int64"), (t.LargeBinary, "binary"),
        (t.Date, "date32"), (t.Time, "time64[us]"),
    ):  # fmt: skip
        if isinstance(kind, one):
            return Column(name, sql_type, given)
    if isinstance(kind, t.ARRAY):
        item = sqlalchemy_column(name, kind.item_type, sa, json_is_text=json_is_text)
        return Column(name, "array", f"list<{item.given}>" if item is not None and item.given else None)
    return None


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _decimal(precision: int, scale: int) -> str | None:
    if not 0 <= scale <= precision <= 76:
        return None
    return f"decimal{128 if precision <= 38 else 256}({precision}, {scale})"


# --- Arrow types by name ----------------------------------------------------------------------------------------------

_DECIMAL = re.compile(r"decimal(?:128|256)?\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def arrow_type(text: Any, where: str) -> Any:
    """An Arrow type, or what its name means: those of pyarrow, ``decimal128(18, 2)``, ``list<string>``."""
    pa = arrow()
    if isinstance(text, pa.DataType):
        return text
    if not isinstance(text, str):
        raise ConfigError(f"{where}: an Arrow type or its name is needed, not {type(text).__name__}")
    try:
        if found := _DECIMAL.fullmatch(text):
            precision, scale = int(found[1]), int(found[2])
            return (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)
        if text.startswith("list<") and text.endswith(">"):
            return pa.list_(arrow_type(text[5:-1], where))
        zone = re.fullmatch(r"timestamp\[(s|ms|us|ns), tz=([^\]]+)\]", text)
        return pa.timestamp(zone[1], zone[2]) if zone else pa.type_for_alias(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r} is no Arrow type: {error}") from None


# --- from columns to fields -------------------------------------------------------------------------------------------


def fields_of(columns: Sequence[Column], types: Mapping[str, Any] | None, type_map: Mapping[str, Any]) -> list[Field]:
    """The fields of a result: ``types`` by column name beats ``type_map`` by the database's name of the type, which
    beats what is known. ``ConfigError`` names a column that none of them tells about."""
    missing = set(types or ()) - {column.name for column in columns}
    if missing:
        raise ConfigError(f"types name columns that the query does not return: {', '.join(sorted(missing))}")
    return [_field(column, types or {}, type_map) for column in columns]


def _field(column: Column, types: Mapping[str, Any], type_map: Mapping[str, Any]) -> Field:
    where = f"column {column.name!r}"
    said = types.get(column.name, type_map.get(column.sql_type) if column.sql_type else None)
    if callable(said) and not isinstance(said, arrow().DataType):
        try:
            said = said(column)
        except Exception as error:
            what = f"{type(error).__name__}: {str(error)[:300]}"
            raise ConfigError(f"{where}: the function of type_map failed: {what}") from error
    if said is None:
        said = column.given
    if said is None:
        raise ConfigError(_unknown(column))
    if isinstance(said, tuple | list):
        kind = arrow_type(said[0], where)
        return Field(column.name, kind, _ANY, _by(kind, said[1]))
    kind = arrow_type(said, where)
    if column.through is not None:
        return Field(column.name, kind, _ANY, _by(kind, column.through))
    return Field(column.name, kind, *_conversion(kind, column.loose))


def _unknown(column: Column) -> str:
    if column.loose and column.sql_type in ("", "num"):
        why = "SQLite declares no type for an expression" + (" but a number" if column.sql_type else "")
    elif column.sql_type in ("numeric", "decimal"):
        why = f"{column.sql_type} without a precision fits no Arrow type"
    else:
        why = f"the type {column.sql_type!r} has no counterpart in Arrow"
    how = "CAST(... AS INTEGER), REAL or TEXT" if column.sql_type == "num" else "CAST(... AS ...)"
    other = f" or type_map={{{column.sql_type!r}: ARROW_TYPE}}" if column.sql_type else ""
    return (
        f"column {column.name!r}: {why}: write {how} in the query, or say types={{{column.name!r}: ARROW_TYPE}}{other}"
    )


_ANY = frozenset[type]()


def _by(kind: Any, function: Callable[[Any], Any]) -> Convert:
    """Each value through a function of the user's; None stays None."""
    return lambda values: arrow().array([None if v is None else function(v) for v in values], type=kind)


def _conversion(kind: Any, loose: bool) -> tuple[frozenset[type], Convert]:
    """The Python types of the values of an Arrow type, and how they become an array."""
    pa = arrow()
    t = pa.types

    def plain(values: Sequence[Any]) -> Any:
        return pa.array(values, type=kind)

    def from_text(values: Sequence[Any]) -> Any:
        return pa.array(values, type=pa.string()).cast(kind)

    if t.is_boolean(kind):
        return frozenset((bool, int)), lambda values: pa.array([_truth(v) for v in values], type=kind)
    if t.is_integer(kind):
        return frozenset((int,)), plain
    if t.is_floating(kind):
        return frozenset((float, int)), plain
    if t.is_decimal(kind):
        exact = frozenset((Decimal, int))
        if not loose:
            return exact, plain
        return exact | {float}, lambda values: pa.array(
            [Decimal(repr(v)) if type(v) is float else v for v in values], type=kind
        )
    if t.is_string(kind) or t.is_large_string(kind):
        return frozenset((str, UUID)), lambda values: pa.array(
            [str(v) if type(v) is UUID else v for v in values] if UUID in set(map(type, values)) else values, type=kind
        )
    if t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind):
        return frozenset((bytes, bytearray, memoryview)), plain
    if loose and t.is_time(kind):  # for which Arrow has no cast
        return frozenset((str,)), lambda values: pa.array([_clock(v) for v in values], type=kind)
    if loose and (t.is_date(kind) or t.is_timestamp(kind)):
        return frozenset((str,)), from_text
    for fits, kinds in (
        (t.is_date, (date,)), (t.is_timestamp, (datetime,)), (t.is_time, (time,)), (t.is_duration, (timedelta,)),
        (t.is_null, ()), (t.is_list, (list,)), (t.is_struct, (dict,)),
    ):  # fmt: skip
        if fits(kind):
            return frozenset(kinds), plain
    return _ANY, plain


def _clock(value: str | None) -> time | None:
    found = None if value is None else time.fromisoformat(value)
    if found is not None and found.tzinfo is not None:
        raise ValueError("a time with a zone")
    return found


def _truth(value: Any) -> Any:
    if value in (0, 1):
        return bool(value)
    if value is None:
        return None
    raise ValueError(f"{value!r} is neither true nor false")


_NONE = type(None)


def batch_of(fields: Sequence[Field], rows: Sequence[Any], schema: Any, first: int) -> Any:
    """Rows as a record batch. ``RecordError`` names the column and the row, counted from ``first``."""
    columns = zip(*rows, strict=True)
    arrays = [_array(field, values, first) for field, values in zip(fields, columns, strict=True)]
    return arrow().RecordBatch.from_arrays(arrays, schema=schema)


def _array(field: Field, values: Sequence[Any], first: int) -> Any:
    kinds = set(map(type, values))
    if not field.own and not kinds <= field.takes | {_NONE}:
        _wrong(field, values, first)
    try:
        return field.convert(values)
    except Exception as error:  # any, where a function of the user's converts
        _wrong(field, values, first, error)


def _wrong(field: Field, values: Sequence[Any], first: int, error: BaseException | None = None) -> Any:
    for number, value in enumerate(values, first):
        try:
            if field.own or type(value) in field.takes | {_NONE}:
                field.convert([value])
                continue
        except Exception as found:
            error = found
        raise RecordError(
            f"column {field.name!r} is {field.type}, and a value of it, {type(value).__name__}, is not: CAST it in the "
            f"query, or say types={{{field.name!r}: ...}}",
            number=number,
        ) from error
    raise StorageError(f"column {field.name!r} cannot be made {field.type}: {error}") from error


def schema_of(fields: Sequence[Field]) -> Any:
    pa = arrow()
    return pa.schema([pa.field(field.name, field.type) for field in fields])


def described(cursor: Any, family: str, names: Callable[[list[int]], Mapping[int, str]]) -> Iterator[Column]:
    """The columns of an executed cursor of PostgreSQL or MySQL. ``names`` asks for the names of types by OID."""
    if family == "postgresql":
        codes = [column[1] for column in cursor.description]
        own = names([code for code in codes if code not in _POSTGRES and code != _NUMERIC])
        for column in cursor.description:
            known = getattr(column, "type_display", None) or ("numeric" if column[1] == _NUMERIC else str(column[1]))
            yield postgres_column(column[0], column[1], column[4], column[5], own.get(column[1], known))
        return
    fields = getattr(getattr(cursor, "_result", None), "fields", None)
    for at, column in enumerate(cursor.description):
        packet = fields[at] if fields else None
        charset, flags = getattr(packet, "charsetnr", None), getattr(packet, "flags", 0)
        length = getattr(packet, "length", None) or column[3] or 0
        yield mysql_column(column[0], column[1], length, column[5] or 0, charset, flags)
