"""Stores that hang, for drains."""

from __future__ import annotations

import threading

from omnistorage import StorageError
from omnistorage.core import WRITE
from omnistorage.wrappers.base import Wrapper

from ..waiting import LIMIT

FAR = 3600.0


class Hangs(Wrapper):
    """A store that hangs where it is told to, until it is let go; ``heeds``: an abort frees what hangs."""

    def __init__(self, inner, where="close", *, paths="", heeds=False):
        super().__init__(inner)
        self.where, self.paths, self.heeds = where, paths, heeds
        self.inside, self.freed = threading.Event(), threading.Event()

    def open_writer(self, path, options=WRITE):
        writer = self.inner.open_writer(path, options)
        if self.paths in path:
            real, abort = getattr(writer, self.where), writer.abort

            def hang(*data):
                self.inside.set()
                self.freed.wait(2 * LIMIT)
                if self.heeds:
                    raise StorageError("given up")
                return real(*data)

            setattr(writer, self.where, hang)
            if self.heeds:
                writer.abort = lambda: (abort(), self.freed.set())
        return writer


class Beside:
    """``call()`` on another thread; ``result()`` is what it returned or raised."""

    def __init__(self, call):
        self.returned, self.raised = None, None
        self.thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self.thread.start()

    def _run(self, call):
        try:
            self.returned = call()
        except BaseException as error:
            self.raised = error

    def result(self):
        self.thread.join(LIMIT)  # what hangs here hangs for longer
        assert not self.thread.is_alive(), "it hangs"
        if self.raised is not None:
            raise self.raised
        return self.returned
