"""What every verb shares: the global options, its help, and the completion of its arguments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from omnistorage.cli.core.app import App

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def _set(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    app: App = ctx.obj
    if ctx.resilient_parsing:  # a shell asks what could come next
        return
    if param.name == "verbose":
        app.verbose += value
    elif param.name == "log_file" and value is not None:
        app.log_to(value)
    elif param.name in ("timeout", "bwlimit") and value is not None:
        from omnistorage.cli.options.param_types import Duration, Size

        if param.name == "bwlimit" and "," in value:
            app.bwlimit = value  # a timetable
            return
        setattr(app, param.name, (Duration() if param.name == "timeout" else Size()).convert(value, param, ctx))
    elif value is not None and (value is not False or param.name == "progress"):
        setattr(app, str(param.name), value)


def global_options() -> list[click.Option]:
    """The options that every verb takes, before its name or behind it."""

    def option(*names: str, **kwargs: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=_set, **kwargs)

    return [
        option("--config", metavar="FILE", help="Stores and backends for NAME:PATH arguments."),
        option("-v", "--verbose", count=True, help="Say more; -vv adds tracebacks."),
        option("-q", "--quiet", is_flag=True, help="Only warnings and errors."),
        option(
            "--json",
            is_flag=True,
            help="NDJSON on standard output: answers (ls, stat, size, ...) or events (write, cp, ...).",
        ),
        option("--progress/--no-progress", default=None, help="Live display (on a terminal only)."),
        option("--log-file", metavar="FILE", help="Append all that is said to FILE."),
        option("--retries", type=click.IntRange(0), metavar="N", help="Try a failed request N times more (5)."),
        option("--timeout", metavar="TIME", help="Give up on a connection that is silent for so long: 30s."),
        option("--bwlimit", metavar="SIZE", help="Move at most so many bytes a second over networks: 10MiB."),
        option("--tpslimit", type=click.FloatRange(0, min_open=True), metavar="N", help="At most N requests a second."),
    ]


def _options_help(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    shared = {option.name for option in global_options()}
    own: list[tuple[str, str]] = []
    everywhere: list[tuple[str, str]] = []
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None:
            (everywhere if param.name in shared else own).append(record)
    for title, rows in (("Options", own), ("Global options", everywhere)):
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


def _places(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the configuration that begin with ``incomplete``; else the shell completes names of files."""
    from click.shell_completion import CompletionItem

    from omnistorage.cli.core.config_file import read_config

    app: App = ctx.obj
    loaded = read_config(app.config_file()[0], missing_is_empty=True)
    names = [f"{name}:" for name in {**loaded.backends, **loaded.stores}]
    found = [CompletionItem(name) for name in names if incomplete and name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def _values(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What the callback of ``param`` names (see ``specs.completes``)."""
    from click.shell_completion import CompletionItem

    names: Iterable[str] = param.callback.completions()  # type: ignore[union-attr]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class Verb(click.Command):
    """A verb: its own options, the global ones, and an example that works."""

    def __init__(self, *args: Any, example: str, events: bool = False, rows: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for param in self.params:
            if hasattr(param.callback, "completions"):
                param._custom_shell_complete = _values
            elif isinstance(param, click.Argument) and type(param.type) is click.types.StringParamType:
                param._custom_shell_complete = _places
        self.params += global_options()
        self.example = example
        self.events = events  # --json is a stream of events
        self.rows = rows  # --json is the answer itself

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # An option whose value may be left out takes one behind "=" alone: what follows it is an argument.
        bare = {
            name: f"{name}={param.flag_value}"
            for param in self.params
            if isinstance(param, click.Option) and not param.is_flag and isinstance(param.flag_value, str)
            for name in param.opts
        }
        end = args.index("--") if "--" in args else len(args)
        args = [*(bare.get(arg, arg) for arg in args[:end]), *args[end:]]
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # the parser does not say whose option it was
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _options_help(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            formatter.write(f"  {self.example}\n")

    def invoke(self, ctx: click.Context) -> Any:
        app: App = ctx.obj
        app.verb, app.events = str(self.name), self.events
        if app.json and not self.events and not self.rows:
            raise click.UsageError(f"the standard output of {self.name} is data: --json has no place there", ctx)
        return super().invoke(ctx)
