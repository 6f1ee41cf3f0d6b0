"""A cache in front of a backend."""

from __future__ import annotations

from .entries import CacheStats
from .wrapper import Cache

__all__ = [
    "Cache",
    "CacheStats",
]
