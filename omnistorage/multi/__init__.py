"""Several backends as one. ``TieredBackend`` routes: by pattern, or from tier to tier. Imports floors 0 and 2, and
wrappers."""

from __future__ import annotations

from .outcomes import Difference, Outcome
from .tiered import TieredBackend
from .tiers import Tier

__all__ = ["Difference", "Outcome", "Tier", "TieredBackend"]
