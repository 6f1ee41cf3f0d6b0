"""What a plan writes down of its places and options, for other processes to open and use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from os import PathLike, fspath, path
from typing import Any

from omnistorage.config.models import holds_secret
from omnistorage.core.secret import mask_url
from omnistorage.errors import ConfigError
from omnistorage.sync.endpoint import Place
from omnistorage.sync.filters import Filter
from omnistorage.sync.options import SyncOptions


def spec_of(place: Place, what: str) -> Any:
    """A place as what can be written down and opened again by another process."""
    if isinstance(place, PathLike) or (isinstance(place, str) and "://" not in place):
        return path.abspath(fspath(place))
    if isinstance(place, str):
        if holds_secret(place):
            raise ConfigError(f"the URL of the {what} holds a secret, which is written down nowhere: {mask_url(place)}")
        return place
    if isinstance(place, Mapping):
        if holds_secret(place):
            raise ConfigError(f"the table of the {what} holds a secret, which is written down nowhere: use ${{VAR}}")
        return dict(place)
    raise ConfigError(f"workers open the {what} anew: give a URL, a path or a table, not {type(place).__name__}")


def plain(options: SyncOptions) -> dict[str, Any]:
    if callable(options.compare):
        raise ConfigError("a function cannot be written down: name one of the rules of compare")
    found = {f.name: getattr(options, f.name) for f in fields(options) if f.name != "filter"}
    if options.backup_dir is not None:
        found["backup_dir"] = spec_of(options.backup_dir, "backup folder")
    found["modify_window"] = options.modify_window.total_seconds()
    return found


def options_of(written: dict[str, Any]) -> SyncOptions:
    from datetime import timedelta

    return SyncOptions(**{**written, "modify_window": timedelta(seconds=written["modify_window"]), "filter": Filter()})


def fingerprint(options: SyncOptions) -> str:
    """SHA-256 over all settings but the filter, which has its own."""
    return digest_of(plain(options))


def digest_of(written: dict[str, Any]) -> str:
    """SHA-256 of options as they are written down."""
    return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()
