"""The token of a ``ResumableWriter``: what it holds, and whether it is one. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from datetime import datetime
from typing import Any

from omnistorage.core import WRITE, WriteOptions
from omnistorage.core.stages import Codec, Format, Headed
from omnistorage.errors import ConfigError
from omnistorage.paths import check_new

Token = Mapping[str, Any] | str | bytes
VERSION = 1
_NO_OPTIONS = frozenset({"size", "expect"})
_BROKEN = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError, ConfigError)


def checked(token: Token) -> dict[str, Any]:
    """The token as a dict; ``ConfigError`` if it is none. What is in ``upload`` is for the store to look at."""
    try:
        read = dict(json.loads(token) if isinstance(token, str | bytes) else token)
        if type(read["version"]) is not int or read["version"] != VERSION:
            raise ValueError(f"its version is {read['version']!r}, not {VERSION}")
        tail = dict(read["tail"])
        texts = (read["path"], read["format"], read["compression"] or "")
        if not (re.fullmatch("[0-9a-f]{32}", read["id"]) and re.fullmatch("[0-9a-f]{64}", tail["sha256"])):
            raise ValueError("it names nothing")
        if not all(type(text) is str for text in texts) or not isinstance(read["upload"], Mapping | None):
            raise ValueError("its parts are of other types")
        check_new(read["path"])
        counts = (read["records"], read["bad"], read["raw_bytes"], read["bytes"], tail["bytes"])
        if any(type(count) is not int or count < 0 for count in counts):
            raise ValueError("it counts what cannot be")
        options_of(read["options"])
        return {**read, "begun": read["begun"], "settings": dict(read["settings"]), "tail": tail}
    except _BROKEN as error:
        raise ConfigError(f"this is no token of a checkpoint: {error!r}") from error


def must_agree(token: Mapping[str, Any], form: Format[Any], codec: Codec | None, path: str) -> None:
    """``ConfigError`` where what is given now is not what the token was made with."""
    told = {"path": path, "format": form.name, "compression": None if codec is None else codec.name}
    for name, value in told.items():
        if token[name] != value:
            raise ConfigError(f"the token is of {name} {token[name]!r}, not {value!r}", path=path, op="resume")
    now = settings_of(form)
    for name, value in token["settings"].items():
        if now.get(name, value) != value:
            raise ConfigError(
                f"the object was begun with {form.name} {name}={value!r}: give the same format", path=path, op="resume"
            )


def behind(form: Format[Any], begun: Any, path: str) -> Format[Any]:
    """The format of what comes behind ``begun``."""
    if begun is None:
        return form
    if not isinstance(form, Headed):
        raise ConfigError(f"the format {form.name!r} cannot go on behind what was written", path=path, op="resume")
    try:
        return form.behind(begun)
    except _BROKEN as error:
        raise ConfigError(f"this is no token of a checkpoint: {error!r}", path=path, op="resume") from error


def settings_of(form: Format[Any]) -> dict[str, Any]:
    """The fields of a format that JSON can hold: those with functions in them are left out."""
    if not is_dataclass(form):
        return {}
    found = {field.name: getattr(form, field.name) for field in fields(form)}
    return {name: json.loads(json.dumps(value)) for name, value in found.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def must_be_plain(options: WriteOptions, path: str) -> None:
    """``ConfigError`` for options that cannot hold over several lives."""
    if not isinstance(options, WriteOptions):
        raise ConfigError(f"writing takes WriteOptions, not {type(options).__name__}", path=path)
    if options.size is not None or options.expect:
        raise ConfigError("size and expect of what is written in several lives cannot be held", path=path)
    try:
        json.dumps(plain(options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the options have to fit into JSON: {error}", path=path) from error


def plain(options: WriteOptions) -> dict[str, Any]:
    """The options, for JSON."""
    modified = options.modified_at
    found = {name: value for name, value in asdict(options).items() if name not in _NO_OPTIONS}
    return {**found, "modified_at": None if modified is None else modified.isoformat()}


def options_of(found: Mapping[str, Any]) -> WriteOptions:
    """What ``plain`` made of them. Raises what is wrong with it."""
    if set(found) != set(plain(WRITE)):
        raise ValueError("its options are others")
    if any(type(found[name]) is not bool for name in ("overwrite", "durable")):
        raise ValueError("overwrite and durable are true or false")
    if not all(isinstance(found[name], str | None) for name in ("if_match", "content_type", "modified_at")):
        raise ValueError("its options are of other types")
    if not all(isinstance(found[name], Mapping | None) for name in ("user_metadata", "extra")):
        raise ValueError("its options are of other types")
    modified = found["modified_at"]
    return WriteOptions(**{**found, "modified_at": None if modified is None else datetime.fromisoformat(modified)})
