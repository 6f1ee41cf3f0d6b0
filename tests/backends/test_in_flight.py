"""A deadline and a cancelled scope end a call while a server lets it wait, also one that sends byte by byte.

The server itself ends the time of the call, once it has the request: by a clock that it turns on, or by cancelling.
The clients would wait for minutes.
"""

import threading
import time

import pytest

from omnistorage import (
    AzureBackend,
    Cancelled,
    DeadlineExceeded,
    GCSBackend,
    HTTPBackend,
    LocalBackend,
    MemoryBackend,
    OutcomeUnknown,
    S3Backend,
    SFTPBackend,
    SQLBlobBackend,
    WriteOptions,
)
from omnistorage.concurrency.cancellation import CancelScope, Clock, deadline, remaining
from omnistorage.concurrency.in_flight import GRACE, abandonable, taking_back, watched
from omnistorage.posix import OS

from ..servers.stalling import HEAD, Stalling
from ..waiting import LIMIT, until

PATIENCE = 4 * LIMIT
"""How long the clients would wait."""
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Turned(Clock):
    """Stands still until it is turned on."""

    time = 0.0

    def now(self):
        return self.time


def s3(port, client):
    return S3Backend(
        "bucket", endpoint_url=f"http://127.0.0.1:{port}", region="us-east-1", access_key="a", secret_key="b",
        client=client, checksums=False, read_timeout=PATIENCE, connect_timeout=PATIENCE,
    )  # fmt: skip


def gcs(port, client):
    return GCSBackend(
        "bucket", endpoint_url=f"http://127.0.0.1:{port}", anonymous=True, client=client, checksums=False,
        read_timeout=PATIENCE, connect_timeout=PATIENCE,
    )  # fmt: skip


def azure(port, client):
    return AzureBackend(
        "box", endpoint_url=f"http://127.0.0.1:{port}/me", account_name="me", account_key=KEY, client=client,
        checksums=False, read_timeout=PATIENCE, connect_timeout=PATIENCE,
    )  # fmt: skip


def http(port, **options):
    return HTTPBackend(f"http://127.0.0.1:{port}/", read_timeout=PATIENCE, connect_timeout=PATIENCE, **options)


def sftp(port):
    return SFTPBackend(
        "127.0.0.1", port=port, user="me", password="x", root="/", host_keys="first-use", agent=False,
        known_hosts="/nowhere", ssh_config="", timeout=PATIENCE, connect_timeout=PATIENCE,
    )  # fmt: skip


KINDS = {
    "s3-sdk": lambda port: s3(port, "sdk"),
    "s3-obstore": lambda port: s3(port, "obstore"),
    "gcs-sdk": lambda port: gcs(port, "sdk"),
    "azure-sdk": lambda port: azure(port, "sdk"),
    "azure-obstore": lambda port: azure(port, "obstore"),
    "http": http,
    "dav": lambda port: http(port, dav=True),
    "sftp": sftp,
    "postgres": lambda port: SQLBlobBackend(f"postgresql://me:x@127.0.0.1:{port}/db", timeout=PATIENCE),
    "mariadb": lambda port: SQLBlobBackend(f"mysql://me:x@127.0.0.1:{port}/db", timeout=PATIENCE),
}


def read(store):
    with store.open_reader("x") as reader:
        reader.read()


def write(store):
    with store.open_writer("x") as writer:
        writer.write(b"body")


CALLS = {
    "stat": lambda store: store.stat("x"),
    "list": lambda store: list(store.list()),
    "read": read,
    "write": write,
    "delete": lambda store: store.delete("x"),
}


BODY = (
    b'HTTP/1.1 200 OK\r\nETag: "0123456789abcdef0123456789abcdef"\r\nLast-Modified: Mon, 06 Jan 2020 00:00:00 GMT\r\n'
    b"x-amz-request-id: 1\r\nx-ms-request-id: 1\r\nx-goog-generation: 1\r\nx-goog-hash: crc32c=AAAAAA==\r\n"
    b"x-goog-stored-content-length: 1000000\r\nx-guploader-uploadid: 1\r\n"
)
PACKET = b"\xff\xff\xff\x00"  # the header of a packet of MySQL, of 16 MiB
LONG, UNFRAMED = BODY + b"Content-Length: 1000000\r\n\r\n", BODY + b"\r\n"


def ended(kind, call, *, head=HEAD, cancelled=True):
    """What ``call`` raises, and after how many seconds."""
    clock, scope = Turned(), CancelScope()

    def asked():
        if cancelled:
            scope.cancel()
        else:
            clock.time = 60.0

    if kind == "mariadb" and head:
        head = PACKET
    with Stalling(asked, head, greets=kind == "mariadb") as server, KINDS[kind](server.port) as store:
        began = time.monotonic()
        with pytest.raises((Cancelled, OutcomeUnknown)) as caught, deadline(30.0, clock), scope:
            CALLS[call](store)
    return caught.value, time.monotonic() - began


WAITS = [(kind, head) for kind in KINDS for head in (HEAD, b"") if not (kind == "postgres" and head)]


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "deadline"])
@pytest.mark.parametrize(
    ("kind", "head"), WAITS, ids=[f"{kind}-{'drips' if head else 'silent'}" for kind, head in WAITS]
)
def test_a_call_that_waits_for_its_server_is_ended(kind, head, cancelled):
    error, seconds = ended(kind, "stat", head=head, cancelled=cancelled)
    assert isinstance(error, DeadlineExceeded) is not cancelled
    assert seconds < LIMIT


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("sftp", "postgres", "mariadb")])
def test_a_body_that_comes_byte_by_byte_is_ended(kind):
    error, seconds = ended(kind, "read", head=LONG)
    assert isinstance(error, Cancelled)
    assert seconds < LIMIT


def test_a_body_without_a_length_that_is_cut_off_is_not_taken_for_a_whole_one():
    error, _ = ended("http", "read", head=UNFRAMED)
    assert isinstance(error, Cancelled)


OTHERS = {
    kind: ["list", "write", "delete"] for kind in KINDS if kind not in ("http", "sftp", "postgres", "mariadb")
} | {"sftp": ["write"], "postgres": ["write"], "mariadb": ["write"]}  # whose calls all wait for the same connection


@pytest.mark.parametrize(("kind", "call"), [(kind, call) for kind, calls in OTHERS.items() for call in calls])
def test_every_call_is_ended(kind, call):
    _, seconds = ended(kind, call, head=b"" if kind == "postgres" else HEAD)
    assert seconds < LIMIT


# -- what no server is asked for ---------------------------------------------------------------------------------------

MIB = 1 << 20


class Looks(Clock):
    """Counts how often somebody looks at the time, which it is."""

    looks = 0

    def now(self):
        self.looks += 1
        return self.looks


@pytest.fixture(params=["local", "memory"])
def here(request, tmp_path):
    return LocalBackend(tmp_path) if request.param == "local" else MemoryBackend()


def test_a_long_write_is_looked_at_between_its_mebibytes(here):
    with pytest.raises(DeadlineExceeded), here.open_writer("x") as writer, deadline(10, Looks()):
        writer.write(bytes(64 * MIB))
    assert not here.exists("x")


def test_a_memory_backend_looks_while_it_puts_an_object_together():
    store = MemoryBackend()
    writer = store.open_writer("x")
    for _ in range(64):
        writer.write(bytes(MIB))
    with pytest.raises(DeadlineExceeded), deadline(10, Looks()):
        writer.close()
    assert not store.exists("x")


@pytest.mark.parametrize("size", [-1, 64 * MIB])
def test_a_long_read_is_looked_at_between_its_mebibytes(here, size):
    with here.open_writer("x") as writer:
        writer.write(bytes(64 * MIB))
    with pytest.raises(DeadlineExceeded), here.open_reader("x") as reader, deadline(10, Looks()):
        while reader.read(size):
            pass


def test_a_long_copy_is_looked_at_between_its_mebibytes(tmp_path):
    store = LocalBackend(tmp_path)
    with store.open_writer("x") as writer:
        writer.write(bytes(64 * MIB))
    with pytest.raises(DeadlineExceeded), deadline(10, Looks()):
        store.copy("x", "y")
    assert [info.path for info in store.list()] == ["x"]


def test_a_long_listing_is_looked_at(here):
    for number in range(1000):
        here.open_writer(f"{number:04}").close()
    listing = here.list()
    with pytest.raises(DeadlineExceeded), deadline(0):
        list(listing)


def test_what_comes_after_a_system_call_that_nothing_ends_is_not_published(tmp_path):
    clock = Turned()

    class SlowDisk(OS):
        def fsync(self, fd):
            clock.time = 60.0

    store = LocalBackend(tmp_path, _os=SlowDisk())
    writer = store.open_writer("x", WriteOptions(durable=True))
    writer.write(b"body")
    with pytest.raises(DeadlineExceeded), deadline(30.0, clock):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_cut_off_late_does_not_touch_the_next_call():
    cuts = []
    with watched(lambda: cuts.append("outside of a scope")), CancelScope() as scope:
        scope.cancel()
        with pytest.raises(Cancelled), watched(lambda: cuts.append("inside")):
            until(lambda: "inside" in cuts)
    seen = len(cuts)
    with watched(lambda: cuts.append("the next call")):
        pass
    assert cuts == ["inside"] * seen


def test_what_was_left_alone_is_discarded_when_it_comes():
    scope, may_end, discarded = CancelScope(), threading.Event(), threading.Event()

    def call():
        scope.cancel()
        may_end.wait(LIMIT)
        return "late"

    with scope, pytest.raises(Cancelled):
        abandonable(call, lambda brought: discarded.set() if brought == "late" else None)
    assert not discarded.is_set()
    may_end.set()
    assert discarded.wait(LIMIT)


def test_what_was_begun_is_taken_back_after_a_cancellation_but_not_for_long():
    with CancelScope() as scope:
        scope.cancel()
        assert taking_back(remaining) == pytest.approx(GRACE, abs=GRACE)
    assert taking_back(remaining) is None


def test_a_long_purge_is_looked_at(tmp_path):
    store = LocalBackend(tmp_path)
    for number in range(1000):
        store.open_writer(f"folder/{number:04}").close()
    with pytest.raises(DeadlineExceeded), deadline(4, Looks()):
        store.purge("folder")
    assert 0 < len(list(store.list())) < 1000
