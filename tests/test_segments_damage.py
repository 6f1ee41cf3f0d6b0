"""Damage that checksums alone do not show: entries that are there twice, are missing, or are in another place, and an
end that is missing. What is lost is counted by the numbers that entries hold."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistorage import CorruptData
from omnistorage.posix import OS
from omnistorage.segments import ENTRY_HEAD, SegmentLog, examine

from .damage import harm, segments
from .killed import killed


class Unsynced(OS):
    """No power is cut here."""

    fsync = staticmethod(lambda fd: None)


QUICK = {"_os": Unsynced()}
COUNT = 50
WORDS = [b"entry %d " % n * (n % 9 + 1) for n in range(COUNT)]


def filled(folder, size=300, *, clean=True):
    """A log of ``COUNT`` entries that was closed, or whose process was killed."""
    log = SegmentLog(folder, segment_bytes=size, **QUICK)
    log.append_many(WORDS)
    log.acknowledge(-1)
    log.sync()
    if clean:
        log.close()
    else:
        killed(folder, log.close)


def frames(path):
    """The entries of a segment with their heads."""
    data, first = path.read_bytes(), int(path.stem)
    ends = [0]
    while ends[-1] < len(data):
        ends.append(ends[-1] + ENTRY_HEAD + len(WORDS[first + len(ends) - 1]))
    return [data[a:b] for a, b in pairwise(ends)]


def skipping(folder, size=300):
    """What a log that continues behind damage tells and reads, and the number of what is appended then."""
    told = []
    with SegmentLog(folder, segment_bytes=size, on_damage=told.append, **QUICK) as log:
        end, more = log.next, log.append(b"more")
        *found, last = log.read()
        assert last == (more, b"more")
        return told, found, more, end


def lost(told):
    return {number for one in told for number in range(one.first, one.last + 1)}


def check_raises(folder, size=300):
    """Without ``on_damage`` the damage is an error. One that shows on opening raises before anything changes."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        try:
            log = SegmentLog(copy, segment_bytes=size, **QUICK)
        except CorruptData:
            assert [path.read_bytes() for path in segments(folder)] == [path.read_bytes() for path in segments(copy)]
        else:
            with log, pytest.raises(CorruptData):
                log.append(b"more")
                list(log.read())


def check(folder, expected, size=300):
    """Exactly the numbers ``expected`` are lost, which everything tells, and no number is given again."""
    check_raises(folder, size)
    looked = examine(folder)
    assert looked.damage
    assert lost(looked.damage) == expected
    assert looked.entries == COUNT - len(expected)
    told, found, more, _ = skipping(folder, size)
    assert told
    assert all(one.exact for one in told)
    assert lost(told) == expected
    assert found == [(n, WORDS[n]) for n in range(COUNT) if n not in expected]
    assert more == COUNT


@pytest.mark.parametrize("at", [0, 2, -1], ids=["first segment", "third segment", "newest segment"])
@pytest.mark.parametrize("which", [0, 1, -1], ids=["first entry", "second entry", "last entry"])
def test_a_doubled_entry_is_damage_and_read_once(tmp_path, at, which):
    filled(tmp_path, 400)
    path = segments(tmp_path)[at]
    parts = frames(path)
    parts.insert(which % len(parts), parts[which])
    path.write_bytes(b"".join(parts))
    check(tmp_path, set(), 400)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 3), (2, -1)])
def test_swapped_segments_are_damage_and_read_in_order_only(tmp_path, one, other):
    filled(tmp_path)
    a, b = (segments(tmp_path)[at] for at in (one, other))
    numbers = {int(path.stem) + n for path in (a, b) for n in range(len(frames(path)))}
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(data)
    check(tmp_path, numbers)


@pytest.mark.parametrize("at", [0, -1], ids=["sealed", "newest"])
def test_a_missing_entry_costs_its_number_alone(tmp_path, at):
    filled(tmp_path, 600)
    path = segments(tmp_path)[at]
    parts = frames(path)
    path.write_bytes(b"".join(parts[:1] + parts[2:]))
    check(tmp_path, {int(path.stem) + 1}, 600)


def test_a_damaged_head_costs_that_entry_alone(tmp_path):
    filled(tmp_path, 600)
    for at, place in ((0, 2), (1, 7), (-1, 13)):
        path = segments(tmp_path)[at]
        data = bytearray(path.read_bytes())
        data[place] ^= 0x10
        path.write_bytes(data)
    check(tmp_path, {int(segments(tmp_path)[at].stem) for at in (0, 1, -1)}, 600)


@pytest.mark.parametrize("cut", [1, 19, 20, 30, 400, 1 << 20])
@pytest.mark.parametrize("size", [600, 1 << 20], ids=["several segments", "one segment"])
def test_an_end_cut_after_a_clean_close_is_counted(tmp_path, cut, size):
    filled(tmp_path, size)
    path = segments(tmp_path)[-1]
    parts = frames(path)
    left = max(0, sum(map(len, parts)) - cut)
    os.truncate(path, left)
    whole = sum(sum(map(len, parts[: n + 1])) <= left for n in range(len(parts)))
    expected = set(range(int(path.stem) + whole, COUNT))
    assert examine(tmp_path).torn == 0
    check(tmp_path, expected, size)
    assert lost(skipping(tmp_path, size)[0]) == expected, "the next log tells the same"


def test_an_end_cut_after_a_kill_is_torn(tmp_path):
    filled(tmp_path, 1 << 20, clean=False)
    os.truncate(segments(tmp_path)[0], segments(tmp_path)[0].stat().st_size - 5)
    seen = examine(tmp_path)
    assert (seen.damage, seen.torn > 0, seen.entries) == ([], True, COUNT - 1)
    told, found, more, _ = skipping(tmp_path, 1 << 20)
    assert (told, len(found), more) == ([], COUNT - 1, COUNT - 1)


def test_what_an_earlier_log_held_is_counted_after_a_kill(tmp_path):
    """Each opening notes what is there, so only what came since may be torn."""
    filled(tmp_path, 1 << 20)
    log = SegmentLog(tmp_path, segment_bytes=1 << 20, fsync="seal", **QUICK)
    log.append(b"one more")
    killed(tmp_path, log.close)
    os.truncate(segments(tmp_path)[0], segments(tmp_path)[0].stat().st_size // 2)
    check_raises(tmp_path, 1 << 20)
    (seen,) = examine(tmp_path).damage
    assert (seen.last, seen.exact) == (COUNT - 1, False)
    told, found, more, _ = skipping(tmp_path, 1 << 20)
    assert lost(told) == set(range(len(found), COUNT))
    assert more > COUNT


def test_missing_newest_segments_after_a_clean_close_are_counted(tmp_path):
    filled(tmp_path)
    path = segments(tmp_path)[-2]
    for gone in segments(tmp_path)[-2:]:
        gone.unlink()
    check(tmp_path, set(range(int(path.stem), COUNT)))


def test_missing_newest_segments_after_a_kill_are_a_lower_bound(tmp_path):
    filled(tmp_path, clean=False)
    gone = segments(tmp_path)[-2:]
    for path in gone:
        path.unlink()
    known = set(range(int(gone[0].stem), int(gone[1].stem)))
    check_raises(tmp_path)
    for life in range(2):
        looked = examine(tmp_path)
        told, found, more, _ = skipping(tmp_path)
        assert lost(looked.damage) == lost(told) == known
        assert not all(one.exact for one in told), life
        assert not all(one.exact for one in looked.damage)
        assert [entry for entry in found if entry[0] < COUNT] == [(n, WORDS[n]) for n in range(min(known))]
        assert more >= COUNT


def test_an_empty_newest_segment_that_is_missing_costs_nothing(tmp_path):
    with SegmentLog(tmp_path, **QUICK) as log:
        log.append_many(WORDS)
        log.seal()
        log.acknowledge(COUNT - 1)
    (only,) = segments(tmp_path)
    only.unlink()
    assert examine(tmp_path).damage == []
    with SegmentLog(tmp_path, **QUICK) as log:
        assert log.next == COUNT


def test_damage_among_acknowledged_entries_costs_nothing(tmp_path):
    filled(tmp_path, 1 << 20)
    with SegmentLog(tmp_path, segment_bytes=1 << 20, **QUICK) as log:
        log.acknowledge(9)
    path = segments(tmp_path)[0]
    data = bytearray(path.read_bytes())
    for place in (2, 50, 300):
        data[place] ^= 0x10
    path.write_bytes(data)
    assert lost(examine(tmp_path).damage) == set()
    told, found, _, _ = skipping(tmp_path, 1 << 20)
    assert told == []
    assert [n for n, _ in found if n > 9] == list(range(10, COUNT))


def test_a_log_that_lacks_only_its_lock_can_be_looked_at(tmp_path):
    filled(tmp_path)
    (tmp_path / "lock").unlink()
    seen = examine(tmp_path)
    assert (seen.entries, seen.damage, seen.open) == (COUNT, [], False)


def test_a_look_tells_that_acknowledgements_cannot_be_read(tmp_path):
    filled(tmp_path)
    for slot in ("acked.0", "acked.1"):
        (tmp_path / slot).write_bytes(b"junk")
    assert [one.path for one in examine(tmp_path).damage] == [str(tmp_path / "acked.0")]
    check_raises(tmp_path)


# -- any damage --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(seed=st.integers(0, 1 << 32), clean=st.booleans(), size=st.sampled_from([1, 100, 400, 2000, 1 << 20]))
def test_any_damage_is_told_and_nothing_is_read_twice_or_out_of_order(seed, clean, size):
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        filled(folder, size, clean=clean)
        for _ in range(rng.randint(1, 3)):
            if segments(folder):
                harm(rng, folder)
        looked = examine(folder)
        if looked.damage:
            check_raises(folder, size)
        told, found, more, end = skipping(folder, size)
        read = [n for n, _ in found]
        assert bool(told) == bool(looked.damage)
        assert lost(told) == lost(looked.damage)
        assert read == sorted(set(read))
        assert found == [(n, WORDS[n]) for n in read]
        assert looked.entries == len(read)
        gone = set(range(COUNT)) - set(read)
        exact = all(one.exact for one in told)
        assert lost(told) <= gone
        if clean:
            assert exact
            assert lost(told) == gone
            assert more == COUNT
        elif gone != lost(told) and exact:  # torn: the very end, whose numbers are given again
            assert gone - lost(told) == set(range(end, COUNT))
        else:
            assert more >= COUNT
        again = skipping(folder, size)[0]
        assert lost(again) == lost(told), "the next log tells the same"
