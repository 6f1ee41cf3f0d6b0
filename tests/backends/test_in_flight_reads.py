"""What a call that was ended leaves to read: no gap, no rest that is taken for all, no connection that hangs."""

import socket
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest

from omnistorage import Cancelled, ObjectInfo
from omnistorage.backends.connections import Connections, _followed
from omnistorage.backends.streams import READ_BLOCK, ReaderBase
from omnistorage.concurrency.cancellation import CancelScope

from ..servers.stalling import Stalling
from ..waiting import LIMIT
from .test_in_flight import BODY, KINDS, ended
from .test_object_readers import TEXT, Client, Place

CLOSED = BODY + b"Content-Type: application/xml\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n"
SHORT = BODY + b"Content-Length: 1000\r\n\r\n"


@pytest.mark.parametrize("kind", ["s3-sdk", "gcs-sdk", "azure-sdk"])
def test_an_answer_on_a_connection_that_is_closed_behind_it_is_ended(kind):
    error, seconds = ended(kind, "list", head=CLOSED)
    assert isinstance(error, Cancelled)
    assert seconds < LIMIT


@pytest.mark.parametrize("kind", ["s3-sdk", "gcs-sdk", "azure-sdk", "http"])
def test_the_close_of_a_reader_is_ended(kind):
    scope = CancelScope()
    with Stalling(scope.cancel, SHORT) as server, KINDS[kind](server.port) as store, scope:
        with suppress(Cancelled):
            store.open_reader("x").close()
        assert scope.cancelled, "the rest of the body was read, to use the connection again"


@pytest.mark.parametrize("part", [8, 1000])
def test_a_read_that_was_ended_as_its_bytes_came_loses_none(part):
    client, scope = Client(TEXT), CancelScope()
    place = Place(client, part)
    reader = place.open_reader("x")
    start = reader.read(3)
    plain = place._policy.run

    def cut_off(op, call, **options):
        plain(op, call, **options)
        raise Cancelled("as when it was cut off at that moment")

    place._policy.run = cut_off
    with pytest.raises(Cancelled), scope:
        reader.read(3)
    place._policy.run = plain
    assert start + reader.read() == TEXT


class Endless(ReaderBase):
    """Counts its blocks, and cancels ``scope`` with the third."""

    scope, count = CancelScope(), 0

    def _read(self, size):
        self.count += 1
        if self.count == 3:
            self.scope.cancel()
        return bytes([self.count])


def test_after_a_whole_read_that_was_ended_no_rest_is_taken_for_all():
    reader = Endless(ObjectInfo("x"))
    with reader.scope, pytest.raises(Cancelled):
        reader.read()
    with pytest.raises(Cancelled):
        reader.read(READ_BLOCK)
    reader.close()


def test_a_connection_that_is_not_there_in_time_was_sent_nothing():
    from urllib3.exceptions import NewConnectionError

    scope, go = CancelScope(), threading.Event()

    class Slow:
        host, sock = "somewhere", None

        def connect(self):
            scope.cancel()
            go.wait(LIMIT)

        def close(self):
            pass

    connection = _followed(type("Pool", (), {"ConnectionCls": Slow}), {}, {}).ConnectionCls()
    with scope, pytest.raises(NewConnectionError):
        connection.connect()
    go.set()


def test_tls_inside_of_tls_is_cut_off():
    here, there = socket.socketpair()
    with here, there:
        connections = Connections()
        connections._in_use[threading.get_ident()] = SimpleNamespace(sock=SimpleNamespace(socket=here))
        connections.cut(threading.get_ident())
        assert there.recv(1) == b""
