"""How what omnistorage left differs from what rclone left."""

from typing import NamedTuple


class Difference(NamedTuple):
    """``where`` is a place, ``signs`` of a check, or ``ok``. ``ours`` and ``theirs`` are what is there at ``path``."""

    where: str
    path: str
    ours: object
    theirs: object


def differences(ours, theirs):
    """All of them. None stands for what is not there."""
    if ours.ok != theirs.ok:
        yield Difference("ok", "", ours.ok, theirs.ok)
    yield from _of("signs", ours.signs, theirs.signs)
    for role, tree in ours.trees.items():
        marked = [{path: file or "empty folder" for path, file in one.items()} for one in (tree, theirs.trees[role])]
        yield from _of(role, *marked)


def _of(where, ours, theirs):
    for path in sorted({*ours, *theirs}):
        if ours.get(path) != theirs.get(path):
            yield Difference(where, path, ours.get(path), theirs.get(path))
