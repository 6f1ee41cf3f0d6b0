"""Encryption on this side of a backend."""

from __future__ import annotations

from .wrapper import Encrypt

__all__ = [
    "Encrypt",
]
