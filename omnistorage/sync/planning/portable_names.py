"""Names that only some systems can hold. Pure."""

from __future__ import annotations

import re

_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(?:\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f]')


def not_portable(path: str) -> str:
    """Why Windows cannot hold an object of this name; ``""`` if it can. (Microsoft, *Naming Files, Paths, and
    Namespaces*.)"""
    for name in path.split("/"):
        if _RESERVED.fullmatch(name.rstrip(" .")):
            return f"Windows keeps the name {name!r} for a device"
        if name != name.rstrip(" ."):
            return f"Windows drops the dot or blank at the end of {name!r}"
        if found := _FORBIDDEN.search(name):
            return f"Windows allows no {found[0]!r} in a name"
    return ""
