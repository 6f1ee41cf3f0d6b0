"""Clashes of files and folders, names, and the order of listings."""

from datetime import UTC, datetime, timedelta

import pytest

from omnistorage import ConfigError, LocalBackend, MemoryBackend, StorageError, ops
from omnistorage.core import ObjectInfo
from omnistorage.sync import Filter, Plan, check, copy, move, sync
from omnistorage.sync.planning.actions import ERRORS

from .safety_world import ALL
from .stores import (
    Acting,
    Folding,
    Shuffled,
    day,
    errors,
    failing,
    fill,
    go,
    held,
    memory,
    planned,
)

# --- clashes, names, order --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dirs", [True, False])
def test_a_file_where_the_destination_has_a_folder_is_an_error_by_default(dirs):
    src, dst = fill(memory(dirs=dirs), "a", "clash"), fill(memory(), "clash/x", "clash/d/y")
    report = go(src, dst, raise_errors=False, **ALL)
    assert set(held(dst)) >= {"clash/x", "clash/d/y", "a"}
    assert "a folder at the destination has this name" in errors(report)["clash"]


@pytest.mark.parametrize("dirs", [True, False])
def test_a_folder_where_the_destination_has_a_file_is_an_error_by_default(dirs):
    src, dst = fill(memory(dirs=dirs), "a", "clash/x"), fill(memory(), "clash")
    report = go(src, dst, raise_errors=False, **ALL)
    assert set(held(dst)) == {"a", "clash"}
    assert "is an object at the destination, not a folder" in errors(report)["clash/x"]


@pytest.mark.parametrize("dirs", [True, False])
def test_clashes_are_replaced_both_ways_if_that_is_asked_for(dirs):
    src = fill(memory(dirs=dirs), "a", "file", "folder/x", "folder/d/y")
    dst = fill(memory(), "file/x", "file/d/y", "folder", "b")
    settings = {"on_type_clash": "replace", **ALL}
    report = go(src, dst, **settings)
    assert set(held(dst)) == {"a", "file", "folder/x", "folder/d/y"}
    assert report.ok
    assert planned(src, dst, **settings) == []


@pytest.mark.parametrize("verb", [copy, move, sync])
def test_replacing_a_folder_is_deleting_and_needs_delete(verb):
    src, dst = fill(memory(), "a", "file", "folder/x"), fill(memory(), "file/x", "folder")
    before = held(dst)
    with pytest.raises(ConfigError, match="on_type_clash='replace' deletes what is in the way"):
        verb(src, dst, on_type_clash="replace")
    assert held(dst) == before
    found = check(src, dst, on_type_clash="replace", one_way=True)
    assert found.missing_on_dst == 3, "a check deletes nothing"


def test_what_a_failed_transfer_leaves_in_the_way_stays():
    src, dst = fill(memory(), "a", "clash"), fill(memory(), "clash/x")
    report = go(failing(src, "read"), dst, raise_errors=False, on_type_clash="replace", **ALL)
    assert set(held(dst)) == {"clash/x"}
    assert set(errors(report)) == {"a", "clash"}


def test_keys_that_only_an_object_store_allows_are_reported_and_misplace_nothing(tmp_path):
    src = memory(dirs=False)
    fill(src, "a", "a/b", "ok", "c/d")
    for name in ("x//y", "./z", "p/../q", "/top", "tail/"):
        info = src._objects["ok"]
        src._objects[name] = info._replace(info=info.info._replace(path=name))
    src._order = None
    dst = tmp_path / "dst"
    report = go(src, str(dst), raise_errors=False, **ALL)
    found = {str(path.relative_to(dst)) for path in dst.rglob("*") if path.is_file()}
    assert found - {"a", "a/b"} == {"ok", "c/d"}
    assert len(found & {"a", "a/b"}) <= 1
    told = set(errors(report))
    assert {"x//y", "./z", "p/../q", "/top", "tail/"} <= told
    assert told & {"a", "a/b"}
    assert {path.name for path in tmp_path.iterdir()} == {"dst"}


class Hostile(MemoryBackend):
    """Lists one object, by whatever name."""

    def __init__(self, name):
        super().__init__()
        self._listed = name

    def list(self, prefix="", options=None):
        yield ObjectInfo(self._listed, 1)

    def list_dir(self, path=""):
        yield ObjectInfo(self._listed, 1)

    def stat(self, path):
        return ObjectInfo(path, 1)

    def open_reader(self, path, options=None):
        return fill(MemoryBackend(), "x").open_reader("x")


@pytest.mark.parametrize(
    "name",
    ["../esc", "/abs", "a/../../esc", "x\0y", "a//b", "./dot", "a\nb", "\x1b[31mred", "..", "a/", "a" * 300, "\ud800x",
     ".omnistorage-0000000000000000.tmp"],
)  # fmt: skip
def test_goal_40_what_a_hostile_source_lists_never_leaves_the_destination(tmp_path, name):
    inner = tmp_path / "in" / "dst"
    inner.mkdir(parents=True)
    with pytest.raises(StorageError):
        copy(Hostile(name), LocalBackend(inner))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_shuffled_listing_of_a_store_that_promises_no_order_changes_nothing():
    names = [f"{a}{sep}{b}" for a in "abcd" for b in "xyz" for sep in ("/", "-", ".", "")]
    plain = fill(memory(dirs=False), *names)
    src, dst = memory(Shuffled, dirs=False, sorted_list=False), memory(Shuffled, dirs=False, sorted_list=False)
    fill(src, *names)
    fill(dst, *names[::2], "extra")
    report = go(src, dst, **ALL)
    assert held(dst) == held(plain)
    assert (report.copied, report.deleted, report.equal) == (24, 1, 24)


@pytest.mark.parametrize("role", ["src", "dst"])
def test_disorder_of_a_side_that_promised_order_fails_the_plan_and_deletes_nothing(role):
    names = [f"f{n}" for n in range(20)]
    kinds = {"src": MemoryBackend, "dst": MemoryBackend, role: Shuffled}
    src, dst = fill(memory(kinds["src"], dirs=False), *names[:15]), fill(memory(kinds["dst"], dirs=False), *names)
    report = go(src, dst, raise_errors=False, **ALL)
    assert set(dst._objects) == set(names)
    assert not report.ok
    assert any("sort_listings" in text for text in errors(report).values())
    assert go(src, dst, sort_listings=True, **ALL).deleted == 5


def test_names_that_are_one_at_the_destination_are_found_before_the_first_write():
    src, dst = fill(memory(), "a", "File", "FILE", "other"), memory(Folding)
    watched = Acting(dst, lambda op, number: None)
    report = go(src, watched, raise_errors=False, **ALL)
    assert set(errors(report)) == {"File", "FILE"}
    assert set(dst._objects) == {"a", "other"}
    kinds = [action.kind for action in Plan(src, memory(Folding))]
    assert kinds[:2] == ["error", "error"]


def test_goal_39_every_collision_of_two_hundred_names_is_found_before_the_first_write():
    names, groups = two_hundred_names()
    assert len(names) >= 200
    src = memory(dirs=False)
    for name in names:
        info = ObjectInfo(name, 1, day(0), etag=name)
        src._objects[name] = type(fill(memory(), "x")._objects["x"])(b"1", info)
    plan = list(Plan(src, memory(Folding, normalizes="NFC"), portable_names=True))
    writes = [action.path for action in plan if action.kind == "copy"]
    told = {action.path for action in plan if action.kind in ERRORS}
    assert told == groups
    assert set(writes) == set(names) - groups
    first = next(at for at, action in enumerate(plan) if action.kind == "copy")
    doubled = {action.path for action in plan[:first] if action.kind in ERRORS}
    assert doubled >= {name for name in groups if "one of a pair" in pairs()[1].get(name, "")}


def pairs():
    """Names that are one on a file system that folds case and normalises, and what is wrong with each."""
    found, wrong = [], {}
    for a, b in [
        *((f"Case{n}.txt", f"cASE{n}.txt") for n in range(20)),
        *((f"caf\u00e9{n}", f"cafe\u0301{n}") for n in range(20)),
        *((f"dir{n}/\u00c5", f"dir{n}/A\u030a") for n in range(10)),
        *((f"x/\u00dcber{n}", f"x/u\u0308BER{n}") for n in range(10)),
        ("stra\u00dfe", "STRASSE"),
        ("\u03a3igma", "\u03c3igma"),
        ("\ufb01le", "FILE"),
        ("K\u00e9y", "\u212a\u00e9Y"),
    ]:
        found += [a, b]
        wrong |= {a: "one of a pair", b: "one of a pair"}
    return found, wrong


def two_hundred_names():
    names, wrong = pairs()
    devices = ("con", "PRN", "aux.txt", "Nul", "COM1", "lpt9.log", "com\u00b9", "conin$", "sub/con", "nul.tar.gz")
    tails = ("dot.", "blank ", "sub /x", "sub2./x", "dots..", "a. ")
    signs = tuple(f"s{sign}x" for sign in '<>:"|?*\\')
    plain = ("console", "contact", "com10", "lpt", "nullable", "a.b", ".hidden", "..x", "space in", "prn2", "auxiliary")
    good = [f"plain/{n:03}" for n in range(60)]
    refused = {*devices, *tails, *signs}
    return [*names, *refused, *plain, *good], {*wrong, *refused}


def test_a_plain_sync_deletes_nothing():
    src, dst = fill(memory(), "a"), fill(memory(), "b")
    for verb in (sync, copy):
        verb(src, dst)
    assert set(held(dst)) == {"a", "b"}
    with pytest.raises(ConfigError):
        copy(src, dst, delete=True)
    with pytest.raises(ConfigError):
        move(src, dst, delete=True)


def test_a_dry_run_writes_nothing_and_says_what_would_be():
    src, dst = fill(memory(), "a", "b"), fill(memory(), "b", "x", at=1)
    before = held(dst)
    report = go(src, dst, dry_run=True, **ALL)
    assert held(dst) == before
    assert (report.copied, report.deleted, report.dry_run) == (1, 1, True)
    assert go(src, dst, **ALL).copied == 1


def test_the_moment_a_filter_counts_ages_from_is_that_of_the_plan():
    src = fill(memory(), "a")
    filter = Filter.parse(max_age=timedelta(days=1), now=datetime(2026, 1, 1, 12, tzinfo=UTC))
    assert planned(src, memory(), filter=filter) == [("copy", "a")]
    assert ops.read_bytes(src, "a")
