"""Options and steps that ``write``, ``read`` and ``convert`` share: where records come from, and what of bad ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import click

from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.exit_codes import NO_RETRY, exit_code, explain
from omnistorage.cli.core.stdio import Stdin
from omnistorage.cli.records.transcode import reading
from omnistorage.core import ObjectInfo, Reader
from omnistorage.core.stages import Format
from omnistorage.errors import ConfigError, CorruptData, RecordError
from omnistorage.formats import format_for_path, format_names
from omnistorage.records import BadRecords, RecordReader, RecordWriter, layers_for, open_decoded, open_records

from .param_types import Compression, FormatChoice, format_of

if TYPE_CHECKING:
    from omnistorage.delivery import Committed

F = TypeVar("F", bound=Callable[..., Any])
LETTERS = ("ndjson", "lines")


def bad_record_options(command: F) -> F:
    """``--on-error`` and its relatives."""
    for option in (
        click.option("--max-bad-ratio", type=click.FloatRange(0, 1), help="Fail above this share of an input."),
        click.option("--max-bad", type=click.IntRange(0), metavar="N", help="Fail above N bad records of an input."),
        click.option("--dead-letter", metavar="URL", help="Put bad records into this .ndjson and go on."),
        click.option(
            "--on-error",
            type=click.Choice(["raise", "skip", "collect"]),
            help="A bad record: raise stops (default), skip goes on, collect goes on and fails at the end.",
        ),
    ):
        command = option(command)
    return command


class _Letters:
    """The dead-letter object, opened with the first bad record: a run without one touches nothing."""

    def __init__(self, place: Location) -> None:
        self.place = place
        self._form = None if format_for_path(place.path) else "ndjson"
        with naming(place.text):
            self.format = layers_for(place.path, self._form)[0]
        if self.format.name not in LETTERS:
            raise click.UsageError(f"--dead-letter takes {' or '.join(LETTERS)}, {place.text} is {self.format.name}")
        self._writer: RecordWriter[Any] | None = None

    def write(self, letter: Any) -> None:
        with naming(self.place.text):
            if self._writer is None:
                self._writer = open_records(self.place.backend, self.place.path, "w", format=self._form)
            self._writer.write(letter)

    def write_many(self, letters: Any) -> None:
        for letter in letters:
            self.write(letter)

    def close(self) -> None:
        if self._writer is not None:
            with naming(self.place.text):
                self._writer.close()

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.abort()  # after close it does nothing


class Judged(Protocol):
    """What met bad records: a reader or a writer."""

    bad: BadRecords


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
    _letters: _Letters | None = None

    def __enter__(self) -> Self:
        if self.dead_letter is not None:
            if self.on_error is not None:
                raise click.UsageError("--dead-letter says what to do with bad records: leave out --on-error")
            self._letters = _Letters(self.app.locate(self.dead_letter))
        elif self.on_error in (None, "raise") and (self.max_bad, self.max_bad_ratio) != (None, None):
            name = "--max-bad" if self.max_bad is not None else "--max-bad-ratio"
            raise click.UsageError(f"{name} limits what --on-error skip or collect, or --dead-letter, leaves out")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._letters is not None:
            self._letters.abort()

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for readers and writers of records."""
        handler = self._letters if self._letters is not None else self.on_error or "raise"
        return {"on_error": handler, "max_bad": self.max_bad, "max_bad_ratio": self.max_bad_ratio}

    def take(self, handle: Judged, text: str) -> None:
        """Note what a finished reader or writer met."""
        self.count += handle.bad.count
        self.collected += [(text, error) for error in handle.bad.errors]

    def publish(self, before: Any = None) -> None:
        """Make the dead letters visible, if there are any, once ``before``, a writer, has all its bytes in place."""
        if self._letters is not None:
            if before is not None:
                before.prepare()
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


# What a JSON text begins with, and no compressed stream. A codec is looked for in 16 bytes: somebody who sends a record
# of 8 and then waits would not see it go through, nor find it after a signal.
_TEXT = frozenset(bytes((byte,)) for byte in b'{["-0123456789tfn')


class _Peeked:
    """A Reader whose first block has been seen."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self.instant = getattr(source, "instant", False)
        self.first = self._held = source.read(1 << 16)

    @property
    def info(self) -> ObjectInfo:
        return self._source.info

    def read(self, size: int = -1, /) -> bytes:
        if not self._held:
            return b"" if not self.first else self._source.read(size)
        if size < 0:
            return self._held + self._source.read()
        block, self._held = self._held[:size], self._held[size:]
        return block

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Verified(Counted):
    """A Reader that holds an object against its manifest's entry."""

    def __init__(self, source: Reader, app: App, entry: Committed) -> None:
        super().__init__(source, app)
        self._entry, self._seen, self._digest = entry, 0, hashlib.sha256()
        if source.info.size not in (None, entry.bytes):
            source.close()
            raise self._wrong(f"it has {source.info.size} bytes where the manifest says {entry.bytes}")

    def read(self, size: int = -1, /) -> bytes:
        block = super().read(size)
        if block:
            self._seen += len(block)
            self._digest.update(block)
        if not block or size < 0:
            if self._seen != self._entry.bytes:
                raise self._wrong(f"it ends after {self._seen} bytes where the manifest says {self._entry.bytes}")
            if self._digest.hexdigest() != self._entry.sha256:
                raise self._wrong("its SHA-256 is another one than the manifest says")
        return block

    def _wrong(self, text: str) -> CorruptData:
        return CorruptData(f"not the object of the manifest: {text}", path=self._entry.path, op="read")


@dataclass(frozen=True)
class Input:
    """One place records come from, ``-`` for standard input, its format, and what its manifest says of it."""

    text: str
    location: Location | None
    format: Format[Any]
    entry: Committed | None = None

    def open(
        self, app: App, form: Format[Any], compression: Compression, settings: dict[str, Any]
    ) -> RecordReader[Any]:
        """A reader of records as ``form`` decodes them."""
        source: Reader = Stdin(app.stops) if self.location is None else self._object(self.location)
        counted: Reader = Counted(source, app) if self.entry is None else _Verified(source, app, self.entry)
        if self.location is None and compression is None:
            counted = _Peeked(counted)
            if counted.first[:1] in _TEXT:
                compression = "none"
        return RecordReader(open_decoded(counted, compression), form, **settings)

    def check(self) -> None:
        """Raise if the object cannot be opened; for those who must know before they make anything."""
        if self.location is not None:
            with naming(self.text):
                self._object(self.location).close()

    def _object(self, at: Location) -> Reader:
        return at.backend.open_reader(at.path)


def find_input(app: App, argument: str, wanted: FormatChoice, default: Format[Any] | None) -> Input:
    """Look an argument up. Its format is ``wanted``, else what its suffix says, else ``default``."""
    return input_at(app, None if argument == "-" else app.locate(argument), wanted, default)


def input_at(
    app: App, at: Location | None, wanted: FormatChoice, default: Format[Any] | None, entry: Committed | None = None
) -> Input:
    """The same for what was looked up already; None is standard input."""
    form = format_of(at.path if at is not None else "", wanted) or default
    text = "standard input" if at is None else at.text
    if form is None:
        option = "--format" if app.verb in ("read", "head") else "--from-format"
        known = ", ".join(format_names())
        raise ConfigError(f"{text}: no record format is known by this suffix: give {option} ({known})")
    return Input(text, at, form, entry)


@contextmanager
def opened(
    app: App, source: Input, form: Format[Any] | str, compression: Compression, policy: BadRecordPolicy
) -> Iterator[Iterator[list[Any]]]:
    """The batches of records of ``source``, as ``form`` decodes them, or as a writer of the format named so takes them
    (see ``transcode``). Its errors carry its name, and its bad records go to ``policy``."""
    with naming(source.text):
        how = reading(source.format, form) if isinstance(form, str) else form
        reader = source.open(app, how, compression, policy.settings())
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
    "Counted",
    "Input",
    "bad_record_options",
    "find_input",
    "input_at",
    "opened",
]
