"""``--journal`` and ``--resume`` of ``sync``, ``copy`` and ``move``: a plan on disk that goes on after a kill."""

from __future__ import annotations

from typing import Any

import click

from omnistorage.cli.core.app import App, naming
from omnistorage.cli.core.exit_codes import OTHER
from omnistorage.cli.core.progress import human
from omnistorage.sync import Report, SyncOptions
from omnistorage.sync.execution.partitions import execute, prepare

from .option_names import reworded, spelled, worded

LIMIT = 8


def carry_out(
    app: App, src: str, dst: str, settings: dict[str, Any], *, journal: str | None, resume: str | None
) -> None:
    """Write the plan to ``journal`` and carry it out, or go on with the one in ``resume``."""
    for argument in (src, dst, journal, resume, settings.get("backup_dir")):
        if argument and "://" not in argument and ":" in argument.partition("/")[0]:
            raise click.UsageError(f"a plan opens its places anew: write {argument!r} as a URL or a path")
    options = SyncOptions(**settings)
    where = journal or str(resume)
    if journal is not None:
        with naming(f"{src} -> {dst}, planned in {journal}"), spelled():
            found = prepare(src, dst, journal, options, defaults=app.defaults)
        app.say(f"planned {sum(part['actions'] for part in found['parts']):,} actions in {len(found['parts']):,} parts")
    with naming(where), spelled():
        report = execute(
            where,
            src=src,
            dst=dst,
            options=options,
            raise_errors=False,
            listener=lambda name, result: _part(app, name, result),
            defaults=app.defaults,
        )
    _summary(app, report)


def _part(app: App, name: str, result: dict[str, Any]) -> None:
    app.event(
        "partition", name=name, **{key: value for key, value in result.items() if key not in ("failures", "warnings")}
    )
    failed = f", {result['failed']:,} failed" if result["failed"] else ""
    app.say(f"{name}: {result['copied'] + result['updated']:,} transferred, {human(result['bytes'])}{failed}")


def _summary(app: App, report: Report) -> None:
    app.done = report.transferred + report.renamed + report.deleted + report.removed
    app.meter.bytes = report.bytes
    reworded(report)
    for text in report.warnings:
        app.warn(text)
    for failure in report.failures:
        app.failed(worded(failure.error))
    if report.failed > len(report.failures):
        app.error(f"{report.failed - len(report.failures):,} more entries failed", OTHER)
    app.say(f"{report}{f', {human(report.bytes)}' if report.bytes else ''}")
    if report.stopped:
        app.error(report.stopped, LIMIT)
