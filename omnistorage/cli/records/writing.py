"""What ``write`` does: how records come in, and the one object that they fill."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.progress import human
from omnistorage.cli.core.signals import Drained
from omnistorage.cli.options.param_types import Compression, FormatChoice, format_of
from omnistorage.cli.options.records import BadRecordPolicy, Input, find_input, opened
from omnistorage.core import ObjectInfo, WriteOptions
from omnistorage.core.stages import Format
from omnistorage.errors import ConfigError
from omnistorage.formats import format_names
from omnistorage.records import open_records

from .transcode import reading, writing

How = Callable[[Format[Any]], Format[Any]]


@dataclass
class Filling:
    """The records of all inputs, one after the other."""

    app: App
    arguments: tuple[str, ...]
    policy: BadRecordPolicy
    from_format: FormatChoice
    inputs: Sequence[Input] = ()
    stopped: str = ""

    def find(self, to: Format[Any]) -> None:
        """Look the inputs up, and fail if one is not there: before anything is made."""
        self.inputs = [find_input(self.app, one, self.from_format, to) for one in self.arguments]
        for source in self.inputs:
            source.check()
        self.app.meter.records = 0

    def listen(self, label: str) -> None:
        if self.arguments == ("-",) and sys.stdin is not None and sys.stdin.isatty():
            self.app.say("reading records from the terminal; Ctrl-D ends them")
        self.app.draw(f"write {label}")

    def fill(self, how: How, put: Callable[[list[Any]], int]) -> None:
        """Give every record, decoded by ``how(its format)``, to ``put``, which returns how many were taken so far.
        Returns early when a signal asks to."""
        for source in self.inputs:
            try:
                with opened(self.app, source, how(source.format), None, self.policy) as batches:
                    for batch in batches:
                        self.app.meter.records = put(batch)
            except Drained:
                self.stopped = source.text
                return

    def drained(self) -> None:
        """Say what a signal left, if one came."""
        if self.app.stops.signum is not None:
            self.app.interrupted = (
                f"the whole records read from {self.stopped} so far are published"
                if self.stopped
                else "everything had been read, and is published"
            )


def target_format(text: str, path: str, form: FormatChoice) -> Format[Any]:
    """The format that is written. Raises ``ConfigError`` in the command's own words."""
    to = format_of(path, form)
    if to is None:
        known = ", ".join(format_names())
        raise ConfigError(f"{text}: no record format is known by this suffix: give --format ({known})")
    return to


@dataclass
class OneObject:
    """All records into one object, which appears whole or not at all."""

    filling: Filling
    target: Location
    form: FormatChoice
    compression: Compression
    no_clobber: bool
    durable: bool

    def run(self) -> None:
        filling, policy, text = self.filling, self.filling.policy, self.target.text
        to = target_format(text, self.target.path, self.form)
        filling.find(to)
        with naming(text), self._writer(to) as writer:
            filling.listen(text)

            def put(batch: list[Any]) -> int:
                writer.write_many(batch)
                return int(writer.records)

            filling.fill(lambda form: reading(form, to.name), put)
            policy.take(writer, text)
            policy.publish(writer)
            info = writer.close()
        self._report(writer.records, info)

    def _writer(self, to: Format[Any]) -> Any:
        return open_records(
            self.target.backend,
            self.target.path,
            "w",
            format=writing(to),
            compression=self.compression,
            options=WriteOptions(overwrite=not self.no_clobber, durable=self.durable),
            **self.filling.policy.settings(),
        )

    def _report(self, records: int, info: ObjectInfo) -> None:
        app, size, text, policy = self.filling.app, info.size, self.target.text, self.filling.policy
        app.meter.stop()
        app.done += 1
        app.event("write", path=text, records=records, bad=policy.count, size=size)
        note = " (the input was empty)" if not records and not app.meter.bytes else ""
        into = "" if size is None else f" -> {human(size)}"
        app.say(
            f"wrote {text}: {records:,} record{'s' * (records != 1)}{note}, "
            f"{human(app.meter.bytes)}{into}, {app.meter.seconds:.1f} s"
        )
        policy.report()
        self.filling.drained()
