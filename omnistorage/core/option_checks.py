"""Checks of the values that options hold, made before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from omnistorage.errors import ConfigError

_HEX = re.compile(r"[0-9a-fA-F]+", re.ASCII)
_METADATA_KEY = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
_METADATA_VALUE = re.compile(r"[\x20-\x7e]*")
MAX_METADATA = 2048


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raise ``ConfigError`` unless every store we know could hold ``metadata``: keys ``[a-z_][a-z0-9_]*``, printable
    ASCII values, 2 KiB in all."""
    for key, value in metadata.items():
        if not isinstance(key, str) or not _METADATA_KEY.fullmatch(key):
            raise ConfigError(f"metadata key {key!r}: use lower-case letters, digits and underscores")
        if not isinstance(value, str) or not _METADATA_VALUE.fullmatch(value):
            raise ConfigError(f"metadata value of {key!r}: use printable ASCII")
    if sum(len(key) + len(value) for key, value in metadata.items()) > MAX_METADATA:
        raise ConfigError(f"metadata takes more than {MAX_METADATA} bytes in all")


_MTIME = len("mtime") + 20


def fitting_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the part of ``metadata`` that every store can hold, beside an ``mtime``. Takes linear time."""
    kept: dict[str, str] = {}
    room = MAX_METADATA - _MTIME
    for key, value in metadata.items():
        try:
            check_metadata({key: value})
        except ConfigError:
            continue
        size = len(key) + len(value)
        size = max(0, size - _MTIME) if key == "mtime" else size
        if size <= room:
            kept[key] = value
            room -= size
    return kept


_CONTROL = re.compile("[\x00-\x1f\x7f]")


def check_etag(etag: str | None, *, path: str | None = None, op: str | None = None) -> None:
    """Raise ``ConfigError`` for an etag that no header holds, so that no backend has to send it to find out."""
    if etag is None:
        return
    if not isinstance(etag, str):
        raise ConfigError(f"an etag is a str, not {type(etag).__name__}", path=path, op=op)
    if _CONTROL.search(etag):
        message = f"the etag {etag[:200]!r} holds control characters: give the one that stat or list returns"
        raise ConfigError(message, path=path, op=op)


def check_time(modified_at: datetime | None) -> None:
    """Raise ``ConfigError`` for a time that says nothing of its zone."""
    if modified_at is not None and modified_at.tzinfo is None:
        raise ConfigError("modified_at needs a time zone: datetime(..., tzinfo=UTC)")


def check_expect(expect: Mapping[str, str]) -> None:
    """Raise ``ConfigError`` unless ``expect`` maps names of digests to hexadecimal text."""
    for algorithm, digest in expect.items():
        if not isinstance(algorithm, str) or algorithm.lower().startswith("shake"):
            raise ConfigError(f"expect takes digests of one length by their names, not {algorithm!r}")
        if not isinstance(digest, str) or not _HEX.fullmatch(digest):
            raise ConfigError(f"the expected {algorithm} is hexadecimal text, not {digest!r:.200}")
