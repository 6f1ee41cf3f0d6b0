"""check: what it says of two places that it leaves alone, section 8 of the engine's contract."""

import hashlib
import json
import sqlite3
import threading
from contextlib import closing

import pytest

from omnistorage import (
    BackendUnavailable,
    ConfigError,
    LocalBackend,
    MemoryBackend,
    NotFound,
    PermissionDenied,
    StorageError,
)
from omnistorage.backends.sql_blob import SQLBlobBackend
from omnistorage.sync import Filter, Plan, check, check_sums, copy, move
from omnistorage.sync.checking import CheckReport
from omnistorage.sync.checking.checker import Checker
from omnistorage.sync.planning.comparison import time_to_keep

from .stores import Acting, HalfListed, Locked, bucket, day, failing, fill, held, listing, memory, planned, put
from .test_comparing import hashing


def looked_at(src, dst, **settings):
    said = []
    report = check(src, dst, listeners=[lambda sign, path, why, error: said.append((sign, path))], **settings)
    return report, sorted(said, key=lambda line: line[1])


def both():
    src, dst = fill(memory(), "same", "source", "d/same"), fill(memory(), "same", "target", "d/same", "d/other")
    put(src, "size", b"1")
    put(dst, "size", b"22")
    put(src, "time", b"1", at=0)
    put(dst, "time", b"2", at=3)
    return src, dst


@pytest.mark.parametrize("name", ["delete", "list_equal"])
@pytest.mark.parametrize("value", [True, False])
def test_a_setting_that_a_check_makes_itself_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"check takes no {name}"):
        check(*both(), **{name: value})


def test_what_is_left_out_is_counted_by_one_thread():
    class Noting(CheckReport):
        def __setattr__(self, name, value):
            if name == "skipped":
                threads.add(threading.get_ident())
            super().__setattr__(name, value)

    threads = set()
    src, dst = fill(listing("link1", "link2", "link3"), "f"), fill(memory(), "f")
    with Plan(src, dst, list_equal=True) as plan:
        checker = Checker(plan, download=True)
        checker.report = Noting()
        assert checker.run().skipped == 3
    assert threads == {threading.get_ident()}
    assert check(src, dst, size_only=True).skipped == 3


def test_every_object_gets_one_sign():
    report, said = looked_at(*both())
    assert said == [
        ("-", "d/other"),
        ("=", "d/same"),
        ("=", "same"),
        ("*", "size"),
        ("+", "source"),
        ("-", "target"),
        ("*", "time"),
    ]
    assert (report.match, report.differ, report.missing_on_src, report.missing_on_dst) == (2, 2, 2, 1)
    assert (report.errors, report.differences, report.in_sync) == (0, 5, False)


def test_one_way_looks_at_the_source_alone():
    _, said = looked_at(*both(), one_way=True)
    assert {sign for sign, _ in said} == {"=", "*", "+"}
    src = fill(memory(), "a")
    assert check(src, fill(memory(), "a", "more"), one_way=True).in_sync
    assert not check(src, fill(memory(), "a", "more")).in_sync


def test_nothing_is_changed():
    src, dst = both()
    one, other = Acting(src, lambda op, number: None), Acting(dst, lambda op, number: None)
    for more in ({}, {"download": True}, {"one_way": True}, {"checksum": "strict"}):
        check(one, other, **more)
    assert set(one.log) | set(other.log) <= {"list", "list_dir", "stat", "open_reader", "read"}


def test_equal_places_are_in_sync_and_an_empty_source_is_no_error():
    src = fill(memory(), "a", "d/b")
    assert check(src, fill(memory(), "a", "d/b")).in_sync
    assert check(memory(), memory()).in_sync
    report = check(memory(), fill(memory(), "a", "b"))
    assert (report.missing_on_src, report.errors) == (2, 0)


def test_a_missing_source_is_an_error(tmp_path):
    report = None
    try:
        report = check(LocalBackend(tmp_path / "typo"), fill(memory(), "a"))
    except NotFound:
        return
    assert not report.in_sync


def test_go_w3_where_every_comparison_fails_nothing_is_in_sync():
    src, dst = fill(memory(), "a", "b"), fill(memory(), "a", "b")
    report, said = looked_at(failing(src, "open_reader", None), dst, download=True)
    assert said == [("!", "a"), ("!", "b")]
    assert (report.match, report.differ, report.errors, report.differences) == (0, 0, 2, 0)
    assert not report.in_sync


def test_go_w3_one_comparison_that_fails_is_enough():
    src, dst = fill(memory(), "a", "b"), fill(memory(), "a", "b")
    report = check(src, failing(dst, "read"), download=True, checkers=1)
    assert (report.match, report.errors, report.in_sync) == (1, 1, False)


@pytest.mark.parametrize("role", ["src", "dst"])
def test_go_w4_a_read_error_is_an_error_and_never_a_difference(role):
    sides = {"src": memory(), "dst": memory()}
    for side in sides.values():
        put(side, "f", b"x" * 3_000_000)
    sides[role] = failing(sides[role], "read", 2)
    report = check(*sides.values(), download=True)
    assert (report.differ, report.errors) == (0, 1)
    assert "injected" in str(report.failures[0].error)


def test_go_w4_download_compares_the_bytes_themselves():
    src, dst = memory(), memory()
    for path, there in (
        ("same", b"a" * 3_000_000),
        ("end", b"a" * 2_999_999 + b"b"),
        ("start", b"b" + b"a" * 2_999_999),
    ):
        put(src, path, b"a" * 3_000_000)
        put(dst, path, there)
    assert check(src, dst).in_sync
    _, said = looked_at(src, dst, download=True)
    assert said == [("*", "end"), ("=", "same"), ("*", "start")]


def test_go_w5_the_chosen_rule_is_the_one_that_decides():
    src, dst = fill(memory(), f=b"this"), memory()
    put(dst, "f", b"that", at=3)
    assert check(src, dst, size_only=True).in_sync
    assert not check(src, dst).in_sync
    assert not check(src, dst, checksum="strict").in_sync


def test_go_w12_a_file_is_not_taken_for_a_folder_and_integrity_is_more_than_readable(tmp_path):
    (tmp_path / "f").write_bytes(b"good")
    with pytest.raises(StorageError):
        if check(LocalBackend(tmp_path / "f"), memory(), allow_empty_source=False).in_sync:
            return
        raise StorageError("not in sync")
    src, dst = fill(memory(), f=b"good"), fill(memory(), f=b"g00d")
    assert not check(src, dst, download=True).in_sync, "both can be read"


def test_a_listing_that_breaks_off_is_not_in_sync():
    full = fill(memory(), "a", "b", "c")
    for sides in ((fill(memory(HalfListed), "a", "b", "c"), full), (full, fill(memory(HalfListed), "a", "b", "c"))):
        report = check(*sides)
        assert not report.in_sync
        assert not report.complete
        assert report.errors


def test_an_unreadable_folder_is_an_error_and_what_it_hides_is_not_missing():
    src, dst = fill(memory(Locked), "a", "locked/x"), fill(memory(), "a", "locked/x")
    report, said = looked_at(src, dst)
    assert ("!", "locked") in said
    assert report.missing_on_src == 0
    assert not report.in_sync
    report, said = looked_at(dst, src)
    assert ("!", "locked") in said
    assert report.missing_on_dst == 0


def test_a_file_where_the_other_side_has_a_folder_is_not_in_sync():
    assert not check(fill(memory(), "a"), fill(memory(), "a/b")).in_sync
    assert not check(fill(memory(), "a/b"), fill(memory(), "a")).in_sync


def test_what_is_skipped_is_counted_apart():
    src = listing("link")
    report = check(fill(src, "a"), fill(memory(), "a"))
    assert (report.match, report.skipped, report.in_sync) == (1, 1, True)


def test_what_a_filter_hides_is_not_looked_at():
    src, dst = fill(memory(), "a", "x.tmp"), fill(memory(), "a", "y.tmp")
    report, said = looked_at(src, dst, filter=Filter.parse(["- *.tmp"]))
    assert said == [("=", "a")]
    assert report.in_sync


def test_what_size_alone_can_tell_is_said():
    class Timeless(MemoryBackend):
        def _list(self, prefix, options):
            return (info._replace(modified_at=None) for info in super()._list(prefix, options))

    src, dst = (
        fill(memory(), f=b"this"),
        fill(memory(Timeless, dirs=False, set_modified=False, user_metadata=False), f=b"that"),
    )
    report = check(src, dst)
    assert report.in_sync
    assert any("by their size alone" in text for text in report.warnings)


# --- digests ----------------------------------------------------------------------------------------------------------


def stating(*names, make=bucket, **more):
    """A bucket that states digests when it is asked, and keeps the times of sources as metadata."""
    return hashing(*names, in_listings=False, make=make, metadata=True, **more)


def test_a_file_is_read_where_the_other_side_states_a_digest(tmp_path):
    for algorithm in ("md5", "sha1", "sha256", "crc32c"):
        folder, store = LocalBackend(tmp_path / algorithm), stating(algorithm)
        for path, here, there in (("same", b"same", b"same"), ("f", b"SMALLER", b"smaller")):
            put(folder, path, here)
            put(store, path, there)
        for sides in ((folder, store), (store, folder)):
            assert planned(*sides, checksum=True) == [("update", "f")]
            report, said = looked_at(*sides)
            assert said == [("*", "f"), ("=", "same")]
            assert (report.by_size_and_time, str(report)) == (0, "1 equal, 1 differ")
        assert planned(folder, store) == [], "the bucket has it since the source changed"


def test_two_stores_are_asked_for_the_digests_that_both_state():
    one, other = stating("md5"), stating("md5", "sha256")
    for path, here, there in (("same", b"same", b"same"), ("f", b"SMALLER", b"smaller")):
        put(one, path, here)
        put(other, path, there)
    assert looked_at(one, other)[1] == looked_at(other, one)[1] == [("*", "f"), ("=", "same")]


def test_two_folders_are_compared_by_what_their_files_hold(tmp_path):
    one, other = LocalBackend(tmp_path / "one"), LocalBackend(tmp_path / "other")
    put(one, "f", b"AAAA")
    put(other, "f", b"BBBB")
    put(one, "touched", b"same")
    put(other, "touched", b"same", at=3)
    for sides in ((one, other), (other, one)):
        assert looked_at(*sides)[1] == [("*", "f"), ("=", "touched")]
    assert check(one, other, compare="mtime", filter=Filter.parse(["- touched"])).in_sync, "that rule was asked for"


def test_what_size_and_time_alone_can_tell_is_counted_apart(tmp_path):
    folder, store = LocalBackend(tmp_path / "a"), bucket(metadata=True)
    for side in (folder, store):
        put(side, "f", b"data")
        put(side, "empty", b"")
    for sides in ((folder, store), (store, folder)):
        report = check(*sides, report=tmp_path / "page.html")
        assert (report.match, report.by_size_and_time, report.in_sync) == (2, 1, True)
        assert str(report) == "1 equal, 1 by size and time only"
        assert report.as_dict()["by_size_and_time"] == 1
        assert "by size and time only" in (tmp_path / "page.html").read_text()
        assert check(*sides, download=True).by_size_and_time == 0
    assert check(folder, store, size_only=True).by_size_and_time == 2


def test_two_uploads_of_other_sources_differ_whichever_comes_first():
    one, other = bucket(metadata=True), bucket(metadata=True, now=lambda: day(101))
    put(one, "f", b"data", user_metadata={"mtime": time_to_keep(day(1))})
    put(other, "f", b"DATA", user_metadata={"mtime": time_to_keep(day(2))})
    assert looked_at(one, other)[1] == looked_at(other, one)[1] == [("*", "f")]


def test_the_whole_destination_may_be_missing():
    src = fill(memory(), "a", "b")
    report = check(src, bucket())
    assert (report.missing_on_dst, report.errors, report.in_sync) == (2, 0, False)


def test_the_report_says_itself_in_words_and_in_json():
    report = check(*both())
    assert str(report) == "0 equal, 2 by size and time only, 2 differ, 1 only at the source, 2 only at the destination"
    found = json.loads(json.dumps(report.as_dict()))
    assert (found["differences"], found["in_sync"]) == (5, False)


def test_a_check_with_many_readers_keeps_the_order_of_the_names():
    names = [f"f{n:03}" for n in range(200)]
    src, dst = fill(memory(), *names), fill(memory(), *names)
    said = []
    report = check(src, dst, download=True, listeners=[lambda sign, path, why, error: said.append(path)])
    assert said == names
    assert report.match == 200
    assert held(src) == held(dst)


def test_what_only_the_destination_has_is_not_seen_without_its_listing(tmp_path):
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  a\n")
    store = fill(memory(), "a")
    for call in (
        lambda **more: check(store, memory(), **more),
        lambda **more: check_sums(tmp_path / "SHA256SUMS", store, **more),
    ):
        with pytest.raises(ConfigError, match="set one_way as well"):
            call(no_traverse=True)
        assert not call(no_traverse=True, one_way=True).in_sync


@pytest.fixture
def damaged(tmp_path):
    """A folder and a table, made from it, of which one body was changed in the database."""
    (tmp_path / "a").mkdir()
    for name in ("x", "y"):
        (tmp_path / "a" / name).write_bytes(b"hello world")
    folder = LocalBackend(tmp_path / "a")
    with SQLBlobBackend(f"sqlite:///{tmp_path}/o.db") as table:
        copy(folder, table)
        with closing(sqlite3.connect(tmp_path / "o.db")) as connection:
            connection.execute("UPDATE omnistorage_objects SET data = 'hello earth' WHERE key = 'x'")
            connection.commit()
        yield folder, table


@pytest.mark.parametrize("options", [{}, {"checksum": True}, {"checksum": "strict"}, {"compare": "checksum"}])
def test_a_check_reads_where_a_digest_was_only_noted_when_the_object_was_written(damaged, options):
    for source, destination in (damaged, damaged[::-1]):
        report = check(source, destination, **options)
        assert (report.in_sync, report.errors, report.match) == (False, 1, 1)


def test_a_check_of_sums_reads_where_a_digest_was_only_noted_when_the_object_was_written(damaged, tmp_path):
    digest = hashlib.sha256(b"hello world").hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  x\n{digest}  y\n")
    report = check_sums(tmp_path / "SHA256SUMS", damaged[1])
    assert (report.in_sync, report.errors, report.match) == (False, 1, 1)


def test_a_move_removes_no_source_whose_copy_has_only_a_digest_that_was_noted(damaged, tmp_path):
    folder, table = damaged
    with SQLBlobBackend(f"sqlite:///{tmp_path}/source.db") as source:
        copy(folder, source)
        assert move(source, table, raise_errors=False).failed == 1
        assert [info.path for info in source.list()] == ["x"]


def test_errors_are_told_though_the_check_ends_in_an_error():
    class Ending(Plan):
        def __iter__(self):
            yield from super().__iter__()
            raise BackendUnavailable("the network is down")

    lines = []
    src, dst = fill(memory(Locked), "a", "locked/x"), fill(memory(), "a", "locked/x")
    with Ending(src, dst, list_equal=True) as plan, pytest.raises(BackendUnavailable):
        Checker(plan, listeners=[lambda *line: lines.append(line)]).run()
    ((path, error),) = [(path, error) for sign, path, _, error in lines if sign == "!"]
    assert (path, type(error)) == ("locked", PermissionDenied)


def test_errors_are_told_in_their_order_with_the_error_that_the_report_keeps(monkeypatch):
    monkeypatch.setattr("omnistorage.sync.checking.checker.KEPT", 2)
    names = "abcde"
    src, dst = fill(memory(), *names), fill(memory(), *names)
    told = []
    found = check(failing(src, "open_reader", None), dst, download=True, listeners=[lambda *line: told.append(line)])
    assert [(line[0], line[1], line[3].path) for line in told] == [("!", name, name) for name in names]
    assert [failure.error for failure in found.failures] == [line[3] for line in told[:2]]
    assert found.errors == 5
