"""What a plan is made of: one ``Action`` per entry that something is to be done about, or said of. Pure.

An action says what was seen on both sides when it was planned, so that whoever carries it out can refuse when that is
no longer so. It is plain data: it prints, compares, and goes through JSON unchanged.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Literal, NamedTuple

from omnistorage.core import ObjectInfo
from omnistorage.ops import from_plain, plain

Kind = Literal[
    "copy",  # the destination has no such object
    "update",  # it has another one
    "touch",  # the same content with another time
    "rename",  # the destination has it under another name
    "remove",  # of a move: the destination has it already, the source is to go
    "mkdir",
    "delete",
    "rmdir",
    "dirtime",  # a folder gets the time of the source's
    "equal",
    "skip",  # left alone on purpose; why says the reason
    "error",  # cannot be done; why says the reason
    "refused",  # the destination cannot hold this name; an error that keeps nothing else from being deleted
]
TRANSFERS = frozenset({"copy", "update"})
ERRORS = frozenset({"error", "refused"})
CHANGES = frozenset({"copy", "update", "touch", "rename", "remove", "mkdir", "delete", "rmdir", "dirtime"})


class Action(NamedTuple):
    """``path`` is relative to both sides, as the source names it (``delete`` and ``rmdir``: the destination). ``size``
    in bytes is what a transfer moves or a deletion frees. ``expect_src`` and ``expect_dst`` are what the listings
    showed; None where there was nothing. ``other`` is the destination's name where it is another one (letter case,
    Unicode form; for ``rename`` the name it has now)."""

    kind: Kind
    path: str
    why: str = ""
    size: int | None = None
    expect_src: ObjectInfo | None = None
    expect_dst: ObjectInfo | None = None
    other: str | None = None

    @property
    def target(self) -> str:
        """The name at the destination."""
        return self.path if self.other is None or self.kind == "rename" else self.other

    def to_json(self) -> str:
        """One line of JSON."""
        row: list[Any] = [self.kind, self.path, self.why, self.size]
        row += [None if info is None else plain(info) for info in (self.expect_src, self.expect_dst)]
        return json.dumps([*row, self.other], separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Action:
        kind, path, why, size, src, dst, other = json.loads(line)
        expected = [None if row is None else from_plain(row) for row in (src, dst)]
        return cls(kind, path, why, size, expected[0], expected[1], other)


class Spool:
    """Actions kept for later, in order: the first ``room`` of them in memory, the others in an unnamed temporary file
    that nobody else can read."""

    def __init__(self, room: int = 10_000) -> None:
        self._room = room
        self._first: list[Action] = []
        self._file: IO[bytes] | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, action: Action) -> None:
        self._count += 1
        if len(self._first) < self._room:
            self._first.append(action)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="omnistorage-")  # noqa: SIM115
        self._file.write(action.to_json().encode("ascii") + b"\n")

    def __iter__(self) -> Iterator[Action]:
        yield from self._first
        if self._file is not None:
            self._file.seek(0)
            for line in self._file:
                yield Action.from_json(line.decode("ascii"))

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()
