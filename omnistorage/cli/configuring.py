"""``omnistorage config``: the configuration file, seen and checked. Imports config, errors, secret and the registry.

Unlike the library, which stops at the first mistake, ``check`` finds them all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from .._table import nearest
from ..config import BackendConfig, StoreProfile, masked_options, tables_of
from ..errors import ConfigError, StorageError
from ..secret import mask
from .app import App
from .run import Verb


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


@click.command(cls=Verb, rows=True, example="omnistorage config path", short_help="Show or check the configuration.")
@click.argument("what", type=click.Choice(["show", "check", "path"]))
@click.pass_obj
def config(app: App, /, what: str) -> None:
    """Show the configuration file with its secrets hidden, check it, or print its path.

    check opens every backend, which connects to nothing, and reports all mistakes (exit code 7), not only the first.
    path prints where the file is looked for: --config, else $OMNISTORAGE_CONFIG, else
    ~/.config/omnistorage/config.toml.
    """
    path, why = app.config_file()
    if what == "path":
        there = os.path.exists(path)
        if app.json:
            app.out.json({"path": path, "from": why, "exists": there})
        else:
            app.out.line(path)
            app.say(f"this is {why}; {'the file is there' if there else 'there is no such file'}")
        return
    loaded = read_config(path)
    if what == "show":
        _show(app, loaded)
    else:
        _check(app, path, loaded)


def _show(app: App, loaded: Loaded) -> None:
    for error in loaded.mistakes:
        if not loaded.tables:
            app.failed(error)
        else:
            app.warn(f"{error.args[0]}; config check says more")
    for number, ((kind, name), table) in enumerate(loaded.tables.items()):
        shown = _masked(table, name) if isinstance(table, Mapping) else table
        if app.json:
            app.out.json(
                {
                    "name": name,
                    "is": kind.removesuffix("s"),
                    **(shown if isinstance(shown, Mapping) else {"value": shown}),
                }
            )
            continue
        if number:
            app.out.line("")
        _table(app, [kind, name], shown)


def _masked(table: Mapping[str, Any], name: str) -> Any:
    shown, options = mask(table, name), table.get("options")
    if isinstance(shown, Mapping) and isinstance(options, Mapping):
        return {**shown, "options": masked_options(table.get("type"), options)}
    return shown


def _table(app: App, path: list[str], table: Any) -> None:
    """One table as TOML, its own keys first."""
    app.out.line(f"[{'.'.join(map(_key, path))}]")
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    for key, value in table.items():
        if key not in inner:
            app.out.line(f"{_key(key)} = {_value(value)}")
    for key, value in inner.items():
        _table(app, [*path, key], value)


def _key(text: str) -> str:
    plain = text.replace("-", "").replace("_", "")
    return text if plain.isascii() and plain.isalnum() else _value(text)


def _value(value: Any) -> str:
    import json

    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())} }}"
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _check(app: App, path: str, loaded: Loaded) -> None:
    from ..registry import open_backend

    for error in loaded.mistakes:
        app.failed(error)
    for name, one in loaded.backends.items():
        try:
            open_backend(one).close()
        except StorageError as error:
            error.args = (f"{path}: backends.{name}: {error.args[0] if error.args else type(error).__name__}",)
            app.failed(error)
            continue
        app.done += 1
        if app.json:
            app.out.json({"name": name, "type": one.type, "ok": True})
        else:
            app.detail(f"{name}: {one.type}, in order")
    if not app.failures:
        stores = f", {len(loaded.stores)} store{'s' * (len(loaded.stores) != 1)}" if loaded.stores else ""
        app.say(f"{path}: {app.done} backend{'s' * (app.done != 1)}{stores}, no mistakes")
