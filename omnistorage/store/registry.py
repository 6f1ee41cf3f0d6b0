"""Stores by name, from a configuration: each backend is made once, when it is first needed. Imports floors 0 and 2, and
wrappers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from os import PathLike
from typing import Any, Self

from .._table import nearest
from ..config import BackendConfig, RegistryConfig
from ..core import Backend, ExtendedBackend
from ..errors import BackendClosed, ConfigError
from ..multi import TieredBackend
from ..registry import locate, open_backend
from ..wrappers import ReadOnly
from .composite import CompositeStore
from .store import Store


class Registry:
    """The stores of a ``RegistryConfig`` (or of a dict of its shape). Safe for threads; starts none. ``close``, or
    leaving ``with``, closes every backend that was made; its stores close nothing themselves."""

    def __init__(self, config: RegistryConfig | Mapping[str, Any] | None = None) -> None:
        self.config = config if isinstance(config, RegistryConfig) else RegistryConfig.from_dict(config or {})
        self._lock = threading.RLock()
        self._made: dict[str, ExtendedBackend] = {}
        self._stores: dict[str, Store] = {}
        self._closed = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the stores, sorted."""
        return tuple(sorted(self.config.stores))

    def get_store(self, name: str) -> Store:
        """The store ``name``, the same object each time. Raises ``ConfigError`` with the nearest right spelling for a
        name that is not there, ``BackendClosed`` after ``close``."""
        profile = self.config.stores.get(name)
        if profile is None:
            known = ", ".join(self.names) or "none"
            raise ConfigError(f"there is no store {name!r}{nearest(str(name), self.config.stores)}; there are: {known}")
        with self._lock:
            if name not in self._stores:
                backend: Backend = self.get_backend(profile.backend)
                if profile.options.get("read_only"):
                    backend = ReadOnly(backend)
                self._stores[name] = _store(backend, profile.root_path)
            elif self._closed:
                self.get_backend(profile.backend)
            return self._stores[name]

    def get_backend(self, name: str) -> ExtendedBackend:
        """The backend ``name``, made when it is first asked for."""
        config = self.config.backends.get(name)
        if config is None:
            raise ConfigError(f"there is no backend {name!r}{nearest(str(name), self.config.backends)}")
        with self._lock:
            if self._closed:
                raise BackendClosed("the registry is closed", backend=name, op="get_backend")
            if name not in self._made:
                try:
                    self._made[name] = open_backend(config)
                except ConfigError as error:
                    raise ConfigError(f"backends.{name}: {error.args[0]}") from error
            return self._made[name]

    def close(self) -> None:
        """Close all backends. Every one is tried; the first error is raised then."""
        with self._lock:
            self._closed = True
            made, self._made = self._made, {}
        errors = []
        for backend in made.values():
            try:
                backend.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Registry({self.config!r})"


def _store(backend: Backend, root: str, *, owns: bool = False) -> Store:
    if isinstance(backend, TieredBackend):
        return CompositeStore(backend, root_path=root, owns=owns)
    return Store(backend, root, owns=owns)


def open_store(target: str | PathLike[str] | BackendConfig) -> Store:
    """A store by URL (``"s3://bucket/prefix?region=..."``), by a folder's path, or from a ``BackendConfig``. It owns
    its backend: ``close`` it, or use ``with``. No I/O."""
    if isinstance(target, BackendConfig):
        return _store(open_backend(target), "", owns=True)
    backend, folder = locate(target, is_object=False)
    return Store(backend, folder)


def open(target: str | PathLike[str], mode: str = "rb", **settings: Any) -> Any:
    """A file by URL or path: ``Store.open`` with its settings. Closing the file closes what it came from."""
    backend, path = locate(target)
    try:
        return Store(backend).open(path, mode, owner=backend, **settings)
    except BaseException:
        backend.close()
        raise


__all__ = ["Registry", "open", "open_store"]
