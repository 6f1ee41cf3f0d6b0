"""``omnistorage cp``: objects and folders to another place, each whole or not at all.

Every planned copy gets one line and one event, and one that fails does not stop the others: it decides the exit code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import click

from omnistorage import ops
from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.objects import is_folder
from omnistorage.cli.core.progress import human
from omnistorage.cli.core.stdio import Stdin
from omnistorage.cli.core.verb import Verb
from omnistorage.core import CopyOptions, ObjectInfo, Reader, WriteOptions
from omnistorage.errors import CorruptData, InvalidPath, NotFound, StorageError
from omnistorage.paths import is_under, name

from .ls import reporter

_BLOCK = 1 << 20


@click.command(cls=Verb, example="omnistorage cp -R logs backup/", events=True, short_help="Copy objects and folders.")
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.argument("dst")
@click.option("-R", "-r", "--recursive", is_flag=True, help="Copy folders with all that is in them.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option("--no-clobber", is_flag=True, help="Refuse to replace an existing object.")
@click.option("--checksum", is_flag=True, help="Read both sides again and compare their SHA-256.")
@click.option("--metadata", multiple=True, metavar="K=V", help="User metadata instead of the source's.")
@click.option("--content-type", metavar="TYPE", help="Content type instead of the source's.")
@click.pass_obj
def cp(app: App, /, sources: tuple[str, ...], dst: str, **options: Any) -> None:
    """Copy objects, byte by byte, to the object DST; a / at the end of DST means a folder to put them into.

    Several SRC need a folder. - is standard input or output. With -R a folder's content becomes DST, or DST/NAME where
    DST ends with /. Empty folders are made where the target has folders; symbolic links in a folder are not followed,
    and said. A copy that --checksum finds different is removed.
    """
    metadata = metadata_of(options.pop("metadata"))
    job = Copies(app, dst, metadata=metadata, **options)
    if dst == "-":
        job.to_stdout(sources)
        return
    job.all(sources)


def metadata_of(pairs: tuple[str, ...]) -> dict[str, str] | None:
    """The values of ``--metadata``."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise click.UsageError(f"--metadata takes KEY=VALUE, not {pair!r}")
        found[key] = value
    return found or None


@dataclass
class Copies:
    """One run of ``cp``; ``mv`` is one with another way to treat an object."""

    app: App
    dst: str
    recursive: bool
    dry_run: bool
    no_clobber: bool
    checksum: bool
    content_type: str | None
    metadata: dict[str, str] | None

    event: ClassVar[str] = "copy"
    would: ClassVar[str] = "would copy"
    did: ClassVar[str] = "copied"
    removes: ClassVar[bool] = False  # whether the source goes away

    def __post_init__(self) -> None:
        self.into_folder = self.dst.endswith("/") or self.dst.rpartition("/")[2] in (".", "..")
        self._taken: set[str] = set()
        self._bytes = 0
        self._is_alone = False  # one object, whose size is the total

    # -- what to copy --------------------------------------------------------------------------------------------------

    def all(self, arguments: tuple[str, ...]) -> None:
        """Copy what each argument names; one that fails does not stop the others."""
        if len(arguments) > 1 and not self.into_folder:
            raise click.UsageError(f"several SRC need a folder as DST: write {self.dst}/")
        app = self.app
        app.draw(f"{app.verb} to {self.dst}")
        self._is_alone = len(arguments) == 1
        for argument in arguments:
            app.between()
            try:
                self.one(argument)
            except StorageError as error:
                app.failed(error)
        app.meter.stop()
        if app.done > 1 or (app.done and not self.dry_run):
            did, objects = self.would if self.dry_run else self.did, "object" if app.done == 1 else "objects"
            app.say(f"{did} {app.done:,} {objects}, {human(self._bytes)}, {app.meter.seconds:.1f} s")

    def one(self, argument: str) -> None:
        """Copy what one argument names."""
        if argument == "-":
            if self.into_folder:
                raise click.UsageError("standard input has no name: DST must name an object")
            self._from_stdin(self.app.locate(self.dst))
            return
        bare = argument.rstrip("/") or argument
        if self.recursive and (argument != bare or name(bare) in (".", "..") or not self._is_object(bare)):
            self._folder(bare)
            return
        source = self.app.locate(bare)
        if self._is_alone and self.app.meter.drawn:
            with suppress(StorageError):  # the copy says it
                self.app.meter.total = source.backend.stat(source.path).size
        self._single(source, self._target(name(source.path), is_object=True))

    def _is_object(self, argument: str) -> bool:
        at = self.app.locate(argument)
        with naming(at.text):
            return at.path != "" and at.backend.exists(at.path)

    def _target(self, leaf: str, *, is_object: bool) -> Location:
        """Where something called ``leaf`` goes."""
        if not self.into_folder:
            return self.app.locate(self.dst, is_object=is_object)
        if leaf in self._taken:
            raise click.UsageError(f"two SRC are called {leaf!r}: the second would replace the first")
        self._taken.add(leaf)
        if leaf in ("", ".", ".."):
            raise click.UsageError("this SRC has no name to keep: give DST without a / at its end")
        return self.app.locate(self.dst, is_object=False).child(leaf)

    def _folder(self, argument: str) -> None:
        source = self.app.locate(argument, is_object=False)
        target = self._target(name(argument), is_object=False)
        if _inside(source, target):
            raise click.UsageError(f"{target.text} is {source.text} or lies inside it: the copy would never end")
        keeps = source.backend.features.dirs and target.backend.features.dirs
        empty = target if keeps else None  # as long as nothing was found in it
        folders = [source]
        with naming(source.text):
            for info in self._listed(source, keeps or (self.removes and source.backend.features.dirs)):
                path = info.path[len(source.path) :].lstrip("/")
                member = target.child(path)
                if empty is not None and not is_under(member.path, empty.path):
                    self._empty(empty)
                if info.is_dir:
                    folders += [source.child(path)] if self.removes else []
                    empty = member if keeps else None
                else:
                    empty = None
                    self._member(info, source.child(path), member)
            if empty is not None:
                self._empty(empty)
        self._emptied(folders)

    def _emptied(self, folders: list[Location]) -> None:
        """What becomes of the source's folders."""

    def _empty(self, folder: Location) -> None:
        """Make a folder that nothing is put into."""
        try:
            with naming(folder.text):
                at = folder if folder.path else self.app.locate(self.dst.rstrip("/") or "/")
                if not self.dry_run:
                    at.backend.mkdir(at.path)
        except StorageError as error:
            self.app.failed(error)
            return
        self.app.event("mkdir", path=folder.text, dry_run=self.dry_run or None)
        self.app.say(f"{'would make' if self.dry_run else 'made'} {folder.text.rstrip('/')}/")

    def _listed(self, source: Location, folders: bool) -> Iterator[ObjectInfo]:
        seen = False
        for info in ops.walk(source.backend, source.path, folders=folders, on_error=reporter(self.app, source)):
            seen = True
            yield info
        if not seen and not is_folder(source):
            raise NotFound("no such object or folder", path=source.path, op="list")

    def _member(self, info: ObjectInfo, source: Location, target: Location) -> None:
        if info.kind not in ("file", "dir"):
            self.app.warn(
                f"{source.text}: not {self.did}, it is a {'symbolic link' if info.kind == 'link' else 'special'}"
            )
            self.app.event("skip", src=source.text, reason=info.kind)
            return
        try:
            self._single(source, target, info.size)
        except StorageError as error:
            self.app.failed(error)

    # -- copying -------------------------------------------------------------------------------------------------------

    def _single(self, source: Location, target: Location, size: int | None = None) -> None:
        if not self.metadata and not self.content_type and same_object(source, target):
            with naming(source.text):
                raise InvalidPath("this is the source and the target", path=source.path, op=self.event)
        if self.dry_run:
            with naming(source.text):
                if size is None and not source.backend.exists(source.path):
                    raise NotFound("no such object, or it is a folder", path=source.path, op="copy")
            self._done(source.text, target.text, size)
            return
        with naming(f"{source.text} -> {target.text}"):
            info = self._transfer(source, target)
        self._done(source.text, target.text, info.size)

    def _transfer(self, source: Location, target: Location) -> ObjectInfo:
        info = self._content_typed(source, target) if self.content_type else self._plain(source, target)
        if self.checksum:
            with source.backend.open_reader(source.path) as reader:
                expected = _digest(reader)
            self._compare(expected, target, info, onto_itself=same_object(source, target))
        return info

    def _plain(self, source: Location, target: Location) -> ObjectInfo:
        options = CopyOptions(overwrite=not self.no_clobber, user_metadata=self.metadata)
        places = source.backend, source.path, target.backend, target.path
        return ops.copy(*places, options, progress=self.app.meter.add)

    def _content_typed(self, source: Location, target: Location) -> ObjectInfo:
        features = target.backend.features
        with source.backend.open_reader(source.path) as reader:
            kept = reader.info.metadata if features.user_metadata else None
            options = WriteOptions(
                overwrite=not self.no_clobber,
                modified_at=reader.info.modified_at if features.set_modified else None,
                user_metadata=kept if self.metadata is None else self.metadata,
                content_type=self.content_type,
                size=reader.info.size,
            )
            return self._stream(reader, target, options)[0]

    def _from_stdin(self, target: Location) -> None:
        if self.dry_run:
            self._done("standard input", target.text, None)
            return
        options = WriteOptions(
            overwrite=not self.no_clobber, user_metadata=self.metadata, content_type=self.content_type
        )
        with naming(f"standard input -> {target.text}"):
            info, digest = self._stream(Stdin(self.app.stops), target, options)
            if self.checksum:
                self._compare(digest, target, info)
        self._done("standard input", target.text, info.size)

    def _stream(self, reader: Reader, target: Location, options: WriteOptions) -> tuple[ObjectInfo, str]:
        digest = hashlib.sha256()
        with target.backend.open_writer(target.path, options) as writer:
            while block := reader.read(_BLOCK):
                writer.write(block)
                self.app.meter.add(len(block))
                if self.checksum:
                    digest.update(block)
            return writer.close(), digest.hexdigest()

    def _compare(self, expected: str, target: Location, made: ObjectInfo, *, onto_itself: bool = False) -> None:
        """Read the copy back; a bad one is removed, unless somebody has replaced it meanwhile."""
        with target.backend.open_reader(target.path) as reader:
            found = _digest(reader)
        if found == expected:
            return
        left = "it stays"
        if not onto_itself:
            try:
                etag = made.etag if target.backend.features.if_match else None
                target.backend.delete(target.path, if_match=etag)
                left = "it was removed"
            except StorageError as error:
                left = f"it could not be removed ({error.args[0] if error.args else type(error).__name__})"
        raise CorruptData(f"the copy reads back differently, its SHA-256 is another one: {left}", path=target.path)

    def _done(self, src: str, dst: str, size: int | None) -> None:
        self.app.done += 1
        self._bytes += size or 0
        self.app.event(self.event, src=src, dst=dst, size=size, dry_run=self.dry_run or None)
        self.app.say(f"{self.would if self.dry_run else self.did} {src} -> {dst}")

    def to_stdout(self, sources: tuple[str, ...]) -> None:
        """Print the objects' bytes."""
        if self.app.json or self.recursive or self.dry_run or self.checksum:
            raise click.UsageError("standard output holds the bytes: no --json, -R, -n or --checksum with it")
        for argument in sources:
            with naming(argument):
                at = None if argument == "-" else self.app.locate(argument)
                reader: Reader = Stdin(self.app.stops) if at is None else at.backend.open_reader(at.path)
                with reader:
                    while block := reader.read(_BLOCK):
                        self.app.out.write(block)
                    self.app.out.flush()


def same_object(source: Location, target: Location) -> bool:
    """Whether both are known to be one object."""
    if source.backend.url is None or target.backend.url is None:
        return source.backend is target.backend and source.path == target.path
    return source.backend.url + source.path == target.backend.url + target.path


def _inside(source: Location, target: Location) -> bool:
    """Whether the target is the folder that is copied, or lies in it, as far as the backends' places tell."""
    if source.backend.url is None or target.backend.url is None:
        same = source.backend is target.backend
        return same and (target.path == source.path or is_under(target.path, source.path))
    folder = (source.backend.url + source.path).rstrip("/") + "/"
    return ((target.backend.url + target.path).rstrip("/") + "/").startswith(folder)


def _digest(reader: Reader) -> str:
    digest = hashlib.sha256()
    while block := reader.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
