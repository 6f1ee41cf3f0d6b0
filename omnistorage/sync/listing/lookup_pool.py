"""Looking at stores side by side while a plan is read."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from typing import TypeVar

from omnistorage.concurrency.cancellation import CancelScope

T = TypeVar("T")


class Lookers:
    """An executor whose calls are told to stop by ``close``: a reader who gives up waits for nobody."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._scope = CancelScope()
        self._context = copy_context()
        self._context.run(self._scope.__enter__)

    def submit(self, call: Callable[..., T], *args: object) -> Future[T]:
        return self._executor.submit(self._context.copy().run, call, *args)

    def close(self) -> None:
        self._scope.cancel()
        self._executor.shutdown(cancel_futures=True)
