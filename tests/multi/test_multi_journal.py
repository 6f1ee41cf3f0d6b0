"""What a fan-out's journal remembers, and what repair makes of it, sentence by sentence of the contract."""

import hashlib
import re
from datetime import timedelta

import pytest

from omnistorage import (
    BackendUnavailable,
    ConfigError,
    CorruptData,
    InvalidPath,
    LocalBackend,
    MemoryBackend,
    MultiBackend,
    NotFound,
    StorageError,
    Target,
    WriteOptions,
)
from omnistorage.multi.mirror import journal as _journal
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.testing.faults import Faulty

from .mirrors import entries, mirror, peeks, switches
from .places import Switch


def test_a_target_that_was_away_is_brought_up_to_date():
    places = switches(3, kept=b"k", gone=b"g", moved=b"m")
    multi = mirror(places, "quorum")
    places[1].down = True
    write_bytes(multi, "new", b"1")
    write_bytes(multi, "new", b"22")
    write_bytes(multi, "kept", b"other")
    multi.delete("gone")
    multi.move("moved", "there")
    multi.copy("kept", "copied")
    multi.mkdir("folder")
    assert multi.repair().waiting  # it still is away
    places[1].down = False
    assert [places[1].inner.peek(path) for path in ("new", "kept", "gone", "moved")] == [None, b"k", b"g", b"m"]
    done = multi.repair()
    assert not done.waiting
    assert set(done.paths) == {"new", "kept", "gone", "moved", "there", "copied", "folder"}
    wanted = {"new": b"22", "kept": b"other", "gone": None, "moved": None, "there": b"m", "copied": b"other"}
    for path, data in wanted.items():
        assert peeks(places, path) == [data] * 3, path
    assert [info.path for info in places[1].inner.list_dir() if info.is_dir] == ["folder"]
    assert entries(multi) == []
    assert multi.repair() == ((), 0, ())
    assert multi.verify().alike


def test_repair_changes_nothing_where_all_are_alike_by_now():
    places = switches(3)
    multi = mirror(places, "quorum")
    places[0].down = True
    write_bytes(multi, "x", b"1")
    places[0].down = False
    write_bytes(places[0].inner, "x", b"1")
    assert multi.repair()[:2] == (("x",), 0)
    assert entries(multi) == []


def test_a_later_change_settles_what_was_missed_before():
    places = switches(3)
    multi = mirror(places, "quorum")
    places[0].down = True
    write_bytes(multi, "x", b"1")
    write_bytes(multi, "x", b"2")
    assert entries(multi) == [("x", ("t0",), False)]
    places[0].down = False
    write_bytes(multi, "x", b"3")
    assert entries(multi) == []
    assert peeks(places, "x") == [b"3"] * 3


def test_a_target_is_not_read_where_it_missed_something():
    places = switches(3, x=b"old", gone=b"g")
    multi = mirror(places, "quorum")
    places[0].down = True
    write_bytes(multi, "x", b"new")
    multi.delete("gone")
    places[0].down = False
    for one in (multi, pickled_like(multi, places)):
        assert read_bytes(one, "x") == b"new"
        assert not one.exists("gone")
        assert [info.path for info in one.list()] == ["x"]
        assert [info.path for info in one.list_dir()] == ["x"]
        assert one.stat("x").etag.startswith("t1:")
        with pytest.raises(NotFound):
            one.stat("gone")


def pickled_like(multi, places):
    """Another process with the same journal."""
    return mirror(places, "quorum", journal=multi._settings["journal"])


def test_a_condition_holds_of_what_is_shown_not_of_what_was_missed():
    places = switches(3, x=b"old")
    multi = mirror(places, "quorum")
    places[0].down = True
    multi.delete("x")
    places[0].down = False
    write_bytes(multi, "x", b"new", WriteOptions(overwrite=False))
    assert peeks(places, "x") == [b"new"] * 3
    assert entries(multi) == []


def test_metadata_that_was_missed_is_brought_too_and_the_bytes_stay_missed_until_then():
    places = switches(3)
    multi = mirror(places, "quorum")
    write_bytes(multi, "x", b"1")
    places[0].down = True
    write_bytes(multi, "x", b"22")
    multi.set_metadata("x", user_metadata={"a": "1"})
    places[0].down = False
    multi.set_metadata("x", user_metadata={"a": "2"})
    assert ("x", ("t0",), False) in entries(multi)
    assert read_bytes(multi, "x") == b"22"
    multi.repair()
    assert [dict(place.inner.stat("x").metadata) for place in places] == [{"a": "2"}] * 3
    assert peeks(places, "x") == [b"22"] * 3


def test_reaching_the_cap_of_the_journal_is_an_error_and_publishes_nothing():
    places = switches(3)
    multi = mirror(places, "quorum", journal_bytes=1000)
    places[0].down = True
    written = []
    with pytest.raises(StorageError, match=r"reached its 1000 bytes: repair\(\)"):
        for number in range(100):
            write_bytes(multi, f"x{number}", b"1")
            written.append(number)
    assert 0 < len(written) < 6
    assert [place.inner.peek(f"x{len(written)}") for place in places] == [None] * 3
    places[0].down = False
    multi.repair()
    write_bytes(multi, "x", b"1")


@pytest.mark.parametrize("folder", ["file", "file/journal"])
def test_an_error_of_the_journal_says_that_it_is_the_journals(tmp_path, folder):
    (tmp_path / "file").write_bytes(b"in the way")
    places = switches(2)
    multi = mirror(places, "best_effort", journal=tmp_path / folder)
    for change in (lambda: write_bytes(multi, "x", b"1"), lambda: multi.delete("x")):
        with pytest.raises(InvalidPath, match=f"the repair journal file://.*/{folder}/ cannot be used: a file") as told:
            change()
        assert told.value.path == "x"
    assert peeks(places, "x") == [None] * 2


def test_an_error_that_a_journal_raises_twice_says_it_once():
    class Away(MemoryBackend):
        error = BackendUnavailable("away")

        def _list(self, prefix, options):
            raise self.error

    multi = mirror(switches(2), "best_effort", journal=Away())
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match=r"^the repair journal memory://\S* cannot be used: away \["):
            multi.repair()


def test_why_a_target_missed_something_is_known():
    places = switches(3)
    multi = mirror(places, "quorum")
    places[1].down = True
    write_bytes(multi, "x", b"1")
    assert list(multi.causes) == ["t1"]
    with pytest.raises(BackendUnavailable) as told:
        places[1].stat("x")
    assert multi.causes["t1"] == told.value.args[0]


@pytest.mark.parametrize("rebuild", [False, True])
def test_verify_says_which_root_is_gone(tmp_path, rebuild):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    multi = MultiBackend([LocalBackend(tmp_path / "a"), LocalBackend(tmp_path / "b")])
    write_bytes(multi, "x", b"1")
    (tmp_path / "b/x").unlink()
    (tmp_path / "b").rmdir()
    with pytest.raises(BackendUnavailable, match=re.escape(str(tmp_path / "b"))):
        multi.verify(rebuild=rebuild)
    assert not (tmp_path / "b").exists()


def test_no_entry_grows_old():
    places = switches(3)
    journal = MemoryBackend()
    multi = mirror(places, "quorum", journal=journal)
    multi.journal._now = lambda: 1.0  # 1970
    places[0].down = True
    write_bytes(multi, "x", b"1")
    places[0].down = False
    assert mirror(places, "quorum", journal=journal).repair().paths == ("x",)
    assert peeks(places, "x") == [b"1"] * 3


def test_modes_in_which_targets_may_miss_something_need_a_journal():
    for mode in ("quorum", "best_effort"):
        with pytest.raises(ConfigError, match="journal"):
            MultiBackend([MemoryBackend(), MemoryBackend()], mode)
    with pytest.raises(ConfigError, match="verify"):
        MultiBackend([MemoryBackend()]).repair()


def test_the_journal_tells_targets_apart_by_name_and_place(tmp_path):
    for name in ("a", "b", "c", "journal"):
        (tmp_path / name).mkdir()

    def made(second, name="two"):
        targets = [Target("one", LocalBackend(tmp_path / "a")), Target(name, LocalBackend(tmp_path / second))]
        return MultiBackend(targets, "best_effort", journal=tmp_path / "journal")

    multi = made("b")
    multi.journal.add(multi.entry("x", [multi.places[1]]))
    with pytest.raises(ConfigError):
        made("c").repair()
    assert made("b", "three").repair().paths == ("x",), "the same place under another name"


@pytest.mark.parametrize("order", ["BAC", "CAB", "CBA"])
@pytest.mark.parametrize("named", [False, True])
def test_targets_that_change_places_or_names_never_serve_what_one_has_missed(tmp_path, order, named):
    def made(order):
        places = [tmp_path / name for name in order]
        if named:
            places = [Target(name, LocalBackend(place)) for name, place in zip("abc", places, strict=True)]
        else:
            places = [f"{place}/" for place in places]
        return MultiBackend(places, "quorum", journal=tmp_path / "journal")

    for name in ("A", "B", "C", "journal"):
        (tmp_path / name).mkdir()
    multi = made("ABC")
    write_bytes(multi, "k", b"old")
    (tmp_path / "A").rename(tmp_path / "away")
    (tmp_path / "A").write_bytes(b"in the way")
    write_bytes(multi, "k", b"new")
    (tmp_path / "A").unlink()
    (tmp_path / "away").rename(tmp_path / "A")
    again = made(order)
    assert read_bytes(again, "k") == b"new"
    again.copy("k", "k2")
    assert again.repair(grace=0).paths == ("k",)
    assert [(tmp_path / name / path).read_bytes() for name in "ABC" for path in ("k", "k2")] == [b"new"] * 6


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"version": 3}', b'{"version": 2, "crc32": "00000000", "entry": {}}', b"flipped"]
)
def test_a_damaged_entry_is_told_and_keeps_nobody_from_the_others(text):
    journal, places = MemoryBackend(), switches(3, x=b"old", acc=b"old")
    multi = mirror(places, "quorum", journal=journal)
    places[0].down = True
    write_bytes(multi, "x", b"new")
    places[0].down = False
    if text == b"flipped":
        multi.journal.add(multi.entry("acc", multi.places[:1]))
        name = max(info.path for info in journal.list())
        text = journal.peek(name).replace(b'"acc"', b'"abc"')
    else:
        name = f"{0:028x}.json"
    journal.put_raw(name, text)
    journal.put_raw("somebody/elses", b"object")
    again = mirror(places, "quorum", journal=journal)
    assert (read_bytes(again, "x"), read_bytes(again, "acc")) == (b"new", b"old")
    write_bytes(again, "y", b"1")
    done = again.repair(grace=0)
    assert (done.paths, done.changed) == (("x",), 1)
    ((entry, error),) = done.waiting
    assert isinstance(error, CorruptData)
    assert (entry.id, error.path) == (name.removesuffix(".json"), name)
    journal.delete(name)
    assert not again.repair().waiting


ODD = [
    {"id": "zz"}, {"id": "../../zz"}, {"id": 5}, {"id": "1" * 28}, {"path": "../x"}, {"path": ""}, {"path": 5},
    {"targets": [["a"]]}, {"targets": []}, {"urls": [{"a": 1}]}, {"among": [5]}, {"sha256": 5}, {"kind": ["file"]},
    {"intent": "yes"}, {"doubt": 1}, {"path": "x" * (2 << 20)},
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: f"{odd!r:.20}")
def test_an_entry_that_holds_what_none_does_is_damaged(odd):
    row = {"id": f"{0:028x}", "path": "a", "targets": ["t"], "kind": "file", "sha256": None, "intent": False}
    row |= {"urls": [None], "among": ["t"], "doubt": False} | odd
    store = MemoryBackend()
    text = _journal._plain({"version": 2, "crc32": _journal._checksum(row), "entry": row})
    store.put_raw(f"j/{0:028x}.json", text)
    journal = _journal.Journal(store, "j", 1 << 20)
    assert journal.load() == ()
    assert list(journal.damaged) == [f"{0:028x}"]
    added = journal.add(_journal.Missed("", "p", ("t",)))
    assert [entry.id for entry in _journal.Journal(store, "j", 1 << 20).load()] == [added.id]


def test_a_journal_that_others_fill_with_nothing_is_refused():
    store = MemoryBackend()
    for number in range(10):
        store.put_raw(f"j/{number:028x}.json", b"")
    with pytest.raises(StorageError):
        _journal.Journal(store, "j", 1000).load()
    journal = _journal.Journal(store, "j", 10_000)
    journal.load()
    assert len(journal.damaged) == 10


def test_a_journal_that_others_fill_is_refused():
    store = MemoryBackend()
    journal = _journal.Journal(store, "j", 1000)
    journal.add(_journal.Missed("", "p" * 500, ("t",)))
    (name,) = (info.path for info in store.list("j"))
    text = store.peek(name)
    for number in range(10):
        store.put_raw(f"j/{number:028x}.json", text)
    with pytest.raises(StorageError):
        _journal.Journal(store, "j", 1000).load()


def test_an_entry_that_would_not_be_read_back_is_not_written():
    journal = _journal.Journal(MemoryBackend(), "j", 1 << 30)
    with pytest.raises(StorageError):
        journal.add(_journal.Missed("", "p", ("t" * _journal.MAX_ENTRY,)))
    assert journal.load() == ()


def test_an_entry_of_the_far_future_does_not_hide_those_behind_it():
    row = {"id": "f" * 28, "path": "a", "targets": ["t"], "kind": "file", "sha256": None, "intent": False}
    row |= {"urls": [None], "among": ["t"], "doubt": False}
    store = MemoryBackend()
    store.put_raw(
        f"j/{'f' * 28}.json",
        _journal._plain({"version": 2, "crc32": _journal._checksum(row), "entry": row}),
    )
    journal = _journal.Journal(store, "j", 1 << 20)
    added = journal.add(_journal.Missed("", "p", ("t",)))
    assert [entry.id for entry in _journal.Journal(store, "j", 1 << 20).load()] == [added.id]


@pytest.mark.parametrize("published", [0, 1, 2])
def test_a_publication_that_a_kill_cut_short_is_completed_or_forgotten(published):
    places = switches(3, x=b"old")
    multi = mirror(places, journal=MemoryBackend())
    sha = hashlib.sha256(b"new").hexdigest()
    multi.journal.add(multi.entry("x", multi.places, sha256=sha, intent=True))
    for place in places[:published]:
        place.inner.put_raw("x", b"new")
    assert multi.repair().waiting  # another process may be at it
    assert multi.repair(grace=0).paths == ("x",)
    assert peeks(places, "x") == [b"new" if published else b"old"] * 3
    assert entries(multi) == []


def test_what_cannot_be_asked_may_be_what_was_published():
    places = switches(3, x=b"old")
    multi = mirror(places, journal=MemoryBackend())
    sha = hashlib.sha256(b"new").hexdigest()
    multi.journal.add(multi.entry("x", multi.places, sha256=sha, intent=True))
    places[2].inner.put_raw("x", b"new")
    places[2].down = True
    assert multi.repair(grace=timedelta()).waiting
    assert peeks(places, "x") == [b"old", b"old", b"new"]
    places[2].down = False
    assert multi.repair(grace=0).paths == ("x",)
    assert peeks(places, "x") == [b"new"] * 3


def test_a_journal_that_fails_at_the_end_keeps_what_was_begun():
    journal = Switch()
    places = switches(3)
    multi = mirror(places, "quorum", journal=journal)

    class Then(Faulty):
        def _before(self, op, number):
            if op == "close":
                journal.down = True
                raise BackendUnavailable("both are gone")

    multi.places[0].backend = Then(places[0].inner)
    write_bytes(multi, "x", b"1")
    journal.down, multi.places[0].backend = False, places[0]
    assert entries(mirror(places, "quorum", journal=journal)) == [("x", ("t0", "t1", "t2"), True)]
    assert ("x", ("t0",), False) in entries(multi)  # which this process remembers
    assert multi.repair(grace=0).paths == ("x",)
    assert peeks(places, "x") == [b"1"] * 3


def test_without_a_journal_that_takes_the_entry_nothing_is_published():
    journal = Switch()
    places = switches(3, x=b"old")
    multi = mirror(places, "quorum", journal=journal)
    multi.journal.load()
    journal.down = True
    with pytest.raises(BackendUnavailable):
        write_bytes(multi, "x", b"new")
    assert peeks(places, "x") == [b"old"] * 3


def test_verify_compares_and_rebuilds_a_minority_but_takes_nothing_away():
    places = switches(3, same=b"1", flipped=b"right", lacking=b"here")
    multi = mirror(places)
    places[2].inner.put_raw("flipped", b"wrong")
    places[0].inner.delete("lacking")
    places[1].inner.put_raw("stray", b"s")
    for place, data in zip(places, (b"1", b"2", b"3"), strict=True):
        place.inner.put_raw("torn", data)
    found = multi.verify()
    assert (found.same, {one.path for one in found.differing}) == (1, {"flipped", "lacking", "stray", "torn"})
    assert not found.alike
    assert found.differing[0].holds == {
        "t0": hashlib.sha256(b"right").hexdigest(),
        "t1": hashlib.sha256(b"right").hexdigest(),
        "t2": hashlib.sha256(b"wrong").hexdigest(),
    }
    assert peeks(places, "flipped") == [b"right", b"right", b"wrong"]
    rebuilt = {one.path: one.rebuilt for one in multi.verify(rebuild=True).differing}
    assert rebuilt == {"flipped": ("t2",), "lacking": ("t0",), "stray": (), "torn": ()}
    assert peeks(places, "flipped") == [b"right"] * 3
    assert peeks(places, "lacking") == [b"here"] * 3
    assert peeks(places, "stray") == [None, b"s", None]
    assert {one.path for one in multi.verify().differing} == {"stray", "torn"}
    assert multi.verify("same").alike


def test_verify_leaves_to_the_journal_what_the_journal_knows():
    places = switches(3, x=b"old")
    multi = mirror(places, "best_effort")
    places[0].down = places[1].down = True
    write_bytes(multi, "x", b"newer")
    places[0].down = places[1].down = False
    found = multi.verify(rebuild=True)
    assert [one.path for one in found.pending] == ["x"]
    assert not found.alike
    assert peeks(places, "x") == [b"old", b"old", b"newer"]
    multi.repair()
    assert peeks(places, "x") == [b"newer"] * 3


def test_verify_says_which_target_cannot_be_asked():
    places = switches(3, x=b"1")
    places[1].down = True
    with pytest.raises(BackendUnavailable) as caught:
        mirror(places).verify()
    assert "in target 't1'" in caught.value.__notes__


def test_one_folder_under_two_names_and_nested_places_are_refused(tmp_path):
    for name in ("a", "b", "a/inner"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "far").symlink_to(tmp_path / "a/inner")
    for pair in (["a", "link"], ["a", "a/inner"], ["a/inner", "a"], ["a", "link/inner"], ["far", "a"], ["a", "a/new"]):
        with pytest.raises(ConfigError):
            MultiBackend([f"{tmp_path / name}/" for name in pair], journal=tmp_path / "journal")
    for journal in ("a", "link", "a/journal", "far"):
        with pytest.raises(ConfigError):
            MultiBackend([f"{tmp_path / name}/" for name in "ab"], journal=tmp_path / journal)
    MultiBackend([f"{tmp_path / name}/" for name in ("a", "b", "ab")], journal=tmp_path / "a-journal")


def test_places_that_lie_in_one_another_by_a_mount_are_refused(monkeypatch, tmp_path):
    for name in ("a/inner", "b", "bound"):
        (tmp_path / name).mkdir(parents=True)
    mounts = f"""\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 8:1 {tmp_path}/a/inner {tmp_path}/bound rw - ext4 /dev/sda1 rw
"""
    monkeypatch.setattr("omnistorage.ops.volumes._mounts", lambda: mounts)
    for pair in (["a", "bound"], ["bound", "a"], ["a", "bound/new"]):
        with pytest.raises(ConfigError):
            MultiBackend([f"{tmp_path / name}/" for name in pair], journal=tmp_path / "journal")
    with pytest.raises(ConfigError):
        MultiBackend([f"{tmp_path / name}/" for name in "ab"], journal=tmp_path / "bound")
    MultiBackend([f"{tmp_path / name}/" for name in ("b", "bound")], journal=tmp_path / "journal")
