"""The spool's own disk is full: who writes waits, and what is delivered makes room."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
from contextlib import nullcontext

import pytest

from omnistorage import MemoryBackend, StorageError, WriterClosed
from omnistorage.policies import DeadlineExceeded, deadline
from omnistorage.segments import examine
from omnistorage.testing.os_faults import FaultyOS

from .conftest import Down, contents, numbers, until
from .spooling import spooled

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/fd is Linux's")
RECORDS = [{"n": n, "pad": "x" * 1000} for n in range(1500)]


class Small(FaultyOS):
    """A disk that has room for so many bytes of segments, or none left once ``room`` is 0."""

    def __init__(self, room):
        super().__init__(error=None)
        self.room, self.refused = room, 0

    def _call(self, name, real, args, kwargs):
        if name == "write" and fcntl.fcntl(args[0], fcntl.F_GETFL) & os.O_APPEND:
            folder = os.path.dirname(os.readlink(f"/proc/self/fd/{args[0]}"))
            taken = sum(os.stat(f"{folder}/{path}").st_size for path in os.listdir(folder) if path.endswith(".seg"))
            if taken + len(args[1]) > self.room:
                self.refused += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super()._call(name, real, args, kwargs)


def write_all(writer, records, many):
    if many:
        assert writer.write_many(records) == len(records)
    else:
        for record in records:
            writer.write(record)


@pytest.mark.parametrize("fsync", ["record", "interval"])
@pytest.mark.parametrize("many", [False, True])
def test_where_the_disk_is_full_who_writes_waits_until_there_is_room(tmp_path, caplog, fsync, many):
    disk, store = Small(1 << 30), MemoryBackend()
    writer = spooled(store, tmp_path, spool={"_os": disk, "fsync": fsync})
    writer.write({"n": -1})
    writer.roll()
    disk.room = 0
    thread = threading.Thread(target=write_all, args=(writer, RECORDS, many), daemon=True)
    thread.start()
    until(lambda: writer._front._folder._rooms and disk.refused > 50)
    assert writer.progress.taken < 1100, "no more than is gathered"
    assert caplog.text.count("No space left on device") == 1
    disk.room = 1 << 30  # somebody else made some
    thread.join(20)
    assert not thread.is_alive()
    assert writer.close().lost == 0
    assert numbers(store) == list(range(-1, 1500))


@pytest.mark.parametrize("fsync", ["record", "interval", "roll"])
@pytest.mark.parametrize("many", [False, True])
def test_where_the_disk_is_full_what_is_delivered_makes_room(tmp_path, fsync, many):
    store, disk = MemoryBackend(), Small(150_000)
    settings = {"_os": disk, "fsync": fsync, "segment_bytes": 1 << 20, "close_timeout": 60}
    writer = spooled(store, tmp_path, "{start:05d}.ndjson", names="deterministic", spool=settings)
    for at in range(0, 1500, 100):
        with deadline(60):
            write_all(writer, RECORDS[at : at + 100], many)
    final = writer.close()
    assert (final.lost, final.dropped, final.spooled) == (0, 0, 0)
    assert numbers(store) == list(range(1500))
    assert len(contents(store)) >= 10, "objects that wait to be full are published early"


def test_what_the_full_disk_did_not_take_is_taken_at_the_end_once_what_was_before_is_delivered(tmp_path):
    store, disk = Down(MemoryBackend(), down=True), Small(150_000)
    writer = spooled(store, tmp_path, spool={"_os": disk, "fsync": "roll", "when_full": "raise", "close_timeout": 60})
    writer.write_many(RECORDS[:100])
    writer.flush()
    writer.write_many(RECORDS[100:200])
    with pytest.raises(StorageError, match="No space"):
        writer.flush()
    store.down = False
    assert writer.close().lost == 0
    assert numbers(store) == list(range(200))


def test_a_disk_that_stays_full_is_tried_again_at_the_end_from_time_to_time(tmp_path):
    disk, store = Small(1 << 30), MemoryBackend()
    settings = {"_os": disk, "fsync_interval": 0.05, "fsync": "roll", "when_full": "raise", "close_timeout": 0.5}
    writer = spooled(store, tmp_path, spool=settings)
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
            with deadline(0.5 if end == "deadline" else 600):
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
    thread.join(20)
    (error,) = raised
    assert isinstance(error, DeadlineExceeded if end == "deadline" else WriterClosed)
    writer.abort()
    assert writer.progress.taken == len(written), "what raised was not taken"
    assert writer.progress.spooled == examine(tmp_path).entries == len(written) - writer.progress.lost
