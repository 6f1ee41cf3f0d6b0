"""What URLs and paths have to do with each other over HTTP. Pure.

A path is percent-encoded segment by segment (RFC 3986, section 2.1), so that a space, ``%``, ``?`` or ``#`` in a name
is a part of the name; what a server writes into a link is decoded once and must lie below the root.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from os import urandom
from urllib.parse import quote, unquote, urljoin, urlsplit

from omnistorage.backends.object_store.endpoints import is_server
from omnistorage.errors import ConfigError, InvalidPath
from omnistorage.paths import sort_key

SEGMENT = "-._~!$&'()*+,;=:@"
"""What may stand in a segment as it is (RFC 3986, ``pchar``)."""
PORTS = {"http": 80, "https": 443}
Origin = tuple[str, str, int]
_HIDDEN = re.compile(r"\.omnistorage-([0-9a-f]{8})[0-9a-f]{16}\.tmp", re.ASCII)


@dataclass(frozen=True)
class Root:
    """Where the paths of a backend begin. ``path`` is encoded, and begins and ends with a slash."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> Origin:
        """Scheme, host and port: what credentials are for (RFC 6454)."""
        return self.scheme, self.host, self.port

    @property
    def site(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port != PORTS[self.scheme] else "")

    @property
    def url(self) -> str:
        return self.site + self.path

    def of(self, path: str) -> str:
        """The URL of ``path``."""
        return self.url + encode(path)

    def tag(self, path: str) -> str:
        """``path`` as the resource of a condition (RFC 4918, section 10.4): without the site, which some servers take
        for another resource than theirs."""
        return self.path + encode(path)

    def folder(self, path: str) -> str:
        """The URL of the folder ``path``; ``""`` is the root."""
        return self.url + encode(path) + "/" if path else self.url

    def document(self, place: str) -> str:
        """The URL of a listing's document: a path below the root, or from the top of the site with a slash before."""
        return self.site + encode(place) if place.startswith("/") else self.of(place)

    def below(self, link: str, base: str) -> tuple[str, str] | None:
        """The path below the root that the ``link`` in the document ``base`` leads to, with its slash if it is a
        folder's, and the link's query; None if it leads elsewhere. Raises ``InvalidPath`` for an encoded slash, which
        would become a slash."""
        try:
            parts = urlsplit(urljoin(base, link))
            origin = origin_of(parts.scheme, parts.hostname, parts.port)
        except ValueError:
            return None
        path, top = decode(parts.path), decode(self.path)
        if origin != self.origin or not path.startswith(top):
            return None
        below = path[len(top) :]
        if below.count("/") != parts.path.count("/") - self.path.count("/"):
            raise InvalidPath(f"the server names {link[:200]!r}, and no path holds an encoded slash", backend="http")
        return below, parts.query


def origin_of(scheme: str, host: str | None, port: int | None) -> Origin:
    return scheme.lower(), (host or "").lower(), port or PORTS.get(scheme.lower(), 0)


def encode(path: str) -> str:
    return quote(path, safe=SEGMENT + "/", encoding="utf-8", errors="surrogateescape")


def decode(text: str) -> str:
    return unquote(text, encoding="utf-8", errors="surrogateescape")


def new_hidden() -> str:
    """The name of a temporary, which no listing shows. It tells when it was made: the server's time of a copy may be
    that of what was copied."""
    return f".omnistorage-{int(time.time()):08x}{urandom(8).hex()}.tmp"


def born(name: str) -> datetime:
    """When a temporary of this name was made, by its maker's clock."""
    found = _HIDDEN.fullmatch(name)
    return datetime.fromtimestamp(int(found[1], 16) if found else 0, UTC)


def is_hidden(name: str) -> bool:
    return _HIDDEN.fullmatch(name) is not None


def why_not(path: str) -> str | None:
    """Why no URL stands for the key ``path``. None if one does."""
    if ".omnistorage-" in path and any(map(is_hidden, path.split("/"))):
        return "this is the name of a temporary"
    if path.endswith("/"):
        return "a URL that ends in a slash is a folder's"
    if "." in path and "." in path.split("/"):
        return "a '.' segment is taken out of every URL, so this would be another name"
    try:
        sort_key(path)
    except UnicodeEncodeError:
        return "no URL holds this name: it is neither Unicode nor bytes escaped as surrogates"
    return None


def parse_root(url: str) -> tuple[Root, str | None, str | None, str]:
    """The root, and what else the URL says: user, password, query. Raises ``ConfigError``, which shows none of it."""
    try:
        parts = urlsplit(url)
        scheme, host, port = origin_of(parts.scheme, parts.hostname, parts.port)
        if not host.isascii():
            host = host.encode("idna").decode()
        path = parts.path.removeprefix("/").removesuffix("/")
        canonical = "/".join(quote(decode(s), safe=SEGMENT, errors="surrogateescape") for s in path.split("/"))
    except ValueError:
        raise ConfigError("root is a URL, http(s)://host/path/") from None
    server = f"[{host}]" if ":" in host else host
    if scheme not in PORTS or not is_server(server) or parts.fragment:
        raise ConfigError("root is a URL, http(s)://host/path/, without a fragment")
    if any(segment in (".", "..") for segment in decode(path).split("/")) or "\0" in decode(path):
        raise ConfigError("the root's path has no '.', '..' and NUL")
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return Root(scheme, host, port, f"/{canonical}/" if path else "/"), user, password, parts.query


def cleaned(url: str) -> str:
    """A redirect's target fit to be sent: no userinfo, no fragment, nothing that would have to be encoded."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    where = f"{host}:{parts.port}" if parts.port else host
    query = quote(parts.query, safe=SEGMENT + "/?%")
    return f"{parts.scheme}://{where}{quote(parts.path or '/', safe=SEGMENT + '/%')}" + (f"?{query}" if query else "")
