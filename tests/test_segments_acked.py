"""What a log that is read while it grows needs: many entries at once, cursors, acknowledgements, and damage that one
can go on behind."""

from __future__ import annotations

import errno
import os
import random
import stat
from contextlib import nullcontext

import pytest

from omnistorage import ConfigError, CorruptData, NotFound, StorageError, WriterClosed
from omnistorage.posix import OS
from omnistorage.segments import ENTRY_HEAD, Damage, SegmentLog, examine
from omnistorage.testing.os_faults import FaultyOS, RecordingOS, counting

from .killed import killed


class Unsynced(OS):
    """For what is about bytes, not about power cuts."""

    fsync = staticmethod(lambda fd: None)


QUICK = {"_os": Unsynced()}
WORDS = [b"entry %d " % n * (n % 9 + 1) for n in range(200)]


def segments(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".seg"))


def entries(log, start=0):
    return [data for _, data in log.read(start)]


def drain(cursor):
    """All that a cursor gives now: the numbers and what they are."""
    found = {}
    while True:
        number, batch = cursor.take()
        if not batch:
            return found
        found.update(enumerate(batch, number))


# -- many at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 50, 1000, 1 << 20])
def test_many_entries_are_the_same_as_one_by_one(tmp_path, size):
    one = SegmentLog(tmp_path / "one", segment_bytes=size, **QUICK)
    with one, SegmentLog(tmp_path / "many", segment_bytes=size, **QUICK) as many:
        for data in WORDS:
            one.append(data)
        assert [many.append_many(WORDS[:70]), many.append_many([]), many.append_many(WORDS[70:])] == [0, 70, 70]
        assert entries(many) == WORDS
        assert one.size == many.size == sum(ENTRY_HEAD + len(data) for data in WORDS)
    assert segments(tmp_path / "one") == segments(tmp_path / "many")


def test_many_entries_are_one_write_and_one_sync(tmp_path):
    faulty = FaultyOS()
    with SegmentLog(tmp_path, _os=faulty) as log:
        before = (faulty.calls.count("write"), faulty.calls.count("fsync"))
        log.append_many(WORDS)
        assert (faulty.calls.count("write"), faulty.calls.count("fsync")) == (before[0] + 1, before[1] + 1)


def test_what_went_into_segments_before_an_error_stays_and_the_rest_does_not(tmp_path):
    faulty = FaultyOS(error=errno.ENOSPC, only=("write",))
    with SegmentLog(tmp_path, segment_bytes=500, _os=faulty) as log:
        faulty.at = faulty.count + 3  # between the two segments stands the note of the newest
        with pytest.raises(StorageError):
            log.append_many(WORDS)
        kept = log.next
        assert 0 < kept < 200
        faulty.heal()
        log.append_many(WORDS[kept:])
        assert entries(log) == WORDS


def test_an_entry_of_any_size_is_read_back(tmp_path):
    sizes = [0, 1, (1 << 18) - ENTRY_HEAD, 1 << 18, (1 << 18) + 1, 1_000_000, 3]
    with SegmentLog(tmp_path, segment_bytes=1 << 20) as log:
        log.append_many([bytes(size) for size in sizes])
        assert [len(data) for data in entries(log)] == sizes
        assert [len(data) for data in entries(log, 4)] == sizes[4:]
    with SegmentLog(tmp_path, segment_bytes=1 << 20) as log:
        assert [len(data) for data in entries(log)] == sizes


# -- cursors -----------------------------------------------------------------------------------------------------------


def test_a_cursor_reads_what_is_appended_behind_it(tmp_path):
    rng = random.Random(5)
    with SegmentLog(tmp_path, segment_bytes=300) as log:
        cursor, found, put = log.cursor(3), {}, 0
        while put < 200:
            many = rng.randrange(1, 12)
            log.append_many(WORDS[put : put + many])
            put = log.next
            if rng.random() < 0.5:
                found.update(drain(cursor))
            if rng.random() < 0.1:
                log.seal()
            log.acknowledge(cursor.number - 1)
        found.update(drain(cursor))
        cursor.close()
    assert found == dict(enumerate(WORDS[3:], 3))


def test_a_cursor_skips_what_was_dropped(tmp_path):
    with SegmentLog(tmp_path, segment_bytes=300) as log:
        cursor = log.cursor()
        log.append_many(WORDS[:100])
        number, batch = cursor.take()
        log.acknowledge(79)
        assert (number, batch[0]) == (0, WORDS[0])
        found = drain(cursor)
        assert min(found) == log.first > len(batch)
        assert found == dict(enumerate(WORDS[log.first : 100], log.first))
        cursor.close()


def test_a_log_begins_with_the_number_it_is_told_once(tmp_path):
    for start in (1000, 7):
        with SegmentLog(tmp_path, start=start) as log:
            assert log.append(b"x") >= 1000
    with SegmentLog(tmp_path) as log:
        assert [number for number, _ in log.read()] == [1000, 1001]


# -- acknowledged ------------------------------------------------------------------------------------------------------


def test_what_is_acknowledged_is_remembered_and_dropped(tmp_path):
    with SegmentLog(tmp_path, segment_bytes=300) as log:
        assert log.acked is None
        log.append_many(WORDS[:100])
        for number in (-1, 10, 9, 55):
            log.acknowledge(number)
        assert log.acked == 55
        assert log.first <= 56
    with SegmentLog(tmp_path, segment_bytes=300) as log:
        assert (log.acked, log.next) == (55, 100)
        assert entries(log, 56) == WORDS[56:100]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("slot", ["acked.0", "acked.1"])
def test_a_torn_acknowledgement_leaves_the_one_before(tmp_path, slot):
    with SegmentLog(tmp_path, **QUICK) as log:
        log.append_many(WORDS)
        for number in range(10):
            log.acknowledge(number)
    written = (tmp_path / slot).read_bytes()
    for cut in range(len(written) - 1):
        (tmp_path / slot).write_bytes(written[:cut])
        with SegmentLog(tmp_path, **QUICK) as log:
            assert log.acked == (8 if slot == "acked.1" else 9)
    for bit in range(8 * (len(written) - 1)):
        bad = bytearray(written)
        bad[bit // 8] ^= 1 << bit % 8
        (tmp_path / slot).write_bytes(bad)
        with SegmentLog(tmp_path, **QUICK) as log:
            assert log.acked in (8, 9)


def test_an_acknowledgement_that_fails_keeps_the_one_before_and_every_entry(tmp_path):
    for at, faulty in enumerate(
        counting(lambda faulty: acknowledge_ten(tmp_path, faulty), error=errno.ENOSPC, short_writes=7)
    ):
        with SegmentLog(tmp_path / f"{faulty.at}") as log:
            kept = -1 if log.acked is None else log.acked
            assert kept >= faulty.told, at
            assert entries(log, kept + 1) == WORDS[kept + 1 : log.next]
            assert kept < log.next
    assert at > 25


def acknowledge_ten(folder, faulty):
    faulty.told = -1
    try:
        with SegmentLog(folder / f"{faulty.at}", segment_bytes=100) as log:
            log.append_many(WORDS[:5])
            log.acknowledge(0)
            faulty.told = 0
        with SegmentLog(folder / f"{faulty.at}", segment_bytes=100, _os=faulty) as log:
            log.append_many(WORDS[5:10])
            for number in range(1, 5):
                log.acknowledge(number)
                faulty.told = number
    except StorageError:
        pass


@pytest.mark.parametrize("again", [True, False], ids=["goes on", "opens again"])
def test_segments_that_a_cut_short_acknowledgement_left_go_with_the_next_one(tmp_path, again):
    faulty = FaultyOS(at=1, only=("unlink",))
    with SegmentLog(tmp_path, segment_bytes=300, _os=faulty) as log:
        log.append_many(WORDS[:100])
        with pytest.raises(StorageError):
            log.acknowledge(50)
        if again:
            log.acknowledge(50)
            assert log.first > 40
    with SegmentLog(tmp_path, segment_bytes=300) as log:
        assert log.acked == 50
        log.acknowledge(10)
        assert 40 < log.first <= 51
        assert entries(log, 51) == WORDS[51:100]


def test_an_acknowledgement_is_synced_before_anything_is_dropped(tmp_path):
    recording = RecordingOS()
    with SegmentLog(tmp_path, segment_bytes=100, _os=recording) as log:
        log.append_many(WORDS[:50])
        del recording.events[:]
        log.acknowledge(30)
    kinds = [event.kind for event in recording.events]
    assert kinds.index("write") < kinds.index("fsync") < kinds.index("unlink")
    written = recording.events[kinds.index("write")].inode
    assert any(event.kind == "fsync" and event.inode == written for event in recording.events[: kinds.index("unlink")])


def test_what_is_found_is_synced_before_anything_is_added(tmp_path):
    """Whoever wrote it may have been killed before that: the folder itself, the names in it, what was noted."""
    folder = tmp_path / "log"
    for life in range(2):
        recording = RecordingOS()
        with SegmentLog(folder, _os=recording) as log:
            opened = {event.inode for event in recording.events if event.kind == "fsync"}
            names = sorted(os.listdir(folder))
            log.append(b"x")
            log.acknowledge(0)
        for path in (tmp_path, folder, *([folder / name for name in names if name != "lock"] if life else [])):
            assert path.stat().st_ino in opened, path


@pytest.mark.parametrize(("error", "opens"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_folder_above_that_cannot_be_synced_at_all_is_no_hindrance(tmp_path, error, opens):
    faulty = FaultyOS(at=1, error=error, only=("fsync",))
    with nullcontext() if opens else pytest.raises(StorageError), SegmentLog(tmp_path / "log", _os=faulty) as log:
        log.append(b"x")
    assert faulty.failed == ["fsync"]


def test_a_number_is_never_given_twice_even_if_the_end_was_lost(tmp_path):
    log = SegmentLog(tmp_path)
    log.append_many(WORDS[:10])
    log.acknowledge(7)
    killed(tmp_path, log.close)
    tail = tmp_path / segments(tmp_path)[0]
    tail.write_bytes(tail.read_bytes()[:40])
    with SegmentLog(tmp_path) as log:
        assert log.append(b"new") == 8
        assert entries(log, 8) == [b"new"]


# -- damage ------------------------------------------------------------------------------------------------------------


def broken(folder, at, change, size=300, *, clean=True):
    """A log of 50 entries whose segment number ``at`` was changed; the damage that opening and reading it tells, and
    what could be read."""
    log = SegmentLog(folder, segment_bytes=size, **QUICK)
    log.append_many(WORDS[:50])
    if clean:
        log.close()
    else:
        killed(folder, log.close)
    path = folder / segments(folder)[at]
    change(path)
    told = []
    with SegmentLog(folder, segment_bytes=size, on_damage=told.append, **QUICK) as log:
        cursor = log.cursor()
        found = drain(cursor)
        cursor.close()
        more = log.append(b"more")
    return told, found, more


def flipped(place):
    def change(path):
        data = bytearray(path.read_bytes())
        data[place] ^= 0x10
        path.write_bytes(data)

    return change


def lost(told):
    return {number for one in told for number in range(one.first, one.last + 1)}


@pytest.mark.parametrize("at", [0, 2, -1])
def test_a_flipped_bit_in_an_entry_costs_that_entry_and_its_number_is_told(tmp_path, at):
    told, found, more = broken(tmp_path, at, flipped(14))
    assert len(lost(told)) == 1
    assert found == {n: WORDS[n] for n in set(range(50)) - lost(told)}
    assert more == 50


def test_a_flipped_bit_in_a_length_costs_that_entry_alone(tmp_path):
    told, found, more = broken(tmp_path, 1, flipped(2))
    assert len(lost(told)) == 1
    assert found == {n: WORDS[n] for n in set(range(50)) - lost(told)}
    assert (more, {one.why for one in told}) == (50, {"the head of an entry is damaged"})


@pytest.mark.parametrize("clean", [True, False])
def test_a_flipped_bit_in_the_last_length_gives_no_number_twice(tmp_path, clean):
    last = ENTRY_HEAD + len(WORDS[49])
    told, found, more = broken(tmp_path, 0, flipped(-last + 2), 1 << 20, clean=clean)
    assert (told[0].first, told[0].exact, lost(told)) == (49, clean, {49} if clean else set())
    assert found == dict(enumerate(WORDS[:49]))
    assert more >= 50


def test_a_missing_segment_is_told_with_its_numbers(tmp_path):
    for at in (0, 1, -2):
        folder = tmp_path / str(at)
        with SegmentLog(folder) as log:
            log.acknowledge(-1)
        told, found, _ = broken(folder, at, os.unlink)
        assert len(lost(told)) >= 3
        assert found == {n: WORDS[n] for n in set(range(50)) - lost(told)}


@pytest.mark.parametrize("gone", [1, 2, 100], ids=["the newest", "the newest two", "all"])
@pytest.mark.parametrize("acked", [None, 20, 46])
def test_newest_segments_that_are_missing_are_told_and_no_number_is_given_twice(tmp_path, gone, acked):
    with SegmentLog(tmp_path, segment_bytes=300) as log:
        log.append_many(WORDS[:50])
        if acked is not None:
            log.acknowledge(acked)
        firsts = list(log.firsts)
    names = segments(tmp_path)
    for name in names[-gone:]:
        (tmp_path / name).unlink()
    first_lost = max(firsts[-gone] if gone < len(names) else firsts[0] if acked is None else 0, (acked or -1) + 1)
    wanted = Damage(first_lost, 49, str(tmp_path), None, "the newest segments are missing")
    assert wanted in examine(tmp_path).damage
    with pytest.raises(CorruptData, match="the newest segments are missing"):
        SegmentLog(tmp_path, segment_bytes=300)
    told = []
    with SegmentLog(tmp_path, segment_bytes=300, on_damage=told.append) as log:
        assert wanted in told
        assert log.append(b"new") >= 50
        got = [data for _, data in log.read((acked or -1) + 1)]
    assert got == [*WORDS[(acked or -1) + 1 : first_lost], b"new"]
    told.clear()
    with SegmentLog(tmp_path, on_damage=told.append) as log:
        assert log.next > 50
    assert not [one for one in told if "newest" in one.why]
    assert not [one for one in examine(tmp_path).damage if "newest" in one.why]


def test_a_note_of_the_newest_segment_that_is_old_or_unreadable_alarms_nobody(tmp_path):
    with SegmentLog(tmp_path, segment_bytes=300) as log:
        log.append_many(WORDS[:20])
    old = (tmp_path / "lock").read_bytes()
    with SegmentLog(tmp_path, segment_bytes=300) as log:
        log.append_many(WORDS[20:50])
        log.acknowledge(30)
    for text in (old, b"", old[:30], b"9" * 20 + old[20:], b"9" * 60):
        (tmp_path / "lock").write_bytes(text)
        assert examine(tmp_path).damage == []
        with SegmentLog(tmp_path, segment_bytes=300) as log:
            assert entries(log, 31) == WORDS[31:50]


def test_a_note_that_cannot_be_written_harms_nobody(tmp_path):
    faulty = FaultyOS(error=errno.ENOSPC, only=("write",))
    with SegmentLog(tmp_path, segment_bytes=300, _os=faulty) as log:
        log.append_many(WORDS[:3])
        faulty.at = faulty.count + 1
        log.seal()
        log.append_many(WORDS[3:9])
        assert entries(log) == WORDS[:9]


def test_what_cannot_be_told_from_a_torn_end_is_cut_off_and_nothing_else(tmp_path):
    for cut in range(1, 40):
        folder = tmp_path / str(cut)
        told, found, more = broken(
            folder, -1, lambda path, cut=cut: path.write_bytes(path.read_bytes()[:-cut]), 1 << 20, clean=False
        )
        assert told == []
        assert list(found.values()) == WORDS[: len(found)]
        assert more == len(found) >= 47


@pytest.mark.parametrize("skips", [False, True])
def test_no_flipped_bit_is_silent(tmp_path, skips):
    """Every bit of a small log: what is not read is told, unless it is the very end."""
    words = [b"a", b"bb", b"ccc", b"dddd", b"ee", b"f"]
    with SegmentLog(tmp_path, segment_bytes=40, **QUICK) as log:
        log.append_many(words)
        log.acknowledge(-1)
    names = segments(tmp_path)
    good = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        for bit in range(8 * len(good[name])):
            for restored in names:
                (tmp_path / restored).write_bytes(good[restored])
            bad = bytearray(good[name])
            bad[bit // 8] ^= 1 << bit % 8
            (tmp_path / name).write_bytes(bad)
            told = []
            try:
                with SegmentLog(
                    tmp_path, segment_bytes=40, **QUICK, **({"on_damage": told.append} if skips else {})
                ) as log:
                    found = dict(log.read())
            except CorruptData as error:
                told.append(error)
                found = {}
            else:
                gone = {n for n in range(6) if n not in found}
                assert gone == lost(told), (name, bit)
            assert not (skips and told and isinstance(told[0], CorruptData))
            assert all(found[n] == words[n] for n in found)
            for left in set(segments(tmp_path)) - set(names):
                (tmp_path / left).unlink()


def test_acknowledgements_that_cannot_be_read_are_told(tmp_path):
    with SegmentLog(tmp_path) as log:
        log.append_many(WORDS[:5])
        log.acknowledge(1)
        log.acknowledge(3)
    for slot in ("acked.0", "acked.1"):
        (tmp_path / slot).write_bytes(b"junk")
    with pytest.raises(CorruptData, match="what was acknowledged cannot be read"):
        SegmentLog(tmp_path)
    told = []
    with SegmentLog(tmp_path, on_damage=told.append) as log:
        assert (log.acked, entries(log)) == (None, WORDS[:5])
    assert len(told) == 1


def test_a_lock_that_a_forked_child_copied_ends_with_the_parents_close(tmp_path):
    log = SegmentLog(tmp_path)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            with pytest.raises(WriterClosed):
                log.append(b"x")
            os.read(read, 1)
            code = 0
        finally:
            os._exit(code)
    try:
        log.close()
        SegmentLog(tmp_path).close()
    finally:
        os.write(write, b"x")
        status = os.waitpid(child, 0)[1]
        os.close(read)
        os.close(write)
    assert status == 0


# -- looking without opening -------------------------------------------------------------------------------------------


def test_a_log_can_be_looked_at_while_it_is_open(tmp_path):
    with SegmentLog(tmp_path, segment_bytes=300) as log:
        log.append_many(WORDS[:50])
        log.acknowledge(20)
        seen = examine(tmp_path)
        assert (seen.first, seen.entries, seen.oldest, seen.open, seen.damage) == (21, 29, WORDS[21], True, [])
        assert seen.size == sum(map(len, WORDS[21:50]))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with open(tmp_path / segments(tmp_path)[-1], "ab") as tail:
        tail.write(b"torn")
    seen = examine(tmp_path)
    assert (seen.entries, seen.torn, seen.open) == (29, 4, False)
    assert {path.name for path in tmp_path.iterdir()} == set(before), "nothing is changed"


def test_a_look_tells_the_damage_that_a_reader_will_meet(tmp_path):
    with SegmentLog(tmp_path, segment_bytes=300) as log:
        log.append_many(WORDS[:50])
        log.acknowledge(-1)
    names = segments(tmp_path)
    flipped(14)(tmp_path / names[0])
    flipped(2)(tmp_path / names[2])
    os.unlink(tmp_path / names[4])
    looked = examine(tmp_path)
    told = []
    with SegmentLog(tmp_path, on_damage=told.append) as log:
        found = dict(log.read())
    assert lost(looked.damage) == lost(told)
    assert looked.entries == len(found)
    os.unlink(tmp_path / names[0])
    assert lost(examine(tmp_path).damage) > lost(told)


def test_where_no_log_is_there_is_nothing_to_see(tmp_path):
    assert examine(tmp_path) == (0, 0, 0, None, 0, [], False)
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(NotFound, match=r"no log|No such"):
            examine(path)
    with pytest.raises(StorageError):
        examine(tmp_path / "file")


def test_what_cannot_be_is_refused(tmp_path):
    with SegmentLog(tmp_path) as log:

        class Huge(bytes):
            def __len__(self):
                return 1 << 31

        with pytest.raises(ConfigError, match="at most"):
            log.append(Huge())


class CutShort(FaultyOS):
    """The next write takes all but the last byte, and then there is no room."""

    left = None

    def _call(self, name, real, args, kwargs):
        if name == "write" and self.left is not None:
            if not self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.left -= 1
            args = (args[0], memoryview(args[1])[:-1])
        return super()._call(name, real, args, kwargs)


def test_a_number_that_is_there_was_noted(tmp_path):
    """All slots end alike: a write that lacks the last byte has written everything."""
    disk = CutShort(error=None)
    with SegmentLog(tmp_path, _os=disk) as log:
        log.append_many([b"a", b"b", b"c"])
        log.acknowledge(0)
        disk.left = 1
        log.acknowledge(1)
        assert log.acked == 1
        disk.left = None
    with SegmentLog(tmp_path) as log:
        assert log.acked == 1


@pytest.mark.parametrize("left", [None, b"", b"0000"])
@pytest.mark.parametrize("slot", ["acked.0", "acked.1"])
def test_a_slot_that_a_kill_prevented_is_made_when_the_log_is_opened(tmp_path, slot, left):
    with SegmentLog(tmp_path) as log:
        log.append_many([b"a", b"b", b"c"])
        log.acknowledge(1)
    (tmp_path / slot).unlink()
    if left is not None:
        (tmp_path / slot).write_bytes(left)
    with SegmentLog(tmp_path) as log:
        assert log.acked == 1
    assert (tmp_path / "acked.0").read_bytes() == (tmp_path / "acked.1").read_bytes()
