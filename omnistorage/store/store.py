"""``Store``: relative paths to bytes, the same over every backend."""

from __future__ import annotations

from typing import Any, Self, TypeVar

from omnistorage import ops
from omnistorage.core import Backend, Confine, ExtendedBackend, HealthCheck, ResolutionPlan, Resolve, power, unwrap
from omnistorage.errors import CapabilityNotSupported, ConfigError, InvalidPath
from omnistorage.paths import check_prefix, is_under, join
from omnistorage.wrappers import Prefix

from .moving import Moving
from .paths import StorePath, file_key, folder_key

T = TypeVar("T")


class Store(Moving):
    """A deterministic resolver of keys to bytes: a backend, and a folder of it that is the root.

    Immutable, thread-safe, cheap and hashable; two are equal if they have the same backend and root. Paths are
    relative: ``str``, path objects or ``RemotePath``; errors name the path that was passed. ``overwrite=False`` is the
    default of everything that writes. ``close`` and ``with`` close the backend if the store owns it (``owns=True``); a
    ``child`` owns nothing and opens nothing. Pickles as its backend does.
    """

    __slots__ = ()

    def __init__(self, backend: Backend | Any, root_path: str = "", *, owns: bool = True) -> None:
        steps = steps_of(root_path, "Store")
        if type(backend) is Store:
            store: Store = backend
            backend, steps, owns = store._backend, (*store._steps, *steps), False
        elif hasattr(backend, "as_backend"):
            backend, owns = backend.as_backend(), False
        if not isinstance(backend, Backend):
            raise ConfigError(f"a Store stands on a backend, not on {type(backend).__name__}: open_store takes URLs")
        self._begin(backend, steps, owns)

    def _begin(self, backend: Backend, steps: tuple[str, ...], owns: bool) -> None:
        root = join(*steps)
        at = _confined(backend, steps)
        for name, value in {
            "_backend": backend, "_root": root, "_steps": steps, "_owns": owns,
            "_at": ops.extended(Prefix(at, root) if root else at),
        }.items():  # fmt: skip
            object.__setattr__(self, name, value)

    @classmethod
    def _made(cls, backend: Backend, steps: tuple[str, ...], *, owns: bool = False) -> Self:
        found = object.__new__(cls)
        found._begin(backend, steps, owns)
        return found

    @property
    def name(self) -> str:
        """The backend's name."""
        return self._at.name

    @property
    def root_path(self) -> str:
        """The folder of the backend that is the root of this store."""
        return self._root

    @property
    def url(self) -> str | None:
        """Where the root is, without secrets and with a slash at its end; None where there is nothing to say."""
        return self._at.url

    def as_backend(self) -> ExtendedBackend:
        """The root as a backend: what sync, the wrappers and everything else take."""
        return self._at

    def child(self, subpath: StorePath) -> Store:
        """The store of a folder, which need not exist. It shares the backend and does not own it."""
        return Store._made(self._backend, (*self._steps, *steps_of(subpath, "child")))

    def close(self) -> None:
        """Close the backend, if this store owns it."""
        if self._owns:
            self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> Any:
        return _unpickled, (self._backend, self._steps, self._owns)

    def __repr__(self) -> str:
        where = self._at.url
        return f"Store({where!r})" if where is not None else f"Store({self._backend!r}, {self._root!r})"

    # -- what a key stands for -----------------------------------------------------------------------------------------

    def resolve(self, key: StorePath, probe: bool = False) -> ResolutionPlan:
        """What a key would resolve to: pure, without I/O. With ``probe`` it looks, and the details say what it found
        (``resolved_tier`` and ``tried`` for tiers, ``exists`` for one place)."""
        path = file_key(key, "resolve")
        able = power(self._at, Resolve)
        if able is not None:
            plan = able.resolve(path)
        else:
            plan = ResolutionPlan("blob", self._at.name, path, {"url": self._at.url, "path": join(self._root, path)})
        if not probe:
            return plan
        return ResolutionPlan(
            plan.kind, plan.backend, plan.key, {**plan.details, "exists": self._at.exists(path)}, plan.fingerprint
        )

    def native_path(self, path: StorePath) -> str:
        """What the backend itself calls the object: its path from the backend's root."""
        return join(self._root, folder_key(path, "native_path"))

    def to_key(self, native_path: str) -> str:
        """The path in this store of what ``native_path`` names: the inverse, also for a URL below ``url``. Raises
        ``InvalidPath`` for what does not lie in this store."""
        from urllib.parse import unquote

        url = self._at.url
        if url is not None and (native_path + "/").startswith(url):
            return check_prefix(unquote(native_path[len(url) :]), op="to_key")
        inside = is_under(native_path, self._root) or native_path == self._root
        if inside and "://" not in native_path and not native_path.startswith("/"):
            return check_prefix(native_path[len(self._root) :].removeprefix("/"), op="to_key")
        raise InvalidPath(f"this does not lie in {self._root!r}", path=native_path, op="to_key")

    def unwrap(self, kind: type[T]) -> T:
        """The backend, the wrapper around it, or the native handle that it works with (a ``Path``, a boto3 or Google
        ``Client``, a ``ContainerClient``, an ``Engine``) that is a ``kind``. ``CapabilityNotSupported`` if there is
        none. What is done with a native handle is neither retried nor translated."""
        found = unwrap(self._at, kind)
        if found is None:
            raise CapabilityNotSupported(
                f"{self._at.name} has no {kind.__name__}", capability="unwrap", backend=self._at.name
            )
        return found

    def ping(self) -> None:
        """One cheap authenticated request; raises if the root cannot be used."""
        able = power(self._at, HealthCheck)
        if able is not None:
            able.check_health()
        else:
            self._root_exists()


def _unpickled(backend: Backend, steps: tuple[str, ...], owns: bool) -> Store:
    return Store._made(backend, steps, owns=owns)


def steps_of(path: StorePath, op: str) -> tuple[str, ...]:
    """The folder ``path`` as a step from the root; none for the root."""
    folder = folder_key(path, op)
    return (folder,) if folder else ()


def _confined(backend: Backend, steps: tuple[str, ...]) -> Backend:
    """The backend where no link leads out of any of the folders that the last one lies in. ``Prefix`` sees to that."""
    for end in range(1, len(steps)):
        able = power(backend, Confine)
        backend = backend if able is None else able.confined(join(*steps[:end]))
    return backend
