"""What reading the last parts of the engine once more brought to light: each was wrong once."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from omnistorage import LocalBackend, MemoryBackend, ops
from omnistorage.backends.s3.client import S3Client
from omnistorage.core import CopyOptions, WriteOptions
from omnistorage.errors import CapabilityNotSupported, ConfigError, NotFound, PermissionDenied, PreconditionFailed
from omnistorage.sync import Filter, Plan, copy, move, run, sync
from omnistorage.sync.execution import parallel_reader as lanes
from omnistorage.sync.execution.parallel_reader import LaneReader, suits
from omnistorage.sync.execution.partitions import execute, prepare, run_partition
from omnistorage.wrappers import Observe, Prefix

from ..backends import test_s3, test_sftp_conformance
from ..waiting import until
from .stores import held
from .test_folder_times import folders, left_to_do, stamp, tree, write  # noqa: F401  (a fixture)
from .test_resumed_uploads import LONG, killed_after, parts_sent, place, proxy, store  # noqa: F401  (fixtures)

# ruff: noqa: F811  (fixtures are arguments)


@pytest.fixture
def long(tmp_path):
    """A long file, and where its plan goes."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "long").write_bytes(os.urandom(LONG))
    return source, tmp_path / "plan"


# -- uploads that go on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [pytest.param(None, marks=pytest.mark.ci_only), b"old"])
def test_an_upload_that_goes_on_replaces_nothing_that_came_meanwhile(long, store, proxy, before):
    source, plan = long
    if before is not None:
        ops.write_bytes(store, "long", before)
    prepare(source, place(store), plan)
    killed_after(proxy, plan, 3)
    ops.write_bytes(store, "long", b"somebody else's")
    report = execute(plan, raise_errors=False)
    assert report.failed == 1
    assert ops.read_bytes(store, "long") == b"somebody else's"


def test_nobody_goes_on_with_the_upload_of_one_who_lives(long, store, proxy):
    source, plan = long
    prepare(source, place(store), plan)
    proxy.forget()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run_partition, str(plan), 0, 0)
        until(lambda: len(parts_sent(proxy)) >= 2)
        second = pool.submit(run_partition, str(plan), 0, 1)
        results = first.result(), second.result()
    assert [result["failed"] for result in results] == [0, 0]
    assert ops.read_bytes(store, "long") == (source / "long").read_bytes()


@pytest.mark.ci_only
def test_who_may_not_list_parts_begins_anew(long, store, proxy, monkeypatch):
    source, plan = long
    prepare(source, place(store), plan)
    killed_after(proxy, plan, 3)

    def refused(*args):
        raise PermissionDenied("AccessDenied")

    monkeypatch.setattr(S3Client, "tagged", refused)
    assert execute(plan).copied == 1
    assert ops.read_bytes(store, "long") == (source / "long").read_bytes()


# -- ranges side by side -----------------------------------------------------------------------------------------------


def test_a_file_is_not_read_in_ranges_as_its_etag_is_its_size_and_time(tmp_path):
    sftp = test_sftp_conformance.make("asyncssh")
    ops.write_bytes(sftp, "long", bytes(100))
    info = sftp.stat("long")._replace(size=1 << 40)
    assert info.etag is not None
    assert not suits(sftp, info, 0, 4)
    assert not suits(MemoryBackend(), info, 0, 4)
    assert suits(MemoryBackend(dirs=False), info, 0, 4)


def test_a_range_of_another_version_is_noticed_where_nobody_looks_at_conditions(monkeypatch):
    monkeypatch.setattr(lanes, "LANE", 1000)

    class Careless(MemoryBackend):
        def _open_reader(self, path, options):
            return super()._open_reader(path, type(options)(options.offset, options.length))

    source, target = Careless(dirs=False), MemoryBackend()
    ops.write_bytes(source, "long", b"1" * 20_000)
    info = source.stat("long")
    with LaneReader(source, info, 2) as reader:
        reader.read(500)
        ops.write_bytes(source, "long", b"2" * 20_000)
        with pytest.raises(PreconditionFailed):
            while reader.read(500):
                pass
    with pytest.raises(PreconditionFailed):
        LaneReader(source, info, 2)
    assert sync(source, target, multi_thread_cutoff=0).ok
    assert held(target) == {"long": b"2" * 20_000}


def test_a_store_whose_readers_know_no_etag_is_read_as_one_stream():
    class Silent(MemoryBackend):
        def _open_reader(self, path, options):
            if options.if_match is not None:
                raise CapabilityNotSupported("no etag to compare", capability="if_match", path=path)
            reader = super()._open_reader(path, options)
            reader._info = reader._info._replace(etag=None)
            return reader

    source, target = Silent(dirs=False), MemoryBackend()
    source.features = replace(source.features, if_match=False)
    ops.write_bytes(source, "long", bytes(20_000_000))
    assert sync(source, target, multi_thread_cutoff=0).copied == 1


def test_a_bandwidth_holds_for_what_is_read_too(monkeypatch):
    monkeypatch.setattr(lanes, "LANE", 1000)
    opened = []

    class Counting(MemoryBackend):
        def _open_reader(self, path, options):
            opened.append((options.offset, options.length))
            return super()._open_reader(path, options)

    source = Counting(dirs=False)
    ops.write_bytes(source, "long", bytes(5_000))
    assert sync(source, MemoryBackend(), multi_thread_cutoff=0, bwlimit="100M").ok
    assert opened == [(0, None)]


def test_a_wrapper_tells_what_the_backend_does_by_itself(tmp_path):
    local, s3 = LocalBackend(tmp_path), test_s3.fresh("moto")
    for wrapped, plain in (
        (Observe(local, print), local),
        (Prefix(s3, "a"), s3),
        (Prefix(Observe(s3, print), "a"), s3),
    ):
        assert getattr(wrapped, "instant", False) == getattr(plain, "instant", False)
        assert getattr(wrapped, "concurrency", None) == getattr(plain, "concurrency", None)
    assert not hasattr(Prefix(MemoryBackend(), "a"), "concurrency")


# -- folder times ------------------------------------------------------------------------------------------------------


def test_a_second_move_leaves_the_times_of_folders_that_it_moves_nothing_into(tree):
    source, target = tree
    wanted = folders(source)
    move(source, target)
    assert folders(target) == wanted
    write(source, "d/another", "x", age=9)
    move(source, target)
    assert {path: time for path, time in folders(target).items() if path != "d"} == {
        path: time for path, time in wanted.items() if path != "d"
    }


def test_folders_that_a_rename_makes_have_their_times(tree):
    source, target = tree
    sync(source, target)
    (source / "n" / "o").mkdir(parents=True)
    (source / "a" / "b" / "c" / "x").rename(source / "n" / "o" / "x")
    for path in folders(source):
        stamp(source / path, 4)
    settings = {"delete": True, "max_delete": "100%", "track_renames": "modtime,leaf"}
    report = sync(source, target, **settings)
    assert report.renamed == 1
    assert folders(target).items() <= folders(source).items()
    assert left_to_do(source, target, **settings) == []


def test_a_folder_that_the_filter_leaves_out_keeps_its_time(tree):
    source, target = tree
    sync(source, target)
    for path in folders(source):
        stamp(source / path, 30)
    before = folders(target)
    sync(source, target, filter=Filter.parse(["- /d/"]))
    after = folders(target)
    assert after["d"] == before["d"]
    assert after["a"] == folders(source)["a"]


def test_a_plan_on_disk_sets_times_though_something_cannot_be_synced(tree, tmp_path):
    source, target = tree
    write(source, "clash", "file")
    write(target, "clash/inner", "folder")
    write(target, "gone", "x")
    prepare(source, target, tmp_path / "plan", delete=True)
    report = execute(tmp_path / "plan", raise_errors=False)
    assert (report.failed, report.deleted, report.blocked) == (1, 0, 2 if report.blocked == 2 else report.blocked)
    assert (target / "gone").exists()
    assert folders(target).items() >= folders(source).items()


def test_a_folder_that_belongs_to_somebody_else_is_a_warning(tree, monkeypatch):
    source, target = tree

    def refused(self, path, modified_at):
        raise PermissionDenied("operation not permitted", path=path)

    monkeypatch.setattr(LocalBackend, "set_folder_time", refused)
    report = sync(source, target)
    assert report.ok
    assert report.folder_times == 0
    assert any("no_folder_times" in text for text in report.warnings)


def test_who_declines_a_change_declines_the_times_of_folders(tree):
    source, target = tree
    write(target, "d/z", "other", age=2)
    before = folders(target)
    with Plan(source, target) as made:
        assert run(made, confirm=lambda action: False).folder_times == 0
    assert folders(target) == before


# -- without threads ---------------------------------------------------------------------------------------------------


def test_one_transfer_at_a_time_is_one_whatever_its_size(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a-large").write_bytes(bytes(2_000_000))
    for number in range(60):
        (source / f"b{number:02}").write_text("x")
    running, most, lock = [0], [0], threading.Lock()
    real = LocalBackend.open_writer

    def counted(self, *args):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        writer = real(self, *args)
        publish = writer._publish

        def published():
            with lock:
                running[0] -= 1
            return publish()

        writer._publish = published
        return writer

    monkeypatch.setattr(LocalBackend, "open_writer", counted)
    assert sync(source, tmp_path / "target", transfers=1).copied == 61
    assert most == [1]


# -- stores ------------------------------------------------------------------------------------------------------------


def test_a_source_that_is_not_there_is_named_by_a_copy_with_conditions():
    with test_s3.fresh("seaweedfs") as store:
        with pytest.raises(NotFound) as caught:
            store.copy("nothing", "new", CopyOptions(overwrite=False, source_if_match="0" * 32))
        assert caught.value.path == "nothing"


def test_what_the_sdk_would_refuse_is_refused():
    with test_s3.fresh("moto") as store:
        for extra in ({"s3.acl": 5}, {"s3.sse_kms_key_id": {}}):
            with pytest.raises(ConfigError):
                ops.write_bytes(store, "x", b"data", WriteOptions(extra=extra))


def test_copies_of_a_copy_find_nothing_to_do(tree):
    source, target = tree
    assert copy(source, target).ok
    assert left_to_do(source, target) == []
    assert timedelta(0) == max(abs(folders(source)[path] - time) for path, time in folders(target).items())
