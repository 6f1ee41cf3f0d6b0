"""The options of a spool, and ``delivery.json`` in its folder, by which another run delivers what is left."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from omnistorage.cli.core.app import App, not_home
from omnistorage.cli.core.progress import Meter, counted, human
from omnistorage.cli.options.param_types import Compression, FormatChoice
from omnistorage.cli.records.transcode import Unparsed, parsing, takes_bytes
from omnistorage.core.secret import mask_url
from omnistorage.core.stages import Format, OnBad, Stage
from omnistorage.delivery import Progress, RollingRecordWriter, Spool
from omnistorage.errors import ConfigError, CorruptData, NotFound, PermissionDenied, StorageError

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


class SpooledJob(Protocol):
    """What ``delivery.json`` notes of a ``write``. ``rolls`` are its options, those of the spool among them."""

    to: tuple[str, ...]
    mirror: dict[str, Any]
    template: str
    rolls: dict[str, Any]
    form: FormatChoice
    compression: Compression
    durable: bool


@dataclass
class Spooling:
    """What the options of ``write`` say about a spool."""

    app: App
    value: Spool
    delivery: dict[str, Any] | None
    to: Format[Any] | None = None

    @classmethod
    def taken_from(cls, app: App, job: SpooledJob) -> Spooling:
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
        return cls(app, value, _delivery(app, job, {k: v for k, v in settings.items() if v is not None}))

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


def _delivery(app: App, job: SpooledJob, spool: dict[str, Any]) -> dict[str, Any]:
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


_OPTION = {"max_bytes": "spool_max_bytes", "fsync": "spool_fsync", "when_full": "when_full"}
