"""Backends: a file or a folder each, all on ``BackendBase``. ``config`` opens them by name.

Third parties build on ``BackendBase``, ``ReaderBase`` and ``WriterBase``, or implement ``core.Backend`` themselves.
"""

from __future__ import annotations

from .base import BackendBase
from .streams import ReaderBase, WriterBase

__all__ = ["BackendBase", "ReaderBase", "WriterBase"]
