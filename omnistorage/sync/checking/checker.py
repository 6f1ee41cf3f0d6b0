"""Comparing two places, or one with a sum file, without changing either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from omnistorage.core import ObjectInfo
from omnistorage.errors import StorageError
from omnistorage.sync.endpoint import Place
from omnistorage.sync.listing.lookup_pool import Lookers
from omnistorage.sync.planning.actions import ERRORS, Action
from omnistorage.sync.planning.comparison import UNKNOWN, digest
from omnistorage.sync.planning.plan import Plan
from omnistorage.sync.report import KEPT, Failure
from omnistorage.sync.versions import same_bytes

from .sum_file import SumFile

MATCH, ONLY_DST, ONLY_SRC, DIFFER, ERROR = "=", "-", "+", "*", "!"
SIGNS = {MATCH: "match", ONLY_DST: "missing_on_src", ONLY_SRC: "missing_on_dst", DIFFER: "differ", ERROR: "error"}
CheckListener = Callable[[str, str, str, StorageError | None], None]
_AHEAD = 4


@dataclass
class CheckReport:
    """How two places compare. ``by_size_and_time`` counts those of ``match`` whose content was not compared: no digest
    of both could be had, or the rule does not ask for any. ``errors`` counts what could not be compared, which is
    neither equal nor different; ``skipped`` what was left out, such as links."""

    source: str = ""
    destination: str = ""
    match: int = 0
    by_size_and_time: int = 0
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
        """Whether everything was compared and nothing differs, as far as ``by_size_and_time`` can tell. What was left
        out, and counts as ``skipped``, such as links, is not part of it."""
        return self.complete and not self.errors and not self.differences

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "failures"}
        found["failures"] = [{"path": f.path, "error": str(f.error)} for f in self.failures]
        return {**found, "differences": self.differences, "in_sync": self.in_sync}

    def __str__(self) -> str:
        parts = [f"{self.match - self.by_size_and_time:,} equal"]
        parts += [f"{self.by_size_and_time:,} by size and time only"] if self.by_size_and_time else []
        parts += [f"{self.differ:,} differ"] if self.differ else []
        parts += [f"{self.missing_on_dst:,} only at the source"] if self.missing_on_dst else []
        parts += [f"{self.missing_on_src:,} only at the destination"] if self.missing_on_src else []
        parts += [f"{self.errors:,} not compared"] if self.errors else []
        return ", ".join(parts)


class Checker:
    """Reads a plan and says of every object how it compares."""

    def __init__(self, plan: Plan, *, download: bool = False, listeners: Iterable[CheckListener] = ()) -> None:
        self.plan, self.download = plan, download
        self.listeners = tuple(listeners)
        self.report = CheckReport(plan.src.shown, plan.dst.shown)

    def run(self) -> CheckReport:
        report = self.report
        try:
            for action, (sign, why) in self._compared():
                report.skipped += action.kind == "skip"  # here, as signs are found out on several threads
                if sign:
                    self._tell(sign, action.path, why)
        finally:  # the plan may end in an error, which is another one
            for error in self.plan.seen.listing_errors:
                self._tell(ERROR, error.path or "", str(error), error)
        seen = self.plan.seen
        report.complete, report.warnings = seen.complete, list(seen.warnings)
        report.by_size_and_time = 0 if self.download else seen.by_size_and_time
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
                if not waiting and (known := self._known(action)):
                    yield action, known
                    continue
                waiting.append((action, pool.submit(self._read, action)))
                if len(waiting) > _AHEAD * workers:
                    first, future = waiting.pop(0)
                    yield first, future.result()
            yield from ((action, future.result()) for action, future in waiting)
        finally:
            pool.close()

    def _known(self, action: Action) -> tuple[str, str] | None:
        """The sign, where no store has to be asked for it."""
        return None

    def _sign(self, action: Action) -> tuple[str, str]:
        signs = {"equal": MATCH, "touch": MATCH, "copy": ONLY_SRC, "delete": ONLY_DST, "update": DIFFER}
        signs |= dict.fromkeys(ERRORS, ERROR)
        if self.plan.options.empty_dirs:
            signs |= {"mkdir": ONLY_SRC, "rmdir": ONLY_DST}
        sign = signs.get(action.kind, "")
        if sign == DIFFER and action.why == UNKNOWN:
            sign = ERROR
        return sign, action.why

    def _read(self, action: Action) -> tuple[str, str]:
        """The sign by the bytes themselves."""
        a, b = action.expect_src, action.expect_dst
        if a is None or b is None or action.kind in (*ERRORS, "skip"):
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
            error = error or StorageError(why, path=path or None, op="check")
            report.errors += 1
            if len(report.failures) < KEPT:
                report.failures.append(Failure(path, "check", error))
        else:
            setattr(report, SIGNS[sign], getattr(report, SIGNS[sign]) + 1)
        for listener in self.listeners:
            listener(sign, path, why, error)


class SumPlan(Plan):
    """The plan behind a check of a place against a ``SumFile``: it finds which names both have."""

    def __init__(self, sums: SumFile, dst: Place, **settings: Any) -> None:
        super().__init__(sums, dst, compare=_whatever_it_holds, **settings)

    def _check(self) -> None:
        self._need(self.dst, "stat" if self.options.no_traverse else "list")

    def _may_overlap(self) -> bool:
        return False  # nothing is deleted, and a sum file is no place


def _whatever_it_holds(a: ObjectInfo, b: ObjectInfo) -> bool:
    return True


class SumChecker(Checker):
    """Reads a ``SumPlan`` and holds what the destination has against the digests of the sum file: its listing's, its
    ``stat``'s, else that of its bytes. ``download``: of its bytes, whatever it states."""

    def __init__(self, plan: Plan, *, source: str, download: bool = False, **more: Any) -> None:
        super().__init__(plan, download=True, **more)
        self.report.source = source
        self._trusts = not download

    def _known(self, action: Action) -> tuple[str, str] | None:
        a, b = action.expect_src, action.expect_dst
        if a is None or b is None or action.kind in (*ERRORS, "skip"):
            return self._sign(action)
        if b.kind == "other":
            return ERROR, "neither a file nor a folder"
        name, wanted = _digest_of(a)
        stated = b.hash(name) if self._counts(name) else None
        return None if stated is None else _verdict(name, wanted, stated)

    def _counts(self, algorithm: str) -> bool:
        """Whether a digest that the destination states is one of what it holds now."""
        return self._trusts and algorithm not in self.plan.dst.features.kept_hashes

    def _read(self, action: Action) -> tuple[str, str]:
        known, a, b, dst = self._known(action), action.expect_src, action.expect_dst, self.plan.dst
        if known is not None or a is None or b is None:
            return known or self._sign(action)
        name, wanted = _digest_of(a)
        try:
            asks = self._counts(name) and dst.features.stat and name in dst.features.hashes
            stated = dst.backend.stat(b.path).hash(name) if asks else None
            return _verdict(name, wanted, stated or digest(dst, b.path, name))
        except StorageError as error:
            return ERROR, f"it cannot be read: {error}"


def _digest_of(info: ObjectInfo) -> tuple[str, str]:
    """What a sum file says of an object."""
    ((name, value),) = (info.hashes or {}).items()
    return name, value


def _verdict(name: str, wanted: str, found: str) -> tuple[str, str]:
    return (MATCH, "") if found.lower() == wanted else (DIFFER, f"the {name} differs")
