"""One target of a write: what is still to be done there, in order, off the caller's thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Literal

from omnistorage.concurrency.cancellation import CancelScope, Waiter
from omnistorage.core import ObjectInfo, WriteOptions, Writer
from omnistorage.errors import (
    BackendUnavailable,
    StorageError,
)
from omnistorage.multi.common.failures import may_have_happened
from omnistorage.multi.common.outcomes import Outcome, State
from omnistorage.multi.common.scheduler import Crew, Stuck, Turn
from omnistorage.multi.common.tier import Place, told

Job = Callable[[Writer], object]


class Feed:
    """Does its jobs one after the other. After the first that fails the target's writer is aborted, and it is given no
    other. ``wake`` is set whenever something has changed."""

    def __init__(
        self,
        crew: Crew,
        wake: Waiter,
        place: Place,
        path: str,
        options: Callable[[], WriteOptions],
        stuck: Stuck,
    ) -> None:
        self.place = place
        self.path = path
        self.state: State | Literal["open", "prepared", "closing"] = "open"
        self.info: ObjectInfo | None = None
        self.error: BaseException | None = None
        self.waiting = 0  # jobs that are not done
        self.queued = 0  # and their bytes
        self.held_up = 0.0  # the seconds for which nobody but such as this one was waited for
        self._options = options
        self._stuck = stuck
        self._crew = crew
        self._wake = wake
        self._lock = threading.Lock()
        self._jobs: deque[tuple[Context, Job | None, int]] = deque()
        self._running = self._busy = False
        self._turn = Turn()
        self._scope = CancelScope()
        self._writer: Writer | None = None
        self._forgotten = False
        self._add(None)

    @property
    def idle(self) -> bool:
        """Whether all that it was given is done, and no thread holds on to it."""
        return not self.waiting and self._turn.over

    @property
    def live(self) -> bool:
        """Whether it still can commit."""
        return self.state in ("open", "prepared", "closing", "committed")

    def write(self, block: bytes) -> None:
        self._add(lambda writer: writer.write(block), len(block))

    def flush(self) -> None:
        self._add(lambda writer: writer.flush())

    def prepare(self) -> None:
        def prepare(writer: Writer) -> None:
            writer.prepare()
            self._becomes("prepared")

        self._add(prepare)

    def close(self, verify: Callable[[ObjectInfo], None]) -> None:
        """Publish; ``verify`` raises if what the target says of it is not what was written."""

        def close(writer: Writer) -> None:
            info = writer.close()
            verify(info)
            self.info = info
            self._becomes("committed")

        self._becomes("closing")
        self._add(close)

    def _becomes(self, state: Literal["prepared", "closing", "committed"]) -> None:
        with self._lock:
            if self.live:
                self.state = state

    def _add(self, job: Job | None, size: int = 0) -> None:
        with self._lock:
            if not self.live:
                return
            self._jobs.append((copy_context(), job, size))  # its own: the thread goes on from one to the next
            self.waiting += 1
            self.queued += size
            start, self._running = not self._running, True
        if start:
            self._turn = self._crew.start(self._step, self._wake)

    def _step(self) -> bool:
        with self._lock:
            if not self._jobs:
                self._running = False
                return False
            context, job, size = self._jobs.popleft()
            self._busy = True
        try:
            context.run(self._do, job)
        except BaseException as error:  # told to whoever waits for it
            self._busy = False
            self.give_up(error)
        self._busy = False
        with self._lock:
            self.waiting -= 1
            self.queued -= size
        if self._forgotten and self._writer is not None:
            _abort(self._writer)
        self._wake.set()
        return True

    def _do(self, job: Job | None) -> None:
        with self._scope:
            if job is None:
                self._open()
            elif self._writer is not None:
                job(self._writer)

    def _open(self) -> None:
        self._stuck.check(self.place.name, self.path)
        writer = self.place.backend.open_writer(self.path, self._options())
        with self._lock:
            if self.live:
                self._writer = writer
                return
        writer.abort()  # nobody waited for it

    def give_up(self, error: BaseException | None = None, *, wait: bool = True) -> None:
        """It failed, or is not needed any longer. What it is in the middle of is cancelled; what it has published stays
        published. ``wait`` until its writer is aborted, or leave that to another thread."""
        with self._lock:
            if not self.live or self.state == "committed":
                return
            lost = self.state == "closing" and may_have_happened(error)
            self.error = None if error is None else told(error, self.place)  # first: who waits looks at the state
            self.state = "unknown" if lost else "aborted" if error is None else "failed"
            for _, _, size in self._jobs:
                self.waiting -= 1
                self.queued -= size
            self._jobs.clear()
            writer, busy = self._writer, self._busy
        if busy:
            self._stuck.add(self.place.name, self.path if lost else None, self._turn)
        self._scope.cancel()
        self._wake.set()
        if writer is None:
            return
        if wait:
            _abort(writer)
        else:
            self._crew.start(lambda: _abort(writer), self._wake)

    def drop(self, seconds: float) -> None:
        """It takes too long, and nobody waits for its end."""
        why = f"given up: it held the others up for more than {seconds:g} s"
        self.give_up(BackendUnavailable(why, path=self.path, backend=self.place.backend.name), wait=False)

    def forget(self) -> None:
        """The handle was dropped. No lock, no I/O: the target's own writer discards itself."""
        self._forgotten = True
        self._jobs.clear()
        if self.state != "committed":
            self.state = "aborted"

    def outcome(self, sha256: str | None) -> Outcome:
        state: State = self.state if self.state in ("committed", "failed", "unknown") else "aborted"
        info = None if self.info is None else self.place.out(self.info)
        return Outcome(self.place.name, state, info, self.error, self.path, sha256)


def _abort(writer: Writer) -> bool:
    try:
        writer.abort()
    except StorageError:
        pass  # what made us abort is the error to see
    return False
