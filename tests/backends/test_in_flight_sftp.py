"""A call over SFTP that is ended leaves no object without its name, and waits for no other thread."""

import socket
import threading
from types import SimpleNamespace

import pytest

from omnistorage import Cancelled
from omnistorage.backends.sftp.connection import _PatientSocket
from omnistorage.backends.sftp.mutations import Attempt, Changes
from omnistorage.backends.sftp.protocol import RENAME, Session, Status
from omnistorage.concurrency.cancellation import CancelScope, check


class Files:
    """A session of a server that only renames. ``at`` is the rename after which the scope is cancelled."""

    def __init__(self, scope, at):
        self.names, self.scope, self.at, self.count = {b"/x": b"old", b"/new": b"new"}, scope, at, 0

    def call(self, kind, *parts, want=None):
        assert kind == RENAME
        old, new = (part[4:] for part in parts)
        if old not in self.names or new in self.names:
            raise Status(4, "failure")
        self.count += 1
        self.names[new] = self.names.pop(old)
        if self.count == self.at:
            self.scope.cancel()
        check()


@pytest.mark.parametrize(("at", "content"), [(1, b"old"), (2, b"new")])
def test_a_file_that_stepped_aside_comes_back_when_the_call_is_ended(monkeypatch, at, content):
    scope = CancelScope()
    files = Files(scope, at)
    monkeypatch.setattr(
        "omnistorage.backends.sftp.mutations.look",
        lambda _, name: SimpleNamespace(mode=0o100644) if name in files.names else None,
    )
    changes = SimpleNamespace(_remove_quietly=lambda session, name: session.names.pop(name))
    changes._step_back = lambda *given: Changes._step_back(changes, *given)
    with scope, pytest.raises(Cancelled):
        Changes._swap(changes, files, b"/new", b"/x", Attempt())
    assert files.names[b"/x"] == content
    assert len(files.names) == (2 if at == 1 else 1)


def test_waiting_for_another_thread_that_sends_is_ended():
    session = Session.__new__(Session)
    session._sending = threading.Lock()
    with session._sending, CancelScope() as scope, pytest.raises(Cancelled):
        threading.Timer(0, scope.cancel).start()
        session.send(RENAME)


def test_sending_to_a_peer_that_takes_no_more_is_ended():
    one, other = socket.socketpair()
    with other, _PatientSocket(one.family, one.type, one.proto, fileno=one.detach()) as patient:
        patient.settimeout(0.01)
        with pytest.raises(TimeoutError):
            while patient.send(bytes(1 << 16)):
                pass
        with CancelScope() as scope, pytest.raises(ConnectionAbortedError):
            scope.cancel()
            patient.send(b"more")
