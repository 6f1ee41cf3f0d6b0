"""Sizes and ages as people write them, and the part of all paths that one falls into."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from omnistorage.errors import ConfigError
from omnistorage.paths import sort_key

Size = int | str
Age = timedelta | datetime | float | str

_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)(?:(b)|([kmgtpe])(?:ib?)?)?", re.ASCII | re.IGNORECASE)
_STEPS = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|[smhdwMy])", re.ASCII)
_SECONDS = re.compile(r"\d+\.?\d*|\.\d+", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?)?", re.ASCII)
_UNITS = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),  # the micro sign
    "μs": Fraction(1, 10**6),  # the Greek letter
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
    "w": Fraction(7 * 86400),
    "M": Fraction(30 * 86400),
    "y": Fraction(365 * 86400),
}


def parse_size(value: Size | None, option: str) -> int | None:
    """Bytes. A number is bytes; text is in KiB, or in the unit that it names; ``off`` is None."""
    if value is None or (isinstance(value, str) and value.lower() == "off"):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ConfigError(
            f"{option}: {value!r} is no size: give bytes as an int, or text such as '100' (KiB), '10b', '1k' or "
            "'1.5GiB'; units are powers of 1,024, so that 'KB' and 'MB' are not taken"
        )
    number, in_bytes, unit = found.groups()
    factor = 1 if in_bytes else 1024 ** ("kmgtpe".index((unit or "k").lower()) + 1)
    return int(Fraction(number) * factor)


def parse_age(value: Age | None, option: str) -> timedelta | datetime | None:
    """How long ago, or the very time (in UTC; text without a zone is local time). ``off`` is None."""
    if value is None or value == "off":
        return None
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    try:
        if isinstance(value, str):
            return _parse_age_text(value, option)
        age = value if isinstance(value, timedelta) else timedelta(seconds=value)
        if isinstance(value, bool) or age < timedelta(0):
            raise _no_age(value, option)
        return age
    except (OverflowError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise _no_age(value, option) from None


def _parse_age_text(text: str, option: str) -> timedelta | datetime:
    if _DATE.fullmatch(text):
        return datetime.fromisoformat(text).astimezone(UTC)
    if _SECONDS.fullmatch(text):
        text += "s"
    steps = _STEPS.findall(text)
    if not steps or "".join(number + unit for number, unit in steps) != text:
        raise _no_age(text, option)
    micros = sum(Fraction(number) * _UNITS[unit] for number, unit in steps) * 10**6
    return timedelta(microseconds=math.floor(micros))


def _no_age(value: object, option: str) -> ConfigError:
    return ConfigError(
        f"{option}: {value!r} is no age: give seconds, a timedelta, text such as '90s', '1h30m', '2d', '1w', '2M', "
        "'1y', or a date such as '2026-01-31' or '2026-01-31T12:00:00Z'"
    )


def time_of(age: timedelta | datetime | None, now: datetime) -> datetime | None:
    """The moment that is ``age`` before ``now``."""
    if not isinstance(age, timedelta):
        return age
    try:
        return now - age
    except OverflowError:  # before the first year
        return datetime.min.replace(tzinfo=UTC)


def parse_part(text: str | None) -> tuple[int, int] | None:
    """``K/N`` as the two numbers, with 0 for K = N."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+|@)/(\d+)", text, re.ASCII)
    if found is None or found[2].strip("0") == "" or (found[1] != "@" and int(found[1]) > int(found[2])):
        raise ConfigError(f"hash_filter: {text!r} is not 'K/N' with 0 <= K <= N and 1 <= N")
    if found[1] == "@":
        raise ConfigError(
            f"hash_filter: {text!r} would take another part at every call: choose a K from 1 to {found[2]}"
        )
    return int(found[1]) % int(found[2]), int(found[2])


def part_of(path: str, parts: int) -> int:
    """The number, below ``parts``, of the part that ``path`` is in."""
    digest = hashlib.md5(sort_key(unicodedata.normalize("NFC", path).lower()), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "little") % parts
