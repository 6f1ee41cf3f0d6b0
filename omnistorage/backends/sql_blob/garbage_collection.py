"""Blobs that nobody needs, and holding on to those that somebody does.

A blob is garbage once no object points at it and the last lease on it has run out. Who removes one claims it first, in
the statement that also looks; the chunks then go in short steps, and whoever comes later can take over from a dead one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omnistorage.backends.sql.connection import Link

from .schema import Table

_STEP = 16  # chunks removed in one transaction


def pin(link: Link, table: Table, blob: str, lease: float) -> bool:
    """Hold on to the chunks of ``blob`` for at least half of ``lease`` seconds; False if they are gone."""
    wanted = int(lease * 1e6)
    left = link.one(table.holds, (blob,))
    if left is None:
        return False
    if left[0] > wanted // 2:
        return True
    try:
        return link.change(table.hold, (wanted, blob)) == 1
    except Exception as error:
        if table.dialect.verdict(error) != "denied":
            raise
        return True  # who may not write cannot pin either


def collect(link: Link, table: Table, blob: str) -> bool:
    """Remove ``blob`` if it is garbage."""
    if not link.change(table.doom, (blob,)):
        link.execute(table.keep, (blob,))
        return False
    (top,) = link.one(table.last_chunk, (blob,))
    while top is not None and top >= 0:
        low = max(0, top - _STEP + 1)
        link.execute(table.drop_chunks, (blob, low))
        top = low - 1
    link.execute(table.drop_blob, (blob,))
    return True


def discard(link: Link, table: Table, blob: str) -> None:
    """Let go of a blob that was being written, and remove it."""
    link.execute(table.let_go, (blob,))
    collect(link, table, blob)


def sweep(link: Link, table: Table) -> None:
    """Remove a little of what others left."""
    for (blob,) in link.all(table.loose):
        collect(link, table, blob)


def remove(link: Link, table: Table, blob: str) -> bool:
    """Remove what ``stale`` found, whatever was noted about it."""
    link.execute(table.unlink, (blob,))
    return collect(link, table, blob)


def stale(link: Link, table: Table, after: str, age: int) -> list[Any]:
    """The next rows (blob, key, touched_at, size) of garbage that nobody has touched for ``age`` microseconds."""
    return link.all(table.stale, (after, age))


def keys_of(rows: list[Any]) -> Iterator[str]:
    """The keys of such rows, as text."""
    for row in rows:
        yield row[1] if isinstance(row[1], str) else bytes(row[1]).decode("utf-8", "surrogateescape")
