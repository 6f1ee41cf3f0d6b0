"""Goal 43: whoever takes URLs from strangers is not sent to the machine itself, its network, or anybody's
credentials."""

import ipaddress
import json
import random
import socket

import pytest

from omnistorage import ops
from omnistorage.backends.http import HTTPBackend
from omnistorage.backends.http.network import why_blocked
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.errors import BackendUnavailable, ConfigError, PermissionDenied, StorageError

from ..servers import server
from .http_places import Ours

PRIVATE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "febf::1", "fc00::1", "fd12::1",
    "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1",
    "2001:0:7f00:1::", "192.0.0.8", "192.0.0.192", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1",
    "168.63.129.16", "::ffff:192.0.0.192", "100::1", "100:0:0:1::1", "2001:2::1", "2001:10::1", "2001:20::1",
    "2620:4f:8000::1", "3fff::1", "5f00::1", "4000::1", "8000::1", "200::1", "2002:808:808::1", "2001:0:808:808::",
    "::808:808",
]  # fmt: skip
"""One of each range of IANA's registries of special-purpose addresses, and other ways to write some of them."""
PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
SPELLED = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "0", "[::1]",
    "[::]", "[::ffff:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:1]", "localhost", "LOCALHOST", "localhost.",
    "169.254.169.254", "0xa9fea9fe",
]  # fmt: skip
"""Ways to write addresses in a URL; the system reads them all."""


@pytest.mark.parametrize("address", PRIVATE)
def test_goal_43_an_address_that_is_not_of_the_public_internet_is_blocked(address):
    assert why_blocked(address)


def test_goal_43_addresses_of_the_public_internet_are_not():
    assert [address for address in PUBLIC if why_blocked(address)] == []
    rng = random.Random(1)
    addresses = [str(ipaddress.ip_address(rng.getrandbits(32))) for _ in range(10_000)]
    assert [one for one in addresses if not why_blocked(one) and not ipaddress.ip_address(one).is_global] == []
    assert why_blocked("no address")


class Net:
    """A little internet: names that lead to public addresses, behind which our own server listens."""

    def __init__(self, **names):
        self.names = {
            name.replace("_", "."): [[found] if isinstance(found, str) else found] for name, found in names.items()
        }
        self.dialled = []

    def then(self, name, *answers):
        """``name`` has other addresses each time it is asked for; the last ones stay."""
        self.names[name] = list(answers)
        return self

    def resolve(self, host, port):
        if host not in self.names:
            return [row[4][0] for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        answers = self.names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def dial(self, address, port, timeout):
        self.dialled.append(address)
        return socket.create_connection(("127.0.0.1", server("range_server")["port"]), timeout)

    def open(self, root, **options):
        options = {"untrusted": True, "policy": RequestPolicy(retries=0), **options}
        return HTTPBackend(root, resolver=self.resolve, _dial=self.dial, **options)


@pytest.mark.parametrize("host", SPELLED)
def test_goal_43_however_an_address_is_written_it_is_seen(host):
    net = Net()
    with net.open(f"http://{host}/plain/") as backend, pytest.raises((PermissionDenied, BackendUnavailable)) as caught:
        backend.stat("x")
    assert isinstance(caught.value, PermissionDenied) or "resolve" in str(caught.value)
    assert net.dialled == []
    with HTTPBackend(f"http://{host}/", untrusted=True, policy=RequestPolicy(retries=0)) as real:
        with pytest.raises((PermissionDenied, BackendUnavailable)) as caught:
            real.stat("x")
        assert isinstance(caught.value, PermissionDenied) or "resolve" in str(caught.value), "the system's own resolver"


@pytest.mark.parametrize("address", [*PRIVATE, ["93.184.216.34", "10.0.0.1"]])
def test_goal_43_a_name_that_leads_there_is_blocked_even_beside_a_good_address(address):
    net = Net(evil_example=address)
    with net.open("http://evil.example/plain/") as backend:
        for call in (backend.stat, backend.exists, backend.open_reader):
            with pytest.raises(PermissionDenied, match="untrusted mode"):
                call("x")
    assert net.dialled == []


@pytest.mark.parametrize("target", [f"http://{host}/plain/x" for host in SPELLED] + ["http://inside.example/plain/x"])
def test_goal_43_a_redirect_that_leads_there_is_blocked(target):
    net = Net(good_example="93.184.216.34", inside_example="10.1.2.3")
    with net.open("http://good.example/to/302/") as backend, pytest.raises((PermissionDenied, BackendUnavailable)):
        backend.stat(target)
    assert set(net.dialled) == {"93.184.216.34"}


@pytest.mark.parametrize(
    "scheme", ["file:///etc/passwd", "ftp://h/x", "gopher://h/x", "data:,x", "javascript:x", "https:", "x:"]
)
def test_goal_43_only_http_and_https_are_followed(scheme):
    net = Net(good_example="93.184.216.34")
    with net.open("http://good.example/to/302/") as backend, pytest.raises(StorageError) as caught:
        backend.stat(scheme)
    assert isinstance(caught.value, PermissionDenied), caught.value
    assert len(net.dialled) == 1


def test_goal_43_a_name_whose_address_changes_is_looked_at_each_time_it_is_connected_to():
    place = Ours()
    place.put("x", b"1")
    place.backend.close()
    net = Net().then("evil.example", ["93.184.216.34"], ["127.0.0.1"])
    with net.open(f"http://evil.example/plain/{place.prefix}") as backend:
        assert ops.read_bytes(backend, "x") == b"1"
        backend.client.close()  # so that the next request connects anew
        with pytest.raises(PermissionDenied):
            backend.stat("x")
    assert net.dialled == ["93.184.216.34"], "what was looked at is what was connected to, and the name stays in Host"


def test_goal_43_the_name_stays_in_the_request():
    net = Net(good_example="93.184.216.34")
    with net.open("http://good.example/echo/") as backend:
        assert json.loads(ops.read_bytes(backend, "x"))["Host"] == "good.example"


def test_goal_43_without_untrusted_mode_the_loopback_is_a_place_like_any_other():
    place = Ours()
    place.put("x", b"1")
    assert ops.read_bytes(place.backend, "x") == b"1"
    place.backend.close()
    with pytest.raises(ConfigError, match="proxy"):
        HTTPBackend("http://h/", untrusted=True, proxy="http://p:1")


# -- credentials -------------------------------------------------------------------------------------------------------

ELSEWHERE = [
    "http://other.example/echo/x", "http://good.example:81/echo/x", "http://sub.good.example/echo/x",
    "http://good.example.evil.example/echo/x", "http://good.example@other.example/echo/x", "//other.example/echo/x",
    "http://93.184.216.34/echo/x", "http://other.example/to/302/http://good.example/echo/x",
]  # fmt: skip
CREDENTIALS = [
    {"user": "me", "password": "canary"}, {"token": "canary"}, {"headers": {"Authorization": "canary"}},
    {"headers": {"X-Api-Key": "canary", "Cookie": "canary"}}, {"signature": "sig=canary"},
]  # fmt: skip


@pytest.mark.parametrize("target", ELSEWHERE)
@pytest.mark.parametrize("given", CREDENTIALS, ids=lambda given: "-".join(given))
def test_goal_43_credentials_never_leave_their_origin_and_do_not_come_back(target, given):
    names = ("good", "other", "sub.good", "good.example.evil")
    net = Net(**{f"{name}.example": "93.184.216.34" for name in names}, **{"93.184.216.34": "93.184.216.34"})
    with net.open("http://good.example/to/302/", **given) as backend, backend.open_reader(target) as reader:
        assert b"canary" not in reader.read()
    with net.open("http://good.example/echo/", **given) as backend:
        if "signature" not in given:
            told = ops.read_bytes(backend, "x")
            assert b"canary" in told or b"bWU6Y2FuYXJ5" in told, "and to their own origin they go"


def test_goal_43_a_redirect_within_the_origin_keeps_them():
    net = Net(good_example="93.184.216.34")
    with net.open("http://good.example/to/302/", token="canary") as backend:
        assert b"canary" in ops.read_bytes(backend, "http://good.example/echo/x")


def test_goal_43_a_redirect_from_https_to_http_is_refused_and_when_allowed_bare():
    """TLS itself is not what is asked here: the client is told that it has left https."""
    net = Net(good_example="93.184.216.34")
    for allowed in (False, True):
        with net.open("https://good.example/", token="canary", allow_downgrade=allowed) as backend:
            find = backend.client._next
            if allowed:
                assert (
                    find("GET", "https://good.example/x", "http://good.example/y", 1, follow=True)
                    == "http://good.example/y"
                )
            else:
                with pytest.raises(PermissionDenied, match="https to http"):
                    find("GET", "https://good.example/x", "http://good.example/y", 1, follow=True)
