"""Stores made from stores: observed, cached, encrypted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omnistorage import ops
from omnistorage.concurrency.cancellation import CLOCK, Clock
from omnistorage.config import open_backend
from omnistorage.core import Backend
from omnistorage.errors import ConfigError
from omnistorage.wrappers import Cache, Encrypt, Event, Observe

from .store import Store


def observe(store: Store, listener: Callable[[Event], object], *, clock: Clock = CLOCK) -> Store:
    """``store``, with the start and the end of every call and of every stream told to ``listener`` (an ``Event`` with
    seconds, bytes, items and the error). What the listener raises is logged and harms nobody."""
    return Store(Observe(_backend(store), listener, clock=clock), owns=False)


def cache(
    store: Store,
    *,
    into: Backend | Store | None = None,
    ttl: float = 0.0,
    max_bytes: int | None = 64 << 20,
    max_entries: int | None = None,
    clock: Clock = CLOCK,
) -> Store:
    """``store``, with what is read kept ``into`` another store or backend (None: in memory) up to ``max_bytes`` and
    ``max_entries``, the longest unread leaving first.

    What is served is what ``store`` has: an open asks for the etag, and within ``ttl`` seconds of the last answer it
    does not. What changes through the returned store is not served from the cache afterwards. Objects without an etag
    or a fingerprint are read from ``store`` every time. ``store.unwrap(Cache)`` has ``stats``, ``invalidate`` and
    ``refresh``.
    """
    if into is not None and not isinstance(into, Backend) and not hasattr(into, "as_backend"):
        raise ConfigError(f"a cache is kept in a store or a backend, not in {type(into).__name__}")
    inside = open_backend("memory") if into is None else ops.extended(into)
    return Store(
        Cache(_backend(store), inside, ttl=ttl, max_bytes=max_bytes, max_entries=max_entries, clock=clock), owns=False
    )


def encrypt(store: Store, keys: Any, *, key_id: str | None = None) -> Store:
    """``store``, with every object encrypted before it leaves this process: AES-256-GCM in authenticated chunks (the
    format stands in ``docs/encryption.md``). ``keys`` is one key (32 bytes, or a ``Secret`` of them), or several by
    name, with the one to write with in ``key_id``. Names and metadata are not encrypted. Needs the extra ``crypt``."""
    return Store(Encrypt(_backend(store), keys, key_id=key_id), owns=False)


def _backend(store: Any) -> Backend:
    if not hasattr(store, "as_backend"):
        raise ConfigError(f"a store is what this takes, not {type(store).__name__}; Store(backend) makes one")
    backend: Backend = store.as_backend()
    return backend


__all__ = ["cache", "encrypt", "observe"]
