"""Azure Blob Storage and Data Lake Storage Gen2."""

from __future__ import annotations

from .backend import AzureBackend

__all__ = [
    "AzureBackend",
]
