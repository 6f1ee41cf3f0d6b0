"""Writers that a later process can continue."""

from __future__ import annotations

from .writer import ResumableWriter

__all__ = [
    "ResumableWriter",
]
