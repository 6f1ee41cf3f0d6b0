"""The settings of the HTTP backend, and the headers they make."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from omnistorage.core.secret import Secret
from omnistorage.errors import ConfigError

from .urls import Root

NAME = "http"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]*")
OURS = frozenset(
    ("accept-encoding", "authorization", "connection", "content-length", "content-type", "depth", "destination",
     "expect", "host", "if", "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since",
     "overwrite", "range", "te", "trailer", "transfer-encoding", "upgrade")
)  # fmt: skip
"""Headers that this backend writes itself. (Authorization may be given where no other credentials are.)"""


@dataclass(frozen=True)
class Settings:
    """Where to ask, as whom, and what to refuse."""

    root: Root
    query: Secret | None = None
    user: str | None = None
    password: Secret | None = None
    token: Secret | None = None
    headers: Mapping[str, Secret] = field(default_factory=dict)
    proxy: Secret | None = None
    ca_file: str | None = None
    verify: bool = True
    untrusted: bool = False
    resolver: Callable[[str, int], Iterable[str]] | None = None
    allow_downgrade: bool = False
    max_redirects: int = 5
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    connections: int = 8
    encoded: str = "refuse"


def checked_headers(headers: Mapping[str, str | Secret] | None, *, authorized: bool) -> dict[str, Secret]:
    """Headers as they are kept: every value is a secret, for it may be one."""
    found: dict[str, Secret] = {}
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ConfigError(f"a header's name is a word, not {name!r:.100}")
        if not isinstance(value, str | Secret):
            raise ConfigError(f"the header {name} has text as its value, or a Secret")
        taken = name.lower() in OURS
        if taken and (name.lower() != "authorization" or authorized):
            raise ConfigError(f"the header {name} is written by the backend itself")
        found[name] = value if isinstance(value, Secret) else Secret(value)
    return found


def own_headers(settings: Settings) -> dict[str, str]:
    """The headers for the root's own origin, and for no other. Secrets are looked up each time: they may change."""
    found = {name: sendable(value.reveal(), name) for name, value in settings.headers.items()}
    if settings.token is not None:
        found["Authorization"] = "Bearer " + sendable(settings.token.reveal(), "token")
    elif settings.user is not None:
        password = "" if settings.password is None else settings.password.reveal()
        found["Authorization"] = "Basic " + b64encode(f"{settings.user}:{password}".encode()).decode()
    return found


def sendable(value: str, name: str) -> str:
    """``value``, if a header can hold it."""
    if not _VALUE.fullmatch(value):
        raise ConfigError(f"the value of {name} holds a line end or what no header can hold")
    return value
