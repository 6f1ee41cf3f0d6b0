"""``omnistorage cat`` and ``head``: an object's bytes, or its first records. Imports records and the lookup tables."""

from __future__ import annotations

from itertools import islice

import click

from ..core import Reader, ReadOptions
from ..formats import record_format
from ..records import RecordReader, open_decoded
from .app import App, naming
from .recordio import Counted, compression
from .run import Verb
from .stdio import Stdin

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
        ranged = not decompress and url != "-"
        source = _open(app, url, ReadOptions(offset=offset, length=count) if ranged else ReadOptions())
        with naming("standard input" if url == "-" else url):
            reader = open_decoded(Counted(source, app)) if decompress else source
            with reader:
                _copy(app, reader, 0 if ranged else offset, count)


@click.command(cls=Verb, example="omnistorage head -n 2 events.ndjson", short_help="Print the first records.")
@click.argument("url")
@click.option("-n", "number", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="How many.")
@click.option("--compression", callback=compression, metavar="NAME", help="Default: recognised.")
@click.pass_obj
def head(app: App, /, url: str, number: int, compression: str | None) -> None:
    """Print the first records or lines of an object, decompressed and as they are. Reads no more than that needs."""
    source = _open(app, url, ReadOptions())
    with naming("standard input" if url == "-" else url):
        stream = open_decoded(Counted(source, app), compression)
        with RecordReader(stream, record_format("lines")) as reader:
            for line in islice(reader, number):
                app.out.write(line + b"\n")
