"""``omnistorage write``: records from standard input or files into one object, or into many that are rolled.

The first signal is the one way to end it early and keep what was read: it is what a log shipper's service manager
sends.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import click

from omnistorage.cli.core.app import App
from omnistorage.cli.core.signals import Interrupted
from omnistorage.cli.core.verb import Verb
from omnistorage.cli.options.mirror import MIRRORING, Mirror, mirror_options
from omnistorage.cli.options.param_types import DURATION, SIZE, compression, format_name, zone
from omnistorage.cli.options.records import BadRecordPolicy, bad_record_options
from omnistorage.cli.records.transcode import RULE
from omnistorage.cli.records.writing import Filling, OneObject

_POLICY = ("on_error", "max_bad", "max_bad_ratio", "dead_letter")


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


def _rolling(command: Any) -> Any:
    """The options of ``RollingRecordWriter``, under its names."""
    for option in reversed(
        (
            click.option("--roll-bytes", type=SIZE, metavar="SIZE", help="Publish at this size as stored [128MiB]."),
            click.option("--roll-raw-bytes", type=SIZE, metavar="SIZE", help="... before compression."),
            click.option("--roll-records", type=click.IntRange(1), metavar="N", help="... at N records."),
            click.option("--roll-age", type=DURATION, metavar="TIME", help="... after 5m, whatever comes."),
            click.option("--roll-idle", type=DURATION, metavar="TIME", help="... when nothing came for 30s."),
            click.option("--time-field", metavar="FIELD", help="The record's time (default: when it arrives)."),
            click.option("--zone", callback=zone, metavar="NAME", help="Of {time} and times without one [UTC]."),
            click.option("--partition", multiple=True, metavar="FIELD", help="Folders FIELD={FIELD}/ before the name."),
            click.option("--missing", metavar="VALUE", help="Stands in for a field that a record lacks."),
            click.option("--late-after", type=DURATION, metavar="TIME", help="Older than the newest by this: late."),
            click.option("--late", type=click.Choice(["partition", "prefix"]), help="Where late ones go [partition]."),
            click.option("--max-open", type=click.IntRange(1), metavar="N", help="Objects open at once [128]."),
            click.option("--names", type=click.Choice(["unique", "deterministic"]), help="As told above [unique]."),
            click.option("--source", metavar="NAME", help="{source} in names."),
            click.option("--start-sequence", type=click.IntRange(0), metavar="N", help="Number of the first record."),
            click.option("--manifest", metavar="PATH", help="Note what was published at PATH in --to."),
            click.option("--spool", metavar="DIR", help="Keep records in DIR until the store has them."),
            click.option("--spool-max-bytes", type=SIZE, metavar="SIZE", help="Room in DIR [1GiB]."),
            click.option(
                "--spool-fsync",
                type=click.Choice(["record", "interval", "roll"]),
                help="When DIR is synced [interval].",
            ),
            click.option(
                "--when-full", type=click.Choice(["block", "raise", "drop_oldest"]), help="If DIR has no room [block]."
            ),
        )
    ):
        command = option(command)
    return command


ROLLING = [
    "roll_bytes",
    "roll_raw_bytes",
    "roll_records",
    "roll_age",
    "roll_idle",
    "time_field",
    "zone",
    "partition",
    "missing",
    "late_after",
    "late",
    "max_open",
    "names",
    "source",
    "start_sequence",
    "manifest",
    "spool",
    "spool_max_bytes",
    "spool_fsync",
    "when_full",
]


@click.command(
    cls=_Write,
    example="omnistorage write 'logs/{time:%Y}/{seq}.ndjson.zst' --to archive --roll-bytes 128MiB < events.ndjson",
    events=True,
    short_help="Write records into objects, each all or nothing.",
    help=f"""Write records into the one object TEMPLATE inside --to, or into many of them.

    TEMPLATE with {{...}}, or any of the options --roll-... to --when-full, makes many: {{time:%Y/%m/%d}}, {{field}} and
    {{a.b}} of the record make folders or names; {{seq}} (or {{seq:06d}}), {{id}}, {{start}} and {{source}} tell the
    objects of one folder apart. An object is published when it is full or old enough, and nothing is ever replaced.
    --names deterministic (with {{start}}) makes a replay of the same input from --start-sequence on write nothing
    twice.

    Records come from standard input or from the files of --from, one after the other; compressed input is recognised.
    Format and compression come from the suffixes (.ndjson .csv .log .lp, .gz .zst). JSON records are checked and
    written as they are, byte by byte.

    {RULE}

    With several --to everything goes to all of them at once; --mode says how many must have an object before it counts
    as written. With --journal PLACE what one of them missed is noted there, and brought by the next run that names it.

    With --spool a store that is away keeps nobody waiting: what it did not take stays in DIR, for the next run or for
    'omnistorage spool drain DIR'.

    Nothing is visible before all of an object is there. The first Ctrl-C (or SIGTERM) publishes the whole records that
    were read and ends with 130 (143); the second one discards what is not published.
    """,
)
@click.argument("template", metavar="TEMPLATE")
@click.option("--to", multiple=True, metavar="URL", help="The folder that TEMPLATE lies in (default: here).")
@click.option("--from", "sources", multiple=True, metavar="FILE...", help="What to read (default: standard input).")
@click.option("--from-format", callback=format_name, metavar="NAME[:...]", help="Default: by suffix, else as TEMPLATE.")
@click.option(
    "--format", "form", callback=format_name, metavar="NAME[:...]", help="ndjson, csv:delimiter=; (default: by suffix)."
)
@click.option(
    "--compression", callback=compression, metavar="NAME[:LEVEL]", help="gzip, zstd:9, none (default: by suffix)."
)
@_rolling
@mirror_options
@bad_record_options
@click.option("--no-clobber", is_flag=True, help="Refuse to replace an existing object.")
@click.option("--durable", is_flag=True, help="Return only when it survives a power cut.")
@click.pass_obj
def write(app: App, /, template: str, to: tuple[str, ...], sources: tuple[str, ...], **options: Any) -> None:
    if "://" in template or template.startswith("/"):
        raise click.UsageError(f"TEMPLATE lies inside --to: write --to FOLDER {template.rpartition('/')[2]}")
    policy = BadRecordPolicy(app, **{key: options.pop(key) for key in _POLICY})
    rolls = {key: options.pop(key) for key in ROLLING}
    given = {key: value for key, value in rolls.items() if value not in (None, ())}
    mirror = {key: value for key in MIRRORING if (value := options.pop(key)) is not None}
    places = to or (".",)
    several = Mirror(app, places, mirror) if len(places) > 1 or mirror else None
    folder = app.locate(places[0], is_object=False) if several is None else several.location
    here = several is None and places[0] == "."
    filling = Filling(app, sources or ("-",), policy, from_format=options.pop("from_format"))
    job: Any
    if given or "{" in template:
        from omnistorage.cli.records.rolling import Rolling

        shown = template if here else folder.child(template).text
        job = Rolling(filling, folder, places, mirror, shown, template, given, **options)
    else:
        target = folder.child(template)
        target = replace(target, text=template) if here else target
        job = OneObject(filling, target, **options)
    with app.stops.draining(), policy, nullcontext() if several is None else several:
        job.run()
    if app.stops.signum is not None:
        raise Interrupted
