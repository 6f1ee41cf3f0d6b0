"""A server that takes what it is sent and never comes to an end, in this process."""

from __future__ import annotations

import itertools
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

HEAD = b"HTTP/1.1 200 OK\r\nX-Filler: "
"""The beginning of an answer that goes on in this header."""


class Stalling:
    """Listens on ``port`` until the block ends.

    Args:
        asked: Is called, on another thread, when a client has sent something and was sent the first of an answer.
        head: What an answer begins with, to go on byte by byte; nothing is sent if it is empty.
        greets: Answers before the client has sent anything, as a server of MySQL does.
    """

    def __init__(self, asked: Callable[[], None], head: bytes = b"", *, greets: bool = False) -> None:
        self._asked, self._head, self._greets = asked, head, greets
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Stalling:
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in [self._accepting, *self._threads]:
            thread.join(60)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(60)
            if not self._greets and not client.recv(1 << 16):
                return
            client.sendall(self._head)
            for number in itertools.count():
                if number == 5:
                    self._asked()
                if self._over.wait(0.02) or not self._goes_on(client):
                    return

    def _goes_on(self, client: socket.socket) -> bool:
        if self._head:
            client.sendall(b"x")
        return not select.select([client], [], [], 0)[0] or bool(client.recv(1 << 16))
