"""Servers that speak SFTP."""

from __future__ import annotations

from .backend import SFTPBackend

__all__ = [
    "SFTPBackend",
]
