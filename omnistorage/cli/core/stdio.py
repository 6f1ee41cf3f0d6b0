"""Standard input as a Reader, standard output as a Writer.

A reader of our output that goes away is no error but ``OutputClosed``, which ends the command quietly.
"""

from __future__ import annotations

import errno
import json
import os
import select
import sys
from typing import Any, Self

from omnistorage.core import Data, ObjectInfo
from omnistorage.errors import StorageError

from .exit_codes import escape
from .signals import Drained, Stops

_GRACE_MS = 50


class OutputClosed(Exception):
    """Whoever read standard output has gone."""


class Stdin:
    """Standard input as it comes, in blocks; a signal ends the wait for more with ``Drained``."""

    info = ObjectInfo("-")

    def __init__(self, stops: Stops) -> None:
        if sys.stdin is None:
            raise StorageError("standard input is closed")
        self._fd = sys.stdin.fileno()
        self._torn = False  # what was read does not end with a newline
        self._input = select.poll()
        self._input.register(self._fd, select.POLLIN)
        self._stop = select.poll()
        if stops.fd >= 0:
            for poll in (self._input, self._stop):
                poll.register(stops.fd, select.POLLIN)
        self._stop_fd = stops.fd

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        # The descriptor, not the flag, decides: it is written before the main thread gets to run the handler.
        if any(fd == self._stop_fd for fd, _ in self._input.poll()):
            raise Drained("stopped by a signal")
        try:
            block = os.read(self._fd, size)
        except OSError as error:
            raise StorageError(f"cannot read standard input: {error.strerror}") from error
        # Ctrl-C reaches a whole pipeline: the torn end of what stopped before us may be here before our own signal is.
        if not block and self._torn and self._stop_fd >= 0 and self._stop.poll(_GRACE_MS):
            raise Drained("stopped by a signal")
        if block:
            self._torn = not block.endswith(b"\n")
        return block

    def close(self) -> None:
        """Standard input stays open: it is not ours."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Stdout:
    """Standard output. It cannot take back what it wrote: ``abort`` only stops."""

    result: ObjectInfo | None = None
    instant = True

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Data, /) -> int:
        self._call("write", data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self._call("flush")

    def prepare(self) -> None:
        self.flush()

    def close(self) -> ObjectInfo:
        self.flush()
        self.result = ObjectInfo("-", size=self.size)
        return self.result

    def abort(self) -> None:
        pass

    def line(self, text: str, end: bytes = b"\n") -> None:
        """One line for people or pipes: a terminal gets it escaped, a pipe as the bytes it came from."""
        shown = escape(text) if sys.stdout is not None and sys.stdout.isatty() else text
        self.write(encode(shown) + end)

    def json(self, row: dict[str, Any]) -> None:
        """One row of NDJSON."""
        self.write(encode_json(row))

    def _call(self, method: str, *args: Data) -> None:
        if sys.stdout is None:
            if method == "flush":
                return
            raise StorageError("standard output is closed")
        try:
            getattr(sys.stdout.buffer, method)(*args)
        except OSError as error:
            silence()
            if error.errno == errno.EPIPE:
                raise OutputClosed from None
            raise StorageError(f"cannot write to standard output: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not exc or exc[0] is None:
            self.close()


def encode(text: str) -> bytes:
    """The bytes of a name: those it came from where it holds escaped ones; other lone surrogates are spelt out."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def encode_json(row: dict[str, Any]) -> bytes:
    """A row of NDJSON. ``\\udcff`` is also how JSON spells a lone surrogate, so any name survives. What does not print
    is spelt out, too: the row may go to a terminal, which obeys U+009B as it does ESC [."""
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    if not text.isprintable():
        text = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
    return text.encode() + b"\n"


def silence() -> None:
    """Let what is still buffered go nowhere, or the interpreter complains about it at exit."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass
