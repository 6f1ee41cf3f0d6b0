"""``omnistorage config``: the configuration file, seen and checked.

Unlike the library, which stops at the first mistake, ``check`` finds them all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from omnistorage.cli.core.app import App
from omnistorage.cli.core.config_file import Loaded, read_config
from omnistorage.cli.core.verb import Verb
from omnistorage.config.models import masked_options
from omnistorage.core.secret import mask
from omnistorage.errors import StorageError


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
    from omnistorage.config import open_backend

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
