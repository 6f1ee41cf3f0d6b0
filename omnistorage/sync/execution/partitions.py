"""A plan on disk, cut into sealed partitions that any number of workers carry out, one each.

``prepare`` lists, compares and writes manifests of at most 10,000 actions and, last, ``plan.json``; nothing of it ever
changes. ``execute`` hands ``run_partition`` to any ``concurrent.futures.Executor``: threads, processes, Dask. Deletions
are partitions of a later stage, begun when every partition before it is done. Each action is carried out so that doing
it twice is harmless, so an execution that died is repeated by calling ``execute`` again.

The folder holds ``plan.json``, ``part-00042.ndjson`` (an action a line, see ``Action.to_json``), ``part-00042.done``
(the partition's report), ``said.ndjson`` (what was left out or cannot be done), and, where the folder is a local one,
``part-00042/`` with the journals.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Any

from omnistorage import ops
from omnistorage.core import ObjectInfo, WriteOptions
from omnistorage.core.bounded_read import LINES, at_most, read_small
from omnistorage.errors import ConfigError, CorruptData, NotFound, StorageError
from omnistorage.sync.endpoint import Place, Side
from omnistorage.sync.filters import Filter
from omnistorage.sync.options import SyncOptions
from omnistorage.sync.planning.actions import ERRORS, TRANSFERS, Action
from omnistorage.sync.planning.comparison import LEFT, SAME, Comparison
from omnistorage.sync.planning.plan import Plan
from omnistorage.sync.planning.saved_plan import digest_of, fingerprint, options_of, plain, spec_of
from omnistorage.sync.planning.statistics import Seen
from omnistorage.sync.report import Failure, Report
from omnistorage.sync.versions import is_same_version

from .journal import Journal
from .runner import raise_for, run

VERSION = 1
MOST_ACTIONS = 10_000
MOST_BYTES = 64 << 30
_GROUPS = {"rename": 1, "delete": 2, "rmdir": 3, "dirtime": 5}


@dataclass(frozen=True)
class Part:
    """One partition. It waits for all of lower stages; ``group`` says what it does: 0 transfers, 1 renames, 2 deletes,
    3 removes folders, 4 transfers what the deletions made room for, 5 sets the times of folders."""

    id: int
    stage: int
    group: int
    actions: int
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return f"part-{self.id:05d}"


# -- preparing ---------------------------------------------------------------------------------------------------------


def prepare(
    src: Place,
    dst: Place,
    to: str | PathLike[str] | Mapping[str, Any],
    options: SyncOptions | None = None,
    *,
    most_actions: int = MOST_ACTIONS,
    most_bytes: int = MOST_BYTES,
    defaults: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Make the plan of a sync and write it to the folder ``to``; returns what ``plan.json`` says.

    A local folder that is not there yet is made for its owner alone. Places are URLs, paths or tables (``{"type": "s3",
    "options": {...}, "prefix": "data"}``, where ``${VAR}`` stands for what must not be written down): workers open them
    anew. ``defaults``, as for ``open_backend``, are not written down. Raises ``ConfigError`` for a backend object, a
    literal secret, a comparison that is a function, or a folder that holds a plan already.
    """
    options = options or SyncOptions.of(settings)
    if options.max_transfer is not None or options.max_duration is not None:
        raise ConfigError("max_transfer and max_duration end a run, a plan is carried out to its end: leave them out")
    source, target = spec_of(src, "source"), spec_of(dst, "destination")
    written = plain(options)
    with ExitStack() as stack:
        folder = _Folder(to, defaults)
        stack.callback(folder.close)
        if folder.read("plan.json") is not None:
            raise ConfigError(f"{folder.shown} holds a plan already: resume it, or choose another folder")
        plan = stack.enter_context(Plan(source, target, options, defaults=defaults))
        for side in (plan.src, plan.dst):
            folder.must_lie_outside(side, options.filter)
        failed, refused, parts = _write_parts(plan, folder, most_actions, most_bytes)
        seen = plan.seen
        found = {
            "version": VERSION,
            "source": source,
            "destination": target,
            "options": written,
            "options_hash": fingerprint(options),
            "filter_hash": options.filter.fingerprint(),
            "parts": [vars(part) for part in parts],
            "objects": seen.source_objects,
            "equal": seen.equal,
            "by_size_and_time": seen.by_size_and_time,
            "blocked": seen.blocked,
            "complete": seen.complete,
            "failed": failed,
            "refused": refused,
            "warnings": seen.warnings,
            "listing_errors": [[error.path, str(error)] for error in seen.listing_errors],
        }
        folder.write("plan.json", json.dumps(found, indent=1).encode(), durable=True)
    return found


def _write_parts(plan: Plan, folder: _Folder, most_actions: int, most_bytes: int) -> tuple[int, int, list[Part]]:
    """How many actions cannot be done, how many of those as a name is refused, and the manifests."""
    parts: list[Part] = []
    lines: list[str] = []
    size = stage = group = failed = refused = 0
    with folder.writer("said.ndjson") as said:

        def seal() -> None:
            nonlocal size
            if lines:
                data = ("\n".join(lines) + "\n").encode("ascii")
                part = Part(len(parts), stage, group, len(lines), size, hashlib.sha256(data).hexdigest())
                folder.write(f"{part.name}.ndjson", data)
                parts.append(part)
                lines.clear()
                size = 0

        for action in plan:
            if action.kind in (*ERRORS, "skip", "equal"):
                failed += action.kind in ERRORS
                refused += action.kind == "refused"
                said.write(action.to_json().encode("ascii") + b"\n")
                continue
            # What takes the place of a folder comes behind what empties it, though it is a transfer like others.
            now = _GROUPS.get(action.kind, 4 if group else 0)
            if now != group or len(lines) >= most_actions or (lines and size + (action.size or 0) > most_bytes):
                seal()
                # Inner folders go before outer ones: their partitions follow each other.
                stage += now != group or (now == 3 and bool(parts))
                group = now
            lines.append(action.to_json())
            size += action.size or 0
        seal()
    return failed, refused, parts


# -- executing ---------------------------------------------------------------------------------------------------------


def execute(
    at: str | PathLike[str] | Mapping[str, Any],
    executor: Executor | None = None,
    *,
    workers: int | None = None,
    src: Place | None = None,
    dst: Place | None = None,
    options: SyncOptions | None = None,
    raise_errors: bool = True,
    listener: Callable[[str, dict[str, Any]], None] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Report:
    """Carry out what is not yet done of the plan in the folder ``at``, and say how all of it ended.

    ``executor`` gets one call of ``run_partition`` for each partition; ``workers`` (default: the executor's own number,
    else 1) divides ``bwlimit`` and ``tpslimit`` among them. With ``src``, ``dst`` or ``options`` the run is refused
    (``ConfigError``) unless they are those of the plan. ``listener`` is called with each partition's name and report;
    ``defaults``, as for ``open_backend``, go to every worker. Raises ``SyncError`` if anything failed; what was done
    stays done, and calling it again goes on.
    """
    with ExitStack() as stack:
        folder = _Folder(at, defaults)
        stack.callback(folder.close)
        found, digest = _plan_of(folder)
        _check_roots(found, src, dst)
        if options is not None and (fingerprint(options), options.filter.fingerprint()) != (
            found["options_hash"],
            found["filter_hash"],
        ):
            raise ConfigError("the plan was made with other options: give the same, or make a new plan")
        parts = [Part(**part) for part in found["parts"]]
        report = _begun(found)
        share = 1 / (workers or getattr(executor, "_max_workers", None) or 1)
        for stage in sorted({part.stage for part in parts}):
            here = [part for part in parts if part.stage == stage]
            if 0 < here[0].group < 5 and report.failed > report.refused and not found["options"].get("ignore_errors"):
                report.blocked += sum(part.actions for part in here if part.group == 2)
                report.warn("there were errors, so nothing is deleted; ignore_errors deletes all the same")
                continue
            whole = True
            for name, result in _stage(folder, (share, defaults, digest), here, executor):
                _add(report, result)
                whole = whole and result["complete"]
                if listener is not None:
                    listener(name, result)
            if not whole:
                break  # a partition was lost: what waits for it goes on waiting, whatever ignore_errors says
    if raise_errors:
        raise_for(report)
    return report


resume = execute
"""The same: what is done is not done again."""


def _check_roots(found: dict[str, Any], src: Place | None, dst: Place | None) -> None:
    """Raise ``ConfigError`` if the plan is one of other places."""
    for place, what in ((src, "source"), (dst, "destination")):
        given = None if place is None else spec_of(place, what)
        if given is not None and _bare(given) != _bare(found[what]):
            raise ConfigError(
                f"the plan is of the {what} {found[what]}, not {given}: give the same, or make a new plan for these"
            )


def _bare(spec: Any) -> Any:
    return spec.rstrip("/") if isinstance(spec, str) else spec


def _stage(
    folder: _Folder, given: tuple[float, Any, str], parts: list[Part], executor: Executor | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    todo: list[Part] = []
    for part in parts:
        done = folder.read(f"{part.name}.done")
        if done is None:
            todo.append(part)
        else:
            yield part.name, json.loads(done)
    if executor is None:
        yield from (
            (part.name, _result(part, partial(run_partition, folder.spec, part.id, 0, *given))) for part in todo
        )
        return
    running = {executor.submit(run_partition, folder.spec, part.id, 0, *given): part for part in todo}
    for future in as_completed(running):
        yield running[future].name, _result(running[future], future.result)


def _result(part: Part, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except Exception as error:  # the worker was killed, or could not even begin: the others go on
        lost = StorageError(_lost(error), op="sync")
        return Report(failed=1, failures=[Failure(part.name, "partition", lost)]).as_dict()


def _lost(error: Exception) -> str:
    return f"not carried out to its end ({type(error).__name__}: {error}); resume goes on with it"


def run_partition(
    at: str | Mapping[str, Any],
    part_id: int,
    attempt: int = 0,
    share: float = 1.0,
    defaults: Mapping[str, Any] | None = None,
    digest: str | None = None,
) -> dict[str, Any]:
    """Carry out one partition of the plan in the folder ``at``, and return its report as plain data. To be called by an
    executor, in whatever process; twice, or two at a time, does no harm. ``digest`` is the SHA-256 of ``plan.json``:
    ``CorruptData`` if it is another plan by now."""
    with ExitStack() as stack:
        folder = _Folder(at, defaults)
        stack.callback(folder.close)
        found, _ = _plan_of(folder, digest)
        part = Part(**found["parts"][part_id])
        done = folder.read(f"{part.name}.done")
        if done is not None:
            known: dict[str, Any] = json.loads(done)
            return known
        plan = stack.enter_context(_Manifest(folder, found, part, attempt, share, defaults))
        report = run(plan, raise_errors=False)
        report.complete = True
        result = report.as_dict()
        if report.ok:
            folder.write(f"{part.name}.done", json.dumps(result).encode())
    return result


class _Manifest(Plan):
    """A partition as a plan: its actions, without those that an earlier execution carried out."""

    def __init__(
        self, folder: _Folder, found: dict[str, Any], part: Part, attempt: int, share: float, defaults: Any = None
    ) -> None:
        self._part, self._folder = part, folder
        self._journal = None if folder.local is None else Journal(folder.local / part.name, attempt)
        self._numbers: dict[Any, int] = {}
        options = options_of(found["options"])
        self.share = share
        if options.tpslimit is not None:
            options = replace(options, tpslimit=options.tpslimit * share)
        super().__init__(found["source"], found["destination"], options, defaults=defaults)
        self._comparison = Comparison(self.src, self.dst, SyncOptions())

    def _check(self) -> None:
        """Done when the plan was made."""

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
        super().close()

    def __iter__(self) -> Iterator[Action]:
        self.seen = Seen(complete=True)
        data = self._folder.read(f"{self._part.name}.ndjson")
        if data is None or hashlib.sha256(data).hexdigest() != self._part.sha256:
            raise CorruptData("the manifest is not the one that was written", path=f"{self._part.name}.ndjson")
        return self._actions(data)

    def _actions(self, data: bytes) -> Iterator[Action]:
        done = set() if self._journal is None else self._journal.done
        for number, line in enumerate(data.decode("ascii").splitlines()):
            if number not in done:
                action = Action.from_json(line)
                self._numbers[_name(action)] = number
                yield action

    def is_done(self, action: Action) -> bool:
        """Where nothing was noted but somebody was at work before, the destination tells."""
        again = self._journal is None or self._journal.again
        return again and self.was_done(action)

    def was_done(self, action: Action) -> bool:
        """Whether both sides are as they are behind ``action``."""
        a, seen = action.expect_src, action.expect_dst
        there = self.dst.look(self.dst.key(action.path if action.kind == "rename" else action.target))
        if action.kind == "rename":
            return there is not None and seen is not None and self.dst.look(seen.path) is None
        if a is None or there is None:
            return False
        if action.kind == "remove":
            return self.src.look(a.path) is None
        if action.kind == "touch":
            return self._comparison.same_source_time(self._comparison.asked(self.src, a), there)
        precision = self.dst.features.modified_precision
        if seen is not None and precision is not None and is_same_version(seen, there, precision):
            return False
        return action.kind in TRANSFERS and self._is_copy(a, there)

    def _is_copy(self, a: ObjectInfo, b: ObjectInfo) -> bool:
        """Whether ``b`` is what copying ``a`` gives, whatever the user's rule says of the two."""
        try:
            verdict = self._comparison.quick(a, b) or self._comparison.slow(a, b)
        except StorageError:
            return False
        return verdict in SAME and verdict not in LEFT

    def take_token(self, action: Action) -> Mapping[str, Any] | None:
        return None if self._journal is None else self._journal.take_token(self._numbers[_name(action)])

    @property
    def keeps_tokens(self) -> bool:  # type: ignore[override]
        return self._journal is not None

    def keep_token(self, action: Action, token: Mapping[str, Any]) -> None:
        if self._journal is not None:
            self._journal.keep_token(self._numbers[_name(action)], token)

    def note(self, action: Action, moved: int) -> None:
        if self._journal is not None:
            self._journal.note(self._numbers[_name(action)], moved)


# -- data --------------------------------------------------------------------------------------------------------------


def _name(action: Action) -> Any:
    return action.kind, action.path, action.other


class _Folder:
    """The folder of a plan, on any backend; ``local`` is its path where it has one, ``spec`` what workers open."""

    def __init__(self, at: str | PathLike[str] | Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        self.spec = spec_of(at, "folder of the plan")
        self._side = Side(self.spec, "plan", defaults, private=True)
        self.shown = self._side.shown
        self.local = self._side.local

    def close(self) -> None:
        self._side.close()

    def must_lie_outside(self, side: Side, filter: Filter) -> None:
        """Raise ``ConfigError`` if the plan would be synced, or deleted, with the rest."""
        mine, outer = self._side.where(), side.where()
        if mine is None or outer is None or not mine.startswith(outer):
            return
        inner = mine[len(outer) :].rstrip("/")
        if not inner or filter.descends(inner):
            raise ConfigError(f"the folder of the plan lies in the {side.role}: choose another, or exclude {inner!r}")

    def read(self, name: str) -> bytes | None:
        try:
            return read_small(self._side.backend, self._side.key(name), LINES)
        except NotFound:
            return None

    def write(self, name: str, data: bytes, *, durable: bool = False) -> None:
        durable = durable and self.local is not None
        data = at_most(data, name, LINES)
        ops.write_bytes(self._side.backend, self._side.key(name), data, WriteOptions(durable=durable))

    def writer(self, name: str) -> Any:
        return self._side.backend.open_writer(self._side.key(name))


def _plan_of(folder: _Folder, digest: str | None = None) -> tuple[dict[str, Any], str]:
    """The plan in ``folder`` and its SHA-256, which is ``digest`` if that is given."""
    data = folder.read("plan.json")
    if data is None:
        raise NotFound("there is no plan in this folder; one that was not made to its end has none", path="plan.json")
    now = hashlib.sha256(data).hexdigest()
    if digest not in (None, now):
        raise CorruptData("the plan has changed since the run began", path="plan.json")
    found: dict[str, Any] = json.loads(data)
    if found.get("version") != VERSION:
        raise ConfigError(f"the plan is of version {found.get('version')!r}, this reads {VERSION}", path="plan.json")
    if digest_of(found["options"]) != found["options_hash"]:
        raise CorruptData("the plan holds other options than it was made with", path="plan.json")
    return found, now


def _begun(found: dict[str, Any]) -> Report:
    """The report of a plan of which nothing is done yet."""
    report = Report(str(found["source"]), str(found["destination"]), equal=found["equal"], complete=found["complete"])
    report.by_size_and_time = found.get("by_size_and_time", 0)
    report.blocked = found["blocked"]
    for text in found["warnings"]:
        report.warn(text)
    for where, text in found["listing_errors"]:
        report.fail(where or "", "list", StorageError(text, path=where, op="list"))
    report.failed += found["failed"]
    report.refused = found["refused"]
    if found["failed"]:
        report.failures.append(
            Failure(
                "said.ndjson", "plan", StorageError(f"{found['failed']:,} entries cannot be synced", path="said.ndjson")
            )
        )
    return report


def _add(report: Report, result: dict[str, Any]) -> None:
    for name in (
        *("copied", "updated", "touched", "renamed", "made", "deleted", "removed"),
        *("folders_removed", "folder_times", "bytes"),
    ):
        setattr(report, name, getattr(report, name) + result[name])
    for failure in result["failures"]:
        report.fail(failure["path"], failure["action"], StorageError(failure["error"], path=failure["path"]))
    report.failed += result["failed"] - len(result["failures"])
    if result["stopped"]:
        report.stopped = result["stopped"]
    for text in result["warnings"]:
        report.warn(text)
