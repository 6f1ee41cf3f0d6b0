"""What a cache holds in ``into``, and what has to go when that is too much.

An entry is one object of ``into``, named by a digest; whatever else lies there is left alone. The index is a guess that
other processes make wrong at any time, so it is only used to decide what to evict.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from datetime import UTC, datetime

from omnistorage.core import Backend

_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")
_FIRST = datetime.min.replace(tzinfo=UTC)
RELIST = 64
"""After this many new entries, or a quarter of what is there, whatever is more, ``into`` is listed again."""


def entry_name(*parts: str) -> str:
    """The name of the entry for what ``parts`` say. No two lists of parts have the same."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    name = digest.hexdigest()
    return f"{name[:2]}/{name}"


class Index:
    """The entries in ``into``, least recently used first: by the store's time where they come from a listing, by use
    in this process from then on. Without limits it knows nothing and asks nothing."""

    def __init__(self, into: Backend, max_bytes: int | None, max_entries: int | None) -> None:
        self._into = into
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, int] | None = None
        self._bytes = 0
        self._new = 0

    @property
    def limited(self) -> bool:
        return self._max_bytes is not None or self._max_entries is not None

    def holds(self, size: int) -> bool:
        """Whether an entry of ``size`` bytes may be there at all."""
        return (self._max_bytes is None or size <= self._max_bytes) and self._max_entries != 0

    def touch(self, name: str) -> None:
        """An entry was used."""
        with self._lock:
            if self._entries is not None and name in self._entries:
                self._entries.move_to_end(name)

    def forget(self, name: str) -> None:
        """An entry is gone."""
        with self._lock:
            if self._entries is not None:
                self._bytes -= self._entries.pop(name, 0)

    def add(self, name: str, size: int) -> list[str]:
        """An entry is new; the names of those that have to go for it, which are no longer counted."""
        if not self.limited:
            return []
        with self._lock:
            entries = self._listed()
            self._bytes += size - entries.pop(name, 0)
            entries[name] = size
            gone: list[str] = []
            while self._is_over(entries) and len(entries) > 1:
                old, freed = entries.popitem(last=False)
                self._bytes -= freed
                gone.append(old)
            return gone

    def _is_over(self, entries: OrderedDict[str, int]) -> bool:
        return (self._max_bytes is not None and self._bytes > self._max_bytes) or (
            self._max_entries is not None and len(entries) > self._max_entries
        )

    def _listed(self) -> OrderedDict[str, int]:
        self._new += 1
        known = self._entries
        if known is not None and self._new <= max(RELIST, len(known) // 4):
            return known
        found = [(info.modified_at or _FIRST, info.path, info.size or 0) for info in self._into.list()]
        listed = OrderedDict((path, size) for _, path, size in sorted(found) if _NAME.fullmatch(path))
        for name in known or ():  # the order of use in this process is known better
            if name in listed:
                listed.move_to_end(name)
        self._entries, self._bytes, self._new = listed, sum(listed.values()), 1
        return listed
