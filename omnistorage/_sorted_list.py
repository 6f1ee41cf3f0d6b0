"""A listing in the order of the keys' UTF-8 bytes, from stores that list in another one. Floor 0.

An external merge sort: runs of as many entries as fit are sorted and put into temporary files, which are merged. Memory
and open files are bounded whatever the listing's length.
"""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import IO, Any

from .core import Backend, ListOptions, ObjectInfo
from .paths import sort_key

RUN = 50_000
"""Entries sorted at once: some 50 MiB."""
FAN_IN = 64
"""Runs merged at once, each an open file."""
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
        entries.sort(key=key)
        # Runs of a higher level came earlier: equal keys stay in the order in which they came.
        runs = [_entries(file) for files in reversed(levels) for file in files]
        yield from heapq.merge(*runs, entries, key=key)
    finally:
        for files in levels:
            for file in files:
                file.close()


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
        file.close()
        raise
    return file


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
