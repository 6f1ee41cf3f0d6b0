"""Paths that name their partitions, ``year=2026/region=eu/part-0.parquet``, as Hive, Spark and pyarrow write and read
them. Pure.

A value's characters that could not stand in a folder's name are written as ``%XX`` (``escapePathName`` in Apache Hive's
``FileUtils``), and null is ``__HIVE_DEFAULT_PARTITION__``, as is the empty text, which no folder's name can be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from omnistorage.errors import ConfigError, InvalidPath
from omnistorage.paths import check_new

NULL = "__HIVE_DEFAULT_PARTITION__"
_ESCAPED = re.compile("[\x00-\x1f\x7f-\x9f\"#%'*/:=?\\\\{}\\[\\]^]")
_CODE = re.compile("%([0-9A-Fa-f]{2})")
Value = str | int | float | bool | Decimal | date | datetime | None


@dataclass(frozen=True)
class ParsedPartition:
    """The values of a path's partitions, outermost first, and the file's name behind them."""

    partitions: Mapping[str, Any] = field(default_factory=dict)
    filename: str = ""


def partition_path(filename: str, /, **partitions: Value) -> str:
    """``partition_path("a.csv", year=2026, region=None)`` is ``year=2026/region=__HIVE_DEFAULT_PARTITION__/a.csv``. The
    partitions stand in the order given. Raises ``ConfigError`` for a value that is no plain one, ``InvalidPath`` for
    a file name that is none."""
    folders = [f"{_escape(name)}={_text(name, value)}" for name, value in partitions.items()]
    if "/" in filename:
        raise InvalidPath("this is the name of a file, without folders", path=filename, op="partition_path")
    return check_new("/".join([*folders, filename]), op="partition_path")


def parse_partition(path: str, types: Mapping[str, Callable[[str], Any]] | None = None) -> ParsedPartition:
    """The partitions in ``path``; folders that are none are passed over. Values are texts, or what ``types`` makes of
    them (``{"year": int}``); null is None whatever the type. Raises ``ConfigError`` naming the partition for a text
    that its type does not take, and for a name that stands twice with two values."""
    *folders, filename = path.split("/")
    found: dict[str, Any] = {}
    for folder in folders:
        name, equals, raw = folder.partition("=")
        if not equals or not name:
            continue
        name = _unescape(name)
        value: Any = None if raw == NULL else _unescape(raw)
        if value is not None and types is not None and name in types:
            try:
                value = types[name](value)
            except (ValueError, TypeError, ArithmeticError) as error:
                raise ConfigError(f"partition {name!r} holds {value!r}: {error}", path=path) from error
        if name in found and found[name] != value:
            raise ConfigError(f"partition {name!r} stands twice: {found[name]!r} and {value!r}", path=path)
        found[name] = value
    return ParsedPartition(found, filename)


def _text(name: str, value: Value) -> str:
    if value is None or value == "":
        return NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return _escape(value.isoformat(" "))
    if value == NULL:
        raise ConfigError(f"partition {name!r}: {NULL!r} is how null is written; give None")
    if isinstance(value, str | int | float | Decimal | date):
        return _escape(str(value))
    raise ConfigError(f"partition {name!r} is a plain value, not {type(value).__name__}")


def _escape(text: str) -> str:
    return _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", text)


def _unescape(text: str) -> str:
    return _CODE.sub(lambda match: chr(int(match[1], 16)), text)
