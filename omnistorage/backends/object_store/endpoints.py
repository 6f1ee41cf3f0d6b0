"""Which server an endpoint names, so that every parser of URLs reads the same one."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from omnistorage.errors import ConfigError

_SERVER = re.compile(r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+(?:%[a-z0-9._~%-]+)?\])(?::[0-9]*)?", re.ASCII | re.IGNORECASE)
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")


def is_server(text: str) -> bool:
    """Whether ``text`` is ``host`` or ``host:port``, where the host is a plain name or an address in brackets.

    A client may end a host at another character than ``urlsplit`` does: urllib3 ends it at a backslash.
    """
    return _SERVER.fullmatch(text) is not None


def split_endpoint(url: str, option: str, credentials: str) -> SplitResult:
    """Return the parts of an endpoint. Performs no I/O.

    Args:
        url: ``http(s)://host[:port][/path]``.
        option: What a message calls it.
        credentials: The options for what an endpoint must not hold.

    Raises:
        ConfigError: It is no such URL, or holds credentials. The message shows nothing of it.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  a ValueError if it is none
    except ValueError:
        parts = None
    if parts is not None and "@" in parts.netloc:
        raise ConfigError(f"{option} holds no credentials: give {credentials}")
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or parts.query
        or parts.fragment
        or _UNSAFE.search(url)
        or not is_server(parts.netloc)
    ):
        raise ConfigError(f"{option} is http(s)://host[:port][/path]; the host is a plain name or an address")
    return parts
