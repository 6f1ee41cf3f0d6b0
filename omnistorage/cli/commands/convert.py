"""``omnistorage convert``: one record object into another format, compression, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.progress import human
from omnistorage.cli.core.verb import Verb
from omnistorage.cli.options.param_types import Compression, FormatChoice, compression, format_name, format_of
from omnistorage.cli.options.records import BadRecordPolicy, bad_record_options, find_input, opened
from omnistorage.cli.records.transcode import RULE, writing
from omnistorage.core import WriteOptions
from omnistorage.core.stages import Format
from omnistorage.errors import ConfigError
from omnistorage.records import RecordWriter, open_records


@click.command(
    cls=Verb,
    example="omnistorage convert events.ndjson events.csv.gz",
    events=True,
    short_help="Turn one record object into another format or compression.",
    help=f"""Turn the record object SRC into DST; formats and compression follow the suffixes. - is standard input or
    output. DST appears whole or not at all.

    {RULE}

    With --from-format ndjson lines are taken for JSON records whatever the suffix of SRC. A format is NAME or
    NAME:OPTION=VALUE,... as in csv:delimiter=; or csv:types=id=int|price=float or length_prefixed:prefix=varint; a
    compression is NAME, NAME:LEVEL or NAME:OPTION=VALUE,... as in zstd:level=19,threads=2.
    """,
)
@click.argument("src")
@click.argument("dst")
@click.option("--from-format", callback=format_name, metavar="NAME[:...]", help="What SRC holds (default: by suffix).")
@click.option(
    "--format",
    "--to-format",
    "form",
    callback=format_name,
    metavar="NAME[:...]",
    help="What DST gets (default: by suffix).",
)
@click.option("--from-compression", callback=compression, metavar="NAME", help="Of SRC (default: recognised).")
@click.option(
    "--compression", callback=compression, metavar="NAME[:LEVEL]", help="gzip, zstd:9, none (default: by suffix)."
)
@bad_record_options
@click.option("--no-clobber", is_flag=True, help="Refuse to replace an existing object.")
@click.option("--durable", is_flag=True, help="Return only when it survives a power cut.")
@click.pass_obj
def convert(app: App, /, src: str, dst: str, **options: Any) -> None:
    if dst == "-" and app.json:
        raise click.UsageError("standard output cannot hold both the records and --json")
    policy = {key: options.pop(key) for key in ("on_error", "max_bad", "max_bad_ratio", "dead_letter")}
    with BadRecordPolicy(app, **policy) as bad:
        _Conversion(app, bad, **options).run(src, dst)
    bad.report()


@dataclass
class _Conversion:
    app: App
    policy: BadRecordPolicy
    from_format: FormatChoice
    form: FormatChoice
    from_compression: Compression
    compression: Compression
    no_clobber: bool
    durable: bool

    def run(self, src: str, dst: str) -> None:
        """Convert; whatever goes wrong leaves DST as it was."""
        app = self.app
        target = None if dst == "-" else app.locate(dst)
        text = "standard output" if target is None else target.text
        to = format_of("" if target is None else target.path, self.form)
        if target is not None and to is None:
            raise ConfigError(f"{text}: no record format is known by this suffix: give --format")
        source = find_input(app, src, self.from_format, to)
        to = to or source.format
        app.meter.records = 0
        with naming(text), self._writer(target, to) as writer:
            app.draw(f"convert {source.text}")
            with opened(app, source, to.name, self.from_compression, self.policy) as batches:
                for batch in batches:
                    writer.write_many(batch)
                    app.meter.records = writer.records
            self.policy.take(writer, text)
            self.policy.publish(writer)
            info = writer.close()
        self._report(source.text, text, writer.records, info.size)

    def _writer(self, target: Location | None, to: Format[Any]) -> RecordWriter[Any]:
        settings, form = self.policy.settings(), writing(to)
        if target is None:
            codec = None if isinstance(self.compression, str) else self.compression
            return RecordWriter(self.app.out, form, codec, **settings)
        options = WriteOptions(overwrite=not self.no_clobber, durable=self.durable)
        place = target.backend, target.path
        return open_records(*place, "w", format=form, compression=self.compression, options=options, **settings)

    def _report(self, src: str, dst: str, records: int, size: int | None) -> None:
        app = self.app
        app.meter.stop()
        app.done += 1
        app.event("convert", src=src, dst=dst, records=records, bad=self.policy.count, size=size)
        into = "" if size is None else f" -> {human(size)}"
        app.say(f"converted {src} to {dst}: {records:,} record{'s' * (records != 1)}, {human(app.meter.bytes)}{into}")
