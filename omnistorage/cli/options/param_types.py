"""What stands behind the ``=`` of options: formats and codecs with their settings, sizes, durations, zones.

``NAME:OPTION=VALUE,...`` is the same for formats and codecs; a codec's bare ``zstd:19`` is its level. Options are the
fields that the library's values have, under the same names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import click

from omnistorage.compression import codec, codec_names
from omnistorage.core.spelling import nearest
from omnistorage.core.stages import Codec, Format
from omnistorage.errors import ConfigError
from omnistorage.formats import format_for_path, format_names, record_format

FormatChoice = str | Format[Any] | None
Compression = str | Codec | None

_ESCAPES = {r"\t": "\t", r"\n": "\n", r"\r": "\r", "tab": "\t"}
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b?)", re.IGNORECASE | re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])?", re.ASCII)


def completes(names: Callable[[], Iterable[str]]) -> Callable[[Any], Any]:
    """Mark the callback of a parameter: a shell completes its values to ``names``."""

    def mark(callback: Any) -> Any:
        callback.completions = names
        return callback

    return mark


@completes(format_names)
def format_name(ctx: click.Context, param: click.Parameter, value: str | None) -> FormatChoice:
    """Callback of an option that takes a record format: ``csv``, or ``csv:delimiter=;``."""
    if value is None:
        return None
    name, colon, settings = value.partition(":")
    if name not in format_names():
        known = ", ".join(format_names())
        hint = nearest(name, format_names())
        text = f"{name!r} is no record format{hint if 'mean' in hint else f'; use {known}'}"
        raise click.BadParameter(text, ctx, param)
    if not colon:
        return name
    return _made(record_format, name, settings, ctx, param)  # type: ignore[no-any-return]


@completes(lambda: ("none", *codec_names()))
def compression(ctx: click.Context, param: click.Parameter, value: str | None) -> Compression:
    """Callback of an option that takes ``none``, a codec's name, its name and level (``zstd:9``), or its options
    (``zstd:level=9,threads=2``)."""
    if value is None or value == "none":
        return value
    name, _, settings = value.partition(":")
    if settings and "=" not in settings:
        if not re.fullmatch(r"-?\d+", settings):
            raise click.BadParameter(f"the level {settings!r} is no number", ctx, param)
        settings = f"level={settings}"
    return _made(codec, name, settings, ctx, param)  # type: ignore[no-any-return]


def _made(make: Callable[..., Any], name: str, settings: str, ctx: click.Context, param: click.Parameter) -> Any:
    try:
        return make(name, **_options(make, name, settings))
    except ConfigError as error:
        known = f" (none, {', '.join(codec_names())})" if make is codec else ""
        raise click.BadParameter(f"{error.args[0]}{known}", ctx, param) from None
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _options(make: Callable[..., Any], name: str, settings: str) -> dict[str, Any]:
    """``delimiter=;,header=a|b`` as keyword arguments. A part without ``=`` belongs to the value before it, so that a
    comma can be one."""
    if not settings:
        return {}
    parts: list[str] = []
    for part in settings.split(","):
        if "=" in part or not parts:
            parts.append(part)
        else:
            parts[-1] += f",{part}"
    ready = make(name)
    kinds = {f.name: str(f.type) for f in dataclasses.fields(ready)} if dataclasses.is_dataclass(ready) else {}
    found: dict[str, Any] = {}
    for part in parts:
        option, sign, value = part.partition("=")
        if not sign:
            raise ValueError(f"{name}:{settings}: options are OPTION=VALUE, with commas between them")
        found[option.strip()] = _typed(option, value, kinds.get(option.strip(), ""))
    return found


def _typed(option: str, value: str, kind: str) -> Any:
    if option == "types":
        return {name: kind for name, _, kind in (pair.partition("=") for pair in value.split("|"))}
    if option == "header" and value not in ("first_row", "none"):
        return tuple(value.split("|"))
    if re.search(r"\bbool\b", kind):
        if value not in ("true", "false"):
            raise ValueError(f"{option} is true or false, not {value!r}")
        return value == "true"
    if re.search(r"\bint\b", kind):
        try:
            return int(value)
        except ValueError:
            raise ValueError(f"{option} is a number, not {value!r}") from None
    return _ESCAPES.get(value, value.replace(r"\r\n", "\r\n"))


def format_of(path: str, wanted: FormatChoice) -> Format[Any] | None:
    """The format ``wanted`` by the user, else the one that the suffix names. A bare name leaves to the suffix what the
    suffix says besides (``.tsv``: tabs)."""
    found = format_for_path(path) if path else None
    if wanted is None:
        return found
    if isinstance(wanted, str):
        return found if found is not None and found.name == wanted else record_format(wanted)
    return wanted


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """``128MiB``, ``10k`` (1,024 each), ``none``. ``none`` is 0."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        if value in ("none", "off"):
            return 0
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is no size: write 500, 64KiB, 128MiB, 1.5GiB or none", param, ctx)
        number, unit, _, _ = match.groups()
        size = int(float(number) * _SIZES[unit.lower()])
        if size < 1:
            self.fail(f"{value!r} is less than one byte; none means no limit", param, ctx)
        return size


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """``5m``, ``1h30m``, ``90`` (seconds), ``500ms``; seconds as a float."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, float):
            return value
        text = value.strip().lower()
        parts = list(_DURATION.finditer(text))
        whole = "".join(part[0] for part in parts) == text and bool(parts)
        if not whole or (len(parts) > 1 and not all(part[2] for part in parts)):
            self.fail(f"{value!r} is no duration: write 30s, 5m, 1h30m or 2d", param, ctx)
        seconds = sum(float(number) * _SECONDS[unit or "s"] for number, unit in (part.groups() for part in parts))
        if seconds <= 0:
            self.fail(f"{value!r} is no time at all", param, ctx)
        return seconds


def zone(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Callback of an option that takes a time zone of the IANA data base."""
    if value is None:
        return None
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise click.BadParameter(f"no time zone is called {value!r}: write Europe/Zurich or UTC", ctx, param) from None


SIZE, DURATION = Size(), Duration()
