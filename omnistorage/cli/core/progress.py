"""Counts what passes, and draws it on a terminal.

Counting is two additions; drawing happens in a thread of ``rich`` that looks at the counters a few times a second.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def human(size: float) -> str:
    """``1536`` as ``1.5 KiB``."""
    size = min(size, 1e300)  # a server may say anything, and no float is larger
    for unit in UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {UNITS[-1]}"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


class Meter:
    """Bytes and records of one command, and the time it takes."""

    def __init__(self) -> None:
        self.bytes = 0
        self.records: int | None = None
        self.total: int | None = None
        """How many bytes there will be, as far as it is known."""
        self.label = ""
        self._started = time.monotonic()
        self._live: Any = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def add(self, size: int) -> None:
        self.bytes += size

    def draw(self, label: str) -> None:
        """Show the counters live on standard error until ``stop``. Nothing happens where that is no terminal."""
        if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") in (None, "dumb"):
            return
        try:
            from rich.console import Console
            from rich.live import Live
        except ImportError:
            return
        self.label = label
        self._live = Live(
            get_renderable=self._line,
            console=Console(stderr=True),
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
        )
        self._live.start()

    @property
    def drawn(self) -> bool:
        """Whether somebody sees it live."""
        return self._live is not None

    def stop(self) -> None:
        """Take the display away. Idempotent."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _line(self) -> Any:
        from rich.text import Text

        seconds = self.seconds
        parts = [(self.label, "bold"), (f"  {human(self.bytes)}", "cyan")]
        if self.total:
            share = min(self.bytes / self.total, 1.0)
            parts.append((f" of {human(self.total)}, {share:.0%}", "cyan"))
        if self.records is not None:
            parts.append((f"  {self.records:,} records", "green"))
        parts.append((f"  {human(self.bytes / max(seconds, 0.001))}/s", ""))
        parts.append((f"  {_clock(seconds)}", "dim"))
        if self.total and 0 < self.bytes < self.total:
            parts.append((f", {_clock(seconds / self.bytes * (self.total - self.bytes))} left", "dim"))
        return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
