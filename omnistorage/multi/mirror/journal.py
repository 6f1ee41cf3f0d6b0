"""What is still to be made alike, kept where a crash does not reach it.

The journal is a folder of any backend. An entry is one small object that never changes, named so that names sort by
time: it can be written anywhere, by several processes at once, and removing one touches no other.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from omnistorage.concurrency.pools import forks
from omnistorage.core import ExtendedBackend, WriteOptions
from omnistorage.errors import Cancelled, CorruptData, NotFound, StorageError
from omnistorage.ops import read_at_most, write_bytes
from omnistorage.paths import check_key, join

VERSION = 2
FRESH = 10.0
"""How many seconds old what a process knows of the entries of others may be, where it does not matter more."""
log = logging.getLogger(__name__)
_NAME = re.compile(r"([0-9a-f]{28})\.json")
_CONTENT = "application/json"
MAX_ENTRY = 1 << 16
"""The longest entry that is read, in bytes: a path of 1 KiB, and names and URLs of targets."""
_OVERFULL = 4  # times its bound: writers that do not see each other may pass it
_DAMAGED = 1024  # bytes that the error of an entry takes, which itself may have none
_FAR = 1 << 56
"""Microseconds since 1970 up to the year 4253. After a later entry no id would sort behind all others."""


class Missed(NamedTuple):
    """One entry. ``targets`` do not, or may not, have what ``path`` should be: a ``file`` with the digest ``sha256``
    (empty: there is to be none; None: not known, what the other targets have counts), a ``dir``, or the metadata
    (``meta``) of a file. All others of ``among``, which are the targets there were, have it.

    ``urls`` are those of ``among``: a target may have another name or position when the entry is read.

    Where ``intent`` is true a change of all began and nobody has told its end; it was done if one of ``targets`` is as
    it should be. A ``doubt`` says of ``targets`` alone that they may not have what others do, and of those nothing."""

    id: str
    path: str
    targets: tuple[str, ...]
    kind: str = "file"
    sha256: str | None = None
    intent: bool = False
    urls: tuple[str | None, ...] = ()
    among: tuple[str, ...] = ()
    doubt: bool = False


class Journal:
    """The entries under ``folder`` of ``backend``. Safe for several threads.

    ``entries`` are those that this process knows of, ``damaged`` the errors of those that cannot be read. ``names`` are
    those of the targets by URL. An error of its backend says that it is the journal's, with the path of the change.
    """

    def __init__(
        self,
        backend: ExtendedBackend,
        folder: str,
        max_bytes: int,
        now: Callable[[], float] = time.time,
        draw: Callable[[], str] = lambda: uuid.uuid4().hex[:12],
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.backend = backend
        self._folder = folder
        self._max_bytes = max_bytes
        self._now = now
        self._draw = draw  # tells entries of one moment apart
        self._targets = names
        self._lock = threading.RLock()
        self._last, self._top = 0, ""
        self._forks = forks[0]
        self._sizes: dict[str, int] = {}
        self._paths: dict[str, list[str]] = {}
        self._read_at: float | None = None
        self.bytes = 0
        self.entries: dict[str, Missed] = {}
        self.damaged: dict[str, CorruptData] = {}
        self.live: set[str] = set()  # intents of this process whose end is still to come
        self.mine: set[str] = set()  # and all others of it
        self._until: dict[str, str] = {}  # what is remembered until another entry is gone

    def load(self, max_age: float = 0.0) -> Sequence[Missed]:
        """All entries there are, oldest first, as they were ``max_age`` seconds ago or later. One that is damaged is
        told in the log, and stands in ``damaged``: it says nothing of its path any more, and keeps nobody from the
        others."""
        if self._forks != forks[0]:  # the parent's changes are not ours, and its locks may be held for ever
            self._forks, self._lock = forks[0], threading.RLock()
            self.live, self.mine = set(), set()
        with self._lock:
            if self._read_at is not None and abs(self._now() - self._read_at) < max_age:
                return tuple(self.entries.values())
            before, start = set(self.entries), self._now()
        found: list[tuple[Missed, int]] = []
        room = _OVERFULL * self._max_bytes - self.bytes
        with self._ours(None):
            names = set(self._names())
            for id in sorted(names - before - set(self.damaged)):
                try:
                    text = read_at_most(self.backend, self._place(id), MAX_ENTRY)
                except NotFound:
                    continue  # removed meanwhile
                room -= len(text)
                if room < 0:
                    raise StorageError(
                        f"it has more than {_OVERFULL} times journal_bytes={self._max_bytes}: remove what others wrote "
                        "there, or raise journal_bytes",
                        op="list",
                    )
                try:
                    found.append((self._as_named_now(_entry(text, id, self._place(id))), len(text)))
                except CorruptData as error:
                    room -= _DAMAGED
                    self.damaged[id] = error
                    log.warning("%s", error)
        with self._lock:
            self.damaged = {id: error for id, error in self.damaged.items() if id in names}
            for id in before - names:
                if "-" not in id:
                    self._forget(id)
            for entry, size in found:
                self._take(entry, size)
            self._read_at = start
            return tuple(self.entries.values())

    def _as_named_now(self, entry: Missed) -> Missed:
        """``entry`` with the names that its targets have in this process."""
        taken, now = set(self._targets.values()), dict[str, str]()
        for name, url in zip(entry.among, entry.urls, strict=False):
            now[name] = name if url is None else self._targets.get(url, url if name in taken else name)
        return entry._replace(
            targets=tuple(now.get(name, name) for name in entry.targets),
            among=tuple(now.get(name, name) for name in entry.among),
        )

    def _names(self) -> Iterator[str]:
        try:
            for info in self.backend.list(self._folder):
                match = _NAME.fullmatch(info.name)
                if match:
                    yield match[1]
        except NotFound:
            return  # a folder that is still to be made; a bucket that is not there is told by the first entry

    def _take(self, entry: Missed, size: int) -> None:
        if entry.id in self.entries:
            return
        self._last = max(self._last, int(entry.id[:16], 16))  # a clock may go back
        self.entries[entry.id], self._sizes[entry.id] = entry, size
        if entry.id < self._top:
            self.entries = dict(sorted(self.entries.items()))
        self._top = max(self._top, entry.id)
        self._paths.setdefault(entry.path, []).append(entry.id)
        self._paths[entry.path].sort()
        self.bytes += size

    def _forget(self, id: str) -> None:
        entry = self.entries.pop(id, None)
        self.mine.discard(id)
        remembered = self._until.pop(id, None)
        if remembered is not None:
            self._forget(remembered)
        if entry is not None:
            self.bytes -= self._sizes.pop(id)
            self._paths[entry.path].remove(id)
            if not self._paths[entry.path]:
                del self._paths[entry.path]

    def of(self, path: str, max_age: float = FRESH) -> list[Missed]:
        """What is known of ``path``, oldest first."""
        self.load(max_age)
        with self._lock:
            return [self.entries[id] for id in self._paths.get(path, ())]

    def add(self, entry: Missed, *, in_place: bool = False) -> Missed:
        """Keep ``entry``, durably, under a new id. Raises ``StorageError`` where there is no room; one that comes
        ``in_place`` of another has it."""
        self.load(FRESH)
        with self._lock:
            self._last = max(int(self._now() * 1e6), self._last + 1)
            entry = entry._replace(id=f"{self._last:016x}{self._draw()}")
        row = entry._asdict()
        text = _plain({"version": VERSION, "crc32": _checksum(row), "entry": row})
        if len(text) > MAX_ENTRY:
            raise StorageError(f"a journal entry would have {len(text)} bytes", path=entry.path, op="write")
        if not in_place and self.bytes + len(text) > self._max_bytes:
            raise StorageError(
                f"the repair journal has {len(self.entries)} entries and reached its {self._max_bytes} bytes: "
                "repair() the targets, or raise journal_bytes", path=self._folder, op="write",
            )  # fmt: skip
        options = WriteOptions(durable=getattr(self.backend, "durable", False), content_type=_CONTENT)
        with self._ours(entry.path):
            write_bytes(self.backend, self._place(entry.id), text, options)
        with self._lock:
            self._take(entry, len(text))
            self.mine.add(entry.id)
        return entry

    def age(self, entry: Missed) -> float:
        """Seconds since ``entry`` was made, by this machine's clock."""
        return self._now() - int(entry.id[:16], 16) / 1e6

    def remember(self, entry: Missed, until: str = "") -> None:
        """Know of ``entry`` in this process alone, for when it cannot be kept; until the entry ``until`` is gone, by
        which all others know that there is something to be settled."""
        with self._lock:
            self._last += 1
            self._until[until] = f"{self._last:016x}-"
            self._take(entry._replace(id=self._until[until]), 0)

    def remove(self, ids: Iterable[str]) -> None:
        """Forget entries: they are settled."""
        for id in list(ids):
            if "-" not in id:  # else only remembered
                known = self.entries.get(id)
                with self._ours(None if known is None else known.path):
                    self.backend.delete(self._place(id))
            with self._lock:
                self._forget(id)

    @contextmanager
    def _ours(self, path: str | None) -> Iterator[None]:
        """What fails in the block is no fault of a target: the error says so, and ``path``, which is being changed."""
        try:
            yield
        except (Cancelled, CorruptData):
            raise
        except StorageError as error:
            where = self.backend.url or f"<{self.backend.name}>"
            head = f"the repair journal {where} cannot be used: "
            if error.args and not str(error.args[0]).startswith(head):  # a store may raise one error twice
                error.args = (head + str(error.args[0]), *error.args[1:])
            error.path = path
            raise

    def _place(self, id: str) -> str:
        return join(self._folder, f"{id}.json")


def _plain(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":"), sort_keys=True).encode()


def _checksum(row: Mapping[str, Any]) -> str:
    """CRC-32 (that of zlib) of the JSON text with sorted keys and no spaces."""
    return f"{zlib.crc32(_plain(row)):08x}"


def _entry(text: bytes, id: str, path: str) -> Missed:
    """The entry ``id``. Raises ``CorruptData`` unless ``text`` is one in every part."""
    try:
        if len(text) > MAX_ENTRY:
            raise ValueError("it is too long")
        whole = json.loads(text)
        if whole["version"] != VERSION:
            raise ValueError("it is of another version")
        row: dict[str, Any] = whole["entry"]
        if whole["crc32"] != _checksum(row):
            raise ValueError("its checksum differs")
        row |= {"targets": tuple(row["targets"]), "urls": tuple(row["urls"]), "among": tuple(row["among"])}
        entry = Missed(**row)
        if not _is_sound(entry) or entry.id != id or int(id[:16], 16) >= _FAR:
            raise ValueError("it does not say what is missed")
        check_key(entry.path)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptData(
            f"this entry of the repair journal is damaged ({error}): nobody knows what it said; delete it, and "
            "verify(rebuild=True) the targets",
            path=path,
        ) from error
    return entry


def _is_sound(entry: Missed) -> bool:
    """Whether the parts of an entry are what they should be."""
    texts = (*entry.targets, *entry.among, *(url for url in entry.urls if url is not None))
    return (
        all(isinstance(text, str) for text in texts)
        and bool(entry.targets)
        and entry.kind in ("file", "dir", "meta")
        and isinstance(entry.sha256, str | None)
        and isinstance(entry.intent, bool)
        and isinstance(entry.doubt, bool)
    )
