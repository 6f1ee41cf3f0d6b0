"""The configuration file of the command, as far as it can be read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omnistorage.config import BackendConfig, StoreProfile
from omnistorage.config.models import tables_of
from omnistorage.core.spelling import nearest
from omnistorage.errors import ConfigError, StorageError


@dataclass
class Loaded:
    """What a configuration file says. ``tables`` as it is written; ``backends`` what of it is right."""

    tables: dict[tuple[str, str], Any] = field(default_factory=dict)
    backends: dict[str, BackendConfig] = field(default_factory=dict)
    stores: dict[str, StoreProfile] = field(default_factory=dict)
    mistakes: list[StorageError] = field(default_factory=list)


def read_config(path: str, *, missing_is_empty: bool = False) -> Loaded:
    """Read a configuration file as ``RegistryConfig.from_file`` does, and go on behind every mistake."""
    loaded = Loaded()
    if missing_is_empty and not os.path.exists(path):
        return loaded
    try:
        data = tables_of(path)
    except StorageError as error:
        loaded.mistakes.append(error)
        return loaded
    if not isinstance(data, Mapping):
        loaded.mistakes.append(ConfigError(f"{path}: a configuration is a table, not {type(data).__name__}"))
        return loaded
    for key in data:
        if key not in ("backends", "stores"):
            hint = nearest(key, ("backends", "stores"))
            loaded.mistakes.append(ConfigError(f"{path}: unknown table {key!r}{hint}"))
    _load(loaded, path, data, "backends", BackendConfig, loaded.backends)
    _load(loaded, path, data, "stores", StoreProfile, loaded.stores)
    known = [name for kind, name in loaded.tables if kind == "backends"]
    for name, store in loaded.stores.items():
        if store.backend not in known:
            hint = nearest(store.backend, known)
            loaded.mistakes.append(ConfigError(f"{path}: stores.{name}: there is no backend {store.backend!r}{hint}"))
    return loaded


def _load(loaded: Loaded, path: str, data: Mapping[str, Any], kind: str, cls: Any, into: dict[str, Any]) -> None:
    tables = data.get(kind, {})
    if not isinstance(tables, Mapping):
        loaded.mistakes.append(ConfigError(f"{path}: {kind!r} is a table of tables: [{kind}.NAME]"))
        return
    for name, table in tables.items():
        loaded.tables[kind, name] = table
        try:
            into[name] = cls.from_dict(table, where=f"{path}: {kind}.{name}", env=True)
        except StorageError as error:
            loaded.mistakes.append(error)
