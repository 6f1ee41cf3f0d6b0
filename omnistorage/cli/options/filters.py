"""The filter options of ``sync copy move check bisync ls rm``.

Names, letters and grammar are rclone's, so that its filter files work as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from omnistorage.errors import ConfigError

if TYPE_CHECKING:
    from omnistorage.sync.filters import Filter

C = TypeVar("C", bound=Callable[..., Any])
_LISTS = {
    "include": "Include what matches, and nothing else.",
    "exclude": "Exclude what matches.",
    "filter": "One rule: '+ *.csv', '- *' or '!'.",
    "include_from": "Patterns to include, from a file.",
    "exclude_from": "Patterns to exclude, from a file.",
    "filter_from": "Rules from a file.",
    "files_from": "The very paths to take, from a file.",
    "files_from_raw": "The same, every line as it is, or NUL between them.",
    "exclude_if_present": "Pass over folders that hold a file of this name.",
}
_FILES = ("include_from", "exclude_from", "filter_from", "files_from", "files_from_raw")
_VALUES = {
    "min_size": ("SIZE", "At least so large: 10k, 1.5G, 100b (a bare number is KiB)."),
    "max_size": ("SIZE", "At most so large."),
    "min_age": ("TIME", "At least so old: 30s, 2h, 3d, 1w, 2M, 1y, 2026-01-31."),
    "max_age": ("TIME", "At most so old."),
    "hash_filter": ("K/N", "One of N parts of all paths."),
}
NAMES = (*_LISTS, *_VALUES, "max_depth", "ignore_case")


def filter_options(command: C) -> C:
    """Give a verb the filter options."""
    return choosing(_depth(command))


def _depth(command: C) -> C:
    return click.option("--max-depth", type=click.IntRange(1), metavar="N", help="Go N levels down.")(command)


def choosing(command: C) -> C:
    """The filter options but ``--max-depth``."""
    command = click.option("--ignore-case", is_flag=True, help="Letter case of names does not matter to filters.")(
        command
    )
    for name, (metavar, text) in reversed(_VALUES.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, metavar=metavar, help=text)(command)
    for name, text in reversed(_LISTS.items()):
        metavar = "FILE" if name in _FILES else "NAME" if name == "exclude_if_present" else "PATTERN"
        metavar = "RULE" if name == "filter" else metavar
        command = click.option(f"--{name.replace('_', '-')}", name, multiple=True, metavar=metavar, help=text)(command)
    return command


def filter_of(options: dict[str, Any]) -> Filter | None:
    """The filter that was asked for, taken out of ``options``; None without any. Raises ``click.UsageError``."""
    given = {name: options.pop(name, None) for name in NAMES}
    given = {name: value for name, value in given.items() if value}
    if not given:
        return None
    from omnistorage.sync.filters import Filter

    for name in _FILES:
        if name in given:
            given[name] = [sys.stdin if path == "-" else path for path in given[name]]
    rules = list(given.pop("filter", ()))
    try:
        return Filter.parse(rules, **given)
    except ConfigError as error:
        raise click.UsageError(str(error.args[0])) from None
