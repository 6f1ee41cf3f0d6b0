"""Metadata for the rules of a filter, asked for where a listing does not show them, as those of S3 and of flat Azure
accounts do not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future

from omnistorage.core import ObjectInfo
from omnistorage.errors import StorageError
from omnistorage.sync.entries import Entry
from omnistorage.sync.filters import Filter

from .lookup_pool import Lookers

_AHEAD = 16


def with_metadata(
    look: Callable[[str], ObjectInfo | None],
    entries: Generator[Entry, None, None],
    filter: Filter,
    readers: int,
    pool: Callable[[int], Executor],
) -> Generator[Entry, None, None]:
    """The entries in their order, each object that all other rules of ``filter`` let pass with the metadata that a
    ``look`` at it shows; ``readers`` at a time in an executor that ``pool`` makes. An object that is gone by now stays
    as it was listed. Raises what else a ``stat`` raises: who knows no metadata cannot say what is to be left alone."""
    waiting: deque[tuple[Entry, Future[ObjectInfo | None] | None]] = deque()
    lookers: Lookers | None = None
    try:
        for entry in entries:
            info, asked = entry.info, None
            if info.kind == "file" and info.metadata is None and filter.includes(entry.path, info):
                lookers = lookers or Lookers(pool(readers))
                asked = lookers.submit(look, info.path)
            waiting.append((entry, asked))
            while waiting and (len(waiting) > _AHEAD * readers or _is_ready(waiting[0][1])):
                yield _answered(*waiting.popleft())
        while waiting:
            yield _answered(*waiting.popleft())
    finally:
        entries.close()
        if lookers is not None:
            lookers.close()


def _is_ready(asked: Future[ObjectInfo | None] | None) -> bool:
    return asked is None or asked.done()


def _answered(entry: Entry, asked: Future[ObjectInfo | None] | None) -> Entry:
    try:
        found = None if asked is None else asked.result()
    except StorageError as error:
        why = "the filter has rules for metadata, and this object's cannot be asked for; exclude it by name to go on"
        error.args = (f"{why}: {error.args[0] if error.args else type(error).__name__}", *error.args[1:])
        raise
    return entry if found is None else entry._replace(info=entry.info._replace(metadata=found.metadata))
