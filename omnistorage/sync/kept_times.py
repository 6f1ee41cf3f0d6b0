"""The time of a source that a copy in an object store keeps as ``metadata["mtime"]``."""

from __future__ import annotations

from datetime import datetime

from omnistorage.core import ObjectInfo
from omnistorage.core.timestamps import Moment, moment_of, nanoseconds_of

from .endpoint import Side


def kept_time(info: ObjectInfo) -> datetime | None:
    """The source's time that a copy carries as ``metadata["mtime"]``: seconds since 1970, as rclone writes them."""
    text = (info.metadata or {}).get("mtime")
    if text is None:
        return None
    try:
        whole, _, part = text.partition(".")
        return moment_of(int(whole) * 10**9 + int((part + "000000000")[:9]))
    except (ValueError, OverflowError):
        return None


def time_to_keep(moment: datetime) -> str:
    """``moment`` as ``metadata["mtime"]``."""
    seconds, rest = divmod(nanoseconds_of(moment), 10**9)
    return f"{seconds}.{rest:09d}"


def exact_time(side: Side, info: ObjectInfo) -> datetime | None:
    """The time of an object or a folder, with nanoseconds where its store shows them. Raises ``StorageError``."""
    found = getattr(side.backend, "exact_time", None)
    exact = None if found is None or info.modified_at is None else found(info)
    if exact is None:
        return info.modified_at
    moment = moment_of(exact)
    return moment if moment == info.modified_at else info.modified_at  # a folder may have changed since


def for_store(side: Side, moment: datetime | None) -> datetime | None:
    """``moment`` as the store can hold it: nanoseconds only where it keeps them."""
    if moment is None or not isinstance(moment, Moment) or side.keeps_mtime or hasattr(side.backend, "exact_time"):
        return moment
    return moment_of(nanoseconds_of(moment) // 1000 * 1000)
