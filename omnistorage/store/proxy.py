"""``ProxyStore``: a Store made from a Store, for those who change some of its methods."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from types import FunctionType
from typing import Any, Self

from .paths import StorePath
from .store import Store


class ProxyStore(Store):
    """Forwards every method to ``inner``; override what shall be different. ``child`` stays wrapped: a subclass whose
    constructor takes more than ``inner`` overrides ``rewrap``. ``as_backend`` gives the inner store's backend, so what
    works on backends does not meet the overridden methods."""

    __slots__ = ("inner",)

    inner: Store

    def __init__(self, inner: Store) -> None:
        self._begin(inner._backend, inner._steps, False)
        object.__setattr__(self, "inner", inner)

    def rewrap(self, inner: Store) -> Self:
        """The same proxy around another store."""
        return type(self)(inner)

    def child(self, subpath: StorePath) -> Self:
        return self.rewrap(self.inner.child(subpath))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.inner == other.inner

    def __hash__(self) -> int:
        return hash((type(self), self.inner))

    def __reduce__(self) -> Any:
        return type(self), (self.inner,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"


def _forwarder(name: str, of: FunctionType) -> Callable[..., Any]:
    def forward(self: ProxyStore, *args: Any, **settings: Any) -> Any:
        return getattr(self.inner, name)(*args, **settings)

    forward.__name__, forward.__qualname__, forward.__doc__ = name, f"ProxyStore.{name}", of.__doc__
    return forward


# Each by itself and none through another: a proxy that overrides ``stat`` changes ``stat``, and not ``checksum`` too.
for _name in dir(Store):
    _method = getattr(Store, _name)
    if _name.startswith("_") or _name in ProxyStore.__dict__:
        continue
    if isinstance(_method, FunctionType):
        setattr(ProxyStore, _name, _forwarder(_name, _method))
    elif isinstance(_method, property):
        setattr(ProxyStore, _name, property(attrgetter(f"inner.{_name}"), doc=_method.__doc__))
