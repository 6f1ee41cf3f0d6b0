"""``omnistorage read``: the records of objects on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import click

from omnistorage.cli.core.app import App
from omnistorage.cli.core.verb import Verb
from omnistorage.cli.options.inputs import find_inputs, listed_inputs
from omnistorage.cli.options.param_types import Compression, FormatChoice, compression, format_name, format_of
from omnistorage.cli.options.records import BadRecordPolicy, Input, bad_record_options, opened
from omnistorage.cli.records.transcode import RULE, writing
from omnistorage.core.stages import Format
from omnistorage.errors import RecordError
from omnistorage.formats import record_format
from omnistorage.records import BadRecords


@click.command(
    cls=Verb,
    example="omnistorage read events.ndjson --fields id,name -n 3",
    short_help="Print the records of objects.",
    help=f"""Print the records of objects, checked and decompressed.

    URL is an object, - for standard input, a folder (all objects in it, in the order of their keys; names that start
    with _ or . are left out; of a data set the parts that its manifest lists, verified), or a pattern with * (within a
    folder), ** (across folders), ? and [a-z]; quote it for the shell. In a URL with options a ? counts as a wildcard
    unless OPTION=VALUE follows. With --manifest, URL is the folder that write published into, and the size and SHA-256
    of every object listed are verified.

    {RULE}

    --fields takes a field of a field as a.b, which is also its name in the output.
    """,
)
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("--format", "form", callback=format_name, metavar="NAME[:...]", help="Default: by suffix, ndjson for -.")
@click.option(
    "--to-format",
    callback=format_name,
    metavar="NAME[:...]",
    default="ndjson",
    show_default=True,
    help="ndjson, csv, lines or length_prefixed.",
)
@click.option("--compression", callback=compression, metavar="NAME", help="Default: recognised.")
@click.option("--fields", metavar="A,B.C", help="Only these fields of each record, in this order.")
@click.option("--manifest", metavar="URL", help="Read what this manifest lists, and verify it.")
@click.option("-n", "limit", type=click.IntRange(0), metavar="N", help="At most N records in all.")
@bad_record_options
@click.pass_obj
def read(app: App, /, urls: tuple[str, ...], **options: Any) -> None:
    policy = BadRecordPolicy(
        app, **{k: options.pop(k) for k in ("on_error", "max_bad", "max_bad_ratio", "dead_letter")}
    )
    form, manifest = options.pop("form"), options.pop("manifest")
    if manifest is not None and len(urls) != 1:
        raise click.UsageError("--manifest lists the objects of one folder: give one URL")
    printing = _printing(app, policy, **options)
    inputs = find_inputs(app, urls, form) if manifest is None else listed_inputs(app, urls[0], manifest, form)
    with policy:
        printing.run(inputs)
        policy.publish()
    app.out.flush()
    policy.report()


def _printing(
    app: App,
    policy: BadRecordPolicy,
    to_format: FormatChoice,
    fields: str | None,
    limit: int | None,
    compression: Compression,
) -> _Printing:
    to = format_of("", to_format)
    assert to is not None
    if fields is None:
        return _Printing(app, policy, to.name, writing(to), compression, limit, None)
    names = [name.strip() for name in fields.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--fields names at least one field: --fields id,name")
    if len(set(names)) < len(names):
        raise click.UsageError(f"--fields names one twice: {fields}")
    if to.name == "csv":
        if to == record_format("csv"):
            to = record_format("csv", header=tuple(names), missing="null")
        form: Format[Any] = to
    else:  # chosen fields are a new JSON text
        form = to if to.name == "length_prefixed" else record_format("ndjson")
    return _Printing(app, policy, "", form, compression, limit, [(name, name.split(".")) for name in names])


@dataclass
class _Printing:
    app: App
    policy: BadRecordPolicy
    to: str
    form: Format[Any]
    compression: Compression
    limit: int | None
    fields: list[tuple[str, list[str]]] | None

    def run(self, inputs: Iterable[Input]) -> None:
        encoder = self.form.encoder()
        for source in inputs if self.limit != 0 else ():
            bad = BadRecords(**self.policy.settings())
            try:
                with opened(self.app, source, self.to, self.compression, self.policy) as batches:
                    self._print(batches, encoder, bad)
            except RecordError as error:
                if not hasattr(error, "shown"):
                    error.shown = source.text  # type: ignore[attr-defined]
                raise
            finally:
                self.policy.take(_Met(bad), source.text)
            if self.limit == 0:
                break
        for block in encoder.finish():
            self.app.out.write(block)

    def _print(self, batches: Iterator[list[Any]], encoder: Any, bad: BadRecords) -> None:
        for batch in batches:
            while batch and self.limit != 0:
                chosen = batch if self.limit is None else batch[: self.limit]
                batch = batch[len(chosen) :]
                printed = self._put(chosen, encoder, bad)
                if self.limit is not None:
                    self.limit -= printed  # more of the batch make up for bad ones
            if self.limit == 0:
                return

    def _put(self, records: list[Any], encoder: Any, bad: BadRecords) -> int:
        """Print ``records``; returns how many were good."""
        out, good = self.app.out, len(records)
        try:
            for block in encoder.feed(records if self.fields is None else [self._pick(r) for r in records]):
                out.write(block)
        except RecordError:
            good = self._one_by_one(records, encoder, bad)
        out.flush()
        return good

    def _one_by_one(self, records: list[Any], encoder: Any, bad: BadRecords) -> int:
        good = 0
        for record in records:
            try:
                self.app.out.write(encoder.encode(record if self.fields is None else self._pick(record)))
                good += 1
            except RecordError as error:
                bad.handle(error)
        return good

    def _pick(self, record: Any) -> Any:
        if not isinstance(record, dict):
            raise RecordError(f"--fields needs JSON objects, this is {record!r:.80}", raw=repr(record).encode())
        picked: dict[str, Any] = {}
        for name, steps in self.fields or ():
            if name in record:
                picked[name] = record[name]
                continue
            value: Any = record
            for step in steps:
                if not isinstance(value, dict) or step not in value:
                    break
                value = value[step]
            else:
                picked[name] = value
        return _json(picked) if self.form.name == "length_prefixed" else picked


def _json(record: Any) -> bytes:
    return b"".join(record_format("ndjson").encoder().feed([record])).rstrip(b"\n")


@dataclass
class _Met:
    bad: BadRecords


__all__ = ["read"]
