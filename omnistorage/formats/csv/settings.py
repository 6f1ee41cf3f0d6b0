"""The fields of ``Csv`` and what may stand in them.

Apart from ``csv.py`` because encoder and decoder need them and ``csv.py`` needs those.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, get_args

from omnistorage.errors import ConfigError

Quoting = Literal["minimal", "all", "nonnumeric", "none"]
Kind = Literal["int", "float", "bool", "str", "date", "datetime", "decimal"]
Names = tuple[str, ...]
_QUOTING = {
    "minimal": csv.QUOTE_MINIMAL,
    "all": csv.QUOTE_ALL,
    "nonnumeric": csv.QUOTE_NONNUMERIC,
    "none": csv.QUOTE_NONE,
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "quoting": get_args(Quoting),
    "lineterminator": ("\n", "\r\n"),
    "rows": ("dict", "list"),
    "extra": ("error", "drop"),
    "missing": ("error", "null"),
    "nul": ("error", "keep"),
    "formulas": ("keep", "quote", "refuse"),
    "nested": ("refuse", "json"),
}
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def _number(make: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if "_" in text:
            raise ValueError("an underscore is no part of a number")  # Python would take it for one
        return make(text)

    return parse


PARSERS: dict[str, Callable[[str], Any]] = {
    "int": _number(int),
    "float": _number(float),
    "bool": lambda text: _BOOLEANS[text.strip().lower()],
    "str": str,
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "decimal": _number(Decimal),
}
_CLASSES: dict[Any, Kind] = {
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
    date: "date",
    datetime: "datetime",
    Decimal: "decimal",
}
"""The classes that mean a kind. Called with a text, ``bool`` would take "false" for true, and ``date`` would fail."""


@dataclass(frozen=True)
class CsvSettings:
    """See ``Csv``."""

    delimiter: str = ","
    quotechar: str = '"'
    escapechar: str | None = None
    doublequote: bool = True
    quoting: Quoting = "minimal"
    lineterminator: Literal["\n", "\r\n"] = "\n"
    encoding: str = "utf-8"
    bom: bool = False
    header: Literal["first_row", "none"] | Names = "first_row"
    header_row: bool = True
    rows: Literal["dict", "list"] = "dict"
    extra: Literal["error", "drop"] = "error"
    missing: Literal["error", "null"] = "error"
    types: Mapping[str, Kind | Callable[[str], Any]] | tuple[tuple[str, Kind | Callable[[str], Any]], ...] = ()
    null: str = ""
    nul: Literal["error", "keep"] = "error"
    max_record: int = 16 << 20
    allow_partial_tail: bool = False
    max_columns: int | None = None
    formulas: Literal["keep", "quote", "refuse"] = "keep"
    nested: Literal["refuse", "json"] = "refuse"

    def __post_init__(self) -> None:
        self._check_plain_fields()
        self._check_characters()
        # Kept as tuples, so that the value is hashable and nobody changes it behind our back.
        object.__setattr__(self, "header", self._checked_header())
        object.__setattr__(self, "types", self._checked_types())

    def _check_plain_fields(self) -> None:
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise ConfigError(f"csv {field} is one of {choices}, not {getattr(self, field)!r}")
        for field in ("doublequote", "bom", "header_row", "allow_partial_tail"):
            if type(getattr(self, field)) is not bool:
                raise ConfigError(f"csv {field} is True or False, not {getattr(self, field)!r}")
        if type(self.max_record) is not int or self.max_record < 1:
            raise ConfigError(f"csv max_record is a number of bytes from 1 up, not {self.max_record!r}")
        if self.max_columns is not None and (type(self.max_columns) is not int or self.max_columns < 1):
            raise ConfigError(f"csv max_columns is a number from 1 up or None, not {self.max_columns!r}")
        if not isinstance(self.null, str):
            raise ConfigError(f"csv null is the text that stands for None, not {self.null!r}")
        if not _extends_ascii(self.encoding):
            raise ConfigError(f"csv encoding {self.encoding!r}: use utf-8 or one with a byte per character and ASCII")
        if self.bom and not self.is_utf8:
            raise ConfigError(f"csv bom=True is for utf-8, not for {self.encoding}")

    def _check_characters(self) -> None:
        special = {"delimiter": self.delimiter, "quotechar": self.quotechar}
        if self.escapechar is not None:
            special["escapechar"] = self.escapechar
        for field, char in special.items():
            if not isinstance(char, str) or len(char) != 1 or not char.isascii() or char in "\r\n\0":
                raise ConfigError(f"csv {field} is one ASCII character and no line break, not {char!r}")
        if len(set(special.values())) < len(special):
            raise ConfigError(f"csv {', '.join(special)} must differ: {special}")

    def _checked_header(self) -> str | Names:
        header: Any = self.header
        if isinstance(header, str):
            if header not in ("first_row", "none"):
                raise ConfigError(f"csv header is 'first_row', 'none' or the names of the columns, not {header!r}")
            if header == "none" and self.rows == "dict":
                raise ConfigError("csv rows='dict' needs names: without a header give them, and header_row=False")
            if header == "first_row" and not self.header_row:
                raise ConfigError("csv header_row=False needs header='none' or the names of the columns")
            return header
        try:
            names = tuple(header)
        except TypeError:
            names = ()
        if not names or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"csv header is 'first_row', 'none' or the names of the columns, not {header!r}")
        if len(set(names)) < len(names):
            raise ConfigError(f"csv header names a column twice: {names}")
        return names

    def _checked_types(self) -> tuple[tuple[str, Any], ...]:
        try:
            types: dict[str, Any] = dict(self.types)
        except (TypeError, ValueError):
            raise ConfigError(f"csv types maps names of columns to types, not {self.types!r}") from None
        for name, kind in types.items():
            if not isinstance(name, str) or not (callable(kind) or kind in get_args(Kind)):
                raise ConfigError(
                    f"csv types: {name!r}: {kind!r}: use one of {', '.join(get_args(Kind))}, or a callable"
                )
            types[name] = _CLASSES.get(kind, kind) if kind.__hash__ else kind
            if not isinstance(self.header, str) and name not in self.header:
                raise ConfigError(f"csv types names the column {name!r}, which the header has not")
        if types and self.header == "none":
            raise ConfigError("csv types needs names of columns, header='none' has none")
        return tuple(types.items())

    @property
    def is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name == "utf-8"

    @property
    def names(self) -> Names | None:
        """The names of the columns where they are known beforehand."""
        return None if isinstance(self.header, str) else self.header

    @property
    def starts_with_header(self) -> bool:
        return self.header_row and self.header != "none"

    @property
    def quote(self) -> str | None:
        """The quote character, None where quotes mean nothing."""
        return None if self.quoting == "none" else self.quotechar

    def dialect(self) -> dict[str, Any]:
        """The arguments that ``csv.reader`` and ``csv.writer`` share."""
        return {
            "delimiter": self.delimiter,
            "quotechar": self.quote,
            "escapechar": self.escapechar,
            "doublequote": self.doublequote,
            "strict": True,
        }

    def reading(self) -> dict[str, Any]:
        # With QUOTE_NONNUMERIC the module would make floats of fields; what is read are strings.
        return {**self.dialect(), "quoting": csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE}

    def writing(self) -> dict[str, Any]:
        return {**self.dialect(), "quoting": _QUOTING[self.quoting]}


def _extends_ascii(encoding: Any) -> bool:
    """Whether a byte below 128 is that ASCII character wherever it stands: line breaks are looked for in bytes."""
    low = bytes(range(128))
    try:
        name = codecs.lookup(encoding).name
        if name == "utf-8":
            return True
        # Others of that kind keep a state, or take a backslash for more than one.
        if name.startswith(("utf", "raw")) or low.decode("ascii").encode(encoding) != low:
            return False
        text = bytes(range(256)).decode(encoding, "replace")
    except (LookupError, TypeError, ValueError):
        return False
    return len(text) == 256 and text[:128] == low.decode("ascii")
