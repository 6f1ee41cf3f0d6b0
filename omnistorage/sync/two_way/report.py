"""How a ``bisync`` ended. Pure data, bounded whatever the run's size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from omnistorage.errors import StorageError
from omnistorage.sync.report import KEPT, Failure, Report


class Conflict(NamedTuple):
    """An object that was changed on both sides. ``winner`` is the side whose version has the name now (``"path1"``,
    ``"path2"``; ``""`` where both stay as they are), ``kept`` the name under which the other one was kept."""

    path: str
    winner: str = ""
    kept: str = ""


@dataclass
class BisyncReport:
    """Counts of objects, and ``bytes`` moved. ``to_path1`` and ``to_path2`` count what was written to a side,
    ``deleted_path1`` and ``deleted_path2`` what was deleted there; ``same`` what was changed on both sides to the same
    content; ``conflicts`` the first thousand of ``conflicted``. With ``dry_run`` all of it is what would have been
    done."""

    path1: str = ""
    path2: str = ""
    dry_run: bool = False
    first: bool = False
    to_path1: int = 0
    to_path2: int = 0
    deleted_path1: int = 0
    deleted_path2: int = 0
    folders_removed: int = 0
    unchanged: int = 0
    same: int = 0
    conflicted: int = 0
    blocked: int = 0
    bytes: int = 0
    failed: int = 0
    seconds: float = 0.0
    conflicts: list[Conflict] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything was done and both sides are in step, apart from conflicts that were to be left."""
        return not self.failed

    @property
    def changes(self) -> int:
        """What was written and deleted on both sides."""
        return self.to_path1 + self.to_path2 + self.deleted_path1 + self.deleted_path2

    def fail(self, path: str, action: str, error: StorageError) -> None:
        self.failed += 1
        if len(self.failures) < KEPT:
            self.failures.append(Failure(path, action, error))

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def conflict(self, found: Conflict) -> None:
        self.conflicted += 1
        if len(self.conflicts) < KEPT:
            self.conflicts.append(found)

    def add(self, side: int, step: Report) -> None:
        """Count a step that changed the side of this number."""
        to, deleted = ("to_path1", "deleted_path1") if side == 0 else ("to_path2", "deleted_path2")
        setattr(self, to, getattr(self, to) + step.transferred)
        setattr(self, deleted, getattr(self, deleted) + step.deleted)
        self.folders_removed += step.folders_removed
        self.bytes += step.bytes
        self.failures += step.failures[: KEPT - len(self.failures)]
        self.failed += step.failed
        for text in step.warnings:
            self.warn(text)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; failures with their texts."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "failures"}
        found["conflicts"] = [conflict._asdict() for conflict in self.conflicts]
        found["failures"] = [{"path": f.path, "action": f.action, "error": str(f.error)} for f in self.failures]
        return {**found, "ok": self.ok}

    def __str__(self) -> str:
        did = "would be " if self.dry_run else ""
        parts = [f"{getattr(self, name):,} {did}{text}" for name, text in _SHOWN if getattr(self, name)]
        return ", ".join(parts) or "nothing to do"


_SHOWN = (
    ("to_path1", "copied to path1"),
    ("to_path2", "copied to path2"),
    ("deleted_path1", "deleted from path1"),
    ("deleted_path2", "deleted from path2"),
    ("same", "changed alike on both"),
    ("conflicted", "in conflict"),
    ("blocked", "not done after errors"),
    ("failed", "failed"),
)
