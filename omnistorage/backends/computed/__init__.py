"""Objects that are computed when they are read."""

from __future__ import annotations

from .backend import ComputedBackend
from .functions import ComputeBackend, Computed

__all__ = [
    "ComputeBackend",
    "Computed",
    "ComputedBackend",
]
