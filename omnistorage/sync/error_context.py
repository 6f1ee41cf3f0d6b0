"""Whose fault an error is: a note that says at which side it happened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from omnistorage.errors import StorageError

from .endpoint import Side

_NOTE = re.compile(r"at the (\S+) .*", re.DOTALL)
# Of a transfer, whose other calls may be to either side.
WRITES = frozenset({"open_writer", "resume_writer", "write", "flush", "prepare", "close", "mkdir", "set_metadata"})


def blamed(error: StorageError, side: Side) -> StorageError:
    """The error, with a note of the side, unless it has one."""
    if side_of(error) is None:
        error.add_note(f"at the {side.role} {side.shown}")
    return error


def side_of(error: BaseException) -> str | None:
    """The role of the side at which it happened; None where that is not known."""
    found = (_NOTE.fullmatch(note) for note in getattr(error, "__notes__", ()))
    return next((match[1] for match in found if match is not None), None)


@contextmanager
def met_at(side: Side) -> Iterator[None]:
    """What fails in the block, fails at this side."""
    try:
        yield
    except StorageError as error:
        blamed(error, side)
        raise
