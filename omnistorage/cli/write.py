"""``omnistorage write``: records from standard input or files into one object, which appears whole or not at all.

The first signal is the one way to end it early and keep what was read: it is what a log shipper's service manager
sends. Imports records, core and the lookup tables.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import click

from ..core import ObjectInfo, WriteOptions
from ..errors import ConfigError
from ..formats import format_for_path, format_names
from ..paths import join
from ..records import RecordWriter, open_records
from .app import App, Location, naming
from .meter import human
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
from .stops import Drained, Interrupted
from .verbatim import writing


class _Write(Verb):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _spread(args))


def _spread(args: list[str]) -> list[str]:
    """``--from a b c`` as three options, so that the shell's ``*`` can stand there."""
    out: list[str] = []
    name = ""
    for at, word in enumerate(args):
        if word == "--":
            return out + args[at:]
        if word.startswith("-") and word != "-":
            name = word if word == "--from" else ""
            if not name:
                out.append(word)
        else:
            out += [name, word] if name else [word]
    return [*out, name] if name and args[-1] == name else out


@click.command(
    cls=_Write,
    example="omnistorage write logs/today.ndjson.zst --to archive < events.ndjson",
    events=True,
    short_help="Write records into one object, all or nothing.",
)
@click.argument("template", metavar="PATH")
@click.option("--to", default=".", metavar="URL", help="The folder that PATH lies in (default: here).")
@click.option("--from", "sources", multiple=True, metavar="FILE...", help="What to read (default: standard input).")
@click.option("--from-format", callback=format_name, help="ndjson or lines (default: by suffix, else that of PATH).")
@click.option("--format", "form", callback=format_name, help="ndjson or lines (default: by the suffix of PATH).")
@click.option(
    "--compression", callback=compression, metavar="NAME[:LEVEL]", help="gzip, zstd:9, none (default: by suffix)."
)
@bad_record_options
@click.option("--no-clobber", is_flag=True, help="Refuse to replace an existing object.")
@click.option("--durable", is_flag=True, help="Return only when it survives a power cut.")
@click.pass_obj
def write(app: App, /, template: str, to: str, sources: tuple[str, ...], **options: Any) -> None:
    """Write records into the one object PATH inside --to, all or nothing.

    Records come from standard input or from the files of --from, one after the other; compressed input is recognised.
    JSON records are checked and written as they are, byte by byte; a line of text becomes a JSON string where PATH is
    NDJSON, and a JSON record its own text where PATH is lines. Format and compression of PATH come from its suffixes
    (.ndjson .jsonl .log .txt, .gz .zst).

    Nothing is visible before all of it is there. The first Ctrl-C (or SIGTERM) publishes the whole records that were
    read and ends with 130 (143); the second one discards everything.
    """
    if "{" in template:
        raise click.UsageError("placeholders ({...}) in PATH are not supported yet: give a plain path")
    if "://" in template or template.startswith("/"):
        raise click.UsageError(f"PATH lies inside --to: write --to FOLDER {template.rpartition('/')[2]}")
    policy = {key: options.pop(key) for key in ("on_error", "max_bad", "max_bad_ratio", "dead_letter")}
    folder = app.locate(to, is_object=False)
    text = template if to == "." else f"{folder.text.rstrip('/')}/{template}"
    target = Location(folder.backend, join(folder.path, template), text)
    job = _Job(app, target, sources or ("-",), BadRecordPolicy(app, **policy), **options)
    with app.stops.draining(), job.policy:
        job.run()
    if app.stops.signum is not None:
        raise Interrupted


@dataclass
class _Job:
    app: App
    target: Location
    arguments: tuple[str, ...]
    policy: BadRecordPolicy
    from_format: str | None
    form: str | None
    compression: Compression
    no_clobber: bool
    durable: bool
    inputs: list[Input] = field(default_factory=list)
    stopped: str = ""

    def run(self) -> None:
        found = format_for_path(self.target.path)
        to = self.form or (found.name if found else None)
        if to is None:
            known = ", ".join(format_names())
            raise ConfigError(f"{self.target.text}: no record format is known by this suffix: give --format ({known})")
        self.inputs = [find_input(self.app, one, self.from_format, to) for one in self.arguments]
        for source in self.inputs:
            source.check()  # before the folder of the target is made
        self.app.meter.records = 0
        with naming(self.target.text), self._writer(to) as writer:
            self._listen()
            self._fill(writer, to)
            self.policy.take(writer, self.target.text)
            writer.prepare()
            self.policy.publish()
            info = writer.close()
        self._report(writer, info)

    def _listen(self) -> None:
        if self.arguments == ("-",) and sys.stdin is not None and sys.stdin.isatty():
            self.app.say("reading records from the terminal; Ctrl-D ends them")
        self.app.draw(f"write {self.target.text}")

    def _writer(self, to: str) -> RecordWriter[Any]:
        return open_records(
            self.target.backend,
            self.target.path,
            "w",
            format=writing({one.format for one in self.inputs}, to),
            compression=self.compression,
            options=WriteOptions(overwrite=not self.no_clobber, durable=self.durable),
            **self.policy.settings(),
        )

    def _fill(self, writer: RecordWriter[Any], to: str) -> None:
        meter, write_many = self.app.meter, writer.write_many
        for source in self.inputs:
            try:
                with opened(self.app, source, to, None, self.policy) as batches:
                    for batch in batches:
                        write_many(batch)
                        meter.records = writer.records
            except Drained:
                self.stopped = source.text
                return

    def _report(self, writer: RecordWriter[Any], info: ObjectInfo) -> None:
        app, size = self.app, info.size
        app.meter.stop()
        app.done += 1
        app.event("write", path=self.target.text, records=writer.records, bad=self.policy.count, size=size)
        note = " (the input was empty)" if not writer.records and not app.meter.bytes else ""
        into = "" if size is None else f" -> {human(size)}"
        app.say(
            f"wrote {self.target.text}: {writer.records:,} record{'s' * (writer.records != 1)}{note}, "
            f"{human(app.meter.bytes)}{into}, {app.meter.seconds:.1f} s"
        )
        self.policy.report()
        if app.stops.signum is not None:
            app.interrupted = (
                f"the whole records read from {self.stopped} so far are published"
                if self.stopped
                else "everything had been read, and is published"
            )
