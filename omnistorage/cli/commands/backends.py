"""``omnistorage backends`` and ``completion``: the command about itself."""

from __future__ import annotations

import inspect
from typing import Any

import click

from omnistorage.cli.core.app import App
from omnistorage.cli.core.verb import Verb
from omnistorage.cli.runner import COMPLETE, root
from omnistorage.core import ExtendedBackend, Features
from omnistorage.errors import StorageError


@click.command(cls=Verb, rows=True, example="omnistorage backends", short_help="What backends there are.")
@click.pass_obj
def backends(app: App, /) -> None:
    """Say which backends there are and what each can do, as it is configured by default; nothing is connected to.

    Those of the configuration file stand beside them as NAME:, with their own settings. --json has one object each.
    """
    found = [_registered(name) for name in _names()] + _configured(app)
    app.done = len(found)
    if app.json:
        for one in found:
            app.out.json(one)
        return
    shown = [one for one in found if "features" in one]
    heads = [one["name"] for one in shown]
    label = max(map(len, Features.flags()))
    app.out.line(" " * label + "".join(f"  {head}" for head in heads))
    for flag in Features.flags():
        cells = "".join(f"  {'yes' if one['features'][flag] else '-':{len(one['name'])}}" for one in shown)
        app.out.line(f"{flag:{label}}{cells}".rstrip())
    for one in found:
        if "error" in one:
            app.out.line(f"{one['name']}: {one['error']}")


_ALIASES = ("abfss", "azure", "gcs", "https", "local", "sql")


def _names() -> list[str]:
    """Every type once: of the names for one, the shortest that URLs begin with. What SQL is depends on the database."""
    from omnistorage.config import backend_names

    return [name for name in backend_names() if name not in _ALIASES]


def _registered(name: str) -> dict[str, Any]:
    from omnistorage.config import backend_class, open_backend

    try:
        parameters = inspect.signature(backend_class(name)).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        for p in parameters:
            if p.name in needed and not {"str", "Any"} & set(str(p.annotation).replace("[", " ").split()):
                return {"name": name, "type": name, "error": f"it depends on its {p.name}"}
        backend = open_backend(name, {key: f"{name}://" if key == "url" else "." for key in needed})
    except StorageError as error:
        return {"name": name, "type": name, "error": str(error.args[0]) if error.args else type(error).__name__}
    except Exception as error:  # a value that only stands for one may be refused in any way
        return {"name": name, "type": name, "error": f"it depends on its options ({error})"}
    return {"name": name, "type": name, "features": _features(backend)}


def _features(backend: ExtendedBackend) -> dict[str, Any]:
    try:
        features = backend.features
        facts = {"hashes": sorted(features.hashes), "case_sensitive": features.case_sensitive}
        return {**{flag: getattr(features, flag) for flag in Features.flags()}, **facts}
    finally:
        backend.close()


def _configured(app: App) -> list[dict[str, Any]]:
    from omnistorage.cli.core.config_file import read_config
    from omnistorage.config import open_backend

    found: list[dict[str, Any]] = []
    path, why = app.config_file()
    loaded = read_config(path, missing_is_empty=why == "the default")
    for error in loaded.mistakes:
        app.failed(error)
    for name, one in loaded.backends.items():
        row = {"name": f"{name}:", "type": one.type}
        try:
            found.append({**row, "features": _features(open_backend(one))})
        except StorageError as error:
            found.append({**row, "error": str(error.args[0]) if error.args else type(error).__name__})
    return found


@click.command(cls=Verb, example="omnistorage completion bash", short_help="Make a shell complete this command.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def completion(app: App, /, shell: str) -> None:
    """Print the script that makes a shell complete verbs, options, names of the configuration and files.

    bash: eval "$(omnistorage completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc; fish: write it to
    ~/.config/fish/completions/omnistorage.fish.
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    script = made(root(), {}, "omnistorage", COMPLETE).source()
    # Where nothing of ours fits, bash completes names of files, as it does for other commands.
    script = script.replace("complete -o nosort -F", "complete -o nosort -o bashdefault -o default -F")
    app.out.write(script.encode().rstrip() + b"\n")
