"""Folders of the local file system."""

from __future__ import annotations

from .backend import LocalBackend

__all__ = [
    "LocalBackend",
]
