"""What happens while a plan is carried out, as one stream of events for displays, logs and callbacks. Pure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from omnistorage.errors import StorageError

from .planning.actions import Action

EventKind = Literal[
    "scanned", "planned", "started", "bytes", "done", "skipped", "deleted", "retried", "error", "summary"
]


class Event(NamedTuple):
    """``size``: the bytes of this step (``bytes``), else of the object; ``scanned``: the entries compared so far.
    ``error`` comes with ``retried`` and ``error``. ``summary`` is the last one."""

    kind: EventKind
    path: str = ""
    size: int | None = None
    action: Action | None = None
    error: StorageError | None = None


Listener = Callable[[Event], None]


class Events:
    """Hands every event to every listener, one at a time whatever thread it comes from."""

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._listeners = tuple(listeners)
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def send(self, event: Event) -> None:
        if self._listeners:
            with self._lock:
                for listener in self._listeners:
                    listener(event)
