"""A lookup table of members by name: ``"module:Class"`` strings, loaded when first asked for.

Codecs, formats and backends are found through one of these. Nothing registers itself by being imported: built-in
members stand in a literal table, third parties call ``register`` or declare an entry point of the table's group.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from omnistorage.errors import ConfigError

from .spelling import nearest


class Table:
    """Names to classes. ``kind`` is the word for messages, ``group`` the entry-point group of third parties."""

    def __init__(self, kind: str, group: str, members: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._members: dict[str, Any] = dict(members)
        self._scanned = False

    def register(self, name: str, member: Any) -> None:
        """Add a class (or a ``"module:Class"`` string) under ``name``. Raises ``ConfigError`` if the name is taken by
        something else; registering the same thing again is a no-op."""
        if self._members.get(name, member) != member:
            raise ConfigError(f"the {self.kind} name {name!r} is taken by {self._members[name]!r}")
        self._members[name] = member

    def names(self) -> list[str]:
        """All names, sorted, entry points included."""
        self._scan()
        return sorted(self._members)

    def get(self, name: str) -> Any:
        """The class under ``name``. Raises ``ConfigError`` with the nearest right spelling if there is none."""
        if name not in self._members:
            self._scan()
        try:
            member = self._members[name]
        except (KeyError, TypeError):
            shown = f"{str(name).partition('://')[0]}://..." if "://" in str(name) else name  # a URL may hold a secret
            raise ConfigError(f"unknown {self.kind} {shown!r}{nearest(str(name), self._members)}") from None
        if isinstance(member, str):
            module, _, attribute = member.partition(":")
            member = self._members[name] = getattr(import_module(module), attribute)
        return member

    def _scan(self) -> None:
        if self._scanned:
            return
        from importlib.metadata import entry_points  # costs milliseconds, so only when a name is not built in

        for point in entry_points(group=self.group):
            self._members.setdefault(point.name, point.value)
        self._scanned = True
