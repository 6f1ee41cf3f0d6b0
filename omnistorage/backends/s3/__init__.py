"""Amazon S3 and servers that speak its API."""

from __future__ import annotations

from .backend import S3Backend

__all__ = [
    "S3Backend",
]
