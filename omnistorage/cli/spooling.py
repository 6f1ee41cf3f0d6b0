"""``omnistorage write --spool`` and ``omnistorage spool``: what lies between records and a store that may be away.

Imports delivery, config's neighbours and what ``rolls`` does. ``delivery.json`` in the spool's folder (mode 0600) says
what is needed to deliver without the command that filled it: where to, under which names, in which form. No secret is
written there: a URL that holds one is left out, and ``spool drain`` asks for it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import click

from ..compression import codec
from ..delivery import Progress, RollingRecordWriter, Spool, spool_status
from ..errors import ConfigError, CorruptData, NotFound, PermissionDenied, StorageError
from ..formats import record_format
from ..secret import mask_url
from ..stages import Format, OnBad, Stage
from .app import App, not_home
from .exits import NO_RETRY
from .meter import Meter, human
from .mirroring import Mirror
from .recordio import BadRecordPolicy
from .rolls import Rolling, counted
from .run import Verb
from .specs import zone
from .transcode import Unparsed, parsing, takes_bytes
from .writing import Filling

if TYPE_CHECKING:
    from rich.text import Text

FILE = "delivery.json"
_NAMED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*:(?!//)")
_KEPT = (
    "roll_bytes", "roll_raw_bytes", "roll_records", "roll_age", "roll_idle", "time_field", "partition", "missing",
    "late_after", "late", "max_open", "names", "source", "manifest",
)  # fmt: skip


class Fielded(Unparsed):
    """What writes parsed records as the bytes they were, and reads these back as parsed records."""

    def __init__(self, base: Format[Any], to: Format[Any]) -> None:
        super().__init__(base)
        self._parsing = parsing(to, to)

    def decoder(self, on_bad: OnBad | None = None) -> Stage[bytes, list[Any]]:
        return self._parsing.decoder(on_bad)


@dataclass
class Spooling:
    """What the options of ``write`` say about a spool."""

    app: App
    value: Spool
    delivery: dict[str, Any] | None
    to: Format[Any] | None = None

    @classmethod
    def taken_from(cls, job: Rolling) -> Spooling:
        """Takes its options away from ``job``."""
        rolls = job.rolls
        settings = {
            "max_bytes": rolls.pop("spool_max_bytes", None),
            "fsync": rolls.pop("spool_fsync", None),
            "when_full": rolls.pop("when_full", None),
            "on_damage": rolls.pop("on_damage", None),
        }
        value = Spool(
            not_home(rolls.pop("spool")), **{name: given for name, given in settings.items() if given is not None}
        )
        return cls(job.filling.app, value, _delivery(job, {k: v for k, v in settings.items() if v is not None}))

    def form(self, form: Format[Any], to: Format[Any]) -> Format[Any]:
        """The format to give to the writer instead of ``form``."""
        self.to = to
        return Fielded(form._base, to) if isinstance(form, Unparsed) else form

    def plain(self, batch: list[Any]) -> list[Any]:
        """Rows of csv as the spool takes them: numbers that print as they were written are text."""
        if self.to is None or takes_bytes(self.to):
            return batch
        return [{name: _plain(value) for name, value in row.items()} for row in batch]

    def opened(self, writer: RollingRecordWriter) -> None:
        """Note how to deliver, unless that is known, now that the folder is ours; and show how it stands."""
        if self.delivery is not None:
            _write(os.path.join(self.value.folder, FILE), self.delivery)
        meter = SpoolMeter(writer)
        meter.bytes, meter.records = self.app.meter.bytes, self.app.meter.records
        self.app.meter = meter
        waiting = writer.progress.spooled
        if waiting and self.delivery is not None:
            self.app.say(f"{self.value.folder}: {counted(waiting, 'record')} of an earlier run to be delivered first")

    def ends(self, writer: RollingRecordWriter) -> None:
        """Say why the end may take its time."""
        now = writer.progress
        if now.spooled and now.last_error is not None:
            limit = f"for {self.value.close_timeout:g} s at most ({now.last_error})"
            self.app.say(f"{self.value.folder}: {counted(now.spooled, 'record')} to be delivered, {limit}")

    def must_lie_apart(self, places: Iterable[str]) -> None:
        own = os.path.realpath(self.value.folder)
        if any(folder is not None and os.path.realpath(folder) == own for folder in map(_folder, places)):
            raise ConfigError(f"{self.value.folder}: a spool lies in a folder of its own, not where it is delivered to")

    def left(self, writer: RollingRecordWriter, given: int) -> str:
        """What is to be known of the end that was too early, of ``given`` records that were read."""
        done, folder = writer.progress, self.value.folder
        missing = given - (done.taken - done.lost)
        waits = f"{counted(done.spooled, 'record')} in the spool {folder}, which the next run delivers"
        waits = waits if done.spooled else f"nothing waits in the spool {folder}"
        if missing <= 0:
            return waits
        why = ": its disk took no more" if done.lost else ""
        return f"{waits}; the last {counted(missing, 'record')} read, from {given - missing + 1:,} on, not in it{why}"

    def fields(self, done: Progress) -> dict[str, Any]:
        return {
            "spooled": done.spooled, "spooled_bytes": done.spooled_bytes, "retried": done.retried,
            "dead_lettered": done.dead_lettered, "dropped": done.dropped, "damaged": done.damaged, "lost": done.lost,
        }  # fmt: skip

    def notes(self, done: Progress) -> list[str]:
        if done.spooled:
            self.app.warn(
                f"{self.value.folder}: {counted(done.spooled, 'record')} not delivered yet"
                f"{'' if done.last_error is None else f' ({done.last_error})'}; "
                f"'omnistorage spool drain {self.value.folder}' delivers them"
            )
        return _told(done)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and type(value) is not float else value


def _told(done: Progress) -> list[str]:
    counts = (
        (done.spooled, "in the spool"), (done.retried, "retries"), (done.dropped, "dropped"), (done.damaged, "damaged"),
    )  # fmt: skip
    return [f"{count:,} {what}" for count, what in counts if count]


class SpoolMeter(Meter):
    """Adds to what came in how much of it waits."""

    def __init__(self, writer: RollingRecordWriter) -> None:
        super().__init__()
        self._writer = writer

    def _line(self) -> Text:
        from rich.text import Text

        now = self._writer.progress
        parts = [super()._line(), (f"  {now.objects:,} objects", ""), (f"  {now.spooled:,} spooled", "yellow")]
        parts += [(f" ({human(now.spooled_bytes)})", "yellow")]
        parts += [(f"  {now.retried:,} retries: {now.last_error}", "red")] if now.last_error else []
        parts += [(f"  {now.dropped:,} dropped", "bold red")] if now.dropped else []
        return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


# --- delivery.json ----------------------------------------------------------------------------------------------------


def _delivery(job: Rolling, spool: dict[str, Any]) -> dict[str, Any]:
    app = job.filling.app
    places = [_lasting(one) for one in job.to]
    mirror = {key: _lasting(value) if key == "journal" else value for key, value in job.mirror.items()}
    named = any("://" not in one and _NAMED.match(one) for one in places)
    secret = any(mask_url(one) != one for one in (*places, mirror.get("journal", "")))
    options = {name: job.rolls[name] for name in _KEPT if name in job.rolls}
    return {
        "to": None if secret else places[0] if len(places) == 1 else places,
        "mirror": {} if secret else mirror,
        "config": os.path.abspath(app.config_file()[0]) if named else None,
        "template": job.template,
        "format": _named(job.form),
        "compression": _named(job.compression),
        "durable": job.durable,
        "zone": getattr(job.rolls.get("zone"), "key", None),
        "options": options,
        "spool": spool,
    }


def _lasting(place: str) -> str:
    """What names the place from any folder."""
    return place if "://" in place or _NAMED.match(place) else os.path.abspath(place)


def _folder(place: str) -> str | None:
    """Where a place lies on this disk, None for one elsewhere."""
    if place.startswith("file://"):
        return unquote(urlsplit(place).path)
    return None if "://" in place or _NAMED.match(place) else place


def _named(value: Any) -> Any:
    """A format or codec as its name and settings."""
    if value is None or isinstance(value, str):
        return value
    return {"name": value.name, **dataclasses.asdict(value)}


def _made(make: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    return make(settings.pop("name"), **settings)


def _write(path: str, content: dict[str, Any]) -> None:
    """Whole or not at all, for the owner alone."""
    new = f"{path}.new"
    try:
        with suppress(FileNotFoundError):
            os.unlink(new)  # of a run that was killed
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        raise StorageError(f"cannot note how to deliver: {error.strerror}", path=path) from error


def _read(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, FILE)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict) or not isinstance(found.get("template"), str):
            raise ValueError("no template")
    except FileNotFoundError as error:
        raise NotFound(
            "nothing says how to deliver this spool: 'omnistorage write --spool' does, or the program that filled it",
            path=path, op="list",
        ) from error  # fmt: skip
    except PermissionError as error:
        raise PermissionDenied("cannot be read", path=path) from error
    except (OSError, ValueError) as error:
        raise CorruptData(f"not what 'write --spool' notes: {error}", path=path) from error
    return found


# --- the verb ---------------------------------------------------------------------------------------------------------


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


_OPTION = {"max_bytes": "spool_max_bytes", "fsync": "spool_fsync", "when_full": "when_full"}

__all__ = ["SpoolMeter", "Spooling", "spool"]
