"""Comparing two places, or one with a file of sums."""

from __future__ import annotations

from .checker import CheckReport

__all__ = [
    "CheckReport",
]
