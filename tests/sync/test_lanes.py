"""Long objects come in as ranges side by side, where the store does not do that by itself."""

import os
import random
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import LocalBackend, MemoryBackend, ops
from omnistorage.core import Features
from omnistorage.errors import ConfigError, CorruptData, PreconditionFailed, StorageError
from omnistorage.sync import SyncOptions, sync
from omnistorage.sync.execution import parallel_reader as lanes
from omnistorage.sync.execution.parallel_reader import LaneReader, suits

from ..backends import test_s3, test_sftp_conformance
from .stores import held

WAIT = 30


@pytest.fixture(autouse=True)
def short_lanes(monkeypatch):
    monkeypatch.setattr(lanes, "LANE", 1000)


class Counting(MemoryBackend):
    """Notes which ranges are opened; ``meet`` of them wait for each other."""

    meet = 0

    def _open_reader(self, path, options):
        self.__dict__.setdefault("opened", []).append((options.offset, options.length))
        reader = super()._open_reader(path, options)
        if self.meet:
            barrier = self.__dict__.setdefault("barrier", threading.Barrier(self.meet))
            real, first = reader.read, []

            def read(size=-1):
                if not first:
                    first.append(barrier.wait(WAIT))
                return real(size)

            reader.read = read
        return reader


def filled(data, kind=Counting):
    store = kind(dirs=False)
    ops.write_bytes(store, "long", data)
    return store


@given(st.integers(0, 9_500), st.integers(1, 5), st.integers(1, 3000))
def test_whatever_is_read_is_what_is_there(size, streams, step):
    data = random.Random(size).randbytes(size)
    store = filled(data)
    with LaneReader(store, store.stat("long"), streams) as reader:
        assert reader.info == store.stat("long")
        found = b""
        while block := reader.read(step):
            assert len(block) <= step
            found += block
        assert found == data
        assert reader.read(step) == b""
    with LaneReader(store, store.stat("long"), streams) as reader:
        assert reader.read(3) + reader.read() == data


def test_a_long_object_is_read_in_ranges_and_a_short_one_whole():
    data = os.urandom(10_500)
    store = filled(data)
    ops.write_bytes(store, "short", data[:4999])
    target = MemoryBackend()
    sync(store, target, multi_thread_cutoff=5000, multi_thread_streams=3)
    assert held(target) == {"long": data, "short": data[:4999]}
    assert set(store.opened) == {*((start, 1000) for start in range(0, 10_500, 1000)), (0, None)}
    assert len(store.opened) == 12


def test_as_many_ranges_as_streams_are_read_side_by_side():
    store = filled(os.urandom(4_000))
    store.meet = 4
    target = MemoryBackend()
    sync(store, target, multi_thread_cutoff=0, multi_thread_streams=4)
    assert held(target).keys() == {"long"}


def test_no_more_ranges_are_held_than_streams():
    store = filled(os.urandom(20_000))
    with LaneReader(store, store.stat("long"), 3) as reader:
        assert reader.read(10)
        reader._lookers._executor.submit(int).result(WAIT)
        for _ in range(5):
            reader.read(1000)
        assert max(offset for offset, _ in store.opened) <= 9_000
    assert threading.active_count() < 50


def test_an_object_that_is_replaced_meanwhile_is_not_published():
    store = filled(os.urandom(9_000))
    info = store.stat("long")
    with LaneReader(store, info, 2) as reader:
        reader.read(1000)
        ops.write_bytes(store, "long", os.urandom(9_000))
        with pytest.raises((PreconditionFailed, CorruptData)):
            while reader.read(1000):
                pass
    with pytest.raises(PreconditionFailed):
        LaneReader(store, info, 2)


def test_a_range_that_comes_short_is_corrupt():
    class Short(Counting):
        def _open_reader(self, path, options):
            reader = super()._open_reader(path, options)
            if options.offset == 3000:
                reader.read(1)
            return reader

    store, target = filled(os.urandom(5_000), Short), MemoryBackend()
    report = sync(store, target, multi_thread_cutoff=0, raise_errors=False)
    assert "a range of 1000 bytes came with 999" in str(report.failures[0].error)
    assert held(target) == {}


def test_an_error_in_a_range_is_the_readers_and_its_threads_end():
    class Failing(Counting):
        def _open_reader(self, path, options):
            if options.offset == 4000:
                raise StorageError("the third rail", path=path)
            return super()._open_reader(path, options)

    store, target = filled(os.urandom(8_000), Failing), MemoryBackend()
    report = sync(store, target, multi_thread_cutoff=0, raise_errors=False)
    assert "the third rail" in str(report.failures[0].error)
    assert held(target) == {}
    assert not [t for t in threading.enumerate() if t.name.startswith("omnistorage-lane") and t.is_alive()]


def test_stores_that_do_so_by_themselves_and_disks_are_left_alone(tmp_path):
    info = filled(bytes(5000)).stat("long")
    assert suits(MemoryBackend(dirs=False), info, 5000, 2)
    assert not suits(MemoryBackend(dirs=False), info, 5001, 2)
    assert not suits(MemoryBackend(dirs=False), info, 0, 1)
    assert not suits(LocalBackend(tmp_path), info, 0, 4)
    assert not suits(test_s3.fresh("moto"), info, 0, 4)
    assert not suits(MemoryBackend(dirs=False), info._replace(etag=None), 0, 4)
    assert not suits(MemoryBackend(dirs=False), info._replace(etag='W/"x"'), 0, 4)
    assert not suits(MemoryBackend(dirs=False), info._replace(size=None), 0, 4)
    slow = MemoryBackend(dirs=False)
    slow.features = Features(read=True, range_read=True)
    assert not suits(slow, info, 0, 4), "each range would cost the whole"


def test_files_whose_etag_is_made_of_size_and_time_are_read_in_one_stream():
    store = test_sftp_conformance.make("asyncssh")
    ops.write_bytes(store, "long", bytes(5000))
    assert not suits(store, store.stat("long"), 0, 4)
    assert not suits(MemoryBackend(), filled(bytes(5000)).stat("long"), 0, 4)


def test_a_store_that_looks_at_no_condition_is_looked_at():
    class Blind(Counting):
        def _open_reader(self, path, options):
            return super()._open_reader(path, replace(options, if_match=None))

    store = filled(os.urandom(9_000), Blind)
    info = store.stat("long")
    with LaneReader(store, info, 2) as reader:
        reader.read(1000)
        ops.write_bytes(store, "long", os.urandom(9_000))
        with pytest.raises(PreconditionFailed, match="changed"):
            while reader.read(1000):
                pass
    with pytest.raises(PreconditionFailed, match="changed"):
        LaneReader(store, info, 2)


def test_wrong_numbers_are_refused():
    for wrong in ({"multi_thread_streams": 0}, {"multi_thread_cutoff": -1}, {"multi_thread_streams": 1.5}):
        with pytest.raises(ConfigError):
            SyncOptions(**wrong)
