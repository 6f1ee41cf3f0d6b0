"""What a log handler reports of its records: counters, and messages cut short. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

_REPORTED = 200  # characters of a message that was not written


class Shipped(NamedTuple):
    """Counters of log records.

    Attributes:
        taken: Came in.
        handed: Went to a writer.
        queued: Wait for it.
        dropped: Met a full queue.
        lost: Were handed to a writer that failed before it published them, or came to a handler that was closed.
        bad: Could not be made or written.
        own: Those of omnistorage and its threads, which are not shipped.
        refused: Those of a forked child.
        repaired: Values that no format holds, which were written as their ``repr``.
    """

    taken: int
    handed: int
    queued: int
    dropped: int
    lost: int
    bad: int
    own: int
    refused: int
    repaired: int


def shortened(message: Any) -> str:
    """The beginning of a message, for a report of a record that was not written."""
    text = message if isinstance(message, str) else repr(message)
    return text if len(text) <= _REPORTED else f"{text[:_REPORTED]}... ({len(text)} characters)"
