"""Which objects a sync looks at."""

from __future__ import annotations

from .filter import Filter

__all__ = [
    "Filter",
]
