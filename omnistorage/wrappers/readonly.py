"""``ReadOnly``: everything that reads, nothing that changes."""

from __future__ import annotations

from omnistorage.core import Confine, Glob, HealthCheck, ReadRanges, Resolve, Versions

from .base import Wrapper


class ReadOnly(Wrapper):
    """The inner backend, without any method or power that changes something: each raises ``CapabilityNotSupported``
    before the inner backend is asked. A presigned URL can write, so there is none; ``stale_uploads`` go with what
    removes them."""

    clears = frozenset(
        {
            *("write", "delete", "copy", "move", "atomic_move", "dirs", "atomic_write", "create_only", "if_match"),
            *("user_metadata", "purge", "set_modified", "append"),
        }
    )
    adapts = frozenset({Confine, Glob, HealthCheck, ReadRanges, Resolve, Versions})
