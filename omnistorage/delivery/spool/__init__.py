"""A spool: records kept on the local disk until the store has them."""

from __future__ import annotations

from .spool import Spool, SpoolStatus, spool_status

__all__ = [
    "Spool",
    "SpoolStatus",
    "spool_status",
]
