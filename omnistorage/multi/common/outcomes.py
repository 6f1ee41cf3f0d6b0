"""What is reported of each of several backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from omnistorage.errors import Outcome as Outcome
from omnistorage.errors import State as State


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
