"""Where a local folder lies on its volume, whatever that is mounted as. Standard library only.

A bind mount and a second mount of a volume give one folder two paths, which no symbolic link explains.
"""

from __future__ import annotations

import re

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
    for line in (_mounts() if mounts is None else mounts).splitlines():
        fields = line.split(" ")
        if len(fields) < 5:
            continue
        device, root, point = fields[2], _unescaped(fields[3]), _unescaped(fields[4])
        if _is_in(path, point) and (best is None or len(point) >= len(best[2])):
            best = device, root, point
    if best is None:
        return None
    device, root, point = best
    return device, f"{root.rstrip('/')}/{path[len(point) :].lstrip('/')}"


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
