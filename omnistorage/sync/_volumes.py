"""Where a local folder lies on its volume, whatever that is mounted as. Standard library only.

A bind mount and a second mount of a volume give one folder two paths, which no symbolic link explains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_MOUNTS = "/proc/self/mountinfo"


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
