"""Objects by their URLs: any HTTP server to read from, a WebDAV server to write to.

Wire, pages and WebDAV stand in the ``_http_*`` modules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import Features, Purge, StaleUploads
from omnistorage.core.secret import Secret
from omnistorage.errors import CapabilityNotSupported, ConfigError

from .network import Dial, dial
from .reader import check_positive
from .responses import HASHES
from .settings import NAME, Settings, checked_headers
from .urls import decode, parse_root
from .webdav_collections import Folders

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_READ = Features(
    read=True, stat=True, range_read=True, lazy_read=True, hashes=HASHES, modified_precision=timedelta(seconds=1)
)
_WRITE: dict[str, Any] = {
    "write": True,
    "delete": True,
    "copy": True,
    "move": True,
    "atomic_write": True,
    "purge": True,
}
LISTINGS = ("index", "sitemap", "manifest")


class HTTPBackend(Folders):
    """What lies below the URL ``root``: ``http(s)://host/path/``. Read-only, unless ``dav=True`` says that it is
    WebDAV.

    ``user`` and ``password``, or a bearer ``token``, ``headers`` and the ``signature`` (the query of a signed URL, put
    behind every URL; urllib3 logs URLs at DEBUG) go to the root's own origin and to no other, wherever redirects lead.
    A redirect from https to http is refused unless ``allow_downgrade=True``. ``untrusted=True`` connects to addresses
    of the public internet alone (see ``network``); ``resolver(host, port)`` finds the addresses of a name instead of
    the system. ``proxy`` is ``http(s)://user:password@host:port``; the environment is not asked for one. ``ca_file``
    holds the certificates to believe; ``verify=False`` believes any, and the ``repr`` says so.

    HTTP has no listing. ``listing="index"`` reads the page that the server makes of each folder (nginx, Apache; of one
    in HTML only names and exact sizes are believed, and a folder with a page of its own cannot be listed),
    ``"sitemap"`` and ``"manifest"`` read the document ``listing_path`` (below the root, or from the top of the site
    with a slash before it). Without one, ``list`` is off.

    Ranges: a server that ignores them is read from the beginning, up to 16 MiB before the offset. A body that comes in
    a coding nobody asked for is refused, unless the name says the same (``.gz``); ``encoded="raw"`` takes the bytes as
    they come. A digest that the server sends (``Repr-Digest``, ``Digest``, ``Content-MD5``) is held against a body that
    is read whole. A broken body goes on only where the server tells versions apart. A body without any length or
    framing ends where the connection ends; a listing of that kind is refused. Several ranges are read of one version,
    which takes a server that tells versions apart. A redirect that only adds a slash means a folder.

    WebDAV: a write costs a PUT, a look at its place, a MOVE, and a look whether that moved something; ``close`` knows
    neither time nor etag. A MOVE onto an existing object is what the server makes of it: RFC 4918 lets it delete the
    old one first, so for a moment there may be none (``atomic_move`` is off), but never a part of one.
    ``overwrite=False`` and ``if_match`` are refused unless ``conditional_writes=True`` says that the server keeps
    ``Overwrite: F``, ``If`` and ``If-Match`` without a race. Names with ``?`` or ``;`` cannot be made. With
    ``listing="index"`` the server is never asked by PROPFIND (nginx has none): folders cannot be made or removed by
    themselves then, since such pages hide names that begin with a dot.
    """

    name = NAME

    def __init__(
        self,
        root: str,
        *,
        user: str | None = None,
        password: str | Secret | None = None,
        token: str | Secret | None = None,
        headers: Mapping[str, str | Secret] | None = None,
        signature: str | Secret | None = None,
        listing: str | None = None,
        listing_path: str | None = None,
        dav: bool = False,
        conditional_writes: bool = False,
        untrusted: bool = False,
        resolver: Callable[[str, int], Iterable[str]] | None = None,
        allow_downgrade: bool = False,
        max_redirects: int = 5,
        encoded: str = "refuse",
        proxy: str | Secret | None = None,
        ca_file: str | None = None,
        verify: bool = True,
        connections: int = 8,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        policy: RequestPolicy | None = None,
        _dial: Dial = dial,
    ) -> None:
        if not isinstance(root, str):
            raise ConfigError(f"root is a URL, not {type(root).__name__}")
        place, named, secret, asked = parse_root(root)
        if user is None and named is not None:
            user, password = named, secret
        signature = asked if signature is None and asked else signature
        given: dict[str, Any] = {
            "root": place.url, "user": user, "password": _secret(password), "token": _secret(token),
            "signature": _secret(signature), "proxy": _secret(proxy), "listing": listing, "listing_path": listing_path,
            "dav": dav, "conditional_writes": conditional_writes, "untrusted": untrusted,
            "resolver": resolver, "allow_downgrade": allow_downgrade, "max_redirects": max_redirects,
            "encoded": encoded, "ca_file": ca_file, "verify": verify, "connections": connections,
            "connect_timeout": connect_timeout, "read_timeout": read_timeout, "policy": policy,
        }  # fmt: skip
        authorized = user is not None or token is not None
        given["headers"] = checked_headers(headers, authorized=authorized) or None
        _check(given)
        check_positive(connections=connections, connect_timeout=connect_timeout, read_timeout=read_timeout)
        self._options = {name: value for name, value in given.items() if value is not None}
        self._settings = Settings(
            place, given["signature"], user, given["password"], given["token"], given["headers"] or {}, given["proxy"],
            ca_file, verify, untrusted, resolver, allow_downgrade, max_redirects, connect_timeout, read_timeout,
            connections, encoded,
        )  # fmt: skip
        self._dial = _dial
        self.policy = policy or RequestPolicy()
        self.listing, self.listing_path = listing, listing_path or "sitemap.xml"
        self.webdav, self.conditional_writes = dav, conditional_writes
        self.url = place.url
        self.features = _features(listing, dav, conditional_writes)
        self._leftovers, self._live = deque(), set()
        self._begin()

    takes_query = True
    not_from_urls = frozenset({"verify", "allow_downgrade", "untrusted", "proxy", "ca_file", "max_redirects"})
    not_from_untrusted_urls = frozenset({"connections", "connect_timeout", "read_timeout"})

    @classmethod
    def options_from_url(cls, parts: SplitResult, *, is_object: bool) -> tuple[dict[str, Any], str]:
        """``https://host/a/b`` names the object ``b``, ``https://host/a/`` a root. The query belongs to the server;
        options stand behind a ``#``: ``https://host/a/#dav=true``."""
        root, left = parts._replace(fragment="", query=""), ""
        options: dict[str, Any] = {}
        if parts.query:
            options["signature"] = Secret(parts.query)
        if is_object:
            above, _, last = parts.path.rpartition("/")
            left = decode(last)
            if "/" in left:
                raise ConfigError("'%2F' in an object's name would be another name: make it a part of the root")
            root = root._replace(path=above + "/")
        if parts.username is not None:
            place, user, password, _ = parse_root(root.geturl())
            return {**options, "root": place.url, "user": user, "password": _secret(password)}, left
        return {**options, "root": root.geturl()}, left

    def __repr__(self) -> str:
        more = ", dav=True" * self.webdav + ", untrusted=True" * self._settings.untrusted
        return f"HTTPBackend({self.url!r}{more}{'' if self._settings.verify else ', verify=False'})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self._options)

    def power_of(self, kind: Any) -> Any:
        """This backend as a holder of the power ``kind``; those that change something come with ``dav=True``."""
        if not isinstance(self, kind) or (kind is Purge and not self.webdav):
            return None
        return None if kind is StaleUploads and not self._propfind else self

    def _refuse(self, capability: str, op: str, path: str) -> Any:
        hints = {
            "list": "HTTP has no listing: say listing='index', 'sitemap' or 'manifest', or dav=True for WebDAV",
            "write": "over HTTP there is only reading: dav=True writes to a WebDAV server",
            "create_only": "this server is not known to keep overwrite=False: if it does, say conditional_writes=True",
            "if_match": "this server is not known to keep if_match: if it does, say conditional_writes=True",
        }
        if capability not in hints or (capability in ("create_only", "if_match") and not self.webdav):
            super()._refuse(capability, op, path)
        raise CapabilityNotSupported(hints[capability], capability=capability, backend=NAME, op=op, path=path)


def _check(given: Mapping[str, Any]) -> None:
    """Refuse what could not work, or would be ignored."""
    if given["listing"] is not None and given["listing"] not in LISTINGS:
        raise ConfigError(f"listing={given['listing']!r}: use one of {', '.join(LISTINGS)}")
    if given["listing_path"] is not None and given["listing"] not in ("sitemap", "manifest"):
        raise ConfigError("listing_path is the place of a sitemap or a manifest: say which by listing=")
    if given["listing"] == "manifest" and not given["listing_path"]:
        raise ConfigError("listing='manifest' needs listing_path, the place of the manifest")
    if given["dav"] and given["listing"] in ("sitemap", "manifest"):
        raise ConfigError("a sitemap or a manifest does not follow what is written: dav=True lists by itself")
    if given["conditional_writes"] and not given["dav"]:
        raise ConfigError("conditional_writes speaks of writing: it needs dav=True")
    if given["encoded"] not in ("refuse", "raw"):
        raise ConfigError(f"encoded={given['encoded']!r}: use refuse or raw")
    if given["user"] is not None and given["token"] is not None:
        raise ConfigError("user and token are two ways to say who you are: choose one")
    if given["password"] is not None and given["user"] is None:
        raise ConfigError("a password needs a user")
    if given["user"] is not None and ":" in given["user"]:
        raise ConfigError("a user's name has no colon (RFC 7617)")
    if given["proxy"] is not None and (given["untrusted"] or given["resolver"] is not None):
        raise ConfigError("behind a proxy nobody knows where a name leads: no untrusted and no resolver with a proxy")
    if type(given["max_redirects"]) is not int or given["max_redirects"] < 0:
        raise ConfigError("max_redirects is a number from 0 up")


def _features(listing: str | None, dav: bool, conditional: bool) -> Features:
    walked = dav or listing == "index"
    found = replace(_READ, list=walked or listing is not None, sorted_list=walked, list_seek=walked)
    if not dav:
        return found
    return replace(found, **_WRITE, dirs=listing is None, create_only=conditional, if_match=conditional)


def _secret(value: str | Secret | None) -> Secret | None:
    return Secret(value) if isinstance(value, str) else value


def _again(cls: type[HTTPBackend], options: dict[str, Any]) -> HTTPBackend:
    return cls(**options)
