"""Several backends as one. ``MultiBackend`` mirrors: every write goes to all of them. ``TieredBackend`` routes: by
pattern, or from tier to tier. Imports floors 0 and 2, and wrappers."""

from __future__ import annotations

from ._fanout import MultiWriter
from ._journal import Missed
from ._repair import Divergence, Repaired, Verified
from .mirrored import MultiBackend
from .outcomes import Difference, Outcome
from .targets import Target
from .tiered import TieredBackend
from .tiers import Tier

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
