"""The media type of an object, by its name."""

from __future__ import annotations

import mimetypes
from functools import lru_cache

CONTENT_TYPE = "application/octet-stream"


@lru_cache(maxsize=1024)
def content_type(name: str) -> str:
    """What the suffixes of ``name`` say, for stores that would otherwise call everything binary."""
    kind, encoding = mimetypes.guess_type(name)
    return CONTENT_TYPE if kind is None or encoding is not None else kind
