"""The live display of a sync: totals, rate, time left, errors, a bar for each object. Imports sync.events.

Events come in from the threads that transfer; ``rich`` draws what is known a few times a second, on a terminal only.
"""

from __future__ import annotations

from typing import Any

from omnistorage.sync.events import Event
from omnistorage.sync.planning.actions import TRANSFERS

from .progress import Meter, human

_BARS = 8
_WIDTH = 24
_WORTH_A_BAR = 1 << 20


class SyncMeter(Meter):
    """Counts events; the bytes of ``meter.bytes`` are those that moved."""

    def __init__(self) -> None:
        super().__init__()
        self.scanned = 0
        self.planned = self.planned_bytes = 0
        self.done = self.errors = self.deleted = 0
        self._running: dict[str, list[int]] = {}  # path -> bytes moved, size

    def see(self, event: Event) -> None:
        """Take note of what happened."""
        kind = event.kind
        if kind == "bytes":
            size = event.size or 0
            self.add(size)
            if event.path in self._running:
                self._running[event.path][0] += size
            return
        if kind == "scanned":
            self.scanned = event.size or 0
        elif kind == "planned" and event.action is not None and event.action.kind in TRANSFERS:
            self.planned += 1
            self.planned_bytes += event.size or 0
        elif kind == "started" and (event.size or 0) >= _WORTH_A_BAR:
            self._running[event.path] = [0, event.size or 0]
        elif kind in ("done", "error"):
            self._running.pop(event.path, None)
            self.done += kind == "done" and event.action is not None and event.action.kind in TRANSFERS
            self.errors += kind == "error"
        elif kind == "deleted":
            self.deleted += 1

    @property
    def left(self) -> str:
        """The time that what is planned will take, at the rate so far."""
        rate = self.bytes / max(self.seconds, 0.001)
        rest = self.planned_bytes - self.bytes
        if rate <= 0 or rest <= 0:
            return "-"
        seconds = int(rest / rate)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def _line(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        rate = self.bytes / max(self.seconds, 0.001)
        parts = [
            (self.label, "bold"),
            (f"  {self.done:,} of {self.planned:,} objects", "green"),
            (f"  {human(self.bytes)} of {human(self.planned_bytes)}", "cyan"),
            (f"  {human(rate)}/s", ""),
            (f"  left {self.left}", ""),
            (f"  {self.scanned:,} compared", "dim"),
        ]
        parts += [(f"  {self.deleted:,} deleted", "yellow")] if self.deleted else []
        parts += [(f"  {self.errors:,} errors", "bold red")] if self.errors else []
        lines = [Text.assemble(*parts, no_wrap=True, overflow="ellipsis")]
        for path, (moved, size) in list(self._running.items())[:_BARS]:
            full = int(_WIDTH * min(1.0, moved / max(size, 1)))
            bar = "━" * full + "╺" * (full < _WIDTH) + " " * (_WIDTH - full - 1)
            text = f"  {bar} {100 * moved // max(size, 1):3d}% of {human(size):>10}  {path}"
            lines.append(Text(text, no_wrap=True, overflow="ellipsis"))
        return Group(*lines)
