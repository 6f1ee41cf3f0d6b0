"""Extensions of a Store that need no third party, in one place. Each is a function of a store: there is no registry and
no state of the module, and none of them changes the core. What a store has anyway are its methods: ``glob``,
``transfer``, ``checksum``, ``verify``."""

from __future__ import annotations

from omnistorage.store.batch import BatchResult, batch_copy, batch_delete, batch_exists, batch_read, batch_stat
from omnistorage.store.partition import ParsedPartition, parse_partition, partition_path
from omnistorage.store.wrapped import cache, encrypt, observe

__all__ = [
    "BatchResult",
    "ParsedPartition",
    "batch_copy",
    "batch_delete",
    "batch_exists",
    "batch_read",
    "batch_stat",
    "cache",
    "encrypt",
    "observe",
    "parse_partition",
    "partition_path",
]
