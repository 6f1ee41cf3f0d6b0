"""What a ``RollingRecordWriter`` is told, checked. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from os import PathLike
from typing import Any, Literal

from omnistorage.config import locate
from omnistorage.core import Backend, ExtendedBackend, as_extended, learned
from omnistorage.core.stages import Codec, Format
from omnistorage.errors import CapabilityNotSupported, ConfigError
from omnistorage.ops import extended
from omnistorage.records import layers_for

from .template import Template

Seconds = float | timedelta


def utc_now() -> datetime:
    return datetime.now(UTC)


def stamps(now: Callable[[], datetime]) -> Callable[[], float]:
    """``now`` in seconds since 1970; the usual one without the way over a datetime."""
    return time.time if now is utc_now else lambda: now().timestamp()


@dataclass(frozen=True, slots=True)
class Rolls:
    """When an object is full. None: never for this reason. Bytes and records count from 1; times are seconds."""

    bytes: int | None
    raw_bytes: int | None
    records: int | None
    age: float | None
    idle: float | None

    @property
    def timed(self) -> bool:
        return self.age is not None or self.idle is not None

    def due(self, opened: float, touched: float) -> float:
        """The time at which an object must be rolled."""
        return min(
            opened + self.age if self.age is not None else float("inf"),
            touched + self.idle if self.idle is not None else float("inf"),
        )


def rolls(
    *,
    bytes: int | None,
    raw_bytes: int | None,
    records: int | None,
    age: Seconds | None,
    idle: Seconds | None,
) -> Rolls:
    """Raises ``ConfigError`` for what cannot be."""
    for name, count in (("roll_bytes", bytes), ("roll_raw_bytes", raw_bytes), ("roll_records", records)):
        if count is not None and (type(count) is not int or count < 1):
            raise ConfigError(f"{name} is a number from 1 up, not {count!r}")
    return Rolls(bytes, raw_bytes, records, seconds("roll_age", age), seconds("roll_idle", idle))


def seconds(name: str, value: Seconds | None) -> float | None:
    """A duration in seconds; ``ConfigError`` unless it is above zero."""
    if value is None:
        return None
    found = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < float("inf"):
        raise ConfigError(f"{name} is a number of seconds above zero or a timedelta, not {value!r}")
    return float(found)


NameMode = Literal["unique", "deterministic"]


def check_names(names: str, template: Template, *, late: bool) -> None:
    """Raises ``ConfigError`` for a template that cannot keep what ``names`` promises."""
    fields, text = template.object_fields, template.text
    if names == "unique":
        if not fields & {"seq", "id"}:
            raise ConfigError(
                f"the template {text!r} gives all objects of a partition one name: put {{seq}} or {{id}} in"
            )
    elif names == "deterministic":
        if "start" not in fields or fields & {"seq", "id"}:
            raise ConfigError(
                f"deterministic names are made of {{start}} and {{source}}, without {{seq}} and {{id}}: {text!r}"
            )
        if template.needs_time and not template.has_record_time:
            raise ConfigError("a name made of the time of arrival is not deterministic: give time_field")
        if late:
            raise ConfigError("what counts as late depends on what came before: not with deterministic names")
    else:
        raise ConfigError(f"names={names!r}: use unique or deterministic")


def time_getter(field: str | Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    """How to find a record's time."""
    if field is None or callable(field):
        return field
    steps = field.split(".")

    def get(record: Any) -> Any:
        for step in steps:
            record = record[step]
        return record

    return get


def check_zone(zone: tzinfo) -> tzinfo:
    if not isinstance(zone, tzinfo):
        raise ConfigError(f"zone is a tzinfo such as zoneinfo.ZoneInfo('Europe/Zurich'), not {zone!r}")
    return zone


def late_policy(late: Any) -> Any:
    """``"partition"``, ``"prefix"``, or what takes a late record."""
    if late in ("partition", "prefix") or callable(late):
        return late
    if hasattr(late, "write_many") and hasattr(late, "write"):
        return late.write
    raise ConfigError(f"late={late!r}: use partition, prefix, a RecordWriter or a callable")


def layers_of(
    template: str, format: str | Format[Any] | None, compression: str | Codec | None
) -> tuple[Format[Any], Codec | None, str]:
    """Format and codec of a template's objects, and the suffix to put behind it if it has none."""
    if not isinstance(template, str):
        raise ConfigError(f"a template is the text of a name, not {template!r}")
    tail = template.rpartition("}")[2]
    form, codec = layers_for(f"x{tail}", format, compression)
    if "." in tail.rpartition("/")[2]:
        return form, codec, ""
    return form, codec, form.suffixes[0] + (codec.suffixes[0] if codec is not None else "")


def open_target(target: Any, names: str) -> tuple[ExtendedBackend, str, Backend | None]:
    """The backend, the path in it below which the objects go, and the backend again if it is ours to close. Raises
    ``CapabilityNotSupported`` for one that cannot keep the promises."""
    prefix, owned = "", None
    if isinstance(target, str | PathLike):
        target, prefix = locate(target, is_object=False)
        owned = target
    elif hasattr(target, "as_backend"):
        target = target.as_backend()
    backend = extended(target)
    lacks = None
    if as_extended(target) is not None and not backend.features.atomic_write:
        lacks = "atomic_write", "readers of this target see half an object"
    elif names == "deterministic" and not learned(backend).create_only:
        lacks = "create_only", "deterministic names need writes that never replace an object"
    if lacks is not None:
        if owned is not None:
            owned.close()
        raise CapabilityNotSupported(lacks[1], capability=lacks[0], backend=backend.name)
    return backend, prefix, owned
