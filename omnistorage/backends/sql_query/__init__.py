"""Results of SQL queries as read-only objects."""

from __future__ import annotations

from .backend import SQLQueryBackend

__all__ = [
    "SQLQueryBackend",
]
