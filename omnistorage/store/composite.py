"""``CompositeStore``: a Store over tiers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Self

from omnistorage.core import ObjectInfo, ResolutionPlan
from omnistorage.errors import BackendUnavailable, NotFound, StorageError
from omnistorage.multi import Difference, Tier, TieredBackend
from omnistorage.multi.common.outcomes import ShadowStats
from omnistorage.multi.tiered.migrate import migrate, migrate_folder
from omnistorage.paths import join
from omnistorage.wrappers import Prefix

from .listing import FolderInfo
from .paths import StorePath, file_key, folder_key
from .store import Store, steps_of


class CompositeStore(Store):
    """One Store over several tiers: ``Tier(name, store)``, hot before cold, or ``Tier(name, store, match="logs/**")``
    with ``mode="match"``. The options are those of ``TieredBackend``, which stands under it and says what reads, writes
    and deletes do. Closing it closes the tiers that own what they stand on."""

    __slots__ = ()

    def __init__(
        self,
        tiers: Iterable[Tier | Mapping[str, Any]] | TieredBackend,
        mode: Literal["fallthrough", "match"] = "fallthrough",
        *,
        read: Literal["first", "race", "shadow", "quorum"] = "first",
        quorum: int | None = None,
        write_tier: str | None = None,
        write_through: bool | Iterable[str] = False,
        promote_on_read: bool = False,
        skip_unavailable: bool = False,
        on_difference: Callable[[Difference], None] | None = None,
        root_path: str = "",
        owns: bool = True,
    ) -> None:
        if not isinstance(tiers, TieredBackend):
            tiers = TieredBackend(
                tiers, mode, read=read, quorum=quorum, write_tier=write_tier, write_through=write_through,
                promote_on_read=promote_on_read, skip_unavailable=skip_unavailable, on_difference=on_difference,
            )  # fmt: skip
        super().__init__(tiers, root_path, owns=owns)

    @property
    def _tiers(self) -> TieredBackend:
        """The tiers, out of whose folders no link leads."""
        found = self._at.inner if isinstance(self._at, Prefix) else self._at
        assert isinstance(found, TieredBackend)
        return found

    @property
    def tiers(self) -> tuple[str, ...]:
        """The names of the tiers, in order."""
        return tuple(place.name for place in self._tiers.places)

    def tier(self, name: str) -> Store:
        """One tier as a store of its own, at the same root. ``ConfigError`` if there is none of this name."""
        whole = self._backend
        assert isinstance(whole, TieredBackend)
        return Store._made(whole.tier(name).backend, self._steps)

    def child(self, subpath: StorePath) -> Self:
        return type(self)._made(self._backend, (*self._steps, *steps_of(subpath, "child")))

    def list_files(self, path: StorePath = "", *, tier: str | None = None, **options: Any) -> Iterator[ObjectInfo]:
        """``Store.list_files`` over all tiers in key order, each file as the first tier that has it shows it, or of one
        ``tier`` alone."""
        return super().list_files(path, **options) if tier is None else self.tier(tier).list_files(path, **options)

    def resolve(self, key: StorePath, probe: bool = False) -> ResolutionPlan:
        """The tiers that a read would ask, in order: pure, without I/O. ``probe`` looks in them: ``tried`` are those it
        asked, ``resolved_tier`` is the first that has the object, or None."""
        path = file_key(key, "resolve")
        plan = super().resolve(path)
        if not probe:
            return plan
        tried: list[str] = []
        found: str | None = None
        inside = join(self._root, path)
        for place in self._tiers.candidates(inside):
            tried.append(place.name)
            try:
                there = place.backend.exists(inside)
            except BackendUnavailable:
                if not self._tiers._skips:
                    raise
                continue
            if there:
                found = place.name
                break
        more = {"resolved_tier": found, "tried": tuple(tried), "exists": found is not None}
        return ResolutionPlan(plan.kind, plan.backend, plan.key, {**plan.details, **more}, plan.fingerprint)

    def migrate(self, path: StorePath, from_tier: str, to_tier: str, *, overwrite: bool = False) -> ObjectInfo:
        """Move one file to another tier: copied, verified, and then deleted from ``from_tier`` if it is still what was
        copied (``PreconditionFailed`` otherwise: a source that changed is kept and the copy taken back, the copy of one
        that is gone is kept). In a tier without conditions by etag (local files) that is looked at right before, and a
        write into that moment is lost. Where ``to_tier`` has the same bytes already, as after a migration that was cut
        short, they are the copy and get the user metadata of the source; others are ``AlreadyExists`` unless
        ``overwrite``."""
        key = join(self._root, file_key(path, "migrate"))
        with self._rebased():
            return self._info(migrate(self._tiers, key, from_tier, to_tier, overwrite=overwrite))

    def migrate_folder(self, path: StorePath, from_tier: str, to_tier: str, *, overwrite: bool = False) -> FolderInfo:
        """``migrate`` every file that ``from_tier`` has in a folder and that, with ``mode="match"``, belongs to
        ``to_tier``. It stops at the first that fails; what was moved stays moved, and running it again goes on."""
        folder = folder_key(path, "migrate_folder")
        with self._rebased():
            count, size = migrate_folder(self._tiers, join(self._root, folder), from_tier, to_tier, overwrite=overwrite)
        if not count and not self._is_folder(folder):
            raise NotFound("no such folder", path=folder, backend=self._at.name, op="migrate_folder")
        return FolderInfo(folder, count, size)

    @contextmanager
    def _rebased(self) -> Iterator[None]:
        """Errors name the path below this store's root."""
        try:
            yield
        except StorageError as error:
            raise (self._at._error(error) if isinstance(self._at, Prefix) else error) from error.__cause__

    def _info(self, info: ObjectInfo) -> ObjectInfo:
        return self._at._info(info) if isinstance(self._at, Prefix) else info

    @property
    def shadow_stats(self) -> ShadowStats:
        """What the comparisons of ``read="shadow"`` came to so far."""
        return self._tiers.shadow_stats

    def drain(self) -> None:
        """Wait for the comparisons that are under way."""
        self._tiers.drain()

    def __reduce__(self) -> Any:
        return _unpickled, (type(self), self._backend, self._steps, self._owns)


def _unpickled(
    kind: type[CompositeStore], backend: TieredBackend, steps: tuple[str, ...], owns: bool
) -> CompositeStore:
    return kind._made(backend, steps, owns=owns)
