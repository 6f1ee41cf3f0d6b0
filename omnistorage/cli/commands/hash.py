"""``omnistorage hash``: digests in the form of ``sha256sum``.

What the store knows is taken from it; else the object is read.
"""

from __future__ import annotations

import hashlib

import click

from omnistorage import ops
from omnistorage.checksums import new_hash
from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.objects import info_of, is_folder
from omnistorage.cli.core.stdio import Stdin
from omnistorage.cli.core.verb import Verb
from omnistorage.cli.options.param_types import completes
from omnistorage.cli.options.records import Counted
from omnistorage.core import ObjectInfo, Reader
from omnistorage.errors import NotFound, StorageError

from .ls import reporter

_BLOCK = 1 << 20


def _algorithms() -> list[str]:
    return sorted({*(a for a in hashlib.algorithms_guaranteed if not a.startswith("shake")), "crc32", "crc32c"})


@completes(_algorithms)
def _algorithm(ctx: click.Context, param: click.Parameter, value: str) -> str:
    name = value.lower().replace("-", "") if not value.lower().startswith("sha3") else value.lower().replace("-", "_")
    if name not in _algorithms():
        raise click.BadParameter(f"{value!r} is no digest; use one of {', '.join(_algorithms())}", ctx, param)
    return name


@click.command(
    name="hash",
    cls=Verb,
    rows=True,
    example="omnistorage hash sha256 events.ndjson",
    short_help="Print digests as sha256sum does.",
)
@click.argument("algorithm", metavar="ALGO", callback=_algorithm)
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("-R", "-r", "--recursive", is_flag=True, help="Every object in folders.")
@click.option("--download", is_flag=True, help="Read the bytes even where the store knows the digest.")
@click.pass_obj
def hash_(app: App, /, algorithm: str, urls: tuple[str, ...], recursive: bool, download: bool) -> None:
    """Print the digest of each object and its name, as sha256sum does and its -c reads: md5, sha1, sha256, blake2b, ...

    Digests that the store lists are taken from there, others are computed by reading. - is standard input.
    """
    job = _Digests(app, algorithm, recursive, download)
    app.draw(f"hash {algorithm}")
    for url in urls:
        app.between()
        try:
            job.one(url)
        except StorageError as error:
            app.failed(error)


class _Digests:
    def __init__(self, app: App, algorithm: str, recursive: bool, download: bool) -> None:
        self._app, self._algorithm = app, algorithm
        self._recursive, self._download = recursive, download

    def one(self, url: str) -> None:
        if url == "-":
            self._print("-", self._read(Stdin(self._app.stops)))
            return
        bare = url.rstrip("/") or url
        if self._recursive and (bare in (".", "..", "/") or url != bare or self._is_folder(bare)):
            self._folder(self._app.locate(bare, is_object=False))
            return
        at = self._app.locate(url)
        with naming(at.text):
            self._object(at, None if self._download else info_of(at))

    def _is_folder(self, argument: str) -> bool:
        at = self._app.locate(argument)
        with naming(at.text):
            return not at.path or (not at.backend.exists(at.path) and is_folder(at))

    def _folder(self, folder: Location) -> None:
        seen = False
        with naming(folder.text):
            for info in ops.walk(folder.backend, folder.path, on_error=reporter(self._app, folder)):
                seen = True
                if info.kind != "file":
                    continue
                at = folder.child(info.path[len(folder.path) :].lstrip("/"))
                try:
                    with naming(at.text):
                        self._object(at, None if self._download else info)
                except StorageError as error:
                    self._app.failed(error)
            if not seen and folder.path and not is_folder(folder):
                raise NotFound("no such folder", path=folder.path, op="list")

    def _object(self, at: Location, info: ObjectInfo | None) -> None:
        known = None if info is None else info.hash(self._algorithm)
        self._print(at.text, known or self._read(at.backend.open_reader(at.path)))

    def _read(self, source: Reader) -> str:
        with Counted(source, self._app) as reader:
            digest = new_hash(self._algorithm)
            while block := reader.read(_BLOCK):
                digest.update(block)
        return str(digest.hexdigest())

    def _print(self, name: str, digest: str) -> None:
        app = self._app
        app.done += 1
        if app.json:
            app.out.json({"Path": name, "Hash": digest, "Algorithm": self._algorithm})
            return
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        app.out.line(f"{'' if escaped == name else chr(92)}{digest}  {escaped}")  # a leading \ as coreutils has it
        app.out.flush()
