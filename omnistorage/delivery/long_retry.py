"""A target whose requests are tried again for longer than its policy says: a server that restarts is waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from omnistorage.concurrency.retry import retrying
from omnistorage.core import ExtendedBackend, Settle, Writer, power
from omnistorage.wrappers.base import Wrapper
from omnistorage.wrappers.streams import WrappedWriter

R = TypeVar("R")


def patient(backend: ExtendedBackend, seconds: float | None) -> Any:
    """``backend``, with its requests tried again for ``seconds``. A mirror goes on without a target that is down, so it
    is left as it is."""
    if seconds is None or power(backend, Settle) is not None:
        return backend
    return Patient(backend, seconds)


class Patient(Wrapper):
    """Makes all calls but listings within ``retrying``."""

    def __init__(self, inner: ExtendedBackend, seconds: float) -> None:
        super().__init__(inner)
        self._seconds = seconds

    def _forward(self, op: str, path: str, run: Callable[[str], R]) -> R:
        with retrying(self._seconds):
            return run(path)

    def _writer(self, writer: Writer, path: str) -> Writer:
        return _PatientWriter(writer, self._seconds)


class _PatientWriter(WrappedWriter):
    def __init__(self, inner: Writer, seconds: float) -> None:
        super().__init__(inner)
        self._seconds = seconds

    def _call(self, op: str, run: Callable[[], R]) -> R:
        with retrying(self._seconds):
            return run()
