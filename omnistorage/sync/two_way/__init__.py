"""``bisync``: changes of both sides are brought to the other."""

from __future__ import annotations

from .run import BisyncReport, bisync

__all__ = [
    "BisyncReport",
    "bisync",
]
