"""``omnistorage convert``: one record object into another format, compression, or both. Imports records and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from ..core import WriteOptions
from ..errors import ConfigError
from ..formats import format_for_path
from ..records import RecordWriter, open_records
from ..stages import Format
from .app import App, Location, naming
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
        _Conversion(app, bad, **options).run(src, dst)
    bad.report()


@dataclass
class _Conversion:
    app: App
    policy: BadRecordPolicy
    from_format: str | None
    form: str | None
    from_compression: Compression
    compression: Compression
    no_clobber: bool
    durable: bool

    def run(self, src: str, dst: str) -> None:
        """Convert; whatever goes wrong leaves DST as it was."""
        app = self.app
        target = None if dst == "-" else app.locate(dst)
        text = "standard output" if target is None else target.text
        found = format_for_path(target.path) if target else None
        to = self.form or (found.name if found else None)
        if target is not None and to is None:
            raise ConfigError(f"{text}: no record format is known by this suffix: give --format")
        source = find_input(app, src, self.from_format, to)
        to = to or source.format
        app.meter.records = 0
        with naming(text), self._writer(target, writing({source.format}, to)) as writer:
            app.draw(f"convert {source.text}")
            with opened(app, source, to, self.from_compression, self.policy) as batches:
                for batch in batches:
                    writer.write_many(batch)
                    app.meter.records = writer.records
            self.policy.take(writer, text)
            writer.prepare()
            self.policy.publish()
            info = writer.close()
        self._report(source.text, text, writer.records, info.size)

    def _writer(self, target: Location | None, form: Format[Any]) -> RecordWriter[Any]:
        settings = self.policy.settings()
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
