"""What is reported of each of several backends. Imports floor 0 only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..core import ObjectInfo

State = Literal["committed", "failed", "unknown", "aborted"]


@dataclass(frozen=True)
class Outcome:
    """How a change ended at one target: ``committed`` (all of it is there), ``failed`` (nothing of it is), ``unknown``
    (the answer was lost, nobody waited for it any longer, or the target was unavailable in the end: an earlier try of
    the same request may have got through), ``aborted`` (given up, as too many others failed). ``sha256`` is the digest
    of what was written, in a write."""

    target: str
    state: State
    info: ObjectInfo | None = None
    error: BaseException | None = None
    path: str = ""
    sha256: str | None = None


@dataclass(frozen=True)
class Difference:
    """What a shadow read found: ``what`` is ``"missing"``, ``"size"``, ``"content"`` or ``"error"`` (the secondary tier
    could not be asked: ``error``)."""

    path: str
    primary: str
    secondary: str
    what: Literal["missing", "size", "content", "error"]
    error: Exception | None = None


class ShadowStats(NamedTuple):
    """How many reads were compared with the secondary tier, how many of them differed or could not be compared, and how
    many were not compared: because they were not read to their end, or too many comparisons were under way."""

    compared: int = 0
    differing: int = 0
    failed: int = 0
    skipped: int = 0
