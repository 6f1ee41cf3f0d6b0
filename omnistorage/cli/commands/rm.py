"""``omnistorage rm``: objects, and folders with -R.

A folder is removed object by object, then its folders from the inside: what somebody else puts there meanwhile stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from omnistorage import ops
from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.objects import is_folder
from omnistorage.cli.core.verb import Verb
from omnistorage.cli.options.filters import filter_of, filter_options
from omnistorage.errors import DirectoryNotEmpty, NotFound, StorageError
from omnistorage.paths import name

if TYPE_CHECKING:
    from omnistorage.sync.filters import Filter


@click.command(cls=Verb, example="omnistorage rm -R old", events=True, short_help="Remove objects and folders.")
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("-R", "-r", "--recursive", is_flag=True, help="Remove folders with all that is in them.")
@click.option("-f", "--force", is_flag=True, help="Be content with what is not there.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@filter_options
@click.pass_obj
def rm(app: App, /, urls: tuple[str, ...], recursive: bool, force: bool, dry_run: bool, **options: Any) -> None:
    """Remove objects. What is not there is an error (exit code 4) unless -f is given.

    Filters choose among the objects that -R finds; folders stay then.
    """
    chosen = filter_of(options)
    if chosen is not None and not recursive:
        raise click.UsageError("filters choose in folders: give -R as well")
    job = _Removal(app, recursive, force, dry_run, chosen)
    for url in urls:
        app.between()
        try:
            job.one(url)
        except StorageError as error:
            app.failed(error)
    if app.done > 1:
        app.say(f"{'would remove' if dry_run else 'removed'} {app.done:,} objects and folders")


@dataclass
class _Removal:
    app: App
    recursive: bool
    force: bool
    dry_run: bool
    filter: Filter | None

    def one(self, url: str) -> None:
        """Remove what one argument names."""
        bare = url.rstrip("/")
        if name(bare) in ("", ".", ".."):
            raise click.UsageError(f"refusing to remove {url!r}: name what is to go")
        at = self.app.locate(bare)
        if not at.path:
            raise click.UsageError(f"refusing to remove the whole of {url!r}: name what is to go")
        with naming(at.text):
            if url == bare and self.filter is None and self._object(at):
                return
            if self.recursive and self._folder(at):
                return
            if not self.recursive and is_folder(at):
                raise NotFound("this is a folder, not an object", path=at.path, op="delete")
            if not self.force:
                raise NotFound("no such object" + " or folder" * self.recursive, path=at.path, op="delete")

    def _object(self, at: Location) -> bool:
        """Whether there was such an object (or the store does not say)."""
        there: bool | None = at.backend.exists(at.path) if self.dry_run else at.backend.delete(at.path)
        if there is None and self.recursive and is_folder(at):
            return False
        if there is not False:
            self._done(at.text)
        return there is not False

    def _folder(self, at: Location) -> bool:
        if not is_folder(at):
            return False
        folders = [at]
        keeps = self.filter is not None
        for info in ops.walk(at.backend, at.path, folders=True, on_error=self.app.failed):
            member = Location(at.backend, info.path, f"{at.text}{info.path[len(at.path) :]}")
            if info.is_dir:
                folders.append(member)
                continue
            if self.filter is not None and not self.filter.includes(info.path[len(at.path) + 1 :], info):
                continue
            try:
                with naming(member.text):
                    if self.dry_run or at.backend.delete(member.path) is not False:
                        self._done(member.text)
            except StorageError as error:
                self.app.failed(error)
        if at.backend.features.dirs and not keeps:
            self._emptied(folders)
        return True

    def _emptied(self, folders: list[Location]) -> None:
        """Remove the folders, inner ones first."""
        for folder in reversed(folders):
            try:
                with naming(folder.text):
                    if not self.dry_run:
                        folder.backend.rmdir(folder.path)
                    self._done(f"{folder.text}/")
            except NotFound:
                pass  # somebody else removed it
            except DirectoryNotEmpty as error:
                self.app.failed(error)
            except StorageError as error:
                self.app.failed(error)

    def _done(self, text: str) -> None:
        self.app.done += 1
        self.app.event("remove", path=text, dry_run=self.dry_run or None)
        self.app.say(f"{'would remove' if self.dry_run else 'removed'} {text}")
