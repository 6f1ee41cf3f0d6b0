"""A listing in the order of the keys' UTF-8 bytes, from stores that list in another one.

An external merge sort: runs of as many entries as fit are sorted and put into temporary files, which are merged. Memory
and open files are bounded whatever the listing's length.
"""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, Any

from omnistorage.errors import StorageError
from omnistorage.paths import sort_key

from .options import ListOptions
from .protocols import Backend
from .types import ObjectInfo

RUN = 50_000
"""Entries sorted at once: some 50 MiB."""
FAN_IN = 64
"""Runs merged at once, each an open file."""
SMALL = 1000
"""So many entries of a listing that waits stay in memory."""
_BUFFER = 64 * 1024


def sorted_entries(
    backend: Backend, prefix: str, options: ListOptions, *, run: int = RUN, fan_in: int = FAN_IN
) -> Iterator[ObjectInfo]:
    """What ``backend.list(prefix, options)`` yields, sorted."""
    return sort_entries(backend.list(prefix, options), run=run, fan_in=fan_in)


def sort_entries(
    infos: Iterable[ObjectInfo], key: Callable[[ObjectInfo], Any] | None = None, *, run: int = RUN, fan_in: int = FAN_IN
) -> Iterator[ObjectInfo]:
    """``infos`` in the order of ``key``, by default that of their paths. Equal ones keep their order."""
    found = Sorted(infos, key, run=run, fan_in=fan_in)
    try:
        yield from found
    finally:
        found.close()


class Sorted:
    """The same as an iterator. All of ``infos`` is read when it is made."""

    def __init__(
        self,
        infos: Iterable[ObjectInfo],
        key: Callable[[ObjectInfo], Any] | None = None,
        *,
        run: int = RUN,
        fan_in: int = FAN_IN,
    ) -> None:
        self._files: list[IO[str]] = []
        key = key or _key
        entries: list[ObjectInfo] = []
        levels: list[list[IO[str]]] = []  # levels[n] holds runs that were merged n times, fewer than fan_in of them
        try:
            for info in infos:
                entries.append(info)
                if len(entries) >= run:
                    entries.sort(key=key)
                    _add(levels, 0, entries, fan_in, key)
                    entries = []
        finally:
            # Runs of a higher level came earlier: equal keys stay in the order in which they came.
            self._files = [file for files in reversed(levels) for file in files]
        entries.sort(key=key)
        self._in_memory = len(entries)
        self._rest: Iterator[ObjectInfo] = heapq.merge(*map(_entries, self._files), entries, key=key)

    def __iter__(self) -> Iterator[ObjectInfo]:
        return self

    def __next__(self) -> ObjectInfo:
        try:
            return next(self._rest)
        except StopIteration:
            self.close()
            raise
        except OSError as error:
            raise _no_room(error) from error

    def shrink(self) -> None:
        """Put what is left into one file, if it takes several or much memory. For what waits behind another one."""
        if len(self._files) > 1 or self._in_memory > SMALL:
            file = _spilled(self._rest)
            self.close()
            self._files, self._in_memory, self._rest = [file], 0, _entries(file)

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    def __del__(self) -> None:
        self.close()


def _key(info: ObjectInfo) -> bytes:
    return sort_key(info.path)


def _add(
    levels: list[list[IO[str]]],
    level: int,
    entries: Iterable[ObjectInfo],
    fan_in: int,
    key: Callable[[ObjectInfo], Any],
) -> None:
    """Keep a sorted run; merge those of its level into one of the next when there are ``fan_in``."""
    if level == len(levels):
        levels.append([])
    levels[level].append(_spilled(entries))
    if len(levels[level]) >= fan_in:
        files, levels[level] = levels[level], []
        try:
            _add(levels, level + 1, heapq.merge(*map(_entries, files), key=key), fan_in, key)
        finally:
            for file in files:
                file.close()


def _spilled(entries: Iterable[ObjectInfo]) -> IO[str]:
    try:
        # Unnamed from the start where the system can, so that nothing is left behind, and readable by nobody else.
        file = tempfile.TemporaryFile(  # noqa: SIM115
            "w+", buffering=_BUFFER, encoding="ascii", prefix="omnistorage-"
        )
        try:
            for info in entries:
                file.write(json.dumps(plain(info), separators=(",", ":")))
                file.write("\n")
            file.seek(0)
        except BaseException:
            with suppress(OSError):  # which writes what is left, and the disk may be full
                file.close()
            raise
    except OSError as error:
        raise _no_room(error) from error
    return file


def _no_room(error: OSError) -> StorageError:
    """Our error for a temporary file that cannot be made, written or read."""
    if isinstance(error, StorageError):
        return error
    found = StorageError(f"the listing cannot be sorted on disk: {error}")
    found.errno = error.errno
    return found


def plain(info: ObjectInfo) -> list[Any]:
    """``info`` as JSON can hold it."""
    moment = info.modified_at
    return [info.path, info.size, None if moment is None else moment.isoformat(), *info[3:]]


def from_plain(row: list[Any]) -> ObjectInfo:
    """The ``ObjectInfo`` that ``plain`` was made of."""
    path, size, moment, *rest = row
    return ObjectInfo(path, size, None if moment is None else datetime.fromisoformat(moment).astimezone(UTC), *rest)


def _entries(file: IO[str]) -> Iterator[ObjectInfo]:
    return map(from_plain, map(json.loads, file))
