"""``omnistorage convert``: one record object into another format, compression, or both. Imports records and tables."""

from __future__ import annotations

from typing import Any

import click

from ..core import WriteOptions, Writer
from ..errors import ConfigError
from ..formats import format_for_path
from ..records import RecordWriter, open_records
from .app import App, naming
from .meter import human
from .recordio import BadRecordPolicy, Compression, bad_record_options, compression, find_input, format_name, opened
from .run import Verb
from .verbatim import writing


@click.command(
    cls=Verb,
    example="omnistorage convert events.ndjson events.ndjson.gz",
    events=True,
    short_help="Turn one record object into another format or compression.",
)
@click.argument("src")
@click.argument("dst")
@click.option("--from-format", callback=format_name, help="What SRC holds (default: by suffix).")
@click.option("--format", "--to-format", "form", callback=format_name, help="What DST gets (default: by suffix).")
@click.option("--from-compression", callback=compression, metavar="NAME", help="Of SRC (default: recognised).")
@click.option(
    "--compression", callback=compression, metavar="NAME[:LEVEL]", help="gzip, zstd:9, none (default: by suffix)."
)
@bad_record_options
@click.option("--no-clobber", is_flag=True, help="Refuse to replace an existing object.")
@click.option("--durable", is_flag=True, help="Return only when it survives a power cut.")
@click.pass_obj
def convert(app: App, /, src: str, dst: str, **options: Any) -> None:
    """Turn the record object SRC into DST; formats and compression follow the suffixes. - is standard input or output.

    The rule between ndjson and lines: a JSON record becomes a line holding its own text, and a line becomes a JSON
    string; with --from-format ndjson the lines are taken for JSON records whatever the suffix of SRC. DST appears whole
    or not at all.
    """
    if dst == "-" and app.json:
        raise click.UsageError("standard output cannot hold both the records and --json")
    policy = {key: options.pop(key) for key in ("on_error", "max_bad", "max_bad_ratio", "dead_letter")}
    with BadRecordPolicy(app, **policy) as bad:
        _convert(app, src, dst, bad, **options)
    bad.report()


def _convert(
    app: App,
    src: str,
    dst: str,
    policy: BadRecordPolicy,
    *,
    from_format: str | None,
    form: str | None,
    from_compression: Compression,
    compression: Compression,
    no_clobber: bool,
    durable: bool,
) -> None:
    target = None if dst == "-" else app.locate(dst)
    found = format_for_path(target.path) if target else None
    to = form or (found.name if found else None)
    source = find_input(app, src, from_format, to)
    to = to or source.format
    if target is not None and found is None and form is None:
        raise ConfigError(f"{target.text}: no record format is known by this suffix: give --format")
    kind = writing({source.format}, to)
    text = "standard output" if target is None else target.text
    options = WriteOptions(overwrite=not no_clobber, durable=durable)
    app.meter.records = 0
    with naming(text):
        writer: RecordWriter[Any]
        if target is None:
            sink: Writer = app.out
            codec = None if isinstance(compression, str) else compression
            writer = RecordWriter(sink, kind, codec, **policy.settings())
        else:
            writer = open_records(
                target.backend,
                target.path,
                "w",
                format=kind,
                compression=compression,
                options=options,
                **policy.settings(),
            )
        with writer:
            app.draw(f"convert {source.text}")
            with opened(app, source, to, from_compression, policy) as batches:
                for batch in batches:
                    writer.write_many(batch)
                    app.meter.records = writer.records
            policy.take(writer, text)
            writer.prepare()
            policy.publish()
            info = writer.close()
    app.meter.stop()
    app.done += 1
    app.event("convert", src=source.text, dst=text, records=writer.records, bad=policy.count, size=info.size)
    into = "" if info.size is None else f" -> {human(info.size)}"
    app.say(
        f"converted {source.text} to {text}: {writer.records:,} record{'s' * (writer.records != 1)}, "
        f"{human(app.meter.bytes)}{into}"
    )
