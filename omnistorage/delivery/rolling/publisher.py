"""Rolled objects on their way to publication: off the caller's thread, several at a time."""

from __future__ import annotations

import atexit
import sys
import threading
from collections import deque
from collections.abc import Callable

from omnistorage.concurrency.pools import forks
from omnistorage.core import Backend
from omnistorage.delivery.executor import CREW, Crew
from omnistorage.errors import CorruptData
from omnistorage.paths import join

from .manifest import Manifest
from .open_object import Committed, OpenObject

THREADS = 4
"""How many objects of one writer are published at once: each has threads of its own, so that a store that hangs holds
up nobody else."""
MAX_CLOSING = 16
"""How many rolled objects of one writer wait before it takes no new one."""

_busy: set[Commits] = set()
_watched = -1  # the process, counted in forks, whose end is waited for
_watching = threading.Lock()


def _finish() -> None:
    """What is under way or waits when the program ends is waited for, unless nobody waits for it any more. Daemon
    threads, because others would be joined, and a store that hangs would keep the program for ever."""
    while _busy and _watched == forks[0]:
        for commits in list(_busy):
            commits.wait()


def _watch() -> None:
    """Have the end of this process wait for ``_busy``."""
    global _watched
    with _watching:
        if _watched == forks[0]:
            return
        if _watched < 0:
            atexit.register(_finish)
        _busy.clear()  # those of the parent
        _watched = forks[0]
        util = sys.modules.get("multiprocessing.util")
        if util is not None:  # whose children end without ``atexit``
            util.Finalize(None, _finish, exitpriority=100)


class Commits:
    """Publishes the objects of one writer. Knows nothing of the writer, which can be collected meanwhile."""

    def __init__(
        self,
        publications: Publications,
        before: Callable[[int], None] | None = None,
        after: Callable[[], None] | None = None,
        *,
        crew: Crew = CREW,
    ) -> None:
        self._crew = crew
        self._publications = publications
        self._before = before
        self._after = after
        self._changed = threading.Condition()
        self._noting = threading.Lock()
        self._closing: set[OpenObject] = set()
        self._running = 0
        self._later: deque[list[OpenObject]] = deque()
        self._given_up = self._left = False
        self._tasks: deque[OpenObject] = deque()
        self._threads = 0
        self._lost: int | None = None  # the first sequence number that was not delivered and will not be
        self.error: BaseException | None = None
        self.untold = False  # whether the error came when the object was published already
        self.spoiled: CorruptData | None = None  # an object stays that the store has not kept as it was written
        self.objects = self.records = self.bytes = self.raw_bytes = 0

    def add(self, objects: list[OpenObject], *, in_order: bool) -> None:
        """Publish ``objects`` soon; ``in_order``: once all that came before is published. Never blocks."""
        _watch()
        with self._changed:
            self._closing.update(objects)
            if not self._left:
                _busy.add(self)
            if in_order and self._running:
                self._later.append(objects)
                return
            self._running += len(objects)
        self._start(objects)

    def _start(self, objects: list[OpenObject]) -> None:
        with self._changed:
            self._tasks.extend(objects)
            more = max(min(THREADS - self._threads, len(objects)), 0)
            self._threads += more
        for started in range(more):
            try:
                self._crew.publish(self._work)
            except RuntimeError:  # a dying interpreter starts no threads
                with self._changed:
                    self._threads -= more - started - 1
                self._work()
                return

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._tasks:
                    self._threads -= 1
                    return
                opened = self._tasks.popleft()
            self._run(opened)
            del opened

    def _run(self, opened: OpenObject) -> None:
        done = False
        try:
            if self._given_up or self.error is not None:
                opened.writer.abort()
            else:
                self._commit(opened)
                done = True
        except BaseException as error:  # handed to whoever uses the writer next
            self.error = self.error or error
        finally:
            with self._changed:
                self._closing.remove(opened)
                if not self._closing:
                    _busy.discard(self)
                if not done:
                    self.lose([opened.since])
                self._running -= 1
                following = self._later.popleft() if self._later and not self._running else []
                self._running += len(following)
                self._changed.notify_all()
            self._start(following)
            if self._after is not None:
                self._after()

    def _commit(self, opened: OpenObject) -> None:
        if self._before is not None:
            try:
                self._before(opened.last)
            except BaseException:
                opened.writer.abort()
                raise
        try:
            entry = opened.commit()
        finally:
            self.spoiled = self.spoiled or opened.sink.stays
        with self._noting:  # one at a time, so that a manifest stays whole
            self.objects += 1
            self.records += entry.records
            self.bytes += entry.bytes
            self.raw_bytes += entry.raw_bytes
            try:
                self._publications.note(entry)
            except BaseException:
                self.untold = True
                raise

    def found(self, path: str, entry: Callable[[], Committed]) -> None:
        """An earlier run has published ``path``; a kill may have kept it from noting so, which is done now."""
        with self._noting:
            if self._publications.missed(path):
                self._publications.note(entry())

    def lose(self, numbers: list[int]) -> None:
        """What begins at ``numbers`` will not be delivered: nothing from there on is durable, whatever else is."""
        with self._changed:
            self._lost = min([*numbers, *([] if self._lost is None else [self._lost])], default=None)

    def wait(self, at_most: int = 0) -> None:
        """Until no more than ``at_most`` objects wait to be published."""
        with self._changed:
            self._crew.until(self._changed, lambda: len(self._closing) <= at_most or self._left)

    def leave(self, error: BaseException) -> None:
        """Whoever waits goes on with ``error``, and nobody waits again, not even for the end of the program: the store
        hangs. What is being published right now still may be, whole."""
        with self._changed:
            self.error, self._left = self.error or error, True
            _busy.discard(self)
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many objects are not published yet."""
        return len(self._closing)

    @property
    def objects_left(self) -> list[OpenObject]:
        """The objects that are not published yet."""
        with self._changed:
            return list(self._closing)

    def pending(self) -> list[int]:
        """From where each of the objects that are not published would have to be replayed."""
        with self._changed:
            return [opened.since for opened in self._closing] + ([] if self._lost is None else [self._lost])

    def give_up(self) -> None:
        """Publish nothing more, and discard what waits."""
        self._given_up = True
        for opened in self.objects_left:
            opened.writer.abort()


class Publications:
    """What happens with each published object: first the manifest knows it, then the caller. Both know it by its path
    below ``prefix``, the place that was given as the target."""

    def __init__(
        self,
        backend: Backend,
        prefix: str,
        manifest: str | None,
        on_commit: Callable[[Committed], None] | None,
        *,
        durable: bool,
    ) -> None:
        self._below = len(prefix) + 1 if prefix else 0
        self._manifest = None if manifest is None else Manifest(backend, join(prefix, manifest), durable=durable)
        self._on_commit = on_commit

    def note(self, entry: Committed) -> None:
        entry = entry._replace(path=entry.path[self._below :])
        if self._manifest is not None:
            self._manifest.add(entry)
        if self._on_commit is not None:
            self._on_commit(entry)

    def missed(self, path: str) -> bool:
        """Whether the object at ``path``, which an earlier run has published, is not in the manifest."""
        return self._manifest is not None and path[self._below :] not in self._manifest.paths
