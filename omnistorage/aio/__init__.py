"""The async wing, for ``asyncio``: pure parts and assembly are used again, only what waits is written anew. Imported by
``ext`` and the root's lazy names alone.
"""

from .delivery import AsyncRollingRecordWriter

__all__ = ["AsyncRollingRecordWriter"]
