"""``omnistorage mv``: objects and folders to another place.

A rename where the store has one. Else each object is copied, the copy checked, and only then its source removed, if it
still is what was copied.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import click

from omnistorage import ops
from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.objects import info_of
from omnistorage.cli.core.verb import Verb
from omnistorage.core import CopyOptions, ObjectInfo
from omnistorage.errors import CapabilityNotSupported, DirectoryNotEmpty, NotFound, PreconditionFailed, StorageError
from omnistorage.ops.same_bucket import is_one_object

from .cp import Copies, metadata_of, same_object


@click.command(
    cls=Verb, example="omnistorage mv old/thing archive/", events=True, short_help="Move objects and folders."
)
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.argument("dst")
@click.option("-R", "-r", "--recursive", is_flag=True, help="Move folders with all that is in them.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be moved.")
@click.option("--no-clobber", is_flag=True, help="Refuse to replace an existing object.")
@click.option("--checksum", is_flag=True, help="Where bytes are copied: compare the SHA-256 of both sides first.")
@click.option("--metadata", multiple=True, metavar="K=V", help="User metadata instead of the source's.")
@click.pass_obj
def mv(app: App, /, sources: tuple[str, ...], dst: str, **options: Any) -> None:
    """Move objects to the object DST; a / at the end of DST means a folder to put them into.

    As cp, and the source is removed once the copy is there and has the right size and digests; one that changed
    meanwhile is kept, and said. With -R folders that are left empty are removed. What cannot be moved stays in place.
    """
    if "-" in (*sources, dst):
        raise click.UsageError("mv moves between places that can be named: cp takes - for standard input and output")
    metadata = metadata_of(options.pop("metadata"))
    _Moves(app, dst, metadata=metadata, content_type=None, **options).all(sources)


class _Moves(Copies):
    event: ClassVar[str] = "move"
    would: ClassVar[str] = "would move"
    did: ClassVar[str] = "moved"
    removes: ClassVar[bool] = True

    def _transfer(self, source: Location, target: Location) -> ObjectInfo:
        options = CopyOptions(overwrite=not self.no_clobber, user_metadata=self.metadata)
        alike = self.checksum and is_one_object(target.backend, target.path, source.backend, source.path)
        if same_object(source, target) or alike:
            return ops.move(source.backend, source.path, target.backend, target.path, options)
        info = self._renamed(source, target, options)
        if info is not None:
            return info
        if self.checksum:
            before = info_of(source)
            info = super()._transfer(source, target)
            self._remove(source, before)
            return info
        places = source.backend, source.path, target.backend, target.path
        return ops.move(*places, options, progress=self.app.meter.add)

    def _renamed(self, source: Location, target: Location, options: CopyOptions) -> ObjectInfo | None:
        """Let the store do it; None if it cannot. It reaches the root of its kind through ``source``."""
        backend = target.backend
        if not backend.features.move or source.backend.name != backend.name:
            return None
        if not ops.same_place(source.backend, backend):
            options = replace(options, source=source.backend)
        try:
            return backend.move(source.path, target.path, options)
        except CapabilityNotSupported:
            return None

    def _remove(self, source: Location, before: ObjectInfo) -> None:
        """Remove what was copied, if that is what is there."""
        backend = source.backend
        if backend.features.if_match and before.etag is not None:
            try:
                backend.delete(source.path, if_match=before.etag)
                return
            except CapabilityNotSupported as error:
                if error.capability == "delete":
                    raise
                # conditions on writes alone: some S3 servers
        now = info_of(source)
        if (now.etag, now.size, now.modified_at) != (before.etag, before.size, before.modified_at):
            raise PreconditionFailed("the source changed while it was moved; it is kept", path=source.path, op="move")
        backend.delete(source.path)

    def _emptied(self, folders: list[Location]) -> None:
        """Remove the folders that are empty now, inner ones first."""
        if self.dry_run or not folders[0].backend.features.dirs:
            return
        for folder in reversed(folders):
            try:
                with naming(folder.text):
                    at = folder if folder.path else self.app.locate(folder.text.rstrip("/"))
                    at.backend.rmdir(at.path)
            except (NotFound, DirectoryNotEmpty):
                pass  # something stays, and why has been said
            except StorageError as error:
                self.app.failed(error)
