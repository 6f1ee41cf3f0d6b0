"""An error says at which side it happened, and a destination that cannot be is refused before anything is done."""

import pytest

from omnistorage import LocalBackend, MemoryBackend
from omnistorage.errors import BackendUnavailable, InvalidPath, PermissionDenied
from omnistorage.sync import check, copy_file, move, sync
from omnistorage.sync.error_context import side_of
from omnistorage.wrappers import Prefix

from .stores import blind, bucket, failing, fill, go, memory, put


def sides(report):
    return {failure.path: side_of(failure.error) for failure in report.failures}


def refused(op):
    """Errors as a store raises them: they know what was called."""
    return lambda: PermissionDenied("injected", op=op)


@pytest.mark.parametrize("op", ["open_writer", "write", "close"])
def test_what_cannot_be_written_is_the_destinations(op):
    report = go(fill(memory(), "a"), failing(memory(), op, error=refused(op)), raise_errors=False)
    assert sides(report) == {"a": "destination"}
    assert any(note.startswith("at the destination ") for note in report.failures[0].error.__notes__)


@pytest.mark.parametrize("op", ["open_reader", "read"])
def test_what_cannot_be_read_is_the_sources(op):
    # Whatever its store calls it: "close" is what ends a writer, too.
    report = go(failing(fill(memory(), "a"), op, error=refused("close")), memory(), raise_errors=False)
    assert sides(report) == {"a": "source"}


def test_what_a_move_cannot_remove_is_the_sources():
    report = go(
        failing(fill(memory(), "a"), "delete", None, refused("delete")), memory(), raise_errors=False, move=True
    )
    assert sides(report) == {"a": "source"}


def test_what_cannot_be_deleted_is_the_destinations():
    src, dst = fill(memory(), "a"), failing(fill(memory(), "a", "gone"), "delete", None, refused("delete"))
    assert sides(go(src, dst, raise_errors=False, delete=True)) == {"gone": "destination"}


@pytest.mark.parametrize("kind", [memory, blind, bucket])
def test_what_the_backup_does_not_take_is_the_backups(kind):
    src, dst = fill(memory(), "a"), kind()
    put(dst, "a", "another", at=-1)
    backup = failing(kind(), "open_writer", None, refused("open_writer"))
    assert sides(go(src, dst, raise_errors=False, backup_dir=backup)) == {"a": "backup"}


def test_a_listing_that_fails_says_whose_it_is():
    refusing = failing(failing(fill(memory(), "x"), "list", None), "list_dir", None)
    with pytest.raises(PermissionDenied) as told:
        go(fill(memory(), "a"), refusing)
    assert side_of(told.value) == "destination"
    with pytest.raises(PermissionDenied) as told:
        go(refusing, fill(memory(), "a"))
    assert side_of(told.value) in (None, "source")


@pytest.mark.parametrize("at_source", [True, False])
def test_a_folder_that_cannot_be_listed_says_whose_it_is(at_source):
    class Closed(MemoryBackend):
        def _list_dir(self, path):
            if path == "no":
                raise PermissionDenied("not yours", path=path, op="list_dir")
            return super()._list_dir(path)

    closed, other = fill(Closed(dirs=True), "no/x", "yes"), fill(memory(), "no/x", "yes")
    report = go(*((closed, other) if at_source else (other, closed)), raise_errors=False, delete=True)
    assert side_of(report.failures[0].error) == ("source" if at_source else "destination")
    assert report.failures[0].action == "list"


def test_the_one_file_that_cannot_be_looked_at_is_the_destinations(tmp_path):
    dst = failing(memory(), "stat", None, lambda: BackendUnavailable("away"))
    with pytest.raises(BackendUnavailable) as told:
        copy_file(fill(memory(), "a"), "a", dst, "a")
    assert side_of(told.value) == "destination"


# --- a destination that is a file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("verb", [sync, move, check])
@pytest.mark.parametrize("below", ["", "/x", "/x/y"])
def test_a_file_where_the_destination_is_to_be_is_an_error_at_once(tmp_path, verb, below, empty):
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "source").mkdir()
    if not empty:
        (tmp_path / "source/a").write_bytes(b"a")
    wanted = f"the destination is to be a folder, and {tmp_path}/file is a file"
    for more in ({}, {"dry_run": True}) if verb is not check else ({},):
        with pytest.raises(InvalidPath, match=wanted) as told:
            verb(tmp_path / "source", f"{tmp_path}/file{below}", **more)
        assert side_of(told.value) == "destination"
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert (tmp_path / "source/a").exists() is not empty


def test_a_file_behind_a_prefix_is_one_where_a_name_cannot_be_both():
    for src in (memory(), fill(memory(), "a")):
        with pytest.raises(InvalidPath, match=r"and memory://.*/f is a file"):
            go(src, Prefix(fill(memory(), "f"), "f"))
    assert go(fill(memory(), "a"), Prefix(fill(bucket(), "f"), "f")).copied == 1


def test_a_destination_that_is_still_to_be_made_is_none(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    for place in ("new", "new/deep/er", "link/new"):
        assert sync(fill(memory(), "a"), tmp_path / place).copied == 1
    assert go(fill(memory(), "a"), LocalBackend(tmp_path / "other")).copied == 1
