"""Comma-separated values (RFC 4180)."""

from __future__ import annotations

from .format import Csv

__all__ = [
    "Csv",
]
