"""Options and steps that ``write``, ``read`` and ``convert`` share: where records come from, and what of bad ones.

Imports records, core, errors and the lookup tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import click

from ..compression import codec, codec_names
from ..core import ObjectInfo, Reader
from ..errors import ConfigError, RecordError
from ..formats import format_for_path, format_names
from ..records import RecordReader, RecordWriter, open_decoded, open_records
from ..stages import Codec
from .app import App, Location, naming
from .exits import NO_RETRY, exit_code, explain
from .stdio import Stdin
from .verbatim import reading

F = TypeVar("F", bound=Callable[..., Any])
Compression = str | Codec | None


def format_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Callback of an option that takes the name of a record format."""
    if value is not None and value not in format_names():
        raise click.BadParameter(f"{value!r} is no record format; use {', '.join(format_names())}", ctx, param)
    return value


def compression(ctx: click.Context, param: click.Parameter, value: str | None) -> Compression:
    """Callback of an option that takes ``none``, a codec's name, or its name and level: ``zstd:9``."""
    if value is None or value == "none":
        return value
    name, colon, level = value.partition(":")
    try:
        return codec(name, level=int(level)) if colon else codec(name)
    except ConfigError as error:
        raise click.BadParameter(f"{error.args[0]} (none, {', '.join(codec_names())})", ctx, param) from None
    except ValueError:
        raise click.BadParameter(f"the level {level!r} is no number", ctx, param) from None


def bad_record_options(command: F) -> F:
    """``--on-error`` and its relatives."""
    for option in (
        click.option("--max-bad-ratio", type=click.FloatRange(0, 1), help="Fail above this share of an input."),
        click.option("--max-bad", type=click.IntRange(0), metavar="N", help="Fail above N bad records of an input."),
        click.option("--dead-letter", metavar="URL", help="Put bad records here and go on."),
        click.option(
            "--on-error",
            type=click.Choice(["raise", "skip", "collect"]),
            help="A bad record: raise stops (default), skip goes on, collect goes on and fails at the end.",
        ),
    ):
        command = option(command)
    return command


@dataclass
class BadRecordPolicy:
    """What the bad-record options ask for, and what came of it. A context manager around the whole job: what went to
    ``--dead-letter`` is published by ``publish``, else discarded."""

    app: App
    on_error: str | None = None
    max_bad: int | None = None
    max_bad_ratio: float | None = None
    dead_letter: str | None = None
    count: int = 0
    collected: list[tuple[str, RecordError]] = field(default_factory=list)
    _letters: RecordWriter[Any] | None = None

    def __enter__(self) -> Self:
        if self.dead_letter is not None:
            if self.on_error is not None:
                raise click.UsageError("--dead-letter says what to do with bad records: leave out --on-error")
            place = self.app.locate(self.dead_letter)
            with naming(place.text):
                form = None if format_for_path(place.path) else "ndjson"
                self._letters = open_records(place.backend, place.path, "w", format=form)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._letters is not None:
            self._letters.abort()  # after close it does nothing

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for readers and writers of records."""
        handler = self._letters if self._letters is not None else self.on_error or "raise"
        return {"on_error": handler, "max_bad": self.max_bad, "max_bad_ratio": self.max_bad_ratio}

    def take(self, handle: RecordReader[Any] | RecordWriter[Any], text: str) -> None:
        """Note what a finished reader or writer met."""
        self.count += handle.bad.count
        self.collected += [(text, error) for error in handle.bad.errors]

    def publish(self) -> None:
        """Make the dead letters visible, if there are any."""
        if self._letters is not None and self._letters.records:
            with naming(str(self.dead_letter)):
                self._letters.close()

    def report(self) -> None:
        """Say what was left out; with ``collect`` that is an error each."""
        for text, error in self.collected:
            error.shown = text  # type: ignore[attr-defined]
            self.app.error(explain(error), exit_code(error))
        if self.count > len(self.collected):
            rest = self.count - len(self.collected)
            if self.on_error == "collect":
                self.app.error(f"{rest:,} more bad records", NO_RETRY)
            else:
                went = f"put into {self.dead_letter}" if self.dead_letter else "left out"
                self.app.warn(f"{rest:,} bad record{'s' * (rest > 1)} {went}")


class Counted:
    """A Reader that counts into the meter and stops where a signal says so."""

    def __init__(self, source: Reader, app: App) -> None:
        self._source = source
        self._app = app
        self.instant = getattr(source, "instant", False)

    @property
    def info(self) -> ObjectInfo:
        return self._source.info

    def read(self, size: int = -1, /) -> bytes:
        self._app.stops.check()
        block = self._source.read(size)
        self._app.meter.add(len(block))
        return block

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class Input:
    """One place records come from, ``-`` for standard input, and the name of its format."""

    text: str
    location: Location | None
    format: str

    def open(self, app: App, to: str, compression: Compression, policy: BadRecordPolicy) -> RecordReader[Any]:
        """A reader whose records a writer of the format ``to`` takes (see ``verbatim``); ``to=""`` gives values."""
        source: Reader = Stdin(app.stops) if self.location is None else self._object(self.location)
        stream = open_decoded(Counted(source, app), compression)
        return RecordReader(stream, reading(self.format, to), **policy.settings())

    def check(self) -> None:
        """Raise if the object cannot be opened; for those who must know before they make anything."""
        if self.location is not None:
            with naming(self.text):
                self._object(self.location).close()

    def _object(self, at: Location) -> Reader:
        return at.backend.open_reader(at.path)


def find_input(app: App, argument: str, wanted: str | None, default: str | None) -> Input:
    """Look an argument up. Its format is ``wanted``, else what its suffix says, else ``default``."""
    location = None if argument == "-" else app.locate(argument)
    found = None if location is None else format_for_path(location.path)
    name = wanted or (found.name if found else default)
    text = "standard input" if location is None else location.text
    if name is None:
        option = "--format" if app.verb == "read" else "--from-format"
        known = ", ".join(format_names())
        raise ConfigError(f"{text}: no record format is known by this suffix: give {option} ({known})")
    return Input(text, location, name)


@contextmanager
def opened(
    app: App, source: Input, to: str, compression: Compression, policy: BadRecordPolicy
) -> Iterator[Iterator[list[Any]]]:
    """The batches of records of ``source``; its errors carry its name, and its bad records go to ``policy``."""
    with naming(source.text):
        reader = source.open(app, to, compression, policy)
    with reader:
        try:
            yield _named(reader, source.text)
        finally:
            policy.take(reader, source.text)


def _named(reader: RecordReader[Any], text: str) -> Iterator[list[Any]]:
    with naming(text):
        yield from reader.iter_batches()


__all__ = [
    "BadRecordPolicy",
    "Compression",
    "Counted",
    "Input",
    "bad_record_options",
    "compression",
    "find_input",
    "format_name",
    "opened",
]
