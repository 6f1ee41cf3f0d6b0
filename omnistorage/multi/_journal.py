"""What is still to be made alike, kept where a crash does not reach it. Imports floors 0 and 2.

The journal is a folder of any backend. An entry is one small object that never changes, named so that names sort by
time: it can be written anywhere, by several processes at once, and removing one touches no other.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..core import ExtendedBackend, WriteOptions
from ..errors import CorruptData, NotFound, StorageError
from ..ops import read_bytes, write_bytes
from ..paths import join

VERSION = 1
_CONTENT = "application/json"


class Missed(NamedTuple):
    """One entry. ``targets`` do not, or may not, have what ``path`` should be: a ``file`` with the digest ``sha256``
    (None: not known, or none: what the other targets have counts), a ``dir``, or the metadata (``meta``) of a file.
    Where ``intent`` is true a change at all of them began and nobody has told its end."""

    id: str
    path: str
    targets: tuple[str, ...]
    kind: str = "file"
    sha256: str | None = None
    intent: bool = False
    urls: tuple[str | None, ...] = ()


class Journal:
    """The entries under ``folder`` of ``backend``. ``entries`` are those of this process and those that were there when
    ``load`` was called last. Safe for several threads."""

    def __init__(
        self, backend: ExtendedBackend, folder: str, max_bytes: int, now: Callable[[], float] = time.time
    ) -> None:
        self._backend = backend
        self._folder = folder
        self._max_bytes = max_bytes
        self._now = now
        self._lock = threading.RLock()
        self._last = 0
        self._sizes: dict[str, int] = {}
        self._paths: dict[str, list[str]] = {}
        self._loaded = False
        self.bytes = 0
        self.entries: dict[str, Missed] = {}
        self.live: set[str] = set()  # intents of this process whose end is still to come

    def load(self) -> Sequence[Missed]:
        """All entries there are now, oldest first. Raises ``CorruptData`` for one that is damaged."""
        found: list[tuple[Missed, int]] = []
        for info in self._backend.list(self._folder):
            try:
                text = read_bytes(self._backend, info.path)
            except NotFound:
                continue  # removed meanwhile
            found.append((_entry(text, info.path), len(text)))
        with self._lock:
            self.entries, self._sizes, self._paths, self.bytes = {}, {}, {}, 0
            for entry, size in sorted(found):
                self._take(entry, size)
            self._loaded = True
        return tuple(self.entries.values())

    def _take(self, entry: Missed, size: int) -> None:
        self.entries[entry.id], self._sizes[entry.id] = entry, size
        self._paths.setdefault(entry.path, []).append(entry.id)
        self.bytes += size

    def known(self) -> Sequence[Missed]:
        """The entries, read once."""
        with self._lock:
            if not self._loaded:
                self.load()
            return tuple(self.entries.values())

    def of(self, path: str) -> list[Missed]:
        """What is known of ``path``, oldest first."""
        self.known()
        with self._lock:
            return [self.entries[id] for id in self._paths.get(path, ())]

    def add(self, entry: Missed) -> Missed:
        """Keep ``entry``, durably, under a new id. Raises ``StorageError`` where there is no room."""
        self.known()
        with self._lock:
            self._last = max(int(self._now() * 1e6), self._last + 1)
            entry = entry._replace(id=f"{self._last:016x}{uuid.uuid4().hex[:12]}")
        text = json.dumps({"version": VERSION, **entry._asdict()}, separators=(",", ":")).encode()
        if self.bytes + len(text) > self._max_bytes:
            raise StorageError(
                f"the repair journal has {len(self.entries)} entries and reached its {self._max_bytes} bytes: "
                "repair() the targets, or raise journal_bytes", path=self._folder, op="write",
            )  # fmt: skip
        options = WriteOptions(durable=getattr(self._backend, "durable", False), content_type=_CONTENT)
        write_bytes(self._backend, self._place(entry.id), text, options)
        with self._lock:
            self._take(entry, len(text))
        return entry

    def age(self, entry: Missed) -> float:
        """Seconds since ``entry`` was made, by this machine's clock."""
        return self._now() - int(entry.id[:16], 16) / 1e6

    def remember(self, entry: Missed) -> None:
        """Know of ``entry`` in this process alone, until the next ``load``: for when it cannot be kept."""
        with self._lock:
            self._take(entry._replace(id=f"{self._last:016x}-{len(self.entries)}"), 0)

    def remove(self, ids: Iterable[str]) -> None:
        """Forget entries: they are settled."""
        for one in list(ids):
            if "-" not in one:  # else only remembered
                self._backend.delete(self._place(one))
            with self._lock:
                entry = self.entries.pop(one, None)
                if entry is not None:
                    self.bytes -= self._sizes.pop(one)
                    self._paths[entry.path].remove(one)
                    if not self._paths[entry.path]:
                        del self._paths[entry.path]

    def _place(self, id: str) -> str:
        return join(self._folder, f"{id}.json")


def _entry(text: bytes, path: str) -> Missed:
    try:
        row: dict[str, Any] = json.loads(text)
        if row.pop("version") != VERSION:
            raise ValueError("it is of another version")
        row["targets"], row["urls"] = tuple(row["targets"]), tuple(row["urls"])
        entry = Missed(**row)
        if not isinstance(entry.path, str) or entry.kind not in ("file", "dir", "meta") or not entry.targets:
            raise ValueError("it does not say what is missed")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptData(
            f"this entry of the repair journal is damaged ({error}); delete it and verify() the targets", path=path
        ) from error
    return entry
