"""What a reading of the engine with fresh eyes found in how plans are carried out; a test for each."""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    Cancelled,
    ConfigError,
    MemoryBackend,
    NotFound,
    Prefix,
    StorageError,
    WriteOptions,
    ops,
)
from omnistorage.concurrency.cancellation import Clock
from omnistorage.concurrency.retry import Backoff
from omnistorage.sync import Filter, copy_file, move, move_file, plan, run, sync
from omnistorage.sync.execution import partitions
from omnistorage.sync.listing.lookup_pool import Lookers
from omnistorage.sync.planning.comparison import digest
from omnistorage.testing import Faulty

from ..waiting import LIMIT

MONDAY = datetime(2026, 6, 1, tzinfo=UTC)


def put(store, path, data=b"x", when=MONDAY):
    return ops.write_bytes(store, path, data, WriteOptions(modified_at=when))


def blind(dirs=True):
    """A store that knows no conditions."""
    store = MemoryBackend(dirs=dirs)
    store.features = replace(store.features, create_only=False, if_match=False)
    return store


class Clockwork(Clock):
    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    def wait(self, seconds, wake):
        self.time += seconds


def test_a_rename_by_name_alone_does_not_pass_for_the_same_content():
    src, dst = MemoryBackend(), MemoryBackend()
    put(src, "new/f", b"AAAAA", MONDAY + timedelta(days=1))
    put(dst, "old/f", b"BBBBB")
    settings = {"delete": True, "max_delete": "100%", "track_renames": "leaf"}
    report = sync(src, dst, **settings)
    assert (report.renamed, report.copied) == (0, 1)
    assert dst.peek("new/f") == b"AAAAA"


@pytest.mark.parametrize("server_side", [False, True])
def test_what_appeared_since_the_listing_is_looked_for_where_a_store_has_no_condition_for_it(server_side):
    src, dst = blind(dirs=False), blind(dirs=False)
    size = 2 << 20 if server_side else 10
    put(src, "f", b"s" * size)
    made = plan(Faulty(src) if not server_side else src, dst)
    actions = iter(list(made))
    put(dst, "f", b"somebody else's")
    made.__class__.__iter__, kept = (lambda self: actions), made.__class__.__iter__
    try:
        report = run(made, raise_errors=False)
    finally:
        made.__class__.__iter__ = kept
    assert report.failed == 1
    assert dst.peek("f") == b"somebody else's"


def test_a_rename_overwrites_nothing_that_appeared():
    src, dst = MemoryBackend(), blind()
    put(src, "new", b"same")
    put(dst, "old", b"same")

    class Late(Faulty):
        def _before(self, op, number):
            if op == "move":
                pytest.fail("it was not looked for")

        def _call(self, op, run):
            if op == "stat" and dst.peek("new") is None:
                put(dst, "new", b"somebody else's")
            return super()._call(op, run)

    report = sync(src, Late(dst), delete=True, max_delete=5, track_renames="modtime", raise_errors=False)
    assert report.failed == 1
    assert dst.peek("new") == b"somebody else's"
    assert dst.peek("old") == b"same"


def test_a_source_that_promises_nothing_is_looked_at_again_before_its_copy_is_published():
    store = MemoryBackend(dirs=False)
    store.features = replace(store.features, if_match=False, atomic_write=False)
    put(store, "f", b"a" * 100)

    class Changing(Faulty):
        def _call(self, op, run):
            answer = super()._call(op, run)
            if op == "read" and answer:
                put(store, "f", b"b" * 100, MONDAY + timedelta(seconds=5))
            return answer

    dst = MemoryBackend()
    report = sync(Changing(store), dst, raise_errors=False)
    assert report.failed == 1
    assert dst.peek("f") is None


def test_a_partition_that_was_lost_holds_up_the_deletions_even_with_ignore_errors(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "t").mkdir()
    (tmp_path / "s" / "new").write_text("new")
    (tmp_path / "t" / "old").write_text("old")
    settings = {"delete": True, "max_delete": 5, "ignore_errors": True}
    partitions.prepare(tmp_path / "s", tmp_path / "t", tmp_path / "p", **settings)

    class Deadly(ThreadPoolExecutor):
        def submit(self, fn, where, part, *more):
            future = Future()
            future.set_exception(RuntimeError("killed"))
            return future if part == 0 else super().submit(fn, where, part, *more)

    with Deadly(1) as executor:
        report = partitions.execute(tmp_path / "p", executor, raise_errors=False)
    assert not report.ok
    assert (tmp_path / "t" / "old").exists()
    assert partitions.resume(tmp_path / "p").ok
    assert os.listdir(tmp_path / "t") == ["new"]


def test_a_plan_has_no_limits_of_one_run(tmp_path):
    (tmp_path / "s").mkdir()
    for limit in ({"max_transfer": 1000}, {"max_duration": 5}):
        with pytest.raises(ConfigError, match="leave them out"):
            partitions.prepare(tmp_path / "s", tmp_path / "t", tmp_path / "p", **limit)


@pytest.mark.parametrize("settings", [{"move": True}, {"ignore_times": True}, {"ignore_existing": True}, {}])
def test_resuming_without_any_note_ends_whatever_the_rule_is(tmp_path, settings):
    """All was done, nothing was noted: as in a bucket, which has no journal."""
    source, target = tmp_path / "s", tmp_path / "t"
    for folder in (source, target):
        folder.mkdir()
        (folder / "same").write_text("same")
        (folder / "timed").write_text("timed")
        for name, when in (("same", 1_000_000_000), ("timed", 1_000_000_000 + (folder is source))):
            os.utime(folder / name, (when, when))
    (source / "new").write_text("new")
    partitions.prepare(source, target, tmp_path / "p", **settings)
    for _ in range(2):
        assert partitions.run_partition(str(tmp_path / "p"), 0)["ok"]
        (tmp_path / "p" / "part-00000.done").unlink()
        for segment in (tmp_path / "p" / "part-00000").rglob("*.seg"):
            segment.write_bytes(b"")
    assert partitions.resume(tmp_path / "p").ok
    assert (target / "new").read_text() == "new"
    assert (source / "new").exists() is not bool(settings.get("move"))


def test_a_suffix_that_the_source_uses_itself_is_refused_for_that_entry():
    src, dst = MemoryBackend(), MemoryBackend()
    for name in ("x", "x.bak"):
        put(src, name, name.encode() + b" new", MONDAY + timedelta(days=1))
        put(dst, name, name.encode() + b" old")
    report = sync(src, dst, suffix=".bak", raise_errors=False)
    assert report.failed == 1
    assert dst.peek("x") == b"x old"
    assert dst.peek("x.bak") == b"x.bak new"


def test_a_backup_holds_the_version_that_was_replaced_and_no_later_one():
    src, dst, kept = MemoryBackend(), blind(), MemoryBackend()
    put(src, "f", b"new", MONDAY + timedelta(days=1))
    put(dst, "f", b"old")

    class Racing(Faulty):
        def _before(self, op, number):
            if op in ("open_reader", "copy"):
                put(dst, "f", b"theirs", MONDAY + timedelta(days=2))

    report = sync(src, Racing(dst), backup_dir=kept, raise_errors=False)
    assert report.failed == 1
    assert kept.peek("f") is None
    assert dst.peek("f") == b"theirs"


def test_a_single_object_is_not_backed_up_onto_itself():
    src, dst = MemoryBackend(), blind()
    put(src, "f", b"new", MONDAY + timedelta(days=1))
    put(dst, "f", b"old")
    with pytest.raises(ConfigError, match="backup folder is the destination"):
        copy_file(src, "f", dst, "f", backup_dir=dst)
    assert dst.peek("f") == b"old"


def test_a_backup_that_cannot_be_made_is_not_a_deletion():
    src, dst = MemoryBackend(), MemoryBackend()
    put(src, "f")
    put(dst, "f")
    put(dst, "extra")

    class Gone(MemoryBackend):
        def _open_writer(self, path, options):
            raise NotFound("no such bucket", path=path)

    report = sync(src, dst, delete=True, backup_dir=Gone(), raise_errors=False)
    assert (report.deleted, report.failed) == (0, 1)
    assert dst.peek("extra") == b"x"


def test_a_folder_that_keeps_something_is_not_counted_as_removed(tmp_path):
    src, dst = MemoryBackend(), MemoryBackend()
    put(src, "f")
    put(dst, "f")
    put(dst, "d/extra")

    class Busy(Faulty):
        def _before(self, op, number):
            if op == "rmdir":
                put(dst, "d/late")

    report = sync(src, Busy(dst), delete=True)
    assert report.ok
    assert (report.deleted, report.folders_removed) == (1, 0)


def test_a_hard_end_breaks_off_what_runs():
    src, dst, clock = MemoryBackend(), MemoryBackend(), Clockwork()
    put(src, "f", b"x" * 4000)
    made = plan(src, dst, max_duration=0.5, bwlimit=1000)
    report = run(made, raise_errors=False, clock=clock)
    assert "max_duration" in report.stopped
    assert dst.peek("f") is None
    assert clock.time < 1.5


def test_a_dry_run_stops_where_the_run_would():
    src, dst = MemoryBackend(), MemoryBackend()
    for name in ("a", "b", "c"):
        put(src, name, b"x" * 100)
    counts = [
        run(
            plan(src, MemoryBackend(), max_transfer=150, cutoff="cautious", transfers=1),
            dry_run=dry,
            raise_errors=False,
        ).copied
        for dry in (True, False)
    ]
    assert counts == [1, 1]
    del dst


def test_a_transfer_that_is_tried_again_counts_once():
    src, dst = MemoryBackend(), MemoryBackend()
    put(src, "f", b"x" * 1000)
    failed = []

    class Once(Faulty):
        def _before(self, op, number):
            if op == "close" and not failed:
                failed.append(op)
                raise BackendUnavailable("injected")

    made = plan(src, Once(dst), max_transfer=1500)
    assert run(made, clock=Clockwork(), backoff=Backoff(draw=lambda: 0.0)).copied == 1
    assert failed


def test_a_rename_waits_for_the_transfers_and_is_none_after_an_error():
    src, dst = MemoryBackend(), MemoryBackend()
    put(src, "new", b"same")
    put(dst, "old", b"same")
    put(src, "bad", b"bad")

    class Bad(Faulty):
        def _forward(self, op, path, run):
            if op == "open_reader" and path == "bad":
                raise StorageError("injected", path=path)
            return super()._forward(op, path, run)

    settings = {"delete": True, "max_delete": 5, "track_renames": "modtime", "raise_errors": False}
    report = sync(Bad(src), dst, **settings)
    assert (report.renamed, report.copied, report.failed) == (0, 1, 1)
    assert dst.peek("old") == dst.peek("new") == b"same"


def test_one_object_is_left_out_by_a_filter_like_others():
    src, dst = MemoryBackend(), MemoryBackend()
    put(src, "f.tmp")
    assert copy_file(src, "f.tmp", dst, "f.tmp", filter=Filter.parse(["- *.tmp"])).copied == 0
    assert dst.peek("f.tmp") is None


def test_whoever_gives_up_waits_for_no_reader():
    store, begun = MemoryBackend(), threading.Event()
    put(store, "long", b"x" * (8 << 20))

    class Slow(Faulty):
        def _before(self, op, number):
            if op == "read":
                begun.set()

    made = plan(Slow(store), MemoryBackend())
    pool = Lookers(ThreadPoolExecutor(1))
    endless = threading.Event()

    def read_on():
        while not endless.is_set():
            digest(made.src, "long", "sha256")

    future = pool.submit(read_on)
    assert begun.wait(LIMIT)
    pool.close()
    endless.set()
    with pytest.raises(Cancelled):
        future.result()


def test_a_single_object_is_not_moved_onto_itself_through_a_wrapper():
    store = MemoryBackend()
    put(store, "f", b"data")

    class Nowhere(Faulty):
        url = None

    for settings in ({}, {"ignore_times": True}):
        assert move_file(Nowhere(store), "f", store, "f", **settings).ok
        assert store.peek("f") == b"data"


def test_a_move_between_folders_of_one_store_is_still_possible():
    store = MemoryBackend()
    put(store, "a/f", b"data")
    assert move(Prefix(store, "a"), Prefix(store, "b")).ok
    assert (store.peek("a/f"), store.peek("b/f")) == (None, b"data")


def test_an_object_that_exists_is_never_overwritten_by_a_backup_of_another(tmp_path):
    src, dst = MemoryBackend(), MemoryBackend()
    put(src, "f", b"new", MONDAY + timedelta(days=1))
    put(src, "f.bak", b"mine")
    put(dst, "f", b"old")
    with pytest.raises(Exception) as caught:
        sync(src, dst, suffix=".bak", order_by="name,desc", transfers=1)
    assert any(isinstance(error, AlreadyExists) for error in caught.value.exceptions)
    assert dst.peek("f.bak") == b"mine"
