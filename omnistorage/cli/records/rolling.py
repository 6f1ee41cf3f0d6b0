"""``omnistorage write`` where records are rolled into many objects.

Where no field of the records is needed they go through as the bytes they were; else each is parsed beside its bytes,
which are what is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from omnistorage.cli.core.app import Location
from omnistorage.cli.core.progress import counted, human
from omnistorage.cli.options.param_types import Compression, FormatChoice
from omnistorage.cli.options.spool import Spooling
from omnistorage.core import WriteOptions
from omnistorage.core.stages import Format
from omnistorage.delivery import Committed, RollingRecordWriter, Template
from omnistorage.errors import RecordError, StorageError
from omnistorage.wrappers import Prefix

from .transcode import parsing, reading, unparsing, writing
from .writing import Filling, How, target_format


def partitioned(template: str, fields: tuple[str, ...]) -> str:
    """``template`` with ``FIELD={FIELD}/`` folders in front of its name."""
    depth, cut = 0, 0
    for at, char in enumerate(template):
        depth += (char == "{") - (char == "}")
        if char == "/" and depth == 0:
            cut = at + 1
    return template[:cut] + "".join(f"{one}={{{one}}}/" for one in fields) + template[cut:]


@dataclass
class Rolling:
    """Records into objects that a ``RollingRecordWriter`` names and publishes."""

    filling: Filling
    folder: Location
    to: tuple[str, ...]
    mirror: dict[str, Any]
    text: str
    template: str
    rolls: dict[str, Any]
    form: FormatChoice
    compression: Compression
    no_clobber: bool  # nothing that is rolled ever replaces
    durable: bool
    spool: Spooling | None = None

    def run(self) -> None:
        filling = self.filling
        if "late" in self.rolls and "late_after" not in self.rolls:
            raise click.UsageError("--late says where late records go: --late-after TIME says which are late")
        self._spooled()
        if self.spool is not None:
            self.spool.must_lie_apart(self.to)
        template = partitioned(self.template, self.rolls.pop("partition", ()))
        to = target_format(self.text, f"x{template.rpartition('}')[2]}", self.form)
        parsed = self._needs_fields(template)
        filling.find(to)
        writer = self.open(template, to)
        filling.listen(self.text)
        self._fill(writer, (lambda form: parsing(form, to)) if parsed else (lambda form: reading(form, to.name)))
        self._report(writer)

    def _spooled(self) -> None:
        given = {name for name in ("spool_max_bytes", "spool_fsync", "when_full") if name in self.rolls}
        if given and "spool" not in self.rolls:
            raise click.UsageError(f"--{min(given).replace('_', '-')} is about a spool: --spool DIR says which")
        if "spool" in self.rolls:
            self.spool = Spooling.taken_from(self.filling.app, self)

    def deliver(self) -> None:
        """Publish what is in the spool, and nothing more."""
        self._spooled()
        if self.spool is not None:
            self.spool.delivery = None
        template = partitioned(self.template, self.rolls.pop("partition", ()))
        writer = self.open(template, target_format(self.text, f"x{template.rpartition('}')[2]}", self.form))
        self.filling.app.draw(f"spool {self.text}")
        try:
            with writer:
                writer.roll()
                writer.close()
                self.filling.policy.take(writer, self.text)
        except StorageError as error:
            self._name(error)
            raise
        self._report(writer)

    def _needs_fields(self, template: str) -> bool:
        pieces = Template(template).pieces
        own = {piece.name for piece in pieces} - {None, "time", "seq", "id", "source", "start"}
        return bool(own) or "time_field" in self.rolls

    def open(self, template: str, to: Format[Any]) -> RollingRecordWriter:
        """The writer, of records as ``parsing`` or ``reading`` yield them."""
        form = unparsing(to) if self._needs_fields(template) else writing(to)
        settings = dict(self.rolls)
        if self.spool is not None:
            form = self.spool.form(form, to)
            settings["spool"] = self.spool.value
        for name in ("roll_bytes", "roll_raw_bytes"):
            if settings.get(name) == 0:
                settings[name] = None
        folder = self.folder
        target = Prefix(folder.backend, folder.path) if folder.path else folder.backend
        writer = RollingRecordWriter(
            target,
            template,
            format=form,
            compression=self.compression,
            options=WriteOptions(durable=self.durable),
            on_commit=self._published,
            **self.filling.policy.settings(),
            **settings,
        )
        if self.spool is not None:
            self.spool.opened(writer)
        return writer

    def _fill(self, writer: RollingRecordWriter, how: How) -> None:
        taken, given, policy = 0, 0, self.filling.policy

        def put(batch: list[Any]) -> int:
            nonlocal taken, given
            given += len(batch)
            taken += writer.write_many(batch if self.spool is None else self.spool.plain(batch))
            return taken

        try:
            with writer:
                self.filling.fill(how, put)
                if self.spool is not None:  # what only the template finds comes up until the end
                    self.spool.ends(writer)
                    writer.close()
                policy.take(writer, self.text)
                policy.publish()  # first: a record is in one place or in the other
                writer.close()
        except BaseException as error:
            done = writer.progress.objects
            if self.spool is not None:
                self.filling.app.interrupted = self.spool.left(writer, given)
                if isinstance(error, StorageError):
                    policy.publish()
                    self.filling.app.warn(self.filling.app.interrupted)
            elif not isinstance(error, StorageError):
                stay = f"{counted(done, 'object')} published before stay, " if done else ""
                now = writer.progress
                gone = counted(max(0, given - now.records - now.bad), "record")
                self.filling.app.interrupted = f"{stay}not published by this run: {gone} that had been read"
            elif done:
                policy.publish()  # what is left out of the objects that stay
                self.filling.app.warn(f"{counted(done, 'object')} published before the error stay")
            if isinstance(error, StorageError):
                self._name(error)
            raise

    def _name(self, error: StorageError) -> None:
        if not hasattr(error, "shown"):
            inside = not isinstance(error, RecordError) and error.path
            error.shown = self._place(error.path or "") if inside else self.text  # type: ignore[attr-defined]

    def _place(self, path: str) -> str:
        if self.spool is not None and f"{path}/".startswith(f"{self.spool.value.folder}/"):
            return path
        return self._shown(path)

    def _shown(self, path: str) -> str:
        return path if self.to == (".",) and not self.mirror else self.folder.child(path).text

    def _published(self, entry: Committed) -> None:
        """Called from other threads, one at a time."""
        app = self.filling.app
        app.done += 1
        app.detail(f"published {self._shown(entry.path)}: {counted(entry.records, 'record')}, {human(entry.bytes)}")
        app.event("commit", **entry._asdict())

    def _report(self, writer: RollingRecordWriter) -> None:
        app, done, policy = self.filling.app, writer.progress, self.filling.policy
        app.meter.stop()
        fields = {
            "objects": done.objects,
            "records": done.records,
            "bad": policy.count,
            "late": done.late,
            "skipped": done.skipped,
        }
        fields |= {} if self.spool is None else self.spool.fields(done)
        ratio = round(done.raw_bytes / done.bytes, 2) if done.bytes else None
        app.event("write", path=self.text, **fields, raw_bytes=done.raw_bytes, size=done.bytes, ratio=ratio)
        notes = [
            f"{counted(done.objects, 'object')}, {counted(done.records, 'record')}",
            f"{human(done.raw_bytes)} -> {human(done.bytes)}" + (f" (ratio {ratio:.1f})" if ratio else ""),
            *([f"{done.late:,} late"] if done.late else []),
            *([f"{done.skipped:,} published by an earlier run"] if done.skipped else []),
            *([] if self.spool is None else self.spool.notes(done)),
            f"{app.meter.seconds:.1f} s",
        ]
        app.say(f"wrote {self.text}: {', '.join(notes)}")
        policy.report()
        self.filling.drained()
