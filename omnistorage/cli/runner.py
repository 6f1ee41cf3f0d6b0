"""One run of the command: the verbs, the global options, and what becomes of whatever is raised.

``click``'s own ``main`` is not used: it turns a closed pipe and Ctrl-C into answers of its own.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from omnistorage import __version__
from omnistorage.cli.core.verb import _options_help, global_options
from omnistorage.errors import StorageError

from .core.app import App
from .core.exit_codes import OK, OTHER, USAGE
from .core.signals import Interrupted
from .core.stdio import OutputClosed, silence

COMPLETE = "_OMNISTORAGE_COMPLETE"
PIPE = 141  # 128 + SIGPIPE: what the shell says of every other program whose reader went away
# Where a verb lives and what it is for, so that --help loads none of them.
VERBS = {
    "Records": {
        "write": ("write:write", "Write records into objects, each all or nothing."),
        "read": ("read:read", "Print the records of objects."),
        "convert": ("convert:convert", "Turn one record object into another format or compression."),
        "head": ("cat:head", "Print the first records of an object."),
        "spool": ("spool:spool", "Say what waits in a spool, or deliver it."),
    },
    "Objects": {
        "ls": ("ls:ls", "List a folder."),
        "lsjson": ("lsjson:lsjson", "List a folder as JSON, as rclone does."),
        "tree": ("tree:tree", "Draw a folder as a tree."),
        "stat": ("ls:stat", "Say what the store knows about an object."),
        "size": ("lsjson:size", "Count objects and bytes."),
        "hash": ("hash:hash_", "Print digests as sha256sum does."),
        "cat": ("cat:cat", "Print the bytes of objects."),
        "cp": ("cp:cp", "Copy objects and folders."),
        "mv": ("mv:mv", "Move objects and folders."),
        "rm": ("rm:rm", "Remove objects and folders."),
        "mkdir": ("mkdir:mkdir", "Make folders."),
        "rmdir": ("mkdir:rmdir", "Remove empty folders."),
    },
    "Folders": {
        "sync": ("sync:sync", "Make a folder equal to another."),
        "copy": ("sync:copy", "Copy what differs."),
        "move": ("sync:move", "Move what is there."),
        "check": ("check:check", "Compare two folders."),
        "bisync": ("bisync:bisync", "Keep two folders in step."),
    },
    "This command": {
        "backends": ("backends:backends", "Say which backends there are and what they can do."),
        "probe": ("probe:probe", "Try what a server keeps, and print the options to set."),
        "config": ("config:config", "Show or check the configuration file."),
        "completion": ("backends:completion", "Print what makes a shell complete this command."),
    },
}
_WHERE = {name: where for verbs in VERBS.values() for name, (where, _) in verbs.items()}


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_WHERE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _WHERE:
            return None
        module, _, attribute = _WHERE[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f".commands.{module}", __package__), attribute)
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
