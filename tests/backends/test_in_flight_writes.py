"""A write that was ended is told as what it is: not sent, or perhaps done. Waiting for the work of others is ended."""

import threading
from contextlib import suppress

import pytest

from omnistorage import Cancelled, CopyOptions, HTTPBackend, ObjectInfo, OutcomeUnknown, WriteOptions
from omnistorage.backends.http.webdav import Moving
from omnistorage.backends.object_store.client import Upload
from omnistorage.backends.object_store.writer import Parts, conclude, new_put
from omnistorage.concurrency.cancellation import CancelScope
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.errors import BackendUnavailable, DeadlineExceeded

from ..waiting import LIMIT


class Store:
    """What a writer asks of its backend; ``at_run`` is done behind each request, ``at_part`` with each part."""

    name, part_size, concurrency, any_order, most_parts, conditional_uploads = "store", 8, 2, True, None, True

    def __init__(self, at_run=lambda: None, at_part=lambda: None):
        self.at_run, self.client = at_run, self
        self.at_part = at_part

    def run(self, op, path, call, **options):
        answer = call()
        self.at_run()
        return answer

    def put_part(self, upload, number, data):
        self.at_part()
        return str(number)

    def throttle(self, size):
        pass

    def translate(self, error):
        return None


PUT = new_put(WriteOptions(), "text/plain")


def late():
    raise DeadlineExceeded("the deadline has passed")


def test_a_publication_that_was_answered_as_it_was_cut_off_is_not_told_as_nothing():
    with pytest.raises(OutcomeUnknown):
        conclude(Store(late), "close", "x", "x", PUT, lambda: ObjectInfo("x"))


def test_a_publication_of_which_nothing_was_sent_is_not_unknown():
    def refused():
        raise BackendUnavailable("no connection", retry_after=0.0)

    class Late(Store):
        def run(self, op, path, call, **options):
            with suppress(BackendUnavailable):
                call()
            late()

    with pytest.raises(DeadlineExceeded):
        conclude(Late(), "close", "x", "x", PUT, refused)


@pytest.mark.parametrize("wait", ["join", "settle"])
def test_waiting_for_parts_that_were_sent_before_the_scope_is_ended(wait):
    begun, go = threading.Event(), threading.Event()

    def hang():
        begun.set()
        go.wait(LIMIT)

    parts = Parts(Store(at_part=hang), Upload("x", "id", PUT), "x")
    parts.put(b"part")
    assert begun.wait(LIMIT)
    with pytest.raises(Cancelled), CancelScope() as scope:
        scope.cancel()
        getattr(parts, wait)()
    go.set()
    parts.join()


def test_a_writer_behind_retries_is_not_unknown_if_it_was_ended_before_it_published():
    with pytest.raises(DeadlineExceeded):
        RequestPolicy().run("close", late, idempotent=False)


def test_a_move_of_webdav_that_was_answered_as_it_was_cut_off_is_unknown(monkeypatch):
    with HTTPBackend("http://127.0.0.1:1/", dav=True) as dav:
        monkeypatch.setattr(dav, "_target", lambda *given: ObjectInfo("x"))
        monkeypatch.setattr(dav, "_put_there", lambda *given: True)
        moving = Moving("close", dav, ObjectInfo("hidden"), "x", CopyOptions(), is_temporary=True)
        run = dav.policy.run

        def cut_off(op, call, **options):
            run(op, call, **options)
            late()

        monkeypatch.setattr(dav.policy, "run", cut_off)
        with pytest.raises(OutcomeUnknown):
            dav.rename(moving)
