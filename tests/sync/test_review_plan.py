"""What a plan promises where stores have two names, listings say little, and settings are odd."""

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from omnistorage import BackendUnavailable, ConfigError, LocalBackend, MemoryBackend, PermissionDenied, ops
from omnistorage.core import ObjectInfo
from omnistorage.multi import Tier, TieredBackend
from omnistorage.sync import Filter, Plan, SyncOptions, check, copy, move, sync
from omnistorage.sync.endpoint import Side
from omnistorage.testing import Faulty
from omnistorage.testing.basic import BasicBackend
from omnistorage.wrappers import Encrypt, Prefix

from .stores import (
    START,
    Folding,
    HalfListed,
    Locked,
    bucket,
    errors,
    fill,
    go,
    held,
    listing,
    memory,
    planned,
    put,
    whys,
)

ALL = {"delete": True, "max_delete": "100%"}
MARKED = Filter.parse(exclude_if_present=".keepout")


class Nowhere(Faulty):
    """A wrapper that does not say where it is."""

    url = None


def basic(*paths):
    made = BasicBackend()
    for path in paths:
        made.put_raw(path, b"data of " + path.encode())
    return made


# --- places that are one ----------------------------------------------------------------------------------------------


def test_a_move_of_a_basic_backend_onto_itself_is_refused():
    store = basic("f", "d/g")
    for one, other in ((store, store), (Prefix(store, "d"), Prefix(store, "d")), (Prefix(store, "d"), store)):
        with pytest.raises(ConfigError):
            move(one, other)
    assert set(store.rows) == {"f", "d/g"}


def test_a_basic_backend_is_not_synced_into_a_folder_of_itself():
    store = basic("f", "d/g")
    with pytest.raises(ConfigError, match="overlap"):
        sync(store, Prefix(store, "d"), **ALL)
    assert set(store.rows) == {"f", "d/g"}


def test_a_local_folder_is_found_behind_a_link_in_the_same_backend(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = fill(LocalBackend(tmp_path), "real/f")
    with pytest.raises(ConfigError):
        move(Prefix(store, "real"), Prefix(store, "link"))
    assert ops.read_bytes(store, "real/f")


def tiers(*stores, **options):
    return TieredBackend([Tier(f"t{number}", store) for number, store in enumerate(stores)], **options)


def test_a_move_between_names_of_one_store_is_refused():
    store = fill(memory(), "f", "d/g")
    tiered = tiers(store, memory(), write_through=True)
    pairs = [
        (Nowhere(store), store),
        (Nowhere(store), Nowhere(store)),
        (Nowhere(Prefix(store, "d")), store),
        (tiered, store),
        (store, tiered),
        (Nowhere(tiered), Nowhere(store)),
        (Encrypt(store, b"k" * 32), store),
    ]
    for src, dst in pairs:
        with pytest.raises(ConfigError, match=r"are one place|overlap|cannot be told apart.*Copy, check, then remove"):
            move(src, dst)
    assert set(held(store)) == {"f", "d/g"}


def test_a_sync_between_names_of_one_store_is_refused_but_not_one_with_its_tiers():
    store = fill(memory(), "f", "d/g")
    for src, dst in (
        (Nowhere(store), store),
        (store, Nowhere(store)),
        (Encrypt(store, b"k" * 32), store),
        (Nowhere(Prefix(store, "d")), store),
    ):
        for verb in (sync, copy):
            with pytest.raises(ConfigError, match=r"are one place|overlap"):
                verb(src, dst)
    assert set(held(store)) == {"f", "d/g"}
    other = memory()
    assert sync(store, tiers(store, other, write_through=True)).failed == 0


def test_a_move_between_stores_that_are_apart_needs_no_url():
    pairs = [
        (memory(), memory()),
        (Nowhere(memory()), Nowhere(memory())),
        (memory(), tiers(memory(), memory())),
        (BasicBackend(), BasicBackend()),
    ]
    for src, dst in pairs:
        ops.write_bytes(src, "f", b"data")
        assert move(src, dst).removed == 1
        assert ops.read_bytes(dst, "f") == b"data"
    store = fill(memory(), "a/f")
    assert move(Nowhere(Prefix(store, "a")), Prefix(store, "b")).removed == 1
    assert set(held(store)) == {"b/f"}


def test_a_move_into_a_folder_that_the_filter_excludes_is_no_move_onto_itself():
    store = fill(memory(), "f")
    assert move(store, Nowhere(Prefix(store, "in")), filter=Filter.parse(["- /in/**"])).removed == 1
    assert set(held(store)) == {"in/f"}


def test_a_backup_inside_the_destination_is_refused_where_delete_excluded_would_delete_it(tmp_path):
    hidden = Filter.parse(["- /backup/**"])
    src, dst = fill(memory(), "f"), LocalBackend(tmp_path)
    with pytest.raises(ConfigError, match="delete_excluded"):
        sync(src, dst, backup_dir=str(tmp_path / "backup"), filter=hidden, delete_excluded=True, **ALL)
    assert sync(src, dst, backup_dir=str(tmp_path / "backup"), filter=hidden, **ALL).copied == 1


def test_a_move_that_follows_links_is_refused():
    with pytest.raises(ConfigError, match="follow"):
        SyncOptions(move=True, links="follow")


# --- what the filter drops --------------------------------------------------------------------------------------------


class FromBasic(Faulty):
    """Lists flat and no other way, as a basic backend does."""

    def __init__(self, inner):
        super().__init__(inner)
        self.is_extended = False
        self.features = replace(self.features, dirs=False)


@pytest.mark.parametrize("settings", [{}, {"sort_listings": True}, {"ignore_case": True}, {"normalize": True}])
@pytest.mark.parametrize("kind", [lambda store: store, FromBasic])
def test_a_folder_that_is_marked_at_the_source_keeps_what_the_destination_has_of_it(kind, settings):
    src = fill(memory(), "a", "m/.keepout", "m/x", "z")
    dst = fill(memory(), "a", "m/x", "m/deep/y", "n", "z")
    go(kind(src), kind(dst), filter=MARKED, **settings, **ALL)
    assert set(held(dst)) == {"a", "m/x", "m/deep/y", "z"}
    go(kind(src), kind(dst), filter=MARKED, delete_excluded=True, **settings, **ALL)
    assert set(held(dst)) == {"a", "z"}


def test_a_source_that_is_marked_at_its_root_keeps_all_of_the_destination():
    src, dst = fill(memory(), ".keepout", "a"), fill(memory(), "a", "b/c")
    for one in (src, FromBasic(src)):
        go(one, dst, filter=MARKED, allow_empty_source=True, **ALL)
    assert set(held(dst)) == {"a", "b/c"}


def test_a_marker_that_is_a_folder_is_seen_in_a_flat_listing():
    filter = Filter.parse(exclude_if_present=".git/")
    src = basic("m/.git/head", "m/x", "p/n/.git/a/b", "p/y", "q")
    assert planned(src, memory(), filter=filter) == [("copy", "p/y"), ("copy", "q")]
    above = basic("m/.git/in/x", "m/.git/in/y")
    assert planned(Prefix(above, "m/.git/in"), memory(), filter=filter) == [("copy", "x"), ("copy", "y")]


def test_a_marked_folder_of_the_destination_keeps_its_content_and_its_folders():
    src = fill(memory(), "a", "m/f", "m/.b")
    dst = fill(memory(), "a", "m/.keepout", "m/f", "up/in/.keepout", "up/in/f", "up/x")
    put(dst, "m/f", "another", at=9)
    before = held(dst)
    for empty_dirs in (False, True):
        report = go(src, dst, filter=MARKED, empty_dirs=empty_dirs, **ALL)
        assert (report.ok, report.skipped) == (True, 2)
    del before["up/x"]
    assert held(dst) == before
    assert "marker" in whys(src, dst, filter=MARKED)["m/f"]


def test_a_flat_listing_with_markers_is_not_held_in_memory():
    class Counted(FromBasic):
        shown = 0

        def list(self, *arguments):
            for info in super().list(*arguments):
                self.shown += 1
                yield info

    store = Counted(fill(bucket(), *(f"d{number % 7}/f{number:03}" for number in range(500))))
    entries = Side(store, "source").entries(MARKED)
    assert next(entries).path == "d0/f000"
    assert store.shown == 501, "read once for the markers, then again as it is asked for"
    assert sum(1 for _ in entries) == 499


@pytest.mark.parametrize(
    "filter", [Filter.parse(["- /d/sub/"]), Filter.parse(["- *.tmp"]), Filter.parse(exclude_if_present=".keepout")]
)
def test_a_folder_that_gives_way_to_an_object_does_not_if_the_filter_hides_some_of_it(filter):
    src, dst = fill(memory(), "a", "d"), fill(memory(), "a", "d/sub/x.tmp", "d/sub/.keepout", "d/y")
    before = held(dst)
    report = go(src, dst, on_type_clash="replace", filter=filter, raise_errors=False, **ALL)
    assert held(dst) == before
    assert "has this name" in errors(report)["d"]


def test_a_folder_that_gives_way_to_an_object_does_not_if_some_of_it_could_not_be_listed():
    class Half(MemoryBackend):
        def _list_dir(self, path):
            if path == "d/locked":
                raise PermissionDenied("this folder is not yours", path=path)
            return super()._list_dir(path)

    src, dst = fill(memory(), "a", "d"), fill(memory(Half), "a", "d/locked/x", "d/y")
    report = go(src, dst, on_type_clash="replace", ignore_errors=True, raise_errors=False, **ALL)
    assert set(dst._objects) == {"a", "d/locked/x", "d/y"}
    assert "has this name" in errors(report)["d"]


# --- names that are one -----------------------------------------------------------------------------------------------


def test_what_an_unreadable_folder_hides_is_kept_under_its_other_spelling():
    src, dst = fill(memory(Locked), "a", "locked/x"), fill(memory(), "a", "Locked/x", "LOCKED/y", "extra")
    report = go(src, dst, ignore_case=True, ignore_errors=True, raise_errors=False, **ALL)
    assert set(held(dst)) == {"a", "Locked/x", "LOCKED/y"}
    assert report.blocked == 2


def test_nothing_is_written_into_an_unreadable_folder_under_its_other_spelling():
    src, dst = fill(memory(), "a", "Locked/x"), fill(memory(Locked), "locked/x")
    assert planned(src, dst, ignore_case=True) == [("copy", "a")]


@pytest.mark.parametrize(("kind", "settings"), [(memory, {"ignore_case": True}), (lambda: memory(Folding), {})])
def test_where_letter_case_does_not_count_it_does_not_for_the_filter(kind, settings):
    src, dst = fill(memory(), "keep", "Private/f"), fill(kind(), "keep", "private/g", "x.TMP", "extra")
    go(src, dst, filter=Filter.parse(["- /Private/**", "- *.tmp"]), **settings, **ALL)
    assert set(held(dst)) == {"keep", "private/g", "x.TMP"}
    src, dst = fill(memory(), "Foo/x", "y"), fill(kind(), "foo/x", "foo/z")
    only = Filter.parse(files_from=[["FOO/X"]])
    assert planned(src, dst, filter=only, **settings, **ALL) == []


def test_two_names_of_the_destination_for_one_of_the_source_are_an_error_and_both_stay():
    src, dst = fill(memory(), "a", "b", at=3), fill(memory(), "A", "a", "b", "C", "c", at=1)
    before = held(dst)
    report = go(src, dst, ignore_case=True, raise_errors=False, **ALL)
    assert "'A' and 'a'" in errors(report)["a"]
    assert {"A", "a"} <= set(held(dst))
    assert {name: held(dst)[name] for name in ("A", "a")} == {name: before[name] for name in ("A", "a")}


def test_two_names_of_the_destination_that_the_source_has_no_object_for_are_no_error():
    src, dst = fill(memory(), "b"), fill(memory(), "b", "C", "c")
    assert go(src, dst, ignore_case=True).ok
    go(src, dst, ignore_case=True, **ALL)
    assert set(held(dst)) == {"b"}


def test_two_names_of_the_destination_stay_for_an_object_that_the_filter_leaves_out():
    src, dst = fill(memory(), "b"), fill(memory(), "b", "C", "c")
    put(src, "c", "x" * 5_000)
    go(src, dst, ignore_case=True, filter=Filter.parse(max_size="1k"), **ALL)
    assert set(held(dst)) == {"b", "C", "c"}


# --- the end of a plan ------------------------------------------------------------------------------------------------


def renaming():
    src = fill(memory(), "keep", "new/f", "plain")
    dst = fill(memory(), "keep")
    put(dst, "old/f", "data of new/f")
    return src, dst


def test_plain_copies_come_before_renames_and_renames_before_deletions():
    src, dst = renaming()
    put(dst, "extra", "x")
    kinds = [kind for kind, _ in planned(src, dst, track_renames="leaf", **ALL)]
    assert kinds == ["copy", "rename", "delete", "rmdir"]


@pytest.mark.parametrize("settings", [{"max_delete": 1}, {"max_delete": "100%", "max_delete_size": 1}])
def test_where_deleting_is_refused_a_rename_becomes_a_copy(settings):
    src, dst = renaming()
    fill(dst, "extra", "more")
    report = go(src, dst, track_renames="leaf", delete=True, raise_errors=False, **settings)
    assert (report.renamed, report.copied, report.deleted) == (0, 2, 0)
    assert set(held(dst)) == {"keep", "new/f", "plain", "old/f", "extra", "more"}
    assert report.blocked == 3


def test_a_rename_takes_no_name_from_an_unreadable_folder():
    src, dst = fill(memory(Locked), "keep", "new/f", "locked/g"), fill(memory(), "keep")
    put(dst, "locked/f", "data of new/f")
    report = go(src, dst, track_renames="leaf", ignore_errors=True, raise_errors=False, **ALL)
    assert (report.renamed, report.copied) == (0, 1)
    assert set(held(dst)) == {"keep", "new/f", "locked/f"}


def test_a_source_that_holds_folders_and_no_object_is_an_empty_source():
    src, dst = memory(), fill(memory(), "a", "b")
    src.mkdir("lost+found")
    report = go(src, dst, raise_errors=False, **ALL)
    assert "the source is empty" in errors(report)[""]
    assert set(held(dst)) == {"a", "b"}


class Hashing(MemoryBackend):
    """States digests in its listings."""

    def __init__(self, **options):
        super().__init__(**options)
        self.features = replace(self.features, hashes=frozenset({"md5"}))

    def _store(self, path, found):
        hashes = {"md5": hashlib.md5(found.data).hexdigest()}
        super()._store(path, found._replace(info=found.info._replace(hashes=hashes)))


def test_a_move_removes_what_the_destination_has_with_another_time():
    src, dst = fill(Hashing(), "f", at=1), fill(Hashing(), "f", at=5)
    assert planned(src, dst) == [("touch", "f")]
    assert planned(src, dst, move=True) == [("remove", "f")]
    assert move(src, dst).removed == 1
    assert (held(src), set(held(dst))) == ({}, {"f"})


# --- check ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["update", "ignore_existing", "track_renames", "move"])
def test_a_check_takes_no_setting_that_passes_over_differences(name):
    with pytest.raises(ConfigError, match=name):
        check(memory(), memory(), **{name: "hash" if name == "track_renames" else True})


def test_a_check_of_empty_folders_shows_those_that_one_side_has():
    src, dst = fill(memory(), "f"), fill(memory(), "f")
    src.mkdir("only/here")
    dst.mkdir("there")
    assert check(src, dst).in_sync
    told = []
    report = check(src, dst, empty_dirs=True, listeners=[lambda sign, path, why, error: told.append((sign, path))])
    assert not report.in_sync
    assert set(told) == {("+", "only/here"), ("-", "there"), ("=", "f")}


# --- settings, places and listings ------------------------------------------------------------------------------------

WRONG = [
    {"bwlimit": "abc"}, {"bwlimit": 0}, {"bwlimit": [1]}, {"bwlimit": True}, {"modify_window": 5},
    {"modify_window": timedelta(-1)}, {"suffix": None}, {"track_renames": None}, {"order_by": None},
    {"order_by": "size,"}, {"filter": "- *.tmp"}, {"filter": None}, {"tpslimit": "x"}, {"tpslimit": 0},
    {"tpslimit": float("nan")}, {"max_duration": float("nan")}, {"max_duration": float("inf")}, {"delete": "no"},
    {"backup_dir": 5}, {"ignore_case": "x"}, {"normalize": 1}, {"links": ["skip"]}, {"check_first": 1},
    {"checksum": "weak"}, {"retries": None},
]  # fmt: skip


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_every_setting_of_a_wrong_type_or_value_is_refused_by_name(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SyncOptions(**settings)


def test_settings_take_what_they_are_said_to_take(tmp_path):
    for backup in (str(tmp_path), tmp_path, memory(), BasicBackend(), Prefix(memory(), "x"), None):
        assert SyncOptions(backup_dir=backup).backup_dir is backup
    for limit in (1, "10M", "off", "08:00,512K 18:00,off", None):
        assert SyncOptions(bwlimit=limit).bwlimit == limit
    for key in ("", "size", "name,asc", "mixed,descending"):
        assert SyncOptions(order_by=key).order_by == key
    assert SyncOptions(tpslimit=0.5, max_duration=1.5).max_duration == 1.5


@pytest.mark.parametrize("place", [5, None, b"abc", object(), {}])
def test_what_is_no_place_is_refused(place):
    for places in ((place, memory()), (memory(), place)):
        with pytest.raises(ConfigError, match=r"no place|'type'"):
            sync(*places)


@pytest.mark.parametrize("settings", [{}, {"ignore_case": True}, {"sort_listings": True}])
def test_a_name_that_no_bytes_can_have_been_is_an_error_of_its_own(settings):
    class Odd(MemoryBackend):
        def _list_dir(self, path):
            return iter([ObjectInfo("a", 9, START), ObjectInfo("b\ud800", 3, START), ObjectInfo("z", 9, START)])

        def _list(self, prefix, options):
            return self._list_dir("")

    src, dst = fill(memory(Odd), "a", "z"), memory()
    report = go(src, dst, raise_errors=False, **settings)
    assert set(held(dst)) == {"a", "z"}
    assert [failure.path for failure in report.failures] == ["b\ud800"]


@pytest.mark.parametrize("settings", [{}, {"ignore_case": True}])
def test_a_time_without_a_zone_is_refused_and_its_backend_named(settings):
    naive = listing(ObjectInfo("f", 3, datetime(2026, 1, 1)))
    with pytest.raises(ConfigError, match=r"without a zone.*'memory'"):
        planned(naive, fill(memory(), "f"), **settings)


def test_a_listing_that_breaks_off_is_one_error():
    src, dst = fill(memory(HalfListed), "a", "b", "c"), memory()
    plan = Plan(src, dst)
    actions = list(plan)
    assert [action.kind for action in actions].count("error") == 1
    assert (plan.seen.listing_errors, plan.seen.complete) == ([], False)
    assert "the connection broke" in str(plan.seen.broken)
    report = go(src, dst, raise_errors=False)
    assert (report.failed, report.complete, report.ok) == (1, False, False)
    found = check(src, dst)
    assert (found.errors, found.in_sync) == (1, False)


@pytest.mark.parametrize("settings", [{}, {"ignore_case": True}])
def test_a_name_that_is_listed_twice_is_one_object(settings):
    class Twice(MemoryBackend):
        def _list_dir(self, path):
            return iter([info for info in super()._list_dir(path) for _ in range(2)])

        def _list(self, prefix, options):
            return self._list_dir("")

    src, dst = fill(memory(Twice), "a", "b"), fill(memory(Twice), "b", "c")
    assert planned(src, dst, **settings, **ALL) == [("copy", "a"), ("delete", "c")]


def test_a_folder_that_fails_twice_is_one_error():
    class Twice(FromBasic):
        def list(self, prefix="", options=None):
            options.on_error(PermissionDenied("not yours", path="d"))
            options.on_error(PermissionDenied("not yours", path="d"))
            return iter([ObjectInfo("a", 1, START)])

    plan = Plan(Twice(memory()), memory(), filter=MARKED)
    assert [action.path for action in plan] == ["a"]
    assert len(plan.seen.listing_errors) == 1


def test_an_error_before_the_first_entry_is_raised_as_it_is():
    class Down(MemoryBackend):
        def _list(self, prefix, options):
            raise BackendUnavailable("down")

        _list_dir = _list

    down = memory(Down)
    down._list_dir = lambda path: down._list(path, None)
    with pytest.raises(BackendUnavailable):
        planned(down, memory())


def test_what_is_extra_in_a_folder_goes_though_an_object_of_the_source_has_the_folders_name():
    src, dst = MemoryBackend(dirs=False), MemoryBackend()
    for name in ("b", "b/a"):
        ops.write_bytes(src, name, name.encode())
    ops.write_bytes(dst, "b/0", b"extra")
    settings = {"delete": True, "max_delete": "100%", "on_type_clash": "replace", "raise_errors": False}
    assert not sync(src, dst, **settings).deleted, "an entry that cannot be synced is an error"
    sync(src, dst, ignore_errors=True, **settings)
    assert [info.path for info in dst.list()] == ["b/a"]
