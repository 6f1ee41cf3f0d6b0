"""Wrappers: backends made from a backend. Nesting is the API: ``ReadOnly(Prefix(Observe(backend), "logs"))``.

The order matters, from the outside in:

- ``ReadOnly`` outermost: what it refuses, nothing below is asked.
- ``Prefix`` next: what stands outside of it speaks the caller's paths, what stands inside the store's.
- ``Observe`` inside of both counts what really goes to the store; outside, what the caller asked for.
- ``Encrypt`` further in: what stands outside sees contents and their sizes, what stands inside only what is stored.
- ``Cache`` within ``Encrypt``: what it keeps is what the store has, encrypted. Around ``Encrypt`` it would keep
  contents in the clear, and save decrypting them.
- ``Retry`` innermost, around the backend that fails: what stands outside sees one call, however often it was tried.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cache import Cache as Cache
    from .cache import CacheStats as CacheStats
    from .encrypt import Encrypt as Encrypt
    from .observe import Event as Event
    from .observe import Observe as Observe
    from .prefix import Prefix as Prefix
    from .readonly import ReadOnly as ReadOnly
    from .retry import Retry as Retry

_NAMES = {
    "Cache": "cache", "CacheStats": "cache", "Encrypt": "encrypt", "Event": "observe", "Observe": "observe",
    "Prefix": "prefix", "ReadOnly": "readonly", "Retry": "retry",
}  # fmt: skip
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
