"""Objects in the rows of a SQL table."""

from __future__ import annotations

from .backend import SQLBlobBackend

__all__ = [
    "SQLBlobBackend",
]
