"""What the parts of the conformance kit share: making a backend, the raw back doors, small helpers."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from omnistorage.core import (
    READ,
    WRITE,
    Backend,
    ExtendedBackend,
    Features,
    ReadOptions,
    WriteOptions,
    as_extended,
    features_of,
)
from omnistorage.errors import CapabilityNotSupported, CorruptData, NotFound, StorageError

TREE = (
    "a", "a!x", "a-b", "a.b", "a/b", "a/b.txt", "a/c/d", "a/c/e/f", "a0", "ab/c", "b", "data/x", "database/x",
    "data.csv", "z z/é", "z/😀", "z/ﬀ", "Z/upper", "_/under", "~tilde",
)  # fmt: skip
"""Keys whose byte order differs from the order of a naive folder walk. Not all can be held where folders are real."""

TREE_WITH_FOLDERS = tuple(key for key in TREE if key not in ("a", "a/b"))


class Kit:
    """A subclass says how to make a fresh, empty backend, and how to look at it from behind.

    ``peek(backend, path)`` returns the stored bytes or None, ``plant(backend, path, data)`` stores an object, both
    without using the methods under test: with the raw client, the file system, the dict behind it.
    """

    read_only = False

    def make(self) -> Backend:
        raise TypeError(f"{type(self).__name__} must define make(self) -> Backend")

    def peek(self, backend: Any, path: str) -> bytes | None:
        found: bytes | None = backend.peek(path)
        return found

    def plant(self, backend: Any, path: str, data: bytes) -> None:
        backend.put_raw(path, data)

    def is_kept(self, backend: Any, path: str, old: bytes) -> None:
        """After a write that failed the old object is there. Where readers see a write live it is gone already, but
        what there is of the new one never ends cleanly."""
        if not is_live(backend):
            assert self.peek(backend, path) == old
        else:
            with ours(NotFound, CorruptData):
                get(backend, path)

    def dispose(self, backend: Any) -> None:
        backend.close()

    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        yield from self.made(self.make())

    def made(self, backend: Backend) -> Iterator[Backend]:
        """``backend`` for one test. Where it cannot write, what the tests put is planted from behind."""
        assert features_of(backend).write is not self.read_only, "read_only is for backends that cannot write"
        if self.read_only:
            _PLANTED[id(backend)] = lambda path, data: self.plant(backend, path, data)
        yield backend
        _PLANTED.pop(id(backend), None)
        self.dispose(backend)


_PLANTED: dict[int, Callable[[str, bytes], None]] = {}


def put(backend: Backend, path: str, data: bytes = b"data", options: WriteOptions = WRITE) -> Any:
    """Write one object through the methods under test, or plant it where the backend cannot write."""
    if id(backend) in _PLANTED and options is WRITE:
        _PLANTED[id(backend)](path, data)
        return None
    with backend.open_writer(path, options) as writer:
        writer.write(data)
        return writer.close()


def get(backend: Backend, path: str, options: ReadOptions = READ) -> bytes:
    """Read one object through the methods under test."""
    with backend.open_reader(path, options) as reader:
        return b"".join(iter(lambda: reader.read(65536), b""))


def keys(backend: Backend, prefix: str = "") -> list[str]:
    return [info.path for info in backend.list(prefix)]


def tree_for(backend: Backend) -> tuple[str, ...]:
    """The awkward keys that this backend can hold side by side."""
    return TREE_WITH_FOLDERS if features_of(backend).dirs else TREE


def payload(size: int, seed: str = "omnistorage") -> bytes:
    """``size`` bytes that no codec or cache can guess, the same for the same seed."""
    return hashlib.shake_256(seed.encode()).digest(size)


def flags(backend: Backend) -> Features:
    return features_of(backend)


def is_live(backend: Backend) -> bool:
    """Whether readers see what is written before it is closed: an extended backend that says so."""
    return as_extended(backend) is not None and not features_of(backend).atomic_write


def whole(backend: Backend) -> ExtendedBackend | None:
    """The extended backend, or None, in which case a test of the further methods has nothing to ask."""
    return as_extended(backend)


@contextlib.contextmanager
def refused(capability: str = "") -> Iterator[None]:
    """The block raises ``CapabilityNotSupported`` and names a capability."""
    with pytest.raises(CapabilityNotSupported) as caught:
        yield
    assert caught.value.capability, "a refusal names the capability that is missing"


@contextlib.contextmanager
def ours(*kinds: type[StorageError], path: str | None = None) -> Iterator[Any]:
    """The block raises one of our errors of these kinds, and it carries the path that the caller passed."""
    with pytest.raises(kinds or StorageError) as caught:
        yield caught
    error = caught.value
    assert isinstance(error, StorageError)
    if path is not None:
        assert error.path == path, f"error.path is {error.path!r}, the caller passed {path!r}"
