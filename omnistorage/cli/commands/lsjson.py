"""``omnistorage lsjson`` and ``size``: a folder for programs, and what it sums up to."""

from __future__ import annotations

import mimetypes
from typing import Any

import click

from omnistorage.cli.core.app import App
from omnistorage.cli.core.progress import human
from omnistorage.cli.core.stdio import encode_json
from omnistorage.cli.core.verb import Verb
from omnistorage.core import ObjectInfo

from .ls import row, rows


@click.command(cls=Verb, rows=True, example="omnistorage lsjson -R logs", short_help="List a folder as JSON.")
@click.argument("url", default=".")
@click.option("-R", "-r", "--recursive", is_flag=True, help="What is in folders too, by its path.")
@click.option("--dirs", "--dirs-only", "dirs", is_flag=True, help="Folders only.")
@click.option("--files", "--files-only", "files", is_flag=True, help="No folders.")
@click.option("--max-depth", type=click.IntRange(1), metavar="N", help="Go N levels down; implies -R.")
@click.option("--stream", is_flag=True, help="One JSON object per line instead of an array.")
@click.pass_obj
def lsjson(app: App, /, url: str, recursive: bool, dirs: bool, files: bool, **k: Any) -> None:
    """List the folder URL (default: here) as a JSON array with the keys of rclone: Path, Name, Size (-1 where there is
    none), MimeType, ModTime, IsDir, and Hashes as far as the listing has them. An object lists itself.

    An error that ends the listing leaves the array open, so that nobody takes it for complete.
    """
    if dirs and files:
        raise click.UsageError("--dirs and --files leave nothing over: choose one")
    depth: int | None = k["max_depth"] if recursive or k["max_depth"] else 1
    if not k["stream"]:
        app.out.write(b"[\n")
    for info in rows(app, url, depth, folders=not files):
        if dirs and not info.is_dir:
            continue
        if k["stream"]:
            app.out.json(_row(info))
        else:
            app.out.write((b",\n" if app.done else b"") + encode_json(_row(info)).rstrip(b"\n"))
        app.done += 1
    if not k["stream"]:
        app.out.write((b"\n" if app.done else b"") + b"]\n")


def _row(info: ObjectInfo) -> dict[str, Any]:
    found = row(info)
    kind = "inode/directory" if info.is_dir else info.content_type or mimetypes.guess_type(info.name)[0]
    return {
        "Path": found["Path"],
        "Name": found["Name"],
        "Size": found["Size"],
        "MimeType": kind or "application/octet-stream",
        "ModTime": found["ModTime"],
        "IsDir": found["IsDir"],
        "Hashes": dict(info.hashes or {}),
    }


@click.command(cls=Verb, rows=True, example="omnistorage size logs", short_help="Count objects and bytes.")
@click.argument("url", default=".")
@click.option("--max-depth", type=click.IntRange(1), metavar="N", help="Go N levels down.")
@click.pass_obj
def size(app: App, /, url: str, max_depth: int | None) -> None:
    """Count the objects of the folder URL (default: here) and their bytes, those in folders included.

    --json has rclone's keys: count, bytes, and sizeless, the objects whose store does not say how large they are.
    """
    total = sizeless = 0
    for info in rows(app, url, max_depth, folders=False):
        if info.kind != "file":
            continue
        app.done += 1
        total += info.size or 0
        sizeless += info.size is None
    if app.json:
        app.out.json({"count": app.done, "bytes": total, "sizeless": sizeless})
        return
    app.out.line(f"objects: {app.done:,}")
    app.out.line(f"bytes:   {total:,}" + (f" ({human(total)})" if total > 1023 else ""))
    if sizeless:
        app.out.line(f"without a known size: {sizeless:,}")
