"""``SegmentLog``: nothing acknowledged is lost, nothing torn is read, nothing damaged is silent."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import stat
import subprocess
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from omnistorage import ConfigError, CorruptData, NotFound, PermissionDenied, StorageError, WriterClosed
from omnistorage.segments import SegmentLog
from omnistorage.testing.os_faults import FaultyOS

from .budget import FULL, pick
from .killed import killed


def entries(log, start=0):
    return list(log.read(start))


def segments(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".seg"))


def test_entries_come_back_in_order_with_their_numbers(tmp_path):
    with SegmentLog(tmp_path / "log", segment_bytes=100) as log:
        assert [log.append(b"%d" % n * n) for n in range(30)] == list(range(30))
        assert entries(log) == [(n, b"%d" % n * n) for n in range(30)]
        assert entries(log, 17) == [(n, b"%d" % n * n) for n in range(17, 30)]
        assert entries(log, 30) == []
        assert (log.first, log.next) == (0, 30)
    with SegmentLog(tmp_path / "log", segment_bytes=100) as log:
        assert log.append(b"more") == 30
        assert entries(log, 29) == [(29, b"29" * 29), (30, b"more")]
    assert len(segments(tmp_path / "log")) > 5


def test_sealed_segments_never_change_and_go_whole(tmp_path):
    with SegmentLog(tmp_path, segment_bytes=70) as log:
        for n in range(12):
            log.append(b"%05d" % n)
        before = {name: (tmp_path / name).read_bytes() for name in segments(tmp_path)[:-1]}
        log.append(b"x" * 50)
        log.seal()
        log.seal()
        log.append(b"y")
        assert {name: (tmp_path / name).read_bytes() for name in before} == before
        assert log.first == 0
        log.drop_before(7)
        assert log.first <= 7
        assert entries(log, 7)[0] == (7, b"00007")
        log.drop_before(1000)
        assert entries(log) == [(13, b"y")], "the tail stays"
    with SegmentLog(tmp_path) as log:
        assert (log.first, log.next) == (13, 14)


def test_goal_45_the_folder_is_0700_and_its_files_0600_under_any_umask(tmp_path):
    before = os.umask(0)
    try:
        with SegmentLog(tmp_path / "log") as log:
            log.append(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "log").iterdir()} == {0o600}


def test_a_second_log_on_the_same_folder_is_refused(tmp_path):
    with SegmentLog(tmp_path) as log:
        with pytest.raises(PermissionDenied, match="end that one first"):
            SegmentLog(tmp_path)
        log.append(b"x")
    with SegmentLog(tmp_path) as log:
        assert entries(log) == [(0, b"x")]


@pytest.mark.parametrize("cut", range(1, 38))
def test_a_torn_tail_is_cut_off_at_any_byte(tmp_path, cut):
    log = SegmentLog(tmp_path)
    log.append(b"whole")
    log.append(b"torn entry of 22 bytes")
    killed(tmp_path, log.close)
    tail = tmp_path / segments(tmp_path)[-1]
    tail.write_bytes(tail.read_bytes()[:-cut])
    with SegmentLog(tmp_path) as log:
        assert entries(log) == [(0, b"whole")]
        assert log.append(b"again") == 1
        assert entries(log) == [(0, b"whole"), (1, b"again")]


def test_a_hole_of_zeros_behind_the_end_is_cut_off(tmp_path):
    with SegmentLog(tmp_path) as log:
        log.append(b"whole")
    tail = tmp_path / segments(tmp_path)[-1]
    tail.write_bytes(tail.read_bytes() + bytes(5000))
    with SegmentLog(tmp_path) as log:
        assert entries(log) == [(0, b"whole")]


@pytest.mark.parametrize("size", [1, 20, 40, 5000])
def test_zeros_are_no_entries(tmp_path, size):
    """The size of the first entries was noted, and none of their data."""
    killed(tmp_path, SegmentLog(tmp_path).close)
    (tmp_path / segments(tmp_path)[-1]).write_bytes(bytes(size))
    with SegmentLog(tmp_path) as log:
        assert entries(log) == []
        log.append(b"")
        log.append(b"first")
        assert [data for _, data in entries(log)] == [b"", b"first"]


@pytest.mark.parametrize("kept", range(1, 38))
def test_the_beginning_of_an_entry_and_then_zeros_is_cut_off(tmp_path, kept):
    """The new size was noted, and of the data what the last write of the page before it held."""
    log = SegmentLog(tmp_path, fsync="record")
    log.append(b"whole")
    end = log.end
    log.append(b"torn entry of 22 bytes")
    killed(tmp_path, log.close)
    tail = tmp_path / segments(tmp_path)[-1]
    data = tail.read_bytes()
    tail.write_bytes(data[: end + kept] + bytes(len(data) - end - kept) + bytes(5000))
    with SegmentLog(tmp_path, fsync="record") as log:
        assert entries(log) == [(0, b"whole")]
        assert log.append(b"again") == 1


def test_damage_is_never_silent(tmp_path):
    """Every bit of a sealed segment; and of the tail, where the last entry may look torn."""
    with SegmentLog(tmp_path, segment_bytes=45) as log:
        for n in range(6):
            log.append(b"entry %d" % n)
    names = segments(tmp_path)
    whole = [(n, b"entry %d" % n) for n in range(6)]
    for name in (names[0], names[-1]):
        good = (tmp_path / name).read_bytes()
        for bit in range(len(good) * 8):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            (tmp_path / name).write_bytes(bad)
            try:
                with SegmentLog(tmp_path, segment_bytes=45) as log:
                    found = entries(log)
                assert name == names[-1]
                assert found == whole[: len(found)], bit
                assert len(found) >= 5, "only the last one may be taken for torn"
            except CorruptData:
                pass
            for left in set(segments(tmp_path)) - set(names):
                (tmp_path / left).unlink()
        (tmp_path / name).write_bytes(good)
    (tmp_path / names[1]).unlink()
    with SegmentLog(tmp_path) as log, pytest.raises(CorruptData, match="the next begins"):
        entries(log)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EACCES] if FULL else [errno.EIO])
@pytest.mark.parametrize("sticky", [False, True])
def test_a_fault_at_any_call_loses_nothing_acknowledged(tmp_path, error, sticky):
    at, done = 0, False
    while not done:
        at += 1
        folder = tmp_path / f"{sticky}{at}"
        faulty = FaultyOS(at=at, error=error, sticky=sticky)
        acknowledged, tried = [], []
        try:
            with SegmentLog(folder, segment_bytes=70, _os=faulty) as log:
                for n in range(8):
                    tried.append(b"entry %d" % n)
                    log.append(tried[-1])
                    acknowledged.append(tried[-1])
                entries(log)
            done = not faulty.failed
        except StorageError:
            pass
        with SegmentLog(folder) as log:
            found = [entry for _, entry in log.read()]
        assert found[: len(acknowledged)] == acknowledged
        assert found in (acknowledged, tried), (at, faulty.failed)
    assert at > 20


def test_short_writes_are_finished(tmp_path):
    with SegmentLog(tmp_path, _os=FaultyOS(error=None, short_writes=3)) as log:
        log.append(b"a longer entry")
    with SegmentLog(tmp_path) as log:
        assert entries(log) == [(0, b"a longer entry")]


def test_an_append_that_fails_leaves_the_log_as_it_was(tmp_path):
    faulty = FaultyOS(error=errno.ENOSPC, only=("write",))
    with SegmentLog(tmp_path, _os=faulty) as log:
        log.append(b"one")
        faulty.short_writes, faulty.at = 3, faulty.count + 2
        with pytest.raises(StorageError):
            log.append(b"two, which gets stuck half way")
        faulty.heal()
        assert log.append(b"three") == 1
        assert entries(log) == [(0, b"one"), (1, b"three")]


def test_goal_5_after_a_failed_sync_nothing_is_promised_and_nothing_synced_again(tmp_path):
    faulty = FaultyOS(only=("fsync",))
    log = SegmentLog(tmp_path, _os=faulty)
    log.append(b"one")
    faulty.at = faulty.count + 1
    with pytest.raises(StorageError):
        log.append(b"two")
    syncs = faulty.calls.count("fsync")
    for call in (lambda: log.append(b"x"), log.sync, log.seal, lambda: entries(log)):
        with pytest.raises(StorageError):
            call()
    assert faulty.calls.count("fsync") == syncs
    log.close()
    log.close()
    with pytest.raises(StorageError):
        log.append(b"x")


def test_the_folders_above_are_made_and_stay(tmp_path):
    watched = FaultyOS()
    SegmentLog(tmp_path / "a/b/log", _os=watched).close()
    made = [name for name in watched.calls if name in ("mkdir", "fsync")]
    assert made[:8] == [*["mkdir"] * 3, "fsync", "mkdir", "fsync", "mkdir", "fsync"]
    for folder in ("a", "a/b", "a/b/log"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
    SegmentLog(tmp_path / "a/b/log").close()


def test_what_cannot_be_is_refused(tmp_path):
    for options in ({"fsync": "never"}, {"segment_bytes": 0}, {"segment_bytes": 1.5}):
        with pytest.raises(ConfigError):
            SegmentLog(tmp_path, **options)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        SegmentLog(tmp_path / "file")
    (tmp_path / "dangling").symlink_to("nowhere")
    for folder in ("file/below", "dangling", "dangling/below", "dangling/deep/below"):
        with pytest.raises(StorageError):
            SegmentLog(tmp_path / folder)
    log = SegmentLog(tmp_path / "log")
    log.close()
    with pytest.raises(WriterClosed):
        log.append(b"x")


@pytest.mark.parametrize("fsync", ["record", "seal"])
def test_a_folder_that_was_removed_takes_no_entry_more(tmp_path, fsync):
    log = SegmentLog(tmp_path / "log", fsync=fsync)
    log.append(b"x")
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(NotFound):
        log.append(b"y")
        log.sync()
    with pytest.raises(NotFound):
        log.append(b"z")
    log.close()


KILLED = """
import sys
from omnistorage.segments import SegmentLog
log = SegmentLog(sys.argv[1], segment_bytes=5000)
while True:
    number = log.append(b"%d " % log.next * (log.next % 90 + 1))
    print(number, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    rng, kills = random.Random(3), pick(default=5, ci=40, soak=400)
    for _ in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as child:
            last, left = -1, rng.randrange(1, 60)
            for line in child.stdout:
                last, left = int(line), left - 1
                if not left:
                    os.kill(child.pid, signal.SIGKILL)
                    break
            last = max([last, *(int(line) for line in child.stdout.read().splitlines() if line)])
        with SegmentLog(tmp_path) as log:
            assert log.next > last
            for number, entry in log.read():
                assert entry == b"%d " % number * (number % 90 + 1)


class Machine(RuleBasedStateMachine):
    """Against a list: appends, seals, drops, and opening again."""

    @initialize(size=st.integers(1, 80))
    def start(self, size):
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.size, self.model, self.first = size, [], 0
        self.log = SegmentLog(self.folder.name, segment_bytes=size)

    @rule(data=st.binary(max_size=40))
    def append(self, data):
        assert self.log.append(data) == len(self.model)
        self.model.append(data)

    @rule()
    def seal(self):
        self.log.seal()

    @rule(number=st.integers(0, 60))
    def drop(self, number):
        self.log.drop_before(number)
        assert self.first <= self.log.first <= max(number, self.first)
        self.first = self.log.first

    @rule()
    def reopen(self):
        self.log.close()
        self.log = SegmentLog(self.folder.name, segment_bytes=self.size)

    @rule(start=st.integers(0, 60))
    def read(self, start):
        begin = max(start, self.first)
        found = [(n, d) for n, d in self.log.read(start) if n >= begin]
        assert found == list(enumerate(self.model))[begin:]

    @invariant()
    def numbers_agree(self):
        if hasattr(self, "log"):
            assert (self.log.first, self.log.next) == (self.first, len(self.model))

    def teardown(self):
        if hasattr(self, "log"):
            self.log.close()
            self.folder.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(stateful_step_count=30, deadline=None)
