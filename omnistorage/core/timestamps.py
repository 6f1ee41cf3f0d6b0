"""A time with the nanoseconds that ``datetime`` cannot hold. Standard library only.

Only the sync engine makes one, for a backend that can hold it. What backends show to callers are plain datetimes.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Moment(datetime):
    """A ``datetime``, and the nanoseconds behind its microseconds. It compares as a ``datetime``."""

    nanosecond: int = 0


def moment_of(nanoseconds: int) -> datetime:
    """The time that is so many nanoseconds behind 1970. Raises ``OverflowError`` for a year that datetime does not
    know."""
    micro, rest = divmod(nanoseconds, 1000)
    plain = _EPOCH + timedelta(microseconds=micro)
    if not rest:
        return plain
    found = Moment.combine(plain.date(), plain.time(), UTC)
    found.nanosecond = rest
    return found


def rounded_down(nanoseconds: int) -> datetime:
    """The same without what a ``datetime`` cannot hold. Raises ``OverflowError``."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def nanoseconds_of(moment: datetime) -> int:
    """Since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000 + getattr(moment, "nanosecond", 0)
