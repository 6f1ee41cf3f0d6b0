"""Where a local folder lies on its volume, whatever that is mounted as. Standard library only.

A bind mount and a second mount of a volume give one folder two paths, which no symbolic link explains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

_MOUNTS = "/proc/self/mountinfo"


def between(one: str, other: str) -> str | None:
    """The relative path from the outer to the inner of two folders, by their names, which end with a slash; ``""`` if
    they are one, None if they are apart."""
    if one.startswith(other):
        return one[len(other) :].rstrip("/")
    return other[len(one) :].rstrip("/") if other.startswith(one) else None


def between_mounts(one: str, other: str) -> str | None:
    """The same, by where two folders lie on their volumes, and by what is mounted inside them.

    Args:
        one: An absolute path without symbolic links.
        other: Another one.

    Returns:
        The relative path from the outer to the inner; None if they are apart, or the system does not say.
    """
    first, second = volume_path(one), volume_path(other)
    if first is None or second is None:
        return None
    inner = _on_volume(first, second)
    if inner is None:
        inner = next(chain(_mounted(one, second), _mounted(other, first)), None)
    return inner


def volume_path(path: str, mounts: str | None = None) -> tuple[str, str] | None:
    """Where a local path lies on its volume, whatever it is mounted as.

    Args:
        path: An absolute path without symbolic links.
        mounts: The text of ``/proc/self/mountinfo``; by default that of this process.

    Returns:
        The volume's device and the path from the root of the volume; None if the system does not say.
    """
    best: tuple[str, str, str] | None = None
    for device, root, point in _parsed(mounts):
        if _is_in(path, point) and (best is None or len(point) >= len(best[2])):
            best = device, root, point
    if best is None:
        return None
    device, root, point = best
    return device, f"{root.rstrip('/')}/{path[len(point) :].lstrip('/')}"


def mounts_below(path: str, mounts: str | None = None) -> Iterator[tuple[str, str, str]]:
    """What is mounted inside a local folder.

    Args:
        path: An absolute path without symbolic links.
        mounts: As for ``volume_path``.

    Yields:
        The mount point's path from ``path``, the device of what is mounted, and the path from the root of its volume.
    """
    folder = f"{path.rstrip('/')}/"
    for device, root, point in _parsed(mounts):
        if point.startswith(folder) and point != folder:
            yield point[len(folder) :], device, root


def _mounted(outer: str, place: tuple[str, str]) -> Iterator[str]:
    """The paths from ``outer`` to the mounts inside it that show ``place``, or show a folder of it."""
    for point, device, root in mounts_below(outer):
        inner = _on_volume((device, root), place)
        if inner is not None:
            below = f"{place[1].rstrip('/')}/".startswith(f"{root.rstrip('/')}/")
            yield f"{point}/{inner}".rstrip("/") if below else point


def _on_volume(one: tuple[str, str], other: tuple[str, str]) -> str | None:
    if one[0] != other[0]:
        return None
    return between(*(f"{place[1].rstrip('/')}/" for place in (one, other)))


def _parsed(mounts: str | None) -> Iterator[tuple[str, str, str]]:
    """The device, the path on the volume and the mount point of each mount, in the order of mounting."""
    for line in (_mounts() if mounts is None else mounts).splitlines():
        fields = line.split(" ")
        if len(fields) >= 5:
            yield fields[2], _unescaped(fields[3]), _unescaped(fields[4])


def _mounts() -> str:
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _is_in(path: str, folder: str) -> bool:
    return folder == "/" or path == folder or path.startswith(f"{folder.rstrip('/')}/")
