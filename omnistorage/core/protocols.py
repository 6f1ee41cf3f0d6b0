"""The protocols that everything is built on: readers, writers and backends.

A backend moves bytes. ``Backend`` is the six methods without which nothing works, ``ExtendedBackend`` six more;
``Features`` says which of a backend's abilities are true under its configuration, without I/O. What few stores can do
is a *power*: a one- or two-method protocol asked for with ``power(backend, Kind)``.

Shape is ``as_extended``, truth is ``features``: a method whose flag is false raises ``CapabilityNotSupported``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, Self, TypeVar, runtime_checkable

from .features import BASIC, Features
from .options import COPY, LIST, READ, WRITE, CopyOptions, ListOptions, ReadOptions, WriteOptions
from .structural import has_shape
from .types import Data, ObjectInfo


@runtime_checkable
class Reader(Protocol):
    """A stream of one object's bytes, and a context manager. ``info`` is known when ``open_reader`` returns and never
    costs a request. ``read`` may be short; ``b""`` comes only at the end; ``read(-1)`` reads to the end. ``close`` may
    be called from any thread: a read in flight then raises ``ReaderClosed``."""

    @property
    def info(self) -> ObjectInfo: ...
    def read(self, size: int = -1, /) -> bytes: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class Writer(Protocol):
    """A stream into one object, and a context manager: a clean exit closes, an exception aborts.

    ``write`` takes all of the data. ``flush`` pushes as far as the transport allows and promises no visibility.
    ``prepare`` brings all bytes to the store with nothing visible yet. ``close`` is ``prepare`` and publication: the
    whole object appears, or nothing does; again, it returns the same info. ``abort`` discards, is idempotent, may come
    from any thread, and never masks an active exception. After the first failed ``write`` the writer is poisoned: later
    calls raise that error again, and ``close`` aborts and raises.
    """

    @property
    def result(self) -> ObjectInfo | None: ...  # what close returned, for users of ``with``
    def write(self, data: Data, /) -> int: ...
    def flush(self) -> None: ...
    def prepare(self) -> None: ...
    def close(self) -> ObjectInfo: ...
    def abort(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class Backend(Protocol):
    """The six methods every backend has. Paths are keys (see ``paths``).

    ``exists`` and ``delete`` speak of objects: a folder gives False. ``delete`` returns True if it removed the object,
    False if there was none, None if the store does not say. ``list`` yields every object under the folder ``prefix``,
    lazily, with size, time and etag, and is complete or raises. An object whose name no path can have (``..`` as a
    segment, NUL), which only others can have made, raises ``InvalidPath``; with ``on_error`` it is reported, and the
    rest is listed.
    """

    def open_reader(self, path: str, options: ReadOptions = READ) -> Reader: ...
    def open_writer(self, path: str, options: WriteOptions = WRITE) -> Writer: ...
    def exists(self, path: str) -> bool: ...
    def delete(self, path: str, *, if_match: str | None = None) -> bool | None: ...
    def list(self, prefix: str = "", options: ListOptions = LIST) -> Iterator[ObjectInfo]: ...
    def close(self) -> None: ...


@runtime_checkable
class ExtendedBackend(Backend, Protocol):
    """Six more methods, a name, a place and features.

    ``url`` is canonical, holds no secret and ends with ``/``; None where there is none to give. ``list_dir`` yields the
    immediate children of a folder, folders too, sorted, and raises ``NotFound`` where there is no such folder.
    ``mkdir`` makes parents and is content with an existing folder. ``copy`` and ``move`` onto the same path change
    nothing.
    """

    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str | None: ...
    @property
    def features(self) -> Features: ...
    def stat(self, path: str) -> ObjectInfo: ...
    def list_dir(self, path: str = "") -> Iterator[ObjectInfo]: ...
    def mkdir(self, path: str) -> None: ...
    def rmdir(self, path: str) -> None: ...
    def copy(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo: ...
    def move(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo: ...


P = TypeVar("P")


def as_extended(backend: Backend) -> ExtendedBackend | None:
    """The backend as an extended one, or None if it is basic, or a wrapper around a basic one."""
    if getattr(backend, "is_extended", True) and has_shape(backend, ExtendedBackend):  # type: ignore[type-abstract]
        return backend
    return None


def features_of(backend: Backend) -> Features:
    """The backend's features; a basic backend is taken to read, write, delete and list, and to promise no more."""
    features = getattr(backend, "features", None)
    return features if isinstance(features, Features) else BASIC


def learned(backend: Backend) -> Features:
    """The features, after the backend has found out what only its server can tell: by a probe, at the first call.

    Raises:
        StorageError: The server could not be asked.
    """
    learn: Callable[[], Features] | None = getattr(backend, "learn_features", None)
    return features_of(backend) if learn is None else learn()


U = TypeVar("U")


def unwrap(backend: object, kind: type[U]) -> U | None:
    """The first of ``backend``, what it wraps, and the handle that the innermost works with, that is a ``kind``; None
    if there is none. For users who need what only that one can do: nothing in omnistorage calls it. The handle is
    still the backend's: it is closed with it, and what is done with it is neither retried nor translated."""
    at: object | None = backend
    while at is not None and not isinstance(at, kind):
        inner = getattr(at, "inner", None)
        native = getattr(at, "native", None)
        at = inner if inner is not None or native is None else native()
    return at
