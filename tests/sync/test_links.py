"""``links="store"``: a symbolic link travels as a small file, and is a link again where there are links."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import LocalBackend, MemoryBackend, ops
from omnistorage.core import LIST, ListOptions, ReadOptions, WriteOptions
from omnistorage.errors import AlreadyExists, CorruptData, InvalidPath, NotFound, StorageError
from omnistorage.sync import Filter, Plan, SyncOptions, check, copy, move, sync
from omnistorage.sync.execution.partitions import execute, prepare
from omnistorage.sync.execution.transfer import Hands
from omnistorage.sync.links import SUFFIX, StoredLinks

from ..backends import test_s3, test_sftp_conformance

RCLONE = Path(sys.executable).with_name("rclone")
STORE = {"links": "store"}


@pytest.fixture
def tree(tmp_path):
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "file").write_text("content")
    (source / "plain").write_text("plain")
    for name, target in (
        ("folder/beside", "file"),
        ("up", "folder/file"),
        ("to-folder", "folder"),
        ("nowhere", "no/such thing"),
        ("out", "/etc/hostname"),
        ("circle", "circle"),
    ):
        os.symlink(target, source / name)
        os.utime(source / name, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    return source


def seen(root):
    """Every name below ``root``: what a link says, else what a file holds."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in (*names, *folders):
            at = Path(folder, name)
            if at.is_symlink():
                found[str(at.relative_to(root))] = ("link", os.readlink(at), int(at.lstat().st_mtime))
            elif at.is_file():
                found[str(at.relative_to(root))] = at.read_text()
    return found


def left_to_do(src, dst, **settings):
    with Plan(src, dst, **STORE, **settings) as made:
        return [(action.kind, action.path) for action in made]


def test_links_arrive_as_links(tree, tmp_path):
    target = tmp_path / "target"
    report = sync(tree, target, **STORE)
    assert report.copied == 8
    assert report.skipped == 0
    assert seen(target) == seen(tree)
    assert left_to_do(tree, target, delete=True) == []
    assert check(tree, target, **STORE).in_sync


@pytest.mark.parametrize("between", [MemoryBackend, lambda: MemoryBackend(dirs=False)])
def test_they_are_files_where_there_are_no_links_and_links_again_behind_it(tree, tmp_path, between):
    store, target = between(), tmp_path / "target"
    sync(tree, store, **STORE)
    assert ops.read_bytes(store, "folder/beside" + SUFFIX) == b"file"
    assert ops.read_bytes(store, "out" + SUFFIX) == b"/etc/hostname"
    assert left_to_do(tree, store, delete=True) == []
    sync(store, target, **STORE)
    wanted = seen(tree)
    if not store.features.set_modified:
        wanted = {name: value[:2] if isinstance(value, tuple) else value for name, value in wanted.items()}
    assert seen(target) == wanted
    assert left_to_do(store, target, delete=True) == []


def test_changed_and_removed_links_follow(tree, tmp_path):
    target = tmp_path / "target"
    sync(tree, target, **STORE)
    (tree / "up").unlink()
    (tree / "nowhere").unlink()
    os.symlink("elsewhere", tree / "nowhere")
    os.utime(tree / "circle", (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    report = sync(tree, target, delete=True, **STORE)
    assert (report.deleted, report.failed) == (1, 0)
    assert seen(target) == seen(tree)
    assert left_to_do(tree, target, delete=True) == []


REPLACE = {"delete": True, "max_delete": "100%", "on_type_clash": "replace", **STORE}


def swap(tree):
    """The link ``up`` becomes a file, the file ``plain`` a link."""
    (tree / "up").unlink()
    (tree / "up").write_text("a file now")
    (tree / "plain").unlink()
    os.symlink("up", tree / "plain")


def test_a_link_and_a_file_replace_each_other_where_that_is_meant(tree, tmp_path):
    target = tmp_path / "target"
    sync(tree, target, **STORE)
    swap(tree)
    assert sync(tree, target, **REPLACE).ok
    assert seen(target) == seen(tree)
    with Plan(tree, target, **REPLACE) as made:
        assert list(made) == []


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"delete": True},
        {"delete": True, "on_type_clash": "replace", "max_delete": 0},
        {"delete": True, "on_type_clash": "replace", "max_delete_size": 0},
        {
            "on_type_clash": "replace",
            "immutable": True,
            "delete": True,
            "filter": Filter.parse(["- /up*", "- /plain"]),
        },
    ],
)
def test_a_link_and_a_file_of_one_name_leave_each_other_alone_otherwise(tree, tmp_path, settings):
    target = tmp_path / "target"
    sync(tree, target, **STORE)
    before = seen(target)
    swap(tree)
    planned = [kind for kind, path in left_to_do(tree, target, **settings) if path.startswith(("up", "plain"))]
    assert "copy" not in planned
    report = sync(tree, target, raise_errors=False, **settings, **STORE)
    assert report.failed >= 1
    after = seen(target)
    assert {name: after[name] for name in ("up", "plain")} == {name: before[name] for name in ("up", "plain")}


def test_what_is_replaced_by_its_other_kind_goes_to_the_backup(tree, tmp_path):
    target, kept = tmp_path / "target", tmp_path / "kept"
    sync(tree, target, **STORE)
    swap(tree)
    assert sync(tree, target, backup_dir=kept, **REPLACE).ok
    assert seen(target) == seen(tree)
    assert (kept / "plain").read_text() == "plain"
    assert (kept / ("up" + SUFFIX)).read_text() == "folder/file"


def test_what_comes_in_the_way_behind_the_plan_stays(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    os.symlink("somewhere", source / "link")
    (source / "file").write_text("ours")
    with Plan(source, target, **STORE) as made:
        actions = list(made)
        (target / "link").write_text("theirs")
        os.symlink("their target", target / "file")
        assert [action.kind for action in actions] == ["copy", "copy"]
        hands = Hands(made)
        for action in actions:
            with pytest.raises(AlreadyExists):
                hands.do(action)
    assert (target / "link").read_text() == "theirs"
    assert os.readlink(target / "file") == "their target"


def test_a_link_and_a_file_of_one_name_in_a_bucket_are_both_reported(tmp_path):
    store, target = MemoryBackend(dirs=False), tmp_path / "target"
    for name, data in (("x", b"file"), ("x!", b"between"), ("x" + SUFFIX, b"link"), ("y", b"y")):
        ops.write_bytes(store, name, data)
    for _ in range(2):
        report = copy(store, target, raise_errors=False, **STORE)
        assert sorted(failure.path for failure in report.failures) == ["x", "x" + SUFFIX]
        assert sorted(os.listdir(target)) == ["x!", "y"]


def test_the_time_of_a_folder_is_not_set_through_a_link(tree, tmp_path):
    target = tmp_path / "target"
    (target / "other").mkdir(parents=True)
    os.utime(target / "other", (1_500_000_000, 1_500_000_000))
    os.symlink("other", target / "folder")
    report = sync(tree, target, raise_errors=False, **STORE)
    assert report.failed >= 1
    assert (target / "other").stat().st_mtime == 1_500_000_000


def test_a_link_under_another_name_is_made_there(tree, tmp_path):
    target = tmp_path / "target"
    sync(tree, target, **STORE)
    (tree / "up").rename(tree / "down")
    (tree / "plain").rename(tree / "plainer")
    report = sync(tree, target, delete=True, track_renames="modtime", **STORE)
    assert report.ok
    assert seen(target) == seen(tree)
    assert left_to_do(tree, target, delete=True) == []


def test_a_move_takes_links_along(tree, tmp_path):
    target, wanted = tmp_path / "target", seen(tree)
    assert move(tree, target, **STORE).ok
    assert seen(target) == wanted
    assert seen(tree) == {}


def test_nothing_is_written_through_a_link(tmp_path):
    """In an object store ``x`` can be a link and a folder at once; on a file system what is below would land where the
    link leads."""
    store, target = MemoryBackend(dirs=False), tmp_path / "target"
    victim = target / "victim"
    victim.mkdir(parents=True)
    ops.write_bytes(store, "x" + SUFFIX, b"victim")
    ops.write_bytes(store, "x/inner", b"data")
    ops.write_bytes(store, "x/deeper/inner", b"data")
    report = copy(store, target, raise_errors=False, transfers=1, **STORE)
    again = copy(store, target, raise_errors=False, **STORE)
    assert list(victim.iterdir()) == []
    if os.path.islink(target / "x"):
        assert {failure.path for failure in again.failures} == {"x/inner", "x/deeper/inner"}
        assert all("symbolic link" in str(failure.error) for failure in again.failures)
    else:
        assert {failure.path for failure in again.failures} == {"x" + SUFFIX}
    assert report.failed >= 1


def test_a_folder_is_not_replaced_by_a_link(tree, tmp_path):
    target = tmp_path / "target"
    (target / "up" / "inner").mkdir(parents=True)
    (target / "up" / "file").write_text("stays")
    report = sync(tree, target, raise_errors=False, **STORE)
    assert [failure.path for failure in report.failures] == ["up" + SUFFIX]
    assert (target / "up" / "file").read_text() == "stays"


def test_a_file_of_such_a_name_is_reported_and_kept(tree, tmp_path):
    (tree / ("mine" + SUFFIX)).write_text("by myself")
    target = tmp_path / "target"
    report = sync(tree, target, **STORE)
    assert report.skipped == 1
    (target / ("mine" + SUFFIX)).write_text("kept")
    assert sync(tree, target, delete=True, **STORE).deleted == 0
    assert (target / ("mine" + SUFFIX)).read_text() == "kept"


def test_what_no_link_can_say_is_an_error_of_that_entry(tmp_path):
    store, target = MemoryBackend(), tmp_path / "target"
    for name, data in (
        ("empty", b""),
        ("nul", b"a\0b"),
        ("long", b"x" * 5000),
        ("huge", b"x" * 100_000),
        ("good", b"y"),
    ):
        ops.write_bytes(store, name + SUFFIX, data)
    report = copy(store, target, raise_errors=False, **STORE)
    assert sorted(failure.path for failure in report.failures) == [n + SUFFIX for n in ("empty", "huge", "long", "nul")]
    assert os.readlink(target / "good") == "y"
    assert os.listdir(target) == ["good"]


def test_names_that_are_no_unicode_come_through(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    os.symlink(b"to \xff\xfe", os.fsencode(source) + b"/raw")
    sync(source, target, **STORE)
    assert os.readlink(os.fsencode(target) + b"/raw") == b"to \xff\xfe"


def test_partitions_know_of_links(tree, tmp_path):
    prepare(tree, tmp_path / "target", tmp_path / "plan", **STORE)
    assert execute(tmp_path / "plan").copied == 8
    assert seen(tmp_path / "target") == seen(tree)


def test_to_a_bucket_and_back(tree, tmp_path):
    store = test_s3.fresh("seaweedfs")
    sync(tree, store, **STORE)
    assert left_to_do(tree, store, delete=True) == []
    sync(store, tmp_path / "target", **STORE)
    assert {
        name: value[:2] if isinstance(value, tuple) else value for name, value in seen(tmp_path / "target").items()
    } == {name: value[:2] if isinstance(value, tuple) else value for name, value in seen(tree).items()}


@pytest.mark.ci_only
def test_to_an_sshd_and_back(tree, tmp_path):
    server = test_sftp_conformance.make("sshd")
    assert sync(tree, server, **STORE).copied == 8
    assert seen(server.disk) == seen(tree)
    assert left_to_do(tree, server, delete=True) == []
    sync(server, tmp_path / "target", **STORE)
    assert seen(tmp_path / "target") == seen(tree)


def test_rclone_reads_ours_and_we_read_rclones(tree, tmp_path):
    ours, theirs, back, again = (tmp_path / name for name in ("ours", "theirs", "back", "again"))
    store = MemoryBackend()
    copy(tree, store, **STORE)
    copy(store, ours)  # as files

    def rclone(src, dst, *more):
        subprocess.run(
            [RCLONE, "copy", src, dst, "--config", os.devnull, *more], check=True, capture_output=True, text=True
        )

    shutil.rmtree(theirs, ignore_errors=True)
    # Without --links at the destination rclone has no way to write files of that name, so it goes through an archive.
    rclone(f":local,links=false:{ours}", f":local,links=true:{back}")
    assert {n: v[:2] for n, v in seen(back).items() if isinstance(v, tuple)} == {
        n: v[:2] for n, v in seen(tree).items() if isinstance(v, tuple)
    }
    rclone(f":local,links=true:{tree}", f":local,links=false:{theirs}")
    copy(theirs, again_store := MemoryBackend())
    copy(again_store, again, **STORE)
    assert {n: v[:2] for n, v in seen(again).items() if isinstance(v, tuple)} == {
        n: v[:2] for n, v in seen(tree).items() if isinstance(v, tuple)
    }


# -- the view by itself ------------------------------------------------------------------------------------------------


@pytest.fixture
def view(tree):
    return StoredLinks(LocalBackend(tree))


def test_the_view_lists_links_in_the_order_of_the_keys(view, tree):
    (tree / "up!").write_text("sorts before up.rclonelink")
    names = [info.path for info in view.list()]
    assert names == sorted(names, key=str.encode)
    assert "up" + SUFFIX in names
    assert "up" not in names
    assert [info.path for info in view.list("", ListOptions(start_after="plain"))] == [n for n in names if n > "plain"]
    assert [info.path for info in view.list("folder", LIST)] == ["folder/beside" + SUFFIX, "folder/file"]


def test_the_view_reads_links_as_files(view):
    with view.open_reader("up" + SUFFIX) as reader:
        assert (reader.info.size, reader.read(3), reader.read()) == (11, b"fol", b"der/file")
    with view.open_reader("up" + SUFFIX, ReadOptions(offset=7, length=2)) as reader:
        assert reader.read() == b"fi"
    assert view.exists("up" + SUFFIX)
    assert view.exists("plain" + SUFFIX), "its name is taken"
    assert view.stat("up" + SUFFIX).size == 11
    with pytest.raises(NotFound):
        view.stat("plain" + SUFFIX)
    assert ops.read_bytes(view, "plain") == b"plain"
    for call in (view.stat, view.open_reader):
        with pytest.raises(NotFound):
            call("up")  # its name is another one
    assert view.exists("up"), "its name is taken"
    assert view.delete("up") is False
    assert view.exists("up" + SUFFIX)


def test_the_view_writes_links_whole_or_not_at_all(view, tree):
    with pytest.raises(KeyError), view.open_writer("new" + SUFFIX) as writer:
        writer.write(b"target")
        raise KeyError
    assert not os.path.lexists(tree / "new")
    for options in (WriteOptions(size=5), WriteOptions(expect={"md5": "0" * 32})):
        with pytest.raises(CorruptData), view.open_writer("new" + SUFFIX, options) as writer:
            writer.write(b"target")
        assert not os.path.lexists(tree / "new")
    with view.open_writer("new" + SUFFIX) as writer:
        writer.write(memoryview(b"tar"))
        writer.write(b"get")
    assert writer.result.size == 6
    assert os.readlink(tree / "new") == "target"
    writer = view.open_writer("huge" + SUFFIX)
    with pytest.raises(InvalidPath):
        for _ in range(100):  # not all of it is held before somebody says so
            assert writer.write(b"x" * 1000) == 1000
    writer.abort()
    assert not os.path.lexists(tree / "huge")
    with pytest.raises(StorageError):
        writer.write(b"more")
    with pytest.raises(AlreadyExists):
        ops.write_bytes(view, "new" + SUFFIX, b"x", WriteOptions(overwrite=False))
    assert view.delete("new" + SUFFIX)
    assert not os.path.lexists(tree / "new")
    with pytest.raises(InvalidPath):
        ops.write_bytes(view, "to-folder/x", b"x")
    with pytest.raises(InvalidPath):
        view.mkdir("to-folder/x")


def test_the_view_gives_a_name_to_one_kind_alone(view, tree):
    for path in ("up", "plain" + SUFFIX):
        for options in (WriteOptions(), WriteOptions(overwrite=False)):
            with pytest.raises(AlreadyExists):
                ops.write_bytes(view, path, b"x", options)
    assert os.readlink(tree / "up") == "folder/file"
    assert (tree / "plain").read_text() == "plain"


@given(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=50))
def test_any_target_comes_back(tmp_path_factory, target):
    root = tmp_path_factory.mktemp("links")
    view = StoredLinks(LocalBackend(root))
    try:
        data = target.encode()
    except UnicodeEncodeError:
        return
    ops.write_bytes(view, "x" + SUFFIX, data)
    assert ops.read_bytes(view, "x" + SUFFIX) == data
    assert os.readlink(os.fsencode(root / "x")) == data
    shutil.rmtree(root)


def test_only_three_words_are_known():
    for links in ("skip", "follow", "store"):
        assert SyncOptions(links=links).links == links
    with pytest.raises(StorageError):
        SyncOptions(links="copy")
