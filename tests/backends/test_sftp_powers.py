"""Links and times of folders over SFTP: servers that offer less, and answers that are lost."""

import os
import shutil
from datetime import UTC, datetime

import pytest

from omnistorage.backends.sftp import SFTPBackend
from omnistorage.backends.sftp.mutations import Attempt
from omnistorage.backends.sftp.protocol import LSETSTAT, Status
from omnistorage.errors import AlreadyExists, CapabilityNotSupported, NotFound, StorageError

from .test_sftp_conformance import make

WHEN = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def backend():
    made = make("sshd")
    yield made
    made.close()
    shutil.rmtree(made.disk, ignore_errors=True)


def test_without_lsetstat_a_link_has_no_other_time_and_nothing_is_made_of_one_that_must(backend):
    backend.check_health()
    del backend._pool.link().sftp.extensions[LSETSTAT]
    with pytest.raises(CapabilityNotSupported, match=LSETSTAT) as caught:
        backend.make_link("new/folder/link", "x", modified_at=WHEN)
    assert (caught.value.capability, caught.value.path) == ("set_modified", "new/folder/link")
    assert os.listdir(backend.disk) == []
    info = backend.make_link("link", "x")
    assert backend.read_link("link") == ("x", info)
    assert info.modified_at > WHEN


def test_without_the_other_extensions_a_link_is_refused_like_a_file(backend):
    backend.check_health()
    backend._pool.link().sftp.extensions.clear()
    for overwrite, capability in ((True, "atomic_write"), (False, "create_only")):
        with pytest.raises(CapabilityNotSupported) as caught:
            backend.make_link("link", "x", overwrite=overwrite)
        assert caught.value.capability == capability
    assert os.listdir(backend.disk) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_link_that_cannot_be_published_leaves_nothing_hidden(backend, monkeypatch, overwrite):
    def fails(*_):
        raise Status(4, "no")

    monkeypatch.setattr(SFTPBackend, "_replace" if overwrite else "_create", fails)
    with pytest.raises(StorageError):
        backend.make_link("link", "x", overwrite=overwrite, modified_at=WHEN)
    assert len(os.listdir(backend.disk)) == 1
    assert list(backend.list()) == []
    assert os.listdir(backend.disk) == [], "the next call took it away"
    assert backend.live == set()


def test_a_link_of_which_a_step_fails_leaves_nothing_hidden(backend, monkeypatch):
    monkeypatch.setattr("omnistorage.backends.sftp.links.info_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backend.make_link("link", "x")
    monkeypatch.undo()
    assert list(backend.list()) == []
    assert os.listdir(backend.disk) == []
    assert backend.live == set()


def test_making_and_dating_a_link_touches_nothing_that_it_leads_to(backend):
    (backend.disk / "real").write_text("content")
    before = (backend.disk / "real").stat()
    backend.make_link("link", "real", modified_at=WHEN)
    backend.make_link("other", "real", modified_at=WHEN, overwrite=False)
    after = (backend.disk / "real").stat()
    assert (after.st_mtime_ns, after.st_atime_ns) == (before.st_mtime_ns, before.st_atime_ns)
    assert sorted(os.listdir(backend.disk)) == ["link", "other", "real"]


def test_the_time_of_a_folder_leaves_its_access_time_and_what_is_no_folder_alone(backend):
    (backend.disk / "folder").mkdir()
    os.utime(backend.disk / "folder", (1_500_000_000, 1_600_000_000))
    (backend.disk / "file").write_text("x")
    os.utime(backend.disk / "file", (1_500_000_000, 1_600_000_000))
    backend.set_folder_time("folder", WHEN)
    found = (backend.disk / "folder").stat()
    assert (found.st_atime, found.st_mtime) == (1_500_000_000, WHEN.timestamp())
    for nothing in ("file", "absent"):
        with pytest.raises(NotFound):
            backend.set_folder_time(nothing, WHEN)
    assert (backend.disk / "file").stat().st_mtime == 1_600_000_000


@pytest.mark.parametrize("offered", [True, False])
def test_goal_26_a_second_attempt_sees_that_the_first_made_the_link(backend, offered):
    """The link was published, only nobody heard of it: no conflict, and what it leads to is not touched."""
    real = backend.disk / "real"
    real.write_text("content")
    os.utime(real, (1_500_000_000, 1_600_000_000))
    for name in ("hidden", "someone-elses"):
        os.symlink("real", backend.disk / name)
        os.utime(backend.disk / name, (1_550_000_000, 1_550_000_000), follow_symlinks=False)
    os.link(backend.disk / "hidden", backend.disk / "published", follow_symlinks=False)

    def again(name):
        def run(_, session):
            if not offered:
                session.extensions.pop(LSETSTAT, None)
            attempt = Attempt()
            attempt.begin()
            info = next(info for info in backend.list_dir() if info.path == name)
            full = [backend._place.full(session, path) for path in ("hidden", name)]
            return backend._create(session, *full, info, "make_link", attempt)

        return backend._ask("make_link", name, run)

    if offered:
        assert again("published") is True
    else:
        with pytest.raises(AlreadyExists):
            again("published")  # nobody can tell
    with pytest.raises(AlreadyExists):
        again("someone-elses")
    found = real.stat()
    assert (found.st_atime, found.st_mtime) == (1_500_000_000, 1_600_000_000)


def test_a_name_that_is_taken_after_all_is_not_replaced(backend, monkeypatch):
    """Somebody was faster between the look at the name and the publication."""
    monkeypatch.setattr(SFTPBackend, "check_target", lambda *_, **__: None)
    (backend.disk / "x").write_text("somebody else's")
    with pytest.raises(AlreadyExists):
        backend.make_link("x", "y", overwrite=False)
    assert (backend.disk / "x").read_text() == "somebody else's"
    (backend.disk / "x").unlink()
    assert list(backend.list()) == []
    assert os.listdir(backend.disk) == []


@pytest.mark.parametrize("leads", ["inside", "/"])
def test_the_time_of_a_folder_is_not_set_through_a_link(backend, leads):
    (backend.disk / "inside").mkdir()
    os.utime(backend.disk / "inside", (1_500_000_000, 1_600_000_000))
    os.symlink(leads, backend.disk / "link")
    with pytest.raises(NotFound):
        backend.set_folder_time("link", WHEN)
    assert (backend.disk / "inside").stat().st_mtime == 1_600_000_000
