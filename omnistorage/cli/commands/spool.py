"""``omnistorage write --spool`` and ``omnistorage spool``: what lies between records and a store that may be away.

``delivery.json`` in the spool's folder (mode 0600) says what is needed to deliver without the command that filled it:
where to, under which names, in which form. No secret is written there: a URL that holds one is left out, and ``spool
drain`` asks for it.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import click

from omnistorage.cli.core.app import App, not_home
from omnistorage.cli.core.exit_codes import NO_RETRY
from omnistorage.cli.core.progress import human
from omnistorage.cli.core.verb import Verb
from omnistorage.cli.options.mirror import Mirror
from omnistorage.cli.options.param_types import zone
from omnistorage.cli.options.records import BadRecordPolicy
from omnistorage.cli.options.spool import _OPTION, _made, _read
from omnistorage.cli.records.rolling import Rolling
from omnistorage.cli.records.writing import Filling
from omnistorage.compression import codec
from omnistorage.delivery import spool_status
from omnistorage.errors import ConfigError, NotFound
from omnistorage.formats import record_format


@click.command(
    cls=Verb,
    rows=True,
    example="omnistorage spool status empty",
    short_help="Say what waits in a spool, or deliver it.",
)
@click.argument("action", type=click.Choice(["status", "drain"]))
@click.argument("folder", metavar="DIR")
@click.option("--to", multiple=True, metavar="URL", help="drain: deliver there instead of where 'write' was told to.")
@click.option("--on-damage", type=click.Choice(["raise", "skip"]), help="drain: if some cannot be read [raise].")
@click.pass_obj
def spool(app: App, /, action: str, folder: str, to: tuple[str, ...], on_damage: str | None) -> None:
    """Look at the spool in DIR that 'omnistorage write --spool DIR' filled (status), or deliver it (drain).

    status changes nothing and may run beside a writer. It tells records and bytes that wait, since when, where they
    go, whether a writer has the spool open, and what is damaged; damage is exit code 6.

    drain delivers what waits, as 'write' was told to, and ends when the store has it all, or with the error that keeps
    the store from taking it; then the rest stays.
    """
    if action == "status" and (to or on_damage):
        raise click.UsageError(f"--{'to' if to else 'on-damage'} is for drain")
    if not os.path.isdir(not_home(folder)):
        what = "a spool is a folder, this is none" if os.path.lexists(folder) else "there is no such folder"
        raise NotFound(f"{what}: 'omnistorage write --spool DIR' makes it", path=folder, op="list")
    if action == "status":
        _status(app, folder)
    else:
        _drain(app, folder, to, on_damage)


def _status(app: App, folder: str) -> None:
    found = spool_status(folder)
    try:
        delivery: dict[str, Any] = _read(folder)
    except NotFound:
        delivery = {}
    if app.json:
        oldest = None if found.oldest is None else found.oldest.isoformat()
        row = {**found._asdict(), "oldest": oldest, "to": delivery.get("to"), "template": delivery.get("template")}
        app.out.json(row)
    else:
        app.out.line(f"records: {found.records:,}")
        app.out.line(f"bytes:   {found.bytes:,}" + (f" ({human(found.bytes)})" if found.bytes > 1023 else ""))
        if found.oldest is not None:
            age = (datetime.now(UTC) - found.oldest).total_seconds()
            app.out.line(f"oldest:  {found.oldest:%Y-%m-%dT%H:%M:%SZ} ({age:,.0f} s ago)")
        app.out.line(f"writer:  {'running' if found.running else 'none'}")
        if delivery:
            to = delivery.get("to") or "(told again at drain)"
            app.out.line(f"to:      {', '.join(to) if isinstance(to, list) else to} {delivery['template']}")
        if found.torn:
            app.out.line(f"torn:    {found.torn:,} bytes at the end, of no whole record")
    app.done += 1
    for one in found.damage:
        app.error(f"{folder}: {one}", NO_RETRY)


def _drain(app: App, folder: str, to: tuple[str, ...], on_damage: str | None) -> None:
    known = _read(folder)
    noted = known.get("to")
    places = to or (tuple(noted) if isinstance(noted, list) else () if noted is None else (noted,))
    if not places:
        raise ConfigError(f"{folder}: the place held a secret and was not noted: give --to URL")
    if known.get("config") and app.config is None and not to:
        app.config = known["config"]
    rolls = dict(known.get("options", {}))
    rolls["partition"] = tuple(rolls.get("partition", ()))
    if known.get("zone"):
        context = click.get_current_context()
        rolls["zone"] = zone(context, context.command.params[0], known["zone"])
    rolls |= {"spool": folder, **{_OPTION[name]: value for name, value in known.get("spool", {}).items()}}
    rolls |= {} if on_damage is None else {"on_damage": on_damage}
    mirror = known.get("mirror", {})
    several = Mirror(app, places, mirror) if len(places) > 1 or mirror else None
    at = app.locate(places[0], is_object=False) if several is None else several.location
    with BadRecordPolicy(app, on_error="skip") as policy, nullcontext() if several is None else several:
        job = Rolling(
            Filling(app, (), policy, from_format=None), at, places, mirror, at.child(known["template"]).text,
            known["template"], rolls, form=_made(record_format, known.get("format")),
            compression=_made(codec, known.get("compression")), no_clobber=True, durable=bool(known.get("durable")),
        )  # fmt: skip
        job.deliver()
