"""The sync engine: make one place equal another, check that it is, and keep two in step. Floor 3.

``plan`` merges two listings into a lazy stream of actions and ``run`` carries it out; ``sync``, ``copy`` and ``move``
are thin over these two. Nothing is deleted unless ``delete=True`` says so, and then only last, and only if everything
before it went well. See ``docs/guides/sync.md``.
"""

from __future__ import annotations

from ._api import check, check_sums, copy, copy_file, move, move_file, plan, sync
from ._plan import Plan
from .actions import Action
from .bisync import BisyncReport, bisync
from .checking import CheckReport
from .engine import run
from .events import Event
from .filters import Filter
from .options import SyncOptions
from .report import Failure, Report

__all__ = [
    "Action",
    "BisyncReport",
    "CheckReport",
    "Event",
    "Failure",
    "Filter",
    "Plan",
    "Report",
    "SyncOptions",
    "bisync",
    "check",
    "check_sums",
    "copy",
    "copy_file",
    "move",
    "move_file",
    "plan",
    "run",
    "sync",
]
