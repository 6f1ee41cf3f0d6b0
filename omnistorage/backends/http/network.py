"""Connections of the HTTP backend: which addresses they may lead to, and what they are made of.

Whoever takes URLs from strangers must not be sent to the machine itself, its network or a cloud's metadata service: in
``untrusted`` mode a name is resolved once, every address it has is looked at, and the connection goes to an address
that was looked at. The name stays in ``Host`` and in the TLS handshake. What is decided about is the address, so that
``127.1``, ``0x7f000001``, ``::ffff:127.0.0.1``, a redirect and a name whose address changes meet the same rule.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any

from omnistorage.backends.connections import Connections
from omnistorage.errors import ConfigError, MissingExtra

from .settings import NAME, Settings

Resolver = Callable[[str, int], Iterable[str]]
Dial = Callable[[str, int, Any], socket.socket]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL = ipaddress.ip_network("2000::/3")  # all that was ever handed out (RFC 4291, 2.4)
_SPECIAL = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "unspecified": ("0.0.0.0/8", "::/128"),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "private": (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10", "64:ff9b:1::/48",
    ),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "reserved": (
        "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "100::/64", "100:0:0:1::/64", "2001::/23",
        "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "5f00::/16",
    ),
    "a service of Azure": ("168.63.129.16/32",),
}  # fmt: skip
"""The special-purpose address registries of IANA (RFC 6890), what is no unicast address, and one of a cloud: each
Python knows other ones."""
_NETWORKS = [(why, ipaddress.ip_network(text)) for why, texts in _SPECIAL.items() for text in texts]


class Blocked(Exception):
    """A name leads to an address that ``untrusted`` mode does not connect to."""


def resolve(host: str, port: int) -> list[str]:
    """All addresses of ``host``, as the system finds them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in found))


def dial(address: str, port: int, timeout: Any) -> socket.socket:
    """A connection to ``address``, which is no name."""
    return socket.create_connection((address, port), timeout)


def why_blocked(address: str) -> str | None:
    """Why an address is not one of the public internet. None if it is."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "not an address"
    inner = _embedded(ip) if isinstance(ip, ipaddress.IPv6Address) else None
    if inner is not None:
        why = why_blocked(str(inner))
        return why and f"{why}, inside an IPv6 address"
    why = next((why for why, network in _NETWORKS if ip in network), None)
    if why is None and isinstance(ip, ipaddress.IPv6Address) and ip not in _GLOBAL:
        why = "reserved"
    return why


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to ``ip`` end up at, of a kind of address that networks of today use."""
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped


def checked_addresses(host: str, port: int, resolver: Resolver, *, untrusted: bool) -> list[str]:
    """The addresses to connect to. One bad address among good ones refuses the name: it would be the next to be
    used."""
    found = list(resolver(host, port))
    if not found:
        raise OSError(f"the name {host!r} has no address")
    if untrusted:
        for address in found:
            why = why_blocked(address.partition("%")[0])
            if why is not None:
                raise Blocked(f"{host!r} leads to {address}, which is {why}")
    return found


def make_manager(settings: Settings, dialling: Dial, connections: Connections) -> Any:
    """A pool manager of urllib3 which resolves and connects by the rules above, retries nothing itself, and notes its
    connections in ``connections``."""
    try:
        import urllib3
    except ImportError as error:
        raise MissingExtra(
            'the http backend needs urllib3: pip install "omnistorage[http]"', extra="http", backend=NAME
        ) from error
    options: dict[str, Any] = {
        "num_pools": 16,
        "maxsize": settings.connections,
        "block": False,
        "blocksize": 65536,
        "timeout": urllib3.Timeout(connect=settings.connect_timeout, read=settings.read_timeout),
        "cert_reqs": "CERT_REQUIRED" if settings.verify else "CERT_NONE",
    }
    if settings.ca_file is not None:
        options["ca_certs"] = settings.ca_file
    if settings.proxy is not None:
        return connections.follow(_through_proxy(urllib3, settings.proxy.reveal(), options))

    def connected(connection: Any) -> socket.socket:
        return _connected(connection, settings, dialling)

    return connections.follow(urllib3.PoolManager(**options), {"_new_conn": connected})


def _through_proxy(urllib3: Any, proxy: str, options: dict[str, Any]) -> Any:
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit(proxy)
        where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        headers = None
        if parts.username is not None:
            who = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = urllib3.make_headers(proxy_basic_auth=who)
        return urllib3.ProxyManager(where, proxy_headers=headers, **options)
    except (ValueError, urllib3.exceptions.HTTPError):
        raise ConfigError("proxy is a URL, http(s)://user:password@host:port") from None


def _connected(connection: Any, settings: Settings, dialling: Dial) -> socket.socket:
    """What urllib3 calls for the socket of a connection; its own errors say what went wrong."""
    from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

    host, port = connection._dns_host.strip("[]"), connection.port
    try:
        found = checked_addresses(host, port, settings.resolver or resolve, untrusted=settings.untrusted)
    except (OSError, UnicodeError) as error:
        raise NameResolutionError(connection.host, connection, error) from error  # type: ignore[arg-type]
    last: OSError | None = None
    for address in found:
        try:
            made = dialling(address, port, connection.timeout)
        except OSError as error:
            last = error
            continue
        for option in connection.socket_options or ():
            made.setsockopt(*option)
        return made
    if isinstance(last, TimeoutError):
        raise ConnectTimeoutError(connection, f"connecting to {host} took too long") from last
    raise NewConnectionError(connection, f"cannot connect to {host}: {last}") from last
