"""Others at work beside bisync; what takes no part; files and folders; dry runs."""

import json
from datetime import timedelta

import pytest

from omnistorage import ConfigError, MemoryBackend
from omnistorage.sync import BisyncReport, Filter

from .stores import Acting, Folding, blind, fill, held, listing, meanwhile, memory, put
from .two_sides import Two, conflict, refuses

# --- others at work --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "edit"),
    [
        *(("while it reads", edit) for edit in ("change", "delete", "create")),
        *(("at the end", edit) for edit in ("change", "delete", "create", "change its own", "delete its own")),
    ],
)
@pytest.mark.parametrize("side", "ab")
def test_an_edit_during_a_run_is_found_by_the_next_one(two, when, edit, side):
    put(two.a, "new a", "written by the run")
    put(two.b, "new b", "written by the run")
    store = getattr(two, side)
    wrote = f"new {'b' if side == 'a' else 'a'}"
    edits = {
        "change": lambda: put(store, "y", "edited", at=5),
        "delete": lambda: store.delete("y"),
        "create": lambda: put(store, "created", "edited", at=5),
        "change its own": lambda: put(store, wrote, "edited", at=5),
        "delete its own": lambda: store.delete(wrote),
    }
    if when == "while it reads":
        more = {"b": meanwhile(two.b, "open_reader", edits[edit])}
    else:
        more = {"state": _Before(two.state, ".ndjson", edits[edit])}
    assert two.go(**more).ok
    assert two.go().changes == 1
    found = two.both()
    expected = {"change": ("y", "edited"), "create": ("created", "edited"), "change its own": (wrote, "edited")}
    if edit in expected:
        assert found[expected[edit][0]] == expected[edit][1]
    else:
        assert {"delete": "y"}.get(edit, wrote) not in found
    two.does_nothing()


class _Before(Acting):
    """``do`` is called once, before the first object with this suffix is written."""

    def __init__(self, inner, suffix, do):
        super().__init__(inner, lambda op, number: None)
        self.suffix, self.do = suffix, [do]

    def open_writer(self, path, *options):
        if path.endswith(self.suffix) and self.do:
            self.do.pop()()
        return super().open_writer(path, *options)


class Terse(MemoryBackend):
    """Says nothing of what it wrote but its size."""

    def _put(self, path, data, options, op):
        return super()._put(path, data, options, op)._replace(etag=None, modified_at=None)


def test_an_edit_of_the_same_size_is_found_where_writing_tells_neither_etag_nor_time():
    two = Two(memory(), memory(Terse))
    put(two.a, "x", "one")
    two.go(state=_Before(two.state, ".ndjson", lambda: put(two.b, "x", "two", at=2)))
    assert two.go().changes == 1
    assert two.both() == {"x": "two"}


def test_what_is_made_on_both_sides_during_a_run_is_a_conflict_for_the_next_one(two):
    put(two.a, "new", "new")

    def create():
        put(two.a, "z", "one", at=1)
        put(two.b, "z", "other", at=2)

    two.go(state=_Before(two.state, ".ndjson", create))
    assert two.go().conflicted == 1
    assert two.both()["z"] == "other"


@pytest.mark.parametrize("kind", [memory, blind])
def test_what_changes_between_its_listing_and_its_turn_is_neither_overwritten_nor_deleted(kind):
    two = Two(kind(), kind())
    fill(two.a, "x", "y", "z", "always")
    two.go()
    put(two.a, "x", "changed", at=2)
    two.a.delete("y")
    put(two.a, "new", "new", at=2)

    def edit():
        put(two.b, "x", "an edit of x", at=3)
        put(two.b, "y", "an edit of y", at=3)
        put(two.b, "new", "made by others", at=3)

    report = two.go(a=meanwhile(two.a, "open_reader", edit), raise_errors=False)
    assert not report.ok
    assert (held(two.b)["x"], held(two.b)["y"]) == (b"an edit of x", b"an edit of y")
    assert two.go().ok
    assert {"changed", "an edit of x", "an edit of y"} <= set(two.both().values())


def test_a_new_name_that_others_were_faster_with_is_theirs_where_nothing_is_checked():
    two = Two(blind(), blind())
    fill(two.a, "a", "x")
    report = two.go(a=meanwhile(two.a, "open_reader", lambda: put(two.b, "x", "theirs")), raise_errors=False)
    assert [failure.path for failure in report.failures] == ["x"]
    assert held(two.b)["x"] == b"theirs"


# --- what takes no part ----------------------------------------------------------------------------------------------


def test_what_the_filter_hides_is_neither_copied_nor_deleted(two):
    filter = Filter.parse(["- *.tmp", "- /cache/**"])
    fill(two.a, "a.tmp", "cache/x")
    fill(two.b, "b.tmp", "cache/y")
    two.go(filter=filter, resync=True)
    two.does_nothing(filter=filter)
    assert {"a.tmp", "cache/x"} <= set(held(two.a))
    assert not {"a.tmp", "cache/x"} & set(held(two.b))


def test_a_loser_whose_new_name_the_filter_hides_is_put_aside_all_the_same(two):
    filter = Filter.parse(["- *.conflict-*"])
    two.go(filter=filter, resync=True)
    conflict(two)
    two.go(filter=filter)
    assert two.both()["x.conflict-1"] == "left side"
    two.does_nothing(filter=filter)


def test_an_object_that_grew_out_of_the_filter_is_not_deleted_and_what_happens_meanwhile_is_not_lost():
    two = Two()
    small = Filter(max_size=100)
    fill(two.a, "x", "always")
    two.go(filter=small)
    put(two.a, "x", "long" * 100, at=2)
    fill(two.a, "another")  # so that a state is saved
    two.go(filter=small)
    assert held(two.b)["x"] == b"data of x"
    put(two.b, "x", "edited", at=3)
    fill(two.a, "and another")
    two.go(filter=small)
    put(two.a, "x", "short again", at=4)
    assert two.go(filter=small).conflicted == 1
    assert {"edited", "short again"} <= set(two.both().values())


def test_a_link_in_the_place_of_a_file_or_folder_shields_what_the_other_side_has():
    two = Two(listing(), memory())
    fill(two.a, "always", "x", "d")
    fill(two.b, "f/y")
    two.a.shown = ()
    two.go(filter=Filter.parse(["- f/**"]))
    two.a.delete("x")
    two.a.shown = (listing("x").shown[0],)
    report = two.go(filter=Filter.parse(["- f/**"]))
    assert report.changes == 0
    assert "no plain objects, and whatever lies below these names: 1 (x)" in report.warnings[0]
    assert held(two.b)["x"] == b"data of x"


def test_of_a_thousand_links_one_warning_counts_them_and_names_a_few():
    two = Two(listing(*(f"link{number:04}" for number in range(1000))), fill(memory(), "f"))
    report = two.go()
    assert report.to_path1 == 1
    assert len(report.warnings) == 1
    assert ": 1,000 (link0000; link0001; " in report.warnings[0]
    assert report.warnings[0].endswith("link0004; and 995 more)")


def test_of_many_names_that_are_one_a_few_are_told():
    two = Two(fill(memory(), *(f"x{number:03}" for number in range(300))), memory(Folding))
    fill(two.a, *(f"X{number:03}" for number in range(300)))
    with pytest.raises(ConfigError) as caught:
        two.go()
    assert "'X000' and 'x000' of first side" in str(caught.value)
    assert str(caught.value).count(" of first side") == 5
    assert "; and 295 more" in str(caught.value)


def test_what_lies_below_a_link_on_the_other_side_stays():
    two = Two(listing(dirs=False), memory())
    fill(two.b, "always", "d/y")
    two.go()
    two.a.delete("d/y")
    two.a.shown = listing("d").shown
    assert two.go().changes == 0
    assert "d/y" in held(two.b)


# --- files and folders -----------------------------------------------------------------------------------------------


def test_a_file_that_became_a_folder_does_so_on_the_other_side(way):
    two, here, _ = way
    here.delete("x")
    fill(here, "x/1", "x/2")
    two.go()
    assert set(two.both()) == {"always", "y", "d/z", "x/1", "x/2"}
    two.does_nothing()


def test_a_folder_that_became_a_file_does_so_on_the_other_side(way):
    two, here, _ = way
    here.delete("d/z")
    here.rmdir("d")
    put(here, "d", "a file")
    two.go()
    assert two.both()["d"] == "a file"
    two.does_nothing()


def test_a_file_beside_a_folder_of_its_name_fails_and_nothing_is_lost(two):
    put(two.a, "n", "a file")
    put(two.b, "n/x", "in a folder")
    report = two.go(raise_errors=False)
    assert {failure.path for failure in report.failures} == {"n", "n/x"}
    assert (held(two.a)["n"], held(two.b)["n/x"]) == (b"a file", b"in a folder")
    two.a.delete("n")
    two.a.delete("x")
    assert two.go().ok
    assert two.both()["n/x"] == "in a folder"


def test_a_folder_that_a_deletion_emptied_goes_too(way):
    two, here, there = way
    put(here, "p/q/r/s", "deep")
    two.go()
    here.delete("p/q/r/s")
    for folder in ("p/q/r", "p/q", "p"):
        here.rmdir(folder)
    assert two.go().folders_removed == 3
    assert [info.path for info in there.list_dir() if info.is_dir] == ["d"]


def test_an_emptied_folder_that_the_other_side_has_stays(way):
    two, here, there = way
    here.delete("d/z")
    assert two.go().folders_removed == 0
    assert [info.path for info in there.list_dir() if info.is_dir] == ["d"]


def test_a_folder_that_holds_something_else_stays(way):
    two, here, there = way
    filter = Filter.parse(["- *.tmp"])
    two.go(filter=filter, resync=True)
    put(there, "d/own.tmp", "hidden")
    here.delete("d/z")
    here.rmdir("d")
    report = two.go(filter=filter)
    assert (report.changes, report.folders_removed) == (1, 0)
    assert "d/own.tmp" in held(there)


def test_names_that_a_side_cannot_tell_apart_meet():
    two = Two(memory(), memory(Folding))
    put(two.a, "Readme", "one", at=1)
    put(two.b, "README", "one", at=1)
    two.go()
    put(two.b, "README", "other", at=2)
    two.go()
    assert held(two.a) == {"Readme": b"other"}
    two.does_nothing()
    put(two.a, "readme", "third", at=3)
    refuses(two, "rename one of each", ConfigError)


# --- dry run, report, events -----------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_done_and_writes_nothing_at_all(two):
    conflict(two)
    put(two.a, "new", "new")
    two.b.delete("y")
    before = [held(store) for store in (two.a, two.b, two.state)]
    state = Acting(two.state, lambda op, number: None)
    would = two.go(dry_run=True, state=state)
    assert [held(store) for store in (two.a, two.b, two.state)] == before
    assert set(state.log) <= {"open_reader", "read"}
    did = two.go()
    for name in ("to_path1", "to_path2", "deleted_path1", "deleted_path2", "conflicts"):
        assert getattr(would, name) == getattr(did, name)
    assert "would be copied to path1" in str(would)


def test_the_report_says_what_happened_on_each_side(two):
    put(two.a, "new", "four", at=2)
    put(two.b, "1", "one", at=2)
    put(two.b, "2", "two", at=2)
    two.b.delete("y")
    report = two.go()
    assert (report.to_path1, report.to_path2, report.deleted_path1, report.deleted_path2) == (2, 1, 1, 0)
    assert (report.bytes, report.unchanged) == (10, 3)
    assert json.loads(json.dumps(report.as_dict()))["ok"] is True
    assert str(report) == "2 copied to path1, 1 copied to path2, 1 deleted from path1"
    assert str(BisyncReport()) == "nothing to do"


def test_every_event_tells_the_side_and_there_is_one_summary(two):
    put(two.a, "new", "new", at=2)
    two.b.delete("y")
    seen = []
    two.go(listeners=[seen.append])
    changes = {(event.kind, event.path, event.action.to) for event in seen if event.kind in ("done", "deleted")}
    assert changes == {("done", "new", "path2"), ("deleted", "y", "path1")}
    assert [event.kind for event in seen].count("summary") == 1
    assert seen[-1].kind == "summary"


@pytest.mark.parametrize(
    ("settings", "at", "same"),
    [
        ({}, 1, 1),
        ({}, 2, 0),
        ({"modify_window": timedelta(days=2)}, 2, 1),
        ({"size_only": True}, 2, 1),
        ({"compare": "mtime"}, 1, 1),
        ({"compare": "checksum"}, 1, 0),
        ({"checksum": True}, 1, 0),
    ],
)
def test_what_counts_as_the_same_on_the_first_run_can_be_chosen(settings, at, same):
    two = Two()
    put(two.a, "x", "left.", at=1)
    put(two.b, "x", "right", at=at)
    report = two.go(**settings)
    assert (report.same, report.conflicted) == (same, 1 - same)
