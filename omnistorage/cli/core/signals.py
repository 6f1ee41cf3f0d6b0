"""SIGINT and SIGTERM.

Outside ``draining`` a signal raises ``Interrupted`` wherever the main thread is: writers on the way abort. Inside it
the first signal only sets a flag and makes ``fd`` readable, so that whoever waits for input stops at a record's end;
the second one raises. The wake-up descriptor is written by the C handler: no signal slips in between a look at the flag
and the wait.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from omnistorage.errors import StorageError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asks to stop and to publish nothing."""


class Drained(StorageError):
    """The input was stopped by a signal: what came before it is whole, what was being read is not used."""


class Stops:
    """Installs the handlers while entered. ``signum`` is the first signal that came, or None; ``count``: how many."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.count = 0
        self.fd = -1  # becomes readable with the first signal
        self._drains = False
        self._before: dict[int, Any] = {}
        self._write_fd = -1
        self._wakeup = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        self._wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # nohup and background jobs stay deaf
                self._before[number] = before
                signal.signal(number, self._stop)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.fd < 0:
            return
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write_fd)
        os.close(self.fd)
        self.fd = -1

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        first = self.signum is None
        self.count += 1
        self.signum = signum if first else self.signum
        if not (first and self._drains):
            raise Interrupted

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Within this block the first signal is left to ``check`` and ``fd``."""
        self._drains = True
        try:
            yield
        finally:
            self._drains = False

    def check(self) -> None:
        """Raise ``Drained`` once a signal has come. From any thread."""
        if self.signum is not None:
            raise Drained("stopped by a signal")
