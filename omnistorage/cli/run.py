"""One run of the command: the verbs, the global options, and what becomes of whatever is raised. Imports click.

``click``'s own ``main`` is not used: it turns a closed pipe and Ctrl-C into answers of its own.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..errors import StorageError
from .app import App
from .exits import OK, OTHER, USAGE
from .stdio import OutputClosed, silence
from .stops import Interrupted

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMPLETE = "_OMNISTORAGE_COMPLETE"
PIPE = 141  # 128 + SIGPIPE: what the shell says of every other program whose reader went away

# Where a verb lives and what it is for, so that --help loads none of them.
VERBS = {
    "Records": {
        "write": ("write:write", "Write records into objects, each all or nothing."),
        "read": ("read:read", "Print the records of objects."),
        "convert": ("convert:convert", "Turn one record object into another format or compression."),
        "head": ("cat:head", "Print the first records of an object."),
        "spool": ("spooling:spool", "Say what waits in a spool, or deliver it."),
    },
    "Objects": {
        "ls": ("listing:ls", "List a folder."),
        "lsjson": ("lsjson:lsjson", "List a folder as JSON, as rclone does."),
        "tree": ("tree:tree", "Draw a folder as a tree."),
        "stat": ("listing:stat", "Say what the store knows about an object."),
        "size": ("lsjson:size", "Count objects and bytes."),
        "hash": ("digests:hash_", "Print digests as sha256sum does."),
        "cat": ("cat:cat", "Print the bytes of objects."),
        "cp": ("cp:cp", "Copy objects and folders."),
        "mv": ("mv:mv", "Move objects and folders."),
        "rm": ("rm:rm", "Remove objects and folders."),
        "mkdir": ("folders:mkdir", "Make folders."),
        "rmdir": ("folders:rmdir", "Remove empty folders."),
    },
    "Folders": {
        "sync": ("syncing:sync", "Make a folder equal to another."),
        "copy": ("syncing:copy", "Copy what differs."),
        "move": ("syncing:move", "Move what is there."),
        "check": ("checking:check", "Compare two folders."),
        "bisync": ("bisyncing:bisync", "Keep two folders in step."),
    },
    "This command": {
        "backends": ("about:backends", "Say which backends there are and what they can do."),
        "probe": ("probing:probe", "Try what a server keeps, and print the options to set."),
        "config": ("configuring:config", "Show or check the configuration file."),
        "completion": ("about:completion", "Print what makes a shell complete this command."),
    },
}
_WHERE = {name: where for verbs in VERBS.values() for name, (where, _) in verbs.items()}


def _set(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    app: App = ctx.obj
    if ctx.resilient_parsing:  # a shell asks what could come next
        return
    if param.name == "verbose":
        app.verbose += value
    elif param.name == "log_file" and value is not None:
        app.log_to(value)
    elif param.name in ("timeout", "bwlimit") and value is not None:
        from .specs import Duration, Size

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

    from .configuring import read_config

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


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_WHERE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _WHERE:
            return None
        module, _, attribute = _WHERE[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f".{module}", __package__), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _WHERE and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], _WHERE, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"no such verb {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in VERBS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in verbs.items()])
        _options_help(self, ctx, formatter)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"omnistorage {__version__}")
        ctx.exit()


def root() -> click.Group:
    """The whole command. Loads no verb."""
    version = click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
    )
    return _Verbs(
        "omnistorage",
        help="Move records and objects between stores, compressed or not.\n\nAn argument is a URL (file:///data/a), a "
        "plain path, NAME:PATH with a backend of the configuration file ($OMNISTORAGE_CONFIG, or "
        "~/.config/omnistorage/config.toml), or - for standard input and output.",
        epilog="Exit codes: 0 ok, 1 other, 2 usage, 3 folder or bucket missing, 4 object missing, 5 worth a retry, "
        "6 not worth one, 7 credentials or configuration, 8 a limit was reached, 9 nothing was transferred, 130/143 "
        "stopped by a signal, 141 output closed. "
        "'omnistorage VERB --help' has an example.",
        params=[*global_options(), version],
        context_settings={"max_content_width": 100, "help_option_names": ["--help", "-h"]},
        no_args_is_help=False,
    )


def _complete(app: App) -> int | None:
    """Answer a shell that asks for completions, as ``completion`` told it to."""
    asked = os.environ.get(COMPLETE)
    if not asked:
        return None
    from click.shell_completion import shell_complete

    try:
        return shell_complete(root(), {"obj": app}, "omnistorage", COMPLETE, asked)
    except Exception:
        return OTHER  # a prompt is no place for a message


def run(args: Sequence[str]) -> int:
    """Run one command line; returns the exit code, raises nothing."""
    app = App()
    completed = _complete(app)
    if completed is not None:
        return completed
    with app.stops:
        code = _attempt(app, lambda: _call(app, args))
        code = _attempt(app, app.close) or code
        code = _attempt(app, app.out.flush) or code
        try:
            return app.finish(code)
        except (OutputClosed, StorageError, Interrupted):
            silence()
            return code or PIPE


def _call(app: App, args: Sequence[str]) -> None:
    top = root()
    with top.make_context("omnistorage", list(args), obj=app) as ctx:
        if not args:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(USAGE)
        top.invoke(ctx)


def _attempt(app: App, step: Any) -> int:
    try:
        step()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        return _usage(app, error)
    except Interrupted:
        app.meter.stop()
        if not app.json or app.stops.count > 1:
            silence()  # what is still buffered may wait for a reader that does not read
        app.say(f"omnistorage: interrupted: {app.interrupted}")
        return 128 + (app.stops.signum or 2)
    except OutputClosed:
        return PIPE
    except StorageError as error:
        app.meter.stop()
        app.failed(error)
    except Exception as error:
        app.meter.stop()
        app.error(f"internal error: {type(error).__name__}: {error}; -vv shows where, please report it", OTHER)
        app.trace(error)
    return OK


def _usage(app: App, error: click.ClickException) -> int:
    ctx = getattr(error, "ctx", None)
    where = ctx.command_path if ctx is not None else "omnistorage"
    app.error(f"{error.format_message().rstrip('.')}; see '{where} --help'", USAGE)
    return USAGE


__all__ = ["COMPLETE", "Verb", "root", "run"]
