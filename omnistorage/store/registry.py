"""Stores by name, from a configuration: each backend is made once, when it is first needed."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, Literal, Self, Unpack, overload

from omnistorage.config import BackendConfig, RegistryConfig, locate, open_backend
from omnistorage.core import Backend, ExtendedBackend
from omnistorage.core.spelling import nearest
from omnistorage.errors import BackendClosed, ConfigError
from omnistorage.multi import TieredBackend
from omnistorage.records.open import FROM_STRANGERS
from omnistorage.wrappers import ReadOnly

from .composite import CompositeStore
from .files import BinaryReader, BinaryWriter, TextWriter
from .reading import FileSettings
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
        self._making: list[str] = []

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
                    self._made[name] = open_configured(config, lambda tier: self._tier(name, tier))
                except ConfigError as error:
                    raise ConfigError(f"backends.{name}: {error.args[0]}") from error
            return self._made[name]

    def _tier(self, name: str, tier: str) -> Store | None:
        """The store or backend of this configuration that is a tier of the backend ``name``."""
        profile = self.config.stores.get(tier)
        if profile is None and tier not in self.config.backends:
            return None
        self._making.append(name)
        try:
            if (tier if profile is None else profile.backend) in self._making:
                raise ConfigError(f"the tier {tier!r} leads back to itself")
            return self.get_store(tier) if profile is not None else _store(self.get_backend(tier), "")
        finally:
            self._making.pop()

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


def open_configured(
    config: BackendConfig, named: Callable[[str], Any], *, defaults: Mapping[str, Any] | None = None
) -> ExtendedBackend:
    """The backend of a ``BackendConfig``, as ``open_backend`` opens it; where it has tiers, ``named`` gives those whose
    store is a name of the same configuration."""
    tiers = config.options.get("tiers")
    if config.type != "tiered" or not isinstance(tiers, list | tuple):
        return open_backend(config, defaults=defaults)
    found = []
    for tier in tiers:
        store = tier.get("store") if isinstance(tier, Mapping) else None
        if isinstance(store, str) and "/" not in store:
            known = named(store)
            if known is None:
                raise ConfigError(
                    f"tier {tier.get('name')!r}: the configuration has no store or backend {store!r}; "
                    f"a folder of this name is './{store}'"
                )
            tier = {**tier, "store": known}
        found.append(tier)
    return open_backend(config.type, {**config.options, "tiers": found}, defaults=defaults)


def _store(backend: Backend, root: str, *, owns: bool = False) -> Store:
    if isinstance(backend, TieredBackend):
        return CompositeStore(backend, root_path=root, owns=owns)
    return Store(backend, root, owns=owns)


def open_store(target: str | PathLike[str] | BackendConfig, *, untrusted: bool = False) -> Store:
    """A store by URL (``"s3://bucket/prefix?region=..."``), by a folder's path, or from a ``BackendConfig``. It owns
    its backend: ``close`` it, or use ``with``. No I/O. With ``untrusted`` a text is a URL that anybody may have chosen:
    only http and https are taken, and no private address is connected to."""
    if isinstance(target, BackendConfig):
        return _store(open_backend(target), "", owns=True)
    backend, folder = locate(target, is_object=False, **(FROM_STRANGERS if untrusted else {}))
    return Store(backend, folder)


@overload
def open(
    target: str | PathLike[str], mode: Literal["r", "rt"], **settings: Unpack[FileSettings]
) -> io.TextIOWrapper: ...
@overload
def open(
    target: str | PathLike[str], mode: Literal["w", "wt", "x", "xt", "a", "at"], **settings: Unpack[FileSettings]
) -> TextWriter: ...
@overload
def open(target: str | PathLike[str], mode: Literal["rb"] = "rb", **settings: Unpack[FileSettings]) -> BinaryReader: ...
@overload
def open(
    target: str | PathLike[str], mode: Literal["wb", "xb", "ab"], **settings: Unpack[FileSettings]
) -> BinaryWriter: ...
@overload
def open(target: str | PathLike[str], mode: str, **settings: Unpack[FileSettings]) -> Any: ...
def open(target: str | PathLike[str], mode: str = "rb", **settings: Any) -> Any:
    """A file by URL or path: ``Store.open`` with its settings. Closing the file closes what it came from. With
    ``untrusted=True`` a text is taken as by ``open_store``."""
    backend, path = locate(target, **(FROM_STRANGERS if settings.get("untrusted") else {}))
    try:
        return Store(backend).open(path, mode, owner=backend, **settings)
    except BaseException:
        backend.close()
        raise


__all__ = ["Registry", "open", "open_store"]
