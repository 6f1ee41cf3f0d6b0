"""What a store can do, by name. Each capability is a flag of ``Features`` or a power, said in one table."""

from __future__ import annotations

from enum import StrEnum

from omnistorage.core import Append, Backend, Glob, Presign, Versions, features_of, power


class Capability(StrEnum):
    """What ``Store.supports`` answers for. A method that needs one which is not there raises
    ``CapabilityNotSupported``; MOVE, COPY and GLOB say that the store does it by itself, as ``move``, ``copy`` and
    ``glob`` work on every store that can be read, written and listed."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    LIST = "list"
    GLOB = "glob"
    MOVE = "move"
    COPY = "copy"
    ATOMIC_WRITE = "atomic_write"
    ATOMIC_MOVE = "atomic_move"
    CREATE_ONLY = "create_only"
    IF_MATCH = "if_match"
    METADATA = "metadata"
    USER_METADATA = "user_metadata"
    SEEKABLE_READ = "seekable_read"
    LAZY_READ = "lazy_read"
    RANGE_READ = "range_read"
    APPEND = "append"
    PRESIGN = "presign"
    VERSIONS = "versions"


SOURCES: dict[Capability, str | type] = {
    Capability.METADATA: "stat",
    Capability.SEEKABLE_READ: "read",  # what cannot be read in ranges is spooled
    Capability.GLOB: Glob,
    Capability.APPEND: Append,
    Capability.PRESIGN: Presign,
    Capability.VERSIONS: Versions,
    **{
        capability: capability.value
        for capability in Capability
        if capability.value not in ("metadata", "seekable_read", "glob", "append", "presign", "versions")
    },
}
"""Where each is read from: the name of a flag, or the protocol of a power."""
INTERNAL = frozenset(
    {
        "sorted_list", "list_seek", "dirs", "stat", "read", "append", "purge", "set_modified",
        "SetMetadata", "FolderTimes", "Links",
        "BulkDelete", "Purge", "Resolve", "HealthCheck", "ResumableWrite", "StaleUploads", "ReadRanges",
        "Settle", "Confine",
    }
)  # fmt: skip
"""Flags and powers that are no capability under their own name: how a store does things, not what users ask for."""


def has(backend: Backend, capability: Capability) -> bool:
    """Whether ``backend`` has ``capability``, without I/O."""
    source = SOURCES[capability]
    if isinstance(source, str):
        return bool(getattr(features_of(backend), source))
    return power(backend, source) is not None


def capabilities(backend: Backend) -> frozenset[Capability]:
    """All that ``backend`` has."""
    return frozenset(capability for capability in Capability if has(backend, capability))
