"""``omnistorage read``: the records of objects on standard output. Imports records and the lookup tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ..errors import RecordError
from ..formats import record_format
from .app import App
from .recordio import (
    BadRecordPolicy,
    Compression,
    Input,
    bad_record_options,
    compression,
    find_input,
    format_name,
    opened,
)
from .run import Verb
from .verbatim import writing

_WILD = frozenset("*?[")


@click.command(
    cls=Verb,
    example="omnistorage read events.ndjson --fields id,name -n 3",
    short_help="Print the records of objects.",
)
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("--format", "form", callback=format_name, help="ndjson or lines (default: by suffix, ndjson for -).")
@click.option("--to-format", callback=format_name, default="ndjson", show_default=True, help="What to print.")
@click.option("--compression", callback=compression, metavar="NAME", help="Default: recognised.")
@click.option("--fields", metavar="A,B", help="Only these fields of each JSON object, in this order.")
@click.option("-n", "limit", type=click.IntRange(0), metavar="N", help="At most N records in all.")
@bad_record_options
@click.pass_obj
def read(app: App, /, urls: tuple[str, ...], **options: Any) -> None:
    """Print the records of objects, one per line, checked and decompressed.

    JSON records are printed as they are, byte by byte; lines of text become JSON strings unless --to-format is lines.
    Objects are named one by one (- is standard input): wildcards are not expanded here, the shell does that for files.
    """
    policy = BadRecordPolicy(
        app, **{k: options.pop(k) for k in ("on_error", "max_bad", "max_bad_ratio", "dead_letter")}
    )
    with policy:
        _print(app, urls, policy, **options)
        policy.publish()
    app.out.flush()
    policy.report()


def _print(
    app: App,
    urls: tuple[str, ...],
    policy: BadRecordPolicy,
    form: str | None,
    to_format: str,
    compression: Compression,
    fields: str | None,
    limit: int | None,
) -> None:
    names = None if fields is None else [name.strip() for name in fields.split(",") if name.strip()]
    if names == []:
        raise click.UsageError("--fields names at least one field: --fields id,name")
    inputs = [_input(app, url, form) for url in urls]
    to = "" if names else to_format
    # Chosen fields are a new JSON text, which is a line as it is.
    form_out = record_format("ndjson") if names else writing({one.format for one in inputs}, to_format)
    encoder = form_out.encoder()
    for source in inputs:
        if limit == 0:
            return
        with opened(app, source, to, compression, policy) as batches:
            for batch in batches:
                chosen = batch if limit is None else batch[:limit]
                if names:
                    chosen = list(_pick(chosen, names, policy, source))
                for block in encoder.feed(chosen):
                    app.out.write(block)
                app.out.flush()
                if limit is not None and (limit := limit - len(chosen)) == 0:
                    break


def _input(app: App, url: str, form: str | None) -> Input:
    source = find_input(app, url, form, "ndjson" if url == "-" else None)
    at = source.location
    if at is not None and _WILD & set(at.path) and not at.backend.exists(at.path):
        raise click.UsageError(f"wildcards are not expanded yet: {url!r}; name the objects, or let the shell do it")
    return source


def _pick(records: list[Any], names: list[str], policy: BadRecordPolicy, source: Input) -> Iterator[Any]:
    for record in records:
        if isinstance(record, dict):
            yield {name: record[name] for name in names if name in record}
        else:
            error = RecordError(f"--fields needs JSON objects, this is {record!r:.80}")
            error.shown = source.text  # type: ignore[attr-defined]
            if policy.on_error not in ("skip", "collect"):
                raise error
            policy.count += 1
            if policy.on_error == "collect":
                policy.collected.append((source.text, error))


__all__ = ["read"]
