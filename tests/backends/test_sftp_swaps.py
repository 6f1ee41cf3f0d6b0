"""SFTP against somebody on the server who puts a symbolic link in the place of a folder in the middle of a call."""

import os
import shutil
from datetime import timedelta

import pytest

from omnistorage.backends.sftp.directories import BATCH
from omnistorage.backends.sftp.protocol import MKDIR, OPEN, OPENDIR, REALPATH, REMOVE, STAT, SYMLINK, Session
from omnistorage.core import WriteOptions
from omnistorage.errors import InvalidPath, NotFound

from ..waiting import until
from .test_sftp_conformance import make

STALE = ".omnistorage-0123456789abcdef.tmp"


@pytest.fixture(params=["child", "root"])
def backend(request):
    """One whose folder ``a`` belongs to somebody else, and ``victim`` beside it (confined) or beside the root."""
    whole = make("sshd", server_copy=True)
    confined = request.param == "child"
    made = whole.confined("a") if confined else whole
    made.victim = whole.disk / "victim" if confined else whole.disk.with_name(whole.disk.name + "-victim")
    made.folder = whole.disk / "a" / "d"
    made.folder.mkdir(parents=True)
    made.victim.mkdir()
    (made.victim / "secret").write_bytes(b"theirs")
    (made.folder / "secret").write_bytes(b"own")
    made.check_health()
    yield made
    whole.close()
    shutil.rmtree(whole.disk, ignore_errors=True)
    shutil.rmtree(made.victim, ignore_errors=True)


def swap(backend, folder=None):
    folder = folder or backend.folder
    folder.rename(folder.with_name(folder.name + "-moved"))
    folder.symlink_to(backend.victim)


def swap_back(backend):
    backend.folder.unlink()
    backend.folder.with_name("d-moved").rename(backend.folder)


@pytest.fixture
def before(monkeypatch):
    """Has something happen once, before the first request that ``wanted`` (or that is of the kind ``wanted``)."""
    send = Session.send
    due = []

    def sent(self, kind, *parts, **more):
        if due and (due[0][0](kind, parts) if callable(due[0][0]) else due[0][0] == kind):
            due.pop(0)[1]()
        return send(self, kind, *parts, **more)

    monkeypatch.setattr(Session, "send", sent)
    return lambda wanted, then: due.append((wanted, then))


def untouched(backend):
    return {name: (backend.victim / name).read_bytes() for name in os.listdir(backend.victim)} == {"secret": b"theirs"}


# -- purge -------------------------------------------------------------------------------------------------------------


def removal_of(*names):
    """A look at where folders lead, after the removal of all ``names`` was asked for."""
    left = {os.fsencode(name) for name in names}

    def wanted(kind, parts):
        if kind == REMOVE:
            left.discard(parts[0].rpartition(b"/")[2])
        return kind == REALPATH and not left

    return wanted


def test_purge_stops_when_its_folder_becomes_a_link_between_two_batches(backend, before):
    names = [f"{n:04}" for n in range(2 * BATCH)]
    for name in names:
        (backend.folder / name).touch()

    def then():
        until(lambda: not (backend.folder / names[BATCH - 1]).exists())
        swap(backend)

    before(removal_of(*names[:BATCH]), then)
    with pytest.raises(InvalidPath):
        backend.purge("a/d")
    assert untouched(backend)
    assert len(os.listdir(backend.folder.with_name("d-moved"))) == BATCH + 1


def test_purge_stops_when_its_folder_becomes_a_link_while_a_folder_below_is_emptied(backend, before):
    (backend.folder / "below").mkdir()
    (backend.folder / "below" / "x").touch()

    def then():
        until(lambda: not (backend.folder / "below" / "x").exists())
        swap(backend)

    before(removal_of("x"), then)
    with pytest.raises(InvalidPath):
        backend.purge("a/d")
    assert untouched(backend)
    assert sorted(os.listdir(backend.folder.with_name("d-moved"))) == ["below", "secret"]


def test_purge_does_not_go_into_a_folder_that_became_a_link_into_its_own_root(backend, before):
    (backend.folder / "below").mkdir()
    other = backend.folder.with_name("other")
    other.mkdir()
    (other / "x").touch()

    def then():
        (backend.folder / "below").rmdir()
        (backend.folder / "below").symlink_to(other)

    before(lambda kind, parts: kind == OPENDIR and parts[0].endswith(b"/below"), then)
    with pytest.raises(InvalidPath):
        backend.purge("a/d")
    assert (other / "x").exists()


def test_purge_asks_where_its_folder_is_once_for_each_batch(backend, monkeypatch):
    asked = []
    send = Session.send
    monkeypatch.setattr(Session, "send", lambda self, kind, *parts: asked.append(kind) or send(self, kind, *parts))
    for n in range(10 * BATCH - 1):
        (backend.folder / f"{n:04}").touch()
    backend.purge("a/d")
    assert not backend.folder.exists()
    assert asked.count(REMOVE) == 10 * BATCH
    assert asked.count(REALPATH) <= 10 + 5


def test_stale_temporaries_are_not_removed_through_a_link(backend):
    for folder in (backend.folder, backend.victim):
        (folder / STALE).touch()
        os.utime(folder / STALE, (0, 0))
    found = [info.path for info in backend.stale_uploads("a/d")]
    assert found == [f"a/d/{STALE}"]
    original = type(backend)._is_dead

    def is_dead(self, path, remove):
        swap(backend)
        return original(self, path, remove)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InvalidPath):
        patch.setattr(type(backend), "_is_dead", is_dead)
        backend.remove_stale_uploads("a/d", older_than=timedelta(hours=1))
    assert (backend.victim / STALE).exists()


# -- one file ----------------------------------------------------------------------------------------------------------


def test_nothing_is_read_that_was_opened_through_a_link(backend, before):
    before(OPEN, lambda: swap(backend))
    with pytest.raises(InvalidPath):
        backend.open_reader("a/d/secret")
    swap_back(backend)
    before(OPEN, lambda: swap(backend))
    with pytest.raises(InvalidPath):
        backend.read_ranges("a/d/secret", [(0, 1)])


def test_what_is_gone_once_it_is_open_is_not_read(backend, before):
    before(OPEN, lambda: swap(backend))
    before(REALPATH, backend.folder.unlink)
    with pytest.raises(NotFound):
        backend.open_reader("a/d/secret")


def test_no_names_are_given_of_a_folder_that_was_opened_through_a_link(backend, before):
    before(OPENDIR, lambda: swap(backend))
    with pytest.raises(InvalidPath):
        list(backend.list("a/d"))
    swap_back(backend)
    before(OPENDIR, lambda: swap(backend))
    with pytest.raises(InvalidPath):
        list(backend.list_dir("a/d"))


def test_a_temporary_that_was_made_through_a_link_is_taken_back(backend, before):
    before(OPEN, lambda: swap(backend))
    with pytest.raises(InvalidPath):
        backend.open_writer("a/d/new")
    assert untouched(backend)
    assert backend.live == set()


def test_a_temporary_that_was_made_outside_is_not_published_there(backend, before):
    def then():
        until(lambda: len(os.listdir(backend.victim)) == 2)
        swap_back(backend)

    before(OPEN, lambda: swap(backend))
    before(REALPATH, then)
    writer = backend.open_writer("a/d/secret", WriteOptions())
    writer.write(b"evil")
    swap(backend)
    with pytest.raises(InvalidPath):
        writer.close()
    writer.abort()
    assert untouched(backend)


def test_nothing_is_moved_out_of_a_folder_that_became_a_link(backend, before):
    before(lambda kind, parts: kind == STAT, lambda: swap(backend))
    with pytest.raises(InvalidPath):
        backend.move("a/d/secret", "a/new")
    assert untouched(backend)
    assert not (backend.folder.parent / "new").exists()


def test_nothing_is_copied_that_was_opened_through_a_link(backend, before):
    before(OPEN, lambda: swap(backend))
    with pytest.raises(InvalidPath):
        backend.copy("a/d/secret", "a/new")
    assert os.listdir(backend.folder.parent).count("new") == 0


def test_no_link_is_made_in_a_folder_that_became_a_link(backend, before):
    before(SYMLINK, lambda: swap(backend))
    with pytest.raises(InvalidPath):
        backend.make_link("a/d/link", "secret")
    assert backend.exists("a/d/link") is False
    assert untouched(backend)


def test_no_folder_is_made_in_one_that_became_a_link_as_soon_as_it_was_made(backend, before):
    new = backend.folder / "one"

    def then():
        until(new.exists)
        new.rmdir()
        new.symlink_to(backend.victim)

    made = []
    before(lambda kind, parts: made.append(kind == MKDIR) or (kind == REALPATH and any(made)), then)
    with pytest.raises(InvalidPath):
        backend.mkdir("a/d/one/two/three")
    assert untouched(backend)
