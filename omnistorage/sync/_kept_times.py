"""The time of a source that a copy in an object store keeps as ``metadata["mtime"]``. Imports floor 0."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ..core import ObjectInfo


def kept_time(info: ObjectInfo) -> datetime | None:
    """The source's time that a copy carries as ``metadata["mtime"]``: seconds since 1970, as rclone writes them."""
    text = (info.metadata or {}).get("mtime")
    if text is None:
        return None
    try:
        whole, _, part = text.partition(".")
        return datetime.fromtimestamp(int(whole), UTC) + timedelta(microseconds=int((part + "000000")[:6]))
    except (ValueError, OverflowError, OSError):
        return None


def time_to_keep(moment: datetime) -> str:
    """``moment`` as ``metadata["mtime"]``."""
    seconds, rest = divmod(moment - datetime(1970, 1, 1, tzinfo=UTC), timedelta(seconds=1))
    return f"{seconds}.{rest // timedelta(microseconds=1):06d}000"
