"""Web servers, read only, and WebDAV."""

from __future__ import annotations

from .backend import HTTPBackend

__all__ = [
    "HTTPBackend",
]
