"""Many calls of a Store at once, over a bounded number of threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import TypeVar

from omnistorage.core import BulkDelete, ObjectInfo, power
from omnistorage.errors import ConfigError, StorageError

from .paths import StorePath, text_of
from .store import Store

T = TypeVar("T")
R = TypeVar("R")
WORKERS = 8


@dataclass(frozen=True)
class BatchResult:
    """What became of each path, in the order given: those that worked, and the error of each that did not."""

    succeeded: tuple[str, ...]
    failed: dict[str, StorageError]

    @property
    def all_succeeded(self) -> bool:
        return not self.failed

    @property
    def total(self) -> int:
        return len(self.succeeded) + len(self.failed)

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        for error in self.failed.values():
            raise error


def batch_read(
    store: Store, paths: Iterable[StorePath], *, workers: int = WORKERS
) -> Iterator[tuple[str, bytes | StorageError]]:
    """The bytes of each object or its error, lazily and in the order given; at most ``workers`` objects wait in
    memory."""
    return _map(_named(paths, "batch_read"), store.read_bytes, workers)


def batch_stat(
    store: Store, paths: Iterable[StorePath], *, workers: int = WORKERS
) -> Iterator[tuple[str, ObjectInfo | StorageError]]:
    """What the store says of each object, or its error, in the order given."""
    return _map(_named(paths, "batch_stat"), store.stat, workers)


def batch_exists(store: Store, paths: Iterable[StorePath], *, workers: int = WORKERS) -> dict[str, bool]:
    """Whether there is a file or a folder of each name. The first error is raised."""
    found: dict[str, bool] = {}
    for path, answer in _map(_named(paths, "batch_exists"), store.exists, workers):
        if isinstance(answer, StorageError):
            raise answer
        found[path] = answer
    return found


def batch_delete(
    store: Store, paths: Iterable[StorePath], *, missing_ok: bool = True, workers: int = WORKERS
) -> BatchResult:
    """Delete many files: in few requests where the store has such ones and a missing file is no error, else side by
    side."""
    names = list(_named(paths, "batch_delete"))
    if missing_ok and power(store.as_backend(), BulkDelete) is not None:
        return _gathered((path, error) for path, error in store.delete_many(names))
    return _gathered(_map(names, lambda path: store.delete(path, missing_ok), workers))


def batch_copy(
    store: Store,
    pairs: Iterable[tuple[StorePath, StorePath]],
    *,
    overwrite: bool = False,
    workers: int = WORKERS,
) -> BatchResult:
    """Copy many files; the result names them by their sources. A target that stands twice is a ``ConfigError`` before
    anything is copied: which copy it would get could not be told."""
    todo = [(text_of(src, "batch_copy"), text_of(dst, "batch_copy")) for src, dst in pairs]
    targets = [dst for _, dst in todo]
    if len(set(targets)) < len(targets):
        twice = next(dst for dst in targets if targets.count(dst) > 1)
        raise ConfigError("two copies would go to the same target", path=twice, op="batch_copy")
    done = _map(todo, lambda pair: store.copy(*pair, overwrite=overwrite), workers)
    return _gathered((pair[0], answer) for pair, answer in done)


def _named(paths: Iterable[StorePath], op: str) -> Iterator[str]:
    return (text_of(path, op) for path in paths)


def _gathered(answers: Iterable[tuple[str, object]]) -> BatchResult:
    succeeded: list[str] = []
    failed: dict[str, StorageError] = {}
    for path, answer in answers:
        if isinstance(answer, StorageError):
            failed[path] = answer
        else:
            succeeded.append(path)
    return BatchResult(tuple(succeeded), failed)


def _map(items: Iterable[T], work: Callable[[T], R], workers: int) -> Iterator[tuple[T, R | StorageError]]:
    """``work`` of each item, at most ``workers`` at once, in the order of the items. Only errors of ours are answers;
    any other ends it."""
    if type(workers) is not int or workers < 1:
        raise ConfigError(f"workers counts threads from 1: not {workers!r}")
    return _mapped(iter(items), work, workers)


def _mapped(items: Iterator[T], work: Callable[[T], R], workers: int) -> Iterator[tuple[T, R | StorageError]]:
    def one(item: T) -> R | StorageError:
        try:
            return work(item)
        except StorageError as error:
            return error

    flying: deque[tuple[T, Future[R | StorageError]]] = deque()
    with ThreadPoolExecutor(workers, "omnistorage-batch") as pool:
        try:
            for item in items:
                # In the caller's context: deadlines and cancellation hold in the threads, too.
                flying.append((item, pool.submit(copy_context().run, one, item)))
                if len(flying) >= workers:
                    first, answer = flying.popleft()
                    yield first, answer.result()
            while flying:
                first, answer = flying.popleft()
                yield first, answer.result()
        finally:
            for _, answer in flying:
                answer.cancel()


__all__ = ["BatchResult", "batch_copy", "batch_delete", "batch_exists", "batch_read", "batch_stat"]
