"""Several backends as one. ``MultiBackend`` mirrors: every write goes to all of them. ``TieredBackend`` routes: by
pattern, or from tier to tier.
"""

from __future__ import annotations

from .common.outcomes import Difference, Outcome
from .common.tier import Tier
from .mirror import Divergence, Missed, MultiBackend, MultiWriter, Repaired, Target, Verified
from .tiered import TieredBackend

__all__ = [
    "Difference",
    "Divergence",
    "Missed",
    "MultiBackend",
    "MultiWriter",
    "Outcome",
    "Repaired",
    "Target",
    "Tier",
    "TieredBackend",
    "Verified",
]
