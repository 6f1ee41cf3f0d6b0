"""``omnistorage cat`` and ``head``: an object's bytes, or its first records."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import click

from omnistorage.cli.core.app import App, naming
from omnistorage.cli.core.stdio import Stdin
from omnistorage.cli.core.verb import Verb
from omnistorage.cli.options.param_types import Compression, FormatChoice, compression, format_name, format_of
from omnistorage.cli.options.records import Counted
from omnistorage.core import Reader, ReadOptions
from omnistorage.formats import record_format
from omnistorage.records import RecordReader, open_decoded

_BLOCK = 1 << 20


def _open(app: App, argument: str, options: ReadOptions) -> Reader:
    if argument == "-":
        return Stdin(app.stops)
    at = app.locate(argument)
    with naming(at.text):
        return at.backend.open_reader(at.path, options)


def _copy(app: App, source: Reader, skip: int, count: int | None) -> None:
    """Print ``source`` from byte ``skip`` on, ``count`` bytes of it."""
    while count is None or count > 0:
        block = source.read(_BLOCK if count is None else min(_BLOCK, skip + count))
        if not block:
            return
        kept, skip = block[skip:], max(skip - len(block), 0)
        kept = kept if count is None else kept[:count]
        count = None if count is None else count - len(kept)
        if kept:
            app.out.write(kept)
            app.out.flush()


@click.command(cls=Verb, example="omnistorage cat logs/app.log", short_help="Print the bytes of objects.")
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("--decompress/--raw", default=False, help="Decode what is compressed (default: the bytes as stored).")
@click.option("--offset", type=click.IntRange(0), default=0, metavar="N", help="Begin at byte N of what is printed.")
@click.option("--count", type=click.IntRange(0), metavar="N", help="At most N bytes of each object.")
@click.pass_obj
def cat(app: App, /, urls: tuple[str, ...], decompress: bool, offset: int, count: int | None) -> None:
    """Print the bytes of objects, one after the other. - is standard input.

    With --decompress the codec is recognised by the first bytes, else by the suffix; --offset and --count then count
    decompressed bytes.
    """
    for url in urls:
        app.between()
        ranged = not decompress and url != "-"
        source = _open(app, url, ReadOptions(offset=offset, length=count) if ranged else ReadOptions())
        with naming("standard input" if url == "-" else url):
            reader = open_decoded(Counted(source, app)) if decompress else source
            with reader:
                _copy(app, reader, 0 if ranged else offset, count)


@click.command(cls=Verb, example="omnistorage head -n 2 events.ndjson", short_help="Print the first records.")
@click.argument("url")
@click.option(
    "-n", "--count", "number", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="How many."
)
@click.option("--offset", type=click.IntRange(0), default=0, metavar="N", help="Leave out the first N.")
@click.option("--format", "form", callback=format_name, metavar="NAME[:...]", help="Default: by suffix, else lines.")
@click.option("--compression", callback=compression, metavar="NAME", help="Default: recognised.")
@click.pass_obj
def head(app: App, /, url: str, number: int, offset: int, form: FormatChoice, compression: Compression) -> None:
    """Print the first records of an object, decompressed. Reads no more than that needs.

    A record of ndjson or lines is its line, as it is. Of csv the header comes first and is not counted; a row with line
    breaks within quotes is one record. A length_prefixed record is printed on a line of its own: as it is where it is
    printable text, else as base64 behind "base64:". Any other object counts by lines.
    """
    source = _open(app, url, ReadOptions())
    with naming("standard input" if url == "-" else url):
        to = format_of("" if url == "-" else source.info.path, form)
        kind = to.name if to is not None else "lines"
        stream = open_decoded(Counted(source, app), compression)
        if to is None or kind in ("ndjson", "lines"):
            reading = record_format("lines")
        else:
            reading = _any_rows(to) if kind == "csv" else to
        with RecordReader(stream, reading) as reader:
            records = iter(reader)
            if kind == "csv":
                _rows(app, reading, records, number, offset)
                return
            for record in islice(records, offset, offset + number):
                app.out.write(record if isinstance(record, bytes) and kind != "length_prefixed" else _shown(record))
                app.out.write(b"\n")


def _any_rows(form: Any) -> Any:
    """The dialect of ``form`` for rows of any length: head shows what is there."""
    return replace(form, header="none", header_row=True, rows="list", types=())


def _rows(app: App, form: Any, records: Iterator[Any], number: int, offset: int) -> None:
    encoder = form.encoder()
    for row in chain(islice(records, 1), islice(records, offset, offset + number)):
        app.out.write(encoder.encode(row))


def _shown(record: Any) -> bytes:
    if not isinstance(record, bytes):
        return repr(record).encode("utf-8", "backslashreplace")
    try:
        if record.decode().isprintable():
            return record
    except UnicodeDecodeError:
        pass
    return b"base64:" + b64encode(record)
