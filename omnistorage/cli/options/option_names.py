"""Settings of a sync in what it says, spelled as the command has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from omnistorage.errors import StorageError
from omnistorage.sync import Report, SyncOptions

_SETTINGS = "|".join(sorted((name for name in SyncOptions.__dataclass_fields__ if "_" in name), key=len, reverse=True))
_SETTING = re.compile(rf"(?<![\w/.'\"-])({_SETTINGS})(?![\w/'\"-]|\.\w)")


def in_options(text: str) -> str:
    """``text`` with options for settings. What is part of a path, or quoted, is left alone."""
    return _SETTING.sub(lambda match: f"--{match[1].replace('_', '-')}", text)


def worded(error: StorageError) -> StorageError:
    """The error, which says the same ``in_options``. It says what to do: no other verb's options help."""
    error.advised = True  # type: ignore[attr-defined]
    if error.args:
        error.args = (in_options(str(error.args[0])), *error.args[1:])
    return error


def reworded(report: Report) -> None:
    """The report's texts ``in_options``; not those of its failures."""
    report.stopped, report.warnings = in_options(report.stopped), list(map(in_options, report.warnings))


@contextmanager
def spelled() -> Iterator[None]:
    """What is raised inside is ``worded``."""
    try:
        yield
    except StorageError as error:
        worded(error)
        raise
