"""``omnistorage mkdir`` and ``rmdir``: folders where a store has them by themselves."""

from __future__ import annotations

import re

import click

from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.objects import is_folder
from omnistorage.cli.core.verb import Verb
from omnistorage.errors import NotFound, StorageError
from omnistorage.paths import name

_BUCKET = re.compile(r"(?:s3|gs|gcs|az|azure|abfss)(?:\+https?)?://[^/?]+(?:\?.*)?")


def _at(app: App, url: str, doing: str) -> Location:
    bare = url.rstrip("/")
    if name(bare) in ("", ".", "..") or bare.endswith(":"):
        raise click.UsageError(f"refusing to {doing} {url!r}: name a folder")
    if _BUCKET.fullmatch(bare):
        raise click.UsageError(
            f"refusing to {doing} {url!r}: the tools of the service do that for buckets; name a folder in it"
        )
    at = app.locate(bare)
    if not at.path:
        raise click.UsageError(f"refusing to {doing} the whole of {url!r}: name a folder in it")
    return at


def _done(app: App, kind: str, did: str, at: Location, dry_run: bool) -> None:
    app.done += 1
    app.event(kind, path=at.text, dry_run=dry_run or None)
    app.say(f"{'would have ' if dry_run else ''}{did} {at.text}/")


@click.command(cls=Verb, example="omnistorage mkdir new/folder", events=True, short_help="Make folders.")
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be made.")
@click.pass_obj
def mkdir(app: App, /, urls: tuple[str, ...], dry_run: bool) -> None:
    """Make folders and those around them. One that is there already is fine.

    A store without folders refuses (exit code 6): there a folder is nothing but the beginning of its objects' names.
    """
    for url in urls:
        try:
            at = _at(app, url, "make")
            with naming(at.text):
                if not dry_run:
                    at.backend.mkdir(at.path)
            _done(app, "mkdir", "made", at, dry_run)
        except StorageError as error:
            app.failed(error)


@click.command(cls=Verb, example="omnistorage rmdir empty", events=True, short_help="Remove empty folders.")
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("-f", "--force", is_flag=True, help="Be content with what is not there.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@click.pass_obj
def rmdir(app: App, /, urls: tuple[str, ...], force: bool, dry_run: bool) -> None:
    """Remove empty folders. One with something in it is refused (exit code 6): rm -R takes what is in it along."""
    for url in urls:
        try:
            at = _at(app, url, "remove")
            with naming(at.text):
                _remove(at, dry_run)
            _done(app, "rmdir", "removed", at, dry_run)
        except NotFound as error:
            if not force:
                app.failed(error)
        except StorageError as error:
            app.failed(error)


def _remove(at: Location, dry_run: bool) -> None:
    if not dry_run:
        at.backend.rmdir(at.path)
    elif not is_folder(at):
        raise NotFound("no such folder", path=at.path, op="rmdir")
