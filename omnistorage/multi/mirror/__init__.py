"""One logical backend that keeps the same objects on several targets."""

from __future__ import annotations

from .backend import MultiBackend
from .journal import Missed
from .repair import Divergence, Repaired, Verified
from .target import Target
from .writer import MultiWriter

__all__ = [
    "Divergence",
    "Missed",
    "MultiBackend",
    "MultiWriter",
    "Repaired",
    "Target",
    "Verified",
]
