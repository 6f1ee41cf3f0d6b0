"""A spool whose segments are damaged, cut short or removed: what is lost is counted, and nothing is delivered twice or
out of order."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistorage import CorruptData, MemoryBackend, NotFound
from omnistorage.delivery import spool_status

from ..damage import frames_of, harm, segments
from ..killed import killed
from .conftest import Down, ManualTimer, numbers
from .spooling import spooled

COUNT = 300
NAMES = {"template": "{start:06d}.ndjson", "names": "deterministic", "roll_records": 40}


def filled(folder, *, clean=True, size=4000):
    """A spool with records that no store took."""
    down = Down(MemoryBackend(), down=True)
    writer = spooled(down, folder, timer=ManualTimer(), spool={"segment_bytes": size})
    writer.write_many({"n": n} for n in range(COUNT))
    writer.flush()
    if clean:
        writer.abort()
    else:
        killed(folder, writer.abort)


def delivered(folder, store=None, **spool):
    """What a writer delivers of a spool, and how it ends; the number of a record that it takes itself."""
    store = store or MemoryBackend()
    writer = spooled(store, folder, **NAMES, spool=spool)
    try:
        number = writer.write({"n": -1})
        writer.roll()
    finally:
        writer.close()
    return [n for n in numbers(store) if n >= 0], writer.progress, number


def check(folder, lost):
    """A writer raises, and one that skips delivers all but ``lost``."""
    status = spool_status(folder)
    assert (status.records, bool(status.damage), status.torn) == (COUNT - len(lost), True, 0)
    store = MemoryBackend()
    with pytest.raises(CorruptData) as caught, spooled(store, folder, **NAMES):
        pass
    assert str(folder) in caught.value.path
    got, progress, number = delivered(folder, store, on_damage="skip")
    assert got == [n for n in range(COUNT) if n not in lost]
    assert (progress.damaged, number) == (len(lost), COUNT)


def test_a_doubled_record_is_damage_and_delivered_once(tmp_path):
    filled(tmp_path)
    path = segments(tmp_path)[1]
    parts = frames_of(path.read_bytes())
    path.write_bytes(b"".join([*parts[:20], parts[19], *parts[20:]]))
    check(tmp_path, set())


def test_swapped_segments_are_damage_and_not_delivered_out_of_order(tmp_path):
    filled(tmp_path)
    one, other = segments(tmp_path)[:2]
    lost = {int(path.stem) + n for path in (one, other) for n in range(len(frames_of(path.read_bytes())))}
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    check(tmp_path, lost)


@pytest.mark.parametrize("cut", [1, 3000, 1 << 30], ids=["one byte", "3000 bytes", "empty"])
def test_acknowledged_records_cut_from_the_end_are_counted(tmp_path, cut):
    filled(tmp_path, size=1 << 14)
    (only,) = segments(tmp_path)
    parts, left = frames_of(only.read_bytes()), max(0, only.stat().st_size - cut)
    whole = sum(sum(map(len, parts[: n + 1])) <= left for n in range(COUNT))
    os.truncate(only, left)
    check(tmp_path, set(range(whole, COUNT)))


def test_an_end_cut_after_a_kill_is_torn_and_no_damage(tmp_path):
    filled(tmp_path, clean=False, size=1 << 14)
    (only,) = segments(tmp_path)
    os.truncate(only, only.stat().st_size - 5)
    status = spool_status(tmp_path)
    assert (status.records, status.damage, status.torn > 0) == (COUNT - 1, [], True)
    got, progress, number = delivered(tmp_path)
    assert (got, progress.damaged, number) == (list(range(COUNT - 1)), 0, COUNT - 1)


def test_damage_that_cannot_be_counted_is_a_lower_bound(tmp_path):
    filled(tmp_path, clean=False)
    gone = segments(tmp_path)[-2:]
    for path in gone:
        path.unlink()
    assert len(spool_status(tmp_path).damage) == 1
    down = spooled(Down(MemoryBackend(), down=True), tmp_path, timer=ManualTimer(), spool={"on_damage": "skip"})
    assert down.write({"n": -1}) >= COUNT
    down.abort()
    assert len(spool_status(tmp_path).damage) == 1
    _, progress, number = delivered(tmp_path, on_damage="skip")
    assert progress.damaged == int(gone[1].stem) - int(gone[0].stem)
    assert number > COUNT


def test_a_status_needs_no_lock_to_say_what_waits(tmp_path):
    filled(tmp_path)
    (tmp_path / "lock").unlink()
    assert (spool_status(tmp_path).records, spool_status(tmp_path).damage) == (COUNT, [])
    assert delivered(tmp_path)[0] == list(range(COUNT))


@settings(deadline=None)
@given(seed=st.integers(0, 1 << 32), clean=st.booleans(), size=st.sampled_from([1, 2000, 1 << 14]))
def test_whatever_is_damaged_no_record_is_delivered_twice_or_out_of_order(seed, clean, size):
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder, store = Path(temporary, "s"), MemoryBackend()
        filled(folder, clean=clean, size=size)
        for _ in range(rng.randint(1, 3)):
            if segments(folder):
                harm(rng, folder)
        status = spool_status(folder)
        try:
            delivered(folder, store)
        except CorruptData:
            assert status.damage
        else:
            assert not status.damage
        got, progress, _ = delivered(folder, store, on_damage="skip")
        assert got == sorted(set(got))
        assert len(got) == status.records
        assert len(got) + progress.damaged <= COUNT
        if clean and status.damage:
            assert len(got) + progress.damaged == COUNT


# -- a folder that is removed ------------------------------------------------------------------------------------------


def test_a_write_into_a_removed_folder_is_an_error(tmp_path):
    folder = tmp_path / "s"
    writer = spooled(Down(MemoryBackend(), down=True), folder, timer=ManualTimer(), spool={"fsync": "record"})
    for n in range(5):
        writer.write({"n": n})
    shutil.rmtree(folder)
    with pytest.raises(NotFound) as caught:
        writer.write({"n": 5})
    assert caught.value.path == str(folder)
    with pytest.raises(NotFound) as caught:
        writer.close()
    assert caught.value.path == str(folder)
    assert (writer.progress.lost, writer.progress.spooled, writer.progress.taken) == (6, 0, 6)


@pytest.mark.parametrize("end", ["close", "drain", "abort"])
def test_a_removed_folder_is_noticed_at_the_end_without_a_write(tmp_path, caplog, end):
    folder, store = tmp_path / "s", Down(MemoryBackend())
    writer = spooled(store, folder, timer=ManualTimer(), roll_records=5)
    writer.write_many({"n": n} for n in range(5))
    writer.roll()
    store.down = True
    writer.write_many({"n": n} for n in range(5, 12))
    writer.flush()
    shutil.rmtree(folder)
    if end == "abort":
        writer.abort()
    else:
        with pytest.raises(NotFound) as caught:
            writer.close() if end == "close" else writer.drain(5)
        assert caught.value.path == str(folder)
    assert (writer.progress.lost, writer.progress.spooled, writer.progress.records) == (7, 0, 5)
    assert str(folder) in caplog.text
    assert numbers(store) == list(range(5))
