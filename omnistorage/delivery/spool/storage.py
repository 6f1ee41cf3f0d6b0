"""The folder of an open spool: a ``SegmentLog``, the records gathered before it, and how much room is left.

Two locks: ``_taking`` guards the buffer and the numbers, ``_disk`` the log; who needs both takes them in this order.
"""

from __future__ import annotations

import copy
import errno
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from omnistorage.concurrency import cancellation
from omnistorage.delivery.executor import CREW, Crew
from omnistorage.delivery.timer import Timer
from omnistorage.errors import ConfigError, CorruptData, NotFound, StorageError, WriterClosed
from omnistorage.segments import ENTRY_HEAD, Cursor, Damage, SegmentLog

from .spool import Spool

GATHERED = 1 << 20
"""How many bytes of entries wait in memory, at most."""
RETRY = 1.0
"""After how many seconds a full disk is tried again, at most; the first time sooner."""
_NEVER = float("inf")
log = logging.getLogger(__name__)


def fresh(error: BaseException) -> BaseException:
    """``error`` to be kept, or to be raised once more: one that was raised holds on to all that it went through, an
    engine or the public handle among it."""
    try:
        made = copy.copy(error)
    except Exception:  # somebody else's, which cannot be made from its arguments
        return error.with_traceback(None)
    return made if type(made) is type(error) else error.with_traceback(None)


def is_full(error: BaseException) -> bool:
    """Whether the disk itself had no room. After a sync that failed nothing can be told of the log any more."""
    cause = error.__cause__
    full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    return full and getattr(error, "op", None) != "sync"


class Folder:
    """Takes entries (any thread), gives them to the one that delivers, and lets go of them once they are delivered.

    ``next`` is the number of the next entry; those below ``synced`` survive a power cut, those up to ``acked`` are
    delivered. ``wake`` is called when there is something to deliver. ``trouble`` is why the disk did not take what was
    gathered, ``broken`` what ended the delivery: it is raised by every call. ``starved``: the disk is full, so what is
    published now makes room, and the disk is tried again after ``pause`` seconds. ``lost`` entries were taken, and the
    disk had not taken them by the end, or the folder was removed with them: then ``removed`` is the error to raise.
    """

    def __init__(self, spool: Spool, start: int, timer: Timer, crew: Crew = CREW) -> None:
        self.spool, self.crew = spool, crew
        self.path = str(spool.folder)
        self.broken: BaseException | None = None
        self.removed: StorageError | None = None
        self.trouble: StorageError | None = None
        self.wake = threading.Event().set
        self.lost = 0
        self.starved, self.pause = False, 0.0
        self.late = False  # a tick found no thread: whoever delivers makes up for it
        self._timer = timer
        self._damage: dict[int, Damage] = {}
        self._each, self._most = spool.fsync == "record", spool.max_bytes
        self._taking, self._disk = threading.RLock(), threading.RLock()
        self._gathered: list[bytes] = []
        self._held = 0
        self._closed = self._shut = False
        self._due = _NEVER  # when the next tick comes
        self._settle_down()
        self._told: str | None = None  # what the log was last told of
        self._rooms: set[cancellation.Waiter] = set()
        settings: dict[str, Any] = {} if spool._os is None else {"_os": spool._os}
        assert spool.segment_bytes is not None
        self._log = SegmentLog(
            spool.folder,
            segment_bytes=spool.segment_bytes,
            fsync="seal",
            start=start,
            on_damage=self._damaged,
            **settings,
        )
        try:
            if self._log.acked is None and self._log.next == self._log.first == start:
                self._log.acknowledge(start - 1)
        except BaseException:
            self._log.close()
            raise
        if self._log.torn:
            log.warning(
                "spool %s: %d bytes behind entry %d were cut short, never acknowledged, and are gone",
                self.path, self._log.torn, self._log.next - 1,
            )  # fmt: skip
        self.acked = self._log.first - 1 if self._log.acked is None else self._log.acked
        self.next = self.synced = self._log.next
        self._size = self._log.size

    # -- taking --------------------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """How many records are in memory alone."""
        return len(self._gathered)

    def put(self, entry: bytes, wanted: int | None = None) -> int:
        """Add an entry and return its number. What raises has not taken it."""
        size = len(entry) + ENTRY_HEAD
        with self._taking:
            while True:
                held = self._held + size
                if held + self._size > self._most or held > GATHERED or self._shut:
                    self._make_room(size)
                number = self.next
                if wanted is not None and wanted != number:
                    raise ConfigError(f"a spool numbers records without gaps: {number} comes next, not {wanted}")
                self._gathered.append(entry)
                self._held += size
                self.next = number + 1
                if not self._each:
                    if self._due == _NEVER:
                        self._tick_later()
                    return number
                try:
                    self._sync_each(1)
                    return number
                except StorageError as error:
                    if not self._bears(error):
                        raise

    def put_many(self, entries: Sequence[bytes]) -> None:
        """Add entries, with one sync. Those before one that raises are taken."""
        with self._taking:
            while entries:
                size = sum(map(len, entries)) + ENTRY_HEAD * len(entries)
                if size <= GATHERED < self._held + size and not self._shut:
                    self._write_waiting()
                held, before = self._held + size, self.next
                if held + self._size > self._most or held > GATHERED or self._shut:
                    break
                self._gathered += entries
                self._held = held
                self.next += len(entries)
                if not self._each:
                    if self._due == _NEVER:
                        self._tick_later()
                    return
                try:
                    self._sync_each(len(entries))
                    return
                except StorageError as error:
                    entries = entries[self.next - before :]
                    if not self._bears(error):
                        raise
        for entry in entries:
            self.put(entry)

    def _sync_each(self, many: int) -> None:
        """``many`` entries, just gathered, into the log and onto the disk; what does not get there is not taken."""
        try:
            self._write_out()
            self.sync()
        except BaseException as error:
            left = min(many, len(self._gathered))
            del self._gathered[len(self._gathered) - left :]
            self.next -= left
            self._count_held()
            if is_full(error):
                self.sync()  # those before it
            raise
        if self._due == _NEVER:
            self._tick_later()

    def _count_held(self) -> None:
        self._held = sum(map(len, self._gathered)) + ENTRY_HEAD * len(self._gathered)

    def _write_waiting(self) -> None:
        """Everything gathered into the log, once the disk has room if ``block`` waits for that."""
        while True:
            try:
                return self._write_out()
            except StorageError as error:
                if not self._bears(error):
                    raise

    def _bears(self, error: StorageError) -> bool:
        """Wait until the disk may have room, where it had none and ``block`` waits for that. False: it is another error
        (which is not raised here, because what holds on to its own frame keeps the writer alive)."""
        if self.spool.when_full != "block" or self.broken is not None or not is_full(error):
            return False
        self.trouble = copy.copy(error)
        self._wait_for_room()
        self.check()
        return True

    def _tell(self) -> None:
        """Log what the trouble is. Called without a lock, as a handler may write here."""
        trouble = self.trouble  # a copy, which holds on to no frame, whoever keeps the message
        if trouble is not None and str(trouble) != self._told:
            self._told = str(trouble)
            waits = "; writes wait until there is room" if self.starved and self.spool.when_full == "block" else ""
            log.warning("spool %s: %s%s", self.path, trouble, waits)

    def _write_out(self) -> None:
        """Everything gathered into the log. What does not go in stays gathered."""
        with self._disk:
            self._append()
            if not self.starved:
                self.trouble = None

    def _append(self) -> None:
        """Everything gathered, in one write. On a disk that has no room for that what is delivered makes some; if that
        is not enough in parts, as far as it goes."""
        many = len(self._gathered)
        while self._gathered:
            before, part = self._log.next, self._gathered[:many]
            try:
                self._log.append_many(part)
                self._settle_down()
                many *= 2
            except StorageError as error:
                if not is_full(error):
                    raise
                self.starved = True
                self.wake()
                if not self._let_go_of_delivered():
                    if len(part) == 1:
                        self.pause = min(2 * self.pause, RETRY)
                        self._tick_later()
                        raise
                    many = len(part) // 2
            finally:
                del self._gathered[: self._log.next - before]
                self._count_held()
                self._size = self._log.size
                self.synced = max(self.synced, self._log.firsts[-1])

    def _settle_down(self) -> None:
        """The disk has room."""
        interval: Any = self.spool.fsync_interval
        self.starved, self.pause = False, min(interval, RETRY)

    def _let_go_of_delivered(self) -> bool:
        """Give back the room of all segments, if they have any and all is delivered."""
        if self.broken is not None or self._log.next != self.acked + 1:
            return False
        if not self._log.end and len(self._log.firsts) == 1:
            return False
        self._log.seal()
        self._log.drop_before(self._log.next)
        self._size = self._log.size
        return True

    def sync(self, upto: int | None = None) -> None:
        """What is in the log survives a power cut: all of it, or at least up to number ``upto``."""
        if upto is not None and upto < self.synced:
            return
        with self._disk:
            end = self._log.next
            if end > self.synced:
                try:
                    self._log.sync()
                except StorageError as error:
                    self.end(error)
                    raise
                self.synced = end

    def sync_all(self) -> None:
        """Every entry taken so far survives a power cut; on a full disk those that it has taken."""
        try:
            with self._taking:
                self._write_out()
        finally:
            self.sync()
            self.wake()

    def check_removed(self) -> None:
        """Raise ``NotFound`` if the folder was removed."""
        with self._disk:
            if self._log.is_removed():
                self.end(self._log.removal())
                self.check()

    def end(self, error: BaseException) -> None:
        """The delivery has ended with ``error``: whoever calls from now on gets it."""
        self.broken, self._shut = self.broken or fresh(error), True
        self._free()

    # -- from time to time ---------------------------------------------------------------------------------------------

    def _tick_later(self) -> None:
        interval: Any = self.spool.fsync_interval
        due = self._timer.now() + (self.pause if self.starved else interval)
        if due < self._due and not self._closed:
            self._due, ref = due, weakref.ref(self)
            self._timer.at(due, lambda: _tick(ref, due))

    def tick(self) -> None:
        """What was gathered goes into the log, and is synced if the time for that has come."""
        self.late = False
        with self._taking:
            self._due = _NEVER
            if self._closed:
                return
        try:
            try:
                with self._taking:
                    self._write_out()
            finally:
                if self.spool.fsync != "roll":
                    self.sync()
            if not self.starved:
                self._told = None
            self._free()  # the disk may have room again
        except StorageError as error:  # told by whoever writes or flushes next; the records stay gathered
            self.trouble = copy.copy(error)
            with self._taking:
                if self.broken is None:
                    self._tick_later()
            if not is_full(error):
                self._free()
        self.wake()
        self._tell()

    # -- room ----------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many bytes are spooled."""
        return self._size + self._held

    @property
    def pressed(self) -> bool:
        """Whether half of the room is taken."""
        return self.size > self.spool.max_bytes // 2

    def _make_room(self, size: int) -> None:
        """Called with ``_taking`` held, which is free while somebody waits."""
        self.check()
        self._write_waiting()
        self.wake()
        while self._size + size > self.spool.max_bytes:
            if self.spool.when_full == "raise":
                raise StorageError(
                    f"the spool is full: {self.size} of {self.spool.max_bytes} bytes wait for the store; write again "
                    "later, raise max_bytes, or have when_full='block' wait",
                    path=self.path, op="write", transient=True,
                )  # fmt: skip
            if self.spool.when_full == "block":
                self._wait_for_room(lambda: self._size + size > self.spool.max_bytes)
                self.check()
                self._write_waiting()  # what others gathered meanwhile
            else:
                self._drop(size)
                self.check()

    def _wait_for_room(self, lacks: Callable[[], bool] = lambda: True) -> None:
        room = cancellation.Waiter()
        self._rooms.add(room)
        try:
            if not self._shut and lacks():
                self._taking.release()
                try:
                    self._tell()
                    self.crew.wait(room, "write", self.path)
                finally:
                    self._taking.acquire()
        finally:
            self._rooms.discard(room)

    def _drop(self, size: int) -> None:
        """Drop the oldest segment; the one that is written to if it is alone."""
        with self._disk:
            if len(self._log.firsts) == 1:
                self._log.seal()
            self._acknowledge(self._log.firsts[1] - 1)

    def _free(self) -> None:
        for room in list(self._rooms):
            room.set()

    # -- delivering ----------------------------------------------------------------------------------------------------

    def cursor(self, number: int) -> Cursor:
        with self._disk:
            return self._log.cursor(number)

    def let_go(self, cursor: Cursor) -> None:
        with self._disk:
            cursor.close()

    def take(self, cursor: Cursor) -> tuple[int, list[bytes]]:
        """The number of the next entries, and these; see ``Cursor.take``."""
        with self._disk:
            return cursor.take()

    def acknowledge(self, number: int) -> None:
        """The entries up to ``number`` are delivered."""
        if number > self.acked:
            with self._disk:
                self._acknowledge(number)
        self._free()

    def _acknowledge(self, number: int) -> None:
        try:
            self._log.acknowledge(number)
        except NotFound as error:
            if not self._log.is_removed():
                raise
            self.end(error)  # what was delivered is counted all the same
        self.acked = max(self.acked, number)
        self._size = self._log.size

    def _damaged(self, damage: Damage) -> None:
        if self.spool.on_damage == "raise":
            raise CorruptData(
                f"{damage}; Spool(on_damage='skip') goes on without", path=damage.path, op="read", offset=damage.offset
            )
        if damage.first not in self._damage:
            log.warning("spool %s: %s", self.path, damage)
        self._damage[damage.first] = damage

    @property
    def damaged(self) -> int:
        """How many entries could not be read, as far as that is known. Damage that shows on opening may show again,
        whole or in part, when it is reached."""
        count = upto = 0
        for one in sorted(self._damage.values(), key=lambda one: one.first):
            count += max(0, one.last + 1 - max(one.first, upto))
            upto = max(upto, one.last + 1)
        return count

    # -- the end -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        if self.broken is not None:
            raise fresh(self.broken)
        if self._closed:
            raise WriterClosed("the spooled writer is closed", path=self.path, op="write")

    def stop_taking(self) -> None:
        """From here on ``put`` raises, also where it waits."""
        self._closed = self._shut = True
        self._free()

    def close(self) -> None:
        """Let go of the folder. If all is delivered, nothing but an empty segment stays."""
        self.stop_taking()
        trouble = ""
        with self._taking, self._disk:
            gathered = len(self._gathered)
            self.lost += gathered
            self.next -= gathered
            self._gathered, self._held = [], 0
            try:
                self._let_go_of_delivered()
            except StorageError as error:  # it stays, and is passed over next time
                trouble = str(error)
            self._count_if_removed()
            self._log.close()
        if self.removed is not None:
            log.error("spool %s: %s", self.path, self.removed)
        elif gathered:
            log.error(
                "spool %s: its disk did not take the last %d records, from number %d on: write them again%s",
                self.path, self.lost, self.next, f": {self.trouble}" if self.trouble else "",
            )  # fmt: skip
        if trouble:
            log.warning("spool %s: %s", self.path, trouble)

    def _count_if_removed(self) -> None:
        """Where the folder was removed nothing is left of what was not delivered."""
        if not self._log.is_removed():
            return
        acknowledged, first = max(0, self.synced - 1 - self.acked), self.acked + 1
        self.lost += self.next - first
        self.next = self.synced = first
        self._size = 0
        self.removed = NotFound(
            f"the folder of the spool was removed while a writer had it open: {acknowledged} acknowledged records are "
            f"lost; write them again, from number {first} on",
            path=self.path, op="close",
        )  # fmt: skip


def _tick(ref: weakref.ref[Folder], due: float) -> None:
    folder = ref()
    if folder is None or folder._due != due:  # another one came first
        return
    if not folder.crew.spawn(folder.tick):
        folder.late, folder._due = True, _NEVER
        folder.wake()
        folder._free()  # who delivers may be held up
