"""The Store: relative paths to bytes, one API over every backend. Imports floors 0 and 2, and wrappers."""

from __future__ import annotations

from ._listing import FolderEntry, FolderInfo
from .capability import Capability
from .paths import RemotePath, StorePath
from .proxy import ProxyStore
from .registry import Registry, open, open_store
from .store import Store

__all__ = [
    "Capability",
    "FolderEntry",
    "FolderInfo",
    "ProxyStore",
    "Registry",
    "RemotePath",
    "Store",
    "StorePath",
    "open",
    "open_store",
]
