"""What would have to be done: two listings merged into a lazy stream of actions. Reads, never writes.

The stream has the order in which it is safe to act: transfers as the listings are read; when both came to their end,
what replaces or deletes, deletions last. What is not safe is not in it: a listing that breaks off ends the stream
without a single deletion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Self

from omnistorage import ops
from omnistorage.core import FolderTimes, ObjectInfo, power
from omnistorage.core.lifecycle import Closes
from omnistorage.errors import CapabilityNotSupported, ConfigError
from omnistorage.ops.same_bucket import differ_by_host_alone
from omnistorage.sync.endpoint import Place, Side
from omnistorage.sync.links import store_links
from omnistorage.sync.options import SyncOptions
from omnistorage.sync.overlap import overlap, overlaps

from .actions import Action
from .inputs import MergeInputs
from .merge import Merge
from .statistics import Seen


class Plan(Closes):
    """Iterate over it for the actions that make ``dst`` what ``options`` say of ``src``; each iteration lists anew, and
    ``seen`` counts what the last one saw. Printing the actions is the dry run.

    ``src`` and ``dst`` are backends, Stores or URLs; what was opened for a URL, with the ``defaults`` of
    ``open_backend``, is closed by ``close``. Raises ``ConfigError`` where the two overlap, and for a move where a store
    behind the wrappers or tiers of one is behind the other, too; ``CapabilityNotSupported`` where a side cannot do its
    part.
    """

    def __init__(
        self,
        src: Place,
        dst: Place,
        options: SyncOptions | None = None,
        *,
        pool: Callable[[int], Executor] = ThreadPoolExecutor,
        defaults: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if options is not None and settings:
            raise ConfigError("give options, or settings by name: not both")
        self.options = options or SyncOptions.of(settings)
        self.pool = pool
        self.seen = Seen()
        self._defaults = defaults
        self.src = Side(src, "source", defaults)
        try:
            self.dst = Side(dst, "destination", defaults)
            self.backup = self._backup()
            if self.options.links == "store":
                store_links(self.src)
                store_links(self.dst)
            self._check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the backends that were opened for URLs."""
        for name in ("backup", "dst", "src"):
            side = getattr(self, name, None)
            if side is not None:
                side.close()

    def __iter__(self) -> Iterator[Action]:
        self.seen = Seen()
        if self.options.delete and self._may_overlap():
            self.seen.warn("nobody can tell whether source and destination overlap: compare their places yourself")
        inputs = MergeInputs(self.src, self.dst, self.options, self.seen, self.pool, self.sets_folder_times)
        return Merge(inputs).actions()

    def __repr__(self) -> str:
        return f"Plan({self.src.shown!r}, {self.dst.shown!r})"

    def is_done(self, action: Action) -> bool:
        """Whether an earlier run has carried ``action`` out. A plan that was just made knows of none."""
        return False

    was_done = is_done

    def note(self, action: Action, moved: int) -> None:
        """``action`` was carried out."""

    def made(self, action: Action, info: ObjectInfo) -> None:
        """The transfer ``action`` made this object, as the destination shows it. Called from any thread."""

    def take_token(self, action: Action) -> Mapping[str, Any] | None:
        """What an earlier run that died has noted of the upload of ``action``, which nobody else gets then."""
        return None

    keeps_tokens = False

    def keep_token(self, action: Action, token: Mapping[str, Any]) -> None:
        """Note it, if ``keeps_tokens``. Called from any thread."""

    share = 1.0
    """Of the bandwidth, where several workers divide it."""

    @property
    def sets_folder_times(self) -> bool:
        """Whether the destination's folders get the times of the source's."""
        o = self.options
        unwanted = o.no_folder_times or o.list_equal or o.no_traverse
        return not unwanted and self.src.features.dirs and power(self.dst.backend, FolderTimes) is not None

    # -- what is refused before anything is read -----------------------------------------------------------------------

    def _backup(self) -> Side | None:
        place = self.options.backup_dir
        return None if place is None else Side(place, "backup", self._defaults)

    def _check(self) -> None:
        o = self.options
        self._need(self.src, "list", "read")
        self._need(self.dst, *(() if o.no_traverse else ("list",)), *(("stat",) if o.no_traverse else ()))
        if o.move:
            self._need(self.src, "delete")
        if o.delete and not o.list_equal:  # a check deletes nothing
            self._need(self.dst, "delete")
        found = overlaps(self.src, self.dst, tiers=False)
        inner = None if o.list_equal else next(found, None)  # comparing does no harm
        if inner is not None and (inner == "" or o.filter.descends(inner) or o.delete_excluded):
            what = "are one place" if inner == "" else f"overlap: {inner!r} of one is the other"
            raise ConfigError(
                f"source and destination {what} ({self.src.shown}, {self.dst.shown}); exclude the inner folder"
                if inner
                else f"source and destination {what} ({self.src.shown})",
            )
        if o.move:
            self._check_apart()
        if self.backup is not None:
            self._check_backup(self.backup)

    def _check_apart(self) -> None:
        """Of one store under two names a copy is the original, and a move would delete the only one there is."""
        if any(inner == "" or self.options.filter.descends(inner) for inner in overlaps(self.src, self.dst)):
            raise ConfigError(
                f"{self.src.shown} and {self.dst.shown} cannot be told apart: a store behind the one is behind the "
                "other, too, and what a move removes from the source would be gone from both. Copy, check, then remove"
            )

    def _may_overlap(self) -> bool:
        src, dst = self.src, self.dst
        unknown = None in (src.url, dst.url) or differ_by_host_alone(src.url, dst.url)
        return unknown and not ops.same_place(src.backend, dst.backend)

    def _check_backup(self, backup: Side) -> None:
        self._need(backup, "write")
        for side in (self.src, self.dst):
            inner = overlap(backup, side)
            if inner == "" and not self.options.suffix:
                raise ConfigError(f"the backup folder is the {side.role} itself: give a suffix, or another folder")
            if inner and (self.options.filter.descends(inner) or self.options.delete_excluded):
                what = "delete_excluded would delete it" if self.options.delete_excluded else f"exclude {inner!r}"
                raise ConfigError(f"the backup folder and the {side.role} overlap: {what}")

    def _need(self, side: Side, *flags: str) -> None:
        for flag in flags:
            if not getattr(side.features, flag):
                raise CapabilityNotSupported(
                    f"the {side.role} cannot {flag}",
                    capability=flag,
                    backend=side.backend.name,
                    path=side.prefix or None,
                )

    def __enter__(self) -> Self:
        return self
