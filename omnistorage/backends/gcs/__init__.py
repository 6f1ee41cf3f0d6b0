"""Google Cloud Storage."""

from __future__ import annotations

from .backend import GCSBackend

__all__ = [
    "GCSBackend",
]
