"""Ends a log or a spool as a kill does, in this process: what a clean close notes in ``lock`` is taken back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def killed(folder: str | Path, end: Callable[[], Any]) -> None:
    """Call ``end``, which closes the log in ``folder``, and restore the note that was there while the log was open."""
    lock = Path(folder) / "lock"
    note = lock.read_bytes()
    end()
    lock.write_bytes(note)
