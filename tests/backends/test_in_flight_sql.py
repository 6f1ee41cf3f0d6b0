"""A call of a database that is ended leaves it usable, and is told as what it is."""

import threading
from types import SimpleNamespace

import pytest

from omnistorage import Cancelled, SQLBlobBackend
from omnistorage.concurrency.cancellation import CancelScope

from ..waiting import LIMIT, until
from .test_in_flight import ended


def test_a_database_in_memory_goes_on_after_a_call_was_ended():
    with SQLBlobBackend("sqlite://") as store:
        with store.open_writer("x") as writer:
            writer.write(b"body")
        cuts, scope = [], CancelScope()

        def work(link):
            cancel, link._dialect = link._dialect, SimpleNamespace(cancel=cuts.append)
            scope.cancel()
            until(lambda: cuts)
            link._dialect = cancel

        with scope, pytest.raises(Cancelled):
            store._db.run("work", None, work)
        assert store.exists("x")


def test_waiting_for_a_database_that_is_set_up_is_ended(tmp_path):
    held, go = threading.Event(), threading.Event()
    with SQLBlobBackend(f"sqlite:///{tmp_path}/db") as store, CancelScope() as scope:

        def hold():
            with store._db._opening:
                held.set()
                go.wait(LIMIT)

        store._db.engine()
        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(LIMIT)
        threading.Timer(0, scope.cancel).start()
        with pytest.raises(Cancelled):
            store.exists("x")
        go.set()
        thread.join(LIMIT)


def test_a_write_that_never_reached_the_database_is_not_unknown():
    error, _ = ended("postgres", "write", head=b"")
    assert isinstance(error, Cancelled)
