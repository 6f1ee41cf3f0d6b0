"""How two listings are read and merged: section 3 of the engine's contract."""

import os
import pathlib
import subprocess
import sys
import unicodedata
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import ListingDisorder, LocalBackend, MemoryBackend, ops
from omnistorage.core import ObjectInfo
from omnistorage.errors import CapabilityNotSupported
from omnistorage.sync import Filter, Plan, sync
from omnistorage.sync.endpoint import Side
from omnistorage.sync.entries import Fold
from omnistorage.sync.planning.portable_names import not_portable
from omnistorage.wrappers import Prefix

from ..budget import pick
from .stores import (
    Acting,
    Folding,
    Shuffled,
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
SOME = pick(default=100_000, ci=300_000, soak=300_000)
long = partial(pytest.param, marks=pytest.mark.ci_only)
CHILD = pathlib.Path(__file__).parent / "listing_child.py"
NAMES = st.text("ab.-/0 é", min_size=1, max_size=8).map(lambda text: "/".join(p for p in text.split("/") if p))
KEYS = NAMES.filter(lambda key: key and not {".", ".."} & set(key.split("/")))


def keys_of(side, **settings):
    return [entry.key for entry in side.entries(Filter(), **settings)]


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
@pytest.mark.parametrize(
    ("case", "actions", "entries"),
    [
        long("equal", 0, 300_000),
        # 100,000 entries of some 800 bytes would be 80 MB beyond what the process takes anyhow.
        ("all to be copied", SOME, SOME),
        long("all to be deleted", 300_000, 300_000),
        long("letter case folded", 0, 100_000),
        long("no order promised", 0, 300_000),
    ],
)
def test_go_p3_memory_does_not_grow_with_the_listings(case, actions, entries):
    command = [sys.executable, "-W", "error", CHILD, case, str(entries)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "0"})
    assert (done.returncode, done.stderr) == (0, "")
    count, mib = done.stdout.split()
    assert int(count) == actions
    assert float(mib) <= 60


# --- order ------------------------------------------------------------------------------------------------------------


def test_a_folder_compares_as_its_name_and_a_slash():
    names = ["a", "a!/x", "a-b", "a.b", "a/b", "a/b-c", "a/b.c", "a/c/d", "a0", "ab", "é", "z"]
    tree, flat = memory(), memory(dirs=False)
    fill(tree, *(name for name in names if name != "a"))
    fill(flat, *(name for name in names if name != "a"))
    assert keys_of(Side(tree, "source")) == keys_of(Side(flat, "source"))
    with_folders = keys_of(Side(tree, "source"), folders=True)
    assert with_folders == sorted(with_folders)
    assert b"a/" in with_folders


@given(st.lists(KEYS, max_size=20), st.lists(KEYS, max_size=20))
def test_trees_and_flat_keys_merge_without_sorting(ours, theirs):
    """Whatever the names: what both kinds of store make of them is what a dict makes of them."""
    for dirs in ((True, False), (False, True), (True, True), (False, False)):
        src, dst = MemoryBackend(dirs=dirs[0]), MemoryBackend(dirs=dirs[1])
        for store, names in ((src, ours), (dst, theirs)):
            for name in names:
                try:
                    put(store, name, name)
                except ValueError:
                    pass  # the name, or a part of it, is an object's already
        go(src, dst, raise_errors=False, on_type_clash="replace", allow_empty_source=True, ignore_errors=True, **ALL)
        assert set(held(dst)) <= set(held(src))
        if not (dirs[1] and not dirs[0]):
            assert held(dst) == held(src)


@pytest.mark.parametrize("dirs", [True, False])
def test_disorder_is_noticed_and_the_message_names_the_option(dirs):
    side = Side(fill(memory(Shuffled, dirs=dirs), *(f"f{n}" for n in range(9))), "source")
    with pytest.raises(ListingDisorder, match="sort_listings"):
        keys_of(side)
    assert keys_of(side, resort=True) == [f"f{n}".encode() for n in range(9)]


def test_sorting_keeps_the_whole_record():
    made = memory(Shuffled, dirs=False, sorted_list=False)
    for number in range(9):
        put(made, f"f{number}", b"x" * number, at=number)
    made._objects["f5"] = made._objects["f5"]._replace(
        info=made._objects["f5"].info._replace(hashes={"md5": "00"}, metadata={"a": "b"}, content_type="text/x")
    )
    found = [entry.info for entry in Side(made, "source").entries(Filter())]
    assert found == [made.stat(f"f{number}") for number in range(9)]


def test_a_name_that_is_listed_twice_is_one_object():
    class Twice(MemoryBackend):
        def _list(self, prefix, options):
            for info in super()._list(prefix, options):
                yield info
                yield info

    src, dst = fill(memory(Twice, dirs=False), "a", "b"), memory()
    assert go(src, dst).copied == 2
    assert go(src, dst, **ALL).equal == 2


# --- what is not listed -----------------------------------------------------------------------------------------------


def test_excluded_trees_are_never_listed():
    src, dst = memory(), memory()
    for side in (src, dst):
        fill(side, "keep/a", *(f"skip/d{n}/x" for n in range(20)))
    one, other = Acting(src, lambda op, number: None), Acting(dst, lambda op, number: None)
    go(one, other, filter=Filter.parse(["- /skip/**"]), **ALL)
    assert one.log.count("list_dir") + one.log.count("list") <= 8
    assert other.log.count("list_dir") + other.log.count("list") <= 8


@given(st.lists(KEYS, max_size=12), st.sampled_from(["- a/**", "- *.b", "+ /a/**", "- b/", "+ *.a"]))
def test_a_walk_that_passes_folders_over_finds_the_same(names, rule):
    filter = Filter.parse([rule] if rule.startswith("-") else [rule, "- *"])
    src = MemoryBackend()
    for name in names:
        try:
            put(src, name)
        except ValueError:
            pass
    wanted = {path for path in held(src) if filter.includes_path(path)}
    assert {path for kind, path in planned(src, MemoryBackend(), filter=filter, allow_empty_source=True)} == wanted


# --- names that fold --------------------------------------------------------------------------------------------------


def test_names_that_differ_in_case_are_one_where_the_destination_folds_it():
    src, dst = fill(memory(), "File", "d/Other"), fill(memory(Folding), "FILE", "D/other", "extra")
    put(src, "File", b"changed", at=3)
    report = go(src, dst, **ALL)
    assert (report.updated, report.copied, report.deleted) == (1, 0, 1)
    assert dst._get("file", "read").data == b"changed"
    assert planned(src, dst, **ALL) == []


def test_names_that_differ_in_case_are_two_where_nothing_folds_it():
    src, dst = fill(memory(), "File"), fill(memory(), "FILE")
    assert planned(src, dst, **ALL) == [("copy", "File"), ("delete", "FILE")]
    assert planned(src, dst, ignore_case=True, **ALL) == []


def test_names_that_differ_in_their_unicode_form_are_one_if_a_side_normalizes():
    composed, decomposed = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")
    src, dst = memory(), memory()
    put(src, composed, b"same")
    put(dst, decomposed, b"same")
    assert planned(src, dst, **ALL) == [("copy", composed), ("delete", decomposed)]
    assert planned(src, dst, normalize=True, **ALL) == []
    for one, other in (("NFC", None), (None, "NFD")):
        src.features, dst.features = replace(src.features, normalizes=one), replace(dst.features, normalizes=other)
        assert planned(src, dst, **ALL) == []
        assert planned(src, dst, normalize=False, **ALL) != []


def test_an_update_of_a_folded_name_goes_to_the_name_that_is_there():
    src, dst = fill(memory(), File=b"now"), fill(memory(), FILE=b"old one")
    go(src, dst, ignore_case=True)
    assert held(dst) == {"FILE": b"now"}


@pytest.mark.parametrize("role", ["src", "dst"])
def test_collisions_inside_one_side_are_told_and_nothing_of_them_is_deleted(role):
    sides = {"src": fill(memory(), "a", "x"), "dst": fill(memory(), "a", "x", "gone")}
    fill(sides[role], "File", "FILE")
    before = held(sides["dst"])
    report = go(*sides.values(), ignore_case=True, raise_errors=False, **ALL)
    if role == "src":
        assert set(errors(report)) == {"File", "FILE"}
        assert held(sides["dst"]) == before, "after an error nothing is deleted"
    else:
        assert set(held(sides["dst"])) <= {"a", "x"}


def test_folding_compares_names_and_not_their_folders_alone():
    fold = Fold(case=True, form=True)
    assert fold("D/Caf\u00e9") == fold("d/cafe\u0301") == fold("D/CAFE\u0301")
    assert fold("a/b") != fold("a-b")
    assert Fold()("D/Caf\u00e9") == "D/Caf\u00e9"


# --- names that a file system cannot hold -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("con", "device"),
        ("d/NUL.txt", "device"),
        ("com1", "device"),
        ("lpt\u00b2.x", "device"),
        ("CONIN$", "device"),
        ("trailing.", "dot or blank"),
        ("trailing ", "dot or blank"),
        ("d /x", "dot or blank"),
        ("a<b", "'<'"),
        ("a:b", "':'"),
        ("a\\b", "'\\\\'"),
        ("a\x1fb", "allows no"),
        ("console", ""),
        ("com10", ""),
        ("a.b", ""),
        (".hidden", ""),
        (" leading", ""),
    ],
)
def test_goal_39_names_that_windows_cannot_hold_are_refused_if_that_is_asked_for(name, why):
    assert (why in not_portable(name)) if why else not_portable(name) == ""
    if "\x1f" in name:
        return
    src = fill(memory(), "fine")
    put(src, name)
    found = planned(src, memory(), portable_names=True)
    assert (("refused", name) in found) is bool(why)
    assert ("copy", "fine") in found
    assert {kind for kind, _ in planned(src, memory())} == {"copy"}


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path):
    root = tmp_path / "src"
    (root / "d").mkdir(parents=True)
    (root / "file").write_bytes(b"file")
    (root / "d" / "x").write_bytes(b"x")
    (root / "to-file").symlink_to("file")
    (root / "to-folder").symlink_to("d")
    (root / "broken").symlink_to("nowhere")
    (root / "out").symlink_to(tmp_path)
    (root / "d" / "circle").symlink_to("..")
    return root


def test_links_are_skipped_and_said_by_default(linked):
    dst = memory()
    report = go(LocalBackend(linked), dst)
    assert held(dst) == {"file": b"file", "d/x": b"x"}
    assert report.skipped == 5
    assert whys(LocalBackend(linked), dst)["to-file"] == "it is a symbolic link"


def test_links_are_followed_if_that_is_asked_for(linked):
    (linked / "d" / "circle").unlink()
    dst = memory()
    report = go(LocalBackend(linked), dst, links="follow")
    assert held(dst) == {"file": b"file", "d/x": b"x", "to-file": b"file", "to-folder/x": b"x"}
    assert report.skipped == 2, "what leads nowhere, and what leads out"
    assert planned(LocalBackend(linked), dst, links="follow", **ALL) == [("skip", "broken"), ("skip", "out")]


def test_a_circle_of_links_comes_to_an_end(linked):
    dst = memory()
    go(LocalBackend(linked), dst, links="follow", raise_errors=False)
    assert held(dst)["d/x"] == b"x"
    assert "to-file" in held(dst)


def test_pipes_and_the_like_are_skipped(tmp_path):
    (tmp_path / "src").mkdir()
    os.mkfifo(tmp_path / "src" / "pipe")
    (tmp_path / "src" / "file").write_bytes(b"1")
    dst = memory()
    assert go(LocalBackend(tmp_path / "src"), dst).skipped == 1
    assert held(dst) == {"file": b"1"}


def test_a_link_at_the_destination_is_replaced_and_not_written_through(tmp_path):
    root = tmp_path / "dst"
    root.mkdir()
    (root / "other").write_bytes(b"untouched")
    (root / "f").symlink_to("other")
    go(fill(memory(), f=b"new", other=b"untouched"), LocalBackend(root), compare="size")
    assert (root / "other").read_bytes() == b"untouched"
    assert (root / "f").read_bytes() == b"new"
    assert not (root / "f").is_symlink()
    (root / "extra").symlink_to("other")
    assert go(fill(memory(), f=b"new", other=b"untouched"), LocalBackend(root), compare="size", **ALL).deleted == 1
    assert (root / "other").exists()
    assert not (root / "extra").is_symlink()


# --- folders ----------------------------------------------------------------------------------------------------------


def test_empty_folders_take_part_only_if_that_is_asked_for():
    src, dst = fill(memory(), "a"), memory()
    src.mkdir("empty")
    go(src, dst)
    assert not any(info.is_dir for info in ops.walk(dst, folders=True))
    go(src, dst, empty_dirs=True)
    assert [info.path for info in ops.walk(dst, folders=True) if info.is_dir] == ["empty"]


def test_an_empty_folder_that_the_source_has_is_not_removed():
    src, dst = fill(memory(), "a"), fill(memory(), "a")
    src.mkdir("empty")
    dst.mkdir("empty")
    dst.mkdir("gone/inner")
    go(src, dst, **ALL)
    assert [info.path for info in ops.walk(dst, folders=True) if info.is_dir] == ["empty"]


def test_a_folder_whose_only_folder_is_left_out_is_an_empty_one():
    src, dst = fill(memory(), "a/inner/left", "b/left"), memory()
    go(src, dst, empty_dirs=True, filter=Filter.parse(["- inner/**", "- left"]))
    assert [info.path for info in ops.walk(dst, folders=True) if info.is_dir] == ["a", "b"]


def test_a_flat_store_has_no_folders_to_make():
    src, dst = fill(memory(), "a"), memory(dirs=False)
    src.mkdir("empty")
    assert go(src, dst, empty_dirs=True).made == 0
    assert held(dst) == {"a": b"data of a"}


def test_a_source_that_is_nothing_but_empty_folders_is_no_empty_source():
    src, dst = memory(), fill(memory(), "gone")
    src.mkdir("empty")
    report = go(src, dst, empty_dirs=True, **ALL)
    assert (report.made, report.deleted) == (1, 1)


# --- places -----------------------------------------------------------------------------------------------------------


def test_places_are_urls_paths_backends_and_stores(tmp_path):
    from omnistorage import Store

    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a").write_bytes(b"1")
    places = [
        str(tmp_path / "src"),
        tmp_path / "src",
        (tmp_path / "src").as_uri(),
        LocalBackend(tmp_path / "src"),
        Prefix(LocalBackend(tmp_path), "src"),
        Store(LocalBackend(tmp_path)).at("src") if hasattr(Store, "at") else Store(LocalBackend(tmp_path / "src")),
    ]
    for number, place in enumerate(places):
        assert sync(place, tmp_path / f"dst{number}").copied == 1
        assert (tmp_path / f"dst{number}" / "a").read_bytes() == b"1"


def test_a_destination_that_is_not_there_yet_is_made(tmp_path):
    assert go(fill(memory(), "a/b"), str(tmp_path / "one" / "two"), **ALL).copied == 1
    assert (tmp_path / "one" / "two" / "a" / "b").exists()


def test_a_side_that_cannot_do_its_part_is_refused_before_anything_is_read():
    src, dst = fill(memory(), "a"), memory()
    for role, flag, more in (
        ("src", "list", {}),
        ("src", "read", {}),
        ("dst", "list", {}),
        ("dst", "delete", ALL),
        ("src", "delete", {"move": True}),
        ("dst", "stat", {"no_traverse": True}),
    ):
        sides = {"src": memory(**({flag: False} if role == "src" else {}))}
        sides["dst"] = memory(**({flag: False} if role == "dst" else {}))
        with pytest.raises(CapabilityNotSupported, match=f"cannot {flag}"):
            Plan(*sides.values(), **more)
    assert held(src)
    assert held(dst) == {}


def test_a_plan_reads_and_never_writes():
    src, dst = fill(memory(), "a", "b"), fill(memory(), "b", "x")
    one, other = Acting(src, lambda op, number: None), Acting(dst, lambda op, number: None)
    assert planned(one, other, **ALL) == [("copy", "a"), ("delete", "x")]
    assert {"list", "list_dir"} >= set(one.log) | set(other.log)


def test_an_entry_that_is_neither_file_nor_folder_is_skipped():
    src = listing(ObjectInfo("odd", kind="other"))
    assert planned(fill(src, "a"), memory()) == [("copy", "a"), ("skip", "odd")]
