"""What goes with a copy on Azure, and how it ended."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from omnistorage.backends.object_store.client import Put
from omnistorage.backends.object_store.writer import Store, conclude, new_put
from omnistorage.core import CopyOptions, ObjectInfo, WriteOptions
from omnistorage.errors import AlreadyExists, ConfigError, PreconditionFailed
from omnistorage.media_types import CONTENT_TYPE

from .client import WRITE_ID
from .transport import Refused


def check_names(metadata: Mapping[str, str] | None) -> None:
    """Refuse what Azure would change or we would hide."""
    for name, value in (metadata or {}).items():
        if name == WRITE_ID:
            raise ConfigError(f"the metadata key {name!r} is taken: it tells whose a write was")
        if value != value.strip():
            raise ConfigError(f"the metadata value of {name!r}: Azure keeps no spaces around it")


def put_for_copy(head: ObjectInfo, options: CopyOptions) -> Put:
    put = new_put(WriteOptions(overwrite=options.overwrite, if_match=options.if_match), CONTENT_TYPE)
    metadata = head.metadata if options.user_metadata is None else options.user_metadata
    # With an id in any case: without a single key the store would keep those of the source.
    return replace(put, metadata=dict(metadata or {}), write_id=put.write_id or uuid.uuid4().hex)


def conclude_copy(
    store: Store, op: str, src: str, dst: str, key: str, put: Put, request: Callable[[], ObjectInfo]
) -> ObjectInfo:
    """``conclude``, but a source that changed is no conflict at the target."""
    changed = False

    def attempt() -> ObjectInfo:
        nonlocal changed
        changed = False
        try:
            return request()
        except Refused as error:
            changed = error.code == "SourceConditionNotMet"
            raise

    try:
        return conclude(store, op, dst, key, put, attempt)
    except (AlreadyExists, PreconditionFailed) as error:
        if not changed:
            raise
        raise PreconditionFailed("the source changed as it was copied", path=src, backend=store.name, op=op) from error
