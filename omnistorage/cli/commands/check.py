"""``omnistorage check``: whether two places hold the same, or one what a sum file says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import IO, Any

import click

from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.stdio import Stdin
from omnistorage.cli.core.verb import Verb
from omnistorage.cli.options.filters import filter_options
from omnistorage.cli.options.option_names import spelled, worded
from omnistorage.core import Reader
from omnistorage.errors import ConfigError, StorageError
from omnistorage.sync import CheckReport, SyncOptions, check_sums
from omnistorage.sync import check as check_places
from omnistorage.sync.checking.sum_file import SumFile, algorithm_named

from .sync import comparing, folder_of, html_report, reporting, settings_of

DIFFERENCES = 1
_LISTS = {"=": "match", "-": "missing_on_src", "+": "missing_on_dst", "*": "differ", "!": "error"}
_OWN = ("sumfile", "one_way", "download", "combined", *_LISTS.values())  # what sync does not have
_NOT_SUMS = (
    "checksum", "size_only", "modify_window", "compare", "links", "min_size", "max_size", "min_age", "max_age",
)  # fmt: skip
_WORDS = {"-": "only at the destination", "+": "only at the source", "*": "differs", "!": "not compared"}


def _algorithm(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return value if value in (None, "auto") else algorithm_named(str(value))
    except ConfigError as error:
        raise click.BadParameter(f"{error.args[0]}, or auto", ctx, param) from None


@click.command(
    cls=Verb, example="omnistorage check logs mirror --size-only", events=True, short_help="Compare two folders."
)
@click.argument("src")
@click.argument("dst")
@click.option(
    "--sumfile",
    metavar="ALGO",
    callback=_algorithm,
    help="SRC is a sum file as of sha256sum: md5, sha1, sha256, ..., or auto.",
)
@click.option("--one-way", is_flag=True, help="What only DST has does not matter.")
@click.option("--download", is_flag=True, help="Read both sides and compare the bytes.")
@click.option("--combined", metavar="FILE", help="One line for each object: = - + * or !, and its path.")
@click.option("--match", metavar="FILE", help="The paths of what is the same.")
@click.option("--differ", metavar="FILE", help="The paths of what differs.")
@click.option("--missing-on-src", metavar="FILE", help="The paths of what only DST has.")
@click.option("--missing-on-dst", metavar="FILE", help="The paths of what only SRC has.")
@click.option("--error", metavar="FILE", help="The paths of what could not be compared.")
@reporting
@filter_options
@comparing
@click.pass_obj
def check(app: App, /, src: str, dst: str, **options: Any) -> None:
    """Compare SRC and DST and change nothing. Exit code 0: the same; 1: there are differences.

    FILE may be - for standard output. What could not be compared is an error, neither equal nor different.

    With --sumfile, SRC is the file SHA256SUMS or the like, whose names are relative to DST. Digests that DST states are
    taken from it, others are computed by reading; --download reads all. --one-way leaves out what SRC does not name.
    """
    sums = options.pop("sumfile")
    for name in _NOT_SUMS if sums else ():
        if options[name]:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} does not go with --sumfile, which compares digests and nothing else")
    one_way, download, file = options.pop("one_way"), options.pop("download"), options.pop("report")
    files = {name: options.pop(name) for name in ("combined", *_LISTS.values())}
    limit, app.bwlimit = app.bwlimit, None  # a check has no transfers to limit, but its networks stay limited
    settings = settings_of(app, options)
    app.bwlimit = limit
    target, to = folder_of(app, dst)
    from_, against = _sums(app, src, sums, to) if sums else _places(app, src)
    with ExitStack() as stack:
        lists = Lists(app, {name: path for name, path in files.items() if path}, stack)
        leave_out = (*_OWN, "checksum", "size_only") if download else _OWN
        page = html_report(app, stack, file, kind="check", verb="sync", leave_out=leave_out)
        if page is not None and sums:
            page.command = []  # no command makes a folder what a sum file says
        elif page is not None and (download or SyncOptions(**settings, list_equal=True).checks_content):
            end = page.command.index("--") if "--" in page.command else len(page.command)
            page.command.insert(end, "--checksum=strict" if download else "--checksum")
        app.draw(f"check {to.text}")
        with naming(f"{from_} -> {to.text}"), spelled():
            report = against(
                target, one_way=one_way, download=download, listeners=[lists.tell], report=page, **settings
            )
    app.meter.stop()
    app.done = report.match
    for text in report.warnings:
        app.warn(text)
    app.say(str(report))
    app.event("report", **{k: v for k, v in report.as_dict().items() if k not in ("failures", "warnings")})
    if report.differences and not report.errors:
        raise click.exceptions.Exit(DIFFERENCES)


def _places(app: App, src: str) -> tuple[str, Callable[..., CheckReport]]:
    source, at = folder_of(app, src)
    return at.text, partial(check_places, source)


def _sums(app: App, src: str, algorithm: str, to: Location) -> tuple[str, Callable[..., CheckReport]]:
    """What to call the sum file, and the check against it."""
    at = None if src == "-" else app.locate(src)

    def opened() -> Reader:
        if at is None:
            return Stdin(app.stops)
        with naming(at.text):
            return at.backend.open_reader(at.path)

    shown = "standard input" if at is None else at.text
    return shown, partial(check_sums, SumFile(opened, shown, None if algorithm == "auto" else algorithm, to.text))


class Lists:
    """Where each object's line goes."""

    def __init__(self, app: App, files: dict[str, str], stack: ExitStack) -> None:
        self.app = app
        self._files: dict[str, IO[str] | None] = {}
        for name, path in files.items():
            self._files[name] = None if path == "-" else stack.enter_context(_opened(path))

    def tell(self, sign: str, path: str, why: str, error: StorageError | None) -> None:
        app = self.app
        app.event("check", sign=sign, path=path, why=why or None)
        for name, line in (("combined", f"{sign} {path}"), (_LISTS[sign], path)):
            if name in self._files:
                file = self._files[name]
                if file is None:
                    app.out.line(line)
                else:
                    file.write(line + "\n")
        if error is not None:
            app.failed(worded(error))
        elif sign != "=":
            reason = f": {why}" if sign == "*" and why else ""
            app.say(f"{sign} {path} {_WORDS[sign]}{reason}")


def _opened(path: str) -> IO[str]:
    try:
        return open(path, "w", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"the file {path!r} cannot be written: {error.strerror}") from error
