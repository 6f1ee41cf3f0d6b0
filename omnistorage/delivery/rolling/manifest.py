"""What was published, as NDJSON beside it: one line per object, in the order of publication.

{"path": "logs/a/000000.ndjson.zst", "records": 3, "bytes": 99, "raw_bytes": 310, "sha256": "...",

"first": 0, "last": 7}
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from omnistorage.core import Append, Backend, WriteOptions, power
from omnistorage.core.bounded_read import LINES, NOTES, at_most, read_small
from omnistorage.delivery.verified_sink import store_bytes
from omnistorage.errors import CorruptData, NotFound
from omnistorage.ops.operations import BLOCK

from .open_object import Committed


class Manifest:
    """The manifest at ``path`` of ``backend``, to which one writer at a time adds; an existing one is continued.

    Where the store can append, an entry costs a line. Elsewhere the whole manifest is written again with each entry:
    some 250 bytes for every object so far.
    """

    def __init__(self, backend: Backend, path: str, *, durable: bool = False) -> None:
        self._backend = backend
        self._options = WriteOptions(durable=durable, content_type="application/x-ndjson")
        self._path = path
        self._appender = power(backend, Append)
        self._text: bytes | None = None  # all of it; unless it is appended to
        self._paths: set[str] | None = None

    @property
    def paths(self) -> set[str]:
        """The objects it named when this was asked first."""
        if self._paths is None:
            try:
                self._paths = {entry.path for entry in read_manifest(self._backend, self._path)}
            except NotFound:
                self._paths = set()
        return self._paths

    def add(self, entry: Committed) -> None:
        """Note ``entry``. When this returns it is there for every reader."""
        line = json.dumps(entry._asdict()).encode() + b"\n"
        if self._text is None:
            self._text = self._whole_lines()
        if self._appender is not None:
            self._text = b""
            with self._appender.open_appender(self._path, self._options) as writer:
                writer.write(line)
        else:
            self._text += line
            self._put(self._text)

    def _whole_lines(self) -> bytes:
        """The whole lines. Where the store can append, only a manifest with a torn last line is kept in memory."""
        try:
            if self._appender is not None and not self._is_torn():
                return b""
            text = read_small(self._backend, self._path, LINES)
        except NotFound:
            return b""
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:  # a kill cut the last line short; its object was not acknowledged
            self._put(whole)
        return whole

    def _is_torn(self) -> bool:
        last = b"\n"
        with self._backend.open_reader(self._path) as reader:
            while block := reader.read(BLOCK):
                last = block[-1:]
        return last != b"\n"

    def _put(self, text: bytes) -> None:
        store_bytes(self._backend, self._path, at_most(text, self._path, LINES), self._options)


def read_manifest(backend: Backend, path: str) -> Iterator[Committed]:
    """The entries of a manifest. A torn last line, which a kill may leave, is not one. Raises ``CorruptData`` for what
    is no manifest."""
    number, rest = 0, b""
    with backend.open_reader(path) as reader:
        while block := reader.read(BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                number += 1
                yield _entry(line, number, path)
            if len(rest) > NOTES:
                raise CorruptData(f"line {number + 1} has more than {NOTES} bytes, so it is no entry", path=path)


_KINDS = {"path": str, "sha256": str, "records": int, "bytes": int, "raw_bytes": int, "first": int, "last": int}


def _entry(line: bytes, number: int, path: str) -> Committed:
    try:
        row = json.loads(line)
        found = {name: row[name] for name in Committed._fields}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptData(f"line {number} is no entry of a manifest: {line[:80]!r}", path=path) from error
    for name, kind in _KINDS.items():
        if type(found[name]) is not kind:
            raise CorruptData(f"line {number} of the manifest: {name} is {found[name]!r:.80}", path=path)
    return Committed(**found)
