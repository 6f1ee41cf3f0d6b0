"""``omnistorage bisync``: two places kept in step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import click

from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.progress import human
from omnistorage.cli.core.sync_progress import SyncMeter
from omnistorage.cli.core.verb import Verb
from omnistorage.cli.options.filters import filter_options
from omnistorage.cli.options.param_types import DURATION
from omnistorage.errors import ConfigError, StorageError
from omnistorage.sync import BisyncReport, Event
from omnistorage.sync import bisync as bisync_places
from omnistorage.sync.endpoint import Side
from omnistorage.sync.two_way.run import POLICIES, Directed

from .sync import Checksum, folder_of, settings_of

C = TypeVar("C", bound=Callable[..., Any])
_DID = {"copy": "copied", "update": "updated", "delete": "deleted", "rmdir": "removed"}
_WOULD = {"copy": "copy", "update": "update", "delete": "delete", "rmdir": "remove"}


class Percent(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """``50`` or ``50%``."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(str(value).removesuffix("%"))
        except ValueError:
            number = -1.0
        if not 0 <= number <= 100:
            self.fail(f"{value!r} is no percentage from 0 to 100", param, ctx)
        return number


def _options(command: C) -> C:
    for option in reversed(
        [
            click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done."),
            click.option("--resync", is_flag=True, help="Forget the last run: a union of both, nothing is deleted."),
            click.option("--conflict", type=click.Choice(POLICIES), default="keep-both", metavar="HOW",
                         help=f"What was changed on both sides: {', '.join(POLICIES)}."),
            click.option("--max-delete", type=Percent(), default=50.0, metavar="P",
                         help="Do nothing if more percent of a side are gone (50)."),
            click.option("--state", metavar="URL", help="The folder that remembers the last run of this pair."),
            click.option("--lock-expires", type=DURATION, metavar="TIME",
                         help="How long a run that died keeps others out (15m)."),
            click.option("--checksum", type=Checksum(), is_flag=False, flag_value="stated", metavar="[=strict]",
                         help="Trust content, not times, on the first run."),
            click.option("--size-only", is_flag=True, help="Equal sizes on both sides are no conflict."),
            click.option("--modify-window", type=DURATION, metavar="TIME", help="Times closer than this are equal."),
            click.option("--compare", type=click.Choice(["default", "size", "mtime", "checksum"]),
                         help="What makes two objects equal."),
            click.option("--sort-listings", is_flag=True, help="Trust no store's order of names."),
            click.option("--transfers", type=click.IntRange(1), metavar="N", help="Transfers at a time (4)."),
            click.option("--order-by", metavar="WHAT", help="size, name, modtime or mixed; ,desc turns it round."),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


@click.command(cls=Verb, example="omnistorage bisync logs mirror", events=True, short_help="Keep two folders in step.")
@click.argument("a")
@click.argument("b")
@_options
@filter_options
@click.pass_obj
def bisync(app: App, /, a: str, b: str, **options: Any) -> None:
    """Make A and B hold the same, whichever of them was written to since the last run.

    What changed on one side is copied, what was deleted on one side only is deleted on the other, a change beats a
    deletion. What changed on both is kept on both, the older one as NAME.conflict-1 (--conflict). The first run deletes
    nothing. A side that is empty all of a sudden, or lacks more than half of what it had, is refused.
    """
    own = {name: options.pop(name) for name in ("dry_run", "resync", "conflict", "max_delete")}
    state, expires = options.pop("state"), options.pop("lock_expires")
    settings = settings_of(app, options)
    if expires is not None:
        own["lock_expires"] = timedelta(seconds=expires)
    first, from_ = folder_of(app, a)
    second, to = folder_of(app, b)
    if state is None:
        state = _default_state(first, second)
        app.detail(f"state: {state}")
    folder, _ = folder_of(app, state, private=True)
    told = _Told(app, {"path1": from_, "path2": to}, bool(own["dry_run"]))
    app.draw(f"bisync with {to.text}")
    with naming(f"{from_.text} <-> {to.text}"), _in_options():
        report = bisync_places(
            first, second, state=folder, listeners=(told.meter.see, told.tell), raise_errors=False, **own, **settings
        )
    app.meter.stop()
    told.summary(report)


def _default_state(first: Any, second: Any) -> str:
    urls = []
    for backend in (first, second):
        url = Side(backend, "side").url
        if url is None:
            raise ConfigError(f"{backend.name} does not say where it is: give --state")
        urls.append(url)
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    name = hashlib.sha256("\n".join(urls).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return os.path.join(home, "omnistorage", "bisync", name)


@contextmanager
def _in_options() -> Iterator[None]:
    """Errors from inside speak of options as they are written on the command line."""
    try:
        yield
    except StorageError as error:
        text = str(error.args[0]) if error.args else ""
        for setting in ("max_delete", "resync", "exclude_if_present"):
            text = text.replace(setting, f"--{setting.replace('_', '-')}")
        error.args = (text, *error.args[1:])
        raise


class _Told:
    """What is said of a run while it goes on, and at its end."""

    def __init__(self, app: App, sides: dict[str, Location], dry_run: bool) -> None:
        self.app, self.sides, self.dry_run = app, sides, dry_run
        self.meter = app.meter = SyncMeter()

    def tell(self, event: Event) -> None:
        action, app = event.action, self.app
        told = "planned" if self.dry_run else "deleted" if event.kind == "deleted" else "done"
        if event.kind == "error" and event.error is not None:
            if event.path:
                where = self.sides.get(action.to if isinstance(action, Directed) else "path1", self.sides["path1"])
                event.error.shown = where.child(event.path).text  # type: ignore[attr-defined]
            app.failed(event.error)
        elif event.kind == "retried" and event.error is not None:
            app.detail(f"trying {event.path} again: {event.error}")
        elif isinstance(action, Directed) and event.kind == told and action.kind in _DID:
            self._done(action)

    def _done(self, action: Directed) -> None:
        app, target = self.app, action.path if action.other is None else action.other
        app.event(
            action.kind,
            path=target,
            side=action.to,
            size=action.size,
            why=action.why,
            source=None if action.other is None else action.path,
            dry_run=self.dry_run or None,
        )
        did = f"would {_WOULD[action.kind]}" if self.dry_run else _DID[action.kind]
        size = f" ({human(action.size)})" if action.size is not None else ""
        folder = "/" if action.kind == "rmdir" else ""
        app.say(f"{did} {self.sides[action.to].child(target).text}{folder}{size}: {action.why}")

    def summary(self, report: BisyncReport) -> None:
        app = self.app
        for path, winner, kept in report.conflicts:
            app.event("conflict", path=path, winner=winner or None, kept=kept or None)
            end = "both stay as they are" if not winner else f"{winner} has the name"
            app.warn(f"{path}: changed on both sides: {end}{f', the other one is {kept}' if kept else ''}")
        for text in report.warnings:
            app.warn(text)
        app.done = report.changes
        if not self.dry_run:
            app.meter.bytes = report.bytes
        size = f", {human(report.bytes)}" if report.bytes else ""
        app.say(f"{report}{size}, {report.seconds:.1f} s")
        hidden = ("failures", "warnings", "conflicts")
        app.event("report", **{key: value for key, value in report.as_dict().items() if key not in hidden})
