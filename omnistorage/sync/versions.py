"""Whether an object still is the version that was seen, and whether two hold the same bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from omnistorage.concurrency.cancellation import check
from omnistorage.core import ObjectInfo, Reader
from omnistorage.errors import PreconditionFailed

from .endpoint import Side
from .rate_limits import BLOCK

TICK = timedelta(milliseconds=20)
"""File systems take their times from a clock that stands still for up to 10 ms."""


def must_be(expected: ObjectInfo, found: ObjectInfo, side: Side, when: str = "since it was listed") -> None:
    """Raise ``PreconditionFailed`` unless ``found`` is the version that ``expected`` describes."""
    if not is_same_version(expected, found, side.features.modified_precision or timedelta(0)):
        raise PreconditionFailed(f"the {side.role} changed {when}; run again", path=expected.path)


def is_fresh(info: ObjectInfo) -> bool:
    """Whether it was written so lately that writing it again might not show in its time."""
    return info.modified_at is not None and abs(datetime.now(UTC) - info.modified_at) < TICK


def is_same_version(a: ObjectInfo, b: ObjectInfo, precision: timedelta) -> bool:
    """By etag where both have one, else by size and time as far as they are known."""
    if a.size is not None and b.size is not None and a.size != b.size:
        return False
    if a.etag is not None and b.etag is not None:
        return a.etag == b.etag
    if a.modified_at is None or b.modified_at is None or a.modified_at == b.modified_at:
        return True
    return abs(a.modified_at - b.modified_at) < precision


def same_bytes(one: Reader, other: Reader) -> bool:
    """Whether two readers give the same bytes to their ends. Reads no further than the first difference."""
    left, right = b"", b""
    while True:
        check("compare", one.info.path)
        left = left or one.read(BLOCK)
        right = right or other.read(BLOCK)
        if not left or not right:
            return left == right
        size = min(len(left), len(right))
        if left[:size] != right[:size]:
            return False
        left, right = left[size:], right[size:]
