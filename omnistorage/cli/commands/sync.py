"""``omnistorage sync``, ``copy`` and ``move``: one place made equal to another.

What the plan says is what is printed: every action has one line and one event of ``--json``, with ``-n`` as without.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, TypeVar

import click

from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.progress import human
from omnistorage.cli.core.sync_progress import SyncMeter
from omnistorage.cli.core.verb import Verb
from omnistorage.cli.options import partitions
from omnistorage.cli.options.filters import filter_of, filter_options
from omnistorage.cli.options.option_names import reworded, spelled, worded
from omnistorage.cli.options.param_types import DURATION, SIZE
from omnistorage.core import Backend
from omnistorage.errors import ConfigError, NotFound, StorageError
from omnistorage.paths import name, parent
from omnistorage.sync import Action, Event, Filter, Report, SyncOptions, run
from omnistorage.sync.api import OneFile
from omnistorage.sync.error_context import side_of
from omnistorage.sync.html.report import PAGE, HtmlReport, ReportKind, finish, listener
from omnistorage.sync.planning.plan import Plan
from omnistorage.wrappers import Prefix

C = TypeVar("C", bound=Callable[..., Any])
LIMIT, NOTHING = 8, 9
_DID = {
    "copy": "copied", "update": "updated", "touch": "set the time of", "rename": "renamed", "remove": "removed",
    "mkdir": "made", "delete": "deleted", "rmdir": "removed", "dirtime": "set the time of",
}  # fmt: skip
_WOULD = {
    "copy": "copy", "update": "update", "touch": "set the time of", "rename": "rename", "remove": "remove",
    "mkdir": "make", "delete": "delete", "rmdir": "remove", "dirtime": "set the time of",
}  # fmt: skip


class Checksum(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """``--checksum`` or ``--checksum=strict``."""

    name = "checksum"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in ("stated", "strict"):
            self.fail(f"{value!r} is not 'strict'", param, ctx)
        return True if value == "stated" else value


def comparing(command: C) -> C:
    """The options that say how objects are compared."""
    for option in reversed(
        [
            click.option("--checksum", type=Checksum(), is_flag=False, flag_value="stated", metavar="[=strict]",
                         help="Compare digests; local files are read; strict reads whatever states none."),
            click.option("--size-only", is_flag=True, help="Compare sizes alone."),
            click.option("--modify-window", type=DURATION, metavar="TIME", help="Times closer than this are equal."),
            click.option("--compare", metavar="RULE", help="default, rclone, aws, s5cmd, size, mtime or checksum."),
            click.option("--links", type=click.Choice(["skip", "follow", "store"]),
                         help="Of symbolic links (skip); store: as small files x.rclonelink."),
            click.option("--checkers", type=click.IntRange(1), metavar="N", help="Comparisons at a time (8)."),
            click.option("--sort-listings", is_flag=True, help="Trust no store's order of names."),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


def _report_file(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value in ("", "-"):
        raise click.BadParameter("a page goes to a file, not to standard output", ctx, param)
    return value


def reporting(command: C) -> C:
    """``--report``."""
    return click.option(
        "--report", metavar="FILE.html", callback=_report_file, help="Write all of it as one HTML page, to be mailed."
    )(command)


def html_report(
    app: App, stack: ExitStack, file: str | None, *, kind: ReportKind, verb: str, leave_out: tuple[str, ...]
) -> HtmlReport | None:
    """The page that ``--report`` asks for, published when ``stack`` ends well. The command on it is ``verb`` with the
    options that were given, but those in ``leave_out``."""
    if file is None:
        return None
    ctx = click.get_current_context()
    src, dst = ctx.params["src"], ctx.params["dst"]
    at = app.locate(file)
    with naming(at.text):
        writer = stack.enter_context(at.backend.open_writer(at.path, PAGE))
    title = f"omnistorage {app.verb}{', a dry run' if kind == 'plan' else ''}"
    command = _again(app, ctx, verb, src, dst, ("report", *leave_out))
    page = HtmlReport(writer, title=title, command=command, source=src, destination=dst, kind=kind)
    return stack.enter_context(page)


def _again(app: App, ctx: click.Context, verb: str, src: str, dst: str, leave_out: tuple[str, ...]) -> list[str]:
    """A command line with the options of this one."""
    options: list[str] = ["--config", app.config] if app.config else []
    for param in ctx.command.params:
        name = str(param.name)
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if not isinstance(param, click.Option) or name not in ctx.params or name in leave_out or not given:
            continue
        option = max(param.opts, key=len)
        for value in ctx.params[name] if param.multiple else [ctx.params[name]]:
            if value is True:
                options.append(option)
            elif name == "checksum":
                options.append(f"{option}={value}")
            else:
                options += [option, f"{value:f}s" if isinstance(value, float) else str(value)]
    if src.startswith("-") or dst.startswith("-"):
        return ["omnistorage", verb, *options, "--", src, dst]
    return ["omnistorage", verb, src, dst, *options]


def transferring(command: C) -> C:
    """The options of ``sync``, ``copy`` and ``move``."""
    for option in reversed(
        [
            click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done."),
            click.option("-i", "--interactive", is_flag=True, help="Ask before each change."),
            click.option("--ignore-times", is_flag=True, help="Transfer everything."),
            click.option("--ignore-existing", is_flag=True, help="Leave alone whatever is there."),
            click.option("-u", "--update", is_flag=True, help="Leave alone what is newer at the destination."),
            click.option("--immutable", is_flag=True, help="An existing object that differs is an error."),
            click.option("--on-type-clash", type=click.Choice(["error", "replace"]),
                         help="An object where the other side has a folder (error); replace needs --delete."),
            click.option("--check-first", is_flag=True, help="Compare everything before anything is transferred."),
            click.option("--no-traverse", is_flag=True, help="Ask for each object, do not list the destination."),
            click.option("--empty-dirs", is_flag=True, help="Make empty folders, too."),
            click.option("--no-folder-times", is_flag=True, help="Do not give folders the times of the source's."),
            click.option("--portable-names", is_flag=True, help="Refuse names that Windows cannot hold."),
            click.option("--backup-dir", metavar="URL", help="Keep there what is replaced or deleted."),
            click.option("--suffix", metavar="TEXT", help="Add this to the names of what is kept."),
            click.option("--transfers", type=click.IntRange(1), metavar="N", help="Transfers at a time (4)."),
            click.option("--multi-thread-cutoff", type=SIZE, metavar="SIZE", help="Read ranges from here on (256M)."),
            click.option("--multi-thread-streams", type=click.IntRange(1), metavar="N", help="Ranges at a time (4)."),
            click.option("--order-by", metavar="WHAT", help="size, name, modtime or mixed; ,desc turns it round."),
            click.option("--allow-empty-source", is_flag=True, help="An empty or missing source is meant."),
            click.option("--ignore-errors", is_flag=True, help="Delete though there were errors."),
            click.option("--max-transfer", type=SIZE, metavar="SIZE", help="Stop when so much was transferred."),
            click.option("--max-duration", type=DURATION, metavar="TIME", help="Stop after so long."),
            click.option("--cutoff", type=click.Choice(["hard", "soft", "cautious"]), help="How to stop (hard)."),
            click.option("--error-on-no-transfer", is_flag=True, help="Exit with 9 if nothing was transferred."),
            click.option("--journal", metavar="URL", help="Write the plan to this folder first, so that it can go on."),
            click.option("--resume", metavar="URL", help="Go on with the plan in this folder."),
        ]
    ):  # fmt: skip
        command = option(command)
    return filter_options(comparing(reporting(command)))


def deleting(command: C) -> C:
    """The options of ``sync`` alone."""
    for option in reversed(
        [
            click.option("--delete", is_flag=True, help="Delete what the source does not have."),
            click.option("--delete-excluded", is_flag=True, help="Delete what the filters exclude, too."),
            click.option("--max-delete", metavar="N|P%", help="Delete nothing if it would be more (50%)."),
            click.option("--max-delete-size", type=SIZE, metavar="SIZE", help="The same, in bytes."),
            click.option("--track-renames", metavar="HOW", help="Rename instead: hash, modtime, leaf (a,b)."),
        ]
    ):
        command = option(command)
    return command


@click.command(
    cls=Verb, example="omnistorage sync logs backup --delete --dry-run", events=True,
    short_help="Make a folder equal to another.",
)  # fmt: skip
@click.argument("src")
@click.argument("dst")
@deleting
@transferring
@click.pass_obj
def sync(app: App, /, src: str, dst: str, **options: Any) -> None:
    """Make DST hold what SRC holds; with --delete, nothing else besides.

    Deletions come last, and not one is done after an error, from an empty source, or if it were more than half of DST
    (--max-delete). Objects are written whole or not at all. Running it again transfers nothing.
    """
    carry_out(app, src, dst, options)


@click.command(cls=Verb, example="omnistorage copy logs backup", events=True, short_help="Copy what differs.")
@click.argument("src")
@click.argument("dst")
@transferring
@click.pass_obj
def copy(app: App, /, src: str, dst: str, **options: Any) -> None:
    """Copy what is missing or different from SRC to the folder DST. Nothing is deleted. SRC may be one object."""
    carry_out(app, src, dst, options)


@click.command(cls=Verb, example="omnistorage move old archive", events=True, short_help="Move what is there.")
@click.argument("src")
@click.argument("dst")
@transferring
@click.pass_obj
def move(app: App, /, src: str, dst: str, **options: Any) -> None:
    """Copy from SRC to the folder DST; each object of SRC goes once DST holds exactly its bytes."""
    carry_out(app, src, dst, {**options, "move": True})


def settings_of(app: App, options: dict[str, Any]) -> dict[str, Any]:
    """What was given of ``options``, as settings of ``SyncOptions``. Raises ``click.UsageError``."""
    chosen = filter_of(options) or Filter()
    given = {key: value for key, value in options.items() if value not in (None, False, "")}
    if "modify_window" in given:
        given["modify_window"] = timedelta(seconds=given["modify_window"])
    if (text := str(given.get("max_delete", ""))).isascii() and text.isdigit():
        given["max_delete"] = int(given["max_delete"])
    if app.bwlimit:
        given["bwlimit"], app.bwlimit = app.bwlimit, None  # of all that is moved, over a network or not
    try:
        SyncOptions(filter=chosen, **given)
    except ConfigError as error:
        raise click.UsageError(_as_options(str(error.args[0]), given)) from None
    return {**given, "filter": chosen}


def _as_options(text: str, given: dict[str, Any]) -> str:
    """A message of the library with the command's own spelling of its settings."""
    for setting in sorted(SyncOptions.__dataclass_fields__, key=len, reverse=True):
        if "_" in setting or setting in given:
            text = text.replace(f"{setting}=", f"--{setting.replace('_', '-')} ")
            text = text.replace(setting, f"--{setting.replace('_', '-')}") if "_" in setting else text
    return text


def folder_of(app: App, argument: str, *, private: bool = False) -> tuple[Backend, Location]:
    """An argument as a backend whose root is that folder; a ``private`` local one is for its owner alone."""
    at = app.locate(argument, is_object=False, private=private)
    return (Prefix(at.backend, at.path) if at.path else at.backend), at


def carry_out(app: App, src: str, dst: str, options: dict[str, Any]) -> None:
    journal, resume = options.pop("journal"), options.pop("resume")
    if journal or resume:
        for name in ("dry_run", "interactive", "report", "error_on_no_transfer"):
            if options.pop(name):
                raise click.UsageError(f"--{name.replace('_', '-')} does not go with --journal and --resume")
        if journal and resume:
            raise click.UsageError("--journal begins, --resume goes on: choose one")
        settings = settings_of(app, options)
        if journal and one_object(app, src) is not None:
            raise click.UsageError(f"--journal plans a folder, and {src!r} is one object: leave it out")
        partitions.carry_out(app, src, dst, settings, journal=journal, resume=resume)
        return
    job = Job(app, options)
    with job.made(src, dst) as plan:
        job.run(plan)


def one_object(app: App, argument: str) -> Location | None:
    """The object that the argument names, if it names one."""
    if argument.endswith("/") or name(argument) in ("", ".", ".."):
        return None
    try:
        at = app.locate(argument)
        return at if at.path and at.backend.exists(at.path) else None
    except StorageError:
        return None  # the listing will say what is wrong


class Job:
    """One run of ``sync``, ``copy`` or ``move``."""

    def __init__(self, app: App, options: dict[str, Any]) -> None:
        self.app = app
        self.dry_run = bool(options.pop("dry_run"))
        self.asks = bool(options.pop("interactive"))
        self.must_transfer = bool(options.pop("error_on_no_transfer"))
        self.file = options.pop("report")
        self.settings = settings_of(app, options)
        self.meter = app.meter = SyncMeter()
        self.asked_all = False

    def made(self, src: str, dst: str) -> Plan:
        """The plan for two arguments, of which the first may name an object."""
        app, self.src = self.app, src
        target, self.to = folder_of(app, dst)
        self.kept = self.to
        if self.settings.get("backup_dir"):
            self.settings["backup_dir"], self.kept = folder_of(app, self.settings["backup_dir"])
        single = self.single = None if app.verb == "sync" else one_object(app, src)
        if single is not None:
            leaf = name(single.path)
            self.from_ = Location(single.backend, parent(single.path), single.text)
            folder: Backend = Prefix(single.backend, parent(single.path)) if parent(single.path) else single.backend
            return OneFile(folder, leaf, target, leaf, **self.settings)
        source, self.from_ = folder_of(app, src)
        with naming(f"{self.from_.text} -> {self.to.text}"), spelled():
            return Plan(source, target, SyncOptions(**self.settings))

    def run(self, plan: Plan) -> Report:
        app = self.app
        app.draw(f"{app.verb} to {self.to.text}")
        kind: ReportKind = "plan" if self.dry_run else "run"
        with ExitStack() as stack:
            page = html_report(app, stack, self.file, kind=kind, verb=app.verb, leave_out=("dry_run", "interactive"))
            try:
                report = run(
                    plan,
                    listeners=(self.meter.see, self._tell, *([] if page is None else [listener(page)])),
                    confirm=self._ask if self.asks and not self.dry_run else None,
                    dry_run=self.dry_run,
                    raise_errors=False,
                )
            except StorageError as error:
                if app.verb == "sync" and isinstance(error, NotFound) and one_object(app, self.src) is not None:
                    raise click.UsageError(f"{self.src!r} is one object, and sync takes folders: use copy") from error
                with naming(self._side(error).text):
                    raise worded(error) from error.__cause__
            self.meter.stop()
            reworded(report)
            self._unlisted(plan, report)
            if page is not None:
                finish(page, report)
        self._summary(report)
        return report

    def _summary(self, report: Report) -> None:
        app = self.app
        app.done = report.transferred + report.renamed + report.deleted + report.removed
        for text in report.warnings:
            app.warn(text)
        if not self.dry_run:
            app.meter.bytes = report.bytes
        size = f", {human(report.bytes)}" if report.bytes else ""
        app.say(f"{report}{size}, {report.seconds:.1f} s")
        shown = {key: value for key, value in report.as_dict().items() if key not in ("failures", "warnings")}
        app.event("report", **shown)
        if report.stopped:
            app.error(report.stopped, LIMIT)
        elif self.must_transfer and not report.transferred and not report.failed:
            raise click.exceptions.Exit(NOTHING)

    # -- what happened -------------------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        action, app = event.action, self.app
        told = "planned" if self.dry_run else {"deleted": "deleted"}.get(event.kind, "done")
        if event.kind == "error" and event.error is not None:
            with_path = worded(event.error)
            with_path.shown = self._shown(event.path, with_path)  # type: ignore[attr-defined]
            app.failed(with_path)
        elif event.kind == "retried" and event.error is not None:
            app.detail(f"trying {event.path} again: {event.error}")
        elif action is not None and event.kind == "skipped":
            app.event("skip", path=action.path, why=action.why)
            if action.kind == "skip":
                app.warn(f"{self._shown(action.path)}: left out: {action.why}")
        elif action is not None and event.kind == told and action.kind in _DID:
            self._done(action)

    def _done(self, action: Action) -> None:
        app = self.app
        app.event(
            action.kind,
            path=action.path,
            size=action.size,
            why=action.why,
            other=action.other,
            dry_run=self.dry_run or None,
        )
        did = f"would {_WOULD[action.kind]}" if self.dry_run else _DID[action.kind]
        folder = "/" if action.kind in ("mkdir", "rmdir", "dirtime") else ""
        size = f" ({human(action.size)})" if action.size is not None else ""
        where = " from the source" if action.kind == "remove" else ""
        app.say(f"{did} {action.path}{folder}{where}{size}: {action.why}")

    def _unlisted(self, plan: Plan, report: Report) -> None:
        """Say which folders could not be listed."""
        for failure in report.failures:
            if failure.action == "list":
                side = plan.src if side_of(failure.error) == "source" else plan.dst
                failure.error.shown = self._shown(side.relative(failure.path), failure.error)  # type: ignore[attr-defined]
                self.app.failed(failure.error)

    def _side(self, error: StorageError) -> Location:
        """Where it went wrong: at the source, where nobody says anything else."""
        return {"destination": self.to, "backup": self.kept}.get(str(side_of(error)), self.from_)

    def _shown(self, path: str, error: StorageError | None = None) -> str:
        if not path and (error is None or side_of(error) is None):
            return f"{self.from_.text} -> {self.to.text}"
        side = self.from_ if error is None else self._side(error)
        return side.text if not path or (self.single is not None and side is self.from_) else side.child(path).text

    def _ask(self, action: Action) -> bool:
        if self.asked_all:
            return True
        self.meter.stop()
        while True:
            sys.stderr.write(f"{_WOULD[action.kind]} {action.path} ({action.why})? [y]es, [n]o, [a]ll, [q]uit: ")
            sys.stderr.flush()
            answer = sys.stdin.readline()
            letter = answer.strip().lower()[:1] if answer else "q"
            if letter == "q":
                raise click.exceptions.Exit(1)
            if letter in ("y", "n", "a"):
                self.asked_all = letter == "a"
                return letter != "n"
