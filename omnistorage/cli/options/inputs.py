"""Which objects the arguments of ``read`` stand for: one, those of a folder or data set, of a pattern, of a manifest.

Objects come as the listing gives them, in the order of their keys; only where a store lists in another order are the
names held to be sorted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from omnistorage import ops
from omnistorage.cli.core.app import App, Location, naming
from omnistorage.cli.core.objects import is_folder
from omnistorage.core import ObjectInfo
from omnistorage.errors import (
    CapabilityNotSupported,
    ConfigError,
    InvalidPath,
    NotFound,
    PermissionDenied,
    StorageError,
)
from omnistorage.formats import record_format
from omnistorage.globs import has_magic
from omnistorage.paths import is_under, join

from .param_types import FormatChoice
from .records import Input, input_at

if TYPE_CHECKING:
    from omnistorage.delivery import Committed

_MAGIC = re.compile(r"[*?\[\]{}\\]")
_WHOLE = re.compile(r".*/|(.*/)?\.\.?|[A-Za-z0-9_][A-Za-z0-9_.-]*:|[a-z0-9+.-]+://[^/?]*(\?.*)?", re.DOTALL)
"""What can only be a folder: ``a/``, ``..``, ``name:``, ``s3://bucket``."""
_ATTEMPT = re.compile(r"_attempt-[0-9a-f]{16}", re.ASCII)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def find_inputs(app: App, arguments: Iterable[str], wanted: FormatChoice) -> Iterator[Input]:
    """The inputs that ``arguments`` name, one after the other. Raises ``NotFound`` for one that stands for nothing."""
    for argument in arguments:
        app.between()
        if argument == "-":
            yield input_at(app, None, wanted, record_format("ndjson"))
            continue
        for at, entry in _places(app, argument):
            yield _known(app, at, wanted, entry)


def _known(app: App, at: Location, wanted: FormatChoice, entry: Committed | None) -> Input:
    try:
        return input_at(app, at, wanted, None, entry)
    except ConfigError:
        with naming(at.text):
            if not at.backend.exists(at.path):  # which is worth knowing first
                raise NotFound("no such object", path=at.path, op="read") from None
        raise


def listed_inputs(app: App, target: str, manifest: str, wanted: FormatChoice) -> Iterator[Input]:
    """The objects of the folder ``target`` that ``manifest`` lists, each to be verified as it is read."""
    from omnistorage.delivery import read_manifest

    folder, at = app.locate(target, is_object=False), app.locate(manifest)
    with naming(at.text):
        for entry in read_manifest(at.backend, at.path):
            below = is_under(entry.path, folder.path) if folder.path else True
            path = entry.path if below else join(folder.path, entry.path)  # written through another root
            relative = path[len(folder.path) :].lstrip("/")
            place = replace(folder.child(relative), path=path)
            yield input_at(app, place, wanted, None, entry)


def _places(app: App, argument: str) -> Iterator[tuple[Location, Committed | None]]:
    if _WHOLE.fullmatch(argument):
        yield from _of_folder(app, app.locate(argument, is_object=False))
        return
    pattern = _split(argument)
    if pattern is not None and not _is_object(app, argument):
        yield from ((at, None) for at in _of_pattern(app, *pattern, argument))
        return
    at = app.locate(argument)
    with naming(at.text):
        folder = not at.backend.exists(at.path) and is_folder(at)
    if folder:
        yield from _of_folder(app, at)
    else:
        yield at, None


def _is_object(app: App, argument: str) -> bool:
    """Whether an object has this very name, wildcards and all."""
    try:
        at = app.locate(argument)
        return at.backend.exists(at.path)
    except StorageError:
        return False


def _of_folder(app: App, folder: Location) -> Iterator[tuple[Location, Committed | None]]:
    found = False
    with naming(folder.text):
        if _is_data_set(folder):
            yield from _of_data_set(folder)
            return
        for info in _ordered(folder, folder.backend.list(folder.path)):
            found = True
            path = info.path[len(folder.path) :].lstrip("/")
            at = folder.child(path)
            if path.startswith(("_", ".")) or "/_" in path or "/." in path:
                app.detail(f"{at.text}: left out, a name in it starts with _ or .")
                if _ATTEMPT.fullmatch(path):
                    app.warn(
                        f"{folder.text}: a data set without _SUCCESS: the run that writes it has not ended, or failed"
                    )
            elif info.kind == "file":
                yield at, None
        if not found and not is_folder(folder):
            raise NotFound("no such folder", path=folder.path, op="list")


def _is_data_set(folder: Location) -> bool:
    """Whether there is a ``_SUCCESS`` of ours. That of others is empty, or says something else."""
    try:
        with folder.backend.open_reader(join(folder.path, "_SUCCESS")) as reader:
            return b'"_manifest-' in reader.read(1 << 16)
    except (NotFound, PermissionDenied, InvalidPath, CapabilityNotSupported):  # some stores refuse what is not there
        return False


def _of_data_set(folder: Location) -> Iterator[tuple[Location, Committed]]:
    """The parts that count, each to be verified: those of runs that failed lie beside them."""
    from omnistorage.delivery import Committed, DatasetReader

    with DatasetReader(folder.backend, folder.path) as found:
        parts = found.parts
    for part in parts:
        path = join(folder.path, part.path)
        entry = Committed(path, part.records, part.bytes, part.raw_bytes, part.sha256, 0, 0)
        yield replace(folder.child(part.path), path=path), entry


def _of_pattern(app: App, head: str, pattern: str, query: str, argument: str) -> Iterator[Location]:
    folder = app.locate(head + query, is_object=False)
    found = False
    with naming(argument):
        for info in _ordered(folder, ops.glob(folder.backend, join(_literal(folder.path), pattern))):
            if info.kind == "file":
                found = True
                yield folder.child(info.path[len(folder.path) :].lstrip("/"))
        if not found:
            raise NotFound("no object matches", path=argument, op="read")


def _ordered(folder: Location, infos: Iterable[ObjectInfo]) -> Iterable[ObjectInfo]:
    if folder.backend.features.sorted_list:
        return infos
    return sorted(infos, key=lambda info: info.path.encode("utf-8", "surrogatepass"))


def _split(argument: str) -> tuple[str, str, str] | None:
    """The literal folder in front of a pattern, the pattern below it, and a URL's query; None without wildcards.

    In a URL ``?`` is a wildcard unless ``OPTION=`` follows it."""
    scheme = _SCHEME.match(argument)
    text, query = argument, ""
    if scheme is not None:
        before, sign, after = argument.rpartition("?")
        if sign and "=" in after:
            text, query = before, f"?{after}"
    start = 0 if scheme is None else (text.find("/", scheme.end()) + 1 or len(text))
    named = re.match(r"[A-Za-z0-9_][A-Za-z0-9_.-]*:", text) if scheme is None else None
    start = named.end() if named is not None else start
    path = text[start:]
    match = _MAGIC.search(path)
    if match is None or not has_magic(path):
        return None
    cut = path.rfind("/", 0, match.start()) + 1
    head, pattern = text[:start] + path[:cut], path[cut:]
    return head or ".", pattern if scheme is None else _decoded(pattern), query


def _decoded(pattern: str) -> str:
    """A pattern out of a URL: what is percent-encoded means itself."""

    def literal(match: re.Match[str]) -> str:
        return _literal(bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogateescape"))

    return re.sub("(?:%[0-9A-Fa-f]{2})+", literal, pattern)


def _literal(text: str) -> str:
    return "".join(f"\\{char}" if _MAGIC.match(char) else char for char in text)


__all__ = ["find_inputs", "listed_inputs"]
