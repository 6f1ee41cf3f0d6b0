"""What a check, a dry run or a run has to say, as one HTML page that can be mailed.

The page is a single UTF-8 file that asks no network for anything, reads without JavaScript, and with it sorts, filters
and can be linked: ``out.html#sort=size&order=desc&filter=abc&kind=copy,update``. Names of objects are hostile: nothing
from outside reaches the page but escaped, and what does not print is shown as its escape.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import islice
from os import PathLike
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple, Protocol, Self

from omnistorage.config import locate
from omnistorage.core import ExtendedBackend, WriteOptions, Writer
from omnistorage.core.secret import mask_url
from omnistorage.sync.checking import CheckReport
from omnistorage.sync.checking.checker import Checker
from omnistorage.sync.events import Event, Listener
from omnistorage.sync.planning.actions import ERRORS, Action
from omnistorage.sync.planning.plan import Plan
from omnistorage.sync.report import Report

from . import page

ROWS, BYTES = 100_000, 32 << 20
"""Rows that a page holds, and their bytes; what is beyond either is counted and said."""
STILL = 1_000
"""Rows that are there without JavaScript."""
KEPT = 100
"""Warnings that a page holds."""
_WHY = 1_000
_BLOCK = 64 << 10
PAGE = WriteOptions(content_type="text/html; charset=utf-8")
ReportKind = Literal["check", "plan", "run"]


class Writes(Protocol):
    """A binary file or a ``Writer``."""

    def write(self, data: bytes, /) -> int: ...


Target = str | PathLike[str] | Writes


class Kind(NamedTuple):
    """How the rows of a kind are shown."""

    sign: str
    word: str
    tone: str


KINDS = {
    "!": Kind("!", "not compared", "err"),
    "*": Kind("*", "differs", "mod"),
    "+": Kind("+", "only at source", "add"),
    "-": Kind("-", "only at destination", "del"),
    "=": Kind("=", "same", "same"),
    "error": Kind("!", "error", "err"),
    "refused": Kind("!", "name refused", "err"),
    "copy": Kind("+", "copy", "add"),
    "update": Kind("*", "update", "mod"),
    "touch": Kind("~", "set time", "mod"),
    "rename": Kind(">", "rename", "mod"),
    "mkdir": Kind("+", "make folder", "add"),
    "remove": Kind("-", "remove at source", "del"),
    "delete": Kind("-", "delete", "del"),
    "rmdir": Kind("-", "delete folder", "del"),
    "dirtime": Kind("~", "set time of folder", "mod"),
    "skip": Kind("\N{MIDDLE DOT}", "left out", "same"),
    "equal": Kind("=", "same", "same"),
}
_QUIET = frozenset({"=", "equal"})
_HEADINGS = {"check": "The command to mend it", "plan": "The command to do it", "run": "The command to run it again"}
_TILES = (
    ("copied", "copied", "to copy"),
    ("updated", "updated", "to update"),
    ("touched", "given another time", "to give another time"),
    ("renamed", "renamed", "to rename"),
    ("made", "folders made", "folders to make"),
    ("deleted", "deleted", "to delete"),
    ("folders_removed", "folders deleted", "folders to delete"),
    ("folder_times", "folders given another time", "folders to give another time"),
    ("removed", "removed from the source", "to remove from the source"),
    ("equal", "equal", "equal"),
    ("by_size_and_time", "by size and time only", "by size and time only"),
    ("skipped", "left out", "left out"),
    ("blocked", "not deleted, for safety", "not to be deleted, for safety"),
    ("failed", "failed", "cannot be synced"),
)
_CHANGED = tuple(field for field, *_ in _TILES if field not in ("equal", "by_size_and_time", "skipped", "failed"))
_COLUMNS = {"check": "Result", "plan": "Action", "run": "Action"}


class HtmlReport:
    """Collects rows and writes them as one page.

    ``target`` is a path, a URL or an open binary file. Rows wait in temporary files, in bounded memory, and a path gets
    its page from ``close``, whole; ``abort``, or leaving a ``with`` block before ``close``, leaves there what was.
    ``command`` (an argument list; its secrets are hidden), ``source`` and ``destination`` may be set until then.
    ``when`` is now by default. Raises what the target's backend raises, at once if it cannot be written at all.
    """

    def __init__(
        self,
        target: Target,
        *,
        title: str,
        command: Sequence[str] = (),
        source: str,
        destination: str,
        kind: ReportKind = "check",
        when: datetime | None = None,
    ) -> None:
        self.title, self.command, self.source, self.destination = title, list(command), source, destination
        self.kind: ReportKind = kind
        self.when = (when or datetime.now(UTC)).astimezone(UTC)
        self.counts: dict[str, int] = {}
        self._backend: ExtendedBackend | None = None
        self._writer: Writer | None = None
        if isinstance(target, str | PathLike):
            self._backend, path = locate(target)
            try:
                self._writer = self._backend.open_writer(path, PAGE)
            except BaseException:
                self._backend.close()
                raise
        self._file: Writes = self._writer or target  # type: ignore[assignment]
        # What matters comes first, so that a million equal objects do not push one that differs out of the page.
        self._loud, self._quiet = _Rows(), _Rows()

    def row(self, kind: str, path: str, size: int | None = None, why: str = "") -> None:
        """One object: a sign of ``check`` or the kind of an action, its path, size in bytes, and a reason."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        rows = self._quiet if kind in _QUIET else self._loud
        rows.add([kind, shown(path), size, shown(mask_url(why))[:_WHY]])

    def close(
        self,
        totals: Mapping[str, int | str],
        *,
        verdict: str = "",
        good: bool | None = None,
        warnings: Iterable[str] = (),
        notes: Iterable[str] = (),
    ) -> None:
        """Write the page. ``totals`` are its tiles, by label; ``verdict`` is the line that says how it went, and
        ``good`` whether well; ``notes`` stand below the command. An open file stays open."""
        try:
            for block in _blocks(self._page(totals, verdict, good, warnings, notes)):
                self._file.write(block)
            if self._writer is not None:
                self._writer.close()
        finally:
            self.abort()

    def abort(self) -> None:
        """Let everything go. A path keeps what it had, unless ``close`` came first."""
        self._loud.close()
        self._quiet.close()
        if self._writer is not None and self._backend is not None:
            self._writer.abort()
            self._backend.close()
        self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.abort()

    # -- the page ------------------------------------------------------------------------------------------------------

    def _page(
        self,
        totals: Mapping[str, int | str],
        verdict: str,
        good: bool | None,
        warnings: Iterable[str],
        notes: Iterable[str],
    ) -> Iterator[str]:
        yield page.HEAD.format(
            policy=page.POLICY,
            style=page.STYLE,
            title=_text(self.title),
            tone={True: "good", False: "bad", None: ""}[good],
            verdict=_text(verdict),
            source=_text(mask_url(self.source)),
            destination=_text(mask_url(self.destination)),
            iso=f"{self.when:%Y-%m-%dT%H:%M:%SZ}",
            when=f"{self.when:%Y-%m-%d %H:%M:%S} UTC",
            tiles="".join(_tile(label, value) for label, value in totals.items()),
        )
        if self.command:
            yield self._command(notes)
        if texts := list(warnings):
            more = [f"and {len(texts) - KEPT:,} more"] if len(texts) > KEPT else []
            kept = "".join(f"<li>{_text(mask_url(text))}</li>" for text in texts[:KEPT] + more)
            yield page.NOTES.format(notes=kept)
        total, column = sum(self.counts.values()), _COLUMNS[self.kind]
        yield page.TABLE.format(label=_text(self.title), column=column, still=self._still(total))
        for row in islice(self._kept(), STILL):
            yield _row(*json.loads(row))
        yield page.AFTER
        kinds = [_known(kind, self.counts[kind]) for kind in sorted(self.counts, key=_rank)]
        yield f'{{"total":{total},"kinds":{_json(kinds)},"rows":['
        for number, row in enumerate(self._kept()):
            yield f",\n{row}" if number else row
        yield "]}"
        yield page.END.format(script=page.SCRIPT)

    def _kept(self) -> Iterator[str]:
        """The rows of the page, each as JSON that does no harm inside HTML."""
        count = size = 0
        for rows in (self._loud, self._quiet):
            for line in rows:
                count, size = count + 1, size + len(line)
                if count > ROWS or size > BYTES:
                    return
                yield line

    def _still(self, total: int) -> str:
        if not total:
            return "There is nothing to show."
        if total <= STILL:
            return f"All {total:,} rows. They are sorted and filtered where JavaScript runs."
        return f"The first {STILL:,} of {total:,} rows. There are more, sorted and filtered, where JavaScript runs."

    def _command(self, notes: Iterable[str]) -> str:
        masked = [mask_url(argument) for argument in self.command]
        texts = list(notes)
        if masked != self.command:
            texts.append("Secrets are hidden here: put them back in.")
        return page.COMMAND.format(
            heading=_HEADINGS[self.kind],
            command=" ".join(f"<span>{_text(shlex.quote(argument))}</span>" for argument in masked),
            notes="".join(f"<p>{_text(text)}</p>\n" for text in texts),
        )


class _Rows:
    """Rows as lines of JSON in a temporary file, as many as a page can hold."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=1 << 20, prefix="omnistorage-")  # noqa: SIM115
        self._count = self._size = 0

    def add(self, row: list[Any]) -> None:
        if self._count >= ROWS or self._size > BYTES:
            return
        line = _json(row).encode("ascii") + b"\n"
        self._count, self._size = self._count + 1, self._size + len(line)
        self._file.write(line)

    def __iter__(self) -> Iterator[str]:
        self._file.seek(0)
        for line in self._file:
            yield line[:-1].decode("ascii")

    def close(self) -> None:
        self._file.close()


# -- from what the engine says -----------------------------------------------------------------------------------------


class PagedChecker(Checker):
    """A ``Checker`` that puts every object on a page, with its size."""

    def __init__(self, plan: Plan, report: HtmlReport, **more: Any) -> None:
        super().__init__(plan, **more)
        self._page = report
        self._bytes: int | None = None

    def _compared(self) -> Iterator[tuple[Action, tuple[str, str]]]:
        for action, told in super()._compared():
            self._bytes = action.size
            yield action, told
        self._bytes = None

    def _tell(self, sign: str, path: str, why: str, error: Any = None) -> None:
        super()._tell(sign, path, why, error)
        self._page.row(sign, path, self._bytes, why)


def listener(report: HtmlReport) -> Listener:
    """What to give to ``run`` so that everything it does, would do or cannot do is a row."""

    def see(event: Event) -> None:
        action = event.action
        if event.kind == "error":
            report.row("error", event.path, event.size, _reason(event.error, action))
        elif action is not None and event.kind in ("done", "deleted", "skipped"):
            report.row(action.kind, action.path, event.size, action.why)

    return see


def _reason(error: Exception | None, action: Action | None) -> str:
    doing = "" if action is None or action.kind in ERRORS else f"{KINDS[action.kind].word}: "
    text = str(error.args[0]) if error is not None and error.args else str(error)
    return doing + text


def finish(page_: HtmlReport, report: CheckReport | Report) -> None:
    """Write the page of what was checked or run, with its totals."""
    page_.source, page_.destination = report.source, report.destination
    if isinstance(report, CheckReport):
        _finish_check(page_, report)
        return
    for failure in report.failures:
        if failure.action == "list":  # the only ones that no event speaks of
            page_.row("error", failure.path, None, f"list: {_reason(failure.error, None)}")
    counts = {**vars(report), "equal": report.equal - report.by_size_and_time}
    words = {field: would if report.dry_run else done for field, done, would in _TILES}
    totals: dict[str, int | str] = {word: value for field, word in words.items() if (value := counts[field])}
    if report.transferred:
        totals["to transfer" if report.dry_run else "transferred"] = human(report.bytes)
    good = None if report.dry_run and report.ok else report.ok
    page_.close(totals, verdict=_verdict(report), good=good, warnings=report.warnings)


def _verdict(report: Report) -> str:
    if report.stopped:
        return f"Stopped: {report.stopped}."
    if report.failed:
        return f"{_count(report.failed, 'entry', 'entries')} {'cannot be synced' if report.dry_run else 'failed'}."
    if not report.complete:
        return "Not everything could be listed."
    if not any(getattr(report, field) for field in _CHANGED):
        return "There was nothing to do."
    return "A dry run: nothing was changed." if report.dry_run else "Everything was done."


def _finish_check(page_: HtmlReport, report: CheckReport) -> None:
    totals = {
        "same": report.match - report.by_size_and_time,
        **({"by size and time only": report.by_size_and_time} if report.by_size_and_time else {}),
        "differ": report.differ,
        "only at the source": report.missing_on_dst,
        "only at the destination": report.missing_on_src,
        "not compared": report.errors,
        **({"left out": report.skipped} if report.skipped else {}),
    }
    notes = []
    if not report.differences:
        page_.command = []
    elif page_.command and report.missing_on_src:
        end = 2 if "--" in page_.command else len(page_.command)  # behind it, all are names
        page_.command = [*page_.command[:end], "--delete", *page_.command[end:]]
        what = _count(report.missing_on_src, "object", "objects")
        notes.append(f"--delete removes {what} that only the destination has. Add --dry-run to see it first.")
    else:
        page_.command = [word for word in page_.command if word != "--on-type-clash=replace"]  # it needs --delete
    parts = [_count(report.differences, "difference", "differences")] if report.differences else []
    parts += [f"{report.errors:,} not compared"] if report.errors else []
    parts += ["not everything was listed"] if not report.complete and not report.errors else []
    verdict = "In sync." if report.in_sync else f"Not in sync: {', '.join(parts)}."
    page_.close(totals, verdict=verdict, good=report.in_sync, warnings=report.warnings, notes=notes)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


# -- text --------------------------------------------------------------------------------------------------------------


def shown(text: str) -> str:
    """``text`` with what does not print (control and direction characters, lone surrogates) as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def human(size: int) -> str:
    """Bytes, in the largest unit that keeps a digit before the point."""
    value, units = float(min(size, 1 << 200)), ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    step = 0
    while value >= 1024 and step < len(units) - 1:
        value, step = value / 1024, step + 1
    return f"{int(value * 10 + 0.5) / 10:.1f} {units[step]}" if step else f"{size} B"


def _text(text: str) -> str:
    return escape(shown(text))


def _json(value: Any) -> str:
    """JSON in ASCII without the characters that mean something to HTML."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _rank(kind: str) -> tuple[int, str]:
    return (list(KINDS).index(kind) if kind in KINDS else len(KINDS), kind)


def _kind(kind: str) -> Kind:
    return KINDS.get(kind) or Kind("?", shown(kind), "same")


def _known(kind: str, count: int) -> dict[str, Any]:
    return {"kind": kind, **_kind(kind)._asdict(), "count": count}


def _tile(label: str, value: int | str) -> str:
    text = f"{value:,}" if isinstance(value, int) else value
    return f"<li><b>{_text(text)}</b><span>{_text(label)}</span></li>\n"


def _row(kind: str, path: str, size: int | None, why: str) -> str:
    what = _kind(kind)
    first = f'<td role="cell" class="{what.tone}"><span class="sign">{_text(what.sign)}</span>{_text(what.word)}</td>'
    third = '<td role="cell">' if size is None else f'<td role="cell" title="{size:,} bytes">{human(size)}'
    return (
        f'<tr role="row">{first}<td role="cell" class="path">{_text(path)}</td>'
        f'{third}</td><td role="cell">{_text(why)}</td></tr>\n'
    )


def _blocks(pieces: Iterable[str]) -> Iterator[bytes]:
    """Text as UTF-8, in blocks that are worth a write."""
    waiting, size = [], 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _BLOCK:
            yield "".join(waiting).encode()
            waiting, size = [], 0
    yield "".join(waiting).encode()
