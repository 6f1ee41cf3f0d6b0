"""One logical backend over tiers of which each keeps some of the objects."""

from __future__ import annotations

from .backend import TieredBackend

__all__ = [
    "TieredBackend",
]
