"""``omnistorage tree``: a folder drawn with lines, folder by folder as it is read.

Plain text everywhere: nothing of it is worth loading a drawing library, and a pipe gets what the terminal shows.
"""

from __future__ import annotations

import click

from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.progress import human
from omnistorage.cli.core.verb import Verb
from omnistorage.core import ObjectInfo
from omnistorage.errors import CorruptData, NotFound, StorageError

from .ls import itself

DEEPEST = 200
"""So many folders are drawn inside of each other: a server may have folders without an end."""


@click.command(cls=Verb, example="omnistorage tree --size logs", short_help="Draw a folder as a tree.")
@click.argument("url", default=".")
@click.option("--depth", type=click.IntRange(1), metavar="N", help="Go N levels down.")
@click.option("--size", is_flag=True, help="Show the sizes of objects.")
@click.option("--dirs-only", is_flag=True, help="Folders only.")
@click.pass_obj
def tree(app: App, /, url: str, depth: int | None, size: bool, dirs_only: bool) -> None:
    """Draw the folder URL (default: here) as a tree."""
    folder = app.locate(url, is_object=False)
    drawing = _Drawing(app, folder, depth, size, dirs_only)
    try:
        with naming(folder.text):
            children = drawing.children(folder.path)
    except NotFound as error:
        if itself(app, url) is not None:
            error.args = ("is an object; stat or cat it",)
        raise
    app.out.line(folder.text)
    drawing.draw(children, "", 1)
    objects = "" if dirs_only else f", {drawing.objects:,} object{'s' * (drawing.objects != 1)}"
    app.out.line("")
    app.out.line(f"{drawing.folders:,} folder{'s' * (drawing.folders != 1)}{objects}")


class _Drawing:
    def __init__(self, app: App, root: Location, depth: int | None, size: bool, dirs_only: bool) -> None:
        self._app = app
        self._root = root
        self._depth = depth
        self._size = size
        self._dirs_only = dirs_only
        self.folders = 0
        self.objects = 0

    def children(self, path: str) -> list[ObjectInfo]:
        """What is in one folder."""
        return [i for i in self._root.backend.list_dir(path) if i.is_dir or not self._dirs_only]

    def draw(self, children: list[ObjectInfo], indent: str, level: int) -> None:
        """Print a folder's children and what is below them."""
        for at, info in enumerate(children, 1):
            last = at == len(children)
            note = f"  ({human(info.size)})" if self._size and info.size is not None and not info.is_dir else ""
            self._app.out.line(f"{indent}{'└── ' if last else '├── '}{info.name}{'/' * info.is_dir}{note}")
            if not info.is_dir:
                self.objects += 1
                continue
            self.folders += 1
            if self._depth is None or level < self._depth:
                self._below(info, indent + ("    " if last else "│   "), level + 1)

    def _below(self, info: ObjectInfo, indent: str, level: int) -> None:
        try:
            if level > DEEPEST:
                raise CorruptData(f"more than {DEEPEST} folders inside of each other", path=info.path, op="list_dir")
            children = self.children(info.path)
        except StorageError as error:
            error.shown = f"{self._root.text.rstrip('/')}/{info.path}"  # type: ignore[attr-defined]
            self._app.failed(error)
            return
        self.draw(children, indent, level)
