"""Comparing two places without changing either. Imports floors 0 and 2."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ..errors import StorageError
from ._pools import Lookers
from .actions import Action
from .compare import UNKNOWN
from .plan import Plan
from .report import KEPT, Failure
from .versions import same_bytes

MATCH, ONLY_DST, ONLY_SRC, DIFFER, ERROR = "=", "-", "+", "*", "!"
SIGNS = {MATCH: "match", ONLY_DST: "missing_on_src", ONLY_SRC: "missing_on_dst", DIFFER: "differ", ERROR: "error"}
Told = Callable[[str, str, str], None]
_AHEAD = 4


@dataclass
class CheckReport:
    """How two places compare. ``errors`` counts what could not be compared, which is neither equal nor different;
    ``skipped`` what was left out, such as links."""

    source: str = ""
    destination: str = ""
    match: int = 0
    differ: int = 0
    missing_on_src: int = 0
    missing_on_dst: int = 0
    errors: int = 0
    skipped: int = 0
    complete: bool = False
    warnings: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def differences(self) -> int:
        return self.differ + self.missing_on_src + self.missing_on_dst

    @property
    def in_sync(self) -> bool:
        """Whether everything was compared and is the same. What was left out, and counts as ``skipped``, such as
        links, is not part of it."""
        return self.complete and not self.errors and not self.differences

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "failures"}
        found["failures"] = [{"path": f.path, "error": str(f.error)} for f in self.failures]
        return {**found, "differences": self.differences, "in_sync": self.in_sync}

    def __str__(self) -> str:
        parts = [f"{self.match:,} equal"]
        parts += [f"{self.differ:,} differ"] if self.differ else []
        parts += [f"{self.missing_on_dst:,} only at the source"] if self.missing_on_dst else []
        parts += [f"{self.missing_on_src:,} only at the destination"] if self.missing_on_src else []
        parts += [f"{self.errors:,} not compared"] if self.errors else []
        return ", ".join(parts)


class Checker:
    """Reads a plan and says of every object how it compares."""

    def __init__(self, plan: Plan, *, download: bool = False, listeners: Iterable[Told] = ()) -> None:
        self.plan, self.download = plan, download
        self.listeners = tuple(listeners)
        self.report = CheckReport(plan.src.shown, plan.dst.shown)

    def run(self) -> CheckReport:
        for action, (sign, why) in self._compared():
            if sign:
                self._tell(sign, action.path, why)
        seen, report = self.plan.seen, self.report
        report.complete, report.warnings = seen.complete, list(seen.warnings)
        for error in seen.listing_errors:
            self._tell(ERROR, error.path or "", str(error), error)
        return report

    def _compared(self) -> Iterator[tuple[Action, tuple[str, str]]]:
        if not self.download:
            yield from ((action, self._sign(action)) for action in self.plan)
            return
        workers = self.plan.options.checkers
        pool = Lookers(self.plan.pool(workers))
        waiting: list[tuple[Action, Future[tuple[str, str]]]] = []
        try:
            for action in self.plan:
                waiting.append((action, pool.submit(self._read, action)))
                if len(waiting) > _AHEAD * workers:
                    first, future = waiting.pop(0)
                    yield first, future.result()
            yield from ((action, future.result()) for action, future in waiting)
        finally:
            pool.close()

    def _sign(self, action: Action) -> tuple[str, str]:
        if action.kind == "skip":
            self.report.skipped += 1
        signs = {"equal": MATCH, "touch": MATCH, "copy": ONLY_SRC, "delete": ONLY_DST, "update": DIFFER, "error": ERROR}
        if self.plan.options.empty_dirs:
            signs |= {"mkdir": ONLY_SRC, "rmdir": ONLY_DST}
        sign = signs.get(action.kind, "")
        if sign == DIFFER and action.why == UNKNOWN:
            sign = ERROR
        return sign, action.why

    def _read(self, action: Action) -> tuple[str, str]:
        """The sign by the bytes themselves."""
        a, b = action.expect_src, action.expect_dst
        if a is None or b is None or action.kind in ("error", "skip"):
            return self._sign(action)
        if a.size is not None and b.size is not None and a.size != b.size:
            return DIFFER, "the size differs"
        try:
            with (
                self.plan.src.backend.open_reader(a.path) as one,
                self.plan.dst.backend.open_reader(b.path) as other,
            ):
                return (MATCH, "") if same_bytes(one, other) else (DIFFER, "the content differs")
        except StorageError as error:
            return ERROR, str(error)

    def _tell(self, sign: str, path: str, why: str, error: StorageError | None = None) -> None:
        report = self.report
        if sign == ERROR:
            report.errors += 1
            if len(report.failures) < KEPT:
                report.failures.append(
                    Failure(path, "check", error or StorageError(why, path=path or None, op="check"))
                )
        else:
            setattr(report, SIGNS[sign], getattr(report, SIGNS[sign]) + 1)
        for listener in self.listeners:
            listener(sign, path, why)
