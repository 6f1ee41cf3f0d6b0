"""The two listings of a plan, as it has to have them: what its options let in, and what went wrong on the way."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any

from omnistorage import ops
from omnistorage.errors import BucketNotFound, InvalidPath, NotFound, StorageError
from omnistorage.sync.endpoint import Side
from omnistorage.sync.entries import Entry, Fold
from omnistorage.sync.error_context import blamed
from omnistorage.sync.filters import Filter
from omnistorage.sync.options import SyncOptions

from .folder_times import Times
from .incomplete_folders import Unlisted
from .inputs import MergeInputs
from .statistics import Seen


def _double(names: dict[bytes, list[str]], one: Entry, other: Entry) -> None:
    names.setdefault(one.key, [one.path]).append(other.path)


class Listed:
    """What ``Merge`` reads."""

    inputs: MergeInputs
    o: SyncOptions
    seen: Seen
    src: Side
    dst: Side
    fold: Fold
    filter: Filter
    times: Times | None
    trees: bool
    unlisted: Unlisted
    doubles: dict[bytes, list[str]]
    twins: dict[bytes, list[str]]

    def _fold(self) -> Fold:
        case, form = self.o.ignore_case, self.o.normalize
        sides = (self.src.features, self.dst.features)
        return Fold(
            case=not self.dst.features.case_sensitive if case is None else case,
            form=any(side.normalizes for side in sides) if form is None else form,
        )

    def _list(self, side: Side, **more: Any) -> Generator[Entry, None, None]:
        everything = side is self.dst and self.o.delete_excluded
        filter = type(self.filter)() if everything else self.filter
        folders = self.trees and (side is self.dst or self.o.delete or self.o.empty_dirs or self.times is not None)
        return side.entries(
            filter,
            fold=self.fold,
            folders=folders,
            resort=self.o.sort_listings,
            readers=self.o.checkers,
            pool=self.inputs.pool,
            **more,
        )

    def _sources(self) -> Generator[Entry, None, None]:
        follow = self.o.links == "follow"
        return self._list(
            self.src,
            follow=follow,
            on_error=self._source_failed,
            on_double=partial(_double, self.doubles),
            on_marked=self.unlisted.drop,
        )

    def _targets(self) -> Generator[Entry, None, None]:
        if self.o.no_traverse:
            return
        try:
            yield from self._list(
                self.dst,
                on_error=self._target_failed,
                on_double=partial(_double, self.twins),
                on_marked=self.unlisted.keep,
            )
        except NotFound as error:
            if self.seen.destination_objects or isinstance(error, BucketNotFound):
                raise blamed(error, self.dst) from error.__cause__
            # Else there is nothing yet, and what is written first makes it.
        except StorageError as error:
            raise blamed(error, self.dst) from error.__cause__
        if not self.seen.destination_objects and (file := self.dst.file_in_the_way()) is not None:
            why = f"the destination is to be a folder, and {file} is a file"
            raise blamed(InvalidPath(why, op="list"), self.dst)

    def _source_failed(self, error: StorageError) -> None:
        self._failed(error, self.src, self.unlisted.failed)

    def _target_failed(self, error: StorageError) -> None:
        self._failed(error, self.dst, self.unlisted.unknown)
        self.unlisted.hold(self.dst.relative(error.path or ""))

    def _failed(self, error: StorageError, side: Side, folders: set[str]) -> None:
        blamed(error, side)
        folder = self.fold(side.relative(error.path or ""))
        if not folder:
            raise error  # all of it
        if folder not in folders:
            folders.add(folder)
            self.seen.note(error)

    def _must_exist(self) -> None:
        """An empty folder is one thing, a name that nothing has is another."""
        if self.o.allow_empty_source:
            return
        try:
            next(iter(ops.children(self.src.backend, self.src.prefix)), None)
        except NotFound as error:
            raise NotFound(
                "the source does not exist; allow_empty_source takes it for an empty folder",
                path=self.src.prefix or None,
                backend=self.src.backend.name,
                op="list",
            ) from error
