"""From what a user wrote (a name, a value, options) to a codec or a format. Serves both lookup tables.

Kept apart from the tables so that ``compression`` and ``formats`` say the same words about the same mistakes.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from omnistorage.errors import ConfigError

from .plugin_table import Table
from .spelling import nearest


def make(table: Table, protocol: Any, spec: Any, options: dict[str, Any]) -> Any:
    """The value that ``spec`` means: a member's name with ``options`` for its fields, or a ready value as it is.

    Raises ``ConfigError`` for an unknown name or option (with the nearest right spelling), for a bad option value, for
    options beside a ready value, and for anything that is neither a name nor a ready value.
    """
    if isinstance(spec, str):
        return _build(table, spec, options)
    if isinstance(spec, type) or not isinstance(spec, protocol):
        raise ConfigError(f"a {table.kind} is given by name or as a value such as {_example(table)}, not as {spec!r}")
    if options:
        raise ConfigError(f"options {sorted(options)} beside the ready {table.kind} {spec!r}: set them when making it")
    return spec


def _build(table: Table, name: str, options: dict[str, Any]) -> Any:
    cls = table.get(name)
    known = _option_names(cls)
    for option in options:
        if option not in known:
            raise ConfigError(f"the {table.kind} {name!r} has no option {option!r}{nearest(option, known)}")
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"the {table.kind} {name!r} does not take {options!r}: {error}") from error


def _option_names(cls: Any) -> list[str]:
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls) if field.init]
    return list(inspect.signature(cls).parameters)


def _example(table: Table) -> str:
    return {"codec": "Gzip(level=6)", "format": "Ndjson()"}.get(table.kind, "an instance")


def suffix_of(path: str) -> str:
    """The last suffix of the last segment in lower case with its dot, or "". ``.gz`` alone is a hidden file's name."""
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


class SuffixIndex:
    """Suffix to name. Those of built-in members stand in ``known`` as literals, so that nothing need be imported to
    look one up; those of third parties are learnt when a suffix is met that is neither ``known`` nor ``foreign``.

    Finding entry points costs tens of milliseconds, hence ``foreign``: suffixes that are certainly no member's.
    """

    def __init__(self, table: Table, known: dict[str, str], foreign: frozenset[str] = frozenset()) -> None:
        self.known = known
        self._table = table
        self._foreign = foreign
        self._built_in = frozenset(known.values())
        self._learnt: set[str] = set()

    def name_for(self, suffix: str) -> str | None:
        """The name of the member that ``suffix`` (as ``suffix_of`` gives it) belongs to, or None."""
        if suffix and suffix not in self.known and suffix not in self._foreign:
            for name in self._table.names():
                if name not in self._built_in and name not in self._learnt:
                    try:
                        self.learn(name)
                    except ImportError:  # a plug-in that does not load says so when it is asked for by name
                        self._learnt.add(name)
        return self.known.get(suffix)

    def learn(self, name: str) -> Any:
        """Take up the suffixes of the member ``name``, built-in ones excepted; returns its class."""
        cls = self._table.get(name)
        self._learnt.add(name)
        for suffix in cls.suffixes:
            self.known.setdefault(suffix.lower(), name)
        return cls
