"""What the merge of two listings is given."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from omnistorage.sync.endpoint import Side
from omnistorage.sync.options import SyncOptions

from .statistics import Seen


@dataclass(frozen=True)
class MergeInputs:
    """The two sides and the options, what is counted (``seen``), the maker of executors that look at several objects
    side by side, and whether the destination's folders get the times of the source's."""

    src: Side
    dst: Side
    options: SyncOptions
    seen: Seen
    pool: Callable[[int], Executor]
    sets_folder_times: bool
