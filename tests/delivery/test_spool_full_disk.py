"""The spool's own disk is full: the writing thread waits, and delivered records make room."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import pathlib
import sys
import threading
from contextlib import nullcontext, suppress

import pytest

from omnistorage import MemoryBackend, StorageError, WriterClosed
from omnistorage.concurrency.cancellation import CancelScope, deadline
from omnistorage.core import WRITE
from omnistorage.delivery.executor import Crew
from omnistorage.errors import DeadlineExceeded
from omnistorage.segments import examine
from omnistorage.testing.os_faults import FaultyOS
from omnistorage.wrappers.base import Wrapper

from ..waiting import LIMIT, until
from .conftest import Down, ManualTimer, contents, numbers
from .spooling import spooled

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/fd is Linux's")
RECORDS = [{"n": n, "pad": "x" * 1000} for n in range(1500)]


class Small(FaultyOS):
    """A disk that has room for so many bytes of segments, also those that are deleted and open. ``slots``: what is
    acknowledged needs room too."""

    def __init__(self, room, *, slots=False):
        super().__init__(error=None)
        self.room, self.slots, self.refused = room, slots, 0
        self.written = self.unlinks = 0
        self.patience = float("inf")  # after so many refusals it has room

    def _call(self, name, real, args, kwargs):
        counts = name == "write" and (self.slots or fcntl.fcntl(args[0], fcntl.F_GETFL) & os.O_APPEND)
        full = counts and self.refused < self.patience and self._taken(args[0]) + len(args[1]) > self.room
        if full or (name == "unlink" and self.unlinks):
            self.refused += full
            self.unlinks -= name == "unlink"
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.written += name == "write"
        return super()._call(name, real, args, kwargs)

    def _taken(self, fd):
        folder, sizes = os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")), {}
        for place in [*pathlib.Path(folder).glob("*.seg"), *pathlib.Path("/proc/self/fd").iterdir()]:
            with suppress(FileNotFoundError):
                if place.suffix == ".seg" or (os.readlink(place).startswith(folder) and ".seg" in os.readlink(place)):
                    sizes[place.stat().st_ino] = place.stat().st_size
        return sum(sizes.values())


class Inline(Crew):
    """Runs a short task at once, in the thread that asks for it. While ``busy``, the crew takes no tasks."""

    busy = False

    def spawn(self, task):
        if not self.busy:
            task()
        return not self.busy


class Turning(Inline):
    """Advances the clock only while a thread waits, and only after the ``store`` holds number 0."""

    def __init__(self, timer, store):
        self.timer, self.store = timer, store

    def wait(self, wake, op, path=None):
        until(lambda: wake.is_set() or numbers(self.store) == [0])
        while not wake.is_set():
            self.timer.advance(0.01)


def write_all(writer, records, many):
    if many:
        assert writer.write_many(records) == len(records)
    else:
        for record in records:
            writer.write(record)


@pytest.mark.parametrize("fsync", ["record", "interval"])
@pytest.mark.parametrize("many", [False, True])
def test_where_the_disk_is_full_who_writes_waits_until_there_is_room(tmp_path, timer, caplog, fsync, many):
    disk, store = Small(1 << 30), MemoryBackend()
    writer = spooled(store, tmp_path, timer=timer, spool={"_os": disk, "fsync": fsync})
    writer.write({"n": -1})
    writer.roll()
    disk.room = 0
    count = 100 if fsync == "record" and not many else 1500  # that many syncs
    thread = threading.Thread(target=write_all, args=(writer, RECORDS[:count], many), daemon=True)
    thread.start()
    until(lambda: writer._front._folder._rooms)
    until(lambda: timer.advance(1) or (disk.refused > 8 and "No space left" in caplog.text))
    assert writer.progress.taken < (20 if count == 100 else 1100), "no more than is gathered"
    assert caplog.text.count("No space left on device") == 1
    disk.room = 1 << 30  # somebody else made some
    until(lambda: timer.advance(1) or not thread.is_alive())
    assert writer.close().lost == 0
    assert numbers(store) == list(range(-1, count))


@pytest.mark.parametrize("fsync", ["record", "interval", "roll"])
@pytest.mark.parametrize("many", [False, True])
def test_where_the_disk_is_full_what_is_delivered_makes_room(tmp_path, fsync, many):
    each = 10 if fsync == "record" and not many else 100  # every record is a sync
    store, disk = MemoryBackend(), Small(1500 * each)
    settings = {"_os": disk, "fsync": fsync, "segment_bytes": 1 << 20, "close_timeout": LIMIT}
    writer = spooled(store, tmp_path, "{start:05d}.ndjson", names="deterministic", spool=settings)
    for at in range(0, 15 * each, each):
        with deadline(LIMIT):
            write_all(writer, RECORDS[at : at + each], many)
    final = writer.close()
    assert (final.lost, final.dropped, final.spooled) == (0, 0, 0)
    assert numbers(store) == list(range(15 * each))
    assert len(contents(store)) >= 10, "objects that wait to be full are published early"


def test_all_that_is_delivered_makes_room_at_once(tmp_path):
    store, disk = MemoryBackend(), Small(150_000)
    settings = {"_os": disk, "fsync": "roll", "segment_bytes": 1 << 20, "when_full": "raise"}
    writer = spooled(store, tmp_path, timer=ManualTimer(), spool=settings)
    for at in range(0, 500, 100):
        writer.write_many(RECORDS[at : at + 100])
        writer.flush()
        writer.roll()
    writer.close()
    assert disk.refused >= 4
    assert numbers(store) == list(range(500))


def test_what_the_full_disk_did_not_take_is_taken_at_the_end_once_what_was_before_is_delivered(tmp_path, monkeypatch):
    store, disk = Down(MemoryBackend(), down=True), Small(150_000)
    writer = spooled(
        store, tmp_path, spool={"_os": disk, "fsync": "roll", "when_full": "raise", "close_timeout": LIMIT}
    )
    writer.write_many(RECORDS[:100])
    writer.flush()
    writer.write_many(RECORDS[100:200])
    with pytest.raises(StorageError, match="No space"):
        writer.flush()
    folder = writer._front._folder
    real = folder.sync_all

    def sync_all():
        try:
            real()
        finally:
            store.down = False  # once it has been tried

    monkeypatch.setattr(folder, "sync_all", sync_all)
    assert writer.close().lost == 0
    assert numbers(store) == list(range(200))


def test_a_disk_that_stays_full_is_tried_again_at_the_end_from_time_to_time(tmp_path, timer):
    disk, store = Small(1 << 30), MemoryBackend()
    settings = {"_os": disk, "fsync_interval": 0.05, "fsync": "roll", "when_full": "raise", "close_timeout": 2}
    writer = spooled(store, tmp_path, timer=timer, spool=settings, _crew=Turning(timer, store))
    writer.write({"n": 0})
    writer.roll()
    disk.room = 0
    writer.write({"n": 1})
    with pytest.raises(StorageError, match="No space"):
        writer.close()
    assert 2 <= disk.refused <= 40
    assert (writer.progress.lost, numbers(store)) == (1, [0])


@pytest.mark.parametrize("end", ["deadline", "close", "abort"])
@pytest.mark.parametrize("fsync", ["record", "interval"])
def test_who_waits_for_room_on_the_disk_can_be_freed(tmp_path, end, fsync):
    disk, raised, written = Small(5000), [], []
    writer = spooled(
        Down(MemoryBackend(), down=True), tmp_path, spool={"_os": disk, "fsync": fsync, "close_timeout": 0.01}
    )

    def work():
        try:
            with deadline(0.1 if end == "deadline" else 600):
                for record in RECORDS:
                    writer.write(record)
                    written.append(record["n"])
        except StorageError as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    until(lambda: writer._front._folder._rooms or raised)
    if end == "close":
        with pytest.raises(StorageError, match="No space") if fsync == "interval" else nullcontext():
            writer.close()
    if end == "abort":
        writer.abort()
    thread.join(LIMIT)
    (error,) = raised
    assert isinstance(error, DeadlineExceeded if end == "deadline" else WriterClosed)
    writer.abort()
    assert writer.progress.taken == len(written), "what raised was not taken"
    assert writer.progress.spooled == examine(tmp_path).entries == len(written) - writer.progress.lost


@pytest.mark.parametrize("when_full", ["block", "raise"])
def test_a_batch_of_which_the_disk_takes_some_is_taken_as_far_as_it_goes(tmp_path, when_full):
    disk = Small(20_000)
    settings = {"_os": disk, "fsync": "record", "when_full": when_full, "close_timeout": 0.01}
    writer = spooled(Down(MemoryBackend(), down=True), tmp_path, spool=settings)
    scope = CancelScope()
    ends = threading.Thread(target=lambda: (until(lambda: writer._front._folder._rooms), scope.cancel()))
    if when_full == "block":  # the writing thread waits until it is cancelled
        ends.start()
    with pytest.raises(StorageError), scope:
        writer.write_many(RECORDS[:100])
    taken = writer.progress.taken
    assert 5 < taken < 25
    assert examine(tmp_path).entries == taken
    writer.abort()
    assert (writer.progress.lost, writer.progress.spooled) == (0, taken)


@pytest.mark.parametrize("fsync", ["record", "roll"])
def test_a_sync_that_fails_for_want_of_room_is_waited_for_by_nobody(tmp_path, fsync):
    disk = FaultyOS(error=errno.ENOSPC, only=("fsync",))
    settings = {"_os": disk, "segment_bytes": 1000, "fsync": fsync, "close_timeout": 600}
    writer = spooled(Down(MemoryBackend(), down=True), tmp_path, timer=ManualTimer(), spool=settings)
    writer.write({"n": 0})
    writer.flush()
    until(lambda: writer.progress.last_error)  # who delivers waits for the store, and sees nothing of it
    disk.at, disk.sticky = disk.count + 1, True
    with pytest.raises(StorageError, match="No space"), deadline(LIMIT):
        while True:
            writer.write({"n": 0, "pad": "x" * 1000})
    with pytest.raises(StorageError, match="No space") if fsync == "roll" else nullcontext(), deadline(0.05):
        writer.close()  # with "record" all that was taken is safe, and waits for the store


def test_a_full_disk_is_tried_again_soon_however_seldom_it_is_synced(tmp_path, timer):
    disk, store = Small(1 << 30), MemoryBackend()
    writer = spooled(store, tmp_path, timer=timer, spool={"_os": disk, "fsync": "roll", "fsync_interval": 3600})
    writer.write({"n": 0})
    disk.room = 0
    thread = threading.Thread(target=write_all, args=(writer, RECORDS, False), daemon=True)
    thread.start()
    until(lambda: writer._front._folder._rooms)
    disk.room = 1 << 30
    timer.advance(2)
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert writer.progress.taken == 1501
    writer.close()


def test_who_hears_of_a_full_disk_may_write_of_it(tmp_path):
    disk, store = Small(0), MemoryBackend()

    def emit(record):  # a filter: it hangs without a lock that the end of the run needs
        if not heard:
            heard.append(record.getMessage()[:5])
            writer.write({"n": heard[0]})
        return False

    heard = []
    writer, told = spooled(store, tmp_path, spool={"_os": disk, "fsync": "record"}), logging.getLogger("omnistorage")
    handler = logging.Handler()
    handler.addFilter(emit)
    told.addHandler(handler)
    try:
        threads = [threading.Thread(target=writer.write, args=({"n": n},), daemon=True) for n in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(writer._front._folder._rooms) == 3)
        disk.room = 1 << 30
        for thread in threads:
            thread.join(LIMIT)
    finally:
        told.removeHandler(handler)
    assert writer.close().taken == 4
    assert sorted(map(str, numbers(store))) == ["0", "1", "2", "spool"]


@pytest.mark.parametrize("fsync", ["interval", "roll"])
def test_however_many_wait_for_room_no_more_is_spooled_than_there_is(tmp_path, fsync):
    store, settings = Down(MemoryBackend(), down=True), {"max_bytes": 8192, "fsync": fsync}
    writer, most = spooled(store, tmp_path, spool=settings, roll_records=1), []
    threads = [threading.Thread(target=write_all, args=(writer, RECORDS[n : n + 2], False)) for n in range(0, 60, 2)]
    for thread in threads:
        thread.daemon = True
        thread.start()
    until(lambda: len(writer._front._folder._rooms) > 20)
    store.down = False
    until(lambda: most.append(writer.progress.spooled_bytes) or not any(thread.is_alive() for thread in threads))
    assert max(most) <= 8192
    writer.close()
    assert sorted(numbers(store)) == list(range(60))


def test_where_nothing_can_be_noted_either_the_end_does_not_spin(tmp_path, timer):
    disk, store = Small(1 << 30, slots=True), MemoryBackend()
    settings = {"_os": disk, "fsync_interval": 0.05, "when_full": "raise", "close_timeout": 3}
    writer = spooled(store, tmp_path, timer=timer, spool=settings, _crew=Turning(timer, store))
    writer.write({"n": 0})
    writer.flush()
    disk.room = 0
    writer.write({"n": 1})
    with pytest.raises(StorageError, match="No space"):
        writer.close()
    assert 2 <= disk.refused <= 60
    assert numbers(store) == [0]


@pytest.mark.parametrize("fsync", ["record", "interval"])
def test_however_many_wait_for_room_one_timer_tries_again(tmp_path, timer, fsync):
    disk, crew = Small(0), Inline()
    settings = {"_os": disk, "fsync": fsync, "fsync_interval": 5, "close_timeout": 0.01}
    writer = spooled(Down(MemoryBackend(), down=True), tmp_path, timer=timer, spool=settings, _crew=crew)
    folder, raised = writer._front._folder, []

    def work():
        try:
            write_all(writer, RECORDS, False)
        except WriterClosed as error:
            raised.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        until(lambda: len(folder._rooms) == 4 and timer.now() < folder._due < 1000)
        timer.advance(1)
        assert len(timer.waiting) <= 6
    writer.abort()
    for thread in threads:
        thread.join(LIMIT)
    assert len(raised) == 4


def test_a_disk_that_stays_full_is_tried_less_and_less_often(tmp_path, timer, caplog):
    disk = Small(0)
    settings = {"_os": disk, "fsync_interval": 0.01, "when_full": "raise"}
    writer = spooled(MemoryBackend(), tmp_path, timer=timer, spool=settings, _crew=Inline())
    writer.write({"n": 0})
    for _ in range(1000):
        timer.advance(0.01)
    assert 12 <= disk.refused <= 25
    timer.advance(60)
    assert disk.refused > 50
    assert caplog.text.count("No space left on device") == 1
    disk.room = 1 << 30
    timer.advance(1.1)
    assert writer.durable == 0
    writer.close()


@pytest.mark.parametrize("fsync", ["record", "interval", "roll"])
@pytest.mark.parametrize("by", ["call", "tick"])
def test_what_a_full_disk_took_in_parts_is_synced(tmp_path, timer, fsync, by):
    settings = {"_os": Small(20_000), "fsync": fsync, "when_full": "raise", "close_timeout": 0.01}
    store = Down(MemoryBackend(), down=True)
    writer = spooled(store, tmp_path, timer=timer, spool=settings, _crew=Inline())
    with pytest.raises(StorageError, match="No space") if fsync == "record" else nullcontext():
        writer.write_many(RECORDS[:100])
    if by == "tick":
        timer.advance(0.01)
    elif fsync != "record":
        with pytest.raises(StorageError, match="No space"):
            writer.flush()
    kept = examine(tmp_path).entries
    assert 5 < kept < 25
    assert writer.durable == (-1 if (fsync, by) == ("roll", "tick") else kept - 1)
    writer.abort()
    assert writer.progress.durable == kept - 1


def test_what_was_delivered_and_could_not_be_deleted_makes_room_later(tmp_path):
    store, disk = MemoryBackend(), Small(150_000)
    settings = {"_os": disk, "fsync": "roll", "segment_bytes": 1 << 20, "when_full": "raise"}
    writer = spooled(store, tmp_path, timer=ManualTimer(), spool=settings)
    writer.write_many(RECORDS[:100])
    writer.roll()
    disk.unlinks = 1
    writer.write_many(RECORDS[100:200])
    with pytest.raises(StorageError, match="No space"):
        writer.flush()
    writer.flush()
    writer.close()
    assert numbers(store) == list(range(200))


def test_a_full_disk_is_tried_again_though_once_nobody_had_time_and_the_store_hangs(tmp_path, timer):
    opened, goes_on = threading.Event(), threading.Event()

    class Hangs(Wrapper):
        def open_writer(self, path, options=WRITE):
            opened.set()
            goes_on.wait(LIMIT)
            return self.inner.open_writer(path, options)

    disk, crew, store = Small(1 << 30), Inline(), MemoryBackend()
    writer = spooled(Hangs(store), tmp_path, timer=timer, spool={"_os": disk, "fsync": "record"}, _crew=crew)
    writer.write({"n": 0})
    timer.advance(1)
    assert opened.wait(LIMIT)
    disk.room, folder = 0, writer._front._folder
    thread = threading.Thread(target=writer.write, args=({"n": 1},), daemon=True)
    thread.start()
    until(lambda: folder._rooms and folder._due < 1000)
    crew.busy = True
    timer.advance(2)
    until(lambda: folder._rooms and timer.now() < folder._due < 1000)
    crew.busy, disk.room = False, 1 << 30
    timer.advance(2)
    thread.join(LIMIT)
    assert not thread.is_alive()
    goes_on.set()
    writer.close()
    assert numbers(store) == [0, 1]


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_handler_that_fails_leaves_no_folder_locked(tmp_path, end):
    class Fails(logging.Handler):
        def emit(self, record):
            writer.write({"n": 1})

    settings, told = {"_os": Small(0), "when_full": "raise", "close_timeout": 0.01}, logging.getLogger("omnistorage")
    writer = spooled(Down(MemoryBackend(), down=True), tmp_path, spool=settings)
    writer.write({"n": 0})
    handler = Fails()
    told.addHandler(handler)
    try:
        with pytest.raises(WriterClosed):
            getattr(writer, end)()
    finally:
        told.removeHandler(handler)
    spooled(MemoryBackend(), tmp_path).close()


def test_a_disk_that_has_room_again_gets_more_at_once_again(tmp_path):
    disk = Small(0)
    disk.patience = 9  # until single records are tried
    writer = spooled(MemoryBackend(), tmp_path, timer=ManualTimer(), spool={"_os": disk, "when_full": "raise"})
    writer.write_many(RECORDS[:1000])
    before = disk.written
    writer.flush()
    assert disk.refused == 9
    assert disk.written - before < 40
    assert writer.close().records == 1000


def test_what_flush_could_not_put_down_is_tried_again_soon(tmp_path, timer):
    disk = Small(0)
    settings = {"_os": disk, "fsync_interval": 3600, "when_full": "raise"}
    writer = spooled(MemoryBackend(), tmp_path, timer=timer, spool=settings, _crew=Inline())
    writer.write({"n": 0})
    with pytest.raises(StorageError, match="No space"):
        writer.flush()
    disk.room = 1 << 30
    timer.advance(2)
    assert writer.durable == 0
    writer.close()
