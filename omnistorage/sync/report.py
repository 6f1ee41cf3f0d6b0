"""How a run ended. Pure data, bounded whatever the run's size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from omnistorage.errors import StorageError

from .planning.actions import Action

KEPT = 1_000
"""Errors that are kept with their texts; all are counted."""


class Failure(NamedTuple):
    """An entry that could not be done, and why."""

    path: str
    action: str
    error: StorageError


@dataclass
class Report:
    """Counts of objects, and ``bytes`` moved. ``deleted`` counts what is gone from the destination, ``removed`` what a
    move took from the source, ``blocked`` deletions that were not done as it was not safe. ``by_size_and_time`` counts
    those of ``equal`` whose content should have been compared, but no digest could be had. ``refused`` counts
    those of ``failed`` whose name the destination cannot hold: they keep nothing else from being deleted. ``stopped``
    says which limit ended the run early. With ``dry_run`` everything is what would have been done."""

    source: str = ""
    destination: str = ""
    dry_run: bool = False
    copied: int = 0
    updated: int = 0
    touched: int = 0
    renamed: int = 0
    made: int = 0
    deleted: int = 0
    removed: int = 0
    folders_removed: int = 0
    folder_times: int = 0
    skipped: int = 0
    equal: int = 0
    by_size_and_time: int = 0
    blocked: int = 0
    bytes: int = 0
    failed: int = 0
    refused: int = 0
    seconds: float = 0.0
    complete: bool = False
    stopped: str = ""
    warnings: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything was listed, compared and done."""
        return self.complete and not self.failed and not self.stopped

    @property
    def transferred(self) -> int:
        """Objects that were written at the destination."""
        return self.copied + self.updated

    def fail(self, path: str, action: str, error: StorageError) -> None:
        self.failed += 1
        if len(self.failures) < KEPT:
            self.failures.append(Failure(path, action, error))

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def count(self, action: Action, size: int = 0) -> None:
        """An action was done, and moved ``size`` bytes."""
        name = _COUNTERS[action.kind]
        setattr(self, name, getattr(self, name) + 1)
        self.bytes += size

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; failures with their texts."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "failures"}
        found["failures"] = [{"path": f.path, "action": f.action, "error": str(f.error)} for f in self.failures]
        return {**found, "ok": self.ok}

    def __str__(self) -> str:
        did = "would be " if self.dry_run else ""
        parts = []
        for name, word in _SHOWN:
            count = getattr(self, name) - (self.by_size_and_time if name == "equal" else 0)
            if count or (name == "equal" and self.equal):
                parts.append(f"{count:,} {'' if name in _SEEN else did}{word}")
        if self.folder_times and not any(getattr(self, name) for name, _ in _SHOWN if name not in _SEEN):
            parts.insert(0, f"{self.folder_times:,} folders {did}given another time")  # else a matter of course
        text = ", ".join(parts) or "nothing to do"
        return f"{text}; {self.stopped}" if self.stopped else text


_COUNTERS = {
    "copy": "copied",
    "update": "updated",
    "touch": "touched",
    "rename": "renamed",
    "mkdir": "made",
    "delete": "deleted",
    "rmdir": "folders_removed",
    "dirtime": "folder_times",
    "remove": "removed",
    "skip": "skipped",
    "equal": "equal",
}
_SEEN = ("equal", "by_size_and_time", "skipped", "blocked", "failed")  # not done, in a dry run as little as in another
_SHOWN = (
    ("copied", "copied"),
    ("updated", "updated"),
    ("touched", "given another time"),
    ("renamed", "renamed"),
    ("made", "folders made"),
    ("deleted", "deleted"),
    ("folders_removed", "folders removed"),
    ("removed", "removed from the source"),
    ("equal", "equal"),
    ("by_size_and_time", "by size and time only"),
    ("skipped", "skipped"),
    ("blocked", "not deleted"),
    ("failed", "failed"),
)
