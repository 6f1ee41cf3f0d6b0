"""What the parts of a Store stand on: its backend, its paths, and what a miss means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from omnistorage import ops
from omnistorage.core import Backend, ExtendedBackend, ObjectInfo
from omnistorage.errors import AlreadyExists, CapabilityNotSupported, InvalidPath, NotFound, StorageError
from omnistorage.paths import set_location

from .capability import Capability, capabilities, has

E = TypeVar("E", bound=StorageError)


class StoreBase:
    """The view that all methods work on, and the questions that several of them ask."""

    __slots__ = ("__weakref__", "_at", "_backend", "_owns", "_root", "_steps")

    _at: ExtendedBackend  # the root of this store as a backend
    _backend: Backend
    _root: str
    _steps: tuple[str, ...]  # the same, folder by folder as children were made: no link leads out of any of them
    _owns: bool

    # -- what it can do ------------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> frozenset[Capability]:
        """All that this store can do, known without I/O."""
        return capabilities(self._at)

    def supports(self, capability: Capability | str) -> bool:
        """Whether this store has ``capability``, known without I/O."""
        return has(self._at, Capability(capability))

    def _need(self, capability: Capability, op: str, path: str, hint: str = "") -> None:
        if not has(self._at, capability):
            raise CapabilityNotSupported(
                f"{self._at.name} does not support {capability.name}{hint}",
                capability=capability.value, path=path, backend=self._at.name, op=op,
            )  # fmt: skip

    # -- what a miss means ---------------------------------------------------------------------------------------------

    def _is_folder(self, key: str) -> bool:
        if not key:
            return True
        at = self._at
        if not at.features.list:
            return False
        if not at.features.dirs and next(iter(at.list(key)), None) is not None:  # a page; all children may be many
            return True
        try:
            next(ops.children(at, key), None)
        except (NotFound, InvalidPath):
            return False
        return True

    def _means_folder(self, error: NotFound, key: str) -> bool:
        """Whether the object that was not found is a folder, which is another mistake."""
        return error.path in (None, key) and self._seems_folder(key)

    def _seems_folder(self, key: str) -> bool:
        """Whether it is known to be a folder: who may not list does not hear of that instead of what he asked for."""
        try:
            return self._is_folder(key)
        except StorageError:
            return False

    @contextmanager
    def _of_file(self, key: str, op: str) -> Iterator[None]:
        """Says so."""
        try:
            yield
        except NotFound as error:
            if self._means_folder(error, key):
                raise self._folder_error(key, op) from error
            raise

    def _missing(self, key: str, op: str) -> NoReturn:
        if self._seems_folder(key):
            raise self._folder_error(key, op)
        raise self._located(NotFound("no such file", path=key, backend=self._at.name, op=op))

    def _folder_error(self, key: str, op: str) -> InvalidPath:
        return self._located(InvalidPath("this is a folder, not a file", path=key, backend=self._at.name, op=op))

    def _located(self, error: E) -> E:
        set_location(error, self._at.url)
        return error

    def _hint(self, error: CapabilityNotSupported | AlreadyExists, hint: str = "pass overwrite=True") -> None:
        """What is there, or a store that cannot promise to create only, is replaced on request."""
        hint += " to replace whatever is there"
        can_help = isinstance(error, AlreadyExists) or error.capability == Capability.CREATE_ONLY.value
        if can_help and hint not in str(error.args[0]):
            error.args = (f"{error.args[0]}; {hint}",)

    @contextmanager
    def _replacing(self, hint: str = "pass overwrite=True") -> Iterator[None]:
        """Adds the hint."""
        try:
            yield
        except (AlreadyExists, CapabilityNotSupported) as error:
            self._hint(error, hint)
            raise

    def _root_exists(self) -> None:
        """Raise ``NotFound`` if the bucket, folder or table itself is missing."""
        next(iter(self._at.list("")), None)

    def _children(self, folder: str) -> Iterator[ObjectInfo]:
        """What lies right in ``folder``; nothing where there is no such folder in a root that is there."""
        try:
            yield from ops.children(self._at, folder)
        except NotFound as error:
            if not folder:
                raise
            if error.path in (None, folder):
                self._root_exists()
                return
            raise

    # -- identity ------------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a Store does not change; make another one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Store does not change; make another one")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoreBase):
            return NotImplemented
        return type(self) is type(other) and self._backend is other._backend and self._root == other._root

    def __hash__(self) -> int:
        return hash((id(self._backend), self._root))
