"""The sync engine: make one place equal another, check that it is, and keep two in step.

``plan`` merges two listings into a lazy stream of actions and ``run`` carries it out; ``sync``, ``copy`` and ``move``
are thin over these two. Nothing is deleted unless ``delete=True`` says so, and then only last, and only if everything
before it went well. See ``docs/guides/sync.md``.
"""

from __future__ import annotations

from .api import check, check_sums, copy, copy_file, move, move_file, plan, sync
from .checking import CheckReport
from .events import Event
from .execution.runner import run
from .filters import Filter
from .options import SyncOptions
from .planning.actions import Action
from .planning.plan import Plan
from .report import Failure, Report
from .two_way import BisyncReport, bisync

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
