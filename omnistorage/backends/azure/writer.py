"""Writers of Azure's blobs, and the order of its listings."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from omnistorage.backends.object_store.writer import ObjectWriter
from omnistorage.core import ObjectInfo
from omnistorage.paths import sort_key

from .client import MD5

MAX_BLOCK = 4000 << 20
"""The longest block, and the longest body of one request but for 1,000 MiB."""


class BlockWriter(ObjectWriter):
    """Makes no block longer than the service takes."""

    def _push(self) -> None:
        super()._push()
        self._part_size = min(self._part_size, MAX_BLOCK)


class DigestWriter(BlockWriter):
    """Keeps the digest of the whole of a body in blocks, which the service does not compute."""

    _md5: Any = None

    def _taken(self) -> bytes:
        data = super()._taken()
        if self._md5 is None:
            self._md5 = hashlib.md5(usedforsecurity=False)
        self._md5.update(data)
        return data

    def _prepare(self) -> None:
        super()._prepare()
        if self._parts is not None:
            put = self._parts.upload.put
            put = replace(put, extra={**put.extra, MD5: self._md5.hexdigest()})
            self._parts.upload = self._parts.upload._replace(put=put)


def in_byte_order(found: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
    """A listing in the order of UTF-8, made of one in the order of UTF-16 or of UTF-8: the service calls its own
    "alphabetical". The two differ only behind a common beginning where one name goes on with a character beyond U+FFFF.
    Such names wait until a name comes that does not begin so."""
    waiting: dict[str, list[tuple[str, ObjectInfo]]] = {}
    for info in found:
        path = info.path + "/" if info.is_dir and not info.path.endswith("/") else info.path
        if waiting:
            over = [start for start in waiting if not path.startswith(start)]
            yield from _sorted(waiting.pop(start) for start in over)
        at = -1 if path.isascii() else next((at for at, one in enumerate(path) if one > "\uffff"), -1)
        if at < 0:
            yield info
        else:
            waiting.setdefault(path[:at], []).append((path, info))
    yield from _sorted(waiting.values())


def _sorted(groups: Iterable[list[tuple[str, ObjectInfo]]]) -> list[ObjectInfo]:
    return [info for _, info in sorted(itertools.chain.from_iterable(groups), key=lambda one: sort_key(one[0]))]
