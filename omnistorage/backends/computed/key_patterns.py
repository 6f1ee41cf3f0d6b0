"""Key patterns such as ``reports/{year:int}/{region}.parquet``: which keys they mean, and with which parameters. Pure:
imports errors and paths only.

{name}          one segment or a part of one, never a "/"       {name:date}   2024-05-01
    {name:int}      a whole number of 64 bits, as Python writes it  {name:uuid}   in lower case, with its hyphens; a str
    {name:02d}      the same, padded with zeros to two digits       {name:path}   any number of segments; once a pattern
    {{  }}          a brace

A key means one thing only: what is not written as its value would be written again is no match (``007`` is no ``int``).
Where two parameters share a segment, the first reaches to the first place at which the text behind it stands, the last
takes the rest; so matching never goes back, whatever the key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from omnistorage.errors import ConfigError, InvalidPath, StorageError
from omnistorage.paths import MAX_PATH_BYTES, check_new, suffixes


class Key(NamedTuple):
    """A key as it was understood: ``format`` is its last suffix without the dot, in lower case, or None."""

    path: str
    format: str | None
    params: Mapping[str, Any]


class _Kind(NamedTuple):
    regex: str
    parse: Callable[[str], Any]
    write: Callable[[Any], str]
    types: tuple[type, ...]


def _day(text: str) -> date:
    return date.fromisoformat(text)


_KINDS = {
    "str": _Kind("[^/]+", str, str, (str,)),
    "path": _Kind(".+", str, str, (str,)),
    "int": _Kind("-?[0-9]{1,19}", int, str, (int,)),
    "date": _Kind("[0-9]{4}-[0-9]{2}-[0-9]{2}", _day, date.isoformat, (date,)),
    "uuid": _Kind("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", str, str, (str, UUID)),
}
_PADDED = re.compile(r"0([1-9])d")
_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_INT64 = 1 << 63


def _kind(name: str, pattern: str) -> _Kind:
    if name in _KINDS:
        return _KINDS[name]
    if padded := _PADDED.fullmatch(name):
        width = int(padded[1])
        return _Kind(f"[0-9]{{{width},18}}", int, lambda value: f"{value:0{width}d}", (int,))
    raise ConfigError(f"the key {pattern!r}: no parameter is of type {name!r}; use {', '.join(_KINDS)} or 02d")


class Pattern:
    """One pattern. ``names`` are its parameters in order, ``is_static`` says that there are none."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise ConfigError(f"a key is a str, not {type(text).__name__}")
        self.text = text
        self._kinds: dict[str, _Kind] = {}
        self._parts = list(self._parse())
        self.names = tuple(self._kinds)
        self.is_static = not self.names
        sample = "".join(literal if kind is None else "x" for literal, kind in self._parts)
        try:
            check_new(sample)
        except InvalidPath as error:
            raise ConfigError(f"the key {text!r}: {error.args[0]}") from None
        last, kind = self._parts[-1]
        found = suffixes(f"x{last}") if kind is None else []
        self.format = found[-1][1:] if found else None  # None: only the key itself tells
        self._regex = re.compile(self._expression(), re.DOTALL | re.ASCII)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def _parse(self) -> Iterator[tuple[str, _Kind | None]]:
        """(literal, None) or (parameter, its kind), literals joined."""
        literal, adjacent = "", False
        for found in _PART.finditer(self.text):
            if found[1] is None:
                if found[0] in "{}":
                    raise ConfigError(f"the key {self.text!r}: a lone {found[0]!r}; write it twice to mean itself")
                literal += found[0][0] if found[0] in ("{{", "}}") else found[0]
                continue
            name, _, kind = found[1].partition(":")
            if not _NAME.fullmatch(name) or name in self._kinds:
                raise ConfigError(f"the key {self.text!r}: {name!r} is no name, or stands twice")
            if adjacent and not literal:
                raise ConfigError(f"the key {self.text!r}: put something between two parameters")
            if kind == "path" and any(other is _KINDS["path"] for other in self._kinds.values()):
                raise ConfigError(f"the key {self.text!r}: only one parameter can be a path")
            if literal:
                yield literal, None
            self._kinds[name] = _kind(kind or "str", self.text)
            yield name, self._kinds[name]
            literal, adjacent = "", True
        if literal or not self._kinds:
            yield literal, None

    def _expression(self) -> str:
        out, at = [], 0
        while at < len(self._parts):
            text, kind = self._parts[at]
            if kind is None:
                out.append(re.escape(text))
            elif kind is _KINDS["str"] and self._shares_segment(at):
                literal = re.escape(self._parts[at + 1][0])
                out.append(f"(?>(?P<{text}>[^/]+?){literal})")  # never taken back
                at += 1
            else:
                out.append(f"(?P<{text}>{kind.regex})")
            at += 1
        return "".join(out)

    def _shares_segment(self, at: int) -> bool:
        """Whether another parameter follows before the next slash."""
        return at + 2 < len(self._parts) and "/" not in self._parts[at + 1][0]

    @property
    def head(self) -> str:
        """What all keys of the pattern begin with."""
        text, kind = self._parts[0]
        return text if kind is None else ""

    def typed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The same parameters, dates that came as text as dates."""
        found = dict(values)
        for name, kind in self._kinds.items():
            value = found.get(name)
            if kind is _KINDS["date"] and isinstance(value, str) and re.fullmatch(kind.regex, value):
                try:
                    found[name] = kind.parse(value)
                except ValueError:
                    pass  # it makes no key, which ``path_of`` says
        return found

    @property
    def shape(self) -> str:
        """Equal for patterns that differ in the names of parameters alone."""
        return "".join(text if kind is None else f"\0{kind.regex}\0" for text, kind in self._parts)

    def match(self, path: str) -> dict[str, Any] | None:
        """The parameters of ``path``, or None if the pattern does not mean it."""
        if len(path) > MAX_PATH_BYTES or (found := self._regex.fullmatch(path)) is None:
            return None
        params: dict[str, Any] = {}
        for name, text in found.groupdict().items():
            kind = self._kinds[name]
            try:
                value = kind.parse(text)
                text.encode()  # a lone surrogate is no text that a parameter could hold
            except ValueError:
                return None
            if kind.write(value) != text or (type(value) is int and not -_INT64 <= value < _INT64):
                return None
            params[name] = value
        return params

    def path_of(self, values: Mapping[str, Any]) -> str:
        """The key of these parameters. ``StorageError`` if they make none, or one that means something else."""
        parts = []
        for text, kind in self._parts:
            if kind is None:
                parts.append(text)
                continue
            if text not in values:
                raise StorageError(f"the values of {self.text!r} have no {text!r}")
            value = values[text]
            if not isinstance(value, kind.types) or isinstance(value, bool | datetime):
                raise StorageError(f"{text!r} of {self.text!r} cannot be {type(value).__name__}")
            parts.append(kind.write(value))
        path = "".join(parts)
        found = self.match(path)
        try:
            check_new(path)
        except InvalidPath as error:
            raise StorageError(f"a value of {self.text!r} makes no key: {error.args[0]}") from None
        if found is None or any(
            kind.write(found[name]) != kind.write(values[name]) for name, kind in self._kinds.items()
        ):
            raise StorageError(f"the key of a value of {self.text!r} would mean something else", path=path)
        return path


def format_of(path: str) -> str | None:
    """The last suffix of ``path`` without its dot, in lower case."""
    found = suffixes(path)
    return found[-1][1:] if found else None
