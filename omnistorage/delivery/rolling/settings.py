"""What a ``RollingRecordWriter`` was told, checked once. Engines are made from it, several in the life of a spool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, tzinfo
from typing import Any

from omnistorage.core import ExtendedBackend, WriteOptions
from omnistorage.core.stages import Codec, Format
from omnistorage.delivery.executor import Crew
from omnistorage.delivery.long_retry import patient
from omnistorage.delivery.template import Template
from omnistorage.delivery.timer import Timer
from omnistorage.delivery.validation import (
    NameMode,
    Seconds,
    check_names,
    check_zone,
    late_policy,
    layers_of,
    open_target,
    rolls,
    seconds,
    time_getter,
)
from omnistorage.errors import ConfigError
from omnistorage.paths import check_new
from omnistorage.records import BadRecords
from omnistorage.records.bad_records import OnError
from omnistorage.records.writer import OnException, known_exit

from .open_object import Committed


class Plan:
    """The arguments of ``RollingRecordWriter``, as values to work with. Raises what it raises for those that cannot
    be. ``owned`` is the backend if it has to be closed at the end."""

    def __init__(
        self,
        target: Any,
        template: str,
        *,
        format: str | Format[Any] | None,
        compression: str | Codec | None,
        roll_bytes: int | None,
        roll_raw_bytes: int | None,
        roll_records: int | None,
        roll_age: Seconds | None,
        roll_idle: Seconds | None,
        time_field: str | Callable[[Any], Any] | None,
        zone: tzinfo,
        missing: str | None,
        late_after: Seconds | None,
        late: Any,
        late_prefix: str,
        max_open: int,
        names: NameMode,
        source: str,
        start_sequence: int,
        manifest: str | None,
        on_commit: Callable[[Committed], None] | None,
        on_error: OnError,
        max_bad: int | None,
        max_bad_ratio: float | None,
        on_exception: OnException,
        options: WriteOptions,
        now: Callable[[], datetime],
        timer: Timer,
        retry_for: Seconds | None,
        crew: Crew,
    ) -> None:
        self.form, self.codec, suffix = layers_of(template, format, compression)
        self.template = Template(
            template, suffix=suffix, time_of=time_getter(time_field), zone=check_zone(zone), missing=missing
        )
        self.rolls = rolls(
            bytes=roll_bytes, raw_bytes=roll_raw_bytes, records=roll_records, age=roll_age, idle=roll_idle
        )
        self.late_after, self.late, self.late_prefix = seconds("late_after", late_after), late_policy(late), late_prefix
        check_names(names, self.template, late=late_after is not None)
        if type(max_open) is not int or max_open < 1:
            raise ConfigError(f"max_open is a number of objects from 1 up, not {max_open!r}")
        if type(start_sequence) is not int or start_sequence < 0:
            raise ConfigError(f"start_sequence is a number from 0 up, not {start_sequence!r}")
        self.max_open = 1 if self.template.is_constant and self.late != "prefix" else max_open
        self.deterministic, self.source, self.start = names == "deterministic", source, start_sequence
        self.bad = BadRecords(on_error, max_bad, max_bad_ratio)
        self.on_exception = known_exit(on_exception)
        for name in (late_prefix, *([source] if source else []), *([] if manifest is None else [manifest])):
            check_new(name)
        self.manifest, self.on_commit, self.now, self.timer = manifest, on_commit, now, timer
        self.crew = crew
        retry_for = seconds("retry_for", retry_for)
        backend, self.prefix, self.owned = open_target(target, names)
        self.backend: ExtendedBackend = patient(backend, retry_for)
        where = repr(backend) if backend.url is None else repr(backend.url + self.prefix)
        self.shown = f"{where}, {template!r}"
        self.options = replace(
            options,
            overwrite=not self.backend.features.create_only,
            content_type=options.content_type or getattr(self.codec or self.form, "content_type", None),
        )
