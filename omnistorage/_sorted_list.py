"""A listing in the order of the keys' UTF-8 bytes, from stores that list in another one. Floor 2.

An external merge sort: runs of as many entries as fit are sorted and put into temporary files, which are merged. Memory
and open files are bounded whatever the listing's length.
"""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
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
    entries: list[ObjectInfo] = []
    levels: list[list[IO[str]]] = []  # levels[n] holds runs that were merged n times, fewer than fan_in of them
    try:
        for info in backend.list(prefix, options):
            entries.append(info)
            if len(entries) >= run:
                entries.sort(key=_key)
                _add(levels, 0, entries, fan_in)
                entries = []
        entries.sort(key=_key)
        runs = [_entries(file) for files in levels for file in files]
        yield from heapq.merge(*runs, entries, key=_key)
    finally:
        for files in levels:
            for file in files:
                file.close()


def _key(info: ObjectInfo) -> bytes:
    return sort_key(info.path)


def _add(levels: list[list[IO[str]]], level: int, entries: Iterable[ObjectInfo], fan_in: int) -> None:
    """Keep a sorted run; merge those of its level into one of the next when there are ``fan_in``."""
    if level == len(levels):
        levels.append([])
    levels[level].append(_spilled(entries))
    if len(levels[level]) >= fan_in:
        files, levels[level] = levels[level], []
        try:
            _add(levels, level + 1, heapq.merge(*map(_entries, files), key=_key), fan_in)
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
            file.write(json.dumps(_plain(info), separators=(",", ":")))
            file.write("\n")
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _plain(info: ObjectInfo) -> list[Any]:
    moment = info.modified_at
    return [info.path, info.size, None if moment is None else moment.isoformat(), *info[3:]]


def _entries(file: IO[str]) -> Iterator[ObjectInfo]:
    for line in file:
        path, size, moment, *rest = json.loads(line)
        yield ObjectInfo(path, size, None if moment is None else datetime.fromisoformat(moment).astimezone(UTC), *rest)
