"""The spool's own disk: full, read-only, damaged, failing at any call. Each is told, with what exactly is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import threading

import pytest

from omnistorage import CorruptData, MemoryBackend, PermissionDenied, StorageError
from omnistorage.delivery import RollingRecordWriter, Spool
from omnistorage.segments import ENTRY_HEAD, examine
from omnistorage.testing.os_faults import FaultyOS

from ..budget import FULL
from ..waiting import until
from .conftest import Down, ManualTimer, contents, numbers
from .spooling import SOON, spooled


class Unsynced(FaultyOS):
    """Counts and fails syncs, but does none: no power is cut here."""

    def _call(self, name, real, args, kwargs):
        return super()._call(name, (lambda fd: None) if name == "fsync" else real, args, kwargs)


def filled(folder, count=100, **spool):
    """A spool with records that no store took."""
    writer = spooled(Down(MemoryBackend(), down=True), folder, spool={"max_bytes": 100_000, **spool})
    writer.write_many({"n": n} for n in range(count))
    writer.abort()
    return sorted(path for path in folder.iterdir() if path.suffix == ".seg")


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x20
    path.write_bytes(data)


def unlink(path, place):
    path.unlink()


# -- failing at any call -----------------------------------------------------------------------------------------------


def once(folder, faulty, fsync, full):
    """A life of a writer on a failing disk; what it acknowledged and what it took."""
    store, taken, acknowledged = MemoryBackend(), [], -1
    settings = {"segment_bytes": 200, "max_bytes": 4096, "fsync": fsync, "_os": faulty, "fsync_interval": 0.001}
    writer = None
    try:
        writer = RollingRecordWriter(
            store,
            "{start:03d}.ndjson",
            names="deterministic",
            roll_records=7,
            spool=Spool(folder, backoff=SOON, close_timeout=0.2, when_full=full, **settings),
        )
        for n in range(40):
            try:
                number = writer.write({"n": len(taken)})
            except StorageError:
                continue  # not taken: the same record again
            assert number == len(taken)
            taken.append(number)
            if fsync == "record":
                acknowledged = number
            elif n % 9 == 8:
                acknowledged = max(acknowledged, writer.flush())
        writer.close()
        acknowledged = len(taken) - 1
    except StorageError:
        pass
    finally:
        if writer is not None:
            writer.abort()
    return store, taken, acknowledged


@pytest.mark.parametrize("fsync", ["record", "interval"])
@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS] if FULL else [errno.ENOSPC])
def test_a_fault_at_any_call_loses_nothing_acknowledged_and_delivers_nothing_twice(tmp_path, fsync, sticky, error):
    fired, at, step = 0, 0, 1 if FULL or not sticky else 3
    while True:
        at += step
        folder = tmp_path / str(at)
        faulty = Unsynced(at=at, error=error, sticky=sticky)
        store, taken, acknowledged = once(folder, faulty, fsync, "raise" if sticky else "block")
        fired += bool(faulty.failed)
        faulty.heal()
        spool = Spool(folder, max_bytes=4096, _os=Unsynced())
        with RollingRecordWriter(
            store, "{start:03d}.ndjson", names="deterministic", roll_records=7, spool=spool
        ) as writer:
            assert writer.durable >= acknowledged, at
        got = numbers(store)
        assert got == list(range(len(got))), (at, faulty.failed, "in order, once, and without a gap")
        assert acknowledged < len(got) <= len(taken) + 1, (at, faulty.failed)
        if not faulty.failed or at > (2000 if FULL else 90):
            break
    assert fired > (25 if sticky else 50)


class NoGrowth(FaultyOS):
    """A disk that is full once ``full`` is set: what would make a file longer fails."""

    full = False

    def _call(self, name, real, args, kwargs):
        if self.full and name == "write":
            size, appends = os.fstat(args[0]).st_size, fcntl.fcntl(args[0], fcntl.F_GETFL) & os.O_APPEND
            if (size if appends else os.lseek(args[0], 0, os.SEEK_CUR)) + len(args[1]) > size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super()._call(name, real, args, kwargs)


@pytest.mark.parametrize("end", ["close", "abort", "drop"])
def test_what_a_full_disk_did_not_take_is_lost_and_does_not_wait(tmp_path, caplog, end):
    disk = NoGrowth(error=None)
    down = Down(MemoryBackend(), down=True)
    writer = spooled(down, tmp_path, spool={"_os": disk, "fsync": "roll", "close_timeout": 0.05})
    writer.write_many({"n": n} for n in range(3))
    assert writer.flush() == 2
    disk.full = True
    writer.write_many({"n": n} for n in range(4))
    if end == "close":
        with pytest.raises(StorageError, match="No space"):
            writer.close()
    if end == "drop":
        thread = writer._front._thread
        with pytest.warns(ResourceWarning):
            writer._front.__del__()
        thread.join()
    writer.abort()
    assert (writer.progress.spooled, writer.progress.lost, writer.progress.taken) == (3, 4, 7)
    assert "the last 4 records, from number 3 on" in caplog.text
    assert examine(tmp_path).entries == 3
    store = MemoryBackend()
    with spooled(store, tmp_path) as writer:
        assert writer.write({"n": 3}) == 3
    assert numbers(store) == [0, 1, 2, 3]


def test_what_is_delivered_is_noted_on_a_full_disk_too(tmp_path):
    disk, down, store = NoGrowth(error=None), Down(MemoryBackend(), down=True), MemoryBackend()
    with spooled(down, tmp_path, spool={"close_timeout": 0.01}) as writer:
        writer.write({"n": 0})
    disk.full = True
    for _ in range(3):
        with spooled(store, tmp_path, spool={"_os": disk}) as writer:
            pass
        assert writer.progress.spooled == 0
    assert numbers(store) == [0]


def test_a_full_disk_is_told_at_once_and_taken_up_again_when_there_is_room(tmp_path):
    faulty = FaultyOS(error=errno.ENOSPC, only=("write",))
    store = MemoryBackend()
    writer = spooled(store, tmp_path, spool={"fsync": "record", "when_full": "raise", "_os": faulty})
    writer.write({"n": 0})
    faulty.at, faulty.sticky = faulty.count + 1, True
    for _ in range(3):
        with pytest.raises(StorageError, match="No space"):
            writer.write({"n": 1})
    with pytest.raises(StorageError):
        writer.write_many([{"n": 1}, {"n": 2}])
    assert writer.progress.taken == 1
    faulty.heal()
    assert writer.write({"n": 1}) == 1
    writer.close()
    assert numbers(store) == [0, 1]


def test_what_was_gathered_waits_for_room_on_the_disk_and_progress_tells(tmp_path):
    faulty, timer = FaultyOS(error=errno.ENOSPC, only=("write",)), ManualTimer()
    store = MemoryBackend()
    writer = spooled(store, tmp_path, timer=timer, spool={"fsync_interval": 1.0, "_os": faulty})
    faulty.at, faulty.sticky = faulty.count + 1, True
    assert writer.write({"n": 0}) == 0
    timer.advance(1)
    until(lambda: writer.progress.last_error is not None)
    assert "No space" in writer.progress.last_error
    with pytest.raises(StorageError, match="No space"):
        writer.flush()
    faulty.heal()
    assert writer.flush() == 0
    assert writer.roll() == 0
    assert writer.progress.last_error is None
    writer.close()
    assert numbers(store) == [0]


def test_a_sync_that_fails_ends_it_and_nothing_unsafe_is_published(tmp_path):
    faulty, timer, store = FaultyOS(only=("fsync",)), ManualTimer(), MemoryBackend()
    writer = spooled(store, tmp_path, timer=timer, roll_records=2, spool={"fsync": "roll", "_os": faulty})
    faulty.at, faulty.sticky = faulty.count + 1, True
    writer.write_many([{"n": 0}, {"n": 1}])
    timer.advance(1)
    until(lambda: writer.progress.last_error is not None)
    for call in (lambda: writer.write({"n": 2}), writer.flush, writer.roll, writer.close):
        with pytest.raises(StorageError):
            call()
    assert (numbers(store), writer.durable) == ([], -1)


def test_a_spool_that_cannot_be_made_is_refused(tmp_path):
    for error in (errno.EROFS, errno.EACCES):
        with pytest.raises(PermissionDenied, match=str(tmp_path)):
            spooled(MemoryBackend(), tmp_path / "s", spool={"_os": FaultyOS(at=1, error=error)})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        spooled(MemoryBackend(), tmp_path / "file")


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "place", "says"),
    [(flip, 30, "entry 14 lost|lost is entry"), (flip, 1, "lost is entry"), (unlink, 0, "lost is entry")],
)
def test_damage_is_raised_with_what_is_lost_and_skipped_if_told_to(tmp_path, harm, place, says):
    names = filled(tmp_path, segment_bytes=1000)
    harm(names[1], place)
    (one,) = examine(tmp_path).damage
    lost = range(one.first, one.last + 1)
    store = MemoryBackend()
    writer = spooled(store, tmp_path)
    with pytest.raises(CorruptData, match=says) as caught:
        writer.write({"n": 100})
        writer.roll()
    assert str(one.first) in str(caught.value)
    assert "on_damage='skip'" in str(caught.value)
    with pytest.raises(CorruptData):
        writer.close()
    with spooled(store, tmp_path, spool={"on_damage": "skip"}) as writer:
        pass
    assert writer.progress.damaged == len(lost) > 0
    assert [n for n in numbers(store) if n < 100] == [n for n in range(100) if n not in lost]


@pytest.mark.parametrize("harm", [flip, unlink])
def test_damage_that_shows_on_opening_is_raised_there(tmp_path, harm):
    names = filled(tmp_path, segment_bytes=1000)
    if harm is flip:
        flip(names[-1], 1)
    else:
        names[0].unlink()
    with pytest.raises(CorruptData, match="lost is entry"):
        spooled(MemoryBackend(), tmp_path)
    store = MemoryBackend()
    with spooled(store, tmp_path, spool={"on_damage": "skip"}) as writer:
        number = writer.write({"n": 1000})
    assert number >= 100, "no number is given twice"
    got = numbers(store)
    assert (got[-1], writer.progress.damaged > 0) == (1000, True)
    assert got[:-1] == sorted(got[:-1])


def test_newest_segments_that_are_gone_are_told_and_what_is_left_is_delivered(tmp_path):
    segments = filled(tmp_path, segment_bytes=1000)
    assert len(segments) > 2
    for path in segments[-2:]:
        path.unlink()
    left = int(segments[-2].stem)
    with pytest.raises(CorruptData, match=f"newest segments are missing: lost is entry {left} to 99;"):
        spooled(MemoryBackend(), tmp_path)
    store = MemoryBackend()
    with spooled(store, tmp_path, spool={"on_damage": "skip"}) as writer:
        number = writer.write({"n": 1000})
    assert number == 100
    assert numbers(store) == [*range(left), 1000]
    assert writer.progress.damaged == 100 - left


def test_a_torn_end_is_cut_off_told_and_was_never_acknowledged(tmp_path, caplog):
    (only,) = filled(tmp_path)
    with open(only, "ab") as tail:
        tail.write(only.read_bytes()[:25])
    store = MemoryBackend()
    with spooled(store, tmp_path) as writer:
        assert writer.durable == 99
    assert "cut short" in caplog.text
    assert numbers(store) == list(range(100))
    assert writer.progress.damaged == 0


def test_a_record_that_is_skipped_under_deterministic_names_costs_no_other_one(tmp_path):
    """What was published and not acknowledged is found again by counting; damage makes that impossible."""
    store, names = MemoryBackend(), {"names": "deterministic", "roll_records": 50}
    filled(tmp_path / "one")
    with spooled(store, tmp_path / "one", "{start:03d}.ndjson", **names):
        pass
    assert [len(rows) for rows in contents(store).values()] == [50, 50]
    (segment,) = filled(tmp_path / "two", 120)  # as if the acknowledgement had been lost
    flip(segment, 10 * 37 + 60 * 38 + ENTRY_HEAD + 9 + 3)  # in the middle of the last object
    with spooled(store, tmp_path / "two", "{start:03d}.ndjson", spool={"on_damage": "skip"}, **names) as writer:
        pass
    assert (writer.progress.damaged, segment.name) == (1, "00000000000000000000.seg")
    assert set(numbers(store)) == set(range(120)), "nothing new is taken for what was published before"


def test_a_store_that_fails_while_the_disk_is_full_does_not_end_it(tmp_path):
    faulty, store, told = FaultyOS(error=errno.ENOSPC, only=("write",)), Down(MemoryBackend()), []

    def handler(entry):  # published, and the disk is full and the store away before that is noted
        told.append(entry)
        if len(told) == 1:
            faulty.at, faulty.sticky, store.down = faulty.count + 1, True, True

    names = {"names": "deterministic", "roll_records": 10}  # others may publish the second object once more
    writer = spooled(store, tmp_path, "{start:03d}.ndjson", on_commit=handler, spool={"_os": faulty}, **names)
    writer.write_many({"n": n} for n in range(20))
    writer.flush()
    until(lambda: writer.progress.retried > 2)
    faulty.heal()
    store.down = False
    until(lambda: writer.progress.spooled == 0)
    writer.close()
    assert numbers(store) == list(range(20))


def test_acknowledgements_that_cannot_be_written_are_made_up_for(tmp_path):
    faulty, store = FaultyOS(error=errno.ENOSPC, only=("write",)), MemoryBackend()
    told = []
    writer = spooled(store, tmp_path, roll_records=10, on_commit=told.append, spool={"_os": faulty})
    writer.write_many({"n": n} for n in range(10))
    writer.flush()
    faulty.at, faulty.sticky = faulty.count + 1, True
    until(lambda: told)
    until(lambda: writer.progress.last_error is not None)
    with pytest.raises(StorageError, match="No space"):
        writer.roll()
    faulty.heal()
    until(lambda: writer.progress.last_error is None)
    assert writer.roll() == 9
    writer.close()
    assert numbers(store) == list(range(10))


def test_threads_that_write_while_the_disk_fails_lose_nothing_that_was_taken(tmp_path):
    faulty, store, taken = FaultyOS(error=errno.ENOSPC, only=("write",)), MemoryBackend(), []
    writer = spooled(store, tmp_path, spool={"fsync": "record", "when_full": "raise", "_os": faulty})

    def work(thread):
        for n in range(60):
            try:
                writer.write({"n": thread * 1000 + n})
                taken.append(thread * 1000 + n)
            except StorageError:
                pass
            if n == 20:
                faulty.at, faulty.sticky = faulty.count + 1, True
            if n == 40:
                faulty.heal()

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    faulty.heal()
    writer.close()
    assert sorted(numbers(store)) == sorted(taken)
