"""The connections of one SFTP backend.

A connection carries any number of streams at once, so nobody waits for a free one; a further one is opened, up to the
limit, when all are busy. One that died is forgotten, and the next request opens another.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from os import getpid

from omnistorage.concurrency.cancellation import check
from omnistorage.concurrency.in_flight import abandonable
from omnistorage.errors import BackendClosed

from .connection import Link
from .protocol import POLL
from .settings import NAME, Settings

_BUSY = 2  # calls and streams on a connection before another one is opened


class Pool:
    """At most ``size`` connections, opened when they are needed; a forked child opens its own."""

    def __init__(self, settings: Settings, size: int) -> None:
        self._settings = settings
        self._size = size
        self.closed = False
        self._start()

    def _start(self) -> None:
        self._pid = getpid()
        self._state = threading.Condition(threading.Lock())
        self._links: list[Link] = []
        self._opening = False

    def link(self) -> Link:
        """The connection with the least to do."""
        if self._pid != getpid():
            self._start()
        while True:
            with self._state:
                if self.closed:
                    raise BackendClosed("the backend is closed", backend=NAME)
                self._links = [link for link in self._links if link.alive or self._bury(link)]
                best = min(self._links, key=lambda link: len(link.users), default=None)
                if best is not None and (len(best.users) < _BUSY or self._opening or len(self._links) >= self._size):
                    return best
                if not self._opening:
                    self._opening = True
                    break
                self._state.wait(POLL)
            check()
        link = None
        try:
            link = abandonable(lambda: Link(self._settings), Link.close)
            return link
        finally:
            with self._state:
                self._opening = False
                if link is not None and self.closed:
                    link.close()  # the backend was closed meanwhile
                elif link is not None:
                    self._links.append(link)
                self._state.notify_all()

    @staticmethod
    def _bury(link: Link) -> bool:
        link.close()
        return False

    @contextmanager
    def use(self) -> Iterator[Link]:
        """A connection for one call."""
        link, token = self.link(), object()
        link.users.add(token)
        try:
            yield link
        finally:
            link.users.discard(token)

    def idle(self) -> Link | None:
        """A connection that is open already, if there is one."""
        if self._pid != getpid():
            return None
        return next((link for link in self._links if link.alive), None)

    def close(self) -> None:
        self.closed = True
        if self._pid != getpid():
            return
        with self._state:
            links, self._links = self._links, []
        for link in links:
            link.close()

    def __del__(self) -> None:
        # A backend that is dropped without close hangs up; the sockets close, nothing is sent and nobody waited for.
        if getattr(self, "_pid", None) == getpid():
            for link in self._links:
                link.close()
