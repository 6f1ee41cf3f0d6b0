"""``omnistorage ls`` and ``stat``: what is there.

Rows are printed as they come, so that a listing of a million objects begins at once and is never held.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.exit_codes import escape
from omnistorage.cli.core.objects import info_of
from omnistorage.cli.core.progress import human
from omnistorage.cli.core.verb import Verb
from omnistorage.cli.options.filters import choosing, filter_of
from omnistorage.core import ObjectInfo
from omnistorage.errors import NotFound, StorageError
from omnistorage.ops import walk

if TYPE_CHECKING:
    from omnistorage.sync.filters import Filter

_BREAK = re.compile("[\n-\r\x1c-\x1e\x85\u2028\u2029]")
"""What ends a line, in one program or another."""


@click.command(cls=Verb, rows=True, example="omnistorage ls -l -h logs", short_help="List a folder.")
@click.argument("url", default=".")
@click.option("-R", "-r", "--recursive", is_flag=True, help="What is in folders too, by its path.")
@click.option("-l", "--long", is_flag=True, help="Size, time (UTC) and name.")
@click.option("-h", "--human", "human_sizes", is_flag=True, help="Sizes as 1.5 KiB; implies -l.")
@click.option("--dirs", is_flag=True, help="Folders only.")
@click.option("--files", is_flag=True, help="No folders.")
@click.option("--max-depth", type=click.IntRange(1), metavar="N", help="Go N levels down; implies -R.")
@click.option("-0", "--print0", is_flag=True, help="End each row with NUL, for names that hold line breaks (xargs -0).")
@choosing
@click.pass_obj
def ls(
    app: App, /, url: str, recursive: bool, long: bool, human_sizes: bool, dirs: bool, files: bool, **k: Any
) -> None:
    """List the folder URL (default: here), folders with a / behind their name. An object lists itself.

    --json gives one JSON object per row, with Path, Name, Size (-1 where there is none), ModTime and IsDir.
    """
    if dirs and files:
        raise click.UsageError("--dirs and --files leave nothing over: choose one")
    if k["print0"] and app.json:
        raise click.UsageError("--print0 is for rows of text: --json has a row in each line whatever a name holds")
    end = b"\0" if k.pop("print0") else b"\n"
    depth: int | None = k.pop("max_depth") or (None if recursive else 1)
    for info in rows(app, url, depth, folders=not files, filter=filter_of(k)):
        if dirs and not info.is_dir:
            continue
        app.done += 1
        if app.json:
            app.out.json(row(info))
        else:
            name = info.path + "/" * info.is_dir
            app.out.line(f"{_long(info, human_sizes)} {name}" if long or human_sizes else name, end)


def rows(app: App, url: str, depth: int | None, *, folders: bool, filter: Filter | None = None) -> Iterator[ObjectInfo]:
    """What lies under ``url``, by its path there; an object yields itself. Folders that cannot be read are reported and
    the rest goes on."""
    folder = app.locate(url, is_object=False)
    try:
        with naming(folder.text):
            yield from _under(app, folder, depth, folders, filter)
    except NotFound as error:
        found = None if app.done else itself(app, url)
        if found is None:
            raise error
        yield found


def _under(app: App, folder: Location, depth: int | None, folders: bool, filter: Filter | None) -> Iterator[ObjectInfo]:
    prefix = f"{folder.path}/" if folder.path else ""

    def descend(path: str) -> bool:
        inner = path[len(prefix) :]
        return (depth is None or inner.count("/") + 1 < depth) and (filter is None or filter.descends(inner))

    if depth == 1:
        found = folder.backend.list_dir(folder.path)
    else:
        chosen = None if depth is None and (filter is None or not filter.prunes) else descend
        found = walk(folder.backend, folder.path, descend=chosen, folders=folders, on_error=reporter(app, folder))
    for info in found:
        path = info.path[len(prefix) :]
        wanted = filter is None or (filter.descends(path) if info.is_dir else filter.includes(path, info))
        if wanted and (folders or not info.is_dir):
            yield info._replace(path=path)


def reporter(app: App, folder: Location) -> Any:
    """For ``on_error`` of a listing: what cannot be read is said and the rest goes on."""

    def report(error: StorageError) -> None:
        if not error.path or error.path == folder.path:
            raise error  # the folder itself: nothing was listed
        error.shown = folder.child(error.path.removeprefix(folder.path).lstrip("/")).text  # type: ignore[attr-defined]
        app.failed(error)

    return report


def itself(app: App, url: str) -> ObjectInfo | None:
    """The object that ``url`` names, if it names one."""
    if not url.strip("/") or url.endswith("/"):
        return None
    try:
        at = app.locate(url)
        return info_of(at)._replace(path=at.path.rpartition("/")[2])
    except StorageError:
        return None


def _long(info: ObjectInfo, human_sizes: bool) -> str:
    size = "-" if info.size is None or info.is_dir else human(info.size) if human_sizes else str(info.size)
    return f"{size:>{10 if human_sizes else 14}} {_time(info.modified_at) or '-':20}"


def _time(when: datetime | None) -> str | None:
    return None if when is None else f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def row(info: ObjectInfo) -> dict[str, Any]:
    """An object or a folder with the keys of rclone."""
    return {
        "Path": info.path,
        "Name": info.name,
        "Size": -1 if info.size is None or info.is_dir else info.size,
        "ModTime": None if info.modified_at is None else info.modified_at.isoformat(),
        "IsDir": info.is_dir,
    }


@click.command(
    cls=Verb, rows=True, example="omnistorage stat events.ndjson", short_help="What the store knows of an object."
)
@click.argument("url")
@click.pass_obj
def stat(app: App, /, url: str) -> None:
    """Say what the store knows about an object, without reading it. Line breaks in a value are spelt out."""
    at = app.locate(url)
    with naming(at.text):
        info = info_of(at)
    if app.json:
        more = {"ETag": info.etag, "Version": info.version, "ContentType": info.content_type}
        maps = {"Hashes": dict(info.hashes or {}), "Metadata": dict(info.metadata or {})}
        app.out.json({**row(info), "Kind": info.kind, **{k: v for k, v in {**more, **maps}.items() if v}})
        return
    size = None if info.size is None else f"{info.size} ({human(info.size)})" if info.size > 1023 else str(info.size)
    facts = {
        "path": at.text,
        "kind": info.kind,
        "size": size,
        "modified": None if info.modified_at is None else info.modified_at.isoformat(),
        "etag": info.etag,
        "version": info.version,
        "content type": info.content_type,
        **(info.hashes or {}),
        **{f"metadata {key}": value for key, value in (info.metadata or {}).items()},
    }
    facts = {name: value for name, value in facts.items() if value is not None}
    width = max(14, *(len(name) + 2 for name in facts))
    for name, value in facts.items():
        app.out.line(_BREAK.sub(lambda found: escape(found[0]), f"{name + ':':{width}}{value}"))
