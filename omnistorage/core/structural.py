"""Whether an object has the shape of a protocol."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeGuard, TypeVar, cast

K = TypeVar("K")
T = TypeVar("T")


def has_shape(value: object, kind: type[K]) -> TypeGuard[K]:
    """What ``isinstance`` says for a protocol of public names; that of Python 3.11 works these out at every call, which
    takes longer than many a call of a backend."""
    return all(hasattr(value, name) for name in names_of(cast(Any, kind)))


@cache
def names_of(kind: type) -> frozenset[str]:
    """The methods and attributes that a protocol asks for."""
    attributes = {name for one in kind.__mro__ for name in vars(one).get("__annotations__", ())}
    return frozenset(name for name in {*dir(kind), *attributes} if not name.startswith("_"))


def twin(it: T) -> T:
    """A shallow copy, which shares all that ``it`` holds, however ``it`` is pickled."""
    found = object.__new__(type(it))
    found.__dict__.update(it.__dict__)
    return found
